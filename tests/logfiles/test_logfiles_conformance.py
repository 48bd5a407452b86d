"""Runs every row of logfiles_conformance with each client, over memory, over loopback and with real processes."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any

import anyio
import pytest
import trio
import trio.testing

import swarm.blocking
import swarm.logfiles
from nodes.logfiles.config import LogfilesConfig
from swarm.testing import LogfilesProcess, logfiles_in_memory, running_logfiles

pytest.register_assert_rewrite("logfiles_conformance")

from logfiles_conformance import ROWS, AwaitableClient, Row, Swarm  # noqa: E402

HANG_S = 20.0
PLACES = ("memory", "loopback", "process")


@dataclass
class Place:
    """Nodes that rows of one client use one after another."""

    addresses: list[str]
    dead_address: str
    connect: Any = None


class Places:
    """Starts nodes when a row first wants them; they are stopped after the last."""

    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories
        self._opened: dict[Any, Place] = {}
        self._stack = ExitStack()
        dead = self._stack.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))  # and does not listen
        self._dead_address = f"127.0.0.1:{dead.getsockname()[1]}"

    def get(self, place: str, client: str, nodes: int, row: Row) -> Place:
        if place == "memory":
            place = "socket pair" if client == "asyncio" else "unix socket"
        what = place, nodes, id(row.config)
        if what not in self._opened:
            self._opened[what] = self._open(place, nodes, row.config)
        return self._opened[what]

    def close(self) -> None:
        self._stack.close()

    def _open(self, place: str, nodes: int, config: LogfilesConfig) -> Place:
        if place == "process":
            processes = [
                self._stack.enter_context(LogfilesProcess(self._directories.mktemp("logfiles"), config))
                for _ in range(nodes)
            ]
            return Place([process.address for process in processes], self._dead_address)
        directory = self._directories.mktemp("logfiles") if place == "unix socket" else None
        running = self._stack.enter_context(running_logfiles(nodes, config=config, unix_directory=directory))
        dead_address = f"unix:{directory}/none" if directory else self._dead_address
        return Place(running.addresses, dead_address, running.connect if place == "socket pair" else None)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    opened = Places(tmp_path_factory)
    yield opened
    opened.close()


def cases() -> Iterator[Any]:
    """Every row with everything; heavy ones with each client at each place, and with one node as often as with two."""
    for row, nodes in product(ROWS, (1, 2)):
        for number, (client, place) in enumerate(product(("trio", "asyncio", "blocking"), PLACES)):
            if not row.heavy or number % 2 == nodes - 1:
                yield pytest.param(row, client, place, nodes, id=f"{row.name}-{client}-{place}-{nodes}")


@pytest.mark.parametrize(("row", "client", "place", "nodes"), list(cases()))
def test_row(row: Row, client: str, place: str, nodes: int, places: Places) -> None:
    if (client, place) == ("trio", "memory"):
        trio.run(run_in_memory, row, nodes, clock=trio.testing.MockClock(autojump_threshold=0))
        return
    where = places.get(place, client, nodes, row)
    try:
        anyio.run(run_at, row, client, where, backend="asyncio" if client == "asyncio" else "trio")
    finally:
        with swarm.blocking.LogfilesClient(where.addresses) as cleaner:
            for channel in cleaner.channels():
                cleaner.remove_channel(channel)


async def run_at(row: Row, client: str, where: Place) -> None:
    def another(nodes: list[str] | None = None, **options: Any) -> Any:
        if client == "blocking":
            return AwaitableClient(swarm.blocking.LogfilesClient(nodes or where.addresses, **options))
        if where.connect:
            options["connect"] = where.connect
        return swarm.logfiles.LogfilesClient(nodes or where.addresses, **options)

    await run(row, Swarm(where.addresses, where.dead_address, another))


async def run_in_memory(row: Row, nodes: int) -> None:
    async with logfiles_in_memory(nodes, config=row.config) as running:

        def another(nodes: list[str] | None = None, **options: Any) -> Any:
            return swarm.logfiles.LogfilesClient(nodes or running.addresses, connect=running.connect, **options)

        await run(row, Swarm(running.addresses, "memory-9:1", another))


async def run(row: Row, swarm: Swarm) -> None:
    with anyio.fail_after(HANG_S):
        async with swarm.client() as logs:
            await row.check(logs, swarm)
