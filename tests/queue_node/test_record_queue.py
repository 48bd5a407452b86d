"""Pushing, popping, giving out and acknowledging; being full; the configuration that changes; files that fail."""

import errno
import logging
import os
import random
from pathlib import Path

import pytest
from stored import ANY, SMALL, FailingFiles, pop, pop_all, push, reopened, take

from nodes.queue.record_queue import QueueSettings, RecordQueue
from nodes.queue.ring import Ring
from nodes.queue.ring_format import entry_bytes
from swarm.core.errors import DiskFull, QueueFull, SwarmError
from swarm.core.node import NodeError
from swarm.queue.batch import pack

LARGE = QueueSettings(1 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.ring"


def numbered(start: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, end)]


# Popping.


def test_pushes_of_a_pass_are_one_entry(path: Path) -> None:
    queue = RecordQueue.create(path, LARGE)
    for value in numbered(0, 1000):
        push(queue, value)
    queue.commit()
    taken = entry_bytes(1000, sum(map(len, numbered(0, 1000))))
    assert queue.fullness == 100 * taken / (1 << 20)
    queue = reopened(queue, path, LARGE)
    assert pop_all(queue) == numbered(0, 1000)
    queue.close()


def test_pushes_of_a_pass_beyond_the_bounds_of_an_entry(path: Path) -> None:
    settings = QueueSettings(1 << 22)
    queue = RecordQueue.create(path, settings)
    small = numbered(0, 10_000)
    large = [bytes([number]) * 100_000 for number in range(1, 10)]
    for value in small + large:
        push(queue, value)
    queue.commit()
    queue = reopened(queue, path, settings)
    assert (queue.records, queue.record_bytes) == (10_009, sum(map(len, small + large)))
    assert pop_all(queue) == small + large
    queue.close()


@pytest.mark.parametrize("pushed", [1, 7, 100])
@pytest.mark.parametrize("popped", [1, 3, 100])
@pytest.mark.parametrize("way", ["pop", "pop_one", "take"])
def test_entries_are_cut_and_joined(path: Path, pushed: int, popped: int, way: str) -> None:
    queue = RecordQueue.create(path, LARGE)
    values = numbered(0, 700)
    for start in range(0, 700, pushed):
        push(queue, *values[start : start + pushed])
        queue.commit()
    found: list[bytes] = []
    while len(found) < 700:
        if way == "pop":
            found += pop(queue, popped)
        elif way == "pop_one":
            found.append(queue.pop_one() or b"")
        else:
            first, redelivered, given = take(queue, popped)
            assert (first, redelivered) == (len(found), False)
            found += given
        assert queue.records == (700 if way == "take" else 700 - len(found))
        if len(found) % 3 == 0:
            queue.commit()
            queue = queue if way == "take" else reopened(queue, path, LARGE)
    assert found == values
    assert queue.pop_one() is None
    assert pop(queue) == []
    queue.close()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("way", ["pop", "take", "again"])
def test_a_reply_ends_with_the_record_that_passes_bytes_max(path: Path, way: str, together: bool) -> None:
    for bytes_max, count in ((0, 1), (9, 1), (10, 2), (11, 2), (19, 2), (20, 3), (49, 5), (50, 6), (ANY, 10)):
        queue = RecordQueue.create(path, SMALL)
        values = [b"%010d" % number for number in range(10)]
        for some in [values] if together else [[value] for value in values]:
            push(queue, *some)
            queue.commit()
        if way == "again":
            take(queue)
            queue.give_back(0, 10)
        found = pop(queue, 10, bytes_max) if way == "pop" else take(queue, 10, bytes_max)[2]
        assert found == values[:count]
        queue.remove()


