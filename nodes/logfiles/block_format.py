"""Files with blocks: bytes to headers and payloads, and back. docs/formats/logfiles.md. No I/O.

    .log, .sealed   file header, blocks
    block           header, payload (swarm.logfiles.payload)

The checksum of a block's header is made with the random seed of its file. So nothing that a client has stored can look
like a block to whoever searches for the next one behind damage.
"""

import os
import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from nodes.logfiles.file_names import Span
from swarm.core.limits import KIB
from swarm.logfiles import payload
from swarm.logfiles.payload import RAW_BYTES_MAX, RECORDS_MAX, TIMESTAMP_MAX, TIMESTAMP_MIN, BadPayload, Codec, Records

VERSION = 1
FILE_HEADER_BYTES = 40
BLOCK_HEADER_BYTES = 64
BLOCK_BYTES = 256 * KIB  # of payload, decompressed, that a block aims at
STORED_BYTES_MAX = RAW_BYTES_MAX + RAW_BYTES_MAX // 128  # what does not compress grows by less than that
FILE_MAGIC = b"SWARML"
BLOCK_MAGIC = b"SWLB"

_FILE = struct.Struct("<6sBBqII8s")
_BLOCK = struct.Struct("<4sBBHIIIIIIqqQ")
_CHECKSUM = struct.Struct("<Q")
_CHECKED_BYTES = BLOCK_HEADER_BYTES - _CHECKSUM.size

assert _FILE.size + _CHECKSUM.size == FILE_HEADER_BYTES
assert _BLOCK.size == _CHECKED_BYTES

Data = bytes | mmap


