"""A queue in a ring of 4096 bytes, and what becomes of its file.

Whatever is in the file: opening it either names it as damaged, or gives a queue that gives out sound records only, in
their order, and counts the others.
"""

import logging
import os
import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from stored import SMALL, WatchedFiles, pop, pop_all, push, reopened, take

from nodes.queue.queue_files import Files, OpenFile
from nodes.queue.record_queue import RecordQueue
from nodes.queue.ring_format import DATA_OFFSET, STATE_OFFSETS, entry_bytes
from swarm.core.errors import QueueFull, ValueTooBig
from swarm.core.node import NodeError

CAPACITY = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.ring"


def records(*sizes: int) -> list[bytes]:
    chance = random.Random(sum(sizes))
    return [chance.randbytes(size) for size in sizes]


def stored(path: Path, *pushes: list[bytes]) -> bytes:
    """The file of a queue with one entry for each of these pushes."""
    queue = RecordQueue.create(path, SMALL)
    for values in pushes:
        push(queue, *values)
        queue.commit()
    queue.close()
    return path.read_bytes()


def test_the_file_is_allocated_as_a_whole(path: Path) -> None:
    RecordQueue.create(path, SMALL).close()
    assert path.stat().st_size == DATA_OFFSET + CAPACITY
    assert path.stat().st_blocks * 512 >= DATA_OFFSET + CAPACITY
    assert [each.name for each in path.parent.iterdir()] == ["own.ring"]


