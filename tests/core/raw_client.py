"""A client that says exactly what a test tells it to, right or wrong.

It is written from docs/protocol.md and shares no code with the swarm, so that a mistake in the framing or in the
session cannot hide itself. What it talks to is always the real thing:

    DirectConnection   a ConnectionHandler, with the test as its driver: no socket, no loop
    RawClient          any trio stream: a socket to a node in this process or in another
    node_process       a node as a process of its own
"""

import math
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

import lz4.block
import msgpack
import trio

from nodes.dht.config import DhtConfig, JournalSection, NodeSection
from nodes.dht.node import make_node
from swarm.core.config import Address
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.node import LimitsSection, Node, listen
from swarm.core.request_handler import Service
from swarm.core.tls import NodeTls
from swarm.dht.hash_range import HashRange

KIB = 1024
MIB = 1024 * KIB
COMPRESSED = 1 << 31

DONE = 0
BATCH = 1
UNKNOWN_REQUEST = 16
BAD_ARGUMENT = 17
BAD_CHANNEL = 18
BAD_KEY = 19
EMPTY_VALUE = 20
VALUE_TOO_BIG = 21
BATCH_TOO_BIG = 22
WRONG_NODE = 23
OUT_OF_MEMORY = 24
CONFLICT = 25
CHANNEL_REMOVED = 26
TOO_MANY_REQUESTS = 27
TOO_MANY_CHANNELS = 28
PROTOCOL_ERROR = 32
TLS_FAILED = 39
UNSUPPORTED_VERSION = 33
WRONG_KIND = 34
TOO_MANY_CONNECTIONS = 35
SHUTTING_DOWN = 36
NOT_AUTHENTICATED = 37
NOT_ALLOWED = 38

PING, CREDIT, STOP, STATS, CHANNELS, CHANNEL_SIZE, SIZE, REMOVE_CHANNEL, AUTHENTICATE = range(1, 10)
HEALTH, EVENTS = 10, 11
PUT, PUT_MANY, GET, GET_MANY, EXISTS, REMOVE, UPDATE, GET_ALL, GET_ALL_KEYS, HASH_RANGE, LISTEN = range(16, 27)
BEGIN_DUMP, END_DUMP = 27, 28

Message = Any

# Bytes.


def frame(*messages: Message) -> bytes:
    """One frame that holds these messages."""
    return raw_frame(msgpack.packb(messages))


def raw_frame(body: bytes) -> bytes:
    """One frame that holds this body, whatever it is."""
    return struct.pack(">I", len(body)) + body


def compressed_frame(body: bytes, *, raw_size: int | None = None) -> bytes:
    """The same, compressed. raw_size: what the frame says of the body's size; by default the truth."""
    stored = struct.pack(">I", len(body) if raw_size is None else raw_size) + lz4.block.compress(body, store_size=False)
    return struct.pack(">I", len(stored) | COMPRESSED) + stored


def hello(version: object = 1, **facts: object) -> bytes:
    return frame(["swarm", version, facts])


def nested(depth: int) -> bytes:
    """nil in so many arrays, encoded: deeper than msgpack would encode it."""
    return b"\x91" * depth + b"\xc0"


def array(*encoded: bytes) -> bytes:
    """An encoded array of values that are encoded already, at most 15."""
    return bytes([0x90 | len(encoded)]) + b"".join(encoded)


class FrameReader:
    """Takes bytes, gives the messages of the frames that are complete."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[Message]:
        self.rest += data
        messages: list[Message] = []
        while len(self.rest) >= 4:
            (header,) = struct.unpack_from(">I", self.rest)
            end = 4 + (header & ~COMPRESSED)
            if len(self.rest) < end:
                break
            body = self.rest[4:end]
            if header & COMPRESSED:
                body = lz4.block.decompress(body[4:], uncompressed_size=struct.unpack_from(">I", body)[0])
            messages += msgpack.unpackb(body)
            self.rest = self.rest[end:]
        return messages


# A dht node, its storage and all, without sockets.


def make_dht(*, hash_range: HashRange | None = None, memory_limit: int = 256 * MIB, **limits: int) -> Node:
    """A real dht node without a journal; its service can be talked to right away. limits: of the [limits] section."""
    return make_node(
        DhtConfig(
            node=NodeSection(hash_range=hash_range or HashRange(), memory_limit=memory_limit),
            journal=JournalSection(enabled=False),
            limits=LimitsSection(**limits),
        )
    )


@asynccontextmanager
async def at_work(*nodes: Node) -> AsyncIterator[None]:
    """Lets nodes without sockets do what needs a loop: answer requests that stream, and tell their statistics."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run, [])
        yield
        nursery.cancel_scope.cancel()


