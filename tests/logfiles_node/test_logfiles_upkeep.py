"""What a logfiles node does beside its requests, and what becomes of it where the disk does not let it."""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from core.raw_client import BATCH, CHANNEL_SIZE, CHANNELS, DONE, OUT_OF_MEMORY, PING, REMOVE_CHANNEL, until
from logfiles_node.logfiles_stored import AbandonedStore, flush
from logfiles_node.raw_logs import (
    DISK_FULL,
    EVER,
    GET_RANGE,
    HOUR,
    NOON,
    PUT,
    PUT_MANY,
    READ_FAILED,
    TIME_SPAN,
    RunningLogs,
    lines,
    pack,
    running,
)

from nodes.logfiles import upkeep
from nodes.logfiles.config import ChannelSection
from nodes.logfiles.files import Files, Piece
from swarm.core.limits import MIB
from swarm.core.node import NodeError

DAY = 24 * HOUR


class WatchedFiles(Files):
    """Operations that a test holds up, lets fail, and counts. refuses: the error number for an operation, or 0."""

    def __init__(self) -> None:
        self.refuses: Callable[[str, Path | None], int] = lambda operation, path: 0
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncing = threading.Event()
        self.syncs = 0

    def _ask(self, operation: str, path: Path | None = None) -> None:
        if number := self.refuses(operation, path):
            raise OSError(number, os.strerror(number))

    def create(self, path: Path) -> int:
        self._ask("create", path)
        return super().create(path)

    def open(self, path: Path, *, to_write: bool = False) -> int:
        self._ask("open", path)
        return super().open(path, to_write=to_write)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._ask("read")
        return super().read(fd, size, offset)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        self._ask("write")
        return super().write(fd, pieces, offset)

    def allocate(self, fd: int, start: int, size: int) -> None:
        self._ask("allocate")
        super().allocate(fd, start, size)

    def sync(self, fd: int) -> None:
        self.syncing.set()
        assert self.may_sync.wait(20)
        self._ask("sync")
        self.syncs += 1
        super().sync(fd)

    def rename(self, path: Path, to: Path) -> None:
        self._ask("rename", path)
        super().rename(path, to)


def statistic(node: RunningLogs, name: str) -> Callable[[], int]:
    return lambda: int(node.node.statistics()[name])


# Syncing.


async def test_with_fsync_always_a_put_is_answered_when_it_is_synced_and_reads_meanwhile(tmp_path: Path) -> None:
    files = WatchedFiles()
    async with running(tmp_path, fsync="always", files=files) as node:
        logs = await node.connect()
        files.may_sync.clear()
        await logs.raw.send([5, PUT, "a", NOON, b"1"])
        await trio.to_thread.run_sync(files.syncing.wait, 10)
        await logs.raw.send([6, PUT_MANY, "a", pack([NOON + 1, NOON + 2], [b"2", b"3"])])
        assert await logs.raw.ask(7, PING) == [7, DONE, None]
        assert await logs.raw.result(CHANNEL_SIZE, "a") == [3, 3]
        files.may_sync.set()
        assert await logs.raw.receive() == [5, DONE, None]
        assert await logs.raw.receive() == [6, DONE, None]


async def test_with_fsync_interval_puts_do_not_wait_for_it(tmp_path: Path) -> None:
    files = WatchedFiles()
    async with running(tmp_path, fsync="interval", fsync_interval=0.01, files=files) as node:
        logs = await node.connect()
        files.may_sync.clear()
        await logs.put("a", NOON, b"1")
        await trio.to_thread.run_sync(files.syncing.wait, 10)
        await logs.put("a", NOON, b"2")
        files.may_sync.set()
        before = files.syncs
        await until(lambda: files.syncs > before)


async def test_what_cannot_be_synced_ends_the_node(tmp_path: Path) -> None:
    files = WatchedFiles()
    files.refuses = lambda operation, path: errno.EIO if operation == "sync" else 0
    with pytest.RaisesGroup(pytest.RaisesExc(NodeError, match="cannot be synced"), flatten_subgroups=True):
        async with running(tmp_path, fsync="interval", fsync_interval=0.01, files=files) as node:
            await (await node.connect()).put("a", NOON, b"1")
            await trio.sleep_forever()


# A disk that refuses.


async def test_a_full_disk_refuses_puts_and_reads_go_on(tmp_path: Path) -> None:
    files = WatchedFiles()
    async with running(tmp_path, files=files) as node:
        logs = await node.connect()
        await logs.put("a", NOON, b"kept")
        files.refuses = lambda operation, path: errno.ENOSPC if operation in ("allocate", "create") else 0
        records = lines(4000, start=NOON)
        refused = 0
        for start in range(0, 4000, 1000):  # the space that was allocated ahead is used up
            batch = records[start : start + 1000]
            answer = await logs.raw.ask(
                9, PUT_MANY, "a", pack([each[0] for each in batch], [each[1] * 20 for each in batch])
            )
            refused += answer[1] == DISK_FULL
        assert refused
        for channel in ("a", "new"):
            assert (await logs.error(PUT_MANY, channel, pack([NOON + 7 * HOUR], [b"x"])))[0] == DISK_FULL
        assert await logs.raw.result(CHANNELS) == ["a"]
        size = (await logs.raw.result(CHANNEL_SIZE, "a"))[0]
        assert size == 1 + (4 - refused) * 1000
        assert len((await logs.range("a")).records) == size
        files.refuses = lambda operation, path: 0
        await logs.put("new", NOON, b"again")


