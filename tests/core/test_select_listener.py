"""Many clients on one node, over loopback: whatever one does, the others are served, and the node lives."""

import errno
import logging
import resource
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from logins import asks_for_logins, log_in
from raw_client import (
    DONE,
    GET,
    GET_ALL,
    KIB,
    MIB,
    OUT_OF_MEMORY,
    PING,
    PROTOCOL_ERROR,
    PUT,
    PUT_MANY,
    SHUTTING_DOWN,
    SIZE,
    STATS,
    TLS_FAILED,
    TOO_MANY_CONNECTIONS,
    UNSUPPORTED_VERSION,
    WRONG_KIND,
    FrameReader,
    Message,
    NodeProcess,
    RawClient,
    RunningNode,
    frame,
    hello,
    node_process,
    notice_status,
    raw_frame,
    running_dht,
    until,
)

from swarm.core import limits, select_listener
from swarm.core.errors import ShuttingDown

TEST_S = 20.0  # none of these tests takes so long
BATCHES_PER_PASS = 2  # where a pass has time for nothing: one of what came in, one of what was left
ARRIVE_TOGETHER = 500  # connections: more than the kernel lets wait to be accepted it may reset by itself


async def fill(client: RawClient, size: int, channel: str = "c", key: bytes = b"k") -> None:
    await client.result(PUT, channel, key, bytes(size))


async def check_served(*clients: RawClient) -> None:
    for client in clients:
        assert await client.result(PING) is None


# Bad clients.


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
async def test_half_a_request_and_then_nothing(cut: int) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            halting, other = await dht.connect(), await dht.connect()
            request = frame([1, PUT, "c", b"key", b"value"])
            await halting.send_bytes(request[:cut])
            await check_served(other, other)
            assert await other.result(SIZE) == [0, 0, 0]
            await halting.send_bytes(request[cut:])
            assert await halting.receive() == [1, DONE, None]
            await check_served(halting, other)


async def test_half_a_large_request_and_then_gone() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            for _ in range(3):
                client = await dht.connect()
                await client.send_bytes(frame([1, PUT, "c", b"key", bytes(16 * MIB)])[: 10 * MIB])
                await client.close()
            await until(lambda: dht.node.listener.connections == 1)
            assert await other.result(SIZE) == [0, 0, 0]


async def test_a_request_in_many_small_pieces() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            client, other = await dht.connect(), await dht.connect()
            for byte in frame([1, PUT, "c", b"key", b"value"], [2, GET, "c", b"key"]):
                await client.send_bytes(bytes([byte]))
                await check_served(other)
            assert [await client.receive(), await client.receive()] == [[1, DONE, None], [2, DONE, b"value"]]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500, TLS_FAILED),
        (bytes(1000), PROTOCOL_ERROR),
        (b"\xff" * MIB, PROTOCOL_ERROR),
        (struct.pack(">I", 2**31 - 1), PROTOCOL_ERROR),
        (hello(2), UNSUPPORTED_VERSION),
        (hello(kind="queue"), WRONG_KIND),
        (hello()[:-1] + b"\xc1", PROTOCOL_ERROR),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_garbage_instead_of_a_hello(data: bytes, status: int) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            client = await dht.connect(greet=False)
            try:
                await client.send_bytes(data)
            except trio.BrokenResourceError:
                assert len(data) > 100_000, "the node has closed before it was told this little"
            assert notice_status(await client.rest()) == status
            await check_served(other)
            assert dht.node.listener.connections == 1


async def test_garbage_after_the_hello() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            for garbage in (raw_frame(b"\xc1"), b"\xff\xff\xff\xff", frame([0, PING]), frame(5), frame({})):
                client = await dht.connect()
                await client.send_bytes(frame([1, PING]) + garbage + frame([2, PING]))
                replies = await client.rest()
                assert replies[0] == [1, DONE, None]
                assert notice_status(replies) == PROTOCOL_ERROR
                assert len(replies) == 2
                await check_served(other)
            assert (await other.result(STATS))["protocol_errors"] == 5


