"""Real queue nodes inside the process of a test; their queues are files in a temporary directory."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nodes.queue.config import QueueConfig, QueueSection
from nodes.queue.node import close_queues, make_node
from swarm.core.limits import MIB
from swarm.core.node import Node
from swarm.testing.nodes import MakeNode, MemoryNodes, RunningNodes, run_in_memory, run_in_thread, with_tls

RING_BYTES = 1 * MIB  # of each queue, unless a configuration says otherwise: a test has room for many


@contextmanager
def running_queue(
    nodes: int | Sequence[QueueConfig] = 1,
    *,
    config: QueueConfig | None = None,
    data: Path | None = None,
    unix_directory: Path | None = None,
) -> Iterator[RunningNodes]:
    """Runs queue nodes in a thread, until the block is left.

    For tests of every kind of program, with an event loop or without; entering and leaving block for some
    milliseconds. A node that crashes breaks its connections, and its error is raised when the block is left.

    nodes: how many, or the configuration of each.
    config: of every node; by default queues of 1 MiB. Address, data directory and logs in it are not used.
    data: directory for what they hold, so that nodes which run later hold it too; by default a temporary one.
    unix_directory: listen on Unix sockets in it, and not on loopback.
    """
    with _makers(nodes, config, data) as makers, run_in_thread("queue", makers, unix_directory) as running:
        yield running


@asynccontextmanager
async def queue_in_memory(
    nodes: int | Sequence[QueueConfig] = 1, *, config: QueueConfig | None = None, data: Path | None = None
) -> AsyncIterator[MemoryNodes]:
    """Runs queue nodes as tasks of this trio.run, until the block is left. For programs under trio.

    Connections are in memory, so with trio's autojump clock timeouts pass in no time; the queues are files.
    An error of a node cancels the block. The arguments are as for running_queue.
    """
    with _makers(nodes, config, data) as makers:
        async with run_in_memory(makers) as running:
            yield running


@contextmanager
def _makers(
    nodes: int | Sequence[QueueConfig], config: QueueConfig | None, data: Path | None
) -> Iterator[list[MakeNode]]:
    """Functions that make the nodes, whose queues are closed when the block is left."""
    made: list[Node] = []
    with TemporaryDirectory(prefix="swarm-queue-", ignore_cleanup_errors=True) as temporary:
        configs = _configs(nodes, config)

        def maker(number: int, each: QueueConfig) -> MakeNode:
            directory = (data or Path(temporary)) / str(number)
            placed = replace(each, node=replace(each.node, data=directory))

            def make() -> Node:
                made.append(make_node(placed))
                return made[-1]

            return with_tls(make, placed.tls)

        try:
            yield [maker(number, each) for number, each in enumerate(configs)]
        finally:
            for node in made:
                close_queues(node)


def _configs(nodes: int | Sequence[QueueConfig], config: QueueConfig | None) -> Sequence[QueueConfig]:
    if not isinstance(nodes, int):
        assert config is None, "each node has its configuration already"
        return nodes
    return [config or QueueConfig(queue=QueueSection(ring_bytes=RING_BYTES, fsync="never"))] * nodes
