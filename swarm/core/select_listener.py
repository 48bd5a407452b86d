"""All sockets of a node, the listening ones and every client's, in one epoll set inside trio.

    trio ── waits until the epoll descriptor itself is readable ──► turn
    turn:  while sockets become ready, and its time is not over:
               pass:  read each ready socket once, carry out its requests, collect the answers
                      commit once
                      send the answers, then what the pass has caused on other connections

Why not one trio task a connection: waking a task for each socket costs more than the request that it brings
(docs/decisions/0002-one-epoll-set.md). Inside a pass there is no await; what ends it is its time, and each connection
is read RECEIVE_BYTES at most, and goes on in the next pass once it has SLOT_BYTES of answers: the client takes them
while the next are made. Trio's own tasks (streams, timers, signals) run between turns; while streams are busy or
answers are held a turn is one pass, so that they share the loop with requests.

A pass that breaks off with an error (a bug, or changes that cannot be committed) crashes the node, and nothing that was
answered in it leaves.

Who has asked waits for one slot of each connection whose input came before, and one of left-over requests in each of
these passes; a slot ends with the request in which the pass's time is over. Once the others have requests left they
are not read, so it is one pass.

A connection is in one of these states, and what epoll is asked for follows from it:

    reading      EPOLLIN
    busy         nothing: it has requests left from the last pass; it goes on in the next, after those who have few
    waiting      EPOLLIN and EPOLLOUT: some of its output was not taken yet
    full         EPOLLOUT: so much of its output was not taken that nothing is read nor carried out until it is
    holding      nothing: the same, but what waits are answers that are held (Service.holds_writes)
    closing      EPOLLOUT until its output has left, nothing while answers are held

With TLS a connection is half open before, until the handshake is complete: EPOLLIN, and nothing is sent but TLS's own
words. Those have a limit of their own, and do not count as the clients that the node is configured for; of too many the
oldest goes. Then TLS is a matter of the socket (tls_socket), which is used as any other.
"""

import errno
import logging
import select
import socket
import ssl
from os import sched_yield
from select import EPOLLIN, EPOLLOUT
from time import perf_counter

import trio

from swarm.core import limits
from swarm.core.connection_handler import ConnectionHandler, unfinished_frame
from swarm.core.errors import NotAuthenticated, ShuttingDown, SwarmError, TlsFailed, TooManyConnections
from swarm.core.logs import SeldomLog
from swarm.core.request_handler import Service
from swarm.core.tls import TLS_ONLY, NodeTls, reason_of
from swarm.core.tls_session import TlsSession
from swarm.core.tls_socket import NotTls, TlsSocket

log = logging.getLogger(__name__)

ACCEPTS_PER_PASS = 64  # some 1 ms
EVENTS_PER_POLL = 256
FRAMES_PER_SEND = 64
SWEEP_S = 1.0
ACCEPT_PAUSE_S = 0.1
WAITS_AVERAGED = 8
CLOSED_LINES_MAX = 20  # of connections that a stranger made the node close, in SELDOM_S

# What accept(2) may fail with, and what is done about it. Anything else is a bug and crashes the node.
ACCEPT_IGNORED = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})  # this client is gone already
ACCEPT_PAUSES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})  # wait until others have left


class _Connection:
    """A client's socket and its handler."""

    __slots__ = (
        "accepted_at",
        "closing_since",
        "events",
        "fd",
        "half_open",
        "handler",
        "input_ended",
        "peer",
        "quiet",
        "recv_into",
        "send",
        "sock",
        "unfinished_bytes",
        "unfinished_since",
        "waiting_since",
    )

    def __init__(self, sock: socket.socket | TlsSocket, peer: str, handler: ConnectionHandler) -> None:
        self.use(sock)
        self.fd = sock.fileno()
        self.half_open = isinstance(sock, TlsSocket)
        """The TLS handshake is not complete."""
        self.peer = peer
        self.handler = handler
        self.events = EPOLLIN
        self.input_ended = False
        self.unfinished_bytes = 0
        self.unfinished_since = 0.0
        self.quiet = False
        """Nothing is special about it: admitted, all its output has left, epoll is asked for input."""
        self.waiting_since = self.accepted_at = perf_counter()
        """When its output last moved."""
        self.closing_since = 0.0
        """When it was first seen to be closing; 0: not yet."""

    def use(self, sock: socket.socket | TlsSocket) -> None:
        self.sock = sock
        self.recv_into = sock.recv_into
        self.send = sock.send


