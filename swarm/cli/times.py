"""Points in time on the command line: what people write, and what they are shown. All in nanoseconds since 1970 UTC.

A time without an offset is one of this machine's time zone (the environment's TZ), and so are those that are shown.
"""

import re
import time
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache

from swarm.core.config import parse_duration
from swarm.logfiles.timestamps import SECOND, nanoseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")
_FRACTION = re.compile(r"(?<=\d\d:\d\d:\d\d)[.,](\d{1,9})(?!\d)")


def parse_time(text: str) -> int:
    """ISO 8601, seconds since 1970, `now`, or how long ago (`-2h`). ValueError"""
    if text == "now":
        return time.time_ns()
    if text.startswith("-"):
        return time.time_ns() - round(parse_duration(text[1:]) * SECOND)
    if _SECONDS.fullmatch(text):
        return int(Decimal(text) * SECOND)
    try:
        return parse_iso(text, None)
    except ValueError as error:
        raise ValueError(
            "a time is ISO 8601 (2026-11-22, 2026-11-22T14:00, 2026-11-22T13:00:00.5Z), seconds since 1970, now, or "
            f"how long ago (-90s, -2h, -7d); {text!r:.60} is none"
        ) from error


def parse_iso(text: str, zone: tzinfo | None) -> int:
    """ISO 8601, with 9 digits of a second at most. zone: of a time without an offset; None for this machine's."""
    fraction = _FRACTION.search(text)
    if fraction is None:
        return in_zone(datetime.fromisoformat(text), zone)
    whole = text[: fraction.start()] + text[fraction.end() :]
    return in_zone(datetime.fromisoformat(whole), zone) + int(fraction[1].ljust(9, "0"))


def in_zone(moment: datetime, zone: tzinfo | None) -> int:
    """zone: of a moment without an offset; None for this machine's."""
    try:
        return nanoseconds(moment if moment.tzinfo else moment.replace(tzinfo=zone) if zone else moment.astimezone())
    except OverflowError as error:  # so near to the year 1 or 9999 that an offset leads out of them
        raise ValueError(f"{moment} is out of bounds") from error


def show_local(timestamp: int) -> str:
    """ISO 8601, with the offset of this machine's time zone."""
    seconds, rest = divmod(timestamp, SECOND)
    moment, offset = _local_second(seconds)
    return f"{moment}.{rest:09d}{offset}"


def show_utc(timestamp: int) -> str:
    seconds, rest = divmod(timestamp, SECOND)
    return f"{_utc_second(seconds)}.{rest:09d}Z"


@lru_cache(maxsize=1024)
def _local_second(seconds: int) -> tuple[str, str]:
    text = (_EPOCH + timedelta(seconds=seconds)).astimezone().isoformat()
    return text[:19], text[19:]


@lru_cache(maxsize=1024)
def _utc_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]
