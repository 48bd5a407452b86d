"""The journal of a node that runs.

What was acknowledged is found by a restart, whatever became of the node: it was killed, its disk was full, any
operation on a file has failed. A write that is not acknowledged may be found or not. A node whose files fail either
refuses the request (`disk full`) or stops with NodeError; it never goes on as if nothing had happened.
"""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from core.raw_client import DirectConnection, RawClient
from journaled import (
    Content,
    FailingFiles,
    JournaledNode,
    WatchedFiles,
    configuration,
    content_after_restart,
    segments,
)

from nodes.dht.config import DhtConfig, JournalSection
from nodes.dht.journal import HEADROOM_BYTES, SMALL_BYTES, STEP_BYTES
from nodes.dht.journal_format import HEADER_BYTES
from nodes.dht.node import make_node
from swarm.blocking import DhtClient
from swarm.core import limits
from swarm.core.config import Address
from swarm.core.errors import DiskFull, ProtocolError
from swarm.core.node import Node, NodeError, listen
from swarm.core.protocol import DONE, PING, REMOVE_CHANNEL
from swarm.core.stream_driver import serve_stream
from swarm.dht.protocol import GET, PUT, PUT_MANY, REMOVE, UPDATE
from swarm.testing import DhtProcess
from tests.waiting import wait_until

MIB = 1 << 20
DISK_FULL = DiskFull.code


# One write for a pass; segments.


class CountingFiles(WatchedFiles):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []

    def write(self, fd: int, data: bytes) -> int:
        self.writes.append(len(data))
        return super().write(fd, data)


def test_a_pass_is_one_write(tmp_path: Path) -> None:
    files = CountingFiles()
    with JournaledNode(tmp_path, files=files) as node:
        assert files.writes == [HEADER_BYTES]
        node.node.service.in_pass = True
        node.connection.ask(*([id, PUT.code, "a", b"%d" % id, b"v"] for id in range(1, 50)))
        assert len(files.writes) == 1
        node.node.service.commit()
        assert len(files.writes) == 2
        for id in range(1, 50):
            node.connection.ask([id, PUT.code, "a", b"%d" % id, bytes(1 << 18)])
        node.node.service.commit()
        assert len(files.writes) == 3
        node.connection.ask([1, GET.code, "a", b"1"])
        node.node.service.commit()
        assert len(files.writes) == 3
    assert len(content_after_restart(tmp_path)["a"]) == 49


def test_segments_are_of_bounded_size_and_cut_to_their_length(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.node.run, [])
            for number in range(1000):
                node.acknowledged(PUT.code, "a", b"%d" % number, bytes(1000))
            assert node.journal.number == 1000 * 1030 // (64 * 1024) + 1
            node.node.stop()

    with JournaledNode(tmp_path, segment_bytes=64 * 1024) as node:
        trio.run(main)
        assert not node.files.open
        number = node.journal.number
    sizes = [path.stat().st_size for path in segments(tmp_path)]
    assert len(sizes) == number
    assert all(64 * 1024 <= size < 66 * 1024 for size in sizes[:-1])
    assert sizes[-1] < 66 * 1024
    assert len(content_after_restart(tmp_path)["a"]) == 1000


def test_rotate_and_remove_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.node.run, [])
            journal = node.journal
            assert journal.rotate() == 1  # nothing is in it
            for number in range(1, 4):
                node.acknowledged(PUT.code, "a", b"%d" % number, b"value")
                assert journal.rotate() == number + 1
            assert journal.bytes_since(1) == journal.bytes_since(3) + 2 * (HEADER_BYTES + 31)
            journal.first_undumped = 3
            figures = node.node.statistics()
            assert figures["journal_segments"] == 4
            assert figures["journal_bytes"] - figures["journal_undumped_bytes"] == 2 * (HEADER_BYTES + 31)
            for number, left in ((3, 2), (100, 1)):  # never the one that is written
                journal.remove_before(number)
                with trio.fail_after(10):
                    while len(segments(tmp_path)) > left:
                        await trio.lowlevel.checkpoint()
                assert len(segments(tmp_path)) == left
            node.acknowledged(PUT.code, "a", b"last", b"value")
            node.node.stop()

    with JournaledNode(tmp_path) as node:
        trio.run(main)
    assert [path.name for path in segments(tmp_path)] == [f"{4:016}.journal"]