async def test_blocks_that_cannot_be_made_are_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "RETRY_S", 0.05)
    files = WatchedFiles()
    files.refuses = lambda operation, path: errno.EIO if path and path.suffix == ".log" else 0
    records = lines(10_000)
    async with running(tmp_path, files=files) as node:
        logs = await node.connect()
        await logs.put_all("a", records)
        await until(statistic(node, "failures"))
        assert (await logs.range("a")).records == records
        files.refuses = lambda operation, path: 0
        await logs.put("a", records[-1][0], b"one more")
        await until(lambda: any(tmp_path.rglob("*.log")))
        assert (await logs.range("a")).records == [*records, (records[-1][0], b"one more")]


async def test_blocks_are_made_whether_or_not_there_is_anything_to_sync(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass  # its directories are there, and synced
    async with running(tmp_path, tail_memory=8 * MIB) as node:
        logs = await node.connect()
        for _ in range(10):
            await logs.put_many("a", [(NOON, b"x" * 1000)] * 1000)
            with trio.fail_after(10):
                while node.node.statistics()["tail_bytes"] > 2 * MIB:
                    await trio.sleep(0.01)


async def test_writers_that_are_quicker_than_the_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "RETRY_S", 0.05)
    async with running(tmp_path):
        pass
    files = WatchedFiles()
    files.refuses = lambda operation, path: errno.EIO if path and path.suffix == ".log" else 0
    async with running(tmp_path, tail_memory=8 * MIB, files=files) as node:
        logs = await node.connect()
        taken = 0
        while True:
            _, status, _ = await logs.raw.ask(9, PUT_MANY, "a", pack([NOON] * 1000, [b"x" * 1000] * 1000))
            if status != DONE:
                break
            taken += 1
        assert status == OUT_OF_MEMORY
        assert taken == 8
        assert len((await logs.range("a")).records) == 8000
        files.refuses = lambda operation, path: 0
        with trio.fail_after(10):
            while (await logs.raw.ask(9, PUT_MANY, "a", pack([NOON] * 1000, [b"x" * 1000] * 1000)))[1] != DONE:
                await trio.sleep(0.01)


