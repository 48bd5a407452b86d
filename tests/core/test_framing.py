"""Frames (docs/protocol.md §1).

Whatever bytes a FrameDecoder or a FrameReceiver is fed, in whatever pieces, the one allowed outcome is: the messages
that were sent up to the damage, and then a ProtocolError, or waiting for more. Never another exception and, at a node,
never more memory than the bytes that came in account for.
"""

import random
import struct
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

import lz4.block
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import (
    COMPRESSED,
    KIB,
    MIB,
    FrameReader,
    Message,
    array,
    compressed_frame,
    frame,
    nested,
    raw_frame,
)

from swarm.core import limits
from swarm.core.errors import ProtocolError
from swarm.core.frame_receiver import FrameReceiver
from swarm.core.framing import FrameDecoder, FrameEncoder

FRAME_BYTES_MAX = 33 * MIB

FRAMES: list[list[Message]] = [
    [["swarm", 1, {"client": "test", "compression": []}]],
    [[1, 16, "channel", b"key", b"value"], [2, 18, "channel", b"key"]],
    [[3, 17, "c", [b"a", b"b"], [b"1", b"2" * 300], 0]],
    [[4294967295, 5]],
    [[0, 32, ["text", {"limit": 2**63}]], [5, 0, None], [6, 0, True], [7, 0, 1.5], [8, 1, [b"", [], []]]],
]
CONVERSATION = b"".join(frame(*messages) for messages in FRAMES)


Decoder = FrameDecoder | FrameReceiver


def decoder(*, compression: bool = False, node: bool = True, most: int = FRAME_BYTES_MAX) -> Decoder:
    """A node's or a client's."""
    new = FrameDecoder(frame_bytes_max=most) if node else FrameReceiver(frame_bytes_max=most)
    new.compression = compression
    return new


def decoded(decoder: Decoder, pieces: Iterable[bytes]) -> Iterator[list[Message]]:
    """The frames in these pieces."""
    for piece in pieces:
        rest = memoryview(bytearray(piece))
        while rest:
            if isinstance(decoder, FrameDecoder):
                messages, rest = decoder.feed(rest), rest[:0]
            else:
                size = min(len(rest), len(decoder.room))
                decoder.room[:size] = rest[:size]
                messages, rest = decoder.received(size), rest[size:]
            while messages is not None:
                yield messages
                messages = decoder.next_frame()


def outcome(decoder: Decoder, *pieces: bytes) -> tuple[list[list[Message]], ProtocolError | None]:
    """The frames up to the first error, and that error."""
    frames: list[list[Message]] = []
    try:
        frames.extend(decoded(decoder, pieces))
    except ProtocolError as error:
        return frames, error
    return frames, None


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def refusal(body: bytes, **options: bool) -> str:
    """Why a frame with this body is refused."""
    frames, error = outcome(decoder(**options), raw_frame(body))
    assert not frames
    assert error is not None, "the body was accepted"
    return error.text


# What arrives, however it arrives.


@pytest.mark.parametrize("node", [True, False])
def test_whole(node: bool) -> None:
    assert outcome(decoder(node=node), CONVERSATION) == (FRAMES, None)


@pytest.mark.parametrize("node", [True, False])
def test_one_frame_at_a_time(node: bool) -> None:
    assert outcome(decoder(node=node), *(frame(*messages) for messages in FRAMES)) == (FRAMES, None)


@pytest.mark.parametrize("node", [True, False])
def test_byte_by_byte(node: bool) -> None:
    assert outcome(decoder(node=node), *(bytes([byte]) for byte in CONVERSATION)) == (FRAMES, None)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(CONVERSATION))), st.booleans())
def test_in_any_pieces(places: list[int], node: bool) -> None:
    assert outcome(decoder(node=node), *cut(CONVERSATION, places)) == (FRAMES, None)


def test_the_buffer_of_the_caller_may_be_overwritten_after_feeding() -> None:
    taking = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
    buffer = bytearray(frame([1, 16, "c", b"key", b"value"]))
    messages = taking.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert messages == [[1, 16, "c", b"key", b"value"]]


