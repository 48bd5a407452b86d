"""docs/formats/logfiles.md: tails as bytes.

Whatever a tail's bytes are, reading them gives the sound entries from its front up to the first place where none is,
and says truly what is behind; a header is sound or BadHeader. Nothing else ever happens.
"""

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from nodes.logfiles.block_format import BadHeader
from nodes.logfiles.file_names import SECOND_NS, Span
from nodes.logfiles.tail_format import (
    ENTRY_BYTES,
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    Encoder,
    Rest,
    TailHeader,
    entries,
    entry_bytes,
    new_seed,
    next_entry,
    pieces,
    pieces_bytes,
    rest,
)
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN

SEED = bytes.fromhex("ab53574500112233")
SPAN = Span(1_795_348_800 * SECOND_NS, 3600)
HEADER = TailHeader(SPAN, 7, 3, SEED)
PASSES = [
    ([SPAN.start + 5, SPAN.start], [b"one", b"two"]),
    ([SPAN.start + number for number in range(50)], [b"%d" % number for number in range(50)]),
    ([SPAN.end - 1], [b"last" * 20]),
]
Passes = list[tuple[list[int], list[bytes]]]


def encoded(seed: bytes, timestamps: list[int], values: list[bytes]) -> bytes:
    return b"".join(Encoder().encode(seed, timestamps, values))


def tail(passes: Passes = PASSES, header: TailHeader = HEADER) -> bytes:
    return header.pack() + b"".join(encoded(header.seed, *each) for each in passes)


def read(data: bytes, seed: bytes = SEED) -> tuple[Passes, Rest]:
    found = list(entries(data, seed))
    passes = [(entry.timestamps, entry.values) for entry in found]
    return passes, rest(data, seed, found[-1].end if found else HEADER_BYTES)


WHOLE = tail()
ENDS = [HEADER_BYTES, *(entry.end for entry in entries(WHOLE, SEED))]
"""Where the header and each entry ends."""


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_the_bytes_are_those_of_the_document() -> None:
    header = HEADER.pack()
    assert header[:40] == b"SWARMT\0\1" + struct.pack("<qIIII", *SPAN, 7, 3, 0) + SEED
    assert header[40:] == xxh3_64_intdigest(header[:40]).to_bytes(8, "little")
    assert len(header) == HEADER_BYTES == 48
    entry = encoded(SEED, [5], [b"a"])
    assert entry[ENTRY_HEADER_BYTES:] == b"\x92\x91\x05\x91\xc4\x01a"
    checksum = xxh3_64_intdigest(entry[ENTRY_HEADER_BYTES:], int.from_bytes(SEED, "little"))
    assert entry[:ENTRY_HEADER_BYTES] == SEED[:4] + struct.pack("<IQ", 7, checksum)


def test_whole() -> None:
    assert TailHeader.unpack(WHOLE[:HEADER_BYTES]) == HEADER
    assert read(WHOLE) == (PASSES, Rest.NOTHING)


@pytest.mark.parametrize("zeros", [0, 1, 15, 16, 5000, 3 << 20])
def test_cut_at_every_offset_and_zeros_behind(zeros: int) -> None:
    steps = 1 if zeros < 1 << 20 else 37
    for size in range(HEADER_BYTES, len(WHOLE), steps):
        whole_ones = sum(end <= size for end in ENDS) - 1
        passes, behind = read(WHOLE[:size] + bytes(zeros))
        assert passes == PASSES[:whole_ones]
        claims_end = size + zeros in ENDS and ENDS[whole_ones] + ENTRY_HEADER_BYTES <= size
        if size in ENDS:
            assert behind is Rest.NOTHING
        elif not claims_end:
            assert behind is Rest.TORN


