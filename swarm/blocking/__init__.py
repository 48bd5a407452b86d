"""The clients for programs without an event loop: the same methods as swarm.dht and its like, without await."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.blocking.dht import DhtClient as DhtClient
    from swarm.blocking.logfiles import LogfilesClient as LogfilesClient
    from swarm.blocking.queue import QueueClient as QueueClient

_MODULES = {"DhtClient": "dht", "LogfilesClient": "logfiles", "QueueClient": "queue"}

__all__ = ["DhtClient", "LogfilesClient", "QueueClient"]


def __getattr__(name: str) -> object:
    """A client is loaded when it is first used: each has libraries of its own."""
    if name in _MODULES:
        return getattr(import_module(f"swarm.blocking.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
