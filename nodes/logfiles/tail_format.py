"""Tails: the newest records of a bucket, bytes to entries and back. docs/formats/logfiles.md. No I/O.

    .tail   header, entries, zeros (space that was allocated ahead)
    entry   mark, length, checksum, payload: msgpack [timestamps, values], in the order in which they came

As in the dht's journal, the mark is a part of the tail's random seed, so nothing that a client has stored can look like
the begin of an entry.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import msgpack
from xxhash import xxh3_64_intdigest

from nodes.logfiles.block_format import BadHeader, Data
from nodes.logfiles.file_names import Span
from swarm.core.limits import KIB, MIB
from swarm.logfiles.payload import RAW_BYTES_MAX, RECORDS_MAX, TIMESTAMP_MAX, TIMESTAMP_MIN

VERSION = 1
HEADER_BYTES = 48
ENTRY_HEADER_BYTES = 16
PAYLOAD_BYTES_MAX = RAW_BYTES_MAX
ENTRY_BYTES = 128 * KIB  # of payload: a pass with more makes several entries, so that a block is a number of them
PACKER_BYTES = 256 * KIB  # memory that the packer keeps
RECORD_BYTES = 14  # most that a record takes in an entry besides its value
ZEROS_BYTES = 1 * MIB  # looked at in one step

_HEADER = struct.Struct("<6sBBqIIII8s")
_CHECKSUM = struct.Struct("<Q")
_ENTRY = struct.Struct("<4sIQ")
_MAGIC = b"SWARMT"

assert _HEADER.size + _CHECKSUM.size == HEADER_BYTES


@dataclass(frozen=True, slots=True)
class TailHeader:
    """number: of the tail in its generation, from 1. seed: 8 bytes, random."""

    span: Span
    generation: int
    number: int
    seed: bytes

    def pack(self) -> bytes:
        fields = _HEADER.pack(_MAGIC, 0, VERSION, *self.span, self.generation, self.number, 0, self.seed)
        return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "TailHeader":
        """Of the first HEADER_BYTES of a tail. Raises BadHeader."""
        if len(data) != HEADER_BYTES:
            raise BadHeader(f"truncated header: it has {len(data)} bytes of {HEADER_BYTES}")
        magic, _, version, start, length_s, generation, number, _, seed = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise BadHeader("bad magic")
        if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != xxh3_64_intdigest(data[: _HEADER.size]):
            raise BadHeader("checksum mismatch of the tail's header")
        if version != VERSION:
            raise BadHeader(f"unknown version {version}, known is {VERSION}")
        span = Span(start, length_s)
        if not span.is_sound() or not generation or not number or not seed[0] & 0x80:
            raise BadHeader("the tail's header says what cannot be")
        return cls(span, generation, number, seed)


def new_seed() -> bytes:
    """Its first half is the entries' mark, which must not begin with a zero: zeros are the end of a tail."""
    seed = os.urandom(8)
    return bytes([seed[0] | 0x80]) + seed[1:]


class Encoder:
    """Encodes entries; one for a node, since what it saves is the packer's memory."""

    def __init__(self) -> None:
        self._packer = msgpack.Packer(buf_size=PACKER_BYTES)

    def encode(self, seed: bytes, timestamps: Sequence[int], values: Sequence[bytes]) -> tuple[bytes, bytes]:
        """One entry of a tail with this seed: header and payload."""
        payload: bytes = self._packer.pack((timestamps, values))
        if len(payload) > PACKER_BYTES:
            self._packer = msgpack.Packer(buf_size=PACKER_BYTES)  # one that has packed much keeps the memory for ever
        assert len(payload) <= PAYLOAD_BYTES_MAX
        header = _ENTRY.pack(seed[:4], len(payload), xxh3_64_intdigest(payload, int.from_bytes(seed, "little")))
        return header, payload


def entry_bytes(records: int, value_bytes: int) -> int:
    """Most bytes that an entry with so many records takes."""
    return ENTRY_HEADER_BYTES + 16 + RECORD_BYTES * records + value_bytes


