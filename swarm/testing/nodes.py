"""Real nodes inside the process of a test, of whatever kind.

run_in_thread    the nodes have a thread with a trio.run of its own, and listen on loopback or Unix sockets
run_in_memory    the nodes are tasks of the test's own trio.run, and clients reach them over memory streams
"""

import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio.lowlevel
import trio

from swarm.core.config import Address
from swarm.core.node import Node, listen
from swarm.core.select_listener import SelectListener
from swarm.core.tls import TlsSection, node_tls
from swarm.core.transports import SocketTransport, Transport
from swarm.testing.memory import connect_in_memory

MakeNode = Callable[[], Node]


def with_tls(make_node: MakeNode, section: TlsSection) -> MakeNode:
    """Makes nodes that speak TLS where they listen on loopback, if [tls] of their configuration says so."""

    def make() -> Node:
        node = make_node()
        node.tls = node_tls(section)
        return node

    return make


class RunningNodes:
    """Nodes that listen."""

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
            raise ConnectionRefusedError(f"none of these nodes has the address {address}")
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
def run_in_thread(kind: str, makers: Sequence[MakeNode], unix_directory: Path | None) -> Iterator[RunningNodes]:
    """Runs nodes in a thread, until the block is left.

    kind: of node, for names. unix_directory: listen on Unix sockets in it, and not on loopback.
    """
    places = [
        Address.unix(str(unix_directory / f"{kind}-{number}.sock")) if unix_directory else Address("127.0.0.1", 0)
        for number in range(len(makers))
    ]
    sockets: dict[str, socket.socket] = {}
    with ExitStack() as opened, ThreadPoolExecutor(1, kind) as thread:
        for place in places:
            sock = opened.enter_context(listen(place))
            sockets[str(place if place.is_unix else Address(*sock.getsockname()))] = sock
        started: Future[RunningNodes] = Future()
        finished = thread.submit(trio.run, _serve, makers, sockets, started)
        either: list[Future[Any]] = [started, finished]
        wait(either, return_when=FIRST_COMPLETED)
        if not started.done():
            finished.result()  # raises why not
        running = started.result()
        try:
            yield running
        finally:
            running._stop()
            finished.result()


async def _serve(
    makers: Sequence[MakeNode], sockets: Mapping[str, socket.socket], started: "Future[RunningNodes]"
) -> None:
    nodes = [make_node() for make_node in makers]
    async with trio.open_nursery() as nursery:
        listeners = {}
        for node, (address, sock) in zip(nodes, sockets.items(), strict=True):
            listeners[address] = await nursery.start(node.run, [sock])
        started.set_result(RunningNodes(nodes, listeners, trio.lowlevel.current_trio_token()))


class MemoryNodes:
    """Nodes that are reached over memory streams."""

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
            raise ConnectionRefusedError(f"none of these nodes has the address {address}")
        return connect_in_memory(node.service, self._nursery)


@asynccontextmanager
async def run_in_memory(makers: Sequence[MakeNode]) -> AsyncIterator[MemoryNodes]:
    """Runs nodes as tasks of this trio.run, until the block is left. An error of a node cancels the block."""
    made = {f"memory-{number}:1": make_node() for number, make_node in enumerate(makers)}
    failed: BaseException | None = None
    async with trio.open_nursery() as running:
        for node in made.values():
            await running.start(node.run, [])
        async with trio.open_nursery() as connections:
            try:
                yield MemoryNodes(made, connections)
            except BaseException as error:  # noqa: BLE001 - raised below, as it is and not in groups of our nurseries
                failed = error
            connections.cancel_scope.cancel()
        for node in made.values():
            node.stop()
    if failed is not None:
        raise failed