class DirectConnection:
    """A connection without a socket: the test is the driver of its handler."""

    def __init__(self, service: Service, *, greet: bool = True, **facts: object) -> None:
        self.flushes = 0
        self.on_flush: Callable[[], None] = lambda: None
        self.handler = ConnectionHandler(service, self._flush_soon)
        self._reader = FrameReader()
        if greet:
            self.give(hello(**facts))
            (self.node_hello,) = self.take()

    def _flush_soon(self) -> None:
        self.flushes += 1
        self.on_flush()

    @property
    def closing(self) -> bool:
        return self.handler.closing

    @property
    def output_bytes(self) -> int:
        """How much waits to be sent."""
        return sum(map(len, self.handler.output))

    def give(self, data: bytes) -> None:
        """The client has sent this; the pass that carries it out ends here, unless the test has begun it."""
        handler = self.handler
        assert not handler.pending, "a driver does not read while requests are pending"
        view = memoryview(bytearray(data))
        with self._in_pass():
            if handler.admitted and not handler.output and not handler.closing:
                answer = handler.exchange(view, len(view), perf_counter(), math.inf)
                if answer is not None:
                    handler.put_back(answer, 0)
            else:
                handler.receive(view, perf_counter(), math.inf)

    def work(self) -> None:
        """The node goes on with what is pending."""
        with self._in_pass():
            self.handler.work(perf_counter(), math.inf)

    @contextmanager
    def _in_pass(self) -> Iterator[None]:
        service = self.handler.service
        was_in_pass, service.in_pass = service.in_pass, True
        yield
        if not was_in_pass:
            service.end_pass()
            service.flush_others()

    def take(self, most: float = math.inf) -> list[Message]:
        """The client reads what there is, at most so many bytes; the messages that are complete then."""
        messages: list[Message] = []
        while self.handler.output and most > 0:
            data = bytes(self.handler.output[0])
            data = data[: int(min(most, len(data)))]
            self.handler.sent(len(data))
            most -= len(data)
            messages += self._reader.feed(data)
        return messages

    def exchange(self, data: bytes) -> list[Message]:
        """The client sends, and reads until nothing more comes at once."""
        self.give(data)
        messages = self.take()
        while self.handler.pending:
            self.work()
            messages += self.take()
        assert not self._reader.rest, "the node has sent part of a frame"
        return messages

    def ask(self, *messages: Message) -> list[Message]:
        """All that is answered at once to these messages, sent in one frame."""
        return self.exchange(frame(*messages))

    def result(self, code: int, *arguments: object) -> Any:
        """The result of one request that is carried out."""
        ((request_id, status, result),) = self.ask([77, code, *arguments])
        assert (request_id, status) == (77, DONE), (status, result)
        return result

    def error(self, code: int, *arguments: object) -> tuple[int, dict[str, Any]]:
        """Status and details of one request that is refused; the connection must stay usable."""
        ((request_id, status, result),) = self.ask([78, code, *arguments])
        check_error(request_id, status, result)
        assert request_id == 78
        assert self.usable()
        return status, result[1]

    def usable(self) -> bool:
        return not self.closing and self.ask([79, PING]) == [[79, DONE, None]]


def check_error(request_id: object, status: object, result: object) -> None:
    """A final reply that tells an error has the form that the document gives it."""
    assert type(request_id) is int
    assert type(status) is int
    assert status >= 16
    match result:
        case [str(text), dict()]:
            assert text
        case _:
            raise AssertionError(f"{result!r} is no [text, details]")


def notice_status(messages: list[Message]) -> int:
    """The status of the notice that is the last of the messages, and the only notice."""
    assert [message[0] for message in messages].count(0) == 1, messages
    request_id, status, result = messages[-1]
    check_error(request_id, status, result)
    assert request_id == 0
    return int(status)


# Over streams.


