"""What the blocking clients share: the same sessions and operations as the asynchronous ones, without an event loop.

A request is one send and one receive in the calling thread. A client may be shared by threads: a lock lets one
request through at a time; a program whose threads shall not wait for one another gives each its own client.
"""

import select
import socket
import ssl
import struct
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from swarm.core import limits, operations, protocol
from swarm.core.client_session import (
    WAIT_FOR_NODES,
    Call,
    ClientSession,
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
    REFUSALS,
    ClientClosed,
    ConnectionLost,
    NodeUnreachable,
    RequestTimeout,
    SwarmError,
    TlsFailed,
    checked_timeout,
    connection_lost,
    no_node_responsible,
    not_connected,
)
from swarm.core.known_nodes import KnownNodes
from swarm.core.protocol import Request
from swarm.core.session import NodeHello
from swarm.core.stats import BOUNDS_S, RequestStatistics
from swarm.core.tls import NOT_TLS, failed
from swarm.core.tls_session import ALERT, HANDSHAKE, SEALED_BYTES, TlsSession

FIRST_WAIT_S = 0.1  # the kernel itself waits so long for an answer: one system call less than asking first
FRESH_S = 0.01  # whether a connection broke that was used so shortly before is not worth asking
DONT_WAIT = int(socket.MSG_DONTWAIT)  # as plain numbers: to combine those of the socket module takes 2 us
DONT_WAIT_MORE = DONT_WAIT | int(getattr(socket, "MSG_MORE", 0))  # Linux has it
ENCRYPTED_BYTES = 256 * limits.KIB  # at once, of a request that is sent with TLS
PENDING = object()


class _Waiter:
    """Who waits for the answers to one request."""

    __slots__ = ("batches", "late", "request_id", "result", "status")

    def __init__(self, request_id: int = 0) -> None:
        self.status = -1
        self.result: Any = PENDING
        self.batches: deque[Any] = deque()
        self.request_id = request_id
        self.late: Callable[[Any], object] | None = None
        """What takes the result, where nobody waits for it any more."""


