"""What waits on disk: in order, bounded, there after the end of the process, and gone when it has moved."""

import errno
import logging
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from stored import ANY, FailingFiles, WatchedFiles, pop, pop_all, push, reopened

from nodes.queue.overflow import STEP_BYTES, overflow_numbers, overflow_path
from nodes.queue.queue_files import Files
from nodes.queue.record_queue import QueueSettings, RecordQueue
from nodes.queue.ring_format import HEADER_BYTES, entry_bytes
from swarm.core.errors import DiskFull, QueueFull
from swarm.core.node import NodeError

SETTINGS = QueueSettings(4096, "overflow", 1 << 20)
FILE_BYTES = 8000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.ring"


def created(path: Path, settings: QueueSettings = SETTINGS, files: Files | None = None) -> RecordQueue:
    """With small overflow files."""
    RecordQueue.create(path, settings).close()
    return RecordQueue.open(path, settings, files, overflow_file_bytes=FILE_BYTES)


def numbered(start: int, end: int) -> list[bytes]:
    return [b"%05d" % number * 20 for number in range(start, end)]


def fill(queue: RecordQueue, start: int, end: int) -> list[bytes]:
    """A push and a commit for each."""
    values = numbered(start, end)
    for value in values:
        push(queue, value)
        queue.commit()
    return values


def files_of(path: Path) -> list[Path]:
    return [overflow_path(path, number) for number in overflow_numbers(path)]


def test_first_in_first_out_across_ring_and_disk(path: Path) -> None:
    queue = created(path)
    values = fill(queue, 0, 300)
    assert queue.overflow_bytes_used > 30_000
    assert queue.fullness == 100
    assert queue.records == 300
    found = pop(queue, 20)
    queue.commit()
    values += fill(queue, 300, 350)
    for _ in range(4):
        queue = reopened(queue, path, SETTINGS, overflow_file_bytes=FILE_BYTES)
        assert queue.records == len(values) - len(found)
        assert queue.record_bytes == 100 * queue.records
        found += pop(queue, 50)
        queue.commit()
    found += pop_all(queue)
    queue.commit()
    assert found == values
    assert (queue.overflow_bytes_used, queue.fullness) == (0, 0)
    queue.sync()
    assert files_of(path) == []
    assert fill(queue, 0, 10) == pop_all(queue)
    queue.close()


def test_many_pushed_in_one_pass(path: Path) -> None:
    queue = created(path)
    values = numbered(0, 3000)
    for value in values:
        push(queue, value)
    assert pop(queue, 7) == values[:7]
    queue.commit()
    queue = reopened(queue, path, SETTINGS)
    assert pop_all(queue) == values[7:]
    queue.close()


def test_what_is_given_out_keeps_what_is_on_disk_waiting(path: Path) -> None:
    queue = created(path)
    values = fill(queue, 0, 200)
    found: list[bytes] = []
    while delivery := queue.take(4096, ANY):
        found.append(delivery.data)
    given = queue.unacknowledged
    assert 20 < given < 40
    assert queue.acknowledge(0, given - 1) == given - 1
    queue.commit()
    while delivery := queue.take(4096, ANY):
        found.append(delivery.data)
        queue.acknowledge(0, 1000)
        queue.commit()
    assert b"".join(found) == b"".join(values)
    assert queue.records == 0
    queue.close()


def test_bounded(path: Path) -> None:
    settings = SETTINGS._replace(overflow_bytes=20_000)
    queue = created(path, settings)
    pushed = 0
    with suppress(QueueFull):
        while pushed < 1000:
            fill(queue, pushed, pushed + 1)
            pushed += 1
    assert 20_000 - entry_bytes(1, 100) < queue.overflow_bytes_used <= 20_000
    with pytest.raises(QueueFull, match="of 20000"):
        queue.make_room(1, 100)
    assert pop_all(queue) == numbered(0, pushed)
    queue.commit()
    fill(queue, 0, 100)
    queue.close()


def test_files_are_removed_when_the_ring_is_synced_and_not_before(path: Path) -> None:
    """What has moved is only in the ring then, which the end of the machine's power may set back."""
    queue = created(path)
    fill(queue, 0, 300)
    numbers = overflow_numbers(path)
    assert len(numbers) == 6
    while queue.records > 20:
        pop(queue, 10)
        queue.commit()
    assert overflow_numbers(path) == numbers
    queue.sync()
    assert overflow_numbers(path) == []
    queue.close()


