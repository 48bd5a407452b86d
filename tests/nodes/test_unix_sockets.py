"""Nodes that listen on a Unix socket: who may connect, what is done about the file, and every client of them."""

import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from conformance_runs import AwaitableClient

import swarm.blocking
from swarm.core.config import Address
from swarm.core.node import NodeError, listen
from swarm.dht import DhtClient
from swarm.logfiles import LogfilesClient
from swarm.queue import QueueClient
from swarm.testing import running_dht, running_logfiles, running_queue
from tests.cli.commands import swarm as swarm_command

HANG_S = 20.0


async def use_dht(dht: Any) -> None:
    await dht.put("a", "key", b"value")
    assert await dht.get("a", "key") == b"value"


async def use_queue(queue: Any) -> None:
    await queue.push("a", b"record")
    assert await queue.pop("a") == b"record"


async def use_logfiles(logfiles: Any) -> None:
    await logfiles.put("a", 5, b"line")
    assert await logfiles.time_span("a") == (5, 5)
    await logfiles.remove_channel("a")


@pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])
@pytest.mark.parametrize(
    ("running", "client", "use"),
    [
        (running_dht, DhtClient, use_dht),
        (running_queue, QueueClient, use_queue),
        (running_logfiles, LogfilesClient, use_logfiles),
    ],
    ids=["dht", "queue", "logfiles"],
)
def test_every_client_at_every_kind_of_node(
    kind: str, running: Any, client: Any, use: Callable[[Any], Awaitable[None]], tmp_path: Path
) -> None:
    with running(2, unix_directory=tmp_path) as nodes:

        async def main() -> None:
            blocking = getattr(swarm.blocking, client.__name__)
            made = AwaitableClient(blocking(nodes.addresses)) if kind == "blocking" else client(nodes.addresses)
            with anyio.fail_after(HANG_S):
                async with made as opened:
                    await use(opened)

        anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


def test_the_command_line_reaches_a_node(tmp_path: Path) -> None:
    with running_dht(unix_directory=tmp_path) as dht:
        assert swarm_command("dht", "--node", *dht.addresses, "put", "a", "key", "value").returncode == 0
        done = swarm_command("dht", "--node", *dht.addresses, "get", "a", "key")
        assert (done.returncode, done.stdout) == (0, b"value")


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = swarm_command("dht", "--timeout", "100ms", "--node", f"unix:{tmp_path}/none", "channels")
    assert done.returncode == 1
    assert f"unix:{tmp_path}/none".encode() in done.stderr
    assert b"No such file or directory" in done.stderr


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_owner_and_group_may_connect_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    before = os.umask(umask)
    try:
        with closing(listen(Address.unix(str(path)))):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(before)


def test_a_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    listen(Address.unix(str(path))).close()
    assert path.is_socket()
    with closing(listen(Address.unix(str(path)))), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))


def test_a_socket_that_another_node_listens_on_stays(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with closing(listen(Address.unix(str(path)))):
        with pytest.raises(NodeError, match="Address already in use"):
            listen(Address.unix(str(path)))
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    path.write_text("precious")
    with pytest.raises(NodeError, match="Address already in use"):
        listen(Address.unix(str(path)))
    assert path.read_text() == "precious"