# Killed processes.


def test_killed_right_after_the_answer(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        big = {b"%d" % number: os.urandom(100) for number in range(10_000)}
        changes = [
            (lambda: dht.put("a", b"key", b"1"), {"a": {b"key": b"1"}}),
            (lambda: dht.put("a", b"key", b"2" * MIB), {"a": {b"key": b"2" * MIB}}),
            (lambda: dht.put_if_absent("a", b"new", b"1"), {"a": {b"key": b"2" * MIB, b"new": b"1"}}),
            (lambda: dht.remove("a", b"key"), {"a": {b"new": b"1"}}),
            (lambda: dht.update("a", b"new", lambda _: b"2"), {"a": {b"new": b"2"}}),
            (lambda: dht.update("a", b"new", lambda _: None), {"a": {}}),
            (lambda: dht.put_many("b", big), {"a": {}, "b": big}),
            (lambda: dht.remove_channel("b"), {"a": {}}),
        ]
        for change, expected in changes:
            change()
            node.kill()
            node.start()
            assert {name: dict(dht.get_all(name)) for name in dht.channels()} == expected


def test_an_ordered_stop_leaves_no_zeros(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:
        with DhtClient(node.address) as dht:
            dht.put("a", b"key", b"value")
        assert node.stop() == 0
        (segment,) = segments(tmp_path / "data")
        assert segment.stat().st_size < 200
        node.start()
        with DhtClient(node.address) as dht:
            assert dht.get("a", b"key") == b"value"


def test_a_node_with_damage_stops_with_status_1_and_starts_when_told_to(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:
        with DhtClient(node.address) as dht:
            for number in range(3):
                dht.put("a", b"%d" % number, b"value")
        node.stop()
        (segment,) = segments(tmp_path / "data")
        data = bytearray(segment.read_bytes())
        data[HEADER_BYTES + 20] ^= 1
        segment.write_bytes(data)
        with pytest.raises(RuntimeError, match=rf"{segment}, offset {HEADER_BYTES}: damage.*--accept-damage"):
            node.start()
        node.start("--accept-damage")
        with DhtClient(node.address) as dht:
            assert dict(dht.get_all("a")) == {b"1": b"value", b"2": b"value"}


def test_without_a_journal_the_node_says_what_that_means(tmp_path: Path) -> None:
    with DhtProcess(tmp_path, DhtConfig(journal=JournalSection(enabled=False))) as node:
        assert any("content is gone when the node ends" in line for line in node.output)
        assert not (tmp_path / "data" / "journal").exists()


def test_without_a_journal_one_that_is_there_is_not_ignored(tmp_path: Path) -> None:
    off = DhtConfig(journal=JournalSection(enabled=False))
    with DhtProcess(tmp_path) as node:
        node.kill()  # nothing was written
    with DhtProcess(tmp_path, off):
        pass
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        dht.put("a", b"key", b"value")
        node.kill()
    journal = tmp_path / "data" / "journal"
    with pytest.raises(RuntimeError, match=rf"{journal} has records.*enabled = yes.*move {journal} away"):
        DhtProcess(tmp_path, off).start()
    journal.rename(tmp_path / "away")
    with DhtProcess(tmp_path, off) as node, DhtClient(node.address) as dht:
        assert dht.channels() == []


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2
    return filler


def test_a_start_on_a_full_disk_behind_a_dump(small_disk: Path) -> None:
    """The segment that the dump begins with cannot be begun anew; the next start finds it, or that there was none."""
    with DhtProcess(small_disk) as node, DhtClient(node.address) as dht:
        dht.put("a", b"key", b"1")
        command = [sys.executable, "-m", "dhtdump", "--oneshot", "--node", node.address]
        command += ["--dump-dir", str(small_disk / "data" / "dump")]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        for left in (True, False):
            node.kill()
            if not left:
                segments(small_disk / "data")[-1].unlink()
            filler = fill(small_disk)
            for _ in range(3):
                node.start()
                assert dht.get("a", b"key") == b"1"
                with pytest.raises(DiskFull):
                    dht.put("a", b"key", bytes(100_000))
                node.kill()
            filler.unlink()
            node.start()
            assert dht.get("a", b"key") == b"1"
        dht.put("a", b"key", b"2")
        node.kill()
        node.start()
        assert dht.get("a", b"key") == b"2"


def test_a_full_disk(small_disk: Path) -> None:
    value = os.urandom(100_000)
    with DhtProcess(small_disk) as node, DhtClient(node.address) as dht:
        dht.put("a", b"first", b"value")
        filler = fill(small_disk)
        acknowledged = {b"first": b"value"}
        with suppress(DiskFull):
            for number in range(1000):
                dht.put("a", b"%d" % number, value)
                acknowledged[b"%d" % number] = value
        assert 1 < len(acknowledged) <= (STEP_BYTES + HEADROOM_BYTES) // len(value) + 1

        def refuses() -> None:
            for write in (
                lambda: dht.put("a", b"more", value),
                lambda: dht.put_many("b", {b"more": value}),
                lambda: dht.put("new", b"more", value),
            ):
                with pytest.raises(DiskFull):
                    write()
            assert dict(dht.get_all("a")) == acknowledged
            assert dht.channels() == ["a"]

        refuses()
        for _ in range(2):
            node.kill()
            node.start()
            filler.unlink()
            filler = fill(small_disk)
            if dht.node_statistics()[node.address]["journal_disk_full"]:
                break
        refuses()
        filler.unlink()

        def resumed() -> bool:
            try:
                dht.put("a", b"again", b"value")
            except DiskFull:
                return False
            return True

        wait_until(resumed)
        acknowledged[b"again"] = b"value"
        assert dht.remove("a", b"first")
        del acknowledged[b"first"]
        node.kill()
        node.start()
        assert dict(dht.get_all("a")) == acknowledged


def test_a_large_batch_for_which_the_disk_has_no_room_stores_nothing(small_disk: Path) -> None:
    batch = {b"new-%d" % number: os.urandom(100_000) for number in range(240)}
    with DhtProcess(small_disk) as node, DhtClient(node.address) as dht:
        dht.put_many("a", {b"before": b"value"})
        for channel in ("a", "new"):
            for _ in range(2):
                with pytest.raises(DiskFull):
                    dht.put_many(channel, batch)
        assert dict(dht.get_all("a")) == {b"before": b"value"}
        assert dht.channels() == ["a"]
        half = dict(list(batch.items())[:90])

        def stored() -> bool:
            try:
                dht.put_many("a", half)
            except DiskFull:
                return False
            return True

        wait_until(stored)  # it looks now and then whether there is room
        node.kill()
        node.start()
        assert dict(dht.get_all("a")) == {b"before": b"value"} | half


class FullFiles(WatchedFiles):
    """A disk that is full when the test says so."""

    full = False

    def create(self, path: Path) -> int:
        self._check()
        return super().create(path)

    def allocate(self, fd: int, start: int, size: int) -> None:
        self._check()
        super().allocate(fd, start, size)

    def _check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_changes_in_memory_when_the_disk_is_full(tmp_path: Path) -> None:
    files = FullFiles()
    with JournaledNode(tmp_path, files=files) as node:
        node.acknowledged(PUT.code, "a", b"key", b"value")
        files.full = True
        while node.ask(PUT.code, "a", b"small", bytes(SMALL_BYTES))[0] == DONE:
            pass
        before = node.content()
        used = node.node.budget.used
        for request in (
            (PUT.code, "a", b"other", b"v"),
            (PUT.code, "new", b"other", b"v"),
            (PUT_MANY.code, "a", [b"other"], [b"v"], 0),
            (PUT_MANY.code, "new", [b"other"], [b"v"], 0),
            (UPDATE.code, "a", b"key", b"value", b"v"),
            (UPDATE.code, "a", b"key", b"value", None),
            (UPDATE.code, "new", b"key", None, b"value"),
            (REMOVE.code, "a", b"key"),
            (REMOVE_CHANNEL.code, "a"),
        ):
            assert node.ask(*request)[0] == DISK_FULL
        assert node.content() == before
        assert node.node.budget.used == used
        assert node.acknowledged(GET.code, "a", b"key") == b"value"
        assert node.journal.statistics()["journal_disk_full"] == 1
        files.full = False
        wait_until(lambda: node.ask(PUT.code, "a", b"again", b"v")[0] == DONE)
        assert node.journal.statistics()["journal_disk_full"] == 0
        assert node.journal.statistics()["journal_times_full"] == 1
    assert content_after_restart(tmp_path) == {"a": before["a"] | {b"again": b"v"}}


def test_the_parts_of_a_batch_have_room_though_others_fill_the_disk(tmp_path: Path) -> None:
    """Also when the segment would have been followed by another meanwhile, or is because a dump begins."""
    value, files = bytes(MIB), FullFiles()
    for dumped in (False, True):
        files.full = False
        with JournaledNode(tmp_path, files=files, segment_bytes=6 * MIB) as node:
            parts = [(PUT_MANY.code, "a", [b"%d-%d" % (dumped, number)], [value]) for number in range(12)]
            kept = sum(len(keys[0]) + len(value) + 128 for _, _, keys, _ in parts[1:])
            others = DirectConnection(node.node.service)
            node.acknowledged(*parts[0], kept)
            if dumped:
                node.journal.rotate()
            files.full = True
            for size in (SMALL_BYTES, len(value), SMALL_BYTES):
                while others.ask([1, PUT.code, "b", b"key", bytes(size)])[0][1] == DONE:
                    node.node.service.commit()
            for part in parts[1:]:
                node.acknowledged(*part, None)
            assert node.ask(*parts[0], None)[0] == DISK_FULL  # all that was kept is used
            assert node.node.budget.reserved == 0
            before = node.content()
        assert content_after_restart(tmp_path) == before
        assert len(before["a"]) == 12 * (1 + dumped)


def test_a_value_that_does_not_fit_leaves_smaller_ones_alone(tmp_path: Path) -> None:
    files = FullFiles()
    with JournaledNode(tmp_path, files=files) as node:
        node.acknowledged(PUT.code, "a", b"small", b"0")
        files.full = True
        assert node.ask(PUT.code, "a", b"large", bytes(STEP_BYTES * 2))[0] == DISK_FULL
        node.acknowledged(PUT.code, "a", b"small", b"v")
        assert not node.journal.disk_full
    assert content_after_restart(tmp_path) == {"a": {b"small": b"v"}}


def test_small_writes_on_a_full_disk_after_a_dump_has_begun_a_segment(tmp_path: Path) -> None:
    """What is behind the end of the segment before counts no more: the new one has room for HEADROOM_BYTES."""
    files = FullFiles()
    with JournaledNode(tmp_path, files=files) as node:
        for _ in range(3):
            node.acknowledged(PUT.code, "a", b"large", bytes(8 * MIB))
        assert node.journal.rotate() == 2
        files.full = True
        written = 0
        while written <= HEADROOM_BYTES and node.ask(PUT.code, "a", b"small", bytes(SMALL_BYTES))[0] == DONE:
            written += SMALL_BYTES
        assert written <= HEADROOM_BYTES
        assert node.journal.statistics()["journal_disk_full"] == 1
        assert node.ask(REMOVE.code, "a", b"large")[0] == DISK_FULL


def test_starting_on_a_full_disk(tmp_path: Path) -> None:
    with JournaledNode(tmp_path) as node:
        node.acknowledged(PUT.code, "a", b"key", b"value")
        assert node.journal.rotate() == 2  # as a dump does, which will ask for this segment
    files = FullFiles()
    files.full = True
    with JournaledNode(tmp_path, files=files) as node:
        assert node.acknowledged(GET.code, "a", b"key") == b"value"
        assert node.ask(PUT.code, "a", b"more", b"v")[0] == DISK_FULL
        assert len(segments(tmp_path)) == 2
        files.full = False
        wait_until(lambda: node.ask(PUT.code, "a", b"more", b"v")[0] == DONE)
        assert node.journal.number == 2
    assert content_after_restart(tmp_path) == {"a": {b"key": b"value", b"more": b"v"}}


# Operations on files that fail.


async def write_until_it_ends(node: Node, model: Content, maybe: Content) -> None:
    """Writes through a connection. model: what was acknowledged; maybe: what was asked for besides."""
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run, [])
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve_stream, node.service, theirs)
        client = RawClient(ours)
        await client.greet()
        for number in range(30):
            key, value = b"%d" % (number % 10), b"%d" % number + bytes(10_000)
            maybe["a"][key] = value  # whatever becomes of the node now
            try:
                _, status, _ = await client.ask(number + 1, PUT.code, "a", key, value)
            except EOFError:
                await trio.sleep_forever()  # the node is stopping, with an error
            assert status in (DONE, DISK_FULL)
            if status == DONE:
                model["a"][key] = value
            elif key in model["a"]:
                maybe["a"][key] = model["a"][key]
            else:
                del maybe["a"][key]
        await client.close()
        node.stop()


@pytest.mark.parametrize("fsync", ["interval", "always"])
@pytest.mark.parametrize(("error", "tears"), [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False)])
def test_the_nth_operation_fails(tmp_path: Path, error: int, tears: bool, fsync: str) -> None:
    failed: set[str] = set()
    number = 1
    while kind := what_fails(tmp_path / str(number), fsync, FailingFiles(number, error, tears=tears)):
        failed.add(kind)
        number += 1
    # What a thread does comes at another place in each run, so numbers alone may have left something out.
    for kind in {"create", "write", "allocate", "cut", "sync", "sync_directory", "close"} - failed:
        assert what_fails(tmp_path / kind, fsync, FailingFiles(1, error, tears=tears, only=kind)) == kind


