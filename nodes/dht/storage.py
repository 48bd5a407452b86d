"""One channel of the dht node: many small dicts instead of a large one.

    directory   slot 0    slot 1    slot 2    slot 3     …     slot number = (hash of the key >> shift) - base
                  │         │         └────┬────┘
                  ▼         ▼              ▼
    shards      {…}       {…}            {…}                    each at most SHARD_RECORDS_MAX records

The directory covers the node's hash range in slots of 2^shift hashes. A shard is a plain dict, and fills one slot
or several that are next to each other. One that has grown too large is cut into two, each with half of its slots;
when it has only one, the directory is doubled first (extendible hashing: Fagin, Nievergelt, Pippenger, Strong
1979). So no step resizes, lists or sorts more than one small dict, however large the channel is.

Since slots follow the order of hashes, whatever walks the channel walks it by hash: it can stop after any shard,
and go on there later though shards have been cut in the meantime. A shard that is more than one step of a walk (large
values, or keys chosen to have like hashes) is walked in the order of (hash, key), which is made once for the walk, in
several steps.

Invariants: a record is in the shard of its hash's slot. Slots of one shard are next to each other.
_memory is the sum over all records of key + value + RECORD_OVERHEAD_BYTES, and is taken from the node's budget.
The directory covers more than the node's range only where a dump or the journal has brought such records (load,
any_hash): walks give those, single requests for them are still for another node.

One dict per channel was rejected: resizing it stalls the node for 28 ms at a million records, and it has no order
to go on in.
"""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import accumulate, islice
from typing import TypeVar

from swarm.core.errors import Conflict, WrongNode
from swarm.core.limits import BATCH_BYTES, KEY_BYTES_MAX, MIB, RECORD_OVERHEAD_BYTES, REPLY_BYTES_MAX
from swarm.core.storage_channels import MemoryBudget, channel_removed
from swarm.dht.hash_range import HASH_MAX, HashRange, hash_key
from swarm.dht.protocol import CURSOR_HASH_BYTES

SHARD_RECORDS_MAX = (
    1365  # a dict of 2048 slots is full with it: a cut costs 0.2 ms, the memory of the table is used well
)
CUTS_PER_BATCH = 1  # and one more for every RECORDS_PER_CUT: 683 new records make a cut necessary
RECORDS_PER_CUT = 600
LOADED_SHARD_RECORDS = 1000  # most of a shard that was loaded, on average: room to grow, and hardly any is too large
SLOTS_PER_SHARD_MAX = 64  # the directory is not doubled beyond it: keys chosen to have like hashes shall not blow it up
WALK_SHARD_RECORDS = 16  # an empty shard takes a walk as long as so many records
WALK_RECORDS_MAX = 4096  # records that one step of a walk looks at, some 2 ms with a filter
WALK_BYTES_MAX = 4 * MIB  # of values that one step of a walk looks through, some 2 ms
WALK_SORT_RECORDS = 2730  # records that one step of a walk puts in order, some 2 ms; a larger shard takes several

Shard = dict[bytes, bytes]
Batch = tuple[bytes, list[bytes], list[bytes]]
"""Cursor, keys, values."""
Place = tuple[int, bytes]
"""Behind which a walk goes on: a hash and a key, records being ordered by (hash, key). No key is empty."""
Value = TypeVar("Value", bytes, bytes | None)


