"""Memory that is kept aside for the parts of large batches which have not come yet. docs/protocol.md §5, put many.

A client sends the first part of such a batch alone; the parts that follow it on the same connection are not refused
for want of memory, nor of disk: the journal keeps as much aside as budget.reserved says. All that is kept aside
together has a bound, and what a client does not use is free again after a time: what it asked for and never sends
keeps nobody else's records out.
"""

from dataclasses import dataclass

import trio

from swarm.core import limits
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.errors import OutOfMemory
from swarm.core.storage_channels import MemoryBudget


@dataclass
class _Reserve:
    """What is kept aside for one connection."""

    size: int = 0
    in_use: bool = True
    """Whether something was added or used since `expire` has last looked."""


class Reserves:
    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._most = int(budget.limit * limits.RESERVED_SHARE)
        self._of: dict[ConnectionHandler, _Reserve] = {}

    def add(self, connection: ConnectionHandler, size: int) -> None:
        """Keeps memory aside. OutOfMemory."""
        budget = self._budget
        if size > budget.free:
            raise budget.refuse(size)
        if budget.reserved + size > self._most:
            raise OutOfMemory(
                f"out of memory: {size} bytes are to be kept aside for the rest of a batch, "
                f"{max(self._most - budget.reserved, 0)} of {self._most} can be; put fewer records at a time",
                {"limit": budget.limit},
            )
        if connection not in self._of:
            self._of[connection] = _Reserve()
            connection.at_end.append(lambda: self._end(connection))
        self._move(self._of[connection], size)

    def release(self, connection: ConnectionHandler, size: int) -> bool:
        """So much is not kept aside any more. Whether there was as much; otherwise all there was is released."""
        reserve = self._of.get(connection)
        if reserve is None:
            return False
        was_kept = size <= reserve.size
        self._move(reserve, -min(size, reserve.size))
        return was_kept

    async def expire(self) -> None:
        """Until cancelled, gives back what is not used."""
        while True:
            await trio.sleep(limits.RESERVE_TIMEOUT_S)
            for reserve in self._of.values():
                if not reserve.in_use:
                    self._move(reserve, -reserve.size)
                reserve.in_use = False

    def _end(self, connection: ConnectionHandler) -> None:
        reserve = self._of.pop(connection)
        self._move(reserve, -reserve.size)

    def _move(self, reserve: _Reserve, size: int) -> None:
        reserve.size += size
        reserve.in_use = True
        self._budget.reserved += size
        self._budget.free -= size
