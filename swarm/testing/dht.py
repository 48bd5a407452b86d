"""Real dht nodes inside the process of a test.

running_dht      the nodes have a thread with a trio.run of its own, and listen on loopback or Unix sockets
dht_in_memory    the nodes are tasks of the test's own trio.run, and clients reach them over memory streams
"""

import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.lowlevel
import trio

from nodes.dht.config import DhtConfig
from nodes.dht.node import make_node
from swarm.core.config import Address
from swarm.core.node import Node, listen
from swarm.core.select_listener import SelectListener
from swarm.core.transports import SocketTransport, Transport
from swarm.dht.hash_range import split_evenly
from swarm.testing.memory import connect_in_memory


class RunningDht:
    """The nodes that running_dht has started."""

    def __init__(
        self, nodes: Sequence[Node], listeners: Mapping[str, SelectListener], token: trio.lowlevel.TrioToken
    ) -> None:
        self.addresses = list(listeners)
        """Of all nodes, as clients take them."""
        self._nodes = nodes
        self._listeners = listeners
        self._token = token

    async def connect(self, address: Address) -> Transport:
        """For `DhtClient(dht.addresses, connect=dht.connect)`, trio and asyncio: connects by a pair of sockets, so that
        nothing passes through the network. Raises ConnectionRefusedError as a connection to a dead address does.
        """
        listener = self._listeners.get(str(address))
        if listener is None:
            raise ConnectionRefusedError(f"no node of this dht has the address {address}")
        await anyio.lowlevel.checkpoint()
        ours, theirs = socket.socketpair()

        def adopt() -> None:
            try:
                listener.adopt(theirs, "socket pair")
            except ValueError:  # its epoll set is closed: the node has stopped
                theirs.close()

        try:
            self._token.run_sync_soon(adopt)
        except trio.RunFinishedError:
            ours.close()
            theirs.close()
            raise ConnectionRefusedError("the nodes have stopped") from None
        ours.setblocking(False)
        return SocketTransport(ours)

    def _stop(self) -> None:
        def stop() -> None:
            for node in self._nodes:
                node.stop()

        with suppress(trio.RunFinishedError):  # they have crashed
            self._token.run_sync_soon(stop)


@contextmanager
def running_dht(
    nodes: int | Sequence[DhtConfig] = 1, *, config: DhtConfig | None = None, unix_directory: Path | None = None
) -> Iterator[RunningDht]:
    """Runs dht nodes in a thread, until the block is left.

    For tests of every kind of program, with an event loop or without; entering and leaving block for some
    milliseconds. A node that crashes breaks its connections, and its error is raised when the block is left.

    nodes: how many, of which each has an equal part of the hash range; or the configuration of each.
    config: limits and memory limit of every node; its address, data directory and logs are not used.
    unix_directory: listen on Unix sockets in it, and not on loopback.
    """
    configs = _configs(nodes, config)
    places = [
        Address.unix(str(unix_directory / f"dht-{number}.sock")) if unix_directory else Address("127.0.0.1", 0)
        for number in range(len(configs))
    ]
    sockets: dict[str, socket.socket] = {}
    with ExitStack() as opened, ThreadPoolExecutor(1, "dht") as thread:
        for place in places:
            sock = opened.enter_context(listen(place))
            sockets[str(place if place.is_unix else Address(*sock.getsockname()))] = sock
        started: Future[RunningDht] = Future()
        finished = thread.submit(trio.run, _serve, configs, sockets, started)
        either: list[Future[Any]] = [started, finished]
        wait(either, return_when=FIRST_COMPLETED)
        if not started.done():
            finished.result()  # raises why not
        dht = started.result()
        try:
            yield dht
        finally:
            dht._stop()
            finished.result()


async def _serve(
    configs: Sequence[DhtConfig], sockets: Mapping[str, socket.socket], started: "Future[RunningDht]"
) -> None:
    nodes = [make_node(config) for config in configs]
    async with trio.open_nursery() as nursery:
        listeners = {}
        for node, (address, sock) in zip(nodes, sockets.items(), strict=True):
            listeners[address] = await nursery.start(node.run, [sock])
        started.set_result(RunningDht(nodes, listeners, trio.lowlevel.current_trio_token()))


class MemoryDht:
    """The nodes that dht_in_memory has started."""

    def __init__(self, nodes: Mapping[str, Node], nursery: trio.Nursery) -> None:
        self.addresses = list(nodes)
        """Names that stand for the nodes; only `connect` knows them."""
        self.nodes = list(nodes.values())
        self._nodes = nodes
        self._nursery = nursery

    async def connect(self, address: Address) -> Transport:
        """For `DhtClient(dht.addresses, connect=dht.connect)`. Raises ConnectionRefusedError for other addresses."""
        await trio.lowlevel.checkpoint()
        node = self._nodes.get(str(address))
        if node is None:
            raise ConnectionRefusedError(f"no node of this dht has the address {address}")
        return connect_in_memory(node.service, self._nursery)


@asynccontextmanager
async def dht_in_memory(
    nodes: int | Sequence[DhtConfig] = 1, *, config: DhtConfig | None = None
) -> AsyncIterator[MemoryDht]:
    """Runs dht nodes as tasks of this trio.run, until the block is left. For programs under trio.

    Nothing waits for anything outside, so with trio's autojump clock timeouts pass in no time.
    An error of a node cancels the block. nodes and config are as for running_dht.
    """
    made = {f"memory-{number}:1": make_node(each) for number, each in enumerate(_configs(nodes, config))}
    failed: BaseException | None = None
    async with trio.open_nursery() as running:
        for node in made.values():
            await running.start(node.run, [])
        async with trio.open_nursery() as connections:
            try:
                yield MemoryDht(made, connections)
            except BaseException as error:  # noqa: BLE001 - raised below, as it is and not in groups of our nurseries
                failed = error
            connections.cancel_scope.cancel()
        for node in made.values():
            node.stop()
    if failed is not None:
        raise failed


def _configs(nodes: int | Sequence[DhtConfig], config: DhtConfig | None) -> Sequence[DhtConfig]:
    if not isinstance(nodes, int):
        assert config is None, "each node has its configuration already"
        return [_without_files(each) for each in nodes]
    base = _without_files(config or DhtConfig())
    return [replace(base, node=replace(base.node, hash_range=each)) for each in split_evenly(nodes)]


def _without_files(config: DhtConfig) -> DhtConfig:
    return replace(config, journal=replace(config.journal, enabled=False))