class Connection:
    """The connection to one node; made when it is needed, and made anew after it broke."""

    def __init__(self, address: Address, settings: ConnectionSettings, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self.name = str(address)
        self.last_error: Exception | None = None
        self.refused: SwarmError | None = None
        """Why the last attempt to connect ended, if that is one of errors.REFUSALS."""
        self._settings = settings
        self._tls = tls
        self._timeout_s = settings.timeout_s
        self._sock: socket.socket | None = None
        self._session: ClientSession[_Waiter]
        self._poll = select.poll()
        self._received: list[int] = []
        """How many bytes in the session's room were received and not taken: one number, or none."""
        self._session_of_tls: TlsSession | None = None
        self._sealed = memoryview(bytearray(SEALED_BYTES if tls is not None and not address.is_unix else 0))
        self._sealed_received: list[int] = []
        """How many bytes in it were received and not decrypted: one number, or none."""
        self.next_attempt = 0.0
        """Not before then (time.monotonic)."""
        self.heard_at = 0.0
        """When the last answer came (time.monotonic)."""
        self._backoff = limits.BACKOFF_FIRST_S

    def twin(self) -> "Connection":
        """Another connection to the same node."""
        return Connection(self.address, self._settings, self._tls)

    @property
    def ready(self) -> bool:
        return self._sock is not None

    def fileno(self) -> int:
        assert self._sock is not None
        return self._sock.fileno()

    def connect(self, deadline: float, request: Request | None = None) -> NodeHello:
        """Tries until it is connected; NodeUnreachable at the deadline (time.monotonic), errors.REFUSALS at once."""
        while (hello := self.attempt(deadline)) is None:
            check_not_refused(self.refused, self.name, request)
            now = time.monotonic()
            if self.next_attempt > deadline:
                raise self.unreachable()
            time.sleep(max(self.next_attempt - now, 0))
        return hello

    def attempt(self, deadline: float) -> NodeHello | None:
        """Tries once to connect, if it is time to; None if it did not succeed."""
        if time.monotonic() < self.next_attempt:
            return None
        try:
            return self._connect_once(deadline)
        except (OSError, SwarmError) as error:
            self.close()
            if isinstance(error, RequestTimeout):
                error = self._session.login_late(self._timeout_s) or error
            self.last_error = error
            self.refused = error if isinstance(error, REFUSALS) else None
            self.next_attempt = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, limits.BACKOFF_MAX_S)
            return None
        except BaseException:
            self.close()
            raise

    def unreachable(self) -> NodeUnreachable:
        error = NodeUnreachable(
            f"it was not reached within {self._timeout_s:g} s ({self.last_error}); nothing was sent"
        )
        error.node = self.name
        error.__cause__ = self.last_error
        return error

    def _connect_once(self, deadline: float) -> NodeHello:
        timeout_s = max(deadline - time.monotonic(), 0.01)
        if self.address.is_unix:
            self._sock = sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout_s)
            sock.connect(self.address.path)
        else:
            self._sock = sock = socket.create_connection((self.address.host, self.address.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setblocking(True)
        first_wait_us = int(min(FIRST_WAIT_S, self._timeout_s) * 1e6)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, max(first_wait_us, 1)))
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._session = ClientSession(self._settings)
        del self._received[:], self._sealed_received[:]
        if self._tls is not None and not self.address.is_unix:
            self._shake_hands(self._tls, deadline)
        self._send_all(self._session.begin(), deadline)
        while self._session.hello is None:
            self._receive(deadline)
            if self._session.unsent:
                self._send_all(self._session.outgoing(), deadline)
        self._backoff = limits.BACKOFF_FIRST_S
        self.last_error = self.refused = None
        return self._session.hello

    def _shake_hands(self, context: ssl.SSLContext, deadline: float) -> None:
        assert self._sock is not None
        self._session_of_tls = None
        session = TlsSession(context, server_hostname=self.address.host)
        data = self._sealed[:0]
        try:
            while not session.shake_hands(data):
                self._send_all(session.outgoing(), deadline)
                begun = bool(data)
                data = self._receive_handshake(deadline)
                if not begun and data[0] not in (HANDSHAKE, ALERT):
                    raise TlsFailed(NOT_TLS)
        except ssl.SSLError as error:
            with suppress(OSError):
                self._sock.send(session.outgoing(), DONT_WAIT)
            raise failed(error) from error
        self._send_all(session.outgoing(), deadline)
        self._session_of_tls = session
        if size := session.receive(self._sealed[:0], self._session.room):
            self._received.append(size)

    def _receive_handshake(self, deadline: float) -> memoryview:
        assert self._sock is not None
        while True:
            try:
                size = self._sock.recv_into(self._sealed)
            except BlockingIOError:
                if not self._poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                    raise TimeoutError("the TLS handshake is not answered") from None
                continue
            if size == 0:
                raise ConnectionResetError("the node has closed the connection in the middle of the TLS handshake")
            return self._sealed[:size]

    def is_broken(self) -> bool:
        """Whether the node has closed the connection while nothing was asked; then it can be made anew."""
        if self._poll.poll(0):
            with suppress(SwarmError):
                self._receive(time.monotonic())
        return self._sock is None

    def ask(self, call: Call, deadline: float) -> tuple[int, Any]:
        """Status and result of one request. Raises ConnectionLost, RequestTimeout."""
        session = self._session
        waiter: _Waiter | None = None
        request_id = 0
        try:
            if session.waiting:
                waiter = _Waiter()
                request_id = waiter.request_id = session.request(call.request, call.arguments, waiter)
                self._send_all(session.outgoing(), deadline)
            else:  # the usual case: what comes is one frame with the answer, which nobody else waits for
                if call.size < limits.APART_BYTES_MIN:
                    request_id, frame = session.single_request(call.request, call.arguments)
                    self._send_all(frame, deadline)
                else:
                    request_id, pieces = session.single_large_request(call.request, call.arguments)
                    for piece in pieces:
                        self._send_all(piece, deadline, more=piece is not pieces[-1])
                size = self._receive_some(deadline)
                answer = session.single_answer(size, request_id)
                if answer is not None:
                    del self._received[:]
                    return answer
                waiter = session.waiting[request_id] = _Waiter(request_id)
                self._take(size)
            self.wait(waiter, deadline)
        except BaseException:
            self.abandon(call, waiter or _Waiter(request_id))
            raise
        return waiter.status, waiter.result

    def submit(self, request: Request, arguments: tuple[Any, ...], deadline: float) -> _Waiter:
        """Sends a request. Raises ConnectionLost, RequestTimeout."""
        waiter = _Waiter()
        waiter.request_id = self._session.request(request, arguments, waiter)
        self._send_all(self._session.outgoing(), deadline)
        return waiter

    def wait(self, waiter: _Waiter, deadline: float) -> None:
        """Receives until there is an answer for the waiter. Raises ConnectionLost, RequestTimeout."""
        while waiter.result is PENDING and not waiter.batches:
            if self._session.waiting.get(waiter.request_id) is not waiter:
                raise ConnectionLost("the connection broke before the answer came")
            self._receive(deadline)

    def receive(self) -> None:
        """Takes what has come in; only to be called when something has. Raises ConnectionLost."""
        self._receive(time.monotonic())

    def grant(self, waiter: _Waiter, deadline: float) -> None:
        self._session.grant(waiter.request_id, 1)
        self._send_all(self._session.outgoing(), deadline)

    def stop(self, waiter: _Waiter) -> None:
        """Stops a stream without waiting for anything."""
        if self._sock is not None and self._session.waiting.get(waiter.request_id) is waiter:
            self.forget(waiter)
            self._session.stop(waiter.request_id)
            with suppress(SwarmError):
                self._send_all(self._session.outgoing(), time.monotonic() + self._timeout_s)

    def abandon(self, call: Call, waiter: _Waiter) -> None:
        """The program does not wait for this answer any more."""
        if call.late is not None:
            self._expect_late(call.late, waiter)
        elif self._sock is not None:
            self.forget(waiter)
            if call.abandon is not None:
                self.notify(call.request, call.abandon)

    def _expect_late(self, late: Callable[[Any], object], waiter: _Waiter) -> None:
        if waiter.result is not PENDING:
            if waiter.status == protocol.DONE:
                late(waiter.result)
        elif self._sock is not None and waiter.request_id:
            waiter.late = late
            self._session.waiting[waiter.request_id] = waiter
            self._session.stop(waiter.request_id)
            with suppress(SwarmError):
                self._send_all(self._session.outgoing(), time.monotonic())

    @property
    def expects_late(self) -> bool:
        """Whether an answer is still to come that the program does not wait for, and that is not to be lost."""
        return self._sock is not None and any(waiter.late for waiter in self._session.waiting.values())

    @property
    def unread(self) -> bool:
        """Whether something was received that nobody has looked at yet."""
        return bool(self._received or self._sealed_received)

    def wait_for_late_answers(self, deadline: float) -> None:
        """Receives those that are still to come, as far as they come in time."""
        with suppress(SwarmError):
            while self.expects_late:
                self._receive(deadline)

    def notify(self, request: Request, arguments: tuple[Any, ...]) -> None:
        """Sends a request whose answer nobody waits for, if there is a connection."""
        if self._sock is not None:
            with suppress(SwarmError):
                self.forget(self.submit(request, arguments, time.monotonic() + self._timeout_s))

    def has(self, waiter: _Waiter) -> bool:
        """Whether the request was sent on this connection as it is now, and its final answer has not come."""
        return self._sock is not None and self._session.waiting.get(waiter.request_id) is waiter

    def forget(self, waiter: _Waiter) -> None:
        if self._session.waiting.get(waiter.request_id) is waiter:
            del self._session.waiting[waiter.request_id]

    def close(self) -> None:
        if self._sock is not None:
            if self._session_of_tls is not None:
                with suppress(OSError):
                    self._sock.send(self._session_of_tls.end(), DONT_WAIT)
                self._session_of_tls = None
            self._sock.close()
            self._sock = None

    def _send_all(self, data: bytes, deadline: float, *, more: bool = False) -> None:
        """Sends everything; receives meanwhile, because a node whose answers are not read does not read either.

        more: the rest of the frame follows at once; the kernel waits for it.
        """
        if self._session_of_tls is None:
            self._send_plainly(data, deadline, more=more)
            return
        view = memoryview(data)
        for start in range(0, len(view), ENCRYPTED_BYTES):
            if self._session_of_tls is None:  # an error that came meanwhile has closed it
                raise ConnectionLost("the connection broke while the request was sent")
            try:
                sealed = self._session_of_tls.encrypt(view[start : start + ENCRYPTED_BYTES])
            except ssl.SSLError as error:
                raise self._lost(error) from error
            except BaseException:
                self.close()
                raise
            self._send_plainly(sealed, deadline, more=more or start + ENCRYPTED_BYTES < len(view))

    def _send_plainly(self, data: bytes, deadline: float, *, more: bool) -> None:
        flags = DONT_WAIT_MORE if more else DONT_WAIT
        view: bytes | memoryview = data
        try:
            while view:
                if self._sock is None:
                    raise ConnectionLost("the connection broke while the request was sent")
                try:
                    sent = self._sock.send(view, flags)
                except BlockingIOError:
                    self._wait_for_room(deadline)
                    continue
                if sent == len(view):
                    return
                view = memoryview(view)[sent:]
        except OSError as error:
            raise self._lost(error) from error
        except BaseException:
            self.close()  # half a request was sent: nothing can follow it
            raise

    def _wait_for_room(self, deadline: float) -> None:
        assert self._sock is not None
        self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)
        try:
            ready = self._poll.poll(max(deadline - time.monotonic(), 0) * 1000)
        finally:
            self._poll.modify(self._sock, select.POLLIN)
        if not ready:
            raise RequestTimeout(f"the node took no data within {self._timeout_s:g} s")
        if ready[0][1] & ~select.POLLOUT:
            self._receive(deadline)

    def _receive(self, deadline: float) -> None:
        """Receives once, and hands the answers to who waits for them."""
        self._take(self._receive_some(deadline))

    def _receive_some(self, deadline: float) -> int:
        """Receives into the session's room: how many bytes, at least one.

        Python raises an interrupt when a call has returned, before its result is stored. So it is C that stores it:
        what an interrupted call has received is there for the next one.
        """
        while not self._received:
            if self._sock is None:
                raise ConnectionLost("the connection broke before the answer came")
            try:
                if self._session_of_tls is None:
                    self._received.extend(map(self._sock.recv_into, (self._session.room,)))
                else:
                    self._receive_sealed(self._session_of_tls)
            except BlockingIOError:
                if not self._poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                    raise RequestTimeout(f"no answer within {self._timeout_s:g} s") from None
                continue
            except OSError as error:
                raise self._lost(error) from error
        if self._received[0] == 0:
            raise self._lost(ConnectionResetError("the node has closed the connection"))
        return self._received[0]

    def _receive_sealed(self, session: TlsSession) -> None:
        """Receives what TLS has encrypted. Interrupted while it waits it loses nothing; an interrupt that strikes later
        ends the connection, since what was decrypted cannot be decrypted again."""
        if not self._sealed_received:
            assert self._sock is not None
            self._sealed_received.extend(map(self._sock.recv_into, (self._sealed,)))
        try:
            received = self._sealed_received[0]
            size = session.receive(self._sealed[:received], self._session.room) if received else 0
            self._sealed_received.clear()
            if size is not None:
                self._received.append(size)
        except ssl.SSLError as error:
            if self._session.hello is None:
                raise failed(error) from error
            raise
        except BaseException:
            self.close()
            raise

    def _take(self, size: int) -> None:
        """Hands the answers in what was received to who waits for them."""
        del self._received[:]
        self.heard_at = time.monotonic()
        try:
            for waiter, status, result in self._session.received(size):
                if status == protocol.BATCH:
                    waiter.batches.append(result)
                else:
                    waiter.status = status
                    waiter.result = result
                    if waiter.late is not None and status == protocol.DONE:
                        waiter.late(result)
        except SwarmError as error:
            if self._session.hello is None:
                raise
            raise self._lost(error) from error
        except BaseException:
            self.close()  # what was received may be taken in part
            raise
        if self._session.notice is not None:
            raise self._lost(self._session.notice)

    def _lost(self, why: Exception) -> ConnectionLost:
        self.close()
        self.last_error = why
        self._session.waiting.clear()
        return connection_lost(why)


