"""The requests of the logfiles node, imported by the node and by its clients. docs/protocol.md §5."""

from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Any

import swarm.logfiles.payload as payload
from swarm.core import limits
from swarm.core.errors import BadArgument, BatchTooBig, EmptyValue, ValueTooBig
from swarm.core.protocol import CHANNEL, CREDIT, Limits, Parameter, Request, brief, integer, type_name
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN, BadPayload

KIND = "logfiles"

OLDEST_FIRST = 0
NEWEST_FIRST = 1


class FilterKind(IntEnum):
    SUBSTRING = 0
    REGEX = 1


def check_timestamp(timestamp: Any, _: Limits) -> None:
    if type(timestamp) is not int:
        raise BadArgument(
            f"a timestamp is an integer, nanoseconds since 1970-01-01 UTC, not {type_name(timestamp)}",
        )
    if not TIMESTAMP_MIN <= timestamp <= TIMESTAMP_MAX:
        raise BadArgument(
            f"a timestamp is from {TIMESTAMP_MIN} (1677) to {TIMESTAMP_MAX} (2262) nanoseconds since 1970-01-01 UTC, "
            f"not {timestamp}"
        )


def check_value(value: Any, node_limits: Limits) -> None:
    if type(value) is not bytes:
        raise BadArgument(f"a value is bytes, not {type_name(value)}")
    if not value:
        raise EmptyValue("empty value: a value has at least 1 byte")
    if len(value) > node_limits.value_bytes:
        raise ValueTooBig(
            f"value too big: {len(value)} bytes, the node accepts {node_limits.value_bytes}",
            {"limit": node_limits.value_bytes},
        )


def _check_batch(value: Any, node_limits: Limits) -> None:
    if type(value) is not bytes:
        raise BadArgument(f"records is bytes, not {type_name(value)}")
    try:
        timestamps, sizes, at = payload.unchecked(value)
    except BadPayload as error:
        raise BadArgument(f"records is not a payload with a record at least: {error}") from error
    if len(sizes) > node_limits.batch_records:
        raise BatchTooBig(
            f"a batch of {len(sizes)} records; the node accepts {node_limits.batch_records} in one request",
            {"limit": node_limits.batch_records},
        )
    ends = accumulate(sizes, initial=at)
    check_records(timestamps, [value[begin:end] for begin, end in pairwise(ends)], node_limits)


def check_records(timestamps: Sequence[Any], values: Sequence[Any], node_limits: Limits) -> None:
    """Of one request: every timestamp and its value; the error tells the number of the first offending record."""
    if len(timestamps) != len(values):
        raise BadArgument(
            f"{len(timestamps)} timestamps and {len(values)} values: a batch has as many of one as of the other"
        )
    for number, (timestamp, value) in enumerate(zip(timestamps, values, strict=True)):
        try:
            check_timestamp(timestamp, node_limits)
            check_value(value, node_limits)
        except BadArgument as error:
            raise type(error)(f"record {number} of the batch: {error.text}", error.details) from error


def check_range(start: int, end: int) -> None:
    """Of a get range whose arguments are right each for itself."""
    if start > end:
        raise BadArgument(f"from is {start}, which is above to, {end}")


def _check_after(value: Any, _: Limits) -> None:
    if type(value) is not bytes or len(value) not in (0, limits.CURSOR_BYTES):
        raise BadArgument(f"after is the cursor of a batch ({limits.CURSOR_BYTES} bytes), or empty bytes")


def _check_filter(value: Any, _: Limits) -> None:
    match value:
        case None:
            return
        case [int(kind), bytes(pattern), bool()] if type(kind) is int and kind in tuple(FilterKind):
            if not 1 <= len(pattern) <= limits.FILTER_BYTES_MAX:
                raise BadArgument(f"a filter's pattern has 1 to {limits.FILTER_BYTES_MAX} bytes, not {len(pattern)}")
            return
    raise BadArgument(
        "filter is nil, or an array of a kind (0: substring, 1: regular expression), a pattern (bytes) and whether "
        f"case is ignored (bool); not {brief(value)}"
    )


ANY_TIME = (-(2**63), 2**63 - 1)

PUT = Request(
    48,
    "put",
    (CHANNEL, Parameter("timestamp", check_timestamp), Parameter("value", check_value)),
    access="write",
    repeatable=False,
)
PUT_MANY = Request(49, "put many", (CHANNEL, Parameter("records", _check_batch)), access="write", repeatable=False)
GET_RANGE = Request(
    50,
    "get range",
    (
        CHANNEL,
        integer("from", *ANY_TIME),
        integer("to", *ANY_TIME),
        Parameter("after", _check_after),
        integer("order", OLDEST_FIRST, NEWEST_FIRST),
        integer("limit", 0, 2**63 - 1),
        Parameter("filter", _check_filter),
        CREDIT,
    ),
    streams=True,
)
TIME_SPAN = Request(51, "time span", (CHANNEL,))