async def test_why_a_connection_was_closed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            client = await dht.connect(greet=False)
            await client.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
            await client.rest()
            (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
            assert "connection closed" in record.message
            assert "127.0.0.1:" in record.message


async def test_strangers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.core.logs.SELDOM_S", 0.5)
    monkeypatch.setattr(select_listener, "SWEEP_S", 0.02)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            for _ in range(100):
                client = await dht.connect(greet=False)
                await client.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
                assert notice_status(await client.rest()) == PROTOCOL_ERROR
            assert dht.node.service.protocol_errors == 100

            def told() -> int:
                lines = [message for message in caplog.messages if "connection closed" in message]
                rest = [message for message in caplog.messages if "were not told" in message]
                assert len(lines) <= select_listener.CLOSED_LINES_MAX * (1 + len(rest))
                return len(lines) + sum(int(message.split()[0]) for message in rest)

            await until(lambda: told() == 100)


async def test_half_frames_that_are_too_much_together() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            dht.node.service.unfinished_bytes_max = MIB
            half, too_much, other = [await dht.connect() for _ in range(3)]
            request = frame([1, PUT, "c", b"key", bytes(MIB)])
            await half.send_bytes(request[: 900 * KIB])
            await until(lambda: dht.node.service.unfinished_bytes == 900 * KIB)
            await too_much.send_bytes(request[: 200 * KIB])
            assert notice_status(await too_much.rest()) == OUT_OF_MEMORY
            await check_served(other)
            await half.send_bytes(request[900 * KIB :])
            assert await half.receive() == [1, DONE, None]
            assert dht.node.service.unfinished_bytes == 0
            await half.send_bytes(request[: 777 * KIB])
            await until(lambda: dht.node.service.unfinished_bytes == 777 * KIB)
            half.reset()
            await until(lambda: dht.node.service.unfinished_bytes == 0)


async def test_clients_that_go_away() -> None:
    """In order, with a reset, before the hello, in the middle of a frame, with answers on their way."""
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            await fill(other, 300 * KIB)
            gets = frame(*([number, GET, "c", b"k"] for number in range(1, 50)))
            for data in (b"", hello()[:9], hello(), hello() + gets[:7], hello() + gets):
                for reset in (False, True):
                    client = await dht.connect(greet=False)
                    await client.send_bytes(data)
                    if reset:
                        client.reset()
                    else:
                        await client.close()
                    await check_served(other)
            await until(lambda: dht.node.listener.connections == 1)
            await check_served(other)


@pytest.mark.parametrize("channel", ["c", "nothing"])
async def test_a_client_that_resets_when_a_stream_begins_to_send(channel: str) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            await fill(other, 300 * KIB)
            for _ in range(5):
                client = await dht.connect()
                await client.send([1, GET_ALL, channel, b"", b"", b"", 64])
                client.reset()
                await check_served(other)
            await until(lambda: dht.node.listener.connections == 1)
            await until(lambda: dht.node.service.streams_running == 0)
            await check_served(other)


async def test_a_connection_that_breaks_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One breaks right after its request was carried out, and a new one comes that gets its file descriptor."""
    monkeypatch.setattr(limits, "PASS_SECONDS_MAX", 0.0005)
    monkeypatch.setattr(limits, "TURN_SECONDS_MAX", 0.0)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            warm = await dht.connect()
            batch = [[b"%d" % number for number in range(4096)], [bytes(100)] * 4096, 0]
            await warm.result(PUT_MANY, "c", *batch)
            (put_many,) = (
                handler.statistics for handler in dht.node.service.handlers.values() if handler.request.code == PUT_MANY
            )
            for _ in range(5):
                breaking = await dht.connect()
                handled = put_many.handled
                await breaking.send([1, PUT_MANY, "c", *batch])
                while put_many.handled == handled:
                    await trio.lowlevel.checkpoint()
                breaking.reset()
                new = RawClient(
                    trio.SocketStream(trio.socket.from_stdlib_socket(socket.create_connection(dht.address)))
                )
                await new.send_bytes(hello() + frame([1, PING]))
                assert (await new.receive())[0] == "swarm"
                assert await new.receive() == [1, DONE, None]
                await new.close()
                await until(lambda: dht.node.listener.connections == 1)
                await check_served(warm)


# Clients that do not read.


async def test_a_client_that_never_reads_harms_nobody() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            await fill(other, MIB)
            silent = await dht.connect()
            count = 100
            await silent.send(*([number, GET, "c", b"k"] for number in range(1, count + 1)))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await other.result(STATS))["request"]["get"]["handled"] < count // 2
            await check_served(*[other] * 20)
            replies = [await silent.receive() for _ in range(count)]
            assert [(reply[0], len(reply[2])) for reply in replies] == [(number, MIB) for number in range(1, count + 1)]
            await check_served(silent, other)


async def test_a_client_that_does_not_read_a_stream_harms_nobody() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            for number in range(60):
                await fill(other, 300 * KIB, key=b"%d" % number)
            silent = await dht.connect()
            await silent.send(*([number, GET_ALL, "c", b"", b"", b"", 64] for number in range(1, 4)))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert dht.node.service.streams_running == 3
            await check_served(other)
            found = {1: 0, 2: 0, 3: 0}
            finals = 0
            while finals < 3:
                request_id, status, result = await silent.receive()
                if status == DONE:
                    finals += 1
                else:
                    found[request_id] += len(result[1])
            assert found == {1: 60, 2: 60, 3: 60}


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HELLO_TIMEOUT_S", 0.3)
    monkeypatch.setattr(limits, "STALLED_OUTPUT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(limits, "UNFINISHED_FRAME_TIMEOUT_S", 0.3)
    monkeypatch.setattr(select_listener, "SWEEP_S", 0.02)


@pytest.mark.usefixtures("short_timeouts")
async def test_a_client_that_has_read_nothing_for_too_long_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            await fill(other, MIB)
            silent = await dht.connect()
            await silent.send(*([number, GET, "c", b"k"] for number in range(1, 101)))
            await until(lambda: dht.node.listener.connections == 1)
            assert "it has read no answer" in caplog.text
            await check_served(other)


async def asks_for_pings(dht: RunningNode) -> RawClient:
    """A stranger that has asked for more than fits into the buffers on the way, and reads nothing yet."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await sock.connect(dht.address)
    client = RawClient(trio.SocketStream(sock))
    await client.send_bytes(hello())
    pings = frame(*([number, PING] for number in range(1, 61)))
    with trio.move_on_after(0.2):  # then the node reads no more
        while True:
            await client.send_bytes(pings)
    return client


@pytest.mark.usefixtures("short_timeouts")
async def test_a_stranger_that_reads_little_by_little_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "STALLED_OUTPUT_TIMEOUT_S", 60.0)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            asks_for_logins(dht.node)
            client = await asks_for_pings(dht)
            with suppress(trio.BrokenResourceError):
                while dht.node.listener.connections:
                    await client.stream.receive_some(100)
            assert "no login came" in caplog.text
            await client.close()


