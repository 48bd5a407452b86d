"""`swarm top` with real nodes, killed, stopped and hostile ones: what it shows, and how it leaves the terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from swarm.blocking import QueueClient
from swarm.cli.top_table import COLUMNS, draw, format_seconds, problems
from swarm.dht.hash_range import HashRange
from swarm.monitor import NodeView, Reason
from swarm.testing import DhtProcess, LogfilesProcess, QueueProcess
from tests.cli.commands import SWARM, swarm
from tests.monitor.hostile import for_stats, hostile_node
from tests.waiting import PATIENCE_S, wait_until

NOWHERE = "127.0.0.1:1"
LEFT = b"\x1b[?1049l"  # the alternate screen
FAST = ("--interval", "100ms")


class Terminal:
    """A running command, and the terminal that it has."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int, its_end: int) -> None:
        self.process = process
        self._terminal = terminal
        self._its_end = its_end
        self._modes = termios.tcgetattr(its_end)
        self._seen = b""

    def read_until(self, pattern: bytes) -> bytes:
        """What is drawn from now on, until the pattern comes."""
        shown = b""

        def more() -> object:
            nonlocal shown
            if select.select([self._terminal], [], [], 0)[0]:
                shown += os.read(self._terminal, 65536)
            return re.search(pattern, shown)

        wait_until(more)
        return shown

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def modes_are_as_before(self) -> bool:
        return termios.tcgetattr(self._its_end) == self._modes


@contextmanager
def top_on_a_terminal(*options: str, columns: int = 160) -> Iterator[Terminal]:
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [*SWARM, "top", *FAST, *options]
    with subprocess.Popen(
        command, stdin=its_end, stdout=its_end, stderr=its_end, env=environment | {"TERM": "xterm"}
    ) as process:
        try:
            yield Terminal(process, terminal, its_end)
        finally:
            process.kill()
    os.close(its_end)
    os.close(terminal)


def test_once_every_node_is_a_row(tmp_path: Path) -> None:
    with (
        DhtProcess(tmp_path / "d") as dht,
        QueueProcess(tmp_path / "q") as queue,
        LogfilesProcess(tmp_path / "l") as logs,
    ):
        with QueueClient(queue.address) as client:
            client.push_many("channel", [b"x" * 1_000_000] * 40)
        done = swarm("top", "--once", *FAST, "--dht", dht.address, "--queue", queue.address, "--logfiles", logs.address)
    assert (done.returncode, done.stderr) == (0, b"")
    head, *rows = done.stdout.decode().splitlines()
    assert head.split() == list(COLUMNS)
    assert [row.split()[:3] for row in rows] == [
        ["up", kind, node.address] for kind, node in (("dht", dht), ("queue", queue), ("logfiles", logs))
    ]
    assert "100.0%" in rows[0]
    assert re.search(r" 40 +38\.1 MiB .* 60% channel ", rows[1])
    assert b"\x1b" not in done.stdout


def test_a_dead_node_is_a_row_and_a_sentence(tmp_path: Path) -> None:
    with QueueProcess(tmp_path) as node:
        done = swarm("top", "--once", *FAST, "--dht", NOWHERE, "--queue", node.address)
    assert done.returncode == 0
    _, first, second, sentence = done.stdout.decode().splitlines()
    assert first.split()[:3] == ["down", "dht", NOWHERE]
    assert second.split()[:3] == ["up", "queue", node.address]
    assert sentence == f"dht {NOWHERE} is down: Connection refused"