def test_without_syncing_files_are_removed_at_once(path: Path) -> None:
    RecordQueue.create(path, SETTINGS, sync=False).close()
    queue = RecordQueue.open(path, SETTINGS, sync=False, overflow_file_bytes=FILE_BYTES)
    values = fill(queue, 0, 300)
    assert pop_all(queue) == values
    queue.commit()
    assert files_of(path) == []
    queue.close()


@pytest.mark.parametrize("full", ["refuse", "drop-oldest"])
def test_what_waits_is_given_though_the_configuration_has_changed(path: Path, full: str) -> None:
    queue = created(path)
    values = fill(queue, 0, 100)
    settings = SETTINGS._replace(full="refuse" if full == "refuse" else "drop-oldest")
    queue = reopened(queue, path, settings)
    values += fill(queue, 100, 110)  # behind what waits, therefore on disk
    assert queue.dropped == 0
    assert pop_all(queue) == values
    queue.commit()
    for number in range(100):
        with suppress(QueueFull):
            fill(queue, number, number + 1)
    queue.sync()
    assert files_of(path) == []
    assert (queue.dropped > 0) == (full == "drop-oldest")
    queue.close()


def test_a_smaller_ring_waits_until_nothing_waits_on_disk(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    large = SETTINGS._replace(ring_bytes=8192)
    queue = created(path, large)
    values = [bytes([number]) * size for number, size in enumerate((3000, 3000, 7000, 7000))]
    for value in values:
        push(queue, value)
        queue.commit()
    pop(queue, 1)
    queue.commit()
    queue = reopened(queue, path, SETTINGS)
    assert queue.capacity == 8192
    assert "may be too large" in caplog.text
    assert pop_all(queue) == values[1:]
    queue.commit()
    queue.sync()
    queue = reopened(queue, path, SETTINGS)
    assert queue.capacity == 4096
    queue.close()


def test_renamed_with_its_ring(path: Path) -> None:
    queue = created(path)
    values = fill(queue, 0, 200)
    other = path.with_name("subscriber-a.ring")
    queue.rename_to(other)
    assert files_of(path) == []
    assert len(files_of(other)) > 2
    values += fill(queue, 200, 220)
    assert pop(queue, 10) == values[:10]
    queue.commit()
    queue = reopened(queue, other, SETTINGS)
    assert pop_all(queue) == values[10:]
    queue.remove()
    assert list(path.parent.iterdir()) == []


def test_synced_by_a_thread_while_it_is_used(path: Path) -> None:
    queue = created(path)
    ended = threading.Event()
    errors: list[BaseException] = []

    def sync() -> None:
        try:
            while not ended.is_set():
                queue.sync()
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=sync)
    thread.start()
    try:
        expected: list[bytes] = []
        for lap in range(3):
            expected += fill(queue, 200 * lap, 200 * lap + 200)
            for _ in range(15):
                found = pop(queue, 10)
                queue.commit()
                assert found == expected[: len(found)]
                expected = expected[len(found) :]
        assert pop_all(queue) == expected
        queue.commit()
    finally:
        ended.set()
        thread.join(10)
    assert not errors
    queue.sync()
    assert files_of(path) == []
    queue.close()


# Damage.


class _SyncedFiles(Files):
    """While a file is cut, another thread syncs the queue: here, at that very moment."""

    def __init__(self) -> None:
        self.queue: RecordQueue | None = None
        self.cut_fd = -1
        self.synced: list[int] = []

    def cut(self, fd: int, size: int) -> None:
        queue, self.queue = self.queue, None
        if queue:
            self.cut_fd = fd
            queue.sync()
        super().cut(fd, size)

    def sync(self, fd: int) -> None:
        self.synced.append(fd)
        super().sync(fd)


def test_a_sync_does_not_miss_the_file_that_is_just_ended(path: Path) -> None:
    files = _SyncedFiles()
    queue = created(path, files=files)
    fill(queue, 0, 100)
    files.queue = queue
    fill(queue, 100, 200)
    assert files.queue is None
    assert files.cut_fd in files.synced
    queue.sync()
    assert pop_all(queue) == numbered(0, 200)


