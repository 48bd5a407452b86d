"""HTTP/1.1 beside the requests of a node: Hypercorn's protocol over trio streams, with bounds of our own.

    accept ──► connection ──► Hypercorn: bytes <-> events ──► an ASGI application
    paced      one of HTTP_CONNECTIONS_MAX

Hypercorn's own server has no bound on connections, waits for ever for a client that does not read its answer, and
changes to HTTP/2 where a client asks for it. So what it does with a connection is done here, around its protocol: a
connection has a time to say what it wants (HTTP_IDLE_S), a time to live (HTTP_CONNECTION_S), a number of requests, and
all of them together have a pace. Where there are too many, the one that has waited longest for a request makes room.
So a client of this port takes little of the loop from the node's own, however many there are and whatever they send.
What goes wrong here ends a connection, and is told in root.log; the node goes on.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from math import inf
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from swarm.core import limits
from swarm.core.logs import SeldomLog

log = logging.getLogger(__name__)

TROUBLE_LINES_MAX = 5  # in SeldomLog's time: strangers cause them
READ_BYTES = 16 * limits.KIB
NOT_ACCEPTED_S = 0.1  # after which it is tried again
LINGER_S = 1.0  # for a client to read why it was refused, while it still sends
LINGER_BYTES_MAX = 256 * limits.KIB
TOO_MANY = "503 Service Unavailable", "too many connections"
TOO_SLOW = "408 Request Timeout", "no request has come in time"

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""As ASGI has it: scope, receive, send."""


