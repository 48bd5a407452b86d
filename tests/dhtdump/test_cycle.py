"""A dump from begin to end, over memory: what is written, what is kept, what is set aside, what fails."""

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio
import trio.testing

from dhtdump.config import DumpSection
from dhtdump.cycle import DumpClient, JournalKept, dump_node, end_dump
from dhtdump.schedule import JOURNAL_FLOOR_BYTES, Schedule, has_grown
from nodes.dht.config import DhtConfig, JournalSection
from nodes.dht.config import DumpSection as NodeDumpSection
from nodes.dht.dump_requests import DumpRequests
from nodes.dht.node import make_node
from nodes.dht.snapshot import Loaded, load_snapshot
from swarm.core.errors import NodeUnreachable, SwarmError
from swarm.core.node import Node
from swarm.dht import protocol
from swarm.dht.dump_format import ChannelSize, Manifest
from swarm.dht.dumps import DumpFile, DumpNotWritten, DumpUnreadable, read_manifest, read_trailer, write_manifest
from swarm.dht.hash_range import HashRange, split_evenly
from swarm.testing import DhtProcess, MemoryNodes, dht_in_memory

Records = dict[bytes, bytes]
NODE = "0" * 32


@asynccontextmanager
async def node_and_client() -> AsyncIterator[tuple[MemoryNodes, DumpClient]]:
    async with dht_in_memory() as dht, DumpClient(dht.addresses, connect=dht.connect) as client:
        yield dht, client


def content(path: Path) -> Records:
    with DumpFile(path) as dump:
        return {
            stored[8:]: value for keys, values in dump.batches() for stored, value in zip(keys, values, strict=True)
        }


def no_progress(channel: str, records: int) -> None:
    pass


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_what_is_written(tmp_path: Path) -> None:
    records = {b"%d" % number: b"value %d" % number for number in range(20_000)}
    told: list[tuple[str, int]] = []
    async with node_and_client() as (_, client):
        await client.put_many("many", records)
        await client.put("one", b"key", b"value")
        manifest = await dump_node(client, tmp_path, lambda *what: told.append(what))
    assert names(tmp_path) == ["manifest.json", "many.lmdb", "one.lmdb"]
    assert content(tmp_path / "many.lmdb") == records
    assert content(tmp_path / "one.lmdb") == {b"key": b"value"}
    assert manifest == read_manifest(tmp_path)
    assert manifest.keep_from == 1
    assert manifest.channels["one"] == ChannelSize(1, 8, new=True)
    assert manifest.channels["many"].records == sum(count for name, count in told if name == "many") == 20_000
    assert manifest.begun <= manifest.finished


async def test_a_channel_whose_records_are_all_removed(tmp_path: Path) -> None:
    async with node_and_client() as (_, client):
        await client.put("channel", b"key", b"value")
        await client.remove("channel", b"key")
        manifest = await dump_node(client, tmp_path, no_progress)
    assert manifest.channels == {"channel": ChannelSize(0, 0, new=True)}
    assert content(tmp_path / "channel.lmdb") == {}


async def test_nothing_there(tmp_path: Path) -> None:
    async with node_and_client() as (_, client):
        await dump_node(client, tmp_path, no_progress)
    assert names(tmp_path) == ["manifest.json"]


async def test_the_dump_before_is_the_backup(tmp_path: Path) -> None:
    async with node_and_client() as (_, client):
        for value in (b"1", b"2", b"3"):
            await client.put("channel", b"key", value)
            await dump_node(client, tmp_path, no_progress)
    assert names(tmp_path) == ["channel.lmdb", "channel.lmdb.backup", "manifest.json"]
    assert content(tmp_path / "channel.lmdb") == {b"key": b"3"}
    assert content(tmp_path / "channel.lmdb.backup") == {b"key": b"2"}


async def test_a_damaged_dump_does_not_become_the_backup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with node_and_client() as (_, client):
        for value in (b"1", b"2", b"3"):
            await client.put("channel", b"key", value)
            if value == b"3":
                data = bytearray((tmp_path / "channel.lmdb").read_bytes())
                data[4096] ^= 1
                (tmp_path / "channel.lmdb").write_bytes(data)
            await dump_node(client, tmp_path, no_progress)
    assert content(tmp_path / "channel.lmdb") == {b"key": b"3"}
    assert content(tmp_path / "channel.lmdb.backup") == {b"key": b"1"}
    assert "it does not become the backup" in caplog.text


