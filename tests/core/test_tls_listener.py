"""TLS at a node, spoken by clients that say exactly what a test tells them to: whatever one does, the others are
served, and the node lives."""

import logging
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from raw_client import (
    BATCH,
    DONE,
    GET,
    GET_ALL,
    KIB,
    MIB,
    PING,
    PUT,
    SHUTTING_DOWN,
    TLS_FAILED,
    TOO_MANY_CONNECTIONS,
    RawClient,
    RunningNode,
    frame,
    hello,
    notice_status,
    running_dht,
    until,
)

from swarm.core import limits
from swarm.core.tls import NodeTls, client_context
from tests.certificates import EXPIRED, NOT_YET, Authority

TEST_S = 20.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


class TlsNode:
    """A dht node that speaks TLS, and raw clients of it."""

    def __init__(self, dht: RunningNode, context: ssl.SSLContext) -> None:
        self.dht = dht
        self.listener = dht.node.listener
        self.context = context
        self._streams: list[trio.abc.Stream] = []

    async def handshake(self, context: ssl.SSLContext | None = None) -> trio.SSLStream[trio.SocketStream]:
        tcp = await self.tcp()
        stream = trio.SSLStream(tcp, context or self.context, server_hostname="127.0.0.1", https_compatible=True)
        await stream.do_handshake()
        return stream

    async def connect(self, context: ssl.SSLContext | None = None, *, greet: bool = True) -> RawClient:
        client = RawClient(await self.handshake(context))
        if greet:
            await client.greet()
        return client

    async def tcp(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(*self.dht.address)
        self._streams.append(stream)
        return stream

    async def close(self) -> None:
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def tls_node(authority: Authority, client_ca: Path | None = None, **options: int) -> AsyncIterator[TlsNode]:
    with trio.fail_after(TEST_S):
        async with running_dht(tls=NodeTls(authority.node(client_ca=client_ca)), **options) as dht:
            node = TlsNode(dht, authority.client())
            try:
                yield node
            finally:
                await node.close()


async def check_served(*clients: RawClient) -> None:
    for client in clients:
        assert await client.result(PING) is None


async def refusal(stream: trio.SSLStream[trio.SocketStream]) -> str:
    """Why the node ends a connection, in the words of OpenSSL."""
    await stream.send_all(hello())
    with pytest.raises(trio.BrokenResourceError) as told:
        await stream.receive_some()
    assert isinstance(told.value.__cause__, ssl.SSLError)
    return str(told.value.__cause__.reason)


# What is served.


async def test_requests_of_any_size_are_answered(authority: Authority) -> None:
    async with tls_node(authority) as node:
        client = await node.connect()
        for size in (1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 256 * KIB, 3 * MIB):
            value = bytes(range(251)) * (size // 251 + 1)
            await client.result(PUT, "c", b"k", value[:size])
            assert await client.result(GET, "c", b"k") == value[:size]
        assert node.listener.tls_failures == 0


async def test_requests_in_records_of_one_byte(authority: Authority) -> None:
    async with tls_node(authority) as node:
        client = await node.connect()
        for byte in frame([1, PUT, "c", b"key", b"value"], [2, GET, "c", b"key"]):
            await client.send_bytes(bytes([byte]))
        assert [await client.receive(), await client.receive()] == [[1, DONE, None], [2, DONE, b"value"]]


async def test_records_that_come_byte_by_byte(authority: Authority) -> None:
    async with tls_node(authority) as node:
        other = await node.connect()
        tcp = await node.tcp()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = node.context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

        async def send_slowly() -> None:
            for byte in outgoing.read():
                await tcp.send_all(bytes([byte]))

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await send_slowly()
                incoming.write(await tcp.receive_some())
                await check_served(other)
        tls.write(hello())
        await send_slowly()
        while True:
            incoming.write(await tcp.receive_some())
            with suppress(ssl.SSLWantReadError):
                assert b"swarm" in tls.read()
                return


async def test_a_hello_in_the_same_segment_as_the_end_of_the_handshake(authority: Authority) -> None:
    async with tls_node(authority) as node:
        tcp = await node.tcp()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = node.context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        await tcp.send_all(outgoing.read())
        while True:
            incoming.write(await tcp.receive_some())
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
        tls.write(hello())
        await tcp.send_all(outgoing.read())  # at once: nothing more comes that could make the node look again
        while True:
            incoming.write(await tcp.receive_some())
            with suppress(ssl.SSLWantReadError):
                assert b"swarm" in tls.read()
                return


async def test_a_stream_has_credit(authority: Authority) -> None:
    async with tls_node(authority) as node:
        client = await node.connect()
        for number in range(8):
            await client.result(PUT, "c", b"%d" % number, bytes(200 * KIB))
        await client.send([1, GET_ALL, "c", b"", b"", b"", 2])
        batches = [await client.receive() for _ in range(2)]
        assert [each[:2] for each in batches] == [[1, BATCH]] * 2
        assert await client.ask(7, PING) == [7, DONE, None]  # and no batch before it


async def test_a_client_that_does_not_read_is_bounded(authority: Authority) -> None:
    async with tls_node(authority) as node:
        slow, other = await node.connect(), await node.connect()
        await slow.result(PUT, "c", b"k", bytes(MIB))
        count = 60
        await slow.send(*([number, GET, "c", b"k"] for number in range(1, count + 1)))
        await check_served(other, other)
        (handler,) = [
            each.handler for each in node.listener._connections.values() if each.handler.output or each.handler.pending
        ]
        assert handler.output_full
        assert sum(map(len, handler.output)) <= limits.OUTPUT_BYTES_MAX + MIB + KIB
        for number in range(1, count + 1):
            assert await slow.receive() == [number, DONE, bytes(MIB)]


@pytest.mark.parametrize("polite", [True, False], ids=["close_notify", "no close_notify"])
async def test_a_client_that_leaves(authority: Authority, polite: bool) -> None:
    async with tls_node(authority) as node:
        leaving, other = await node.connect(), await node.connect()
        assert isinstance(leaving.stream, trio.SSLStream)
        if polite:
            await leaving.stream.unwrap()
        await trio.aclose_forcefully(leaving.stream)
        await until(lambda: node.listener.connections == 1)
        assert node.listener.tls_failures == 0
        await check_served(other)


async def test_a_client_that_leaves_in_the_middle_of_a_record(authority: Authority) -> None:
    async with tls_node(authority) as node:
        leaving, other = await node.connect(), await node.connect()
        assert isinstance(leaving.stream, trio.SSLStream)
        await leaving.stream.transport_stream.send_all(b"\x17\x03\x03\x40\x00" + bytes(100))
        await leaving.stream.transport_stream.aclose()
        await until(lambda: node.listener.connections == 1)
        await check_served(other)


async def test_the_node_stops(authority: Authority) -> None:
    async with tls_node(authority) as node:
        client = await node.connect()
        half_open = await node.tcp()
        await until(lambda: node.listener.connections == 2)
        node.dht.node.stop()
        assert notice_status(await client.rest()) == SHUTTING_DOWN
        with suppress(trio.BrokenResourceError):
            assert await half_open.receive_some() == b""


async def test_the_connection_limit_is_told_through_tls(authority: Authority) -> None:
    async with tls_node(authority, connections_max=2) as node:
        clients = [await node.connect() for _ in range(2)]
        for _ in range(3):
            refused = await node.connect(greet=False)
            assert notice_status(await refused.rest()) == TOO_MANY_CONNECTIONS
            await check_served(*clients)
        assert node.listener.refused == 3


# What is refused.


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + bytes(100), b"\x15\x03\x03\x00\x02\x02\x28"],
    ids=["no handshake", "too long", "an alert"],
)
async def test_garbage_that_looks_like_tls(
    authority: Authority, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_node(authority) as node:
        other, client = await node.connect(), await node.tcp()
        await client.send_all(garbage)
        with suppress(trio.BrokenResourceError):
            while await client.receive_some():
                pass
        await client.aclose()
        await until(lambda: node.listener.connections == 1)
        assert node.listener.tls_failures == 1
        assert re.search(r"127\.0\.0\.1:\d+: TLS handshake failed: ", caplog.text)
        await check_served(other)


@pytest.mark.parametrize("first", [hello(), b"GET / HTTP/1.1\r\n\r\n", bytes(5), b"\xff"], ids=repr)
async def test_who_does_not_speak_tls_is_told_plainly(
    authority: Authority, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_node(authority) as node:
        other = await node.connect()
        client = RawClient(await node.tcp())
        await client.send_bytes(first)
        (notice,) = await client.rest()
        assert notice_status([notice]) == TLS_FAILED
        assert "this node speaks TLS only" in notice[2][0]
        assert "this node speaks TLS only" in caplog.text
        assert node.listener.tls_failures == 1
        await check_served(other)


async def test_garbage_in_a_connection_that_was_served(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with tls_node(authority) as node:
        client, other = await node.connect(), await node.connect()
        assert isinstance(client.stream, trio.SSLStream)
        await client.stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: node.listener.connections == 1)
        assert node.listener.tls_failures == 1
        assert "connection closed: TLS: decryption failed or bad record mac" in caplog.text
        await check_served(other)


async def test_a_client_of_version_1_1(authority: Authority) -> None:
    async with tls_node(authority) as node:
        context = authority.client()
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(trio.BrokenResourceError) as told:
            await node.handshake(context)
        assert "PROTOCOL_VERSION" in str(told.value.__cause__)
        await until(lambda: node.listener.tls_failures == 1)


async def test_a_client_of_version_1_2(authority: Authority) -> None:
    async with tls_node(authority) as node:
        context = authority.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        await check_served(await node.connect(context))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_certificates_of_clients(authority: Authority, stranger: Authority, version: ssl.TLSVersion) -> None:
    async with tls_node(authority, client_ca=authority.ca) as node:

        def client(certificate: Path | None) -> ssl.SSLContext:
            context = client_context(authority.ca, certificate)
            context.maximum_version = version
            return context

        served = await node.connect(client(authority.issue("client")))
        for number, (certificate, told) in enumerate(
            [
                (None, {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"}),
                (stranger.issue("client"), {"TLSV1_ALERT_UNKNOWN_CA"}),
                (authority.issue("client", **EXPIRED), {"SSLV3_ALERT_CERTIFICATE_EXPIRED"}),
                (authority.issue("client", **NOT_YET), {"SSLV3_ALERT_BAD_CERTIFICATE"}),
            ],
            1,
        ):  # fmt: skip
            if version == ssl.TLSVersion.TLSv1_3:
                assert await refusal(await node.handshake(client(certificate))) in told
            else:
                with pytest.raises(trio.BrokenResourceError) as error:
                    await node.handshake(client(certificate))
                assert isinstance(error.value.__cause__, ssl.SSLError)
                assert error.value.__cause__.reason in told
            await check_served(served)
            assert node.listener.tls_failures == number


# Handshakes that do not end.


async def test_half_a_handshake_ends_after_the_time_for_the_hello(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "HELLO_TIMEOUT_S", 0.05)
    monkeypatch.setattr("swarm.core.select_listener.SWEEP_S", 0.02)
    async with tls_node(authority) as node:
        silent, halting = await node.tcp(), await node.tcp()
        await halting.send_all(b"\x16\x03\x01")
        for client in (silent, halting):
            with suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
        assert node.listener.tls_failures == 2
        assert caplog.text.count("TLS handshake failed: it is not complete after") == 2


async def test_the_time_for_the_hello_includes_the_handshake(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_node(authority) as node:
        client = await node.connect(greet=False)
        monkeypatch.setattr(limits, "HELLO_TIMEOUT_S", 0.0)
        (notice,) = await client.rest()
        assert "hello" in notice[2][0]


async def test_who_only_looks_whether_somebody_listens_is_no_failure(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_node(authority) as node:
        client = await node.tcp()
        await until(lambda: node.listener.connections == 1)
        await client.aclose()
        await until(lambda: node.listener.connections == 0)
        assert node.listener.tls_failures == 0
        assert "TLS" not in caplog.text


async def test_half_open_handshakes_have_a_limit_of_their_own(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKES_MAX", 10)
    async with tls_node(authority, connections_max=3) as node:
        clients = [await node.connect() for _ in range(2)]
        half_open = [await node.tcp() for _ in range(60)]
        await until(lambda: node.listener.tls_failures == 50)
        assert node.listener.connections == 2 + 10
        await check_served(*clients, await node.connect())  # who comes now finds room, though they are so many
        for client in half_open[:50]:
            with suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
        told = [each for each in caplog.records if "at a time are not complete" in each.message]
        assert 0 < len(told) <= 20
        assert all(each.levelno == logging.WARNING for each in told)


async def test_many_handshakes_while_others_work(authority: Authority) -> None:
    async with tls_node(authority) as node:
        worker = await node.connect()

        async def come_and_go() -> None:
            for _ in range(5):
                client = await node.connect()
                await check_served(client)
                await client.close()

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(come_and_go)
            for number in range(100):
                await worker.result(PUT, "c", b"%d" % number, bytes(KIB))
        await until(lambda: node.listener.connections == 1)
        assert node.listener.tls_failures == 0


async def test_a_client_that_asks_for_new_keys_again_and_again(authority: Authority) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl (Debian: openssl)")
    async with tls_node(authority) as node:
        other = await node.connect()
        host, port = node.dht.address
        command = [openssl, "s_client", "-tls1_3", "-connect", f"{host}:{port}"]
        ended = await trio.run_process(
            command, stdin=b"K\n" * 100, capture_stdout=True, capture_stderr=True, check=False
        )
        assert b"KEYUPDATE" in ended.stdout + ended.stderr
        await check_served(other)
        assert node.listener.tls_failures == 0


# New certificates.


async def test_new_connections_have_the_certificate_that_was_read_again(authority: Authority) -> None:
    section = authority.node()
    tls = NodeTls(section)

    async def serial(dht: RunningNode) -> object:
        tcp = await trio.open_tcp_stream(*dht.address)
        stream = trio.SSLStream(tcp, authority.client(), server_hostname="127.0.0.1", https_compatible=True)
        await stream.do_handshake()
        shown = stream.getpeercert()
        await trio.aclose_forcefully(stream)
        return shown["serialNumber"]

    with trio.fail_after(TEST_S):
        async with running_dht(tls=tls) as dht:
            first = await serial(dht)
            authority.write(Path(section.certificate))
            assert await serial(dht) == first
            tls.reload()
            second = await serial(dht)
            assert second != first
            Path(section.certificate).write_text("")
            tls.reload()
            assert await serial(dht) == second


# Sockets that are never TLS.


async def test_unix_sockets_are_plain(authority: Authority) -> None:
    async with tls_node(authority) as node:
        ours, theirs = socket.socketpair()
        node.listener.adopt(theirs, "unix socket")
        client = RawClient(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        await client.greet()
        await check_served(client)
        await client.close()


async def test_tls_at_a_node_without_it(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with trio.fail_after(TEST_S):
        async with running_dht() as dht:
            other = await dht.connect()
            tcp = await trio.open_tcp_stream(*dht.address)
            stream = trio.SSLStream(tcp, authority.client(), server_hostname="127.0.0.1")
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await trio.aclose_forcefully(stream)
            await until(lambda: dht.node.listener.connections == 1)
            assert "the client speaks TLS, and this node does not" in caplog.text
            assert dht.node.listener.tls_failures == 1
            await check_served(other)
