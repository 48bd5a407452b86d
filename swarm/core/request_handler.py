"""What a node answers: a handler for each request, and the streams among them.

A handler is one of four:

    at once   def get(channel, key) -> result            single records; microseconds
    batch     def put_many(connection, …) -> result      bounded, but the clock is looked at after each
    stream    def get_all(channel, …) -> iterator        of batches; drawn by a trio task as the client grants credit.
                                                         In place of a batch it may give a Signal: it has none until
                                                         that is set. If it has close(), that is called at the end;
                                                         if it has final(), that makes the result of the final reply.
    direct    def consume(connection, id, …)             answers by connection.send_reply: all at once, and returns
                  -> None or Running                     None; or later and perhaps often, without a task of its own.
                                                         What it then returns is told credit, stop and the connection's
                                                         end, until connection.stream_ended(id).

Handlers at once, batches and direct ones run inside the listener's pass and never await. The batches of a stream are
made one at a time between passes: whichever streams run, a client with one request waits for one batch at most.

Handlers at once may have a second form, together, for several requests of the same kind that came in one frame: it
takes a tuple for each argument and gives their results, or None if they are to be carried out one by one after all,
because something about them is unusual; then it has changed nothing. So small requests get near the speed of batches.

Answers leave when the pass is committed, those too which the pass has caused on other connections. What changes
between passes, and is to be committed, asks for it (commit_soon).

A service that holds the answers to writes (holds_writes) lets commit only begin to make them durable: these answers are
put aside, whoever makes the changes durable takes them (take_held), and gives them back when it is done (release_held).
Reads are answered meanwhile, on the same connection too. In the same way a service that is behind with its work holds
the answers to batches of writes (holds_batches): who waits for them is slowed down, and nobody else.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import trio

from swarm.core import limits, protocol
from swarm.core.errors import SwarmError
from swarm.core.framing import Message
from swarm.core.health import HealthRule
from swarm.core.protocol import Limits, Request
from swarm.core.session import LZ4, ClientHello, NodeHello
from swarm.core.stats import Metric, RequestStatistics


@dataclass(frozen=True)
class RequestHandler:
    request: Request
    mode: Literal["at once", "batch", "stream", "direct"]
    function: Callable[..., Any]
    statistics: RequestStatistics
    histogram: list[int]
    """Of statistics, one step less away for the loop that counts every request."""
    held: bool = False
    """Its answers are held until what they acknowledge is durable."""
    together: Callable[..., Iterable[Any] | None] | None = None


class HoldingConnection(Protocol):
    """What held answers need of the connection that they belong to."""

    def release(self, replies: list[Message], size: int) -> None: ...


@dataclass(frozen=True)
class RequestTables:
    """What a client may ask for: the tables in which its connection looks handlers up.

    at_once: by code and length of the message, so that one lookup also checks the number of arguments.
    handlers: all of them, by code.
    """

    at_once: dict[tuple[int, int], RequestHandler]
    handlers: dict[int, RequestHandler]


class Admission(Protocol):
    """What asks clients to log in (swarm.core.authentication)."""

    @property
    def methods(self) -> tuple[str, ...]:
        """By which they may."""

    @property
    def before_login(self) -> RequestTables:
        """What they may ask for until they have."""


HeldReply = tuple[HoldingConnection, Message, int]
"""Whose it is, the reply, and the bytes that it counts as output."""


class Running(Protocol):
    """A request that has begun and not ended, as its connection sees it."""

    def grant(self, batches: int) -> None:
        """The client takes so many batches more."""

    def stop(self) -> None:
        """The client wants no more; it is still told that the request has ended."""

    def abandon(self) -> None:
        """The connection is gone; nobody is there to be told."""


class FlushedConnection(Protocol):
    """A connection that has output which no request of its own has caused."""

    def flush(self) -> None: ...


class StreamConnection(Protocol):
    """What a stream needs of the connection that it belongs to."""

    async def room_for_output(self) -> None: ...

    def send_reply(self, request_id: int, status: int, result: object) -> None: ...

    def stream_ended(self, request_id: int) -> None: ...


@runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


@runtime_checkable
class Telling(Protocol):
    def final(self, ended: str) -> object:
        """The result of the final reply. ended: STREAM_END or STREAM_STOPPED."""


class Signal:
    """What a stream waits for. While it waits the stream does not count as busy, from set() on it does.

    soon: it is set by a thread that is at work, so the stream counts as busy all the time: the listener would otherwise
    wait for requests, and find out about it a millisecond later.
    """

    __slots__ = ("_counts", "_event", "_service", "_waiting")

    def __init__(self, service: "Service", *, soon: bool = False) -> None:
        self._service = service
        self._event = trio.Event()
        self._waiting = 0
        self._counts = 0 if soon else 1

    def set(self) -> None:
        self._event.set()
        self._service.streams_waiting -= self._waiting
        self._waiting = 0

    async def wait(self) -> None:
        if not self._event.is_set():
            self._waiting += self._counts
            self._service.streams_waiting += self._counts
            try:
                await self._event.wait()
            finally:
                if not self._event.is_set():
                    self._waiting -= self._counts
                    self._service.streams_waiting -= self._counts


@dataclass
class Service:
    """All that the connections of one node share. Knows nothing of sockets.

    commit: makes durable what the requests of a pass have changed; called once before their answers leave.
    facts: what this kind of node adds to the hello.
    holds_writes: answers to requests that change something are held; see above.
    """

    kind: str
    software: str
    limits: Limits = protocol.DEFAULT_LIMITS
    facts: dict[str, Any] = field(default_factory=dict)
    commit: Callable[[], None] = lambda: None
    holds_writes: bool = False

    def __post_init__(self) -> None:
        self.handlers: dict[int, RequestHandler] = {}
        self.at_once: dict[tuple[int, int], RequestHandler] = {}
        """By code and length of the message, so that one lookup also checks the number of arguments."""
        self.holds_batches = False
        """Whether answers to batches of writes are held at the moment, though holds_writes is not set."""
        self.authentication: Admission | None = None
        """None: whoever connects may ask for everything."""
        self.turn = trio.StrictFIFOLock()
        """Held by the one stream that is making a batch."""
        self.nursery: trio.Nursery | None = None
        self.streams_waiting = 0
        self.held: list[HeldReply] = []
        """Answers that nobody has taken yet; always the same list."""
        self._taken = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.protocol_errors = 0
        self.more_statistics: list[Callable[[], dict[str, Any]]] = []
        """What this kind of node counts besides what all of them do."""
        self.metrics: dict[str, Metric] = {}
        """By name in the statistics, of a channel's behind "channel."; one that is not here is a gauge of that name."""
        self.health_rules: dict[str, HealthRule] = {}
        """By name; what this kind of node looks at besides what all of them do."""
        self.unfinished_bytes = 0
        """What all connections hold of frames that have not come completely, or were not carried out."""
        self.unfinished_bytes_max = 2 * limits.FRAME_BYTES_MAX
        self.background: list[Callable[[], Awaitable[None]]] = [self._commit_between_passes]
        """What this kind of node does besides answering, while it runs."""
        self.in_pass = False
        """Requests are being carried out, and what they change is not committed yet."""
        self._to_flush: dict[FlushedConnection, None] = {}
        self._commit_wanted = trio.Event()

    def handle(
        self,
        request: Request,
        function: Callable[..., Any],
        mode: Literal["at once", "batch", "direct"] = "at once",
        together: Callable[..., Iterable[Any] | None] | None = None,
    ) -> None:
        """Adds the handler of a request; one that streams, unless direct, is known by its definition."""
        assert request.code not in self.handlers, f"{request.name} is handled twice"
        statistics = RequestStatistics(request.name)
        held = self.holds_writes and request.changes
        of_task = request.streams and mode != "direct"
        handler = RequestHandler(
            request, "stream" if of_task else mode, function, statistics, statistics.histogram, held, together
        )
        self.handlers[request.code] = handler
        if handler.mode == "at once" and not held:
            self.at_once[request.code, 2 + len(request.parameters)] = handler

    def flush(self, connection: FlushedConnection) -> None:
        """The connection has output: it is sent at once, in a pass after its commit (flush_others)."""
        if self.in_pass:
            self._to_flush[connection] = None
        else:
            connection.flush()

    def end_pass(self) -> None:
        """Commits what has changed. The driver has set in_pass before; answers may leave now."""
        self.commit()
        self.in_pass = False

    def flush_others(self) -> None:
        """After a pass, when those have their answers whose requests were carried out in it: sends all other output
        that it has caused."""
        if self._to_flush:
            connections, self._to_flush = self._to_flush, {}
            for connection in connections:
                connection.flush()

    def commit_soon(self) -> None:
        """Something has changed between passes, or there is more to do in a commit than was done in the last."""
        self._commit_wanted.set()

    async def _commit_between_passes(self) -> None:
        while True:
            await self._commit_wanted.wait()
            self._commit_wanted = trio.Event()
            self.in_pass = True
            self.end_pass()
            self.flush_others()

    def hello(self, client: ClientHello, nonce: bytes) -> NodeHello:
        """nonce: of this connection, where clients have to log in."""
        compression = LZ4 if LZ4 in client.compression else None
        methods = self.authentication.methods if self.authentication else ()
        return NodeHello(self.kind, self.software, self.limits, compression, self.facts, methods, nonce)

    @property
    def streams_running(self) -> int:
        return len(self.nursery.child_tasks) if self.nursery else 0

    @property
    def streams_busy(self) -> int:
        """Those of them that want the loop now, and do not wait for a Signal."""
        return self.streams_running - self.streams_waiting

    def take_held(self) -> list[HeldReply]:
        """All answers that are held; what they acknowledge has been committed. To be given back to release_held."""
        taken = self.held[:]
        self.held.clear()
        self._taken += len(taken)
        return taken

    def release_held(self, taken: list[HeldReply]) -> None:
        """What they acknowledge is durable: they leave."""
        self._taken -= len(taken)
        of_connection: dict[HoldingConnection, tuple[list[Message], list[int]]] = {}
        for connection, reply, size in taken:
            replies, sizes = of_connection.setdefault(connection, ([], []))
            replies.append(reply)
            sizes.append(size)
        for connection, (replies, sizes) in of_connection.items():
            connection.release(replies, sum(sizes))

    @property
    def holding(self) -> bool:
        """Whether an answer has not been released yet."""
        return bool(self.held or self._taken)

    @property
    def tasks_waiting(self) -> bool:
        """Whether other tasks than the listener have something to do now: streams, to release what is held, or to
        commit."""
        nursery = self.nursery  # each pass looks: not by way of streams_busy
        busy = nursery is not None and len(nursery.child_tasks) != self.streams_waiting
        return bool(busy or self.held or self._taken or self._commit_wanted.is_set())

    def in_steps(self, steps: Iterator[None]) -> None:
        """Begins something now, and goes on with it between passes, if there are passes."""
        next(steps, None)
        if self.nursery is not None:
            self.nursery.start_soon(_go_on, steps)
        else:
            deque(steps, maxlen=0)

    def start_stream(
        self, connection: StreamConnection, handler: RequestHandler, request_id: int, arguments: list[Any]
    ) -> "Stream":
        """Begins to answer a request that streams. Raises what is wrong with its arguments."""
        assert self.nursery is not None
        handler.request.check(arguments, self.limits)
        *arguments, credit = arguments
        stream = Stream(self, connection, handler, request_id, credit)
        self.nursery.start_soon(stream.run, handler.function(*arguments))
        return stream