async def test_strangers_make_room_for_others() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht(connections_max=5) as dht:
            asks_for_logins(dht.node)
            first = await dht.connect(greet=False)
            assert (await log_in(first))[1] == DONE
            strangers = [await asks_for_pings(dht) for _ in range(2)]
            silent = [await dht.connect(greet=False) for _ in range(2)]
            await until(lambda: dht.node.listener.connections == 5)
            clients = []
            for count in range(1, 5):
                clients.append(await dht.connect(greet=False))
                assert (await log_in(clients[-1]))[1] == DONE
                assert dht.node.listener.refused == count
            for each in silent:
                assert notice_status(await each.rest()) == TOO_MANY_CONNECTIONS
            refused = await dht.connect(greet=False)
            assert notice_status(await refused.rest()) == TOO_MANY_CONNECTIONS
            await check_served(first, *clients)
            for each in strangers:
                await each.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_last_answers_that_are_read_too_slowly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "CLOSING_TIMEOUT_S", 0.3)
    monkeypatch.setattr(limits, "STALLED_OUTPUT_TIMEOUT_S", 60.0)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            slow = await dht.connect()
            await fill(slow, 16 * MIB)
            await slow.send([1, GET, "c", b"k"])
            (connection,) = dht.node.listener._connections.values()
            await until(lambda: connection.handler.output)
            connection.handler.cut_off(ShuttingDown("nobody is served any more"))
            await until(lambda: dht.node.listener.connections == 0)
            assert "it reads its last answers too slowly" in caplog.text


