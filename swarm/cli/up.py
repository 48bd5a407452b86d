"""`swarm up`: a swarm on this machine, shown live in a table; one line an event where the output is no terminal.

    background   signals, drawing, figures of each node      end last
      nodes      supervisor.run_nodes                        ends first: cancelling it stops them

The figures come from the nodes' own statistics, asked for by a client for each node, so that one that does not
answer keeps nobody from being shown.
"""

import logging
import shlex
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from swarm.cli import Failure, WrongCall
from swarm.cli.supervisor import DumpProcess, NodeProcess, NotStarted, State, run_nodes
from swarm.cli.terminal import format_bytes
from swarm.core.command_line import parsed_by
from swarm.core.config import Address, parse_size
from swarm.core.errors import SwarmError
from swarm.core.node import default_memory_limit
from swarm.dht import DhtClient
from swarm.dht.hash_range import HashRange, split_evenly
from swarm.logfiles import LogfilesClient
from swarm.queue import QueueClient

NODES_MAX = 64  # of a kind: processes, each with some 30 MiB to begin with
PORTS = {"queue": 100, "logfiles": 200}  # from the first dht node's to the first of these: their own defaults, 10101…
POLL_S = 1.0  # between two questions for a node's figures
DRAW_S = 0.5
EVENTS_SHOWN = 6
WIDE_COLUMNS = 120  # of a terminal, from which on every column has room

_CLIENTS: dict[str, type[QueueClient | LogfilesClient]] = {"queue": QueueClient, "logfiles": LogfilesClient}

_COLOURS = {
    State.STARTING: "yellow",
    State.RUNNING: "green",
    State.RESTARTING: "red",
    State.STOPPING: "yellow",
    State.STOPPED: "dim",
}

_TITLES = ("node", "address", "state", "records", "bytes", "requests/s", "memory")  # events tell of restarts
_TITLES_WIDE = (*_TITLES[:2], "pid", "state", "hashes", *_TITLES[3:6], "clients", "memory", "restarts")
_TITLES_OF_TEXT = ("node", "address", "pid", "state")


@dataclass(frozen=True)
class Figures:
    """What a node tells about itself, leaving out what asking for it takes."""

    records: int
    record_bytes: int
    requests: int
    connections: int
    memory_bytes: int
    taken_at_s: float

    @classmethod
    def of(cls, statistics: Mapping[str, Any], taken_at_s: float) -> "Figures":
        requests = sum(each["handled"] for name, each in statistics["request"].items() if name != "stats")
        return cls(
            statistics["records"],
            statistics["bytes"],
            requests,
            statistics["connections"] - 1,
            statistics["rss_bytes"],
            taken_at_s,
        )


@dataclass
class Row:
    """A node of the table, or a dhtdump, which has no figures.

    client: what asks for its figures; hash_range: of a dht node.
    figures: the last, None while it does not answer; before: those before them.
    """

    node: NodeProcess
    client: type[DhtClient | QueueClient | LogfilesClient] | None = None
    hash_range: HashRange | None = None
    figures: Figures | None = None
    before: Figures | None = None

    def take(self, figures: Figures | None) -> None:
        self.figures, self.before = figures, self.figures

    @property
    def requests_per_s(self) -> float | None:
        now, before = self.figures, self.before
        if now is None or before is None or now.requests < before.requests:  # it was restarted
            return None
        return (now.requests - before.requests) / (now.taken_at_s - before.taken_at_s)


class View(Protocol):
    """Where people see what happens."""

    def tell(self, name: str, text: str) -> None:
        """Something has happened. Raises nothing, since it is told of nodes that are just being stopped too."""

    async def show(self, rows: Sequence[Row]) -> None:
        """Draws until cancelled."""


class LineView:
    """One line an event."""

    def tell(self, name: str, text: str) -> None:
        with suppress(OSError):  # who read it has gone: no reason to stop the nodes
            click.echo(_event(name, text))

    async def show(self, rows: Sequence[Row]) -> None:
        await trio.sleep_forever()


class TableView:
    """A table that is drawn again and again, with the last events below."""

    def __init__(self, console: Console, hint: str) -> None:
        self._console = console
        self._hint = hint
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)

    def tell(self, name: str, text: str) -> None:
        self._events.append(_event(name, text))

    async def show(self, rows: Sequence[Row]) -> None:
        def draw_now() -> RenderableType:
            return draw(rows, self._events, self._hint, wide=self._console.width >= WIDE_COLUMNS)

        with Live(get_renderable=draw_now, console=self._console, auto_refresh=False) as live:
            while True:  # once more at the end is Live's own
                live.refresh()
                await trio.sleep(DRAW_S)


