"""The requests of the wire protocol: one definition of each, which both ends import. docs/protocol.md §3-5.

A client checks arguments with these definitions before it sends, so that a mistake is raised where it was made. A
node cannot trust that. Its handlers test the usual case in a line of their own and come here only to say what is
wrong.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from swarm.core import limits
from swarm.core.errors import BadArgument, BadChannel

VERSION = 1

DONE = 0
BATCH = 1
STREAM_END = "end"
STREAM_STOPPED = "stopped"


Access = Literal["read", "write", "admin"]


@dataclass(frozen=True)
class Limits:
    """What a node accepts, as told in its hello. docs/protocol.md §7."""

    value_bytes: int = limits.VALUE_BYTES_MAX
    key_bytes: int = limits.KEY_BYTES_MAX
    batch_bytes: int = limits.BATCH_BYTES
    batch_records: int = limits.BATCH_RECORDS_MAX
    streams: int = limits.STREAMS_MAX

    def to_wire(self) -> dict[str, int]:
        return asdict(self)


DEFAULT_LIMITS = Limits()

Check = Callable[[Any, Limits], None]
"""Raises the BadArgument that describes what is wrong with an argument."""


@dataclass(frozen=True)
class Parameter:
    name: str
    check: Check


@dataclass(frozen=True)
class Request:
    """One request of the protocol.

    The channels that it is about are its parameter `channel`, or `channels`.

    access: the permission it needs.
    repeatable: carrying it out twice leaves, and answers, the same as once; so a client may send it
        again when the connection broke before the answer.
    streams: answers with batches; its last parameter is the credit.
    takes: of a read, that it changes what is stored all the same, as taking a record out of a queue does.
    """

    code: int
    name: str
    parameters: tuple[Parameter, ...]
    access: Access = "read"
    repeatable: bool = True
    streams: bool = False
    takes: bool = False

    @property
    def changes(self) -> bool:
        """Whether it may change what is stored."""
        return self.access != "read" or self.takes

    def check(self, arguments: Sequence[object], node_limits: Limits) -> None:
        """Raises BadArgument, naming the argument, for the first thing that is wrong."""
        if len(arguments) != len(self.parameters):
            names = ", ".join(parameter.name for parameter in self.parameters) or "none"
            raise BadArgument(f"{self.name} takes {len(self.parameters)} arguments ({names}), not {len(arguments)}")
        for position, (parameter, argument) in enumerate(zip(self.parameters, arguments, strict=True)):
            try:
                parameter.check(argument, node_limits)
            except BadArgument as error:
                error.details.setdefault("position", position)
                raise


def type_name(value: object) -> str:
    """How an argument of a wrong type is called in an error."""
    return {
        type(None): "nil",
        list: "an array",
        tuple: "an array",
        dict: "a map",
        bytes: "bytes",
        str: "text",
        bool: "a bool",
        int: "an integer",
        float: "a float",
    }.get(type(value), type(value).__name__)


def brief(value: object) -> str:
    """A value that a peer has sent, for people: never long, never deep, whatever it is."""
    if isinstance(value, str | bytes):
        return repr(value[:40]) + (f"… ({len(value)} in all)" if len(value) > 40 else "")
    if isinstance(value, list | tuple | dict):
        return f"{type_name(value)} of {len(value)}"
    return repr(value) if isinstance(value, int | float) else type_name(value)


_CHANNEL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.CHANNEL_LENGTH_MAX}}}")


def check_channel(name: object, _: Limits = DEFAULT_LIMITS) -> None:
    """BadChannel unless name is a str of 1 to 128 characters out of A-Z a-z 0-9 _ -."""
    if type(name) is not str:
        raise BadChannel(f"a channel name is text, not {type_name(name)}")
    if not _CHANNEL_NAME.fullmatch(name):
        raise BadChannel(
            f"bad channel name {brief(name)} ({len(name)} characters): "
            f"1 to {limits.CHANNEL_LENGTH_MAX} characters out of A-Z a-z 0-9 _ - are allowed"
        )


def integer(name: str, lowest: int, highest: int) -> Parameter:
    def check(value: object, _: Limits) -> None:
        if type(value) is not int:
            raise BadArgument(f"{name} is an integer, not {type_name(value)}")
        if not lowest <= value <= highest:
            raise BadArgument(f"{name} is from {lowest} to {highest}, not {value}")

    return Parameter(name, check)


def bin_of(name: str, size: int) -> Parameter:
    """A bin of exactly so many bytes."""

    def check(value: object, _: Limits) -> None:
        if type(value) is not bytes:
            raise BadArgument(f"{name} is bytes, not {type_name(value)}")
        if len(value) != size:
            raise BadArgument(f"{name} has {size} bytes, not {len(value)}")

    return Parameter(name, check)


CLIENT_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{limits.CLIENT_NAME_LENGTH_MAX}}}")
CLIENT_NAME_RULE = f"1 to {limits.CLIENT_NAME_LENGTH_MAX} characters out of A-Z a-z 0-9 _ . -"


def _check_client_name(name: object, _: Limits) -> None:
    if type(name) is not str or not CLIENT_NAME.fullmatch(name):
        raise BadArgument(f"the name of a client has {CLIENT_NAME_RULE}; it is not {brief(name)}")


CHANNEL = Parameter("channel", check_channel)
CREDIT = integer("credit", 1, limits.CREDIT_MAX)

# The requests of every node.
PING = Request(1, "ping", ())
GRANT_CREDIT = Request(2, "credit", (integer("credit", 1, 2**64 - 1),))  # what is above CREDIT_MAX is cut
STOP = Request(3, "stop", ())
STATS = Request(4, "stats", ())
CHANNELS = Request(5, "channels", ())
CHANNEL_SIZE = Request(6, "channel size", (CHANNEL,))
SIZE = Request(7, "size", ())
REMOVE_CHANNEL = Request(8, "remove channel", (CHANNEL,), access="admin", repeatable=False)
AUTHENTICATE = Request(
    9,
    "authenticate",
    (
        Parameter("name", _check_client_name),
        bin_of("nonce", limits.NONCE_BYTES),
        bin_of("proof", limits.PROOF_BYTES),
    ),
    repeatable=False,
)
HEALTH = Request(10, "health", ())
EVENTS = Request(11, "events", (), access="admin")
