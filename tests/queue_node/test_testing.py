"""Queue nodes for the tests of other programs (swarm.testing)."""

from pathlib import Path

import trio
import trio.testing
from core.raw_client import RawClient
from queue_node.raw_queue import KIB, POP, PUSH, SIZE, WAIT_POP

from nodes.queue.config import QueueConfig, QueueSection
from swarm.core.config import parse_address
from swarm.core.stream_driver import serve_stream
from swarm.testing import queue_in_memory, running_queue

TEST_S = 20.0


async def connect(address: str) -> RawClient:
    parsed = parse_address(address)
    if parsed.is_unix:
        client = RawClient(await trio.open_unix_socket(parsed.path))
        await client.greet()
        return client
    return await RawClient.connect((parsed.host, parsed.port))


async def test_nodes_in_a_thread(tmp_path: Path) -> None:
    with trio.fail_after(TEST_S), running_queue(2) as queue:
        assert len(queue.addresses) == 2
        for address in queue.addresses:
            client = await connect(address)
            assert await client.result(SIZE) == [0, 0, 0]
            await client.result(PUSH, "c", b"x")
            await client.close()


async def test_nodes_in_a_thread_that_hold_what_earlier_ones_held(tmp_path: Path) -> None:
    config = QueueConfig(queue=QueueSection(ring_bytes=64 * KIB))
    for number in range(3):
        with trio.fail_after(TEST_S), running_queue(config=config, data=tmp_path, unix_directory=tmp_path) as queue:
            client = await connect(queue.addresses[0])
            assert await client.result(SIZE) == [min(number, 1), number, number]
            await client.result(PUSH, "c", b"x")
            await client.close()


async def test_nodes_in_memory(autojump_clock: trio.testing.MockClock) -> None:
    async with queue_in_memory() as queue, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve_stream, queue.nodes[0].service, theirs)
        client = RawClient(ours)
        await client.greet()
        begun = trio.current_time()
        assert await client.result(WAIT_POP, "c", 1, 1_000_000) == [b"", b""]
        assert trio.current_time() - begun >= 1000
        await client.result(PUSH, "c", b"x")
        assert await client.result(POP, "c") == b"x"
        nursery.cancel_scope.cancel()