@pytest.mark.parametrize("name", ["channel.lmdb", "manifest.json"])
async def test_what_cannot_be_read_is_not_replaced(tmp_path: Path, name: str) -> None:
    async with node_and_client() as (_, client):
        for _ in range(2):
            await client.put("channel", b"key", b"value")
            await dump_node(client, tmp_path, no_progress)
        (tmp_path / name).rename(tmp_path / "aside")
        (tmp_path / name).symlink_to(name)
        with pytest.raises((DumpUnreadable, DumpNotWritten), match="cannot be"):
            await dump_node(client, tmp_path, no_progress)
        assert await Schedule(DumpSection(dump_dir=tmp_path), client).dump() is not None
        assert (tmp_path / name).is_symlink()


async def test_the_dump_of_a_removed_channel_moves(tmp_path: Path) -> None:
    async with node_and_client() as (_, client):
        await client.put("stays", b"key", b"value")
        for value in (b"1", b"2"):
            await client.put("channel", b"key", value)
            await dump_node(client, tmp_path, no_progress)
        await client.remove_channel("channel")
        await dump_node(client, tmp_path, no_progress)
    assert names(tmp_path) == ["deleted", "manifest.json", "stays.lmdb", "stays.lmdb.backup"]
    assert names(tmp_path / "deleted") == ["channel.lmdb", "channel.lmdb.backup"]
    assert content(tmp_path / "deleted" / "channel.lmdb") == {b"key": b"2"}


async def test_a_channel_that_is_removed_while_it_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with node_and_client() as (dht, client):
        await client.put_many("channel", {b"%d" % number: bytes(100) for number in range(20_000)})
        await client.put("zzz", b"key", b"value")
        channels = dht.nodes[0].channels

        def remove(channel: str, records: int) -> None:
            if channel == "channel" and channels.get("channel"):
                dht.nodes[0].service.in_steps(channels._channels.pop("channel").remove())

        manifest = await dump_node(client, tmp_path, remove)
    assert list(manifest.channels) == ["zzz"]
    assert names(tmp_path) == ["manifest.json", "zzz.lmdb"]
    assert "channel channel was removed while it was read" in caplog.text


async def test_leftovers_are_removed(tmp_path: Path) -> None:
    for name in ("channel.lmdb.tmp", "gone.lmdb.tmp", "channel.lmdb.backup.tmp", "manifest.json.tmp"):
        (tmp_path / name).write_text("half of something")
    async with node_and_client() as (_, client):
        await client.put("channel", b"key", b"value")
        await dump_node(client, tmp_path, no_progress)
    assert names(tmp_path) == ["channel.lmdb", "manifest.json"]


async def test_what_is_written_meanwhile(tmp_path: Path) -> None:
    """Everything that exists throughout is in the dump, as it is; replaying what was changed makes it exact."""
    first = {b"%d" % number: b"first" * 100 for number in range(20_000)}
    changes: list[tuple[bytes, bytes | None]] = []
    dumped_whole = False
    async with node_and_client() as (_, client):
        await client.put_many("channel", first)

        async def change(task: int) -> None:  # each has keys of its own: so the order of changes is known
            for number in count():
                if dumped_whole:
                    return
                key = b"%d" % (task + 20 * (number * 7919 % 1500))
                if number % 3:
                    await client.put("channel", key, b"second")
                    changes.append((key, b"second"))
                else:
                    await client.remove("channel", key)
                    changes.append((key, None))

        async with trio.open_nursery() as nursery:
            for task in range(20):
                nursery.start_soon(change, task)
            await dump_node(client, tmp_path, no_progress)
            dumped_whole = True
        now = {key: value async for key, value in client.get_all("channel")}
    dumped = content(tmp_path / "channel.lmdb")
    changed = {key for key, _ in changes}
    assert len(changed) > 100
    assert {key for key in first if key not in changed} <= dumped.keys()
    for key, value in changes:
        if value is None:
            dumped.pop(key, None)
        else:
            dumped[key] = value
    assert dumped == now


