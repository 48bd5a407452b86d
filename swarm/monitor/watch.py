"""Asks every node of a swarm how it is, again and again, for those who look at it: `top`, `doctor`, the dashboard.

    run ─┬─ a task and a client for each node: ask, note, wait until the next question is due
         ├─ …
         └─ …

Nodes share nothing here, so one that is slow, dead or hostile delays no other. That a node does not answer is a state
of it, not an error: nothing is raised. What is kept is bounded: of each node its last view, and a sample of a few
figures for each question of the last `history_s`.
"""

import errno
import logging
import math
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from traceback import format_tb
from typing import Any

import anyio

from swarm.core import protocol
from swarm.core.async_client import AsyncClient
from swarm.core.client_session import Call, Steps
from swarm.core.config import Address
from swarm.core.credentials import CredentialsOption
from swarm.core.errors import (
    NodeUnreachable,
    NotAllowed,
    NotAuthenticated,
    ProtocolError,
    RequestTimeout,
    SwarmError,
    TlsFailed,
    WrongKind,
    not_connected,
)
from swarm.core.known_nodes import KnownNodes
from swarm.core.protocol import Request, brief
from swarm.core.session import NodeHello
from swarm.dht.hash_range import HASH_MAX, HashRange
from swarm.monitor.node_view import (
    NAME_LENGTH_MAX,
    NodeView,
    Reason,
    counters,
    printable,
    read_events,
    read_findings,
)
from swarm.monitor.rates import Counters, rates

__all__ = ["KINDS", "NodeView", "Reason", "Sample", "Target", "Watch"]

log = logging.getLogger(__name__)

KINDS = ("dht", "queue", "logfiles")
QUESTIONS = (protocol.STATS, protocol.HEALTH, protocol.EVENTS)
NODES_MAX = 1024  # watched at a time: each has a connection, with a buffer of 256 KiB, and a history
INTERVAL_S = 1.0  # between two questions to a node
TIMEOUT_S = 2.0  # of each question, connecting included: longer, and the node is shown as down
HISTORY_S = 15 * 60.0
SAMPLES_MAX = 3600  # of one node's history, some 200 bytes each


@dataclass(frozen=True)
class Target:
    """A node to look at, and of which kind it should be."""

    kind: str
    address: Address


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node was like at one moment: at_s is seconds since 1970; None is what was not known then.

    latency_s: the median and the 99th percentile. fullness: of its fullest queue, in percent; None if it has none.
    """

    at_s: float
    up: bool
    requests_per_s: float | None
    latency_s: tuple[float, float] | None
    records: int
    bytes: int
    fullness: float | None


class Watch:
    """Looks at nodes while `run` runs. Works under trio and under asyncio.

    watch = Watch([Target("dht", Address("127.0.0.1", 10001))])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await watch.first_round()
        watch.views()
    """

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        interval_s: float = INTERVAL_S,
        timeout_s: float = TIMEOUT_S,
        history_s: float = HISTORY_S,
        credentials: CredentialsOption = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """targets: all nodes, NODES_MAX at most; they are shown in this order.
        interval_s: from one question to a node to the next one.
        timeout_s: a node that takes longer to answer is down.
        history_s: how long samples are kept, SAMPLES_MAX at most.
        """
        samples = min(max(math.ceil(history_s / interval_s), 1), SAMPLES_MAX)
        self._interval_s = interval_s
        self._nodes = [
            _WatchedNode(target, _NodeClient(target, timeout_s, credentials, tls), samples)
            for target in dict.fromkeys(targets)
        ]
        assert len(self._nodes) <= NODES_MAX

    async def run(self) -> None:
        """Asks until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            for node in self._nodes:
                tasks.start_soon(node.keep_asking, self._interval_s)

    async def first_round(self) -> None:
        """Returns when every node was asked once, and has answered or let its time go by."""
        for node in self._nodes:
            await node.answers[0].wait()

    async def second_round(self) -> None:
        """The same for twice: from then on there are rates."""
        for node in self._nodes:
            await node.answers[1].wait()

    def views(self) -> list[NodeView]:
        """How each node is now, in the order of the targets."""
        return [node.view for node in self._nodes]

    def history(self, kind: str, address: str) -> Sequence[Sample]:
        """The samples of a node, oldest first; it has to be one of the targets."""
        return next(
            list(node.samples) for node in self._nodes if (node.view.kind, node.view.address) == (kind, address)
        )


class _KnownNode(KnownNodes):
    """Keeps all that the node's hello tells, which other clients have no use for."""

    hello: NodeHello | None = None
    hash_range: HashRange | None = None

    def learn(self, number: int, hello: NodeHello) -> None:
        self.hash_range = _hash_range(hello) if hello.kind == "dht" else None
        self.hello = hello
        super().learn(number, hello)


def _hash_range(hello: NodeHello) -> HashRange:
    match hello.facts.get("hash_range"):
        case [int(lowest), int(highest)] if 0 <= lowest <= highest <= HASH_MAX:
            return HashRange(lowest, highest)
    raise ProtocolError("in the node's hello hash_range is not an array of the lowest and the highest hash")


