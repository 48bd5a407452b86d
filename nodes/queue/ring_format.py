"""Rings and what is in them: bytes to values and back. docs/formats/queue.md. No I/O.

    ring     header, two copies of the state, data area
    entry    header, a bit for each record, lengths, records, zeros up to a multiple of 8

Positions and sequences only grow; where a position is in the file, and that an entry may reach over the end of the data
area, is the business of ring.py.
"""

import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from swarm.core.limits import BATCH_RECORDS_MAX
from swarm.queue.batch import LENGTH_BYTES

VERSION = 1
HEADER_BYTES = 40
STATE_OFFSETS = (1024, 2048)  # in different sectors: a torn write damages one of them
STATE_BYTES = 104
DATA_OFFSET = 4096
CAPACITY_UNIT = 4096
ENTRY_HEADER_BYTES = 48
ALIGNMENT = 8
ONE_RECORD_BYTES = ENTRY_HEADER_BYTES + 8 + LENGTH_BYTES + ALIGNMENT  # at most, besides its data, of an entry with one
LOW_32 = 0xFFFFFFFF

ENTRY = struct.Struct("<4sIQQQIIQ")
_CHECKED = struct.Struct("<4sIQQQI")
_CHECKSUMS = struct.Struct("<IQ")
CHECKED_BYTES = _CHECKED.size  # of an entry's header: what its own checksum is over
_HEADER = struct.Struct("<8sIIQ8s")  # of either kind of file
STATE = struct.Struct("<12Q")
CHECKSUM = struct.Struct("<Q")
_MAGIC = b"SWARMQ\0\0"
_OVERFLOW_MAGIC = b"SWARMO\0\0"

assert ENTRY.size == ENTRY_HEADER_BYTES
assert STATE.size + CHECKSUM.size == STATE_BYTES
assert _HEADER.size + CHECKSUM.size == HEADER_BYTES


class BadHeader(Exception):
    """What a file begins with is not a sound header; the text says why."""


def new_seed() -> bytes:
    """Its first half is the entries' mark, which must not begin with a zero: zeros are where nothing was written."""
    seed = os.urandom(8)
    return bytes([seed[0] | 0x80]) + seed[1:]


def seed_number(seed: bytes) -> int:
    return int.from_bytes(seed, "little")


def _checked(data: bytes, magic: bytes, what: str) -> None:
    if len(data) != HEADER_BYTES:
        raise BadHeader(f"it has {len(data)} bytes, a header has {HEADER_BYTES}")
    if data[:8] != magic:
        raise BadHeader(f"it does not begin as {what} does")
    if CHECKSUM.unpack_from(data, HEADER_BYTES - 8)[0] != xxh3_64_intdigest(data[: HEADER_BYTES - 8]):
        raise BadHeader("the checksum of its header is wrong")
    version = int.from_bytes(data[8:12], "little")
    if version != VERSION:
        raise BadHeader(f"it has version {version} of the format, known is {VERSION}")


