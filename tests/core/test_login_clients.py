"""The three clients at nodes that ask for logins."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from dht.conformance import AwaitableClient
from logins import ALL, CLIENT_NONCE, KEY, OTHER_KEY, asks_for_logins, clients, line, node_proof
from raw_client import AUTHENTICATE, FrameReader, frame, make_dht

import swarm.blocking
from nodes.queue.config import NodeSection as QueueNodeSection
from nodes.queue.config import QueueConfig
from swarm.core.credentials import Credentials
from swarm.core.errors import ConnectionLost, NodeUnreachable, NotAllowed, NotAuthenticated
from swarm.core.node import Node
from swarm.dht import DhtClient
from swarm.dht.hash_range import HashRange, split_evenly
from swarm.queue import QueueClient
from swarm.testing import QueueProcess, running_dht
from swarm.testing.nodes import run_in_thread
from tests.waiting import PATIENCE_S, wait_until

HANG_S = 30.0
FOR_EVER_S = 10_000.0  # a timeout that a test would not live to see

ALICE = Credentials("alice", KEY)

every_client = pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])


def run(kind: str, nodes: list[str], work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Does something with an open dht client, which is of one of the three kinds."""

    async def main() -> None:
        client: Any
        if kind == "blocking":
            client = AwaitableClient(swarm.blocking.DhtClient(nodes, **options))
        else:
            client = DhtClient(nodes, **options)
        with anyio.fail_after(HANG_S):
            async with client as dht:
                await work(dht)

    anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


class Asking:
    """A dht node that asks for logins, in a thread of this process."""

    def __init__(self, *lines: str, hash_range: HashRange | None = None) -> None:
        self._lines = lines or (line(),)
        self._hash_range = hash_range
        self.address = ""

    def make(self) -> Node:
        self.node = make_dht(hash_range=self._hash_range)
        self._authentication = asks_for_logins(self.node, *self._lines)
        self._token = trio.lowlevel.current_trio_token()
        return self.node

    def reload(self, *lines: str) -> None:
        """Gives it other credentials; returns when they are in force."""
        trio.from_thread.run_sync(self._authentication.replace_clients, clients(*lines), trio_token=self._token)


@contextmanager
def asking(*lines: str, hash_range: HashRange | None = None) -> Iterator[Asking]:
    made = Asking(*lines, hash_range=hash_range)
    with run_in_thread("dht", [made.make], None) as running:
        (made.address,) = running.addresses
        yield made