class HttpServer:
    def __init__(self, application: Application, sock: socket.socket) -> None:
        """sock: listens."""
        self.requests = 0
        self.refused = 0
        """Connections and requests that got no page: too many, too slow, too large, no HTTP/1.1, unknown, wrong."""
        self._open: set[_Connection] = set()
        self._waiting: dict[_Connection, None] = {}
        """Those that have no request, or half of one; who has waited longest is first."""
        self.config = Config()
        self.config.errorlog = log
        self.config.include_server_header = False
        self.config.h11_max_incomplete_size = limits.HTTP_HEAD_BYTES_MAX
        self.config.keep_alive_max_requests = limits.HTTP_REQUESTS_PER_CONNECTION
        self.config.max_app_queue_size = 2  # nobody reads bodies: the end of one, and of its request, have to fit
        self.context = WorkerContext(None)
        self._trouble = SeldomLog(log, logging.WARNING, TROUBLE_LINES_MAX)
        self._application = application
        self._sock = sock
        self._turn = trio.Lock()  # first come, first served

    @property
    def connections(self) -> int:
        return len(self._open)

    def statistics(self) -> dict[str, int]:
        return {
            "http_connections": self.connections,
            "http_requests": self.requests,
            "http_refused": self.refused,
        }

    async def run(self) -> None:
        """Serves until it is cancelled."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
        async with listener, trio.open_nursery() as connections:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    self._trouble.tell(f"cannot accept HTTP connections: {error.strerror or error}")
                    await trio.sleep(NOT_ACCEPTED_S)
                    continue
                if self._has_room():
                    connection = _Connection(self, stream)
                    self._open.add(connection)
                    self.waits(connection)
                    connections.start_soon(self._serve, connection, stream)
                else:
                    self.refused += 1
                    connections.start_soon(_turn_away, stream, *TOO_MANY)
                await trio.sleep(limits.HTTP_PACE_S)

    def _has_room(self) -> bool:
        """Makes it if it can: else clients that ask for nothing keep all others out until their time is over."""
        if len(self._open) >= limits.HTTP_CONNECTIONS_MAX and self._waiting:
            oldest = next(iter(self._waiting))
            self._forget(oldest)
            oldest.make_room()
        return len(self._open) < limits.HTTP_CONNECTIONS_MAX

    def waits(self, connection: "_Connection") -> None:
        """For a request to come."""
        if connection in self._open:
            self._waiting[connection] = None

    def waits_no_more(self, connection: "_Connection") -> None:
        self._waiting.pop(connection, None)

    def _forget(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self.waits_no_more(connection)

    async def _serve(self, connection: "_Connection", stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(limits.HTTP_CONNECTION_S) as alive:
                await connection.run()
            if alive.cancelled_caught:
                self.refused += 1
            elif connection.refusal:
                self.refused += 1
                await _turn_away(stream, *connection.refusal)
        except Exception:
            self.refused += 1
            log.exception("an HTTP connection was closed because of an error in the node")
        finally:
            self._forget(connection)
            await trio.aclose_forcefully(stream)

    async def answer(self, scope: Any, receive: Any, send: Any, *_: Any) -> None:
        """The application, as Hypercorn calls it, in its turn."""
        async with trio.open_nursery() as beside:
            beside.start_soon(_discard, receive)
            async with self._turn:
                await trio.sleep(limits.HTTP_PACE_S)
            self.requests += 1
            await self._application(scope, receive, send)
            beside.cancel_scope.cancel()


class _Http11(H11Protocol):
    """Answers in HTTP/1.1 whom Hypercorn would answer in HTTP/2."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """An Upgrade to h2c is ignored, as RFC 9110 (7.8) allows. Who begins with HTTP/2 knows no HTTP/1.1."""
        if (event.method, event.http_version) == (b"PRI", b"2.0"):
            raise H2ProtocolAssumedError(b"")


class _Connection:
    def __init__(self, server: HttpServer, stream: trio.SocketStream) -> None:
        self.refusal: tuple[str, str] | None = None
        """Status and reason for one that is closed before it has said what it wants."""
        self._makes_room = False
        self._server = server
        self._stream = stream
        self._sending = trio.Lock()
        self._reading = trio.CancelScope(deadline=trio.current_time() + limits.HTTP_IDLE_S)
        self._was_asked = False

    def make_room(self) -> None:
        """It is to be closed, for another one."""
        self._makes_room = True
        self._reading.cancel()

    async def run(self) -> None:
        """Until the client closes it, or it is to be closed."""
        server, sock = self._server, self._stream.socket
        async with TaskGroup() as tasks:
            protocol = _Http11(
                server.answer,  # type: ignore[arg-type] # messages are narrower there than ASGI has them
                server.config,
                server.context,
                tasks,
                ConnectionState({}),
                False,
                parse_socket_addr(sock.family, sock.getpeername()),
                parse_socket_addr(sock.family, sock.getsockname()),
                self._send,
            )
            with self._reading:
                await self._read(protocol)
            if self._reading.cancelled_caught and not self._was_asked:
                self.refusal = TOO_MANY if self._makes_room else TOO_SLOW
        if not self.refusal:
            await _linger(self._stream)

    async def _read(self, protocol: "_Http11") -> None:
        try:
            while data := await self._stream.receive_some(READ_BYTES):
                await protocol.handle(RawData(bytes(data)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except H2ProtocolAssumedError:
            self._server.refused += 1

    async def _send(self, event: Event) -> None:
        """What Hypercorn has for the connection."""
        match event:
            case RawData():
                if event.data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")):
                    self._was_asked = True
                    self._server.refused += 1
                async with self._sending:
                    try:
                        await self._stream.send_all(event.data)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self._reading.cancel()
            case Updated(idle=idle):
                self._was_asked = True
                (self._server.waits if idle else self._server.waits_no_more)(self)
                self._reading.deadline = trio.current_time() + limits.HTTP_IDLE_S if idle else inf
            case Closed():
                self._was_asked = True
                self._reading.cancel()


async def _discard(receive: Callable[[], Awaitable[Message]]) -> None:
    """What comes behind a request's head: Hypercorn ends an answer only when it could tell of its end, too."""
    with suppress(trio.EndOfChannel, trio.ClosedResourceError):
        while True:
            await receive()


async def _turn_away(stream: trio.SocketStream, status: str, reason: str) -> None:
    answer = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(reason) + 1}\r\nConnection: close\r\n"
        f"\r\n{reason}\n"
    )
    try:
        with trio.move_on_after(LINGER_S), suppress(trio.BrokenResourceError):
            await stream.send_all(answer.encode())
            await _linger(stream)
    finally:
        await trio.aclose_forcefully(stream)


async def _linger(stream: trio.SocketStream) -> None:
    """Closed at once, a connection whose client still sends is reset, and the client does not get what was said."""
    left = LINGER_BYTES_MAX
    with trio.move_on_after(LINGER_S), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_eof()
        while left > 0 and (data := await stream.receive_some(READ_BYTES)):
            left -= len(data)
