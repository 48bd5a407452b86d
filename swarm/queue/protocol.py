"""The requests of the queue node, imported by the node and by its clients. docs/protocol.md §5."""

from typing import Any

from swarm.core import limits
from swarm.core.errors import BadArgument, BatchTooBig, EmptyValue, ValueTooBig
from swarm.core.protocol import CHANNEL, CREDIT, Limits, Parameter, Request, brief, check_channel, integer, type_name
from swarm.queue.batch import LENGTH_BYTES, unpack_lengths

KIND = "queue"
OWN_QUEUE = ""
"""In place of a subscriber's name: the channel's own queue."""


def check_record(record: Any, node_limits: Limits) -> None:
    if type(record) is not bytes:
        raise BadArgument(f"a record is bytes, not {type_name(record)}")
    if not record:
        raise EmptyValue("empty value: a record has at least 1 byte")
    if len(record) > node_limits.value_bytes:
        raise ValueTooBig(
            f"value too big: a record of {len(record)} bytes, the node accepts {node_limits.value_bytes}",
            {"limit": node_limits.value_bytes},
        )


def check_channels(channels: Any, _: Limits) -> None:
    if type(channels) is not list or not 1 <= len(channels) <= limits.PUSH_CHANNELS_MAX:
        raise BadArgument(f"channels is an array of 1 to {limits.PUSH_CHANNELS_MAX} names, not {brief(channels)}")
    for channel in channels:
        check_channel(channel)
    for channel in channels:
        if channels.count(channel) > 1:
            raise BadArgument(f"the channel {channel} is named {channels.count(channel)} times in one push")


def records_count(lengths: Any, data: Any, node_limits: Limits) -> int:
    """How many records the two parts of a batch hold. Raises what is wrong with them: of these arguments, a node can
    trust what this has returned for."""
    if type(lengths) is not bytes or type(data) is not bytes:
        raise BadArgument(f"lengths and data are bytes, not {type_name(lengths)} and {type_name(data)}")
    count, rest = divmod(len(lengths), LENGTH_BYTES)
    if rest or not count:
        raise BadArgument(f"lengths has {LENGTH_BYTES} bytes for each record, one at least; not {len(lengths)}")
    if count > node_limits.batch_records:
        raise BatchTooBig(
            f"a batch of {count} records; the node accepts {node_limits.batch_records} in one request",
            {"limit": node_limits.batch_records},
        )
    sizes = unpack_lengths(lengths)
    if not min(sizes):
        raise EmptyValue(f"empty value: record {sizes.index(0)} of the batch; a record has at least 1 byte")
    if max(sizes) > node_limits.value_bytes:
        raise ValueTooBig(
            f"value too big: a record of {max(sizes)} bytes, the node accepts {node_limits.value_bytes}",
            {"limit": node_limits.value_bytes},
        )
    if sum(sizes) != len(data):
        raise BadArgument(f"the lengths of {count} records give {sum(sizes)} bytes, data has {len(data)}")
    return count


def _check_bytes(name: str) -> Parameter:
    def check(value: Any, _: Limits) -> None:
        if type(value) is not bytes:
            raise BadArgument(f"{name} is bytes, not {type_name(value)}")

    return Parameter(name, check)


def check_subscriber(name: Any, node_limits: Limits) -> None:
    """As for a channel's name."""
    try:
        check_channel(name, node_limits)
    except BadArgument as error:
        raise BadArgument(error.text.replace("channel", "subscriber"), error.details) from error


def _check_subscriber_or_own(name: Any, node_limits: Limits) -> None:
    if name != OWN_QUEUE:
        check_subscriber(name, node_limits)


def _check_ranges(ranges: Any, _: Limits) -> None:
    most = limits.ACKNOWLEDGED_NUMBERS_MAX
    if type(ranges) is not list or len(ranges) % 2 or len(ranges) > most:
        raise BadArgument(
            f"ranges is an array of pairs, {most} numbers at most: first and count of each; not {brief(ranges)}"
        )
    for number in ranges:
        if type(number) is not int or not 0 <= number < 2**64:
            raise BadArgument(f"ranges holds numbers from 0 to 2^64 - 1, not {brief(number)}")


RECORDS = integer("records", 1, limits.BATCH_RECORDS_MAX)

PUSH = Request(32, "push", (CHANNEL, Parameter("record", check_record)), access="write", repeatable=False)
PUSH_MANY = Request(
    33,
    "push many",
    (Parameter("channels", check_channels), _check_bytes("lengths"), _check_bytes("data")),
    access="write",
    repeatable=False,
)
POP = Request(34, "pop", (CHANNEL,), takes=True, repeatable=False)
POP_MANY = Request(35, "pop many", (CHANNEL, RECORDS), takes=True, repeatable=False)
WAIT_POP = Request(
    36,
    "wait pop",
    (CHANNEL, RECORDS, integer("wait", 0, limits.POP_WAIT_MS_MAX)),
    takes=True,
    repeatable=False,
)
CONSUME = Request(
    37,
    "consume",
    (CHANNEL, Parameter("subscriber", _check_subscriber_or_own), RECORDS, CREDIT),
    takes=True,
    streams=True,
)
ACKNOWLEDGE = Request(
    38,
    "acknowledge",
    (integer("stream", 1, limits.REQUEST_ID_MAX), Parameter("ranges", _check_ranges)),
    takes=True,
)
QUEUES = Request(39, "queues", (CHANNEL,))
DROP_SUBSCRIBER = Request(
    40,
    "drop subscriber",
    (CHANNEL, Parameter("subscriber", check_subscriber)),
    access="admin",
    repeatable=False,
)
