"""Ranges over a socket: bounds, order, limit, cursor, filters, damage, removal; from tails, blocks and sealed files."""

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from core.raw_client import BATCH, CHANNEL_REMOVED, DONE, PING, REMOVE_CHANNEL, STATS, TOO_MANY_REQUESTS, until
from logfiles_node.raw_logs import (
    EVER,
    GET_RANGE,
    HOUR,
    NEWEST_FIRST,
    NOON,
    OLDEST_FIRST,
    REGEX,
    SUBSTRING,
    LogsClient,
    Range,
    Record,
    S,
    client_of,
    lines,
    running,
)

from nodes.logfiles import places, requests

CREDIT = 2

MANY = lines(30_000)
"""Some 3 MB: blocks, and a tail."""


def spread() -> list[Record]:
    """Over three days, late ones among them, and many with the same timestamp; in the order in which they come."""
    rng = random.Random(5)
    records = [
        (NOON - 36 * HOUR + number * 13 * S, b"%06d %030d" % (number, rng.getrandbits(60))) for number in range(20_000)
    ]
    late = [(rng.choice(records)[0], b"late %06d %d" % (number, rng.getrandbits(60))) for number in range(3000)]
    for place, record in enumerate(late):
        records.insert(rng.randrange(len(records)), record) if place % 2 else records.append(record)
    return records


SPREAD = spread()


def by_time(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record[0])


@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
async def test_late_records_are_given_in_the_order_of_time(tmp_path: Path, order: int) -> None:
    expected = by_time(SPREAD)
    if order == NEWEST_FIRST:
        expected.reverse()
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD)
        assert (await logs.range("a", order=order)).records == expected
    async with client_of(tmp_path) as logs:  # from the files
        assert (await logs.range("a", order=order)).records == expected


async def test_a_range_is_half_open(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(NOON + number, b"%d" % number) for number in range(10)])
        assert (await logs.range("a", NOON + 3, NOON + 7)).values == [b"3", b"4", b"5", b"6"]
        assert (await logs.range("a", NOON + 3, NOON + 3)).values == []
        assert (await logs.range("a", NOON - 5, NOON)).values == []
        assert (await logs.range("a", NOON + 9, EVER[1])).values == [b"9"]


@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
async def test_any_part_of_the_time_is_given_exactly(tmp_path: Path, order: int) -> None:
    expected = by_time(SPREAD)
    rng = random.Random(6)
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD)
        for _ in range(20):
            start, end = sorted(rng.choice(SPREAD)[0] + rng.choice((-1, 0, 1)) for _ in range(2))
            found = (await logs.range("a", start, end, order=order)).records
            if order == NEWEST_FIRST:
                found.reverse()
            assert found == [record for record in expected if start <= record[0] < end]


@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
@pytest.mark.parametrize("limit", [1, 2, 999, 4097, len(SPREAD) - 1, len(SPREAD), len(SPREAD) + 1, 2**63 - 1])
async def test_a_limit_gives_so_many_and_its_cursor_the_rest(tmp_path: Path, order: int, limit: int) -> None:
    expected = by_time(SPREAD)
    if order == NEWEST_FIRST:
        expected.reverse()
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD)
        found = await logs.range("a", order=order, limit=limit)
        assert found.records == expected[:limit]
        rest = await logs.range("a", order=order, after=found.cursors[-1])
        assert rest.records == expected[limit:]