@dataclass
class CountingJournal:
    """Segments without their content."""

    segment: int = 1
    kept_from: int = 1
    first_undumped: int = 1

    def rotate(self) -> int:
        self.segment += 1
        return self.segment

    def remove_before(self, keep_from: int) -> None:
        assert keep_from >= self.kept_from
        self.kept_from = keep_from


@asynccontextmanager
async def node_with_journal(directory: Path) -> AsyncIterator[tuple[CountingJournal, DumpClient]]:
    journal = CountingJournal()
    config = DhtConfig(dump=NodeDumpSection(dump_dir=str(directory)))
    async with dht_in_memory([config]) as dht, DumpClient(dht.addresses, connect=dht.connect) as client:
        service = dht.nodes[0].service
        for request in (protocol.BEGIN_DUMP, protocol.END_DUMP):
            del service.handlers[request.code]
        DumpRequests(service, NODE, directory, journal)
        service.more_statistics.append(lambda: {"journal_bytes": 0})
        yield journal, client


async def dump_and_trim(client: DumpClient, directory: Path) -> Manifest:
    manifest = await dump_node(client, directory, no_progress)
    assert await end_dump(client, directory, manifest)
    return manifest


async def test_which_segments_are_kept(tmp_path: Path) -> None:
    async with node_with_journal(tmp_path) as (journal, client):
        await client.put("a", b"key", b"value")
        assert (await dump_and_trim(client, tmp_path)).first_segment == 2
        assert journal.kept_from == 1  # no backup yet: all of it
        await dump_and_trim(client, tmp_path)
        assert (journal.segment, journal.kept_from, journal.first_undumped) == (3, 2, 3)
        await client.put("b", b"key", b"value")
        await dump_and_trim(client, tmp_path)
        assert (journal.segment, journal.kept_from) == (4, 3)
        for number in range(5, 9):
            manifest = await dump_and_trim(client, tmp_path)
            assert (manifest.first_segment, manifest.keep_from, journal.kept_from) == (number, number - 1, number - 1)


async def test_a_cycle_that_fails_half_way_lets_go_of_no_segment(tmp_path: Path) -> None:
    async with node_with_journal(tmp_path) as (journal, client):
        for name in ("a", "b"):
            await client.put(name, b"key", b"value")
        for _ in range(2):
            await dump_and_trim(client, tmp_path)
        (tmp_path / "b.lmdb.tmp").mkdir()  # cannot be written, nor be removed as a file
        for _ in range(3):
            with pytest.raises(DumpNotWritten):
                await dump_and_trim(client, tmp_path)
        assert journal.kept_from == 2
        (tmp_path / "b.lmdb.tmp").rmdir()
        manifest = await dump_and_trim(client, tmp_path)
        backups = [read_trailer(tmp_path / f"{name}.lmdb.backup").first_segment for name in ("a", "b")]
        assert manifest.keep_from == journal.kept_from == min(3, *backups)


