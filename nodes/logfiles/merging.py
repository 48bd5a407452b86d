"""Blocks in any order, overlapping or not, as blocks in the order of time. Nothing of the store is needed: sealing does
the same to files.

A *source* is a run of records in the order of time: a stored block, or entries of a tail. Sources are numbered in the
order in which their records came, so every record has a *key* (timestamp, source, number in the source), and the order
of the keys is the order of the records. A range is what lies between two keys, whichever records have them.

    sources   ├──1──┤  ├────2────┤                     ├──4──┤
                              ├────3────┤
    groups    ╰─────╯  ╰────────────────╯              ╰─────╯

A group of one is given as it is stored. In a larger one records are merged in windows: its sources are read in the
order of their beginning, records are collected, and whenever they are more than twice the window all but the first of
them are given up again, with everything behind. So memory is bounded however many sources overlap, and a source is read
again for each window that it reaches into. The usual case, a few that overlap their neighbours, reads nearly everything
once.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from nodes.logfiles.block_format import BLOCK_BYTES, BadHeader, BlockHeader, read_payload
from nodes.logfiles.block_index import Damage
from nodes.logfiles.range_block import RangeBlock, encode
from nodes.logfiles.sources import BlockFile, Key, Source, cut
from swarm.core.limits import MIB
from swarm.logfiles import payload
from swarm.logfiles.payload import BadPayload, Records

WINDOW_BYTES = 2 * MIB  # of records that a reader merges at a time: in memory up to five times as much, 2 ms to sort
DECODED_BYTES_MAX = 8 * MIB  # of sources that are kept decoded: those that reach into the next window
KNOWN_MAX = 64
RECORD_BYTES = 14  # what a record takes besides its value, about

Given = tuple[RangeBlock | None, Key]
"""A block, or None where work was done that gave none; and the key at which to go on."""


class _Slice(NamedTuple):
    """Records of a source from the one with the number `begin` on."""

    seq: int
    begin: int
    timestamps: list[int]
    values: list[bytes]


class _Merged:
    """Records of several slices in their order."""

    def __init__(self, slices: list[_Slice]) -> None:
        self._slices = sorted(slices)
        self._ends = list(accumulate(len(each.values) for each in self._slices))
        timestamps = [each for part in self._slices for each in part.timestamps]
        values = [each for part in self._slices for each in part.values]
        self._order = sorted(range(len(values)), key=timestamps.__getitem__)
        self.timestamps = [timestamps[each] for each in self._order]
        self.values = [values[each] for each in self._order]
        self.sizes = list(accumulate(len(value) + RECORD_BYTES for value in self.values))
        """Bytes of all records up to each."""

    def key(self, number: int) -> Key:
        at = self._order[number]
        part = bisect_right(self._ends, at)
        begin = self._ends[part - 1] if part else 0
        found = self._slices[part]
        return self.timestamps[number], found.seq, found.begin + at - begin


class View:
    """Sources that do not change, read in either direction. For one reader at a time."""

    def __init__(self, sources: list[Source], window_bytes: int = WINDOW_BYTES) -> None:
        self.sources = sorted(sources, key=lambda source: (source.first, source.seq))
        self.damages: list[Damage] = []
        """What was met and passed over; whoever tells it empties the list."""
        self._window_bytes = window_bytes
        self._firsts = [source.first for source in self.sources]
        self._reach = list(accumulate((source.last for source in self.sources), max))
        self._decoded: OrderedDict[int, Records] = OrderedDict()
        self._decoded_bytes = 0
        self._known: dict[Key, int] = {}  # what equal_before gives: where many sources overlap, all have to be read

    def blocks(self, lower: Key, upper: Key, *, newest_first: bool = False) -> Iterator[Given]:
        """All records from one key up to another. The key that comes with each block: all before it were given; where
        the newest come first, all from it on."""
        groups = list(self._groups())
        for begin, end in reversed(groups) if newest_first else groups:
            group = self.sources[begin:end]
            if max(source.end for source in group) <= lower or group[0].begin >= upper:
                continue
            if end - begin == 1:
                yield from self._single(group[0], lower, upper, newest_first=newest_first)
            elif newest_first:
                yield from self._merge_down(group, lower, upper)
            else:
                yield from self._merge_up(group, lower, upper)

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Where each begins and ends in the list of sources."""
        begin, last = 0, (0, 0)
        for number, source in enumerate(self.sources):
            if number == begin or (source.first, source.seq) < last:
                last = max(last, (source.last, source.seq)) if number > begin else (source.last, source.seq)
                continue
            yield begin, number
            begin, last = number, (source.last, source.seq)
        if self.sources:
            yield begin, len(self.sources)

    # One source.

    def _single(self, source: Source, lower: Key, upper: Key, *, newest_first: bool) -> Iterator[Given]:
        whole = lower <= source.begin and source.end <= upper
        stored = self._stored(source) if source.file else None
        if source.file and stored is None:
            yield None, source.begin if newest_first else source.end
            return
        skip, end, after = 0, source.records, source.begin if newest_first else source.end
        if not whole or stored is None:
            records = self._records(source) if stored is None else self._timestamps(source, stored)
            if records is None:
                yield None, after
                return
            timestamps, values = records
            skip = max(0, cut(timestamps, source.seq, lower))
            end = min(len(timestamps), cut(timestamps, source.seq, upper))
            if skip >= end:
                return
            after = (timestamps[skip], source.seq, skip) if newest_first else (timestamps[end - 1], source.seq, end)
            if stored is None:
                before = self.equal_before((timestamps[skip], source.seq, skip))
                yield encode(timestamps[skip:end], values[skip:end], before), after
                return
        header, payload = stored
        before = self.equal_before(source.begin)
        block = RangeBlock(
            header.records, header.first, header.last, skip, end - skip, header.codec, header.raw_bytes, before, payload
        )
        yield block, after

    def _stored(self, source: Source) -> tuple[BlockHeader, bytes] | None:
        """None: it is damaged."""
        file = source.file
        assert file is not None
        try:
            return file.read(source.number)
        except (BadHeader, BadPayload) as error:
            self._damaged(file, source.number, error)
            return None

    def _damaged(self, file: BlockFile, number: int, error: Exception) -> None:
        self.damages.append(Damage(file.path, file.index.offsets[number], str(error)))

    def _records(self, source: Source) -> Records | None:
        """None: it is damaged."""
        if (found := self._decoded.pop(source.seq, None)) is not None:
            self._decoded[source.seq] = found
            return found
        if source.read is not None:
            records = source.read()
        else:
            stored = self._stored(source)
            if stored is None:
                return None
            try:
                records = read_payload(*stored)
            except BadPayload as error:
                assert source.file is not None
                self._damaged(source.file, source.number, error)
                return None
        self._keep(source.seq, records)
        return records

    def _timestamps(self, source: Source, stored: tuple[BlockHeader, bytes]) -> Records | None:
        """Those of a stored block, without its values, which cost more than all else. None: it is damaged."""
        header, stored_payload = stored
        try:
            raw = payload.decompress(header.codec, stored_payload, header.raw_bytes)
            timestamps = payload.layout_of_block(raw, header.first).timestamps
            if len(timestamps) != header.records or timestamps[-1] != header.last:
                raise BadPayload("its timestamps are not what its header says")
        except BadPayload as error:
            assert source.file is not None
            self._damaged(source.file, source.number, error)
            return None
        return timestamps, []

    def _keep(self, seq: int, records: Records) -> None:
        self._decoded[seq] = records
        self._decoded_bytes += _bytes(records[1])
        while self._decoded_bytes > DECODED_BYTES_MAX and len(self._decoded) > 1:
            _, (_, values) = self._decoded.popitem(last=False)
            self._decoded_bytes -= _bytes(values)

    # Several that overlap.

    def _merge_up(self, group: list[Source], lower: Key, upper: Key) -> Iterator[Given]:
        lower = max(lower, group[0].begin)  # what is before was given
        while lower < upper:
            slices: list[_Slice] = []
            bound, size = upper, 0
            for source in group:
                if source.begin >= bound:
                    break
                if source.end > lower and (found := self._slice(source, lower, bound)):
                    slices.append(found)
                    size += _bytes(found.values)
                    if size > 2 * self._window_bytes:
                        slices, bound, size = self._first_of(slices, bound)
                    yield None, lower
            merged = _Merged(slices)
            for begin, end in _chunks(merged.sizes):
                timestamp, seq, number = merged.key(end - 1)
                after = (timestamp, seq, number + 1)
                block = self._encoded(merged, begin, end)
                self._known[after] = self._known[bound] = self._equal_in(merged, end - 1) + 1
                yield block, after
            if merged.values and bound[0] != merged.timestamps[-1]:
                self._known.pop(bound, None)
            lower = bound

    def _merge_down(self, group: list[Source], lower: Key, upper: Key) -> Iterator[Given]:
        group = sorted(group, key=lambda source: (source.last, source.seq), reverse=True)
        upper = min(upper, group[0].end)
        while lower < upper:
            slices: list[_Slice] = []
            bound, size = lower, 0
            for source in group:
                if source.end <= bound:
                    break
                if source.begin < upper and (found := self._slice(source, bound, upper)):
                    slices.append(found)
                    size += _bytes(found.values)
                    if size > 2 * self._window_bytes:
                        slices, bound, size = self._last_of(slices, bound)
                    yield None, upper
            merged = _Merged(slices)
            for begin, end in reversed(list(_chunks(merged.sizes))):
                yield self._encoded(merged, begin, end), merged.key(begin)
            upper = bound

    def _slice(self, source: Source, lower: Key, upper: Key) -> _Slice | None:
        records = self._records(source)
        if records is None:
            return None
        timestamps, values = records
        begin, end = max(0, cut(timestamps, source.seq, lower)), cut(timestamps, source.seq, upper)
        return _Slice(source.seq, begin, timestamps[begin:end], values[begin:end]) if begin < end else None

    def _first_of(self, slices: list[_Slice], bound: Key) -> tuple[list[_Slice], Key, int]:
        """The first window of what was collected, and where it ends."""
        merged = _Merged(slices)
        kept = max(1, bisect_left(merged.sizes, self._window_bytes))
        if kept >= len(merged.values):
            return slices, bound, merged.sizes[-1]
        bound = merged.key(kept)
        left = []
        for each in slices:
            end = cut(each.timestamps, each.seq, bound)
            if each.seq == bound[1]:
                end -= each.begin
            if end > 0:
                left.append(each._replace(timestamps=each.timestamps[:end], values=each.values[:end]))
        return left, bound, merged.sizes[kept - 1]

    def _last_of(self, slices: list[_Slice], bound: Key) -> tuple[list[_Slice], Key, int]:
        """The last window of what was collected, and where it begins."""
        merged = _Merged(slices)
        given_up = min(bisect_left(merged.sizes, merged.sizes[-1] - self._window_bytes), len(merged.values) - 1)
        if given_up == 0:
            return slices, bound, merged.sizes[-1]
        bound = merged.key(given_up)
        left = []
        for each in slices:
            begin = cut(each.timestamps, each.seq, bound)
            if each.seq == bound[1]:
                begin -= each.begin
            begin = max(0, begin)
            if begin < len(each.values):
                left.append(_Slice(each.seq, each.begin + begin, each.timestamps[begin:], each.values[begin:]))
        return left, bound, merged.sizes[-1] - merged.sizes[given_up - 1]

    def _encoded(self, merged: _Merged, begin: int, end: int) -> RangeBlock:
        before = self._known[merged.key(begin)] = self._equal_in(merged, begin)
        return encode(merged.timestamps[begin:end], merged.values[begin:end], before)

    def _equal_in(self, merged: _Merged, number: int) -> int:
        """How many records come before this one that have its timestamp."""
        run = bisect_left(merged.timestamps, merged.timestamps[number])
        return number - run + (0 if run else self.equal_before(merged.key(0)))

    # Positions that outlive this view.

    def equal_before(self, key: Key) -> int:
        """How many records with the key's timestamp come before it."""
        if key not in self._known:
            if len(self._known) > KNOWN_MAX:
                self._known.clear()
            self._known[key] = sum(self._count_at(source, key) for source in self._at(key[0]))
        return self._known[key]

    def key_of(self, timestamp: int, records: int) -> Key:
        """Behind so many records with this timestamp, or as many as there are."""
        behind = (timestamp, 1 << 62, 0)
        for source in sorted(self._at(timestamp), key=lambda source: source.seq):
            count = self._count_at(source, behind)
            if records < count:
                found = self._records(source)
                first = bisect_left(found[0], timestamp) if found else 0
                return timestamp, source.seq, first + records
            records -= count
        return behind

    def _at(self, timestamp: int) -> Iterator[Source]:
        """The sources whose span has this timestamp."""
        number = bisect_right(self._firsts, timestamp) - 1
        while number >= 0 and self._reach[number] >= timestamp:
            if self.sources[number].last >= timestamp:
                yield self.sources[number]
            number -= 1

    def _count_at(self, source: Source, key: Key) -> int:
        """How many records of a source have the key's timestamp and come before it; without decoding where possible."""
        timestamp, seq, number = key
        if seq < source.seq or (seq == source.seq and number == 0):
            return 0
        if source.last == timestamp and (seq > source.seq or number == source.records):
            return source.last_run
        records = self._records(source)
        if records is None:
            return 0
        return cut(records[0], source.seq, key) - bisect_left(records[0], timestamp)


def _bytes(values: list[bytes]) -> int:
    return sum(map(len, values)) + RECORD_BYTES * len(values)


def _chunks(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Cuts records into blocks of some BLOCK_BYTES; sizes: bytes of all up to each."""
    begin = 0
    while begin < len(sizes):
        before = sizes[begin - 1] if begin else 0
        end = max(begin + 1, bisect_right(sizes, before + BLOCK_BYTES))
        yield begin, end
        begin = end
