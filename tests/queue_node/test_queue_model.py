"""Random operations on a queue, compared with a list, for each of the three ways to be full.

The node is killed at random: what the next one finds is what was committed, or what came to be while the pass went on
that was not committed yet. Nothing that was acknowledged comes again; what was given out and not acknowledged comes
first, and is marked.
"""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodes.queue.overflow import overflow_numbers, overflow_path
from nodes.queue.record_queue import Full, QueueSettings, RecordQueue
from swarm.core.errors import QueueFull, ValueTooBig
from swarm.queue.batch import pack, unpack

ANY = 1 << 40


@dataclass(frozen=True)
class Record:
    sequence: int
    value: bytes
    state: str = "new"  # or "out", "back"

    @property
    def was_given(self) -> bool:
        return self.state != "new"


Content = tuple[list[tuple[bytes, bool]], int, int]
"""Every record, and whether it was given out; how many were dropped; the number of the next to be pushed."""


class Model:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.next_sequence = 0
        self.dropped = 0

    def copy(self) -> "Model":
        copy = Model()
        copy.records, copy.next_sequence, copy.dropped = self.records.copy(), self.next_sequence, self.dropped
        return copy

    def content(self) -> Content:
        by_turn = sorted(self.records, key=lambda record: (not record.was_given, record.sequence))
        return [(record.value, record.was_given) for record in by_turn], self.dropped, self.next_sequence

    def push(self, values: list[bytes]) -> None:
        for value in values:
            self.records.append(Record(self.next_sequence, value))
            self.next_sequence += 1

    def drop(self, count: int) -> None:
        self.dropped += count
        del self.records[:count]

    def set(self, first: int, count: int, was: set[str], state: str) -> int:
        """Records of this state among these get another; '' removes them. How many."""
        chosen = {r.sequence for r in self.records if first <= r.sequence < first + count and r.state in was}
        changed = [Record(r.sequence, r.value, state) if r.sequence in chosen else r for r in self.records]
        self.records = [record for record in changed if record.state]
        return len(chosen)