@pytest.mark.parametrize("node", [True, False])
def test_bytes_after_a_frame_wait_for_the_rest(node: bool) -> None:
    taking = decoder(node=node)
    assert outcome(taking, frame([1, 5]) + frame([2, 5])[:6]) == ([[[1, 5]]], None)
    assert outcome(taking, frame([2, 5])[6:]) == ([[[2, 5]]], None)


def test_no_frame_is_decoded_before_it_is_asked_for() -> None:
    taking = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
    assert taking.feed(memoryview(frame([1, 5]) + raw_frame(b"\xc1"))) == [[1, 5]]
    with pytest.raises(ProtocolError):
        taking.next_frame()


@pytest.mark.parametrize("node", [True, False])
def test_truncated_at_every_offset(node: bool) -> None:
    for length in range(len(CONVERSATION)):
        taking = decoder(node=node)
        frames, error = outcome(taking, CONVERSATION[:length])
        assert error is None
        assert frames == FRAMES[: len(frames)]
        rest, error = outcome(taking, CONVERSATION[length:])
        assert (frames + rest, error) == (FRAMES, None)


@pytest.mark.parametrize("node", [True, False])
@pytest.mark.parametrize("compression", [False, True])
def test_every_bit_flipped(compression: bool, node: bool) -> None:
    edges = [0]
    for messages in FRAMES:
        edges.append(edges[-1] + len(frame(*messages)))
    for bit in range(8 * len(CONVERSATION)):
        damaged = bytearray(CONVERSATION)
        damaged[bit // 8] ^= 1 << bit % 8
        frames, _ = outcome(decoder(compression=compression, node=node), bytes(damaged))
        whole = sum(edge <= bit // 8 for edge in edges[1:])
        assert frames[:whole] == FRAMES[:whole]
        assert all(type(messages) is list and messages for messages in frames)


@settings(deadline=None)
@given(st.binary(), st.lists(st.integers(0, 100)), st.booleans(), st.booleans())
def test_arbitrary_bytes(data: bytes, places: list[int], compression: bool, node: bool) -> None:
    pieces = cut(data, (min(place, len(data)) for place in places))
    whole = outcome(decoder(compression=compression, node=node), data)
    assert str(whole) == str(outcome(decoder(compression=compression, node=node), *pieces))


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_arbitrary_bodies(body: bytes, node: bool) -> None:
    frames, error = outcome(decoder(node=node), raw_frame(body))
    assert error is not None or (len(frames) == 1 and type(frames[0]) is list and frames[0])


# What a header announces.


@pytest.mark.parametrize(
    "announced",
    [0, FRAME_BYTES_MAX + 1, 2**31 - 1, 2**31, 2**31 + 10, 2**32 - 1],
    ids=["nothing", "one more than the most", "2 GiB", "compressed nothing", "compressed", "4 GiB"],
)
def test_a_header_that_is_refused_is_refused_before_the_body_comes(announced: int) -> None:
    frames, error = outcome(decoder(), struct.pack(">I", announced))
    assert not frames
    assert error is not None


@pytest.mark.parametrize("announced", [0, FRAME_BYTES_MAX + 1, 2**31 - 1])
def test_a_compressed_header_is_bounded_too(announced: int) -> None:
    frames, error = outcome(decoder(compression=True), struct.pack(">I", announced | COMPRESSED))
    assert not frames
    assert error is not None


def test_the_error_names_what_was_announced_and_what_is_accepted() -> None:
    _, error = outcome(decoder(), struct.pack(">I", 50_000_000))
    assert error is not None
    assert "50000000" in error.text
    assert str(FRAME_BYTES_MAX) in error.text


def test_before_the_hello_4_kib_are_accepted() -> None:
    assert limits.HELLO_BYTES_MAX == 4 * KIB
    body = msgpack.packb([b"x" * (4 * KIB - 4)])
    assert len(body) == 4 * KIB
    assert outcome(decoder(most=4 * KIB), raw_frame(body)) == ([[b"x" * (4 * KIB - 4)]], None)
    _, error = outcome(decoder(most=4 * KIB), struct.pack(">I", 4 * KIB + 1))
    assert error is not None
    assert "hello" in error.text


@pytest.mark.parametrize("node", [True, False])
def test_the_longest_frame(node: bool) -> None:
    value = b"x" * (FRAME_BYTES_MAX - 6)
    body = msgpack.packb([value])
    assert len(body) == FRAME_BYTES_MAX
    frames, error = outcome(decoder(node=node), raw_frame(body))
    assert error is None
    assert frames == [[value]]


def test_no_memory_is_taken_for_what_has_not_come() -> None:
    taking = decoder()
    tracemalloc.start()
    try:
        assert outcome(taking, struct.pack(">I", FRAME_BYTES_MAX), b"\x91" * 1000) == ([], None)
        assert tracemalloc.get_traced_memory()[1] < 64 * KIB
    finally:
        tracemalloc.stop()


def test_the_memory_of_a_large_frame_is_given_back() -> None:
    large = frame([b"x" * (4 * MIB)])
    taking = decoder()
    tracemalloc.start()
    try:
        assert sum(1 for _ in decoded(taking, [large[:1000], large[1000:]])) == 1
        assert tracemalloc.get_traced_memory()[0] < 64 * KIB
    finally:
        tracemalloc.stop()


# What a body is.


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"\xc0",
        b"\x90",
        b"\x80",
        b"\x05",
        b"\xa3abc",
        b"\xc4\x03abc",
        b"\x92\x01",
        b"\x91\xc1",
        b"\x91\x01\x02",
        b"\x91\xa1\xff",
        b"\x91\xa5ab",
        b"\x91\x81\x01\x02",
        b"\x91\x81\x90\x02",
        b"\x91\xdd\xff\xff\xff\xff",
        b"\x91\xdf\xff\xff\xff\xff",
        b"\x91\xc6\xff\xff\xff\xff",
        b"\x91\xdb\xff\xff\xff\xff",
        b"\x91\xc9\xff\xff\xff\xff\x01",
        b"\x91\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x91\xc7\x03\xff\x00\x00\x00",
    ],
    ids=bytes.hex,
)
def test_bodies_that_are_not_one_array_of_messages(body: bytes) -> None:
    assert refusal(body)


