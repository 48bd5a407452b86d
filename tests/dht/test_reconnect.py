"""Connections that break, nodes that die and come back, requests that are given up."""

import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from conformance import AwaitableClient, everything, records, stored_bytes

import swarm.blocking
from nodes.dht.config import DhtConfig, NodeSection
from swarm.core import limits
from swarm.core.client_session import Call, ClientSession
from swarm.core.config import Address, parse_address
from swarm.core.connection_settings import ConnectionSettings
from swarm.core.errors import (
    BadArgument,
    BadKey,
    ClientClosed,
    ConnectionLost,
    NodeUnreachable,
    OutOfMemory,
    ProtocolError,
    RequestTimeout,
    SwarmError,
    TooManyRequests,
)
from swarm.core.limits import RECEIVE_BYTES, RECORD_OVERHEAD_BYTES
from swarm.core.node import NodeError
from swarm.core.protocol import Limits, Request
from swarm.core.transports import Transport
from swarm.dht import DhtClient
from swarm.dht.hash_range import HASH_MAX, HashRange, hash_key, split_evenly
from swarm.testing import DhtProcess, MemoryTransport, dht_in_memory, running_dht
from tests.proxy import Cut, proxy_before

MIB = 1024 * 1024
HANG_S = 20.0

every_client = pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])
every_async_client = pytest.mark.parametrize("kind", ["trio", "asyncio"])