class AskingProcess:
    """A queue node that asks for logins, as a process."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "credentials"
        self._write(line())
        config = QueueConfig(node=QueueNodeSection(credentials=str(self._file)))
        self.node = QueueProcess(directory / "queue", config)

    def _write(self, text: str) -> None:
        self._file.write_text(text)
        self._file.chmod(0o600)

    def reload(self, text: str) -> None:
        """Gives it other credentials; returns when they are in force."""
        told = len(self._told())
        self._write(text)
        self.node.reload()
        wait_until(lambda: len(self._told()) > told)

    def _told(self) -> list[str]:
        return [text for text in list(self.node.output) if "may log in" in text]


@every_client
def test_a_client_logs_in_by_its_file(kind: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text(f"alice:{KEY.hex()}\n")
    mine.chmod(0o600)

    async def work(dht: Any) -> None:
        await dht.put("c", "key", b"value")
        assert await dht.get("c", "key") == b"value"
        await dht.put_many("c", [(b"%d" % number, bytes(1000)) for number in range(5000)])
        assert (await dht.size())[0] == 5001

    with asking() as asks:
        for credentials in (mine, str(mine), ALICE):
            run(kind, [asks.address], work, credentials=credentials)


@every_client
@pytest.mark.parametrize("compression", [False, True])
def test_a_login_with_and_without_compression(kind: str, compression: bool) -> None:
    async def work(dht: Any) -> None:
        await dht.put("c", "key", b"value" * 1000)
        assert await dht.get("c", "key") == b"value" * 1000

    with asking() as asks:
        run(kind, [asks.address], work, credentials=ALICE, compression=compression)


@every_client
@pytest.mark.parametrize(
    ("credentials", "told"),
    [
        (Credentials("alice", OTHER_KEY), "login failed: there is no such client, or its key is another one"),
        (Credentials("nobody", KEY), "login failed: there is no such client, or its key is another one"),
        (None, "credentials=, --credentials FILE, SWARM_CREDENTIALS"),
    ],
    ids=["key", "name", "none"],
)
def test_a_wrong_login_is_told_at_once_to_all_who_ask(kind: str, credentials: Credentials | None, told: str) -> None:
    async def work(dht: Any) -> None:
        for ask in (
            lambda: dht.get("c", "key"),
            lambda: dht.put("c", "key", b"value"),
            lambda: dht.put_many("c", {"a": b"1", "b": b"2"}),
            lambda: dht.channels(),
            lambda: dht.ready(),
            lambda: dht.size(),
        ):
            with pytest.raises(NotAuthenticated) as error:
                await ask()
            assert told in error.value.text
            assert error.value.fault == "client"
            assert not error.value.try_again
            assert error.value.node == asks.address

    with asking() as asks:
        run(kind, [asks.address], work, credentials=credentials, timeout=FOR_EVER_S)


@every_client
def test_one_of_several_nodes_that_refuses(kind: str) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises(NotAuthenticated):
            await dht.channels()
        with pytest.raises(NotAuthenticated):
            await dht.put_many("c", {str(number): b"value" for number in range(100)})

    first, second = split_evenly(2)
    with asking(hash_range=first) as one, asking(line("bob"), hash_range=second) as other:
        run(kind, [one.address, other.address], work, credentials=ALICE, timeout=FOR_EVER_S)


@every_client
def test_a_refused_client_keeps_to_its_back_off(kind: str) -> None:
    async def work(dht: Any) -> None:
        for _ in range(200):
            with pytest.raises(NotAuthenticated):
                await dht.get("c", "key")

    with asking() as asks:
        run(kind, [asks.address], work)
        assert asks.node.listener.accepted < 20, "after ten attempts the next is 2.5 s away"


@every_client
def test_a_client_that_is_added_later_is_let_in_without_being_restarted(kind: str) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises(NotAuthenticated):
            await dht.put("c", "key", b"value")
        await anyio.to_thread.run_sync(asks.reload, line())
        while True:
            try:
                await dht.put("c", "key", b"value")
                break
            except NotAuthenticated:
                await anyio.lowlevel.checkpoint()
        assert await dht.get("c", "key") == b"value"

    with asking(line("bob")) as asks:
        run(kind, [asks.address], work, credentials=ALICE)


@every_client
def test_a_client_whose_permissions_change_goes_on_with_the_new_ones(kind: str) -> None:
    async def work(dht: Any) -> None:
        await dht.put("c", "key", b"value")
        await anyio.to_thread.run_sync(asks.reload, line(permissions="read=*"))
        assert await dht.get("c", "key") == b"value"
        with pytest.raises(NotAllowed) as error:
            await dht.put("c", "key", b"value")
        assert error.value.details == {"access": "write", "channel": "c"}
        assert error.value.fault == "client"
        await anyio.to_thread.run_sync(asks.reload, line())
        await dht.put("c", "key", b"value")

    with asking() as asks:
        run(kind, [asks.address], work, credentials=ALICE, timeout=FOR_EVER_S)


async def rest_of(events: Any) -> None:
    """First is told that changes may be lost."""
    async for _ in events:
        pass


@every_client
def test_a_client_that_is_revoked_is_told_in_its_requests_and_streams(kind: str) -> None:
    async def work(dht: Any) -> None:
        async with dht.listen("c") as events:
            await dht.put("c", "key", b"value")
            assert (await anext(aiter(events))).key == b"key"
            await anyio.to_thread.run_sync(asks.reload, line("bob"))
            with pytest.raises(NotAuthenticated):
                await rest_of(events)
        with pytest.raises(NotAuthenticated):
            await dht.get("c", "key")

    with asking() as asks:
        run(kind, [asks.address], work, credentials=ALICE, timeout=20)


def test_consumers_go_on_after_their_permissions_have_changed_and_nothing_is_lost(tmp_path: Path) -> None:
    asks = AskingProcess(tmp_path)
    pushed = [b"%d" % number for number in range(20)]

    async def main() -> None:
        with anyio.fail_after(HANG_S):
            async with QueueClient([asks.node.address], credentials=ALICE) as queue:
                await queue.push_many("q", pushed)
                async with queue.consume("q", manual=True, batch_records=4) as records:
                    first = [await anext(records) for _ in range(6)]
                    await records.acknowledge(*first[:4])
                    await anyio.to_thread.run_sync(asks.reload, line(permissions="read=q"))
                    again = []
                    while {record.value for record in again} != set(pushed[4:]):
                        record = await anext(records)
                        again.append(record)
                        await records.acknowledge(record)
                    assert {record.value for record in first[4:]} <= {
                        record.value for record in again if record.redelivered
                    }
                with pytest.raises(NotAllowed):
                    await queue.push("q", b"more")

    with asks.node:
        anyio.run(main, backend="trio")


def test_nothing_acknowledged_is_lost_while_credentials_change(tmp_path: Path) -> None:
    asks = AskingProcess(tmp_path)
    acknowledged: set[bytes] = set()
    with asks.node, ThreadPoolExecutor(1) as thread:
        client = swarm.blocking.QueueClient([asks.node.address], credentials=ALICE)
        with client as queue:

            def change() -> None:
                for number in range(10):
                    asks.reload(line(permissions=ALL if number % 2 else "read=* write=*"))

            changing = thread.submit(change)
            number = 0
            while not changing.done():
                record = b"%d" % number
                number += 1
                try:
                    queue.push("q", record)
                    acknowledged.add(record)
                except ConnectionLost:
                    pass  # whether it was carried out is not known
            changing.result()
            there = queue.pop_many("q", 4096)
            while more := queue.pop_many("q", 4096):
                there += more
    assert len(set(there)) == len(there)
    assert acknowledged <= set(there)
    assert len(acknowledged) >= 10


# Nodes that are not what they should be.


@contextmanager
def impostor(*answers: Callable[[list[Any]], bytes]) -> Iterator[str]:
    """What is no node of ours: answers the messages of each client with these, one after the other. Its address."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                reader = FrameReader()
                for answer in answers:
                    messages: list[Any] = []
                    while not messages:
                        if not (data := client.recv(65536)):
                            break
                        messages = reader.feed(data)
                    if not messages:
                        break
                    client.sendall(answer(messages))
                else:
                    client.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        serving = thread.submit(serve)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.result()


