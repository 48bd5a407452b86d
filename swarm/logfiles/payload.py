"""Records as they travel and are stored: the payload of a block, of an entry, of a put many. docs/formats/logfiles.md.
No I/O.

    payload   count, timestamps, sizes, values      each column by itself

Columns are packed and unpacked by one call in C each, and payloads are joined by joining their columns: so what a put
many has brought becomes a part of a block as it came. Whoever reads a payload checks it as a whole; what is not exactly
as the format says is BadPayload, and nothing of it is used.
"""

import sys
from collections.abc import Sequence
from enum import IntEnum
from io import BytesIO
from struct import Struct, pack, unpack_from
from typing import NamedTuple

import lz4.block
import zstandard

from swarm.core.limits import MIB

RAW_BYTES_MAX = 33 * MIB  # decompressed: one record of the largest value that a node may be configured for, and more
RECORDS_MAX = 65_535  # of a block: what 2 bytes can count
TIMESTAMP_MIN = -106_751 * 86_400_000_000_000  # 1677-09-22: of whole days that 64 bits can hold, the first
TIMESTAMP_MAX = 106_751 * 86_400_000_000_000 - 1  # 2262-04-10, its last nanosecond
COUNT_BYTES = 4  # in front of the columns
TIMESTAMP_BYTES, SIZE_BYTES = 8, 4
RECORD_BYTES = TIMESTAMP_BYTES + SIZE_BYTES  # that a record takes besides its value

_COUNT = Struct("<I")

assert -(1 << 63) <= TIMESTAMP_MIN < TIMESTAMP_MAX < 1 << 63


class Codec(IntEnum):
    NONE = 0
    LZ4 = 1
    ZSTD = 2


class BadPayload(Exception):
    """It is not what the format says, or not what its header says; the text says why."""


Records = tuple[list[int], list[bytes]]
"""Timestamps, in order, and values: two lists of the same length."""


class Columns(NamedTuple):
    """Encoded records, or some of them, without being copied.

    block: the payload, where these are all of its records and they are in the order of time, so that it may become a
    block as it is.
    """

    records: int
    timestamps: bytes | bytearray | memoryview
    sizes: bytes | bytearray | memoryview
    values: bytes | bytearray | memoryview
    block: bytes | None = None

    @property
    def bytes(self) -> int:
        return RECORD_BYTES * self.records + len(self.values)


class Layout(NamedTuple):
    """What a payload says of its records. start: where the values begin. first, last: lowest and highest timestamp."""

    timestamps: list[int]
    sizes: tuple[int, ...]
    start: int
    first: int
    last: int
    is_ordered: bool


def encode(timestamps: Sequence[int], values: Sequence[bytes], sizes: Sequence[int] | None = None) -> bytes:
    """Records to a payload, one at least. sizes: of the values, where they are known already."""
    count = len(values)
    sizes = sizes or list(map(len, values))
    return b"".join((_COUNT.pack(count), pack(f"<{count}q", *timestamps), pack(f"<{count}I", *sizes), *values))


def pieces(columns: Sequence[Columns]) -> list[bytes | bytearray | memoryview]:
    """What joined is the payload of all these records."""
    if len(columns) == 1 and (block := columns[0].block) is not None:
        return [block]
    return [
        _COUNT.pack(sum(each.records for each in columns)),
        *(each.timestamps for each in columns),
        *(each.sizes for each in columns),
        *(each.values for each in columns),
    ]


def columns(payload: bytes, start: int = 0, stop: int | None = None, values: tuple[int, int] | None = None) -> Columns:
    """Of the records with these numbers; values: where theirs begin and end. By default of all. The payload was
    checked."""
    (count,) = _COUNT.unpack_from(payload)
    stop = count if stop is None else stop
    begin, end = values or (values_start(payload), len(payload))
    view, sizes = memoryview(payload), COUNT_BYTES + TIMESTAMP_BYTES * count
    return Columns(
        stop - start,
        view[COUNT_BYTES + TIMESTAMP_BYTES * start : COUNT_BYTES + TIMESTAMP_BYTES * stop],
        view[sizes + SIZE_BYTES * start : sizes + SIZE_BYTES * stop],
        view[begin:end],
    )


def timestamps_of(columns: Columns) -> tuple[int, ...]:
    return unpack_from(f"<{columns.records}q", columns.timestamps)


def timestamp_column(payload: bytes) -> Sequence[int]:
    """Its timestamps, each made when it is asked for. Raises BadPayload."""
    start = values_start(payload)
    count = (start - COUNT_BYTES) // RECORD_BYTES
    if sys.byteorder == "big":
        return unpack_from(f"<{count}q", payload, COUNT_BYTES)
    return memoryview(payload)[COUNT_BYTES : COUNT_BYTES + TIMESTAMP_BYTES * count].cast("q")


def values_start(payload: bytes) -> int:
    """Where the values begin. Raises BadPayload."""
    if len(payload) < COUNT_BYTES:
        raise BadPayload(f"it has {len(payload)} bytes")
    (count,) = _COUNT.unpack_from(payload)
    start: int = COUNT_BYTES + RECORD_BYTES * count
    if not 0 < count <= RECORDS_MAX or start > len(payload):
        raise BadPayload(f"{count} records in {len(payload)} bytes")
    return start


def sizes_of(payload: bytes) -> tuple[tuple[int, ...], int]:
    """The sizes, whose sum is right, and where the values begin. Raises BadPayload."""
    start = values_start(payload)
    count = (start - COUNT_BYTES) // RECORD_BYTES
    sizes = unpack_from(f"<{count}I", payload, COUNT_BYTES + TIMESTAMP_BYTES * count)
    if start + sum(sizes) != len(payload):
        raise BadPayload(f"its values have {len(payload) - start} bytes, and by their sizes {sum(sizes)}")
    return sizes, start


def unchecked(payload: bytes) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Timestamps and sizes, whatever they are, of which there are as many, and where the values begin; the sizes'
    sum is right. Raises BadPayload."""
    sizes, start = sizes_of(payload)
    return unpack_from(f"<{len(sizes)}q", payload, COUNT_BYTES), sizes, start


def layout(payload: bytes) -> Layout:
    """Of records in any order. Raises BadPayload."""
    timestamps, sizes, start = unchecked(payload)
    if not all(sizes):
        raise BadPayload("a value is empty")
    in_order = sorted(timestamps)
    if in_order[0] < TIMESTAMP_MIN or in_order[-1] > TIMESTAMP_MAX:
        raise BadPayload("its timestamps are out of bounds")
    as_they_came = list(timestamps)
    return Layout(as_they_came, sizes, start, in_order[0], in_order[-1], as_they_came == in_order)


def layout_of_block(payload: bytes, first: int) -> Layout:
    """Of records in the order of time; first: the first timestamp. Raises BadPayload."""
    found = layout(payload)
    if not found.is_ordered or found.first != first:
        raise BadPayload("its timestamps are not in order, or do not begin with the first")
    return found


def values(payload: bytes, layout: Layout) -> list[bytes]:
    stream = BytesIO(payload)
    stream.seek(layout.start)
    return list(map(stream.read, layout.sizes))  # half of what slices cost


def decode(payload: bytes, first: int) -> Records:
    """The payload of a block to its records; first: timestamp of the first one. Raises BadPayload."""
    found = layout_of_block(payload, first)
    return found.timestamps, values(payload, found)


def decode_unordered(payload: bytes) -> Records:
    """Records in the order in which they came. Raises BadPayload."""
    found = layout(payload)
    return found.timestamps, values(payload, found)


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
