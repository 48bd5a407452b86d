"""The queuenode command: a process, its exit statuses and signals, and what it holds after kill -9."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from core.raw_client import RawClient, frame
from queue_node.raw_queue import (
    ACKNOWLEDGE,
    BATCH,
    CHANNELS,
    CONSUME,
    DONE,
    KIB,
    MIB,
    POP_MANY,
    PUSH,
    PUSH_MANY,
    SIZE,
    STATS,
    pack,
    unpack,
)

from nodes.queue.config import ChannelSection, QueueConfig, QueueSection
from swarm.testing import QueueProcess

EX_CONFIG = 78
TEST_S = 60.0
CONFIG = QueueConfig(queue=QueueSection(ring_bytes=64 * KIB), channel={"big-*": ChannelSection(ring_bytes=4 * MIB)})


@pytest.fixture
def process(tmp_path: Path) -> Iterator[QueueProcess]:
    with QueueProcess(tmp_path, CONFIG) as process:
        yield process


Connect = Callable[[], Awaitable[RawClient]]


@pytest.fixture
async def connect(process: QueueProcess) -> AsyncIterator[Connect]:
    """Connects to it; all are closed at the end."""
    clients: list[RawClient] = []

    async def connect() -> RawClient:
        host, _, port = process.address.partition(":")
        clients.append(await RawClient.connect((host, int(port))))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


def run(*options: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "nodes.queue", *options], cwd=directory, capture_output=True, text=True, timeout=TEST_S
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[queue]\nring_bytes = 1 KiB\n", r"queue\.ini:2: section \[queue\], key ring_bytes: .*at least 64 KiB"),
        ("[queue]\nfull = block\n", r"queue\.ini:2: .*refuse, drop-oldest, overflow"),
        ("[queue]\nfsync_interval = 1 ms\n", r"queue\.ini:2: .*at least 10 ms"),
        ("[channel a/b]\nfull = refuse\n", r"queue\.ini:1: section \[channel a/b\] is refused: .*bad channel name"),
        ("[channel a*b]\nfull = refuse\n", r"queue\.ini:1: section \[channel a\*b\] is refused"),
        ("\n[channel]\nfull = refuse\n", r"queue\.ini:2: unknown section \[channel\].*channel NAME"),
        ("[channel a]\nfsync = always\n", r"queue\.ini:2: section \[channel a\], unknown key fsync"),
        ("[channel a]\nring_bytes = x\n", r"queue\.ini:2: section \[channel a\], key ring_bytes: 'x' is refused"),
        ("[channel a]\n[channel  a]\n", r"queue\.ini:2: section \[channel  a\] is there a second time"),
        ("[channels a]\nfull = refuse\n", r"queue\.ini:1: unknown section \[channels a\]"),
        ("[journal]\n", r"queue\.ini:1: unknown section \[journal\]"),
        ("[node]\naddress = 0.0.0.0:0\n", r"allow_open_network"),
        ("[queue x]\n", r"queue\.ini:1: unknown section \[queue x\]"),
    ],
)
def test_a_bad_configuration(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "queue.ini").write_text(text)
    ended = run("--config", "queue.ini", directory=tmp_path)
    assert ended.returncode == EX_CONFIG
    assert re.search(told, ended.stderr), ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["queue.ini"]


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    assert run("--config", "none.ini", directory=tmp_path).returncode == EX_CONFIG


def test_bad_options(tmp_path: Path) -> None:
    assert run("--address", "nowhere", directory=tmp_path).returncode == 2
    assert run("--no-such-option", directory=tmp_path).returncode == 2
    assert "queuenode" in run("--version", directory=tmp_path).stdout
    assert "--accept-damage" in run("--help", directory=tmp_path).stdout


def test_a_data_directory_that_is_in_use(process: QueueProcess, tmp_path: Path) -> None:
    ended = run("--data", "data", "--address", "127.0.0.1:0", directory=tmp_path)
    assert ended.returncode == 1
    assert "in use by another process" in ended.stderr


def test_an_address_that_is_in_use(process: QueueProcess, tmp_path: Path) -> None:
    ended = run("--data", "other", "--address", process.address, directory=tmp_path)
    assert ended.returncode == 1
    assert f"cannot listen on {process.address}" in ended.stderr


async def test_sigterm_stops_it_in_order(process: QueueProcess, connect: Connect, tmp_path: Path) -> None:
    with trio.fail_after(TEST_S):
        client = await connect()
        await client.result(PUSH, "c", b"x")
        await client.send([1, CONSUME, "d", "s", 1, 1])
        assert await client.result(SIZE) == [2, 1, 1]
        assert await trio.to_thread.run_sync(process.stop) == 0
        *_, (number, _, _) = await client.rest()
        assert number == 0  # it is told
        log = (tmp_path / "data" / "root.log").read_text()
        assert "SIGTERM: stopping" in log
        assert log.rstrip().endswith("stopped")
        stats = (tmp_path / "data" / "stats.log").read_text()
        assert " channel.c.records:1 " in stats
        assert " channel.d.subscriber.s.fullness:0 " in stats
        process.start()
        client = await connect()
        assert await client.result(CHANNELS) == ["c", "d"]


async def test_what_was_acknowledged_is_there_after_kill_9(process: QueueProcess, connect: Connect) -> None:
    with trio.fail_after(TEST_S):
        client, consumer = await connect(), await connect()
        await client.result(PUSH_MANY, ["own", "shared", "big-1"], *pack(*[b"%d" % number for number in range(100)]))
        assert unpack(*await client.result(POP_MANY, "own", 10)) == [b"%d" % number for number in range(10)]
        await consumer.send([1, CONSUME, "shared", "s", 10, 2])
        assert [(await consumer.receive())[2][0] for _ in range(2)] == [0, 10]
        await consumer.send([2, ACKNOWLEDGE, 1, [0, 5, 12, 2]])
        assert await consumer.receive() == [2, DONE, 7]
        await client.result(PUSH, "own", b"last")
        process.kill()
        assert await client.rest() == []
        process.start()
        client, consumer = await connect(), await connect()
        own = unpack(*await client.result(POP_MANY, "own", 4096))
        assert own == [*(b"%d" % number for number in range(10, 100)), b"last"]
        assert len(unpack(*await client.result(POP_MANY, "big-1", 4096))) == 100
        await consumer.send([1, CONSUME, "shared", "s", 4096, 64])
        given: list[tuple[int, bool]] = []
        while len(given) < 93:
            number, status, (first, redelivered, lengths, _) = await consumer.receive()
            assert (number, status) == (1, BATCH)
            given += [(first + place, redelivered) for place in range(len(lengths) // 4)]
        again = [*range(5, 12), *range(14, 20)]
        assert given == [(number, True) for number in again] + [(number, False) for number in range(20, 100)]


async def test_what_a_killed_consumer_had_is_given_to_another_at_once(process: QueueProcess, connect: Connect) -> None:
    with trio.fail_after(TEST_S):
        client, killed, other = [await connect() for _ in range(3)]
        await killed.send([1, CONSUME, "c", "s", 10, 1])
        assert await killed.result(SIZE) == [1, 0, 0]
        await client.result(PUSH_MANY, ["c"], *pack(b"a", b"b"))
        assert await killed.receive() == [1, BATCH, [0, False, *pack(b"a", b"b")]]
        await other.send([7, CONSUME, "c", "s", 10, 10])
        killed.reset()
        assert await other.receive() == [7, BATCH, [0, True, *pack(b"a", b"b")]]
        assert (await client.result(STATS))["redelivered"] == 2


async def test_a_consumer_that_does_not_read_keeps_nobody_waiting(process: QueueProcess, connect: Connect) -> None:
    with trio.fail_after(TEST_S):
        client, slow = await connect(), await connect()
        await slow.send([1, CONSUME, "big-c", "s", 4096, 64])
        assert await slow.result(SIZE) == [1, 0, 0]
        pushed = 0
        while True:
            number, status, _ = await client.ask(1, PUSH, "big-c", bytes(50 * KIB))
            assert number == 1
            if status != DONE:
                break
            pushed += 1
        assert pushed > 70
        assert (await client.result(STATS))["rss_bytes"] < 200 * MIB
        got = 0
        while got < min(pushed, 64):
            _, _, (_, _, lengths, _) = await slow.receive()
            got += len(lengths) // 4


async def test_many_pushes_in_flight_over_many_connections(process: QueueProcess, connect: Connect) -> None:
    with trio.fail_after(TEST_S):
        clients = [await connect() for _ in range(10)]
        for place, client in enumerate(clients):
            await client.send_bytes(b"".join(frame([n + 1, PUSH, "big-q", b"%d:%d" % (place, n)]) for n in range(300)))
        for client in clients:
            assert [await client.receive() for _ in range(300)] == [[n + 1, DONE, None] for n in range(300)]
        records: list[bytes] = []
        while some := unpack(*await clients[0].result(POP_MANY, "big-q", 700)):
            records += some
        assert len(records) == 3000
        for place in range(10):
            of_one = [record for record in records if record.startswith(b"%d:" % place)]
            assert of_one == [b"%d:%d" % (place, n) for n in range(300)]


async def test_garbage_and_half_requests_harm_nobody(process: QueueProcess, connect: Connect) -> None:
    with trio.fail_after(TEST_S):
        good = await connect()
        for data in (
            b"\xff" * 1000,
            frame([1, PUSH, "c", bytes(10_000)])[:500],
            frame([0, PUSH, "c", b"x"]),
            b"\0" * 4,
        ):
            bad = await connect()
            await bad.send_bytes(data)
            await good.result(PUSH, "good", b"x")
        assert await good.result(SIZE) == [1, 4, 4]
