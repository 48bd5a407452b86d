"""Real dht nodes inside the process of a test."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from nodes.dht.config import DhtConfig
from nodes.dht.node import make_node
from swarm.dht.hash_range import split_evenly
from swarm.testing.nodes import MakeNode, MemoryNodes, RunningNodes, run_in_memory, run_in_thread, with_tls


@contextmanager
def running_dht(
    nodes: int | Sequence[DhtConfig] = 1, *, config: DhtConfig | None = None, unix_directory: Path | None = None
) -> Iterator[RunningNodes]:
    """Runs dht nodes in a thread, until the block is left.

    For tests of every kind of program, with an event loop or without; entering and leaving block for some
    milliseconds. A node that crashes breaks its connections, and its error is raised when the block is left.

    nodes: how many, of which each has an equal part of the hash range; or the configuration of each.
    config: limits, memory limit and TLS of every node; its address, data directory and logs are not used.
    unix_directory: listen on Unix sockets in it, and not on loopback.
    """
    with run_in_thread("dht", _makers(nodes, config), unix_directory) as running:
        yield running


@asynccontextmanager
async def dht_in_memory(
    nodes: int | Sequence[DhtConfig] = 1, *, config: DhtConfig | None = None
) -> AsyncIterator[MemoryNodes]:
    """Runs dht nodes as tasks of this trio.run, until the block is left. For programs under trio.

    Nothing waits for anything outside, so with trio's autojump clock timeouts pass in no time.
    An error of a node cancels the block. nodes and config are as for running_dht.
    """
    async with run_in_memory(_makers(nodes, config)) as running:
        yield running


def _makers(nodes: int | Sequence[DhtConfig], config: DhtConfig | None) -> list[MakeNode]:
    if not isinstance(nodes, int):
        assert config is None, "each node has its configuration already"
        return [with_tls(partial(make_node, _without_files(each)), each.tls) for each in nodes]
    base = _without_files(config or DhtConfig())
    configs = [replace(base, node=replace(base.node, hash_range=each)) for each in split_evenly(nodes)]
    return [with_tls(partial(make_node, each), each.tls) for each in configs]


def _without_files(config: DhtConfig) -> DhtConfig:
    return replace(config, journal=replace(config.journal, enabled=False))
