"""Streams from several nodes at once that are to go on for ever, for programs without an event loop.

They have connections of their own: who waits for the next batch keeps neither the client's lock nor its answers from
other threads. Batches are taken when the program asks for them; until then credit and the socket's buffer bound them.

While it waits it notices a node that hangs: when nothing has come for CLIENT_ASK_S a ping asks for a sign of life, and
without one at CLIENT_SILENCE_S the connection is made anew.
"""

import logging
import select
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from swarm.core import limits
from swarm.core.blocking_client import PENDING, BlockingClient, _Waiter
from swarm.core.client_session import BROKE, Call, check_not_refused, describe, result_of
from swarm.core.errors import ConnectionLost, RequestTimeout, SwarmError
from swarm.core.protocol import PING, Request

log = logging.getLogger(__name__)

CONNECT_S = 1.0  # so long an attempt to connect may take, even where the program wants to wait less for a batch


class BlockingStreams:
    def __init__(self, client: BlockingClient) -> None:
        self._client = client
        self._connections = [connection.twin() for connection in client._connections]
        self._running: dict[int, tuple[Call, _Waiter]] = {}
        """By node."""
        self._to_begin: dict[int, Call] = {}
        """Where there is no connection."""
        self._heard: dict[int, float] = {}
        """When something has come from a node, or a stream was begun at it."""
        self._asked: dict[int, float] = {}
        """When a node was asked for a sign of life that has not come."""

    def open(self, calls: list[Call]) -> None:
        """Begins the streams; returns when each has given its first batch. NodeUnreachable, RequestTimeout."""
        deadline = time.monotonic() + self._client._timeout_s
        self.begin(calls)
        while missing := [call for call in calls if not self._has_begun(call)]:
            if time.monotonic() >= deadline:
                raise self._too_late(missing[0])
            self._begin_those_that_can(deadline)
            self._receive(self._wait_s(deadline))

    def _has_begun(self, call: Call) -> bool:
        """Whether the first batch is there; a stream that has ended before is to be begun again."""
        if call.node not in self._running:
            return False
        _, waiter = self._running[call.node]
        if not waiter.batches and self._ended(call.node, waiter):
            del self._running[call.node]
            _raise_what_it_told(call, self._connections[call.node].name, waiter)
            self.begin([call])
        return bool(waiter.batches)

    def _ended(self, node: int, waiter: _Waiter) -> bool:
        return waiter.result is not PENDING or not self._connections[node].ready

    def _too_late(self, call: Call) -> SwarmError:
        connection = self._connections[call.node]
        if not connection.ready:
            return connection.unreachable()
        return describe(
            RequestTimeout(f"no answer within {self._client._timeout_s:g} s"), call.request, connection.name
        )

    def start(self, calls: list[Call]) -> None:
        """Begins the streams; returns when every node that can be reached has been asked, the others are asked when
        they come. NodeUnreachable if none can be within the timeout."""
        deadline = time.monotonic() + self._client._timeout_s
        self.begin(calls)
        self._begin_those_that_can(time.monotonic())
        while not self._running:
            connections = [self._connections[call.node] for call in calls]
            next_attempt = min(connection.next_attempt for connection in connections)
            if next_attempt > deadline:
                raise connections[0].unreachable()
            time.sleep(max(next_attempt - time.monotonic(), 0))
            self._begin_those_that_can(deadline)
        self.settle(deadline)
        for node, (call, waiter) in list(self._running.items()):
            if not waiter.batches and self._ended(node, waiter):
                del self._running[node]
                _raise_what_it_told(call, self._connections[node].name, waiter)
                self.begin([call])

    def settle(self, deadline: float) -> None:
        """Returns when the nodes have carried out what they were asked for and told, as far as they can be reached."""
        for connection in self._connections:
            if connection.ready:
                with suppress(ConnectionLost, RequestTimeout):
                    connection.wait(connection.submit(PING, (), deadline), deadline)

    def at(self, node: int) -> _Waiter:
        """What the last batch of a node has come with."""
        return self._running[node][1]

    def lives(self, node: int) -> bool:
        """Whether the connection has not broken that the last batch of a node has come with."""
        waiter = self.at(node)
        return waiter.result is not PENDING or self._connections[node].has(waiter)

    def tell(self, stream: _Waiter, request: Request, arguments: tuple[Any, ...]) -> None:
        """Sends a request about a stream, unless its connection broke; nobody waits for the answer."""
        for connection in self._connections:
            if connection.has(stream):
                connection.notify(request, arguments)

    def ask(self, stream: _Waiter, request: Request, arguments: tuple[Any, ...]) -> Any:
        """The result of a request about a stream, None if it has ended. RequestTimeout, or what the node tells."""
        for node, connection in enumerate(self._connections):
            if connection.has(stream):
                call = Call(node, request, arguments)
                deadline = time.monotonic() + self._client._timeout_s
                try:
                    waiter = connection.submit(request, arguments, deadline)
                    connection.wait(waiter, deadline)
                except ConnectionLost:
                    return None
                except RequestTimeout as error:
                    raise describe(error, request, connection.name) from None
                return result_of(call, connection.name, waiter.status, waiter.result)
        return None

    def begin(self, calls: Iterable[Call]) -> None:
        """Begins streams, each as soon as there is a connection to its node."""
        self._to_begin.update((call.node, call) for call in calls)

    def next(self, timeout_s: float | None) -> tuple[int, Any] | None:
        """A node, and its next batch or BROKE; None if there is none within the time. Raises what a node tells."""
        self._client._check_open()
        return self._next(None if timeout_s is None else time.monotonic() + timeout_s)

    def stop(self) -> None:
        """Stops the streams; others may be begun."""
        for node, (_, waiter) in self._running.items():
            self._connections[node].stop(waiter)
        self._running.clear()
        self._to_begin.clear()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _next(self, deadline: float | None) -> tuple[int, Any] | None:
        over = False
        while True:
            self._begin_those_that_can(deadline)
            for node, (call, waiter) in self._running.items():
                if waiter.batches or self._ended(node, waiter):
                    del self._running[node]  # to be the last of them in the next round
                    return node, self._take(node, call, waiter)
            if over:
                return None
            self._receive(self._wait_s(deadline))
            over = deadline is not None and time.monotonic() >= deadline

    def _take(self, node: int, call: Call, waiter: _Waiter) -> Any:
        connection = self._connections[node]
        if not waiter.batches:
            _raise_what_it_told(call, connection.name, waiter)
            return BROKE
        self._running[node] = call, waiter
        if not self._ended(node, waiter):
            try:
                connection.grant(waiter, time.monotonic() + self._client._timeout_s)
            except (ConnectionLost, RequestTimeout):
                connection.close()  # which is how the next round finds it
        return waiter.batches.popleft()

    def _wait_s(self, deadline: float | None) -> float | None:
        """How long there is nothing to do unless something comes in."""
        times = [self._connections[node].next_attempt for node in self._to_begin]
        times += [self._patience_ends(node) for node in self._running]
        times += [deadline] if deadline is not None else []
        return max(min(times) - time.monotonic(), 0) if times else None

    def _patience_ends(self, node: int) -> float:
        """When it is to be asked for a sign of life, or given up."""
        if node in self._asked:
            return self._asked[node] + limits.CLIENT_SILENCE_S - limits.CLIENT_ASK_S
        return self._heard[node] + limits.CLIENT_ASK_S

    def _receive(self, wait_s: float | None) -> None:
        """Waits for something to come in, and takes it."""
        poll = select.poll()
        nodes = {self._connections[node].fileno(): node for node in self._running if self._connections[node].ready}
        for descriptor in nodes:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(None if wait_s is None else wait_s * 1000):
            self._has_come(nodes[descriptor])
            with suppress(ConnectionLost, RequestTimeout):  # it is not ready then, and the next round finds that out
                self._connections[nodes[descriptor]].receive()
        now = time.monotonic()
        for node in nodes.values():
            if now >= self._patience_ends(node):
                self._ask_or_give_up(node, now)

    def _has_come(self, node: int) -> None:
        self._heard[node] = time.monotonic()
        self._asked.pop(node, None)

    def _ask_or_give_up(self, node: int, now: float) -> None:
        connection = self._connections[node]
        if node in self._asked:
            log.warning("%s: connection lost: nothing has come for %g s", connection.name, limits.CLIENT_SILENCE_S)
            connection.close()  # which is how the next round finds it
        elif connection.ready:
            self._asked[node] = now
            try:
                connection.submit(PING, (), now + self._client._timeout_s)
            except (ConnectionLost, RequestTimeout):
                connection.close()

    def _begin_those_that_can(self, deadline: float | None) -> None:
        for node, call in list(self._to_begin.items()):
            connection = self._connections[node]
            now = time.monotonic()
            give_up = now + self._client._timeout_s
            if not connection.ready:
                hello = connection.attempt(
                    give_up if deadline is None else min(give_up, max(deadline, now + CONNECT_S))
                )
                if hello is None:
                    check_not_refused(connection.refused, connection.name, call.request)
                    continue
                with self._client._lock:
                    self._client._known.learn(node, hello)
            del self._to_begin[node]
            try:
                self._has_come(node)
                self._running[node] = call, connection.submit(call.request, call.arguments, give_up)
            except (ConnectionLost, RequestTimeout):
                connection.close()
                self._to_begin[node] = call


def _raise_what_it_told(call: Call, node: str, waiter: _Waiter) -> None:
    """The error with which the node has ended a stream, if it did; its connection may have ended instead."""
    if waiter.result is not PENDING:
        result_of(call, node, waiter.status, waiter.result)