@dataclass(frozen=True)
class RingHeader:
    """capacity: bytes of the data area. seed: 8 bytes, random."""

    capacity: int
    seed: bytes

    def pack(self) -> bytes:
        fields = _HEADER.pack(_MAGIC, VERSION, DATA_OFFSET, self.capacity, self.seed)
        return fields + CHECKSUM.pack(xxh3_64_intdigest(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "RingHeader":
        """Of the first HEADER_BYTES of a ring. Raises BadHeader."""
        _checked(data, _MAGIC, "a ring")
        _, _, offset, capacity, seed = _HEADER.unpack_from(data)
        if offset != DATA_OFFSET or not capacity or capacity % CAPACITY_UNIT:
            raise BadHeader(f"a data area of {capacity} bytes at offset {offset} is not known")
        return cls(capacity, seed)


@dataclass(frozen=True)
class OverflowHeader:
    number: int
    seed: bytes

    def pack(self) -> bytes:
        fields = _HEADER.pack(_OVERFLOW_MAGIC, VERSION, 0, self.number, self.seed)
        return fields + CHECKSUM.pack(xxh3_64_intdigest(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "OverflowHeader":
        """Of the first HEADER_BYTES of an overflow file. Raises BadHeader."""
        _checked(data, _OVERFLOW_MAGIC, "an overflow file")
        _, _, _, number, seed = _HEADER.unpack_from(data)
        return cls(number, seed)


class State(NamedTuple):
    """What a commit writes. Positions in the ring; sequences; bytes: of all records before that sequence."""

    generation: int = 0
    head: int = 0
    head_sequence: int = 0
    given: int = 0
    given_sequence: int = 0
    given_bytes: int = 0
    tail: int = 0
    next_sequence: int = 0
    next_bytes: int = 0
    dropped: int = 0
    damaged: int = 0
    zero: int = 0

    def pack(self, seed: int) -> bytes:
        fields = STATE.pack(*self)
        return fields + CHECKSUM.pack(xxh3_64_intdigest(fields, seed))

    @classmethod
    def unpack(cls, data: bytes, seed: int, capacity: int) -> "State | None":
        """None if it is not sound."""
        if len(data) != STATE_BYTES:
            return None
        if CHECKSUM.unpack_from(data, STATE.size)[0] != xxh3_64_intdigest(data[: STATE.size], seed):
            return None
        state = cls(*STATE.unpack_from(data))
        positions = state.head <= state.given <= state.tail <= state.head + capacity
        sequences = state.head_sequence <= state.given_sequence <= state.next_sequence
        return state if positions and sequences and state.given_bytes <= state.next_bytes else None


def bits_bytes(count: int) -> int:
    return (count + 63) // 64 * 8


def entry_bytes(count: int, data_bytes: int) -> int:
    """What so many records, with so many bytes together, take as one entry."""
    size = ENTRY_HEADER_BYTES + (count + 63) // 64 * 8 + LENGTH_BYTES * count + data_bytes
    return (size + 7) & ~7


class Entry(NamedTuple):
    """The header of one. position: its own; in an overflow file its offset. before: bytes of all
    records before it. size: of its records together."""

    records: int
    sequence: int
    position: int
    before: int
    size: int
    content_checksum: int

    @property
    def end(self) -> int:
        """Position behind it."""
        return self.position + entry_bytes(self.records, self.size)

    @property
    def end_sequence(self) -> int:
        return self.sequence + self.records

    @property
    def lengths_at(self) -> int:
        return self.position + ENTRY_HEADER_BYTES + bits_bytes(self.records)

    @property
    def data_at(self) -> int:
        return self.lengths_at + LENGTH_BYTES * self.records

    @property
    def content_bytes(self) -> int:
        return LENGTH_BYTES * self.records + self.size


def pack_entry(
    number: int, mark: bytes, count: int, size: int, sequence: int, position: int, before: int, content: bytes
) -> bytes:
    """A whole one, for one that is small. number: of the seed; mark: its first half. content: lengths and records."""
    checked = _CHECKED.pack(mark, count, sequence, position, before, size)
    checksums = _CHECKSUMS.pack(xxh3_64_intdigest(checked, number) & LOW_32, xxh3_64_intdigest(content, number))
    return b"".join((checked, checksums, bytes((count + 63) >> 6 << 3), content))


def pack_entry_header(
    seed: bytes, number: int, count: int, sequence: int, position: int, before: int, size: int, content_checksum: int
) -> bytes:
    """seed, number: the same, as bytes and as a number."""
    checked = _CHECKED.pack(seed[:4], count, sequence, position, before, size)
    return checked + _CHECKSUMS.pack(xxh3_64_intdigest(checked, number) & LOW_32, content_checksum)


def unpack_entry_header(data: bytes, seed: bytes, number: int, position: int) -> Entry | None:
    """Of the bytes found at this position; None if no sound entry begins there."""
    if len(data) != ENTRY_HEADER_BYTES or data[:4] != seed[:4]:
        return None
    _, count, sequence, at, before, size, checksum, content_checksum = ENTRY.unpack(data)
    if xxh3_64_intdigest(data[:CHECKED_BYTES], number) & LOW_32 != checksum:
        return None
    if at != position or not 1 <= count <= BATCH_RECORDS_MAX or size < count:
        return None
    return Entry(count, sequence, position, before, size, content_checksum)
