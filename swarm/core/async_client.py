"""What the clients for trio and asyncio share: nodes to be reached, and operations carried out within a deadline."""

import math
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

from swarm.core import limits, operations, protocol
from swarm.core.async_connection import Connection
from swarm.core.client_session import (
    WAIT_FOR_NODES,
    Call,
    FirstOf,
    Result,
    Steps,
    check_not_refused,
    describe,
    result_of,
)
from swarm.core.config import Address
from swarm.core.connection_settings import ConnectionSettings
from swarm.core.credentials import CredentialsOption, read_credentials
from swarm.core.errors import (
    ClientClosed,
    ConnectionLost,
    NodeUnreachable,
    RequestTimeout,
    SwarmError,
    checked_timeout,
    no_node_responsible,
    not_connected,
)
from swarm.core.event_loop import EventLoop, current_event_loop
from swarm.core.known_nodes import KnownNodes
from swarm.core.protocol import Request
from swarm.core.session import NodeHello
from swarm.core.stats import RequestStatistics
from swarm.core.transports import Transport, connect_socket
from swarm.core.waiters import Waiter


class AsyncClient:
    """Base of the clients for trio and asyncio: `async with` opens it, connects in the background and closes it."""

    kind: str

    def __init__(
        self,
        nodes: Sequence[Address],
        known: KnownNodes,
        *,
        timeout: float,
        compression: bool,
        credentials: CredentialsOption,
        tls: ssl.SSLContext | None,
        connect: Callable[..., Awaitable[Transport]] = connect_socket,
    ) -> None:
        """known: learns what the nodes' hellos tell, in the same order."""
        self._timeout_s = checked_timeout(timeout)
        self._known = known
        settings = ConnectionSettings(self.kind, timeout, compression, read_credentials(credentials))
        reach = connect if tls is None else partial(connect, tls=tls)
        self._connections = [
            Connection(address, settings, reach, self._hello_handler(number)) for number, address in enumerate(nodes)
        ]
        for connection in self._connections:
            connection.at_change.add(self._look_for_refusal)
        self._statistics: dict[int, RequestStatistics] = {}
        self._node_came: anyio.Event | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._loop: EventLoop | None = None
        """The event loop it was opened in; None while it is not open."""

    def _hello_handler(self, number: int) -> Callable[[NodeHello], None]:
        def handle(hello: NodeHello) -> None:
            self._known.learn(number, hello)
            self._tell_of_node()

        return handle

    def _look_for_refusal(self) -> None:
        if any(connection.refused for connection in self._connections):
            self._tell_of_node()

    def _tell_of_node(self) -> None:
        """A node was reached, or one of the two has refused the other."""
        if self._node_came is not None:
            self._node_came.set()
            self._node_came = anyio.Event()

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise ClientClosed("the client is open already")
        self._loop = current_event_loop()
        self._node_came = anyio.Event()
        self._tasks = await anyio.create_task_group().__aenter__()
        for connection in self._connections:
            self._tasks.start_soon(connection.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)  # the program's own error goes on as it is, in no group
        finally:
            self._tasks = self._loop = None
            for connection in self._connections:
                connection.tell_change()
        return None

    async def ready(self) -> None:
        """Waits until every node is connected. NodeUnreachable after the timeout."""
        if self._loop is None:
            raise ClientClosed("the client is not open: use it inside `async with`")
        deadline = self._loop.clock() + self._timeout_s
        for connection in self._connections:
            await self._wait_ready(connection, deadline)

    def statistics(self) -> dict[str, Any]:
        """Of every request that was used: in flight, handled, failed, histogram of times; by the request's name."""
        return {each.name: each.snapshot() for each in self._statistics.values()}

    async def channels(self) -> list[str]:
        """The names of all channels, sorted."""
        return await self._run(operations.channels(self._known))

    async def channel_size(self, channel: str) -> tuple[int, int]:
        """Records, and their bytes (keys and values, where they have both); (0, 0) where the channel does not exist."""
        return await self._run(operations.channel_size(self._known, channel))

    async def size(self) -> tuple[int, int]:
        """Records, and bytes of them, of all channels on all nodes."""
        return await self._run(operations.size(self._known))

    async def remove_channel(self, channel: str) -> bool:
        """Removes a channel and all its records on every node; whether any had it. Who is reading it is told."""
        return await self._run(operations.remove_channel(self._known, channel))

    async def node_statistics(self) -> dict[str, dict[str, Any]]:
        """What each node counts, by its address; the same values as in its stats.log."""
        return await self._run(operations.node_statistics(self._known))

    async def node_health(self) -> dict[str, list[tuple[str, str]]]:
        """What is wrong with each node, by its address: the rule's name, and what to do; nothing where all is well."""
        return await self._run(operations.node_health(self._known))

    async def node_events(self) -> dict[str, list[tuple[float, str, str]]]:
        """The last warnings and errors of each node's root.log since it was started, by its address, oldest first: time
        (seconds since the epoch), level, text."""
        return await self._run(operations.node_events(self._known))

    async def ping(self) -> None:
        """Returns when every node has answered."""
        await self._run(operations.ping(self._known))

    async def _run(self, steps: Steps[Result]) -> Result:
        """Carries out an operation: does what it asks for until it returns."""
        loop = self._loop
        if loop is None:
            raise ClientClosed("the client is not open: use it inside `async with`")
        begun = loop.clock()
        try:
            step = next(steps)
            while True:
                try:
                    if type(step) is Call:
                        result = await self._call(loop, step, begun + self._timeout_s)
                    elif type(step) is FirstOf:
                        result = await first_of(self, loop, step)
                        begun += result[1]  # it was asked to wait so long
                    elif step is WAIT_FOR_NODES:
                        result = None
                        await self._wait_for_nodes(begun + self._timeout_s)
                    else:
                        result = await self._call_all(loop, step)
                except SwarmError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except BaseException:
            steps.close()  # now: it may have something to put aside
            raise

    async def _call(self, loop: EventLoop, call: Call, deadline: float) -> Any:
        """The result of one request. It is sent again where the connection broke and it may be repeated."""
        connection = self._connections[call.node]
        if call.at_once and not connection.ready:
            raise describe(not_connected(connection.last_error), call.request, connection.name)
        statistics = self._statistics_of(call.request)
        statistics.in_flight += 1
        begun = time.perf_counter()
        try:
            while True:
                if not connection.ready:
                    await self._wait_ready(connection, deadline, call.request)
                waiter = loop.waiter(deadline + call.wait_s)
                connection.submit(call.request, call.arguments, waiter)
                try:
                    await waiter.wait()
                except BaseException:
                    connection.abandon(call, waiter)
                    raise
                if waiter.error is None:
                    return result_of(call, connection.name, waiter.status, waiter.result)
                if not self._may_repeat(loop, call, waiter):
                    connection.expect_late(call, waiter)
                    raise describe(waiter.error, call.request, connection.name)
        except SwarmError:
            statistics.failed += 1
            raise
        finally:
            statistics.in_flight -= 1
            statistics.record(1, time.perf_counter() - begun)

    def _answer_of(self, call: Call, waiter: Waiter) -> Any:
        """What a request was answered; an error in place of a result."""
        connection = self._connections[call.node]
        try:
            if waiter.error is None:
                return result_of(call, connection.name, waiter.status, waiter.result)
        except SwarmError as error:
            return error
        connection.expect_late(call, waiter)
        return describe(waiter.error, call.request, connection.name)

    def _may_repeat(self, loop: EventLoop, call: Call, waiter: Waiter) -> bool:
        return isinstance(waiter.error, ConnectionLost) and call.request.repeatable and loop.clock() < waiter.deadline

    async def _call_all(self, loop: EventLoop, calls: list[Call]) -> list[Any]:
        """The results of many requests, in their order, an error in place of a result.

        Several are in flight at every node.
        """
        batch = _CallsInFlight(self, loop, calls)
        nodes = {call.node for call in calls}
        if len(nodes) == 1:
            await batch.run(nodes.pop())
        else:
            async with anyio.create_task_group() as tasks:
                for node in nodes:
                    tasks.start_soon(batch.run, node)
        return batch.results

    async def _wait_ready(self, connection: Connection, deadline: float, request: Request | None = None) -> None:
        with anyio.move_on_at(deadline):
            await connection.wait_ready(request)
            return
        why = f" ({connection.last_error})" if connection.last_error else ""
        error = NodeUnreachable(f"it was not reached within {self._timeout_s:g} s{why}; nothing was sent")
        error.node = connection.name
        error.request = request.name if request else None
        raise error from connection.last_error

    async def _wait_for_nodes(self, deadline: float) -> None:
        assert self._node_came is not None
        missing = [connection for connection in self._connections if not connection.ready]
        if not missing:
            raise no_node_responsible()
        _check_none_refused(missing)
        with anyio.move_on_at(deadline):
            await self._node_came.wait()
            _check_none_refused(missing)
            return
        why = "; ".join(f"{connection.name}: {connection.last_error or 'no answer'}" for connection in missing)
        raise NodeUnreachable(
            f"no other node was reached within {self._timeout_s:g} s (not reached: {why}); nothing was sent"
        )

    def _statistics_of(self, request: Request) -> RequestStatistics:
        statistics = self._statistics.get(request.code)
        if statistics is None:
            statistics = self._statistics[request.code] = RequestStatistics(request.name)
        return statistics


