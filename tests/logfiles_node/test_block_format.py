"""docs/formats/logfiles.md: files with blocks, and their names.

Whatever bytes are given, a header is sound or BadHeader, a payload is exactly what its header says or BadPayload.
Nothing else ever happens.
"""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_lines import log_lines
from logfiles_node.raw_logs import pack
from xxhash import xxh3_64_intdigest

from nodes.logfiles.block_format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    BadHeader,
    BlockHeader,
    FileHeader,
    make_block,
    new_seed,
    next_block,
    read_payload,
)
from nodes.logfiles.file_names import DAY_NS, SECOND_NS, FileName, Span, parse_day
from swarm.logfiles import payload
from swarm.logfiles.payload import RECORDS_MAX, TIMESTAMP_MAX, TIMESTAMP_MIN, BadPayload, Codec

SEED = bytes.fromhex("0011223344556677")
SPAN = Span(1_795_348_800 * SECOND_NS, 3600)
FILE = FileHeader(False, SPAN, 7, SEED)
timestamps = st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX)
records = st.lists(st.tuples(timestamps, st.binary(min_size=1, max_size=50)), min_size=1, max_size=50)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("codec", Codec)
@given(records)
def test_what_is_packed_is_read(codec: Codec, pairs: list[tuple[int, bytes]]) -> None:
    pairs.sort(key=lambda pair: pair[0])
    times, values = [list(part) for part in zip(*pairs, strict=True)]
    header, stored = make_block(times, values, codec, SEED, tail=3, tail_offset=4711)
    data = header.pack(SEED) + stored + b"behind"
    assert BlockHeader.unpack(data, SEED) == header
    assert header.bytes == len(data) - 6
    assert (header.tail, header.tail_offset) == (3, 4711)
    assert header.last_run == times.count(times[-1])
    assert read_payload(header, stored) == (times, values)


@pytest.mark.parametrize("codec", Codec)
def test_log_lines(codec: Codec) -> None:
    times, values = log_lines(1300)
    header, stored = make_block(times, values, codec, SEED)
    assert header.codec == codec
    assert read_payload(header, stored) == (times, values)


def test_the_bytes_are_those_of_the_document() -> None:
    assert FILE.pack()[:32] == b"SWARML\0\1" + struct.pack("<qII", *SPAN, 7) + SEED
    assert len(FILE.pack()) == FILE_HEADER_BYTES == 40
    assert FileHeader(True, SPAN, 7, SEED).pack()[6] == 1
    header, stored = make_block([5, 9, 9], [b"a", b"bc", b"d"], Codec.NONE, SEED, tail=2, tail_offset=300)
    assert stored == struct.pack("<I3q3I", 3, 5, 9, 9, 1, 2, 1) + b"abcd"
    fields = struct.pack("<4sBBHIIIIIIqqQ", b"SWLB", 1, 0, 2, 3, 44, 44, 2, 300, 4, 5, 9, xxh3_64_intdigest(stored))
    checksum = xxh3_64_intdigest(fields, int.from_bytes(SEED, "little"))
    assert header.pack(SEED) == fields + checksum.to_bytes(8, "little")
    assert len(header.pack(SEED)) == BLOCK_HEADER_BYTES == 64


def test_a_files_header() -> None:
    data = FILE.pack()
    assert FileHeader.unpack(data) == FILE
    for bit in range(8 * len(data)):
        with pytest.raises(BadHeader):
            FileHeader.unpack(flipped(data, bit))
    for size in range(len(data)):
        with pytest.raises(BadHeader, match="truncated header"):
            FileHeader.unpack(data[:size])


