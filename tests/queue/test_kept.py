"""What a node has given and nobody waits for any more: it is kept, and no pop gives more than it was asked for."""

import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

import swarm.blocking
from swarm.core.errors import RequestTimeout
from swarm.queue import QueueClient
from swarm.testing import QueueProcess, queue_in_memory, running_queue

HANG_S = 20.0
WAIT_S = 10.0

every_async_client = pytest.mark.parametrize("kind", ["trio", "asyncio"])


def run(kind: str, work: Callable[[list[str]], Awaitable[None]], nodes: int) -> None:
    async def main(addresses: list[str]) -> None:
        with anyio.fail_after(HANG_S):
            await work(addresses)

    with running_queue(nodes) as running:
        anyio.run(main, running.addresses, backend=kind)


async def all_of(queue: Any, channel: str) -> list[bytes]:
    return await queue.pop_many(channel, 1_000_000)  # type: ignore[no-any-return]


@every_async_client
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("options", [{}, {"wait": WAIT_S}], ids=["at-once", "waiting"])
def test_a_cancelled_pop_loses_nothing_and_keeps_the_order(kind: str, nodes: int, options: dict[str, float]) -> None:
    """It is cancelled after each number of steps of the event loop, from before it is sent to after it was answered."""

    async def work(addresses: list[str]) -> None:
        async with QueueClient(addresses) as queue, QueueClient(addresses) as other:
            await queue.ready()
            await other.ready()
            given: list[bytes] = []

            async def pop(scope: anyio.CancelScope) -> None:
                with scope:
                    record = await queue.pop("a", **options)
                    given.extend([] if record is None else [record])

            for steps in range(60):
                async with anyio.create_task_group() as tasks:
                    scope = anyio.CancelScope()
                    tasks.start_soon(pop, scope)
                    await other.push("a", b"%d" % steps)
                    for _ in range(steps % 15):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
                if steps % 7 == 0:
                    given += await queue.pop_many("a", 2)
            given += await queue.pop_many("a", 100)
            while len(given) < 60:
                given += await queue.pop_many("a", 100, wait=WAIT_S)
            assert Counter(given) == Counter(b"%d" % number for number in range(60))
            if nodes == 1:
                assert given == [b"%d" % number for number in range(60)]

    run(kind, work, nodes)


@every_async_client
def test_tasks_that_wait_at_two_nodes_are_given_each_record_once(kind: str) -> None:
    async def work(addresses: list[str]) -> None:
        given: list[bytes] = []
        async with QueueClient(addresses) as queue, QueueClient(addresses) as other:
            await queue.ready()
            await other.ready()

            async def pop() -> None:
                record = await queue.pop("a", wait=WAIT_S)
                assert record is not None
                given.append(record)

            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(pop)
                for number in range(20):
                    tasks.start_soon(other.push, "a", b"%d" % number)
            assert await all_of(queue, "a") == []
        assert Counter(given) == Counter(b"%d" % number for number in range(20))

    run(kind, work, 2)


async def test_a_record_that_one_task_has_too_much_wakes_another_that_waits(autojump_clock: object) -> None:
    async with queue_in_memory(2) as nodes:

        def client(addresses: list[str]) -> QueueClient:
            return QueueClient(addresses, connect=nodes.connect)

        async with client(nodes.addresses) as queue, client(nodes.addresses) as other:
            await queue.ready()
            await other.ready()
            given: list[bytes | None] = []

            async def pop() -> None:
                given.append(await queue.pop("a", wait=1000))

            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(pop)
                    await trio.testing.wait_all_tasks_blocked()
                for number in range(2):
                    nursery.start_soon(other.push, "a", b"%d" % number)
            assert Counter(given) == Counter([b"0", b"1"])
            assert trio.current_time() - begun < 0.5, "nobody waited for the next time to ask"


@every_async_client
def test_closing_a_client_gives_back_what_is_kept(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Two nodes have a record each when both are asked for one: one record is more than wanted."""

    async def work(addresses: list[str]) -> None:
        for number in range(10):
            async with QueueClient(addresses) as other:
                await other.ready()
                async with QueueClient(addresses) as queue:
                    await queue.ready()
                    popped: list[bytes | None] = []

                    async def pop(queue: Any = queue, popped: Any = popped) -> None:
                        popped.append(await queue.pop("a", wait=WAIT_S))

                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(pop)
                        while not all(each["waiting_pops"] for each in (await other.node_statistics()).values()):
                            pass
                        tasks.start_soon(other.push, "a", b"%d-0" % number)
                        tasks.start_soon(other.push, "a", b"%d-1" % number)
                rest = await other.pop("a", wait=WAIT_S)
                assert {*popped, rest} == {b"%d-0" % number, b"%d-1" % number}

    run(kind, work, 2)


def test_a_blocking_pop_at_two_nodes_keeps_what_the_other_has_given() -> None:
    with running_queue(2) as nodes, ThreadPoolExecutor(1) as thread:
        for number in range(20):
            with swarm.blocking.QueueClient(nodes.addresses) as other:
                with swarm.blocking.QueueClient(nodes.addresses) as queue:
                    popping = thread.submit(queue.pop, "a", wait=WAIT_S)
                    other.push("a", b"%d-0" % number)
                    other.push("a", b"%d-1" % number)
                    given = {popping.result()}
                    if number % 2:
                        given.add(queue.pop("a", wait=WAIT_S))
                if not number % 2:
                    given.add(other.pop("a", wait=WAIT_S))
                assert given == {b"%d-0" % number, b"%d-1" % number}


@pytest.mark.parametrize("nodes", [1, 2])
def test_an_interrupt_of_a_blocking_pop_that_waits_loses_nothing(nodes: int) -> None:
    with running_queue(nodes) as running, swarm.blocking.QueueClient(running.addresses) as queue:
        given: list[bytes | None] = []

        def interrupt(number: int) -> None:
            """While the pop waits at the node; then a record is pushed, which the node may give to it all the same."""
            with swarm.blocking.QueueClient(running.addresses) as other:
                while not all(each["waiting_pops"] for each in other.node_statistics().values()):
                    pass
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                other.push("a", b"%d" % number)

        for number in range(10):
            with ThreadPoolExecutor(1) as thread:
                done = thread.submit(interrupt, number)
                try:
                    given.append(queue.pop("a", wait=WAIT_S))
                    done.result()  # the interrupt may come here too
                except KeyboardInterrupt:
                    done.result()
            if len(given) == number:
                given.append(queue.pop("a", wait=WAIT_S))
            assert given[number] == b"%d" % number


@every_async_client
def test_an_answer_that_comes_after_the_timeout_is_kept(kind: str, tmp_path: Path) -> None:
    async def work(address: str) -> None:

        with anyio.fail_after(HANG_S):
            async with QueueClient([address], timeout=0.2) as queue:
                await queue.push("a", b"record")
                with node.paused(), pytest.raises(RequestTimeout):
                    await queue.pop("a")
                assert await queue.pop("a", wait=WAIT_S) == b"record"

    with QueueProcess(tmp_path) as node:
        anyio.run(work, node.address, backend=kind)


def test_a_blocking_answer_that_comes_after_the_timeout_is_kept(tmp_path: Path) -> None:

    with QueueProcess(tmp_path) as node, swarm.blocking.QueueClient([node.address], timeout=0.2) as queue:
        queue.push("a", b"record")
        with node.paused(), pytest.raises(RequestTimeout):
            queue.pop("a")
        assert queue.pop("a", wait=WAIT_S) == b"record"