def _check_none_refused(connections: list[Connection]) -> None:
    for connection in connections:
        check_not_refused(connection.refused, connection.name, None)


class _CallsInFlight:
    """Many requests that are carried out side by side, as many at a time as CLIENT_PARTS_BYTES allows for each node.

    After an error of a node, what was not sent to it yet is not sent, and has this error too.
    """

    def __init__(self, client: AsyncClient, loop: EventLoop, calls: list[Call]) -> None:
        self.results: list[Any] = [None] * len(calls)
        self._client = client
        self._loop = loop
        self._calls = calls

    async def run(self, node: int) -> None:
        """Carries out those for one node."""
        connection = self._client._connections[node]
        in_flight: deque[tuple[int, Waiter, float]] = deque()
        size = 0
        error: SwarmError | None = None
        unsent = {position: call for position, call in enumerate(self._calls) if call.node == node}
        try:
            for position, call in list(unsent.items()):
                while in_flight and size + call.size > limits.CLIENT_PARTS_BYTES:
                    size -= self._calls[in_flight[0][0]].size
                    error = await self._finish(connection, *in_flight.popleft()) or error
                if error is None:
                    try:
                        in_flight.append((position, *(await self._submit(connection, call))))
                        del unsent[position]
                        size += call.size
                        continue
                    except SwarmError as failed:
                        error = failed
                self.results[position] = error
            while in_flight:
                await self._finish(connection, *in_flight.popleft())
        finally:
            for position, waiter, _ in in_flight:
                connection.abandon(self._calls[position], waiter)
                self._client._statistics_of(self._calls[position].request).in_flight -= 1
            for call in unsent.values():
                if call.unsent is not None:
                    connection.notify(call.request, call.unsent, self._loop.waiter(math.inf))

    async def _submit(self, connection: Connection, call: Call) -> tuple[Waiter, float]:
        deadline = self._loop.clock() + self._client._timeout_s
        if not connection.ready:
            if call.at_once:
                raise describe(not_connected(connection.last_error), call.request, connection.name)
            await self._client._wait_ready(connection, deadline, call.request)
        waiter = self._loop.waiter(deadline)
        connection.submit(call.request, call.arguments, waiter)
        self._client._statistics_of(call.request).in_flight += 1
        return waiter, time.perf_counter()

    async def _finish(self, connection: Connection, position: int, waiter: Waiter, begun: float) -> SwarmError | None:
        """Waits for an answer and notes it; returns the error, if it is one."""
        call = self._calls[position]
        statistics = self._client._statistics_of(call.request)
        try:
            await waiter.wait()
        except BaseException:
            connection.abandon(call, waiter)
            raise
        finally:
            statistics.in_flight -= 1
            statistics.record(1, time.perf_counter() - begun)
        try:
            if waiter.error is None:
                self.results[position] = result_of(call, connection.name, waiter.status, waiter.result)
            elif self._client._may_repeat(self._loop, call, waiter):
                self.results[position] = await self._client._call(self._loop, call, waiter.deadline)
            else:
                connection.expect_late(call, waiter)
                raise describe(waiter.error, call.request, connection.name)
        except SwarmError as error:
            statistics.failed += 1
            self.results[position] = error
            return error
        return None