async def _go_on(steps: Iterator[None]) -> None:
    for _ in steps:
        await trio.lowlevel.checkpoint()


class Stream:
    """One request that streams, on the node's side."""

    def __init__(
        self, service: Service, connection: StreamConnection, handler: RequestHandler, request_id: int, credit: int
    ) -> None:
        self._service = service
        self._connection = connection
        self._handler = handler
        self._request_id = request_id
        self._credit = credit
        self._credit_granted = Signal(service)
        self._scope = trio.CancelScope()
        self._connection_ended = False

    def grant(self, batches: int) -> None:
        self._credit = min(self._credit + batches, limits.CREDIT_MAX)
        self._credit_granted.set()

    def stop(self) -> None:
        """The client wants no more; it is still told that the stream has ended."""
        self._scope.cancel()

    def abandon(self) -> None:
        """The connection is gone; nobody is there to be told."""
        self._connection_ended = True
        self._scope.cancel()

    async def run(self, batches: Iterator[object]) -> None:
        try:
            await self._run(batches)
        finally:
            if isinstance(batches, Closable):
                batches.close()

    async def _run(self, batches: Iterator[object]) -> None:
        statistics = self._handler.statistics
        statistics.in_flight += 1
        begun = trio.current_time()
        status: int = protocol.DONE
        result: object = protocol.STREAM_STOPPED
        ended = protocol.STREAM_STOPPED
        with self._scope:
            try:
                await self._send_all(batches)
                result = ended = protocol.STREAM_END
            except SwarmError as error:
                assert error.code is not None
                statistics.failed += 1
                status, result = error.code, (error.text, error.details)
        statistics.in_flight -= 1
        statistics.record(1, trio.current_time() - begun)
        if status == protocol.DONE and isinstance(batches, Telling):
            result = batches.final(ended)
        if not self._connection_ended:
            self._connection.send_reply(self._request_id, status, result)
            self._connection.stream_ended(self._request_id)

    async def _send_all(self, batches: Iterator[object]) -> None:
        while True:
            while self._credit == 0:
                self._credit_granted = Signal(self._service)
                await self._credit_granted.wait()
            await self._connection.room_for_output()
            async with self._service.turn:
                batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, Signal):
                await batch.wait()
                continue
            self._credit -= 1
            self._connection.send_reply(self._request_id, protocol.BATCH, batch)
