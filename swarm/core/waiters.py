"""How a task waits for the answer to its request, under trio and under asyncio.

anyio's events would do, and cost half of a request: an object, two lookups of the event loop, and three coroutines
more for every one that waits. Here a task waits on its request itself. Nothing else of anyio is gone around.
"""

import asyncio
from collections import deque
from typing import Any

from swarm.core.errors import SwarmError
from swarm.core.protocol import BATCH, DONE


class Waiter:
    """Who waits for the answers to one request. One task waits, once at a time."""

    __slots__ = ("batches", "deadline", "done", "error", "request_id", "result", "status")

    def __init__(self, deadline: float) -> None:
        """deadline: on the event loop's clock."""
        self.deadline = deadline
        self.request_id = 0
        self.done = False
        """Whether the final answer, or the error in its place, is there."""
        self.error: SwarmError | None = None
        self.status = DONE
        self.result: Any = None
        self.batches: deque[Any] | None = None
        """Of a stream: those that were not asked for yet."""

    def answer(self, status: int, result: Any) -> None:
        if status == BATCH:
            assert self.batches is not None
            self.batches.append(result)
        else:
            self.done = True
            self.status = status
            self.result = result
        self._wake()

    def fail(self, error: SwarmError) -> None:
        self.done = True
        self.error = error
        self._wake()

    async def wait(self) -> None:
        """Until there is an answer, or a batch."""
        raise NotImplementedError

    def _wake(self) -> None:
        raise NotImplementedError


class AsyncioWaiter(Waiter):
    __slots__ = ("_future",)

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self._future: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        if not (self.done or self.batches):
            self._future = asyncio.get_running_loop().create_future()
            await self._future

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
