"""Bytes and messages that nobody has thought of.

Whatever comes in, a connection answers each request as docs/protocol.md says, or ends with a notice; nothing else
happens to it, nothing at all to the other connections, and the node neither dies nor grows.

The test of a whole process takes SWARM_FUZZ_SECONDS (60); SWARM_FUZZ_SEED replays a run whose seed a failure names.
"""

import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import (
    BATCH,
    CHANNEL_SIZE,
    CHANNELS,
    CREDIT,
    DONE,
    EVENTS,
    EXISTS,
    GET,
    GET_ALL,
    GET_ALL_KEYS,
    GET_MANY,
    HASH_RANGE,
    HEALTH,
    KIB,
    LISTEN,
    MIB,
    PING,
    PROTOCOL_ERROR,
    PUT,
    PUT_MANY,
    REMOVE,
    REMOVE_CHANNEL,
    SIZE,
    STATS,
    STOP,
    UPDATE,
    DirectConnection,
    Message,
    NodeProcess,
    at_work,
    check_error,
    compressed_frame,
    frame,
    hello,
    make_dht,
    node_process,
    notice_status,
    raw_frame,
)
from trio.testing import wait_all_tasks_blocked

from swarm.blocking import DhtClient
from swarm.core.errors import ProtocolError, SwarmError
from swarm.core.framing import FrameDecoder
from swarm.core.node import Node

NO_DEADLINE = settings(deadline=None)  # other processes may need the machine

# What may go over the wire.

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=30)
    | st.text(st.characters(codec="utf-8"), max_size=30)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)
CHANNEL_NAMES = st.sampled_from(["c", "d", "x" * 128])
KEYS = st.sampled_from([b"a", b"b", b"c", b"x" * 480])
RIGHT_VALUES = st.sampled_from([b"1", b"2", b"3" * 1000])

RIGHT_ARGUMENTS: dict[int, tuple[st.SearchStrategy[Any], ...]] = {
    PING: (),
    STATS: (),
    HEALTH: (),
    EVENTS: (),
    CHANNELS: (),
    CHANNEL_SIZE: (CHANNEL_NAMES,),
    SIZE: (),
    REMOVE_CHANNEL: (CHANNEL_NAMES,),
    PUT: (CHANNEL_NAMES, KEYS, RIGHT_VALUES),
    PUT_MANY: (CHANNEL_NAMES, st.just([b"a", b"b"]), st.just([b"1", b"2"]), st.sampled_from([0, 500, None])),
    GET: (CHANNEL_NAMES, KEYS),
    GET_MANY: (CHANNEL_NAMES, st.lists(KEYS, max_size=5)),
    EXISTS: (CHANNEL_NAMES, KEYS),
    REMOVE: (CHANNEL_NAMES, KEYS),
    UPDATE: (CHANNEL_NAMES, KEYS, st.none() | RIGHT_VALUES, st.none() | RIGHT_VALUES),
    GET_ALL: (CHANNEL_NAMES, st.just(b""), st.just(b""), st.just(b""), st.integers(1, 64)),
    GET_ALL_KEYS: (CHANNEL_NAMES, st.just(b""), st.just(b""), st.just(b""), st.integers(1, 64)),
    HASH_RANGE: (),
    LISTEN: (CHANNEL_NAMES, st.sampled_from([b"", b"a"]), st.booleans(), st.integers(1, 64)),
}


@st.composite
def requests(draw: st.DrawFn) -> list[Any]:
    """A request without its id: right, or with some of it replaced by anything."""
    code = draw(st.sampled_from(sorted(RIGHT_ARGUMENTS)))
    request = [code, *(draw(strategy) for strategy in RIGHT_ARGUMENTS[code])]
    damage = draw(st.sampled_from(["none", "none", "argument", "code", "fewer", "more"]))
    if damage == "argument" and len(request) > 1:
        request[draw(st.integers(1, len(request) - 1))] = draw(VALUES)
    elif damage == "code":
        request[0] = draw(VALUES | st.integers(0, 40))
    elif damage == "fewer":
        del request[draw(st.integers(1, len(request))) :]
    elif damage == "more":
        request.append(draw(VALUES))
    return request


def is_control(request: list[Any]) -> bool:
    return type(request[0]) is int and request[0] in (CREDIT, STOP)


REQUESTS = st.lists(requests().filter(lambda request: not is_control(request)), min_size=1, max_size=8)

# What must hold.


def check_memory(node: Node) -> None:
    """What is taken from the node's memory is what its records take: nothing leaks, and nothing is given back twice."""
    _, records, record_bytes = DirectConnection(node.service).result(SIZE)
    assert node.budget.used == record_bytes + 128 * records


