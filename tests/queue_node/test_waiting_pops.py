"""Pops that wait (docs/protocol.md §5, wait pop): first come, first served, each answered exactly once."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import trio
import trio.testing
from core.raw_client import PROTOCOL_ERROR, at_work, frame, notice_status
from queue_node.raw_queue import (
    BAD_ARGUMENT,
    BAD_CHANNEL,
    CHANNELS,
    CONSUME,
    CREDIT,
    DONE,
    HAS_SUBSCRIBERS,
    KIB,
    MIB,
    PUSH,
    REMOVE_CHANNEL,
    STOP,
    TOO_MANY_REQUESTS,
    WAIT_POP,
    QueueConnection,
    open_node,
    pack,
)

from nodes.queue.waiting_pops import STALE_MIN
from swarm.core.limits import OUTPUT_BYTES_MAX
from swarm.core.node import LimitsSection, Node

NOTHING = [b"", b""]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with open_node(tmp_path) as node:
        yield node


@pytest.fixture
def client(node: Node) -> QueueConnection:
    return QueueConnection(node)


@pytest.fixture
def waiting(node: Node) -> QueueConnection:
    return QueueConnection(node)


def popped(*records: bytes) -> list[bytes]:
    return list(pack(*records))


async def test_what_is_there_is_answered_at_once(client: QueueConnection) -> None:
    client.push("c", b"1", b"2", b"3")
    assert client.result(WAIT_POP, "c", 2, 3_600_000) == popped(b"1", b"2")
    assert client.result(WAIT_POP, "c", 2, 0) == popped(b"3")
    assert client.result(WAIT_POP, "c", 2, 0) == NOTHING
    assert client.result(WAIT_POP, "d", 2, 0) == NOTHING
    assert client.result(CHANNELS) == ["c"]


@pytest.mark.parametrize("exists", [False, True])
async def test_a_push_answers_it_in_the_same_pass(
    client: QueueConnection, waiting: QueueConnection, exists: bool
) -> None:
    if exists:
        client.push("c", b"x")
        client.pop("c")
    assert waiting.ask([5, WAIT_POP, "c", 10, 1000]) == []
    client.push("c", b"1", b"2")
    assert waiting.take() == [[5, DONE, popped(b"1", b"2")]]
    assert waiting.ask([5, WAIT_POP, "c", 10, 1000]) == []  # its id is free again
    client.push("c", b"3")
    assert waiting.take() == [[5, DONE, popped(b"3")]]
    assert client.pop("c") == []


async def test_first_come_first_served(node: Node, client: QueueConnection) -> None:
    many = [QueueConnection(node) for _ in range(50)]
    for number, each in enumerate(many):
        assert each.ask([1, WAIT_POP, "c", 1 + number % 2, 1000]) == []
    client.push("c", *[b"%d" % number for number in range(80)])
    pushed = iter(range(80))
    for number, each in enumerate(many):
        expected = [b"%d" % record for record in islice(pushed, 1 + number % 2)]
        assert each.take() == [[1, DONE, popped(*expected)]], number
    assert client.pop("c") == [b"%d" % number for number in range(75, 80)]


async def test_who_comes_later_does_not_pass_those_who_wait(client: QueueConnection, waiting: QueueConnection) -> None:
    assert waiting.ask([1, WAIT_POP, "c", 1, 1000]) == []
    client.push("c", b"x")
    waiting.take()
    assert waiting.ask([1, WAIT_POP, "c", 1, 1000]) == []
    answers = client.ask([2, PUSH, "c", b"first"], [3, WAIT_POP, "c", 1, 1000], [4, PUSH, "c", b"second"])
    assert sorted(answers) == [[2, DONE, None], [3, DONE, popped(b"second")], [4, DONE, None]]
    assert waiting.take() == [[1, DONE, popped(b"first")]]


async def test_its_time_passes(
    node: Node, client: QueueConnection, waiting: QueueConnection, autojump_clock: trio.testing.MockClock
) -> None:
    async with at_work(node):
        await trio.sleep(1)  # the task that looks after their time waits already
        begun = trio.current_time()
        answered: dict[int, float] = {}

        def note() -> None:
            for number, status, result in waiting.take():
                assert (status, result) == (DONE, NOTHING)
                answered[number] = trio.current_time() - begun

        waiting.on_flush = note
        for number, wait_ms in [(1, 2000), (2, 500), (3, 3_600_000), (4, 500), (5, 1)]:
            waiting.give(frame([number, WAIT_POP, "c", 1, wait_ms]))
        await trio.sleep(10)
        assert answered == pytest.approx({1: 2.0, 2: 0.5, 4: 0.5, 5: 0.001})
        waiting.on_flush = lambda: None
        client.push("c", b"x")
        assert waiting.take() == [[3, DONE, popped(b"x")]]
        await trio.sleep(5000)
        assert waiting.take() == []
        client.push("c", b"y")
        assert client.pop("c") == [b"y"]


async def test_stop_answers_it_at_once(client: QueueConnection, waiting: QueueConnection) -> None:
    assert waiting.ask([1, WAIT_POP, "c", 1, 1000], [2, WAIT_POP, "c", 1, 1000], [1, CREDIT, 5]) == []
    assert waiting.ask([1, STOP]) == [[1, DONE, NOTHING]]
    client.push("c", b"x")
    assert waiting.take() == [[2, DONE, popped(b"x")]]
    assert waiting.ask([1, STOP], [2, STOP]) == []
    client.push("c", b"y")
    assert client.pop("c") == [b"y"]


async def test_what_was_answered_before_the_stop_is_not_lost(client: QueueConnection) -> None:
    assert client.ask([1, WAIT_POP, "c", 1, 1000], [2, PUSH, "c", b"x"]) == [
        [2, DONE, None],
        [1, DONE, popped(b"x")],
    ]
    assert client.ask([1, STOP]) == []


@pytest.mark.parametrize("how", ["end", "end of input"])
async def test_a_connection_that_is_gone_takes_nothing_with_it(
    node: Node, client: QueueConnection, waiting: QueueConnection, how: str
) -> None:
    other = QueueConnection(node)
    assert waiting.ask([1, WAIT_POP, "c", 1, 1000], [2, WAIT_POP, "d", 1, 1000]) == []
    assert other.ask([1, WAIT_POP, "c", 1, 1000]) == []
    if how == "end":
        waiting.handler.end()
    else:
        waiting.handler.end_of_input()
    client.push("c", b"x")
    client.push("d", b"y")
    assert other.take() == [[1, DONE, popped(b"x")]]
    assert client.pop("d") == [b"y"]


async def test_it_waits_on_when_the_channel_is_removed(client: QueueConnection, waiting: QueueConnection) -> None:
    client.push("c", b"x")
    client.pop("c")
    assert waiting.ask([1, WAIT_POP, "c", 1, 1000]) == []
    assert client.result(REMOVE_CHANNEL, "c") is True
    assert waiting.take() == []
    client.push("c", b"new")
    assert waiting.take() == [[1, DONE, popped(b"new")]]


@pytest.mark.parametrize("exists", [False, True])
async def test_it_is_refused_when_somebody_subscribes(
    client: QueueConnection, waiting: QueueConnection, exists: bool
) -> None:
    if exists:
        client.push("c", b"x")
        client.pop("c")
    assert waiting.ask([1, WAIT_POP, "c", 1, 1000]) == []
    client.consume(1, "c", "s")
    ((number, status, result),) = waiting.take()
    assert (number, status, result[1]) == (1, HAS_SUBSCRIBERS, {"channel": "c"})
    client.give(frame([2, PUSH, "c", b"x"]))
    assert sorted(message[0] for message in client.take()) == [1, 2]


async def test_it_counts_as_a_stream(tmp_path: Path) -> None:
    with open_node(tmp_path, limits=LimitsSection(streams_per_connection=2)) as node:
        client = QueueConnection(node)
        assert client.ask([1, WAIT_POP, "c", 1, 1000], [2, WAIT_POP, "c", 1, 1000]) == []
        assert client.error(WAIT_POP, "c", 1, 1000) == (TOO_MANY_REQUESTS, {"limit": 2})
        assert client.error(CONSUME, "c", "s", 1, 1) == (TOO_MANY_REQUESTS, {"limit": 2})
        assert client.ask([1, STOP]) == [[1, DONE, NOTHING]]
        assert client.ask([1, WAIT_POP, "c", 1, 1000]) == []
        assert notice_status(client.ask([2, WAIT_POP, "c", 1, 1000])) == PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("position", "value"), [(1, 0), (1, 4097), (1, "1"), (2, -1), (2, 3_600_001), (2, 0.5), (2, None)]
)
async def test_bad_arguments(client: QueueConnection, position: int, value: object) -> None:
    arguments: list[object] = ["c", 1, 1000]
    arguments[position] = value
    assert client.error(WAIT_POP, *arguments) == (BAD_ARGUMENT, {"position": position})
    assert client.error(WAIT_POP, "../c", 1, 1)[0] == BAD_CHANNEL


async def test_those_who_do_not_read_are_passed_over(tmp_path: Path) -> None:
    with open_node(tmp_path, ring_bytes=16 * MIB) as node:
        client, slow, other = (QueueConnection(node) for _ in range(3))
        for number in range(1, 11):
            slow.give(frame([number, WAIT_POP, "c", 1, 1000]))
        for _ in range(10):
            client.push("c", bytes(500 * KIB))
        assert slow.output_bytes < OUTPUT_BYTES_MAX + 600 * KIB
        assert client.queues("c")[0]["records"] == 7
        other.give(frame([1, WAIT_POP, "c", 1, 1000]))
        assert len(other.take()) == 1
        assert len(slow.take()) == 3
        assert node.service.tasks_waiting
        node.service.in_pass = True
        node.service.end_pass()
        node.service.flush_others()
        assert len(slow.take()) == 3
        assert client.queues("c")[0]["records"] == 3


async def test_those_answered_long_before_their_time_leave_nothing_behind(
    node: Node, client: QueueConnection, waiting: QueueConnection
) -> None:
    requests = next(
        more.__self__  # type: ignore[attr-defined]
        for more in node.service.more_statistics
        if "waiting_pops" in more()
    )
    for _ in range(5 * STALE_MIN):
        waiting.give(frame([1, WAIT_POP, "c", 1, 3_600_000]))
        waiting.exchange(frame([1, STOP]))
    assert len(requests._heap) < 2 * STALE_MIN
    assert requests.statistics() == {"waiting_pops": 0}
    client.push("c", b"x")
    assert client.pop("c") == [b"x"]
