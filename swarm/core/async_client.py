"""What the clients for trio and asyncio share: connections that reconnect for ever, and requests with deadlines.

    task ── call ──► session (collects) ── one send for all tasks ──► node
    task ◄─ event ── receiver task ◄── one receive for all answers ───┘

Each node has one connection and three tasks: one keeps it connected and receives, one sends what did not leave at
once, one watches the deadlines. A request costs no task, no timer and no lock of its own.
"""

import errno
import logging
import math
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import anyio.abc

from swarm.core import limits, protocol
from swarm.core.client_session import WAIT_FOR_NODES, Call, ClientSession, Result, Steps, describe, result_of
from swarm.core.config import Address
from swarm.core.errors import (
    ClientClosed,
    ConnectionLost,
    NodeUnreachable,
    RequestTimeout,
    SwarmError,
)
from swarm.core.protocol import Request
from swarm.core.session import NodeHello
from swarm.core.stats import RequestStatistics

log = logging.getLogger(__name__)


class Transport(Protocol):
    """A connected byte stream."""

    def send_now(self, data: bytes) -> int:
        """Sends without waiting; how many bytes were taken."""

    async def send_all(self, data: bytes | memoryview) -> None: ...

    async def receive(self) -> memoryview:
        """What has come in, valid until the next call; empty at the end."""

    def close(self) -> None: ...


