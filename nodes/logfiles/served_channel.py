"""A channel of the store as the core knows channels."""

import errno
from collections.abc import Iterator
from typing import Any

from nodes.logfiles.channel import LogChannel
from nodes.logfiles.store import LogStore
from swarm.core.errors import DiskFull
from swarm.core.node import NodeError


class ServedChannel:
    """The storage engine of a logfiles node: a channel that the store has, or gets with its first records."""

    def __init__(self, store: LogStore, name: str) -> None:
        self.name = name
        self._store = store

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
        return {"records": stored.records, "bytes": stored.record_bytes, "buckets": len(stored.spans)}

    def remove(self) -> Iterator[None]:
        """Raises DiskFull, NodeError."""
        try:
            yield from self._store.remove_channel(self.name)
        except OSError as error:
            text = f"the channel {self.name} cannot be removed: {error}"
            raise DiskFull(text) if error.errno == errno.ENOSPC else NodeError(text) from error
