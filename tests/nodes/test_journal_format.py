"""docs/formats/journal.md: segments as bytes.

Whatever a segment's bytes are, reading them gives the sound entries from its front up to the first place where none is,
and says truly what is behind; a header is sound or BadHeader. Nothing else ever happens.
"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.dht.journal_format import (
    ENTRY_BYTES,
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    PUT,
    PUT_MANY,
    REMOVE,
    REMOVE_CHANNEL,
    BadHeader,
    Change,
    Encoder,
    Header,
    Rest,
    change_bytes,
    entries,
    new_seed,
    next_entry,
    rest,
)

SEED = bytes.fromhex("ab53574500112233")
HEADER = Header(7, 4711, SEED)
PASSES: list[list[Change]] = [
    [[PUT, "a", b"key", b"value"], [REMOVE, "a", b"key"]],
    [[PUT_MANY, "some-channel", [b"1", b"2"], [b"one", b"two" * 100]]],
    [[REMOVE_CHANNEL, "a"]],
]


def segment(passes: list[list[Change]] = PASSES, header: Header = HEADER) -> bytes:
    encoder = Encoder(header.seed)
    return header.pack() + b"".join(map(encoder.encode, passes))


def read(data: bytes, seed: bytes = SEED) -> tuple[list[list[Change]], Rest]:
    found = list(entries(data, seed))
    return [entry.changes for entry in found], rest(data, seed, found[-1].end if found else HEADER_BYTES)


WHOLE = segment()
ENDS = [HEADER_BYTES, *(entry.end for entry in entries(WHOLE, SEED))]
"""Where the header and each entry ends."""


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_the_bytes_are_those_of_the_document() -> None:
    header = HEADER.pack()
    assert header[:32] == b"SWARMJ\0\1" + (7).to_bytes(8, "big") + (4711).to_bytes(8, "big") + SEED
    assert len(header) == HEADER_BYTES == 40
    (entry,) = entries(segment([[[REMOVE_CHANNEL, "a"]]]), SEED)
    data = segment([[[REMOVE_CHANNEL, "a"]]])[entry.start : entry.end]
    assert data[:8] == SEED[:4] + (5).to_bytes(4, "big")
    assert data[ENTRY_HEADER_BYTES:] == b"\x91\x92\x08\xa1a"
    assert Header(7, 4711, SEED, mended=True).pack()[:8] == b"SWARMJ\1\1"


def test_whole() -> None:
    assert Header.unpack(WHOLE[:HEADER_BYTES]) == HEADER
    assert read(WHOLE) == (PASSES, Rest.NOTHING)


@pytest.mark.parametrize("zeros", [0, 1, 15, 16, 5000, 3 << 20])
def test_cut_at_every_offset_and_zeros_behind(zeros: int) -> None:
    steps = 1 if zeros < 1 << 20 else 37
    for size in range(HEADER_BYTES, len(WHOLE), steps):
        whole_ones = sum(end <= size for end in ENDS) - 1
        changes, behind = read(WHOLE[:size] + bytes(zeros))
        assert changes == PASSES[:whole_ones]
        claims_end = size + zeros in ENDS and ENDS[whole_ones] + ENTRY_HEADER_BYTES <= size
        if size in ENDS:
            assert behind is Rest.NOTHING
        elif not claims_end:
            assert behind is Rest.TORN


def test_every_bit_flipped() -> None:
    for bit in range(8 * HEADER_BYTES, 8 * len(WHOLE)):
        hit = sum(end <= bit // 8 for end in ENDS) - 1
        changes, behind = read(flipped(WHOLE, bit))
        assert changes == PASSES[:hit]
        in_mark_or_length = bit // 8 < ENDS[hit] + 8  # so it does not say any more that it ends where the file does
        assert behind is (Rest.TORN if hit == len(PASSES) - 1 and in_mark_or_length else Rest.DAMAGED)


def test_every_bit_of_a_header_flipped() -> None:
    for bit in range(8 * HEADER_BYTES):
        with pytest.raises(BadHeader):
            Header.unpack(flipped(HEADER.pack(), bit))


def test_a_header_cut_at_every_offset() -> None:
    for size in range(HEADER_BYTES):
        with pytest.raises(BadHeader):
            Header.unpack(HEADER.pack()[:size])


@given(st.binary(max_size=300))
def test_garbage(garbage: bytes) -> None:
    changes, behind = read(HEADER.pack() + garbage)
    assert changes == []
    assert behind is (Rest.TORN if any(garbage) else Rest.NOTHING)
    with pytest.raises(BadHeader):
        Header.unpack(garbage)


@given(st.binary(min_size=1, max_size=100))
def test_garbage_between_entries(garbage: bytes) -> None:
    data = WHOLE[: ENDS[1]] + garbage + WHOLE[ENDS[1] :]
    changes, behind = read(data)
    assert changes == PASSES[:1]
    assert behind is Rest.DAMAGED
    found = next_entry(data, SEED, ENDS[1])
    assert found is not None
    assert (found.start, found.changes) == (ENDS[1] + len(garbage), PASSES[1])


def test_a_segment_that_a_client_has_stored_as_a_value_is_no_entry() -> None:
    stored = segment([[[PUT, "a", b"key", segment()]]], Header(1, 0, new_seed()))
    seed = Header.unpack(stored[:HEADER_BYTES]).seed
    assert seed != SEED
    torn = stored[:-1]
    assert read(torn, seed) == ([], Rest.TORN)


def test_marks_never_begin_with_a_zero() -> None:
    assert all(new_seed()[0] & 0x80 for _ in range(100))
    assert len({new_seed() for _ in range(100)}) == 100


def test_a_pass_that_changes_much_makes_several_entries() -> None:
    changes: list[Change] = [[PUT, "a", b"%d" % number, os.urandom(1 << 20)] for number in range(20)]
    data = segment([changes])
    found = list(entries(data, SEED))
    assert len(found) > 1
    assert max(entry.end - entry.start for entry in found) <= ENTRY_BYTES + ENTRY_HEADER_BYTES
    assert [change for entry in found for change in entry.changes] == changes


@given(st.text("ab-", min_size=1, max_size=128), st.lists(st.binary(min_size=1, max_size=480), max_size=50))
def test_no_change_takes_more_than_change_bytes(channel: str, keys: list[bytes]) -> None:
    size = 2 * sum(map(len, keys))
    changes: list[Change] = [[PUT_MANY, channel, keys, keys]]
    assert len(Encoder(SEED).encode(changes)) <= change_bytes(channel, len(keys), size)
