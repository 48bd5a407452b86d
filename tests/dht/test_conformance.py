"""Runs every row of conformance with each client, over memory, over loopback, with TLS and with real processes."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from conformance import ROWS, AwaitableClient, Row, Swarm

import swarm.blocking
import swarm.dht
from nodes.dht.config import DhtConfig
from swarm.core.errors import WrongNode
from swarm.dht import protocol
from swarm.dht.hash_range import split_evenly
from swarm.testing import DhtProcess, dht_in_memory, running_dht
from tests.certificates import Authority

HANG_S = 20.0
PLACES = ("memory", "loopback", "tls", "process")


@dataclass
class Place:
    """Nodes that rows of one client use one after another."""

    addresses: list[str]
    dead_address: str
    connect: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    """Of every client."""


class Places:
    """Starts nodes when a row first wants them; they are stopped after the last."""

    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories
        self._opened: dict[Any, Place] = {}
        self._stack = ExitStack()
        dead = self._stack.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))  # and does not listen
        self._dead_address = f"127.0.0.1:{dead.getsockname()[1]}"

    def get(self, place: str, client: str, nodes: int, config: DhtConfig) -> Place:
        if place == "memory":
            place = "socket pair" if client == "asyncio" else "unix socket"
        what = place, nodes, config
        if what not in self._opened:
            self._opened[what] = self._open(*what)
        return self._opened[what]

    def close(self) -> None:
        self._stack.close()

    def _open(self, place: str, nodes: int, config: DhtConfig) -> Place:
        match place:
            case "process":
                configs = [replace(config, node=replace(config.node, hash_range=part)) for part in split_evenly(nodes)]
                processes = [
                    self._stack.enter_context(DhtProcess(self._directories.mktemp("dht"), each)) for each in configs
                ]
                return Place([process.address for process in processes], self._dead_address)
            case "unix socket":
                directory = self._directories.mktemp("dht")
                dht = self._stack.enter_context(running_dht(nodes, config=config, unix_directory=directory))
                return Place(dht.addresses, f"unix:{directory}/none")
            case "socket pair":
                dht = self._stack.enter_context(running_dht(nodes, config=config))
                return Place(dht.addresses, self._dead_address, dht.connect)
            case "tls":
                authority = Authority(self._directories.mktemp("authority"))
                config = replace(config, tls=authority.node())
                dht = self._stack.enter_context(running_dht(nodes, config=config))
                return Place(dht.addresses, self._dead_address, options={"tls": authority.client()})
        dht = self._stack.enter_context(running_dht(nodes, config=config))
        return Place(dht.addresses, self._dead_address)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    opened = Places(tmp_path_factory)
    yield opened
    opened.close()


def cases() -> Iterator[Any]:
    """Every row with each client at each place among two nodes, and over loopback with one. Heavy ones with each client
    at each place once, with one node as often as with two."""
    for row, nodes in product(ROWS, (1, 2)):
        for number, (client, place) in enumerate(product(("trio", "asyncio", "blocking"), PLACES)):
            turn = sum(divmod(number, len(PLACES))) % 2 == nodes - 1
            if turn if row.heavy else nodes == 2 or place == "loopback":
                name = f"{row.check.__name__}-{client}-{place}-{nodes}"
                yield pytest.param(row, client, place, nodes, id=name)


@pytest.mark.parametrize(("row", "client", "place", "nodes"), list(cases()))
def test_row(row: Row, client: str, place: str, nodes: int, places: Places) -> None:
    if (client, place) == ("trio", "memory"):
        trio.run(run_in_memory, row, nodes, clock=trio.testing.MockClock(autojump_threshold=0))
        return
    where = places.get(place, client, nodes, row.config)
    try:
        anyio.run(run_at, row, client, where, backend="asyncio" if client == "asyncio" else "trio")
    finally:
        with swarm.blocking.DhtClient(where.addresses, **where.options) as cleaner:
            for channel in cleaner.channels():
                cleaner.remove_channel(channel)


async def run_at(row: Row, client: str, where: Place) -> None:
    def another(nodes: list[str] | None = None, **options: Any) -> Any:
        options |= where.options
        if client == "blocking":
            return AwaitableClient(swarm.blocking.DhtClient(nodes or where.addresses, **options))
        if where.connect:
            options["connect"] = where.connect
        return swarm.dht.DhtClient(nodes or where.addresses, **options)

    def write_aside(channel: str, key: str, value: bytes | None) -> None:
        with swarm.blocking.DhtClient(where.addresses, **where.options) as other:
            if value is None:
                other.remove(channel, key)
            else:
                other.put(channel, key, value)

    await run(row, Swarm(where.addresses, where.dead_address, another, write_aside))


async def run_in_memory(row: Row, nodes: int) -> None:
    async with dht_in_memory(nodes, config=row.config) as dht:

        def another(nodes: list[str] | None = None, **options: Any) -> Any:
            return swarm.dht.DhtClient(nodes or dht.addresses, connect=dht.connect, **options)

        def write_aside(channel: str, key: str, value: bytes | None) -> None:
            for node in dht.nodes:
                handlers = node.service.handlers
                with suppress(WrongNode):
                    if value is None:
                        handlers[protocol.REMOVE.code].function(channel, key.encode())
                    else:
                        handlers[protocol.PUT.code].function(channel, key.encode(), value)

        await run(row, Swarm(dht.addresses, "memory-9:1", another, write_aside))


async def run(row: Row, swarm: Swarm) -> None:
    with anyio.fail_after(HANG_S):
        async with swarm.client() as dht:
            await row.check(dht, swarm)