def run(kind: str, nodes: list[str], work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Does something with an open client, which is of one of the three kinds."""

    async def main() -> None:
        client: Any = DhtClient(nodes, **options)
        if kind == "blocking":
            client = AwaitableClient(swarm.blocking.DhtClient(nodes, **options))
        with anyio.fail_after(HANG_S):
            async with client as dht:
                await work(dht)

    anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


async def until_reached(dht: Any) -> None:
    """Its timeout may be shorter than the time to its next attempt to connect, or than a node takes to catch up."""
    with anyio.fail_after(HANG_S):
        while True:
            try:
                await dht.ping()
                return
            except (NodeUnreachable, RequestTimeout):
                continue


def hello_sizes(address: str) -> tuple[int, int]:
    """Bytes of the client's hello and of the node's."""
    hello = ClientSession[None](ConnectionSettings("dht", 5.0)).begin()
    node = parse_address(address)
    with socket.create_connection((node.host, node.port)) as sock:
        sock.sendall(hello)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4], "big"):
            answer += sock.recv(65536)
    return len(hello), len(answer)


# Nodes that die.


@every_client
def test_requests_go_on_when_a_node_is_killed_and_comes_back(kind: str, tmp_path: Path) -> None:
    batch = records(3000)

    async def work(dht: Any) -> None:
        await dht.put("a", "key", b"before")
        restart.start()
        rounds_left = 30
        while rounds_left:
            if not restart.is_alive():
                rounds_left -= 1
            await dht.put("a", "key", b"value")
            await dht.get("a", "key")
            await dht.put_many("a", batch)
            await dht.get_many("a", batch)
            await dht.exists("a", "key")
            await dht.size()
        assert await dht.get("a", "key") == b"value"
        assert await dht.get_many("a", batch) == batch

    with DhtProcess(tmp_path) as node:

        def kill_and_start() -> None:
            node.kill()
            node.start()

        restart = threading.Thread(target=kill_and_start)
        run(kind, [node.address], work, timeout=HANG_S)


@every_client
def test_requests_that_may_not_be_repeated(kind: str, tmp_path: Path) -> None:
    """The node is killed when the first byte of the request has reached it."""
    with DhtProcess(tmp_path) as node, proxy_before(node.address) as proxy:
        client_hello, _ = hello_sizes(node.address)
        for request, call in (
            ("remove", lambda dht: dht.remove("a", "key")),
            ("update", lambda dht: dht.put_if_absent("a", "key", b"value")),
            ("remove channel", lambda dht: dht.remove_channel("a")),
        ):
            proxy.cuts.append(Cut(requests=client_hello + 1, then=node.kill))

            async def work(dht: Any, request: str = request, call: Any = call) -> None:
                with pytest.raises(ConnectionLost) as caught:
                    await call(dht)
                assert caught.value.request == request
                assert caught.value.node == proxy.address
                assert caught.value.fault == "network"
                assert "may or may not" in caught.value.text
                node.start()
                await dht.put("a", "key", b"value")
                assert await dht.remove("a", "key")

            run(kind, [proxy.address], work)


@every_client
@pytest.mark.parametrize("where", ["requests", "answers"])
def test_requests_that_are_repeated(kind: str, where: str) -> None:
    """Nobody notices that a connection has broken, whether before or after the node has carried them out."""
    many = records(20_000)
    with running_dht() as dht_nodes, proxy_before(dht_nodes.addresses[0]) as proxy:
        hello = hello_sizes(dht_nodes.addresses[0])[where == "answers"]
        calls: list[Callable[[Any], Awaitable[Any]]] = [
            lambda dht: dht.put("a", "key", b"value"),
            lambda dht: dht.get("a", "key"),
            lambda dht: dht.exists("a", "key"),
            lambda dht: dht.put_many("a", many),
            lambda dht: dht.get_many("a", many),
            lambda dht: dht.channel_size("a"),
            lambda dht: dht.ping(),
        ]
        expected = [None, b"value", True, None, many, (20_001, stored_bytes(many) + 8), None]
        for behind in (1, 3, 1000):
            for call, answer in zip(calls, expected, strict=True):
                proxy.cuts.extend([Cut(**{where: hello + behind}), Cut(**{where: 1}), Cut(**{where: hello})])

                async def work(dht: Any, call: Any = call, answer: Any = answer) -> None:
                    assert await call(dht) == answer

                run(kind, [proxy.address], work)
                proxy.cuts.clear()


@every_client
def test_get_all_goes_on_where_the_connection_broke(kind: str) -> None:
    some = records(50_000)
    cuts = [300, 1000, 70_000, 262_144, 262_400, 400_000, 1_000_000, 1_500_000]

    async def work(dht: Any) -> None:
        await dht.ready()
        for proxy in proxies:
            proxy.cuts.extend(Cut(answers=answers) for answers in cuts)
        assert await everything(dht, "a") == some
        keys = [key async for key in dht.get_all_keys("a", key_prefix="key-01")]
        assert sorted(keys) == sorted(key for key in some if key.startswith(b"key-01"))

    with running_dht(2) as dht_nodes:
        with swarm.blocking.DhtClient(dht_nodes.addresses) as other:
            other.put_many("a", some)
        with proxy_before(dht_nodes.addresses[0]) as first, proxy_before(dht_nodes.addresses[1]) as second:
            proxies = (first, second)
            for proxy in proxies:
                proxy.cuts.append(Cut(answers=200_000))
            run(kind, [first.address, second.address], work, timeout=10.0)
            assert min(first.connections, second.connections) >= len(cuts)


@every_client
def test_get_all_of_a_node_that_does_not_come_back(kind: str, tmp_path: Path) -> None:
    async def work(dht: Any) -> None:
        await dht.put_many("a", records(50_000))
        walk = dht.get_all("a")
        await anext(walk)
        node.kill()
        with pytest.raises((NodeUnreachable, ConnectionLost)):
            async for _ in walk:
                pass
        node.start()
        await until_reached(dht)
        await dht.put("a", "key", b"value")
        assert len(await everything(dht, "a")) == 50_001

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=1.0)


@every_client
def test_a_node_that_does_not_answer(kind: str, tmp_path: Path) -> None:
    async def work(dht: Any) -> None:
        await dht.put("a", "key", b"value")
        with node.paused():
            for call, request in (
                (lambda: dht.get("a", "key"), "get"),
                (lambda: dht.put("a", "other", b"v"), "put"),
                (lambda: dht.remove("a", "none"), "remove"),
                (lambda: everything(dht, "a"), "get all"),
            ):
                begun = time.perf_counter()
                with pytest.raises(RequestTimeout) as caught:
                    await call()
                assert time.perf_counter() - begun < 2
                assert (caught.value.request, caught.value.node) == (request, node.address)
                assert caught.value.fault == "network"
        # Late answers are nobody's: those that follow go to whom they belong.
        assert await dht.get("a", "key") == b"value"
        assert await dht.exists("a", "key")
        assert not await dht.remove("a", "none")

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=0.3)


@every_async_client
@pytest.mark.parametrize("how", ["timeout", "cancelled"])
def test_what_was_not_sent_to_a_node_that_hangs_is_dropped(kind: str, how: str, tmp_path: Path) -> None:
    """And so it is not carried out when nobody waits for it any more."""
    asked = 60

    async def work(dht: Any) -> None:
        await dht.ready()

        async def put(number: int) -> None:
            if how == "timeout":
                with pytest.raises(RequestTimeout):
                    await dht.put("a", f"{number}", b"v" * MIB)
            else:
                with anyio.move_on_after(0.2) as scope:
                    await dht.put("a", f"{number}", b"v" * MIB)
                assert scope.cancelled_caught

        (connection,) = dht._connections
        with node.paused():
            with pytest.raises(RequestTimeout):  # larger than what the kernel takes: it is in the way of all others
                await dht.put("b", "large", b"v" * (16 * MIB))
            async with anyio.create_task_group() as tasks:
                for number in range(asked):
                    tasks.start_soon(put, number)
            with anyio.fail_after(HANG_S):
                while connection._session.unsent:
                    await anyio.sleep(0.01)
        await until_reached(dht)
        assert await dht.channel_size("a") == (0, 0)
        await dht.put("a", "key", b"value")
        assert await dht.size() == (2, 16 * MIB + 5 + 8)

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=1.0)


@every_async_client
def test_a_connection_that_was_silent_for_too_long_is_made_anew(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "CLIENT_SILENCE_S", 0.6)

    async def work(dht: Any) -> None:
        await dht.put("a", "key", b"value")
        with node.paused():
            timeouts = 0
            while True:
                try:
                    await dht.get("a", "key")
                except RequestTimeout:
                    timeouts += 1
                except NodeUnreachable:  # it does not greet
                    break
            assert timeouts > 0
        assert caplog.text.count("connection lost: nothing has come for 0.6 s") == 1
        await until_reached(dht)
        assert await dht.get("a", "key") == b"value"

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=0.25)


@every_client
def test_a_node_that_does_not_greet(kind: str, tmp_path: Path) -> None:
    async def work(dht: Any) -> None:
        with node.paused(), pytest.raises(NodeUnreachable):
            await dht.get("a", "key")
        await until_reached(dht)
        await dht.put("a", "key", b"value")
        assert await dht.get("a", "key") == b"value"

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=0.3)


@every_client
def test_a_large_request_to_a_node_that_does_not_read(kind: str, tmp_path: Path) -> None:
    value = b"v" * (16 * MIB)

    async def work(dht: Any) -> None:
        await dht.ready()
        with node.paused(), pytest.raises(RequestTimeout):
            await dht.put("a", "large", value)
        assert not await dht.exists("b", "key")
        await dht.put("a", "large", value)
        assert await dht.get("a", "large") == value

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=1.5)


@every_client
def test_nodes_that_swap_their_hash_ranges(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    some = records(1000)
    low, high = (DhtConfig(NodeSection(hash_range=part)) for part in split_evenly(2))

    async def work(dht: Any) -> None:
        with running_dht([low, high], unix_directory=tmp_path):
            await dht.put_many("a", some)
            assert await everything(dht, "a") == some
        with running_dht([high, low], unix_directory=tmp_path):
            await dht.ping()
            await dht.put_many("a", some)
            assert await dht.get_many("a", some) == some
            assert await everything(dht, "a") == some

    run(kind, [f"unix:{tmp_path}/dht-{number}.sock" for number in range(2)], work)
    assert any("its hash range has changed" in message for message in caplog.messages)


@every_client
def test_a_name_with_several_addresses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the first of them."""
    with running_dht() as dht_nodes:
        port = parse_address(dht_nodes.addresses[0]).port
        real = socket.getaddrinfo

        def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
            if host not in ("dht.test", b"dht.test"):
                return real(host, *arguments, **options)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, port))
                for each in ("127.0.0.2", "127.0.0.1")
            ]

        async def work(dht: Any) -> None:
            await dht.put("a", "key", b"value")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        run(kind, [f"dht.test:{port}"], work, timeout=2.0)


