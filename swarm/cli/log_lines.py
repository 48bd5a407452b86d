"""The lines of a text log as records: when each was written, and which belong together.

A line in which a time is found begins a record. A line without one belongs to the record before, as its further lines
do in a stack trace. Empty lines at a record's end are left out.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache

from swarm.cli.times import in_zone, parse_iso
from swarm.core.limits import KIB, VALUE_BYTES_MAX
from swarm.logfiles.timestamps import SECOND

ISO = "iso"
EPOCH = "%s"
LOOK_BYTES = 4 * KIB  # of a line, in which the time is looked for
NUMBERS_KEPT = 5  # of lines that are told of
YEARS_BACK = 8  # in which a 29 February without a year is looked for

_SHORT = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%e": "%d"}
_TEXT = r"[^\W\d_]+"
_PATTERNS = {
    "%Y": r"\d{4}",
    "%y": r"\d\d",
    "%m": r"\d\d?",
    "%d": r"\d\d?",
    "%H": r"\d\d?",
    "%I": r"\d\d?",
    "%M": r"\d\d?",
    "%S": r"\d\d?",
    "%j": r"\d{1,3}",
    "%f": r"(?P<fraction>\d{1,9})",
    "%z": r"(?:Z|[+-]\d\d:?\d\d)",
    "%a": _TEXT,
    "%A": _TEXT,
    "%b": _TEXT,
    "%B": _TEXT,
    "%p": r"[AaPp][Mm]",
    "%%": "%",
}
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z| ?[+-]\d\d:?\d\d)?)?(?![\d:])")
_EPOCH_TIME = re.compile(r"(\d{1,11})(?:[.,](\d{1,9}))?(?!\d)")


class TimeFormat:
    """How the times of a log are written."""

    def __init__(self, form: str, zone: tzinfo | None, today: datetime) -> None:
        """form: ISO, EPOCH, or as for strptime. zone: of times without an offset; None for this machine's. today: a
        time without a year is of the last year that does not put it more than a day behind this. ValueError"""
        self._zone = zone
        self._today = today
        for short, long in _SHORT.items():
            form = form.replace(short, long)
        self._form = form
        self._has_year = "%Y" in form or "%y" in form
        if form == ISO:
            self._pattern = _ISO_TIME
        elif form == EPOCH:
            self._pattern = _EPOCH_TIME
        else:
            self._pattern = re.compile(_pattern_of(form))
        self._whole_seconds = lru_cache(maxsize=1024)(self._parse_whole)

    def parse(self, text: str) -> int | None:
        """The time with which a text begins, None if there is none."""
        match = self._pattern.match(text)
        if match is None:
            return None
        try:
            if self._pattern is _EPOCH_TIME:
                return int(match[1]) * SECOND + int((match[2] or "").ljust(9, "0"))
            if self._pattern is _ISO_TIME:
                return parse_iso(match[0].replace(" +", "+").replace(" -", "-"), self._zone)
            if "fraction" not in match.re.groupindex:
                return self._whole_seconds(match[0])
            start, stop = match.span("fraction")
            return self._whole_seconds(text[:start] + "0" + text[stop : match.end()]) + int(
                match["fraction"].ljust(9, "0")
            )
        except ValueError:
            return None

    def _parse_whole(self, text: str) -> int:
        if self._has_year:
            return in_zone(datetime.strptime(text, self._form), self._zone)  # noqa: DTZ007 - in_zone gives it one
        latest = in_zone(self._today + timedelta(days=1), self._zone)
        for year in range(self._today.year + 1, self._today.year - YEARS_BACK, -1):
            try:
                moment = datetime.strptime(f"{year} {text}", f"%Y {self._form}")  # noqa: DTZ007
            except ValueError:
                continue  # 29 February
            if (timestamp := in_zone(moment, self._zone)) <= latest:
                return timestamp
        raise ValueError(f"{text} is in none of the last {YEARS_BACK} years")


def _pattern_of(form: str) -> str:
    """A regular expression for what strptime would take. ValueError if it does not say which day."""
    if not ("%j" in form or ("%d" in form and any(month in form for month in ("%m", "%b", "%B")))):
        raise ValueError(f"{form!r} does not say on which day (%d with %m or %b): so it does not say when")
    pattern = ""
    for part in re.findall(r"%.?|\s+|[^%\s]+", form):
        if part in _PATTERNS:
            pattern += _PATTERNS[part]
        elif part.startswith("%"):
            known = " ".join((*_PATTERNS, *_SHORT))
            raise ValueError(f"{part} is not known; known are {known}, and {EPOCH} alone for seconds since 1970")
        else:
            pattern += r"\s+" if part.isspace() else re.escape(part)
    if form.count("%f") > 1:
        raise ValueError("%f can be there once")
    return pattern


class LogRecords:
    """Makes records of lines."""

    def __init__(
        self, times: TimeFormat, where: re.Pattern[bytes] | None, value_bytes_max: int = VALUE_BYTES_MAX
    ) -> None:
        """where: finds the time in a line, in its group `time` or its first one; None where lines begin with it."""
        self.lines = 0
        self.joined: list[int] = []
        """Numbers, from 1, of the first lines without a time that were added to the record before."""
        self.joined_count = 0
        self.left_out: list[int] = []
        """The same of those before the first time."""
        self.left_out_count = 0
        self._times = times
        self._where = where
        self._group: str | int = "time" if where is not None and "time" in where.groupindex else 1
        self._value_bytes_max = value_bytes_max
        self._timestamp: int | None = None
        self._value: list[bytes] = []
        """Lines of the record that has begun."""
        self._value_bytes = 0
        self._first_line = 0

    def add(self, lines: Sequence[bytes]) -> list[tuple[int, int, bytes]]:
        """The records that are complete now: number of the first line, timestamp and value."""
        complete: list[tuple[int, int, bytes]] = []
        for line in lines:
            self.lines += 1
            timestamp = self._time_of(line) if line else None
            if timestamp is not None:
                complete += self.take_begun()
                self._timestamp = timestamp
            elif self._timestamp is None:
                if line:
                    self.left_out_count += 1
                    self.left_out += [self.lines] if self.left_out_count <= NUMBERS_KEPT else []
                continue
            else:
                if line:
                    self.joined_count += 1
                    self.joined += [self.lines] if self.joined_count <= NUMBERS_KEPT else []
                if self._value_bytes + len(line) + 1 > self._value_bytes_max:
                    complete += self.take_begun()
            self._first_line = self._first_line if self._value else self.lines
            self._value.append(line)
            self._value_bytes += len(line) + 1
        return complete

    @property
    def begun(self) -> bool:
        """Whether there is a record to which the next line may belong."""
        return bool(self._value)

    def take_begun(self) -> list[tuple[int, int, bytes]]:
        """The record that has begun, if one has. What of it comes later is a record of its own, of the same time."""
        value = b"\n".join(self._value).rstrip(b"\n")
        self._value, self._value_bytes = [], 0
        return [(self._first_line, self._timestamp, value)] if value and self._timestamp is not None else []

    def _time_of(self, line: bytes) -> int | None:
        if self._where is None:
            return self._times.parse(line[:LOOK_BYTES].decode("utf-8", "replace"))
        match = self._where.search(line, 0, LOOK_BYTES)
        found = match[self._group] if match is not None else None
        return self._times.parse(found.decode("utf-8", "replace")) if found else None
