"""Consumers and subscribers (docs/protocol.md §5): who is given what, what is given again, and what is bounded."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing
from core.raw_client import PROTOCOL_ERROR, at_work, frame, notice_status
from queue_node.raw_queue import (
    ACKNOWLEDGE,
    BAD_ARGUMENT,
    BAD_CHANNEL,
    BATCH,
    CHANNEL_REMOVED,
    CHANNELS,
    CONSUME,
    CREDIT,
    DONE,
    DROP_SUBSCRIBER,
    HAS_SUBSCRIBERS,
    KIB,
    MIB,
    POP,
    POP_MANY,
    PUSH,
    PUSH_MANY,
    QUEUE_FULL,
    REMOVE_CHANNEL,
    STOP,
    TOO_MANY_CHANNELS,
    TOO_MANY_REQUESTS,
    VALUE_TOO_BIG,
    WAIT_POP,
    QueueConnection,
    open_node,
    pack,
)

from nodes.queue.config import ChannelSection
from swarm.core import limits
from swarm.core.limits import OUTPUT_BYTES_MAX
from swarm.core.node import LimitsSection, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with open_node(tmp_path) as node:
        yield node


@pytest.fixture
def client(node: Node) -> QueueConnection:
    return QueueConnection(node)


@pytest.fixture
def consumer(node: Node) -> QueueConnection:
    return QueueConnection(node)


def pass_by_itself(node: Node) -> None:
    """What the node does between passes, where something asks for it."""
    assert node.service.tasks_waiting
    node.service.in_pass = True
    node.service.end_pass()
    node.service.flush_others()


# What is given.


def test_a_push_is_given_in_the_same_pass(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "s")
    assert consumer.batches(1) == []
    client.push("c", b"a")
    assert consumer.batches(1) == [(0, False, [b"a"])]
    client.push("c", b"b", b"c")
    assert consumer.batches(1) == [(1, False, [b"b", b"c"])]


def test_all_that_a_pass_brings_is_one_batch(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "s")
    client.ask(*([number, PUSH, "c", b"%d" % number] for number in range(1, 50)))
    assert consumer.batches(1) == [(0, False, [b"%d" % number for number in range(1, 50)])]


def test_what_is_there_already_is_given_at_once(client: QueueConnection, consumer: QueueConnection) -> None:
    client.push("c", b"a", b"b", b"c")
    consumer.consume(1, "c", "s", records=2)
    assert consumer.batches(1) == [(0, False, [b"a", b"b"]), (2, False, [b"c"])]


def test_a_consumer_of_its_own_pushes(client: QueueConnection) -> None:
    client.consume(1, "c", "s")
    answers = client.ask([2, PUSH, "c", b"a"], [3, PUSH, "c", b"b"])
    assert sorted(answers) == [[1, BATCH, [0, False, *pack(b"a", b"b")]], [2, DONE, None], [3, DONE, None]]


def test_the_first_subscriber_takes_the_queue_over_and_later_ones_begin_empty(
    client: QueueConnection, consumer: QueueConnection, tmp_path: Path
) -> None:
    client.push("c", b"old")
    consumer.consume(1, "c", "first")
    assert consumer.records(1) == [b"old"]
    consumer.consume(2, "c", "second")
    assert consumer.take() == []
    client.push("c", b"new")
    assert sorted(message[0] for message in consumer.take()) == [1, 2]
    assert [(queue["subscriber"], queue["records"]) for queue in client.queues("c")] == [("first", 2), ("second", 1)]
    assert sorted(path.name for path in (tmp_path / "channels" / "c").iterdir()) == [
        "subscriber-first.ring",
        "subscriber-second.ring",
    ]


def test_consumers_of_one_subscriber_share_its_records(node: Node, client: QueueConnection) -> None:
    consumers = [QueueConnection(node) for _ in range(4)]
    for consumer in consumers:
        consumer.consume(1, "c", "s", records=10)
    for number in range(400):
        client.push("c", b"%d" % number)
    given = [consumer.records(1) for consumer in consumers]
    assert [len(records) for records in given] == [64 * 1] * 3 + [64]  # all their credit
    for records in given:
        assert records == sorted(records, key=int)
    assert len(set().union(*given)) == 256
    consumers[0].give(frame([1, CREDIT, 64]))
    assert consumers[0].records(1) == [b"%d" % number for number in range(256, 400)]


def test_records_are_given_out_in_turn(node: Node, client: QueueConnection) -> None:
    consumers = [QueueConnection(node) for _ in range(3)]
    for consumer in consumers:
        consumer.consume(1, "c", "s", records=5)
    client.push("c", *[b"%d" % number for number in range(30)])
    for place, consumer in enumerate(consumers):
        numbers = [int(record) for record in consumer.records(1)]
        assert numbers == [*range(5 * place, 5 * place + 5), *range(5 * place + 15, 5 * place + 20)]


def test_a_queue_whose_consumers_take_all_they_can_delays_no_other(tmp_path: Path) -> None:
    """What one pass hands out is bounded: another queue has its turn in the next at the latest."""
    with open_node(tmp_path, channel={"greedy": ChannelSection(ring_bytes=48 * MIB)}) as node:
        client, other = QueueConnection(node), QueueConnection(node)
        for _ in range(160):
            client.push("greedy", *[bytes(KIB)] * 240)
        greedy = [QueueConnection(node) for _ in range(6)]
        for each in greedy:
            each.consume(1, "greedy", "", records=4096)
        other.consume(1, "other", "s")
        for each in greedy:
            each.take()
        client.push("other", b"1")
        for each in greedy:
            each.take()
        pass_by_itself(node)
        assert other.records(1) == [b"1"]
        assert client.queues("greedy")[0]["unacknowledged"] < 160 * 240  # there was more for the others


def test_credit_is_respected(client: QueueConnection, consumer: QueueConnection) -> None:
    client.push("c", *[b"%d" % number for number in range(10)])
    consumer.consume(1, "c", "s", records=1, credit=2)
    assert consumer.records(1) == [b"0", b"1"]
    consumer.give(frame([1, CREDIT, 3]))
    assert consumer.records(1) == [b"2", b"3", b"4"]
    consumer.give(frame([1, CREDIT, 2**64 - 1]))
    assert consumer.records(1) == [b"5", b"6", b"7", b"8", b"9"]


def test_what_is_granted_beyond_the_most_credit_is_cut(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "s", records=1, credit=1)
    for _ in range(3):
        consumer.give(frame([1, CREDIT, limits.CREDIT_MAX]))
    client.push("c", *[b"x"] * (2 * limits.CREDIT_MAX))
    assert len(consumer.batches(1)) == limits.CREDIT_MAX


def test_a_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    with open_node(tmp_path, ring_bytes=4 * MIB) as node:
        client, consumer = QueueConnection(node), QueueConnection(node)
        for _ in range(30):
            client.push("c", bytes(50 * KIB))
        consumer.consume(1, "c", "s", records=4096)
        batches = consumer.batches(1)
        pass_by_itself(node)  # there is room for output again
        batches += consumer.batches(1)
        assert [len(records) for _, _, records in batches] == [6] * 5


def test_a_consumer_of_the_channels_own_queue(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "")
    assert client.result(CHANNELS) == []  # it waits, and creates nothing
    client.push("c", b"a", b"b")
    assert consumer.batches(1) == [(0, False, [b"a", b"b"])]
    assert consumer.acknowledge(1, 0, 1) == 1
    assert client.pop("c") == []
    assert consumer.exchange(frame([1, STOP])) == [[1, DONE, "stopped"]]
    assert client.pop("c") == [b"b"]


def test_a_push_that_is_refused_ends_nobody_who_waits_for_a_new_channel(
    client: QueueConnection, consumer: QueueConnection
) -> None:
    consumer.consume(1, "c", "")
    assert client.error(PUSH, "c", bytes(70 * KIB))[0] == VALUE_TOO_BIG
    assert client.result(CHANNELS) == []
    assert consumer.take() == []
    client.push("c", b"1")
    assert consumer.records(1) == [b"1"]


def test_without_subscriber_on_a_channel_that_has_some(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "s")
    client.push("c", b"x")
    for request in ([POP, "c"], [POP_MANY, "c", 1], [WAIT_POP, "c", 1, 1000], [CONSUME, "c", "", 1, 1]):
        assert client.error(*request) == (HAS_SUBSCRIBERS, {"channel": "c"})
    assert client.queues("c")[0]["records"] == 1


def test_a_push_fills_the_queue_of_the_slowest_subscriber(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "fast", records=1)
    consumer.consume(2, "c", "slow")
    refused = 0
    for _ in range(200):
        ((_, status, result),) = client.ask([1, PUSH, "c", bytes(KIB)])
        for number, _, batch in consumer.take():
            if number == 1:
                assert consumer.ask([3, ACKNOWLEDGE, 1, [batch[0], 1]], [1, CREDIT, 1])[0][1] == DONE
        if status != DONE:
            assert (status, result[1]) == (QUEUE_FULL, {"channel": "c", "subscriber": "slow"})
            refused += 1
    assert refused > 100
    fast, slow = client.queues("c")
    assert fast["records"] == 0
    assert slow["records"] == 200 - refused


# Acknowledged, or given again.


def test_what_is_acknowledged_is_gone(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "s")
    client.push("c", *[b"%d" % number for number in range(10)])
    assert consumer.records(1)
    assert client.queues("c")[0]["unacknowledged"] == 10
    assert consumer.acknowledge(1, 0, 3) == 3
    assert consumer.acknowledge(1, 5, 1, 8, 2) == 3
    assert consumer.acknowledge(1, 0, 10) == 4
    assert consumer.acknowledge(1, 0, 10) == 0
    assert (client.queues("c")[0]["records"], client.queues("c")[0]["unacknowledged"]) == (0, 0)


@pytest.mark.parametrize("how", ["stop", "end", "end of input", "refused"])
def test_what_a_vanished_consumer_had_not_acknowledged_is_given_again_and_marked(
    node: Node, client: QueueConnection, consumer: QueueConnection, how: str
) -> None:
    consumer.consume(1, "c", "s", credit=1)
    client.push("c", *[b"%d" % number for number in range(6)])
    assert consumer.records(1) == [b"%d" % number for number in range(6)]
    assert consumer.acknowledge(1, 1, 1, 3, 1) == 2
    other = QueueConnection(node)
    other.consume(9, "c", "s")
    match how:
        case "stop":
            assert consumer.exchange(frame([1, STOP])) == [[1, DONE, "stopped"]]
        case "end":
            consumer.handler.end()
        case "end of input":
            consumer.handler.end_of_input()
        case "refused":
            consumer.give(b"\xff" * 100)
    if how.startswith("end"):
        pass_by_itself(node)
    assert other.batches(9) == [(0, True, [b"0"]), (2, True, [b"2"]), (4, True, [b"4", b"5"])]
    assert client.queues("c")[0]["consumers"] == 1


def test_given_again_it_comes_before_all_others(node: Node, client: QueueConnection) -> None:
    first = QueueConnection(node)
    first.consume(1, "c", "s", records=2, credit=1)
    client.push("c", b"0", b"1", b"2", b"3")
    first.handler.end()
    second = QueueConnection(node)
    second.consume(1, "c", "s")
    assert second.batches(1) == [(0, True, [b"0", b"1"]), (2, False, [b"2", b"3"])]


def test_what_was_not_given_to_this_stream_is_passed_over(node: Node, client: QueueConnection) -> None:
    one, other = QueueConnection(node), QueueConnection(node)
    one.consume(1, "c", "s", records=2, credit=1)
    other.consume(1, "c", "s", records=2, credit=1)
    client.push("c", b"0", b"1", b"2", b"3", b"4")
    assert one.batches(1) == [(0, False, [b"0", b"1"])]
    assert other.batches(1) == [(2, False, [b"2", b"3"])]
    assert one.acknowledge(1, 2, 2) == 0  # the other's
    assert one.acknowledge(1, 4, 1) == 0  # nobody's yet
    assert one.acknowledge(1, 100, 2**63) == 0
    assert one.acknowledge(1, 2**64 - 1, 2**64 - 1) == 0
    assert one.acknowledge(2, 0, 2) == 0  # no such stream
    assert client.acknowledge(1, 0, 2) == 0  # not of this connection
    assert one.acknowledge(1, 0, 0) == 0
    assert one.acknowledge(1) == 0
    assert client.queues("c")[0]["unacknowledged"] == 4
    assert one.acknowledge(1, 0, 2**64 - 1) == 2
    assert other.acknowledge(1, 1, 2) == 1
    assert client.queues("c")[0]["unacknowledged"] == 1


def test_acknowledgements_of_a_stream_that_has_ended_are_passed_over(
    client: QueueConnection, consumer: QueueConnection
) -> None:
    consumer.consume(1, "c", "s")
    client.push("c", b"0")
    assert consumer.batches(1)
    assert consumer.exchange(frame([1, STOP])) == [[1, DONE, "stopped"]]
    assert consumer.acknowledge(1, 0, 1) == 0
    consumer.consume(1, "c", "s")
    assert consumer.batches(1) == [(0, True, [b"0"])]
    assert consumer.acknowledge(1, 0, 1) == 1


@pytest.mark.parametrize(
    "ranges", [None, 1, [1], [1, 2, 3], [-1, 1], ["0", 1], [0, 1.0], [True, 1], [0] * 1026, [[0, 1]], b"\0\1"]
)
def test_bad_ranges(client: QueueConnection, consumer: QueueConnection, ranges: object) -> None:
    consumer.consume(1, "c", "s")
    client.push("c", b"0")
    assert consumer.batches(1)
    status, details = consumer.error(ACKNOWLEDGE, 1, ranges)
    assert (status, details["position"]) == (BAD_ARGUMENT, 1)
    assert client.queues("c")[0]["unacknowledged"] == 1


@pytest.mark.parametrize("stream", [None, 0, -1, 2**32, "1", 1.0])
def test_bad_stream_of_an_acknowledgement(client: QueueConnection, stream: object) -> None:
    assert client.error(ACKNOWLEDGE, stream, [0, 1]) == (BAD_ARGUMENT, {"position": 0})


def test_the_most_ranges_in_one_acknowledgement(client: QueueConnection, consumer: QueueConnection) -> None:
    consumer.consume(1, "c", "s", records=4096)
    client.push("c", *[b"x"] * 1024)
    assert len(consumer.records(1)) == 1024
    every_other = [number for first in range(0, 1024, 2) for number in (first, 1)]
    assert len(every_other) == limits.ACKNOWLEDGED_NUMBERS_MAX
    assert consumer.acknowledge(1, *every_other) == 512
    assert consumer.acknowledge(1, *every_other) == 0
    assert consumer.acknowledge(1, 0, 1024) == 512
    assert client.queues("c")[0]["records"] == 0


# Bounds.


def test_a_consumer_that_does_not_read_does_not_grow_the_node(tmp_path: Path) -> None:
    with open_node(tmp_path, ring_bytes=16 * MIB) as node:
        client, slow = QueueConnection(node), QueueConnection(node)
        slow.consume(1, "c", "s", records=4096, credit=64)
        for _ in range(100):
            client.push("c", bytes(100 * KIB))
        most = OUTPUT_BYTES_MAX + limits.BATCH_BYTES + 200 * KIB
        assert OUTPUT_BYTES_MAX < slow.output_bytes < most
        assert client.queues("c")[0]["unacknowledged"] < 20
        records = 0
        while messages := slow.take():
            records += sum(len(message[2][2]) // 4 for message in messages)
            if node.service.tasks_waiting:
                pass_by_itself(node)
            assert slow.output_bytes < most
        assert records == 100


def test_the_others_get_what_one_that_does_not_read_cannot_take(tmp_path: Path) -> None:
    with open_node(tmp_path, ring_bytes=16 * MIB) as node:
        client, slow, other = (QueueConnection(node) for _ in range(3))
        slow.consume(1, "c", "s")
        other.consume(1, "c", "s")
        taken = 0
        for _ in range(100):
            client.push("c", bytes(100 * KIB))
            for message in other.take():
                taken += len(message[2][2]) // 4
                other.give(frame([1, CREDIT, 1]))
        assert taken > 80
        assert taken + client.queues("c")[0]["unacknowledged"] >= 100


def test_too_many_ranges_that_are_not_acknowledged_suspend_a_consumer(
    node: Node, client: QueueConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.queue.consumers.UNACKNOWLEDGED_RANGES_MAX", 3)
    one, other = QueueConnection(node), QueueConnection(node)
    for consumer in (one, other):
        consumer.consume(1, "c", "s", records=1)
    client.push("c", *[b"%d" % number for number in range(20)])
    assert len(one.records(1)) == len(other.records(1)) == 3
    (answer, batch) = sorted(one.ask([8, ACKNOWLEDGE, 1, [0, 1]]), reverse=True)
    assert answer == [8, DONE, 1]
    assert batch == [1, BATCH, [6, False, *pack(b"6")]]


def test_consumers_of_a_node_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONSUMERS_MAX", 3)
    connection = QueueConnection(node)
    for number in (1, 2, 3):
        connection.consume(number, "c", "s")
    assert connection.error(CONSUME, "new", "s", 1, 1) == (TOO_MANY_REQUESTS, {"limit": 3})
    assert connection.result(CHANNELS) == ["c"]
    assert connection.exchange(frame([2, STOP])) == [[2, DONE, "stopped"]]
    connection.consume(2, "new", "s")
    assert connection.result(CHANNELS) == ["c", "new"]


def test_streams_of_a_connection_are_bounded(tmp_path: Path) -> None:
    with open_node(tmp_path, limits=LimitsSection(streams_per_connection=2)) as node:
        connection = QueueConnection(node)
        connection.consume(1, "c", "s")
        connection.consume(2, "c", "t")
        assert connection.error(CONSUME, "c", "u", 1, 1) == (TOO_MANY_REQUESTS, {"limit": 2})
        assert [queue["subscriber"] for queue in connection.queues("c")] == ["s", "t"]


def test_subscribers_of_a_channel_are_bounded(client: QueueConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.queue.channel.SUBSCRIBERS_MAX", 2)
    client.consume(1, "c", "s")
    client.consume(2, "c", "t")
    assert client.error(CONSUME, "c", "u", 1, 1) == (TOO_MANY_REQUESTS, {"limit": 2})
    client.consume(3, "c", "t")
    assert client.queues("c")[1]["consumers"] == 2


def test_a_subscriber_of_one_channel_too_many(tmp_path: Path) -> None:
    with open_node(tmp_path, limits=LimitsSection(channels_max=1)) as node:
        client = QueueConnection(node)
        client.push("c", b"x")
        assert client.error(CONSUME, "d", "s", 1, 1) == (TOO_MANY_CHANNELS, {"limit": 1})
        assert sorted(path.name for path in (tmp_path / "channels").iterdir()) == ["c"]


def test_an_id_that_is_in_use(client: QueueConnection) -> None:
    client.consume(1, "c", "s")
    assert notice_status(client.ask([1, CONSUME, "c", "s", 1, 1])) == PROTOCOL_ERROR


@pytest.mark.parametrize("name", ["../x", "a/b", "@x", "x" * 129, "ä", b"s", None, 1, ["s"]])
def test_bad_names_of_subscribers(client: QueueConnection, name: object, tmp_path: Path) -> None:
    for request in ([CONSUME, "c", name, 1, 1], [DROP_SUBSCRIBER, "c", name]):
        status, details = client.error(*request)
        assert status in (BAD_ARGUMENT, BAD_CHANNEL)
        assert details["position"] == 1
    assert client.result(CHANNELS) == []
    assert list((tmp_path / "channels").iterdir()) == []


@pytest.mark.parametrize("credit", [0, -1, 65, None, "1"])
def test_bad_credit(client: QueueConnection, credit: object) -> None:
    assert client.error(CONSUME, "c", "s", 1, credit) == (BAD_ARGUMENT, {"position": 3})
    assert client.result(CHANNELS) == []


# Ends.


def test_streams_end_when_their_channel_is_removed(node: Node, client: QueueConnection) -> None:
    consumer = QueueConnection(node)
    consumer.consume(1, "c", "s")
    consumer.consume(2, "c", "t", credit=1)
    consumer.consume(3, "own", "")
    client.push("own", b"x")
    client.push("c", b"x")
    consumer.take()
    for channel in ("c", "own"):
        assert client.result(REMOVE_CHANNEL, channel) is True
    ends = consumer.take()
    assert sorted((number, status) for number, status, _ in ends) == [(each, CHANNEL_REMOVED) for each in (1, 2, 3)]
    assert consumer.usable()
    consumer.consume(1, "c", "s")
    client.push("c", b"y")
    assert consumer.batches(1) == [(0, False, [b"y"])]


def test_who_waits_for_a_channel_waits_on_when_its_first_push_is_refused(
    client: QueueConnection, consumer: QueueConnection
) -> None:
    consumer.consume(1, "c", "")
    assert client.error(PUSH_MANY, ["c", "d"], *pack(bytes(65 * KIB)))[0] == VALUE_TOO_BIG
    assert client.result(CHANNELS) == []
    assert consumer.take() == []
    client.push("c", b"x")
    assert consumer.records(1) == [b"x"]


def test_a_subscriber_that_is_dropped(node: Node, client: QueueConnection, tmp_path: Path) -> None:
    consumer = QueueConnection(node)
    consumer.consume(1, "c", "s")
    consumer.consume(2, "c", "t")
    client.push("c", b"x")
    consumer.take()
    assert client.result(DROP_SUBSCRIBER, "c", "u") is False
    assert client.result(DROP_SUBSCRIBER, "d", "s") is False
    assert client.result(DROP_SUBSCRIBER, "c", "s") is True
    assert [(number, status) for number, status, _ in consumer.take()] == [(1, CHANNEL_REMOVED)]
    assert [queue["subscriber"] for queue in client.queues("c")] == ["t"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["subscriber-t.ring"]
    client.push("c", b"y")
    assert consumer.batches(2) == [(1, False, [b"y"])]
    assert client.result(DROP_SUBSCRIBER, "c", "s") is False


def test_with_its_last_subscriber_the_channel_is_gone(client: QueueConnection, tmp_path: Path) -> None:
    client.consume(1, "c", "s")
    answers = client.ask([2, DROP_SUBSCRIBER, "c", "s"])
    assert sorted((number, status) for number, status, _ in answers) == [(1, CHANNEL_REMOVED), (2, DONE)]
    assert client.result(CHANNELS) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    client.push("c", b"y")
    assert client.pop("c") == [b"y"]


def test_who_consumes_without_subscriber_is_told_when_there_is_one(node: Node, client: QueueConnection) -> None:
    own, subscriber = QueueConnection(node), QueueConnection(node)
    own.consume(1, "c", "")
    client.push("c", b"x")
    assert own.records(1) == [b"x"]
    subscriber.consume(1, "c", "s")
    assert [(number, status) for number, status, _ in own.take()] == [(1, HAS_SUBSCRIBERS)]
    assert subscriber.batches(1) == [(0, True, [b"x"])]


def test_many_consumers_come_and_go(node: Node, client: QueueConnection) -> None:
    """Each record is acknowledged once, whatever became of those it was given to before."""
    acknowledged: Counter[bytes] = Counter()
    for number in range(200):
        client.push("c", b"%d" % number)
        consumer = QueueConnection(node)
        consumer.consume(1, "c", "s", records=3, credit=1)
        for sequence, _, records in consumer.batches(1):
            if number % 3:
                assert consumer.acknowledge(1, sequence, len(records)) == len(records)
                acknowledged.update(records)
        consumer.handler.end()
    last = QueueConnection(node)
    last.consume(1, "c", "s")
    acknowledged.update(last.records(1))
    assert acknowledged == Counter({b"%d" % number: 1 for number in range(200)})


async def test_a_name_is_free_as_soon_as_its_subscriber_is_dropped(tmp_path: Path) -> None:
    """What is removed later, in steps, is not what has the name then."""
    with open_node(tmp_path, full="overflow") as node:
        async with at_work(node):
            client, consumer = QueueConnection(node), QueueConnection(node)
            consumer.consume(1, "c", "s", credit=1)
            consumer.consume(2, "c", "t", credit=1)
            for _ in range(200):
                client.push("c", bytes(KIB))
            for _ in range(3):
                consumer.take()
                consumer.give(frame([3, DROP_SUBSCRIBER, "c", "s"], [4, CONSUME, "c", "s", 1, 1], [4, STOP]))
                for _ in range(200):
                    client.push("c", bytes(KIB))
                await trio.testing.wait_all_tasks_blocked()
            before = client.queues("c")
            assert [queue["records"] for queue in before] == [200, 800]
            assert list((tmp_path / "removed").iterdir()) == []
    with open_node(tmp_path, full="overflow") as node:
        assert [queue["records"] for queue in QueueConnection(node).queues("c")] == [200, 800]