@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
async def test_among_equal_timestamps_a_limit_and_its_cursor_miss_none_and_double_none(
    tmp_path: Path, order: int
) -> None:
    records = [(NOON + number // 700, b"%d" % number) for number in range(5000)]
    expected = records if order == OLDEST_FIRST else records[::-1]
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", records)
        found: list[Record] = []
        after = b""
        while True:
            part = await logs.range("a", order=order, limit=333, after=after)
            if not part.records:
                break
            found += part.records
            after = part.cursors[-1]
        assert found == expected


@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
@pytest.mark.parametrize("filter", [None, [SUBSTRING, b"7 ", False], [REGEX, b"[13] ", False]], ids=repr)
async def test_each_cursor_goes_on_where_its_batch_has_come_to(tmp_path: Path, order: int, filter: object) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD, size=4000)
        await logs.put_all("a", [(timestamp, value + b" again") for timestamp, value in SPREAD], size=4000)
        whole = await logs.range("a", order=order, filter=filter)
        assert len(whole.batches) > 2
        given: list[Record] = []
        some = set(range(0, len(whole.batches), len(whole.batches) // 6 + 1)) | {len(whole.batches) - 1}
        for number, (batch, cursor) in enumerate(zip(whole.batches, whole.cursors, strict=True)):
            given += batch
            if number not in some:
                continue
            rest = await logs.range("a", order=order, filter=filter, after=cursor)
            assert given + rest.records == whole.records


async def test_a_cursor_is_good_after_a_restart_and_with_new_records(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", MANY)
        found = await logs.range("a", limit=12_345)
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(MANY[0][0], b"in front"), (MANY[-1][0], b"behind")])
        rest = await logs.range("a", after=found.cursors[-1])
        assert found.records + rest.records == [*MANY, (MANY[-1][0], b"behind")]


async def test_blocks_are_sent_as_they_are_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        logs = await node.connect()
        await logs.put_all("a", MANY)
        await until(lambda: list(tmp_path.rglob("*.log")))
        found = await logs.range("a")
        assert found.records == MANY
        compressed = [bytes(block[-1]) for block in found.blocks if block[0] == 1]
        assert compressed
        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*.log"))
        for payload in compressed:
            assert payload in stored


async def test_sealed_blocks_are_sent_as_they_are_stored(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", MANY)
    async with running(tmp_path, seal_after=0.0) as node:
        logs = await node.connect()
        await until(lambda: node.node.statistics()["sealed"], 30)
        found = await logs.range("a")
        assert found.records == MANY
        assert {block[0] for block in found.blocks} == {2}
        assert (await logs.range("a", NOON + S, NOON + 2 * S, order=NEWEST_FIRST)).records == MANY[1999:999:-1]
        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*.sealed"))
        for block in found.blocks:
            assert bytes(block[-1]) in stored


# Streams.


async def test_without_credit_nothing_is_sent_and_others_are_answered(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD)
        await logs.raw.send([5, GET_RANGE, "a", *EVER, b"", 0, 0, None, 1])
        assert (await logs.raw.receive())[:2] == [5, BATCH]
        for _ in range(10):
            assert await logs.raw.ask(6, PING) == [6, DONE, None]
        await logs.raw.send([5, 2, 1])
        assert (await logs.raw.receive())[:2] == [5, BATCH]
        await logs.raw.send([5, 3])
        assert await logs.raw.receive() == [5, DONE, ["stopped", 0]]


async def test_a_range_that_is_stopped_tells_so(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD)
        found = await logs.range("a", batches=1, credit=1)
        assert found.result == ["stopped", 0]
        assert (await logs.raw.result(STATS))["ranges"] == 0


async def test_a_channel_that_is_removed_ends_its_ranges(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        reader, other = await node.connect(), await node.connect()
        await reader.put_all("a", SPREAD)
        await reader.raw.send([5, GET_RANGE, "a", *EVER, b"", 0, 0, None, 1])
        assert (await reader.raw.receive())[:2] == [5, BATCH]
        assert await other.raw.result(REMOVE_CHANNEL, "a") is True
        await other.put("a", NOON, b"of the next one")
        await reader.raw.send([5, 2, 64])
        request_id, status, _ = await reader.raw.receive()
        assert (request_id, status) == (5, CHANNEL_REMOVED)
        assert (await reader.range("a")).values == [b"of the next one"]


async def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        leaving, other = await node.connect(), await node.connect()
        await leaving.put_all("a", SPREAD)
        for number in range(1, 20):
            await leaving.raw.send([number, GET_RANGE, "a", *EVER, b"", 0, 0, [REGEX, b"x+y", False], 1])
        await leaving.raw.close()
        with trio.fail_after(10):
            while (await other.raw.result(STATS))["ranges"]:
                await trio.lowlevel.checkpoint()


async def test_a_node_reads_1024_ranges_at_most(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        first = await node.connect()
        await first.put_all("a", SPREAD)
        clients = [first] + [await node.connect() for _ in range(15)]
        for client in clients:
            await client.raw.send(*([number, GET_RANGE, "a", *EVER, b"", 0, 0, None, 1] for number in range(1, 65)))
        one_more = await node.connect()
        await until(lambda: node.node.statistics()["ranges"] == 1024)
        status, _, details = await one_more.error(GET_RANGE, "a", *EVER, b"", 0, 0, None, 1)
        assert (status, details["limit"]) == (TOO_MANY_REQUESTS, 1024)
        assert await one_more.raw.result(STATS)


# Filters.


TEXTS = [
    b"GET /index.html 200",
    b"get /Index.html 404",
    "größer Ä".encode(),
    b"\xff\xfe\x00binary",
    b"aaaa",
    b"two\nlines",
    b"tail of this",
    b"one more",
    b"x",
]


@pytest.mark.parametrize(
    ("filter", "matches"),
    [
        ([SUBSTRING, b"GET", False], lambda value: b"GET" in value),
        ([SUBSTRING, b"GET", True], lambda value: b"get" in value.lower()),
        ([SUBSTRING, b"INDEX", True], lambda value: b"index" in value.lower()),
        ([SUBSTRING, b"\xff\xfe\x00", False], lambda value: b"\xff\xfe" in value),
        ([SUBSTRING, b"\xc3\xb6", False], lambda value: "ö".encode() in value),
        ([SUBSTRING, b"nowhere", False], lambda value: False),
        ([SUBSTRING, b".", False], lambda value: b"." in value),
        ([SUBSTRING, b"x", False], lambda value: b"x" in value),
        ([REGEX, b"[Gg][Ee][Tt] /.* [24]0[04]$", False], lambda value: b"html" in value),
        ([REGEX, b"get", False], lambda value: b"get" in value),
        ([REGEX, b"get", True], lambda value: b"get" in value.lower()),
        ([REGEX, b"^x$", False], lambda value: value == b"x"),
        ([REGEX, b"^$", False], lambda value: False),
        ([REGEX, b"\\bmore\\b", False], lambda value: value == b"one more"),
        ([REGEX, b"\\xff\\xfe", False], lambda value: b"\xff\xfe" in value),
        ([REGEX, "ö.er".encode(), False], lambda value: "größer".encode() in value),
        ([REGEX, "ä".encode(), True], lambda value: "Ä".encode() in value),
        ([REGEX, b"^\\pL+ \\pL$", False], lambda value: "größer".encode() in value),
        ([REGEX, b"two.lines", False], lambda value: False),
        ([REGEX, b"(?s)two.lines", False], lambda value: b"two" in value),
        ([REGEX, b"^(a+)+$", False], lambda value: value == b"aaaa"),
        ([REGEX, b"", False], None),
        ([REGEX, b".*", False], lambda value: True),
    ],
    ids=lambda value: repr(value) if isinstance(value, list) else "",
)
async def test_filters(tmp_path: Path, filter: list[object], matches: Callable[[bytes], bool] | None) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(NOON + number, value) for number, value in enumerate(TEXTS)])
        if matches is None:
            assert (await logs.refused_range("a", *EVER, b"", 0, 0, filter, 1))[0] == 17
            return
        expected = [value for value in TEXTS if matches(value)]
        assert (await logs.range("a", filter=filter)).values == expected
        assert (await logs.range("a", filter=filter, order=NEWEST_FIRST)).values == expected[::-1]


@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
@pytest.mark.parametrize("limit", [0, 1, 7, 100])
@pytest.mark.parametrize(
    "filter",
    [
        [SUBSTRING, b" 0", False],
        [SUBSTRING, b"LATE 0001", True],
        [REGEX, b"^late.*5$", False],
        [REGEX, b"99\\d*7", False],
    ],
    ids=repr,
)
async def test_a_filter_with_order_limit_and_bounds(
    tmp_path: Path, order: int, limit: int, filter: list[object]
) -> None:
    kind, pattern, ignore_case = filter
    assert isinstance(pattern, bytes)
    escaped = pattern if kind == REGEX else re.escape(pattern)
    expression = re.compile(escaped, re.IGNORECASE if ignore_case else 0)
    start, end = NOON - 20 * HOUR, NOON + 10 * HOUR
    expected = [each for each in by_time(SPREAD) if start <= each[0] < end and expression.search(each[1])]
    assert len(expected) > 5
    if order == NEWEST_FIRST:
        expected.reverse()
    expected = expected[: limit or None]
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", SPREAD)
        found = await logs.range("a", start, end, order=order, limit=limit, filter=filter)
        assert found.records == expected
        assert found.result == ["end", 0]


async def test_nothing_matches_across_the_end_of_a_value(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(NOON, b"abc"), (NOON, b"def"), (NOON, b"x" * 300)])
        for pattern in (b"cd", b"c\xc4\x03d", b"\xc4\x03", b"abc\xc4"):
            assert (await logs.range("a", filter=[SUBSTRING, pattern, False])).values == []
        for pattern in (b"c.*d", b"c..d", b"\\xc4", b"abc(?s:.+)"):
            assert (await logs.range("a", filter=[REGEX, pattern, False])).values == []


async def count_pings_during(logs: LogsClient, other: LogsClient, filter: list[object]) -> tuple[list[bytes], int]:
    """What a range finds, and how many requests of somebody else were answered one after the other meanwhile."""
    answered = 0
    found: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            found.extend((await logs.range("a", filter=filter)).values)
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        while True:
            assert await other.raw.ask(7, PING) == [7, DONE, None]
            answered += 1
    return found, answered


async def test_an_evil_expression_holds_nobody_up(tmp_path: Path) -> None:
    evil = b"a" * 500
    async with running(tmp_path) as node:
        logs, other = await node.connect(), await node.connect()
        for number in range(40):
            await logs.put_many("a", [(NOON + number, evil + b"!")] * 1000)
        await logs.put("a", NOON + HOUR, evil)
        found, answered = await count_pings_during(logs, other, [REGEX, b"^(a+)+$", False])
        assert found == [evil]
        assert answered >= 40  # one a thousand records at least


async def test_filters_take_turns(tmp_path: Path) -> None:
    """Many that look at everything, begun before: one that comes later does not wait until they are done."""
    async with running(tmp_path) as node:
        slow, quick = await node.connect(), await node.connect()
        await slow.put_all("big", [(NOON + number, b"%0200d" % number) for number in range(60_000)])
        await slow.put("small", NOON, b"found")
        requests = [
            [number, GET_RANGE, "big", *EVER, b"", 0, 0, [REGEX, b"^[01]+$", False], 64] for number in range(1, 9)
        ]
        await slow.raw.send(*requests)
        assert (await quick.range("small", filter=[REGEX, b"f.+d$", False])).values == [b"found"]
        ended = 0
        told = node.node.statistics()
        assert told["request"]["get range"]["in_flight"] == 8
        while ended < 8:
            _, status, result = await slow.raw.receive()
            assert status in (BATCH, DONE), result
            ended += status == DONE


# Damage.


async def test_a_damaged_block_is_passed_over_counted_and_told(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        logs = await node.connect()
        await logs.put_all("a", MANY)
        await until(lambda: node.node.statistics()["tail_bytes"] < 1 << 20)
        before = await logs.range("a")
        assert before.records == MANY
        (path,) = tmp_path.rglob("*.log")
        hit = [block for block in before.blocks if block[0] == 1][1]
        content = path.read_bytes()
        place = content.index(bytes(hit[-1])) + 1000
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([content[place] ^ 0xFF]))
        for order in (OLDEST_FIRST, NEWEST_FIRST):
            for filter in (None, [SUBSTRING, b" ", False]):
                found = await logs.range("a", order=order, filter=filter)
                assert found.result == ["end", 1]
                lost = {record for record in MANY if hit[2] <= record[0] <= hit[3]}
                assert len(lost) == hit[1]
                expected = [record for record in MANY if record not in lost]
                assert found.records == (expected if order == OLDEST_FIRST else expected[::-1])
        assert (await logs.raw.result(STATS))["channel"]["a"]["damaged"] == 1


async def test_the_cursor_is_what_the_document_says(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(NOON, b"1"), (NOON, b"2"), (NOON, b"3")])
        found = await logs.range("a", limit=2)
        assert struct.unpack(">qQ", found.cursors[-1]) == (NOON, 2)


# More ranges than there are places.


def open_files(directory: Path) -> int:
    found = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(path.startswith(str(directory / "channels")) for path in found)


@pytest.mark.parametrize("filter_", [None, [SUBSTRING, b"00", False]])
@pytest.mark.parametrize("limit", [0, 20_000])
@pytest.mark.parametrize("order", [OLDEST_FIRST, NEWEST_FIRST])
async def test_ranges_whose_clients_wait_give_up_their_places_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int, limit: int, filter_: Any
) -> None:
    monkeypatch.setattr(places, "IDLE_S", 0.0)
    monkeypatch.setattr(requests, "RANGES_MAX", 2)
    async with running(tmp_path) as node:
        logs = await node.connect()
        await logs.put_all("a", MANY)
        expected = [record for record in MANY if filter_ is None or b"00" in record[1]]
        expected = expected[::-1] if order == NEWEST_FIRST else expected
        expected = expected[: limit or None]
        found = {number: Range() for number in range(1, 9)}
        arguments = (GET_RANGE, "a", *EVER, b"", order, limit, filter_)
        for number, each in found.items():  # each takes a batch, and then waits for credit
            await logs.raw.send([number, *arguments, 1])
            answer = await logs.raw.receive()
            assert answer[:2] == [number, BATCH]
            each.take(answer[2], order)
        assert int(node.node.statistics()["ranges"]) == 2
        with trio.fail_after(20):
            while found:
                for number, each in list(found.items()):
                    await logs.raw.send([number, CREDIT, 1])
                    _, status, result = await logs.raw.receive()
                    if status == BATCH:
                        each.take(result, order)
                    else:
                        assert (status, result) == (DONE, ["end", 0])
                        assert each.records == expected
                        del found[number]
        assert int(node.node.statistics()["ranges"]) == 0
        assert open_files(tmp_path) <= 1  # the tail


