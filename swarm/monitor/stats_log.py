"""A stats.log read back: what each figure was, line by line, in memory that does not grow with the file.

Of each name a summary is kept, and of those that are to be drawn at most POINTS_MAX points: when there are more, two
neighbours become one, their mean. A line counts as a whole or not at all.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from swarm.core.limits import MIB
from swarm.monitor.node_view import printable

LINE_BYTES_MAX = 16 * MIB  # some 40,000 channels
NAMES_MAX = 262_144  # in all lines together, some 100 MiB
POINTS_MAX = 2048  # of one plot: more than a terminal has columns
NAME_LENGTH_MAX = 300

_TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}(?= )")
_TIME_BYTES = 23
_NAME = re.compile(r"[!-9;-~]{1,300}")
_GZIP = b"\x1f\x8b"

_COUNTERS = frozenset(
    "accepted refused protocol_errors bytes_in bytes_out handled failed journal_syncs journal_times_full "  # noqa: SIM905
    "tls_failures authentication_failures not_allowed http_requests http_refused listeners_lost redelivered syncs "
    "sealed dropped damages damaged failures dumps".split()
)
"""Last parts of names of figures that only grow, until the node is started again."""

Value = int | float | str


def is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS or ".times." in name


@dataclass(frozen=True)
class Line:
    at_s: float
    values: dict[str, Value]


def parse_line(data: bytes) -> Line | None:
    """A line without its end; None if it is none of a stats.log."""
    at_s = parse_time(data)
    if at_s is None:
        return None
    try:
        parts = data[_TIME_BYTES + 1 :].decode("ascii").split(" ")
    except UnicodeDecodeError:
        return None
    values: dict[str, Value] = {}
    for part in parts:
        name, colon, text = part.partition(":")
        if not (colon and text and _NAME.fullmatch(name)):
            return None
        values[name] = _value(text)
    return Line(at_s, values)


def parse_time(data: bytes) -> float | None:
    """Seconds since 1970 with which a line begins."""
    if not _TIME.match(data):
        return None
    try:
        return datetime.fromisoformat(data[:_TIME_BYTES].decode()).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _value(text: str) -> Value:
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else printable(text)
    return printable(text)


class LogFile:
    """One file, plain or compressed with gzip (told by its first bytes), read from its beginning."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self.damage: str | None = None
        """Why reading ended before the end of the file."""
        self.unfinished = False
        """Whether the last line has no end: it is just being written, or was torn."""
        self._raw = path.open("rb")
        compressed = self._raw.read(2) == _GZIP
        self._raw.seek(0)
        self._file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=self._raw) if compressed else self._raw
        self.size = path.stat().st_size

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._raw.tell()

    def lines(self) -> Iterator[bytes]:
        """All that have an end, without it; of one that is too long nothing but its beginning."""
        with self._raw:
            try:
                while line := self._file.readline(LINE_BYTES_MAX):
                    beginning = line[:_TIME_BYTES]
                    if too_long := len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
                        while line and not line.endswith(b"\n"):
                            line = self._file.readline(LINE_BYTES_MAX)
                    if not line.endswith(b"\n"):
                        self.unfinished = True
                        return
                    yield beginning if too_long else line[:-1].removesuffix(b"\r")
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                self.damage = str(error)


@dataclass
class Figure:
    """What a name has been. For text min and max are None, and there is no rate."""

    first: Value
    last: Value
    min: float | None = None
    max: float | None = None
    lines: int = 0
    grown: float = 0.0
    """Of a counter: by how much it has grown, restarts left out; and in how many seconds."""
    seconds: float = 0.0

    @property
    def rate_per_s(self) -> float | None:
        return self.grown / self.seconds if self.seconds > 0 else None


class Points:
    """(time, value) in the order of time, POINTS_MAX at most."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._per_point = 1
        self._times = self._sum = 0.0
        self._count = 0

    def add(self, at_s: float, value: float) -> None:
        self._times, self._sum, self._count = self._times + at_s, self._sum + value, self._count + 1
        if self._count == self._per_point:
            self._points.append((self._times / self._count, self._sum / self._count))
            self._times, self._sum, self._count = 0.0, 0.0, 0
        if len(self._points) > POINTS_MAX:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            self._points = [((a + b) / 2, (x + y) / 2) for (a, x), (b, y) in pairs]
            self._per_point *= 2

    def __iter__(self) -> Iterator[tuple[float, float]]:
        yield from self._points
        if self._count:
            yield self._times / self._count, self._sum / self._count


@dataclass
class Summary:
    """What lines come to, that are taken in the order of time."""

    figures: dict[str, Figure] = field(default_factory=dict)
    points: dict[str, Points] = field(default_factory=dict)
    """Of the names that are to be drawn: of a counter its rate per second."""
    lines: int = 0
    not_understood: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    restarts: int = 0
    names_left_out: int = 0
    """How often a value was left out since there were NAMES_MAX names already."""
    _before: Line | None = None

    def take(self, data: bytes, since_s: float = -math.inf) -> None:
        line = parse_line(data)
        if line is None:
            self.not_understood += 1
            return
        if line.at_s < since_s:
            return
        before = self._before
        if before is None:
            self.first_s = line.at_s
        restarted = before is not None and _uptime(line) < _uptime(before)
        self.restarts += restarted
        for name, value in line.values.items():
            self._note(name, value, line.at_s, None if restarted else before)
        self.lines += 1
        self.last_s = line.at_s
        self._before = line

    def _note(self, name: str, value: Value, at_s: float, before: Line | None) -> None:
        figure = self.figures.get(name)
        if figure is None:
            if len(self.figures) >= NAMES_MAX:
                self.names_left_out += 1
                return
            figure = self.figures[name] = Figure(value, value)
        figure.last = value
        figure.lines += 1
        if isinstance(value, str):
            return
        figure.min = value if figure.min is None else min(figure.min, value)
        figure.max = value if figure.max is None else max(figure.max, value)
        drawn: float | None = value
        if is_counter(name):
            drawn = _grow(figure, name, value, at_s, before)
        if drawn is not None and name in self.points:
            self.points[name].add(at_s, drawn)


def _grow(figure: Figure, name: str, value: float, at_s: float, before: Line | None) -> float | None:
    """Notes by how much a counter has grown since the line before; its rate since then, if that can be told."""
    if before is None:
        return None
    then = before.values.get(name, 0)  # requests that nobody has sent yet are not there
    seconds = at_s - before.at_s
    if isinstance(then, str) or value < then or seconds <= 0:
        return None
    figure.grown += value - then
    figure.seconds += seconds
    return (value - then) / seconds


def _uptime(line: Line) -> float:
    uptime = line.values.get("uptime_s", 0.0)
    return 0.0 if isinstance(uptime, str) else uptime


def time_span(path: Path, *, first_only: bool = False) -> tuple[float, float] | None:
    """The times of the first and the last line that have one; None if none has.

    first_only: the first twice, without reading further.
    """
    first = last = None
    for data in LogFile(path).lines():
        if (at_s := parse_time(data)) is not None:
            first, last = at_s if first is None else first, at_s
            if first_only:
                break
    return None if first is None or last is None else (first, last)
