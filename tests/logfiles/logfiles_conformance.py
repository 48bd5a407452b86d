"""What every logfiles client does, whichever it is and however it reaches its nodes. Each row is written once.

A row is a function `(logs, swarm)`: a client that is open, and what it is connected to, which holds nothing. Clients
without an event loop come as AwaitableClient, so rows await what all of them do. test_logfiles_conformance runs the
rows.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from random import Random
from typing import Any, Self

import pytest
from conformance_runs import AwaitableClient, Rows, Swarm

from nodes.logfiles.config import LogfilesConfig, StoreSection
from swarm.core import limits
from swarm.core.errors import (
    BadArgument,
    BadChannel,
    ChannelRemoved,
    ClientClosed,
    EmptyValue,
    NodeUnreachable,
    SwarmError,
    ValueTooBig,
)
from swarm.core.node import LimitsSection

MIB = 1024 * 1024
SECOND = 1_000_000_000
HOUR = 3600 * SECOND
PATIENCE_S = 10.0
T0 = 1_700_000_000 * SECOND  # 2023-11-14 22:13:20 UTC, in the middle of an hour

DEFAULT = LogfilesConfig(store=StoreSection(fsync="never"))
SMALL_VALUES = LogfilesConfig(store=StoreSection(fsync="never"), limits=LimitsSection(value_bytes=1000))
NOTHING_OLD = LogfilesConfig(store=StoreSection(fsync="never", past_max=365 * 86400.0))

Records = list[tuple[int, bytes]]


row = Rows(DEFAULT)
ROWS = row.all


class AwaitableLogfilesClient(AwaitableClient):
    def get_range(self, *arguments: Any, **options: Any) -> "AwaitableRange":
        return AwaitableRange(self._client.get_range(*arguments, **options))


class AwaitableRange:
    def __init__(self, records: Any) -> None:
        self._records = records
        self.close = records.close

    @property
    def damaged_blocks(self) -> int:
        return self._records.damaged_blocks  # type: ignore[no-any-return]

    async def __aenter__(self) -> Self:
        self._records.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._records.__exit__(*error)

    def __aiter__(self) -> "AwaitableSteps":
        return AwaitableSteps(iter(self._records))

    def blocks(self) -> "AwaitableSteps":
        return AwaitableSteps(self._records.blocks())


class AwaitableSteps:
    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps = steps

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        for step in self._steps:
            return step
        raise StopAsyncIteration


# What rows need again and again.


def records(count: int, step: int = SECOND, first: int = T0) -> Records:
    return [(first + number * step, b"record %06d" % number) for number in range(count)]


async def all_of(logs: Any, *arguments: Any, **options: Any) -> Records:
    """A range's records, one by one; the blocks give the same."""
    given = [record async for record in logs.get_range(*arguments, **options)]
    blocks = [block async for block in logs.get_range(*arguments, **options).blocks()]
    assert all(len(timestamps) == len(values) > 0 for timestamps, values in blocks)
    in_blocks = [record for timestamps, values in blocks for record in zip(timestamps, values, strict=True)]
    assert in_blocks == given
    assert all(type(timestamp) is int and type(value) is bytes for timestamp, value in given)
    return given


def incompressible(count: int, size: int) -> Records:
    """So that many bytes are many bytes on their way, too."""
    made = Random(1)
    return [(timestamp, value + made.randbytes(size)) for timestamp, value in records(count)]


async def in_turns(logs: Any, channel: str, some: Records, size: int) -> None:
    """Stores some records at every node, in no order."""
    await logs.ready()
    for start in range(0, len(some), size):
        await logs.put_many(channel, some[start : start + size])


# Put, and get everything.


@row()
async def single_records_come_back_in_the_order_of_time(logs: Any, swarm: Swarm) -> None:
    some = records(30)
    for timestamp, value in some[::2] + some[1::2][::-1]:
        await logs.put("a", timestamp, value)
    assert await all_of(logs, "a") == some
    assert await all_of(logs, "a", newest_first=True) == some[::-1]