def test_exactly_full(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    left = CAPACITY - entry_bytes(1, 1000) - entry_bytes(1, 0)
    values = records(1000, left)
    for value in values:
        push(queue, value)
        queue.commit()
    assert queue.fullness == 100
    with pytest.raises(QueueFull):
        queue.make_room(1, 1)
    queue = reopened(queue, path)
    assert queue.fullness == 100
    assert pop_all(queue) == values
    queue.commit()
    assert queue.fullness == 0
    queue.close()


def test_a_record_as_large_as_the_ring_and_one_byte_more(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    largest = CAPACITY - entry_bytes(1, 0)
    assert entry_bytes(1, largest + 4) == CAPACITY  # up to 4 bytes more for the padding
    for size in (largest, largest + 4):
        for _ in range(3):
            push(queue, bytes([1]) * size)
            queue.commit()
            queue = reopened(queue, path)
            assert pop_all(queue) == [bytes([1]) * size]
    with pytest.raises(ValueTooBig, match="4096") as told:
        queue.make_room(1, largest + 5)
    assert told.value.details["limit"] == largest + 4
    queue.close()


def test_many_records_of_one_push_that_do_not_fit(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    with pytest.raises(ValueTooBig, match="1000 records together"):
        queue.make_room(1000, 1000)
    queue.close()


@pytest.mark.parametrize("size", [1, 5, 100, 2000, CAPACITY - entry_bytes(1, 0)])
def test_an_entry_begins_at_every_place_and_wraps(path: Path, size: int) -> None:
    queue = RecordQueue.create(path, SMALL)
    for place in range(0, CAPACITY, 8):
        values = [bytes([place // 8 % 256]) * size]
        push(queue, *values)
        queue.commit()
        if place % 512 == 0:
            queue = reopened(queue, path)
        assert pop_all(queue) == values
        # The next one begins 8 bytes behind this one's place, wherever that is after so many laps.
        rest = CAPACITY - entry_bytes(1, size) + 8
        while rest > 0:
            filler = rest if rest < 2 * 64 or rest <= 1024 else 1024
            filler = max(filler, 64)
            push(queue, bytes(filler - entry_bytes(1, 0)) or b"1")
            queue.commit()
            pop_all(queue)
            queue.commit()
            rest -= filler
    assert queue.damaged == 0
    queue.close()


def test_entries_of_every_size_follow_each_other_over_the_end(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    expected: list[bytes] = []
    for number in range(3000):
        values = [b"%d" % number + bytes(number * 7 % 300)] * (number % 4 + 1)
        while True:
            try:
                push(queue, *values)
                break
            except QueueFull:
                assert pop(queue, 3) == expected[:3]
                del expected[:3]
        queue.commit()
        expected += values
    assert pop_all(queue) == expected
    assert queue.damaged == 0
    queue.close()


# Damage.


FIRST, SECOND, THIRD = records(10, 20), records(300, 1, 2), records(50)
SECOND_AT = DATA_OFFSET + entry_bytes(2, 30)
SECOND_BYTES = entry_bytes(3, 303)
HEADER_END = SECOND_AT + 48
BITS_END = HEADER_END + 8


def opened_with(path: Path, content: bytes) -> RecordQueue:
    path.write_bytes(content)
    return RecordQueue.open(path, SMALL)


@pytest.mark.parametrize("part", ["header", "content"])
def test_a_damaged_entry_is_passed_over_counted_and_told(
    path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = stored(path, FIRST, SECOND, THIRD)
    places = range(SECOND_AT, HEADER_END) if part == "header" else range(BITS_END, BITS_END + 12 + 303)
    bits = range(8) if part == "header" else (0, 7)
    for place in places:
        for bit in bits:
            caplog.clear()
            queue = opened_with(path, good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            assert pop_all(queue) == FIRST + THIRD
            assert (queue.damaged, queue.records, queue.record_bytes) == (3, 0, 0)
            (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert f"{path}, offset {SECOND_AT}: 3 records from 2 on are lost" in told
            queue.commit()
            queue = reopened(queue, path)
            assert queue.damaged == 3
            queue.close()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_zeroed_entry_is_passed_over(path: Path, first: int) -> None:
    pushes = [FIRST, SECOND, THIRD]
    good = stored(path, *pushes)
    sizes = [entry_bytes(len(values), sum(map(len, values))) for values in pushes]
    start = DATA_OFFSET + sum(sizes[:first])
    queue = opened_with(path, good[:start] + bytes(sizes[first]) + good[start + sizes[first] :])
    assert pop_all(queue) == [value for values in pushes[:first] + pushes[first + 1 :] for value in values]
    assert queue.damaged == len(pushes[first])
    push(queue, b"afterwards")
    assert pop_all(queue) == [b"afterwards"]
    queue.close()


def test_everything_is_zeros(path: Path) -> None:
    good = stored(path, FIRST, SECOND, THIRD)
    queue = opened_with(path, good[:DATA_OFFSET] + bytes(CAPACITY))
    assert queue.take(10, 10) is None
    assert (queue.damaged, queue.records, queue.record_bytes) == (6, 0, 0)
    queue.close()


@pytest.mark.parametrize("what", ["given", "cut"])
def test_damage_in_what_was_given_out(path: Path, what: str) -> None:
    queue = RecordQueue.create(path, SMALL)
    for values in (FIRST, SECOND, THIRD):
        push(queue, *values)
        queue.commit()
    take(queue, 6 if what == "given" else 3)
    queue.commit()
    queue.close()
    good = path.read_bytes()
    for place in (*range(SECOND_AT, HEADER_END), *range(BITS_END, BITS_END + 12 + 303, 10)):
        queue = opened_with(path, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        found = take(queue)
        assert found == (0, True, FIRST)
        assert take(queue) == (5, what == "given", THIRD)
        assert queue.take(10, 10) is None
        assert (queue.damaged, queue.records) == (3, 3)
        assert queue.acknowledge(0, 10) == 3
        assert (queue.records, queue.record_bytes) == (0, 0)
        queue.close()


def test_damage_while_it_is_open(path: Path) -> None:
    good = stored(path, FIRST, SECOND, THIRD)
    for place in range(SECOND_AT, SECOND_AT + SECOND_BYTES, 3):
        queue = opened_with(path, good)
        take(queue)
        queue.give_back(0, 10)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([good[place] ^ 1]))
        found = []
        while delivery := queue.take(1, 1000):
            found.append(delivery.data)
        assert set(FIRST) <= set(found) <= {*FIRST, *SECOND, *THIRD}
        assert len(found) + queue.damaged == 6
        queue.acknowledge(0, 100)
        queue.commit()
        assert (queue.records, queue.record_bytes) == (0, 0)
        push(queue, b"afterwards")
        assert pop_all(queue) == [b"afterwards"]
        queue.close()


@pytest.mark.parametrize("size", [0, 1, 39, 40, 1024, 3000, 4096, 5000, DATA_OFFSET + CAPACITY - 1])
def test_a_file_that_was_cut_is_named(path: Path, size: int) -> None:
    path.write_bytes(stored(path, FIRST)[:size])
    with pytest.raises(NodeError, match=r"own\.ring is damaged.*accept-damage"):
        RecordQueue.open(path, SMALL)


def test_a_foreign_file_is_named_and_set_aside_where_damage_is_accepted(path: Path) -> None:
    for number, name in enumerate(["own.ring.damaged", "own.ring.damaged.1"]):
        foreign = b"%d" % number + os.urandom(9000)
        path.write_bytes(foreign)
        with pytest.raises(NodeError, match="does not begin as a ring does"):
            RecordQueue.open(path, SMALL)
        queue = RecordQueue.open(path, SMALL, accept_damage=True)
        assert path.with_name(name).read_bytes() == foreign
        push(queue, b"1")
        assert pop_all(queue) == [b"1"]
        queue.close()


def test_one_state_is_damaged_then_both(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = stored(path, FIRST)
    opened_with(path, good).close()
    assert not caplog.records
    for offset in STATE_OFFSETS:
        for place in range(offset, offset + 104, 5):
            caplog.clear()
            queue = opened_with(path, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert pop_all(queue) in ([], FIRST)  # what was before the last commit, or after
            assert f"{path}: one copy of its state is not sound" in caplog.text
            queue.close()
    zeroed = good[: STATE_OFFSETS[0]] + bytes(DATA_OFFSET - STATE_OFFSETS[0]) + good[DATA_OFFSET:]
    with pytest.raises(NodeError, match="neither copy of its state"):
        opened_with(path, zeroed)


# The end of the process.


def test_whatever_store_the_process_ends_behind_the_ring_is_as_before_a_commit_or_after(tmp_path: Path) -> None:
    """Also where the store itself was torn, in the middle. Of several acknowledgements some may have come through."""
    path, copy = tmp_path / "own.ring", tmp_path / "copy.ring"
    files: list[bytes] = []
    RecordQueue.create(path, SMALL).close()
    queue = RecordQueue.open(path, SMALL, WatchedFiles(lambda: files.append(path.read_bytes())))
    chance = random.Random(1)
    there: dict[int, bytes] = {}  # by number
    given: set[int] = set()
    checked = pushed = 0
    for _ in range(700):
        previous = path.read_bytes()
        files.clear()
        before = there.copy()
        operation = chance.choice((*["push"] * 4, "take", "take", *["acknowledge"] * 4, "give back"))
        if operation == "push":
            values = [
                b"%d " % (pushed + each) + bytes(chance.choice((1, 200, 900))) for each in range(chance.choice((1, 3)))
            ]
            with suppress(QueueFull):
                push(queue, *values)
                there |= {pushed + index: value for index, value in enumerate(values)}
                pushed += len(values)
        elif operation == "take" and (delivery := queue.take(chance.choice((1, 2, 5)), 2000)):
            last = delivery.sequence + len(delivery.lengths) // 4 - 1
            given |= set(range(delivery.sequence, last + 1))
            if chance.random() < 0.5:  # in the same pass
                assert queue.acknowledge(last, 1) == 1
                given.remove(last)
                del there[last]
        elif operation == "acknowledge" and given:
            first, count = chance.choice(sorted(given)), chance.choice((1, 2, 5))
            done = given & set(range(first, first + count))
            assert queue.acknowledge(first, count) == len(done)
            given -= done
            there = {number: value for number, value in there.items() if number not in done}
        elif operation == "give back" and given:
            queue.give_back(min(given), 3)
            given -= set(range(min(given), min(given) + 3))
        queue.commit()
        for content in files:
            torn = [previous[:cut] + content[cut:] for cut in changed_middle(previous, content)]
            for each in (*torn, content):
                copy.write_bytes(each)
                found = contents(copy)
                checked += 1
                if operation in ("take", "acknowledge"):
                    assert there.items() <= found.items() <= before.items()
                else:
                    assert found in (before, there)
            previous = content
        copy.write_bytes(path.read_bytes())
        assert contents(copy) == there
    assert checked > 1000
    queue.close()


def contents(path: Path) -> dict[int, bytes]:
    """Records by their number. They are given out with that, and not acknowledged: so they are there once more."""
    queue = RecordQueue.open(path, SMALL)
    found = [taken_by_number(queue)]
    queue.commit()
    queue = reopened(queue, path)
    found.append(taken_by_number(queue))
    queue.close()
    assert found[0] == found[1]
    return found[0]


def taken_by_number(queue: RecordQueue) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while delivery := queue.take(1, 0):
        found[delivery.sequence] = delivery.data
    assert queue.damaged == 0
    assert queue.records == len(found)
    return found


def changed_middle(before: bytes, after: bytes) -> list[int]:
    """A place between the first and the last byte in which they differ."""
    places = [index for index in range(0, len(after), 8) if before[index : index + 8] != after[index : index + 8]]
    return [places[len(places) // 2] + 3] if places else []


PUSHES_AND_POPS = """
import sys
from pathlib import Path
from nodes.queue.record_queue import QueueSettings, RecordQueue
from swarm.queue.batch import pack

queue = RecordQueue.open(Path(sys.argv[1]), QueueSettings(4096))
for number in range(10**9):
    lengths, data = pack([b"%d" % number] * (number % 5 + 1))
    queue.make_room(number % 5 + 1, len(data))
    queue.push(number % 5 + 1, lengths, data)
    if number > 20:
        queue.pop(number % 5 + 1, 1000)
    queue.commit()
    print(number, flush=True)
"""


@pytest.mark.parametrize("answers", [1, 60, 700])
def test_what_was_committed_is_there_after_kill_9(path: Path, answers: int) -> None:
    RecordQueue.create(path, SMALL).close()
    with subprocess.Popen(
        [sys.executable, "-c", PUSHES_AND_POPS, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout
        for _ in range(answers):
            last = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split(b"\n")[:-1]
        last = int(rest[-1]) if rest else last
    queue = RecordQueue.open(path, SMALL)
    found = [int(value) for value in pop_all(queue)]
    assert queue.damaged == 0
    assert found == sorted(found)
    assert found[-1] in (last, last + 1)
    for number in set(found) - {found[0]}:
        assert found.count(number) == number % 5 + 1
    assert set(found) == set(range(found[0], found[-1] + 1))
    queue.close()


def test_space_that_was_freed_is_not_written_to_before_that_is_committed(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    values = records(1900, 1900)
    for value in values:
        push(queue, value)
    queue.commit()
    assert pop(queue, 2) == values
    queue = reopened(queue, path)  # the pop was not committed
    assert pop(queue, 2) == values
    push(queue, bytes(3000))
    queue = reopened(queue, path)  # to have room for it, the pop was
    assert pop_all(queue) == []
    queue.close()


# Syncing.


def test_a_file_that_is_closed_while_it_is_synced_is_closed_afterwards(path: Path) -> None:
    syncing, go_on = threading.Event(), threading.Event()
    closed: list[int] = []

    class SlowFiles(Files):
        def sync(self, fd: int) -> None:
            syncing.set()
            assert go_on.wait(10)
            os.fdatasync(fd)

        def close(self, fd: int) -> None:
            closed.append(fd)
            super().close(fd)

    path.write_bytes(b"1")
    file = OpenFile(os.open(path, os.O_RDWR), SlowFiles())
    thread = threading.Thread(target=file.sync)
    thread.start()
    assert syncing.wait(10)
    file.close()
    assert not closed
    go_on.set()
    thread.join(10)
    assert closed == [file.fd]
    file.close()
    file.sync()
    assert closed == [file.fd]


def test_unsynced_until_it_is_synced(path: Path) -> None:
    queue = RecordQueue.create(path, SMALL)
    assert not queue.unsynced
    queue.commit()
    assert not queue.unsynced
    push(queue, b"1")
    assert not queue.unsynced
    queue.commit()
    assert queue.unsynced
    queue.sync()
    assert not queue.unsynced
    queue.close()
    queue.sync()