class DhtChannel:
    def __init__(self, hash_range: HashRange, budget: MemoryBudget) -> None:
        self._range = hash_range
        self._lowest = hash_range.lowest
        self._highest = hash_range.highest
        self._covered = hash_range
        self._partial = hash_range != HashRange()
        self._budget = budget
        self._memory = 0
        self.records = 0
        self._shift = 64
        self._base = 0
        self._directory: list[Shard] = [{}]
        self._shard_count = 1
        self._removed = False

    @property
    def record_bytes(self) -> int:
        return self._memory - RECORD_OVERHEAD_BYTES * self.records

    # Single records. Keys and values have been checked by the caller, hashes not.

    def get(self, key: bytes) -> bytes | None:
        key_hash = hash_key(key)
        if self._partial and not self._lowest <= key_hash <= self._highest:
            raise wrong_node(key, self._range)
        return self._directory[(key_hash >> self._shift) - self._base].get(key)

    def put(self, key: bytes, value: bytes) -> None:
        key_hash = hash_key(key)
        if self._partial and not self._lowest <= key_hash <= self._highest:
            raise wrong_node(key, self._range)
        shard = self._directory[(key_hash >> self._shift) - self._base]
        old = shard.get(key)
        if old is None:
            growth = len(key) + len(value) + RECORD_OVERHEAD_BYTES
        else:
            growth = len(value) - len(old)
        budget = self._budget
        if growth > budget.free and growth > 0:
            raise budget.refuse(growth)
        if old is None:
            self.records += 1
        budget.free -= growth
        self._memory += growth
        shard[key] = value
        if len(shard) > SHARD_RECORDS_MAX:
            self._cut(key_hash)

    def remove_record(self, key: bytes) -> bool:
        """Whether the record existed."""
        key_hash = hash_key(key)
        if not self._lowest <= key_hash <= self._highest:
            raise wrong_node(key, self._range)
        slot = (key_hash >> self._shift) - self._base
        shard = self._directory[slot]
        old = shard.pop(key, None)
        if old is None:
            return False
        size = len(key) + len(old) + RECORD_OVERHEAD_BYTES
        self._budget.free += size
        self._memory -= size
        self.records -= 1
        left = len(shard)
        if not left & (left - 1) and sys.getsizeof(shard) > 1024 + 256 * left:
            self._replace(slot, dict(shard))  # a dict never gives its table back by itself
        return True

    def update(self, key: bytes, expected: bytes | None, new: bytes | None) -> None:
        """Compare and swap; None stands for no record. Raises Conflict."""
        found = self.get(key)
        if found != expected:
            raise conflict(found, expected)
        if new is not None:
            self.put(key, new)
        elif expected is not None:
            self.remove_record(key)

    # Batches: per record no more than a few steps of C.

    def get_many(self, keys: Sequence[bytes]) -> list[bytes]:
        """The values of the first keys, at least one, up to REPLY_BYTES_MAX.

        Raises KeyError, IndexError or TypeError where not all are found: keys that were found need no checking.
        """
        if self._covered is not self._range and any(hash_key(key) not in self._range for key in keys):
            raise KeyError
        directory, shift, base = self._directory, self._shift, self._base
        values = [directory[(hash_key(key) >> shift) - base][key] for key in keys]
        return values if sum(map(len, values)) <= REPLY_BYTES_MAX else _bounded(values)

    def get_each(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of every key, however many bytes; None for what is not found, of which the hash may be outside the
        range. Raises IndexError or TypeError where a key is none, or outside what is covered."""
        directory, shift, base = self._directory, self._shift, self._base
        return [directory[(hash_key(key) >> shift) - base].get(key) for key in keys]

    def get_some(self, keys: list[bytes]) -> list[bytes | None]:
        """As get_many, for keys that were checked; None for what does not exist."""
        return _bounded([self.get(key) for key in keys])

    def put_many(self, keys: Sequence[bytes], values: Sequence[bytes], size: int) -> None:
        """Stores all, or raises WrongNode or OutOfMemory and stores nothing. size: bytes of keys and values.

        A loop: what takes the time is waiting for the memory of each record, and several passes in C were not faster.
        """
        hashes = list(map(hash_key, keys))
        if self._partial and (min(hashes) < self._lowest or max(hashes) > self._highest):
            raise wrong_node(next(key for key in keys if hash_key(key) not in self._range), self._range)
        if size + RECORD_OVERHEAD_BYTES * len(keys) > self._budget.free:
            self._check_budget(keys, values)
        directory, shift, base = self._directory, self._shift, self._base
        growth = new = 0
        too_large: list[int] = []
        for key, value, key_hash in zip(keys, values, hashes):  # noqa: B905 - was checked, and costs for every record
            shard = directory[(key_hash >> shift) - base]
            old = shard.get(key)
            shard[key] = value
            if old is not None:
                growth += len(value) - len(old)
                continue
            growth += len(key) + len(value) + RECORD_OVERHEAD_BYTES
            new += 1
            if len(shard) > SHARD_RECORDS_MAX:
                too_large.append(key_hash)
        self._budget.free -= growth
        self._memory += growth
        self.records += new
        if too_large:
            self._cut_some(too_large, len(keys))

    def _check_budget(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """OutOfMemory unless there is room for these records in place of those that exist."""
        growth = 0
        for key, value in dict(zip(keys, values, strict=True)).items():
            old = self._directory[(hash_key(key) >> self._shift) - self._base].get(key)
            growth += len(key) + len(value) + RECORD_OVERHEAD_BYTES if old is None else len(value) - len(old)
        if growth > self._budget.free and growth > 0:
            raise self._budget.refuse(growth)

    # Loading.

    def load(
        self, batches: Iterable[tuple[Sequence[bytes], Sequence[bytes]]], records: int, hashes: HashRange | None = None
    ) -> None:
        """Fills an empty channel. The memory limit is not looked at.

        batches: records in the order of (hash, key), none twice: of each the hash (8 bytes, big endian) with the key
            behind it, and the value.
        records: how many there are, roughly: the directory is made for them, and no shard is cut.
        hashes: from the lowest to the highest; None: all are in the node's range.
        """
        assert not self.records
        if hashes is not None and not (hashes.lowest in self._range and hashes.highest in self._range):
            self._covered = HashRange(min(hashes.lowest, self._lowest), max(hashes.highest, self._highest))
        self._make_directory(records)
        directory, shift, base = self._directory, self._shift, self._base
        loaded = size = 0
        for stored, values in batches:
            keys = [each[CURSOR_HASH_BYTES:] for each in stored]
            size += sum(map(len, keys)) + sum(map(len, values))
            pairs = zip(keys, values, strict=True)
            start = 0
            while start < len(keys):
                slot = (int.from_bytes(stored[start][:CURSOR_HASH_BYTES], "big") >> shift) - base
                behind = (base + slot + 1) << shift
                stop = len(keys)
                if behind <= HASH_MAX:
                    stop = bisect_left(stored, behind.to_bytes(CURSOR_HASH_BYTES, "big"), start)
                directory[slot].update(islice(pairs, stop - start))
                start = stop
            loaded += len(keys)
        self.records = loaded
        self._memory = size + RECORD_OVERHEAD_BYTES * loaded
        self._budget.free -= self._memory

    def _make_directory(self, records: int) -> None:
        """One without records, for so many, over what is covered."""
        lowest, highest = self._covered.lowest, self._covered.highest
        shift = 64
        while shift and records << shift > LOADED_SHARD_RECORDS * (highest - lowest + 1):
            shift -= 1
        self._shift, self._base = shift, lowest >> shift
        self._directory = [{} for _ in range((highest >> shift) - self._base + 1)]
        self._shard_count = len(self._directory)

    @contextmanager
    def any_hash(self) -> Iterator[None]:
        """For what a journal has recorded: in the block, records outside the node's range are written and removed as
        others are. From then on the directory covers all hashes."""
        if self._covered != HashRange():
            shards = list(self._shards())
            self._covered = HashRange()
            self._make_directory(self.records)
            for shard in shards:
                for key, value in shard.items():
                    self._directory[(hash_key(key) >> self._shift) - self._base][key] = value
        self._lowest, self._highest, self._partial = 0, HASH_MAX, False
        try:
            yield
        finally:
            self._lowest, self._highest = self._range.lowest, self._range.highest
            self._partial = self._range != HashRange()

    # Walking.

    def walk(self, after: bytes, key_prefix: bytes, substring: bytes) -> Iterator[Batch]:
        """Every record behind the cursor `after`, in batches in the order of hashes; in a batch they have no order.

        Anything may be written between two batches. Raises ChannelRemoved once the channel is.
        """
        covered = self._covered
        place = _place(after) if after else (covered.lowest, b"")
        while place[0] <= covered.highest:
            self._check_not_removed()
            begun = max(place, (covered.lowest, b""))
            place, keys, values = self._step(begun, key_prefix, substring)
            if place == begun:  # the next shard is more than a step
                place = yield from self._walk_shard(begun, key_prefix, substring)
            else:
                yield _cursor(place), keys, values

    def _step(self, place: Place, key_prefix: bytes, substring: bytes) -> tuple[Place, list[bytes], list[bytes]]:
        """The records of the next shards behind place, about one batch of them, and the place behind those."""
        keys: list[bytes] = []
        values: list[bytes] = []
        size = seen = seen_bytes = 0
        while place[0] <= self._covered.highest and seen < WALK_RECORDS_MAX:
            slot = (place[0] >> self._shift) - self._base
            shard = self._directory[slot]
            seen_bytes += sum(map(len, shard.values())) if substring else 0
            if len(shard) > WALK_SORT_RECORDS or seen_bytes > WALK_BYTES_MAX:
                break
            start, stop = self._slots_of(slot)
            found = shard
            if key_prefix or substring:
                found = {
                    key: value for key, value in shard.items() if key.startswith(key_prefix) and substring in value
                }
            if place[1] or place[0] > max((self._base + start) << self._shift, self._covered.lowest):
                found = {key: value for key, value in found.items() if (hash_key(key), key) > place}
            size += sum(map(len, found)) + sum(map(len, found.values()))
            if size > BATCH_BYTES:
                break
            keys += found
            values += found.values()
            seen += len(shard) + WALK_SHARD_RECORDS
            place = (self._base + stop) << self._shift, b""
        return place, keys, values

    def _walk_shard(self, place: Place, key_prefix: bytes, substring: bytes) -> Generator[Batch, None, Place]:
        """The records of one shard behind place, in the order of (hash, key). Returns the place behind the shard.

        Those are given that have been in it from now on: the order is that of its keys now, their values are looked
        up when their turn has come.
        """
        slot = (place[0] >> self._shift) - self._base
        behind: Place = (self._base + self._slots_of(slot)[1]) << self._shift, b""
        cursor = _cursor(place)
        unordered = list(self._directory[slot])
        pieces: list[
            list[bytes]
        ] = []  # cursors: they have the order of places, and the garbage collector passes them by
        for start in range(0, len(unordered), WALK_SORT_RECORDS):
            if start:
                yield cursor, [], []
                self._check_not_removed()
            piece = unordered[start : start + WALK_SORT_RECORDS]
            cursors = [_cursor((hash_key(key), key)) for key in piece if key.startswith(key_prefix)]
            pieces.append(sorted(each for each in cursors if each > cursor))
        ordered = merge(*pieces) if len(pieces) > 1 else iter(pieces[0])
        following = next(ordered, None)
        while following is not None:
            keys: list[bytes] = []
            values: list[bytes] = []
            size = seen = seen_bytes = 0
            while following is not None and seen < SHARD_RECORDS_MAX and seen_bytes < WALK_BYTES_MAX:
                key_hash, key = _place(following)
                value = self._directory[(key_hash >> self._shift) - self._base].get(key, b"")  # b"": it was removed
                seen += 1
                seen_bytes += len(value)
                if value and substring in value:
                    size += len(key) + len(value)
                    if keys and size > BATCH_BYTES:
                        break
                    keys.append(key)
                    values.append(value)
                cursor = following
                following = next(ordered, None)
            yield cursor, keys, values
            self._check_not_removed()
        return behind

    def _check_not_removed(self) -> None:
        if self._removed:
            raise channel_removed()

    def figures(self) -> dict[str, int]:
        return {"records": self.records, "bytes": self.record_bytes}

    def remove(self) -> Iterator[None]:
        """The channel is removed: ends the walks through it, and gives its memory back, a shard at a step."""
        self._removed = True
        shards = list(self._shards())
        self._shift, self._base, self._directory, self._shard_count = 64, 0, [{}], 1
        self._budget.free += self._memory
        self._memory = self.records = 0
        while shards:
            shards.pop()
            yield

    # The directory.

    def _shards(self) -> Iterator[Shard]:
        previous = None
        for shard in self._directory:
            if shard is not previous:
                yield shard
            previous = shard

    def _slots_of(self, slot: int) -> tuple[int, int]:
        """First slot of the shard in this slot, and the one behind its last."""
        directory = self._directory
        shard = directory[slot]
        start, stop = slot, slot + 1
        while start > 0 and directory[start - 1] is shard:
            start -= 1
        while stop < len(directory) and directory[stop] is shard:
            stop += 1
        return start, stop

    def _cut(self, key_hash: int) -> None:
        """Cuts the shard of this hash in two, until it is small enough."""
        while len(shard := self._directory[slot := (key_hash >> self._shift) - self._base]) > SHARD_RECORDS_MAX:
            start, stop = self._slots_of(slot)
            if stop - start == 1:
                if self._shift == 0 or len(self._directory) > SLOTS_PER_SHARD_MAX * self._shard_count:
                    return
                self._double()
                continue
            middle = (start + stop) // 2
            boundary = (self._base + middle) << self._shift
            lower = {key: value for key, value in shard.items() if hash_key(key) < boundary}
            upper = {key: value for key, value in shard.items() if key not in lower}
            self._directory[start:stop] = [lower] * (middle - start) + [upper] * (stop - middle)
            self._shard_count += 1

    def _cut_some(self, hashes: list[int], batch_records: int) -> None:
        """Cuts a few of the shards of these hashes, which have become too large with a batch of so many records.

        Hashes are spread so evenly that all shards become too large at about the same time. Others wait for the
        next batch: they may be larger for a while, no step may be longer.
        """
        before = self._shard_count
        for key_hash in hashes:
            self._cut(key_hash)
            if self._shard_count - before >= CUTS_PER_BATCH + batch_records // RECORDS_PER_CUT:
                return

    def _double(self) -> None:
        doubled = [shard for shard in self._directory for _ in range(2)]
        first = 2 * self._base
        self._shift -= 1
        self._base = self._covered.lowest >> self._shift
        self._directory = doubled[self._base - first : (self._covered.highest >> self._shift) - first + 1]

    def _replace(self, slot: int, shard: Shard) -> None:
        start, stop = self._slots_of(slot)
        self._directory[start:stop] = [shard] * (stop - start)


def _place(cursor: bytes) -> Place:
    return int.from_bytes(cursor[:CURSOR_HASH_BYTES], "big"), cursor[CURSOR_HASH_BYTES:]


def _cursor(place: Place) -> bytes:
    if place[0] > HASH_MAX:
        return b"\xff" * (CURSOR_HASH_BYTES + KEY_BYTES_MAX)  # no record is behind it
    return place[0].to_bytes(CURSOR_HASH_BYTES, "big") + place[1]


def _bounded(values: list[Value]) -> list[Value]:
    """The first values, up to the one that passes REPLY_BYTES_MAX."""
    sizes = [len(value) if value else 0 for value in values]
    if sum(sizes) <= REPLY_BYTES_MAX:
        return values
    return values[: 1 + bisect_right(list(accumulate(sizes)), REPLY_BYTES_MAX)]


def conflict(found: bytes | None, expected: bytes | None) -> Conflict:
    what = "does not exist" if found is None else "exists" if expected is None else "has another value"
    return Conflict(f"conflict: the record {what}; nothing was written")


def wrong_node(key: bytes, hash_range: HashRange) -> WrongNode:
    return WrongNode(
        f"wrong node: the hash {hash_key(key):#018x} of key {key[:40]!r} is not in this node's range {hash_range}",
        {"key": key, "hash_range": [hash_range.lowest, hash_range.highest]},
    )
