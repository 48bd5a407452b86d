"""What a logfiles node answers, over a socket: what it stores, what it refuses, what it tells of itself."""

import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from core.raw_client import (
    BAD_ARGUMENT,
    BAD_CHANNEL,
    BATCH_TOO_BIG,
    CHANNEL_SIZE,
    CHANNELS,
    EMPTY_VALUE,
    REMOVE_CHANNEL,
    SIZE,
    STATS,
    TOO_MANY_CHANNELS,
    UNKNOWN_REQUEST,
    VALUE_TOO_BIG,
)
from logfiles_node.raw_logs import (
    EVER,
    GET_RANGE,
    HOUR,
    NOON,
    PUT,
    PUT_MANY,
    TIME_SPAN,
    client_of,
    lines,
    pack,
)

from swarm.core.node import LimitsSection
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN

ALL = (*EVER, b"", 0, 0, None, 8)
"""The arguments of a get range behind the channel."""

BAD_CHANNELS = ["../x", "a/b", "@x", "", "x" * 129, "é", "a\0", b"bytes", None, 7, ["a"], {}]

BAD_TIMESTAMPS = [None, 1.5, "1", b"1", True, [1], TIMESTAMP_MIN - 1, TIMESTAMP_MAX + 1, -(2**63), 2**64 - 1]


