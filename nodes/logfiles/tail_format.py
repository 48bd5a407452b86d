"""Tails: the newest records of a bucket, bytes to entries and back. docs/formats/logfiles.md. No I/O.

    .tail   header, entries, zeros (space that was allocated ahead)
    entry   mark, length, checksum, payload (swarm.logfiles.payload): records in the order in which they came

As in the dht's journal, the mark is a part of the tail's random seed, so nothing that a client has stored can look like
the begin of an entry.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from nodes.logfiles.block_format import BadHeader, Data
from nodes.logfiles.file_names import Span
from swarm.core.limits import KIB, MIB
from swarm.logfiles.payload import COUNT_BYTES, RAW_BYTES_MAX, BadPayload, decode_unordered

VERSION = 1
HEADER_BYTES = 48
ENTRY_HEADER_BYTES = 16
PAYLOAD_BYTES_MAX = RAW_BYTES_MAX
ENTRY_BYTES = 256 * KIB  # of payload: a pass with more makes several entries, so that a block is a number of them
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


def entry_header(seed: bytes, pieces: Sequence[bytes | bytearray | memoryview]) -> bytes:
    """Of an entry of a tail with this seed; joined the pieces are its payload."""
    checksum = xxh3_64(seed=int.from_bytes(seed, "little"))
    for piece in pieces:
        checksum.update(piece)
    size = sum(map(len, pieces))
    assert size <= PAYLOAD_BYTES_MAX
    return _ENTRY.pack(seed[:4], size, checksum.intdigest())


def entries_bytes(size: int) -> int:
    """Most bytes that all the entries take whose records have so many: two neighbours fill one entry."""
    return size + (2 * (size // ENTRY_BYTES) + 2) * (ENTRY_HEADER_BYTES + COUNT_BYTES)


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
        return decode_unordered(payload)
    except BadPayload:
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