def test_a_refused_body_is_refused_again() -> None:
    """The decoder does not go on behind the damage as if nothing had been."""
    taking = decoder()
    _, first = outcome(taking, raw_frame(b"\xc1") + frame([1, 5]))
    frames, second = outcome(taking, frame([2, 5]))
    assert first is not None
    assert second is not None
    assert not frames


def test_nesting_in_a_small_body() -> None:
    """It can do no harm: msgpack's own bound is enough."""
    depth_max = 1024
    frames, error = outcome(decoder(), raw_frame(nested(depth_max)))
    assert error is None
    assert len(frames) == 1
    assert refusal(nested(depth_max + 1))


ARRAYS_OF_4080 = b"\xdc\x0f\xf0"


def unfinished(length: int) -> bytes:
    """Arrays in arrays that announce elements without end, then empty ones: so many bytes."""
    return (ARRAYS_OF_4080 * 1000 + b"\x90" * length)[:length]


@pytest.mark.parametrize("behind", [0, 100, 10_000, 2 * MIB])
def test_arrays_in_arrays_take_no_memory_for_what_they_announce(behind: int) -> None:
    """At the head of the body, or behind a value."""
    body = b"\x92" + msgpack.packb(bytes(behind)) + unfinished(4 * KIB - 10)
    taking = decoder()
    tracemalloc.start()
    try:
        frames, error = outcome(taking, raw_frame(body))
        assert tracemalloc.get_traced_memory()[1] < 6 * len(body) + 64 * KIB
    finally:
        tracemalloc.stop()
    assert not frames
    assert error is not None
    assert "16 arrays or maps in each other" in error.text


