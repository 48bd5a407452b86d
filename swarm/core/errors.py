"""The errors of the swarm: whose fault one is, what is now true, and whether to try again.

An error that a node tells travels as a status code with a sentence and details (docs/protocol.md §6) and is
raised in the client as the class that has this code. Bugs are not among them: those crash.
"""

from typing import Any, ClassVar, Literal

from swarm.core.limits import TIMEOUT_S_MAX

Fault = Literal["client", "node", "network", "other"]


class SwarmError(Exception):
    """Base of all errors that a program using the swarm may want to catch.

    code: status on the wire; None for errors that arise in the client only.
    fault: "client" (this call is wrong and will fail again), "node" (its state forbids it now),
        "network" (it could not be reached), "other" (somebody else was quicker).
    try_again: whether the same call may succeed later.
    text, details: what happened, for people and for programs.
    node, request: address of the node and name of the request, where one was involved.
    """

    code: ClassVar[int | None] = None
    fault: ClassVar[Fault] = "client"
    try_again: ClassVar[bool] = False

    def __init__(self, text: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.details: dict[str, Any] = details or {}
        self.node: str | None = None
        self.request: str | None = None

    def __str__(self) -> str:
        where = " ".join(part for part in (self.request, f"at {self.node}" if self.node else None) if part)
        return f"{where}: {self.text}" if where else self.text


class UnknownRequest(SwarmError):
    code = 16


class BadArgument(SwarmError):
    code = 17


class BadChannel(BadArgument):
    code = 18


class BadKey(BadArgument):
    code = 19


class EmptyValue(BadArgument):
    code = 20


class ValueTooBig(BadArgument):
    code = 21


class BatchTooBig(BadArgument):
    code = 22


class WrongNode(SwarmError):
    """The key's hash is not in the node's range."""

    code = 23
    try_again = True


class OutOfMemory(SwarmError):
    """The node is at its memory limit: it refuses writes, while reads and removes go on."""

    code = 24
    fault = "node"
    try_again = True


class Conflict(SwarmError):
    """An update found something else than it expected; nothing was written."""

    code = 25
    fault = "other"
    try_again = True


class ChannelRemoved(SwarmError):
    """The channel was removed while a stream read it."""

    code = 26
    fault = "other"
    try_again = True


class TooManyRequests(SwarmError):
    code = 27
    try_again = True


class TooManyChannels(SwarmError):
    code = 28
    fault = "node"


class DiskFull(SwarmError):
    """The node has no room on its disk to make a change durable: it refuses writes and removes, reads go on."""

    code = 29
    fault = "node"
    try_again = True


class QueueFull(SwarmError):
    """A queue has no room for what was pushed; nothing of it was stored there."""

    code = 30
    fault = "node"
    try_again = True


class HasSubscribers(SwarmError):
    """The channel's records go to its subscribers: they are consumed, and cannot be popped."""

    code = 31


class ProtocolError(SwarmError):
    """A peer sent what the protocol does not allow; the connection is closed."""

    code = 32


class UnsupportedVersion(ProtocolError):
    code = 33


class WrongKind(SwarmError):
    """The address leads to a node of another kind."""

    code = 34


class TooManyConnections(SwarmError):
    code = 35
    fault = "node"
    try_again = True


class ShuttingDown(SwarmError):
    code = 36
    fault = "node"
    try_again = True


class NotAuthenticated(SwarmError):
    """The node wants to know who the client is, and does not (or the client wants to know it of the node): nothing was
    carried out."""

    code = 37


class NotAllowed(SwarmError):
    """The client has no permission for this; nothing was carried out."""

    code = 38


class TlsFailed(SwarmError):
    """TLS between client and node has failed: a certificate is refused, or one of them speaks TLS and the other does
    not. Nothing was sent."""

    code = 39


class ReadFailed(SwarmError):
    """The node's disk does not let it read what was asked for; nothing is known to be lost."""

    code = 48
    fault = "node"
    try_again = True


class NodeUnreachable(SwarmError):
    """No connection to the node could be made before the deadline; the request was not sent."""

    fault = "network"
    try_again = True


class ConnectionLost(SwarmError):
    """The connection broke before the answer came: whether the request was carried out is not known."""

    fault = "network"


class RequestTimeout(SwarmError):
    """The answer did not come in time: whether the request was carried out is not known."""

    fault = "network"


class ClientClosed(SwarmError):
    """The client object was used before it was opened or after it was closed."""


REFUSALS = (NotAuthenticated, TlsFailed)
"""The node was reached, and one of the two wants nothing of the other until somebody changes something: told at once to
whoever asks, and not only at the deadline."""


def connection_lost(why: Exception) -> ConnectionLost:
    """What those are told who wait for an answer on a connection that broke."""
    return ConnectionLost(
        f"the connection broke before the answer came ({why}); it may or may not have been carried out"
    )


def no_node_responsible() -> NodeUnreachable:
    """Every node was reached, and none has the key's hash in its range."""
    return NodeUnreachable("no node is responsible for the key: the nodes' hash ranges have a gap")


def not_connected(why: Exception | None) -> NodeUnreachable:
    """For a request that goes to another node rather than wait for this one."""
    error = NodeUnreachable(f"it is not connected{f' ({why})' if why else ''}; nothing was sent")
    error.__cause__ = why
    return error


def checked_timeout(seconds: object) -> float:
    """A timeout as a program gives it. BadArgument unless it is a number above 0, and not beyond what poll(2) takes."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= TIMEOUT_S_MAX:
        raise BadArgument(f"a timeout is a number of seconds above 0, at most {TIMEOUT_S_MAX:g}, not {seconds!r:.40}")
    return float(seconds)


def _every_subclass(base: type[SwarmError]) -> list[type[SwarmError]]:
    return [base, *(below for each in base.__subclasses__() for below in _every_subclass(each))]


_BY_CODE = {each.code: each for each in _every_subclass(SwarmError) if each.code is not None}


def from_wire(code: int, result: object) -> SwarmError:
    """The error that a node told: its status code, and [text, details]."""
    match result:
        case [str(text), dict(details)]:
            return _BY_CODE.get(code, SwarmError)(text, details)
    return ProtocolError(f"the node answered with status {code} and no description")