class BlockingClient:
    """Base of the blocking clients: `with` opens and closes it. Connections are made when they are first needed."""

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
    ) -> None:
        """known: learns what the nodes' hellos tell, in the same order."""
        self._timeout_s = checked_timeout(timeout)
        self._known = known
        settings = ConnectionSettings(self.kind, timeout, compression, read_credentials(credentials))
        self._connections = [Connection(address, settings, tls) for address in nodes]
        self._statistics: dict[int, RequestStatistics] = {}
        self._lock = threading.RLock()
        self._open = False

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection; the client cannot be used any more."""
        with self._lock:
            self._open = False
            for connection in self._connections:
                connection.close()

    def ready(self) -> None:
        """Connects to every node. NodeUnreachable after the timeout."""
        with self._lock:
            self._check_open()
            deadline = time.monotonic() + self._timeout_s
            for number in range(len(self._connections)):
                self._connected(number, deadline)

    def statistics(self) -> dict[str, Any]:
        """Of every request that was used: in flight, handled, failed, histogram of times; by the request's name."""
        return {each.name: each.snapshot() for each in self._statistics.values()}

    def channels(self) -> list[str]:
        return self._run(operations.channels(self._known))

    def channel_size(self, channel: str) -> tuple[int, int]:
        return self._run(operations.channel_size(self._known, channel))

    def size(self) -> tuple[int, int]:
        return self._run(operations.size(self._known))

    def remove_channel(self, channel: str) -> bool:
        return self._run(operations.remove_channel(self._known, channel))

    def node_statistics(self) -> dict[str, dict[str, Any]]:
        return self._run(operations.node_statistics(self._known))

    def node_health(self) -> dict[str, list[tuple[str, str]]]:
        return self._run(operations.node_health(self._known))

    def node_events(self) -> dict[str, list[tuple[float, str, str]]]:
        return self._run(operations.node_events(self._known))

    def ping(self) -> None:
        self._run(operations.ping(self._known))

    def _check_open(self) -> None:
        if not self._open:
            raise ClientClosed("the client is not open: use it inside `with`")

    def _connected(self, number: int, deadline: float, request: Request | None = None) -> Connection:
        connection = self._connections[number]
        if not connection.ready:
            try:
                self._greeted(number, connection.connect(deadline, request))
            except NodeUnreachable as error:
                error.request = request.name if request else None
                raise
        return connection

    def _connected_at_once(self, call: Call, deadline: float) -> Connection:
        connection = self._connections[call.node]
        if not connection.ready:
            hello = connection.attempt(min(deadline, time.monotonic() + limits.CLIENT_CONNECT_S))
            if hello is None:
                raise describe(not_connected(connection.last_error), call.request, connection.name)
            self._greeted(call.node, hello)
        return connection

    def _run(self, steps: Steps[Result]) -> Result:
        """Carries out an operation: does what it asks for until it returns."""
        with self._lock:
            self._check_open()
            deadline = time.monotonic() + self._timeout_s
            try:
                step = next(steps)
                while True:
                    try:
                        if type(step) is Call:
                            result = self._call(step, deadline)
                        elif type(step) is FirstOf:
                            result = self._first_of(step)
                            deadline += result[1]  # it was asked to wait so long
                        elif step is WAIT_FOR_NODES:
                            result = None
                            self._reach_another(deadline)
                        else:
                            result = self._call_all(step)
                    except SwarmError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(result)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            except BaseException:
                steps.close()  # now: it may have something to put aside
                raise

    def _greeted(self, number: int, hello: NodeHello) -> None:
        try:
            self._known.learn(number, hello)
        except SwarmError as error:
            self._connections[number].close()
            error.node = self._connections[number].name
            raise

    def _reach_another(self, deadline: float) -> None:
        """Connects to nodes that were not reached yet, at least to one."""
        missing = [number for number, connection in enumerate(self._connections) if not connection.ready]
        if not missing:
            raise no_node_responsible()
        while True:
            hellos = [(number, self._connections[number].attempt(deadline)) for number in missing]
            for number, hello in hellos:
                if hello is not None:
                    self._greeted(number, hello)
            if any(hello is not None for _, hello in hellos):
                return
            for number in missing:
                check_not_refused(self._connections[number].refused, self._connections[number].name, None)
            next_attempt = min(self._connections[number].next_attempt for number in missing)
            if next_attempt > deadline:
                raise self._connections[missing[0]].unreachable()
            time.sleep(max(next_attempt - time.monotonic(), 0))

    def _call(self, call: Call, deadline: float) -> Any:
        """The result of one request. It is sent again where the connection broke and it may be repeated."""
        if call.at_once:
            self._connected_at_once(call, deadline)
        begun = time.monotonic()
        request = call.request
        statistics = self._statistics.get(request.code) or self._statistics_of(request)
        try:
            while True:
                connection = self._connections[call.node]
                if not connection.ready:
                    self._connected(call.node, deadline, request)
                if not request.repeatable and begun - connection.heard_at > FRESH_S and connection.is_broken():
                    continue
                try:
                    status, result = connection.ask(call, deadline + call.wait_s)
                except ConnectionLost as error:
                    if not request.repeatable or time.monotonic() > deadline:
                        raise describe(error, request, connection.name) from error.__cause__
                except RequestTimeout as error:
                    raise describe(error, request, connection.name) from None
                else:
                    result = result_of(call, connection.name, status, result)
                    break
        except BaseException as error:
            statistics.failed += isinstance(error, SwarmError)
            statistics.record(1, time.monotonic() - begun)
            raise
        connection.heard_at = ended = time.monotonic()
        statistics.histogram[bisect_left(BOUNDS_S, ended - begun)] += 1  # as record does
        return result

    def _statistics_of(self, request: Request) -> RequestStatistics:
        statistics = self._statistics.get(request.code)
        if statistics is None:
            statistics = self._statistics[request.code] = RequestStatistics(request.name)
        return statistics

    def _call_all(self, calls: list[Call]) -> list[Any]:
        """The results of many requests, in their order, an error in place of a result; several are in flight at a node.

        After an error of a node, what was not sent to it yet is not sent, and has this error too.
        """
        results: list[Any] = [None] * len(calls)
        errors: dict[int, SwarmError] = {}
        in_flight: dict[int, deque[tuple[int, _Waiter, float]]] = {call.node: deque() for call in calls}
        sizes = dict.fromkeys(in_flight, 0)
        unsent = dict(enumerate(calls))

        def finish(number: int) -> None:
            position, waiter, begun = in_flight[number].popleft()
            sizes[number] -= calls[position].size
            results[position] = self._finish(calls[position], waiter, begun)
            if isinstance(results[position], SwarmError):
                errors[number] = results[position]

        try:
            for position, call in enumerate(calls):
                queue = in_flight[call.node]
                while queue and sizes[call.node] + call.size > limits.CLIENT_PARTS_BYTES:
                    finish(call.node)
                if call.node not in errors:
                    try:
                        queue.append((position, self._submit(call), time.perf_counter()))
                        del unsent[position]
                        sizes[call.node] += call.size
                        continue
                    except SwarmError as error:
                        errors[call.node] = describe(error, call.request, self._connections[call.node].name)
                results[position] = errors[call.node]
            for number, queue in in_flight.items():
                while queue:
                    finish(number)
        finally:
            for number, queue in in_flight.items():
                for position, waiter, _ in queue:
                    self._connections[number].abandon(calls[position], waiter)
            for call in unsent.values():
                if call.unsent is not None:
                    self._connections[call.node].notify(call.request, call.unsent)
        return results

    def _submit(self, call: Call) -> _Waiter:
        """Sends a request, again where the connection turns out to be broken."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            if call.at_once:
                self._connected_at_once(call, deadline)
            connection = self._connected(call.node, deadline, call.request)
            stale = time.monotonic() - connection.heard_at > FRESH_S
            if not call.request.repeatable and stale and connection.is_broken():
                continue
            try:
                return connection.submit(call.request, call.arguments, deadline)
            except ConnectionLost:
                if not call.request.repeatable or time.monotonic() > deadline:
                    raise

    def _finish(self, call: Call, waiter: _Waiter, begun: float, deadline: float | None = None) -> Any:
        """The result of a request that was sent, or its error."""
        statistics = self._statistics_of(call.request)
        deadline = time.monotonic() + self._timeout_s if deadline is None else deadline
        connection = self._connections[call.node]
        try:
            try:
                connection.wait(waiter, deadline)
            except ConnectionLost:
                if not call.request.repeatable:
                    raise
                return self._call(call, deadline)
            except BaseException:
                connection.abandon(call, waiter)
                raise
            return result_of(call, connection.name, waiter.status, waiter.result)
        except SwarmError as error:
            statistics.failed += 1
            return describe(error, call.request, connection.name)
        finally:
            statistics.record(1, time.perf_counter() - begun)

    def _first_of(self, step: FirstOf) -> tuple[list[Any], float]:
        """Carries out requests side by side until there is enough; their results, and how long it took."""
        begun = time.monotonic()
        if len(step.calls) == 1 and not self._connections[step.calls[0].node].expects_late:
            return [self._call(step.calls[0], begun + self._timeout_s)], time.monotonic() - begun
        results: list[Any] = [None] * len(step.calls)
        in_flight: dict[int, _Waiter] = {}
        try:
            for position, call in enumerate(step.calls):
                try:
                    in_flight[position] = self._submit(call)
                except SwarmError as error:
                    results[position] = describe(error, call.request, self._connections[call.node].name)
            while in_flight and not step.enough():
                deadline = begun + self._timeout_s + min(step.calls[position].wait_s for position in in_flight)
                self._receive_any([step.calls[position].node for position in in_flight], deadline)
                over = time.monotonic() >= deadline
                for position, waiter in list(in_flight.items()):
                    call = step.calls[position]
                    if over or waiter.result is not PENDING or not self._connections[call.node].ready:
                        results[position] = self._finish(call, in_flight.pop(position), begun, deadline)
        finally:
            for position, waiter in in_flight.items():
                self._connections[step.calls[position].node].abandon(step.calls[position], waiter)
        return results, time.monotonic() - begun

    def _receive_any(self, nodes: list[int], deadline: float) -> None:
        """Waits until one of these nodes has sent something, and takes it; not if a connection has broken."""
        poll = select.poll()
        if not all(self._connections[node].ready for node in nodes):
            return
        connections = {self._connections[node].fileno(): self._connections[node] for node in nodes}
        for descriptor in connections:
            poll.register(descriptor, select.POLLIN)
        timeout_s = 0 if any(each.unread for each in connections.values()) else max(deadline - time.monotonic(), 0)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}
        for descriptor in ready | {number for number, each in connections.items() if each.unread}:
            with suppress(ConnectionLost):  # which is how those who wait find it
                connections[descriptor].receive()


class BlockingStream:
    """One request that streams, on one connection."""

    def __init__(self, client: BlockingClient, call: Call) -> None:
        self._client = client
        self._call = call
        self._connection = client._connections[call.node]
        self._waiter: _Waiter | None = None
        self.result: Any = None
        """What the final reply told, at the end."""

    def open(self) -> None:
        """Sends the request. NodeUnreachable, ConnectionLost."""
        with self._client._lock:
            self._client._check_open()
            deadline = time.monotonic() + self._client._timeout_s
            connection = self._client._connected(self._call.node, deadline, self._call.request)
            self._waiter = connection.submit(self._call.request, self._call.arguments, deadline)

    def next(self) -> Any:
        """The next batch, None at the end. Raises ConnectionLost, RequestTimeout, or what the node tells."""
        waiter = self._waiter
        assert waiter is not None
        with self._client._lock:
            self._client._check_open()
            deadline = time.monotonic() + self._client._timeout_s
            try:
                self._connection.wait(waiter, deadline)
                if waiter.batches:
                    batch = waiter.batches.popleft()
                    if waiter.result is PENDING:
                        self._connection.grant(waiter, deadline)
                    return batch
                self._waiter = None
                self.result = result_of(self._call, self._connection.name, waiter.status, waiter.result)
                return None
            except (ConnectionLost, RequestTimeout) as error:
                raise describe(error, self._call.request, self._connection.name) from error.__cause__

    def close(self) -> None:
        """Stops the stream, if it has not ended."""
        if self._waiter is not None and self._waiter.result is PENDING:
            with self._client._lock:
                self._connection.stop(self._waiter)
        self._waiter = None