def test_a_blocking_client_that_was_idle_while_the_node_restarted(tmp_path: Path) -> None:
    """Its connection is known to be broken before anything is sent, so nothing can have been carried out."""
    with DhtProcess(tmp_path) as node, swarm.blocking.DhtClient(node.address) as dht:
        for call, answer in (
            (lambda: dht.remove("a", "key"), False),
            (lambda: dht.put_if_absent("a", "key", b"value"), True),
            (lambda: dht.remove_channel("b"), False),
        ):
            dht.put("a", "other", b"value")
            node.kill()
            node.start()
            assert call() is answer


# What programs test themselves with.


CRASH = Request(99, "crash", ())


@every_client
def test_a_node_that_crashes_is_told_at_the_end(kind: str) -> None:
    def crash() -> Iterator[Call]:
        yield Call(0, CRASH, ())

    async def work(dht: Any) -> None:
        await dht.put("a", "key", b"value")
        with pytest.raises(SwarmError):
            await dht._run(crash())

    def run_until_it_crashes() -> None:
        with running_dht(2) as dht_nodes:
            for node in dht_nodes._nodes:
                node.service.handle(CRASH, lambda: 1 // 0)
            run(kind, dht_nodes.addresses, work, timeout=0.5)

    with pytest.raises(ExceptionGroup) as caught:
        run_until_it_crashes()
    assert caught.group_contains(ZeroDivisionError)


def test_nodes_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="none"), running_dht(2, unix_directory=tmp_path / "none"):
        pytest.fail("it has started")
    with DhtProcess(tmp_path / "first") as first:
        second = DhtProcess(tmp_path / "second")
        second.address = first.address
        with pytest.raises(RuntimeError, match="cannot listen"):
            second.start()
        assert first.stop() == 0


