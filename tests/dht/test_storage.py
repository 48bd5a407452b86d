"""A channel of the dht node against a plain dict, with random operations and walks in between."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice, pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from nodes.dht import storage
from nodes.dht.config import DhtConfig, JournalSection, NodeSection
from nodes.dht.node import make_node
from nodes.dht.storage import SLOTS_PER_SHARD_MAX, Batch, DhtChannel
from swarm.core.errors import (
    BadArgument,
    BadChannel,
    BadKey,
    BatchTooBig,
    ChannelRemoved,
    Conflict,
    OutOfMemory,
    WrongNode,
)
from swarm.core.limits import BATCH_RECORDS_MAX, KEY_BYTES_MAX, RECORD_OVERHEAD_BYTES
from swarm.core.storage_channels import MemoryBudget
from swarm.dht import protocol
from swarm.dht.hash_range import HASH_MAX, HashRange, hash_key, split_evenly

BUDGET = 40_000
POOL = 200

RANGES = {
    "all": HashRange(),
    "first half": split_evenly(2)[0],
    "third of seven": split_evenly(7)[2],
    "odd": HashRange(HASH_MAX // 3 + 12345, HASH_MAX // 2 + 777),
    "across a power of two": HashRange(2**63 - 2**55, 2**63 + 2**54),
}


def eight_hashes(key: bytes) -> int:
    """As if somebody knew how to make keys that have the same hash."""
    return hash_key(key) >> 61 << 61


@cache
def keys_in(hash_range: HashRange, few_hashes: bool) -> list[bytes]:
    hash_of = eight_hashes if few_hashes else hash_key
    return list(islice((key for key in map(b"%d".__mod__, count()) if hash_of(key) in hash_range), POOL))


@cache
def key_outside(hash_range: HashRange, few_hashes: bool) -> bytes | None:
    hash_of = eight_hashes if few_hashes else hash_key
    return next((key for key in map(b"%d".__mod__, range(10_000)) if hash_of(key) not in hash_range), None)


def size_of(records: dict[bytes, bytes]) -> int:
    return sum(map(len, records)) + sum(map(len, records.values()))


def memory_of(records: dict[bytes, bytes]) -> int:
    return size_of(records) + RECORD_OVERHEAD_BYTES * len(records)


def check_structure(channel: DhtChannel, hash_range: HashRange) -> None:
    """Every record is in the slot of its hash; the slots of a shard are next to each other; the directory covers the
    node's hash range and no more."""
    directory, shift, base = channel._directory, channel._shift, channel._base
    assert len(directory) == (hash_range.highest >> shift) - (hash_range.lowest >> shift) + 1
    assert base == hash_range.lowest >> shift
    runs = [shard for number, shard in enumerate(directory) if number == 0 or directory[number - 1] is not shard]
    assert len(set(map(id, runs))) == len(runs) == channel._shard_count
    for slot, shard in enumerate(directory):
        for key in shard:
            assert directory[(storage.hash_key(key) >> shift) - base] is shard, (slot, key)
    assert len(directory) <= 2 * SLOTS_PER_SHARD_MAX * channel._shard_count


def stored_in_batches(records: dict[bytes, bytes], size: int = 7) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """As a dump gives them."""
    stored = sorted((storage.hash_key(key).to_bytes(8, "big") + key, value) for key, value in records.items())
    for start in range(0, len(stored), size):
        keys, values = zip(*stored[start : start + size], strict=True)
        yield list(keys), list(values)


@dataclass(eq=False)
class Reader:
    """A walk, and what it has to give."""

    key_prefix: bytes
    substring: bytes
    batches: Iterator[Batch]
    untouched: set[bytes]
    """Those that existed when it began and were not written since."""
    seen: list[bytes] = field(default_factory=list)
    cursor: bytes = b""


