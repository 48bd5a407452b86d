"""Reads what was never given out from a ring, oldest first: whole entries, and one that is cut.

    position   of the next entry that was not begun
    sequence   of the next record; its entry is the cut one, if there is one, else that at position
    before     bytes of all records before it

What is damaged is passed over, counted and told when its turn comes; a reader never raises.
"""

from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from nodes.queue.ring import Ring
from nodes.queue.ring_format import ALIGNMENT, Entry, entry_bytes
from swarm.queue.batch import LENGTH_BYTES, unpack_lengths

ANY_BYTES = 1 << 62


class Records(NamedTuple):
    """Some that follow each other. number: how many. position: of the entry that the first is
    in."""

    sequence: int
    number: int
    position: int
    lengths: bytes
    data: bytes


class _Cut:
    """An entry of which some records were read. ends: bytes before each record, and behind the last. index: of the
    next."""

    __slots__ = ("ends", "entry", "index")

    def __init__(self, entry: Entry, lengths: bytes, index: int) -> None:
        self.entry = entry
        self.ends = list(accumulate(unpack_lengths(lengths), initial=0))
        self.index = index


class Reader:
    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.cut: _Cut | None = None
        """An entry that was begun."""
        self.position = ring.found.given
        self.sequence = ring.found.given_sequence
        self.before = ring.found.given_bytes

    @property
    def head(self) -> int:
        """Position of the entry that the next record is in."""
        return self.cut.entry.position if self.cut else self.position

    def open_cut(self, entry: Entry) -> None:
        """A sound entry, of which the next record is one; `position` is behind it."""
        lengths = self._ring.copy(entry.lengths_at, LENGTH_BYTES * entry.records)
        self.cut = _Cut(entry, lengths, self.sequence - entry.sequence)

    def go_to(self, position: int, sequence: int, before: int) -> None:
        self.cut = None
        self.position, self.sequence, self.before = position, sequence, before

    def read_one(self) -> bytes | None:
        if self.cut is None:
            record = self._ring.only_record(self.position, self.sequence)
            if record is None:
                records = self.read(1, ANY_BYTES)
                return records.data if records else None
            self.position += entry_bytes(1, len(record))
        else:
            record = self._read_one_of(self.cut)
        self.sequence += 1
        self.before += len(record)
        return record

    def _read_one_of(self, cut: _Cut) -> bytes:
        start, end = cut.ends[cut.index : cut.index + 2]
        cut.index += 1
        if cut.index == cut.entry.records:
            self.cut = None
        return self._ring.copy(cut.entry.data_at + start, end - start)

    def read(self, records_max: int, bytes_max: int) -> Records | None:
        """The next ones, with consecutive numbers; up to the record with which bytes_max is passed."""
        lengths: list[bytes] = []
        data: list[bytes] = []
        first, left, position = self.sequence, bytes_max, self.head
        ring = self._ring
        if self.cut:
            left -= self._read_cut(records_max, left, lengths, data)
        while left >= 0 and (records := records_max - (self.sequence - first)) > 0:
            self.position, self.sequence, size = ring.whole_entries(
                self.position, self.sequence, records, left, lengths, data
            )
            self.before += size
            left -= size
            records = records_max - (self.sequence - first)
            if not records or (self.position >= ring.tail and self.sequence == ring.next_sequence):
                break
            if (entry := self._next_in_order()) is None:
                if lengths:
                    break  # what comes next does not follow
                self.pass_damage()
                first, position = self.sequence, self.position
                continue
            self.position = entry.end
            self.open_cut(entry)
            left -= self._read_cut(records, left, lengths, data)
        if not lengths:
            return None
        if len(lengths) == 1:
            return Records(first, self.sequence - first, position, lengths[0], data[0])
        return Records(first, self.sequence - first, position, b"".join(lengths), b"".join(data))

    def _read_cut(self, records: int, left: int, lengths: list[bytes], data: list[bytes]) -> int:
        """Bytes that were read."""
        cut = self.cut
        assert cut
        entry, ends, index = cut.entry, cut.ends, cut.index
        to = min(bisect_right(ends, ends[index] + left), index + records, entry.records)
        size = ends[to] - ends[index]
        lengths.append(self._ring.copy(entry.lengths_at + LENGTH_BYTES * index, LENGTH_BYTES * (to - index)))
        data.append(self._ring.copy(entry.data_at + ends[index], size))
        self.sequence += to - index
        self.before += size
        cut.index = to
        if to == entry.records:
            self.cut = None
        return size

    def _next_in_order(self) -> Entry | None:
        """The entry at position, if it is sound and the next record is its first."""
        entry = self._ring.entry(self.position) if self.position < self._ring.tail else None
        if entry and entry.sequence == self.sequence and self._ring.is_sound(entry):
            return entry
        return None

    def pass_damage(self) -> None:
        """The next record is not where it should be: goes to the first behind it that is."""
        ring, position, sequence = self._ring, self.position, self.sequence
        entry = ring.entry(position) if position < ring.tail else None
        if entry and entry.sequence == sequence:
            what = "the entry is not what was written"
            self.go_to(entry.end, entry.end_sequence, entry.before + entry.size)
        elif entry and entry.sequence > sequence:
            what = "they did not come out of the overflow files"
            self.go_to(position, entry.sequence, entry.before)
        elif position >= ring.tail:
            what = "they did not come out of the overflow files"
            self.go_to(ring.tail, ring.next_sequence, ring.next_bytes)
        else:
            what = "no entry begins there"
            entry = ring.next_entry(position + ALIGNMENT, sequence)
            if entry:
                self.go_to(entry.position, entry.sequence, entry.before)
            else:
                self.go_to(ring.tail, ring.next_sequence, ring.next_bytes)
        ring.damage(position, sequence, self.sequence - sequence, what)