async def test_the_journal_is_trimmed_only_for_the_dump_that_the_node_would_load(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    async with node_with_journal(here) as (journal, client):
        await client.put("a", b"key", b"value")
        for _ in range(3):
            with pytest.raises(JournalKept, match="has to be the dump_dir of the node"):
                await dump_and_trim(client, elsewhere)
        assert journal.kept_from == 1
        segment, node = await client.begin_dump()
        assert node == NODE
        assert not await client.end_dump(segment)
        write_manifest(here, Manifest(segment, 3, "begun", "finished", {}, NODE))
        assert not await client.end_dump(segment + 1)
        assert journal.kept_from == 1
        assert await client.end_dump(segment)
        assert journal.kept_from == 3
        (here / "manifest.json").write_text("damaged")
        assert not await client.end_dump(segment)


async def test_a_node_without_a_journal(tmp_path: Path) -> None:
    async with node_and_client() as (_, client):
        assert (await client.begin_dump())[0] == 1
        assert await client.end_dump(1) is False
        with pytest.raises(SwarmError, match="segment is from 1"):
            await client.end_dump(0)


class FailingFiles:
    """The N-th of some operations on files fails, as those of a disk do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
        self.count = 0
        self._fails = fails
        for owner, names in ((os, ("fsync", "link", "open")), (Path, ("replace", "open", "mkdir")), (lmdb, ("open",))):
            for name in names:
                monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(operation)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self._fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return operation(*arguments, **options)

        return wrapped


def what_a_node_loads(directory: Path) -> Records:
    node = make_node(DhtConfig(journal=JournalSection(enabled=False)))
    load_snapshot(directory, node.channels, HashRange(), node.budget, "fatal", False)
    return {
        name.encode() + key: value
        for name, channel in node.channels.items()
        for _, keys, values in channel.walk(b"", b"", b"")
        for key, value in zip(keys, values, strict=True)
    }


async def test_every_operation_on_a_file_fails_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a cycle succeeds: what a node would load is whole after each, every channel old or new."""
    async with node_and_client() as (_, client):
        for name in ("a", "b", "gone"):
            await client.put(name, b"key", b"0")
        await dump_node(client, tmp_path, no_progress)
        await client.remove_channel("gone")
        for number in count(1):
            for name in ("a", "b"):
                await client.put(name, b"key", b"%d" % number)
            with monkeypatch.context() as patched:
                files = FailingFiles(patched, number)
                try:
                    await dump_node(client, tmp_path, no_progress)
                    succeeded = True
                except DumpNotWritten:
                    succeeded = False
            found = what_a_node_loads(tmp_path)
            assert {b"akey", b"bkey"} <= found.keys() <= {b"akey", b"bkey", b"gonekey"}
            assert all(int(found[key]) <= number for key in (b"akey", b"bkey"))
            assert not list(tmp_path.glob("*.lmdb.tmp"))
            if succeeded:
                assert found == {b"akey": b"%d" % number, b"bkey": b"%d" % number}
            if files.count < number:
                break
        assert succeeded
        assert number > 20


async def test_a_node_that_is_gone_leaves_the_dump(tmp_path: Path) -> None:
    async with node_and_client() as (_, client):
        await client.put("channel", b"key", b"value")
        await dump_node(client, tmp_path, no_progress)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    async def refuse(address: object) -> None:
        raise ConnectionRefusedError("nobody there")

    async with DumpClient("127.0.0.1:1", timeout=0.05, connect=refuse) as client:
        with pytest.raises(NodeUnreachable):
            await dump_node(client, tmp_path, no_progress)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("journal", "dump", "grown"),
    [
        (0, 0, False),
        (JOURNAL_FLOOR_BYTES, 0, False),
        (JOURNAL_FLOOR_BYTES + 1, 0, True),
        (JOURNAL_FLOOR_BYTES + 1, JOURNAL_FLOOR_BYTES, False),
        (2 * JOURNAL_FLOOR_BYTES + 1, JOURNAL_FLOOR_BYTES, True),
    ],
)
def test_a_journal_that_has_grown(journal: int, dump: int, grown: bool) -> None:
    assert has_grown(journal, dump, 2.0) is grown


async def test_what_was_dumped_can_be_loaded(tmp_path: Path) -> None:
    records = {b"%d" % number: b"value" for number in range(5000)}
    async with node_and_client() as (_, client):
        await client.put_many("channel", records)
        await dump_node(client, tmp_path, no_progress)
    node = make_node(DhtConfig(journal=JournalSection(enabled=False)))
    assert load_snapshot(tmp_path, node.channels, split_evenly(1)[0], node.budget, "fatal", False) == Loaded(
        records=5000, from_dump=True
    )
    assert dict(node.channels.items())["channel"].records == 5000


# When. Of a node without channels, so that nothing is done in a thread: the clock would not wait for it.


@asynccontextmanager
async def schedule_running(directory: Path, **values: float) -> AsyncIterator[tuple[Schedule, Node]]:
    async with dht_in_memory() as dht, DumpClient(dht.addresses, connect=dht.connect) as client:
        schedule = Schedule(DumpSection(dump_dir=directory, **values), client)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(schedule.run)
            yield schedule, dht.nodes[0]
            nursery.cancel_scope.cancel()


