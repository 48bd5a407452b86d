"""What every queue client does, whichever it is and however it reaches its nodes. Each row is written once.

A row is a function `(queue, swarm)`: a client that is open, and what it is connected to, which holds nothing. Clients
without an event loop come as AwaitableClient, so rows await what all of them do. test_queue_conformance runs the rows.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any, Self

import pytest
from conformance_runs import AwaitableClient, Row, Rows, Swarm, awaitable

from nodes.queue.config import QueueConfig, QueueSection
from swarm.core import limits
from swarm.core.errors import (
    BadArgument,
    BadChannel,
    ChannelRemoved,
    ClientClosed,
    EmptyValue,
    HasSubscribers,
    NodeUnreachable,
    QueueFull,
    SwarmError,
    ValueTooBig,
)
from swarm.core.node import LimitsSection

MIB = 1024 * 1024
PATIENCE_S = 10.0
RING_BYTES = 128 * 1024

DEFAULT = QueueConfig(queue=QueueSection(ring_bytes=8 * MIB))
SMALL = QueueConfig(queue=QueueSection(ring_bytes=RING_BYTES), limits=LimitsSection(value_bytes=10_000))


row = Rows(DEFAULT)
ROWS = row.all


class AwaitableQueueClient(AwaitableClient):
    def consume(self, *arguments: Any, **options: Any) -> "AwaitableConsumer":
        return AwaitableConsumer(lambda: self._client.consume(*arguments, timeout=PATIENCE_S, **options))

    def produce(self, channel: Any) -> "AwaitableProducer":
        return AwaitableProducer(self._client.produce(channel))


class AwaitableProducer:
    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.push = awaitable(producer.push)
        self.flush = awaitable(producer.flush)

    async def __aenter__(self) -> Self:
        self._producer.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._producer.__exit__(*error)


class AwaitableConsumer:
    def __init__(self, consume: Callable[[], Any]) -> None:
        self._consume = consume
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        self._consumer = self._consume()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._consumer.close()

    def close(self) -> None:
        self._consumer.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._consumer is None:
            self._consumer = self._consume()
        record = next(self._consumer)
        assert record is not None, f"no record came within {PATIENCE_S} s"
        return record

    def batches(self) -> "AwaitableBatches":
        return AwaitableBatches(self._consumer.batches())

    async def acknowledge(self, *records: Any) -> int:
        return self._consumer.acknowledge(*records)  # type: ignore[no-any-return]


class AwaitableBatches:
    def __init__(self, batches: Iterator[list[Any]]) -> None:
        self._batches = batches

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Any]:
        batch = next(self._batches)
        assert batch, f"no record came within {PATIENCE_S} s"
        return batch


# What rows need again and again.


def records(count: int, first: int = 0) -> list[bytes]:
    return [b"record %06d" % number for number in range(first, first + count)]


def assert_same(given: list[bytes], pushed: list[bytes], swarm: Swarm) -> None:
    """Nothing lost, nothing twice; and in order, where one node alone has kept it."""
    assert Counter(given) == Counter(pushed)
    if len(swarm.addresses) == 1:
        assert given == pushed


async def everything(queue: Any, channel: str) -> list[bytes]:
    """A channel's records, popped."""
    return await queue.pop_many(channel, 1_000_000)  # type: ignore[no-any-return]


async def take(consumer: Any, count: int) -> list[Any]:
    """So many records; the last is not asked beyond."""
    taken = []
    async for record in consumer:
        taken.append(record)
        if len(taken) == count:
            break
    return taken


async def finished(consumer: Any, count: int) -> list[bytes]:
    """So many records, and no more than these, acknowledged because the batch that has the last was asked beyond: by
    leaving the block, where manual; the values."""
    taken = []
    async for record in consumer:
        taken.append(record.value)
        await consumer.acknowledge(record)
        if len(taken) == count:
            break
    return taken


async def consumed(queue: Any, channel: str, subscriber: str, count: int) -> list[bytes]:
    async with queue.consume(channel, subscriber=subscriber, manual=True) as consumer:
        return await finished(consumer, count)