async def test_a_range_that_has_given_up_its_place_counts_damage_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", MANY)
    async with client_of(tmp_path):
        pass
    (log,) = tmp_path.rglob("*.log")
    data = bytearray(log.read_bytes())
    for offset in range(len(data) // 8, len(data), len(data) // 4):
        data[offset] ^= 0xFF
    log.write_bytes(data)
    monkeypatch.setattr(places, "IDLE_S", 0.0)
    async with client_of(tmp_path) as logs:
        whole = await logs.range("a")
        monkeypatch.setattr(requests, "RANGES_MAX", 1)
        damaged = whole.result[1]
        assert damaged > 1
    async with client_of(tmp_path) as logs:
        found = Range()
        await logs.raw.send([1, GET_RANGE, "a", *EVER, b"", 0, 0, None, 1])
        while (answer := await logs.raw.receive())[1] == BATCH:
            found.take(answer[2], OLDEST_FIRST)
            assert (await logs.range("a", limit=1)).status == DONE  # takes the place
            await logs.raw.send([1, CREDIT, 1])
        assert answer == [1, DONE, ["end", damaged]]
        assert found.records == whole.records


async def test_ranges_that_are_being_read_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "IDLE_S", 1e6)
    monkeypatch.setattr(requests, "RANGES_MAX", 2)
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", MANY)
        for number in (1, 2):
            await logs.raw.send([number, GET_RANGE, "a", *EVER, b"", 0, 0, None, 1])
            assert (await logs.raw.receive())[:2] == [number, BATCH]
        status, _, details = await logs.refused_range("a", *EVER, b"", 0, 0, None, 1)
        assert (status, details) == (TOO_MANY_REQUESTS, {"limit": 2})
