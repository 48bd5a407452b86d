"""A logfiles node as a process: what survives its end, however it ends, and how it starts and stops."""

import platform
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgpack
import pytest
import trio
from core.raw_client import CHANNEL_SIZE, SHUTTING_DOWN, SIZE, RawClient, frame, hello, notice_status
from logfiles_node.raw_logs import (
    NEWEST_FIRST,
    NOON,
    PUT_MANY,
    SUBSTRING,
    LogsClient,
    Record,
    S,
    lines,
    make_config,
    pack,
)

from nodes.logfiles.config import LogfilesConfig
from swarm.core.limits import KIB, MIB
from swarm.testing import LogfilesProcess


def place(node: LogfilesProcess) -> tuple[str, int]:
    host, _, port = node.address.rpartition(":")
    return host, int(port)


Connect = Callable[[LogfilesProcess], Awaitable[LogsClient]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients, which are closed at the end."""
    clients: list[RawClient] = []

    async def connect(node: LogfilesProcess) -> LogsClient:
        clients.append(await RawClient.connect(place(node)))
        return LogsClient(clients[-1])

    yield connect
    for client in clients:
        await client.close()


def config(directory: Path, **store: object) -> LogfilesConfig:
    return make_config(directory, **store)


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
async def test_what_was_acknowledged_survives_kill(tmp_path: Path, connect: Connect, fsync: str) -> None:
    records = lines(20_000)
    with LogfilesProcess(tmp_path, config(tmp_path, fsync=fsync)) as node:
        logs = await connect(node)
        await logs.put_all("a", records)
        await logs.put("b", NOON, b"last")
        node.kill()
        node.start()
        logs = await connect(node)
        assert (await logs.range("a")).records == records
        assert (await logs.range("a", order=NEWEST_FIRST)).records == records[::-1]
        assert (await logs.range("b")).values == [b"last"]
        assert await logs.raw.result(SIZE) == [2, 20_001, sum(len(value) for _, value in records) + 4]


class Writer(threading.Thread):
    """Puts batches into a channel, one after the other, until the node is gone. Each record is one of a kind."""

    def __init__(self, address: tuple[str, int], number: int, rng: random.Random) -> None:
        super().__init__()
        self.acknowledged: list[list[Record]] = []
        self.unanswered: list[Record] = []
        self._address = address
        self._number = number
        self._rng = rng

    def run(self) -> None:
        with suppress(OSError):  # also where the others were so quick that it has not connected yet
            self._write()

    def _write(self) -> None:
        with socket.create_connection(self._address) as sock, sock.makefile("rb") as incoming:
            sock.sendall(hello())
            self._read(incoming.read)
            while True:
                self._put(sock, incoming.read)

    def _put(self, sock: socket.socket, read: object) -> None:
        rng, number = self._rng, len(self.acknowledged)
        self.unanswered = [
            (
                NOON + rng.randrange(5 * 3600) * S,
                b"%d-%d-%d %s" % (self._number, number, each, b"x" * rng.randrange(300)),
            )
            for each in range(rng.randrange(1, 300))
        ]
        timestamps, values = zip(*self.unanswered, strict=True)
        sock.sendall(frame([1, PUT_MANY, f"channel-{self._number % 2}", pack(timestamps, values)]))
        assert self._read(read) == [[1, 0, None]]
        self.acknowledged.append(self.unanswered)
        self.unanswered = []

    def _read(self, read: object) -> object:
        assert callable(read)
        header = read(4)
        if len(header) < 4:
            raise ConnectionError
        body = read(int.from_bytes(header, "big"))
        if len(body) < int.from_bytes(header, "big"):
            raise ConnectionError
        return msgpack.unpackb(body)


async def test_killed_under_load_it_loses_nothing_and_doubles_nothing(tmp_path: Path, connect: Connect) -> None:
    """Of a batch that was not answered any part may be there: it is written bucket by bucket."""
    rng = random.Random(7)
    batches: dict[int, list[list[Record]]] = {0: [], 1: []}
    maybe: dict[int, list[list[Record]]] = {0: [], 1: []}
    with LogfilesProcess(tmp_path, config(tmp_path, fsync="never")) as node:
        for round_ in range(4):
            writers = [Writer(place(node), 10 * round_ + number, random.Random(rng.random())) for number in range(3)]
            for writer in writers:
                writer.start()
            written = rng.randrange(20, 60)
            while sum(len(writer.acknowledged) for writer in writers) < written:
                await trio.sleep(0.001)
            node.kill()
            for writer in writers:
                writer.join()
                channel = (writer._number) % 2
                batches[channel] += writer.acknowledged
                maybe[channel].append(writer.unanswered)
            node.start()
            logs = await connect(node)
            for channel in (0, 1):
                found = (await logs.range(f"channel-{channel}")).records
                assert found == sorted(found, key=lambda record: record[0])
                assert len(set(found)) == len(found)
                there = set(found)
                for batch in batches[channel]:
                    assert there.issuperset(batch)
                    there.difference_update(batch)
                for batch in maybe[channel]:
                    batches[channel].append(sorted(there.intersection(batch)))  # and now it stays
                    there.difference_update(batch)
                maybe[channel] = []
                assert not there
                assert await logs.raw.result(CHANNEL_SIZE, f"channel-{channel}") == [
                    len(found),
                    sum(len(value) for _, value in found),
                ]


async def test_sigterm_stops_it_in_order_and_all_is_there_again(tmp_path: Path, connect: Connect) -> None:
    records = lines(5000)
    with LogfilesProcess(tmp_path, config(tmp_path, fsync="always")) as node:
        logs = await connect(node)
        await logs.put_all("a", records)
        assert node.stop() == 0
        assert notice_status(await logs.raw.rest()) == SHUTTING_DOWN
        assert "SIGTERM" in (tmp_path / "data" / "root.log").read_text()
        node.start()
        assert (await (await connect(node)).range("a")).records == records
    assert "error" not in "".join(node.output).lower()


async def test_it_stops_while_a_range_is_read_and_filtered(tmp_path: Path, connect: Connect) -> None:
    with LogfilesProcess(tmp_path, config(tmp_path)) as node:
        logs = await connect(node)
        await logs.put_all("a", lines(30_000))
        await logs.raw.send(
            *([number, 50, "a", 0, 2**63 - 1, b"", 0, 0, [1, b"^x", False], 64] for number in range(1, 9))
        )
        await logs.raw.receive()
        assert node.stop() == 0


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "nodes.logfiles", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_bad_configuration_is_told_with_its_line(tmp_path: Path) -> None:
    ini = tmp_path / "logfiles.ini"
    for text, told in (
        ("[store]\nbucket = 7m\n", "divides a day"),
        ("[store]\nbucket = 1.5s\n", "divides a day"),
        ("[store]\nmax_age = 0\n", "above 0"),
        ("[store]\nmax_bytes = -1\n", "max_bytes"),
        ("[store]\nfsync = sometimes\n", "always"),
        ("[store]\ntail_memory = 1 MiB\n", "64 MiB"),
        ("[stores]\n", "did you mean store"),
        ("[channel a/b]\nmax_age = 1d\n", "channel"),
        ("[channel a]\nbucket = 1h\n", "bucket"),
    ):
        ini.write_text(text)
        ended = run("--config", str(ini), "--data", str(tmp_path / "data"))
        assert ended.returncode == 78
        assert f"{ini}:" in ended.stderr
        assert told in ended.stderr
        assert not (tmp_path / "data").exists()


def test_an_address_that_others_can_reach_needs_to_be_allowed(tmp_path: Path) -> None:
    ended = run("--address", "0.0.0.0:0", "--data", str(tmp_path / "data"))
    assert ended.returncode == 78
    assert "allow_open_network" in ended.stderr


def test_a_data_directory_is_for_one_process(tmp_path: Path) -> None:
    with LogfilesProcess(tmp_path):
        ended = run("--address", "127.0.0.1:0", "--data", str(tmp_path / "data"))
        assert ended.returncode == 1
        assert "in use by another process" in ended.stderr


def test_it_says_what_it_is() -> None:
    assert "logfilesnode" in run("--version").stdout
    assert "--config" in run("--help").stdout
    assert run("--unknown").returncode == 2


async def test_a_request_of_the_largest_size_is_taken_and_given_back(tmp_path: Path, connect: Connect) -> None:
    with LogfilesProcess(tmp_path, config(tmp_path)) as node:
        logs = await connect(node)
        large = [(NOON, b"a" * (16 * MIB)), (NOON + 1, random.Random(3).randbytes(16 * MIB))]
        await logs.put_many("a", large)
        for value in (b"b", b"c"):
            await logs.put("a", NOON, value * (16 * MIB))
        found = (await logs.range("a", credit=1)).records
        assert found == [large[0], (NOON, b"b" * (16 * MIB)), (NOON, b"c" * (16 * MIB)), large[1]]
        assert (await logs.range("a", filter=[0, b"b" * 20, False], credit=1)).values == [b"b" * (16 * MIB)]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back at once")
async def test_looking_through_blocks_takes_memory_that_was_freed_before(tmp_path: Path, connect: Connect) -> None:
    """Instead of new pages for each block, of which a block has 64."""
    with LogfilesProcess(tmp_path, config(tmp_path)) as node:
        logs = await connect(node)
        rng = random.Random(5)
        await logs.put_all("a", [(NOON + number, rng.randbytes(200).hex().encode()) for number in range(40_000)], 400)
        pid = next(tmp_path.rglob("lock")).read_text().split()[0]
        faults = [0]
        for _ in range(4):
            assert (await logs.range("a", filter=[SUBSTRING, b"nowhere", False])).records == []
            faults.append(int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[7]))
        blocks = 40_000 * 400 // (256 * KIB)
        assert min(after - before for before, after in pairwise(faults)) < blocks
