"""A queue and those who wait for its records; and which queues a pass has changed.

What requests do changes queues; the end of the pass hands out records, and commits each queue that was changed, before
any answer leaves. So what many pushes of a pass bring goes out in one batch, and is there for a waiting consumer in the
same pass.
"""

import logging
from collections.abc import Callable, Iterable
from time import monotonic

from nodes.queue.line import Line
from nodes.queue.record_queue import RecordQueue
from nodes.queue.ring_format import ALIGNMENT
from nodes.queue.syncing import Syncing
from swarm.core.health import HealthRule
from swarm.core.limits import MIB
from swarm.core.request_handler import Service

log = logging.getLogger(__name__)

HAND_OUT_BYTES = 2 * MIB  # in one pass, some 1 ms; the rest in the next, so that requests have their turn
NEARLY_FULL_PERCENT = 90.0
NO_LONGER_FULL_PERCENT = 75.0
TOLD_AGAIN_S = 60.0  # at the earliest: a client can fill and empty a queue a thousand times a second


class Changes:
    """The queues that have changed since the last commit."""

    def __init__(self, service: Service, syncing: Syncing) -> None:
        self.service = service
        self._syncing = syncing
        self._unsynced = syncing.unsynced
        self.queues: list[ServedQueue] = []
        """Always the same list; each of them has its flag set."""

    def commit(self) -> None:
        if not self.queues:
            if self.service.held:
                self._syncing.committed()
            return
        queues = self.queues[:]
        self.queues.clear()
        budget = HAND_OUT_BYTES
        had_their_turn: list[ServedQueue] = []
        for queue in queues:
            queue.changed = False
            if not queue.open:
                continue
            if queue.line.ready:
                again = self.queues if budget <= 0 else had_their_turn
                budget = queue.line.hand_out(queue.storage, budget)
                if budget <= 0 and queue.line.ready:  # there may be more for them
                    queue.changed = True
                    again.append(queue)
            storage = queue.storage
            storage.commit()
            self._unsynced[storage] = None
            if storage.free < queue.free_when_nearly_full or queue.is_nearly_full:
                queue.look_at_fullness()
        if self.service.held:
            self._syncing.committed()
        self.queues += had_their_turn  # behind those for whom nothing was left
        if self.queues:
            self.service.commit_soon()


class ServedQueue:
    def __init__(self, channel: str, subscriber: str, storage: RecordQueue, line: Line, changes: Changes) -> None:
        self.channel = channel
        self.subscriber = subscriber
        self.storage = storage
        self.line = line
        self.open = True
        """Until it is removed."""
        self.changed = False
        self._changes = changes
        self.is_nearly_full = False
        """From NEARLY_FULL_PERCENT on, until it is less full than NO_LONGER_FULL_PERCENT."""
        self.free_when_nearly_full = storage.capacity * (100 - NEARLY_FULL_PERCENT) / 100 + ALIGNMENT
        """With fewer free bytes it may be: they are cheaper to look at than how full it is."""
        self._told = False
        self._tell_from = 0.0
        line.queue = self
        if line.members:
            self.note_change()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.channel}, subscriber {self.subscriber}" if self.subscriber else self.channel

    def note_change(self) -> None:
        """It is to be handed out and committed at the end of this pass; between passes, soon."""
        if not self.changed:
            self.changed = True
            self._changes.queues.append(self)
            if not self._changes.service.in_pass:
                self._changes.service.commit_soon()

    def hand_out(self) -> None:
        """To those whose turn is before that of a request which takes records now."""
        self.note_change()
        self.line.hand_out(self.storage, HAND_OUT_BYTES)

    def end(self) -> None:
        """It is removed: nothing is handed out nor committed any more."""
        self.open = False
        self.line.queue = None

    def look_at_fullness(self) -> None:
        """Tells once that it is nearly full, and again when it has been less full meanwhile; once a minute at most."""
        fullness = self.storage.fullness
        if fullness < (NO_LONGER_FULL_PERCENT if self.is_nearly_full else NEARLY_FULL_PERCENT):
            self.is_nearly_full = self._told = False
            return
        self.is_nearly_full = True
        if not self._told and (now := monotonic()) >= self._tell_from:
            self._told = True
            self._tell_from = now + TOLD_AGAIN_S
            log.warning("the queue of %s is nearly full: %.0f %%", self.name, fullness)

    def figures(self) -> dict[str, int | float]:
        storage = self.storage
        return {
            "records": storage.records,
            "bytes": storage.record_bytes,
            "fullness": storage.fullness,
            "unacknowledged": storage.unacknowledged,
            "consumers": self.line.consumers,
            "dropped": storage.dropped,
            "damaged": storage.damaged,
        }


def queue_nearly_full(queues: Callable[[], Iterable[ServedQueue]]) -> HealthRule:
    """Of those that drop the oldest records when they are full nothing is said: they are meant to be."""

    def rule(_: bool) -> str | None:
        full = []
        for queue in queues():
            if queue.storage.free < queue.free_when_nearly_full or queue.is_nearly_full:
                queue.look_at_fullness()
                if queue.is_nearly_full and queue.storage.settings.full != "drop-oldest":
                    full.append((queue.storage.fullness, queue.name))
        if not full:
            return None
        fullness, name = max(full)
        others = f" ({len(full) - 1} more are nearly full)" if len(full) > 1 else ""
        return (
            f"the queue of {name} is {fullness:.0f} % full{others}: its consumers take less than is pushed; consume in "
            "more programs, drop a subscriber that is not there any more, or make the queue larger (ring_bytes)"
        )

    return rule
