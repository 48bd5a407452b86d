"""Every client with TLS, at every kind of node: what it is given, and what it is told where a certificate is wrong."""

import signal
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from conformance_runs import AwaitableClient

import swarm.blocking
from nodes.dht.config import DhtConfig
from nodes.logfiles.config import LogfilesConfig
from nodes.queue.config import QueueConfig
from swarm.core.errors import ConnectionLost, NodeUnreachable, RequestTimeout, TlsFailed
from swarm.core.limits import RECEIVE_BYTES
from swarm.core.tls import TlsSection, client_context
from swarm.dht import DhtClient
from swarm.logfiles import LogfilesClient
from swarm.queue import QueueClient
from swarm.testing import DhtProcess, LogfilesProcess, QueueProcess, running_dht
from tests.certificates import EXPIRED, NOT_YET, Authority
from tests.proxy import Cut, proxy_before
from tests.waiting import wait_until

HANG_S = 20.0
MIB = 1024 * 1024
LARGEST = bytes(range(256)) * (16 * MIB // 256)

every_client = pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])
every_async_client = pytest.mark.parametrize("kind", ["trio", "asyncio"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


def run(
    kind: str,
    work: Callable[[Any], Awaitable[None]],
    nodes: list[str],
    client: Any = DhtClient,
    **options: Any,
) -> None:
    """Does something with an open client, which is of one of the three kinds."""
    blocking = getattr(swarm.blocking, client.__name__)

    async def main() -> None:
        made = AwaitableClient(blocking(nodes, **options)) if kind == "blocking" else client(nodes, **options)
        with anyio.fail_after(HANG_S):
            async with made as opened:
                await work(opened)

    anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


# Every kind of node.


async def everything_of_dht(dht: DhtClient) -> None:
    batch = {f"key-{number}": b"value" * (number % 50 + 1) for number in range(3000)}
    await dht.put_many("a", batch)
    assert await dht.get_many("a", batch) == batch
    await dht.put("a", "large", LARGEST)
    assert await dht.get("a", "large") == LARGEST
    got = dht.get_all("a")
    records = [each async for each in got] if hasattr(got, "__aiter__") else list(await got)  # type: ignore[misc]
    assert len(records) == 3001


async def everything_of_queue(queue: QueueClient) -> None:
    records = [b"%d" % number * 30 for number in range(3000)]
    await queue.push_many("a", records)
    assert await queue.pop_many("a", 3000) == records
    records = [b"%06d" % number + bytes(1000) for number in range(3000)]
    await queue.push_many("a", records)
    assert await queue.pop_many("a", 10) == records[:10], "from here on the records' size is known"
    assert await queue.pop_many("a", 3000) == records[10:]
    for size in range(RECEIVE_BYTES - 16, RECEIVE_BYTES + 4):
        await queue.push("a", LARGEST[:size])
        assert await queue.pop("a") == LARGEST[:size]
    await queue.push("a", LARGEST[: 8 * MIB])
    assert await queue.pop("a") == LARGEST[: 8 * MIB]
    assert await queue.pop("a", wait=0.01) is None


async def everything_of_logfiles(logfiles: LogfilesClient) -> None:
    records = [(number, b"line %d" % number) for number in range(3000)]
    await logfiles.put_many("a", records)
    await logfiles.put("a", 3000, LARGEST[: 4 * MIB])
    got = logfiles.get_range("a")
    lines = [each async for each in got] if hasattr(got, "__aiter__") else list(await got)  # type: ignore[misc]
    assert lines == [*records, (3000, LARGEST[: 4 * MIB])]


KINDS: dict[str, Any] = {
    "dht": (DhtProcess, DhtConfig, DhtClient, everything_of_dht),
    "queue": (QueueProcess, QueueConfig, QueueClient, everything_of_queue),
    "logfiles": (LogfilesProcess, LogfilesConfig, LogfilesClient, everything_of_logfiles),
}


@pytest.mark.parametrize("node", KINDS)
def test_every_client_at_every_kind_of_node(node: str, authority: Authority, tmp_path: Path) -> None:
    process, config, client, everything = KINDS[node]
    tls = authority.node(client_ca=authority.ca)
    with process(tmp_path, config(tls=tls)) as running:
        for kind in ("trio", "asyncio", "blocking"):

            async def work(client: Any) -> None:
                await everything(client)
                await client.remove_channel("a")
                ((_, counted),) = (await client.node_statistics()).items()
                assert counted["tls_failures"] == 0

            context = authority.client(authority.issue("client"))
            run(kind, work, [running.address], client, tls=context)


@pytest.mark.parametrize("node", KINDS)
def test_every_kind_of_node_tells_at_once_that_it_wants_tls(node: str, authority: Authority, tmp_path: Path) -> None:
    process, config, client, _ = KINDS[node]
    with process(tmp_path, config(tls=authority.node())) as running:
        for kind in ("trio", "asyncio", "blocking"):

            async def work(client: Any) -> None:
                with pytest.raises(TlsFailed, match="this node speaks TLS only") as told:
                    await client.channels()
                assert told.value.node == running.address

            run(kind, work, [running.address], client, timeout=1000.0)
        wait_until(lambda: any("this node speaks TLS only" in line for line in running.output))


@every_client
def test_a_node_without_tls_is_told_at_once(kind: str, authority: Authority) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises(TlsFailed, match="the node does not speak TLS"):
            await dht.put("a", "key", b"value")
        with pytest.raises(TlsFailed, match="the node does not speak TLS"):
            await dht.ping()

    with running_dht() as dht:
        run(kind, work, dht.addresses, tls=authority.client(), timeout=1000.0)


# Certificates.


def check_told(kind: str, section: TlsSection, context: ssl.SSLContext, told: str, host: str = "127.0.0.1") -> None:
    """A client of the node is told this at once, and so is everybody who asks afterwards."""

    async def work(dht: Any) -> None:
        for ask in (lambda: dht.put("a", "key", b"value"), dht.ping, dht.size):
            with pytest.raises(TlsFailed, match=told) as failed:
                await ask()
            assert str(failed.value.node) in str(failed.value)

    with running_dht(config=DhtConfig(tls=section)) as dht:
        run(kind, work, [dht.addresses[0].replace("127.0.0.1", host)], tls=context, timeout=1000.0)


@every_client
def test_an_authority_that_the_client_does_not_know(
    kind: str, authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    told = r"that the node shows is refused: unable to get local issuer certificate \(name the authority"
    check_told(kind, authority.node(), stranger.client(), told)
    assert "TLS handshake failed: tlsv1 alert unknown ca" in caplog.text
    check_told(kind, authority.node(), client_context(), told)


@every_client
def test_a_certificate_of_the_node_that_has_expired(kind: str, authority: Authority) -> None:
    told = r"is refused: certificate has expired \(the node needs a new one\)"
    check_told(kind, authority.node(**EXPIRED), authority.client(), told)


@every_client
def test_a_certificate_of_the_node_that_is_not_valid_yet(kind: str, authority: Authority) -> None:
    told = r"is refused: certificate is not yet valid \(it is not valid yet: compare the clocks"
    check_told(kind, authority.node(**NOT_YET), authority.client(), told)


@every_client
def test_a_certificate_for_another_name(kind: str, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    told = "is refused: .* certificate is not valid for '127.0.0.1'"
    check_told(kind, authority.node("node.example"), authority.client(), told)
    assert "TLS handshake failed: sslv3 alert bad certificate" in caplog.text
    told = "is refused: .* certificate is not valid for 'localhost'"
    check_told(kind, authority.node("127.0.0.1"), authority.client(), told, host="localhost")


@every_client
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_node_that_wants_another_certificate_of_the_client(
    kind: str, version: ssl.TLSVersion, authority: Authority, stranger: Authority
) -> None:
    section = authority.node(client_ca=authority.ca)
    for certificate, told in (
        (None, "certificate of its clients"),
        (stranger.issue("client"), "does not accept this client's certificate: it is not signed by"),
        (authority.issue("client", **EXPIRED), "does not accept this client's certificate: it has expired"),
    ):
        context = authority.client(certificate)
        context.maximum_version = version
        check_told(kind, section, context, told)


@every_client
def test_a_client_of_another_version(kind: str, authority: Authority) -> None:
    context = authority.client()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    check_told(kind, authority.node(), context, "no version of TLS in common; the node wants 1.2 at least")


@every_client
def test_a_certificate_that_is_mended_is_used_from_then_on(kind: str, authority: Authority, tmp_path: Path) -> None:
    section = authority.node(**EXPIRED)
    with DhtProcess(tmp_path, DhtConfig(tls=section)) as node:

        async def work(dht: Any) -> None:
            with pytest.raises(TlsFailed, match="certificate has expired"):
                await dht.ping()
            authority.write(Path(section.certificate))
            node._signal(signal.SIGHUP)
            while True:
                try:
                    await dht.put("a", "key", b"value")
                    return
                except TlsFailed:
                    await anyio.lowlevel.checkpoint()

        run(kind, work, [node.address], tls=authority.client())
        assert any("was read again" in line for line in node.output)


@every_client
def test_a_bad_certificate_at_a_reload_changes_nothing(kind: str, authority: Authority, tmp_path: Path) -> None:
    section = authority.node()
    with DhtProcess(tmp_path, DhtConfig(tls=section)) as node:
        Path(section.certificate).write_text("nothing")
        node._signal(signal.SIGHUP)
        wait_until(lambda: any("go on with the certificate that was read before" in line for line in node.output))

        async def work(dht: Any) -> None:
            await dht.put("a", "key", b"value")

        run(kind, work, [node.address], tls=authority.client())


# Connections that break.


@every_client
def test_a_node_that_is_killed_and_comes_back(kind: str, authority: Authority, tmp_path: Path) -> None:
    with DhtProcess(tmp_path, DhtConfig(tls=authority.node())) as node:

        async def work(dht: Any) -> None:
            await dht.put("a", "key", b"before")
            node.kill()
            node.start()
            assert await dht.get("a", "key") == b"before"

        run(kind, work, [node.address], tls=authority.client(), timeout=HANG_S)


@every_client
@pytest.mark.parametrize("cut", [1, 100, 1000, 3000, 100_000])
def test_a_connection_that_is_cut(kind: str, cut: int, authority: Authority) -> None:
    """In the middle of the handshake, of the answer to it, or of a record."""
    with (
        running_dht(config=DhtConfig(tls=authority.node())) as node,
        proxy_before(node.addresses[0]) as proxy,
        swarm.blocking.DhtClient(node.addresses, tls=authority.client()) as other,
    ):
        for place in (Cut(requests=cut), Cut(answers=cut)):
            proxy.cuts.append(place)

            async def work(dht: Any) -> None:
                await dht.put("a", "key", bytes(MIB))
                assert await dht.get("a", "key") == bytes(MIB)

            run(kind, work, [proxy.address], tls=authority.client(), timeout=HANG_S)
            other.ping()
        assert proxy.connections == 4


@every_client
def test_a_request_that_may_not_be_repeated(kind: str, authority: Authority, tmp_path: Path) -> None:
    with DhtProcess(tmp_path, DhtConfig(tls=authority.node())) as node:

        async def work(dht: Any) -> None:
            await dht.put("a", "key", b"value")
            with node.paused(), pytest.raises(RequestTimeout):
                await dht.remove("a", "key")
            node.kill()
            with pytest.raises((ConnectionLost, NodeUnreachable)):
                await dht.remove("a", "key")

        run(kind, work, [node.address], tls=authority.client(), timeout=0.3)


@every_client
def test_a_node_that_accepts_and_is_silent(kind: str, authority: Authority, tmp_path: Path) -> None:
    with DhtProcess(tmp_path, DhtConfig(tls=authority.node())) as node:

        async def work(dht: Any) -> None:
            with node.paused(), pytest.raises(NodeUnreachable):
                await dht.ping()

        run(kind, work, [node.address], tls=authority.client(), timeout=0.2)


@every_client
def test_an_answer_that_comes_after_the_timeout_is_kept(kind: str, authority: Authority, tmp_path: Path) -> None:
    with QueueProcess(tmp_path, QueueConfig(tls=authority.node())) as node:

        async def work(queue: Any) -> None:
            await queue.push("a", b"record")
            with node.paused(), pytest.raises(RequestTimeout):
                await queue.pop("a")
            assert await queue.pop("a", wait=HANG_S) == b"record"

        run(kind, work, [node.address], QueueClient, tls=authority.client(), timeout=0.2)


def test_an_interrupt_of_a_blocking_pop_that_waits_loses_nothing(authority: Authority, tmp_path: Path) -> None:
    context = authority.client()
    with (
        QueueProcess(tmp_path, QueueConfig(tls=authority.node())) as node,
        swarm.blocking.QueueClient([node.address], tls=context) as queue,
        swarm.blocking.QueueClient([node.address], tls=context) as other,
    ):
        given: list[bytes | None] = []

        def interrupt(number: int) -> None:
            while not all(each["waiting_pops"] for each in other.node_statistics().values()):
                pass
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            other.push("a", b"%d" % number)

        for number in range(10):
            with ThreadPoolExecutor(1) as thread:
                done = thread.submit(interrupt, number)
                try:
                    given.append(queue.pop("a", wait=HANG_S))
                    done.result()
                except KeyboardInterrupt:
                    done.result()
            if len(given) == number:
                given.append(queue.pop("a", wait=HANG_S))
            assert given[number] == b"%d" % number


@every_async_client
def test_many_tasks_share_a_connection(kind: str, authority: Authority) -> None:
    with running_dht(config=DhtConfig(tls=authority.node())) as node:

        async def work(dht: DhtClient) -> None:
            async def one(number: int) -> None:
                value = b"%d" % number * (1 + number * 300)
                await dht.put("a", f"{number}", value)
                assert await dht.get("a", f"{number}") == value

            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(one, number)

        run(kind, work, node.addresses, tls=authority.client())


@every_client
def test_unix_sockets_are_never_tls(kind: str, authority: Authority, tmp_path: Path) -> None:
    async def work(dht: Any) -> None:
        await dht.put("a", "key", b"value")

    with running_dht(unix_directory=tmp_path) as dht:
        run(kind, work, dht.addresses, tls=authority.client())
