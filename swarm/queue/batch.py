"""Records of a queue as they travel and are stored: their lengths, and their bytes one behind the other. No I/O.

    lengths   one unsigned 32-bit integer, little endian, for each record
    data      the records

One batch is two bytes objects, however many records it has: what is in the middle is checked, copied and cut without a
step for each record. docs/protocol.md §5.
"""

import sys
from array import array
from collections.abc import Sequence
from io import BytesIO
from struct import Struct

LENGTH_BYTES = 4
_UNSIGNED_32 = "I"
assert array(_UNSIGNED_32).itemsize == LENGTH_BYTES


pack_length = Struct("<I").pack
"""Of one record."""


def _swapped(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def pack_lengths(lengths: Sequence[int]) -> bytes:
    """OverflowError if one is not in 32 bits."""
    return _swapped(array(_UNSIGNED_32, lengths)).tobytes()


def unpack_lengths(lengths: bytes | memoryview) -> list[int]:
    """ValueError if they are not a whole number of lengths."""
    numbers = array(_UNSIGNED_32)
    numbers.frombytes(lengths)
    return _swapped(numbers).tolist()


def pack(records: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Lengths and data of records. TypeError if one is not bytes."""
    return pack_lengths(list(map(len, records))), b"".join(records)


def unpack(lengths: bytes, data: bytes) -> list[bytes]:
    """The records; ValueError where the two do not belong together."""
    sizes = unpack_lengths(lengths)
    if sum(sizes) != len(data):
        raise ValueError(f"{len(sizes)} records of {sum(sizes)} bytes in all, and {len(data)} bytes of data")
    return list(map(BytesIO(data).read, sizes))  # half of what slices take