def check_replies(replies: list[Message], request_ids: list[int]) -> None:
    """One final reply to each; batches only before the final reply of a request that streams."""
    finals = Counter[int]()
    for request_id, status, result in replies:
        assert request_id in request_ids
        assert not finals[request_id], "something comes after the final reply"
        if status == BATCH:
            assert type(result) is list
            continue
        finals[request_id] += 1
        if status != DONE:
            check_error(request_id, status, result)
            assert status < PROTOCOL_ERROR
    assert sorted(finals) == sorted(request_ids)


async def all_replies(connection: DirectConnection, request_ids: list[int], data: bytes) -> list[Message]:
    """All that the node sends; streams are stopped where they wait for credit."""
    replies = connection.exchange(data)
    await wait_all_tasks_blocked()
    replies += connection.take()
    if not connection.closing:
        replies += connection.ask(*([request_id, STOP] for request_id in request_ids))
        await wait_all_tasks_blocked()
        replies += connection.take()
    return replies


# Decoder and connection, in this process.


@NO_DEADLINE
@given(st.binary(max_size=300), st.booleans(), st.integers(1, 50))
def test_bytes_into_the_decoder(data: bytes, compression: bool, piece: int) -> None:
    decoder = FrameDecoder(frame_bytes_max=4 * KIB)
    decoder.compression = compression
    with suppress(ProtocolError):
        for start in range(0, len(data), piece):
            messages = decoder.feed(memoryview(data[start : start + piece]))
            while messages is not None:
                assert type(messages) is list
                assert messages
                messages = decoder.next_frame()


FRAMED = st.binary(max_size=100).map(raw_frame) | st.binary(max_size=100) | VALUES.map(msgpack.packb).map(raw_frame)


@NO_DEADLINE
@given(st.lists(FRAMED, min_size=1, max_size=4).map(b"".join), st.booleans(), st.integers(1, 100))
def test_bytes_into_a_connection(data: bytes, greeted: bool, piece: int) -> None:
    node = make_dht()
    connection = DirectConnection(node.service, greet=False)
    replies: list[Message] = []
    if greeted:
        replies += connection.exchange(hello())
    for start in range(0, len(data), piece):
        replies += connection.exchange(data[start : start + piece])
    assert replies[:1] == [] or replies[0][0] in ("swarm", 0)
    if connection.closing:
        notice_status(replies)
    else:
        assert all(message[0] != 0 for message in replies)
    connection.handler.end()
    assert DirectConnection(node.service).usable()
    check_memory(node)


@NO_DEADLINE
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_messages_into_a_connection(messages: list[Message]) -> None:
    async def converse() -> None:
        node = make_dht()
        async with at_work(node):
            connection = DirectConnection(node.service)
            replies = await all_replies(connection, [], frame(*messages))
            if connection.closing:
                notice_status(replies)
            assert DirectConnection(node.service).usable()

    trio.run(converse)


@NO_DEADLINE
@given(REQUESTS, st.booleans())
def test_requests_into_a_connection(requests: list[list[Any]], together: bool) -> None:
    async def converse() -> None:
        node = make_dht(memory_limit=10_000)
        async with at_work(node):
            connection = DirectConnection(node.service)
            request_ids = list(range(1, len(requests) + 1))
            messages = [[request_id, *request] for request_id, request in zip(request_ids, requests, strict=True)]
            data = frame(*messages) if together else b"".join(frame(message) for message in messages)
            replies = await all_replies(connection, request_ids, data)
            check_replies(replies, request_ids)
            assert connection.usable()
            connection.handler.end()
            check_memory(node)

    trio.run(converse)


@NO_DEADLINE
@given(st.lists(requests(), max_size=5), VALUES, st.lists(requests(), max_size=3))
def test_damage_among_requests(before: list[list[Any]], damage: Message, after: list[list[Any]]) -> None:
    """What was sent before it is answered, what was sent behind it is not."""
    if type(damage) is list and len(damage) > 1 and type(damage[0]) is int and 0 < damage[0] < 2**32:
        damage = None
    before = [
        request for request in before if not is_control(request) and request[0] not in (GET_ALL, GET_ALL_KEYS, LISTEN)
    ]

    async def converse() -> None:
        node = make_dht()
        async with at_work(node):
            connection = DirectConnection(node.service)
            messages = [[number, *request] for number, request in enumerate([*before, *after], 1)]
            messages.insert(len(before), damage)
            replies = await all_replies(connection, [], frame(*messages))
            assert notice_status(replies) == PROTOCOL_ERROR
            check_replies(replies[:-1], list(range(1, len(before) + 1)))
            assert connection.closing

    trio.run(converse)


