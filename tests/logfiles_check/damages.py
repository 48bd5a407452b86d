"""Every kind of damage, made on purpose in a good store, with what the check has to find.

`python tests/logfiles_check/damages.py` writes golden/ anew.
"""

import json
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from good_store import LATE, NOON, SEALED, Store, files, good_store

from nodes.logfiles.block_format import FILE_HEADER_BYTES, BlockHeader
from nodes.logfiles.check.findings import Kind
from nodes.logfiles.file_names import FileName
from nodes.logfiles.tail_format import entry_header
from swarm.logfiles.payload import Codec, encode

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_SEED = 20261122


@dataclass(frozen=True)
class Expected:
    """lost: how many records are gone for good when it is mended."""

    path: Path
    offset: int
    length: int
    kind: Kind
    mendable: bool = True
    lost: int = 0

    def to_json(self, data: Path) -> dict[str, Any]:
        path = str(self.path.relative_to(data))
        found = {"path": path, "offset": self.offset, "length": self.length, "kind": self.kind.value}
        return found | {"mendable": self.mendable}


Damage = Callable[[Store], list[Expected]]
DAMAGES: dict[str, Damage] = {}


def damage(make: Damage) -> Damage:
    DAMAGES[make.__name__.replace("_", "-")] = make
    return make


