"""Where what may take long is carried out: what waits for a disk, and what keeps a core busy."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class OffLoop(Protocol):
    async def __call__(self, function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Its result, or the error that it raises. limiter: of those at work at a time."""


async def in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    return await trio.to_thread.run_sync(function, limiter=limiter)


async def at_once(function: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """For a node inside of a test whose clock jumps when no task has anything to do: it does not wait for threads."""
    await trio.lowlevel.checkpoint()
    return function()