def what_fails(data: Path, fsync: str, files: FailingFiles) -> str:
    """Which operation has failed, while a node was written to: nothing that was acknowledged is lost by it, and
    nothing is there that was never asked for. Empty if none has; then everything was acknowledged."""
    model: Content = {"a": {}}
    maybe: Content = {"a": {}}
    try:
        options = configuration(data, segment_bytes=128 * 1024, fsync=fsync)
        trio.run(write_until_it_ends, make_node(options, files=files), model, maybe)
    except NodeError:
        pass  # it did not start
    except BaseExceptionGroup as group:
        assert group.subgroup(NodeError) is not None, files.failed
    finally:
        files.forget()
    found = content_after_restart(data).get("a", {})
    assert set(model["a"]) <= set(found) <= set(maybe["a"]), files.failed
    for key, value in found.items():
        assert value in (model["a"].get(key), maybe["a"][key]), files.failed
    if not files.failed:
        assert model == maybe
        assert len(model["a"]) == 10
    return files.failed


# fsync = always.


class HeldFiles(WatchedFiles):
    """Syncs wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.go_on = threading.Semaphore(0)
        self.syncs = 0

    def sync(self, fd: int) -> None:
        if self.held:
            assert self.go_on.acquire(timeout=30)
        self.syncs += 1
        super().sync(fd)


class Served:
    """A node with fsync = always, over sockets or over memory streams."""

    def __init__(
        self, node: Node, files: HeldFiles, kind: str, nursery: trio.Nursery, address: tuple[str, int]
    ) -> None:
        self.node = node
        self.files = files
        self._kind = kind
        self._nursery = nursery
        self._address = address

    async def connect(self) -> RawClient:
        if self._kind == "sockets":
            return await RawClient.connect(self._address)
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(serve_stream, self.node.service, theirs)
        client = RawClient(ours)
        await client.greet()
        return client


@asynccontextmanager
async def served(data: Path, kind: str) -> AsyncIterator[Served]:
    files = HeldFiles()
    node = make_node(configuration(data, fsync="always"), files=files)
    with closing(listen(Address("127.0.0.1", 0))) as sock:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run, [sock] if kind == "sockets" else [])
            yield Served(node, files, kind, nursery, sock.getsockname())
            files.held = False
            files.go_on.release(1000)
            node.stop()
            if kind != "sockets":
                nursery.cancel_scope.cancel()


both = pytest.mark.parametrize("kind", ["sockets", "memory"])


@both
async def test_an_answer_to_a_write_waits_for_its_sync_and_nothing_else_does(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path, kind) as one:
        client = await one.connect()
        assert await client.result(PUT.code, "a", b"key", b"1") is None
        one.files.held = True
        for request in (
            [1, PUT.code, "a", b"key", b"2"],
            [2, PUT_MANY.code, "a", [b"x"], [b"1"], 0],
            [3, REMOVE.code, "a", b"x"],
            [4, UPDATE.code, "a", b"key", b"2", b"3"],
            [5, REMOVE_CHANNEL.code, "b"],
        ):
            await client.send(request)
            await client.send([100 + request[0], GET.code, "a", b"key"], [200 + request[0], PING.code])
            assert (await client.receive())[0] == 100 + request[0]
            assert (await client.receive())[0] == 200 + request[0]
        assert (await client.ask(9, UPDATE.code, "a", b"key", b"2", b"3"))[1] == 25  # nothing was written
        one.files.go_on.release(2)
        with trio.fail_after(10):
            answers = [await client.receive() for _ in range(5)]
        assert sorted(answers) == [[1, 0, None], [2, 0, None], [3, 0, True], [4, 0, None], [5, 0, False]]
        await client.close()
    assert content_after_restart(tmp_path) == {"a": {b"key": b"3"}}


@both
async def test_passes_that_come_meanwhile_share_the_next_sync(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path, kind) as one:
        clients = [await one.connect() for _ in range(20)]
        await clients[0].result(PUT.code, "a", b"key", b"1")
        one.files.held = True
        before = one.files.syncs
        for number, client in enumerate(clients):
            await client.send([1, PUT.code, "a", b"%d" % number, b"value"])
            await client.result(PING.code)  # it was carried out
        one.files.go_on.release(2)
        with trio.fail_after(10):
            for client in clients:
                assert await client.receive() == [1, DONE, None]
        assert one.files.syncs - before == 2
        for client in clients:
            await client.close()


@both
async def test_a_client_that_has_closed_its_side_gets_what_is_held(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path, kind) as one:
        client = await one.connect()
        one.files.held = True
        await client.send([1, PUT.code, "a", b"key", b"1"])
        await client.result(PING.code)
        await client.end_of_input()
        other = await one.connect()
        await other.result(PING.code)
        one.files.go_on.release(2)
        with trio.fail_after(10):
            assert await client.rest() == [[1, DONE, None]]
        await client.close()
        await other.close()


@both
async def test_a_client_that_is_refused_is_closed_though_answers_are_held(tmp_path: Path, kind: str) -> None:
    """It is not told of what was held: the notice is the last that it hears."""
    async with served(tmp_path, kind) as one:
        client = await one.connect()
        one.files.held = True
        await client.send([1, PUT.code, "a", b"key", b"1"])
        await client.result(PING.code)
        await client.send([0, 0])
        with trio.fail_after(10):
            assert [message[:2] for message in await client.rest()] == [[0, ProtocolError.code]]
        await client.close()
        one.files.go_on.release(2)
    assert content_after_restart(tmp_path) == {"a": {b"key": b"1"}}


@both
async def test_what_a_connection_may_have_held_is_bounded(tmp_path: Path, kind: str) -> None:
    most = limits.OUTPUT_BYTES_MAX // limits.HELD_REPLY_BYTES
    async with served(tmp_path, kind) as one:
        client = await one.connect()
        one.files.held = True
        requests = [[id, PUT.code, "a", b"key", b"%d" % id] for id in range(1, 2 * most)]
        await client.send(*requests)
        other = await one.connect()
        with trio.fail_after(20):
            while len(one.node.service.held) + one.node.service._taken <= most:
                await other.result(PING.code)
        for _ in range(20):
            await other.result(PING.code)
        assert len(one.node.service.held) + one.node.service._taken <= most + 64
        one.files.held = False
        one.files.go_on.release(2)
        with trio.fail_after(20):
            for id in range(1, 2 * most):
                assert await client.receive() == [id, DONE, None]
        await client.close()
        await other.close()


async def test_a_sync_that_fails_stops_the_node_and_its_answers_never_leave(tmp_path: Path) -> None:
    class Broken(HeldFiles):
        def sync(self, fd: int) -> None:
            if self.held:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().sync(fd)

    files = Broken()
    node = make_node(configuration(tmp_path, fsync="always"), files=files)
    answers = []

    async def main() -> None:
        with closing(listen(Address("127.0.0.1", 0))) as sock:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run, [sock])
                with trio.CancelScope(shield=True):
                    client = await RawClient.connect(sock.getsockname())
                    files.held = True
                    await client.send([1, PUT.code, "a", b"key", b"1"])
                    answers.extend(await client.rest())
                    await client.close()

    with pytest.raises(ExceptionGroup) as raised:
        await main()
    assert raised.group_contains(NodeError, match="cannot be synced")
    assert [answer for answer in answers if answer[0] == 1] == []
    files.forget()


@pytest.mark.parametrize("error", [None, errno.EIO])
def test_a_journal_that_is_closed_takes_nothing(tmp_path: Path, error: int | None) -> None:
    """Between its end, because a sync has failed, and that of the connections."""

    class Broken(WatchedFiles):
        def sync(self, fd: int) -> None:
            if error is not None:
                raise OSError(error, os.strerror(error))
            super().sync(fd)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.node.run, [])
            node.acknowledged(PUT.code, "a", b"key", b"1")
            if error is None:
                node.node.stop()

    with JournaledNode(tmp_path, files=Broken(), fsync_interval=0.01) as node:
        with suppress(BaseExceptionGroup):
            trio.run(main)
        before = segments(tmp_path)
        for request in ((PUT.code, "a", b"key", b"2"), (PUT_MANY.code, "a", [b"key"], [b"2"], 0)):
            with pytest.raises(NodeError, match="is closed"):
                node.ask(*request)
        with pytest.raises(NodeError, match="is closed"):
            node.journal.rotate()
        assert segments(tmp_path) == before
    assert content_after_restart(tmp_path) == {"a": {b"key": b"1"}}


@pytest.mark.parametrize("kind", ["sockets", "memory"])
async def test_changes_that_cannot_be_written_stop_the_node_and_its_answers_never_leave(
    tmp_path: Path, kind: str
) -> None:
    class Broken(WatchedFiles):
        broken = False

        def write(self, fd: int, data: bytes) -> int:
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().write(fd, data)

    files = Broken()
    node = make_node(configuration(tmp_path), files=files)
    answers = []

    async def main() -> None:
        with closing(listen(Address("127.0.0.1", 0))) as sock:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run, [sock])
                with trio.CancelScope(shield=True):
                    if kind == "sockets":
                        client = await RawClient.connect(sock.getsockname())
                    else:
                        ours, theirs = trio.testing.memory_stream_pair()
                        nursery.start_soon(serve_stream, node.service, theirs)
                        client = RawClient(ours)
                        await client.greet()
                    files.broken = True
                    await client.send(
                        [1, GET.code, "a", b"key"], [2, PUT.code, "a", b"key", b"1"], [3, PUT_MANY.code, "a", [], [], 0]
                    )
                    with suppress(trio.BrokenResourceError):
                        answers.extend(await client.rest())
                    await client.close()

    with pytest.raises(BaseExceptionGroup) as raised:
        await main()
    assert raised.group_contains(NodeError, match="cannot be written")
    assert [answer for answer in answers if answer[0]] == []
    files.forget()