@pytest.mark.parametrize("codec", Codec)
def test_a_block_with_any_bit_flipped_or_truncated_anywhere(codec: Codec) -> None:
    header, stored = make_block(*log_lines(5), codec, SEED)
    data = header.pack(SEED)
    for bit in range(8 * len(data)):
        with pytest.raises(BadHeader):
            BlockHeader.unpack(flipped(data, bit), SEED)
    for size in range(len(data)):
        with pytest.raises(BadHeader, match="truncated header"):
            BlockHeader.unpack(data[:size], SEED)
    for bit in range(8 * len(stored)):
        with pytest.raises(BadPayload, match="checksum mismatch"):
            read_payload(header, flipped(stored, bit))
    for size in range(len(stored)):
        with pytest.raises(BadPayload, match="truncated payload"):
            read_payload(header, stored[:size])


@given(st.binary(max_size=100))
def test_garbage(garbage: bytes) -> None:
    with pytest.raises(BadHeader):
        BlockHeader.unpack(garbage, SEED)
    with pytest.raises(BadHeader):
        FileHeader.unpack(garbage)
    for codec in range(4):
        with pytest.raises(BadPayload):
            payload.decode(payload.decompress(codec, garbage, 40), 0)


@pytest.mark.parametrize("wrong", [
    b"", b"\1", b"\1\0\0", pack([], []), pack([7], [b""]), pack([7, 6], [b"a", b"b"]), pack([8], [b"a"]),
    pack([7, TIMESTAMP_MAX + 1], [b"a", b"b"]), pack([7], [b"a"])[:-1], pack([7], [b"a"]) + b"b", pack([7, 7], [b"a"]),
    pack([7] * (RECORDS_MAX + 1), [b"a"] * (RECORDS_MAX + 1)), b"\xff\xff\xff\xff" + pack([7], [b"a"])[4:],
    struct.pack("<IqI", 1, 7, 2**32 - 1) + b"a",
])  # fmt: skip
def test_payloads_that_the_format_does_not_allow(wrong: bytes) -> None:
    with pytest.raises(BadPayload):
        payload.decode(wrong, 7)


def test_a_payload_cut_at_every_offset() -> None:
    whole = payload.encode([7, 7, 9], [b"a", b"bc", b"d"])
    assert payload.decode(whole, 7) == ([7, 7, 9], [b"a", b"bc", b"d"])
    for size in range(len(whole)):
        with pytest.raises(BadPayload):
            payload.decode(whole[:size], 7)


def test_records_in_any_order_are_a_payload_and_no_block() -> None:
    raw = payload.encode([9, TIMESTAMP_MIN, 7], [b"a", b"b", b"c"])
    assert payload.decode_unordered(raw) == ([9, TIMESTAMP_MIN, 7], [b"a", b"b", b"c"])
    with pytest.raises(BadPayload):
        payload.decode(raw, 9)
    with pytest.raises(BadPayload):
        payload.decode_unordered(payload.encode([TIMESTAMP_MIN - 1], [b"a"]))


def test_a_payload_that_is_not_what_its_header_says() -> None:
    times, values = log_lines(5)
    header, stored = make_block(times, values, Codec.NONE, SEED)
    for wrong in (
        header._replace(records=4),
        header._replace(last=header.last + 1),
        header._replace(first=header.first + 1),
        header._replace(last_run=2),
        header._replace(value_bytes=1),
        header._replace(raw_bytes=header.raw_bytes + 1),
        header._replace(codec=Codec.LZ4),
        header._replace(codec=Codec.ZSTD),
    ):
        with pytest.raises(BadPayload):
            read_payload(wrong, stored)


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD])
def test_no_more_is_decompressed_than_the_header_says(codec: Codec) -> None:
    bomb = payload.compress(codec, bytes(100 << 20))
    for size in (1, 1000, 33 << 20):
        with pytest.raises(BadPayload):
            payload.decompress(codec, bomb, size)


