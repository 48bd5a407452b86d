"""One connection on the node's side: bytes in, requests carried out, bytes out. No I/O.

The same handler is driven by the select listener and by a trio stream (stream_driver):

    receive(data, …)  takes what came in and carries out the requests in it; exchange(…) is a short cut
    pending           not all of them: work(…) goes on, and comes before the next receive
    output            what is to be sent; sent(n) tells how much of it has left
    closing           once there is no output the driver closes the connection
    end()             the connection is gone

Before it sends the driver commits, so no answer leaves before what it acknowledges is durable. Where commit only begins
that (Service.holds_writes), answers to writes are put aside, and become output when they are released.

Requests are not carried out while more than OUTPUT_BYTES_MAX (of a stranger: less) of output waits: a client that
does not read stands still, and takes no memory.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from operator import length_hint
from time import perf_counter
from typing import Any

import trio

from swarm.core import limits, protocol
from swarm.core.errors import (
    BadArgument,
    NotAuthenticated,
    OutOfMemory,
    ProtocolError,
    SwarmError,
    TooManyRequests,
    UnknownRequest,
)
from swarm.core.framing import HEADER_BYTES, FrameDecoder, FrameEncoder, Message, decode_body, read_header
from swarm.core.limits import (
    BATCH_BYTES,
    HELD_REPLY_BYTES,
    LARGE_RESULT_BYTES,
    OUTPUT_BYTES_MAX,
    REQUEST_ID_MAX,
    REQUESTS_PER_CHECK,
    SLOT_BYTES,
    TOGETHER_MAX,
)
from swarm.core.login import new_nonce
from swarm.core.protocol import DONE, brief
from swarm.core.request_handler import RequestHandler, RequestTables, Running, Service
from swarm.core.session import LZ4, ClientHello
from swarm.core.stats import BOUNDS_S, RequestStatistics

_NOTHING: Iterator[Message] = iter(())


class ConnectionHandler:
    def __init__(self, service: Service, flush_soon: Callable[[], None], peer: str = "unknown address") -> None:
        """flush_soon: called when there is output that no pass has caused; the driver then sends it. peer: the client's
        host:port, for logs."""
        self.service = service
        self.peer = peer
        self.greeted = False
        """Whether the client's hello was accepted."""
        self.admitted = False
        """Whether the client may ask for what is in its tables: it was greeted and, where it has to, has logged in."""
        self.login_tried = False
        self.nonce = b""
        """For the login; no other connection has it."""
        self._at_once, self._handlers = service.at_once, service.handlers
        self.pending = False
        """Whether there are requests that were received and not carried out yet."""
        self.closing = False
        self.notice: SwarmError | None = None
        """Why the node closes the connection, if it does."""
        self.client = ""
        self.at_end: list[Callable[[], object]] = []
        """Called when the connection ends, however it does."""
        self._flush_soon = flush_soon
        self._decoder = FrameDecoder(frame_bytes_max=limits.HELLO_BYTES_MAX)
        self._encoder = FrameEncoder()
        self._requests = _NOTHING
        self.clock = 0.0
        """The time (perf_counter) at which the last request was carried out."""
        self._replies: list[Message] = []
        self.output: list[bytes | memoryview] = []
        """Frames to be sent, perhaps in pieces, the first perhaps in part."""
        self._output_bytes = 0
        self._output_bytes_max = limits.STRANGER_OUTPUT_BYTES_MAX
        self._unencoded_bytes = 0
        """Of replies that wait to be encoded, as far as they are large."""
        self._when_room: list[Callable[[], None]] = []
        self.held = 0
        """Answers that wait until what they acknowledge is durable."""
        self._held_bytes = 0
        self._discards = False  # answers: nobody is there to read them
        self._streams: dict[int, Running] = {}
        self._direct: dict[int, tuple[RequestStatistics, float]] = {}
        """Of those that have no task: what counts them, and when they began."""
        self._counted_bytes = 0  # of the input, in service.unfinished_bytes

    # What the driver calls.

    def exchange(self, buffer: memoryview, size: int, begun: float, deadline: float) -> bytes | None:
        """What receive does with buffer[:size], in the usual case, where that is one frame of requests that answer at
        once.

        Returns the frame to send. None where anything else has come: then output, pending and closing tell what is
        to be done. Takes the time (perf_counter), and leaves it in clock. Only to be called once the client is
        admitted, while nothing is pending and no output waits.
        """
        length = size - HEADER_BYTES
        if self._decoder.partial or not 0 < length <= BATCH_BYTES or read_header(buffer)[0] != length:
            self.receive(buffer[:size], begun, deadline)
            return None
        try:
            messages = decode_body(buffer[HEADER_BYTES:size], True)
            if len(messages) == 1:
                replies = self._carry_out_one(messages[0], begun)
            else:
                replies = self._carry_out_together(messages, begun)
            if replies is not None:
                return self._encoder.encode(replies)
            requests = self._requests = iter(messages)
            short = len(messages) <= REQUESTS_PER_CHECK
            broke_off = self._carry_out(requests if short else islice(requests, REQUESTS_PER_CHECK), begun)
        except SwarmError as error:
            self.refuse(error)
            return None
        if broke_off or not short:
            self._encode()
            self.work(self.clock, deadline)
            return None
        replies = self._replies
        self._replies = []
        self._unencoded_bytes = 0
        return self._encoder.encode(replies)

    def receive(self, data: memoryview, now: float, deadline: float) -> None:
        """Takes data that has come in, which may be overwritten afterwards, and carries out the requests in it.

        It stops when the output is full or deadline has passed; then pending is set. Takes the time (perf_counter)
        and leaves it in clock: what is between counts as the requests' time. Not to be called while pending.
        """
        self.clock = now
        if self.closing:
            return
        try:
            messages = self._decoder.feed(data)
            if messages is None:
                self._count_input()
                return
            if self.greeted:
                self._requests = iter(messages)
            else:
                self._greet(messages)
        except SwarmError as error:
            self.refuse(error)
            return
        self.work(now, deadline)

    def work(self, now: float, deadline: float) -> None:
        """Goes on with what is pending, as receive does."""
        self.clock = now
        try:
            self.pending = self._work(deadline)
            self._encode()
        except SwarmError as error:
            self.refuse(error)
            self.pending = False
        self._count_input()

    def _work(self, deadline: float) -> bool:
        """Whether something is left undone."""
        leaves_at = self._output_bytes + SLOT_BYTES
        while not self.closing:
            if self.clock > deadline or self.output_full:
                return True
            if not length_hint(self._requests):
                messages = self._decoder.next_frame()
                if messages is None:
                    return False
                self._requests = iter(messages)
            if self._output_bytes >= leaves_at:
                return True  # the client can take that while the next is made
            broke_off = self._carry_out(islice(self._requests, REQUESTS_PER_CHECK), self.clock)
            if broke_off or len(self._replies) >= REQUESTS_PER_CHECK:
                self._encode()
        return False

    @property
    def unfinished_bytes(self) -> int:
        """Of a frame that has not come completely."""
        return len(self._decoder.partial)

    @property
    def output_full(self) -> bool:
        waiting = self._output_bytes + self._unencoded_bytes + self._held_bytes
        return waiting + HELD_REPLY_BYTES * self.held > self._output_bytes_max

    @property
    def owes(self) -> bool:
        """Whether answers are held that the client will still be sent."""
        return self.held > 0 and not self._discards

    def sent(self, size: int) -> None:
        """The first size bytes of the output have left."""
        self._output_bytes -= size
        self.service.bytes_out += size
        while size and size >= len(self.output[0]):
            size -= len(self.output.pop(0))
        if size:
            self.output[0] = memoryview(self.output[0])[size:]
        if self._when_room and not self.output_full:
            self._tell_room()

    def put_back(self, answer: bytes, sent: int) -> None:
        """Of what exchange returned, only so many bytes have left."""
        self.output.insert(0, memoryview(answer)[sent:])
        self._output_bytes += len(answer) - sent

    def refuse(self, error: SwarmError) -> None:
        """Tells the client why the connection ends, and ends it."""
        if not self.closing:
            self._append(0, error.code, (error.text, error.details))
            self._encode()
            self.closing = self._discards = True
            self.notice = error
            self.service.protocol_errors += isinstance(error, ProtocolError)
            self._abandon()

    @property
    def stranger(self) -> bool:
        """Whether its hello, or its login, is still to come: for that it has HELLO_TIMEOUT_S."""
        return not (self.admitted or self.login_tried)

    def overdue(self) -> ProtocolError:
        """What a client is refused with for which the node has waited too long."""
        if not self.greeted:
            return _no_hello()
        return _no_login() if self.stranger else unfinished_frame()

    def end_of_input(self) -> None:
        """The client has closed its side; what it is owed is still sent."""
        self.closing = True
        self._abandon()

    def end(self) -> None:
        """The connection is gone."""
        self.closing = self._discards = True
        self._abandon()
        self.output.clear()
        self._output_bytes = 0
        self._tell_room()
        for function in self.at_end:
            function()
        self.at_end.clear()

    # What the service calls.

    def release(self, replies: list[Message], size: int) -> None:
        """Answers that were held, and count as so many bytes, may leave."""
        self.held -= len(replies)
        self._held_bytes -= size
        if not self._discards:
            self._replies += replies
            self._encode()
            self._flush_soon()

    def flush(self) -> None:
        """What was answered by send_reply leaves."""
        if not self._discards:
            self._encode()
            self._flush_soon()

    def admit(self, tables: RequestTables) -> None:
        """The client may ask for what is in these tables from now on."""
        self._at_once, self._handlers = tables.at_once, tables.handlers
        self._decoder.frame_bytes_max = limits.FRAME_BYTES_MAX
        self._output_bytes_max = OUTPUT_BYTES_MAX
        self.admitted = True

    def cut_off(self, error: SwarmError) -> None:
        """Ends the connection between passes, and tells the client why."""
        self.refuse(error)
        self._flush_soon()

    def running(self, request_id: int) -> Running | None:
        """The request of this connection that has begun and not ended."""
        return self._streams.get(request_id)

    # What streams call.

    async def room_for_output(self) -> None:
        while self.output_full:
            room = trio.Event()
            self.when_room(room.set)
            await room.wait()

    def when_room(self, function: Callable[[], None]) -> None:
        """Calls it once, as soon as the output that is full is so no longer, or the connection is gone."""
        self._when_room.append(function)

    def send_reply(self, request_id: int, status: int, result: object, size: int = 0) -> None:
        """In a pass it leaves after the commit. size: bytes of the result, where it is not small."""
        if not self.closing:
            self._append(request_id, status, result)
            self._unencoded_bytes += size
            self.service.flush(self)

    def hold_reply(self, request_id: int, status: int, result: object, size: int = 0) -> None:
        """As send_reply, but it leaves when what was changed up to now is durable (Service.holds_writes)."""
        if not self.closing:
            self._hold((request_id, status, result), size)

    def stream_ended(self, request_id: int) -> None:
        self._streams.pop(request_id, None)  # it may be gone with the connection
        if request_id in self._direct:
            self._count_direct(*self._direct.pop(request_id))

    # Inside.

    def _tell_room(self) -> None:
        functions, self._when_room = self._when_room, []
        for function in functions:
            function()

    def _hold(self, reply: Message, size: int) -> None:
        self.held += 1
        self._held_bytes += size
        self.service.held.append((self, reply, size))

    def _abandon(self) -> None:
        """Nothing more is carried out, nor streamed."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.abandon()
        for counted in self._direct.values():
            self._count_direct(*counted)
        self._direct.clear()
        self._decoder.clear()
        self._count_input()

    def _count_input(self) -> None:
        """Keeps the node's sum of what has come and waits for the rest of its frame, and refuses what is too much.

        It is the frame that grows which is refused, unless it is small: who is not the cause is not harmed.
        """
        size = len(self._decoder.partial)
        growth = size - self._counted_bytes
        if growth == 0:
            return
        service = self.service
        self._counted_bytes = size
        service.unfinished_bytes += growth
        most = service.unfinished_bytes_max
        if service.unfinished_bytes > most and growth > 0 and size > limits.UNFINISHED_BYTES_FREE:
            self.refuse(
                OutOfMemory(
                    f"the node holds {service.unfinished_bytes} bytes of frames that have not come completely, and may "
                    f"hold {most}: this one is given up; send it again later, or in smaller requests",
                    {"limit": most},
                )
            )

    def _greet(self, messages: list[Message]) -> None:
        hello = ClientHello.from_messages(messages, self.service.kind)
        authentication = self.service.authentication
        if authentication is not None:
            self.nonce = new_nonce()
        answer = self.service.hello(hello, self.nonce)
        self._replies.append(answer.to_message())
        self._encode()
        self.client = hello.client
        self.greeted = True
        self._decoder.compression = self._encoder.compression = answer.compression == LZ4
        if authentication is None:
            self.admit(RequestTables(self.service.at_once, self.service.handlers))
        else:
            before = authentication.before_login
            self._at_once, self._handlers = before.at_once, before.handlers

    def _append(self, request_id: int, status: int | None, result: object) -> None:
        self._replies.append((request_id, status, result))

    def _encode(self) -> None:
        if self._replies:
            parts = self._encoder.encode_parts(self._replies)
            self._replies = []
            self._unencoded_bytes = 0
            self.output += parts
            self._output_bytes += sum(map(len, parts))

    def _carry_out_one(self, message: Message, begun: float) -> list[Message] | None:
        """The reply to a frame's only request. None if it is not one that answers at once: nothing was done."""
        try:
            request_id, code, *arguments = message
            handler = self._at_once[code, len(message)]
        except (KeyError, TypeError, ValueError):
            return None
        usual = type(request_id) is int and 0 < request_id <= REQUEST_ID_MAX and type(code) is int
        if not usual or type(message) is not list or request_id in self._streams:
            return None
        reply: Message
        try:
            reply = (request_id, DONE, handler.function(*arguments))
        except SwarmError as error:
            handler.statistics.failed += 1
            reply = (request_id, error.code, (error.text, error.details))
        self.clock = now = perf_counter()
        handler.histogram[bisect_left(BOUNDS_S, now - begun)] += 1
        return [reply]

    def _carry_out_together(self, messages: list[Message], begun: float) -> list[Message] | None:
        """The replies to a frame of requests of the same kind. None if they are to be carried out one by one."""
        count = len(messages)
        if count > TOGETHER_MAX or self._streams or set(map(type, messages)) != {list}:
            return None
        try:
            ids, codes, *arguments = zip(*messages, strict=True)
            code = codes[0]
            handler = self._at_once.get((code, 2 + len(arguments)))
            usual = codes.count(code) == count and set(map(type, ids + codes)) == {int}
        except (TypeError, ValueError):
            return None
        if handler is None or handler.together is None or not usual:
            return None
        if not (min(ids) > 0 and max(ids) <= REQUEST_ID_MAX):
            return None
        results = handler.together(*arguments)
        if results is None:
            return None
        self.clock = now = perf_counter()
        handler.histogram[bisect_left(BOUNDS_S, (now - begun) / count)] += count
        return list(zip(ids, repeat(DONE), results))

    def _carry_out(self, requests: Iterator[Message], begun: float) -> bool:
        """Carries out some requests. Breaks off behind one that may have taken long, or has a large result; returns
        whether it did.

        The one loop that every request of a single record goes through: what it does per request is what the node
        costs. Times are taken for runs of the same request.
        """
        replies = self._replies
        at_once = self._at_once
        streams = self._streams
        previous: RequestHandler | None = None
        run = size = 0
        broke_off = False
        for message in requests:
            try:
                request_id, code, *arguments = message
            except (TypeError, ValueError) as error:
                raise _malformed(message) from error
            if type(request_id) is not int or not 0 < request_id <= REQUEST_ID_MAX or type(message) is not list:
                raise _malformed(message)
            handler = at_once.get((code, len(message))) if type(code) is int else None
            if handler is not previous:
                if previous is not None:
                    now = perf_counter()
                    previous.histogram[bisect_left(BOUNDS_S, (now - begun) / run)] += run
                    begun = now
                    run = 0
                previous = handler
            if handler is None:
                self._carry_out_other(request_id, code, arguments)
                broke_off = True
                break
            if streams and request_id in streams:
                raise _id_in_use(request_id)
            run += 1
            try:
                result = handler.function(*arguments)
            except SwarmError as error:
                handler.statistics.failed += 1
                replies.append((request_id, error.code, (error.text, error.details)))
                continue
            replies.append((request_id, DONE, result))
            if type(result) is bytes:
                size += len(result)
                if size > LARGE_RESULT_BYTES:
                    broke_off = True
                    break
        self.clock = perf_counter()
        if previous is not None:
            previous.histogram[bisect_left(BOUNDS_S, (self.clock - begun) / run)] += run
        return broke_off

    def _carry_out_other(self, request_id: int, code: Any, arguments: list[Any]) -> None:
        """A batch, a write whose answer is held, a stream, a stream's control, or what is no request."""
        handler = self._handlers.get(code) if type(code) is int else None
        try:
            if type(code) is int and code in (protocol.GRANT_CREDIT.code, protocol.STOP.code):
                self._control(request_id, code, arguments)
            elif request_id in self._streams:
                raise _id_in_use(request_id)
            elif handler is None and not self.admitted:
                raise NotAuthenticated(
                    "this node wants to know who asks: log in first (`swarm credentials add` gives clients "
                    "what they need)"
                )
            elif handler is None:
                raise UnknownRequest(f"a {self.service.kind} node has no request {brief(code)}")
            elif handler.mode == "batch" or (handler.mode == "at once" and handler.held):
                self._carry_out_batch(request_id, handler, arguments)
            elif handler.mode == "stream":
                self._check_streams()
                self._streams[request_id] = self.service.start_stream(self, handler, request_id, arguments)
            elif handler.mode == "direct":
                self._carry_out_direct(request_id, handler, arguments)
            else:  # at once: not found because of the number of its arguments
                handler.request.check(arguments, self.service.limits)
        except ProtocolError:
            raise
        except SwarmError as error:
            if handler is not None:
                handler.statistics.failed += 1
            self._append(request_id, error.code, (error.text, error.details))

    def _carry_out_batch(self, request_id: int, handler: RequestHandler, arguments: list[Any]) -> None:
        begun = perf_counter()
        if len(arguments) != len(handler.request.parameters):
            handler.request.check(arguments, self.service.limits)
        try:
            result = handler.function(self, *arguments) if handler.mode == "batch" else handler.function(*arguments)
        finally:
            handler.statistics.record(1, perf_counter() - begun)
        if handler.held or (self.service.holds_batches and handler.request.changes):
            self._hold((request_id, DONE, result), _large_bytes(result))
        else:
            self._append(request_id, DONE, result)

    def _carry_out_direct(self, request_id: int, handler: RequestHandler, arguments: list[Any]) -> None:
        begun = perf_counter()
        self._check_streams()
        handler.request.check(arguments, self.service.limits)
        running = handler.function(self, request_id, *arguments)
        if running is None:
            handler.statistics.record(1, perf_counter() - begun)
        else:
            handler.statistics.in_flight += 1
            self._streams[request_id] = running
            self._direct[request_id] = handler.statistics, begun

    def _count_direct(self, statistics: RequestStatistics, begun: float) -> None:
        statistics.in_flight -= 1
        statistics.record(1, perf_counter() - begun)

    def _check_streams(self) -> None:
        if len(self._streams) >= self.service.limits.streams:
            most = self.service.limits.streams
            raise TooManyRequests(
                f"{most} streams are running on this connection, the most there may be", {"limit": most}
            )

    def _control(self, request_id: int, code: int, arguments: list[Any]) -> None:
        control = protocol.STOP if code == protocol.STOP.code else protocol.GRANT_CREDIT
        try:
            control.check(arguments, self.service.limits)
        except BadArgument as error:  # a control has no reply of its own in which this could be told
            raise ProtocolError(f"bad {control.name} for stream {request_id}: {error}") from error
        stream = self._streams.get(request_id)
        if stream is None:
            return
        if control is protocol.STOP:
            stream.stop()
        else:
            stream.grant(arguments[0])


def _large_bytes(result: object) -> int:
    """What a result takes, as far as it is bytes."""
    if type(result) is bytes:
        return len(result)
    return sum(len(part) for part in result if type(part) is bytes) if type(result) is tuple else 0


def _malformed(message: Message) -> ProtocolError:
    return ProtocolError(
        f"a request is an array of an id (1 to {REQUEST_ID_MAX}), a code and arguments, not {brief(message)}"
    )


def _id_in_use(request_id: int) -> ProtocolError:
    return ProtocolError(f"the id {request_id} is in use by a stream that has not ended")


def _no_hello() -> ProtocolError:
    return ProtocolError(f"no hello came within {limits.HELLO_TIMEOUT_S:.0f} s")


def _no_login() -> ProtocolError:
    return ProtocolError(f"no login came within {limits.HELLO_TIMEOUT_S:.0f} s, and this node asks for one")


def unfinished_frame() -> ProtocolError:
    return ProtocolError(f"nothing more came of a frame for {limits.UNFINISHED_FRAME_TIMEOUT_S:.0f} s")