class _FirstWaiter(Waiter):
    """Of one of several requests of which the first answer is waited for."""

    __slots__ = ("_tell",)

    def __init__(self, deadline: float, tell: Callable[[], None]) -> None:
        super().__init__(deadline)
        self._tell = tell

    def _wake(self) -> None:
        self._tell()


async def first_of(client: AsyncClient, loop: EventLoop, step: FirstOf) -> tuple[list[Any], float]:
    """Carries out requests side by side until there is enough; their results, and how long it took."""
    begun = loop.clock()
    news = loop.waiter(math.inf)
    results: list[Any] = [None] * len(step.calls)
    in_flight: dict[int, _FirstWaiter] = {}

    def tell() -> None:
        news.answer(protocol.DONE, None)

    step.arrivals.add(tell)
    try:
        for position, call in enumerate(step.calls):
            connection = client._connections[call.node]
            if call.at_once and not connection.ready:
                error = not_connected(connection.last_error)
                results[position] = describe(error, call.request, connection.name)
                continue
            if not connection.ready:
                await client._wait_ready(connection, begun + client._timeout_s, call.request)
            waiter = _FirstWaiter(begun + client._timeout_s + call.wait_s, tell)
            connection.submit(call.request, call.arguments, waiter)
            in_flight[position] = waiter
        while in_flight and not step.enough():
            await news.wait()
            news.done = False
            for position, waiter in list(in_flight.items()):
                if waiter.done:
                    results[position] = client._answer_of(step.calls[position], in_flight.pop(position))
                    client._statistics_of(step.calls[position].request).record(1, loop.clock() - begun)
    finally:
        step.arrivals.discard(tell)
        for position, waiter in in_flight.items():
            client._connections[step.calls[position].node].abandon(step.calls[position], waiter)
    return results, loop.clock() - begun