def test_every_bit_flipped() -> None:
    for bit in range(8 * HEADER_BYTES, 8 * len(WHOLE)):
        hit = sum(end <= bit // 8 for end in ENDS) - 1
        passes, behind = read(flipped(WHOLE, bit))
        assert passes == PASSES[:hit]
        in_mark_or_length = bit // 8 < ENDS[hit] + 8  # so it does not say any more that it ends where the file does
        assert behind is (Rest.TORN if hit == len(PASSES) - 1 and in_mark_or_length else Rest.DAMAGED)


def test_every_bit_of_a_header_flipped_and_a_header_cut_at_every_offset() -> None:
    for bit in range(8 * HEADER_BYTES):
        with pytest.raises(BadHeader):
            TailHeader.unpack(flipped(HEADER.pack(), bit))
    for size in range(HEADER_BYTES):
        with pytest.raises(BadHeader):
            TailHeader.unpack(HEADER.pack()[:size])


@given(st.binary(max_size=300))
def test_garbage(garbage: bytes) -> None:
    passes, behind = read(HEADER.pack() + garbage)
    assert passes == []
    assert behind is (Rest.TORN if any(garbage) else Rest.NOTHING)
    with pytest.raises(BadHeader):
        TailHeader.unpack(garbage)


@given(st.binary(min_size=1, max_size=100))
def test_garbage_between_entries(garbage: bytes) -> None:
    data = WHOLE[: ENDS[1]] + garbage + WHOLE[ENDS[1] :]
    passes, behind = read(data)
    assert passes == PASSES[:1]
    assert behind is Rest.DAMAGED
    found = next_entry(data, SEED, ENDS[1])
    assert found is not None
    assert (found.start, found.timestamps, found.values) == (ENDS[1] + len(garbage), *PASSES[1])


@pytest.mark.parametrize("content", [
    [], [[1]], [[1], [b"a"], []], [[1], [b"a", b"b"]], [[], []], [[1], ["a"]], [[1], [b""]], [[1.0], [b"a"]],
    [[True], [b"a"]], [[1 << 63], [b"a"]], [[TIMESTAMP_MIN - 1], [b"a"]], [[1], [None]], 7, {}, [1, 1],
    [[0] * 65_536, [b"a"] * 65_536],
])  # fmt: skip
def test_entries_that_the_format_does_not_allow(content: object) -> None:
    payload = msgpack.packb(content)
    checksum = xxh3_64_intdigest(payload, int.from_bytes(SEED, "little"))
    data = HEADER.pack() + SEED[:4] + struct.pack("<IQ", len(payload), checksum) + payload
    assert read(data) == ([], Rest.DAMAGED)


def test_a_tail_that_a_client_has_stored_as_a_value_is_no_entry() -> None:
    stored = tail([([SPAN.start], [tail()])], TailHeader(SPAN, 1, 1, new_seed()))
    assert read(stored[:-1], stored[32:40]) == ([], Rest.TORN)


def test_marks_never_begin_with_a_zero() -> None:
    assert all(new_seed()[0] & 0x80 for _ in range(100))
    assert len({new_seed() for _ in range(100)}) == 100


@given(st.lists(st.tuples(st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX), st.binary(min_size=1, max_size=300)), min_size=1))
def test_no_entry_takes_more_than_entry_bytes(pairs: list[tuple[int, bytes]]) -> None:
    timestamps, values = [list(part) for part in zip(*pairs, strict=True)]
    assert len(encoded(SEED, timestamps, values)) <= entry_bytes(len(values), sum(map(len, values)))


@given(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 3000, ENTRY_BYTES // 2, ENTRY_BYTES, 1 << 20]), min_size=1))
def test_a_pass_that_brings_much_makes_several_entries(sizes: list[int]) -> None:
    timestamps, values = list(range(len(sizes))), [bytes(size) for size in sizes]
    found = list(pieces(timestamps, values, sum(sizes)))
    assert [number for piece in found for number in piece[0]] == timestamps
    assert [value for piece in found for value in piece[1]] == values
    for _, part, value_bytes in found:
        assert value_bytes == sum(map(len, part))
        assert len(part) == 1 or value_bytes <= ENTRY_BYTES
    written = sum(len(encoded(SEED, piece[0], piece[1])) for piece in found)
    assert written <= pieces_bytes(len(values), sum(sizes))
