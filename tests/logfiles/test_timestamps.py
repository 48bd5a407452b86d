"""Points in time as programs have them: what they are in nanoseconds, and what is refused."""

from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.errors import BadArgument
from swarm.logfiles.timestamps import SECOND, nanoseconds


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (0, 0),
        (-1, -1),
        (2**63, 2**63),  # bounds are checked where it is used
        (0.0, 0),
        (1.5, 1_500_000_000),
        (-1.5, -1_500_000_000),
        (-0.25, -250_000_000),
        (1e-9, 1),
        (1_700_000_000.25, 1_700_000_000_250_000_000),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2026, 11, 22, 14, 0, 0, 123_456, tzinfo=UTC), 1_795_356_000_123_456_000),
        (datetime(2026, 11, 22, 16, 0, 0, 123_456, tzinfo=timezone(timedelta(hours=2))), 1_795_356_000_123_456_000),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1000),
        (datetime.min.replace(tzinfo=UTC), -62_135_596_800 * SECOND),
    ],
)
def test_what_a_time_is_in_nanoseconds(time: Any, expected: int) -> None:
    assert nanoseconds(time) == expected
    assert type(nanoseconds(time)) is int


@given(st.floats(-(2**53), 2**53))
def test_a_float_is_taken_exactly(seconds: float) -> None:
    assert abs(nanoseconds(seconds) - Fraction(seconds) * SECOND) <= Fraction(1, 2) + Fraction(1, 10**6)


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_is_taken_exactly(time: datetime) -> None:
    assert nanoseconds(time) == (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (datetime(2026, 11, 22), "does not say in which time zone"),  # noqa: DTZ001
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (True, "an int"),
        (None, "an int"),
        ("2026-11-22", "an int"),
        (date(2026, 11, 22), "an int"),
        (b"1", "an int"),
    ],
)
def test_what_is_no_time(time: Any, text: str) -> None:
    with pytest.raises(BadArgument, match=text):
        nanoseconds(time)