@pytest.mark.usefixtures("short_timeouts")
async def test_a_slow_reader_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as long as it takes a little now and then, 30 times within one and a half timeouts."""
    monkeypatch.setattr(limits, "STALLED_OUTPUT_TIMEOUT_S", 2.0)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            slow = await dht.connect()
            await fill(slow, MIB)
            await slow.send(*([number, GET, "c", b"k"] for number in range(1, 31)))
            begun = time.perf_counter()
            for number in range(1, 31):
                assert (await slow.receive())[0] == number
                while time.perf_counter() < begun + number * 0.1:
                    await trio.lowlevel.checkpoint()
            await check_served(slow)


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.parametrize("part", [0, 1, 9])
async def test_a_hello_that_does_not_come(part: int) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            idle = await dht.connect()
            late = await dht.connect(greet=False)
            await late.send_bytes(hello()[:part])
            assert notice_status(await late.rest()) == PROTOCOL_ERROR
            await check_served(idle)
            assert dht.node.listener.connections == 1


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.parametrize("part", [1, 4, 9])
async def test_a_frame_that_is_left_unfinished(part: int) -> None:
    """Who sends a little of it now and then is slow, and is not closed."""
    request = frame([1, PUT, "c", b"key", b"value"])
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            idle, slow, halting = [await dht.connect() for _ in range(3)]
            await halting.send_bytes(request[:part])
            begun = time.perf_counter()
            for number, byte in enumerate(request):
                await until(lambda at=begun + number * 0.03: time.perf_counter() > at)  # type: ignore[misc]
                await slow.send_bytes(bytes([byte]))
            assert await slow.receive() == [1, DONE, None]
            assert notice_status(await halting.rest()) == PROTOCOL_ERROR
            await check_served(idle, slow)
            assert dht.node.listener.connections == 2


async def test_a_half_closed_client_gets_its_answers() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other, client = await dht.connect(), await dht.connect()
            await fill(other, MIB)
            count = 30
            await client.send(*([number, GET, "c", b"k"] for number in range(1, count + 1)))
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            await check_served(other)
            replies = await client.rest()
            assert [(reply[0], len(reply[2])) for reply in replies] == [(number, MIB) for number in range(1, count + 1)]
            await until(lambda: dht.node.listener.connections == 1)


async def test_a_client_that_closes_without_a_word() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            client = await dht.connect(greet=False)
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            assert await client.rest() == []


# Many connections.


async def test_the_connection_limit() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht(connections_max=3) as dht:
            clients = [await dht.connect() for _ in range(3)]
            for _ in range(5):
                refused = await dht.connect(greet=False)
                (notice,) = await refused.rest()
                assert notice_status([notice]) == TOO_MANY_CONNECTIONS
                assert notice[2][1] == {"limit": 3}
                await check_served(*clients)
            assert dht.node.listener.refused == 5
            await clients.pop().close()
            await until(lambda: dht.node.listener.connections == 2)
            await check_served(await dht.connect(), *clients)


async def test_a_client_that_is_refused_reads_why_though_it_sends() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht(connections_max=1) as dht:
            only = await dht.connect()
            for _ in range(50):
                refused = await dht.connect(greet=False)
                await refused.send_bytes(hello() + frame([1, PING]))
                assert notice_status(await refused.rest()) == TOO_MANY_CONNECTIONS
            await check_served(only)


class FirstFrame:
    """What the node says first on a plain socket: its hello, or a notice and the end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.messages: list[Message] = []
        self._reader = FrameReader()

    def receive(self) -> bool:
        """Receives once; whether all has come."""
        try:
            data = self.sock.recv(4096)
        except ConnectionResetError:
            data = b""
        self.messages += self._reader.feed(data)
        return not data or self.is_hello

    def wait(self) -> None:
        self.sock.setblocking(True)
        self.sock.settimeout(TEST_S)
        self.sock.sendall(hello())
        while not self.receive():
            pass

    @property
    def is_hello(self) -> bool:
        return [message[0] for message in self.messages] == ["swarm"]

    @property
    def is_refusal(self) -> bool:
        return [message[:2] for message in self.messages] == [[0, TOO_MANY_CONNECTIONS]]


