"""Records of a tail that are in no block yet, as they are held in memory: encoded, as they came."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from nodes.logfiles.block_format import BLOCK_BYTES
from nodes.logfiles.tail import Tail
from nodes.logfiles.tail_format import ENTRY_BYTES
from swarm.logfiles import payload
from swarm.logfiles.payload import RECORD_BYTES, RECORDS_MAX, Columns, Layout, Records

BLOCK_BYTES_MIN = BLOCK_BYTES * 3 // 4  # of a block that another entry would make too large, or that needs no other


@dataclass(slots=True)
class Entry:
    """Records of a tail that are in no block, in the order in which they came. end: the offset in the tail behind
    them."""

    columns: Columns
    tail: Tail
    end: int

    @property
    def records(self) -> int:
        return self.columns.records

    @property
    def bytes(self) -> int:
        return self.columns.bytes

    def append(self, other: "Entry") -> None:
        """The entry behind it in the tail becomes a part of it."""
        mine, more = self.columns, other.columns
        timestamps, sizes, values = (
            column if isinstance(column, bytearray) else bytearray(column)
            for column in (mine.timestamps, mine.sizes, mine.values)
        )
        timestamps += more.timestamps
        sizes += more.sizes
        values += more.values
        self.columns = Columns(mine.records + more.records, timestamps, sizes, values)
        self.end = other.end

    def as_it_is(self) -> "Entry":
        """One that does not grow."""
        columns = self.columns
        if type(columns.values) is bytearray:
            found = map(bytes, (columns.timestamps, columns.sizes, columns.values))
            columns = Columns(columns.records, *found)
        return Entry(columns, self.tail, self.end)


def cut(encoded: bytes, layout: Layout) -> list[Columns]:
    """The records of a payload, as parts of some ENTRY_BYTES."""
    if len(encoded) <= ENTRY_BYTES:
        found = payload.columns(encoded)
        return [found._replace(block=encoded) if layout.is_ordered else found]
    parts, start, count = [], 0, len(layout.sizes)
    ends = list(accumulate(layout.sizes, initial=layout.start))
    sums = [end + RECORD_BYTES * number for number, end in enumerate(ends)]
    while start < count:
        stop = max(start + 1, bisect_right(sums, sums[start] + ENTRY_BYTES) - 1)
        parts.append(payload.columns(encoded, start, stop, (ends[start], ends[stop])))
        start = stop
    return parts


def together(added: Sequence[Columns]) -> Iterator[Sequence[Columns]]:
    """Those that each entry is made of: some ENTRY_BYTES."""
    begin, size, records = 0, 0, 0
    for number, each in enumerate(added):
        if number > begin and (size + each.bytes > ENTRY_BYTES or records + each.records > RECORDS_MAX):
            yield added[begin:number]
            begin, size, records = number, 0, 0
        size += each.bytes
        records += each.records
    yield added[begin:]


def one(columns: Sequence[Columns]) -> Columns:
    if len(columns) == 1:
        return columns[0]
    return Columns(
        sum(each.records for each in columns),
        b"".join([each.timestamps for each in columns]),
        b"".join([each.sizes for each in columns]),
        b"".join([each.values for each in columns]),
    )


def groups(entries: Sequence[Entry], *, all_of_them: bool) -> list[Sequence[Entry]]:
    """The entries that each block is made of: some BLOCK_BYTES. all_of_them: the last may have less."""
    found, begin, size, records = [], 0, 0, 0
    for number, entry in enumerate(entries):
        too_large = size >= BLOCK_BYTES_MIN // 2 and size + entry.bytes > BLOCK_BYTES
        if number > begin and (too_large or records + entry.records > RECORDS_MAX):
            found.append(entries[begin:number])
            begin, size, records = number, 0, 0
        size += entry.bytes
        records += entry.records
        if size >= BLOCK_BYTES_MIN:
            found.append(entries[begin : number + 1])
            begin, size, records = number + 1, 0, 0
    if all_of_them and begin < len(entries):
        found.append(entries[begin:])
    return found


def block_payload(entries: Sequence[Entry]) -> bytes:
    """Their records by time, those with the same timestamp in their order."""
    if len(entries) == 1 and (block := entries[0].columns.block) is not None:
        return block
    encoded = b"".join(payload.pieces([entry.columns for entry in entries]))
    layout = payload.layout(encoded)
    if layout.is_ordered:
        return encoded
    return payload.encode(*_ordered(layout.timestamps, payload.values(encoded, layout)))


def joined(entries: Sequence[Entry]) -> Records:
    """The same as records."""
    encoded = block_payload(entries)
    return payload.decode(encoded, payload.timestamp_column(encoded)[0])


def _ordered(timestamps: list[int], values: list[bytes]) -> Records:
    order = sorted(range(len(timestamps)), key=timestamps.__getitem__)
    return [timestamps[each] for each in order], [values[each] for each in order]
