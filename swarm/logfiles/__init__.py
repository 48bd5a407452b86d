"""The requests of the logfiles node, its records on the wire, and its client for trio and asyncio."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.logfiles.client import LogfilesClient as LogfilesClient

__all__ = ["LogfilesClient"]


def __getattr__(name: str) -> object:
    """The asynchronous client is loaded when it is first used: blocking programs do without it and its libraries."""
    if name == "LogfilesClient":
        from swarm.logfiles.client import LogfilesClient

        return LogfilesClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
