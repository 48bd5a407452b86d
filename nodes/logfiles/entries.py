"""Records of a tail that are in no block yet, as they are held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from nodes.logfiles.block_format import BLOCK_BYTES
from nodes.logfiles.tail import Tail
from swarm.logfiles.payload import RECORDS_MAX, Records, is_ordered


@dataclass(slots=True)
class Entry:
    """Records of a tail that are in no block, in the order in which they came. bytes: of their values, and what a
    record takes besides. end: the offset in the tail behind them."""

    timestamps: list[int]
    values: list[bytes]
    bytes: int
    tail: Tail
    end: int


def ordered(timestamps: list[int], values: list[bytes]) -> Records:
    """By time; those with the same timestamp stay in their order."""
    if is_ordered(timestamps):
        return timestamps, values
    order = sorted(range(len(timestamps)), key=timestamps.__getitem__)
    return [timestamps[each] for each in order], [values[each] for each in order]


def groups(entries: Sequence[Entry], *, all_of_them: bool) -> list[Sequence[Entry]]:
    """The entries that each block is made of: some BLOCK_BYTES. all_of_them: the last may have less."""
    found, begin, size, records = [], 0, 0, 0
    for number, entry in enumerate(entries):
        if records + len(entry.values) > RECORDS_MAX:
            found.append(entries[begin:number])
            begin, size, records = number, 0, 0
        size += entry.bytes
        records += len(entry.values)
        if size >= BLOCK_BYTES:
            found.append(entries[begin : number + 1])
            begin, size, records = number + 1, 0, 0
    if all_of_them and begin < len(entries):
        found.append(entries[begin:])
    return found


def joined(entries: Sequence[Entry]) -> Records:
    timestamps, values = [], []
    for entry in entries:
        timestamps += entry.timestamps
        values += entry.values
    return ordered(timestamps, values)