def change(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    change(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def header_of(path: Path, offset: int) -> BlockHeader:
    data = path.read_bytes()
    return BlockHeader.unpack(data, data[24:32], offset)


def put_header(path: Path, offset: int, header: BlockHeader) -> None:
    change(path, offset, header.pack(path.read_bytes()[24:32]))


def whole(path: Path, kind: Kind, *, mendable: bool = True) -> Expected:
    return Expected(path, 0, path.stat().st_size, kind, mendable)


def unit(store: Store, path: Path, number: int, kind: Kind) -> Expected:
    each = store.units[path][number]
    return Expected(path, each.start, each.end - each.start, kind, lost=len(each.records))


# The header of a file.


@damage
def file_bad_magic(store: Store) -> list[Expected]:
    flip(store.sealed, 2)
    return [Expected(store.sealed, 0, 40, Kind.BAD_MAGIC)]


@damage
def file_header_checksum(store: Store) -> list[Expected]:
    flip(store.log, 9)
    return [Expected(store.log, 0, 40, Kind.HEADER_CHECKSUM)]


@damage
def file_header_checksum_in_its_seed(store: Store) -> list[Expected]:
    flip(store.sealed, 27)
    return [Expected(store.sealed, 0, 40, Kind.HEADER_CHECKSUM)]


@damage
def file_unknown_version(store: Store) -> list[Expected]:
    fields = bytearray(store.sealed.read_bytes()[:32])
    fields[7] = 2
    change(store.sealed, 0, fields + struct.pack("<Q", xxh3_64_intdigest(bytes(fields))))
    return [whole(store.sealed, Kind.UNKNOWN_VERSION, mendable=False)]


@damage
def file_impossible_header(store: Store) -> list[Expected]:
    fields = store.sealed.read_bytes()[:16] + struct.pack("<I", 7) + store.sealed.read_bytes()[20:32]
    change(store.sealed, 0, fields + struct.pack("<Q", xxh3_64_intdigest(fields)))
    return [Expected(store.sealed, 0, 40, Kind.IMPOSSIBLE_HEADER)]


@damage
def file_truncated_header(store: Store) -> list[Expected]:
    lost = sum(len(each.records) for each in store.units[store.sealed])
    cut(store.sealed, 30)
    return [Expected(store.sealed, 0, 30, Kind.TRUNCATED_HEADER, lost=lost)]


@damage
def tail_bad_magic(store: Store) -> list[Expected]:
    flip(store.tail, 2)
    return [Expected(store.tail, 0, 48, Kind.BAD_MAGIC)]


@damage
def tail_header_checksum(store: Store) -> list[Expected]:
    flip(store.tail, 17)
    return [Expected(store.tail, 0, 48, Kind.HEADER_CHECKSUM)]


@damage
def tail_header_checksum_in_its_seed(store: Store) -> list[Expected]:
    flip(store.tail, 34)
    lost = sum(len(each.records) for each in store.units[store.tail][6:])
    return [Expected(store.tail, 0, store.tail.stat().st_size, Kind.HEADER_CHECKSUM, lost=lost)]


# A block.


@damage
def block_bad_magic(store: Store) -> list[Expected]:
    flip(store.sealed, store.units[store.sealed][1].start)
    return [unit(store, store.sealed, 1, Kind.BAD_MAGIC)]


@damage
def block_header_checksum(store: Store) -> list[Expected]:
    flip(store.log, store.units[store.log][1].start + 20)
    each = store.units[store.log][1]
    return [Expected(store.log, each.start, each.end - each.start, Kind.HEADER_CHECKSUM)]  # the tail has its records


@damage
def block_unknown_version(store: Store) -> list[Expected]:
    start = store.units[store.sealed][1].start
    data = bytearray(store.sealed.read_bytes())
    data[start + 4] = 2
    checksum = xxh3_64_intdigest(bytes(data[start : start + 56]), int.from_bytes(data[24:32], "little"))
    data[start + 56 : start + 64] = struct.pack("<Q", checksum)
    store.sealed.write_bytes(data)
    return [unit(store, store.sealed, 1, Kind.UNKNOWN_VERSION)]


@damage
def block_impossible_header(store: Store) -> list[Expected]:
    start = store.units[store.sealed][1].start
    put_header(store.sealed, start, header_of(store.sealed, start)._replace(codec=9))
    return [unit(store, store.sealed, 1, Kind.IMPOSSIBLE_HEADER)]


@damage
def block_payload_checksum(store: Store) -> list[Expected]:
    flip(store.sealed, store.units[store.sealed][0].end - 1)
    return [unit(store, store.sealed, 0, Kind.PAYLOAD_CHECKSUM)]


@damage
def block_zeroed(store: Store) -> list[Expected]:
    each = store.units[store.sealed][1]
    change(store.sealed, each.start, bytes(each.end - each.start))
    return [unit(store, store.sealed, 1, Kind.BAD_MAGIC)]


@damage
def block_count(store: Store) -> list[Expected]:
    start = store.units[store.sealed][1].start
    header = header_of(store.sealed, start)
    put_header(store.sealed, start, header._replace(records=header.records + 1))
    return [unit(store, store.sealed, 1, Kind.COUNT_OR_TIMES)]


@damage
def block_times(store: Store) -> list[Expected]:
    start = store.units[store.sealed][1].start
    header = header_of(store.sealed, start)
    put_header(store.sealed, start, header._replace(last=header.last - 1))
    return [unit(store, store.sealed, 1, Kind.COUNT_OR_TIMES)]


@damage
def block_undecodable(store: Store) -> list[Expected]:
    each = store.units[store.sealed][1]
    header = header_of(store.sealed, each.start)
    stored = b"\xc1" + store.sealed.read_bytes()[each.start + 65 : each.end]
    put_header(store.sealed, each.start, header._replace(checksum=xxh3_64_intdigest(stored)))
    change(store.sealed, each.start + 64, stored)
    return [unit(store, store.sealed, 1, Kind.UNDECODABLE)]


@damage
def block_outside_bucket(store: Store) -> list[Expected]:
    data = store.log.read_bytes()
    append(store.log, store.block(store.records(SEALED, 3), data[24:32], 1, header_of(store.log, 40).tail_offset))
    return [Expected(store.log, len(data), store.log.stat().st_size - len(data), Kind.OUTSIDE_BUCKET)]


@damage
def block_doubled(store: Store) -> list[Expected]:
    data, each = store.log.read_bytes(), store.units[store.log][0]
    append(store.log, data[each.start : each.end])
    return [Expected(store.log, len(data), each.end - each.start, Kind.DOUBLED_BLOCK)]


@damage
def sealed_out_of_order(store: Store) -> list[Expected]:
    data = store.sealed.read_bytes()
    first, second, third = (data[each.start : each.end] for each in store.units[store.sealed])
    store.sealed.write_bytes(data[:FILE_HEADER_BYTES] + second + first + third)
    return [Expected(store.sealed, FILE_HEADER_BYTES + len(second), len(first), Kind.OUT_OF_ORDER)]


@damage
def sealed_truncated_header(store: Store) -> list[Expected]:
    each = store.units[store.sealed][2]
    cut(store.sealed, each.start + 63)
    return [Expected(store.sealed, each.start, 63, Kind.TRUNCATED_HEADER, lost=len(each.records))]


@damage
def sealed_truncated_payload(store: Store) -> list[Expected]:
    each = store.units[store.sealed][2]
    cut(store.sealed, each.end - 1)
    return [
        Expected(store.sealed, each.start, each.end - each.start - 1, Kind.TRUNCATED_PAYLOAD, lost=len(each.records))
    ]


@damage
def log_truncated_payload(store: Store) -> list[Expected]:
    """The records of the block are in no tail."""
    path, tail = store.path(FileName(LATE, 2, "log")), store.path(FileName(LATE, 2, "tail", 3))
    tail.unlink()
    (each,) = store.units[path]
    cut(path, each.end - 1)
    lost = len(each.records) + sum(len(entry.records) for entry in store.units[tail])
    return [Expected(path, each.start, each.end - each.start - 1, Kind.TRUNCATED_PAYLOAD, lost=lost)]


@damage
def sealed_zero_end(store: Store) -> list[Expected]:
    size = store.sealed.stat().st_size
    append(store.sealed, bytes(500))
    return [Expected(store.sealed, size, 500, Kind.ZERO_END)]


@damage
def log_zero_end(store: Store) -> list[Expected]:
    size = store.log.stat().st_size
    append(store.log, bytes(5))
    return [Expected(store.log, size, 5, Kind.ZERO_END)]


# A tail.


@damage
def entry_bad_magic(store: Store) -> list[Expected]:
    flip(store.tail, store.units[store.tail][7].start)
    return [unit(store, store.tail, 7, Kind.BAD_MAGIC)]


@damage
def entry_payload_checksum(store: Store) -> list[Expected]:
    flip(store.tail, store.units[store.tail][6].end - 1)
    return [unit(store, store.tail, 6, Kind.PAYLOAD_CHECKSUM)]


@damage
def entry_that_is_in_a_block(store: Store) -> list[Expected]:
    """Nothing is lost."""
    each = store.units[store.tail][1]
    flip(store.tail, each.end - 1)
    return [Expected(store.tail, each.start, each.end - each.start, Kind.PAYLOAD_CHECKSUM)]


@damage
def entry_undecodable(store: Store) -> list[Expected]:
    data, each = store.tail.read_bytes(), store.units[store.tail][8]
    payload = bytes(each.end - each.start - 16)
    header = struct.pack(
        "<4sIQ", data[32:36], len(payload), xxh3_64_intdigest(payload, int.from_bytes(data[32:40], "little"))
    )
    change(store.tail, each.start, header + payload)
    lost = len(each.records)
    return [Expected(store.tail, each.start, len(data) - each.start, Kind.UNDECODABLE, lost=lost)]


@damage
def entry_outside_bucket(store: Store) -> list[Expected]:
    data, end = store.tail.read_bytes(), store.units[store.tail][-1].end
    payload = encode([NOON - 1], [b"too early"])
    entry = entry_header(data[32:40], [payload]) + payload
    change(store.tail, end, entry)
    return [Expected(store.tail, end, len(entry), Kind.OUTSIDE_BUCKET)]


@damage
def tail_ends_before_its_blocks(store: Store) -> list[Expected]:
    units = store.units[store.tail]
    cut(store.tail, units[4].end)
    length = units[5].end - units[4].end
    return [Expected(store.tail, units[4].end, length, Kind.TAIL_OVERLAP, lost=sum(len(u.records) for u in units[6:]))]


@damage
def block_ends_inside_an_entry(store: Store) -> list[Expected]:
    start = store.units[store.log][2].start
    header = header_of(store.log, start)
    put_header(store.log, start, header._replace(tail_offset=header.tail_offset - 1))
    each = store.units[store.tail][5]
    return [Expected(store.tail, each.start, each.end - each.start, Kind.TAIL_OVERLAP)]


# Names and places.


@damage
def wrong_counts_in_the_name(store: Store) -> list[Expected]:
    name = store.sealed.name.replace("-2-24-", "-2-25-")
    return [whole(store.sealed.rename(store.sealed.with_name(name)), Kind.WRONG_NAME)]


@damage
def wrong_generation_in_the_name(store: Store) -> list[Expected]:
    return [whole(store.tail.rename(store.tail.with_name("120000_3600-7-1.tail")), Kind.WRONG_NAME)]


@damage
def wrong_start_in_the_name(store: Store) -> list[Expected]:
    return [
        whole(store.sealed.rename(store.sealed.with_name(store.sealed.name.replace("11", "13", 1))), Kind.WRONG_NAME)
    ]


@damage
def bad_name(store: Store) -> list[Expected]:
    return [whole(store.log.rename(store.log.with_name("120000_3600-1.log~")), Kind.BAD_NAME)]


@damage
def bad_name_of_something_else(store: Store) -> list[Expected]:
    path = store.log.with_name("notes.txt")
    path.write_bytes(b"remember the milk")
    return [whole(path, Kind.BAD_NAME, mendable=False)]


@damage
def wrong_place(store: Store) -> list[Expected]:
    day = store.channel / "2026-11-23"
    day.mkdir()
    return [whole(store.sealed.rename(day / store.sealed.name), Kind.WRONG_PLACE)]


@damage
def a_copy_in_the_wrong_place(store: Store) -> list[Expected]:
    day = store.channel / "2026-11-23"
    day.mkdir()
    return [whole(Path(shutil.copy(store.log, day)), Kind.WRONG_PLACE, mendable=False)]


@damage
def stray_temporary(store: Store) -> list[Expected]:
    path = store.log.with_name("120000_3600-1.log.tmp")
    path.write_bytes(store.log.read_bytes()[:50])
    return [whole(path, Kind.STRAY_TEMPORARY)]


@damage
def void_log(store: Store) -> list[Expected]:
    records = [record for each in store.units[store.sealed] for record in each.records]
    path = store.write_blocks(FileName(SEALED, 2, "log"), [(records, 1, 99)])
    return [whole(path, Kind.VOID_FILE)]


@damage
def void_tail_of_a_sealed_bucket(store: Store) -> list[Expected]:
    path = store.write_tail(FileName(LATE, 1, "tail", 9), [store.records(LATE, 3)])
    return [whole(path, Kind.VOID_FILE)]


@damage
def void_tail_of_a_log(store: Store) -> list[Expected]:
    """The last block says that all tails up to the next one are in blocks."""
    path = store.write_tail(FileName(LATE, 2, "tail", 1), [store.records(LATE, 3)])
    return [whole(path, Kind.VOID_FILE)]


def make(name: str, data: Path, seed: int = GOLDEN_SEED, codec: Codec = Codec.NONE) -> tuple[Store, list[Expected]]:
    store = good_store(data, seed, codec)
    return store, DAMAGES[name](store)


def bucket_of(path: str) -> str:
    """When it begins, on whatever day."""
    return path.rpartition("/")[2].partition("_")[0]


def write_golden(directory: Path) -> None:
    """Of each damage the files of the buckets in which it is, and the findings."""
    good_store(directory / "good", GOLDEN_SEED)
    good = files(directory / "good")
    for name in DAMAGES:
        data = directory / name
        _, expected = make(name, data)
        damaged = files(data)
        touched = {bucket_of(path) for path in good.keys() | damaged.keys() if good.get(path) != damaged.get(path)}
        for path in damaged:
            if bucket_of(path) not in touched:
                (data / path).unlink()
        findings = [each.to_json(data) for each in expected]
        (data / "findings.json").write_text(json.dumps(findings, indent=1) + "\n")


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write_golden(GOLDEN)