def test_what_is_pushed_in_a_pass_can_be_popped_in_it(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    push(queue, b"1", b"2")
    assert pop(queue, 1) == [b"1"]
    push(queue, b"3")
    assert pop(queue, 5) == [b"2", b"3"]
    queue.close()


# Giving out.


def test_what_was_not_acknowledged_comes_again_after_a_restart_and_is_marked(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    push(queue, *numbered(0, 10))
    push(queue, *numbered(10, 20))
    queue.commit()
    assert take(queue, 7) == (0, False, numbered(0, 7))
    assert take(queue, 7) == (7, False, numbered(7, 14))
    assert queue.unacknowledged == 14
    assert queue.acknowledge(0, 3) == 3
    assert queue.acknowledge(0, 3) == 0
    assert queue.acknowledge(8, 2) == 2
    queue.commit()
    for _ in range(3):
        queue = reopened(queue, path)
        assert (queue.records, queue.unacknowledged) == (15, 0)
        assert queue.record_bytes == sum(map(len, [*numbered(3, 8), *numbered(10, 20)]))
        assert queue.acknowledge(0, 20) == 0  # not given out since
        assert take(queue) == (3, True, numbered(3, 8))
        assert take(queue) == (10, True, numbered(10, 14))
        assert take(queue) == (14, False, numbered(14, 20))
        assert queue.take(1, 1) is None
    assert queue.acknowledge(4, 1000) == 14
    queue.commit()
    queue = reopened(queue, path)
    assert take(queue) == (3, True, [b"3"])
    queue.close()


@pytest.mark.parametrize("order", ["forwards", "backwards", "random"])
@pytest.mark.parametrize("pushed", [1, 1000])
def test_acknowledged_one_by_one_in_any_order_never_comes_again(path: Path, order: str, pushed: int) -> None:
    queue = RecordQueue.create(path, LARGE)
    values = numbered(0, 1000)
    for start in range(0, 1000, pushed):
        push(queue, *values[start : start + pushed])
        queue.commit()
    for _ in range(10):
        take(queue, 100)
    numbers = list(range(1000))
    if order == "backwards":
        numbers.reverse()
    elif order == "random":
        random.Random(1).shuffle(numbers)
    left = set(numbers)
    for step, number in enumerate(numbers):
        assert queue.acknowledge(number, 1) == 1
        left.remove(number)
        if step % 97 == 0:
            queue.commit()
            queue = reopened(queue, path, LARGE)
            found: list[int] = []
            while delivery := queue.take(1000, ANY):
                assert delivery.redelivered
                found += range(delivery.sequence, delivery.sequence + len(delivery.lengths) // 4)
            assert found == sorted(left)
            assert queue.record_bytes == sum(len(values[each]) for each in left)
    queue.commit()
    assert (queue.records, queue.record_bytes, queue.fullness) == (0, 0, 0.0)
    queue.close()


def test_given_back_comes_before_all_others_oldest_first(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    push(queue, *numbered(0, 10))
    take(queue, 3)
    take(queue, 3)
    queue.give_back(3, 3)
    queue.give_back(0, 2)
    queue.give_back(0, 1000)  # 2 as well; the others wait already, or were not given out
    assert queue.unacknowledged == 0
    assert queue.acknowledge(0, 6) == 0
    assert take(queue, 2) == (0, True, numbered(0, 2))
    assert take(queue) == (2, True, numbered(2, 6))
    assert take(queue) == (6, False, numbered(6, 10))
    queue.close()


def test_pop_while_something_is_given_out(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    push(queue, *numbered(0, 10))
    take(queue, 3)
    assert pop(queue, 2) == numbered(3, 5)
    queue.give_back(1, 1)
    assert queue.pop_one() == b"1"
    assert queue.pop_one() == b"5"
    queue.commit()
    queue = reopened(queue, path)
    assert pop(queue) == [b"0"]
    assert pop(queue) == [b"2"]
    assert pop(queue) == numbered(6, 10)
    queue.close()


def test_bits_of_records_that_share_an_entry_but_not_a_delivery(path: Path) -> None:
    queue = RecordQueue.create(path, LARGE)
    push(queue, *numbered(0, 1200))
    for _ in range(4):
        take(queue, 300)
    for first in (310, 610, 910):
        assert queue.acknowledge(first, 5) == 5
        queue.commit()
    queue = reopened(queue, path, LARGE)
    assert [take(queue)[0] for _ in range(4)] == [0, 315, 615, 915]
    queue.close()


# Full.


def test_refuse(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    push(queue, bytes(2000))
    with pytest.raises(QueueFull):
        push(queue, bytes(2100))
    push(queue, bytes(1900))
    take(queue)
    with pytest.raises(QueueFull):
        push(queue, bytes(1900))
    queue.acknowledge(1, 1)
    with pytest.raises(QueueFull):  # the oldest is still there
        push(queue, bytes(1900))
    queue.acknowledge(0, 1)
    push(queue, bytes(1900))
    queue.close()


def test_drop_oldest(path: Path) -> None:
    settings = SMALL._replace(full="drop-oldest")
    queue = RecordQueue.create(path, settings)
    for number in range(100):
        push(queue, b"%03d" % number + bytes(400), b"second")
        queue.commit()
        assert queue.records + queue.dropped == 2 * number + 2
    queue = reopened(queue, path, settings)
    kept = queue.records // 2
    assert kept == CAPACITY // entry_bytes(2, 409)
    assert queue.dropped == 2 * (100 - kept)
    assert [value[:3] for value in pop_all(queue)[::2]] == [b"%03d" % number for number in range(100 - kept, 100)]
    queue.close()


CAPACITY = 4096


def test_drop_oldest_takes_what_is_given_out_too(path: Path) -> None:
    settings = SMALL._replace(full="drop-oldest")
    queue = RecordQueue.create(path, settings)
    for number in range(4):
        push(queue, *[b"%d" % number * 300] * 3)
        queue.commit()
    take(queue, 4)
    assert queue.acknowledge(1, 1) == 1
    push(queue, bytes(900))
    queue.commit()
    assert (queue.dropped, queue.unacknowledged, queue.records) == (2, 1, 10)
    assert queue.acknowledge(0, 3) == 0
    assert queue.acknowledge(3, 1) == 1
    queue.commit()
    push(queue, bytes(3900))  # the entry that is being read goes as well
    queue.commit()
    assert queue.dropped == 2 + 9
    queue = reopened(queue, path, settings)
    assert take(queue) == (13, False, [bytes(3900)])
    queue.close()


@pytest.mark.parametrize("given", [0, 500])
def test_drop_oldest_takes_no_step_for_each_of_many_small_entries(
    path: Path, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QueueSettings(1 << 16, full="drop-oldest")
    queue = RecordQueue.create(path, settings)
    for number in range(1000):
        push(queue, b"%03d" % number)
        queue.commit()
    if given:
        assert len(take(queue, given)[2]) == given
        queue.commit()
    looked_at = []
    entry = Ring.entry
    monkeypatch.setattr(Ring, "entry", lambda ring, position: looked_at.append(position) or entry(ring, position))
    push(queue, bytes(60_000))
    assert len(looked_at) < given + 10  # the spans of those that were given out have 256 records, and are cut
    assert queue.dropped > 900
    queue.commit()
    left = queue.records - 1
    assert pop_all(queue) == [b"%03d" % number for number in range(1000 - left, 1000)] + [bytes(60_000)]
    queue.close()


# Another size.


@pytest.mark.parametrize("capacity", [4096, 8192, 1 << 16])
def test_another_size_with_everything_in_it(path: Path, capacity: int) -> None:
    before, after = QueueSettings(1 << 14), QueueSettings(capacity)
    queue = RecordQueue.create(path, before)
    for lap in range(9):  # so that it wraps
        push(queue, bytes(2000))
        pop(queue)
        push(queue, *numbered(lap, lap + 50))
        take(queue, 10)
        assert queue.acknowledge(queue.records, 0) == 0
        queue.acknowledge(0, 1 << 40)
        pop(queue)
        queue.commit()
    push(queue, *numbered(0, 50))
    push(queue, bytes(1500))
    first = take(queue, 20)[0]
    queue.acknowledge(first + 3, 2)
    queue.commit()
    queue = reopened(queue, path, after)
    assert queue.capacity == capacity
    assert path.stat().st_size == 4096 + capacity
    assert take(queue) == (first, True, numbered(0, 3))
    assert take(queue) == (first + 5, True, numbered(5, 20))
    assert take(queue) == (first + 20, False, [*numbered(20, 50), bytes(1500)])
    queue.acknowledge(0, 1 << 40)
    push(queue, b"more")
    queue.commit()
    queue = reopened(queue, path, before)
    assert queue.capacity == 1 << 14
    assert pop_all(queue) == [b"more"]
    assert [each.name for each in path.parent.iterdir()] == ["own.ring"]
    queue.close()


def test_a_size_that_the_content_does_not_fit_into_waits(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    large = QueueSettings(8192)
    queue = RecordQueue.create(path, large)
    push(queue, bytes(5000))
    queue.commit()
    queue = reopened(queue, path)
    assert queue.capacity == 8192
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "keeps its 8192 bytes" in told
    pop(queue)
    queue.commit()
    queue = reopened(queue, path)
    assert queue.capacity == 4096
    queue.close()


def test_a_ring_is_made_a_multiple_of_4096() -> None:
    assert [QueueSettings(size).capacity for size in (1, 4096, 4097)] == [4096, 4096, 8192]


# Files.


def test_renamed_and_removed(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    push(queue, b"1")
    queue.commit()
    other = path.with_name("subscriber-a.ring")
    queue.rename_to(other)
    push(queue, b"2")
    queue.commit()
    queue.close()
    queue = RecordQueue.open(other, SMALL)
    assert pop_all(queue) == [b"1", b"2"]
    queue.remove()
    assert list(path.parent.iterdir()) == []


def test_every_file_operation_fails_while_a_ring_is_made(path: Path) -> None:
    failed = set()
    for error, raised in ((errno.ENOSPC, DiskFull), (errno.ENOMEM, DiskFull), (errno.EIO, NodeError)):
        for number in range(1, 100):
            files = FailingFiles(number, error)
            try:
                queue = RecordQueue.create(path, SMALL, files)
            except (SwarmError, NodeError) as told:
                assert type(told) is raised, files.failed
                failed.add(files.failed)
                assert list(path.parent.iterdir()) == []
                assert not files.open_now
            else:
                queue.close()
                path.unlink()
                break
    assert failed == {"create", "allocate", "map", "sync", "rename", "sync_directory"}


@pytest.mark.parametrize("capacity", [4096, 8192])
def test_every_file_operation_fails_while_a_ring_is_opened(path: Path, capacity: int) -> None:
    """Also while it is made anew in another size. Whatever has failed, the next attempt finds everything."""
    queue = RecordQueue.create(path, SMALL)
    push(queue, *numbered(0, 20))
    queue.commit()
    queue.close()
    good = path.read_bytes()
    failed = set()
    for error in (errno.ENOSPC, errno.EIO):
        for number in range(1, 100):
            path.write_bytes(good)
            files = FailingFiles(number, error)
            try:
                queue = RecordQueue.open(path, QueueSettings(capacity), files)
            except (DiskFull, NodeError):
                assert files.failed
            else:
                assert queue.records == 20
                queue.close()
            assert not files.open_now, files.failed
            failed.add(files.failed)
            queue = RecordQueue.open(path, QueueSettings(capacity))
            assert pop_all(queue) == numbered(0, 20)
            queue.close()
            if not files.failed:
                break
    wanted = {"open", "read", "size", "allocate", "map", ""}
    assert failed == wanted | ({"create", "sync", "rename", "sync_directory"} if capacity == 8192 else set())


def test_a_random_file_never_raises_anything_else(path: Path) -> None:
    """Sound headers and states, and a data area of pieces of an old one."""
    chance = random.Random(5)
    queue = RecordQueue.create(path, SMALL)
    for number in range(60):
        lengths, data = pack([b"%d" % number * 20] * 2)
        queue.make_room(2, len(data))
        queue.push(2, lengths, data)
        queue.commit()
        if number % 2:
            take(queue, 3)
            queue.acknowledge(chance.randrange(2 * number), 3)
        if number > 25:
            queue.acknowledge(0, 2 * number - 20)
    queue.commit()
    queue.close()
    good = path.read_bytes()
    for _ in range(300):
        data_area = bytearray(good)
        for _ in range(chance.choice((1, 3, 10))):
            start, end = sorted(4096 + 8 * chance.randrange(512) for _ in range(2))
            source = 4096 + 8 * chance.randrange(512)
            piece = chance.choice((good[source : source + end - start], bytes(end - start), os.urandom(end - start)))
            data_area[start : start + len(piece)] = piece
        path.write_bytes(data_area[: len(good)])
        queue = RecordQueue.open(path, SMALL)
        while queue.take(chance.choice((1, 100)), 100):
            pass
        queue.acknowledge(0, 1 << 60)
        queue.commit()
        assert (queue.records, queue.record_bytes) == (0, 0)
        push(queue, b"afterwards")
        assert pop_all(queue) == [b"afterwards"]
        queue.close()