def test_what_the_body_raises_comes_out_as_it_is() -> None:
    async def main() -> None:
        async with dht_in_memory(2):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trio.run(main)
    with pytest.raises(ZeroDivisionError), running_dht(2):
        raise ZeroDivisionError


# Hash ranges that do not fit together.


def configs(*ranges: HashRange, memory_limit: int = 0) -> list[DhtConfig]:
    return [DhtConfig(NodeSection(hash_range=each, memory_limit=memory_limit)) for each in ranges]


@every_client
def test_a_gap_in_the_hash_ranges_is_told(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    first, gap, last = split_evenly(3)

    async def work(dht: Any) -> None:
        await dht.ready()
        (problem,) = dht.ring_problems
        assert (problem.kind, problem.hashes, problem.nodes) == ("gap", gap, ())
        keys = {
            part: next(key for key in map(b"%d".__mod__, range(99)) if hash_key(key) in part) for part in (first, gap)
        }
        await dht.put("a", keys[first], b"value")
        for call in (
            lambda: dht.put("a", keys[gap], b"v"),
            lambda: dht.put_many("a", dict.fromkeys(keys.values(), b"v")),
        ):
            with pytest.raises(NodeUnreachable, match=r"no node is responsible for the key: .* have a gap"):
                await call()
        assert await everything(dht, "a") == {keys[first]: b"value"}

    with running_dht(configs(first, last)) as dht_nodes:
        run(kind, dht_nodes.addresses, work, timeout=0.3)
    assert sum(message.startswith(f"gap in the hash ranges: {gap}") for message in caplog.messages) == 1


@every_client
@pytest.mark.parametrize(
    "told", [None, 5, [], [0], [0, 1, 2], [5, 4], [-1, 5], [0, "5"], [0, 5.0], {"lowest": 0}], ids=repr
)
def test_a_hash_range_that_is_none(kind: str, told: object) -> None:
    async def work(dht: Any) -> None:
        with pytest.raises((NodeUnreachable, ProtocolError), match="hash_range") as caught:
            await dht.put("a", "key", b"value")
        assert dht_nodes.addresses[0] in str(caught.value)
        dht_nodes._nodes[0].service.facts["hash_range"] = [0, HASH_MAX]
        await until_reached(dht)
        await dht.put("a", "key", b"value")

    with running_dht() as dht_nodes:
        dht_nodes._nodes[0].service.facts["hash_range"] = told
        run(kind, dht_nodes.addresses, work, timeout=0.1)


@every_client
def test_limits_that_the_hello_tells_are_kept_to(kind: str) -> None:
    """The node itself would take more: it is the client that refuses, and that cuts batches."""
    keys = [b"%03d" % number for number in range(100)]
    some = {key: key * 30 for key in keys}

    async def requests(dht: Any, name: str) -> int:
        (statistics,) = (await dht.node_statistics()).values()
        return int(statistics["request"][name]["handled"])

    async def work(dht: Any) -> None:
        for _ in range(2):  # before the hello was read, and after
            for call in (
                lambda: dht.put("a", "k" * 21, b"v"),
                lambda: dht.get("a", "k" * 21),
                lambda: dht.put_many("a", {"k": b"v", "k" * 21: b"v" * 2000}),
                lambda: dht.get_many("a", ["k", "k" * 21]),
            ):
                with pytest.raises(BadKey, match="1 to 20 bytes"):
                    await call()
        await dht.put("a", "k" * 20, b"v")
        await dht.put_many("a", some)
        assert await dht.get_many("a", keys) == some
        assert await requests(dht, "put many") == len(keys) * 93 // 930
        assert await requests(dht, "get many") == 1
        assert await dht.get_many("a", [key * 6 for key in keys]) == {}
        assert await requests(dht, "get many") == 1 + 2

    with running_dht() as dht_nodes:
        dht_nodes._nodes[0].service.limits = Limits(key_bytes=20, batch_bytes=1900)
        run(kind, dht_nodes.addresses, work)


@every_client
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300, True, "5", None, 1j], ids=repr)
def test_a_timeout_that_is_none(kind: str, timeout: Any) -> None:
    async def work(_: Any) -> None:
        pytest.fail("it was opened")

    with pytest.raises(BadArgument, match="a timeout is a number of seconds above 0"):
        run(kind, ["127.0.0.1:1"], work, timeout=timeout)


