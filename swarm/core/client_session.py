"""One connection on the client's side: requests in, bytes out; bytes in, answers out. No I/O. docs/protocol.md.

Requests are collected and leave together: outgoing() encodes whatever was asked for since it was last called, as
one frame.
"""

from collections.abc import Callable, Container, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from swarm import __version__
from swarm.core import limits, protocol
from swarm.core.connection_settings import ConnectionSettings
from swarm.core.errors import NotAuthenticated, ProtocolError, SwarmError, TooManyRequests, WrongKind, from_wire
from swarm.core.frame_receiver import FrameReceiver
from swarm.core.framing import FrameEncoder, Message
from swarm.core.login import ClientLogin, begin_login
from swarm.core.protocol import AUTHENTICATE, Request, brief
from swarm.core.session import LZ4, ClientHello, NodeHello


class Call(NamedTuple):
    """A request to one node.

    node: its number in the client's list.
    size: bytes it takes, roughly; 0 for a small one.
    abandon: arguments of the same request, to be sent if the program does not wait for the answer.
    unsent: arguments of the same request, to be sent if of several Calls side by side this one is not.
    take: is given the result as soon as it is there, while others may still be on their way; what it returns is the
        result then.
    at_once: where the node is not connected, this is not waited for: NodeUnreachable.
    wait_s: the node may take so long for the answer, besides the client's timeout.
    late: is given the result where the program does not wait for it any more; the request is stopped then.
    """

    node: int
    request: Request
    arguments: tuple[Any, ...]
    size: int = 0
    abandon: tuple[Any, ...] | None = None
    unsent: tuple[Any, ...] | None = None
    take: Callable[[Any], Any] | None = None
    at_once: bool = False
    wait_s: float = 0.0
    late: Callable[[Any], object] | None = None


class FirstOf(NamedTuple):
    """Requests side by side that wait for something: what one of them gives is enough, then the others are stopped.

    calls: to be carried out, each with `late`.
    enough: whether there is something; asked after each answer.
    arrivals: of functions to be called when enough() may have become true without an answer.
    """

    calls: list[Call]
    enough: Callable[[], bool]
    arrivals: set[Callable[[], None]]


Result = TypeVar("Result")
Steps = Generator[Any, Any, Result]
"""An operation of a client, as a generator that does no I/O (for instance swarm.dht.operations).

It yields a Call, a list of Calls to carry out side by side (whose errors are among the results), a FirstOf (whose
result is the list of such results, None for what was stopped, and the seconds it took), or WAIT_FOR_NODES; it is sent
their results, and returns its own.
"""

WAIT_FOR_NODES = object()
"""Yielded by an operation that cannot go on before another node was reached."""

BROKE = object()
"""What a stream that is to go on for ever gives in place of a batch: its connection broke, it has to be begun again."""

Owner = TypeVar("Owner")
"""Whatever the driver wants back together with an answer."""