def node_hello(**facts: object) -> Callable[[list[Any]], bytes]:
    told = {
        "kind": "dht",
        "node": "dhtnode",
        "limits": {"value_bytes": 9, "key_bytes": 9, "batch_bytes": 9, "batch_records": 9, "streams": 9},
        "compression": None,
        "authentication": ["hmac-sha-512"],
        "nonce": bytes(32),
        "hash_range": [0, 2**64 - 1],
    }
    return lambda _: frame(["swarm", 1, told | facts])


def answered(result: object, status: int = 0) -> Callable[[list[Any]], bytes]:
    def answer(messages: list[Any]) -> bytes:
        ((request_id, code, *_),) = messages
        assert code == AUTHENTICATE
        return frame([request_id, status, result])

    return answer


def sends_back(messages: list[Any]) -> bytes:
    """The client's own proof."""
    ((request_id, _, _, _, proof),) = messages
    return frame([request_id, 0, proof])


@every_client
@pytest.mark.parametrize(
    ("answers", "error", "told"),
    [
        ([node_hello(), answered(bytes(64))], NotAuthenticated, "does not prove that it knows the key of alice"),
        ([node_hello(), answered(None)], NotAuthenticated, "does not prove"),
        ([node_hello(), answered("x")], NotAuthenticated, "does not prove"),
        ([node_hello(), answered(node_proof(KEY, bytes(32), CLIENT_NONCE, "alice"))], NotAuthenticated, "not prove"),
        ([node_hello(), sends_back], NotAuthenticated, "does not prove"),
        ([node_hello(authentication=[])], NotAuthenticated, "asks for no authentication"),
        ([node_hello(authentication=["scram", "x"], nonce=None)], NotAuthenticated, "by scram, x; this client knows"),
        ([node_hello(authentication="hmac-sha-512")], NodeUnreachable, "authentication"),
        ([node_hello(nonce=b"short")], NodeUnreachable, "nonce"),
        ([node_hello(), lambda _: frame([9, 0, None])], NodeUnreachable, "something else than the login"),
        ([node_hello(), lambda _: frame(["swarm", 1, {}])], NodeUnreachable, "something else than the login"),
        ([node_hello(), lambda _: b"\0\0\0\1\xc1"], NodeUnreachable, "not one msgpack array"),
    ],
    ids=range(12),
)
def test_nodes_that_are_not_what_they_should_be_get_nothing(
    kind: str, answers: list[Callable[[list[Any]], bytes]], error: type[Exception], told: str
) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises(error, match=told):
            await dht.put("c", "key", b"secret")

    with impostor(*answers) as address:
        timeout = FOR_EVER_S if error is NotAuthenticated else 0.5
        run(kind, [address], work, credentials=ALICE, timeout=timeout)