@every_client
def test_the_longest_timeout(kind: str) -> None:
    async def work(dht: Any) -> None:
        await dht.put("a", "key", b"value")
        assert await everything(dht, "a") == {b"key": b"value"}

    with running_dht() as dht_nodes:
        run(kind, dht_nodes.addresses, work, timeout=limits.TIMEOUT_S_MAX)


@every_client
def test_an_overlap_of_the_hash_ranges_is_told(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    overlap = HashRange(2**60, 2**63 - 1)

    async def work(dht: Any) -> None:
        await dht.ready()
        (problem,) = dht.ring_problems
        assert (problem.kind, problem.hashes, problem.nodes) == ("overlap", overlap, tuple(dht_nodes.addresses))
        some = records(1000)
        await dht.put_many("a", some)
        assert await dht.get_many("a", some) == some

    with running_dht(configs(HashRange(0, 2**63 - 1), HashRange(2**60, HASH_MAX))) as dht_nodes:
        run(kind, dht_nodes.addresses, work)
    assert [record.levelno for record in caplog.records if "overlap in the hash ranges" in record.message] == [
        logging.WARNING
    ]


@every_client
def test_a_node_whose_range_is_inside_of_anothers(kind: str) -> None:
    """Every hash has a node that is responsible for it, so every record has a place."""

    async def work(dht: Any) -> None:
        await dht.ready()
        some = records(1000)
        await dht.put_many("a", some)
        assert await dht.get_many("a", some) == some

    with running_dht(configs(HashRange(), HashRange(2**60, 2**61))) as dht_nodes:
        run(kind, dht_nodes.addresses, work, timeout=1.0)


@every_client
def test_a_node_that_refuses_its_part_of_a_batch(kind: str) -> None:
    """Each node stores all of its part or nothing, whatever the other does; memory kept aside is free again."""
    low, high = split_evenly(2)
    some = records(60_000)

    async def work(dht: Any) -> None:
        with pytest.raises(OutOfMemory) as caught:
            await dht.put_many("a", some)
        assert caught.value.node == dht_nodes.addresses[0]
        statistics = await dht.node_statistics()
        small, large = (statistics[address] for address in dht_nodes.addresses)
        assert (small["records"], small["memory_used"]) == (0, 0)
        assert large["records"] in (0, sum(hash_key(key) in high for key in some))
        assert large["memory_used"] == large["bytes"] + RECORD_OVERHEAD_BYTES * large["records"]

    with running_dht([*configs(low, memory_limit=MIB), *configs(high)]) as dht_nodes:
        run(kind, dht_nodes.addresses, work)


# Many at once.


@every_async_client
def test_fifty_tasks_while_a_node_restarts(kind: str, tmp_path: Path) -> None:
    async def work(dht: Any) -> None:
        await dht.ready()
        lost = 0

        async def write(number: int) -> None:
            nonlocal lost
            for each in range(200):
                await dht.put("a", f"{number} {each}", b"value")
                try:
                    await dht.remove("a", f"{number} {each}")
                except ConnectionLost:
                    lost += 1

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(write, number)
            await anyio.to_thread.run_sync(node.stop)
            await anyio.to_thread.run_sync(node.start)
        assert lost <= 50

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=HANG_S)


def test_threads_share_a_blocking_client() -> None:
    def work(number: int) -> None:
        some = {b"%d %d" % (number, each): b"%d" % each for each in range(100)}
        for key, value in some.items():
            dht.put("a", key, value)
            assert dht.get("a", key) == value
        dht.put_many("b", some)
        assert dht.get_many("b", some) == some
        assert {key for key in dht.get_all_keys("b") if key in some} == set(some)
        for key in some:
            assert dht.remove("a", key)

    with running_dht(2) as dht_nodes, swarm.blocking.DhtClient(dht_nodes.addresses) as dht:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert dht.channel_size("a") == (0, 0)
        assert dht.channel_size("b")[0] == 800


