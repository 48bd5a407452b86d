"""Times as logs and people write them, and lines that belong together; and what is new to who follows a channel."""

import itertools
import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli.follow import LATE_S, Following
from swarm.cli.log_lines import EPOCH, ISO, NUMBERS_KEPT, LogRecords, TimeFormat
from swarm.cli.times import parse_iso, parse_time, show_local, show_utc
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN
from swarm.logfiles.timestamps import SECOND, nanoseconds

TODAY = datetime(2026, 3, 10, 12)  # noqa: DTZ001 - as a log's times
BERLIN = ZoneInfo("Europe/Berlin")


def utc(*moment: int, nanosecond: int = 0) -> int:
    return nanoseconds(datetime(*moment, tzinfo=UTC)) + nanosecond  # type: ignore[misc, arg-type]


# On the command line.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", 1_700_000_000 * SECOND),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("0", 0),
        ("20261122", 20_261_122 * SECOND),  # digits alone are seconds
        ("2026-11-22T14:00:00Z", utc(2026, 11, 22, 14)),
        ("2026-11-22T14:00:00.123456789Z", utc(2026, 11, 22, 14, nanosecond=123_456_789)),
        ("2026-11-22 14:00:00,5+02:00", utc(2026, 11, 22, 12, nanosecond=SECOND // 2)),
        ("2026-11-22T14:00+0200", utc(2026, 11, 22, 12)),
        ("1969-12-31T23:59:59.9Z", -SECOND // 10),
    ],
)
def test_times_on_the_command_line(text: str, expected: int) -> None:
    assert parse_time(text) == expected


def test_times_without_an_offset_are_of_this_machine() -> None:
    moment = datetime(2026, 11, 22, 14, 0, 1).astimezone()
    assert parse_time("2026-11-22T14:00:01.000000007") == nanoseconds(moment) + 7
    assert parse_time("2026-11-22") == nanoseconds(datetime(2026, 11, 22).astimezone())


def test_relative_times() -> None:
    before = parse_time("now")
    ago = parse_time("-2h")
    after = parse_time("now")
    assert before <= ago + 7200 * SECOND <= after


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-", "--2h", "-2x", "2026-13-01", "2026-11-22T25:00", "1.2.3", "1e9", "now-2h", "²"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"a time is|a duration is"):
        parse_time(text)


@given(st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX))
def test_what_is_shown_is_exact(timestamp: int) -> None:
    assert parse_iso(show_utc(timestamp), None) == timestamp
    assert parse_iso(show_utc(timestamp).replace("Z", ""), UTC) == timestamp


@given(st.integers(0, TIMESTAMP_MAX))  # offsets before 1900 have seconds
def test_what_is_shown_here_is_exact(timestamp: int) -> None:
    assert parse_time(show_local(timestamp)) == timestamp


# In logs.


