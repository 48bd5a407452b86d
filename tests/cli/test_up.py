"""`swarm up` with real nodes: how it starts, restarts and stops them, and what it tells."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from nodes.dht.config import DhtConfig
from nodes.logfiles.config import LogfilesConfig
from nodes.queue.config import QueueConfig
from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from swarm.cli.supervisor import NodeProcess, State
from swarm.cli.terminal import format_bytes
from swarm.cli.up import NODES_MAX, PORTS, Figures, Row, draw
from swarm.cli.up import up as up_command
from swarm.core.config import Address
from swarm.core.node import default_memory_limit
from swarm.dht import DhtClient as AsyncDhtClient
from swarm.dht.hash_range import HashRange
from tests.waiting import PATIENCE_S, wait_until

SWARM = [sys.executable, "-m", "swarm.cli.main"]


class Up:
    """A running `swarm up`, not on a terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path, data: Path) -> None:
        self.process = process
        self.nodes_file = data / "nodes"
        self._output = output

    def text(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str) -> "re.Match[str]":
        return wait_until(lambda: re.search(pattern, self.text()))

    def pids(self) -> dict[str, int]:
        """Of each node that has run, the last."""
        return {
            name: int(pid)
            for name, pid in re.findall(
                r"((?:dht|dump|queue|logfiles)-\d) (?:running on|dumps) .* \(pid (\d+)\)", self.text()
            )
        }

    def wait_for_another(self, name: str, pid: int) -> dict[str, int]:
        """Until the node runs with another pid; those of all."""
        wait_until(lambda: self.pids()[name] != pid)
        return self.pids()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def swarm_up(directory: Path, *options: str) -> Iterator[Up]:
    """Starts it in a directory of its own, and waits until it is up."""
    data, output = directory / "data", directory / "output"
    with output.open("wb") as file:
        command = [*SWARM, "up", "--data", str(data), "--base-port", "0", *options]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    with process:
        up = Up(process, output, data)
        try:
            up.wait_for("swarm is up")
            yield up
        finally:
            if process.poll() is None:
                up.stop()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def failing_up(*options: str) -> str:
    """Of one that cannot start: what it says."""
    done = subprocess.run([*SWARM, "up", *options], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert "is up" not in done.stdout
    return done.stderr


def test_its_nodes_share_the_hashes_and_stand_in_the_nodes_file(tmp_path: Path) -> None:
    with swarm_up(tmp_path, "--dht", "3") as up, DhtClient(nodes_file=up.nodes_file) as dht:
        dht.put_many("channel", {f"key {number}": b"value" for number in range(300)})
        assert dht.channel_size("channel")[0] == 300
        assert dht.ring_problems == []
        assert all(each["records"] > 50 for each in dht.node_statistics().values())
        assert len(up.nodes_file.read_text().splitlines()) == 3
        assert sorted(up.pids()) == [
            *(f"{kind}-{number}" for kind in ("dht", "dump") for number in (1, 2, 3)),
            "logfiles-1",
            "queue-1",
        ]


def memory_limits(up: Up) -> list[int]:
    with DhtClient(nodes_file=up.nodes_file) as dht:
        return [each["memory_limit"] for each in dht.node_statistics().values()]


def test_its_nodes_share_the_memory(tmp_path: Path) -> None:
    with swarm_up(tmp_path, "--dht", "3") as up:
        assert memory_limits(up) == [default_memory_limit() // 3] * 3
    with swarm_up(tmp_path, "--dht", "3", "--memory-limit", "3 GiB") as up:
        assert memory_limits(up) == [2**30] * 3


@pytest.mark.parametrize("size", ["much", "-1", "1.5B", "0", "1"])
def test_a_memory_limit_that_is_none_is_a_wrong_call(size: str, tmp_path: Path) -> None:
    command = [*SWARM, "up", "--data", str(tmp_path / "data"), "--memory-limit", size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "--memory-limit" in done.stderr
    assert not (tmp_path / "data").exists()


def test_each_event_is_a_line(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up:
        up.stop()
    time, name = r"\d\d:\d\d:\d\d ", r"(?:dht-[12]|queue-1|logfiles-1) "
    started = rf"({time}{name}running on 127\.0\.0\.1:\d+ \(pid \d+\)\n){{4}}"
    dumps = rf"({time}dump-[12] dumps 127\.0\.0\.1:\d+ \(pid \d+\)\n){{2}}"
    data = re.escape(str(up.nodes_file.parent))
    commands = [rf"swarm {kind} --nodes {data}/nodes-{kind} …" for kind in ("queue", "logfiles")]
    is_up = rf"{time}swarm is up: swarm dht --nodes {data}/nodes …, {', '.join(commands)}\n"
    stopped = rf"({time}(dht-[12]|dump-[12]|queue-1|logfiles-1) (stopping|stopped)\n){{12}}"
    assert re.fullmatch(started + dumps + is_up + stopped, up.text()), up.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with swarm_up(tmp_path) as up:
        up.process.send_signal(number)
        assert up.process.wait(PATIENCE_S) == 0
        assert not any(map(is_running, up.pids().values()))
        assert (tmp_path / "data/dht-1/root.log").read_text().endswith(": stopped\n")


def processes_with(text: str) -> list[str]:
    """Command lines of all processes that contain the text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found.append(path.read_text(errors="replace"))
    return [each for each in found if text in each]


def test_it_can_be_stopped_while_its_nodes_are_starting(tmp_path: Path) -> None:
    command = [*SWARM, "up", "--data", str(tmp_path), "--base-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until((tmp_path / "dht-1" / "console.log").exists)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert processes_with(str(tmp_path)) == []


def test_a_node_that_was_killed_is_started_again_where_it_was(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up, DhtClient(nodes_file=up.nodes_file) as dht:
        dht.ping()
        first = up.pids()
        os.kill(first["dht-1"], signal.SIGKILL)
        up.wait_for(r"dht-1 was killed by signal 9 \(Killed\); restarting in 0\.1 s")
        second = up.wait_for_another("dht-1", first["dht-1"])
        assert second["dht-2"] == first["dht-2"]
        dht.put_many("channel", {f"key {number}": b"value" for number in range(100)})
        assert dht.channel_size("channel")[0] == 100


def test_a_dhtdump_that_was_killed_is_started_again(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up:
        first = up.pids()
        os.kill(first["dump-2"], signal.SIGKILL)
        second = up.wait_for_another("dump-2", first["dump-2"])
        assert {name: pid for name, pid in second.items() if name != "dump-2"} == {
            name: pid for name, pid in first.items() if name != "dump-2"
        }
        root_log = tmp_path / "data/dht-2/dump/root.log"
        wait_until(lambda: root_log.read_text().count("next dump at") == 2)


def test_a_dhtdump_stops_before_its_node(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up:
        os.kill(up.pids()["dump-1"], signal.SIGSTOP)
        up.process.send_signal(signal.SIGTERM)
        up.wait_for("dht-2 stopped")
        os.kill(up.pids()["dump-1"], signal.SIGCONT)
        assert up.process.wait(PATIENCE_S) == 0
        told = [line.split(" ", 1)[1] for line in up.text().splitlines()]
        for number in (1, 2):
            assert told.index(f"dump-{number} stopped") < told.index(f"dht-{number} stopping")


def test_a_node_that_dies_again_at_once_waits_longer(tmp_path: Path) -> None:
    with swarm_up(tmp_path, "--dht", "1") as up:
        for backoff in (r"0\.1", r"0\.2", r"0\.4"):
            pid = up.pids()["dht-1"]
            os.kill(pid, signal.SIGTERM)
            up.wait_for(f"dht-1 ended with exit status 0; restarting in {backoff} s")
            up.wait_for_another("dht-1", pid)


def test_killed_itself_it_leaves_no_nodes_behind(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up:
        pids = up.pids().values()
        assert all(map(is_running, pids))
        up.process.kill()
        wait_until(lambda: not any(map(is_running, pids)))


def test_a_second_signal_does_not_wait_for_a_node_that_hangs(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up:
        os.kill(up.pids()["dht-1"], signal.SIGSTOP)
        up.process.send_signal(signal.SIGTERM)
        up.wait_for("dht-2 stopped")
        assert up.process.poll() is None
        assert up.stop() == 0
        assert not any(map(is_running, up.pids().values()))


def test_it_goes_on_when_nobody_reads_its_events_any_more(tmp_path: Path) -> None:
    command = [*SWARM, "up", "--data", str(tmp_path), "--base-port", "0", "--dht", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.stdout.close()
        try:
            os.kill(int(line.split("pid ")[1].rstrip(")\n")), signal.SIGKILL)
            with DhtClient(nodes_file=wait_until(lambda: next(tmp_path.glob("nodes"), None))) as dht:
                dht.put("channel", "key", b"value")
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = failing_up("--data", str(tmp_path), "--base-port", str(port), "--dht", "1")
    assert text.startswith(
        f"swarm: dht-1 does not start: it ended with exit status 1: dhtnode: cannot listen on 127.0.0.1:{port}"
    )
    assert "in use" in text
    assert str(tmp_path / "dht-1" / "console.log") in text
    assert not (tmp_path / "nodes").exists()


def test_a_data_directory_in_use_is_told_and_its_owner_goes_on(tmp_path: Path) -> None:
    with swarm_up(tmp_path) as up:
        nodes = up.nodes_file.read_text()
        text = failing_up("--data", str(tmp_path / "data"), "--base-port", "0")
        assert re.search(r"swarm: (dht|queue|logfiles)-. does not start: .*the data directory .* is in use", text)
        assert up.nodes_file.read_text() == nodes
        with DhtClient(nodes_file=up.nodes_file) as dht:
            dht.ping()


def test_when_one_node_cannot_start_none_is_left(tmp_path: Path) -> None:
    (tmp_path / "dht-1").write_text("in the way")
    text = failing_up("--data", str(tmp_path), "--base-port", "0")
    assert text.startswith("swarm: dht-1 does not start: it could not be run: ")
    root_log = tmp_path / "dht-2" / "root.log"
    assert not root_log.exists() or root_log.read_text().endswith(": stopped\n")


def test_a_data_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert failing_up("--data", str(tmp_path / "file")).startswith(f"swarm: {tmp_path / 'file'}: ")


def test_ports_that_do_not_exist_are_a_wrong_call(tmp_path: Path) -> None:
    command = [*SWARM, "up", "--data", str(tmp_path), "--base-port", "65535"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "above 65535" in done.stderr


def read_until(terminal: int, pattern: bytes) -> bytes:
    """What is written on the terminal until the pattern comes."""
    shown = b""

    def more() -> object:
        nonlocal shown
        if select.select([terminal], [], [], 0)[0]:
            shown += os.read(terminal, 65536)
        return re.search(pattern, shown)

    wait_until(more)
    return shown


def test_on_a_terminal_there_is_a_table(tmp_path: Path) -> None:
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 130, 0, 0))
    command = [*SWARM, "up", "--data", str(tmp_path), "--base-port", "0"]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        command, stdin=its_end, stdout=its_end, stderr=its_end, env=environment | {"TERM": "xterm"}
    ) as process:
        os.close(its_end)
        try:
            read_until(terminal, rb"dht-1 .*running.* MiB +0 +\r\ndht-2 .*running.* MiB +0 +\r\n")
        finally:
            process.send_signal(signal.SIGINT)
        read_until(terminal, rb"dht-1 .*stopped.*\r\ndht-2 .*stopped")
        assert process.wait(PATIENCE_S) == 0
    os.close(terminal)


def row(number: int, kind: str = "dht") -> Row:
    node = NodeProcess(f"{kind}-{number}", "", Address("127.0.0.1", 10000 + number), Path(), (), lambda *_: None)
    node.state, node.pid = State.RUNNING, 4194304
    return Row(node, AsyncDhtClient, HashRange(), Figures(1_234_567, 2**30, 2_000_000, 4096, 18 * 2**30, 11.0))


def figures(requests: int, taken_at_s: float) -> Figures:
    request = {"get": {"handled": requests}, "stats": {"handled": 77}}
    statistics = {"request": request, "records": 1, "bytes": 2, "connections": 3, "rss_bytes": 4}
    return Figures.of(statistics, taken_at_s)


def test_its_own_questions_are_not_counted() -> None:
    assert figures(5, 1.0) == Figures(1, 2, 5, connections=2, memory_bytes=4, taken_at_s=1.0)


def test_requests_per_second_are_those_between_the_last_two_answers() -> None:
    shown = row(1)
    rates = []
    for each in (figures(100, 1.0), figures(150, 3.0), figures(10, 4.0), figures(11, 5.0), None, figures(12, 6.0)):
        shown.take(each)
        rates.append(shown.requests_per_s)
    assert rates == [None, 25.0, None, 1.0, None, None]


@pytest.mark.parametrize(("columns", "wide"), [(80, False), (120, True)])
def test_the_table_fits(columns: int, wide: bool) -> None:
    rows = [row(number, "logfiles") for number in range(1, 65)]
    for each in rows:
        each.before = figures(0, 10.0)
    console = Console(width=columns, file=SimpleNamespace(write=len, flush=lambda: None), record=True)  # type: ignore[arg-type]
    console.print(draw(rows, ["an event"], "a hint", wide=wide))
    text = console.export_text()
    assert "…" not in text
    assert len(text.splitlines()) == 1 + 64 + 2
    assert "1,234,567" in text
    assert "2,000,000" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (150 * 2**10, "150 KiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**50, "1,024.0 TiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("options", [("--dht", "1"), ("--dht", "3"), ()])
def test_another_number_of_nodes_than_before_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    for number in range(1, 5):
        (data / f"dht-{number}").mkdir(parents=True)
    (data / "nodes").write_text("127.0.0.1:1\n" * 4)
    (data / "dht-2" / "identity").write_text("0" * 32)
    command = [*SWARM, "up", "--data", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"swarm: {data} was started with 4 nodes before")
    assert "use --dht 4" in done.stderr


def run_up(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*SWARM, "up", *options], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_queue_nodes_have_a_nodes_file_of_their_own(tmp_path: Path) -> None:
    with swarm_up(tmp_path, "--dht", "1", "--queue", "2") as up:
        assert sorted(up.pids()) == ["dht-1", "dump-1", "logfiles-1", "queue-1", "queue-2"]
        nodes = (tmp_path / "data" / "nodes-queue").read_text().split()
        assert len(nodes) == 2
        with QueueClient(nodes_file=tmp_path / "data" / "nodes-queue") as queue:
            queue.push("channel", b"record")
            assert queue.channel_size("channel") == (1, 6)
            assert sorted(queue.node_statistics()) == sorted(nodes)
        assert not set(nodes) & set(up.nodes_file.read_text().split())


def test_a_queue_node_that_was_killed_is_started_again_with_what_it_held(tmp_path: Path) -> None:
    with swarm_up(tmp_path, "--dht", "1") as up, QueueClient(nodes_file=tmp_path / "data" / "nodes-queue") as queue:
        queue.push("channel", b"record")
        first = up.pids()
        os.kill(first["queue-1"], signal.SIGKILL)
        second = up.wait_for_another("queue-1", first["queue-1"])
        assert second["dht-1"] == first["dht-1"]
        assert queue.pop("channel") == b"record"


def test_logfiles_nodes_have_a_nodes_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "data" / "nodes-logfiles"
    with (
        swarm_up(tmp_path, "--dht", "1", "--queue", "0", "--logfiles", "2") as up,
        LogfilesClient(nodes_file=file) as logs,
    ):
        assert sorted(up.pids()) == ["dht-1", "dump-1", "logfiles-1", "logfiles-2"]
        logs.put("channel", 1.5, b"record")
        first = up.pids()
        os.kill(first["logfiles-1"], signal.SIGKILL)
        up.wait_for_another("logfiles-1", first["logfiles-1"])
        assert list(logs.get_range("channel")) == [(1_500_000_000, b"record")]
        assert sorted(logs.node_statistics()) == sorted(file.read_text().split())


@pytest.mark.parametrize("kind", ["queue", "logfiles"])
def test_without_nodes_of_a_kind_no_file_names_any(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / f"nodes-{kind}").write_text("127.0.0.1:1\n")
    with swarm_up(tmp_path, "--dht", "1", f"--{kind}", "0") as up:
        assert not any(name.startswith(kind) for name in up.pids())
        assert not (data / f"nodes-{kind}").exists()
        assert f"swarm {kind}" not in up.text()


@pytest.mark.parametrize("kind", ["queue", "logfiles"])
def test_nodes_that_hold_channels_are_not_left_out(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    (data / f"{kind}-3" / "channels" / "channel").mkdir(parents=True)
    (data / f"{kind}-4" / "channels").mkdir(parents=True)
    (data / f"{kind}-old" / "channels" / "channel").mkdir(parents=True)
    done = run_up("--data", str(data), f"--{kind}", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"swarm: {data} was started with 3 {kind} nodes before, and {kind}-3 holds channels: "
        f"use --{kind} 3, or another --data\n"
    )


def test_the_ports_of_a_swarm_do_not_overlap() -> None:
    first = [0, *PORTS.values()]
    assert all(after - before >= NODES_MAX for before, after in pairwise(first))


def test_by_default_the_ports_are_those_of_nodes_by_themselves() -> None:
    base_port = next(option.default for option in up_command.params if option.name == "base_port")
    alone = (DhtConfig(), QueueConfig(), LogfilesConfig())
    assert [config.node.address.port - base_port for config in alone] == [0, *PORTS.values()]


@pytest.mark.parametrize(
    "options",
    [
        ("--queue", "2", "--base-port", "65435"),
        ("--logfiles", "2", "--base-port", "65335"),
        ("--queue", "-1"),
        ("--logfiles", "-1"),
        ("--queue", "65"),
        ("--logfiles", "65"),
    ],
)
def test_wrong_numbers_of_nodes_are_a_wrong_call(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run_up("--data", str(tmp_path / "data"), *options)
    assert done.returncode == 2
    assert options[0] in done.stderr or "above 65535" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_same_number_of_nodes_as_before(tmp_path: Path) -> None:
    for _ in range(2):
        with swarm_up(tmp_path, "--dht", "1") as up:
            assert up.stop() == 0
    assert (
        "was started with 1 nodes before"
        in subprocess.run(
            [*SWARM, "up", "--data", str(tmp_path / "data")], capture_output=True, text=True, check=False
        ).stderr
    )


def test_damage_names_the_command_that_accepts_it(tmp_path: Path) -> None:
    with swarm_up(tmp_path, "--dht", "1") as up, DhtClient(nodes_file=up.nodes_file) as dht:
        dht.put("channel", b"key", b"value")
    data = tmp_path / "data" / "dht-1"
    (data / "dump" / "manifest.json").write_text("damaged")
    said = failing_up("--data", str(tmp_path / "data"), "--dht", "1", "--base-port", "0", "--memory-limit", "1 GiB")
    command = re.search(r"; by hand it starts with: dhtnode (.*)\n", said)
    assert command is not None, said
    assert command[1] == (
        f"--address 127.0.0.1:0 --data {data} --hash-range {HashRange()} --memory-limit {2**30} --accept-damage"
    )
