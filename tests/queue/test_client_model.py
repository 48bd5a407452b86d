"""Random operations through real clients, compared with a list for each subscriber. A failure names its seed."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from queue_conformance import AwaitableQueueClient

import swarm.blocking
from nodes.queue.config import QueueConfig, QueueSection
from swarm.core.errors import HasSubscribers
from swarm.queue import QueueClient
from swarm.testing import queue_in_memory, running_queue

CHANNELS = ("a", "b")
SUBSCRIBERS = ("one", "two")
STEPS = 120
CONFIG = QueueConfig(queue=QueueSection(ring_bytes=1024 * 1024))


class Model:
    """What the queues hold: a list for each, oldest first."""

    def __init__(self) -> None:
        self.queues: dict[str, dict[str, list[bytes]]] = {}
        self.given: set[tuple[str, str, bytes]] = set()
        """What a consumer was given that has not acknowledged it."""

    def push(self, channel: str, some: list[bytes]) -> None:
        for queue in self.queues.setdefault(channel, {"": []}).values():
            queue += some

    def subscribe(self, channel: str, subscriber: str) -> None:
        queues = self.queues.setdefault(channel, {"": []})
        if subscriber not in queues:
            queues[subscriber] = queues.pop("", [])

    def drop(self, channel: str, subscriber: str) -> bool:
        existed = self.queues.get(channel, {}).pop(subscriber, None) is not None
        self.given = {each for each in self.given if each[:2] != (channel, subscriber)}
        if existed and not self.queues[channel]:
            self.queues[channel][""] = []
        return existed

    def pop(self, channel: str, count: int) -> list[bytes] | None:
        """None where it is refused."""
        queues = self.queues.get(channel, {"": []})
        if "" not in queues:
            return None
        popped, queues[""] = queues[""][:count], queues[""][count:]
        return popped


class Run:
    """Carries out random operations. With one node order is compared, with several what is there."""

    def __init__(self, queue: Any, seed: int, nodes: int) -> None:
        self._queue = queue
        self._chance = random.Random(seed)
        self._model = Model()
        self._pushed = 0
        self._nodes = nodes

    async def run(self) -> None:
        operations: list[Callable[[str], Any]] = [self._push, self._push_many, self._produce, self._pop]
        operations += [self._pop, self._consume, self._consume, self._drop]
        for _ in range(STEPS):
            await self._chance.choice(operations)(self._chance.choice(CHANNELS))
        await self._compare()

    def _records(self, count: int) -> list[bytes]:
        self._pushed += count
        return [b"%d" % number + b"x" * self._chance.randrange(200) for number in range(self._pushed)[-count:]]

    async def _push(self, channel: str) -> None:
        (record,) = self._records(1)
        channels = list(CHANNELS) if self._chance.random() < 0.3 else [channel]
        await self._queue.push(channels, record)
        for each in channels:
            self._model.push(each, [record])

    async def _push_many(self, channel: str) -> None:
        some = self._records(self._chance.randrange(1, 30))
        await self._queue.push_many(channel, some)
        self._model.push(channel, some)

    async def _produce(self, channel: str) -> None:
        some = self._records(self._chance.randrange(1, 30))
        async with self._queue.produce(channel) as producer:
            for record in some:
                await producer.push(record)
        self._model.push(channel, some)

    async def _pop(self, channel: str) -> None:
        count = self._chance.randrange(1, 20)
        wait = self._chance.choice([0.0, 0.001])
        if self._nodes > 1:
            count = 1_000_000  # which of them are popped first is not defined
        expected = self._model.pop(channel, count)
        if expected is None:
            with pytest.raises(HasSubscribers):
                await self._queue.pop_many(channel, count, wait=wait)
        else:
            self._same(await self._queue.pop_many(channel, count, wait=wait), expected)

    def _same(self, given: list[bytes], expected: list[bytes]) -> None:
        if self._nodes == 1:
            assert given == expected
        assert Counter(given) == Counter(expected)

    async def _consume(self, channel: str) -> None:
        """All that there is, or the first of it; some of that is acknowledged."""
        subscriber = self._chance.choice(SUBSCRIBERS)
        self._model.subscribe(channel, subscriber)
        held = self._model.queues[channel][subscriber]
        count = len(held) if self._nodes > 1 else self._chance.randrange(len(held) + 1)
        batch_records = self._chance.choice([1, 3, 1000])
        async with self._queue.consume(
            channel, subscriber=subscriber, manual=True, batch_records=batch_records
        ) as consumer:
            given: list[Any] = []
            while len(given) < count:
                given.append(await anext(consumer))
            self._same([record.value for record in given], held[:count])
            for record in given:
                assert record.redelivered or (channel, subscriber, record.value) not in self._model.given
            done = self._chance.sample(given, self._chance.randrange(len(given) + 1))
            assert await consumer.acknowledge(*done) == len(done)
        self._model.given.update((channel, subscriber, record.value) for record in given)
        for record in done:
            held.remove(record.value)
            self._model.given.discard((channel, subscriber, record.value))

    async def _drop(self, channel: str) -> None:
        subscriber = self._chance.choice(SUBSCRIBERS)
        if self._chance.random() < 0.5:
            expected = self._model.drop(channel, subscriber)
            assert await self._queue.drop_subscriber(channel, subscriber) == expected

    async def _compare(self) -> None:
        for channel, queues in self._model.queues.items():
            counts: Counter[str] = Counter()
            for each in await self._queue.queues(channel):
                counts[each.subscriber] += each.records
            assert +counts == +Counter({name: len(held) for name, held in queues.items()})
            for subscriber, held in queues.items():
                if held:
                    async with self._queue.consume(channel, subscriber=subscriber, manual=True) as consumer:
                        self._same([(await anext(consumer)).value for _ in held], held)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_random_operations_in_memory(seed: int, nodes: int) -> None:
    async def main() -> None:
        async with (
            queue_in_memory(nodes, config=CONFIG) as running,
            QueueClient(running.addresses, connect=running.connect) as queue,
        ):
            await queue.ready()
            await Run(queue, seed, nodes).run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])
@pytest.mark.parametrize("seed", range(100, 102))
def test_random_operations(seed: int, kind: str, nodes: int) -> None:
    async def main(addresses: list[str]) -> None:
        client: Any = QueueClient(addresses)
        if kind == "blocking":
            client = AwaitableQueueClient(swarm.blocking.QueueClient(addresses))
        with anyio.fail_after(60):
            async with client as queue:
                await queue.ready()
                await Run(queue, seed, nodes).run()

    with running_queue(nodes, config=CONFIG) as running:
        anyio.run(main, running.addresses, backend="asyncio" if kind == "asyncio" else "trio")
