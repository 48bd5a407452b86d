"""Ranges whose connection breaks, nodes that die and come back, steps that are cancelled, files that are damaged."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from logfiles_conformance import (
    SECOND,
    T0,
    AwaitableLogfilesClient,
    Records,
    all_of,
    in_turns,
    incompressible,
    records,
)

import swarm.blocking
from nodes.logfiles.config import LogfilesConfig, StoreSection
from swarm.core.config import Address
from swarm.core.errors import ConnectionLost, NodeUnreachable
from swarm.logfiles import LogfilesClient
from swarm.testing import LogfilesProcess, logfiles_in_memory, running_logfiles
from tests.proxy import Cut, proxy_before
from tests.waiting import wait_until

HANG_S = 30.0
CUTS = [300, 1000, 70_000, 262_144, 262_400, 400_000, 1_000_000, 1_500_000]  # bytes that the node has sent

every_client = pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])


def run(kind: str, nodes: list[str], work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Does something with an open client, which is of one of the three kinds."""

    async def main() -> None:
        client: Any = LogfilesClient(nodes, **options)
        if kind == "blocking":
            client = AwaitableLogfilesClient(swarm.blocking.LogfilesClient(nodes, **options))
        with anyio.fail_after(HANG_S):
            async with client as logs:
                await work(logs)

    anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


@every_client
@pytest.mark.parametrize("newest_first", [False, True])
def test_a_range_goes_on_where_the_connection_broke(kind: str, newest_first: bool) -> None:
    some = incompressible(4000, 1000)
    expected = some[:: -1 if newest_first else 1]

    async def work(logs: Any) -> None:
        await in_turns(logs, "a", some, 500)
        for options, part in (
            ({}, expected),
            ({"limit": 3000}, expected[:3000]),
            ({"substring": b"record"}, expected),
        ):
            async with logs_through_proxies() as reader:
                given = [record async for record in reader.get_range("a", newest_first=newest_first, **options)]
                assert given == part

    def logs_through_proxies() -> Any:
        for proxy in (first, second):
            proxy.cuts.extend(Cut(answers=answers) for answers in CUTS)
        addresses = [first.address, second.address]
        if kind == "blocking":
            return AwaitableLogfilesClient(swarm.blocking.LogfilesClient(addresses, timeout=10.0))
        return LogfilesClient(addresses, timeout=10.0)

    with (
        running_logfiles(2) as nodes,
        proxy_before(nodes.addresses[0]) as first,
        proxy_before(nodes.addresses[1]) as second,
    ):
        run(kind, nodes.addresses, work)
        assert min(first.connections, second.connections) > len(CUTS), "they did break"


@every_client
def test_a_range_goes_on_when_its_node_was_killed(kind: str, tmp_path: Path) -> None:
    some = incompressible(5000, 1000)

    async def work(logs: Any) -> None:
        await in_turns(logs, "a", some, 700)
        given: Records = []
        async for record in logs.get_range("a"):
            given.append(record)
            if len(given) in (1, 2000):
                nodes[0].kill()
                nodes[0].start()
        assert given == some

    with LogfilesProcess(tmp_path / "0") as first, LogfilesProcess(tmp_path / "1") as second:
        nodes = (first, second)
        run(kind, [node.address for node in nodes], work, timeout=HANG_S)


@every_client
def test_a_range_of_a_node_that_does_not_come_back(kind: str, tmp_path: Path) -> None:
    some = incompressible(8000, 1000)

    async def work(logs: Any) -> None:
        await logs.put_many("a", some)
        reading = logs.get_range("a")
        steps = reading.__aiter__()
        assert await steps.__anext__() == some[0]
        node.kill()
        with pytest.raises((NodeUnreachable, ConnectionLost)):
            assert [record async for record in steps] == []
        assert [record async for record in reading] == [], "after an error it has ended"

    with LogfilesProcess(tmp_path) as node:
        run(kind, [node.address], work, timeout=1.0)


@every_client
@pytest.mark.parametrize("many", [False, True])
def test_a_put_whose_connection_broke_is_not_repeated(kind: str, many: bool) -> None:
    async def work(logs: Any) -> None:
        await logs.ready()
        with pytest.raises(ConnectionLost) as caught:
            await (logs.put_many("a", [(T0, b"x" * 10_000)]) if many else logs.put("a", T0, b"x" * 10_000))
        assert caught.value.details.get("stored", 0) == 0
        await logs.put("a", T0, b"y")
        assert (T0, b"y") in await all_of(logs, "a")
        assert len(await all_of(logs, "a")) <= 2

    with running_logfiles() as nodes, proxy_before(nodes.addresses[0]) as proxy:
        proxy.cuts.append(Cut(requests=5000))
        run(kind, [proxy.address], work)
        assert proxy.connections == 2


async def test_going_on_after_a_cancelled_step(autojump_clock: trio.testing.MockClock) -> None:
    """A program may give up waiting for the next record, and ask again later."""
    some = records(3000)
    async with logfiles_in_memory(2) as nodes:

        async def connect(address: Address) -> Any:
            await trio.sleep(0.1)
            return await nodes.connect(address)

        async with LogfilesClient(nodes.addresses, connect=connect) as writer:
            await in_turns(writer, "a", some, 100)
        for steps in range(12):
            async with LogfilesClient(nodes.addresses, connect=connect) as logs:
                reading = logs.get_range("a")
                given: Records = []
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(cancel_after, steps, scope)
                        given.append(await anext(reading))
                        nursery.cancel_scope.cancel()
                given += [record async for record in reading]
                assert given == some


async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@every_client
def test_damaged_blocks_are_passed_over_and_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    some = [(T0 + number * SECOND // 10, value) for number, (_, value) in enumerate(incompressible(3000, 500))]
    config = LogfilesConfig(store=StoreSection(fsync="never", bucket=60, seal_after=0.0))

    async def work(logs: Any) -> None:
        reading = logs.get_range("a")
        given = [record async for record in reading]
        assert reading.damaged_blocks == 1
        assert 0 < len(given) < len(some)
        assert given == [record for record in some if record in set(given)]
        again = logs.get_range("a", newest_first=True, limit=1)
        assert [record async for record in again] == some[-1:]

    with LogfilesProcess(tmp_path, config) as node:
        with swarm.blocking.LogfilesClient(node.address) as logs:
            for start in range(0, len(some), 500):
                logs.put_many("a", some[start : start + 500])
        node.stop()
        node.start()  # it begins with sealing what is over: from then on each record is in one place only
        wait_until(lambda: {each.suffix for each in tmp_path.rglob("channels/*/*/*")} == {".sealed"})
        node.stop()
        flip_a_byte_of_a_block(tmp_path)
        node.start()
        with caplog.at_level(logging.WARNING, "swarm.logfiles.ranges"):
            run(kind, [node.address], work)
    assert f"{node.address}: of channel a 1 damaged block(s) were passed over" in caplog.text


def flip_a_byte_of_a_block(directory: Path) -> None:
    """Of the payload of the first block of a sealed file in the middle."""
    files = sorted(directory.rglob("*.sealed"))
    file = files[len(files) // 2]
    content = bytearray(file.read_bytes())
    content[32 + 64 + 1000] ^= 1
    file.write_bytes(content)