@every_async_client
def test_more_requests_than_may_wait(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_REQUESTS_MAX", 20)
    refused = 0

    async def work(dht: Any) -> None:
        await dht.put_many("a", records(100))

        async def ask(number: int) -> None:
            nonlocal refused
            try:
                if number % 2:
                    assert await dht.exists("a", b"key-%06d" % number)
                else:
                    assert len(await everything(dht, "a")) == 100
            except TooManyRequests as error:
                assert error.details["limit"] == 20
                refused += 1

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ask, number)
        assert 0 < refused <= 30
        assert len(await everything(dht, "a")) == 100
        assert "connection lost" not in " ".join(messages)

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("swarm").addHandler(handler)
    try:
        with running_dht() as dht_nodes:
            run(kind, dht_nodes.addresses, work)
    finally:
        logging.getLogger("swarm").removeHandler(handler)


@every_async_client
def test_each_request_has_an_error_of_its_own(kind: str, tmp_path: Path) -> None:
    errors: dict[str, SwarmError] = {}

    async def work(dht: Any) -> None:
        await dht.ready()

        async def call(name: str, function: Callable[[], Awaitable[Any]]) -> None:
            with pytest.raises(ConnectionLost) as caught:
                await function()
            errors[name] = caught.value

        with node.paused():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, "remove", lambda: dht.remove("a", "key"))
                tasks.start_soon(call, "update", lambda: dht.put_if_absent("a", "key", b"value"))
                tasks.start_soon(call, "remove channel", lambda: dht.remove_channel("a"))
                await anyio.wait_all_tasks_blocked()
                node.kill()
                node.start()
        assert {name: error.request for name, error in errors.items()} == {name: name for name in errors}
        assert len(errors) == 3

    with DhtProcess(tmp_path) as node:
        run(kind, [node.address], work)


