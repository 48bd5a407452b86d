"""The connection of an asynchronous client to one node, kept up for ever.

    task ── submit ──► session (collects) ── one send for all tasks ──► node
    task ◄── waiter ── receiver task ◄── one receive for all answers ───┘

It has three tasks: one keeps it connected and receives, one sends what did not leave at once, one watches the
deadlines. A request costs no task, no timer and no lock of its own.

For a node that hangs nothing is kept longer than somebody waits for it: what was not encoded at its deadline is
withdrawn, and when nothing comes for CLIENT_SILENCE_S the connection is given up with what was encoded. A stream may be
silent for as long as it likes, so then a ping asks for a sign of life.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from swarm.core import limits
from swarm.core.client_session import Call, ClientSession, check_not_refused
from swarm.core.config import Address
from swarm.core.connection_settings import ConnectionSettings
from swarm.core.errors import REFUSALS, ClientClosed, RequestTimeout, SwarmError, connection_lost
from swarm.core.protocol import DONE, PING, Request
from swarm.core.session import NodeHello
from swarm.core.transports import Transport
from swarm.core.waiters import Waiter

log = logging.getLogger(__name__)


class _SignOfLife(Waiter):
    """For a ping whose answer means nothing but that something has come."""

    __slots__ = ()

    def _wake(self) -> None:
        pass


class LateAnswer(Waiter):
    """For an answer that nobody waits for any more, and that must not be lost all the same."""

    __slots__ = ("_arrived", "_late")

    def __init__(self, deadline: float, late: Callable[[Any], object]) -> None:
        super().__init__(deadline)
        self._late = late
        self._arrived = anyio.Event()

    async def wait(self) -> None:
        await self._arrived.wait()

    def _wake(self) -> None:
        if self.error is None and self.status == DONE:
            self._late(self.result)
        self._arrived.set()


class Connection:
    """The connection to one node, which is made anew whenever it breaks."""

    def __init__(
        self,
        address: Address,
        settings: ConnectionSettings,
        connect: Callable[[Address], Awaitable[Transport]],
        on_hello: Callable[[NodeHello], None],
    ) -> None:
        self.address = address
        self.name = str(address)
        self.last_error: Exception | None = None
        self.refused: SwarmError | None = None
        """Why the last attempt to connect ended, if that is one of errors.REFUSALS."""
        self._settings = settings
        self._timeout_s = settings.timeout_s
        self._connect = connect
        self._on_hello = on_hello
        self._session: ClientSession[Waiter] | None = None
        self._transport: Transport | None = None
        self.ready = False
        """Whether requests can be sent."""
        self._ready = anyio.Event()
        """Set, and made anew, when it has become ready or was refused."""
        self.at_change: set[Callable[[], None]] = set()
        """Called when it has become ready, when it has failed to, and when the client was closed."""
        self._wake_sender = anyio.Event()
        self._wake_watch = anyio.Event()
        self._watch_until = math.inf
        self._sending = False
        self._answers_at_once = 0
        self._heard = False
        """Whether something has come since the deadlines were looked at."""
        self._before_sending: list[Callable[[], None]] = []
        self._given_up: set[int] = set()
        """Requests that nobody waits for any more, and that may not have been sent yet."""
        self._rest = b""

    async def wait_ready(self, request: Request | None = None) -> None:
        """Returns when requests can be sent. Raises errors.REFUSALS if the last attempt to connect ended with one."""
        while not self.ready:
            check_not_refused(self.refused, self.name, request)
            await self._ready.wait()

    def tell_change(self) -> None:
        for function in list(self.at_change):
            function()

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
                self.refused = error if isinstance(error, REFUSALS) and not self.ready else None
                if self.ready:
                    log.warning("%s: connection lost: %s", self.name, error)
                    backoff = limits.BACKOFF_FIRST_S
                elif str(error) != str(self.last_error):
                    log.warning("%s: cannot connect: %s; trying again", self.name, error)
                first, self.last_error = self.last_error is None, error
                if first:
                    self.tell_change()
                lost = error
            except BaseException:
                self._disconnected(ClientClosed("the client was closed before the answer came"))
                raise
            self._disconnected(connection_lost(lost), lost)
            self.tell_change()
            await anyio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, limits.BACKOFF_MAX_S)

    async def _run_once(self) -> None:
        session: ClientSession[Waiter] = ClientSession(self._settings)
        patience_s = max(self._timeout_s, limits.BACKOFF_MAX_S)
        with anyio.move_on_after(patience_s) as greeting:
            self._transport = transport = await self._connect(self.address)
            await transport.send_all(session.begin())
            while session.hello is None:
                await self._receive(session, transport)
                if session.unsent:
                    await transport.send_all(session.outgoing())
        if greeting.cancelled_caught:
            raise session.login_late(patience_s) or TimeoutError("no answer to the hello")
        assert session.hello is not None
        self._on_hello(session.hello)
        self._session = session
        self.last_error = self.refused = None
        log.info("%s: connected to %s", self.name, session.hello.node)
        lost: Exception = TimeoutError(f"nothing has come for {limits.CLIENT_SILENCE_S:g} s")
        async with anyio.create_task_group() as tasks:
            self.ready = True
            self._ready.set()
            self.tell_change()
            tasks.start_soon(self._send, session, transport)
            tasks.start_soon(self._watch, session, tasks.cancel_scope)
            try:
                while True:
                    await self._receive(session, transport)
            except (OSError, SwarmError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
                tasks.cancel_scope.cancel()
                lost = error
        raise lost

    async def _receive(self, session: ClientSession[Waiter], transport: Transport) -> None:
        size = await transport.receive(session.room)
        if not size:
            raise ConnectionResetError("the node has closed the connection")
        answers = session.received(size)
        self._answers_at_once = len(answers)
        self._heard = True
        for waiter, status, result in answers:
            waiter.answer(status, result)
        if session.notice is not None:
            raise session.notice

    def submit(self, request: Request, arguments: tuple[Any, ...], waiter: Waiter) -> None:
        """Sends a request, together with what other tasks ask for at this moment. Only while ready."""
        session = self._session
        assert session is not None
        waiter.request_id = session.request(request, arguments, waiter)
        if waiter.deadline < self._watch_until:
            self._watch_until = waiter.deadline
            self._wake_watch.set()
        if not self._sending:
            # Alone, it leaves at once; among others it waits until all tasks that can run now have asked.
            if self._answers_at_once <= 1 and len(session.waiting) == 1:
                self._send_now(session)
            else:
                self._sending = True
                self._wake_sender.set()

    def grant(self, waiter: Waiter, batches: int) -> None:
        """Allows a stream some more batches."""
        if self._session is not None and self.has(waiter):
            self._session.grant(waiter.request_id, batches)
            self._send_soon()

    def stop(self, waiter: Waiter) -> None:
        """Ends a stream; never waits."""
        if self._session is not None and self.has(waiter):
            self.forget(waiter)
            self._session.stop(waiter.request_id)
            self._send_soon()

    def _send_soon(self) -> None:
        if not self._sending:
            self._sending = True
            self._wake_sender.set()

    def has(self, waiter: Waiter) -> bool:
        """Whether the request was sent on this connection as it is now, and its final answer has not come."""
        return self._session is not None and self._session.waiting.get(waiter.request_id) is waiter

    def before_sending(self, function: Callable[[], None]) -> None:
        """Calls a function once, when the event loop runs next: what it asks for leaves in one send."""
        self._before_sending.append(function)
        self._send_soon()

    def abandon(self, call: Call, waiter: Waiter) -> None:
        """The program does not wait for this answer any more."""
        self.expect_late(call, waiter)
        self.forget(waiter)
        if call.abandon is not None:
            self.notify(call.request, call.abandon, waiter)
        elif self._session is not None and self._session.unsent:
            self._given_up.add(waiter.request_id)

    def expect_late(self, call: Call, waiter: Waiter) -> None:
        """The program does not wait for this answer any more, or has waited too long: call.late is given it."""
        if call.late is None:
            return
        if waiter.done and waiter.error is None:
            if waiter.status == DONE:
                call.late(waiter.result)
            return
        session = self._session
        may_come = isinstance(waiter.error, RequestTimeout | None)
        if session is not None and may_come and session.waiting.get(waiter.request_id) in (waiter, None):
            answer = LateAnswer(anyio.current_time() + limits.CLIENT_SILENCE_S, call.late)
            answer.request_id = waiter.request_id
            session.waiting[waiter.request_id] = answer
            session.stop(waiter.request_id)
            self._send_soon()

    def late_answers(self) -> list[LateAnswer]:
        """Those that are still to come."""
        waiting = self._session.waiting.values() if self._session is not None else ()
        return [waiter for waiter in waiting if isinstance(waiter, LateAnswer)]

    def notify(self, request: Request, arguments: tuple[Any, ...], waiter: Waiter) -> None:
        """Sends a request whose answer nobody waits for, if there is a connection."""
        if self._session is not None:
            waiter.request_id = self._session.request(request, arguments, waiter)
            self.forget(waiter)
            self._send_soon()

    def forget(self, waiter: Waiter) -> None:
        """Nobody waits for this answer any more."""
        if self._session is not None and self.has(waiter):
            del self._session.waiting[waiter.request_id]

    def _send_now(self, session: ClientSession[Waiter]) -> None:
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

    def _collected(self, session: ClientSession[Waiter]) -> bytes:
        while self._before_sending:
            self._before_sending.pop()()
        return session.outgoing()

    async def _send(self, session: ClientSession[Waiter], transport: Transport) -> None:
        while True:
            await self._wake_sender.wait()
            self._wake_sender = anyio.Event()
            try:
                if self._rest:
                    await transport.send_all(self._rest)
                    self._rest = b""
                while data := self._collected(session):
                    sent = transport.send_now(data)
                    if sent < len(data):
                        await transport.send_all(memoryview(data)[sent:])
            except (OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return  # the receiver is told too, and reconnects
            self._sending = False

    async def _watch(self, session: ClientSession[Waiter], scope: anyio.CancelScope) -> None:
        """Fails requests whose time is over; cancels the scope when the node seems to be gone."""
        quiet_since = anyio.current_time()
        unanswered = asked = False
        while True:
            now = anyio.current_time()
            if self._heard:
                self._heard = unanswered = asked = False
                quiet_since = now
            late = [waiter for waiter in session.waiting.values() if waiter.deadline <= now]
            for waiter in late:
                del session.waiting[waiter.request_id]
                waiter.fail(RequestTimeout(f"no answer within {self._timeout_s:g} s"))
            if session.unsent:
                session.withdraw({waiter.request_id for waiter in late} | self._given_up)
            self._given_up.clear()
            unanswered = unanswered or bool(late)
            if unanswered and now - quiet_since >= limits.CLIENT_SILENCE_S:
                scope.cancel()
                return
            streams = any(waiter.batches is not None for waiter in session.waiting.values())
            if streams and not asked and now - quiet_since >= limits.CLIENT_ASK_S:
                asked = True
                self.submit(PING, (), _SignOfLife(quiet_since + limits.CLIENT_SILENCE_S))
            self._watch_until = min((waiter.deadline for waiter in session.waiting.values()), default=math.inf)
            self._watch_until = min(self._watch_until, now + min(self._timeout_s, limits.CLIENT_ASK_S))
            self._wake_watch = anyio.Event()
            with anyio.move_on_at(self._watch_until):
                await self._wake_watch.wait()

    def _disconnected(self, error: SwarmError, cause: Exception | None = None) -> None:
        """Forgets the connection; error is what those are told who wait for an answer."""
        session, self._session = self._session, None
        self.ready = False
        if self.refused is not None:
            self._ready.set()  # who waits for it is told
        if self._ready.is_set():
            self._ready = anyio.Event()
        if self._transport is not None:
            self._transport.close()
        self._transport = None
        self._wake_sender = anyio.Event()
        self._sending = False
        self._rest = b""
        self._before_sending.clear()
        self._given_up.clear()
        for waiter in session.waiting.values() if session is not None else ():
            each = type(error)(error.text)  # one of its own: each will name another request
            each.__cause__ = cause
            waiter.fail(each)