def test_a_stranger_gets_no_memory_for_what_its_arrays_announce() -> None:
    for body in (unfinished(4 * KIB), unfinished(KIB), b"\xdc\x00\x41" + b"\xc0" * 65, b"\xde\x00\x41" + b"\xc0" * 130):
        taking = decoder(most=4 * KIB)
        tracemalloc.start()
        try:
            frames, error = outcome(taking, raw_frame(body))
            assert tracemalloc.get_traced_memory()[1] < 64 * KIB
        finally:
            tracemalloc.stop()
        assert not frames
        assert error is not None
    assert outcome(decoder(most=4 * KIB), raw_frame(b"\xdc\x00\x40" + b"\xc0" * 64)) == ([[None] * 64], None)


def test_depth_of_nesting() -> None:
    body = b"\x92" + msgpack.packb(bytes(2 * KIB))
    assert outcome(decoder(), raw_frame(body + nested(15)))[1] is None
    assert "in each other" in refusal(body + nested(16))
    assert "in each other" in refusal(body + b"\x81\xc0" * 16 + b"\xc0")
    assert "ends too early" in refusal(body)


@pytest.mark.parametrize("node", [True, False])
def test_nesting_10_000_deep(node: bool) -> None:
    assert refusal(nested(10_000), node=node)
    assert refusal(b"\x81\xa1a" * 10_000 + b"\xc0", node=node)
    assert refusal(nested(2 * MIB), node=node)


def large_body(*values: bytes) -> bytes:
    """A body of more than 1 MiB with these encoded values beside a big one."""
    body = array(array(msgpack.packb(bytes(MIB)), *values))
    assert len(body) > MIB
    return body


def array_32(count: int, element: bytes) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + element * count


def test_a_body_of_64_kib_may_hold_many_arrays_and_maps() -> None:
    body = array(*[array_32(8192, b"\x90")] * 7, array_32(8100, b"\x80"))
    assert 63 * KIB < len(body) <= 64 * KIB
    frames, error = outcome(decoder(), raw_frame(body))
    assert error is None
    assert frames == [[[[]] * 8192] * 7 + [[{}] * 8100]]


def test_a_larger_body_may_hold_16384_arrays() -> None:
    value = msgpack.packb(bytes(64 * KIB))
    most = array_32(8192, b"\x90"), array_32(8190, b"\x90")
    assert outcome(decoder(), raw_frame(array(value, *most)))[1] is None
    assert "16384 arrays" in refusal(array(value, *most, b"\x90"))
    assert "16384 arrays" in refusal(array(*[array_32(8192, b"\x90")] * 15))
    assert "map" in refusal(array(value, b"\x80"))


def test_arrays_have_8192_elements_at_most() -> None:
    assert outcome(decoder(), raw_frame(array(array_32(8192, b"\xc0"))))[1] is None
    assert "max_array_len" in refusal(array(array_32(8193, b"\xc0")))
    assert outcome(decoder(node=False), raw_frame(array(array_32(8193, b"\xc0"))))[1] is None


def test_a_large_body_holds_no_extension_types() -> None:
    """msgpack makes each an object of a class written in Python."""
    assert "max_ext_len" in refusal(array(msgpack.packb(bytes(64 * KIB)), b"\xd4\x05\x00"))


def test_a_larger_body_may_hold_16_nested_arrays() -> None:
    """One of them is the message."""
    sixteen = array(*[b"\x90"] * 14)  # with the message that it is in
    frames, error = outcome(decoder(), raw_frame(large_body(sixteen)))
    assert error is None
    assert frames == [[[bytes(MIB), [[]] * 14]]]
    assert "16 arrays" in refusal(large_body(sixteen, b"\x90"))
    assert "16 arrays" in refusal(large_body(nested(16)))


def test_a_larger_body_holds_no_map() -> None:
    assert "map" in refusal(large_body(b"\x80"))
    assert "map" in refusal(large_body(b"\x91\x81\xa1a\xc0"))


def test_a_client_trusts_its_node_with_large_bodies() -> None:
    """Answers of get all are large, and full of arrays."""
    body = large_body(array(*[b"\x90"] * 15), array(*[b"\x80"] * 15))
    frames, error = outcome(decoder(node=False), raw_frame(body))
    assert error is None
    assert frames == [[[bytes(MIB), [[]] * 15, [{}] * 15]]]