@contextmanager
def many_connections(node: NodeProcess, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(closing(socket.socket()))
            sock.setblocking(False)
            assert sock.connect_ex(node.address) in (0, errno.EINPROGRESS)
            sockets.append(sock)
        yield sockets


def first_frames(sockets: list[socket.socket]) -> list[FirstFrame]:
    """Sends a hello on each as soon as it is connected, and waits for all answers."""
    poll = select.poll()
    answers = [FirstFrame(sock) for sock in sockets]
    waiting = {answer.sock.fileno(): answer for answer in answers}
    for fd in waiting:
        poll.register(fd, select.POLLOUT)
    deadline = time.monotonic() + TEST_S
    while waiting:
        assert time.monotonic() < deadline, f"{len(waiting)} of {len(sockets)} connections were not answered"
        for fd, event in poll.poll(100):
            if event == select.POLLOUT:
                with suppress(BrokenPipeError, ConnectionResetError):
                    waiting[fd].sock.send(hello())
                poll.modify(fd, select.POLLIN)
            elif waiting[fd].receive():
                poll.unregister(fd)
                del waiting[fd]
    return answers


def ask(address: tuple[str, int], *request: object) -> Message:
    """One request of a client of its own."""
    with closing(socket.create_connection(address, timeout=TEST_S)) as sock:
        sock.sendall(hello() + frame(list(request)))
        reader = FrameReader()
        messages: list[Message] = []
        while len(messages) < 2:
            data = sock.recv(65536)
            assert data, messages
            messages += reader.feed(data)
        return messages[1]


def test_10_000_connections_at_once(tmp_path: Path) -> None:
    """Or as many as this system lets a process open. Each gets a hello, or is told why not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        count = 10_000 if hard > 11_000 else 1000
        most = count * 2 // 5
        with node_process(tmp_path, config=f"[limits]\nconnections_max = {most}\n") as node:
            with ExitStack() as stack:
                answers: list[FirstFrame] = []
                while len(answers) < count:
                    sockets = stack.enter_context(many_connections(node, ARRIVE_TOGETHER))
                    answers += first_frames(sockets)
                assert sum(answer.is_hello for answer in answers) == most
                assert sum(answer.is_refusal for answer in answers) == count - most
            deadline = time.monotonic() + TEST_S
            while _statistics(node).get("connections") != 1:
                assert time.monotonic() < deadline
            assert node.alive
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _statistics(node: NodeProcess) -> dict[str, int]:
    try:
        _, _, statistics = ask(node.address, 1, STATS)
    except (AssertionError, ConnectionError):
        return {}  # the last clients are still leaving
    return dict(statistics)


def test_a_node_without_file_descriptors(tmp_path: Path) -> None:
    with node_process(tmp_path, open_files=40) as node:
        assert ask(node.address, 1, PUT, "c", b"k", b"v") == [1, DONE, None]
        with many_connections(node, 60) as sockets:
            deadline = time.monotonic() + TEST_S
            while "cannot accept connections" not in node.log:
                assert node.alive
                assert time.monotonic() < deadline
                time.sleep(0.01)
            first = FirstFrame(sockets[0])
            first.wait()
            assert first.is_hello
            for sock in sockets[:40]:
                sock.close()
            for sock in sockets[40:]:  # they were waiting to be accepted
                late = FirstFrame(sock)
                late.wait()
                assert late.is_hello
        assert ask(node.address, 1, GET, "c", b"k") == [1, DONE, b"v"]
        assert "open files" in node.log


# Fairness.


async def test_who_asks_much_does_not_keep_others_waiting() -> None:
    """While one client's 300,000 requests are answered, another's are too, one by one."""
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            greedy, other = await dht.connect(), await dht.connect()
            await fill(other, 100)
            frames, requests = 300, 1000
            data = frame(*([number, GET, "c", b"k"] for number in range(1, requests + 1))) * frames
            done = trio.Event()

            async def receive() -> None:
                seen = 0
                while seen < frames * requests:
                    await greedy.receive()
                    seen += 1
                done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(greedy.send_bytes, data)
                nursery.start_soon(receive)
                answered = 0
                while not done.is_set():
                    assert await other.result(GET, "c", b"k") == bytes(100)
                    answered += 1
            assert answered > 20


async def test_batches_of_some_do_not_keep_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slot is one batch here, since no time is left for a second: so slots can be counted, on any machine."""
    monkeypatch.setattr(limits, "PASS_SECONDS_MAX", 0.0)
    monkeypatch.setattr(limits, "TURN_SECONDS_MAX", 0.0)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            busy = [await dht.connect() for _ in range(10)]
            batch = ["c", [b"%d" % number for number in range(1000)], [b"v"] * 1000, 0]
            count = 60
            put_many = dht.node.service.handlers[PUT_MANY].statistics
            finished = 0
            waited_for: list[int] = []

            async def put(client: RawClient) -> None:
                nonlocal finished
                await client.send_bytes(b"".join(frame([number, PUT_MANY, *batch]) for number in range(1, count + 1)))
                for number in range(1, count + 1):
                    assert await client.receive() == [number, DONE, None]
                finished += 1

            async with trio.open_nursery() as nursery:
                for client in busy:
                    nursery.start_soon(put, client)
                while finished < len(busy):
                    before = put_many.handled
                    await check_served(other)
                    waited_for.append(put_many.handled - before)
            assert sum(waited_for) > len(busy) * count // 2, "most of the batches were there while others asked"
            assert max(waited_for) <= BATCHES_PER_PASS * (len(busy) + 1)
            assert len(waited_for) >= len(busy) * count // (2 * BATCHES_PER_PASS)


# The end.


async def test_an_ordered_stop() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            clients = [await dht.connect() for _ in range(3)]
            stranger = await dht.connect(greet=False)
            streaming = await dht.connect()
            for number in range(5):
                await fill(clients[0], 300 * KIB, key=b"%d" % number)
            await streaming.send([1, GET_ALL, "c", b"", b"", b"", 1])
            assert (await streaming.receive())[1] != DONE
            dht.node.stop()
            for client in (*clients, stranger, streaming):
                assert notice_status(await client.rest()) == SHUTTING_DOWN
            assert dht.node.listener.connections == 0
            with pytest.raises(OSError, match="all attempts"):
                await dht.connect()


async def test_answers_that_are_on_their_way_leave_before_the_stop() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            client = await dht.connect()
            await fill(client, MIB)
            count = 50
            await client.send(*([number, GET, "c", b"k"] for number in range(1, count + 1)))
            first = await client.receive()
            dht.node.stop()
            replies = [first, *await client.rest()]
            assert notice_status(replies) == SHUTTING_DOWN
            assert [reply[0] for reply in replies[:-1]] == list(range(1, count + 1))


async def test_a_client_that_does_not_read_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.core.node.DRAIN_S", 0.1)
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            silent, other = await dht.connect(), await dht.connect()
            await fill(other, MIB)
            await silent.send(*([number, GET, "c", b"k"] for number in range(1, 101)))
            await check_served(other)
            dht.node.stop()
            assert notice_status(await other.rest()) == SHUTTING_DOWN


async def test_what_the_listener_counts() -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            client = await dht.connect()
            before: RunningNode = dht
            sent = frame([81, PING])
            received, given = before.node.service.bytes_in, before.node.service.bytes_out
            for _ in range(10):
                await client.send_bytes(sent)
                await client.receive()
            assert dht.node.service.bytes_in - received == 10 * len(sent)
            assert dht.node.service.bytes_out - given == 10 * len(frame([81, DONE, None]))
            assert dht.node.listener.accepted == 1
