"""How many ranges are read at a time: each has files open, blocks read ahead, and perhaps a filter.

A client that grants no credit, or reads nothing, would keep a place for ever. So when all are taken, the range that has
been waiting for its client for the longest gives up its own: everything but where it was. It takes one again when its
client goes on.
"""

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from swarm.core.errors import TooManyRequests

IDLE_S = 1.0  # since a client has taken its last batch: one that takes one now and then reads its files anew


class Reader(Protocol):
    @property
    def is_working(self) -> bool:
        """A thread reads for it, or will."""

    def give_up(self) -> None:
        """Keeps nothing but where it was."""


class Places:
    def __init__(self, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._taken: dict[Reader, float] = {}
        """With the time when its client last wanted something; the longest ago comes first."""

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, reader: Reader) -> None:
        """For one that has none, or has one: it is used now. Raises TooManyRequests."""
        if self._taken.pop(reader, None) is None and len(self._taken) >= self._most:
            self._make_room()
        self._taken[reader] = self._clock()

    def leave(self, reader: Reader) -> None:
        """Whether it has one or not."""
        self._taken.pop(reader, None)

    def _make_room(self) -> None:
        idle_since = self._clock() - IDLE_S
        for reader, used in self._taken.items():
            if used > idle_since:
                break
            if not reader.is_working:
                reader.give_up()
                del self._taken[reader]
                return
        raise TooManyRequests(
            f"{self._most} ranges are being read from this node, the most there may be", {"limit": self._most}
        )