@every_client
def test_a_login_that_is_not_answered_in_time_says_what_may_be_wrong(kind: str) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises((NotAuthenticated, NodeUnreachable)):
            await dht.put("c", "key", b"value")
        while True:
            try:
                await dht.put("c", "key", b"value")
            except NodeUnreachable:
                continue
            except NotAuthenticated as error:
                assert "look at name and key" in error.text
                return

    with impostor(node_hello(), lambda _: b"") as address:
        run(kind, [address], work, credentials=ALICE, timeout=0.3)


@every_client
def test_a_client_with_credentials_trusts_no_node_that_asks_for_none(kind: str) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises(NotAuthenticated, match="asks for no authentication"):
            await dht.put("c", "key", b"value")

    with running_dht() as nodes:
        run(kind, nodes.addresses, work, credentials=ALICE, timeout=FOR_EVER_S)


def test_what_is_wrong_with_a_file_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    for make in (DhtClient, swarm.blocking.DhtClient, QueueClient, swarm.blocking.LogfilesClient):
        with pytest.raises(Exception, match="cannot read the credentials file"):
            make(["127.0.0.1:1"], credentials=tmp_path / "missing")


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime (Debian: faketime)")
@pytest.mark.parametrize("off", ["+10y", "-10y"])
def test_a_clock_that_is_off_does_not_matter(off: str) -> None:
    program = """
import sys, time, swarm.blocking
from swarm.core.credentials import Credentials
with swarm.blocking.DhtClient([sys.argv[1]], credentials=Credentials("alice", bytes(range(32)))) as dht:
    dht.put("c", "key", b"value")
print(time.gmtime().tm_year)
"""
    with asking() as asks:
        command = ["faketime", "-m", "-f", off, sys.executable, "-c", program, asks.address]
        environment = {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        done = subprocess.run(
            command, capture_output=True, timeout=PATIENCE_S, check=False, env=os.environ | environment
        )
        assert done.returncode == 0, done.stderr.decode()
        here = subprocess.run(
            [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"], capture_output=True, check=True
        )
        assert abs(int(done.stdout) - int(here.stdout)) >= 9
