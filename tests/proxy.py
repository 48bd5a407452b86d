"""Connections that break where a test says."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from swarm.core.config import parse_address


@dataclass
class Cut:
    """Where a connection through the proxy breaks: behind so many bytes of what the client, or the node, has sent."""

    requests: int | None = None
    answers: int | None = None
    then: Callable[[], None] = lambda: None


class Proxy:
    """A TCP proxy before a node. The first connections through it are cut as `cuts` says, the others live."""

    def __init__(self, node: str) -> None:
        self._node = parse_address(node)
        self.address = ""
        self.cuts: deque[Cut] = deque()
        self.connections = 0

    async def serve(self, started: "Future[Callable[[], None]]") -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listeners[0].socket.getsockname()
        self.address = f"{host}:{port}"
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            started.set_result(lambda: token.run_sync_soon(scope.cancel))
            await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, client: trio.SocketStream) -> None:
        self.connections += 1
        cut = self.cuts.popleft() if self.cuts else Cut()
        try:
            node = await trio.open_tcp_stream(self._node.host, self._node.port)
        except OSError:
            await client.aclose()
            return
        async with client, node, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, node, cut.requests, cut.then, nursery.cancel_scope)
            nursery.start_soon(self._pump, node, client, cut.answers, cut.then, nursery.cancel_scope)

    async def _pump(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        left: int | None,
        then: Callable[[], None],
        scope: trio.CancelScope,
    ) -> None:
        try:
            async for data in source:
                data = data[:left]
                await sink.send_all(data)
                if left is not None:
                    left -= len(data)
                    if left == 0:
                        await trio.to_thread.run_sync(then)
                        break
        except trio.BrokenResourceError:
            pass
        scope.cancel()


@contextmanager
def proxy_before(node: str) -> Iterator[Proxy]:
    proxy = Proxy(node)
    with ThreadPoolExecutor(1) as thread:
        started: Future[Callable[[], None]] = Future()
        finished = thread.submit(trio.run, proxy.serve, started)
        stop = started.result(10)
        try:
            yield proxy
        finally:
            stop()
            finished.result()
