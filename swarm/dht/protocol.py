"""The requests of the dht node, imported by the node and by its clients. docs/protocol.md §5."""

from collections.abc import Sequence
from typing import Any

from swarm.core import limits
from swarm.core.errors import BadArgument, BadKey, BatchTooBig, EmptyValue, ValueTooBig
from swarm.core.protocol import CHANNEL, CREDIT, Limits, Parameter, Request, brief, integer, type_name

KIND = "dht"
CURSOR_HASH_BYTES = 8


def check_key(key: Any, node_limits: Limits) -> None:
    if type(key) is not bytes:
        raise BadKey(f"a key is bytes, not {type_name(key)}")
    if not 0 < len(key) <= node_limits.key_bytes:
        raise BadKey(f"a key has 1 to {node_limits.key_bytes} bytes, not {len(key)}", {"key": key[:80]})


def check_value(value: Any, node_limits: Limits, key: bytes | None = None) -> None:
    details: dict[str, Any] = {} if key is None else {"key": key}
    if type(value) is not bytes:
        raise BadArgument(f"a value is bytes, not {type_name(value)}", details)
    if not value:
        raise EmptyValue("empty value: a value has at least 1 byte; use remove to remove a record", details)
    if len(value) > node_limits.value_bytes:
        raise ValueTooBig(
            f"value too big: {len(value)} bytes, the node accepts {node_limits.value_bytes}",
            details | {"limit": node_limits.value_bytes},
        )


def _check_value_or_nil(value: Any, node_limits: Limits) -> None:
    if value is not None:
        check_value(value, node_limits)


def check_keys(keys: Any, node_limits: Limits) -> None:
    """Of one request: keys is a list of at most batch_records keys."""
    if type(keys) is not list:
        raise BadArgument(f"keys is an array of keys, not {type_name(keys)}")
    if len(keys) > node_limits.batch_records:
        raise BatchTooBig(
            f"a batch of {len(keys)} records; the node accepts {node_limits.batch_records} in one request",
            {"limit": node_limits.batch_records},
        )
    for key in keys:
        check_key(key, node_limits)


def _check_values(values: Any, node_limits: Limits) -> None:
    if type(values) is not list:
        raise BadArgument(f"values is an array of values, not {type_name(values)}")


def check_records(keys: list[Any], values: list[Any], node_limits: Limits) -> None:
    """Every key and its value; the error names the first offending key."""
    if len(keys) != len(values):
        raise BadArgument(f"{len(keys)} keys and {len(values)} values: a batch has as many of one as of the other")
    for key, value in zip(keys, values, strict=True):
        check_key(key, node_limits)
        check_value(value, node_limits, key)


def records_size(
    keys: Sequence[Any], values: Sequence[Any], value_bytes: int, key_bytes: int = limits.KEY_BYTES_MAX
) -> int:
    """Bytes of all keys and values; 0 where there are none, or check_records would find something wrong. Fast.

    Keys are joined because that is the fastest check of their types: of what msgpack decodes, only bytes can be.
    """
    if len(keys) != len(values) or set(map(type, values)) != {bytes} or not (all(keys) and all(values)):
        return 0
    try:
        size_of_keys = len(b"".join(keys))
    except TypeError:
        return 0
    if max(map(len, keys)) > key_bytes:
        return 0
    size = sum(map(len, values))
    return 0 if size > value_bytes and max(map(len, values)) > value_bytes else size_of_keys + size


def _check_bytes(name: str, bytes_max: int) -> Parameter:
    def check(value: Any, _: Limits) -> None:
        if type(value) is not bytes:
            raise BadArgument(f"{name} is bytes, not {type_name(value)}")
        if len(value) > bytes_max:
            raise BadArgument(f"{name} has at most {bytes_max} bytes, not {len(value)}")

    return Parameter(name, check)


def _check_reserve(value: Any, _: Limits) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise BadArgument(f"reserve is a number of bytes, at least 0, or nil; not {brief(value)}")


def _check_refresh(value: Any, _: Limits) -> None:
    if type(value) is not bool:
        raise BadArgument(f"refresh is a bool, not {type_name(value)}")


def _check_cursor(value: Any, _: Limits) -> None:
    if type(value) is not bytes or 0 < len(value) < CURSOR_HASH_BYTES:
        raise BadArgument("after is the cursor of a batch, or empty bytes")
    if len(value) > CURSOR_HASH_BYTES + limits.KEY_BYTES_MAX:
        raise BadArgument(f"after is the cursor of a batch, not {len(value)} bytes")


KEY = Parameter("key", check_key)
VALUE = Parameter("value", check_value)
KEYS = Parameter("keys", check_keys)
KEY_PREFIX = _check_bytes("key prefix", limits.KEY_BYTES_MAX)
WALK = (
    CHANNEL,
    Parameter("after", _check_cursor),
    KEY_PREFIX,
    _check_bytes("substring", limits.BATCH_BYTES),
    CREDIT,
)

PUT = Request(16, "put", (CHANNEL, KEY, VALUE), access="write")
PUT_MANY = Request(
    17,
    "put many",
    (CHANNEL, KEYS, Parameter("values", _check_values), Parameter("reserve", _check_reserve)),
    access="write",
)
GET = Request(18, "get", (CHANNEL, KEY))
GET_MANY = Request(19, "get many", (CHANNEL, KEYS))
EXISTS = Request(20, "exists", (CHANNEL, KEY))
REMOVE = Request(21, "remove", (CHANNEL, KEY), access="write", repeatable=False)
UPDATE = Request(
    22,
    "update",
    (CHANNEL, KEY, Parameter("expected", _check_value_or_nil), Parameter("new", _check_value_or_nil)),
    access="write",
    repeatable=False,
)
GET_ALL = Request(23, "get all", WALK, streams=True)
GET_ALL_KEYS = Request(24, "get all keys", WALK, streams=True)
HASH_RANGE = Request(25, "hash range", ())
LISTEN = Request(26, "listen", (CHANNEL, KEY_PREFIX, Parameter("refresh", _check_refresh), CREDIT), streams=True)
BEGIN_DUMP = Request(27, "begin dump", (), access="admin", repeatable=False)
END_DUMP = Request(28, "end dump", (integer("segment", 1, 2**64 - 1),), access="admin")

# The kinds of its events.
RECORDS = 1
CHANNEL_REMOVED = 2
LOST = 3
REFRESH_BEGINS = 4
REFRESHED = 5