def draw(rows: Sequence[Row], events: Iterable[str], hint: str, *, wide: bool = True) -> RenderableType:
    """The table and the events as they are now, and what to do next. Not wide: for a terminal of 80 columns."""
    titles = _TITLES_WIDE if wide else _TITLES
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0))
    for title in titles:
        table.add_column(title, justify="left" if title in _TITLES_OF_TEXT else "right", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[title] for title in titles))
    ending = any(row.node.state in (State.STOPPING, State.STOPPED) for row in rows)
    return Group(table, *map(Text, events), *([] if ending else [Text(hint, style="dim")]))


def _cells(row: Row) -> dict[str, str | Text]:
    node = row.node
    cells: dict[str, str | Text] = dict.fromkeys(_TITLES_WIDE, "–")
    cells |= {
        "node": node.name,
        "address": str(node.address),
        "pid": str(node.pid or "–"),
        "state": Text(node.state, style=_COLOURS[node.state]),
        "hashes": f"{row.hash_range.share:.1%}" if row.hash_range else "–",
        "restarts": str(node.restarts),
    }
    if row.figures is not None and node.state == State.RUNNING:
        cells |= {
            "records": f"{row.figures.records:,}",
            "bytes": format_bytes(row.figures.record_bytes),
            "requests/s": "–" if row.requests_per_s is None else f"{row.requests_per_s:,.0f}",
            "clients": f"{row.figures.connections:,}",
            "memory": format_bytes(row.figures.memory_bytes),
        }
    return cells