# Valid conversations, damaged.


def conversation(rng: random.Random, compression: bool) -> list[bytes]:
    """A hello, and frames of right requests."""
    pieces = [hello(compression=["lz4"] if compression else [])]
    for _ in range(rng.randrange(1, 8)):
        messages = []
        for _ in range(rng.choice([1, 1, 2, 5, 100])):
            key, value = b"key-%d" % rng.randrange(50), rng.randbytes(rng.choice([1, 10, 100, 3000]))
            channel = rng.choice(["c", "d", f"channel-{rng.randrange(10)}"])
            keys = [b"many-%d" % rng.randrange(50) for _ in range(rng.randrange(20))]
            request = rng.choice(
                [
                    [PING],
                    [PUT, channel, key, value],
                    [PUT_MANY, channel, keys, [value] * len(keys), rng.choice([0, 0, 0, None, 1000])],
                    [GET, channel, key],
                    [GET_MANY, channel, [key, *keys]],
                    [EXISTS, channel, key],
                    [REMOVE, channel, key],
                    [UPDATE, channel, key, None, value],
                    [GET_ALL, channel, b"", b"", b"", rng.randrange(1, 65)],
                    [GET_ALL_KEYS, channel, b"", b"key", b"", rng.randrange(1, 65)],
                    [CHANNELS],
                    [CHANNEL_SIZE, channel],
                    [STATS],
                    [REMOVE_CHANNEL, channel],
                    [CREDIT, rng.randrange(1, 65)],
                    [STOP],
                ]
            )
            messages.append([rng.randrange(1, 1000), *request])
        body = msgpack.packb(messages)
        pieces.append(compressed_frame(body) if compression and rng.random() < 0.5 else raw_frame(body))
    return pieces


def flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 20)]


def insert(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.randbytes(rng.randrange(1, 20))


def overwrite(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data))
    new = rng.choice([b"\xff" * 4, bytes(4), b"\xdd\xff\xff\xff\xff", b"\x91" * 50, b"\x81\xa1a", rng.randbytes(5)])
    data[place : place + len(new)] = new


