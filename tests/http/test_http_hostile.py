"""Clients that mean no good, or know no better: each is refused, counted, and costs little; others do not notice.

The node is of this process, so that the bounds on time can be short; its sockets are real.
"""

import logging
import re
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from math import inf
from typing import Any

import pytest
import trio
from core.raw_client import GET, PING, PUT, STATS, RawClient, make_dht
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from swarm.core import limits
from swarm.core.config import Address
from swarm.core.http import HttpSection, add_http
from swarm.core.http_server import HttpServer
from swarm.core.node import Node, listen

TEST_S = 30.0
READY = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Watched:
    """A node with HTTP, and a client of its own that has to go on all the time."""

    def __init__(self, node: Node, client: RawClient, address: tuple[str, int], stack: AsyncExitStack) -> None:
        self.node = node
        self.client = client
        self.address = address
        self._stack = stack

    async def connect(self) -> trio.SocketStream:
        return await self._stack.enter_async_context(await trio.open_tcp_stream(*self.address))

    async def ask(self, data: bytes) -> bytes:
        """All that is answered until the node closes the connection."""
        stream = await self.connect()
        with suppress(trio.BrokenResourceError):  # it has closed already; what it has said is read all the same
            await stream.send_all(data)
        return await rest(stream)

    async def count(self, name: str) -> int:
        return int((await self.client.result(STATS))[name])


async def rest(stream: trio.SocketStream) -> bytes:
    data = b""
    try:
        with trio.fail_after(TEST_S):
            while more := await stream.receive_some(65536):
                data += more
    except trio.BrokenResourceError:
        pass  # reset: it is closed as well
    return data


async def answered(watched: Watched) -> None:
    """A client that keeps to the rules is answered."""
    with trio.fail_after(TEST_S):
        answer = await watched.ask(LAST)
        while b" 503 " in answer:
            answer = await watched.ask(LAST)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nready\n")


@asynccontextmanager
async def watched_node() -> AsyncIterator[Watched]:
    logging.getLogger("swarm.core.http").setLevel(logging.INFO)
    node = make_dht()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    add_http(node, HttpSection(Address("127.0.0.1", 0)))
    logging.root.removeHandler(handler)
    found = re.search(r"HTTP on ([0-9.]+):(\d+)", lines[-1])
    assert found
    sock = listen(Address("127.0.0.1", 0))
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await nursery.start(node.run, [sock])
        client = await RawClient.connect(sock.getsockname())
        watched = Watched(node, client, (found[1], int(found[2])), stack)
        try:
            yield watched
            assert await client.result(PING) is None
            await answered(watched)
        finally:
            await client.close()
            node.stop()
    sock.close()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with watched_node() as watched:
        yield watched


GARBAGE = [
    b"\x00" * 100 + b"\r\n\r\n",
    b"\xff\xfe\xfd" * 1000 + b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /ready\r\n\r\n",
    b"GET /ready HTTP/9.9.9\r\n\r\n",
    b"GET /ready HTTP/1.1\r\n\r\n",  # without Host
    b"GET /r\xc3\xa4dy HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
    b"\x00\x00\x00\x10\x91\x93\xa5swarm\x01\x80\r\n\r\n",  # a client of the node that is at the wrong port
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_is_refused(watched: Watched, garbage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_IDLE_S", 1.0)
    refused = await watched.count("http_refused")
    answer = await watched.ask(garbage)
    assert re.match(rb"HTTP/1\.1 (400|408|501) ", answer), answer
    assert b"Traceback" not in answer
    assert await watched.count("http_refused") == refused + 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 100_000,
        b"GET /ready HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 100_000,
        b"GET /ready HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000,
        b"\r\n" * 1 + b"x" * 1_000_000,
    ],
    ids=["path", "header", "headers", "nothing"],
)
async def test_a_head_that_is_too_long(watched: Watched, head: bytes) -> None:
    refused = await watched.count("http_refused")
    answer = await watched.ask(head)
    assert re.match(rb"HTTP/1\.1 (431|400) ", answer), answer[:100]
    assert await watched.count("http_refused") == refused + 1


@pytest.mark.parametrize("said", [b"", b"GET /re", b"GET /ready HTTP/1.1\r\nHost: localhost\r\nA: b"])
async def test_a_client_that_does_not_finish_its_request(
    watched: Watched, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_IDLE_S", 0.3)
    answer = await watched.ask(said)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"no request has come in time\n")
    assert await watched.count("http_refused") == 1