def pieces(
    timestamps: list[int], values: list[bytes], value_bytes: int
) -> Iterator[tuple[list[int], list[bytes], int]]:
    """Records as each entry takes them, with the bytes of their values: some ENTRY_BYTES, or one record."""
    if len(values) < 2 or value_bytes + RECORD_BYTES * len(values) <= ENTRY_BYTES:
        yield timestamps, values, value_bytes
        return
    middle = len(values) // 2
    front = values[:middle]
    front_bytes = sum(map(len, front))
    yield from pieces(timestamps[:middle], front, front_bytes)
    yield from pieces(timestamps[middle:], values[middle:], value_bytes - front_bytes)


def pieces_bytes(records: int, value_bytes: int) -> int:
    """Most bytes that all the entries of so many records take. Cutting in halves gets to one large record among 65,535
    in 16 steps, and never makes two neighbours that would fit into one entry."""
    size = entry_bytes(records, value_bytes)
    return size + (size // ENTRY_BYTES) * 17 * (ENTRY_HEADER_BYTES + 16)


class Entry(NamedTuple):
    """A sound one. start, end: offsets in the tail."""

    start: int
    end: int
    timestamps: list[int]
    values: list[bytes]


def entries(data: Data, seed: bytes, start: int = HEADER_BYTES) -> Iterator[Entry]:
    """The sound entries that follow one another from this offset on, up to the first place where there is none."""
    seed_mark, seed_number, length = seed[:4], int.from_bytes(seed, "little"), len(data)
    while (begin := start + ENTRY_HEADER_BYTES) <= length:
        mark, size, checksum = _ENTRY.unpack_from(data, start)
        end = begin + size
        if mark != seed_mark or not 0 < size <= PAYLOAD_BYTES_MAX or end > length:
            return
        payload = data[begin:end]
        if xxh3_64_intdigest(payload, seed_number) != checksum or (records := _records(payload)) is None:
            return
        yield Entry(start, end, *records)
        start = end


def _records(payload: bytes) -> tuple[list[int], list[bytes]] | None:
    try:
        content = msgpack.unpackb(payload, max_array_len=RECORDS_MAX, max_map_len=0, max_ext_len=0)
    except (ValueError, RecursionError):
        return None
    match content:
        case [list(timestamps), list(values)] if len(timestamps) == len(values) > 0:
            if (
                set(map(type, timestamps)) == {int}
                and set(map(type, values)) == {bytes}
                and min(timestamps) >= TIMESTAMP_MIN
                and max(timestamps) <= TIMESTAMP_MAX
                and all(values)
            ):
                return timestamps, values
    return None


def next_entry(data: Data, seed: bytes, start: int) -> Entry | None:
    """The first sound entry that begins at this offset or anywhere behind it."""
    start = data.find(seed[:4], start)
    while start >= 0:
        for entry in entries(data, seed, start):
            return entry
        start = data.find(seed[:4], start + 1)
    return None


class Rest(Enum):
    """What is behind the last entry that `entries` gives."""

    NOTHING = "nothing, or zeros up to the file's end"
    TORN = "something else, and no sound entry anywhere behind it"
    DAMAGED = "something else, and a sound entry behind it; or an entry that is not sound and ends where the file does"


def rest(data: Data, seed: bytes, end: int) -> Rest:
    if only_zeros(data, end):
        return Rest.NOTHING
    if _ends_with_file(data, seed, end) or next_entry(data, seed, end) is not None:
        return Rest.DAMAGED
    return Rest.TORN


def _ends_with_file(data: Data, seed: bytes, start: int) -> bool:
    """Whether the entry here says that it ends where the file does. A file is like that when it was cut to its length,
    so all of the entry had been written; behind a write that was under way there are zeros."""
    payload = start + ENTRY_HEADER_BYTES
    if payload > len(data) or data[start : start + 4] != seed[:4]:
        return False
    _, size, _ = _ENTRY.unpack(data[start:payload])
    return bool(payload + size == len(data))


def only_zeros(data: Data, start: int) -> bool:
    """Whether nothing else is in it from this offset on."""
    for first in range(start, len(data), ZEROS_BYTES):
        piece = data[first : first + ZEROS_BYTES]
        if piece.count(0) != len(piece):
            return False
    return True