class SocketTransport:
    """A non-blocking socket, without layers in between."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(limits.RECEIVE_BYTES)
        self._view = memoryview(self._buffer)

    def send_now(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            await anyio.wait_writable(self._sock)
            with suppress(BlockingIOError, InterruptedError):
                view = view[self._sock.send(view) :]

    async def receive(self) -> memoryview:
        while True:
            await anyio.wait_readable(self._sock)
            with suppress(BlockingIOError, InterruptedError):
                return self._view[: self._sock.recv_into(self._buffer)]

    def close(self) -> None:
        anyio.notify_closing(self._sock)
        self._sock.close()


async def connect_socket(address: Address) -> Transport:
    """Connects to a node. Raises OSError."""
    if address.is_unix:
        family, place = socket.AF_UNIX, address.path
    else:
        info = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        family, place = info[0][0], info[0][4]  # type: ignore[assignment]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(place)
        if code in (errno.EINPROGRESS, errno.EAGAIN):
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, str(code)))
    except BaseException:
        sock.close()
        raise
    return SocketTransport(sock)


class _Waiter:
    """Who waits for the answer to one request."""

    __slots__ = ("deadline", "error", "event", "request_id", "result", "status")

    def __init__(self, deadline: float) -> None:
        self.event = anyio.Event()
        self.deadline = deadline
        self.error: SwarmError | None = None
        self.status = protocol.DONE
        self.result: Any = None

    def answer(self, status: int, result: Any) -> None:
        self.status = status
        self.result = result
        self.event.set()

    def fail(self, error: SwarmError) -> None:
        self.error = error
        self.event.set()


class _StreamWaiter(_Waiter):
    """Who waits for the batches of one stream; they are kept until asked for, as many as credit was granted."""

    __slots__ = ("batches",)

    def __init__(self) -> None:
        super().__init__(math.inf)
        self.batches: deque[Any] = deque()

    def answer(self, status: int, result: Any) -> None:
        self.batches.append((status, result))
        self.event.set()


class Connection:
    """The connection to one node, which is made anew whenever it breaks."""

    def __init__(
        self,
        address: Address,
        kind: str,
        timeout_s: float,
        compression: bool,
        connect: Callable[[Address], Awaitable[Transport]],
        on_hello: Callable[[NodeHello], None],
    ) -> None:
        self.address = address
        self.name = str(address)
        self.last_error: Exception | None = None
        self._kind = kind
        self._timeout_s = timeout_s
        self._compression = compression
        self._connect = connect
        self._on_hello = on_hello
        self._session: ClientSession[_Waiter] | None = None
        self._transport: Transport | None = None
        self._ready = anyio.Event()
        self._wake_sender = anyio.Event()
        self._sending = False
        self._answers_at_once = 0
        self._rest = b""

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def run(self) -> None:
        """Keeps the connection up until cancelled."""
        backoff = limits.BACKOFF_FIRST_S
        while True:
            try:
                await self._run_once()
            except (
                OSError,
                SwarmError,
                anyio.ClosedResourceError,
                anyio.BrokenResourceError,
                anyio.EndOfStream,
            ) as error:
                if self.ready:
                    log.warning("%s: connection lost: %s", self.name, error)
                    backoff = limits.BACKOFF_FIRST_S
                elif str(error) != str(self.last_error):
                    log.warning("%s: cannot connect: %s; trying again", self.name, error)
                self.last_error = error
                lost = error
            finally:
                self._disconnected()
            self._fail_waiting(lost)
            await anyio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, limits.BACKOFF_MAX_S)

    async def _run_once(self) -> None:
        session: ClientSession[_Waiter] = ClientSession(self._kind, compression=self._compression)
        with anyio.move_on_after(max(self._timeout_s, limits.BACKOFF_MAX_S)) as greeting:
            self._transport = transport = await self._connect(self.address)
            await transport.send_all(session.begin())
            while session.hello is None:
                await self._receive(session, transport)
        if greeting.cancelled_caught:
            raise TimeoutError("no answer to the hello")
        assert session.hello is not None
        self._session = session
        self.last_error = None
        self._on_hello(session.hello)
        log.info("%s: connected to %s", self.name, session.hello.node)
        async with anyio.create_task_group() as tasks:
            self._ready.set()
            tasks.start_soon(self._send, session, transport)
            tasks.start_soon(self._watch_deadlines, session)
            try:
                while True:
                    await self._receive(session, transport)
            except (OSError, SwarmError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
                tasks.cancel_scope.cancel()
                lost = error
        raise lost

    async def _receive(self, session: ClientSession[_Waiter], transport: Transport) -> None:
        data = await transport.receive()
        if not data:
            raise ConnectionResetError("the node has closed the connection")
        answers = session.receive(data)
        self._answers_at_once = len(answers)
        for waiter, status, result in answers:
            waiter.answer(status, result)

    def submit(self, request: Request, arguments: tuple[Any, ...], waiter: _Waiter) -> int:
        """Sends a request, together with what other tasks ask for at this moment. Only while ready."""
        session = self._session
        assert session is not None
        request_id = session.request(request, arguments, waiter)
        if not self._sending:
            # Alone, it leaves at once; among others it waits until all tasks that can run now have asked.
            if self._answers_at_once <= 1 and len(session.waiting) == 1:
                self._send_now(session)
            else:
                self._sending = True
                self._wake_sender.set()
        return request_id

    def control(self, request_id: int, batches: int) -> None:
        """Grants a stream more batches; with 0 batches stops it."""
        if self._session is not None:
            if batches:
                self._session.grant(request_id, batches)
            else:
                self._session.stop(request_id)
            if not self._sending:
                self._sending = True
                self._wake_sender.set()

    def forget(self, request_id: int, waiter: _Waiter) -> None:
        """Nobody waits for this answer any more."""
        if self._session is not None and self._session.waiting.get(request_id) is waiter:
            del self._session.waiting[request_id]

    def _send_now(self, session: ClientSession[_Waiter]) -> None:
        data = session.outgoing()
        assert self._transport is not None
        try:
            sent = self._transport.send_now(data)
        except OSError:
            return  # the receiver is told too, and reconnects
        if sent < len(data):
            self._rest = data[sent:]
            self._sending = True
            self._wake_sender.set()

    async def _send(self, session: ClientSession[_Waiter], transport: Transport) -> None:
        while True:
            await self._wake_sender.wait()
            self._wake_sender = anyio.Event()
            try:
                if self._rest:
                    await transport.send_all(self._rest)
                    self._rest = b""
                while data := session.outgoing():
                    sent = transport.send_now(data)
                    if sent < len(data):
                        await transport.send_all(memoryview(data)[sent:])
            except (OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return  # the receiver is told too, and reconnects
            self._sending = False

    async def _watch_deadlines(self, session: ClientSession[_Waiter]) -> None:
        """Fails requests whose time is over. Timeouts are all the same, so the oldest is the first to be due."""
        while True:
            now = anyio.current_time()
            due = now + self._timeout_s
            for request_id, waiter in list(session.waiting.items()):
                if waiter.deadline == math.inf:
                    continue
                if waiter.deadline > now:
                    due = waiter.deadline
                    break
                del session.waiting[request_id]
                waiter.fail(RequestTimeout(f"no answer within {self._timeout_s:g} s"))
            await anyio.sleep_until(due)

    def _disconnected(self) -> None:
        if self._ready.is_set():
            self._ready = anyio.Event()
        if self._transport is not None:
            self._transport.close()
        self._transport = None
        self._wake_sender = anyio.Event()
        self._sending = False
        self._rest = b""

    def _fail_waiting(self, lost: Exception) -> None:
        session, self._session = self._session, None
        if session is not None:
            for waiter in session.waiting.values():
                error = ConnectionLost(
                    f"the connection broke before the answer came ({lost}); it may or may not have been carried out"
                )
                error.__cause__ = lost
                waiter.fail(error)


class AsyncClient:
    """Base of the clients for trio and asyncio: `async with` opens it, connects in the background and closes it."""

    kind: str

    def __init__(
        self,
        nodes: Sequence[Address],
        *,
        timeout: float,
        compression: bool,
        connect: Callable[[Address], Awaitable[Transport]] = connect_socket,
    ) -> None:
        self._timeout_s = timeout
        self._connections = [
            Connection(address, self.kind, timeout, compression, connect, self._hello_handler(number))
            for number, address in enumerate(nodes)
        ]
        self._statistics: dict[int, RequestStatistics] = {}
        self._node_came: anyio.Event | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    def _learn(self, number: int, hello: NodeHello) -> None:
        """A node was reached; called with its number in the list of nodes."""

    def _hello_handler(self, number: int) -> Callable[[NodeHello], None]:
        def handle(hello: NodeHello) -> None:
            self._learn(number, hello)
            if self._node_came is not None:
                self._node_came.set()
                self._node_came = anyio.Event()

        return handle

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise ClientClosed("the client is open already")
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
            return await self._tasks.__aexit__(kind, error, traceback)
        finally:
            self._tasks = None

    async def ready(self) -> None:
        """Waits until every node is connected. NodeUnreachable after the timeout."""
        self._check_open()
        deadline = anyio.current_time() + self._timeout_s
        for connection in self._connections:
            await self._wait_ready(connection, deadline)

    def statistics(self) -> dict[str, Any]:
        """Of every request that was used: in flight, handled, failed, histogram of times; by the request's name."""
        return {each.name: each.snapshot() for each in self._statistics.values()}

    def _check_open(self) -> None:
        if self._tasks is None:
            raise ClientClosed("the client is not open: use it inside `async with`")

    async def _run(self, steps: Steps[Result]) -> Result:
        """Carries out an operation: does what it asks for until it returns."""
        self._check_open()
        deadline = anyio.current_time() + self._timeout_s
        try:
            step = next(steps)
            while True:
                try:
                    if type(step) is Call:
                        result = await self._call(step, deadline)
                    elif step is WAIT_FOR_NODES:
                        result = None
                        await self._wait_for_nodes(deadline)
                    else:
                        result = await self._call_all(step)
                except SwarmError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _call(self, call: Call, deadline: float) -> Any:
        """The result of one request. It is sent again where the connection broke and it may be repeated."""
        connection = self._connections[call.node]
        statistics = self._statistics_of(call.request)
        statistics.in_flight += 1
        begun = time.perf_counter()
        try:
            while True:
                if not connection.ready:
                    await self._wait_ready(connection, deadline, call.request)
                waiter = _Waiter(deadline)
                await self._answer(connection, call, waiter)
                if waiter.error is None:
                    return result_of(call, connection.name, waiter.status, waiter.result)
                if not self._may_repeat(call, waiter.error, deadline):
                    raise describe(waiter.error, call.request, connection.name)
        except SwarmError:
            statistics.failed += 1
            raise
        finally:
            statistics.in_flight -= 1
            statistics.record(1, time.perf_counter() - begun)

    async def _answer(self, connection: Connection, call: Call, waiter: _Waiter) -> None:
        request_id = connection.submit(call.request, call.arguments, waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            connection.forget(request_id, waiter)
            raise

    def _may_repeat(self, call: Call, error: SwarmError, deadline: float) -> bool:
        return isinstance(error, ConnectionLost) and call.request.repeatable and anyio.current_time() < deadline

    async def _call_all(self, calls: list[Call]) -> list[Any]:
        """The results of many requests, several in flight at every node; raises the first error once all that were
        sent are answered."""
        results: list[Any] = [None] * len(calls)
        errors: list[SwarmError] = []
        by_node: dict[int, list[int]] = {}
        for position, call in enumerate(calls):
            by_node.setdefault(call.node, []).append(position)

        async def run(positions: list[int]) -> None:
            in_flight: deque[tuple[int, _Waiter, int]] = deque()
            size = 0
            try:
                for position in positions:
                    call = calls[position]
                    while in_flight and size + call.size > limits.CLIENT_PARTS_BYTES:
                        size -= calls[in_flight[0][0]].size
                        await finish(*in_flight.popleft())
                    if errors:
                        break
                    connection = self._connections[call.node]
                    deadline = anyio.current_time() + self._timeout_s
                    if not connection.ready:
                        await self._wait_ready(connection, deadline, call.request)
                    waiter = _Waiter(deadline)
                    in_flight.append((position, waiter, connection.submit(call.request, call.arguments, waiter)))
                    size += call.size
                while in_flight:
                    await finish(*in_flight.popleft())
            except SwarmError as error:
                errors.append(error)
            finally:
                for position, waiter, request_id in in_flight:
                    self._connections[calls[position].node].forget(request_id, waiter)

        async def finish(position: int, waiter: _Waiter, request_id: int) -> None:
            call = calls[position]
            connection = self._connections[call.node]
            try:
                await waiter.event.wait()
            except BaseException:
                connection.forget(request_id, waiter)
                raise
            try:
                if waiter.error is None:
                    results[position] = result_of(call, connection.name, waiter.status, waiter.result)
                elif self._may_repeat(call, waiter.error, waiter.deadline):
                    results[position] = await self._call(call, waiter.deadline)
                else:
                    raise describe(waiter.error, call.request, connection.name)
            except SwarmError as error:
                errors.append(error)

        if len(by_node) == 1:
            await run(list(range(len(calls))))
        else:
            async with anyio.create_task_group() as tasks:
                for positions in by_node.values():
                    tasks.start_soon(run, positions)
        if errors:
            raise errors[0]
        return results

    async def _wait_ready(self, connection: Connection, deadline: float, request: Request | None = None) -> None:
        with anyio.move_on_at(deadline):
            await connection.wait_ready()
            return
        why = f" ({connection.last_error})" if connection.last_error else ""
        error = NodeUnreachable(
            f"node {connection.name} was not reached within {self._timeout_s:g} s{why}; nothing was sent"
        )
        error.node = connection.name
        error.request = request.name if request else None
        raise error from connection.last_error

    async def _wait_for_nodes(self, deadline: float) -> None:
        assert self._node_came is not None
        with anyio.move_on_at(deadline):
            await self._node_came.wait()
            return
        missing = [connection for connection in self._connections if not connection.ready]
        why = "; ".join(f"{connection.name}: {connection.last_error or 'no answer'}" for connection in missing)
        raise NodeUnreachable(
            f"no node that was reached within {self._timeout_s:g} s is responsible for the key "
            f"(not reached: {why or 'none'})"
        )

    def _statistics_of(self, request: Request) -> RequestStatistics:
        statistics = self._statistics.get(request.code)
        if statistics is None:
            statistics = self._statistics[request.code] = RequestStatistics(request.name)
        return statistics


class AsyncStream:
    """One request that streams, on one connection."""

    def __init__(self, client: AsyncClient, call: Call) -> None:
        self._client = client
        self._call = call
        self._connection = client._connections[call.node]
        self._waiter: _StreamWaiter | None = None
        self._request_id = 0

    async def open(self) -> None:
        """Sends the request. NodeUnreachable."""
        deadline = anyio.current_time() + self._client._timeout_s
        if not self._connection.ready:
            await self._client._wait_ready(self._connection, deadline, self._call.request)
        self._waiter = _StreamWaiter()
        self._request_id = self._connection.submit(self._call.request, self._call.arguments, self._waiter)

    async def next(self) -> Any:
        """The next batch, None at the end. Raises ConnectionLost, RequestTimeout, or what the node tells."""
        waiter = self._waiter
        assert waiter is not None
        while not waiter.batches:
            if waiter.error is not None:
                raise describe(waiter.error, self._call.request, self._connection.name)
            waiter.event = anyio.Event()
            with anyio.move_on_after(self._client._timeout_s) as scope:
                await waiter.event.wait()
            if scope.cancelled_caught:
                self.close()
                raise describe(
                    RequestTimeout(f"no batch came within {self._client._timeout_s:g} s"),
                    self._call.request,
                    self._connection.name,
                )
        status, result = waiter.batches.popleft()
        if status == protocol.BATCH:
            if waiter.error is None:
                self._connection.control(self._request_id, 1)
            return result
        self._waiter = None
        result_of(self._call, self._connection.name, status, result)
        return None

    def close(self) -> None:
        """Stops the stream, if it has not ended; never waits."""
        if self._waiter is not None and self._waiter.error is None:
            self._connection.forget(self._request_id, self._waiter)
            self._connection.control(self._request_id, 0)
        self._waiter = None
