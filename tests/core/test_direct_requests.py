"""Requests that are answered later without a task of their own, and output that a pass causes on other connections.

The node here is a small one of its own kind: `wait` is answered when somebody calls `tell`, on whatever connection.
"""

import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest
import trio
import trio.testing
from raw_client import (
    BATCH,
    CREDIT,
    DONE,
    KIB,
    MIB,
    PING,
    PROTOCOL_ERROR,
    STOP,
    TOO_MANY_REQUESTS,
    DirectConnection,
    RawClient,
    frame,
    notice_status,
)

from nodes.dht.storage import DhtChannel
from swarm.core.config import Address
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.limits import OUTPUT_BYTES_MAX
from swarm.core.node import Node, listen
from swarm.core.protocol import Limits, Parameter, Request
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.core.stream_driver import serve_stream
from swarm.dht.hash_range import HashRange

WAIT, TELL, TELL_LATER = 60, 61, 62
ANYTHING = Parameter("anything", lambda value, limits: None)


class Waiting:
    """A request that waits."""

    def __init__(self, connection: ConnectionHandler, request_id: int) -> None:
        self.connection = connection
        self.request_id = request_id
        self.told: list[object] = []

    def grant(self, batches: int) -> None:
        self.told.append(batches)

    def stop(self) -> None:
        self.told.append("stop")
        self.answer("stopped")

    def abandon(self) -> None:
        self.told.append("abandon")

    def answer(self, result: object) -> None:
        self.connection.send_reply(self.request_id, DONE, result)
        self.connection.stream_ended(self.request_id)


class Told:
    """The node: what waits, and what happened in which order."""

    def __init__(self, *, holds_writes: bool = False) -> None:
        self.waiting: list[Waiting] = []
        self.events: list[str] = []
        self.later: list[object] = []
        self.service = Service("told", "test", Limits(streams=2), holds_writes=holds_writes)
        self.service.handle(Request(WAIT, "wait", (ANYTHING,)), self._wait, "direct")
        self.service.handle(Request(TELL, "tell", (ANYTHING,)), self.tell)
        self.service.handle(Request(TELL_LATER, "tell later", (ANYTHING,)), self.later.append)
        self.service.commit = self._commit
        budget = MemoryBudget(MIB)
        channels = StorageChannels(lambda _: DhtChannel(HashRange(), budget), 1)
        self.node = Node(self.service, channels, budget, connections_max=10)

    def _wait(self, connection: ConnectionHandler, request_id: int, anything: object) -> Waiting | None:
        if anything == "not":
            connection.send_reply(request_id, DONE, "at once")
            return None
        self.waiting.append(Waiting(connection, request_id))
        return self.waiting[-1]

    def tell(self, result: object) -> None:
        for each in self.waiting:
            each.answer(result)
        self.waiting.clear()

    def _commit(self) -> None:
        self.events.append("commit")
        for result in self.later:
            self.tell(result)
        self.later.clear()


@pytest.fixture
def told() -> Told:
    return Told()


def test_one_that_answers_at_once(told: Told) -> None:
    connection = DirectConnection(told.service)
    assert connection.ask([1, WAIT, "not"], [1, WAIT, "not"], [2, PING]) == [
        [1, DONE, "at once"],
        [1, DONE, "at once"],
        [2, DONE, None],
    ]


def test_one_that_waits_takes_its_id_and_a_place_among_the_streams(told: Told) -> None:
    connection = DirectConnection(told.service)
    assert connection.ask([1, WAIT, 0], [2, WAIT, 0]) == []
    assert connection.error(WAIT, 0)[0] == TOO_MANY_REQUESTS
    assert told.service.handlers[WAIT].statistics.in_flight == 2
    told.tell("now")
    assert connection.take() == [[1, DONE, "now"], [2, DONE, "now"]]
    assert told.service.handlers[WAIT].statistics.in_flight == 0
    assert told.service.handlers[WAIT].statistics.handled == 2
    assert connection.ask([1, WAIT, 0], [2, WAIT, 0]) == []
    assert notice_status(connection.ask([1, PING])) == PROTOCOL_ERROR


def test_a_wrong_number_of_arguments_is_refused(told: Told) -> None:
    DirectConnection(told.service).error(WAIT)


def test_credit_stop_and_the_end_of_the_connection_are_told(told: Told) -> None:
    connection = DirectConnection(told.service)
    assert connection.ask([1, WAIT, 0], [2, WAIT, 0], [1, CREDIT, 7]) == []
    assert connection.ask([1, STOP], [1, STOP], [1, CREDIT, 7]) == [[1, DONE, "stopped"]]
    connection.handler.end()
    assert [each.told for each in told.waiting] == [[7, "stop"], ["abandon"]]
    assert told.service.handlers[WAIT].statistics.in_flight == 0


def test_an_answer_on_the_same_connection_in_the_same_frame(told: Told) -> None:
    """It goes among the answers of the frame; none of them is lost."""
    connection = DirectConnection(told.service)
    assert connection.ask([1, WAIT, 0]) == []
    answers = connection.ask([2, PING], [3, TELL, "now"], [4, PING])
    assert sorted(answers) == [[1, DONE, "now"], [2, DONE, None], [3, DONE, None], [4, DONE, None]]


def test_output_for_another_connection_is_flushed_after_the_pass(told: Told) -> None:
    waiting, telling = DirectConnection(told.service), DirectConnection(told.service)
    waiting.ask([1, WAIT, 0])
    flushes = waiting.flushes
    told.service.in_pass = True
    telling.give(frame([1, TELL, "now"]))
    assert waiting.flushes == flushes
    told.service.end_pass()
    assert waiting.flushes == flushes
    told.service.flush_others()
    assert waiting.flushes == flushes + 1
    assert waiting.take() == [[1, DONE, "now"]]


