"""What nodes and dhtdump tell their service manager: real processes, and a notify socket of the test's own."""

import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from swarm.core import service_manager
from swarm.core.node import WrongData
from swarm.core.service_manager import ServiceManager, inherited_sockets, status
from tests.systemd.service_runs import (
    NODES,
    Service,
    listening,
    name_of,
    node_command,
    notify_socket,
    root_log,
    served_address,
    service,
    wait_for_log,
)
from tests.waiting import PATIENCE_S, wait_until

CLIENTS = {"dht": DhtClient, "queue": QueueClient, "logfiles": LogfilesClient}
WATCHDOG = {"WATCHDOG_USEC": "100000"}
MORE_TIME = {"EXTEND_TIMEOUT_USEC": "60000000"}
OFTEN = "[logs]\nstats_period = 100ms\n"

every_node = pytest.mark.parametrize("kind", NODES)


@every_node
def test_it_is_ready_when_it_serves_and_gives_signs_of_life(tmp_path: Path, kind: str) -> None:
    with service(tmp_path, node_command(kind, tmp_path), environment=WATCHDOG) as node:
        node.wait_for("READY")
        with CLIENTS[kind]([served_address(tmp_path)], timeout=10) as client:
            assert client.channels() == []
        assert node.messages[0] == {"STATUS": "loading"} | MORE_TIME
        node.wait_for("WATCHDOG", 5)
        assert node.stop() == 0


def test_it_is_not_ready_while_it_loads(tmp_path: Path) -> None:
    """It loads as long as nobody says what is in the manifest."""
    manifest = tmp_path / "data" / "dump" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    os.mkfifo(manifest)
    with service(tmp_path, node_command("dht", tmp_path)) as node:
        with manifest.open("wb", buffering=0):  # waits until the node has opened it
            node.wait_for("EXTEND_TIMEOUT_USEC")
            assert node.count("READY") == 0
            assert node.last("STATUS") == "loading"
            manifest.unlink()
        node.wait_for("READY")


def test_a_signal_while_it_loads(tmp_path: Path) -> None:
    manifest = tmp_path / "data" / "dump" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    os.mkfifo(manifest)
    with service(tmp_path, node_command("dht", tmp_path)) as node, manifest.open("wb", buffering=0):
        node.process.terminate()
        assert node.process.wait(PATIENCE_S) == 0
    assert node.messages[-1] == {"STOPPING": "1"}


@every_node
def test_its_status_says_records_and_connections(tmp_path: Path, kind: str) -> None:
    with service(tmp_path, node_command(kind, tmp_path, ini=OFTEN)) as node:
        node.wait_for("READY")
        assert node.last("STATUS").startswith("0 records in 0 channels, 0 connections")
        with CLIENTS[kind]([served_address(tmp_path)]) as client:
            fill(client, 3)
            wait_until(lambda: node.last("STATUS") == "3 records in 1 channels, 1 connections")
        wait_until(lambda: node.last("STATUS") == "3 records in 1 channels, 0 connections")


def fill(client: DhtClient | QueueClient | LogfilesClient, count: int) -> None:
    for number in range(count):
        value = b"%d" % number
        if isinstance(client, DhtClient):
            client.put("channel", value, value)
        elif isinstance(client, QueueClient):
            client.push("channel", value)
        else:
            client.put("channel", time.time(), value)


@every_node
def test_it_says_when_it_stops(tmp_path: Path, kind: str) -> None:
    with service(tmp_path, node_command(kind, tmp_path, ini=OFTEN)) as node:
        node.wait_for("READY")
        node.process.terminate()
        node.wait_for("STOPPING")
        assert node.process.wait(PATIENCE_S) == 0
    assert node.messages[-1] == {"STOPPING": "1"} | MORE_TIME


