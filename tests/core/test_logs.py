import contextlib
import logging
import re
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from swarm.core.logs import SELDOM_S, Logs, SeldomLog, _OneLineFormatter, figures, open_logs

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"

log = logging.getLogger("swarm.core.node")


@contextlib.contextmanager
def logs_in(directory: Path, *, console: bool = False) -> Iterator[Logs]:
    logs = open_logs(directory, console=console)
    try:
        yield logs
    finally:
        logs.close()


def events(path: Path) -> list[str]:
    """The lines without their times, each of which must be there."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert all(re.match(TIME + " ", line) for line in lines), lines
    return [line[len("2026-11-22 06:57:32.123 ") :] for line in lines]


def test_events_go_to_root_log(tmp_path: Path) -> None:
    with logs_in(tmp_path / "var" / "log"):
        log.info("listening on %s", "größe")
        log.debug("not of interest")
        logging.getLogger("other").warning("hot")
    assert events(tmp_path / "var/log/root.log") == [
        "INFO swarm.core.node: listening on größe",
        "WARNING other: hot",
    ]
    assert events(tmp_path / "var/log/stats.log") == []


def test_times_are_utc(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with logs_in(tmp_path) as logs:
        log.info("x")
        logs.stats([])
    after = datetime.now(UTC)
    for name in ("root.log", "stats.log"):
        text = (tmp_path / name).read_text()[: len("2026-11-22 06:57:32.123")]
        assert before <= datetime.fromisoformat(text + "+00:00") <= after


def test_an_earlier_log_is_continued(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with logs_in(tmp_path) as logs:
            log.info(text)
            logs.stats([figures({"run": text})])
    assert events(tmp_path / "root.log") == ["INFO swarm.core.node: first", "INFO swarm.core.node: second"]
    assert events(tmp_path / "stats.log") == ["run:first", "run:second"]


def test_console_only_where_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logs_in(tmp_path):
        log.error("quiet")
    assert capsys.readouterr() == ("", "")
    with logs_in(tmp_path, console=True):
        log.error("loud\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(TIME + r" ERROR swarm\.core\.node: loud\\n\n", err)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\n2026-11-22 06:57:32.123 INFO x: forged", r"a\n2026-11-22 06:57:32.123 INFO x: forged"),
        ("a\r\tb\x00\x1b[31m\x7f\x85", r"a\r\tb\x00\x1b[31m\x7f\x85"),
        ("line\u2028paragraph\u2029turned\u202e", r"line\u2028paragraph\u2029turned\u202e"),
        ("€ größe 日本", "€ größe 日本"),
    ],
    ids=["line end", "control", "other line ends", "printable"],
)
def test_one_event_is_one_line(tmp_path: Path, text: str, written: str) -> None:
    with logs_in(tmp_path):
        log.info("peer says %s", text)
        logging.getLogger(text).info("x")
    assert events(tmp_path / "root.log") == [
        f"INFO swarm.core.node: peer says {written}",
        f"INFO {written}: x",
    ]


def test_what_utf8_cannot_encode_is_escaped() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "surrogate \udc80", (), None)
    assert _OneLineFormatter().format(record).endswith(r"surrogate \udc80")


def test_tracebacks_are_indented(tmp_path: Path) -> None:
    with logs_in(tmp_path):
        try:
            raise ValueError("a\n2026-11-22 06:57:32.123 INFO x: forged\r\x1b")
        except ValueError:
            log.exception("failed", stack_info=True)
    first, *more = (tmp_path / "root.log").read_text().splitlines()
    assert re.fullmatch(TIME + r" ERROR swarm\.core\.node: failed", first)
    assert more[0] == "    Traceback (most recent call last):"
    assert r"    2026-11-22 06:57:32.123 INFO x: forged\r\x1b" in more
    assert "    Stack (most recent call last):" in more
    assert all(line.startswith("    ") for line in more)


def test_stats(tmp_path: Path) -> None:
    with logs_in(tmp_path) as logs:
        logs.stats([figures({"connections": 12, "channel/users/records": 10**12, "state": "up", "at": "[::1]:7"})])
        logs.stats([])
    assert (tmp_path / "stats.log").read_text().count("\n") == 2
    first, second = (tmp_path / "stats.log").read_text().splitlines()
    assert re.fullmatch(TIME + r" connections:12 channel/users/records:1000000000000 state:up at:\[::1\]:7", first)
    assert re.fullmatch(TIME, second)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3.0, "3"),
        (0.1 + 0.2, "0.3"),
        (0.000123, "0.000123"),
        (-1.5, "-1.5"),
        (99999.96, "100000"),
        (123456789.4, "123456789"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (2**70, str(2**70)),
        (None, "None"),
        ("two words\n", r"two\x20words\n"),
    ],
)
def test_figures(tmp_path: Path, value: object, written: str) -> None:
    with logs_in(tmp_path) as logs:
        logs.stats([figures({"x": value})])
    assert events(tmp_path / "stats.log") == [f"x:{written}"]


@pytest.mark.parametrize("key", ["two words", "a:b", "a\nb"])
def test_a_key_that_would_break_the_line_is_a_bug(tmp_path: Path, key: str) -> None:
    with logs_in(tmp_path) as logs, pytest.raises(AssertionError):
        logs.stats([figures({key: 1})])


def test_reopen_after_rotation(tmp_path: Path) -> None:
    with logs_in(tmp_path) as logs:
        for step in ("before", "moved", "after"):
            if step == "moved":
                for name in ("root.log", "stats.log"):
                    (tmp_path / name).rename(tmp_path / f"{name}.1")
            if step == "after":
                logs.reopen()
            log.info(step)
            logs.stats([figures({"step": step})])
    assert events(tmp_path / "root.log.1") == ["INFO swarm.core.node: before", "INFO swarm.core.node: moved"]
    assert events(tmp_path / "root.log") == ["INFO swarm.core.node: after"]
    assert events(tmp_path / "stats.log.1") == ["step:before", "step:moved"]
    assert events(tmp_path / "stats.log") == ["step:after"]


def test_reopen_that_fails_goes_on_in_the_old_file(tmp_path: Path) -> None:
    with logs_in(tmp_path) as logs:
        (tmp_path / "root.log").rename(tmp_path / "root.log.1")
        (tmp_path / "root.log").mkdir()
        logs.reopen()
        log.info("still here")
        assert logs.lines_lost == 0
    first, second = events(tmp_path / "root.log.1")
    assert first.startswith(f"ERROR swarm.core.logs: {tmp_path}/root.log cannot be reopened: ")
    assert second == "INFO swarm.core.node: still here"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_loses_lines_and_tells_once_per_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("root.log", "stats.log"):
        (tmp_path / name).symlink_to("/dev/full")
    with logs_in(tmp_path) as logs:
        assert logs.lines_lost == 0
        for number in range(3):
            log.info("event %d", number)
        logs.stats([figures({"a": 1})])
        logs.stats([figures({"a": 2})])
        assert logs.lines_lost == 5
        (tmp_path / "root.log").unlink()
        logs.reopen()
        log.info("there is room again")
        assert logs.lines_lost == 5
        logs.stats([])
        assert len(events(tmp_path / "root.log")) == 2, "stats.log is still lost"
        (tmp_path / "stats.log").unlink()
        logs.reopen()
        logs.stats([figures({"a": 3})])
        logs.stats([figures({"a": 4})])
        log.info("as ever")
    assert events(tmp_path / "root.log") == [
        "WARNING swarm.core.logs: 3 lines before this one were lost: they could not be written",
        "INFO swarm.core.node: there is room again",
        "WARNING swarm.core.logs: 3 lines of stats.log were lost: they could not be written",
        "INFO swarm.core.node: as ever",
    ]
    assert events(tmp_path / "stats.log") == ["a:3", "a:4"]
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" cannot be written")[0] for line in told] == [
        f"{tmp_path}/root.log",
        f"{tmp_path}/stats.log",
    ]


def test_a_line_torn_by_a_full_disk_does_not_spoil_the_next(tmp_path: Path) -> None:
    limit = 2**20  # large enough not to be in the way of files of the test runner
    path = tmp_path / "root.log"
    with path.open("wb") as file:
        file.truncate(limit - 30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with logs_in(tmp_path) as logs:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            log.info("lost")
            log.info("lost too")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert logs.lines_lost == 2
        log.info("first after")
        log.info("second after")
        assert logs.lines_lost == 2
    torn, *whole = path.read_bytes()[limit - 30 :].decode().splitlines()
    assert len(torn) == 30
    assert [line[len("2026-11-22 06:57:32.123 ") :] for line in whole] == [
        "WARNING swarm.core.logs: 2 lines before this one were lost: they could not be written",
        "INFO swarm.core.node: first after",
        "INFO swarm.core.node: second after",
    ]


@pytest.mark.parametrize("name", ["root.log", "stats.log"])
def test_logs_that_cannot_be_opened_are_an_error_at_start(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    handlers = list(logging.root.handlers)
    with pytest.raises(IsADirectoryError):
        open_logs(tmp_path, console=True)
    assert logging.root.handlers == handlers


def test_the_last_warnings_and_errors_are_kept(tmp_path: Path) -> None:
    with logs_in(tmp_path) as logs:
        assert logs.events == []
        log.info("not one of them")
        log.warning("lost %d bytes\nWARNING: no second line", 5)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("it crashed")
        log.critical("x" * 5000)
        log.warning("\0" * 5000)
        kept = logs.events
        assert [(level, text) for _, level, text in kept] == [
            ("WARNING", r"lost 5 bytes\nWARNING: no second line"),
            ("ERROR", "it crashed: ValueError: why"),
            ("CRITICAL", "x" * 1000),
            ("WARNING", r"\x00" * 250),
        ]
        now = datetime.now(UTC).timestamp()
        assert all(now - 60 < time <= now for time, _, _ in kept)
        for number in range(100):
            log.warning("%d", number)
        assert [text for _, _, text in logs.events] == [str(number) for number in range(50, 100)]
    with logs_in(tmp_path) as logs:
        assert logs.events == [], "of this start"


def test_close_leaves_the_root_logger_as_it_was(tmp_path: Path) -> None:
    before = (list(logging.root.handlers), logging.root.level)
    logs = open_logs(tmp_path, console=True)
    logs.close()
    logs.close()
    assert (list(logging.root.handlers), logging.root.level) == before
    log.error("nobody writes this down")
    assert events(tmp_path / "root.log") == []


def test_what_strangers_cause_is_told_seldom(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    seldom = SeldomLog(log, logging.WARNING, 3, lambda: now)
    for number in range(10):
        seldom.tell(f"event {number}")
    assert caplog.messages == ["event 0", "event 1", "event 2"]
    now += SELDOM_S - 0.1
    seldom.look()
    seldom.tell("event 10")
    assert len(caplog.messages) == 3
    now += 0.1
    seldom.look()
    assert caplog.messages[3:] == ["8 more like the last were not told, in 10 s"]
    for _ in range(5):
        now += SELDOM_S
        seldom.look()
        seldom.tell("now and then")
    assert caplog.messages[4:] == ["now and then"] * 5
