"""Where the queues of a node are on disk. docs/formats/queue.md, "Files".

    DATA/channels/CHANNEL/own.ring, or subscriber-NAME.ring for each, with their overflow files
    DATA/removed/…           what is being removed

A channel disappears by one rename, and so does the ring of a subscriber: what is left of them when the node ends in
between is never taken for a queue.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from nodes.queue.overflow import overflow_numbers, overflow_path, rename_overflow
from nodes.queue.queue_files import Files, problem
from nodes.queue.record_queue import QueueSettings, RecordQueue
from swarm.core.errors import BadChannel
from swarm.core.node import WrongData
from swarm.core.protocol import check_channel
from swarm.queue.protocol import OWN_QUEUE

log = logging.getLogger(__name__)

_QUEUE = r"(?:own|subscriber-([A-Za-z0-9_-]{1,128}))"
_RING = re.compile(_QUEUE + r"\.ring")
_OVERFLOW = re.compile(_QUEUE + r"\.[0-9]{16}\.overflow")


def ring_name(subscriber: str) -> str:
    return "own.ring" if subscriber == OWN_QUEUE else f"subscriber-{subscriber}.ring"


class DataDirectory:
    def __init__(self, data: Path, files: Files, *, syncs: bool) -> None:
        """syncs: whether what is acknowledged shall survive the end of the machine's power."""
        self._channels = data / "channels"
        self._removed = data / "removed"
        self._numbers = count(1)
        self._syncs = syncs
        self._files = files

    # At the start.

    def queues(self) -> Iterator[tuple[str, str]]:
        """Channel and subscriber of every queue there is, when what earlier runs have left was removed. Raises
        NodeError."""
        try:
            for path in (self._channels, self._removed):
                path.mkdir(parents=True, exist_ok=True)
            for _ in self.empty_removed():
                pass
            for directory in sorted(self._channels.iterdir()):
                if _is_channel(directory):
                    if not directory.is_dir():
                        raise WrongData(
                            f"{directory} is no directory, and in the way of a channel of this name: move it away"
                        )
                    yield from ((directory.name, subscriber) for subscriber in self._subscribers(directory))
                else:
                    log.warning("%s is not the directory of a channel, and ignored", directory)
        except OSError as error:
            raise problem(self._channels, "be read", error) from error

    def open(self, channel: str, subscriber: str, settings: QueueSettings, *, accept_damage: bool) -> RecordQueue:
        """Raises NodeError."""
        path = self._channels / channel / ring_name(subscriber)
        return RecordQueue.open(path, settings, self._files, sync=self._syncs, accept_damage=accept_damage)

    def _subscribers(self, directory: Path) -> list[str]:
        """Of the rings in it."""
        names = {path.name for path in directory.iterdir()}
        rings = {match[1] or OWN_QUEUE for name in names if (match := _RING.fullmatch(name))}
        behind = {match[1] or OWN_QUEUE for name in names if (match := _OVERFLOW.fullmatch(name))}
        for subscriber in sorted(behind - rings):
            if OWN_QUEUE in rings:  # it was taking the channel's queue over
                self._finish_taking_over(directory, subscriber)
                rings = rings - {OWN_QUEUE} | {subscriber}
            else:
                log.warning("%s: what is left of the removed queue %s is removed", directory, ring_name(subscriber))
                for name in names:
                    if (match := _OVERFLOW.fullmatch(name)) and (match[1] or OWN_QUEUE) == subscriber:
                        self._files.remove(directory / name)
        for name in sorted(names):
            if name.endswith(".tmp"):
                log.warning("%s was not finished, and is removed", directory / name)
                self._files.remove(directory / name)
            elif not (_RING.fullmatch(name) or _OVERFLOW.fullmatch(name)):
                log.warning("%s is not known, and ignored", directory / name)
        if OWN_QUEUE in rings and len(rings) > 1:  # no crash leaves that; the first to subscribe would end the others
            raise WrongData(
                f"{directory} has {ring_name(OWN_QUEUE)} beside rings of subscribers: one of them was brought here by "
                "hand; move away what does not belong there"
            )
        if not rings and not any(directory.iterdir()):
            directory.rmdir()
        return sorted(rings)

    def _finish_taking_over(self, directory: Path, subscriber: str) -> None:
        own, taken = directory / ring_name(OWN_QUEUE), directory / ring_name(subscriber)
        rename_overflow(own, taken, self._files)
        self._files.rename(own, taken)
        self._sync(directory)

    # While the node runs.

    def create(self, channel: str, subscriber: str, settings: QueueSettings) -> RecordQueue:
        """An empty queue, or nothing at all. Raises DiskFull, or NodeError."""
        directory = self._channels / channel
        is_new = not directory.exists()
        try:
            if is_new:
                directory.mkdir()
                self._sync(self._channels)
            return RecordQueue.create(directory / ring_name(subscriber), settings, self._files, sync=self._syncs)
        except OSError as error:
            raise problem(directory, "be created", error) from error
        finally:
            if is_new and directory.exists() and not any(directory.iterdir()):
                directory.rmdir()

    def give_to_subscriber(self, channel: str, own: RecordQueue, subscriber: str) -> None:
        """The channel's own queue becomes that of a subscriber. Raises NodeError."""
        path = self._channels / channel / ring_name(subscriber)
        try:
            own.rename_to(path)
            self._sync(path.parent)
        except OSError as error:
            raise problem(path, "be renamed", error) from error

    def remove_queue(self, channel: str, subscriber: str) -> None:
        """From now on it is not a queue, and its names are free. Raises DiskFull, or NodeError."""
        ring = self._channels / channel / ring_name(subscriber)
        try:
            self._move_away(ring)
            for number in overflow_numbers(ring):
                with suppress(FileNotFoundError):  # not needed any more, and removed by the thread that syncs
                    self._move_away(overflow_path(ring, number))
            self._sync(ring.parent)
        except OSError as error:
            raise problem(ring, "be removed", error) from error

    def remove_channel(self, channel: str) -> None:
        """From now on it is not a channel, and its name is free. Raises DiskFull, or NodeError."""
        path = self._channels / channel
        try:
            self._move_away(path)
            self._sync(self._channels)
        except OSError as error:
            raise problem(path, "be removed", error) from error

    def empty_removed(self) -> Iterator[None]:
        """In steps: removes what was moved away. What cannot be removed is told, and tried again at the next start."""
        for path in sorted(self._removed.iterdir()):
            try:
                for each in sorted(path.iterdir()) if path.is_dir() else [path]:
                    self._files.remove(each)
                    yield
                if path.is_dir():
                    path.rmdir()
            except OSError as error:
                log.error("%s cannot be removed: %s", path, error)

    def _move_away(self, path: Path) -> None:
        while (there := self._removed / f"{path.name}.{next(self._numbers)}").exists():
            pass
        self._files.rename(path, there)

    def _sync(self, directory: Path) -> None:
        if self._syncs:
            self._files.sync_directory(directory)


def _is_channel(path: Path) -> bool:
    try:
        check_channel(path.name)
    except BadChannel:
        return False
    return True
