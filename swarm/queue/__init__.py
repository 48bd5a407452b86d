"""The queue's requests, its records on the wire, and its client for trio and asyncio."""

from typing import TYPE_CHECKING

from swarm.queue.deliveries import Record
from swarm.queue.operations import Queue

if TYPE_CHECKING:
    from swarm.queue.client import QueueClient as QueueClient

__all__ = ["Queue", "QueueClient", "Record"]


def __getattr__(name: str) -> object:
    """The asynchronous client is loaded when it is first used: blocking programs do without it and its libraries."""
    if name == "QueueClient":
        from swarm.queue.client import QueueClient

        return QueueClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