@row()
async def many_records_come_back_in_the_order_of_time(logs: Any, swarm: Swarm) -> None:
    some = records(1000)
    await logs.put_many("a", iter(some[500:]))
    await logs.put_many("a", some[:500][::-1])
    assert await all_of(logs, "a") == some
    assert await all_of(logs, "a", newest_first=True) == some[::-1]


@row()
async def timestamps_of_every_kind(logs: Any, swarm: Swarm) -> None:
    moment = datetime(2023, 11, 14, 22, 13, 20, 5, tzinfo=UTC)
    await logs.put("a", T0, b"nanoseconds")
    await logs.put("a", 1_700_000_000.25, b"seconds")
    await logs.put("a", moment, b"moment")
    await logs.put_many("a", [(T0 + 1, b"1"), (1_700_000_000.5, b"2"), (moment + timedelta(seconds=1), b"3")])
    expected = [
        (T0, b"nanoseconds"),
        (T0 + 1, b"1"),
        (T0 + 5000, b"moment"),
        (T0 + SECOND // 4, b"seconds"),
        (T0 + SECOND // 2, b"2"),
        (T0 + SECOND + 5000, b"3"),
    ]
    assert await all_of(logs, "a") == expected
    assert await all_of(logs, "a", moment, moment + timedelta(seconds=1)) == expected[2:5]
    assert await all_of(logs, "a", 1_700_000_000.25, 1_700_000_000.5) == expected[3:4]


@row()
async def records_of_one_timestamp_keep_their_order_at_a_node(logs: Any, swarm: Swarm) -> None:
    some = [(T0, b"%d" % number) for number in range(100)]
    await logs.put_many("a", some[:50])
    for timestamp, value in some[50:]:
        await logs.put("a", timestamp, value)
    given = await all_of(logs, "a")
    assert Counter(given) == Counter(some)
    reverse = await all_of(logs, "a", newest_first=True)
    assert Counter(reverse) == Counter(some)
    if len(swarm.addresses) == 1:
        assert given == some
        assert reverse == some[::-1]


@row()
async def the_same_record_twice_is_two_records(logs: Any, swarm: Swarm) -> None:
    await logs.put("a", T0, b"x")
    await logs.put_many("a", [(T0, b"x")] * 3)
    assert await all_of(logs, "a") == [(T0, b"x")] * 4


@row()
async def values_of_all_lengths_and_bytes(logs: Any, swarm: Swarm) -> None:
    values = [b"\0", b"\xff" * 7, bytes(range(256)) * 50, b"x" * 300_000, "ä\nb".encode()]
    some = [(T0 + number, value) for number, value in enumerate(values)]
    for timestamp, value in some:
        await logs.put("single", timestamp, value)
    await logs.put_many("many", some)
    assert await all_of(logs, "single") == some
    assert await all_of(logs, "many") == some


@row()
async def more_buckets_than_one_request_may_have(logs: Any, swarm: Swarm) -> None:
    spread = records(900, 1200 * SECOND)  # of 300 hours
    await logs.put_many("a", spread)
    assert await all_of(logs, "a") == spread


@row()
async def timestamps_far_from_each_other(logs: Any, swarm: Swarm) -> None:
    some = [(-5 * 10**17, b"1954"), (-1, b"before"), (0, b"1970"), (T0, b"now"), (T0 + 1, b"then")]
    await logs.put_many("a", some)
    assert await all_of(logs, "a") == some
    assert await all_of(logs, "a", None, 0) == some[:2]
    assert await all_of(logs, "a", 0, newest_first=True) == some[:1:-1]


@row()
async def nodes_take_turns(logs: Any, swarm: Swarm) -> None:
    await logs.ready()
    for timestamp, value in records(10):
        await logs.put("a", timestamp, value)
    told = await logs.node_statistics()
    assert [each["channel"]["a"]["records"] for each in told.values()] == [10 // len(swarm.addresses)] * len(told)


@row()
async def many_records_leave_in_parts_at_one_node(logs: Any, swarm: Swarm) -> None:
    some = records(2 * limits.BATCH_RECORDS_MAX + 1, step=1000)
    await logs.ready()
    await logs.put_many("a", some)
    told = await logs.node_statistics()
    assert max(each["channel"].get("a", {"records": 0})["records"] for each in told.values()) == len(some)
    assert await all_of(logs, "a") == some


@row(heavy=True)
async def many_bytes(logs: Any, swarm: Swarm) -> None:
    some = [(timestamp, value + b"x" * 1000) for timestamp, value in records(5000, step=7 * SECOND)]
    await in_turns(logs, "a", some, 700)
    assert await all_of(logs, "a") == some
    assert await all_of(logs, "a", newest_first=True) == some[::-1]
    assert await all_of(logs, "a", some[1000][0], some[4000][0]) == some[1000:4000]
    assert await all_of(logs, "a", some[1000][0], limit=1500) == some[1000:2500]
    assert await all_of(logs, "a", None, some[4000][0], limit=1500, newest_first=True) == some[3999:2499:-1]


@row(heavy=True)
async def records_that_come_late_are_in_their_place(logs: Any, swarm: Swarm) -> None:
    some = [(timestamp, value * 20) for timestamp, value in records(6000)]
    await in_turns(logs, "a", some[::3], 500)
    await in_turns(logs, "a", some[1::3], 300)
    await in_turns(logs, "a", some[2::3][::-1], 400)
    assert await all_of(logs, "a") == some


# Ranges.


@row()
async def a_range_is_half_open(logs: Any, swarm: Swarm) -> None:
    some = records(20)
    await in_turns(logs, "a", some, 3)
    for newest_first in (False, True):
        for first, behind in ((0, 20), (3, 17), (5, 5), (5, 6), (19, 20)):
            expected = some[first:behind][:: -1 if newest_first else 1]
            end = T0 + behind * SECOND
            assert await all_of(logs, "a", T0 + first * SECOND, end, newest_first=newest_first) == expected
    assert await all_of(logs, "a", some[3][0] + 1, some[4][0]) == []
    assert await all_of(logs, "a", some[3][0], some[3][0] + 1) == [some[3]]
    assert await all_of(logs, "a", T0 + HOUR) == []
    assert await all_of(logs, "a", None, T0) == []


@row()
async def a_limit(logs: Any, swarm: Swarm) -> None:
    some = records(50)
    await in_turns(logs, "a", some, 7)
    for limit in (1, 7, 8, 49, 50, 51, 10**12):
        assert await all_of(logs, "a", limit=limit) == some[:limit]
        assert await all_of(logs, "a", limit=limit, newest_first=True) == some[::-1][:limit]


@row()
async def filters(logs: Any, swarm: Swarm) -> None:
    lines = [b"GET /a 200", b"POST /a 500", b"get /b 404", "PUT /ä 200".encode(), b"\xff\x00 raw 500"]
    some = [(T0 + number, line) for number, line in enumerate(lines * 4)]
    await in_turns(logs, "a", some, 3)

    def those(*numbers: int) -> Records:
        return [record for record in some if lines.index(record[1]) in numbers]

    assert await all_of(logs, "a", substring=b"/a") == those(0, 1)
    assert await all_of(logs, "a", substring="/ä") == those(3)
    assert await all_of(logs, "a", substring=b"\xff\x00") == those(4)
    assert await all_of(logs, "a", substring=b"get") == those(2)
    assert await all_of(logs, "a", substring=b"get", ignore_case=True) == those(0, 2)
    assert await all_of(logs, "a", substring=b"no such thing") == []
    assert await all_of(logs, "a", regex=r"^(GET|POST) .* (200|500)$") == those(0, 1)
    assert await all_of(logs, "a", regex=b"^get", ignore_case=True) == those(0, 2)
    assert await all_of(logs, "a", regex=r"\d04") == those(2)
    assert await all_of(logs, "a", substring=b"500", limit=3) == those(1, 4)[:3]
    assert await all_of(logs, "a", T0 + 5, T0 + 15, substring=b"500", newest_first=True) == [
        record for record in those(1, 4)[::-1] if T0 + 5 <= record[0] < T0 + 15
    ]


@row()
async def a_regex_that_is_none_is_told(logs: Any, swarm: Swarm) -> None:
    await logs.put("a", T0, b"x")
    for regex in ("(", "[z-a]", "*", r"(?=x)", r"(a)\1"):
        with pytest.raises(BadArgument):
            await all_of(logs, "a", regex=regex)
    assert await all_of(logs, "a", regex="x") == [(T0, b"x")], "the connection goes on"


@row(heavy=True)
async def an_evil_regex_ends(logs: Any, swarm: Swarm) -> None:
    await logs.put_many("a", [(T0 + number, b"a" * 50_000 + b"!") for number in range(20)])
    assert await all_of(logs, "a", regex="(a+)+$") == []


@row(heavy=True)
async def a_filter_that_finds_little_in_much(logs: Any, swarm: Swarm) -> None:
    some = [(timestamp, value + b"y" * 500) for timestamp, value in records(10_000, step=SECOND // 10)]
    some[7777] = (some[7777][0], b"needle")
    await in_turns(logs, "a", some, 2000)
    assert await all_of(logs, "a", substring=b"needle") == [some[7777]]
    assert await all_of(logs, "a", regex="ne.dle", newest_first=True) == [some[7777]]


@row(heavy=True)
async def leaving_the_loop_stops_it(logs: Any, swarm: Swarm) -> None:
    """More often than a connection may have streams, of which each could go on."""
    some = incompressible(1500, 5000)
    await in_turns(logs, "a", some, 100)
    for number in range(limits.STREAMS_MAX + 6):
        if number % 2:
            async for record in logs.get_range("a"):
                assert record == some[0]
                break
        else:
            async for timestamps, _ in logs.get_range("a", newest_first=True).blocks():
                assert timestamps[0] == some[-1][0]
                break
    async with logs.get_range("a") as reading:
        async for record in reading:
            assert record == some[0]
            break
    assert [record async for record in reading] == [], "it was closed"
    await logs.ping()


@row(heavy=True)
async def several_ranges_at_once(logs: Any, swarm: Swarm) -> None:
    some = incompressible(3000, 1000)
    await in_turns(logs, "a", some, 200)
    first, second = logs.get_range("a"), logs.get_range("a", newest_first=True)
    steps = first.__aiter__(), second.__aiter__()
    given: tuple[Records, Records] = ([], [])
    for _ in some:
        for step, into in zip(steps, given, strict=True):
            into.append(await step.__anext__())
        if len(given[0]) == 1000:
            await logs.put("b", T0, b"between")
    assert given == (some, some[::-1])
    for step in steps:
        with pytest.raises(StopAsyncIteration):
            await step.__anext__()


@row(heavy=True)
async def a_channel_that_is_removed_ends_its_ranges(logs: Any, swarm: Swarm) -> None:
    some = incompressible(3000, 5000)
    await in_turns(logs, "a", some, 200)
    reading = logs.get_range("a")
    steps = reading.__aiter__()
    assert await steps.__anext__() == some[0]
    assert await logs.remove_channel("a")
    with pytest.raises(ChannelRemoved):
        assert [record async for record in steps] == []
    assert await all_of(logs, "a") == []


@row()
async def what_was_read_to_its_end_stays_at_its_end(logs: Any, swarm: Swarm) -> None:
    await logs.put_many("a", records(3))
    reading = logs.get_range("a")
    assert [record async for record in reading] == records(3)
    assert [record async for record in reading] == []
    assert reading.damaged_blocks == 0


# The rest.


@row()
async def a_channel_that_does_not_exist(logs: Any, swarm: Swarm) -> None:
    assert await all_of(logs, "none") == []
    assert await all_of(logs, "none", T0, regex="x", newest_first=True, limit=5) == []
    assert await logs.time_span("none") is None
    assert await logs.channel_size("none") == (0, 0)
    assert not await logs.remove_channel("none")
    assert await logs.channels() == [], "reading creates nothing"


@row()
async def sizes_and_time_span(logs: Any, swarm: Swarm) -> None:
    await logs.put("a", T0, b"123")
    await logs.put_many("a", [(T0 - 5, b"45"), (T0 + 7 * HOUR, b"6")])
    await logs.put("b", T0, b"7")
    assert await logs.channels() == ["a", "b"]
    assert await logs.channel_size("a") == (3, 6)
    assert await logs.size() == (4, 7)
    assert await logs.time_span("a") == (T0 - 5, T0 + 7 * HOUR)
    assert await logs.time_span("b") == (T0, T0)
    assert set(await logs.node_statistics()) == set(swarm.addresses)
    assert await logs.remove_channel("a")
    assert await logs.channels() == ["b"]
    assert await logs.time_span("a") is None


@row()
async def health_and_events_of_the_nodes(logs: Any, swarm: Swarm) -> None:
    assert sorted(await logs.node_health()) == sorted(swarm.addresses)
    assert sorted(await logs.node_events()) == sorted(swarm.addresses)


@row()
async def no_records(logs: Any, swarm: Swarm) -> None:
    await logs.put_many("a", [])
    await logs.put_many("a", iter(()))
    assert await logs.channels() == []


BAD_CHANNELS = ("", "../x", "a/b", "@x", "x" * 129, "ä", "nul\0", 7, None)


@row()
async def bad_arguments_are_told_before_anything_is_sent(logs: Any, swarm: Swarm) -> None:
    naive = datetime(2023, 11, 14)  # noqa: DTZ001
    good = (T0, b"x")
    bad: list[tuple[type[SwarmError], Callable[[], Awaitable[Any]]]] = [
        (EmptyValue, lambda: logs.put("a", T0, b"")),
        (BadArgument, lambda: logs.put("a", T0, "text")),
        (BadArgument, lambda: logs.put("a", T0, bytearray(b"x"))),
        (BadArgument, lambda: logs.put("a", naive, b"x")),
        (BadArgument, lambda: logs.put("a", True, b"x")),
        (BadArgument, lambda: logs.put("a", "now", b"x")),
        (BadArgument, lambda: logs.put("a", float("inf"), b"x")),
        (BadArgument, lambda: logs.put("a", 2**63, b"x")),
        (BadArgument, lambda: logs.put("a", 1e300, b"x")),
        (ValueTooBig, lambda: logs.put("a", T0, b"x" * (16 * MIB + 1))),
        (EmptyValue, lambda: logs.put_many("a", [good, (T0, b"")])),
        (BadArgument, lambda: logs.put_many("a", [good, (T0, "text")])),
        (BadArgument, lambda: logs.put_many("a", [good, (naive, b"x")])),
        (BadArgument, lambda: logs.put_many("a", [good, (-(2**63), b"x")])),
        (BadArgument, lambda: logs.put_many("a", [good, (True, b"x")])),
        (BadArgument, lambda: logs.put_many("a", [good, (T0, b"x", 1)])),
        (BadArgument, lambda: logs.put_many("a", [good, T0])),
        (BadArgument, lambda: logs.put_many("a", b"record")),
        (BadArgument, lambda: logs.put_many("a", {T0: b"x"})),
        (ValueTooBig, lambda: logs.put_many("a", [good, (T0, b"x" * (16 * MIB + 1))])),
        (BadArgument, lambda: all_of(logs, "a", naive)),
        (BadArgument, lambda: all_of(logs, "a", 2, 1)),
        (BadArgument, lambda: all_of(logs, "a", limit=0)),
        (BadArgument, lambda: all_of(logs, "a", substring=b"a", regex=b"b")),
        (BadArgument, lambda: all_of(logs, "a", substring=b"")),
    ]
    for channel in BAD_CHANNELS:
        bad += [
            (BadChannel, lambda channel=channel: logs.put(channel, T0, b"x")),
            (BadChannel, lambda channel=channel: logs.put_many(channel, [good])),
            (BadChannel, lambda channel=channel: all_of(logs, channel)),
            (BadChannel, lambda channel=channel: logs.time_span(channel)),
        ]
    for error, call in bad:
        with pytest.raises(error):
            await call()
    assert await logs.channels() == []
    with pytest.raises(BadArgument, match="record 1 of 2"):
        await logs.put_many("a", [(0.5, b"x"), (naive, b"x")])


@row(SMALL_VALUES)
async def the_nodes_limit_of_a_value(logs: Any, swarm: Swarm) -> None:
    some = [(T0, b"x" * 1000), (T0 + 1, b"x" * 1001)]
    with pytest.raises(ValueTooBig) as caught:
        await logs.put_many("a", some)
    assert caught.value.details["limit"] == 1000
    assert caught.value.details.get("stored", 0) == 0
    with pytest.raises(ValueTooBig):
        await logs.put("a", *some[1])
    assert await logs.channels() == []
    await logs.put("a", *some[0])
    assert await all_of(logs, "a") == some[:1]


@row(NOTHING_OLD)
async def of_a_part_that_a_node_refuses_nothing_is_stored(logs: Any, swarm: Swarm) -> None:
    now = int(datetime.now(UTC).timestamp()) * SECOND
    some = [(now + number, b"%d" % number) for number in range(limits.BATCH_RECORDS_MAX + 10)]
    some[-1] = (T0 - 10 * 366 * 24 * HOUR, b"too old")
    with pytest.raises(BadArgument) as caught:
        await logs.put_many("a", some)
    assert caught.value.details["stored"] == limits.BATCH_RECORDS_MAX
    assert f"the first {limits.BATCH_RECORDS_MAX} of {len(some)} records were stored" in str(caught.value)
    assert await all_of(logs, "a") == some[: limits.BATCH_RECORDS_MAX]


@row()
async def ready_ping_and_statistics(logs: Any, swarm: Swarm) -> None:
    await logs.ready()
    await logs.ping()
    await logs.put("a", T0, b"x")
    assert logs.statistics()["put"]["handled"] == 1


@row()
async def a_client_that_is_not_open(logs: Any, swarm: Swarm) -> None:
    client = swarm.client()
    for _ in range(2):
        with pytest.raises(ClientClosed):
            await client.put("a", T0, b"x")
        with pytest.raises(ClientClosed):
            await all_of(client, "a")
        async with client:
            await client.ping()


@row()
async def no_node_is_there(logs: Any, swarm: Swarm) -> None:
    async with swarm.client([swarm.dead_address], timeout=0.05) as lost:
        for call in (
            lambda: lost.put("a", T0, b"x"),
            lambda: lost.put_many("a", records(2)),
            lambda: all_of(lost, "a"),
            lambda: lost.time_span("a"),
        ):
            with pytest.raises(NodeUnreachable, match=re.escape(swarm.dead_address)):
                await call()


@row()
async def a_node_that_is_not_there_is_passed_over_by_puts_and_told_by_reads(logs: Any, swarm: Swarm) -> None:
    async with swarm.client([swarm.dead_address, *swarm.addresses], timeout=PATIENCE_S) as client:
        for timestamp, value in records(10):
            await client.put("a", timestamp, value)
        await client.put_many("a", records(10, first=T0 + HOUR))
    async with swarm.client([swarm.dead_address, *swarm.addresses], timeout=0.3) as hasty:
        with pytest.raises(NodeUnreachable, match=re.escape(swarm.dead_address)):
            await all_of(hasty, "a")
    assert await all_of(logs, "a") == records(10) + records(10, first=T0 + HOUR)


@row()
async def compression(logs: Any, swarm: Swarm) -> None:
    some = [(T0 + number, b"x" * 10_000) for number in range(20)]
    async with swarm.client(compression=True) as client:
        await client.put_many("a", some)
        assert await all_of(client, "a") == some


@row()
async def what_several_clients_put_is_together(logs: Any, swarm: Swarm) -> None:
    some = records(40)
    async with swarm.client() as other:
        for number, (timestamp, value) in enumerate(some):
            await (logs if number % 3 else other).put("a", timestamp, value)
        assert await all_of(other, "a") == sorted(some, key=itemgetter(0))
