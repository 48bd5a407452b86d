"""The records of a queue that were given out and are not done with: who is acknowledged, and what comes again.

    span    consecutive records, from one delivery or from small ones that followed each other

            first                     first + count
            ┌────────────────────────┐
            │1 1 0 1 0 0 0 0 0 0 0 0 │  acknowledged: a bit for each record, the lowest for the first
            │0 0 1 0 0 0 0 0 0 0 0 0 │  back: given back, and not given out again since
            └────────────────────────┘  neither: given out now

The first record of the first span is never acknowledged: the span begins behind it then. So the begin of the first span
is where the ring's head is. Acknowledgements that leave a gap behind them are written to the ring as bits, at a commit.

A whole span acknowledged in one step costs the same whatever it holds. Otherwise the entries are looked up in the ring,
from the last place that was looked at on where this is possible.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from nodes.queue.reader import Records
from nodes.queue.ring import Ring
from nodes.queue.ring_format import Entry
from swarm.queue.batch import LENGTH_BYTES, unpack_lengths

SPAN_RECORDS = 256  # a span that has fewer is made longer: so a full ring of small entries has few spans


class _Span:
    __slots__ = ("acknowledged", "back", "count", "first", "position", "size")

    def __init__(self, first: int, count: int, position: int, size: int) -> None:
        """position: of the entry that the first record is in. size: bytes of those that are not acknowledged."""
        self.first = first
        self.count = count
        self.position = position
        self.size = size
        self.acknowledged = 0
        self.back = 0

    def bits(self, first: int, count: int) -> int:
        """Those of the records that are in the span."""
        start = max(first - self.first, 0)
        end = min(first + count - self.first, self.count)
        return ((1 << (end - start)) - 1) << start if end > start else 0


class GivenOut:
    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.spans: list[_Span] = []
        """Empty where nothing is given out."""
        self._firsts: list[int] = []  # of the spans
        self._known: Entry | None = None  # the last that was looked up
        self._unwritten: dict[_Span, int] = {}  # bits that are to be written to the ring
        self.records = 0
        """That are not acknowledged, given out now or given back."""
        self.size = 0
        """Their bytes."""
        self.back = 0
        """How many of them were given back."""

    @property
    def head(self) -> tuple[int, int]:
        """Position of the oldest entry, sequence of its first record that is not done with. There is a span."""
        return self.spans[0].position, self.spans[0].first

    @property
    def first_end(self) -> int:
        """Sequence behind the first span. There is one."""
        return self.spans[0].first + self.spans[0].count

    def add(self, first: int, count: int, position: int, size: int) -> None:
        """Records that were never given out before."""
        self.records += count
        self.size += size
        if self.spans:
            last = self.spans[-1]
            if last.count < SPAN_RECORDS and last.first + last.count == first:
                last.count += count
                last.size += size
                return
        self.spans.append(_Span(first, count, position, size))
        self._firsts.append(first)

    def restore(self, entry: Entry, lengths: bytes, first: int, count: int) -> None:
        """Records of an entry that were given out before the ring was opened: they come again."""
        acknowledged = (self._ring.bits(entry) >> (first - entry.sequence)) & ((1 << count) - 1)
        sizes = unpack_lengths(lengths)[first - entry.sequence :][:count]
        self.add(first, count, entry.position, sum(sizes))
        span = self.spans[-1]
        back = span.bits(first, count)
        span.back |= back
        self.back += count
        self._finish(span, (acknowledged << (first - span.first)) & back)

    def acknowledge(self, first: int, count: int) -> int:
        """Of these those that are given out now are done with. How many."""
        done = 0
        for span in self._in(first, count):
            bits = span.bits(first, count) & ~(span.acknowledged | span.back)
            done += self._finish(span, bits)
        return done

    def give_back(self, first: int, count: int) -> None:
        for span in self._in(first, count):
            bits = span.bits(first, count) & ~(span.acknowledged | span.back)
            span.back |= bits
            self.back += bits.bit_count()

    def take_back(self, records_max: int, bytes_max: int) -> Records | None:
        """The oldest of those that were given back; they are given out again."""
        while self.back:
            span = next(each for each in self.spans if each.back)
            start = (span.back & -span.back).bit_length() - 1
            rest = span.back >> start
            count = min((~rest & (rest + 1)).bit_length() - 1, records_max)
            records = self._read(span, span.first + start, count, bytes_max)
            if records:
                given = ((1 << records.number) - 1) << start
                span.back &= ~given
                self.back -= records.number
                return records
        return None

    def drop_before(self, sequence: int) -> int:
        """Records of the first entry, up to this sequence, are gone, acknowledged or not. How many were not."""
        dropped = 0
        for span in self._in(0, sequence):
            position = span.position
            dropped += self._finish(span, span.bits(0, sequence) & ~span.acknowledged)
            if self.spans and self.spans[0] is span and span.position == position:
                dropped += self._finish(span, span.bits(0, sequence + span.count + span.first) & ~span.acknowledged)
        return dropped

    def write_bits(self) -> None:
        """Of what was acknowledged out of order. The state that says these were given out must be committed."""
        for span, written in self._unwritten.items():
            first = span.first + (written & -written).bit_length() - 1
            for entry in self._entries(span, first, span.first + written.bit_length() - first):
                shift = entry.sequence - span.first
                bits = span.acknowledged >> shift if shift >= 0 else span.acknowledged << -shift
                self._ring.store_bits(entry, bits & ((1 << entry.records) - 1) | self._ring.bits(entry))
        self._unwritten.clear()

    # Inside.

    def _in(self, first: int, count: int) -> list[_Span]:
        """Spans that have some of these records."""
        if count <= 0 or not self.spans:
            return []
        start = max(bisect_right(self._firsts, first) - 1, 0)
        end = bisect_right(self._firsts, first + count - 1)
        return self.spans[start:end]

    def _finish(self, span: _Span, bits: int) -> int:
        """These records, not acknowledged before, are. How many."""
        if not bits:
            return 0
        done = bits.bit_count()
        acknowledged = span.acknowledged | bits
        whole = acknowledged.bit_count() == span.count
        size = span.size if whole else sum(self._sizes(span, bits))
        self.back -= (span.back & bits).bit_count()
        span.back &= ~bits
        span.acknowledged = acknowledged
        span.size -= size
        self.size -= size
        self.records -= done
        if not whole or span is not self.spans[0]:
            self._unwritten[span] = self._unwritten.get(span, 0) | bits
        if span is self.spans[0]:
            self._trim()
        return done

    def _trim(self) -> None:
        """The first span begins with a record that is not acknowledged."""
        spans = self.spans
        while spans:
            span = spans[0]
            gone = (~span.acknowledged & (span.acknowledged + 1)).bit_length() - 1
            if gone < span.count:
                if gone:
                    self._cut_front(span, gone)
                return
            self._unwritten.pop(span, None)
            del spans[0], self._firsts[0]

    def _cut_front(self, span: _Span, gone: int) -> None:
        entry = next(self._entries(span, span.first + gone, 1), None)
        if entry is None:
            return
        span.position = entry.position
        span.first += gone
        span.count -= gone
        span.acknowledged >>= gone
        span.back >>= gone
        self._firsts[0] = span.first
        if unwritten := self._unwritten.pop(span, 0) >> gone:
            self._unwritten[span] = unwritten

    def _sizes(self, span: _Span, bits: int) -> Iterator[int]:
        """Bytes of these records, entry by entry."""
        first = span.first + (bits & -bits).bit_length() - 1
        count = span.first + bits.bit_length() - first
        for entry in self._entries(span, first, count):
            lengths = self._lengths(entry, first, count)
            start = max(first, entry.sequence) - span.first
            wanted = (bits >> start) & ((1 << len(lengths)) - 1)
            if wanted == (1 << len(lengths)) - 1:
                yield sum(lengths)
            else:
                yield sum(size for index, size in enumerate(lengths) if wanted >> index & 1)

    def _lengths(self, entry: Entry, first: int, count: int) -> list[int]:
        """Of those records of an entry that are among these."""
        start = max(first - entry.sequence, 0)
        end = min(first + count - entry.sequence, entry.records)
        return unpack_lengths(self._ring.copy(entry.lengths_at + LENGTH_BYTES * start, LENGTH_BYTES * (end - start)))

    def _read(self, span: _Span, first: int, count: int, bytes_max: int) -> Records | None:
        """From this record on; None where they turned out damaged, and are done with then."""
        lengths: list[bytes] = []
        data: list[bytes] = []
        position, taken, left = span.position, 0, bytes_max
        for entry in self._entries(span, first, count):
            if not self._ring.is_sound(entry):
                count = min(count, entry.end_sequence - first)
                break
            sizes = self._lengths(entry, first, count)
            start = max(first - entry.sequence, 0)
            ends = list(accumulate(sizes, initial=0))
            some = min(bisect_right(ends, left), len(sizes))
            skipped = sum(self._lengths(entry, entry.sequence, start))
            lengths.append(self._ring.copy(entry.lengths_at + LENGTH_BYTES * start, LENGTH_BYTES * some))
            data.append(self._ring.copy(entry.data_at + skipped, ends[some]))
            position = position if taken else entry.position
            taken += some
            left -= ends[some]
            if left < 0:
                break
        if not taken:
            self._ring.damage(position, first, count, "what was given out before is not what was written")
            self._finish(span, span.bits(first, count))
            return None
        return Records(first, taken, position, b"".join(lengths), b"".join(data))

    def _entries(self, span: _Span, first: int, count: int) -> Iterator[Entry]:
        """The entries that these records of the span are in. Ends early where one is not there any more."""
        entry = self._known
        if entry is None or entry.position < span.position or entry.sequence > first:
            entry = self._ring.entry(span.position)
        while entry and entry.sequence < first + count:
            self._known = entry
            if entry.end_sequence > first:
                yield entry
            if entry.end_sequence >= first + count:
                return
            following = self._ring.entry(entry.end)
            entry = following if following and following.sequence == entry.end_sequence else None
