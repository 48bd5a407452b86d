"""What each method of a logfiles client does, once for all of them, as operations (swarm.core.operations). No I/O.

A put goes to one node, and to the next where that one cannot take it; puts begin with another node each time. So a
channel's records are spread over all nodes, and whoever reads asks every one (swarm.logfiles.ranges).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import swarm.logfiles.payload as payload
import swarm.logfiles.protocol as protocol
from swarm.core import limits
from swarm.core.any_node import Turns, check_sizes, store_in_parts, to_one_node
from swarm.core.client_session import Call, Steps
from swarm.core.errors import BadArgument
from swarm.core.known_nodes import KnownNodes
from swarm.core.operations import ask_all, check_channel
from swarm.core.protocol import Limits, brief
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN
from swarm.logfiles.timestamps import Time, nanoseconds

PUT_PART_BYTES = limits.FRAME_BYTES_PLAIN - 1 * limits.KIB  # of one part of a large put: it is still an ordinary frame

assert PUT_PART_BYTES + limits.CHANNEL_LENGTH_MAX + 32 < limits.FRAME_BYTES_PLAIN


class LogfilesNodes(KnownNodes):
    """What a logfiles client knows: its nodes, and whose turn it is."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(nodes)
        self.puts = Turns(len(self.nodes))


def put(known: LogfilesNodes, channel: str, timestamp: Time, value: bytes) -> Steps[None]:
    check_channel(channel)
    time = nanoseconds(timestamp)
    protocol.check_timestamp(time, known.limits)
    protocol.check_value(value, known.limits)
    if known.several:
        yield from to_one_node(known.puts.next(), Call(0, protocol.PUT, (channel, time, value), at_once=True))
    else:
        yield Call(0, protocol.PUT, (channel, time, value))


def put_many(known: LogfilesNodes, channel: str, records: Iterable[tuple[Time, bytes]]) -> Steps[None]:
    check_channel(channel)
    timestamps, values = _columns(records)
    if not values:
        return
    sizes = _sizes(timestamps, values, known.limits)

    def call_of(start: int, stop: int) -> Call:
        records = payload.encode(timestamps[start:stop], values[start:stop], sizes[start:stop])
        return Call(0, protocol.PUT_MANY, (channel, records), size=len(records), at_once=known.several)

    yield from store_in_parts(known, known.puts.next(), sizes, payload.RECORD_BYTES, PUT_PART_BYTES, call_of)


def _columns(records: Iterable[tuple[Time, bytes]]) -> tuple[list[int], list[bytes]]:
    """Timestamps and values of pairs."""
    pairs = records if type(records) is list else list(records)
    try:
        times: list[Any] = [time for time, _ in pairs]
        values = [value for _, value in pairs]
    except (TypeError, ValueError) as error:
        raise BadArgument(
            f"records are pairs of a timestamp and a value, not {_first_that_is_no_pair(pairs)}"
        ) from error
    if set(map(type, times)) == {int}:
        return times, values
    for number, time in enumerate(times):
        try:
            times[number] = nanoseconds(time)
        except BadArgument as error:
            raise BadArgument(f"record {number} of {len(times)}: {error.text}") from error
    return times, values


def _first_that_is_no_pair(pairs: list[Any]) -> str:
    return next((brief(each) for each in pairs if not isinstance(each, tuple | list) or len(each) != 2), "these")


def _sizes(timestamps: list[int], values: list[bytes], node_limits: Limits) -> list[int]:
    """The values' lengths; raises what is wrong with the first record that is not right."""
    if set(map(type, values)) != {bytes} or min(timestamps) < TIMESTAMP_MIN or max(timestamps) > TIMESTAMP_MAX:
        protocol.check_records(timestamps, values, node_limits)
    sizes = list(map(len, values))
    check_sizes(sizes, node_limits)
    return sizes


def time_span(known: LogfilesNodes, channel: str) -> Steps[tuple[int, int] | None]:
    check_channel(channel)
    spans = [answer for answer in (yield from ask_all(known, protocol.TIME_SPAN, channel)) if answer is not None]
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None