class _NodeClient(AsyncClient):
    """Reaches one node of any kind, and asks what every kind answers."""

    def __init__(
        self, target: Target, timeout_s: float, credentials: CredentialsOption, tls: ssl.SSLContext | None
    ) -> None:
        self.kind = target.kind
        self.known = _KnownNode([str(target.address)])
        self._refused: set[Request] = set()
        """By the node of this hello: one that is connected anew may be another, or have got another configuration."""
        self._refused_by: NodeHello | None = None
        super().__init__(
            [target.address], self.known, timeout=timeout_s, compression=False, credentials=credentials, tls=tls
        )

    async def ask(self) -> list[Any]:
        """What the node answers to QUESTIONS, in their order and as it came; an empty array for what it refuses, since
        it is of another version or the client has no permission. Raises SwarmError."""
        await self._reached()
        hello = self.known.hello
        if hello is not self._refused_by:
            self._refused, self._refused_by = set(), hello
        answers = await self._run(_ask_one([each for each in QUESTIONS if each not in self._refused]))
        for question, answer in answers.items():
            if isinstance(answer, SwarmError):
                if question == protocol.STATS or answer.fault != "client":
                    raise answer
                self._refused.add(question)  # to ask every second would be a failed request every second
        return [[] if each in self._refused else answers[each] for each in QUESTIONS]

    async def _reached(self) -> None:
        """Returns when the node is connected. NodeUnreachable as soon as it is known that it is not, and after the
        timeout: other clients would wait, since somebody wants something done, but here that is the answer."""
        [connection] = self._connections
        if not connection.ready and connection.last_error is None:
            changed = anyio.Event()
            connection.at_change.add(changed.set)
            with anyio.move_on_after(self._timeout_s):
                await changed.wait()
            connection.at_change.discard(changed.set)
        if not connection.ready:
            raise not_connected(connection.last_error)


def _ask_one(questions: list[Request]) -> Steps[dict[Request, Any]]:
    """Sends them together, to the only node."""
    answers = yield [Call(0, question, ()) for question in questions]
    return dict(zip(questions, answers, strict=True))


class _WatchedNode:
    def __init__(self, target: Target, client: _NodeClient, samples: int) -> None:
        self.view = NodeView(target.kind, printable(target.address))
        self.samples: deque[Sample] = deque(maxlen=samples)
        self.answers = (anyio.Event(), anyio.Event())
        """That it was asked once, and twice."""
        self._client = client
        self._before: Counters | None = None

    async def keep_asking(self, interval_s: float) -> None:
        async with self._client:
            while True:
                due = anyio.current_time() + interval_s
                await self._ask()
                self.samples.append(_sample(self.view))
                (self.answers[1] if self.answers[0].is_set() else self.answers[0]).set()
                await anyio.sleep_until(due)

    async def _ask(self) -> None:
        error_before = self.view.error
        try:
            statistics, health, events = await self._client.ask()
            self._take(statistics)
            self.view = replace(self.view, findings=read_findings(health), events=read_events(events))
        except SwarmError as error:
            self._down(_reason(error), _text(error))
        except Exception as error:  # noqa: BLE001 # a stranger led to it: it must not end the watch of all others
            text = printable(f"its answer cannot be read: {type(error).__name__}: {error}")
            if text != error_before:  # once, not with every question
                where = "".join(format_tb(error.__traceback__))  # without its text, which may be the stranger's
                log.error("%s %s: %s\n%s", self.view.kind, self.view.address, text, where)
            self._down(Reason.PROTOCOL, text)

    def _down(self, reason: Reason, text: str) -> None:
        self._before = None
        self.view = self.view.down(reason, text)

    def _take(self, statistics: object) -> None:
        if not isinstance(statistics, Mapping):
            raise ProtocolError(f"the node's statistics are no map, but {brief(statistics)}")
        now = counters(statistics, anyio.current_time())
        view = self.view.answered(statistics, rates(self._before, now))
        known = self._client.known
        assert known.hello is not None
        self._before = now
        self.view = replace(view, version=printable(known.hello.node, NAME_LENGTH_MAX), hash_range=known.hash_range)


def _sample(view: NodeView) -> Sample:
    fullness = view.fullest[0][1] if view.fullest else None
    return Sample(
        time.time(), view.state == "up", view.requests_per_s, view.latency_s, view.records, view.bytes, fullness
    )


def _why(error: SwarmError) -> BaseException:
    """Why a node could not be reached, where that is known, else the error itself."""
    return error.__cause__ if isinstance(error, NodeUnreachable) and error.__cause__ is not None else error


def _text(error: SwarmError) -> str:
    why = _why(error)
    if isinstance(why, OSError) and why.strerror:
        return why.strerror
    if isinstance(why, NodeUnreachable | RequestTimeout):
        return "it does not answer"
    return why.text if isinstance(why, SwarmError) else str(why)


def _reason(error: SwarmError) -> Reason:
    match why := _why(error):
        case NotAuthenticated() | NotAllowed():
            return Reason.CREDENTIALS
        case TlsFailed() | ssl.SSLError():
            return Reason.TLS
        case ConnectionRefusedError() | FileNotFoundError():  # no file: of a Unix socket
            return Reason.REFUSED
        case NodeUnreachable() | RequestTimeout() | TimeoutError():
            return Reason.TIMEOUT
        case socket.gaierror():
            return Reason.UNREACHABLE
        case OSError() if why.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
            return Reason.UNREACHABLE
        case WrongKind():
            return Reason.KIND
        case ProtocolError():
            return Reason.PROTOCOL
    return Reason.OTHER
