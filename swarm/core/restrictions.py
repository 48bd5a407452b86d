"""The requests of a node as a client finds them that may not do everything: tables whose handlers ask first.

They are made once for each client, so a request of a client that may do everything, and every request of a node without
credentials, costs nothing more: the connection looks its handlers up in the tables that it was given.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from swarm.core import protocol
from swarm.core.channel_patterns import ChannelSet
from swarm.core.credentials import Permissions
from swarm.core.errors import NotAllowed
from swarm.core.health import Finding
from swarm.core.protocol import Access, check_channel
from swarm.core.request_handler import RequestHandler, RequestTables, Service

_ARGUMENTS_BEFORE = {"at once": 0, "batch": 1, "stream": 0, "direct": 2}
"""What a handler of each mode is called with before the request's own arguments."""

_NO_DETAILS = "ask with credentials that may read all channels (read=*) for details"
"""In place of what a health rule has found: its text may name channels, and directories of the node."""


class Refuse(Protocol):
    """Makes the error for who has not this access to this channel; None: to all channels."""

    def __call__(self, access: Access, channel: str | None) -> NotAllowed: ...


def restricted(service: Service, permissions: Permissions, refuse: Refuse) -> RequestTables:
    """What a client with these permissions may ask for."""
    if permissions.are_all:
        return RequestTables(service.at_once, service.handlers)
    handlers = {code: _restrict(handler, permissions, refuse) for code, handler in service.handlers.items()}
    return RequestTables({key: handlers[key[0]] for key in service.at_once}, handlers)


def _restrict(handler: RequestHandler, permissions: Permissions, refuse: Refuse) -> RequestHandler:
    request, function = handler.request, handler.function
    if request is protocol.CHANNELS:
        return replace(handler, function=lambda connection: list(filter(permissions.any_for, function(connection))))
    if request is protocol.STATS:
        return replace(handler, function=lambda connection: _of_channels(function(connection), permissions))
    allowed = permissions.of(request.access)
    if allowed.is_every:
        return handler
    if request is protocol.HEALTH:
        return replace(handler, function=lambda connection: _without_details(function(connection)))
    names = [parameter.name for parameter in request.parameters]
    at = _ARGUMENTS_BEFORE[handler.mode]
    if "channel" in names:
        at += names.index("channel")
        together = handler.together and _checked_together(handler.together, names.index("channel"), allowed)
        return replace(handler, function=_checked(function, at, allowed, request.access, refuse), together=together)
    if "channels" in names:
        at += names.index("channels")
        return replace(handler, function=_checked_each(function, at, allowed, request.access, refuse))
    if request.access == "read":
        return handler
    return replace(handler, function=_refused(request.access, refuse), together=None)


def _checked(
    function: Callable[..., Any], at: int, allowed: ChannelSet, access: Access, refuse: Refuse
) -> Callable[..., Any]:
    def checked(*arguments: Any) -> Any:
        channel = arguments[at]
        if type(channel) is str and channel not in allowed:  # what is no text the handler itself refuses
            check_channel(channel)
            raise refuse(access, channel)
        return function(*arguments)

    return checked


def _checked_each(
    function: Callable[..., Any], at: int, allowed: ChannelSet, access: Access, refuse: Refuse
) -> Callable[..., Any]:
    def checked(*arguments: Any) -> Any:
        channels = arguments[at]
        for channel in channels if type(channels) is list else ():
            if type(channel) is str and channel not in allowed:
                check_channel(channel)
                raise refuse(access, channel)
        return function(*arguments)

    return checked


def _checked_together(function: Callable[..., Any], at: int, allowed: ChannelSet) -> Callable[..., Any]:
    """Where one of the channels is not allowed, the requests are carried out one by one, as each deserves."""

    def checked(*arguments: tuple[Any, ...]) -> Any:
        for channel in arguments[at]:
            if type(channel) is not str or channel not in allowed:
                return None
        return function(*arguments)

    return checked


def _refused(access: Access, refuse: Refuse) -> Callable[..., Any]:
    def refused(*_: Any) -> Any:
        raise refuse(access, None)

    return refused


def _of_channels(statistics: dict[str, Any], permissions: Permissions) -> dict[str, Any]:
    channels = {name: each for name, each in statistics["channel"].items() if permissions.any_for(name)}
    return statistics | {"channel": channels}


def _without_details(findings: list[Finding]) -> list[Finding]:
    return [finding._replace(text=_NO_DETAILS) for finding in findings]
