"""A client's end of a connection, at nodes that are none, or do not keep to the protocol."""

import tracemalloc
from typing import Any

import msgpack
import pytest
from raw_client import BATCH, DONE, KIB, MIB, array, frame, raw_frame

from swarm.core.client_session import ClientSession
from swarm.core.connection_settings import ConnectionSettings
from swarm.core.errors import ProtocolError
from swarm.core.protocol import DEFAULT_LIMITS, PING
from swarm.core.session import NodeHello
from swarm.dht.protocol import GET_ALL

HELLO = frame(NodeHello("dht", "node", DEFAULT_LIMITS, facts={"hash_range": [0, 2**64 - 1]}).to_message())


def session() -> ClientSession[str]:
    return ClientSession(ConnectionSettings("dht", timeout_s=10.0))


def received(session: ClientSession[str], data: bytes) -> int:
    session.room[: len(data)] = data
    return len(data)


def receive(session: ClientSession[str], data: bytes) -> list[tuple[str, int, Any]]:
    """The answers in it, received in as many pieces as it takes."""
    answers = []
    while data:
        piece = data[: len(session.room)]
        data = data[len(piece) :]
        answers += session.received(received(session, piece))
    return answers


@pytest.mark.parametrize(
    "data",
    [
        raw_frame(array(array(msgpack.packb(bytes(8 * MIB))))),
        raw_frame((b"\xdc\x0f\xf0" * 1000 + b"\x90" * 4096)[: 4 * KIB]),
        raw_frame(array(b"\xdc\x00\x41" + b"\xc0" * 65)),
    ],
    ids=["large", "nested", "long"],
)
def test_what_is_no_hello_takes_no_memory(data: bytes) -> None:
    new = session()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            receive(new, data[: 64 * KIB])
        assert tracemalloc.get_traced_memory()[1] < 256 * KIB
    finally:
        tracemalloc.stop()


def test_after_the_hello_answers_may_be_large() -> None:
    new = session()
    assert receive(new, HELLO) == []
    new.waiting[1] = "owner"
    assert receive(new, frame([1, DONE, bytes(8 * MIB)])) == [("owner", DONE, bytes(8 * MIB))]


def test_a_batch_for_a_request_that_does_not_stream() -> None:
    new = session()
    receive(new, HELLO)
    request_id = new.request(PING, (), "owner")
    with pytest.raises(ProtocolError, match="a batch"):
        receive(new, frame([request_id, BATCH, [1]]))


def test_a_batch_in_answer_to_a_single_request() -> None:
    new = session()
    receive(new, HELLO)
    request_id, _ = new.single_request(PING, ())
    size = received(new, frame([request_id, BATCH, [1]]))
    assert new.single_answer(size, request_id) is None
    new.waiting[request_id] = "owner"
    with pytest.raises(ProtocolError, match="a batch"):
        new.received(size)


def test_the_answer_to_a_single_request() -> None:
    new = session()
    receive(new, HELLO)
    for result in (None, b"x" * 100, None):
        request_id, _ = new.single_request(PING, ())
        assert new.single_answer(received(new, frame([request_id, DONE, result])), request_id) == (DONE, result)


def test_what_comes_with_or_before_the_answer_to_a_single_request() -> None:
    """It, or its first part, is not taken for the answer; nothing of it is lost."""
    new = session()
    receive(new, HELLO)
    new.waiting[7] = "other"
    request_id, _ = new.single_request(PING, ())
    new.waiting[request_id] = "owner"
    data = frame([7, DONE, 1]) + frame([request_id, DONE, 2])
    first, rest = data[:-3], data[-3:]
    size = received(new, first)
    assert new.single_answer(size, request_id) is None
    assert new.received(size) == [("other", DONE, 1)]
    size = received(new, rest)
    assert new.single_answer(size, request_id) is None
    assert new.received(size) == [("owner", DONE, 2)]


def test_batches_of_streams() -> None:
    new = session()
    receive(new, HELLO)
    streams = [new.request(GET_ALL, ("c", 1), "owner") for _ in range(3)]
    for request_id in streams:
        for status in (BATCH, BATCH, DONE):
            assert receive(new, frame([request_id, status, 1])) == [("owner", status, 1)]
    assert receive(new, frame([streams[0], BATCH, 1])) == []