def test_output_for_a_connection_that_is_gone_meanwhile_is_dropped(told: Told) -> None:
    waiting = DirectConnection(told.service)
    waiting.ask([1, WAIT, 0])
    told.service.in_pass = True
    told.tell("now")
    waiting.handler.end()
    told.service.end_pass()
    flushes = waiting.flushes
    told.service.flush_others()
    assert waiting.flushes == flushes
    assert waiting.take() == []


def test_room_for_output_is_told_once(told: Told) -> None:
    connection = DirectConnection(told.service)
    rooms: list[str] = []
    connection.handler.send_reply(1, BATCH, bytes(OUTPUT_BYTES_MAX + 100), OUTPUT_BYTES_MAX + 100)
    assert connection.handler.output_full
    connection.handler.when_room(lambda: rooms.append("room"))
    connection.take(20)
    assert connection.handler.output_full
    assert rooms == []
    connection.take()
    assert rooms == ["room"]
    connection.handler.send_reply(1, BATCH, bytes(OUTPUT_BYTES_MAX + 100), OUTPUT_BYTES_MAX + 100)
    connection.handler.when_room(lambda: rooms.append("gone"))
    connection.handler.end()
    assert rooms == ["room", "gone"]


def test_what_is_not_encoded_yet_counts_as_output(told: Told) -> None:
    connection = DirectConnection(told.service)
    told.service.in_pass = True
    connection.handler.send_reply(1, BATCH, bytes(MIB), MIB)
    assert not connection.handler.output_full
    connection.handler.send_reply(1, BATCH, b"x", 1)
    assert connection.handler.output == []
    assert connection.handler.output_full
    told.service.end_pass()
    told.service.flush_others()
    connection.take()
    assert not connection.handler.output_full


def test_what_is_held_counts_as_output_until_it_has_left() -> None:
    told = Told(holds_writes=True)
    connection = DirectConnection(told.service)
    connection.handler.hold_reply(1, BATCH, bytes(MIB), MIB)
    assert connection.handler.output_full
    assert connection.take() == []
    told.service.release_held(told.service.take_held())
    assert connection.handler.output_full
    assert connection.take() == [[1, BATCH, bytes(MIB)]]
    assert not connection.handler.output_full


# Over sockets and streams.


@asynccontextmanager
async def listening(told: Told) -> AsyncIterator[tuple[str, int]]:
    node = told.node
    with closing(listen(Address("127.0.0.1", 0))) as sock, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run, [sock])
            yield sock.getsockname()
            nursery.cancel_scope.cancel()


def readable(client: RawClient) -> bool:
    assert isinstance(client.stream, trio.SocketStream)
    return bool(select.select([client.stream.socket.fileno()], [], [], 0)[0])


@pytest.mark.parametrize("how", [TELL, TELL_LATER])
async def test_an_answer_to_another_connection_does_not_leave_before_the_commit(told: Told, how: int) -> None:
    async with listening(told) as address:
        waiting, telling = await RawClient.connect(address), await RawClient.connect(address)
        await waiting.send([1, WAIT, 0])
        await telling.result(PING)
        while not told.waiting:
            await telling.result(PING)
        commit, seen = told.service.commit, []

        def look_and_commit() -> None:
            commit()
            if not told.waiting and not seen:  # it is answered
                seen.append((readable(waiting), readable(telling)))

        told.service.commit = look_and_commit
        await telling.result(how, "now")
        assert seen == [(False, False)]
        assert await waiting.receive() == [1, DONE, "now"]
        await waiting.close()
        await telling.close()


async def test_the_same_over_a_stream(told: Told) -> None:
    node = told.node
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run, [])
            clients = []
            for name in ("waiting", "telling"):
                ours, theirs = trio.testing.memory_stream_pair()

                deliver = theirs.send_stream.send_all_hook
                assert deliver is not None

                async def sent(name: str = name, deliver: Callable[[], Awaitable[object]] = deliver) -> None:
                    told.events.append(f"sent to {name}")
                    await deliver()

                theirs.send_stream.send_all_hook = sent
                nursery.start_soon(serve_stream, node.service, theirs)
                clients.append(RawClient(ours))
                await clients[-1].greet()
            waiting, telling = clients
            await waiting.send([1, WAIT, 0])
            while not told.waiting:
                await telling.result(PING)
            told.events.clear()
            await telling.result(TELL, "now")
            assert await waiting.receive() == [1, DONE, "now"]
            assert told.events[0] == "commit"
            assert sorted(told.events[1:]) == ["sent to telling", "sent to waiting"]
            nursery.cancel_scope.cancel()


async def test_what_changes_between_passes_is_committed_soon(told: Told) -> None:
    async with listening(told) as address:
        waiting = await RawClient.connect(address)
        await waiting.send([1, WAIT, 0])
        while not told.waiting:
            await trio.lowlevel.checkpoint()
        told.later.append("by itself")
        told.service.commit_soon()
        assert await waiting.receive() == [1, DONE, "by itself"]
        await waiting.close()


async def test_many_answers_of_one_pass_to_one_connection_are_one_frame(told: Told) -> None:
    async with listening(told) as address:
        waiting, telling = await RawClient.connect(address), await RawClient.connect(address)
        await waiting.send([1, WAIT, 0], [2, WAIT, 0])
        while len(told.waiting) < 2:
            await telling.result(PING)
        await telling.result(TELL, "now")
        assert isinstance(waiting.stream, trio.SocketStream)
        data = bytes(await waiting.stream.receive_some(64 * KIB))
        assert data == frame([1, DONE, "now"], [2, DONE, "now"])
        await waiting.close()
        await telling.close()
