"""docs/formats/logfiles.md: tails as bytes.

Whatever a tail's bytes are, reading them gives the sound entries from its front up to the first place where none is,
and says truly what is behind; a header is sound or BadHeader. Nothing else ever happens.
"""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logfiles_node.raw_logs import pack
from xxhash import xxh3_64_intdigest

from nodes.logfiles.block_format import BadHeader
from nodes.logfiles.entries import cut, one, together
from nodes.logfiles.file_names import SECOND_NS, Span
from nodes.logfiles.tail_format import (
    ENTRY_BYTES,
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    Rest,
    TailHeader,
    entries,
    entries_bytes,
    entry_header,
    new_seed,
    next_entry,
    rest,
)
from swarm.logfiles.payload import COUNT_BYTES, TIMESTAMP_MAX, TIMESTAMP_MIN, decode_unordered, encode, layout, pieces

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
    payload = encode(timestamps, values)
    return entry_header(seed, [payload]) + payload


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
    assert entry[ENTRY_HEADER_BYTES:] == struct.pack("<IqI", 1, 5, 1) + b"a"
    checksum = xxh3_64_intdigest(entry[ENTRY_HEADER_BYTES:], int.from_bytes(SEED, "little"))
    assert entry[:ENTRY_HEADER_BYTES] == SEED[:4] + struct.pack("<IQ", 17, checksum)


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


@pytest.mark.parametrize("payload", [
    b"\0", pack([], []), pack([1], [b""]), pack([1, 2], [b"a"]), pack([1], [b"a"])[:-1], pack([1], [b"a"]) + b"b",
    pack([TIMESTAMP_MIN - 1], [b"a"]), pack([TIMESTAMP_MAX + 1], [b"a"]), pack([0] * 65_536, [b"a"] * 65_536),
])  # fmt: skip
def test_entries_that_the_format_does_not_allow(payload: bytes) -> None:
    checksum = xxh3_64_intdigest(payload, int.from_bytes(SEED, "little"))
    data = HEADER.pack() + SEED[:4] + struct.pack("<IQ", len(payload), checksum) + payload
    assert read(data) == ([], Rest.DAMAGED)


def test_a_tail_that_a_client_has_stored_as_a_value_is_no_entry() -> None:
    stored = tail([([SPAN.start], [tail()])], TailHeader(SPAN, 1, 1, new_seed()))
    assert read(stored[:-1], stored[32:40]) == ([], Rest.TORN)


def test_marks_never_begin_with_a_zero() -> None:
    assert all(new_seed()[0] & 0x80 for _ in range(100))
    assert len({new_seed() for _ in range(100)}) == 100


@given(
    st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 3000, ENTRY_BYTES // 2, ENTRY_BYTES, 1 << 20]), min_size=1),
    st.integers(1, 20),
)
def test_a_pass_that_brings_much_makes_several_entries(sizes: list[int], batch: int) -> None:
    timestamps, values = list(range(len(sizes))), [bytes(size) for size in sizes]
    added = []
    for begin in range(0, len(sizes), batch):
        encoded = encode(timestamps[begin : begin + batch], values[begin : begin + batch])
        added += cut(encoded, layout(encoded))
    found = list(together(added))
    payloads = [b"".join(pieces(columns)) for columns in found]
    assert [number for payload in payloads for number in decode_unordered(payload)[0]] == timestamps
    assert [value for payload in payloads for value in decode_unordered(payload)[1]] == values
    for columns, payload in zip(found, payloads, strict=True):
        assert one(columns).records == 1 or len(payload) <= ENTRY_BYTES + COUNT_BYTES
        assert b"".join(pieces([one(columns)])) == payload
    written = sum(len(payload) + ENTRY_HEADER_BYTES for payload in payloads)
    assert written <= sum(entries_bytes(columns.bytes) for columns in added)
    assert written <= entries_bytes(sum(columns.bytes for columns in added)) or len(added) > 1