@every_node
def test_it_says_when_it_reloads(tmp_path: Path, kind: str) -> None:
    with service(tmp_path, node_command(kind, tmp_path)) as node:
        node.wait_for("READY")
        before = time.monotonic_ns() // 1000
        node.process.send_signal(signal.SIGHUP)
        node.wait_for("RELOADING")
        assert before <= int(node.last("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        wait_until(lambda: node.messages[-1] == {"READY": "1"})


def test_none_where_nobody_asks_for_them(tmp_path: Path) -> None:
    foreign = WATCHDOG | {"WATCHDOG_PID": "1"}
    with service(tmp_path, node_command("queue", tmp_path, ini=OFTEN), environment=foreign) as node:
        node.wait_for("STATUS", 5)
        assert node.count("WATCHDOG") == 0


def comes_no_more(node: Service, clock: Service) -> bool:
    """Whether a node gives no sign of life while another gives ten."""
    before = node.count("WATCHDOG")
    clock.wait_for("WATCHDOG", clock.count("WATCHDOG") + 10)
    return node.count("WATCHDOG") == before


def test_none_while_it_is_halted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with (
        service(tmp_path, node_command("dht", tmp_path), environment=WATCHDOG) as node,
        service(tmp_path / "b", node_command("queue", tmp_path / "b"), environment=WATCHDOG) as clock,
    ):
        node.wait_for("WATCHDOG")
        node.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: comes_no_more(node, clock))
        node.process.send_signal(signal.SIGCONT)
        node.wait_for("WATCHDOG", node.count("WATCHDOG") + 3)


def test_none_while_its_loop_hangs(tmp_path: Path) -> None:
    """In a write to a log that nobody takes: the process runs, and so do its threads."""
    (tmp_path / "b").mkdir()
    (tmp_path / "data").mkdir()
    stats = tmp_path / "data" / "stats.log"
    os.mkfifo(stats)
    pipe = os.open(stats, os.O_RDWR)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    os.write(pipe, bytes(4096))
    with (
        service(tmp_path, node_command("dht", tmp_path, ini=OFTEN), environment=WATCHDOG) as node,
        service(tmp_path / "b", node_command("queue", tmp_path / "b"), environment=WATCHDOG) as clock,
    ):
        node.wait_for("READY")
        wait_until(lambda: comes_no_more(node, clock))
        os.read(pipe, 4096)
        node.wait_for("WATCHDOG", node.count("WATCHDOG"))
    os.close(pipe)


def test_an_abstract_socket(tmp_path: Path) -> None:
    with service(tmp_path, node_command("queue", tmp_path), notify=f"@swarm-test-{os.getpid()}") as node:
        node.wait_for("READY")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"NOTIFY_SOCKET": "nonsense"}, "NOTIFY_SOCKET in the environment is neither a path nor @name"),
        ({"NOTIFY_SOCKET": "@" + "x" * 200}, "NOTIFY_SOCKET in the environment is neither"),
        ({"NOTIFY_SOCKET": "/nowhere/notify"}, "the service manager does not take messages: No such file"),
        ({"NOTIFY_SOCKET": "/dev/null"}, "the service manager does not take messages: Connection refused"),
        ({"WATCHDOG_USEC": "often"}, "WATCHDOG_USEC in the environment is no number of microseconds"),
        ({"WATCHDOG_USEC": "-1"}, "WATCHDOG_USEC in the environment is no number of microseconds"),
        ({"WATCHDOG_USEC": "0"}, "WATCHDOG_USEC in the environment is no number of microseconds"),
        ({"WATCHDOG_USEC": "9" * 5000}, "WATCHDOG_USEC in the environment is no number of microseconds"),
    ],
)
def test_what_makes_no_sense_is_told_once_and_ignored(tmp_path: Path, environment: dict[str, str], told: str) -> None:
    with service(tmp_path, node_command("queue", tmp_path, ini=OFTEN), environment=environment) as node:
        wait_for_log(tmp_path, lambda log: "serves on" in log)
        with QueueClient([served_address(tmp_path)]) as client:
            client.push("channel", b"value")
        assert node.stop() == 0
        assert "Traceback" not in node.errors()
    assert root_log(tmp_path).count(told) == 1


def test_the_least_watchdog_is_no_busy_loop(tmp_path: Path) -> None:
    with service(tmp_path, node_command("queue", tmp_path), environment={"WATCHDOG_USEC": "1"}) as node:
        node.wait_for("WATCHDOG", 20)
        cpu = sum(map(int, Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]))
        node.wait_for("WATCHDOG", 40)
        now = sum(map(int, Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]))
        assert (now - cpu) / os.sysconf("SC_CLK_TCK") < 0.5  # 20 of them take a second


