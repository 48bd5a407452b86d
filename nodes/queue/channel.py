"""The queues of one channel: its own, or from the first subscriber on one for each subscriber."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nodes.queue.data_directory import DataDirectory
from nodes.queue.line import Line
from nodes.queue.record_queue import QueueSettings, RecordQueue
from nodes.queue.served_queue import Changes, ServedQueue
from nodes.queue.syncing import Syncing
from nodes.queue.waiting_pops import WaitingPop
from swarm.core.errors import HasSubscribers, SwarmError, TooManyRequests
from swarm.core.limits import SUBSCRIBERS_MAX
from swarm.core.storage_channels import channel_removed
from swarm.queue.protocol import OWN_QUEUE


class Lines:
    """The lines of channels that do not exist: those who wait for their first record."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, channel: str) -> Line:
        line = self._lines.get(channel)
        if line is None:
            line = Line()
            self.keep(channel, line)
        return line

    def take(self, channel: str) -> Line:
        """The channel comes into being."""
        return self._lines.pop(channel, None) or Line()

    def keep(self, channel: str, line: Line) -> None:
        """The channel does not exist, or no longer."""
        line.on_empty = partial(self._lines.pop, channel, None)
        self._lines[channel] = line


class QueueChannel:
    """The storage engine of a queue node. It has a queue, or more, from its first use to its removal."""

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        directory: DataDirectory,
        lines: Lines,
        changes: Changes,
        syncing: Syncing,
        check_room: Callable[[], None],
    ) -> None:
        """check_room: raises TooManyChannels where the node may have no more queues."""
        self.name = name
        self.settings = settings
        self.queues: dict[str, ServedQueue] = {}
        """By subscriber; the channel's own is that of OWN_QUEUE."""
        self.own: ServedQueue | None = None
        self.only: ServedQueue | None = None
        """Where there is one queue: most pushes look at nothing else."""
        self._undone = False
        self._directory = directory
        self._lines = lines
        self._changes = changes
        self._syncing = syncing
        self._check_room = check_room

    def load(self, subscriber: str, storage: RecordQueue) -> None:
        """A queue that was there before the node was started."""
        line = self._lines.take(self.name) if subscriber == OWN_QUEUE else Line()
        self._add(subscriber, storage, line)

    def begin(self) -> None:
        """The channel is new: makes its own queue. Raises DiskFull, TooManyChannels."""
        self._check_room()
        storage = self._directory.create(self.name, OWN_QUEUE, self.settings)
        self._add(OWN_QUEUE, storage, self._lines.take(self.name))

    def subscribe(self, subscriber: str) -> ServedQueue:
        """The queue of a subscriber, made where there is none: the first takes over what the channel has."""
        queue = self.queues.get(subscriber)
        if queue is not None:
            return queue
        if len(self.queues) >= SUBSCRIBERS_MAX:
            raise TooManyRequests(
                f"the channel {self.name} has {SUBSCRIBERS_MAX} subscribers, the most there may be",
                {"limit": SUBSCRIBERS_MAX},
            )
        if self.own is not None:
            return self._take_over(self.own, subscriber)
        self._check_room()
        storage = self._directory.create(self.name, subscriber, self.settings)
        waiting = self._lines.take(self.name)
        _end_all(waiting, has_subscribers(self.name))
        return self._add(subscriber, storage, Line())

    def drop(self, subscriber: str) -> Iterator[None]:
        """Removes the queue of a subscriber, the last steps later."""
        self._directory.remove_queue(self.name, subscriber)
        queue = self.queues.pop(subscriber)
        self._count_queues()
        queue.end()
        _end_all(queue.line, channel_removed())
        self._close(queue)
        yield from self._directory.empty_removed()

    @property
    def records(self) -> int:
        return sum(queue.storage.records for queue in self.queues.values())

    @property
    def record_bytes(self) -> int:
        return sum(queue.storage.record_bytes for queue in self.queues.values())

    def figures(self) -> dict[str, Any]:
        if self.own is not None:
            return self.own.figures()
        of_each: dict[str, Any] = {name: queue.figures() for name, queue in sorted(self.queues.items())}
        return {"records": self.records, "bytes": self.record_bytes, "subscriber": of_each}

    def undo(self) -> None:
        """The push for which it was made was refused: who waits for its first record shall not notice."""
        self._undone = True

    def remove(self) -> Iterator[None]:
        """Its directory was moved away before (DataDirectory.remove_channel). Pops wait on, for the next channel of
        this name."""
        for queue in self.queues.values():
            queue.end()
            if not self._undone:
                _end_consumers(queue.line, channel_removed())
            if queue.line.members:
                self._lines.keep(self.name, queue.line)
            self._close(queue)
        self.queues = {}
        self._count_queues()
        yield from self._directory.empty_removed()

    def close(self) -> None:
        for queue in self.queues.values():
            queue.storage.close()

    def _close(self, queue: ServedQueue) -> None:
        self._syncing.forget(queue.storage)
        queue.storage.close()

    def _take_over(self, own: ServedQueue, subscriber: str) -> ServedQueue:
        self._directory.give_to_subscriber(self.name, own.storage, subscriber)
        self.queues = {subscriber: own}
        own.subscriber = subscriber
        self._count_queues()
        _end_all(own.line, has_subscribers(self.name))
        return own

    def _add(self, subscriber: str, storage: RecordQueue, line: Line) -> ServedQueue:
        queue = self.queues[subscriber] = ServedQueue(self.name, subscriber, storage, line, self._changes)
        self._count_queues()
        return queue

    def _count_queues(self) -> None:
        self.own = self.queues.get(OWN_QUEUE)
        self.only = next(iter(self.queues.values())) if len(self.queues) == 1 else None


def has_subscribers(channel: str) -> HasSubscribers:
    return HasSubscribers(
        f"the channel {channel} has subscribers: its records are consumed by them, and cannot be popped",
        {"channel": channel},
    )


def _end_all(line: Line, error: SwarmError) -> None:
    for taker in list(line.members):
        taker.end(error)


def _end_consumers(line: Line, error: SwarmError) -> None:
    for taker in list(line.members):
        if not isinstance(taker, WaitingPop):
            taker.end(error)