class AsyncStream:
    """One request that streams, on one connection."""

    def __init__(self, client: AsyncClient, call: Call) -> None:
        self._client = client
        self._call = call
        self._connection = client._connections[call.node]
        self._waiter: Waiter | None = None
        self.result: Any = None
        """What the final reply told, at the end."""

    async def open(self) -> None:
        """Sends the request. NodeUnreachable."""
        loop = self._client._loop
        assert loop is not None
        if not self._connection.ready:
            deadline = loop.clock() + self._client._timeout_s
            await self._client._wait_ready(self._connection, deadline, self._call.request)
        self._waiter = loop.waiter(math.inf)
        self._waiter.batches = deque()
        self._connection.submit(self._call.request, self._call.arguments, self._waiter)

    async def next(self) -> Any:
        """The next batch, None at the end. Raises ConnectionLost, RequestTimeout, or what the node tells."""
        waiter = self._waiter
        assert waiter is not None
        assert waiter.batches is not None
        if not (waiter.done or waiter.batches):
            with anyio.move_on_after(self._client._timeout_s) as scope:
                await waiter.wait()
            if scope.cancelled_caught:
                self.close()
                waiter.error = RequestTimeout(f"no batch came within {self._client._timeout_s:g} s")
        if waiter.batches:
            self._connection.grant(waiter, 1)
            return waiter.batches.popleft()
        self._waiter = None
        if waiter.error is not None:
            raise describe(waiter.error, self._call.request, self._connection.name)
        self.result = result_of(self._call, self._connection.name, waiter.status, waiter.result)
        return None

    def close(self) -> None:
        """Stops the stream, if it has not ended; never waits."""
        if self._waiter is not None:
            self._connection.stop(self._waiter)
            self._waiter = None
