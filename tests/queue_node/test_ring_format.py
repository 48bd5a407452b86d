"""Headers, states and entries: what was packed comes out again; anything else is refused."""

import pytest
from xxhash import xxh3_64_intdigest

from nodes.queue.ring_format import (
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    STATE_BYTES,
    BadHeader,
    OverflowHeader,
    RingHeader,
    State,
    entry_bytes,
    new_seed,
    pack_entry_header,
    seed_number,
    unpack_entry_header,
)

SEED = bytes.fromhex("8102030405060708")
NUMBER = seed_number(SEED)
STATE = State(7, 100, 3, 300, 9, 1000, 400, 12, 1200, 5, 6)


def flipped(data: bytes) -> list[bytes]:
    """With each of its bits flipped."""
    return [
        data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]
        for index in range(len(data))
        for bit in range(8)
    ]


def little(*numbers: int, size: int = 8) -> bytes:
    return b"".join(number.to_bytes(size, "little") for number in numbers)


def test_a_ring_header_byte_by_byte() -> None:
    fields = b"SWARMQ\0\0" + little(1, 4096, size=4) + little(8192) + SEED
    assert RingHeader(8192, SEED).pack() == fields + little(xxh3_64_intdigest(fields))


def test_an_overflow_header_byte_by_byte() -> None:
    fields = b"SWARMO\0\0" + little(1, 0, size=4) + little(3) + SEED
    assert OverflowHeader(3, SEED).pack() == fields + little(xxh3_64_intdigest(fields))


def test_a_state_byte_by_byte() -> None:
    fields = little(7, 100, 3, 300, 9, 1000, 400, 12, 1200, 5, 6, 0)
    assert STATE.pack(NUMBER) == fields + little(xxh3_64_intdigest(fields, int.from_bytes(SEED, "little")))


def test_an_entry_header_byte_by_byte() -> None:
    checked = SEED[:4] + little(2, size=4) + little(11, 800, 5000) + little(30, size=4)
    checksum = little(xxh3_64_intdigest(checked, NUMBER) & 0xFFFFFFFF, size=4)
    assert pack_entry_header(SEED, NUMBER, 2, 11, 800, 5000, 30, 77) == checked + checksum + little(77)


@pytest.mark.parametrize("header", [RingHeader(1 << 26, SEED), OverflowHeader(1, SEED)])
def test_a_file_header_with_any_bit_flipped_is_refused(header: RingHeader | OverflowHeader) -> None:
    packed = header.pack()
    assert type(header).unpack(packed) == header
    for data in flipped(packed):
        with pytest.raises(BadHeader):
            type(header).unpack(data)
    for size in range(HEADER_BYTES):
        with pytest.raises(BadHeader, match="bytes"):
            type(header).unpack(packed[:size])


@pytest.mark.parametrize("capacity", [0, 1, 4095, 4097])
def test_a_capacity_that_is_no_multiple_of_4096_is_refused(capacity: int) -> None:
    with pytest.raises(BadHeader, match="not known"):
        RingHeader.unpack(RingHeader(capacity, SEED).pack())


def test_one_kind_of_file_is_not_taken_for_the_other() -> None:
    with pytest.raises(BadHeader, match="does not begin as a ring does"):
        RingHeader.unpack(OverflowHeader(1, SEED).pack())
    with pytest.raises(BadHeader, match="does not begin as an overflow file does"):
        OverflowHeader.unpack(RingHeader(4096, SEED).pack())


def test_a_newer_version_is_named() -> None:
    fields = b"SWARMQ\0\0" + little(2, 4096, size=4) + little(8192) + SEED
    with pytest.raises(BadHeader, match="version 2"):
        RingHeader.unpack(fields + little(xxh3_64_intdigest(fields)))


def test_a_state_with_any_bit_flipped_or_torn_is_not_sound() -> None:
    packed = STATE.pack(NUMBER)
    assert State.unpack(packed, NUMBER, 4096) == STATE
    assert not any(State.unpack(data, NUMBER, 4096) for data in flipped(packed))
    before = STATE._replace(generation=5, tail=350, next_sequence=10).pack(NUMBER)
    for size in range(STATE_BYTES):
        torn = State.unpack(packed[:size] + before[size:], NUMBER, 4096)
        assert torn is None or (size == 0 and torn.generation == 5)
        assert State.unpack(packed[:size], NUMBER, 4096) is None
    assert State.unpack(packed, NUMBER + 1, 4096) is None
    assert State.unpack(bytes(STATE_BYTES), NUMBER, 4096) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"head": 301},
        {"given": 401},
        {"tail": 5000},
        {"head_sequence": 10},
        {"given_sequence": 13},
        {"given_bytes": 1201},
    ],
)
def test_a_state_that_cannot_be_is_not_sound(wrong: dict[str, int]) -> None:
    assert State.unpack(STATE._replace(**wrong).pack(NUMBER), NUMBER, 4096) is None


def test_an_entry_header_with_any_bit_flipped_is_not_sound() -> None:
    packed = pack_entry_header(SEED, NUMBER, 2, 11, 800, 5000, 30, 77)
    entry = unpack_entry_header(packed, SEED, NUMBER, 800)
    assert entry == (2, 11, 800, 5000, 30, 77)
    for data in flipped(packed[: ENTRY_HEADER_BYTES - 8]):  # the checksum of the content is what it is
        assert unpack_entry_header(data + packed[-8:], SEED, NUMBER, 800) is None
    for size in range(ENTRY_HEADER_BYTES):
        assert unpack_entry_header(packed[:size], SEED, NUMBER, 800) is None
    assert unpack_entry_header(packed, SEED, NUMBER, 808) is None
    assert unpack_entry_header(packed, new_seed(), NUMBER, 800) is None


@pytest.mark.parametrize(("count", "size"), [(0, 30), (4097, 5000), (10, 9)])
def test_an_entry_that_cannot_be_is_not_sound(count: int, size: int) -> None:
    assert unpack_entry_header(pack_entry_header(SEED, NUMBER, count, 0, 0, 0, size, 0), SEED, NUMBER, 0) is None


def test_bytes_of_an_entry() -> None:
    for count in (1, 2, 63, 64, 65, 128, 129, 4096):
        for size in range(count, count + 9):
            taken = entry_bytes(count, size)
            entry = unpack_entry_header(pack_entry_header(SEED, NUMBER, count, 0, 80, 0, size, 0), SEED, NUMBER, 80)
            assert entry
            assert entry.end == 80 + taken
            assert entry.lengths_at == 80 + 48 + 8 * -(-count // 64)
            assert entry.data_at == entry.lengths_at + 4 * count
            assert 0 <= entry.end - entry.data_at - size < 8


def test_a_mark_is_never_zeros() -> None:
    assert all(new_seed()[0] & 0x80 for _ in range(100))