def test_headers_that_say_what_cannot_be() -> None:
    header, _ = make_block([5, 9, 9], [b"a", b"bc", b"d"], Codec.NONE, SEED)
    for wrong in (
        header._replace(codec=3),
        header._replace(records=0),
        header._replace(records=RECORDS_MAX + 1),
        header._replace(last_run=0),
        header._replace(last_run=4),
        header._replace(first=10),
        header._replace(first=9),
        header._replace(last=TIMESTAMP_MAX + 1),
        header._replace(raw_bytes=0),
        header._replace(stored_bytes=0),
        header._replace(raw_bytes=(33 << 20) + 1),
        header._replace(stored_bytes=(34 << 20)),
        header._replace(value_bytes=0),
    ):
        with pytest.raises(BadHeader, match="what cannot be"):
            BlockHeader.unpack(wrong.pack(SEED), SEED)


def test_the_next_block_behind_damage_is_found_and_no_other() -> None:
    first, second = make_block([1], [b"a"], Codec.NONE, SEED), make_block([2], [b"b"], Codec.NONE, SEED)
    forged = make_block([3], [b"c"], Codec.NONE, new_seed())
    front = b"SWLB" + forged[0].pack(new_seed()) + forged[1] + first[0].pack(SEED)[:50]
    data = front + second[0].pack(SEED) + second[1]
    assert next_block(data, SEED, 0) == len(front)
    assert next_block(data, SEED, len(front)) == len(front)
    assert next_block(data, SEED, len(front) + 1) is None


# Names.


@given(timestamps, st.sampled_from([1, 60, 900, 3600, 86_400]), st.integers(1, (1 << 32) - 1), st.data())
def test_a_name_is_read_as_what_it_was_made_of(time: int, length_s: int, generation: int, data: st.DataObject) -> None:
    span = Span.of(time, length_s)
    assert span.is_sound()
    assert span.start <= time < span.end
    number, records, size = (data.draw(st.integers(1, 1 << 32 - 1)) for _ in range(3))
    for name in (
        FileName(span, generation, "log"),
        FileName(span, generation, "tail", number=number),
        FileName(span, generation, "sealed", records=records, value_bytes=size),
    ):
        assert FileName.parse(name.day, name.name) == name


def test_names_of_the_document() -> None:
    span = Span.of(1_795_348_800 * SECOND_NS + 7200 * SECOND_NS + 5, 3600)
    assert FileName(span, 1, "log").path == "2026-11-22/140000_3600-1.log"
    assert FileName(span, 1, "tail", number=1).path == "2026-11-22/140000_3600-1-1.tail"
    sealed = FileName(span, 1, "sealed", records=1_000_000, value_bytes=199_089_268)
    assert sealed.path == "2026-11-22/140000_3600-1-1000000-199089268.sealed"
    assert Span.of(-1, 3600).day == "1969-12-31"
    assert Span.of(TIMESTAMP_MIN, 86_400).day == "1677-09-22"
    assert Span.of(TIMESTAMP_MAX, 86_400).day == "2262-04-10"
    assert parse_day("1970-01-02") == DAY_NS


@pytest.mark.parametrize("name", [
    "", "140000_3600-1", "140000_3600-1.tmp", "140000_3600-01.log", "140000_3600-0.log", "140000_7-1.log",
    "140000_0-1.log", "140001_3600-1.log", "240000_3600-1.log", "146000_3600-1.log", "140000_3600-1-1.log",
    "140000_3600-1.tail", "140000_3600-1-0.tail", "140000_3600-1-1.sealed", "140000_3600-1-1-01.sealed",
    "140000_3600-4294967296.log", "140000_90000-1.log", "140000_3600-1.LOG", "140000_3600-1.log\n", "١٤0000_3600-1.log",
])  # fmt: skip
def test_bad_names(name: str) -> None:
    assert FileName.parse("2026-11-22", "140000_3600-1.log") is not None
    assert FileName.parse("2026-11-22", name) is None


@pytest.mark.parametrize("day", ["", "2026-13-01", "2026-1-1", "1677-09-21", "2262-04-11", "9999-12-31", "20261122"])
def test_bad_days(day: str) -> None:
    assert FileName.parse(day, "000000_3600-1.log") is None