class SelectListener:
    def __init__(
        self, service: Service, listeners: list[socket.socket], connections_max: int, tls: NodeTls | None = None
    ) -> None:
        """listeners: bound sockets that listen. connections_max: clients beyond are told so and closed,
        strangers first. tls: of all connections but those of Unix sockets."""
        self._service = service
        self._tls = tls
        self._connections_max = connections_max
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._connections: dict[int, _Connection] = {}
        self._waiting: dict[_Connection, None] = {}
        """For a hello or login, or for output to be taken: those have a time limit."""
        self._half_open: dict[_Connection, None] = {}  # the oldest first
        self._busy: dict[_Connection, None] = {}
        self._events: list[tuple[int, int]] = []  # that a pass had no time for: they come first in the next
        self._receive_buffer = bytearray(limits.RECEIVE_BYTES)
        self._receive_view = memoryview(self._receive_buffer)
        self._sealed_view = memoryview(bytearray(limits.RECEIVE_BYTES if tls else 0))
        self._epoll = select.epoll()
        self._usual_wait_s = limits.LINGER_S
        """Moving average of how long it took until something was ready."""
        self._closed_log = SeldomLog(log, logging.WARNING, CLOSED_LINES_MAX)
        self._crowd_log = SeldomLog(log, logging.ERROR, 1)
        self.accepted = 0
        self.refused = 0
        self.tls_failures = 0
        """Handshakes that have failed, and connections that were broken by what is not TLS."""
        for sock in listeners:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), EPOLLIN)

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def run(self) -> None:
        """Serves until cancelled; then closes every socket, telling the clients."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                while True:
                    if self._busy or self._events:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    try:
                        self._turn()
                    except Exception:
                        self._abort()
                        raise
        finally:
            self._close()

    def adopt(self, sock: socket.socket, peer: str) -> None:
        """Serves a socket that is connected already."""
        sock.setblocking(False)
        fd = sock.fileno()
        handler = ConnectionHandler(self._service, lambda: self._flush_between_turns(self._connections[fd]), peer)
        tls = self._tls if sock.family != socket.AF_UNIX else None
        used = TlsSocket(sock, TlsSession(tls.context, server_side=True), self._sealed_view) if tls else sock
        connection = self._connections[fd] = _Connection(used, peer, handler)
        self._waiting[connection] = None
        self._epoll.register(fd, EPOLLIN)
        self.accepted += 1
        if connection.half_open:
            self._half_open[connection] = None
            if len(self._half_open) > limits.HANDSHAKES_MAX:
                self._give_up(
                    next(iter(self._half_open)), f"more than {limits.HANDSHAKES_MAX} at a time are not complete"
                )
        else:
            self._refuse_if_too_many(connection)

    async def drained(self) -> None:
        """Returns when every answer that was given has left."""
        while self._busy or self._service.holding or any(each.handler.output for each in self._waiting):
            await trio.sleep(0.01)

    def stop_accepting(self) -> None:
        for fd, sock in self._listeners.items():
            self._epoll.unregister(fd)
            sock.close()
        self._listeners.clear()

    def _turn(self) -> None:
        """Passes, until nothing is ready for LINGER_S or the turn's time is over.

        To wait in the epoll set itself is cheaper than to go through trio, and a client that sends one request after
        the other is back within that time. What trio's own tasks wait for may come as much later.
        """
        begun = now = perf_counter()
        events = self._events or self._epoll.poll(0, EVENTS_PER_POLL)
        while events or self._busy:
            self._events = []
            self._pass(events, now, now + limits.PASS_SECONDS_MAX)
            now = perf_counter()
            if self._service.tasks_waiting or now - begun > limits.TURN_SECONDS_MAX:
                return
            if self._busy:
                events = self._events or self._epoll.poll(0, EVENTS_PER_POLL)
            else:
                events = self._events or self._epoll.poll(0, EVENTS_PER_POLL) or self._linger(now)
                begun_to_wait, now = now, perf_counter()
                self._usual_wait_s += (now - begun_to_wait - self._usual_wait_s) / WAITS_AVERAGED

    def _linger(self, now: float) -> list[tuple[int, int]]:
        """What becomes ready within LINGER_S, where nothing is now.

        While requests come more often than every SPIN_S, the set is asked again and again instead of slept on, and
        the core left to whoever else wants it: to fall asleep, set a timer and be woken costs several times what
        a request does.
        """
        poll = self._epoll.poll
        events: list[tuple[int, int]] = []
        if self._usual_wait_s < limits.SPIN_S:
            until = now + limits.SPIN_S
            while not events and perf_counter() < until:
                sched_yield()
                events = poll(0, EVENTS_PER_POLL)
        if not events:
            events = poll(limits.LINGER_S, EVENTS_PER_POLL)
        return events

    def _pass(self, events: list[tuple[int, int]], now: float, deadline: float) -> None:
        answers: list[tuple[_Connection, bytes]] = []
        changed: list[_Connection] = []
        connections = self._connections
        buffer, view = self._receive_buffer, self._receive_view
        received = 0
        self._service.in_pass = True
        for number, (fd, event) in enumerate(events):
            try:
                connection = connections[fd]
            except KeyError:
                if fd in self._listeners:
                    self._accept(self._listeners[fd])
                continue
            handler = connection.handler
            if connection.half_open and not self._shake_hands(connection):
                now = perf_counter()
                if now > deadline:
                    self._events = events[number + 1 :]
                    break
                continue
            if event == EPOLLOUT or handler.pending:
                changed.append(connection)
                continue
            try:
                size = connection.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                self._lost(connection, error)
                continue
            received += size
            if connection.quiet and size:
                answer = handler.exchange(view, size, now, deadline)
                now = handler.clock
                if answer is not None:
                    answers.append((connection, answer))
                else:
                    changed.append(connection)
            else:
                self._receive(connection, size, now, deadline)
                now = handler.clock
                changed.append(connection)
            if now > deadline:
                self._events = events[number + 1 :]
                break
        self._service.bytes_in += received
        if self._busy:
            self._go_on(changed, now, max(deadline, now + limits.PASS_SECONDS_MAX / 4))
        self._service.end_pass()
        for connection, answer in answers:
            try:
                size = connection.send(answer)
            except OSError:
                size = 0  # whatever it is, the next attempt meets it again
            self._service.bytes_out += size
            if size != len(answer):
                connection.handler.put_back(answer, size)
                changed.append(connection)
        for connection in changed:
            if connections.get(connection.fd) is connection:  # it may have been dropped, and its number given away
                self._flush(connection)
        self._service.flush_others()

    def _go_on(self, changed: list[_Connection], now: float, deadline: float) -> None:
        """Carries out requests that earlier passes have left. They come last: who asks for little does not wait for
        them."""
        busy, self._busy = list(self._busy), {}
        for number, connection in enumerate(busy):
            if now > deadline:
                self._busy = dict.fromkeys(busy[number:])
                return
            connection.handler.work(now, deadline)
            now = connection.handler.clock
            changed.append(connection)

    def _receive(self, connection: _Connection, size: int, now: float, deadline: float) -> None:
        if size:
            connection.handler.receive(self._receive_view[:size], now, deadline)
        else:
            connection.input_ended = True
            connection.handler.end_of_input()

    def _flush_between_turns(self, connection: _Connection) -> None:
        """Output was made by a task, or by a request of another connection."""
        self._flush(connection)
        if connection in self._busy and connection.events != EPOLLOUT:  # it can go on: the next turn shall come soon
            self._epoll.modify(connection.fd, EPOLLOUT)
            connection.events = EPOLLOUT

    def _flush(self, connection: _Connection) -> None:
        """Sends what there is to send, and asks epoll for what the connection then waits for."""
        handler = connection.handler
        while handler.output:
            frames = handler.output[:FRAMES_PER_SEND]
            try:
                size = connection.sock.sendmsg(frames)
            except (BlockingIOError, InterruptedError):
                size = 0
            except OSError as error:
                self._lost(connection, error)
                return
            if size:
                handler.sent(size)
            if size < sum(map(len, frames)):
                if size:
                    connection.waiting_since = perf_counter()
                break
        if not (connection.quiet and not handler.output and not handler.pending and not handler.closing):
            self._settle(connection)

    def _settle(self, connection: _Connection) -> None:
        """Brings what epoll is asked for, and where the connection is listed, in line with its state."""
        handler = connection.handler
        if handler.closing and not handler.output and not handler.owes:
            self._close_connection(connection)
            return
        waits = bool(handler.output)
        if not (waits or handler.stranger):
            self._waiting.pop(connection, None)
        elif connection not in self._waiting:
            self._waiting[connection] = None
            connection.waiting_since = perf_counter()
        if handler.pending and not handler.output_full:
            self._busy[connection] = None
        if handler.output_full or handler.closing or handler.pending:
            events = EPOLLOUT if waits else 0
        else:
            events = EPOLLIN | EPOLLOUT if waits else EPOLLIN
        if events != connection.events:
            self._epoll.modify(connection.fd, events)
            connection.events = events
        connection.quiet = events == EPOLLIN and handler.admitted and not handler.pending

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_PASS):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in ACCEPT_PAUSES:
                    self._pause_accepting(error)
                    return
                if error.errno in ACCEPT_IGNORED:
                    continue
                raise
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix socket"
            self.adopt(sock, peer)

    def _refuse_if_too_many(self, connection: _Connection) -> None:
        most = self._connections_max
        if len(self._connections) - len(self._half_open) <= most:
            return
        self.refused += 1
        text = f"the node has {most} connections, the most it is configured for (connections_max)"
        oldest = next(
            (each for each in self._waiting if each.handler.stranger and not each.half_open and each is not connection),
            connection,
        )
        self._refuse(oldest, TooManyConnections(text, {"limit": most}))
        if oldest is not connection and self._connections.get(oldest.fd) is oldest:
            self._drop(oldest)  # it does not read, and another wants its place

    def _shake_hands(self, connection: _Connection) -> bool:
        """Goes on with the TLS handshake; whether it is complete, and the connection goes on."""
        sock = connection.sock
        assert isinstance(sock, TlsSocket)
        try:
            if connection.handler.closing:  # it has failed, and whoever reads of it, or not, leaves
                if sock.plain.recv_into(self._receive_buffer) == 0:
                    self._drop(connection)
                return False
            sock.shake_hands()
        except (BlockingIOError, InterruptedError):
            return False
        except NotTls:
            self._opened(connection)
            connection.use(sock.plain)
            self._refuse(connection, TlsFailed(TLS_ONLY))
            return False
        except ssl.SSLError as error:
            self._fail(connection, reason_of(error))
            return False
        except OSError as error:
            if sock.begun:
                self._give_up(connection, str(error))
            else:  # it has said nothing at all: whoever looks whether somebody listens here
                self._drop(connection)
            return False
        self._opened(connection)
        self._refuse_if_too_many(connection)
        return not connection.handler.closing

    def _opened(self, connection: _Connection) -> None:
        connection.half_open = False
        del self._half_open[connection]

    def _fail(self, connection: _Connection, why: str) -> None:
        """The client was told why its handshake has failed. It is kept until it leaves or its time is over: if it were
        closed now, what it has sent meanwhile would make the system take that from it."""
        self._handshake_failed(connection, why)
        connection.handler.end()
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(connection)

    def _give_up(self, connection: _Connection, why: str) -> None:
        """Drops one that is half open."""
        if not connection.handler.closing:
            self._handshake_failed(connection, why)
        self._drop(connection)

    def _handshake_failed(self, connection: _Connection, why: str) -> None:
        self.tls_failures += 1
        self._closed_log.tell(f"{connection.peer}: TLS handshake failed: {why}")

    def _lost(self, connection: _Connection, error: OSError) -> None:
        if isinstance(error, ssl.SSLError):
            self.tls_failures += 1
            self._closed_log.tell(f"{connection.peer}: connection closed: TLS: {reason_of(error)}")
        log.debug("%s: connection lost: %s", connection.peer, error)
        self._drop(connection)

    def _pause_accepting(self, error: OSError) -> None:
        self._crowd_log.tell(
            f"cannot accept connections: {error}; raise the limit on open files (LimitNOFILE=); trying again"
        )
        for fd in self._listeners:
            self._epoll.modify(fd, 0)
        assert self._service.nursery is not None
        self._service.nursery.start_soon(self._resume_accepting)

    async def _resume_accepting(self) -> None:
        await trio.sleep(ACCEPT_PAUSE_S)
        for fd in self._listeners:
            self._epoll.modify(fd, EPOLLIN)

    async def _sweep(self) -> None:
        """Closes connections that keep the node waiting: for their hello, their login, or for output to be taken."""
        while True:
            await trio.sleep(SWEEP_S)
            now = perf_counter()
            self._closed_log.look()
            self._crowd_log.look()
            for connection in list(self._waiting):
                waited = now - connection.waiting_since
                if connection.half_open:
                    if waited > limits.HELLO_TIMEOUT_S:
                        self._give_up(connection, f"it is not complete after {waited:.0f} s")
                else:
                    self._look_after(connection, now)

            for connection in list(self._connections.values()):
                size = connection.handler.unfinished_bytes
                if size != connection.unfinished_bytes or not size or connection.handler.pending:
                    connection.unfinished_bytes, connection.unfinished_since = size, now
                elif now - connection.unfinished_since > limits.UNFINISHED_FRAME_TIMEOUT_S:
                    self._refuse(connection, unfinished_frame())

    def _look_after(self, connection: _Connection, now: float) -> None:
        """Of a connection that is waited for: ends it if its time is over, of a stranger whether or not it reads."""
        handler = connection.handler
        if handler.closing:
            connection.closing_since = connection.closing_since or now
            if now - connection.closing_since > limits.CLOSING_TIMEOUT_S:
                self._closed_log.tell(f"{connection.peer}: connection closed: it reads its last answers too slowly")
                self._drop(connection)
                return
        elif handler.stranger and now - connection.accepted_at > limits.HELLO_TIMEOUT_S:
            self._refuse(connection, handler.overdue())
            if self._connections.get(connection.fd) is connection:
                self._closed_log.tell(f"{connection.peer}: connection closed: {handler.notice}")
                self._drop(connection)
            return
        waited = now - connection.waiting_since
        if handler.output and waited > limits.STALLED_OUTPUT_TIMEOUT_S:
            self._closed_log.tell(f"{connection.peer}: connection closed: it has read no answer for {waited:.0f} s")
            self._drop(connection)

    def _refuse(self, connection: _Connection, error: SwarmError) -> None:
        connection.handler.refuse(error)
        self._flush(connection)

    def _close_connection(self, connection: _Connection) -> None:
        notice = connection.handler.notice
        self.tls_failures += isinstance(notice, TlsFailed)
        if isinstance(notice, TooManyConnections):
            self._crowd_log.tell(
                f"{connection.peer}: connection refused: {notice} (refused since the start: {self.refused})"
            )
        elif notice is not None and not isinstance(notice, ShuttingDown | NotAuthenticated):  # who gives these tells
            self._closed_log.tell(f"{connection.peer}: connection closed: {notice}")
        if notice is not None and not connection.input_ended:
            # Input that was not read would make close() send a reset, and a reset takes the notice from the client.
            try:
                connection.sock.shutdown(socket.SHUT_WR)
                for _ in range(4):
                    if not connection.sock.recv_into(self._receive_buffer):
                        break
            except OSError:
                pass
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.fd]
        self._waiting.pop(connection, None)
        self._busy.pop(connection, None)
        self._half_open.pop(connection, None)
        connection.handler.end()
        self._epoll.unregister(connection.fd)
        connection.sock.close()

    def _abort(self) -> None:
        """Ends every connection as it is."""
        for connection in list(self._connections.values()):
            self._drop(connection)

    def _close(self) -> None:
        self.stop_accepting()
        for connection in list(self._half_open):
            self._drop(connection)
        for connection in list(self._connections.values()):
            self._refuse(connection, ShuttingDown("the node is shutting down"))
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()
