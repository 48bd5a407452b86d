"""A small store as a node leaves it, made from a seed, and what is in a store.

    12:00   a bucket that is written to: a .log with three blocks of two entries each, a tail that has all of these
            entries still, and three that are in no block
    11:00   sealed: three blocks
    10:00   sealed, and written to again: a .log whose tail was removed, and the tail after that one

`content` reads as the document says, and takes nothing that is not whole: what is damaged is an error here.
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nodes.logfiles import tail_format
from nodes.logfiles.block_format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    BlockHeader,
    FileHeader,
    make_block,
    read_payload,
)
from nodes.logfiles.file_names import SECOND_NS, FileName, Span
from nodes.logfiles.tail_format import TailHeader, entry_header
from swarm.logfiles.payload import Codec, encode

NOON = 1_795_348_800 * SECOND_NS  # 2026-11-22 12:00 UTC
HOUR_S = 3600
LIVE, SEALED, LATE = (Span(NOON - hours * HOUR_S * SECOND_NS, HOUR_S) for hours in range(3))
AHEAD_BYTES = 256  # zeros behind the entries of a tail

Record = tuple[int, bytes]


@dataclass(frozen=True)
class Unit:
    """A block or an entry, and its place."""

    path: Path
    start: int
    end: int
    records: list[Record]


@dataclass
class Store:
    """units: of each file the blocks or entries, in their order."""

    data: Path
    chance: random.Random
    codec: Codec = Codec.NONE
    units: dict[Path, list[Unit]] = field(default_factory=dict)

    @property
    def channel(self) -> Path:
        return self.data / "channels" / "app"

    def path(self, name: FileName) -> Path:
        return self.channel / name.path

    def records(self, span: Span, count: int, start: int = 0) -> list[Record]:
        """In order, from so many seconds behind the begin of the bucket on."""
        at, records = span.start + start * SECOND_NS, []
        for _ in range(count):
            at += self.chance.randrange(SECOND_NS)
            records.append((at, f"{at} {self.chance.choice(['info', 'warn', 'error'])} ".encode() * 2))
        return records

    def seed(self) -> bytes:
        return bytes([0x80 | self.chance.randrange(128)]) + self.chance.randbytes(7)

    def block(self, records: list[Record], seed: bytes, tail: int = 0, tail_offset: int = 0) -> bytes:
        timestamps, values = [at for at, _ in records], [value for _, value in records]
        header, stored = make_block(timestamps, values, self.codec, seed, tail=tail, tail_offset=tail_offset)
        return header.pack(seed) + stored

    def write_blocks(self, name: FileName, blocks: list[tuple[list[Record], int, int]]) -> Path:
        """Each with the position in the tails that its header says."""
        seed, path = self.seed(), self.path(name)
        data = FileHeader(name.kind == "sealed", name.span, name.generation, seed).pack()
        units = []
        for records, tail, tail_offset in blocks:
            block = self.block(records, seed, tail, tail_offset)
            units.append(Unit(path, len(data), len(data) + len(block), records))
            data += block
        return self._written(path, data, units)

    def write_tail(self, name: FileName, entries: list[list[Record]]) -> Path:
        seed, path = self.seed(), self.path(name)
        data = TailHeader(name.span, name.generation, name.number, seed).pack()
        units = []
        for records in entries:
            payload = encode([at for at, _ in records], [value for _, value in records])
            entry = entry_header(seed, [payload]) + payload
            units.append(Unit(path, len(data), len(data) + len(entry), records))
            data += entry
        return self._written(path, data + bytes(AHEAD_BYTES), units)

    def _written(self, path: Path, data: bytes, units: list[Unit]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.units[path] = units
        return path

    def sealed_name(self, span: Span, generation: int, blocks: list[list[Record]]) -> FileName:
        records = [record for block in blocks for record in block]
        return FileName(span, generation, "sealed", 0, len(records), sum(len(value) for _, value in records))

    # What is in it.

    @property
    def log(self) -> Path:
        return self.path(FileName(LIVE, 1, "log"))

    @property
    def tail(self) -> Path:
        return self.path(FileName(LIVE, 1, "tail", 1))

    @property
    def sealed(self) -> Path:
        (path,) = self.channel.glob(f"*/{SEALED.time}*.sealed")
        return path


def good_store(data: Path, seed: int = 1, codec: Codec = Codec.NONE, count: int = 4) -> Store:
    """count: records of an entry, and half of those of a block."""
    store = Store(data, random.Random(seed), codec)
    entries = [store.records(LIVE, count, 10 * number) for number in range(9)]
    tail = store.write_tail(FileName(LIVE, 1, "tail", 1), entries)
    ends = [unit.end for unit in store.units[tail]]
    blocks = [(entries[first] + entries[first + 1], 1, ends[first + 1]) for first in (0, 2, 4)]
    store.write_blocks(FileName(LIVE, 1, "log"), blocks)
    hour = [store.records(SEALED, 2 * count, 100 * number) for number in range(3)]
    store.write_blocks(store.sealed_name(SEALED, 2, hour), [(records, 0, 0) for records in hour])
    early = [store.records(LATE, 2 * count)]
    store.write_blocks(store.sealed_name(LATE, 1, early), [(records, 0, 0) for records in early])
    store.write_blocks(FileName(LATE, 2, "log"), [(store.records(LATE, 2 * count, 5), 2, 4711)])
    store.write_tail(FileName(LATE, 2, "tail", 3), [store.records(LATE, count, 50), store.records(LATE, count, 7)])
    (data / "lock").write_text("")
    return store


def content(data: Path) -> Counter[Record]:
    """Every record that a node would give."""
    found: Counter[Record] = Counter()
    for day in sorted(path for channel in (data / "channels").iterdir() for path in channel.iterdir()):
        names = {path: name for path in day.iterdir() if (name := FileName.parse(day.name, path.name))}
        for span in {name.span for name in names.values()}:
            found.update(_bucket({path: name for path, name in names.items() if name.span == span}))
    return found


def _bucket(names: dict[Path, FileName]) -> list[Record]:
    sealed = max((name.generation for name in names.values() if name.kind == "sealed"), default=0)
    records: list[Record] = []
    positions: dict[int, tuple[int, int]] = {}
    for path, name in names.items():
        if name.kind != "tail" and (name.generation > sealed or (name.generation == sealed and name.kind == "sealed")):
            found, positions[name.generation] = read_blocks(path, name)
            if name.kind == "sealed":
                assert (name.records, name.value_bytes) == (len(found), sum(len(value) for _, value in found))
            records += found
    for path, name in names.items():
        if name.generation > sealed and name.kind == "tail":
            records += _read_tail(path, name, positions.get(name.generation, (0, 0)))
    return records


def read_blocks(path: Path, name: FileName) -> tuple[list[Record], tuple[int, int]]:
    """A `.log` may end with a block that was not finished."""
    data = path.read_bytes()
    if name.kind == "log" and not any(data):
        return [], (0, 0)
    header = FileHeader.unpack(data[:FILE_HEADER_BYTES])
    assert (header.span, header.generation, header.sealed) == (name.span, name.generation, name.kind == "sealed")
    offset, position, records = FILE_HEADER_BYTES, (0, 0), []
    while offset < len(data):
        if name.kind == "log" and _is_cut_short(data, header.seed, offset):
            break
        block = BlockHeader.unpack(data, header.seed, offset)
        timestamps, values = read_payload(block, data[offset + BLOCK_HEADER_BYTES : offset + block.bytes])
        records += list(zip(timestamps, values, strict=True))
        position = max(position, (block.tail, block.tail_offset))
        offset += block.bytes
    return records, position


def _is_cut_short(data: bytes, seed: bytes, offset: int) -> bool:
    rest = len(data) - offset
    return rest < BLOCK_HEADER_BYTES or rest < BlockHeader.unpack(data, seed, offset).bytes


def _read_tail(path: Path, name: FileName, position: tuple[int, int]) -> list[Record]:
    data = path.read_bytes()
    if not any(data[tail_format.HEADER_BYTES :]):
        return []
    header = TailHeader.unpack(data[: tail_format.HEADER_BYTES])
    assert (header.span, header.generation, header.number) == (name.span, name.generation, name.number)
    entries = list(tail_format.entries(data, header.seed))
    assert tail_format.rest(data, header.seed, entries[-1].end if entries else 48) is not tail_format.Rest.DAMAGED
    records = []
    for entry in entries:
        if (name.number, entry.end) > position:
            records += list(zip(entry.timestamps, entry.values, strict=True))
    return records


def files(data: Path) -> dict[str, bytes]:
    """Every regular file of a tree, by its path in it."""
    paths = [Path(directory) / name for directory, _, names in os.walk(data) for name in names]
    return {str(path.relative_to(data)): path.read_bytes() for path in paths if path.is_file()}
