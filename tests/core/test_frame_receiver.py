"""Frames that a client receives into the room that it is given (docs/protocol.md §1).

However little or much of it comes at a time: the messages that were sent, in their order. A receive never finds less
room than it is promised, and after a large frame its memory is given back.
"""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import KIB, MIB, Message, array, compressed_frame, frame, raw_frame

from swarm.core.errors import ProtocolError
from swarm.core.frame_receiver import FrameReceiver
from swarm.core.framing import HEADER_BYTES
from swarm.core.limits import FRAME_BYTES_MAX, RECEIVE_BYTES, RECEIVED_BYTES_KEPT

SIZES = [
    1,
    RECEIVE_BYTES - 1,
    RECEIVE_BYTES,
    RECEIVE_BYTES + 1,
    2 * RECEIVE_BYTES,
    2 * RECEIVE_BYTES + 1,
    RECEIVED_BYTES_KEPT,
    RECEIVED_BYTES_KEPT + 1,
    5 * MIB,
]


def receiver() -> FrameReceiver:
    new = FrameReceiver(frame_bytes_max=FRAME_BYTES_MAX)
    new.compression = True
    return new


def take(receiver: FrameReceiver, data: bytes, most: Callable[[int], int] = lambda room: room) -> list[list[Message]]:
    """What comes of data. most: how many bytes are received next, of how many that there is room for."""
    frames = []
    while data:
        assert len(receiver.room) >= RECEIVE_BYTES
        piece = data[: most(len(receiver.room))]
        data = data[len(piece) :]
        receiver.room[: len(piece)] = piece
        messages = receiver.received(len(piece))
        while messages is not None:
            frames.append(messages)
            messages = receiver.next_frame()
    return frames


def frame_of(size: int, fill: bytes = b"x") -> bytes:
    """Of so many bytes, its header included, if they are more than 64 KiB."""
    return frame([fill * max(size - HEADER_BYTES - 7, 1)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1000, 64 * KIB, RECEIVE_BYTES - 1, RECEIVE_BYTES, 64 * MIB])
def test_frames_of_all_sizes(size: int, step: int) -> None:
    """One around the buffer's size, followed by small ones in the same receive, and by itself again."""
    small = frame([2, 0, b"small"]) * 3
    assert size < 64 * KIB or len(frame_of(size)) == size
    data = frame_of(size) + small + frame_of(size, b"y") + frame_of(size, b"z") + small
    expected = take(receiver(), frame_of(size)) + take(receiver(), small)
    frames = take(receiver(), data, lambda room: min(room, step))
    assert len(frames) == 9
    assert frames[:4] == expected
    assert [len(each[0]) for each in frames[4:6]] == 2 * [len(expected[0][0])]
    assert frames[6:] == expected[1:]


@pytest.mark.parametrize("pieces", [[1, 1, 1, 1], [3, 1], [2, 2], [1, 3]])
@pytest.mark.parametrize("before", [0, 1, RECEIVE_BYTES - 20, RECEIVE_BYTES - 16])
def test_a_header_in_pieces(pieces: list[int], before: int) -> None:
    """Behind as much that was received before it, in the same room."""
    taking = receiver()
    first = frame_of(before) if before else b""
    large = frame_of(3 * MIB)
    frames = take(taking, first + large[: pieces[0]])
    at = pieces[0]
    for piece in pieces[1:]:
        frames += take(taking, large[at : at + piece])
        at += piece
    frames += take(taking, large[at:] + frame([1, 5]))
    assert frames == ([*take(receiver(), first)] if before else []) + take(receiver(), large) + [[[1, 5]]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(15, 600 * KIB), min_size=1, max_size=6), st.lists(st.integers(1, 1 * MIB), min_size=1))
def test_any_frames_in_any_pieces(sizes: list[int], steps: list[int]) -> None:
    bodies = [[bytes([number]) * size] for number, size in enumerate(sizes)]
    turn = iter(range(10**9))
    data = b"".join(frame(*body) for body in bodies)
    assert take(receiver(), data, lambda room: min(room, steps[next(turn) % len(steps)])) == bodies


def test_compressed_frames() -> None:
    body = array(b"\xc6" + (3 * MIB).to_bytes(4, "big") + bytes(3 * MIB))
    small = compressed_frame(array(b"\xc4\xff" + bytes(255)))
    data = 2 * (small + compressed_frame(body) + frame([1, 5]))
    expected = 2 * [[bytes(255)], [bytes(3 * MIB)], [[1, 5]]]
    for step in (3, 1000, 64 * MIB):
        assert take(receiver(), data, lambda room, step=step: min(room, step)) == expected  # type: ignore[misc]


def test_a_frame_of_just_the_limit() -> None:
    value = bytes(FRAME_BYTES_MAX - 6)
    longest = raw_frame(array(b"\xc6" + len(value).to_bytes(4, "big") + value))
    assert len(longest) == HEADER_BYTES + FRAME_BYTES_MAX
    taking = receiver()
    assert take(taking, longest + frame([1, 5])) == [[value], [[1, 5]]]
    taking.room[:4] = (FRAME_BYTES_MAX + 1).to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="announces"):
        taking.received(4)


def test_the_room_for_a_large_frame_takes_all_of_it() -> None:
    taking = receiver()
    take(taking, frame_of(9 * MIB)[:10])
    assert len(taking.room) >= 9 * MIB - 10
    assert take(taking, frame_of(9 * MIB)[10:]) == take(receiver(), frame_of(9 * MIB))


def test_frames_that_are_a_little_larger_than_the_room_at_first_make_one_buffer() -> None:
    taking = receiver()
    take(taking, 2 * frame_of(RECEIVE_BYTES + KIB))
    buffer = taking.buffer
    take(taking, 100 * frame_of(RECEIVE_BYTES + KIB))
    assert taking.buffer is buffer


def test_the_memory_of_a_large_frame_is_given_back() -> None:
    tracemalloc.start()
    try:
        taking = receiver()
        data = frame_of(20 * MIB)
        before = tracemalloc.get_traced_memory()[0]
        take(taking, data[:-1])
        assert tracemalloc.get_traced_memory()[0] > before + 19 * MIB
        take(taking, data[-1:])
        assert tracemalloc.get_traced_memory()[0] < before + RECEIVED_BYTES_KEPT
        assert take(taking, frame([1, 5])) == [[[1, 5]]]
    finally:
        tracemalloc.stop()


def test_a_large_frame_that_comes_in_many_pieces_stays_where_it_is() -> None:
    taking = receiver()
    data = frame_of(20 * MIB)
    buffers = set()
    for begin in range(0, len(data), 16 * KIB):
        buffers.add(id(taking.buffer))
        messages = take(taking, data[begin : begin + 16 * KIB])
    assert messages == take(receiver(), data)
    assert len(buffers) <= 2