def test_json_is_a_line_for_each_look(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:
        command = [*SWARM, "top", "--json", *FAST, "--dht", f"{node.address}, {NOWHERE}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            looks = [json.loads(process.stdout.readline()) for _ in range(3)]
            process.stdout.close()  # nobody reads any more
            assert process.wait(PATIENCE_S) == -signal.SIGPIPE
            assert process.stderr is not None
            assert process.stderr.read() == b""
    assert looks[0]["time"] < looks[1]["time"] < looks[2]["time"]
    for look in looks:
        assert [(each["kind"], each["address"], each["state"]) for each in look["nodes"]] == [
            ("dht", node.address, "up"),
            ("dht", NOWHERE, "down"),
        ]
    assert looks[0]["nodes"][0]["hash_range"] == str(HashRange())
    assert looks[2]["nodes"][0]["requests_per_s"] == 0
    assert looks[0]["nodes"][1]["reason"] == "refused"


def test_json_once_is_one_line(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:
        done = swarm("top", "--json", "--once", *FAST, "--dht", node.address)
    [line] = done.stdout.splitlines()
    assert json.loads(line)["nodes"][0]["requests_per_s"] == 0


def test_live_it_shows_a_node_that_hangs_and_one_that_was_killed(tmp_path: Path) -> None:
    with (
        DhtProcess(tmp_path / "1") as first,
        DhtProcess(tmp_path / "2") as second,
        top_on_a_terminal("--dht", f"{first.address},{second.address}") as top,
    ):
        up, down = (rb"up[^\r]*%s[^\r]* 100\.0%%", rb"down[^\r]*%s[^\r]* 100\.0%%")
        one, two = first.address.encode(), second.address.encode()
        top.read_until(up % one + rb"[^\r]*\r\n[^\r]*" + up % two)
        with first.paused():
            top.read_until(down % one + rb"[^\r]*\r\n[^\r]*" + up % two)
            second.kill()
            top.read_until(rb"dht %s is down: it does not answer" % one)
            top.read_until(rb"dht %s is down: Connection refused" % two)
        second.start()
        top.read_until(up % one + rb"[^\r]*\r\n[^\r]*" + up % two)
        top.press(b"q")
        assert top.process.wait(PATIENCE_S) == 0
        top.read_until(re.escape(LEFT))
        assert top.modes_are_as_before()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    with top_on_a_terminal("--dht", NOWHERE) as top:
        top.read_until(b"down")
        assert not top.modes_are_as_before()
        top.process.send_signal(number)
        assert top.process.wait(PATIENCE_S) == -number
        top.read_until(re.escape(LEFT))
        assert top.modes_are_as_before()


def test_keys_sort_the_rows(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node, top_on_a_terminal("--dht", f"{node.address},{NOWHERE}") as top:
        address = node.address.encode()
        top.read_until(address + rb"(?s:.)*\r\n[^\r]*" + re.escape(NOWHERE.encode()))
        top.press(b"?s")
        top.read_until(rb"\x1b\[1m  s state")
        shown = top.read_until(rb"q quit")
        assert shown.index(NOWHERE.encode()) < shown.index(address)


def test_80_columns_are_enough(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node, top_on_a_terminal("--dht", node.address, columns=80) as top:
        text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", top.read_until(rb"e errors")).decode()
    assert node.address in text
    assert max(map(len, text.split("\r\n"))) <= 80


def test_nothing_that_a_node_sends_reaches_the_terminal_raw() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e[red]\r\n"
    with (
        hostile_node("dht", lambda code: ValueError(evil)) as refuses,
        hostile_node("dht", for_stats({"channel": {evil: {}}, "request": {evil: {}}})) as lies,
        hostile_node("dht", for_stats({"request": {evil: {"handled": 1}}}), software=evil) as boasts,
    ):
        options = ("--once", *FAST, "--dht", f"{refuses},{lies},{boasts}")
        for format_option in ((), ("--json",)):
            done = swarm("top", *options, *format_option)
            assert done.returncode == 0
            assert done.stdout.decode().replace("\n", "").isprintable()
        assert "owned" in swarm("top", *options).stdout.decode()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "which nodes?"),
        (("--dht", "nowhere"), "'nowhere' is no address"),
        (("--dht", NOWHERE, "--dht-nodes", "file"), "not both"),
        (("--queue-nodes", "missing"), "cannot read the nodes file missing"),
        (("--dht", f"{NOWHERE},{NOWHERE}"), "named twice"),
        (("--dht", NOWHERE, "--interval", "1ms"), "an interval is from 100ms to 1h"),
        (("--dht", ",".join(f"127.0.0.1:{port}" for port in range(1, 1026))), "more than the 1024"),
    ],
)
def test_wrong_calls(options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = swarm("top", *options)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()


def nodes_of(*options: str, environment: dict[str, str] | None = None) -> list[tuple[str, str]]:
    done = swarm("top", "--json", "--once", *FAST, *options, environment=environment)
    assert done.returncode == 0, done.stderr
    return [(each["kind"], each["address"]) for each in json.loads(done.stdout)["nodes"]]


def test_where_the_nodes_come_from(tmp_path: Path) -> None:
    for number, name in enumerate(("nodes", "nodes-queue", "nodes-logfiles", "other"), 11):
        (tmp_path / name).write_text(f"# comment\n127.0.0.1:{number}\n")
    data = ("--data", str(tmp_path))
    environment = {"SWARM_QUEUE_NODES": "127.0.0.1:2, 127.0.0.1:3"}
    of_data = [("dht", "127.0.0.1:11"), ("queue", "127.0.0.1:12"), ("logfiles", "127.0.0.1:13")]
    assert nodes_of(*data) == of_data
    assert nodes_of(*data, environment=environment) == of_data
    assert nodes_of(environment=environment) == [("queue", "127.0.0.1:2"), ("queue", "127.0.0.1:3")]
    assert nodes_of(*data, "--dht", NOWHERE, environment=environment) == [("dht", NOWHERE)]
    assert nodes_of("--logfiles-nodes", str(tmp_path / "other"), "--dht", NOWHERE) == [
        ("dht", NOWHERE),
        ("logfiles", "127.0.0.1:14"),
    ]


def view(number: int, **figures: object) -> NodeView:
    busy = NodeView(
        "logfiles",
        f"192.168.100.{number}:10201",
        "up",
        reason=None,
        hash_range=HashRange(),
        records=123_456_789,
        bytes=2**40 - 2**30,
        requests_per_s=123_456.0,
        latency_s=(0.0001, 0.1),
        connections=4096,
        memory_used=2**34,
        memory_limit=2**35,
        fullest=(("x" * 128, 99.9),),
        dump_age_s=100_000.0,
        lag_s=0.25,
        errors=12_345,
    )
    return NodeView(**{**{name: getattr(busy, name) for name in busy.__dataclass_fields__}, **figures})


def drawn(views: list[NodeView], columns: int, lines: int = 40) -> list[str]:
    console = Console(width=columns, file=StringIO(), record=True)
    console.print(draw(views, columns=columns, lines=lines, with_keys=True))
    return console.export_text().splitlines()


@pytest.mark.parametrize("columns", [40, 80, 100, 132, 200])
def test_the_least_important_columns_go_first(columns: int) -> None:
    lines = drawn([view(1), view(2, state="down", reason=Reason.REFUSED, error="Connection refused")], columns)
    assert all(len(line.rstrip()) <= columns for line in lines)
    shown = lines[0].split()
    assert [title for title in COLUMNS if title in shown] == shown
    assert {"state", "address", "req/s"} <= set(shown)
    assert "192.168.100.1:10201" in lines[1]
    assert "123,456" in lines[1]
    assert columns < 80 or "records" in shown
    assert columns < 200 or shown == list(COLUMNS)


def test_what_is_wrong_is_told_below_as_far_as_there_is_room() -> None:
    views = [view(number, findings=(("memory", "near its limit"),)) for number in range(1, 31)]
    lines = drawn(views, 80, lines=40)
    assert len(lines) == 40
    assert lines[31].rstrip() == "logfiles 192.168.100.1:10201, memory: near its limit"
    assert lines[38].rstrip() == "and 23 more"
    assert problems(views)[29].startswith("logfiles 192.168.100.30:10201")


def test_a_node_that_was_not_asked_yet_is_no_problem() -> None:
    view = NodeView("dht", NOWHERE)
    assert view.reason == Reason.NOT_ASKED
    assert problems([view]) == []
    assert drawn([view], 80)[1].split()[:3] == ["…", "dht", NOWHERE]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (85e-6, "85 µs"),
        (0.00123, "1.2 ms"),
        (0.1, "100 ms"),
        (5, "5.0 s"),
        (119, "119 s"),
        (900, "15 min"),
        (30_000, "8.3 h"),
        (1e6, "12 d"),
    ],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