@every_async_client
def test_closing_a_client_ends_what_waits(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        ended = 0

        async def wait_for(call: Callable[[], Awaitable[Any]]) -> None:
            nonlocal ended
            with pytest.raises(ClientClosed):
                await call()
            ended += 1

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks, DhtClient([node.address], timeout=60) as dht:
                await dht.put("a", "key", b"value")
                with node.paused():
                    tasks.start_soon(wait_for, lambda: dht.get("a", "key"))
                    tasks.start_soon(wait_for, lambda: dht.get_many("a", records(10_000)))
                    tasks.start_soon(wait_for, lambda: everything(dht, "a"))
                    await anyio.wait_all_tasks_blocked()
        assert ended == 3

    with DhtProcess(tmp_path) as node:
        anyio.run(main, backend=kind)


# Requests that are given up. In memory, so that each attempt is cancelled one step later than the one before.


async def cancelled_after(steps: int, function: Callable[[], Awaitable[Any]]) -> bool:
    """Cancels something after so many steps of the scheduler; whether it had not ended by itself."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_soon() -> None:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel_soon)
            await function()
            nursery.cancel_scope.cancel()
    return scope.cancelled_caught


MANY = records(20_000)
CALLS: dict[str, Callable[[DhtClient], Awaitable[Any]]] = {
    "put": lambda dht: dht.put("a", "key", b"value"),
    "large put": lambda dht: dht.put("a", "large", b"v" * (4 * MIB)),
    "get": lambda dht: dht.get("a", "key"),
    "remove": lambda dht: dht.remove("a", "key"),
    "update": lambda dht: dht.update("a", "other", lambda _: b"value", attempts=9),
    "put_many": lambda dht: dht.put_many("many", MANY),
    "get_many": lambda dht: dht.get_many("many", MANY),
    "get_all": lambda dht: everything(dht, "many"),
    "size": lambda dht: dht.size(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_cancelling_a_request_at_every_step(
    call: Callable[[DhtClient], Awaitable[Any]], autojump_clock: trio.testing.MockClock
) -> None:
    async with dht_in_memory(2) as dht_nodes, DhtClient(dht_nodes.addresses, connect=dht_nodes.connect) as dht:
        await dht.put_many("many", MANY)
        steps = 0
        while await cancelled_after(steps, lambda: call(dht)):
            await dht.put("b", "key", b"%d" % steps)
            assert await dht.get("b", "key") == b"%d" % steps
            steps += 1 + steps // 10
        assert steps > 0
        assert len(await everything(dht, "many")) == len(MANY)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_cancelling_while_it_connects(
    call: Callable[[DhtClient], Awaitable[Any]], autojump_clock: trio.testing.MockClock
) -> None:
    async with dht_in_memory(2) as dht_nodes:

        async def connect(address: Address) -> Any:
            await trio.sleep(0.1)
            return await dht_nodes.connect(address)

        for steps in (0, 1, 2, 3, 5, 8):
            async with DhtClient(dht_nodes.addresses, connect=connect) as dht:
                assert await cancelled_after(steps, lambda dht=dht: call(dht))  # type: ignore[misc]
                await call(dht)


async def test_going_on_with_get_all_after_a_cancelled_step(autojump_clock: trio.testing.MockClock) -> None:
    """A program may give up waiting for the next record, and ask again later."""
    some = records(30_000)
    async with dht_in_memory(2) as dht_nodes:

        async def connect(address: Address) -> Any:
            await trio.sleep(0.1)
            return await dht_nodes.connect(address)

        async with DhtClient(dht_nodes.addresses, connect=connect) as writer:
            await writer.put_many("a", some)
        for steps in range(12):
            async with DhtClient(dht_nodes.addresses, connect=connect) as dht:
                walk = dht.get_all("a")
                seen = []

                async def one(walk: Any = walk, seen: list[Any] = seen) -> None:
                    seen.append(await anext(walk))

                await cancelled_after(steps, one)
                seen += [pair async for pair in walk]
                assert len(seen) == len(some)
                assert dict(seen) == some


async def test_a_cancelled_put_many_keeps_no_memory_aside(autojump_clock: trio.testing.MockClock) -> None:
    async with dht_in_memory() as dht_nodes, DhtClient(dht_nodes.addresses, connect=dht_nodes.connect) as dht:
        budget = dht_nodes.nodes[0].budget
        steps = 0
        while await cancelled_after(steps, lambda: dht.put_many("a", MANY)):
            await dht.ping()  # what was sent is carried out
            count, size = await dht.size()
            assert budget.used == size + RECORD_OVERHEAD_BYTES * count, f"cancelled after {steps} steps"
            steps += 1


async def test_a_cancelled_put_many_leaves_others_their_memory(autojump_clock: trio.testing.MockClock) -> None:
    """What is kept aside for one batch is not given back by another of the same connection; here it would be taken."""
    batch = records(30_000, b"v" * 400)
    config = DhtConfig(NodeSection(memory_limit=44 * MIB))
    stored = False

    async def put(dht: DhtClient) -> None:
        nonlocal stored
        await dht.put_many("a", batch)
        stored = True

    async def take_what_is_free(dht: DhtClient) -> None:
        for number in count():
            if stored:
                return
            with suppress(OutOfMemory):
                await dht.put("b", b"%d" % number, b"v" * (2 * MIB))

    async with (
        dht_in_memory(config=config) as dht_nodes,
        DhtClient(dht_nodes.addresses, connect=dht_nodes.connect) as dht,
        DhtClient(dht_nodes.addresses, connect=dht_nodes.connect) as other,
        trio.open_nursery() as nursery,
    ):
        await dht.ready()
        nursery.start_soon(put, dht)
        nursery.start_soon(take_what_is_free, other)
        assert await cancelled_after(5, lambda: dht.put_many("c", MANY))


# The network at its worst: transports that delay and lose what real ones may delay and lose.


class Lossy:
    """A connection in memory that stops to carry something."""

    def __init__(self, transport: Transport, *, greets_only: bool = False, breaks: bool = False) -> None:
        self._transport = transport
        self._greets_only = greets_only
        """What the client sends after the hellos is lost."""
        self._lost = False
        self._breaks = breaks
        """Once something is sent after the hello."""
        self.all_at_once = False
        """What the node sends arrives together, at the end of the connection."""

    def send_now(self, data: bytes) -> int:
        if self._breaks:
            self._transport.close()
            raise BrokenPipeError
        return len(data) if self._lost else self._transport.send_now(data)

    async def send_all(self, data: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if not self._lost:
            await self._transport.send_all(data)

    async def receive(self, into: memoryview) -> int:
        size = await self._transport.receive(into)
        while self.all_at_once and (more := await self._transport.receive(into[size:])):
            size += more
        self._lost = self._greets_only
        return size

    def close(self) -> None:
        self._transport.close()


async def test_a_timeout_counts_from_the_call(autojump_clock: trio.testing.MockClock) -> None:
    """Also where most of it has passed until there was a connection."""
    async with dht_in_memory() as dht_nodes:

        async def connect(address: Address) -> Lossy:
            await trio.sleep(4)
            return Lossy(await dht_nodes.connect(address), greets_only=True)

        async with DhtClient(dht_nodes.addresses, connect=connect, timeout=5) as dht:
            for _ in range(2):
                begun = trio.current_time()
                with pytest.raises(RequestTimeout):
                    await dht.get("a", "key")
                assert 4.9 < trio.current_time() - begun < 5.1


async def test_timeouts_of_requests_that_began_one_after_another(autojump_clock: trio.testing.MockClock) -> None:
    async with dht_in_memory() as dht_nodes:

        async def connect(address: Address) -> Lossy:
            return Lossy(await dht_nodes.connect(address), greets_only=True)

        async def ask(dht: DhtClient) -> None:
            begun = trio.current_time()
            with pytest.raises(RequestTimeout):
                await dht.get("a", "key")
            assert 4.9 < trio.current_time() - begun < 5.1

        async with trio.open_nursery() as nursery, DhtClient(dht_nodes.addresses, connect=connect, timeout=5) as dht:
            await dht.ready()
            for _ in range(20):
                await trio.sleep(0.7)
                nursery.start_soon(ask, dht)
            await trio.sleep(10)


async def test_get_all_gives_up_by_the_clock_of_the_event_loop(autojump_clock: trio.testing.MockClock) -> None:
    async with dht_in_memory() as dht_nodes:

        async def connect(address: Address) -> Lossy:
            return Lossy(await dht_nodes.connect(address), breaks=True)

        async with DhtClient(dht_nodes.addresses, connect=connect, timeout=50) as dht:
            begun = trio.current_time()
            with pytest.raises(ConnectionLost):
                await everything(dht, "a")
            assert 50 < trio.current_time() - begun < 60


async def test_only_a_connection_on_which_nothing_comes_is_made_anew(autojump_clock: trio.testing.MockClock) -> None:
    transports: list[Lossy] = []
    async with dht_in_memory() as dht_nodes:

        async def connect(address: Address) -> Lossy:
            transports.append(Lossy(await dht_nodes.connect(address), greets_only=len(transports) == 1))
            return transports[-1]

        async with DhtClient(dht_nodes.addresses, connect=connect, timeout=2) as dht:
            await dht.put("a", "key", b"value")
            await trio.sleep(1000)
            await dht.get("a", "key")
            assert len(transports) == 1, "silence is no reason where nothing was asked"
            transports[0].send_now(b"this is no frame")
            await trio.sleep(1)
            begun = trio.current_time()
            while len(transports) < 3:
                with suppress(RequestTimeout):
                    assert await dht.get("a", "key") == b"value"
            assert limits.CLIENT_SILENCE_S <= trio.current_time() - begun < limits.CLIENT_SILENCE_S + 5
            assert await dht.get("a", "key") == b"value"


async def test_an_answer_right_before_the_end_of_the_connection_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The node answers, and then closes the connection with a notice; both arrive in one piece."""
    transports: list[Lossy] = []
    async with dht_in_memory() as dht_nodes:

        async def connect(address: Address) -> Lossy:
            transports.append(Lossy(await dht_nodes.connect(address)))
            return transports[-1]

        async with DhtClient(dht_nodes.addresses, connect=connect) as dht:
            await dht.put("a", "key", b"value")
            transports[0].all_at_once = True
            removed: list[bool] = []

            async def remove() -> None:
                removed.append(await dht.remove("a", "key"))

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(remove)
                    await trio.testing.wait_all_tasks_blocked()
                    transports[0].send_now(b"this is no frame")
            assert removed == [True]
            assert await dht.get("a", "key") is None


def test_memory_transport_is_closed_by_either_side() -> None:
    async def main() -> None:
        async with dht_in_memory() as dht_nodes:
            transport: Any = await dht_nodes.connect(parse_address(dht_nodes.addresses[0]))
            assert isinstance(transport, MemoryTransport)
            await transport.send_all(b"no hello at all")
            notice = memoryview(bytearray(RECEIVE_BYTES))
            assert b"frame" in bytes(notice[: await transport.receive(notice)])
            assert await transport.receive(notice) == 0
            with pytest.raises(OSError, match="closed"):
                transport.send_now(b"x")
            with pytest.raises(OSError, match="closed"):
                await transport.send_all(b"x")
            transport.close()
            with pytest.raises(OSError, match="closed"):
                await transport.receive(notice)
            with pytest.raises(ConnectionRefusedError):
                await dht_nodes.connect(Address("elsewhere", 1))

    trio.run(main)