def _event(name: str, text: str) -> str:
    return f"{time.strftime('%H:%M:%S')} {name} {text}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="swarm-data",
    show_default=True,
    help="Directory of the nodes' data and logs, and of the files that name the nodes.",
)
@click.option("--dht", type=click.IntRange(1, NODES_MAX), default=2, show_default=True, help="How many dht nodes.")
@click.option("--queue", type=click.IntRange(0, NODES_MAX), default=1, show_default=True, help="How many queue nodes.")
@click.option(
    "--logfiles", type=click.IntRange(0, NODES_MAX), default=1, show_default=True, help="How many logfiles nodes."
)
@click.option(
    "--base-port",
    type=click.IntRange(0, 65535),
    default=10001,
    show_default=True,
    help="Port of the first dht node; those after it have the next ones. The first queue node's port is "
    f"{PORTS['queue']} above, the first logfiles node's {PORTS['logfiles']}. 0: any that are free.",
)
@click.option(
    "--memory-limit",
    callback=parsed_by(parse_size),
    metavar="SIZE",
    help="Most memory that the records of all dht nodes may take together, of which each has its part: 8 GiB.  "
    "[three quarters of the machine's memory]",
)
def up(data: Path, dht: int, queue: int, logfiles: int, base_port: int, memory_limit: int | None) -> None:
    """Runs a swarm on this machine, until Ctrl-C or SIGTERM.

    Starts dht nodes that share the hash range evenly, a dhtdump for each, queue nodes and logfiles nodes. Writes the
    addresses of the dht nodes to the file `nodes` in the data directory (for `swarm dht --nodes`), those of the others
    to `nodes-queue` and `nodes-logfiles` (for `swarm queue --nodes` and `swarm logfiles --nodes`), shows how they are,
    and starts again what dies. Each node's logs are in its own directory, DATA/dht-1/root.log, DATA/queue-1/root.log
    and so on, those of its dhtdump in DATA/dht-1/dump.

    How many dht nodes there are is decided when the data directory is first used: each holds its part of the records.
    Of the others there may be more than before, or none.

    Exit status 1, with the reason, if a node cannot start; 2 with another --dht than before, or a --queue or --logfiles
    that leaves out nodes that hold channels.
    """
    others = {"queue": queue, "logfiles": logfiles}
    _check_ports(base_port, dht, others)
    if memory_limit is None:
        memory_limit = default_memory_limit()
    if memory_limit < dht:
        raise click.BadParameter(f"each of {dht} nodes needs a part of it", param_hint="--memory-limit")
    _check_as_before(data, dht, others)
    logging.getLogger("swarm").setLevel(logging.CRITICAL)  # what its clients would warn of is in the table
    console = Console()
    nodes_files = {"dht": data / "nodes"} | {kind: data / f"nodes-{kind}" for kind, count in others.items() if count}
    hints = [f"swarm {kind} --nodes {shlex.quote(str(file))} …" for kind, file in nodes_files.items()]
    can_draw = console.is_terminal and not console.is_dumb_terminal
    view: View = TableView(console, "\n".join([*hints, "Ctrl-C stops the swarm"])) if can_draw else LineView()
    rows = _plan_dht(data, dht, base_port, memory_limit // dht, view.tell)
    for kind, count in others.items():
        first_port = base_port and base_port + PORTS[kind]
        rows += [Row(_node(kind, each, data, first_port, (), view.tell), _CLIENTS[kind]) for each in range(count)]
    data.mkdir(parents=True, exist_ok=True)
    for kind in others.keys() - nodes_files.keys():
        (data / f"nodes-{kind}").unlink(missing_ok=True)  # of nodes that do not run this time
    reasons: list[str] = []
    try:
        trio.run(_run, rows, view, nodes_files, "is up" if can_draw else f"is up: {', '.join(hints)}")
    except* (NotStarted, OSError) as group:
        reasons += map(str, _leaves(group))
    if reasons:
        raise Failure("\n".join(sorted(reasons)))


def _check_ports(base_port: int, dht: int, others: Mapping[str, int]) -> None:
    for kind, count in others.items():
        last = base_port + (PORTS[kind] + count if count else dht) - 1
        if base_port and last > 65535:
            raise click.BadParameter(
                f"{dht} dht nodes from port {base_port} on, and {count} {kind} nodes from {base_port + PORTS[kind]} "
                "on, need ports above 65535",
                param_hint="--base-port",
            )


def _check_as_before(data: Path, dht: int, others: Mapping[str, int]) -> None:
    """That no node is left out that holds something."""
    if (before := _dht_nodes_before(data)) not in (None, dht):
        raise WrongCall(
            f"{data} was started with {before} nodes before, each of which has its part of the records: "
            f"use --dht {before}, or another --data"
        )
    for kind, count in others.items():
        if count and (before := _nodes_before(data, kind)) > count:
            raise WrongCall(
                f"{data} was started with {before} {kind} nodes before, and {kind}-{before} holds channels: "
                f"use --{kind} {before}, or another --data"
            )


def _dht_nodes_before(data: Path) -> int | None:
    """With how many nodes the directory was used, if any of them holds something."""
    try:
        count = sum(1 for line in (data / "nodes").read_text().splitlines() if line)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure(f"{data / 'nodes'} cannot be read: {error.strerror or error}") from error
    return count if any(data.glob("dht-*/identity")) else None


def _nodes_before(data: Path, kind: str) -> int:
    """The highest number of a node of a kind that holds channels; 0 if none does."""
    channels = data.glob(f"{kind}-*/channels/*")
    numbers = (each.parents[1].name.removeprefix(f"{kind}-") for each in channels)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _plan_dht(data: Path, count: int, base_port: int, memory_limit: int, tell: Callable[[str, str], None]) -> list[Row]:
    rows = []
    for number, hash_range in enumerate(split_evenly(count)):
        options = ("--hash-range", str(hash_range), "--memory-limit", str(memory_limit))
        node = _node("dht", number, data, base_port, options, tell)
        rows.append(Row(node, DhtClient, hash_range))
    return rows


def _node(
    kind: str, number: int, data: Path, base_port: int, options: Sequence[str], tell: Callable[[str, str], None]
) -> NodeProcess:
    address = Address("127.0.0.1", base_port and base_port + number)
    name = f"{kind}-{number + 1}"
    return NodeProcess(name, f"nodes.{kind}", address, data / name, options, tell)


def _dump_of(node: NodeProcess, tell: Callable[[str, str], None]) -> DumpProcess:
    name = node.name.replace("dht-", "dump-")
    dump = DumpProcess(name, "dhtdump", node.address, node.data / "dump", (), tell)
    node.stops_after = dump
    return dump


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for each in group.exceptions
        for leaf in (_leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]


async def _run(rows: list[Row], view: View, nodes_files: Mapping[str, Path], is_up: str) -> None:
    """Runs the nodes until a signal; raises an exception group of why they could not be started.

    nodes_files: for each kind of node where the addresses go. is_up: what is told when all serve.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as background:
            stop = trio.CancelScope()
            background.start_soon(_stop_at_signal, signals, stop, rows)
            background.start_soon(view.show, rows)
            with stop:
                async with trio.open_nursery() as nodes:
                    await nodes.start(run_nodes, [row.node for row in rows])
                    for kind, file in nodes_files.items():
                        _write_nodes_file(file, [row.node.address for row in rows if row.node.kind == kind])
                    dumps = [_dump_of(row.node, view.tell) for row in rows if row.hash_range]
                    asked = list(rows)
                    rows += map(Row, dumps)
                    await nodes.start(run_nodes, dumps)
                    view.tell("swarm", is_up)
                    for row in asked:
                        background.start_soon(_keep_asking, row)
            background.cancel_scope.cancel()


async def _stop_at_signal(signals: AsyncIterator[int], stop: trio.CancelScope, rows: Iterable[Row]) -> None:
    """The first signal stops the nodes in order, one after it at once."""
    async for _ in signals:
        if stop.cancel_called:
            for row in rows:
                row.node.kill()
        stop.cancel()


async def _keep_asking(row: Row) -> None:
    assert row.client is not None
    address = str(row.node.address)
    async with row.client(address, timeout=POLL_S) as client:
        while True:
            try:
                statistics = await client.node_statistics()
            except SwarmError:
                row.take(None)
            else:
                row.take(Figures.of(statistics[address], trio.current_time()))
            await trio.sleep(POLL_S)


def _write_nodes_file(path: Path, addresses: Iterable[Address]) -> None:
    """Replaces it as a whole, since clients read it at any time."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(f"{address}\n" for address in addresses))
    temporary.replace(path)