async def test_what_was_put_is_given_back_in_the_order_of_time(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put("a", NOON + 2, b"third")
        await logs.put_many("a", [(NOON + 1, b"second"), (NOON, b"first")])
        found = await logs.range("a")
        assert found.records == [(NOON, b"first"), (NOON + 1, b"second"), (NOON + 2, b"third")]
        assert found.result == ["end", 0]


async def test_records_with_the_same_timestamp_keep_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        for value in (b"1", b"2"):
            await logs.put("a", NOON, value)
        await logs.put_many("a", [(NOON, b"3"), (NOON - 1, b"0"), (NOON, b"4")])
        await logs.put("a", NOON, b"5")
        assert (await logs.range("a")).values == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert (await logs.range("a", order=1)).values == [b"5", b"4", b"3", b"2", b"1", b"0"]


@pytest.mark.parametrize("timestamp", [TIMESTAMP_MIN, -1, 0, TIMESTAMP_MAX])
async def test_timestamps_from_1677_to_2262_are_taken(tmp_path: Path, timestamp: int) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put("a", timestamp, b"value")
        assert (await logs.range("a")).records == [(timestamp, b"value")]
        assert await logs.raw.result(TIME_SPAN, "a") == [timestamp, timestamp]


async def test_any_bytes_are_a_value_up_to_the_limit(tmp_path: Path) -> None:
    values = [b"\0", b"\xff\xfe", b"x" * 200_000, b"\n", bytes(range(256))]
    async with client_of(tmp_path, limits=LimitsSection(value_bytes=200_000)) as logs:
        await logs.put_many("a", [(NOON + number, value) for number, value in enumerate(values)])
        assert (await logs.range("a")).values == values


# Refused.


@pytest.mark.parametrize("channel", BAD_CHANNELS, ids=repr)
async def test_a_bad_channel_is_refused_and_nothing_is_made(tmp_path: Path, channel: Any) -> None:
    async with client_of(tmp_path) as logs:
        before = sorted(tmp_path.rglob("*"))
        for code, arguments in (
            (PUT, (NOON, b"value")),
            (PUT_MANY, (pack([NOON], [b"value"]),)),
            (GET_RANGE, ALL),
            (TIME_SPAN, ()),
            (CHANNEL_SIZE, ()),
            (REMOVE_CHANNEL, ()),
        ):
            status, _, _ = await logs.error(code, channel, *arguments)
            assert status == BAD_CHANNEL
        assert await logs.raw.result(CHANNELS) == []
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("timestamp", BAD_TIMESTAMPS, ids=repr)
async def test_a_bad_timestamp_is_refused_and_told(tmp_path: Path, timestamp: Any) -> None:
    async with client_of(tmp_path) as logs:
        status, text, _ = await logs.error(PUT, "a", timestamp, b"value")
        assert status == BAD_ARGUMENT
        assert "timestamp" in text
        if type(timestamp) is int and -(2**63) <= timestamp < 2**63:  # others have no place in a payload
            records = pack([NOON, timestamp, NOON], [b"1", b"2", b"3"])
            status, text, _ = await logs.error(PUT_MANY, "a", records)
            assert status == BAD_ARGUMENT
            assert "record 1 " in text
        assert await logs.raw.result(CHANNELS) == []


@pytest.mark.parametrize(
    ("value", "status"),
    [(None, BAD_ARGUMENT), ("text", BAD_ARGUMENT), (7, BAD_ARGUMENT), (b"", EMPTY_VALUE), (b"x" * 1001, VALUE_TOO_BIG)],
    ids=lambda value: repr(value)[:10],
)
async def test_a_bad_value_is_refused_with_all_of_its_batch(tmp_path: Path, value: Any, status: int) -> None:
    async with client_of(tmp_path, limits=LimitsSection(value_bytes=1000)) as logs:
        await logs.put("a", NOON, b"x" * 1000)
        assert (await logs.error(PUT, "a", NOON, value))[0] == status
        if type(value) is bytes:
            found, text, details = await logs.error(PUT_MANY, "a", pack([NOON, NOON], [b"good", value]))
            assert found == status
            assert "record 1 " in text
            assert details.get("limit") == (1000 if status == VALUE_TOO_BIG else None)
        assert (await logs.range("a")).values == [b"x" * 1000]


@pytest.mark.parametrize(
    "records",
    [
        None,
        "text",
        7,
        {},
        [[NOON], [b"value"]],
        b"",
        b"\1\0\0",
        pack([], []),
        pack([NOON], []),
        pack([], [b"value"]),
        pack([NOON], [b"1", b"2"]),
        pack([NOON], [b"value"])[:-1],
        pack([NOON], [b"value"]) + b"x",
        b"\xff\xff\xff\xff" + pack([NOON], [b"value"])[4:],
        struct.pack("<IqI", 1, NOON, 2**32 - 1) + b"value",
    ],
    ids=repr,
)
async def test_what_is_no_payload_is_refused(tmp_path: Path, records: Any) -> None:
    async with client_of(tmp_path) as logs:
        status, _, _ = await logs.error(PUT_MANY, "a", records)
        assert status == BAD_ARGUMENT
        assert await logs.raw.result(SIZE) == [0, 0, 0]


async def test_a_payload_cut_anywhere_is_refused(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        records = pack([NOON, NOON + 1], [b"1", b"23"])
        for size in range(len(records)):
            status, _, _ = await logs.error(PUT_MANY, "a", records[:size])
            assert status == BAD_ARGUMENT
        assert await logs.raw.result(SIZE) == [0, 0, 0]


async def test_a_batch_has_4096_records_at_most(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(NOON, b"x")] * 4096)
        status, _, details = await logs.error(PUT_MANY, "a", pack([NOON] * 4097, [b"x"] * 4097))
        assert (status, details["limit"]) == (BATCH_TOO_BIG, 4096)
        assert await logs.raw.result(CHANNEL_SIZE, "a") == [4096, 4096]


async def test_a_clock_that_is_wrong_is_refused_within_what_is_configured(tmp_path: Path) -> None:
    async with client_of(tmp_path, future_max=3600.0, past_max=7200.0) as logs:
        now = time.time_ns()
        await logs.put_many("a", [(now + HOUR // 2, b"a little ahead"), (now - HOUR, b"late")])
        for wrong, word in ((now + 2 * HOUR, "future_max"), (now - 3 * HOUR, "past_max")):
            for code, arguments in ((PUT, (wrong, b"x")), (PUT_MANY, (pack([now, wrong], [b"x", b"x"]),))):
                status, text, _ = await logs.error(code, "a", *arguments)
                assert status == BAD_ARGUMENT
                assert word in text
        assert await logs.raw.result(CHANNEL_SIZE, "a") == [2, 18]


async def test_by_default_a_day_ahead_is_taken_and_any_past(tmp_path: Path) -> None:
    async with client_of(tmp_path, future_max=86400.0) as logs:
        now = time.time_ns()
        await logs.put_many("a", [(now + 23 * HOUR, b"tomorrow"), (TIMESTAMP_MIN, b"1677")])
        assert (await logs.error(PUT, "a", now + 25 * HOUR, b"x"))[0] == BAD_ARGUMENT


@pytest.mark.parametrize(
    "arguments",
    [
        ("0", 1, b"", 0, 0, None, 1),
        (0, 1.5, b"", 0, 0, None, 1),
        (0, 2**63, b"", 0, 0, None, 1),
        (1, 0, b"", 0, 0, None, 1),
        (0, 1, None, 0, 0, None, 1),
        (0, 1, b"x" * 15, 0, 0, None, 1),
        (0, 1, b"x" * 17, 0, 0, None, 1),
        (0, 1, b"", 2, 0, None, 1),
        (0, 1, b"", -1, 0, None, 1),
        (0, 1, b"", False, 0, None, 1),
        (0, 1, b"", 0, -1, None, 1),
        (0, 1, b"", 0, 1.0, None, 1),
        (0, 1, b"", 0, 0, b"pattern", 1),
        (0, 1, b"", 0, 0, [], 1),
        (0, 1, b"", 0, 0, [0, b"x"], 1),
        (0, 1, b"", 0, 0, [2, b"x", False], 1),
        (0, 1, b"", 0, 0, [True, b"x", False], 1),
        (0, 1, b"", 0, 0, [0, "x", False], 1),
        (0, 1, b"", 0, 0, [0, b"x", 0], 1),
        (0, 1, b"", 0, 0, [0, b"", False], 1),
        (0, 1, b"", 0, 0, [1, b"x" * 1025, False], 1),
        (0, 1, b"", 0, 0, [1, b"(", False], 1),
        (0, 1, b"", 0, 0, [1, b"a\\1", False], 1),
        (0, 1, b"", 0, 0, [1, b"(?=a)", False], 1),
        (0, 1, b"", 0, 0, [1, b"[\xff]", False], 1),
        (0, 1, b"", 0, 0, [1, b"\\pL" * 9, False], 1),
        (0, 1, b"", 0, 0, [1, b"((a{1000}){1000}){1000}", False], 1),
        (0, 1, b"", 0, 0, [1, b"\\pL{1000}" * 8, False], 1),
        (0, 1, b"", 0, 0, None, 0),
        (0, 1, b"", 0, 0, None, 65),
        (0, 1, b"", 0, 0, None),
        (0, 1, b"", 0, 0, None, 1, 1),
    ],
    ids=lambda arguments: repr(arguments)[:70],
)
async def test_a_bad_range_is_refused_before_anything_is_sent(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put("a", 0, b"value")
        for channel in ("a", "nothing-there"):
            assert (await logs.refused_range(channel, *arguments))[0] == BAD_ARGUMENT


async def test_any_cursor_of_the_right_length_is_taken(tmp_path: Path) -> None:
    """It is opaque, so there is no wrong one: what is behind it is given."""
    async with client_of(tmp_path) as logs:
        await logs.put("a", NOON, b"value")
        for after in (b"\0" * 16, b"\xff" * 16, b"\x7f" + b"\xff" * 15, b"\x80" + b"\0" * 15):
            for order in (0, 1):
                assert (await logs.range("a", after=after, order=order)).result == ["end", 0]


async def test_unknown_requests_are_refused(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        for code in (16, 32, 47, 52, 1000):
            assert (await logs.error(code, "a"))[0] == UNKNOWN_REQUEST


async def test_channels_over_the_limit_are_refused(tmp_path: Path) -> None:
    async with client_of(tmp_path, limits=LimitsSection(channels_max=2)) as logs:
        await logs.put("a", NOON, b"x")
        await logs.put("b", NOON, b"x")
        status, _, details = await logs.error(PUT, "c", NOON, b"x")
        assert (status, details["limit"]) == (TOO_MANY_CHANNELS, 2)
        await logs.put("b", NOON, b"y")
        assert await logs.raw.result(REMOVE_CHANNEL, "a") is True
        await logs.put("c", NOON, b"x")


# Channels, sizes, statistics.


async def test_what_does_not_exist_has_nothing_and_is_not_created(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        found = await logs.range("a")
        assert (found.batches, found.result) == ([], ["end", 0])
        assert await logs.raw.result(TIME_SPAN, "a") is None
        assert await logs.raw.result(CHANNEL_SIZE, "a") == [0, 0]
        assert await logs.raw.result(REMOVE_CHANNEL, "a") is False
        assert await logs.raw.result(CHANNELS) == []
        assert not list((tmp_path / "channels").iterdir())


async def test_sizes_count_records_and_bytes_of_values(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_many("a", [(NOON, b"12"), (NOON, b"345")])
        await logs.put("b", NOON, b"6")
        assert await logs.raw.result(CHANNELS) == ["a", "b"]
        assert await logs.raw.result(CHANNEL_SIZE, "a") == [2, 5]
        assert await logs.raw.result(SIZE) == [2, 3, 6]


async def test_the_time_span_is_that_of_the_oldest_and_the_newest_record(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put("a", NOON, b"x")
        assert await logs.raw.result(TIME_SPAN, "a") == [NOON, NOON]
        await logs.put_many("a", [(NOON + 3 * HOUR, b"x"), (NOON - 30 * HOUR, b"x"), (NOON - HOUR, b"x")])
        assert await logs.raw.result(TIME_SPAN, "a") == [NOON - 30 * HOUR, NOON + 3 * HOUR]


async def test_statistics_tell_of_each_channel_and_request(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", lines(1000))
        await logs.put("a", NOON + 5 * HOUR, b"x")
        await logs.range("a")
        told = await logs.raw.result(STATS)
        assert told["channel"]["a"]["records"] == told["records"] == 1001
        assert told["channel"]["a"]["bytes"] == told["bytes"]
        assert told["channel"]["a"]["buckets"] == told["buckets"] == 2
        assert told["ranges"] == 0
        for name, handled in (("put many", 1), ("put", 1), ("get range", 1)):
            assert (told["request"][name]["handled"], told["request"][name]["in_flight"]) == (handled, 0)


async def test_a_removed_channel_is_gone_and_its_name_is_free(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.put_all("a", lines(3000))
        await logs.put("b", NOON, b"kept")
        assert await logs.raw.result(REMOVE_CHANNEL, "a") is True
        assert await logs.raw.result(CHANNELS) == ["b"]
        assert (await logs.range("a")).records == []
        await logs.put("a", NOON, b"new")
        assert (await logs.range("a")).records == [(NOON, b"new")]
    async with client_of(tmp_path) as logs:
        assert (await logs.range("a")).records == [(NOON, b"new")]
        assert (await logs.range("b")).values == [b"kept"]


async def test_the_hello_tells_the_kind_of_node(tmp_path: Path) -> None:
    async with client_of(tmp_path) as logs:
        await logs.raw.send(["swarm", 1, {"kind": "logfiles"}])
        request_id, status, (text, _) = await logs.raw.receive()
        assert (request_id, status) == (0, 32)  # a second hello is no request
        assert re.search("request", text)
