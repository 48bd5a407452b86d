"""The client side of the dht."""

from typing import TYPE_CHECKING

from swarm.dht.events import Event

if TYPE_CHECKING:
    from swarm.dht.client import DhtClient as DhtClient

__all__ = ["DhtClient", "Event"]


def __getattr__(name: str) -> object:
    """The asynchronous client is loaded when it is first used: blocking programs do without it and its libraries."""
    if name == "DhtClient":
        from swarm.dht.client import DhtClient

        return DhtClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
