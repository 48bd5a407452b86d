"""Queue nodes that die, hang and come back, while clients push, pop and consume."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from queue_conformance import AwaitableQueueClient, records, take

import swarm.blocking
from nodes.queue.config import QueueConfig, QueueSection
from swarm.core.errors import ConnectionLost, NodeUnreachable, QueueFull, RequestTimeout
from swarm.queue import QueueClient
from swarm.testing import QueueProcess, running_queue

HANG_S = 30.0
WAIT_S = 10.0
CONFIG = QueueConfig(queue=QueueSection(ring_bytes=1024 * 1024))
SMALL = QueueConfig(queue=QueueSection(ring_bytes=64 * 1024))

every_client = pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])
every_async_client = pytest.mark.parametrize("kind", ["trio", "asyncio"])


def run(kind: str, nodes: list[str], work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Does something with an open client, which is of one of the three kinds."""

    async def main() -> None:
        client: Any = QueueClient(nodes, **options)
        if kind == "blocking":
            client = AwaitableQueueClient(swarm.blocking.QueueClient(nodes, **options))
        with anyio.fail_after(HANG_S):
            async with client as queue:
                await work(queue)

    anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


@contextmanager
def processes(directory: Path, count: int) -> Iterator[list[QueueProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(QueueProcess(directory / str(number), CONFIG)) for number in range(count)]


async def push_each(queue: Any, some: list[bytes]) -> None:
    for record in some:
        await queue.push("a", record)


@every_client
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_consumer_goes_on_when_a_node_was_killed(kind: str, nodes: int, tmp_path: Path) -> None:
    """What it had given and not heard of comes again, marked; nothing else does, and nothing is lost."""

    async def work(queue: Any) -> None:
        await queue.ready()
        for first in range(0, 40, 10):
            await queue.push_many("a", records(10, first))
        async with queue.consume("a", subscriber="s", manual=True, batch_records=3) as consumer:
            given = await take(consumer, 20)
            done, lost = given[::2], given[1::2]
            assert await consumer.acknowledge(*done) == len(done)
            for node in running:
                node.kill()
                node.start()
            again: dict[bytes, Any] = {}
            others = set(records(40)) - {record.value for record in done}
            async for record in consumer:
                assert record.value in others, "what was acknowledged does not come again"
                assert record.value not in again or not again[record.value].redelivered, "nothing comes thrice"
                again[record.value] = record
                if set(again) == others and all(again[record.value].redelivered for record in lost):
                    break
            assert await consumer.acknowledge(*lost) == 0, "what has come before belongs to a stream that is gone"
            assert await consumer.acknowledge(*(again[record.value] for record in lost)) == len(lost)

    with processes(tmp_path, nodes) as running:
        run(kind, [node.address for node in running], work)


@every_client
def test_a_push_goes_to_the_other_node_while_one_is_dead(kind: str, tmp_path: Path) -> None:
    async def work(queue: Any) -> None:
        await queue.ready()
        running[0].kill()
        stored = 0
        for record in records(10):
            try:
                await queue.push("a", record)
                stored += 1
            except ConnectionLost:  # not known yet to be dead: told once, and never repeated
                assert stored < 2
        await queue.push_many("a", records(10, 10))
        assert len(await queue.pop_many("a", 100)) == stored + 10 >= 19
        running[0].start()
        while not any(each.records for each in await queue.queues("a") if each.node == running[0].address):
            await queue.push("a", b"again")

    with processes(tmp_path, 2) as running:
        run(kind, [node.address for node in running], work)


@every_client
def test_a_push_whose_node_hangs_is_not_repeated(kind: str, tmp_path: Path) -> None:
    async def work(queue: Any) -> None:
        await queue.ready()
        with running[0].paused(), pytest.raises(RequestTimeout):
            await push_each(queue, records(2))
        given = []
        while len(given) < 1:
            given += await queue.pop_many("a", 10, wait=WAIT_S)
        given += await queue.pop_many("a", 10, wait=0.2)
        assert sorted(given) in (records(2), records(1), records(1, 1)), "each at most once"

    with processes(tmp_path, 2) as running:
        run(kind, [node.address for node in running], work, timeout=0.3)


@every_client
def test_a_push_whose_connection_breaks_is_not_repeated(kind: str, tmp_path: Path) -> None:
    """The node that hangs has taken the request into its socket, and dies."""

    async def work(queue: Any) -> None:
        await queue.ready()
        running[0].pause()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(kill_when_something_waits_in_its_socket)
            with pytest.raises(ConnectionLost):
                await push_each(queue, records(2))
        stored = [each.records for each in await other_queues()]
        assert sum(stored) <= 1, "the node that lives has at most the record that was pushed to it"

    def kill_when_something_waits_in_its_socket() -> None:
        hanging = swarm.blocking.QueueClient([running[0].address], timeout=0.2)
        with hanging as other, pytest.raises((NodeUnreachable, RequestTimeout)):
            other.ping()
        running[0].kill()

    async def other_queues() -> Any:
        with swarm.blocking.QueueClient([running[1].address]) as other:
            return other.queues("a")

    with processes(tmp_path, 2) as running:
        run(kind, [node.address for node in running], work)


@every_client
def test_a_producer_goes_on_with_the_other_node_and_keeps_its_order(kind: str, tmp_path: Path) -> None:
    some = records(3000)

    async def work(queue: Any) -> None:
        await queue.ready()
        async with queue.produce("a") as producer:
            for number, record in enumerate(some):
                if number == 1000:
                    await producer.flush()
                    running[0].kill()
                    with pytest.raises((ConnectionLost, NodeUnreachable)):  # so it is known to be gone
                        await queue.ping()
                await producer.push(record)
        running[0].start()
        by_node: dict[str, list[bytes]] = {}
        for node in running:
            with swarm.blocking.QueueClient([node.address]) as other:
                by_node[node.address] = other.pop_many("a", 10_000)
        for values in by_node.values():
            assert values == sorted(values)
        assert sorted(value for values in by_node.values() for value in values) == some

    with processes(tmp_path, 2) as running:
        run(kind, [node.address for node in running], work, timeout=0.5)


@every_async_client
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_producer_waits_where_every_queue_is_full(kind: str, nodes: int) -> None:
    """Many times what fits passes through, in order, and a slow reader loses nothing."""
    some = [record + b"x" * 100 for record in records(5000)]

    async def main(addresses: list[str]) -> None:
        given: list[bytes] = []
        with anyio.fail_after(HANG_S):
            async with QueueClient(addresses, timeout=WAIT_S) as queue, anyio.create_task_group() as tasks:

                async def produce() -> None:
                    async with queue.produce("a") as producer:
                        for record in some:
                            await producer.push(record)

                tasks.start_soon(produce)
                while len(given) < len(some):
                    given += await queue.pop_many("a", 50, wait=WAIT_S)
                assert await queue.pop_many("a", 1) == []
        assert sorted(given) == some
        if nodes == 1:
            assert given == some

    with running_queue(nodes, config=SMALL) as running:
        anyio.run(main, running.addresses, backend=kind)


def test_a_blocking_producer_waits_where_every_queue_is_full() -> None:
    some = [record + b"x" * 100 for record in records(5000)]

    def produce(addresses: list[str]) -> None:
        with swarm.blocking.QueueClient(addresses, timeout=WAIT_S) as queue, queue.produce("a") as producer:
            for record in some:
                producer.push(record)

    with running_queue(config=SMALL) as running, ThreadPoolExecutor(1) as thread:
        done = thread.submit(produce, running.addresses)
        given: list[bytes] = []
        with swarm.blocking.QueueClient(running.addresses) as queue:
            while len(given) < len(some):
                given += queue.pop_many("a", 50, wait=WAIT_S)
        done.result()
        assert given == some


def test_threads_share_a_blocking_client() -> None:
    with running_queue(2) as running, swarm.blocking.QueueClient(running.addresses) as queue:
        given: list[bytes] = []
        counted = threading.Lock()

        def work(number: int) -> None:
            for step in range(50):
                queue.push("a", b"%d-%d" % (number, step))
                queue.push_many("a", [b"%d-%d-%d" % (number, step, each) for each in range(3)])
                popped = queue.pop_many("a", 4)
                with counted:
                    given.extend(popped)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
        given += queue.pop_many("a", 1000)
        assert len(given) == len(set(given)) == 4 * 50 * 4


def test_a_thread_consumes_while_others_use_the_client() -> None:
    with running_queue(2) as running, swarm.blocking.QueueClient(running.addresses) as queue:
        with ThreadPoolExecutor(1) as thread, queue.consume("a", subscriber="s", batch_records=10) as consumer:
            consuming = thread.submit(lambda: [next(consumer).value for _ in range(100)])
            for record in records(100):
                queue.push("a", record)
            assert sorted(consuming.result()) == records(100)
        with queue.consume("a", subscriber="s", timeout=0) as consumer:
            again = [record.value for record in iter(lambda: next(consumer), None)]
        assert len(again) == 1, "the record that was not asked beyond"


@every_client
def test_an_error_of_all_nodes_names_each(kind: str, tmp_path: Path) -> None:
    async def work(queue: Any) -> None:
        await queue.ready()
        with pytest.raises(QueueFull) as caught:
            await push_each(queue, [b"x" * 1000] * 1000)
        for node in addresses:
            assert node in str(caught.value)

    with running_queue(2, config=SMALL) as running:
        addresses = running.addresses
        run(kind, addresses, work)