def repeat(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randrange(1, 100)]


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [flip, cut, insert, overwrite, repeat]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The data with some damage; bodies that were damaged still have a header that fits, more often than not."""
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if damaged:
            rng.choice(MUTATIONS)(rng, damaged)
    return bytes(damaged)


def damaged_frame(rng: random.Random, data: bytes) -> bytes:
    """One frame, whose damage may be confined to its body."""
    if len(data) <= 4 or rng.random() < 0.3:
        return damaged(rng, data)
    body = damaged(rng, data[4:])
    return struct.pack(">I", len(body) | (struct.unpack_from(">I", data)[0] & 1 << 31)) + body


@NO_DEADLINE
@given(st.integers(0, 2**32))
def test_damaged_conversations(seed: int) -> None:
    rng = random.Random(seed)

    async def converse() -> None:
        node = make_dht(memory_limit=MIB)
        async with at_work(node):
            pieces = conversation(rng, compression=rng.random() < 0.5)
            for _ in range(rng.randrange(1, 3)):
                number = rng.randrange(len(pieces))
                pieces[number] = damaged_frame(rng, pieces[number])
            data = b"".join(pieces)
            connection = DirectConnection(node.service, greet=False)
            messages: list[Message] = []
            size = rng.choice([1 + len(data) // 1000, 1000, 10**6])
            for start in range(0, len(data), size):
                messages += connection.exchange(data[start : start + size])
                if rng.random() < 0.1:
                    await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            messages += connection.take()
            for message in messages:
                match message:
                    case ["swarm", 1, dict()]:
                        assert message is messages[0]
                    case [int(request_id), int(status), [str(), dict()]] if status >= 16:
                        assert request_id != 0 or message is messages[-1]
                    case _:
                        assert message[0] != 0
                        assert message[1] in (DONE, BATCH)
            assert DirectConnection(node.service).usable()
            connection.handler.end()
            await wait_all_tasks_blocked()
            assert node.service.streams_running == 0
            check_memory(node)

    trio.run(converse)


# A whole node.

SECONDS = float(os.environ.get("SWARM_FUZZ_SECONDS", "60"))
GROWTH_MAX = 64 * MIB
OPEN_MAX = 30

CONFIG = """
[node]
memory_limit = 16 MiB
[limits]
channels_max = 100
connections_max = 50
"""


class Attack:
    """Connections to a node over which come random bytes, damaged frames, and halves of frames."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.rng = random.Random(seed)
        self.address = address
        self.open: list[socket.socket] = []
        self.steps = 0

    def step(self) -> None:
        """One more connection; it is closed at once, or stays for some time, in silence."""
        rng = self.rng
        self.steps += 1
        sock = socket.create_connection(self.address)
        sock.setblocking(False)
        self.open.append(sock)
        with suppress(BlockingIOError, ConnectionError):
            for piece in rng.choice([self.random_bytes, self.random_after_hello, self.frames, self.messages])():
                sock.send(piece)
                if rng.random() < 0.5:
                    sock.recv(256 * KIB)
        while len(self.open) > OPEN_MAX or (self.open and rng.random() < 0.5):
            self.close(self.open.pop(rng.randrange(len(self.open))))

    def close(self, sock: socket.socket) -> None:
        with suppress(OSError):
            match self.rng.randrange(3):
                case 0:
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(256 * KIB)
                case 1:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def random_bytes(self) -> list[bytes]:
        rng = self.rng
        return [rng.randbytes(rng.choice([1, 4, 100, 10_000, MIB]))]

    def random_after_hello(self) -> list[bytes]:
        rng = self.rng
        body = rng.randbytes(rng.choice([1, 10, 1000, 100_000]))
        return [hello(compression=["lz4"]), rng.choice([raw_frame, compressed_frame, bytes])(body)]

    def frames(self) -> list[bytes]:
        rng = self.rng
        pieces = conversation(rng, compression=rng.random() < 0.5)
        for _ in range(rng.randrange(1, 4)):
            number = rng.randrange(len(pieces))
            pieces[number] = damaged_frame(rng, pieces[number])
        if rng.random() < 0.3:
            pieces[-1] = pieces[-1][: rng.randrange(len(pieces[-1]) + 1)]
        return pieces

    def messages(self) -> list[bytes]:
        rng = self.rng
        return [
            hello(),
            *(
                frame(*([rng.randrange(1, 50), *self.request()] for _ in range(rng.choice([1, 5, 100]))))
                for _ in range(rng.randrange(1, 10))
            ),
        ]

    def request(self) -> list[Any]:
        rng = self.rng
        if rng.random() < 0.1:
            return rng.choice([[CREDIT, rng.randrange(1, 65)], [STOP]])
        code = rng.choice([*RIGHT_ARGUMENTS, *RIGHT_ARGUMENTS, rng.randrange(4, 100)])
        known: list[Any] = ["c", b"key", b"value", [b"a", b"b"], [b"1", b"2"], 0, 1, None, b""]
        return [code, *(rng.choice([*known, *known, self.value(3)]) for _ in range(rng.randrange(6)))]

    def value(self, depth: int) -> Any:
        rng = self.rng
        leaves: list[Any] = [
            None,
            True,
            rng.getrandbits(64),
            -rng.getrandbits(63),
            rng.random(),
            "text",
            rng.randbytes(9),
        ]
        if depth and rng.random() < 0.4:
            inner = [self.value(depth - 1) for _ in range(rng.randrange(5))]
            return rng.choice([inner, {str(number): each for number, each in enumerate(inner)}])
        return rng.choice(leaves)

    def end(self) -> None:
        for sock in self.open:
            sock.close()


def check_answers(node: NodeProcess) -> None:
    with DhtClient([f"127.0.0.1:{node.address[1]}"], timeout=10) as client:
        assert client.get("kept", "key") == b"value"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_a_node_that_is_fed_random_bytes_neither_dies_nor_grows(tmp_path: Path) -> None:
    seed = int(os.environ.get("SWARM_FUZZ_SEED", random.getrandbits(32)))
    sys.stderr.write(f"SWARM_FUZZ_SEED={seed}\n")
    with node_process(tmp_path, config=CONFIG) as node:
        with DhtClient([f"127.0.0.1:{node.address[1]}"]) as client:
            client.put("kept", "key", b"value")
        attack = Attack(node.address, seed)
        begun = time.monotonic()
        warm: int | None = None
        try:
            while (passed := time.monotonic() - begun) < SECONDS:
                attack.step()
                if warm is None and passed > SECONDS / 4:
                    warm = node.resident_bytes
                if attack.steps % 500 == 0:
                    check_answers(node)
            check_answers(node)
            assert warm is not None
            assert node.resident_bytes - warm <= GROWTH_MAX, "the node grows"
        except (OSError, SwarmError) as error:
            raise AssertionError(f"SWARM_FUZZ_SEED={seed}, step {attack.steps}: {node.story()}") from error
        finally:
            attack.end()