@pytest.mark.parametrize("element", [b"\xc0", b"\xa2ab", b"\xc4\x02ab", b"\xca\x3f\x80\x00\x01"], ids=bytes.hex)
def test_a_large_body_does_not_become_a_large_number_of_objects(element: bytes) -> None:
    """What a request of more than 1 MiB holds is some thousand values at most, not millions of small ones."""
    count = 4 * MIB // len(element)
    body = array(array(b"\xdd" + struct.pack(">I", count) + element * count))
    taking = decoder()
    tracemalloc.start()
    try:
        outcome(taking, raw_frame(body))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


# Compressed frames.

BODY = msgpack.packb([[1, 16, "channel", b"key", b"value" * 1000]])


def test_a_compressed_frame() -> None:
    for compression in (True, False):
        frames, error = outcome(decoder(compression=compression), compressed_frame(BODY))
        assert (frames == [msgpack.unpackb(BODY)]) is compression
        assert (error is None) is compression


@pytest.mark.parametrize("node", [True, False])
def test_compressed_frames_between_others_byte_by_byte(node: bool) -> None:
    data = CONVERSATION + compressed_frame(BODY) + CONVERSATION + compressed_frame(BODY)
    expected = [*FRAMES, msgpack.unpackb(BODY)] * 2
    assert outcome(decoder(compression=True, node=node), *(bytes([byte]) for byte in data)) == (expected, None)


@pytest.mark.parametrize(
    "raw_size", [0, 1, len(BODY) - 1, len(BODY) + 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2**32 - 1]
)
def test_a_compressed_frame_with_a_wrong_raw_size(raw_size: int) -> None:
    frames, error = outcome(decoder(compression=True), compressed_frame(BODY, raw_size=raw_size))
    assert not frames
    assert error is not None


def test_a_compressed_frame_truncated_at_every_offset() -> None:
    """The frame is whole, what is in it is not."""
    (header,) = struct.unpack_from(">I", compressed_frame(BODY))
    stored = compressed_frame(BODY)[4:]
    assert header == len(stored) | COMPRESSED
    for length in range(1, len(stored)):
        frames, error = outcome(decoder(compression=True), struct.pack(">I", length | COMPRESSED) + stored[:length])
        assert not frames
        assert error is not None


@settings(deadline=None)
@given(st.data())
def test_a_damaged_compressed_frame(data: st.DataObject) -> None:
    damaged = bytearray(compressed_frame(BODY))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    frames, error = outcome(decoder(compression=True), bytes(damaged))
    assert error is not None or len(frames) == 1


@pytest.mark.parametrize("raw_bytes", [FRAME_BYTES_MAX + 1, 200 * MIB])
def test_a_bomb_is_not_decompressed(raw_bytes: int) -> None:
    """Neither if it says how large it is, nor if it lies."""
    body = lz4.block.compress(bytes(raw_bytes), store_size=False)
    for told in (raw_bytes, 1000):
        data = struct.pack(">II", len(body) + 4 | COMPRESSED, told) + body
        taking = decoder(compression=True)
        tracemalloc.start()
        try:
            frames, error = outcome(taking, data)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
        finally:
            tracemalloc.stop()
        assert not frames
        assert error is not None


def test_the_bounds_of_large_bodies_hold_for_compressed_ones() -> None:
    for body in (large_body(nested(16)), large_body(b"\x80"), nested(10_000)):
        frames, error = outcome(decoder(compression=True), compressed_frame(body))
        assert not frames
        assert error is not None