@pytest.mark.parametrize(
    ("form", "line", "expected"),
    [
        (ISO, "2026-11-22 13:58:50 status installed", utc(2026, 11, 22, 13, 58, 50)),
        (ISO, "2026-11-22T13:58:50.123456789Z x", utc(2026, 11, 22, 13, 58, 50, nanosecond=123_456_789)),
        (ISO, "2026-11-22T13:58:50,5+02:00|x", utc(2026, 11, 22, 11, 58, 50, nanosecond=SECOND // 2)),
        (ISO, "2026-11-22 13:58:50 +0200 x", utc(2026, 11, 22, 11, 58, 50)),
        (ISO, "2026-11-22: x", None),
        (ISO, "2026-11-22 x", utc(2026, 11, 22)),
        (ISO, "2026-13-22 13:58:50", None),
        (ISO, "x 2026-11-22", None),
        (EPOCH, "1700000000.5 x", 1_700_000_000 * SECOND + SECOND // 2),
        (EPOCH, "1700000000", 1_700_000_000 * SECOND),
        (EPOCH, "17000000000000000000", None),
        ("%Y-%m-%d %H:%M:%S", "2026-11-22 13:58:50 x", utc(2026, 11, 22, 13, 58, 50)),
        ("%F %T,%f", "2026-11-22 13:58:50,123 [main]", utc(2026, 11, 22, 13, 58, 50, nanosecond=123_000_000)),
        ("[%d/%b/%Y:%T %z]", "[22/Nov/2026:13:58:50 +0200] x", utc(2026, 11, 22, 11, 58, 50)),
        ("%m/%d/%y %I:%M:%S %p", "11/22/26 01:58:50 PM x", utc(2026, 11, 22, 13, 58, 50)),
        ("%Y%j", "2026326 x", utc(2026, 11, 22)),
        ("%b %e %T", "Mar  9 01:02:03 host x", utc(2026, 3, 9, 1, 2, 3)),
        ("%b %e %T", "Mar 11 01:02:03 host x", utc(2026, 3, 11, 1, 2, 3)),  # a day ahead: a clock that is fast
        ("%b %e %T", "Mar 12 01:02:03 host x", utc(2025, 3, 12, 1, 2, 3)),
        ("%b %e %T", "Feb 29 01:02:03 host x", utc(2024, 2, 29, 1, 2, 3)),
        ("%b %e %T", "Feb 30 01:02:03 host x", None),
        ("%b %e %T", "Xyz  9 01:02:03 host x", None),
        ("100%% %F", "100% 2026-11-22 x", utc(2026, 11, 22)),
    ],
)
def test_times_in_logs(form: str, line: str, expected: int | None) -> None:
    times = TimeFormat(form, UTC, TODAY)
    for _ in range(2):  # seconds are remembered
        assert times.parse(line) == expected


def test_a_time_zone_is_for_times_without_an_offset() -> None:
    for form in (ISO, "%Y-%m-%d %H:%M:%S"):
        times = TimeFormat(form, BERLIN, TODAY)
        assert times.parse("2026-11-22 13:58:50") == utc(2026, 11, 22, 12, 58, 50)
        assert times.parse("2026-07-22 13:58:50") == utc(2026, 7, 22, 11, 58, 50)
    assert TimeFormat("%F %T %z", BERLIN, TODAY).parse("2026-11-22 13:58:50 +0000") == utc(2026, 11, 22, 13, 58, 50)
    here = TimeFormat(ISO, None, TODAY).parse("2026-11-22 13:58:50")
    assert here == nanoseconds(datetime(2026, 11, 22, 13, 58, 50).astimezone())


@pytest.mark.parametrize(
    ("form", "text"),
    [("%H:%M:%S", "on which day"), ("%d %Y", "on which day"), ("%F %Q", "%Q is not known"), ("%F %", "% is not known"),
     ("%F %f %f", "once"), ("", "on which day"), ("%s %F", "%s is not known")],
)  # fmt: skip
def test_what_is_no_time_format(form: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TimeFormat(form, UTC, TODAY)


def log_records(form: str = ISO, where: bytes | None = None, **options: Any) -> LogRecords:
    return LogRecords(TimeFormat(form, UTC, TODAY), re.compile(where) if where else None, **options)


LOG = b"""no time yet

still none
2026-11-22 00:00:01 one
2026-11-22 00:00:02 two
Traceback (most recent call last):

  File "x.py"
ValueError

2026-11-22 00:00:03 three


""".split(b"\n")
RECORDS = [
    (4, utc(2026, 11, 22, 0, 0, 1), b"2026-11-22 00:00:01 one"),
    (
        5,
        utc(2026, 11, 22, 0, 0, 2),
        b'2026-11-22 00:00:02 two\nTraceback (most recent call last):\n\n  File "x.py"\nValueError',
    ),
    (11, utc(2026, 11, 22, 0, 0, 3), b"2026-11-22 00:00:03 three"),
]


@given(st.lists(st.integers(0, len(LOG))))
def test_lines_without_a_time_belong_to_the_record_before(cuts: list[int]) -> None:
    """However they come in parts."""
    records = log_records()
    bounds = [0, *sorted(cuts), len(LOG)]
    made = [record for start, stop in itertools.pairwise(bounds) for record in records.add(LOG[start:stop])]
    assert records.begun
    made += records.take_begun()
    assert made == RECORDS
    assert not records.begun
    assert records.take_begun() == []
    assert (records.lines, records.joined, records.left_out) == (len(LOG), [6, 8, 9], [1, 3])


def test_what_was_taken_goes_on_as_a_record_of_its_own() -> None:
    records = log_records()
    assert records.add([b"2026-11-22 00:00:01 one", b" more"]) == []
    time = utc(2026, 11, 22, 0, 0, 1)
    assert records.take_begun() == [(1, time, b"2026-11-22 00:00:01 one\n more")]
    assert records.add([b" late", b"2026-11-22 00:00:02 two"]) == [(3, time, b" late")]


def test_a_record_is_no_longer_than_a_value_may_be() -> None:
    records = log_records(value_bytes_max=40)
    lines = [b"2026-11-22 00:00:01 one", *[b"x" * 15 for _ in range(5)]]
    made = records.add(lines) + records.take_begun()
    assert [timestamp for _, timestamp, _ in made] == [utc(2026, 11, 22, 0, 0, 1)] * 3
    assert b"\n".join(value for _, _, value in made) == b"\n".join(lines)
    assert max(len(value) for _, _, value in made) <= 40
    assert [number for number, _, _ in made] == [1, 3, 5]


def test_only_the_first_numbers_are_kept() -> None:
    records = log_records()
    records.add([b"x"] * 100 + [b"2026-11-22"] + [b"y"] * 100)
    assert (records.left_out_count, records.left_out) == (100, [1, 2, 3, 4, 5])
    assert (records.joined_count, records.joined) == (100, [102, 103, 104, 105, 106])
    assert NUMBERS_KEPT == 5


@pytest.mark.parametrize("where", [rb"\[(.*?)\]", rb"(GET|\S+) - - \[(?P<time>[^]]*)"])
def test_a_regular_expression_says_where_the_time_is(where: bytes) -> None:
    records = log_records("%d/%b/%Y:%T %z", where)
    line = b'127.0.0.1 - - [22/Nov/2026:13:58:50 +0000] "GET /\xff" 200'
    assert records.add([line, b"[no time]", line]) == [
        (1, utc(2026, 11, 22, 13, 58, 50), line + b"\n[no time]"),
    ]


@given(st.lists(st.binary(max_size=40)), st.sampled_from([ISO, EPOCH, "%b %e %T", "%F %T,%f"]))
def test_garbage_is_left_out_and_nothing_is_lost(lines: list[bytes], form: str) -> None:
    records = log_records(form)
    made = records.add([line.replace(b"\n", b"") for line in lines])
    made += records.take_begun()
    assert records.lines == len(lines)
    assert all(value for _, _, value in made)


# Following.


def test_what_is_new_is_given_once() -> None:
    now = 1000 * SECOND
    following = Following(900 * SECOND)
    first = [950 * SECOND, 999 * SECOND], [b"old", b"x"]
    assert following.new_of(first, now) == first
    following.was_read()
    assert following.start == (999 - LATE_S) * SECOND
    again = [999 * SECOND, 999 * SECOND, 1000 * SECOND], [b"x", b"x", b"y"]
    assert following.new_of(again, now) == ([999 * SECOND, 1000 * SECOND], [b"x", b"y"]), "one x was given"
    following.was_read()
    late = [998 * SECOND, *again[0]], [b"late", *again[1]]
    assert following.new_of(late, now) == ([998 * SECOND], [b"late"])
    following.was_read()
    assert following.new_of(late, now) == ([], [])


def test_a_record_from_the_future_does_not_hide_what_comes_now() -> None:
    now = 1000 * SECOND
    following = Following(now)
    future = [5000 * SECOND], [b"future"]
    assert following.new_of(future, now) == future
    following.was_read()
    assert following.start == now
    assert following.new_of(([1001 * SECOND, *future[0]], [b"now", *future[1]]), now) == ([1001 * SECOND], [b"now"])


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([b"a", b"b"])), max_size=6), max_size=8))
def test_following_gives_everything_that_is_not_too_late_once(rounds: list[list[tuple[int, bytes]]]) -> None:
    """Rounds of a second; in each come records that are up to four seconds old."""
    start = 10**18
    following = Following(start - 10 * SECOND)
    store: list[tuple[int, bytes]] = []
    given_: Counter[tuple[int, bytes]] = Counter()
    for number, coming in enumerate(rounds):
        now = start + number * SECOND
        store += [(now - age * SECOND, value) for age, value in coming]
        reading = sorted(record for record in store if record[0] >= following.start)
        for cut in range(0, len(reading), 3):
            part = reading[cut : cut + 3]
            new = following.new_of(([time for time, _ in part], [value for _, value in part]), now)
            given_.update(zip(*new, strict=True))
        following.was_read()
    assert given_ == Counter(store)


def test_what_is_shown_in_utc() -> None:
    moment = datetime(2026, 11, 22, 14, tzinfo=timezone(timedelta(hours=1)))
    assert parse_time(show_local(nanoseconds(moment))) == nanoseconds(moment)
    assert show_utc(nanoseconds(moment) + 5) == "2026-11-22T13:00:00.000000005Z"
