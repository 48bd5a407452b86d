"""How the rows of a conformance suite run: with each client, over memory, over loopback and with real processes.

A row is a function `(client, swarm)`, written once for a kind of node: a client that is open, and what it is connected
to, which holds nothing. Clients without an event loop come as AwaitableClient, so rows await what all of them do.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Self

import anyio
import pytest
import trio
import trio.testing

HANG_S = 20.0
PLACES = ("memory", "loopback", "process")


@dataclass
class Swarm:
    """What the client of a row is connected to."""

    addresses: list[str]
    dead_address: str
    """Where no node is."""
    client: Callable[..., Any]
    """Makes another client of the same kind, not open yet; takes nodes, timeout, compression."""


@dataclass(frozen=True)
class Row:
    name: str
    check: Callable[[Any, Swarm], Awaitable[None]]
    config: Any
    heavy: bool


class Rows:
    """Of one suite. Called, it is a decorator that adds a function to them."""

    def __init__(self, default: Any) -> None:
        """default: the configuration of the nodes of most rows."""
        self.all: list[Row] = []
        self._default = default

    def __call__(self, config: Any = None, *, heavy: bool = False) -> Callable[[Any], Any]:
        """config: that of the nodes. heavy: it takes long, as rows with many bytes do."""

        def add(check: Any) -> Any:
            self.all.append(Row(check.__name__, check, self._default if config is None else config, heavy))
            return check

        return add


def awaitable(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return call


class AwaitableClient:
    """A blocking client whose methods can be awaited, from one task."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        self._client.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._client.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return attribute if not callable(attribute) or name == "statistics" else awaitable(attribute)


class Kind(NamedTuple):
    """A kind of node: how it is run, and its clients."""

    name: str
    process: Any
    running: Any
    in_memory: Any
    client: Any
    blocking: Any
    awaitable: Any


@dataclass
class Place:
    """Nodes that rows of one client use one after another."""

    addresses: list[str]
    dead_address: str
    connect: Any = None


class Places:
    """Starts nodes when a row first wants them; they are stopped after the last."""

    def __init__(self, kind: Kind, directories: pytest.TempPathFactory) -> None:
        self._kind = kind
        self._directories = directories
        self._opened: dict[Any, Place] = {}
        self._stack = ExitStack()
        dead = self._stack.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))  # and does not listen
        self._dead_address = f"127.0.0.1:{dead.getsockname()[1]}"

    def close(self) -> None:
        self._stack.close()

    def run(self, row: Row, client: str, place: str, nodes: int) -> None:
        """One row; what it leaves behind is removed."""
        if (client, place) == ("trio", "memory"):
            trio.run(self._run_in_memory, row, nodes, clock=trio.testing.MockClock(autojump_threshold=0))
            return
        where = self._get(place, client, nodes, row)
        try:
            anyio.run(self._run_at, row, client, where, backend="asyncio" if client == "asyncio" else "trio")
        finally:
            with self._kind.blocking(where.addresses) as cleaner:
                for channel in cleaner.channels():
                    cleaner.remove_channel(channel)

    def _get(self, place: str, client: str, nodes: int, row: Row) -> Place:
        if place == "memory":
            place = "socket pair" if client == "asyncio" else "unix socket"
        what = place, nodes, id(row.config)
        if what not in self._opened:
            self._opened[what] = self._open(place, nodes, row.config)
        return self._opened[what]

    def _open(self, place: str, nodes: int, config: Any) -> Place:
        kind = self._kind
        if place == "process":
            processes = [
                self._stack.enter_context(kind.process(self._directories.mktemp(kind.name), config))
                for _ in range(nodes)
            ]
            return Place([process.address for process in processes], self._dead_address)
        directory = self._directories.mktemp(kind.name) if place == "unix socket" else None
        running = self._stack.enter_context(kind.running(nodes, config=config, unix_directory=directory))
        dead_address = f"unix:{directory}/none" if directory else self._dead_address
        return Place(running.addresses, dead_address, running.connect if place == "socket pair" else None)

    async def _run_at(self, row: Row, client: str, where: Place) -> None:
        def another(nodes: list[str] | None = None, **options: Any) -> Any:
            if client == "blocking":
                return self._kind.awaitable(self._kind.blocking(nodes or where.addresses, **options))
            if where.connect:
                options["connect"] = where.connect
            return self._kind.client(nodes or where.addresses, **options)

        await _check(row, Swarm(where.addresses, where.dead_address, another))

    async def _run_in_memory(self, row: Row, nodes: int) -> None:
        async with self._kind.in_memory(nodes, config=row.config) as running:

            def another(nodes: list[str] | None = None, **options: Any) -> Any:
                return self._kind.client(nodes or running.addresses, connect=running.connect, **options)

            await _check(row, Swarm(running.addresses, "memory-9:1", another))


async def _check(row: Row, swarm: Swarm) -> None:
    with anyio.fail_after(HANG_S):
        async with swarm.client() as client:
            await row.check(client, swarm)


def cases(rows: list[Row]) -> Iterator[Any]:
    """Every row with each client at each place among two nodes, and over loopback with one. Heavy ones with each client
    at each place once, with one node as often as with two."""
    for row, nodes in product(rows, (1, 2)):
        for number, (client, place) in enumerate(product(("trio", "asyncio", "blocking"), PLACES)):
            if number % 2 == nodes - 1 if row.heavy else nodes == 2 or place == "loopback":
                yield pytest.param(row, client, place, nodes, id=f"{row.name}-{client}-{place}-{nodes}")