async def when(condition: Callable[[], bool]) -> float:
    while not condition():
        await trio.sleep(0.5)
    return trio.current_time()


async def test_a_period_between_dumps(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.current_time()
    async with schedule_running(tmp_path, period=1000.0, first_wait=0.5) as (schedule, _):
        first = await when(lambda: schedule._dumps == 1)
        assert first - begun <= 502
        second = await when(lambda: schedule._dumps == 2)
        assert 998 <= second - first <= 1002
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.period_s == 1000.0


async def test_the_first_wait_is_random(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    waits = set()
    for turn in range(5):
        (tmp_path / f"{turn}").mkdir()
        begun = trio.current_time()
        async with schedule_running(tmp_path / f"{turn}", period=1000.0, first_wait=1.0) as (schedule, _):
            waits.add(await when(lambda schedule=schedule: schedule._dumps == 1) - begun)  # type: ignore[misc]
    assert len(waits) > 1


async def test_a_dump_that_failed_is_tried_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "x.tmp"
    in_the_way.mkdir()
    async with schedule_running(tmp_path, period=1000.0, first_wait=0.0, retry_wait=60.0) as (schedule, _):
        first = await when(lambda: schedule._failures == 1)
        second = await when(lambda: schedule._failures == 2)
        assert 58 <= second - first <= 62
        assert schedule._dumps == 0
        in_the_way.rmdir()
        assert await when(lambda: schedule._dumps == 1) - second <= 62
    assert caplog.text.count("the dump failed, the one before stays: ") == 2


async def test_a_dump_begins_early_when_the_journal_has_grown(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with schedule_running(tmp_path, period=1e6, first_wait=0.0, check_period=10.0) as (schedule, node):
        first = await when(lambda: schedule._dumps == 1)
        counted = node.statistics
        monkeypatch.setattr(node, "statistics", lambda: counted() | {"journal_undumped_bytes": JOURNAL_FLOOR_BYTES + 1})
        assert await when(lambda: schedule._dumps == 2) - first <= 12
        monkeypatch.undo()
        with trio.move_on_after(10_000):
            await when(lambda: schedule._dumps == 3)
        assert schedule._dumps == 2


async def test_no_dump_begins_early_when_the_node_does_not_trim(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with schedule_running(tmp_path, period=1e5, first_wait=0.0, check_period=10.0) as (schedule, node):
        node.service.more_statistics.append(
            lambda: {"journal_bytes": 1, "journal_undumped_bytes": JOURNAL_FLOOR_BYTES + 1}
        )
        first = await when(lambda: schedule._dumps == 1)
        assert 0.99e5 < await when(lambda: schedule._dumps == 2) - first < 1.01e5
    errors = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len(errors) == 2
    assert f"{tmp_path} has to be the dump_dir of the node" in errors[0]
    assert errors[0].endswith("no dump begins early")
    assert not caplog.records[-1].getMessage().endswith("or when the journal has grown")


@pytest.mark.parametrize("ended", [DhtProcess.pause, DhtProcess.kill])
async def test_a_node_that_ends_or_hangs_in_the_middle_of_a_dump(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ended: Callable[[DhtProcess], None]
) -> None:
    dump_dir = tmp_path / "dump"
    dump_dir.mkdir()
    with DhtProcess(tmp_path / "node") as node:
        async with DumpClient(node.address, timeout=1.0) as client:
            await client.put_many("channel", {b"%d" % number: bytes(1000) for number in range(50_000)})
            schedule = Schedule(DumpSection(dump_dir=dump_dir), client)
            assert await schedule.dump() is None
            before = {path.name: path.read_bytes() for path in dump_dir.iterdir()}
            told = 0

            def tell(channel: str, records: int) -> None:
                nonlocal told
                told += 1
                if told == 2:
                    ended(node)

            failed = await schedule.dump(tell)
            assert failed is not None
            assert told >= 2
        assert {path.name: path.read_bytes() for path in dump_dir.iterdir()} == before
        assert f"the dump failed, the one before stays: {failed}" in caplog.text
