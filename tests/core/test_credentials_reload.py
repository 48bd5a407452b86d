"""Nodes as processes, with a credentials file: how they start with it, and read it anew."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from logins import KEY, OTHER_KEY, connect, line, log_in
from raw_client import (
    BATCH,
    GET,
    LISTEN,
    NOT_AUTHENTICATED,
    PUT,
    STATS,
    NodeProcess,
    RawClient,
    node_process,
    notice_status,
)

from swarm.core.config import EX_CONFIG
from tests.waiting import PATIENCE_S, wait_until

NODES = ["nodes.dht", "nodes.queue", "nodes.logfiles"]
ANYWHERE = "0.0.0.0:0"


def written(directory: Path, *lines: str, mode: int = 0o600) -> Path:
    path = directory / "credentials"
    path.write_text("".join(lines))
    path.chmod(mode)
    return path


@contextmanager
def asking(directory: Path, *lines: str, more: str = "") -> Iterator[NodeProcess]:
    path = written(directory, *lines)
    with node_process(directory, config=f"[node]\ncredentials = {path}\n{more}") as node:
        yield node


def reload(node: NodeProcess, told: str) -> None:
    """SIGHUP; returns when the node tells this once more than before."""
    before = node.log.count(told)
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: node.log.count(told) > before)


def start(module: str, directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Of a node that does not come up."""
    command = [sys.executable, "-m", module, "--data", str(directory / "data"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize("module", NODES)
def test_what_is_wrong_with_the_file_is_told_at_the_start(module: str, tmp_path: Path) -> None:
    path = written(tmp_path, line(), "bob:123:read=*\n")
    (tmp_path / "node.ini").write_text(f"[node]\ncredentials = {path}\n")
    options = ["--config", str(tmp_path / "node.ini"), "--address", "127.0.0.1:0"]
    done = start(module, tmp_path, *options)
    assert done.returncode == EX_CONFIG
    assert f"{path}:2: the key of client bob has 64 hexadecimal digits; 3 characters are there" in done.stderr
    path.chmod(0o644)
    done = start(module, tmp_path, *options)
    assert done.returncode == EX_CONFIG
    assert f"chmod 640 {path}" in done.stderr
    path.unlink()
    done = start(module, tmp_path, *options)
    assert done.returncode == EX_CONFIG
    assert "cannot read the credentials file" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot read the credentials file" in (tmp_path / "data" / "root.log").read_text()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["lock", "root.log", "stats.log"]


@pytest.mark.parametrize("module", NODES)
def test_an_address_that_others_reach_needs_credentials_or_plain_words(module: str, tmp_path: Path) -> None:
    done = start(module, tmp_path, "--address", ANYWHERE)
    assert done.returncode == EX_CONFIG
    assert "credentials in section [node]" in done.stderr
    path = written(tmp_path, line())
    (tmp_path / "node.ini").write_text(f"[node]\ncredentials = {path}\naddress = {ANYWHERE}\n")
    command = [sys.executable, "-m", module, "--data", str(tmp_path / "data"), "--config", str(tmp_path / "node.ini")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        assert any("serves on 0.0.0.0:" in text for text in node.stderr)
        node.send_signal(signal.SIGTERM)
        node.stderr.read()
        assert node.wait(PATIENCE_S) == 0


async def test_sighup_cuts_off_who_is_revoked_and_lets_in_who_is_new(tmp_path: Path) -> None:
    with asking(tmp_path, line(), line("bob")) as node:
        alice, bob = await connect(node.address), await connect(node.address, "bob")
        assert await bob.result(PUT, "c", b"key", b"value") is None
        assert await bob.ask(5, LISTEN, "c", b"", False, 4) == [5, BATCH, []]
        written(tmp_path, line(), line("carol", key=OTHER_KEY))
        reload(node, "clients that may log in: 2 ")
        assert notice_status(await bob.rest()) == NOT_AUTHENTICATED
        assert "connection closed: bob is no client any more" in node.log
        assert await alice.result(GET, "c", b"key") == b"value"
        carol = await connect(node.address, "carol", OTHER_KEY)
        assert (await carol.result(STATS))["connections"] == 2
        for client in (alice, bob, carol):
            await client.close()


@pytest.mark.parametrize("wrong", ["alice:12:read=*\n", "mode", "missing", "directory", b"\xff\n"], ids=repr)
async def test_a_file_that_is_wrong_is_told_and_the_old_stays_in_force(wrong: str | bytes, tmp_path: Path) -> None:
    with asking(tmp_path, line()) as node:
        alice = await connect(node.address)
        path = tmp_path / "credentials"
        if wrong == "mode":
            path.chmod(0o666)
        elif wrong == "missing":
            path.unlink()
        elif wrong == "directory":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        reload(node, "ERROR swarm.core.node_process: the credentials stay as they were: ")
        assert str(path) in node.log.rpartition("stay as they were")[2]
        assert await alice.result(PUT, "c", b"key", b"value") is None
        again = await connect(node.address)
        assert KEY.hex() not in node.log
        for client in (alice, again):
            await client.close()


async def test_a_file_that_names_nobody_cuts_off_all_and_is_told(tmp_path: Path) -> None:
    with asking(tmp_path, line()) as node:
        alice = await connect(node.address)
        written(tmp_path, "# nobody\n")
        reload(node, "names no client: nobody can log in")
        assert notice_status(await alice.rest()) == NOT_AUTHENTICATED
        await alice.close()


async def test_what_was_acknowledged_to_who_is_cut_off_stays(tmp_path: Path) -> None:
    """Answers that are held until they are durable may be lost with the connection; then nobody was told of them."""
    journal = "[journal]\nfsync = always\n"
    with asking(tmp_path, line(), line("bob"), more=journal) as node:
        bob = await connect(node.address, "bob")
        await bob.send(*([number, PUT, "c", b"%d" % number, b"value"] for number in range(1, 2001)))
        acknowledged = [(await bob.receive())[0]]
        written(tmp_path, line())
        node.process.send_signal(signal.SIGHUP)
        acknowledged += [request_id for request_id, status, _ in await bob.rest() if request_id and status == 0]
        alice = await connect(node.address)
        for number in acknowledged:
            assert await alice.result(GET, "c", b"%d" % number) == b"value"
        await alice.close()
        await bob.close()


async def test_failures_are_told_with_address_and_name(tmp_path: Path) -> None:
    with asking(tmp_path, line()) as node:
        client = await RawClient.connect(node.address, greet=False)
        assert (await log_in(client, "mallory"))[1] == NOT_AUTHENTICATED
        assert notice_status(await client.rest()) == NOT_AUTHENTICATED
        port = client.stream.socket.getsockname()[1]  # type: ignore[attr-defined]
        await client.close()
        assert f"127.0.0.1:{port}: login as mallory failed" in node.log
        assert node.log.count("mallory") == 1


def test_a_node_whose_file_belongs_to_a_group(tmp_path: Path) -> None:
    path = written(tmp_path, line(), mode=0o440)
    assert os.access(path, os.R_OK)
    with node_process(tmp_path, config=f"[node]\ncredentials = {path}\n") as node:
        assert "clients that may log in: 1 " in node.log
