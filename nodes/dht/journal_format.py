"""Segments of the journal: bytes to changes and back. docs/formats/journal.md. No I/O.

    segment   header, entries, zeros (space that was allocated ahead)
    entry     mark, length, checksum, payload: a msgpack array of changes

An entry is sound if its mark is there, its length lies within the file, its checksum is right and its payload is an
array. Nothing that is not sound is ever decoded further. The mark is a part of the segment's random seed, so nothing
that a client has stored can look like the begin of an entry: a search behind damage stays linear.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from mmap import mmap
from typing import Any, NamedTuple

import msgpack
from xxhash import xxh3_64_intdigest

from swarm.core.limits import FRAME_BYTES_MAX, KIB, MIB
from swarm.core.protocol import REMOVE_CHANNEL as REMOVE_CHANNEL_REQUEST
from swarm.dht import protocol

VERSION = 1
HEADER_BYTES = 40
ENTRY_HEADER_BYTES = 16
PAYLOAD_BYTES_MAX = 64 * MIB
ENTRY_BYTES = 8 * MIB  # what a pass has changed is cut into entries of at most so much, where it can be cut
PACKER_BYTES = 64 * KIB  # memory that the packer keeps
ZEROS_BYTES = 1 * MIB  # looked at in one step

assert PAYLOAD_BYTES_MAX >= FRAME_BYTES_MAX + 1 * KIB, "the largest request must fit into an entry"

_HEADER = struct.Struct(">6sBBQQ8s")
_CHECKSUM = struct.Struct(">Q")
_ENTRY = struct.Struct(">4sIQ")
_MAGIC = b"SWARMJ"

# The codes of changes are those of the requests that make them.
REMOVE_CHANNEL = REMOVE_CHANNEL_REQUEST.code
PUT = protocol.PUT.code
PUT_MANY = protocol.PUT_MANY.code
REMOVE = protocol.REMOVE.code

Change = tuple[Any, ...] | list[Any]
"""(REMOVE_CHANNEL, channel), (PUT, channel, key, value), (PUT_MANY, channel, keys, values), (REMOVE, channel, key)."""

Data = bytes | mmap


class BadHeader(Exception):
    """What a segment begins with is not a sound header; the text says why."""


@dataclass(frozen=True)
class Header:
    """number: of the segment. previous_bytes: length of the segment before it, 0 for none. seed: 8 bytes, random.
    mended: written in place of one that was damaged or missing, so it may be shorter than the next one says."""

    number: int
    previous_bytes: int
    seed: bytes
    mended: bool = False

    def pack(self) -> bytes:
        fields = _HEADER.pack(_MAGIC, self.mended, VERSION, self.number, self.previous_bytes, self.seed)
        return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "Header":
        """Of the first HEADER_BYTES of a segment. Raises BadHeader."""
        if len(data) != HEADER_BYTES:
            raise BadHeader(f"it has {len(data)} bytes, a header has {HEADER_BYTES}")
        magic, mended, version, number, previous_bytes, seed = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise BadHeader("it does not begin as a segment does")
        if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != xxh3_64_intdigest(data[: _HEADER.size]):
            raise BadHeader("the checksum of its header is wrong")
        if version != VERSION:
            raise BadHeader(f"it has version {version} of the format, known is {VERSION}")
        return cls(number, previous_bytes, seed, bool(mended))


def new_seed() -> bytes:
    """Its first half is the entries' mark, which must not begin with a zero: zeros are the end of a segment."""
    seed = os.urandom(8)
    return bytes([seed[0] | 0x80]) + seed[1:]


class Encoder:
    """Encodes the changes of passes as entries of one segment."""

    def __init__(self, seed: bytes) -> None:
        self._mark = seed[:4]
        self._seed = int.from_bytes(seed, "big")
        self._packer = msgpack.Packer(buf_size=PACKER_BYTES)
        self._pack = self._packer.pack

    def encode(self, changes: list[Change]) -> bytes:
        """One entry, or several where it would be large. The one step of the journal that every pass pays for."""
        payload: bytes = self._pack(changes)
        size = len(payload)
        if size > PACKER_BYTES:
            return self._encode_large(changes, payload)
        return _ENTRY.pack(self._mark, size, xxh3_64_intdigest(payload, self._seed)) + payload

    def _encode_large(self, changes: list[Change], payload: bytes) -> bytes:
        if len(payload) > ENTRY_BYTES:
            self._packer = msgpack.Packer(buf_size=PACKER_BYTES)  # one that has packed much keeps the memory for ever
            self._pack = self._packer.pack
            if len(changes) > 1:
                middle = len(changes) // 2
                return self.encode(changes[:middle]) + self.encode(changes[middle:])
        assert len(payload) <= PAYLOAD_BYTES_MAX
        return b"".join((_ENTRY.pack(self._mark, len(payload), xxh3_64_intdigest(payload, self._seed)), payload))


def change_bytes(channel: str, records: int, size: int) -> int:
    """Most bytes that a change takes in an entry of its own. size: of its keys and values."""
    return ENTRY_HEADER_BYTES + 32 + len(channel) + 10 * records + size


class Entry(NamedTuple):
    """A sound one. start, end: offsets in the segment."""

    start: int
    end: int
    changes: list[Change]


def entries(data: Data, seed: bytes, start: int = HEADER_BYTES) -> Iterator[Entry]:
    """The sound entries of a segment that follow one another from this offset on, up to the first place where there is
    none."""
    seed_mark, seed_number, length = seed[:4], int.from_bytes(seed, "big"), len(data)
    while (begin := start + ENTRY_HEADER_BYTES) <= length:
        mark, size, checksum = _ENTRY.unpack_from(data, start)
        end = begin + size
        if mark != seed_mark or not 0 < size <= PAYLOAD_BYTES_MAX or end > length:
            return
        payload = data[begin:end]
        if xxh3_64_intdigest(payload, seed_number) != checksum:
            return
        try:
            changes = msgpack.unpackb(payload)
        except ValueError:
            return
        if type(changes) is not list:
            return
        yield Entry(start, end, changes)
        start = end


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
