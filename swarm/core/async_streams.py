"""Streams from several nodes at once that are to go on for ever, for the clients under trio and asyncio.

No task of their own: batches stay in their waiters until the program asks for the next, and credit is granted when one
was taken, so CLIENT_STREAM_CREDIT bounds what waits here. A stream whose connection broke is begun again when the
connection is there again and the program asks.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import anyio

from swarm.core.async_client import AsyncClient
from swarm.core.async_connection import Connection
from swarm.core.client_session import BROKE, Call, check_not_refused, describe, result_of
from swarm.core.errors import ClientClosed, ConnectionLost, RequestTimeout
from swarm.core.protocol import PING, Request
from swarm.core.waiters import Waiter


class _Waiter(Waiter):
    """Of one stream; tells of each answer instead of waking a task."""

    __slots__ = ("_tell", "call")

    def __init__(self, call: Call, tell: Callable[["_Waiter"], None]) -> None:
        super().__init__(math.inf)
        self.batches = deque()
        self.call = call
        self._tell = tell

    def _wake(self) -> None:
        self._tell(self)


class AsyncStreams:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._running: dict[int, _Waiter] = {}
        """By node."""
        self._to_begin: dict[int, Call] = {}
        """Where there is no connection."""
        self._answers: deque[_Waiter] = deque()
        """A waiter for each answer that was not asked for yet, oldest first."""
        self._woken = anyio.Event()
        for connection in client._connections:
            connection.at_change.add(self._wake)

    async def open(self, calls: list[Call]) -> None:
        """Begins the streams; returns when each has given its first batch. NodeUnreachable, RequestTimeout."""
        loop = self._client._loop
        if loop is None:
            raise ClientClosed("the client is not open: use it inside `async with`")
        deadline = loop.clock() + self._client._timeout_s
        self.begin(calls)
        while missing := [call for call in calls if not self._has_begun(call)]:
            self._begin_those_that_can()
            with anyio.move_on_at(deadline) as scope:
                await self._wait()
            if scope.cancelled_caught:
                for call in missing:
                    await self._client._wait_ready(self._client._connections[call.node], deadline, call.request)
                error = RequestTimeout(f"no answer within {self._client._timeout_s:g} s")
                raise describe(error, missing[0].request, self._client._connections[missing[0].node].name)

    def _has_begun(self, call: Call) -> bool:
        waiter = self._running.get(call.node)
        if waiter is not None and waiter.done and not waiter.batches:
            self._answers.remove(waiter)
            self._ended(waiter)
            self._to_begin[call.node] = call
            return False
        return waiter is not None and bool(waiter.batches)

    async def start(self, calls: list[Call]) -> None:
        """Begins the streams; returns when every node that can be reached has been asked, the others are asked when
        they come. NodeUnreachable if none can be within the timeout."""
        loop = self._client._loop
        if loop is None:
            raise ClientClosed("the client is not open: use it inside `async with`")
        deadline = loop.clock() + self._client._timeout_s
        self.begin(calls)
        with anyio.move_on_at(deadline):
            self._begin_those_that_can()
            while self._to_begin and not (self._running and self._failed_once()):
                await self._wait()
                self._begin_those_that_can()
        if not self._running:
            await self._client._wait_for_nodes(deadline)
        await self.settled()
        for waiter in list(self._running.values()):
            if waiter.done and not waiter.batches and waiter.error is None:
                self._answers.remove(waiter)
                self._ended(waiter)
                self._to_begin[waiter.call.node] = waiter.call

    def _failed_once(self) -> bool:
        """Whether those that are not connected have been tried."""
        return all(self._client._connections[node].last_error is not None for node in self._to_begin)

    async def settled(self) -> None:
        """Returns when the nodes have carried out what they were asked for and told, as far as they can be reached.
        RequestTimeout if none answers."""
        loop = self._client._loop
        assert loop is not None
        pings = []
        for connection in self._client._connections:
            if connection.ready:
                waiter = loop.waiter(loop.clock() + self._client._timeout_s)
                connection.submit(PING, (), waiter)
                pings.append((connection, waiter))
        for _, waiter in pings:
            await waiter.wait()
        late = [each for each in pings if isinstance(each[1].error, RequestTimeout)]
        if late and len(late) == len(pings):
            connection, waiter = late[0]
            assert waiter.error is not None
            raise describe(waiter.error, PING, connection.name)

    def at(self, node: int) -> Waiter:
        """What the last batch of a node has come with."""
        return self._running[node]

    def lives(self, node: int) -> bool:
        """Whether the connection has not broken that the last batch of a node has come with."""
        return self._running[node].error is None

    def tell(self, stream: Waiter, request: Request, arguments: tuple[Any, ...]) -> None:
        """Sends a request about a stream, unless its connection broke; nobody waits for the answer."""
        connection = self._connection_of(stream)
        if connection is not None:
            connection.notify(request, arguments, Waiter(math.inf))

    async def ask(self, stream: Waiter, request: Request, arguments: tuple[Any, ...]) -> Any:
        """The result of a request about a stream, None if it has ended. RequestTimeout, or what the node tells."""
        loop, connection = self._client._loop, self._connection_of(stream)
        if loop is None or connection is None:
            return None
        call = Call(self._node_of(stream), request, arguments)
        waiter = loop.waiter(loop.clock() + self._client._timeout_s)
        connection.submit(request, arguments, waiter)
        try:
            await waiter.wait()
        except BaseException:
            connection.abandon(call, waiter)
            raise
        if isinstance(waiter.error, ConnectionLost):
            return None
        if waiter.error is not None:
            raise describe(waiter.error, request, connection.name)
        return result_of(call, connection.name, waiter.status, waiter.result)

    def before_sending(self, stream: Waiter, function: Callable[[], None]) -> None:
        """Calls a function when the event loop runs next, just before something is sent to the stream's node."""
        self._client._connections[self._node_of(stream)].before_sending(function)

    @staticmethod
    def _node_of(stream: Waiter) -> int:
        assert isinstance(stream, _Waiter)
        return stream.call.node

    def _connection_of(self, stream: Waiter) -> Connection | None:
        """The connection that a stream runs on."""
        connection = self._client._connections[self._node_of(stream)]
        return connection if connection.has(stream) else None

    def begin(self, calls: Iterable[Call]) -> None:
        """Begins streams, each as soon as there is a connection to its node."""
        self._to_begin.update((call.node, call) for call in calls)

    async def next(self) -> tuple[int, Any]:
        """A node, and its next batch or BROKE. Raises what a node tells, ClientClosed; NotAuthenticated where a stream
        is to be begun and the node refuses the login."""
        while True:
            self._begin_those_that_can()
            if self._answers:
                waiter = self._answers.popleft()
                if waiter.batches:
                    batch = waiter.batches.popleft()
                    self._client._connections[waiter.call.node].grant(waiter, 1)
                    return waiter.call.node, batch
                self._ended(waiter)
                return waiter.call.node, BROKE
            await self._wait()

    def stop(self) -> None:
        """Stops the streams; others may be begun."""
        for node, waiter in self._running.items():
            self._client._connections[node].stop(waiter)
        self._running.clear()
        self._to_begin.clear()
        self._answers.clear()

    def close(self) -> None:
        self.stop()
        for connection in self._client._connections:
            connection.at_change.discard(self._wake)

    async def _wait(self) -> None:
        if self._client._loop is None:
            raise ClientClosed("the client was closed")
        self._woken = anyio.Event()
        await self._woken.wait()

    def _wake(self) -> None:
        self._woken.set()

    def _answered(self, waiter: _Waiter) -> None:
        if self._running.get(waiter.call.node) is waiter:
            self._answers.append(waiter)
            self._woken.set()

    def _begin_those_that_can(self) -> None:
        for node, call in list(self._to_begin.items()):
            connection = self._client._connections[node]
            check_not_refused(connection.refused, connection.name, call.request)
            if connection.ready:
                del self._to_begin[node]
                waiter = self._running[node] = _Waiter(call, self._answered)
                connection.submit(call.request, call.arguments, waiter)

    def _ended(self, waiter: _Waiter) -> None:
        """There is nothing more to come of this stream: raises why, unless that may be another time."""
        del self._running[waiter.call.node]
        name = self._client._connections[waiter.call.node].name
        if waiter.error is None:
            result_of(waiter.call, name, waiter.status, waiter.result)
        elif not isinstance(waiter.error, ConnectionLost):
            raise describe(waiter.error, waiter.call.request, name)
