"""The logs of a node: root.log for events and errors, stats.log for figures. All times in them are UTC.

    root.log    2026-11-22 06:57:32.123 INFO swarm.core.node: text
                    and a traceback, where there is one, in indented lines
    stats.log   2026-11-22 06:57:32.123 key:value key:value …

Whatever a peer says may end up in a log, so what is not printable is escaped: only a new event begins a line that is
not indented. Each line is one write(2), so nothing is held back when the process dies. A line that cannot be written
(disk full, device gone) is dropped and counted, for a node shall not stop because of its log; the next one that can
be written follows a line in root.log that tells how many are missing.
"""

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

SELDOM_S = 10.0
EVENTS_MAX = 50  # that are kept in memory: what has gone wrong lately, on one page
EVENT_TEXT_MAX = 1000  # characters of one of them: all of them together are some KiB on the wire

Event = tuple[float, str, str]
"""Of root.log: seconds since the epoch, level, text."""


def open_logs(directory: Path, *, console: bool) -> "Logs":
    """Make the standard root logger write to the directory, which is made where needed, from level INFO on.

    console: events go to stderr too. Raises OSError where the files cannot be opened.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root = _LogFile(directory / "root.log", _lines_lost)
    try:
        stats = _LogFile(directory / "stats.log")
    except OSError:
        root.close()
        raise
    return Logs(root, stats, _LastEvents(), [_FileHandler(root), *([logging.StreamHandler()] if console else [])])


class Logs:
    """The open logs of a process, to be closed by its owner."""

    def __init__(
        self, root: "_LogFile", stats: "_LogFile", last: "_LastEvents", handlers: Sequence[logging.Handler]
    ) -> None:
        self._root = root
        self._stats = stats
        self._last = last
        self._handlers = [last, *handlers]
        self._stats_told = 0  # lines of stats.log that were lost, and root.log tells of
        self._level_before = logging.root.level
        logging.root.setLevel(logging.INFO)
        for handler in self._handlers:
            handler.setFormatter(_OneLineFormatter())
            logging.root.addHandler(handler)

    @property
    def lines_lost(self) -> int:
        """Lines of both files that could not be written; the first of each file is told on stderr."""
        return self._root.lines_lost + self._stats.lines_lost

    @property
    def events(self) -> list[Event]:
        """The last EVENTS_MAX warnings and errors of root.log since it was opened, oldest first."""
        return self._last.events()

    def stats(self, parts: Iterable[str]) -> None:
        """Append one line. parts: of `figures`, in their order."""
        lost = self._stats.lines_lost
        if self._stats.write(" ".join([_utc(time.time()), *filter(None, parts)])) and lost > self._stats_told:
            log.warning("%d lines of stats.log were lost: they could not be written", lost - self._stats_told)
            self._stats_told = lost

    def reopen(self) -> None:
        """Go on in new files, after logrotate has moved the present ones (SIGHUP); no line is lost.

        Where a new file cannot be opened the present one stays in use, and the error is logged.
        """
        for file in (self._root, self._stats):
            try:
                file.reopen()
            except OSError as error:
                log.error("%s cannot be reopened: %s", file.path, error)

    def close(self) -> None:
        for handler in self._handlers:
            logging.root.removeHandler(handler)
            handler.close()
        logging.root.setLevel(self._level_before)
        self._root.close()
        self._stats.close()


class SeldomLog:
    """Events that strangers can cause as often as they like: some lines in SELDOM_S, and then how many more there
    were. So nobody fills the disk."""

    def __init__(
        self, log: logging.Logger, level: int, lines_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._level = level
        self._lines_max = lines_max
        self._clock = clock
        self._begun = clock()
        self._told = 0
        self._untold = 0

    def tell(self, text: str) -> None:
        self.look()
        if self._told < self._lines_max:
            self._told += 1
            self._log.log(self._level, "%s", text)
        else:
            self._untold += 1

    def look(self) -> None:
        """To be called now and then: tells of what was not told, once its time is over."""
        if self._clock() - self._begun >= SELDOM_S:
            if self._untold:
                self._log.log(self._level, "%d more like the last were not told, in %.0f s", self._untold, SELDOM_S)
            self._begun = self._clock()
            self._told = self._untold = 0


class _LogFile:
    def __init__(self, path: Path, tell_lost: Callable[[int], str] | None = None) -> None:
        """tell_lost: makes the line that stands where so many lines are missing."""
        self.path = path
        self.lines_lost = 0
        self._tell_lost = tell_lost
        self._lost_told = 0
        self._file = path.open("ab", buffering=0)
        self._torn = False  # the file ends in a part of a lost line
        self._lock = threading.Lock()

    def write(self, line: str) -> bool:
        """Whether it could be written."""
        with self._lock:
            missing = self.lines_lost - self._lost_told
            if missing and self._tell_lost is not None and self._append(self._tell_lost(missing)):
                self._lost_told += missing
            written = self._append(line)
            self.lines_lost += not written
            return written

    def _append(self, line: str) -> bool:
        rest = (b"\n" if self._torn else b"") + line.encode() + b"\n"
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
                self._torn = bool(rest)
        except OSError as error:
            if self.lines_lost == 0:
                _tell(f"{self.path} cannot be written, lines are lost: {error}")
            return False
        return True

    def reopen(self) -> None:
        file = self.path.open("ab", buffering=0)
        with self._lock:
            self.close()
            self._file, self._torn = file, False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # some file systems tell of a full disk only now
            self._file.close()


class _FileHandler(logging.Handler):
    def __init__(self, file: _LogFile) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as every handler of logging: a wrong format string is told on stderr, with its place
            self.handleError(record)
        else:
            self._file.write(line)


class _LastEvents(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)

    def events(self) -> list[Event]:
        with self.lock or contextlib.nullcontext():
            return list(self._events)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a wrong format string: the handler of root.log tells of it
            text = record.getMessage()
            if record.exc_info and record.exc_info[0]:
                text += ": " + traceback.format_exception_only(*record.exc_info[:2])[-1].strip()
            self._events.append((record.created, record.levelname, _escape(text[:EVENT_TEXT_MAX])[:EVENT_TEXT_MAX]))


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{_utc(record.created)} {record.levelname} {record.name}: {record.getMessage()}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            lines += record.stack_info.split("\n")
        return "\n    ".join(map(_escape, lines))


def _lines_lost(count: int) -> str:
    return f"{_utc(time.time())} WARNING {__name__}: {count} lines before this one were lost: they could not be written"


def figures(values: Mapping[str, object]) -> str:
    """Figures as they stand in stats.log. Keys are without spaces and colons; floats are written with some six
    digits."""
    text = " ".join([f"{key}:{_figure(value)}" for key, value in values.items()])
    assert text.isprintable()
    assert text.count(" ") == max(len(values) - 1, 0), "a space in a key"
    assert not any(":" in key for key in values), "a colon in a key"
    return text


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _figure(value: object) -> str:
    if type(value) is int:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.0f}"
    return _escape(str(value)).replace(" ", r"\x20")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(" ", "milliseconds")


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or on the same full disk
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
