"""Real logfiles nodes inside the process of a test; what they hold is in files in a temporary directory."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nodes.logfiles.config import LogfilesConfig, StoreSection
from nodes.logfiles.node import make_node
from nodes.logfiles.off_loop import OffLoop, at_once, in_thread
from swarm.testing.nodes import MakeNode, MemoryNodes, RunningNodes, run_in_memory, run_in_thread, with_tls


@contextmanager
def running_logfiles(
    nodes: int | Sequence[LogfilesConfig] = 1,
    *,
    config: LogfilesConfig | None = None,
    data: Path | None = None,
    unix_directory: Path | None = None,
) -> Iterator[RunningNodes]:
    """Runs logfiles nodes in a thread, until the block is left.

    For tests of every kind of program, with an event loop or without; entering and leaving block for some
    milliseconds. A node that crashes breaks its connections, and its error is raised when the block is left.

    nodes: how many, or the configuration of each.
    config: of every node; by default nothing is synced. Address, data directory and logs in it are not used.
    data: directory for what they hold, so that nodes which run later hold it too; by default a temporary one.
    unix_directory: listen on Unix sockets in it, and not on loopback.
    """
    with (
        _makers(nodes, config, data, in_thread) as makers,
        run_in_thread("logfiles", makers, unix_directory) as running,
    ):
        yield running


@asynccontextmanager
async def logfiles_in_memory(
    nodes: int | Sequence[LogfilesConfig] = 1, *, config: LogfilesConfig | None = None, data: Path | None = None
) -> AsyncIterator[MemoryNodes]:
    """Runs logfiles nodes as tasks of this trio.run, until the block is left. For programs under trio.

    Connections are in memory, so with trio's autojump clock timeouts pass in no time; what they hold is in files.
    An error of a node cancels the block. The arguments are as for running_logfiles.
    """
    with _makers(nodes, config, data, at_once) as makers:
        async with run_in_memory(makers) as running:
            yield running


@contextmanager
def _makers(
    nodes: int | Sequence[LogfilesConfig], config: LogfilesConfig | None, data: Path | None, off_loop: OffLoop
) -> Iterator[list[MakeNode]]:
    """Functions that make the nodes."""
    with TemporaryDirectory(prefix="swarm-logfiles-", ignore_cleanup_errors=True) as temporary:

        def maker(number: int, each: LogfilesConfig) -> MakeNode:
            directory = (data or Path(temporary)) / str(number)
            placed = replace(each, node=replace(each.node, data=directory))
            return with_tls(lambda: make_node(placed, off_loop=off_loop), placed.tls)

        yield [maker(number, each) for number, each in enumerate(_configs(nodes, config))]


def _configs(nodes: int | Sequence[LogfilesConfig], config: LogfilesConfig | None) -> Sequence[LogfilesConfig]:
    if not isinstance(nodes, int):
        assert config is None, "each node has its configuration already"
        return nodes
    return [config or LogfilesConfig(store=StoreSection(fsync="never"))] * nodes