class ChannelMachine(RuleBasedStateMachine):
    """Constants are made so small that a few records fill shards and batches."""

    walks: Any = Bundle("walks")

    def __init__(self) -> None:
        super().__init__()
        self.patches = ExitStack()
        self.readers: list[Reader] = []
        self.model: dict[bytes, bytes] = {}

    @initialize(
        name=st.sampled_from(sorted(RANGES)), few_hashes=st.booleans(), filled=st.integers(0, POOL), load=st.booleans()
    )
    def begin(self, name: str, few_hashes: bool, filled: int, load: bool) -> None:
        self.range = RANGES[name]
        few_hashes = few_hashes and any(number << 61 in self.range for number in range(8))
        for name, value in (
            ("SHARD_RECORDS_MAX", 4),
            ("LOADED_SHARD_RECORDS", 3),
            ("BATCH_BYTES", 120),
            ("WALK_RECORDS_MAX", 40),
            ("WALK_SHARD_RECORDS", 2),
            ("WALK_BYTES_MAX", 150),
            ("WALK_SORT_RECORDS", 6),
            ("REPLY_BYTES_MAX", 300),
            ("hash_key", eight_hashes if few_hashes else hash_key),
        ):
            self.patches.enter_context(patch.object(storage, name, value))
        self.keys = keys_in(self.range, few_hashes)
        self.outside = key_outside(self.range, few_hashes)
        self.budget = MemoryBudget(BUDGET)
        self.channel = DhtChannel(self.range, self.budget)
        if load:
            self.model = dict.fromkeys(self.keys[:filled], b"loaded")
            self.channel.load(stored_in_batches(self.model), filled)
        elif filled:
            self.put_a_row(0, filled)
        self.always = self.walk(b"", b"")

    def touch(self, *keys: bytes) -> None:
        for reader in self.readers:
            reader.untouched -= set(keys)

    def fits(self, changed: dict[bytes, bytes]) -> bool:
        growth = memory_of(self.model | changed) - memory_of(self.model)
        return growth <= 0 or memory_of(self.model) + growth <= BUDGET

    # Writes.

    keys_drawn = st.integers(0, POOL - 1)
    values = st.binary(min_size=1, max_size=40) | st.integers(1, 3000).map(lambda size: b"v" * size)

    @rule(number=keys_drawn, value=values)
    def put(self, number: int, value: bytes) -> None:
        key = self.keys[number]
        if self.fits({key: value}):
            self.channel.put(key, value)
            self.model[key] = value
            self.touch(key)
        else:
            with pytest.raises(OutOfMemory):
                self.channel.put(key, value)

    @rule(pairs=st.lists(st.tuples(keys_drawn, values), min_size=1, max_size=60), spoiled=st.integers(0, 9))
    def put_many(self, pairs: list[tuple[int, bytes]], spoiled: int) -> None:
        keys = [self.keys[number] for number, _ in pairs]
        values = [value for _, value in pairs]
        if spoiled == 0 and self.outside:
            keys[len(keys) // 2] = self.outside
        changed = dict(zip(keys, values, strict=True))
        size = sum(map(len, keys)) + sum(map(len, values))
        if self.outside in changed:
            with pytest.raises(WrongNode):
                self.channel.put_many(keys, values, size)
        elif self.fits(changed):
            self.channel.put_many(keys, values, size)
            self.model |= changed
            self.touch(*keys)
        else:
            with pytest.raises(OutOfMemory):
                self.channel.put_many(keys, values, size)

    @rule(first=keys_drawn, length=st.integers(1, POOL))
    def put_a_row(self, first: int, length: int) -> None:
        changed = dict.fromkeys(self.keys[first : first + length], b"value %d" % length)
        if self.fits(changed):
            self.channel.put_many(list(changed), list(changed.values()), size_of(changed))
            self.model |= changed
            self.touch(*changed)

    @rule(number=keys_drawn)
    def remove(self, number: int) -> None:
        key = self.keys[number]
        assert self.channel.remove_record(key) == (key in self.model)
        self.model.pop(key, None)
        self.touch(key)

    @rule(first=keys_drawn, length=st.integers(1, POOL))
    def remove_a_row(self, first: int, length: int) -> None:
        for key in self.keys[first : first + length]:
            assert self.channel.remove_record(key) == (self.model.pop(key, None) is not None)
            self.touch(key)

    @rule(number=keys_drawn, right=st.booleans(), new=st.none() | values)
    def update(self, number: int, right: bool, new: bytes | None) -> None:
        key = self.keys[number]
        if not right:
            with pytest.raises(Conflict):
                self.channel.update(key, b"something else" if key not in self.model else None, new)
        elif new is None:
            self.channel.update(key, self.model.pop(key, None), None)
            self.touch(key)
        elif self.fits({key: new}):
            self.channel.update(key, self.model.get(key), new)
            self.model[key] = new
            self.touch(key)
        else:
            with pytest.raises(OutOfMemory):
                self.channel.update(key, self.model.get(key), new)

    # Reads.

    @rule(number=keys_drawn)
    def get(self, number: int) -> None:
        assert self.channel.get(self.keys[number]) == self.model.get(self.keys[number])

    @rule(numbers=st.lists(keys_drawn, min_size=1, max_size=30))
    def get_many(self, numbers: list[int]) -> None:
        keys = [self.keys[number] for number in numbers]
        found = self.channel.get_some(keys)
        assert found == [self.model.get(key) for key in keys[: len(found)]]
        size = sum(len(value or b"") for value in found)
        assert len(found) == len(keys) or size > 300 >= size - len(found[-1] or b"")
        if all(key in self.model for key in keys):
            assert self.channel.get_many(keys) == found
        else:
            with pytest.raises(KeyError):
                self.channel.get_many(keys)

    @rule()
    def what_is_outside(self) -> None:
        if self.outside:
            for call in (
                lambda key: self.channel.get(key),
                lambda key: self.channel.put(key, b"v"),
                lambda key: self.channel.remove_record(key),
                lambda key: self.channel.get_some([key]),
            ):
                with pytest.raises(WrongNode):
                    call(self.outside)
            with pytest.raises((KeyError, IndexError)):
                self.channel.get_many([self.outside])

    # Walks.

    @rule(
        target=walks,
        key_prefix=st.sampled_from([b"", b"", b"1", b"12", b"none"]),
        substring=st.sampled_from([b"", b"", b"v"]),
    )
    def begin_to_walk(self, key_prefix: bytes, substring: bytes) -> Reader:
        return self.walk(key_prefix, substring)

    def walk(self, key_prefix: bytes, substring: bytes) -> Reader:
        reader = Reader(
            key_prefix,
            substring,
            self.channel.walk(b"", key_prefix, substring),
            {key for key, value in self.model.items() if key.startswith(key_prefix) and substring in value},
        )
        self.readers.append(reader)
        return reader

    @rule(reader=walks, steps=st.integers(1, 20))
    def go_on(self, reader: Reader, steps: int) -> None:
        if reader in self.readers:  # else its channel was removed
            self.read(reader, steps)

    def read(self, reader: Reader, steps: int) -> bool:
        """Whether it has ended."""
        for cursor, keys, values in islice(reader.batches, steps):
            steps -= 1
            for key, value in zip(keys, values, strict=True):
                assert self.model[key] == value
                assert key.startswith(reader.key_prefix)
                assert reader.substring in value
                assert reader.cursor < place_of(key) <= cursor, "records come in the order of their hashes"
            assert len(set(keys)) == len(keys)
            assert len(keys) < 2 or sum(map(len, keys)) + sum(map(len, values)) <= 120
            assert reader.cursor <= cursor
            reader.seen += keys
            reader.cursor = cursor
        assert len(set(reader.seen)) == len(reader.seen), "a record was given twice"
        if steps:
            assert reader.untouched <= set(reader.seen), "it has ended and not given everything"
        return steps > 0

    @rule(reader=walks)
    def resume(self, reader: Reader) -> None:
        if reader in self.readers:
            reader.batches = self.channel.walk(reader.cursor, reader.key_prefix, reader.substring)

    @invariant()
    def one_walk_goes_on_between_all_steps(self) -> None:
        if hasattr(self, "always"):
            if self.always not in self.readers or self.read(self.always, 1):
                self.always = self.walk(b"", b"")
            if len(self.always.seen) % 2:
                self.resume(self.always)

    @rule()
    def remove_the_channel(self) -> None:
        for _ in self.channel.remove():
            pass
        assert self.budget.used == 0
        for reader in self.readers:
            try:
                assert list(reader.batches) == []
            except ChannelRemoved:
                continue
            assert reader.untouched <= set(reader.seen), "it has ended and not given everything"
        self.readers.clear()
        self.model.clear()
        self.channel = DhtChannel(self.range, self.budget)

    @invariant()
    def sizes_are_right(self) -> None:
        if hasattr(self, "channel"):
            assert self.channel.records == len(self.model)
            assert self.channel.record_bytes == size_of(self.model)
            assert self.budget.used == memory_of(self.model)

    @invariant()
    def structure_is_right(self) -> None:
        if hasattr(self, "channel"):
            check_structure(self.channel, self.range)

    def teardown(self) -> None:
        with self.patches:
            if hasattr(self, "channel"):
                self.check_everything_is_given()

    def check_everything_is_given(self) -> None:
        for reader in self.readers:
            reader.seen += [key for _, keys, _ in self.channel.walk(reader.cursor, b"", b"") for key in keys]
            assert reader.untouched <= set(reader.seen)
            assert len(set(reader.seen)) == len(reader.seen)
        batches = self.channel.walk(b"", b"", b"")
        assert {k: v for _, keys, values in batches for k, v in zip(keys, values, strict=True)} == self.model


def place_of(key: bytes) -> bytes:
    return storage.hash_key(key).to_bytes(8, "big") + key


TestChannel = ChannelMachine.TestCase
TestChannel.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def filled(count: int, hash_range: HashRange = HashRange(), value: bytes = b"v" * 20) -> DhtChannel:
    channel = DhtChannel(hash_range, MemoryBudget(2**40))
    keys = [key for key in map(b"key %d".__mod__, range(count)) if hash_key(key) in hash_range]
    for start in range(0, len(keys), 5000):
        part = keys[start : start + 5000]
        channel.put_many(part, [value] * len(part), sum(map(len, part)) + len(value) * len(part))
    return channel


@pytest.mark.parametrize("name", RANGES)
def test_shards_of_their_real_size(name: str) -> None:
    channel = filled(60_000, RANGES[name])
    check_structure(channel, RANGES[name])
    assert max(map(len, channel._shards())) <= storage.SHARD_RECORDS_MAX
    batches = list(channel.walk(b"", b"", b""))
    assert sum(len(keys) for _, keys, _ in batches) == channel.records
    hashes = [[hash_key(key) for key in keys] for _, keys, _ in batches if keys]
    assert all(max(before) < min(after) for before, after in pairwise(hashes))


def test_records_larger_than_a_batch() -> None:
    channel = DhtChannel(HashRange(), MemoryBudget(2**40))
    sizes = [1, 300_000, 5, 2_000_000, 262_144, 262_100, 7, 100_000, 100_000, 100_000]
    some = {b"%d" % number: b"v" * size for number, size in enumerate(sizes)}
    for key, value in some.items():
        channel.put(key, value)
    batches = list(channel.walk(b"", b"", b""))
    assert {key: value for _, keys, values in batches for key, value in zip(keys, values, strict=True)} == some
    for _, keys, values in batches:
        assert len(keys) < 2 or sum(map(len, keys)) + sum(map(len, values)) <= 262_144


def test_memory_of_removed_records_is_given_back() -> None:
    channel = filled(30_000)
    keys = [key for _, some, _ in channel.walk(b"", b"", b"") for key in some]
    for key in keys[10:]:
        assert channel.remove_record(key)
    check_structure(channel, HashRange())
    assert channel.records == 10
    for shard in channel._shards():
        assert sys.getsizeof(shard) <= 1024 + 512 * max(len(shard), 1)


def test_keys_that_share_the_first_bits_of_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that cannot be cut any more become large; the directory does not."""
    monkeypatch.setattr(storage, "SHARD_RECORDS_MAX", 4)
    channel = DhtChannel(HashRange(), MemoryBudget(2**40))
    alike = list(islice((key for key in map(b"%d".__mod__, count()) if hash_key(key) >> 52 == 0xABC), 100))
    for key in alike:
        channel.put(key, b"v")
        check_structure(channel, HashRange())
    assert len(channel._directory) < 4096
    assert [channel.get(key) for key in alike] == [b"v"] * 100
    for number in range(2000):  # others give the directory the right to grow, and it cuts what it could not
        channel.put(b"other %d" % number, b"v")
    check_structure(channel, HashRange())
    assert len([key for _, keys, _ in channel.walk(b"", b"", b"") for key in keys]) == 2100
    for key in alike:
        assert channel.remove_record(key)
    assert channel.records == 2000


def test_keys_with_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SHARD_RECORDS_MAX", 4)
    monkeypatch.setattr(storage, "BATCH_BYTES", 100)
    monkeypatch.setattr(storage, "hash_key", lambda _: HASH_MAX)
    channel = DhtChannel(HashRange(), MemoryBudget(2**40))
    keys = [b"%03d" % number for number in range(500)]
    channel.put_many(keys, [b"value"] * 500, 8 * 500)
    assert len(channel._directory) < 4096
    check_structure(channel, HashRange())
    assert [key for _, some, _ in channel.walk(b"", b"", b"") for key in some] == keys
    cursors = [cursor for cursor, _, _ in channel.walk(b"", b"", b"")]
    for cursor in cursors[::7]:
        rest = [key for _, some, _ in channel.walk(cursor, b"", b"") for key in some]
        assert rest == [key for key in keys if key > cursor[8:]]


def test_a_step_of_a_walk_is_bounded_in_an_empty_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was large once: its many empty shards are not looked at all in one step."""
    monkeypatch.setattr(storage, "SHARD_RECORDS_MAX", 1)
    channel = DhtChannel(HashRange(), MemoryBudget(2**40))
    for number in range(10_000):
        channel.put(b"%d" % number, b"value")
    for key in [key for _, keys, _ in channel.walk(b"", b"", b"") for key in keys]:
        channel.remove_record(key)
    shards = channel._shard_count
    assert shards > 8192
    for substring in (b"", b"x"):
        assert len(list(channel.walk(b"", b"", substring))) >= shards // 4096


def test_a_step_of_a_walk_that_finds_nothing_is_bounded() -> None:
    channel = filled(100_000)
    batches = list(channel.walk(b"", b"", b"not in any value"))
    assert len(batches) >= 100_000 // (storage.WALK_RECORDS_MAX + storage.SHARD_RECORDS_MAX)
    assert not any(keys for _, keys, _ in batches)


@pytest.mark.parametrize("size", [1000, 16 * 1024, 300_000])
def test_a_step_of_a_walk_that_looks_through_large_values_is_bounded(size: int) -> None:
    records = 64 * 2**20 // size
    channel = filled(records, value=b"v" * size)
    channel.put(b"needle", b"v" * size + b"needle")
    batches = list(channel.walk(b"", b"", b"needle"))
    assert len(batches) >= records * size // (storage.WALK_BYTES_MAX + size)
    assert [key for _, keys, _ in batches for key in keys] == [b"needle"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gives all keys like hashes, so that they are in one shard; counts how many were hashed."""
    counted = [0]

    def like_hash(key: bytes) -> int:
        counted[0] += 1
        return hash_key(key) >> 40

    monkeypatch.setattr(storage, "hash_key", like_hash)
    return counted


@pytest.mark.parametrize(
    ("key_prefix", "substring"), [(b"", b""), (b"key 1", b""), (b"", b"value 9"), (b"no key", b""), (b"", b"no value")]
)
def test_a_step_of_a_walk_through_keys_of_like_hashes_is_bounded(
    key_prefix: bytes, substring: bytes, hashed: list[int]
) -> None:
    """Though the directory cannot part them: 10,000 in one shard are neither hashed nor looked at in one step."""
    channel = DhtChannel(HashRange(), MemoryBudget(2**40))
    records = {b"key %d" % number: b"value %d" % number for number in range(10_000)}
    for key, value in records.items():
        channel.put(key, value)
    assert max(map(len, channel._shards())) == len(records)
    expected = {k: v for k, v in records.items() if k.startswith(key_prefix) and substring in v}
    seen: list[tuple[bytes, bytes]] = []
    hashed[0] = steps = 0
    for _, keys, values in channel.walk(b"", key_prefix, substring):
        assert hashed[0] <= storage.WALK_SORT_RECORDS
        assert len(keys) <= storage.SHARD_RECORDS_MAX
        hashed[0] = 0
        seen += zip(keys, values, strict=True)
        steps += 1
    assert seen == sorted(expected.items(), key=lambda record: (hash_key(record[0]) >> 40, record[0]))
    assert steps >= len(records) // storage.WALK_SORT_RECORDS
    for steps_before in range(12):
        walk = channel.walk(b"", b"", b"")
        deque(islice(walk, steps_before), maxlen=0)
        for key in list(records)[steps_before::12]:
            assert channel.remove_record(key)
            del records[key]
        assert {key for _, keys, _ in walk for key in keys} <= set(records)


def test_a_walk_through_keys_of_like_hashes_ends_with_the_channel(hashed: list[int]) -> None:
    for steps in range(12):
        channel = filled(10_000)
        walk = channel.walk(b"", b"", b"")
        assert len(list(islice(walk, steps))) == steps
        deque(channel.remove(), maxlen=0)
        with pytest.raises(ChannelRemoved):
            next(walk)


@pytest.mark.parametrize("cursor", [b"\xff" * 488, b"\xff" * 8, b"\0" * 8, b"\0" * 8 + b"\0" * 480])
def test_cursors_that_no_walk_has_given(cursor: bytes) -> None:
    for hash_range in RANGES.values():
        channel = filled(100, hash_range)
        keys = [key for _, some, _ in channel.walk(cursor, b"", b"") for key in some]
        assert len(keys) == (channel.records if cursor < b"\1" else 0)


# Get many: what is found is found in a hurry, and only the rest is looked at with care. Both have to agree.

LOW, HIGH = split_evenly(2)
STORED = {key: b"v" * (1 + number * 7) for number, key in enumerate(keys_in(LOW, False)[:40])}
ABSENT = keys_in(LOW, False)[40:50]
ELSEWHERE = keys_in(HIGH, False)[:10]
keys_asked = st.lists(
    st.one_of(
        st.sampled_from(sorted(STORED)),
        st.sampled_from(sorted(STORED)),
        st.sampled_from(ABSENT),
        st.sampled_from(ELSEWHERE),
        st.sampled_from([b"", b"k" * (KEY_BYTES_MAX + 1), "text", 5, None, [b"key"], {}, True, 1.5]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(st.one_of(keys_asked, st.lists(st.sampled_from(sorted(STORED) + ABSENT), max_size=30)))
def test_get_many_in_a_hurry_and_with_care(keys: list[Any]) -> None:
    with patch.object(storage, "REPLY_BYTES_MAX", 500):
        node = make_node(DhtConfig(NodeSection(hash_range=LOW), JournalSection(enabled=False)))
        put_many = node.service.handlers[protocol.PUT_MANY.code].function
        get_many = node.service.handlers[protocol.GET_MANY.code].function
        put_many(None, "a", list(STORED), list(STORED.values()), 0)
        if not all(type(key) is bytes and 0 < len(key) <= KEY_BYTES_MAX for key in keys):
            expected: Any = BadKey
        elif any(key in ELSEWHERE for key in keys):
            expected = WrongNode
        else:
            expected, size = [], 0
            for key in keys:
                expected.append(STORED.get(key))
                size += len(expected[-1] or b"")
                if size > 500:
                    break
        if isinstance(expected, list):
            assert get_many(None, "a", keys) == expected
            assert get_many(None, "unknown", keys) == [None] * len(keys)
        else:
            for channel in ("a", "unknown"):
                with pytest.raises(expected) as caught:
                    get_many(None, channel, keys)
                assert type(caught.value) is expected


def test_get_many_refuses() -> None:
    node = make_node(DhtConfig(journal=JournalSection(enabled=False)))
    get_many = node.service.handlers[protocol.GET_MANY.code].function
    node.service.handlers[protocol.PUT.code].function("a", b"key", b"value")
    too_many = [b"key"] * (BATCH_RECORDS_MAX + 1)
    for channel in ("a", "b"):
        with pytest.raises(BatchTooBig):
            get_many(None, channel, too_many)
        assert get_many(None, channel, []) == []
        for keys in (None, b"key", "key", {b"key": 1}, (b"key",)):
            with pytest.raises(BadArgument):
                get_many(None, channel, keys)
    for channel in (None, 5, b"a", "a/b", [], {}):
        with pytest.raises(BadChannel):
            get_many(None, channel, [b"key"])
    assert get_many(None, "a", too_many[:-1]) == [b"value"] * BATCH_RECORDS_MAX


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_a_channel_that_was_loaded(name: str, count: int) -> None:
    keys = list(islice((key for key in map(b"%d".__mod__, range(10**9)) if hash_key(key) in RANGES[name]), count))
    records = {key: b"value " + key for key in keys}
    budget = MemoryBudget(1)
    channel = DhtChannel(RANGES[name], budget)
    channel.load(stored_in_batches(records, 1000), count)
    check_structure(channel, RANGES[name])
    assert max(map(len, channel._directory)) <= storage.SHARD_RECORDS_MAX
    assert (channel.records, channel.record_bytes) == (count, size_of(records))
    assert budget.used == memory_of(records)
    walked = [pair for _, found, values in channel.walk(b"", b"", b"") for pair in zip(found, values, strict=True)]
    assert sorted(walked) == sorted(records.items())
    assert all(channel.get(key) == records[key] for key in keys)


def test_records_outside_the_range_can_be_walked_and_not_asked_for() -> None:
    own, other = split_evenly(4)[1:3]
    records = {b"%d" % number: b"value" for number in range(5000)}
    hashes = list(map(hash_key, records))
    channel = DhtChannel(own, MemoryBudget(10**9))
    channel.load(stored_in_batches(records), len(records), HashRange(min(hashes), max(hashes)))
    check_structure(channel, HashRange(min(hashes), max(hashes)))
    walked = [key for _, found, _ in channel.walk(b"", b"", b"") for key in found]
    assert sorted(walked) == sorted(records)
    assert sorted(walked, key=lambda key: hash_key(key) >> channel._shift) == walked
    mine = [key for key in records if hash_key(key) in own]
    theirs = [key for key in records if hash_key(key) in other]
    assert channel.get_many(mine) == [b"value"] * len(mine)
    with pytest.raises(KeyError):
        channel.get_many([*mine, theirs[0]])
    for key in theirs[:10]:
        for refused in (channel.get, channel.remove_record):
            with pytest.raises(WrongNode):
                refused(key)
        with pytest.raises(WrongNode):
            channel.put(key, b"new")
        with pytest.raises(WrongNode):
            channel.put_many([key], [b"new"], 10)
    for number in range(30_000):  # its shards are cut, the directory doubles
        key = b"new %d" % number
        if hash_key(key) in own:
            channel.put(key, b"value")
            records[key] = b"value"
    check_structure(channel, HashRange(min(hashes), max(hashes)))
    assert sorted(key for _, found, _ in channel.walk(b"", b"", b"") for key in found) == sorted(records)
    assert channel.records == len(records)
