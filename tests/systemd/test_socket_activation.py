"""Nodes that are handed the sockets on which their service manager listens: no restart refuses a connection."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

import swarm.dht
import swarm.logfiles
import swarm.queue
from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from swarm.core.config import Address
from swarm.core.errors import SwarmError
from swarm.core.transports import SocketTransport
from tests.systemd.service_runs import (
    NODES,
    listening,
    name_of,
    node_command,
    root_log,
    served_address,
    service,
)
from tests.waiting import PATIENCE_S, wait_until

ASYNC_CLIENTS = {
    "dht": swarm.dht.DhtClient,
    "queue": swarm.queue.QueueClient,
    "logfiles": swarm.logfiles.LogfilesClient,
}

every_node = pytest.mark.parametrize("kind", NODES)
every_end = pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
Client = DhtClient | QueueClient | LogfilesClient


def client_of(kind: str, address: str) -> Client:
    kinds: dict[str, Callable[[list[str]], Client]] = {
        "dht": lambda nodes: DhtClient(nodes, timeout=PATIENCE_S),
        "queue": lambda nodes: QueueClient(nodes, timeout=PATIENCE_S),
        "logfiles": lambda nodes: LogfilesClient(nodes, timeout=PATIENCE_S),
    }
    return kinds[kind]([address])


def store(client: Client, value: bytes) -> None:
    if isinstance(client, DhtClient):
        client.put("channel", value, value)
    elif isinstance(client, QueueClient):
        client.push("channel", value)
    else:
        client.put("channel", time.time(), value)


def stored(client: Client) -> set[bytes]:
    if isinstance(client, DhtClient):
        return {value for _, value in client.get_all("channel")}
    if isinstance(client, QueueClient):
        return set(client.pop_many("channel", 100_000))
    return {value for _, value in client.get_range("channel", 0, time.time() + 3600)}


@every_node
def test_a_client_that_comes_between_two_processes_is_served_by_the_second(tmp_path: Path, kind: str) -> None:
    with listening() as sock:
        command = node_command(kind, tmp_path, name_of(sock))
        with service(tmp_path, command, sockets=[sock]) as node:
            node.wait_for("READY")
            with client_of(kind, name_of(sock)) as client:
                store(client, b"first")
            assert node.stop() == 0
        waiting = socket.create_connection(sock.getsockname()[:2])  # nobody is there to serve it
        with waiting, service(tmp_path, command, sockets=[sock]) as node:
            trio.run(check_served, kind, waiting)
            with client_of(kind, name_of(sock)) as client:
                assert stored(client) == {b"first"}
            assert node.stop() == 0


async def check_served(kind: str, connected: socket.socket) -> None:
    async def connect(_: Address) -> SocketTransport:
        await trio.lowlevel.checkpoint()
        return SocketTransport(connected)

    connected.setblocking(False)
    async with ASYNC_CLIENTS[kind](["127.0.0.1:1"], connect=connect, timeout=PATIENCE_S) as client:
        assert await client.channels() == ["channel"]


@every_node
@every_end
def test_restarts_lose_nothing_that_was_acknowledged(tmp_path: Path, kind: str, end: signal.Signals) -> None:
    acknowledged: list[bytes] = []
    refused: list[str] = []
    enough = threading.Event()

    def write(address: str) -> None:
        with client_of(kind, address) as client:
            while not enough.is_set():
                value = b"%d" % len(acknowledged)
                with suppress(SwarmError):  # not known to be stored: the connection broke before the answer
                    store(client, value)
                    acknowledged.append(value)

    def connect(place: tuple[str, int]) -> None:
        while not enough.is_set():
            try:
                socket.create_connection(place).close()
            except OSError as error:
                refused.append(str(error))
            enough.wait(0.01)  # so that the backlog is not what is tested

    with listening() as sock:
        command = node_command(kind, tmp_path, name_of(sock))
        threads = [
            threading.Thread(target=write, args=[name_of(sock)]),
            threading.Thread(target=connect, args=[sock.getsockname()[:2]]),
        ]
        for thread in threads:
            thread.start()
        try:
            with service(tmp_path, command, sockets=[sock]) as node:
                node.wait_for("READY")
                wait_until(lambda: len(acknowledged) > 20)
                node.stop(end)
            with service(tmp_path, command, sockets=[sock]) as node:
                node.wait_for("READY")
                more = len(acknowledged)
                wait_until(lambda: len(acknowledged) > more)
                enough.set()
                for thread in threads:
                    thread.join()
                with client_of(kind, name_of(sock)) as client:
                    assert set(acknowledged) <= stored(client)
        finally:
            enough.set()
            for thread in threads:
                thread.join()
    assert not refused


def test_several_sockets(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with (
        listening() as sock,
        socket.create_server(str(path), family=socket.AF_UNIX) as unix,
        service(tmp_path, node_command("dht", tmp_path, name_of(sock)), sockets=[unix, sock]) as node,
    ):
        node.wait_for("READY")
        with DhtClient([f"unix:{path}"]) as one, DhtClient([name_of(sock)]) as other:
            one.put("channel", b"key", b"value")
            assert other.get("channel", b"key") == b"value"
        assert node.stop() == 0
        assert path.exists()  # it is the service manager's
        assert f"serves on unix:{path}, {name_of(sock)}, hash range" in root_log(tmp_path)
    assert "is not used" not in root_log(tmp_path)


@pytest.mark.parametrize(
    "configured", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/nowhere.sock", "nowhere.invalid:1"]
)
def test_another_address_than_the_configured_one_is_told(tmp_path: Path, configured: str) -> None:
    ini = "[node]\nallow_open_network = yes\n"
    with (
        listening() as sock,
        service(tmp_path, node_command("queue", tmp_path, configured, ini=ini), sockets=[sock]) as node,
    ):
        node.wait_for("READY")
        assert served_address(tmp_path) == name_of(sock)
        assert (
            f"listens on {name_of(sock)} for this node: the configured address, {configured}, is not used"
            in root_log(tmp_path)
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_nothing_is_told_where_it_is_the_configured_one(tmp_path: Path, host: str) -> None:
    with listening() as sock:
        configured = f"{host}:{sock.getsockname()[1]}"
        with service(tmp_path, node_command("queue", tmp_path, configured), sockets=[sock]) as node:
            node.wait_for("READY")
    assert "WARNING" not in root_log(tmp_path)


def test_a_unix_socket_by_its_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with (
        socket.create_server(str(tmp_path / "node.sock"), family=socket.AF_UNIX) as unix,
        service(tmp_path, node_command("queue", tmp_path, "unix:node.sock"), sockets=[unix]) as node,
    ):
        node.wait_for("READY")
    assert "WARNING" not in root_log(tmp_path)


def test_an_abstract_unix_socket(tmp_path: Path) -> None:
    name = f"swarm-test-{os.getpid()}"
    with (
        socket.create_server(f"\0{name}", family=socket.AF_UNIX) as unix,
        service(tmp_path, node_command("queue", tmp_path), sockets=[unix]) as node,
    ):
        node.wait_for("READY")
        assert served_address(tmp_path) == f"unix:@{name}"


def test_a_socket_that_others_reach_needs_the_same_word_as_such_an_address(tmp_path: Path) -> None:
    with listening(("0.0.0.0", 0)) as sock:
        port = sock.getsockname()[1]
        command = node_command("dht", tmp_path, f"127.0.0.1:{port}")
        with service(tmp_path, command, sockets=[sock]) as node:
            assert f"dhtnode: 0.0.0.0:{port} is not known to be loopback" in node.errors()
            assert node.process.returncode == 78
            wait_until(lambda: "is not known to be loopback" in node.last("STATUS"))
        ini = "[node]\nallow_open_network = yes\n"
        with service(tmp_path, node_command("dht", tmp_path, f"0.0.0.0:{port}", ini=ini), sockets=[sock]) as node:
            node.wait_for("READY")


@pytest.mark.parametrize("count", ["", "x", "-1", "1.5", "65", "9" * 5000, "²"])
def test_a_count_that_is_none(tmp_path: Path, count: str) -> None:
    with service(tmp_path, node_command("queue", tmp_path), environment={"LISTEN_FDS": count}) as node:
        assert "LISTEN_FDS in the environment is" in (errors := node.errors())
        assert "Traceback" not in errors
        assert node.process.returncode == 78


def refused(tmp_path: Path, sock: socket.socket, why: str) -> None:
    with service(tmp_path, node_command("queue", tmp_path), sockets=[sock]) as node:
        assert why in (errors := node.errors())
        assert "Traceback" not in errors
        assert node.process.returncode == 78
    assert why in root_log(tmp_path)


def test_sockets_that_nobody_can_be_served_on(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other:
        refused(tmp_path, one, "descriptor 3, which the service manager has passed, is not listening")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        refused(tmp_path, udp, "is neither a TCP nor a Unix stream socket")


def test_descriptors_that_are_no_sockets(tmp_path: Path) -> None:
    with service(tmp_path, node_command("queue", tmp_path), environment={"LISTEN_FDS": "1"}) as node:
        assert "descriptor 3, which the service manager has passed, is no socket" in node.errors()
        assert node.process.returncode == 78


@pytest.mark.parametrize("pid", ["1", "", "x", "-1"])
def test_what_is_for_another_process_is_left_alone(tmp_path: Path, pid: str) -> None:
    environment = {"LISTEN_PID": pid, "LISTEN_FDS": "x"}
    with service(tmp_path, node_command("queue", tmp_path), environment=environment) as node:
        node.wait_for("READY")
    assert "WARNING" not in root_log(tmp_path)


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate (Debian: systemd)"
)
def test_a_socket_from_systemd_itself(tmp_path: Path) -> None:
    with listening() as free:
        address = name_of(free)
    environment = ["-E", "NOTIFY_SOCKET", "-E", f"PYTHONPATH={Path(__file__).parents[2]}"]
    command = ["systemd-socket-activate", *environment, "-l", address, *node_command("dht", tmp_path, address)]
    with service(tmp_path, [str(shutil.which(command[0])), *command[1:]]) as node:
        with client_of("dht", address) as client:  # it starts the node when one connects
            store(client, b"value")
        node.wait_for("READY")
        assert node.stop() == 0
    assert "WARNING" not in root_log(tmp_path)