class _RemovedFiles(Files):
    """Before a name is changed, another thread that syncs the queue has removed what is not needed any more."""

    queue: RecordQueue | None = None

    def rename(self, path: Path, to: Path) -> None:
        if self.queue and path.name.endswith(".overflow"):
            self.queue.sync()
        super().rename(path, to)


def test_files_are_renamed_while_those_that_have_moved_are_removed(path: Path) -> None:
    files = _RemovedFiles()
    queue = created(path, files=files)
    fill(queue, 0, 300)
    expected = numbered(0, 300)
    while len(queue._overflow._moved) < 2:
        found = pop(queue, 10)
        assert found == expected[:10]
        del expected[:10]
        queue.commit()
    files.queue = queue
    queue.rename_to(path.with_name("subscriber-s.ring"))
    queue.sync()
    assert not list(path.parent.glob("own.*"))
    assert queue._overflow._moved == []
    queue.commit()
    assert pop_all(queue) == expected


def test_the_last_file_ends_anywhere(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a write that was not finished leaves: it is cut off, and pushing goes on behind it."""
    queue = created(path)
    values = fill(queue, 0, 40)
    queue.close()
    (last,) = files_of(path)
    good, ring = last.read_bytes(), path.read_bytes()
    end = len(good.rstrip(b"\0"))
    size = entry_bytes(1, 100)
    waiting = -(-(end - HEADER_BYTES) // size)
    for place in range(HEADER_BYTES, HEADER_BYTES + 3 * size, 5):
        for content in (good[:place], good[:place] + bytes(1000), good[:place] + b"\1" * 1000):
            path.write_bytes(ring)
            for each in files_of(path):
                each.unlink()
            last.write_bytes(content)
            caplog.clear()
            queue = RecordQueue.open(path, SETTINGS)
            whole = (place - HEADER_BYTES) // size
            if place >= HEADER_BYTES + whole * size + size - 4:  # only the padding is missing
                queue.close()
                continue
            kept = values[: 40 - waiting + whole]
            assert queue.records == len(kept)
            more = fill(queue, 100, 103)
            assert pop_all(queue) == kept + more
            assert queue.damaged == 0
            assert not [record for record in caplog.records if record.levelno == logging.ERROR]
            queue.close()


@pytest.mark.parametrize("way", ["bit", "zeros", "header"])
def test_damage_is_passed_over_counted_and_told(path: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    queue = created(path)
    values = fill(queue, 0, 300)
    queue.close()
    there = {each: each.read_bytes() for each in [path, *files_of(path)]}
    moved = 300 - sum(
        (len(content.rstrip(b"\0")) - HEADER_BYTES + 8) // 160 for content in there.values() if content[5:6] == b"O"
    )
    size = entry_bytes(1, 100)
    assert size == 160
    for file in files_of(path)[:2]:
        for place in range(HEADER_BYTES, HEADER_BYTES + 2 * size, 7):
            if 48 <= (place - HEADER_BYTES) % size < 56:
                continue  # bits, which say nothing here
            for each, content in there.items():
                each.write_bytes(content)
            content = there[file]
            if way == "bit":
                damaged = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
            elif way == "zeros":
                damaged = content[:place] + bytes(100) + content[place + 100 :]
            else:
                damaged = content[: place % 32] + b"\x55" + content[place % 32 + 1 :]
            file.write_bytes(damaged)
            caplog.clear()
            queue = RecordQueue.open(path, SETTINGS)
            assert queue.records == 300
            found = pop_all(queue)
            queue.commit()
            assert [value for value in values if value in set(found)] == found
            assert len(found) + queue.damaged == 300
            assert (queue.records, queue.record_bytes) == (0, 0)
            if damaged != content and way != "zeros":
                assert str(file) in caplog.text
                assert found[:moved] == values[:moved]
                assert queue.damaged <= (2 if way == "bit" else 60)
            queue.remove()
            file.unlink(missing_ok=True)


def test_a_ring_that_was_set_aside_leaves_what_waits(path: Path) -> None:
    queue = created(path)
    values = fill(queue, 0, 100)
    queue.close()
    path.write_bytes(b"garbage")
    queue = RecordQueue.open(path, SETTINGS, accept_damage=True)
    assert 50 < queue.records < 90
    assert queue.damaged == 0
    assert values[-queue.records :] == pop_all(queue)
    queue.close()


# The end of the process; files that fail.


def test_whatever_the_process_ends_behind_everything_that_was_committed_is_there(tmp_path: Path) -> None:
    directory, copy = tmp_path / "there", tmp_path / "copy"
    directory.mkdir()
    path = directory / "own.ring"
    snapshots: list[dict[str, bytes]] = []

    def changed() -> None:
        snapshots.append({each.name: without_end(each.read_bytes()) for each in directory.iterdir()})

    queue = created(path, SETTINGS, WatchedFiles(changed))
    chance = random.Random(3)
    expected: list[bytes] = []
    checked = 0
    for step in range(180):
        snapshots.clear()
        before = expected.copy()
        if chance.random() < (0.7 if step % 60 < 30 else 0.3):
            values = [
                b"%d " % (10 * step + each) + bytes(chance.choice((30, 600))) for each in range(chance.choice((1, 4)))
            ]
            push(queue, *values)
            expected += values
        else:
            count = chance.choice((1, 3, 20))
            found = pop(queue, count)
            assert found == expected[: len(found)]
            expected = expected[len(found) :]
        queue.commit()
        if step % 5 == 0:
            queue.sync()
        for snapshot in snapshots:
            copy.mkdir()
            for name, content in snapshot.items():
                (copy / name).write_bytes(content)
            opened = RecordQueue.open(copy / path.name, SETTINGS)
            assert pop_all(opened) in (before, expected)
            assert opened.damaged == 0
            opened.close()
            shutil.rmtree(copy)
            checked += 1
    assert checked > 300
    queue.close()


def without_end(content: bytes) -> bytes:
    """Without most of the space that was allocated ahead, for the test to be quick."""
    return content if len(content) < STEP_BYTES else content[: len(content.rstrip(b"\0")) + 3000]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_every_file_operation_fails(tmp_path: Path, error: int) -> None:
    """The push is refused, or the node stops; what was committed before is there, in order, whatever has failed."""
    failed = set()
    for number in range(1, 200):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "own.ring"
        files = FailingFiles(number, error)
        committed: list[bytes] = []
        popped = leaving = 0
        try:
            RecordQueue.create(path, SETTINGS).close()
            queue = RecordQueue.open(path, SETTINGS, files, overflow_file_bytes=FILE_BYTES)
            for value in numbered(0, 130):
                try:
                    push(queue, value)
                except DiskFull:
                    assert error == errno.ENOSPC
                    push(queue, value)
                queue.commit()
                committed.append(value)
            while found := pop(queue, 30):
                assert found == committed[popped : popped + len(found)]
                leaving = len(found)
                queue.commit()
                popped, leaving = popped + leaving, 0
                queue.sync()
        except (NodeError, OSError, DiskFull):
            assert files.failed
        failed.add(files.failed)
        queue = RecordQueue.open(path, SETTINGS)
        found = pop_all(queue)
        first = popped if found[:1] == numbered(popped, popped + 1) else popped + leaving
        assert found == numbered(first, first + len(found))
        assert first + len(found) - len(committed) in (0, 1)
        queue.remove()
        if not files.failed:
            break
    assert failed >= {"create", "allocate", "write", "open", "read", "sync", "sync_directory", "remove", "cut", ""}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    path = small_disk / "own.ring"
    with pytest.raises(DiskFull):
        RecordQueue.create(path, QueueSettings(1 << 23))
    assert list(small_disk.iterdir()) == []
    settings = SETTINGS._replace(overflow_bytes=1 << 30)
    queue = RecordQueue.create(path, settings)
    expected: list[bytes] = []
    full = False
    while not full:
        values = [b"%09d" % len(expected) * 10] * 30
        try:
            push(queue, *values)
        except DiskFull:
            full = True
        else:
            expected += values
            queue.commit()
    assert queue.records == len(expected)
    assert queue.overflow_bytes_used > 1 << 20
    queue = reopened(queue, path, settings)
    assert pop(queue, 30) == expected[:30]
    queue.close()
    queue = RecordQueue.open(path, settings)
    assert pop_all(queue) == expected
    queue.commit()
    queue.sync()
    assert len(fill(queue, 0, 100)) == 100
    queue.close()
