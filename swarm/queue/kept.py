"""Records that a client was given and that no pop has returned yet. No I/O.

A node that is asked to give what comes first may have given it when nobody wants it any more: because another node
was quicker, or because the task that waited was cancelled. What is popped is gone from the node, so it is kept here.
The next pop of its channel is given it before anything else.
"""

from collections import deque
from collections.abc import Callable, Iterable


class Kept:
    def __init__(self) -> None:
        self.arrivals: set[Callable[[], None]] = set()
        """Called when something is there."""
        self._records: dict[str, deque[tuple[int, bytes]]] = {}
        """By channel, oldest first, with the number of the node they are from."""

    def __bool__(self) -> bool:
        return bool(self._records)

    def count(self, channel: str) -> int:
        return len(self._records.get(channel, ()))

    def add(self, channel: str, node: int, records: Iterable[bytes]) -> None:
        added = [(node, record) for record in records]
        if added:
            self._records.setdefault(channel, deque()).extend(added)
            self._tell()

    def take(self, channel: str) -> list[tuple[int, bytes]]:
        """All records of a channel, each with its node."""
        return list(self._records.pop(channel, ()))

    def put_back(self, channel: str, records: list[tuple[int, bytes]]) -> None:
        """What is older than all that is here."""
        if records:
            self._records.setdefault(channel, deque()).extendleft(reversed(records))
            self._tell()

    def _tell(self) -> None:
        for function in list(self.arrivals):
            function()

    def take_all(self) -> dict[tuple[str, int], list[bytes]]:
        """By channel and node."""
        taken: dict[tuple[str, int], list[bytes]] = {}
        for channel in list(self._records):
            for node, record in self.take(channel):
                taken.setdefault((channel, node), []).append(record)
        return taken
