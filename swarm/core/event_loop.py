"""The event loop that the running task is in: trio or asyncio."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio
import sniffio

from swarm.core.waiters import AsyncioWaiter, Waiter


@dataclass(frozen=True)
class EventLoop:
    """What differs between the event loops: their clock, and how a task waits."""

    clock: Callable[[], float]
    waiter: Callable[[float], Waiter]


def current_event_loop() -> EventLoop:
    """Of the running task."""
    if sniffio.current_async_library() == "trio":
        import trio

        from swarm.core.waiters_trio import TrioWaiter

        return EventLoop(trio.current_time, TrioWaiter)
    return EventLoop(anyio.current_time, AsyncioWaiter)