def test_why_it_cannot_start_is_its_status(tmp_path: Path) -> None:
    with listening() as taken, service(tmp_path, node_command("dht", tmp_path, name_of(taken))) as node:
        assert "cannot listen on" in node.errors()
        assert node.process.returncode == 1
        wait_until(lambda: node.last("STATUS").startswith(f"cannot listen on {name_of(taken)}"))
        assert node.count("READY") == 0


def test_damage_has_an_exit_status_with_which_it_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "data" / "dump").mkdir(parents=True)
    (tmp_path / "data" / "dump" / "manifest.json").write_text("{")
    with service(tmp_path, node_command("dht", tmp_path)) as node:
        assert "manifest.json" in node.errors()
        assert node.process.returncode == WrongData.exit_status
        wait_until(lambda: "manifest.json" in node.last("STATUS"))
        assert node.count("READY") == 0


def test_without_a_service_manager_nothing_is_different(tmp_path: Path) -> None:
    with service(tmp_path, node_command("dht", tmp_path, ini=OFTEN), environment={"NOTIFY_SOCKET": ""}) as node:
        wait_for_log(tmp_path, lambda log: "serves on" in log)
        assert node.stop() == 0
        assert node.messages == []
    assert "WARNING" not in root_log(tmp_path)


def test_what_it_was_told_is_for_no_child_of_it() -> None:
    environment = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    ServiceManager(environment)
    assert environment == {"A": "b"}
    environment |= {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert inherited_sockets(environment) == []
    assert environment == {"A": "b"}


def test_more_time_is_asked_for_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager, "EXTEND_EVERY_S", 0.01)
    messages: list[dict[str, str]] = []
    with notify_socket(str(tmp_path / "notify"), messages):
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with manager.more_time("STATUS=busy"):
            wait_until(lambda: len(messages) > 3)
        with manager.more_time("STATUS=hangs", at_most_s=0):
            pass
    assert messages[0] == {"STATUS": "busy"} | MORE_TIME
    assert {"STATUS": "hangs"} | MORE_TIME in messages


def test_a_service_manager_that_does_not_read_halts_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(str(tmp_path / "notify"))
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(5000):
            manager.tell("WATCHDOG=1")
        assert caplog.text.count("does not take messages: Resource temporarily unavailable") == 1
        unread.recv(100)
        manager.tell("STATUS=it reads again")
        manager.tell("STATUS=and does not")
        assert caplog.text.count("does not take messages") == 2


def test_a_status_is_one_line_and_not_too_long() -> None:
    assert status("a\nREADY=1\0b") == "STATUS=a READY=1 b"
    assert len(status(10_000 * "€").encode()) < 4096  # what systemd reads


DHTDUMP = [sys.executable, "-m", "dhtdump"]


def test_what_dhtdump_tells(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    with service(tmp_path, node_command("dht", tmp_path)) as node:
        node.wait_for("READY")
        command = [*DHTDUMP, "--node", served_address(tmp_path), "--dump-dir", str(tmp_path / "dump")]
        with service(tmp_path / "dump", command, environment=WATCHDOG) as dump:
            dump.wait_for("READY")
            assert dump.last("STATUS").startswith("next dump at 20")
            assert dump.last("STATUS").endswith("; no dump yet")
            dump.wait_for("WATCHDOG", 3)
            dump.process.send_signal(signal.SIGHUP)
            dump.wait_for("RELOADING")
            dump.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: dump.last("STATUS").endswith(": 0 records"))
            assert "; last dump 20" in dump.last("STATUS")
            assert dump.stop() == 0
            wait_until(lambda: dump.count("STOPPING"))


def test_dhtdump_is_ready_without_its_node(tmp_path: Path) -> None:
    command = [*DHTDUMP, "--node", "127.0.0.1:1", "--dump-dir", str(tmp_path / "dump")]
    with service(tmp_path, command) as dump:
        dump.wait_for("READY")
        assert dump.stop() == 0