# Encoding.

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(st.characters(codec="utf-8"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)
MESSAGES = st.lists(st.lists(VALUES, min_size=1), min_size=1)


@settings(max_examples=50, deadline=None)
@given(MESSAGES, st.booleans())
def test_what_is_encoded_can_be_decoded(messages: list[Message], compression: bool) -> None:
    encoder = FrameEncoder()
    encoder.compression = compression
    data = encoder.encode(messages)
    assert FrameReader().feed(data) == messages
    assert outcome(decoder(compression=compression), data) == ([messages], None)


@settings(max_examples=50, deadline=None)
@given(st.lists(MESSAGES, max_size=3), st.lists(st.integers(0, 2000)))
def test_what_is_encoded_can_be_decoded_from_pieces(frames: list[list[Message]], places: list[int]) -> None:
    encoder = FrameEncoder()
    data = b"".join(encoder.encode(messages) for messages in frames)
    pieces = cut(data, (min(place, len(data)) for place in places))
    assert outcome(decoder(), *pieces) == (frames, None)


def is_compressed(data: bytes) -> bool:
    return data[0] >= 0x80


def test_only_what_gets_smaller_is_compressed() -> None:
    encoder = FrameEncoder()
    long, short = [[1, 0, b"a" * 2000]], [[1, 0, b"a" * 500]]
    noise = [[1, 0, random.Random(1).randbytes(2000)]]
    assert not is_compressed(encoder.encode(long)), "compression was not agreed to"
    encoder.compression = True
    assert is_compressed(encoder.encode(long))
    assert not is_compressed(encoder.encode(short))
    assert not is_compressed(encoder.encode(noise))
    for messages in (long, short, noise):
        assert FrameReader().feed(encoder.encode(messages)) == messages


def test_encoding_after_a_large_frame_keeps_no_memory_of_it() -> None:
    encoder = FrameEncoder()
    tracemalloc.start()
    try:
        assert FrameReader().feed(encoder.encode([[1, 0, bytes(8 * MIB)]])) == [[1, 0, bytes(8 * MIB)]]
        assert encoder.encode([[1, 0, None]]) == frame([1, 0, None])
        assert tracemalloc.get_traced_memory()[0] < MIB
    finally:
        tracemalloc.stop()


LARGE = bytes(range(256)) * 256


@pytest.mark.parametrize(
    "messages",
    [
        [[1, 16, "channel", b"key", LARGE]],
        [[1, 16, "channel", b"key", b"value"], [2, 16, "channel", b"key", LARGE]],
        [(1, 0, LARGE)],
        [(1, 0, (b"lengths", LARGE))],
        [(1, 0, None), (2, 0, LARGE + b"x")],
        [(2**32 - 1, 1, [7, False, b"", LARGE])],
    ],
)
@pytest.mark.parametrize("compression", [False, True])
def test_a_frame_that_ends_with_something_large_in_pieces(messages: list[Message], compression: bool) -> None:
    encoder = FrameEncoder()
    encoder.compression = compression
    pieces = encoder.encode_parts(messages)
    assert b"".join(pieces) == encoder.encode(messages)
    assert (pieces[-1] is LARGE or pieces[-1] == LARGE + b"x") != compression


@pytest.mark.parametrize(
    "messages",
    [
        [[1, 0, LARGE[:-1]]],
        [[1, 0, LARGE, 5]],
        [[1, 0, []]],
        [[1, 0, "text"]],
        [[1, 0, {"a": LARGE}]],
    ],
)
def test_other_frames_are_in_one_piece(messages: list[Message]) -> None:
    encoder = FrameEncoder()
    assert encoder.encode_parts(messages) == [encoder.encode(messages)]


@pytest.mark.parametrize("compression", [False, True])
def test_what_is_large_ends_its_frame(compression: bool) -> None:
    frames = [[[1, 0, None], [2, 1, [7, LARGE]]], [[3, 1, [8, LARGE + b"x"]]], [[4, 0, 1], [5, 0, 2]]]
    encoder = FrameEncoder()
    encoder.compression = compression
    pieces = encoder.encode_parts([message for messages in frames for message in messages])
    assert [piece is LARGE for piece in pieces] == ([False] if compression else [False, True, False, False, False])
    together = [[message for messages in frames for message in messages]] if compression else frames
    assert outcome(decoder(compression=compression), b"".join(pieces)) == (together, None)


@pytest.mark.parametrize("end", [b"small", b"x" * (64 * KIB)])
def test_an_encoder_gives_back_the_memory_of_what_was_large(end: bytes) -> None:
    encoder = FrameEncoder()
    tracemalloc.start()
    try:
        assert sum(map(len, encoder.encode_parts([[1, 0, [b"x" * KIB] * 4000 + [end]]]))) > 4000 * KIB
        assert tracemalloc.get_traced_memory()[0] < 64 * KIB
    finally:
        tracemalloc.stop()