async def left(queue: Any, channel: str) -> int:
    return sum(each.records for each in await queue.queues(channel))


# Every way to write, every way to read, one or several subscribers.


async def by_push(queue: Any, channel: str, some: list[bytes]) -> None:
    for record in some:
        await queue.push(channel, record)


async def by_push_many(queue: Any, channel: str, some: list[bytes]) -> None:
    await queue.push_many(channel, iter(some[:1]))
    await queue.push_many(channel, some[1:])


async def by_push_to_several(queue: Any, channel: str, some: list[bytes]) -> None:
    for record in some:
        await queue.push([channel, "beside"], record)
    assert sorted(await everything(queue, "beside")) == sorted(some)


async def by_push_many_to_several(queue: Any, channel: str, some: list[bytes]) -> None:
    await queue.push_many(["beside", channel], some)
    assert sorted(await everything(queue, "beside")) == sorted(some)


async def by_produce(queue: Any, channel: str, some: list[bytes]) -> None:
    async with queue.produce(channel) as producer:
        for record in some:
            await producer.push(record)
            if record == some[len(some) // 2]:
                await producer.flush()


async def by_pop(queue: Any, channel: str, _: str, count: int) -> list[bytes]:
    return [await queue.pop(channel) for _ in range(count)]


async def by_pop_many(queue: Any, channel: str, _: str, count: int) -> list[bytes]:
    return await queue.pop_many(channel, 7) + await queue.pop_many(channel, count)  # type: ignore[no-any-return]


async def by_waiting_pop(queue: Any, channel: str, _: str, count: int) -> list[bytes]:
    return [await queue.pop(channel, wait=PATIENCE_S) for _ in range(count)]


async def by_waiting_pop_many(queue: Any, channel: str, _: str, count: int) -> list[bytes]:
    given: list[bytes] = []
    while len(given) < count:
        given += await queue.pop_many(channel, count, wait=PATIENCE_S)
    return given


async def by_consuming(queue: Any, channel: str, subscriber: str, count: int) -> list[bytes]:
    """The last batch is acknowledged by its last record, which has to be asked beyond: so one more comes behind it."""
    async with queue.consume(channel, subscriber=subscriber) as consumer:
        given = [record.value for record in await take(consumer, count)]
    last = await consumed(queue, channel, subscriber, 1)
    assert last == given[-1:], "the record that was not asked beyond is given again"
    return given


async def by_batches(queue: Any, channel: str, subscriber: str, count: int) -> list[bytes]:
    given: list[bytes] = []
    last: list[bytes] = []
    async with queue.consume(channel, subscriber=subscriber, batch_records=8) as consumer:
        async for batch in consumer.batches():
            last = [record.value for record in batch]
            given += last
            if len(given) == count:
                break
    again = await consumed(queue, channel, subscriber, len(last))
    assert again == last, "the batch that was not asked beyond is given again"
    return given


async def by_acknowledging(queue: Any, channel: str, subscriber: str, count: int) -> list[bytes]:
    return await consumed(queue, channel, subscriber, count)


WRITES = (by_push, by_push_many, by_push_to_several, by_push_many_to_several, by_produce)
POPS = (by_pop, by_pop_many, by_waiting_pop, by_waiting_pop_many)
CONSUMES = (by_consuming, by_batches, by_acknowledging)
SUBSCRIBERS: tuple[tuple[str, ...], ...] = ((), ("one",), ("one", "two"))
COUNT = 25


def add_matrix() -> None:
    for write, read, subscribers in product(WRITES, (*POPS, *CONSUMES), SUBSCRIBERS):
        if read in POPS and subscribers:
            continue  # they are refused, which is a row of its own

        async def check(
            queue: Any, swarm: Swarm, write: Any = write, read: Any = read, subscribers: Any = subscribers
        ) -> None:
            for subscriber in subscribers:
                async with queue.consume("a", subscriber=subscriber):
                    pass
            await write(queue, "a", records(COUNT))
            for subscriber in subscribers or [""]:
                assert_same(await read(queue, "a", subscriber, COUNT), records(COUNT), swarm)
            assert await left(queue, "a") == 0

        name = f"{write.__name__}_{read.__name__}_{len(subscribers)}_subscribers"
        ROWS.append(Row(name, check, DEFAULT, heavy=False))


add_matrix()


# Push and pop.


@row()
async def a_channel_that_does_not_exist(queue: Any, swarm: Swarm) -> None:
    assert await queue.pop("none") is None
    assert await queue.pop_many("none", 10) == []
    assert await queue.pop("none", wait=0.01) is None
    assert await queue.pop_many("none", 10, wait=0.01) == []
    assert await queue.queues("none") == []
    assert await queue.channel_size("none") == (0, 0)
    assert not await queue.remove_channel("none")
    assert not await queue.drop_subscriber("none", "nobody")
    assert await queue.channels() == [], "reading creates nothing"


@row()
async def pop_gives_no_more_than_asked(queue: Any, swarm: Swarm) -> None:
    await queue.push_many("a", records(10))
    assert await queue.pop_many("a", 3) == records(3)
    assert await queue.pop("a") == records(10)[3]
    assert await queue.pop_many("a", 100) == records(6, 4)
    assert await queue.pop_many("a", 1) == []


@row()
async def records_of_all_lengths_and_bytes(queue: Any, swarm: Swarm) -> None:
    some = [b"\0", b"\xff" * 7, bytes(range(256)) * 50, b"x" * 300_000, "ä".encode()]
    for record in some:
        await queue.push("single", record)
    await queue.push_many("many", some)
    assert sorted([await queue.pop("single") for _ in some]) == sorted(some)
    assert await queue.pop_many("many", 5) == some


@row()
async def nodes_take_turns(queue: Any, swarm: Swarm) -> None:
    await queue.ready()
    for record in records(10):
        await queue.push("a", record)
    assert [each.records for each in await queue.queues("a")] == [10 // len(swarm.addresses)] * len(swarm.addresses)


@row()
async def many_records_leave_in_parts_at_one_node(queue: Any, swarm: Swarm) -> None:
    some = records(2 * limits.BATCH_RECORDS_MAX + 1)
    await queue.push_many("a", some)
    assert sorted(each.records for each in await queue.queues("a"))[-1] == len(some)
    assert await queue.pop_many("a", len(some) + 1) == some


@row(heavy=True)
async def many_bytes(queue: Any, swarm: Swarm) -> None:
    some = [b"%06d" % number + b"x" * 1000 for number in range(5000)]
    await queue.push_many("a", some)
    assert await queue.pop_many("a", 10) == some[:10], "from here on the records' size is known"
    assert await queue.pop_many("a", 3000) == some[10:3010]
    assert await queue.pop_many("a", 10_000, wait=PATIENCE_S) == some[3010:]


@row(heavy=True)
async def answers_as_long_as_what_is_received_at_a_time(queue: Any, swarm: Swarm) -> None:
    for size in range(limits.RECEIVE_BYTES - 24, limits.RECEIVE_BYTES + 8):
        record = bytes([size % 256]) * size
        await queue.push("a", record)
        assert await queue.pop("a") == record
        await queue.push_many("a", [record, b"small", record])
        assert await queue.pop_many("a", 3) == [record, b"small", record]
    assert await queue.pop("a") is None


@row(heavy=True)
async def large_batches_are_consumed(queue: Any, swarm: Swarm) -> None:
    some = [b"%06d" % number + b"x" * 1000 for number in range(4000)]
    await queue.push_many("a", some)
    assert await consumed(queue, "a", "one", 4000) == some


@row(heavy=True)
async def a_waiting_pop_gives_all_there_is_beyond_one_answer(queue: Any, swarm: Swarm) -> None:
    some = [b"%06d" % number + b"x" * 1000 for number in range(3000)]
    await queue.push_many("a", some)
    assert await queue.pop_many("a", 3000, wait=PATIENCE_S) == some


@row()
async def no_records(queue: Any, swarm: Swarm) -> None:
    await queue.push_many("a", [])
    await queue.push_many(["a", "b"], iter(()))
    async with queue.produce("a") as producer:
        await producer.flush()
    assert await queue.channels() == []


BAD_CHANNELS = ("", "../x", "a/b", "@x", "x" * 129, "ä", "nul\0", 7, None)


@row()
async def bad_arguments_are_told_before_anything_is_sent(queue: Any, swarm: Swarm) -> None:
    bad: list[tuple[type[SwarmError], Callable[[], Awaitable[Any]]]] = [
        (EmptyValue, lambda: queue.push("a", b"")),
        (BadArgument, lambda: queue.push("a", "text")),
        (BadArgument, lambda: queue.push("a", None)),
        (BadArgument, lambda: queue.push("a", bytearray(b"x"))),
        (ValueTooBig, lambda: queue.push("a", b"x" * (16 * MIB + 1))),
        (EmptyValue, lambda: queue.push_many("a", [b"x", b""])),
        (BadArgument, lambda: queue.push_many("a", [b"x", "text"])),
        (BadArgument, lambda: queue.push_many("a", b"record")),
        (ValueTooBig, lambda: queue.push_many("a", [b"x", b"x" * (16 * MIB + 1)])),
        (BadArgument, lambda: queue.push([], b"x")),
        (BadArgument, lambda: queue.push(["a", "a"], b"x")),
        (BadArgument, lambda: queue.push([f"a{number}" for number in range(65)], b"x")),
        (BadArgument, lambda: queue.pop_many("a", 0)),
        (BadArgument, lambda: queue.pop_many("a", -1)),
        (BadArgument, lambda: queue.pop_many("a", True)),
        (BadArgument, lambda: queue.pop_many("a", 1.5)),
        (BadArgument, lambda: queue.pop("a", wait=-1)),
        (BadArgument, lambda: queue.pop("a", wait=float("nan"))),
        (BadArgument, lambda: queue.pop("a", wait="2")),
        (BadArgument, lambda: queue.pop_many("a", 1, wait=1e300)),
        (BadArgument, lambda: queue.drop_subscriber("a", "")),
        (BadArgument, lambda: queue.drop_subscriber("a", "b/c")),
    ]
    for channel in BAD_CHANNELS:
        for call in (
            lambda channel=channel: queue.push(channel, b"x"),
            lambda channel=channel: queue.push(["good", channel], b"x"),
            lambda channel=channel: queue.push_many(channel, [b"x"]),
            lambda channel=channel: queue.pop(channel),
            lambda channel=channel: queue.pop(channel, wait=1),
            lambda channel=channel: queue.pop_many(channel, 2),
            lambda channel=channel: queue.pop([channel]),
            lambda channel=channel: queue.queues(channel),
            lambda channel=channel: queue.drop_subscriber(channel, "s"),
        ):
            bad.append((BadArgument if channel in (7, None) else BadChannel, call))
    for kind, call in bad:
        with pytest.raises(kind):
            await call()
    for options in ({"subscriber": "a b"}, {"batch_records": 0}, {"batch_records": 4097}, {"credit": 0}):
        with pytest.raises(BadArgument):
            async with queue.consume("a", **options):
                pass
    with pytest.raises(BadArgument):
        async with queue.produce("a/b"):
            pass
    async with queue.produce("a") as producer:
        for wrong in (b"", "text", None):
            with pytest.raises(BadArgument):
                await producer.push(wrong)
    assert not [name for name in queue.statistics() if "p" in name or "queue" in name]
    assert await queue.channels() == []


@row(SMALL)
async def a_record_over_the_nodes_limit(queue: Any, swarm: Swarm) -> None:
    await queue.ping()
    for call in (
        lambda: queue.push("a", b"x" * 10_001),
        lambda: queue.push_many("a", [b"good", b"x" * 10_001]),
    ):
        with pytest.raises(ValueTooBig) as caught:
            await call()
        assert caught.value.details["limit"] == 10_000
    await queue.push("a", b"x" * 10_000)
    assert await queue.pop("a") == b"x" * 10_000


# Full.


async def fill(queue: Any, channel: str, record: bytes = b"x" * 1000) -> tuple[int, SwarmError]:
    """Pushes until it is full: how many, and what is told."""
    for number in range(1000):
        try:
            await queue.push(channel, record)
        except QueueFull as error:
            return number, error
    raise AssertionError("it is never full")


@row(SMALL)
async def full_where_every_node_is(queue: Any, swarm: Swarm) -> None:
    stored, error = await fill(queue, "a")
    for address in swarm.addresses:
        assert address in str(error)
    assert error.try_again
    assert error.details["channel"] == "a"
    each_node = [each.records for each in await queue.queues("a")]
    assert sum(each_node) == stored
    assert len(set(each_node)) == 1, "all are as full"
    assert all(each.fullness > 90 for each in await queue.queues("a"))
    await queue.push("b", b"another channel")
    for _ in swarm.addresses:
        assert await queue.pop_many("a", 10)
    await queue.push("a", b"room again")


@row(SMALL)
async def the_next_node_is_tried_where_one_is_full(queue: Any, swarm: Swarm) -> None:
    if len(swarm.addresses) == 1:
        return
    async with swarm.client(swarm.addresses[:1]) as first:
        stored, _ = await fill(first, "a")
    large = [record + b"x" * 1000 for record in records(40)]
    for record in large[:20]:
        await queue.push("a", record)
    await queue.push_many("a", large[20:])
    assert sorted(each.records for each in await queue.queues("a")) == [40, stored]


@row(SMALL)
async def an_error_tells_how_many_records_of_a_batch_are_stored(queue: Any, swarm: Swarm) -> None:
    some = [b"%06d" % number + b"x" * 10 for number in range(30_000)]
    with pytest.raises(QueueFull) as caught:
        await queue.push_many("a", some)
    stored = caught.value.details["stored"]
    assert stored > 0
    assert f"the first {stored} of 30000" in str(caught.value)
    assert_same(await everything(queue, "a"), some[:stored], swarm)


@row(SMALL, heavy=True)
async def a_producer_tells_how_many_records_are_stored(queue: Any, swarm: Swarm) -> None:
    some = [b"%06d" % number + b"x" * 10 for number in range(30_000)]
    async with swarm.client(timeout=0.5) as hasty:
        producer = hasty.produce("a")

        async def produce() -> None:
            async with producer:
                for record in some:
                    await producer.push(record)

        with pytest.raises(QueueFull) as caught:
            await produce()
        with pytest.raises(QueueFull):
            await producer.push(b"after an error")
        with pytest.raises(QueueFull):
            await producer.flush()
    stored = caught.value.details["stored"]
    assert stored > 0
    assert f"the first {stored} were stored" in str(caught.value)
    assert_same(await everything(queue, "a"), some[:stored], swarm)


@row()
async def what_a_producer_had_when_the_program_failed_is_stored(queue: Any, swarm: Swarm) -> None:
    producer = queue.produce("a")

    async def fail() -> None:
        async with producer:
            await producer.push(b"one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await queue.pop("a") == b"one"
    with pytest.raises(ClientClosed):
        await producer.push(b"two")


# Consuming.


@row()
async def what_was_not_asked_beyond_comes_again_and_is_marked(queue: Any, swarm: Swarm) -> None:
    await queue.push_many("a", records(10))
    async with queue.consume("a", subscriber="s") as consumer:
        first = await take(consumer, 4)
    assert not any(record.redelivered for record in first)
    async with queue.consume("a", subscriber="s") as consumer:
        again = await take(consumer, 7)
    assert [record.value for record in again] == records(7, 3), "three were asked beyond"
    assert all(record.redelivered for record in again)


@row()
async def acknowledging_in_any_order(queue: Any, swarm: Swarm) -> None:
    await queue.push_many("a", records(10))
    async with queue.consume("a", subscriber="s", manual=True, batch_records=4) as consumer:
        given = await take(consumer, 10)
        assert await consumer.acknowledge(given[8], given[2], given[3]) == 3
        assert await consumer.acknowledge(given[3], given[9]) == 1, "one of them was acknowledged before"
        assert await consumer.acknowledge() == 0
        assert await left(queue, "a") == 6
        with pytest.raises(BadArgument):
            await consumer.acknowledge(b"record")
    with pytest.raises(ClientClosed):
        await consumer.acknowledge(given[0])
    async with queue.consume("a", subscriber="s") as consumer:
        again = await take(consumer, 6)
    assert [record.value for record in again] == [records(10)[number] for number in (0, 1, 4, 5, 6, 7)]


@row()
async def acknowledging_more_ranges_than_one_request_takes(queue: Any, swarm: Swarm) -> None:
    count = 2 * (limits.ACKNOWLEDGED_NUMBERS_MAX // 2 + 10)
    await queue.push_many("a", records(count))
    async with queue.consume("a", subscriber="s", manual=True, credit=64) as consumer:
        given = await take(consumer, count)
        assert await consumer.acknowledge(*given[::2]) == count // 2
        assert await left(queue, "a") == count // 2


@row()
async def subscribers_have_each_all_and_consumers_of_one_share(queue: Any, swarm: Swarm) -> None:
    async with (
        queue.consume("a", subscriber="one", batch_records=1, credit=1) as one,
        queue.consume("a", subscriber="two", batch_records=5, credit=1, manual=True) as two,
        queue.consume("a", subscriber="two", batch_records=5, credit=1, manual=True) as other_two,
    ):
        assert {each.subscriber: each.consumers for each in await queue.queues("a")} == {"one": 1, "two": 2}
        await queue.push_many("a", records(10))
        assert [record.value for record in await take(one, 10)] == records(10)
        shared = [record.value for consumer in (two, other_two) for record in await take(consumer, 5)]
        assert sorted(shared) == records(10), "each record is given to one of them"


@row()
async def the_first_subscriber_takes_over_and_later_ones_begin_empty(queue: Any, swarm: Swarm) -> None:
    await queue.push_many("a", records(5))
    assert [each.subscriber for each in await queue.queues("a")] == [""]
    for subscriber in ("first", "second"):
        async with queue.consume("a", subscriber=subscriber):
            pass
    counts: Counter[str] = Counter()
    for each in await queue.queues("a"):
        counts[each.subscriber] += each.records
    assert counts == {"first": 5, "second": 0}
    assert await queue.drop_subscriber("a", "first")
    assert not await queue.drop_subscriber("a", "first")
    assert {each.subscriber for each in await queue.queues("a")} == {"second"}


@row()
async def pops_and_nameless_consumers_are_refused_where_there_are_subscribers(queue: Any, swarm: Swarm) -> None:
    await queue.push("a", b"record")
    async with queue.consume("a", subscriber="s"):
        pass
    for call in (
        lambda: queue.pop("a"),
        lambda: queue.pop("a", wait=1),
        lambda: queue.pop_many("a", 5),
        lambda: queue.pop_many("a", 5, wait=1),
    ):
        with pytest.raises(HasSubscribers):
            await call()
    with pytest.raises(HasSubscribers):
        async with queue.consume("a") as consumer:
            await take(consumer, 1)
    assert await consumed(queue, "a", "s", 1) == [b"record"]


@row()
async def a_channel_that_is_removed_ends_its_consumers(queue: Any, swarm: Swarm) -> None:
    async with queue.consume("a", subscriber="s") as consumer:
        await queue.push("a", b"one")
        assert [record.value for record in await take(consumer, 1)] == [b"one"]
        assert await queue.remove_channel("a")
        with pytest.raises(ChannelRemoved):
            await take(consumer, 1)
    async with queue.consume("a", subscriber="s") as consumer:
        assert await queue.drop_subscriber("a", "s")
        with pytest.raises(ChannelRemoved):
            await take(consumer, 1)


@row()
async def iterating_without_entering(queue: Any, swarm: Swarm) -> None:
    await queue.push_many("a", records(3))
    consumer = queue.consume("a", subscriber="s")
    async for record in consumer:
        assert record.value == records(3)[0]
        break
    consumer.close()


@row()
async def what_comes_while_it_is_consumed(queue: Any, swarm: Swarm) -> None:
    async with queue.consume("a", subscriber="s") as consumer:
        for number in range(20):
            await queue.push("a", b"%d" % number)
            assert [record.value for record in await take(consumer, 1)] == [b"%d" % number]


# The rest.


@row()
async def sizes(queue: Any, swarm: Swarm) -> None:
    await queue.push("a", b"123")
    await queue.push_many(["a", "b"], [b"45", b"6"])
    assert await queue.channels() == ["a", "b"]
    assert await queue.channel_size("a") == (3, 6)
    assert await queue.size() == (5, 9)
    assert sum(each.records for each in await queue.queues("a")) == 3
    assert sum(each.bytes for each in await queue.queues("a")) == 6
    assert {each.node for each in await queue.queues("a")} <= set(swarm.addresses)
    assert set(await queue.node_statistics()) == set(swarm.addresses)
    assert await queue.remove_channel("a")
    assert await queue.channels() == ["b"]


@row()
async def health_and_events_of_the_nodes(queue: Any, swarm: Swarm) -> None:
    assert sorted(await queue.node_health()) == sorted(swarm.addresses)
    assert sorted(await queue.node_events()) == sorted(swarm.addresses)


@row()
async def ready_ping_and_statistics(queue: Any, swarm: Swarm) -> None:
    await queue.ready()
    await queue.ping()
    await queue.push("a", b"x")
    await queue.pop("a")
    assert queue.statistics()["push"]["handled"] == 1


@row()
async def a_client_that_is_not_open(queue: Any, swarm: Swarm) -> None:
    client = swarm.client()
    for _ in range(2):
        with pytest.raises(ClientClosed):
            await client.push("a", b"x")
        with pytest.raises(ClientClosed):
            await client.pop("a", wait=1)
        with pytest.raises(ClientClosed):
            async with client.consume("a"):
                pass
        async with client:
            await client.ping()


@row()
async def no_node_is_there(queue: Any, swarm: Swarm) -> None:
    async with swarm.client([swarm.dead_address], timeout=0.05) as lost:
        for call in (
            lambda: lost.push("a", b"x"),
            lambda: lost.push_many("a", [b"x", b"y"]),
            lambda: lost.pop("a"),
            lambda: lost.pop("a", wait=1),
            lambda: lost.pop_many("a", 5),
        ):
            with pytest.raises(NodeUnreachable) as caught:
                await call()
            assert swarm.dead_address in str(caught.value)
        with pytest.raises(NodeUnreachable):
            async with lost.consume("a"):
                pass
        with pytest.raises(NodeUnreachable) as caught:
            async with lost.produce("a") as producer:
                await producer.push(b"x")
        assert caught.value.details["stored"] == 0


@row()
async def a_node_that_is_not_there_is_passed_over(queue: Any, swarm: Swarm) -> None:
    async with swarm.client([swarm.dead_address, *swarm.addresses], timeout=PATIENCE_S) as client:
        for record in records(10):
            await client.push("a", record)
        await client.push_many("a", records(10, 10))
        assert sorted(await everything(client, "a")) == records(20)
        assert await client.pop("a", wait=0.01) is None
        async with client.consume("a", subscriber="s") as consumer:
            await client.push("a", b"one")
            assert [record.value for record in await take(consumer, 1)] == [b"one"]


@row()
async def compression(queue: Any, swarm: Swarm) -> None:
    async with swarm.client(compression=True) as client:
        await client.push_many("a", [b"x" * 10_000] * 20)
        assert await client.pop_many("a", 30) == [b"x" * 10_000] * 20


@row(SMALL)
async def a_batch_that_is_larger_than_the_queue_can_ever_hold(queue: Any, swarm: Swarm) -> None:
    """It leaves in smaller parts, so that what has room is stored, and the rest told."""
    some = [record + b"x" * 500 for record in records(400 * len(swarm.addresses))]
    with pytest.raises(QueueFull) as caught:
        await queue.push_many("a", some)
    stored = caught.value.details["stored"]
    assert 100 < stored < len(some)
    assert_same(await everything(queue, "a"), some[:stored], swarm)
    for _ in range(5):
        await queue.push_many("a", some[:50])
        assert_same(await everything(queue, "a"), some[:50], swarm)