class ClientSession(Generic[Owner]):
    def __init__(self, settings: ConnectionSettings) -> None:
        self.hello: NodeHello | None = None
        """None until the node's hello was read and, where it asks for that, the client has logged in; requests may be
        sent from then on."""
        self.notice: SwarmError | None = None
        """Why the node closes the connection, once it has told."""
        self.waiting: dict[int, Owner] = {}
        """Who waits for which answer, oldest first."""
        self._settings = settings
        self._login: tuple[NodeHello, ClientLogin, int] | None = None
        """While its answer is awaited: the node's hello, and the id of the request."""
        self._receiver = FrameReceiver(frame_bytes_max=limits.HELLO_BYTES_MAX)
        self._encoder = FrameEncoder()
        self._messages: list[Message] = []
        self._streams: set[int] = set()
        """Which of those that are waited for may have batches, perhaps with some that are not any more."""
        self._next_id = 1

    def begin(self) -> bytes:
        """The client's hello."""
        hello = ClientHello(
            f"swarm-python {__version__}", self._settings.kind, (LZ4,) if self._settings.compression else ()
        )
        return self._encoder.encode([hello.to_message()])

    def request(self, request: Request, arguments: tuple[Any, ...], owner: Owner) -> int:
        """Adds a request to what is to be sent; the id of its answers. TooManyRequests if too many wait already."""
        if len(self.waiting) >= limits.CLIENT_REQUESTS_MAX:
            most = limits.CLIENT_REQUESTS_MAX
            raise TooManyRequests(f"{most} requests wait for their answers on this connection", {"limit": most})
        request_id = self._new_id()
        if request.streams:
            self._streams.intersection_update(self.waiting)
            self._streams.add(request_id)
        self.waiting[request_id] = owner
        self._messages.append((request_id, request.code, *arguments))
        return request_id

    def single_request(self, request: Request, arguments: tuple[Any, ...]) -> tuple[int, bytes]:
        """A request for which nobody waits yet, already encoded: its id, and what is to be sent."""
        request_id = self._new_id()
        return request_id, self._encoder.encode([(request_id, request.code, *arguments)])

    def single_large_request(self, request: Request, arguments: tuple[Any, ...]) -> tuple[int, list[bytes]]:
        """The same for one that may be large: what is to be sent in pieces."""
        request_id = self._new_id()
        return request_id, self._encoder.encode_parts([(request_id, request.code, *arguments)])

    @property
    def room(self) -> memoryview:
        """What comes in is to be received into it, and told by `received`, or by single_answer. RECEIVE_BYTES at
        least."""
        return self._receiver.room

    def single_answer(self, size: int, request_id: int) -> tuple[int, Any] | None:
        """The status and result in what is in the room now, if it is one frame with nothing but the answer to this
        request. Otherwise None, and it is still to be taken with `received`."""
        try:
            [(answered_id, status, result)] = self._receiver.only_frame(size)
        except (TypeError, ValueError):
            return None
        return (status, result) if answered_id == request_id and status != protocol.BATCH else None

    def _new_id(self) -> int:
        request_id = self._next_id
        while request_id in self.waiting:
            request_id = request_id % limits.REQUEST_ID_MAX + 1
        self._next_id = request_id % limits.REQUEST_ID_MAX + 1
        return request_id

    @property
    def unsent(self) -> bool:
        """Whether something is still to be encoded."""
        return bool(self._messages)

    def withdraw(self, request_ids: Container[int]) -> None:
        """Does not send these requests any more; nothing happens to those that were encoded already."""
        self._messages = [message for message in self._messages if message[0] not in request_ids]

    def grant(self, request_id: int, batches: int) -> None:
        """Allows a stream some more batches."""
        self._messages.append((request_id, protocol.GRANT_CREDIT.code, batches))

    def stop(self, request_id: int) -> None:
        """Ends a stream; its final answer still comes."""
        self._messages.append((request_id, protocol.STOP.code))

    def outgoing(self) -> bytes:
        """What is to be sent, encoded; empty if there is nothing."""
        messages = self._messages
        if not messages:
            return b""
        self._messages = []
        above = limits.FRAME_BYTES_PLAIN
        if len(messages) <= limits.FRAME_MESSAGES:
            return self._encoder.encode(messages, alone_above=above)
        parts = (messages[at : at + limits.FRAME_MESSAGES] for at in range(0, len(messages), limits.FRAME_MESSAGES))
        return b"".join(self._encoder.encode(part, alone_above=above) for part in parts)

    def received(self, size: int) -> list[tuple[Owner, int, Any]]:
        """So much came into the room; the answers in it: (owner, status, result).

        An owner stays in `waiting` until its final answer, so that one that was taken out gets nothing more.
        The node's hello may call for something to be sent (outgoing), before there is a `hello`.
        Raises the node's reason if it refuses the hello or the login, ProtocolError if it does not keep to the
        protocol, NotAuthenticated if what it asks for, or proves to be, is not as it should be.
        """
        answers: list[tuple[Owner, int, Any]] = []
        messages = self._receiver.received(size)
        while messages is not None:
            if self.hello is None:
                if self._login is None:
                    self._greeted(messages)
                else:
                    self._logged_in(messages, *self._login)
            else:
                self._answer(messages, answers)
            messages = self._receiver.next_frame()
        return answers

    def _answer(self, messages: list[Message], answers: list[tuple[Owner, int, Any]]) -> None:
        waiting = self.waiting
        for message in messages:
            try:
                request_id, status, result = message
                owner = waiting[request_id] if status == protocol.BATCH else waiting.pop(request_id)
            except KeyError:
                if request_id == 0:
                    self.notice = from_wire(status, result)
                continue  # nobody waits for it any more
            except (TypeError, ValueError) as error:
                raise ProtocolError(f"the node sent {brief(message)}, which is no reply") from error
            if status == protocol.BATCH and request_id not in self._streams:
                raise ProtocolError("the node sent a batch in answer to a request that has none")
            answers.append((owner, status, result))

    def _greeted(self, messages: list[Message]) -> None:
        match messages:
            case [[0, int(status), result]]:
                raise from_wire(status, result)
        hello = NodeHello.from_messages(messages)
        kind = self._settings.kind
        if hello.kind != kind:
            raise WrongKind(f"this is a {hello.kind} node, not a {kind} node", {"kind": hello.kind})
        login = begin_login(hello.authentication, hello.nonce, self._settings.credentials)
        if login is None:
            self._use(hello)
        else:
            self._login = hello, login, self._new_id()
            self._messages.append((self._login[2], AUTHENTICATE.code, *login.arguments()))
        self._receiver.compression = self._encoder.compression = hello.compression == LZ4

    def _use(self, hello: NodeHello) -> None:
        """The node is what it should be: its answers may be large."""
        self.hello = hello
        self._receiver.frame_bytes_max = limits.FRAME_BYTES_MAX

    def login_late(self, seconds: float) -> NotAuthenticated | None:
        """For who has waited so long for `hello` and gives up: what is to be told where it is the login that was not
        answered, which a node does late if it is wrong."""
        if self._login is None or self.hello is not None:
            return None
        return NotAuthenticated(
            f"the login was not answered within {seconds:g} s; nodes take their time for one that is wrong: look at "
            "name and key"
        )

    def _logged_in(self, messages: list[Message], hello: NodeHello, login: ClientLogin, login_id: int) -> None:
        match messages:
            case [[request_id, int(status), result], *_] if request_id in (0, login_id):
                if request_id == 0 or status != protocol.DONE:
                    raise from_wire(status, result)
                login.check(result)
                self._use(hello)
            case _:
                raise ProtocolError("the node has answered something else than the login")


def result_of(call: Call, node: str, status: int, result: Any) -> Any:
    """The result of a final answer, or the error it tells, with the node and the request named."""
    if status == protocol.DONE:
        return result if call.take is None else call.take(result)
    raise describe(from_wire(status, result), call.request, node)


def check_not_refused(refused: SwarmError | None, node: str, request: Request | None) -> None:
    """Raises why the last attempt to connect ended with a refusal, if it did: to wait longer would not help."""
    if refused is not None:
        error = type(refused)(refused.text, refused.details)  # one of its own: each names another request
        error.node = node
        error.request = request.name if request else None
        raise error


def describe(error: SwarmError, request: Request, node: str) -> SwarmError:
    """The same error, telling which request at which node it is about."""
    error.request = request.name
    error.node = node
    return error
