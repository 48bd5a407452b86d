"""The same ConnectionHandler over a trio stream, here in memory (swarm.core.stream_driver)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from logins import asks_for_logins
from raw_client import (
    BATCH,
    DONE,
    GET,
    GET_ALL,
    KIB,
    MIB,
    PING,
    PROTOCOL_ERROR,
    PUT,
    SIZE,
    RawClient,
    at_work,
    frame,
    hello,
    make_dht,
    notice_status,
    raw_frame,
)

from swarm.core.node import Node
from swarm.core.stream_driver import serve_stream


class Served:
    """A node, and the task that serves one client of it."""

    def __init__(self, node: Node, client: RawClient) -> None:
        self.node = node
        self.client = client
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        with self.scope:
            await serve_stream(self.node.service, stream)
        self.ended.set()

    async def greet(self) -> None:
        await self.client.send_bytes(hello())
        assert (await self.client.receive())[0] == "swarm"


@asynccontextmanager
async def served(*, lockstep: bool = False) -> AsyncIterator[Served]:
    """lockstep: the stream holds nothing, so who sends waits for the other to receive."""
    node = make_dht()
    make_pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make_pair()
    async with at_work(node), trio.open_nursery() as nursery:
        one = Served(node, RawClient(ours))
        nursery.start_soon(one.serve, theirs)
        yield one
        nursery.cancel_scope.cancel()


async def test_requests() -> None:
    async with served() as one:
        await one.greet()
        assert await one.client.result(PUT, "c", b"key", b"value") is None
        assert await one.client.result(GET, "c", b"key") == b"value"
        await one.client.send(*([number, GET, "c", b"key"] for number in range(1, 1001)))
        for number in range(1, 1001):
            assert await one.client.receive() == [number, DONE, b"value"]


async def test_requests_together_with_the_hello_and_byte_by_byte() -> None:
    async with served() as one:
        for byte in hello() + frame([1, PUT, "c", b"key", b"value"]) + frame([2, GET, "c", b"key"]):
            await one.client.send_bytes(bytes([byte]))
        assert (await one.client.receive())[0] == "swarm"
        assert await one.client.receive() == [1, DONE, None]
        assert await one.client.receive() == [2, DONE, b"value"]


async def test_a_frame_that_is_left_unfinished(autojump_clock: trio.testing.MockClock) -> None:
    request = frame([1, PUT, "c", b"key", b"value"])
    async with served() as one:
        await one.greet()
        for byte in request:  # slow is not unfinished
            await trio.sleep(59)
            await one.client.send_bytes(bytes([byte]))
        assert await one.client.receive() == [1, DONE, None]
        await trio.sleep(3600)  # nor is idle
        begun = trio.current_time()
        await one.client.send_bytes(request[:5])
        assert notice_status(await one.client.rest()) == PROTOCOL_ERROR
        assert trio.current_time() - begun == pytest.approx(60)


async def test_a_stream_of_batches() -> None:
    async with served() as one:
        await one.greet()
        for number in range(5):
            await one.client.result(PUT, "c", b"%d" % number, bytes(300 * KIB))
        await one.client.send([1, GET_ALL, "c", b"", b"", b"", 64])
        keys: list[bytes] = []
        while (message := await one.client.receive())[1] == BATCH:
            keys += message[2][1]
        assert message == [1, DONE, "end"]
        assert sorted(keys) == [b"%d" % number for number in range(5)]


@pytest.mark.parametrize("greeted", [False, True])
@pytest.mark.parametrize("garbage", [b"\xff" * 100, bytes(4), raw_frame(b"\xc1"), frame([0, 0])], ids=repr)
async def test_garbage(garbage: bytes, greeted: bool) -> None:
    async with served() as one:
        if greeted:
            await one.greet()
        await one.client.send_bytes(garbage)
        assert notice_status(await one.client.rest()) == PROTOCOL_ERROR
        await one.ended.wait()


@pytest.mark.parametrize("sent", [b"", hello()[:5], hello(), hello() + frame([1, PUT, "c", b"k", b"v"])[:9]], ids=len)
async def test_the_client_closes(sent: bytes) -> None:
    async with served() as one:
        await one.client.send_bytes(sent)
        await one.client.close()
        await one.ended.wait()


async def test_the_client_closes_while_it_is_sent_to() -> None:
    async with served(lockstep=True) as one:
        await one.greet()
        await one.client.result(PUT, "c", b"k", bytes(300 * KIB))
        await one.client.send(*([number, GET_ALL, "c", b"", b"", b"", 64] for number in range(1, 5)))
        await one.client.receive()
        await one.client.close()
        await one.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert one.node.service.streams_running == 0


async def test_a_half_closed_client_gets_its_answers() -> None:
    async with served() as one:
        await one.greet()
        await one.client.result(PUT, "c", b"k", bytes(MIB))
        await one.client.send(*([number, GET, "c", b"k"] for number in range(1, 21)))
        assert isinstance(one.client.stream, trio.StapledStream)
        await one.client.stream.send_eof()
        assert [reply[0] for reply in await one.client.rest()] == list(range(1, 21))
        await one.ended.wait()


async def test_a_client_that_does_not_read_stands_still() -> None:
    async with served(lockstep=True) as one:
        await one.greet()
        await one.client.result(PUT, "c", b"k", bytes(MIB))
        before = one.node.service.handlers[GET].statistics.handled
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.client.send_bytes, frame(*([number, GET, "c", b"k"] for number in range(1, 101))))
            await trio.testing.wait_all_tasks_blocked()
            assert one.node.service.handlers[GET].statistics.handled - before < 5
            for number in range(1, 101):
                assert (await one.client.receive())[0] == number


async def test_cancelling_ends_it() -> None:
    async with served() as one:
        await one.greet()
        await one.client.result(PUT, "c", b"k", bytes(300 * KIB))
        await one.client.send([1, GET_ALL, "c", b"", b"", b"", 1])
        await one.client.receive()
        assert one.node.service.streams_running == 1
        one.scope.cancel()
        await one.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert one.node.service.streams_running == 0
        with pytest.raises(EOFError):
            await one.client.receive()


async def test_two_clients_of_one_node() -> None:
    async with served() as one:
        await one.greet()
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_stream, one.node.service, theirs)
            other = RawClient(ours)
            await other.send_bytes(hello() + frame([1, PUT, "c", b"k", b"v"]))
            await other.receive()
            assert await other.receive() == [1, DONE, None]
            await other.send_bytes(b"\xff\xff\xff\xff")
            assert notice_status(await other.rest()) == PROTOCOL_ERROR
        assert await one.client.result(SIZE) == [1, 1, 2]


async def test_a_hello_that_does_not_come(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as one:
        await one.client.send_bytes(hello()[:5])
        assert notice_status(await one.client.rest()) == PROTOCOL_ERROR
        assert 9 < trio.current_time() < 12
        await one.ended.wait()


async def test_a_greeted_client_may_be_silent(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as one:
        await one.greet()
        await trio.sleep(3600)
        assert await one.client.result(PING) is None


async def test_a_client_that_has_read_nothing_for_a_minute_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with served(lockstep=True) as one:
        await one.greet()
        await one.client.send([1, PING])
        with trio.move_on_after(120):
            await one.ended.wait()
        assert one.ended.is_set()


async def test_a_stranger_that_does_not_read_is_ended_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with served(lockstep=True) as one:
        asks_for_logins(one.node)
        await one.greet()
        await one.client.send([1, PING])
        await one.ended.wait()
        assert 9 < trio.current_time() < 13


async def test_answers_that_are_read_ever_so_slowly_end(autojump_clock: trio.testing.MockClock) -> None:
    async with served(lockstep=True) as one:
        await one.greet()
        await one.client.send(*([number, PING] for number in range(1, 3000)))
        await one.client.end_of_input()
        with trio.move_on_after(4 * 3600):
            while not one.ended.is_set():
                await trio.sleep(50)
                await one.client.stream.receive_some(1)
        assert one.ended.is_set()
