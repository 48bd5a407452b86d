"""Names of the files of a logfiles node: what is where, without a file being opened. docs/formats/logfiles.md. No I/O.

Every file has exactly one name: what `parse` takes, `name` and `day` give again.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, NamedTuple

from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN

SECOND_NS = 1_000_000_000
DAY_S = 86_400
DAY_NS = DAY_S * SECOND_NS

CHANNELS = "channels"  # directories in the node's data
REMOVED = "removed"
DAMAGED_SUFFIX = ".damaged"  # of what was set aside
UNFINISHED_SUFFIX = ".tmp"

_EPOCH = date(1970, 1, 1)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NAME = re.compile(
    r"(?P<time>\d{6})_(?P<length>[1-9]\d{0,4})-(?P<generation>[1-9]\d{0,9})"
    r"(?P<numbers>(-\d{1,20}){0,2})\.(?P<kind>log|tail|sealed)",
    re.ASCII,
)
_NUMBERS = {"log": 0, "tail": 1, "sealed": 2}

Kind = Literal["log", "tail", "sealed"]


class Span(NamedTuple):
    """Of a bucket: where it begins, a timestamp, and its length, which divides a day. Ordered by time."""

    start: int
    length_s: int

    @property
    def end(self) -> int:
        """The first timestamp behind it."""
        return self.start + self.length_s * SECOND_NS

    @property
    def day(self) -> str:
        """Name of its directory."""
        return (_EPOCH + timedelta(days=self.start // DAY_NS)).isoformat()

    @property
    def time(self) -> str:
        hours, rest = divmod(self.start % DAY_NS // SECOND_NS, 3600)
        return f"{hours:02}{rest // 60:02}{rest % 60:02}"

    @classmethod
    def of(cls, timestamp: int, length_s: int) -> "Span":
        """The one that a timestamp is in."""
        return cls(timestamp - timestamp % (length_s * SECOND_NS), length_s)

    def is_sound(self) -> bool:
        return (
            0 < self.length_s <= DAY_S
            and DAY_S % self.length_s == 0
            and self.start % (self.length_s * SECOND_NS) == 0
            and TIMESTAMP_MIN <= self.start <= TIMESTAMP_MAX
        )


@dataclass(frozen=True, order=True, slots=True)
class FileName:
    span: Span
    generation: int
    kind: Kind
    number: int = 0
    """Of a tail."""
    records: int = 0
    """Of a sealed file."""
    value_bytes: int = 0
    """Of a sealed file: of all values."""

    @property
    def day(self) -> str:
        return self.span.day

    @property
    def name(self) -> str:
        front = f"{self.span.time}_{self.span.length_s}-{self.generation}"
        if self.kind == "tail":
            return f"{front}-{self.number}.tail"
        if self.kind == "sealed":
            return f"{front}-{self.records}-{self.value_bytes}.sealed"
        return f"{front}.log"

    @property
    def path(self) -> str:
        """In the channel's directory."""
        return f"{self.day}/{self.name}"

    @classmethod
    def parse(cls, day: str, name: str) -> "FileName | None":
        """None if it is no name of a file with records in this directory."""
        match = _NAME.fullmatch(name)
        start = parse_day(day)
        if match is None or start is None:
            return None
        time, kind = match["time"], match["kind"]
        numbers = [int(number) for number in match["numbers"].split("-")[1:]]
        if int(time[:2]) > 23 or int(time[2:4]) > 59 or int(time[4:]) > 59 or len(numbers) != _NUMBERS[kind]:
            return None
        seconds = int(time[:2]) * 3600 + int(time[2:4]) * 60 + int(time[4:])
        span = Span(start + seconds * SECOND_NS, int(match["length"]))
        generation = int(match["generation"])
        if kind == "tail":
            found = cls(span, generation, "tail", number=numbers[0])
        elif kind == "sealed":
            found = cls(span, generation, "sealed", records=numbers[0], value_bytes=numbers[1])
        else:
            found = cls(span, generation, "log")
        is_sound = span.is_sound() and generation < 1 << 32 and found.number < 1 << 32 and found.name == name
        return found if is_sound and (kind != "tail" or found.number) else None


def parse_day(name: str) -> int | None:
    """The timestamp at which the day of a directory begins; None if it is no name of a day, or out of bounds."""
    if _DAY.fullmatch(name) is None:
        return None
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    start = (day - _EPOCH).days * DAY_NS
    return start if TIMESTAMP_MIN <= start <= TIMESTAMP_MAX else None