async def test_writers_that_are_quicker_than_blocks_are_made_wait_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From half of tail_memory on; until blocks have caught up."""
    monkeypatch.setattr(upkeep, "RETRY_S", 0.05)
    monkeypatch.setattr(upkeep, "BEHIND_BYTES_PER_S", 1)
    monkeypatch.setattr(upkeep, "BEHIND_PAUSE_S", 3600.0)
    batch = pack([NOON] * 1000, [b"x" * 1000] * 1000)
    async with running(tmp_path):
        pass
    files = WatchedFiles()
    files.refuses = lambda operation, path: errno.EIO if path and path.suffix == ".log" else 0
    async with running(tmp_path, tail_memory=8 * MIB, files=files) as node:
        logs, other = await node.connect(), await node.connect()
        for _ in range(5):  # with the last it is behind
            assert await logs.raw.ask(9, PUT_MANY, "a", batch) == [9, DONE, None]
        await logs.raw.send([10, PUT_MANY, "a", batch])
        for each in (logs, other):
            assert await each.raw.ask(11, PING) == [11, DONE, None]
            assert (await each.raw.result(CHANNEL_SIZE, "a"))[0] == 6000
        await other.put("b", NOON, b"a single record")
        files.refuses = lambda operation, path: 0
        with trio.fail_after(10):
            assert await logs.raw.receive() == [10, DONE, None]
        assert await logs.raw.ask(12, PUT_MANY, "a", batch) == [12, DONE, None]


async def test_files_that_cannot_be_read_now_are_told_and_read_later(tmp_path: Path) -> None:
    files = WatchedFiles()
    records = lines(10_000)
    async with running(tmp_path, files=files) as node:
        logs = await node.connect()
        await logs.put_all("a", records)
        await until(lambda: node.node.statistics()["tail_bytes"] < MIB)  # the rest is in blocks, which are read
        files.refuses = lambda operation, path: errno.EMFILE if operation == "open" else 0
        assert (await logs.range("a")).status == READ_FAILED
        assert (await logs.error(TIME_SPAN, "a"))[0] == READ_FAILED
        files.refuses = lambda operation, path: 0
        assert (await logs.range("a")).records == records
        assert await logs.raw.result(TIME_SPAN, "a") == [records[0][0], records[-1][0]]


async def test_a_channel_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    files = WatchedFiles()
    async with running(tmp_path, files=files) as node:
        logs = await node.connect()
        await logs.put("a", NOON, b"1")
        files.refuses = lambda operation, path: errno.ENOSPC if operation == "rename" else 0
        assert (await logs.error(REMOVE_CHANNEL, "a"))[0] == DISK_FULL
        assert await logs.raw.result(CHANNELS) == ["a"]
        assert (await logs.range("a")).values == [b"1"]
        files.refuses = lambda operation, path: 0
        assert await logs.raw.result(REMOVE_CHANNEL, "a") is True
        assert not any((tmp_path / "channels").iterdir())


# Sealing and retention.


async def test_buckets_whose_time_is_over_are_sealed_and_stay_readable(tmp_path: Path) -> None:
    now = time.time_ns()
    old = lines(5000, start=now - 30 * HOUR)
    new = lines(3000, start=now)
    async with running(tmp_path) as node:
        await (await node.connect()).put_all("a", old + new)
    async with running(tmp_path, seal_after=0.0) as node:
        logs = await node.connect()
        await until(statistic(node, "sealed"), 30)
        assert (await logs.range("a")).records == old + new
        await logs.put("a", old[0][0], b"late")
        assert (await logs.range("a", limit=2)).records == [old[0], (old[0][0], b"late")]
        assert await logs.raw.result(CHANNEL_SIZE, "a") == [
            8001,
            sum(len(value) for _, value in old + new) + 4,
        ]
    (sealed,) = tmp_path.rglob("*.sealed")
    assert "-5000-" in sealed.name


async def test_a_bucket_whose_directory_is_not_there_does_not_keep_others_from_being_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = [(NOON - DAY, b"gone"), (NOON, b"there")]
    async with running(tmp_path) as node:
        await (await node.connect()).put_many("a", records)
    with AbandonedStore(tmp_path) as store:
        flush(store)
    monkeypatch.setattr(upkeep, "ROUND_S", 0.05)
    monkeypatch.setattr(upkeep, "FAILURES_MAX", 1)
    day = next(tmp_path.glob("channels/a/2026-11-21"))
    async with running(tmp_path, seal_after=0.3) as node:
        moved = day.rename(tmp_path / "moved")
        await until(statistic(node, "sealed"), 30)
        assert statistic(node, "failures")() == 1
        moved.rename(day)
        assert (await (await node.connect()).range("a")).records == records
    assert caplog.text.count("could not seal a bucket") == 1
    assert str(day) in caplog.text


async def test_buckets_that_are_too_old_are_dropped(tmp_path: Path) -> None:
    now = time.time_ns()
    channels = {"short-*": ChannelSection(max_age=3600.0), "short-lived": ChannelSection(max_age=7 * 86400.0)}
    async with running(tmp_path) as node:
        logs = await node.connect()
        for channel in ("short-1", "short-lived", "other"):
            await logs.put_all(channel, [(now - hours * HOUR, b"%d hours" % hours) for hours in range(200)])
    async with running(tmp_path, channel=channels, max_age=2 * 86400.0) as node:
        logs = await node.connect()
        for channel, hours in (("short-1", 1), ("short-lived", 7 * 24), ("other", 48)):
            await until(lambda: node.node.channels.get(channel).records <= hours + 2, 20)  # noqa: B023
            values = (await logs.range(channel)).values
            assert values == [b"%d hours" % each for each in reversed(range(len(values)))]
            assert hours + 1 <= len(values) <= hours + 2  # the bucket in which the border is stays
            size = await logs.raw.result(CHANNEL_SIZE, channel)
            assert size == [len(values), sum(map(len, values))]


async def test_the_oldest_buckets_beyond_a_size_are_dropped(tmp_path: Path) -> None:
    records = [(NOON + hour * HOUR, b"%02d" % hour * 500) for hour in range(24)]
    async with running(tmp_path) as node:
        await (await node.connect()).put_all("a", records)
    async with running(tmp_path, max_bytes=10_000.0) as node:
        await until(lambda: node.node.statistics()["dropped"] == 14, 20)
        assert (await (await node.connect()).range("a")).records == records[14:]
        await until(lambda: not any((tmp_path / "removed").iterdir()))


async def test_a_range_goes_on_where_buckets_are_dropped_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROUND_S", 0.05)
    now = time.time_ns()
    async with running(tmp_path, max_bytes=400_000.0) as node:
        logs, other = await node.connect(), await node.connect()
        await logs.put_all("a", [(now - (100 - hour) * HOUR, b"%03d" % hour + b"x" * 3000) for hour in range(100)])
        await logs.raw.send([5, GET_RANGE, "a", *EVER, b"", 0, 0, None, 1])
        assert (await logs.raw.receive())[1] == BATCH
        await other.put_all("a", [(now, b"y" * 1000)] * 300)
        await until(statistic(node, "dropped"))
        await logs.raw.send([5, 2, 1])
        with trio.fail_after(20):
            while (answer := await logs.raw.receive())[1] == BATCH:
                await logs.raw.send([5, 2, 1])
        assert answer == [5, DONE, ["end", 0]]
