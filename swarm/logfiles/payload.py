"""Records as they travel and are stored: the payload of a block. docs/formats/logfiles.md. No I/O.

    payload   msgpack [steps, values]; a step is by how much a timestamp is above the one before, the first one is 0

The timestamp of the first record stands in front of the payload: in a block's header, or in the message that
carries it. Whoever reads a payload checks it as a whole; what is not exactly as above is BadPayload, and nothing of it
is used.
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate
from operator import sub

import lz4.block
import msgpack
import zstandard

from swarm.core.limits import MIB

RAW_BYTES_MAX = 33 * MIB  # decompressed: one record of the largest value that a node may be configured for, and more
RECORDS_MAX = 65_535  # of a block: what 2 bytes can count
TIMESTAMP_MIN = -106_751 * 86_400_000_000_000  # 1677-09-22: of whole days that 64 bits can hold, the first
TIMESTAMP_MAX = 106_751 * 86_400_000_000_000 - 1  # 2262-04-10, its last nanosecond

assert -(1 << 63) <= TIMESTAMP_MIN < TIMESTAMP_MAX < 1 << 63


class Codec(IntEnum):
    NONE = 0
    LZ4 = 1
    ZSTD = 2


class BadPayload(Exception):
    """It is not what the format says, or not what its header says; the text says why."""


Records = tuple[list[int], list[bytes]]
"""Timestamps, in order, and values: two lists of the same length."""


def is_ordered(timestamps: Sequence[int]) -> bool:
    return list(timestamps) == sorted(timestamps)


def encode(timestamps: Sequence[int], values: Sequence[bytes]) -> bytes:
    """Records to a payload. The timestamps are in order; there is one record at least."""
    steps = [0, *map(sub, timestamps[1:], timestamps)]
    payload: bytes = msgpack.packb((steps, values))
    return payload


def decode(payload: bytes, first: int) -> Records:
    """A payload to its records; first: timestamp of the first one. Raises BadPayload."""
    try:
        content = msgpack.unpackb(payload, max_array_len=RECORDS_MAX, max_map_len=0, max_ext_len=0)
    except (ValueError, RecursionError) as error:
        raise BadPayload(f"it is not msgpack: {error}") from error
    match content:
        case [list(steps), list(values)]:
            return _timestamps(steps, first, len(values)), _checked(values)
    raise BadPayload("it is not two arrays")


def _timestamps(steps: list[int], first: int, count: int) -> list[int]:
    if len(steps) != count or not steps:
        raise BadPayload(f"{len(steps)} timestamps and {count} values")
    try:
        if min(steps) < 0 or steps[0] != 0 or type(steps[0]) is not int:
            raise TypeError
        steps[0] = first
        timestamps = list(accumulate(steps))
        if type(timestamps[-1]) is not int:  # a float makes every sum behind it one; cheaper than to look at all
            raise TypeError
    except TypeError as error:
        raise BadPayload("its timestamps are not steps from one to the next") from error
    if first < TIMESTAMP_MIN or timestamps[-1] > TIMESTAMP_MAX:
        raise BadPayload("its timestamps are out of bounds")
    return timestamps


def _checked(values: list[bytes]) -> list[bytes]:
    if set(map(type, values)) != {bytes} or not all(values):
        raise BadPayload("a value is not bytes, or is empty")
    return values


def compress(codec: Codec, raw: bytes, level: int = 3) -> bytes:
    """Releases the GIL while it works. level: of zstd."""
    if codec is Codec.LZ4:
        stored: bytes = lz4.block.compress(raw, store_size=False)
        return stored
    if codec is Codec.ZSTD:
        return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False).compress(raw)
    return raw


def decompress(codec: int, stored: bytes, raw_bytes: int) -> bytes:
    """What was compressed, of exactly this length; no more memory is taken than that. Raises BadPayload."""
    if not 0 < raw_bytes <= RAW_BYTES_MAX:
        raise BadPayload(f"a length of {raw_bytes} decompressed")
    try:
        if codec == Codec.LZ4:
            raw: bytes = lz4.block.decompress(stored, uncompressed_size=raw_bytes)
        elif codec == Codec.ZSTD:
            if zstandard.frame_content_size(stored) != raw_bytes:
                raise BadPayload("its zstd frame has another length")
            raw = zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw_bytes)
        elif codec == Codec.NONE:
            raw = stored
        else:
            raise BadPayload(f"codec {codec}")
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise BadPayload(f"it cannot be decompressed: {error}") from error
    if len(raw) != raw_bytes:
        raise BadPayload(f"it has {len(raw)} bytes, {raw_bytes} are expected")
    return raw