async def test_a_client_that_sends_a_byte_at_a_time(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the request does not."""
    monkeypatch.setattr(limits, "HTTP_IDLE_S", 0.5)
    stream = await watched.connect()
    head = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 10_000
    sent = 0
    with trio.fail_after(TEST_S):
        try:
            for sent in range(len(head)):
                await stream.send_all(head[sent : sent + 1])
                with trio.move_on_after(0.05):
                    assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 408 ")
                    break
        except trio.BrokenResourceError:
            pass
    assert 1 <= sent < 100


@pytest.mark.parametrize("kind", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_body_that_never_ends(watched: Watched, kind: bytes, method: bytes) -> None:
    """It is answered, and closed; what comes of the body is thrown away."""
    stream = await watched.connect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            try:
                await stream.send_all(method + b" /ready HTTP/1.1\r\nHost: localhost\r\n" + kind + b"\r\n\r\n")
                while True:
                    await stream.send_all(b"10000\r\n" + bytes(65536) + b"\r\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        nursery.start_soon(send)
        answer = await rest(stream)
        assert answer.startswith(b"HTTP/1.1 200 " if method == b"GET" else b"HTTP/1.1 405 ")
        nursery.cancel_scope.cancel()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024, "KiB"


async def test_requests_that_come_together_are_answered_in_their_order(watched: Watched) -> None:
    paths = [b"/ready", b"/nope", b"/health", b"/ready"]
    requests = [b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in paths]
    answer = await watched.ask(b"".join(requests) + LAST)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answer) == [b"200", b"404", b"200", b"200", b"200"]


async def test_a_connection_has_a_number_of_requests(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_REQUESTS_PER_CONNECTION", 5)
    monkeypatch.setattr(limits, "HTTP_PACE_S", 0.0)
    async with watched_node() as other:
        answer = await other.ask(READY * 1000)
    assert answer.count(b"HTTP/1.1 200 ") <= 6


async def test_a_client_that_reads_no_answer(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTION_S", 1.0)
    monkeypatch.setattr(limits, "HTTP_PACE_S", 0.0)
    for number in range(500):
        await watched.client.result(PUT, f"channel-{number}-{'x' * 100}", b"key", b"value")
    stream = await watched.connect()
    with trio.move_on_after(5.0):
        try:
            while True:
                await stream.send_all(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
        except trio.BrokenResourceError:
            pass
    with trio.fail_after(TEST_S):
        while await watched.count("http_connections"):
            await trio.sleep(0.01)
    assert await watched.count("http_refused") == 1


async def test_slow_clients_keep_nobody_out(watched: Watched) -> None:
    """The oldest connection whose request is not complete makes room for a new one, and is told so."""
    slow = [await watched.connect() for _ in range(limits.HTTP_CONNECTIONS_MAX)]
    for stream in slow:
        await stream.send_all(b"GET /re")
    with trio.fail_after(TEST_S):
        while await watched.count("http_connections") < len(slow):
            await trio.sleep(0.01)
    assert (await watched.ask(LAST)).startswith(b"HTTP/1.1 200 ")
    told = await rest(slow[0])
    assert told.startswith(b"HTTP/1.1 503 ")
    assert told.endswith(b"too many connections\n")
    assert await watched.count("http_refused") == 1
    await slow[1].send_all(b"ady HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await rest(slow[1])).startswith(b"HTTP/1.1 200 "), "the others are as they were"


async def test_a_client_that_holds_a_connection_between_requests_makes_room(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 1)
    monkeypatch.setattr(limits, "HTTP_IDLE_S", inf)
    stream = await watched.connect()
    await stream.send_all(READY)
    with trio.fail_after(TEST_S):
        answer = b""
        while not answer.endswith(b"\r\n\r\nready\n"):
            answer += await stream.receive_some(1000)
    await answered(watched)  # 503 in the moment in which the first request comes to its end
    assert await rest(stream) == b"", "it has got what it wanted, and is closed"


async def test_more_connections_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """None whose request is being answered makes room."""
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 2)
    asked, may_answer = trio.Semaphore(0), trio.Event()

    async def answer(_: Request) -> Response:
        asked.release()
        await may_answer.wait()
        return PlainTextResponse("late\n")

    sock = listen(Address("127.0.0.1", 0))
    server = HttpServer(Starlette(routes=[Route("/", answer)]), sock)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        streams = [await trio.open_tcp_stream(*sock.getsockname()) for _ in range(3)]
        for stream in streams[:2]:
            await stream.send_all(request)
            await asked.acquire()
        told = await rest(streams[2])
        assert told.startswith(b"HTTP/1.1 503 ")
        assert told.endswith(b"too many connections\n")
        assert (server.refused, server.connections) == (1, 2)
        may_answer.set()
        for stream in streams[:2]:
            assert (await rest(stream)).endswith(b"late\n")
        nursery.cancel_scope.cancel()
    for stream in streams:
        await stream.aclose()
    sock.close()


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:80", b"127.0.0.1.evil.example", b"node", b""])
@pytest.mark.parametrize("path", [b"/", b"/stats", b"/metrics", b"/health", b"/nothing"])
async def test_on_loopback_a_name_that_somebody_else_has_led_here_is_refused(
    watched: Watched, host: bytes, path: bytes
) -> None:
    answer = await watched.ask(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert await watched.count("http_refused") == 1


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:9000", b"127.0.0.1:9000", b"[::1]:9000"])
async def test_on_loopback_its_own_names_are_taken(watched: Watched, host: bytes) -> None:
    answer = await watched.ask(b"GET /ready HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("address", "status"),
    [(Address("127.0.0.2", 0), b"200"), (Address("0.0.0.0", 0), b"200"), (Address("127.0.0.1", 0), b"400")],
    ids=["the address itself", "open to others", "another address"],
)
async def test_its_own_address_is_taken_and_where_others_reach_it_any_name(address: Address, status: bytes) -> None:
    from swarm.core.http_pages import node_pages

    sock = listen(address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(HttpServer(node_pages(make_dht(), address), sock).run)
        async with await trio.open_tcp_stream(*sock.getsockname()) as stream:  # 0.0.0.0 leads to this machine
            await stream.send_all(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.2\r\nConnection: close\r\n\r\n")
            assert (await rest(stream)).startswith(b"HTTP/1.1 " + status)
        nursery.cancel_scope.cancel()
    sock.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000),
        b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ],
    ids=["http/2", "websocket"],
)
async def test_other_protocols_are_not_spoken(watched: Watched, request_: bytes) -> None:
    answer = await watched.ask(request_)
    assert b"HTTP/1.1 200" not in answer
    assert await watched.count("http_refused") == 1


async def test_who_would_rather_speak_http_2_is_answered_in_http_1(watched: Watched) -> None:
    """As curl --http2 asks; the connection can be used on."""
    upgrade = b"Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    answer = await watched.ask(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: " + upgrade + LAST)
    assert re.findall(rb"HTTP/\S+ \d+ ", answer) == [b"HTTP/1.1 200 "] * 2
    assert b"upgrade" not in answer.lower()
    assert await watched.count("http_refused") == 0


async def test_the_nodes_own_clients_do_not_notice(watched: Watched) -> None:
    """While 50 clients ask as often as they may, with every kind of request."""
    answers = 0

    async def hammer(number: int) -> None:
        nonlocal answers
        requests = [LAST, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"garbage\r\n\r\n"]
        while True:
            await watched.ask(requests[number % len(requests)])
            answers += 1

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(hammer, number)
        with trio.fail_after(TEST_S):
            while answers < 30:
                await watched.client.result(PUT, "c", b"key", b"value")
                assert await watched.client.result(GET, "c", b"key") == b"value"
        nursery.cancel_scope.cancel()


async def test_a_page_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in what HTTP tells does not take the node down."""
    node = make_dht()

    async def fail(_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    sock = listen(Address("127.0.0.1", 0))
    server = HttpServer(Starlette(routes=[Route("/", fail)]), sock)
    node.service.background.append(server.run)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run, [])
        stream = await trio.open_tcp_stream(*sock.getsockname())
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await rest(stream)).startswith(b"HTTP/1.1 500 ")
        await stream.aclose()
        node.stop()
    sock.close()
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.name == "swarm.core.http_server"
    assert "a bug" in str(record.exc_info)


async def test_a_node_that_stops_is_not_ready() -> None:
    from swarm.core.http_pages import node_pages

    node = make_dht()
    address = Address("127.0.0.1", 0)
    sock = listen(address)
    server = HttpServer(node_pages(node, address), sock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        for expected in (b"HTTP/1.1 200 ", b"HTTP/1.1 503 "):
            stream = await trio.open_tcp_stream(*sock.getsockname())
            await stream.send_all(LAST)
            assert (await rest(stream)).startswith(expected)
            await stream.aclose()
            node.stop()
        nursery.cancel_scope.cancel()
    sock.close()