class Run:
    def __init__(self, directory: Path, seed: int, settings: QueueSettings) -> None:
        self.random = random.Random(seed)
        self.settings = settings
        self.directory = directory
        self.path = directory / "own.ring"
        self.queue = RecordQueue.create(self.path, settings)
        self.model = Model()
        self.possible = [self.model.copy()]
        self.pushed = 0
        self.file_bytes = self.random.choice((2000, 20_000))

    def values(self) -> list[bytes]:
        r = self.random
        count = r.choice((1, 1, 1, 2, 5, 70, 130))
        size = r.choice((1, 8, 30, 500)) if count < 70 else 3
        values = []
        for _ in range(count):
            self.pushed += 1
            values.append(b"%d " % self.pushed + r.randbytes(r.randint(0, size)))
        if r.random() < 0.02:
            values = [bytes(r.randint(3900, 4200))]
        return values

    def push(self) -> None:
        values = self.values()
        lengths, data = pack(values)
        dropped = self.queue.dropped
        alone = len(values) == 1 and self.random.random() < 0.5
        try:
            if alone:
                self.queue.push_one(values[0])
            else:
                self.queue.make_room(len(values), len(data))
        except (QueueFull, ValueTooBig) as error:
            assert self.queue.dropped == dropped
            assert self.settings.full != "drop-oldest" or isinstance(error, ValueTooBig)
            return
        self.model.drop(self.queue.dropped - dropped)
        self.possible.append(self.model.copy())
        if not alone:
            self.queue.push(len(values), lengths, data)
        self.model.push(values)

    def pop(self) -> None:
        records_max, bytes_max = self.random.choice((1, 3, 100, 4096)), self.random.choice((0, 10, 1000, ANY))
        self.took(unpack(*self.queue.pop(records_max, bytes_max)), records_max, bytes_max, "")

    def pop_one(self) -> None:
        value = self.queue.pop_one()
        self.took([] if value is None else [value], 1, ANY, "")

    def took(self, values: list[bytes], records_max: int, bytes_max: int, state: str) -> None:
        records = self.model.records
        turn = [r for r in records if r.state == "back"] or [r for r in records if r.state == "new"]
        assert [r.value for r in turn[: len(values)]] == values
        if not values:
            # All that is new may be on disk, behind a ring that is full of what was given out.
            assert not turn or (turn[0].state == "new" and self.queue.overflow_bytes_used)
            return
        assert len(values) <= records_max
        assert sum(map(len, values[:-1])) <= bytes_max
        follows = len(turn) > len(values) and turn[len(values)].sequence == turn[0].sequence + len(values)
        if follows and not self.queue.overflow_bytes_used and len(values) < records_max and turn[0].state == "new":
            assert sum(map(len, values)) > bytes_max
        self.model.set(turn[0].sequence, len(values), {turn[0].state}, state)

    def take(self) -> None:
        records_max, bytes_max = self.random.choice((1, 3, 100, 4096)), self.random.choice((0, 10, 1000, ANY))
        delivery = self.queue.take(records_max, bytes_max)
        backs = [r.sequence for r in self.model.records if r.state == "back"]
        if delivery:
            assert delivery.redelivered == bool(backs)
            values = unpack(delivery.lengths, delivery.data)
            assert values
            before = {r.sequence: r for r in self.model.records}
            assert [before[delivery.sequence + index].value for index in range(len(values))] == values
            self.took(values, records_max, bytes_max, "out")
        else:
            self.took([], records_max, bytes_max, "out")

    def some(self) -> tuple[int, int]:
        given = [r.sequence for r in self.model.records if r.was_given]
        first = self.random.choice(given) if given else self.random.randint(0, self.model.next_sequence)
        return max(first - self.random.choice((0, 0, 2)), 0), self.random.choice((1, 1, 2, 10, 1000))

    def acknowledge(self) -> None:
        first, count = self.some()
        assert self.queue.acknowledge(first, count) == self.model.set(first, count, {"out"}, "")

    def acknowledge_all(self) -> None:
        for first, count in ((0, 1 << 40), (1 << 63, 5)):
            assert self.queue.acknowledge(first, count) == self.model.set(first, count, {"out"}, "")

    def give_back(self) -> None:
        first, count = self.some()
        self.queue.give_back(first, count)
        self.model.set(first, count, {"out"}, "back")

    def commit(self) -> None:
        self.queue.commit()
        self.possible = [self.model.copy()]

    def crash(self) -> None:
        """Without a commit."""
        copy = self.directory / "copy"
        copy.mkdir()
        for path in [self.path, *(overflow_path(self.path, each) for each in overflow_numbers(self.path))]:
            shutil.copy(path, copy / path.name)
        content = self.drained(copy / self.path.name)
        found = [each for each in self.possible if each.content() == content]
        assert found
        shutil.rmtree(copy)
        self.queue.close()
        self.queue = RecordQueue.open(self.path, self.settings, overflow_file_bytes=self.file_bytes)
        self.restore(found[-1])

    def drained(self, path: Path) -> Content:
        queue = RecordQueue.open(path, self.settings, overflow_file_bytes=self.file_bytes)
        found: list[tuple[bytes, bool]] = []
        while delivery := queue.take(4096, ANY) or (self.acknowledged_all(queue) and queue.take(4096, ANY)):
            found += [(value, delivery.redelivered) for value in unpack(delivery.lengths, delivery.data)]
        assert queue.damaged == 0
        assert (queue.records, queue.record_bytes) == (0, 0)
        queue.make_room(1, 3)
        lengths, data = pack([b"end"])
        queue.push(1, lengths, data)
        end = queue.take(1, 3)
        assert end
        queue.remove()
        return found, queue.dropped, end.sequence

    @staticmethod
    def acknowledged_all(queue: RecordQueue) -> bool:
        return bool(queue.acknowledge(0, 1 << 40))

    def restore(self, found: Model) -> None:
        """The model as the next node must see it."""
        found.records = [r if r.state == "new" else Record(r.sequence, r.value, "back") for r in found.records]
        self.model = found
        self.possible = [found.copy()]

    def run(self, steps: int) -> None:
        operations = [self.push] * 10 + [self.pop, self.pop_one, self.take, self.take, self.acknowledge] * 2
        operations += [self.give_back, self.acknowledge_all, self.commit, self.commit, self.commit, self.crash]
        weights = [1.0] * len(operations)
        for step in range(steps):
            if step % 100 == 0:  # sometimes the queue fills, sometimes it empties
                weights = [self.random.choice((0.2, 1, 3)) for _ in operations]
            (operation,) = self.random.choices(operations, weights)
            operation()
            self.possible.append(self.model.copy())
            model, queue = self.model, self.queue
            assert queue.records == len(model.records), operation.__name__
            assert queue.record_bytes == sum(len(r.value) for r in model.records), operation.__name__
            assert queue.unacknowledged == sum(r.state == "out" for r in model.records)
            assert 0 <= queue.fullness <= 100
            assert queue.dropped == model.dropped
            assert not queue.damaged
        self.queue.remove()


@pytest.mark.parametrize("full", ["refuse", "drop-oldest", "overflow"])
@pytest.mark.parametrize("seed", range(5))
def test_as_a_list(tmp_path: Path, full: Full, seed: int) -> None:
    settings = QueueSettings(random.Random(seed).choice((4096, 8192, 20_000)), full, overflow_bytes=30_000)
    Run(tmp_path, seed, settings).run(1000)
    assert list(tmp_path.iterdir()) == []
