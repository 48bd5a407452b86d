"""A channel of the store as the core knows channels."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodes.logfiles.block_index import Damage
from nodes.logfiles.channel import LogChannel
from nodes.logfiles.store import LogStore
from swarm.core.errors import DiskFull
from swarm.core.node import NodeError

DAMAGED_MAX = 10_000  # places of a channel that are remembered, to count each once


class ServedChannel:
    """The storage engine of a logfiles node: a channel that the store has, or gets with its first records."""

    def __init__(self, store: LogStore, name: str) -> None:
        self.name = name
        self._store = store
        self._damaged: set[tuple[Path, int]] = set()
        self._giving_up: Iterator[None] = iter(())

    @property
    def stored(self) -> LogChannel:
        return self._store.channels[self.name]

    @property
    def records(self) -> int:
        return self.stored.records

    @property
    def record_bytes(self) -> int:
        return self.stored.record_bytes

    def figures(self) -> dict[str, Any]:
        stored = self.stored
        return {
            "records": stored.records,
            "bytes": stored.record_bytes,
            "buckets": len(stored.spans),
            "damaged": len(self._damaged),
        }

    def note_damage(self, damage: Damage) -> None:
        """What a reader has passed over: counted and told once, however often it is met."""
        if len(self._damaged) < DAMAGED_MAX:
            self._damaged.add((damage.path, damage.offset))
        self._store.tell(damage)

    def leave(self) -> None:
        """It is going to be removed: its files go at once, or it stays. Raises DiskFull, NodeError."""
        try:
            self._giving_up = self._store.remove_channel(self.name)
        except OSError as error:
            text = f"the channel {self.name} cannot be removed: {error}"
            raise DiskFull(text) if error.errno == errno.ENOSPC else NodeError(text) from error

    def remove(self) -> Iterator[None]:
        """What is left of it when it has left."""
        return self._giving_up