class RawClient:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._reader = FrameReader()
        self._messages: list[Message] = []

    @classmethod
    async def connect(cls, address: tuple[str, int], *, greet: bool = True) -> "RawClient":
        """Connects to a node; greet: exchanges hellos too."""
        client = cls(await trio.open_tcp_stream(*address))
        if greet:
            await client.greet()
        return client

    async def greet(self) -> None:
        """Exchanges hellos."""
        await self.send_bytes(hello())
        magic, _, _ = await self.receive()
        assert magic == "swarm"

    async def send_bytes(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send(self, *messages: Message) -> None:
        await self.send_bytes(frame(*messages))

    async def receive(self) -> Message:
        """The next message; EOFError if the node closes the connection."""
        while not self._messages:
            data = await self.stream.receive_some(256 * KIB)
            if not data:
                assert not self._reader.rest, "the node has closed in the middle of a frame"
                raise EOFError
            self._messages = self._reader.feed(bytes(data))
        return self._messages.pop(0)

    async def ask(self, *request: object) -> Message:
        """Sends one request and receives one message."""
        await self.send(list(request))
        return await self.receive()

    async def result(self, code: int, *arguments: object) -> Any:
        request_id, status, result = await self.ask(81, code, *arguments)
        assert (request_id, status) == (81, DONE), (status, result)
        return result

    async def rest(self) -> list[Message]:
        """Every message until the node closes the connection."""
        messages: list[Message] = []
        while True:
            try:
                messages.append(await self.receive())
            except EOFError:
                return messages

    async def end_of_input(self) -> None:
        """Closes the client's side only."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)

    def reset(self) -> None:
        """Closes with a reset, as a process that is killed may."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(*_LINGER_NOT)
        self.stream.socket.close()


_LINGER_NOT = (1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: on, for no time


class RunningNode:
    def __init__(self, node: Node, address: tuple[str, int]) -> None:
        self.node = node
        self.address = address
        self._clients: list[RawClient] = []

    async def connect(self, *, greet: bool = True) -> RawClient:
        """A client; it is closed at the end at the latest."""
        client = await RawClient.connect(self.address, greet=greet)
        self._clients.append(client)
        return client

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def running_dht(*, tls: NodeTls | None = None, **options: Any) -> AsyncIterator[RunningNode]:
    """A dht node of this process that listens on loopback. options: of make_dht. It must be alive at the end."""
    node = make_dht(**options)
    node.tls = tls
    with closing(listen(Address("127.0.0.1", 0))) as sock:
        async with trio.open_nursery() as nursery:
            running = RunningNode(node, sock.getsockname())
            await nursery.start(node.run, [sock])
            try:
                yield running
            finally:
                await running.close_clients()
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for what no event tells of; fails after so many seconds."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


# As a process.


class NodeProcess:
    def __init__(self, process: "subprocess.Popen[bytes]", directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.address = ("127.0.0.1", 0)

    @property
    def log(self) -> str:
        path = self.directory / "root.log"
        return path.read_text() if path.exists() else ""

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def story(self) -> str:
        """The end of its log, with what it says where it is dying."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        return f"exit status {self.process.returncode}: {self.log[-5000:]}"

    @property
    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4 * KIB


@contextmanager
def node_process(directory: Path, *, open_files: int | None = None, config: str = "") -> Iterator[NodeProcess]:
    """A dht node in a process of its own; it must be alive at the end, and stop in order.

    open_files: limit on its open files. config: its configuration file.
    """
    (directory / "dht.ini").write_text(config + "\n[logs]\nconsole = no\n")
    command = [sys.executable, "-m", "nodes.dht", "--address", "127.0.0.1:0", "--data", str(directory)]
    command += ["--config", str(directory / "dht.ini")]
    if open_files is not None:
        command = ["/bin/sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            node = NodeProcess(process, directory)
            deadline = time.monotonic() + 20
            while "serves on " not in node.log:
                if not node.alive or time.monotonic() > deadline:
                    _fail(f"the node did not start: {node.log}")
                time.sleep(0.01)
            host, _, port = node.log.partition("serves on ")[2].partition(",")[0].partition(":")
            node.address = (host, int(port))
            yield node
            assert node.alive, node.story()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, node.log
        finally:
            process.kill()


def _fail(text: str) -> NoReturn:
    raise AssertionError(text)
