"""Which nodes the commands look at that look at a whole swarm: `top`, `doctor`, `dashboard`."""

import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
import trio

from swarm.cli.nodes import Tls, takes_credentials, takes_tls
from swarm.core.nodes_file import node_addresses
from swarm.monitor import KINDS, Target, Watch
from swarm.monitor.watch import NODES_MAX

DATA = Path("swarm-data")
VARIABLES = {"dht": "SWARM_NODES", "queue": "SWARM_QUEUE_NODES", "logfiles": "SWARM_LOGFILES_NODES"}
NODES_FILES = {"dht": "nodes", "queue": "nodes-queue", "logfiles": "nodes-logfiles"}
"""As `swarm up` writes them in its data directory."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Watched:
    """The nodes, and how they are reached."""

    targets: tuple[Target, ...]
    credentials: Path | None
    tls: ssl.SSLContext | None

    def watch(self, **options: Any) -> Watch:
        """options: others of Watch. BadArgument where the credentials cannot be used."""
        return Watch(self.targets, credentials=self.credentials, tls=self.tls, **options)


def takes_watched(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that name all nodes of a swarm; it is called with what they name as `watched`."""

    @wraps(function)
    def command(*arguments: Any, data: Path | None, credentials: Path | None, tls: Tls, **others: Any) -> None:
        named = {kind: others.pop(f"{kind}_addresses") for kind in KINDS}
        files = {kind: others.pop(f"{kind}_file") for kind in KINDS}
        watched = Watched(_targets(named, files, data), credentials, tls.context())
        function(*arguments, watched=watched, **others)

    decorated = takes_credentials(takes_tls(command))

    option = click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=f"Data directory of `swarm up`, whose nodes files name the nodes where no option does.  [{DATA}]",
    )
    for kind in reversed(KINDS):
        decorated = click.option(
            f"--{kind}-nodes",
            f"{kind}_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"File that names the {kind} nodes, HOST:PORT a line.",
        )(decorated)
        decorated = click.option(
            f"--{kind}",
            f"{kind}_addresses",
            multiple=True,
            metavar="HOST:PORT",
            help=f"A {kind} node, or several with commas between; may be repeated.",
        )(decorated)
    return option(decorated)


def _targets(named: dict[str, tuple[str, ...]], files: dict[str, Path | None], data: Path | None) -> tuple[Target, ...]:
    places = _places(named, files, data)
    targets = tuple(Target(kind, address) for kind, place in places.items() for address in node_addresses(**place))
    if not targets:
        raise click.UsageError(
            "which nodes? Name them with --dht, --queue and --logfiles HOST:PORT, their files with --dht-nodes, "
            "--queue-nodes and --logfiles-nodes FILE, the data directory of `swarm up` with --data, or the nodes in "
            f"the environment variables {', '.join(VARIABLES.values())}"
        )
    if len(targets) > NODES_MAX:
        raise click.UsageError(f"{len(targets)} nodes are more than the {NODES_MAX} that can be looked at")
    return targets


def _places(
    named: dict[str, tuple[str, ...]], files: dict[str, Path | None], data: Path | None
) -> dict[str, dict[str, Any]]:
    """For each kind what node_addresses is to be given. Of options, --data, the environment and swarm-data the first
    counts that names anything: who names some nodes does not want those of another swarm beside them."""
    places: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        file, addresses = files[kind], _divided(",".join(named[kind]))
        if file and addresses:
            raise click.UsageError(f"either --{kind}-nodes or --{kind} can be given, not both")
        if file or addresses:
            places[kind] = {"nodes": None, "nodes_file": file} if file else {"nodes": addresses, "nodes_file": None}
    if not places and data is None:
        for kind, variable in VARIABLES.items():
            if addresses := _divided(os.environ.get(variable, "")):
                places[kind] = {"nodes": addresses, "nodes_file": None}
    if not places:
        found = {kind: (data or DATA) / name for kind, name in NODES_FILES.items()}
        places = {kind: {"nodes": None, "nodes_file": file} for kind, file in found.items() if file.exists()}
    return places


def _divided(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def look(watch: Watch, show: Callable[[], Awaitable[None]]) -> None:
    """Runs `show` while the watch asks. A signal that would end the process ends it when what `show` has opened is
    closed, so that a terminal is left as it was."""
    ended_by: int | None = None
    failed: Exception | None = None

    async def run() -> None:
        nonlocal failed
        heeded = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # nohup ignores one
        with trio.open_signal_receiver(*heeded) as signals:  # before anything is opened that is to be closed
            async with trio.open_nursery() as tasks:
                tasks.start_soon(wait_for_signal, signals, tasks.cancel_scope)
                tasks.start_soon(watch.run)
                try:
                    await show()
                except Exception as error:  # noqa: BLE001 - raised below, as it is and in no group
                    failed = error
                tasks.cancel_scope.cancel()

    async def wait_for_signal(signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
        nonlocal ended_by
        async for number in signals:
            ended_by = number
            everything.cancel()

    trio.run(run)
    if failed is not None:
        raise failed
    if ended_by is not None:
        signal.raise_signal(ended_by)