class BadHeader(Exception):
    """What stands there is not a sound header; the text says why."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """seed: 8 bytes, random."""

    sealed: bool
    span: Span
    generation: int
    seed: bytes

    def pack(self) -> bytes:
        fields = _FILE.pack(FILE_MAGIC, self.sealed, VERSION, *self.span, self.generation, self.seed)
        return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "FileHeader":
        """Of the first FILE_HEADER_BYTES of a file. Raises BadHeader."""
        if len(data) != FILE_HEADER_BYTES:
            raise BadHeader(f"truncated header: it has {len(data)} bytes of {FILE_HEADER_BYTES}")
        magic, sealed, version, start, length_s, generation, seed = _FILE.unpack_from(data)
        if magic != FILE_MAGIC:
            raise BadHeader("bad magic")
        if _CHECKSUM.unpack_from(data, _FILE.size)[0] != xxh3_64_intdigest(data[: _FILE.size]):
            raise BadHeader("checksum mismatch of the file's header")
        if version != VERSION:
            raise BadHeader(f"unknown version {version}, known is {VERSION}")
        span = Span(start, length_s)
        if sealed > 1 or not span.is_sound() or not generation:
            raise BadHeader("the file's header says what cannot be")
        return cls(bool(sealed), span, generation, seed)


def new_seed() -> bytes:
    return os.urandom(8)


class BlockHeader(NamedTuple):
    """last_run: how many records at the block's end have its last timestamp. tail, tail_offset: up to where the tails
    are in blocks. value_bytes: of all values. checksum: of the payload as stored."""

    codec: int
    last_run: int
    records: int
    raw_bytes: int
    stored_bytes: int
    tail: int
    tail_offset: int
    value_bytes: int
    first: int
    last: int
    checksum: int

    def pack(self, seed: bytes) -> bytes:
        fields = _BLOCK.pack(BLOCK_MAGIC, VERSION, *self)
        return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields, int.from_bytes(seed, "little")))

    @classmethod
    def unpack(cls, data: Data, seed: bytes, offset: int = 0) -> "BlockHeader":
        """Of a block that begins at this offset. Raises BadHeader."""
        found = data[offset : offset + BLOCK_HEADER_BYTES]
        if len(found) != BLOCK_HEADER_BYTES:
            raise BadHeader(f"truncated header: {len(found)} bytes of {BLOCK_HEADER_BYTES}")
        magic, version, *fields = _BLOCK.unpack_from(found)
        if magic != BLOCK_MAGIC:
            raise BadHeader("bad magic")
        checksum = xxh3_64_intdigest(found[:_CHECKED_BYTES], int.from_bytes(seed, "little"))
        if _CHECKSUM.unpack_from(found, _CHECKED_BYTES)[0] != checksum:
            raise BadHeader("checksum mismatch of a block's header")
        if version != VERSION:
            raise BadHeader(f"unknown version {version}, known is {VERSION}")
        header = cls(*fields)
        if not header.is_sound():
            raise BadHeader("a block's header says what cannot be")
        return header

    @property
    def bytes(self) -> int:
        """Of the block with its header."""
        return BLOCK_HEADER_BYTES + self.stored_bytes

    def is_sound(self) -> bool:
        """Whether every field is within its bounds, and fits the others."""
        return (
            self.codec in tuple(Codec)
            and 1 <= self.last_run <= self.records <= RECORDS_MAX
            and 0 < self.value_bytes < self.raw_bytes <= RAW_BYTES_MAX
            and 0 < self.stored_bytes <= STORED_BYTES_MAX
            and TIMESTAMP_MIN <= self.first <= self.last <= TIMESTAMP_MAX
            and (self.first != self.last or self.last_run == self.records)
        )


def make_block(
    timestamps: Sequence[int],
    values: Sequence[bytes],
    codec: Codec,
    seed: bytes,
    *,
    tail: int = 0,
    tail_offset: int = 0,
    level: int = 3,
) -> tuple[BlockHeader, bytes]:
    """Header and stored payload of records that are in order. Where compression gains nothing, it is left out."""
    return pack_block(payload.encode(timestamps, values), codec, tail=tail, tail_offset=tail_offset, level=level)


def pack_block(
    raw: bytes, codec: Codec, *, tail: int = 0, tail_offset: int = 0, level: int = 3
) -> tuple[BlockHeader, bytes]:
    """The same of a payload."""
    stored = payload.compress(codec, raw, level)
    if len(stored) >= len(raw):
        codec, stored = Codec.NONE, raw
    timestamps = payload.timestamp_column(raw)
    first, last, records = timestamps[0], timestamps[-1], len(timestamps)
    header = BlockHeader(
        codec,
        records - bisect_left(timestamps, last),
        records,
        len(raw),
        len(stored),
        tail,
        tail_offset,
        len(raw) - payload.values_start(raw),
        first,
        last,
        xxh3_64_intdigest(stored),
    )
    assert header.is_sound()
    return header, stored


def read_payload(header: BlockHeader, stored: bytes) -> Records:
    """The records of a block. Raises BadPayload where the payload is not what the header says."""
    check_stored(header, stored)
    timestamps, values = payload.decode(payload.decompress(header.codec, stored, header.raw_bytes), header.first)
    if len(values) != header.records:
        raise BadPayload(f"it has {len(values)} records, the header says {header.records}")
    if timestamps[-1] != header.last or len(values) - bisect_left(timestamps, header.last) != header.last_run:
        raise BadPayload("its last timestamps are not what the header says")
    if sum(map(len, values)) != header.value_bytes:
        raise BadPayload(f"its values do not have the {header.value_bytes} bytes that the header says")
    return timestamps, values


def check_stored(header: BlockHeader, stored: bytes) -> None:
    """Length and checksum of a payload as it is stored. Raises BadPayload."""
    if len(stored) != header.stored_bytes:
        raise BadPayload(f"truncated payload: {len(stored)} bytes of {header.stored_bytes}")
    if xxh3_64_intdigest(stored) != header.checksum:
        raise BadPayload("checksum mismatch of the payload")


def next_block(data: Data, seed: bytes, start: int) -> int | None:
    """The offset of the first sound header that begins here or anywhere behind."""
    at = data.find(BLOCK_MAGIC, start)
    while at >= 0:
        try:
            BlockHeader.unpack(data, seed, at)
        except BadHeader:
            at = data.find(BLOCK_MAGIC, at + 1)
        else:
            return at
    return None
