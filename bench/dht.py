"""The dht side by side with Redis:   python -m bench.dht   (bench/README.md says what is measured, and how)

A round has two phases, each with a fresh node and a fresh Redis. A phase first fills both, then measures one thing
after another, ours and Redis close together, the other one first in every second round. Ratios are taken within a
round; what is shown are medians over the rounds.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine
from bench.client import KEY_BYTES, REDIS_BATCH, VALUE_BYTES, Job, write_keys
from bench.processes import (
    BUILD,
    CLIENT_CORE,
    NODE_IN_MEMORY,
    REDIS_DURABLE,
    REDIS_IN_MEMORY,
    REDIS_SETTINGS,
    ROOT,
    SERVER_CORE,
    BenchError,
    Processes,
    Server,
    System,
    build_loadgen,
    check_cores,
    exit_on_sigterm,
)
from bench.report import Report, Row, Values, Wanted, judge

README = ROOT / "bench" / "README.md"
RESULTS = ROOT / "bench" / "results.json"
RESULTS_PARTIAL = BUILD / "results.json"

CONNECTIONS = 50
LARGE = 100_000  # records of a batch that a client cuts into parts
PAUSE_MS_MAX = 10.0
BENCHMARK_KEYS = 100_000  # of redis-benchmark, few enough that its gets find what its sets wrote
TABLE_WIDTH = 180  # where standard output is no terminal


@dataclass(frozen=True)
class Settings:
    rounds: int
    records: int
    only: tuple[str, ...]
    single_s: float
    """How long each measurement of single requests by a Python client lasts."""
    idle_s: float
    """How long the prober looks at servers that nobody else uses."""
    loadgen_requests: int
    """For 1 in flight; with 16 it is ten times as many, with a frame for each twice."""

    def shows(self, row: Row) -> bool:
        return not self.only or any(row.name.casefold().startswith(prefix.casefold()) for prefix in self.only)


COMPLETE = Settings(5, 1_000_000, (), single_s=1.0, idle_s=1.5, loadgen_requests=100_000)
QUICK = Settings(2, 100_000, (), single_s=0.25, idle_s=0.5, loadgen_requests=20_000)


class Round:
    """One round, while its servers run; the measurements write their figures into values."""

    def __init__(
        self, settings: Settings, processes: Processes, loadgen: Path, keys: Path, values: Values, number: int
    ) -> None:
        self.settings = settings
        self.processes = processes
        self.number = number
        self.servers: dict[System, Server] = {}
        self._loadgen = loadgen
        self._keys = keys
        self._values = values

    def note(self, row: Row, series: str, value: float) -> None:
        self._values.setdefault(row.name, {}).setdefault(series, []).append(value)

    def note_put_get(self, system: System, figures: dict[str, float], put: Row, get: Row) -> None:
        self.note(put, system, figures["put"])
        self.note(get, system, figures["get"])

    def job(self, system: System, work: str, **options: Any) -> Job:
        settings: dict[str, Any] = {"keys": str(self._keys), "seconds": self.settings.single_s} | options
        return Job(work, "redis" if system == "redis" else "ours", self.servers[system].port, **settings)

    def client(self, system: System, work: str, *, core: int = CLIENT_CORE, **options: Any) -> dict[str, float]:
        return self.processes.client(self.job(system, work, **options), core)

    def probe(self, system: System, work: str, row: Row, **options: Any) -> None:
        """The times of another client's gets, while a client does its work, or nothing does."""
        with self.processes.prober(self.job(system, "probe")) as prober:
            if work:
                figures = self.client(system, work, **options)
                seen = prober.finish(int(figures["begin_ns"]), int(figures["end_ns"]))
            else:
                begin_ns = time.monotonic_ns()
                time.sleep(self.settings.idle_s)
                seen = prober.finish(begin_ns, time.monotonic_ns())
        self.note(row, system, seen.pop("longest"))
        for name, value in seen.items():
            self.note(row, f"{system} {name}", value)

    def load(self, system: str, operation: str, pipeline: int, times: int, *options: str) -> dict[str, Any]:
        """Runs the load generator against a server, or echo."""
        protocol = {"redis": "redis", "echo": "echo"}.get(system, "swarm")
        port = {str(name): server.port for name, server in self.servers.items()}.get(system)
        requests = self.settings.loadgen_requests * times
        return self.processes.loadgen(
            self._loadgen,
            protocol,
            port,
            *("--operation", operation, "--connections", str(CONNECTIONS), "--pipeline", str(pipeline)),
            *("--requests", str(requests), "--keys", str(self.settings.records), "--value-bytes", str(VALUE_BYTES)),
            *("--seed", str(self.number), *options),
        )


@dataclass(frozen=True)
class Measurement:
    rows: tuple[Row, ...]
    measure: Callable[[Round, Any], None]
    """Called for each of the systems."""
    systems: tuple[str, ...] = ("ours", "redis")


# What is measured: a row's target is the issue's, and a row without one is for information.


def at_least(ratio: float) -> Wanted:
    return Wanted("at least", ratio)


def at_most(ratio: float) -> Wanted:
    return Wanted("at most", ratio)


def put_get_rows(name: str, peers: tuple[str, str], wanted: tuple[float, float] | None = None) -> tuple[Row, Row]:
    """name has a place for put or get."""
    limits = [at_least(each) for each in wanted] if wanted else [None, None]
    return (
        Row(name.format("put"), "/s", peers[0], limits[0]),
        Row(name.format("get"), "/s", peers[1], limits[1]),
    )


SINGLE_PEERS = ("redis-py, SET", "redis-py, GET")
SINGLE_PEERS_WITHOUT_POOL = ("redis-py without pool, SET", "redis-py without pool, GET")
BATCH_PEERS = ("redis-py, MSET of 1,000", "redis-py, MGET of 1,000")
ASYNC_PEERS = ("redis.asyncio, SET", "redis.asyncio, GET")
TASKS_PEERS = ("redis.asyncio, 50 tasks, SET", "redis.asyncio, 50 tasks, GET")
NODE_PEERS = ("redis-server, SET", "redis-server, GET")
DURABLE_BATCH = "redis-py, MSET of 1,000, append-only file"
DURABLE_NODE = "redis-server, SET, append-only file"
WITHOUT_JOURNAL = "the node without its journal"

ONE_AT_A_TIME = put_get_rows("blocking: {}, one at a time, same core", SINGLE_PEERS, (1.2, 1.2))
ONE_AT_A_TIME_WITHOUT_POOL = put_get_rows("blocking: {}, one at a time, same core, no pool", SINGLE_PEERS_WITHOUT_POOL)
BATCHES = put_get_rows("blocking: {}_many of 1,000", BATCH_PEERS, (2, 1.5))
SHUFFLED = put_get_rows("blocking: {}_many of 1,000 random keys", BATCH_PEERS)
LARGE_BATCHES = put_get_rows("blocking: {}_many of 100,000", BATCH_PEERS, (3, 2))
GET_ALL = Row("blocking: get_all", "/s", "redis-py, SCAN + MGET of 1,000", at_least(3))
ONE_TASK = put_get_rows("trio: {}, one task", ASYNC_PEERS, (1, 1))
ONE_TASK_SAME_CORE = put_get_rows("trio: {}, one task, same core", ASYNC_PEERS)
FIFTY_TASKS = put_get_rows("trio: {}, 50 tasks", TASKS_PEERS, (4, 4))
FIFTY_TASKS_ASYNCIO = put_get_rows("asyncio: {}, 50 tasks", TASKS_PEERS)

IN_FLIGHT_1 = put_get_rows("node: {}, 50 connections, 1 in flight", NODE_PEERS, (0.7, 0.7))
IN_FLIGHT_16 = put_get_rows("node: {}, 50 connections, 16 in flight", NODE_PEERS, (0.4, 0.4))
IN_FLIGHT_16_FRAMES = put_get_rows("node: {}, 50 connections, 16 in flight, a frame each", NODE_PEERS)

JOURNAL_INSERT = Row("journal: put_many of 1,000, inserts", "/s", DURABLE_BATCH)
JOURNAL_BATCHES = Row("journal: put_many of 1,000", "/s", DURABLE_BATCH, at_least(2))
JOURNAL_1 = Row("journal: put, 50 connections, 1 in flight", "/s", DURABLE_NODE, at_least(1))
JOURNAL_16 = Row("journal: put, 50 connections, 16 in flight", "/s", DURABLE_NODE, at_least(0.8))
PRICE_1 = Row("journal: its price, put, 50 connections, 1 in flight", "/s", WITHOUT_JOURNAL, at_least(0.75), "bare")
PRICE_16 = Row("journal: its price, put, 50 connections, 16 in flight", "/s", WITHOUT_JOURNAL, None, "bare")
PRICE_BATCHES = Row("journal: its price, put_many of 1,000, inserts", "/s", WITHOUT_JOURNAL, None, "bare")

MEMORY = Row("memory: a record", "B", "redis-server", at_most(1.3))
MEMORY_LARGE = Row("memory: a record, put 100,000 at a time", "B", "redis-server")

PAUSE_LIMIT = Wanted("ours at most", PAUSE_MS_MAX)
PAUSE_GET_ALL = Row("pause: longest, get_all", "ms", "SCAN + MGET of 1,000", PAUSE_LIMIT)
PAUSE_INSERT = Row("pause: longest, put_many of 1,000 inserts", "ms", "MSET of 1,000", PAUSE_LIMIT)
PAUSE_INSERT_LARGE = Row("pause: longest, put_many of 100,000 inserts", "ms", "MSET of 1,000", PAUSE_LIMIT)
PAUSE_IDLE = Row("pause: longest, nobody else", "ms", "nobody else")


def fill(memory: Row, pause: Row, batch: int) -> Measurement:
    def measure(this: Round, system: System) -> None:
        server = this.servers[system]
        empty = server.private_bytes()
        this.probe(system, "insert", pause, batch=batch)
        this.note(memory, system, (server.private_bytes() - empty) / this.settings.records)

    return Measurement((memory, pause), measure)


def durable_fill(this: Round, system: System) -> None:
    """Fills a server that keeps what it is given, or a node that does not; the node's figure is in two rows."""
    rate = this.client(system, "insert")["put"]
    if system != "bare":
        this.note(JOURNAL_INSERT, system, rate)
    if system != "redis":
        this.note(PRICE_BATCHES, system, rate)


def durable_batches(this: Round, system: System) -> None:
    this.note(JOURNAL_BATCHES, system, this.client(system, "batches")["put"])


def batches(rows: tuple[Row, Row], **options: Any) -> Measurement:
    def measure(this: Round, system: System) -> None:
        this.note_put_get(system, this.client(system, "batches", **options), *rows)

    return Measurement(rows, measure)


def one_at_a_time(this: Round, system: System) -> None:
    """Ours has one connection to a node, and no pool that could be left out: one figure for both rows."""
    figures = this.client(system, "one at a time", core=SERVER_CORE)
    this.note_put_get(system, figures, *ONE_AT_A_TIME)
    if system == "redis":
        figures = this.client(system, "one at a time", core=SERVER_CORE, single_connection=True)
    this.note_put_get(system, figures, *ONE_AT_A_TIME_WITHOUT_POOL)


def read_all(this: Round, system: System) -> None:
    this.note(GET_ALL, system, this.client(system, "get all")["get"])


def tasks(rows: tuple[Row, Row], count: int, core: int = CLIENT_CORE) -> Measurement:
    def measure(this: Round, system: System) -> None:
        backend = "trio" if system == "ours" else "asyncio"
        this.note_put_get(system, this.client(system, "tasks", core=core, tasks=count, backend=backend), *rows)

    return Measurement(rows, measure)


def fifty_tasks(this: Round, system: System) -> None:
    """Redis' figure is the same for both of our backends."""
    figures = this.client(system, "tasks", tasks=50, backend="asyncio")
    this.note_put_get(system, figures, *FIFTY_TASKS_ASYNCIO)
    if system == "ours":
        figures = this.client(system, "tasks", tasks=50, backend="trio")
    this.note_put_get(system, figures, *FIFTY_TASKS)


def pause(row: Row, work: str) -> Measurement:
    return Measurement((row,), lambda this, system: this.probe(system, work, row))


def node(row: Row, operation: str, pipeline: int, systems: tuple[str, ...] = ("ours", "redis", "echo")) -> Measurement:
    """The load generator against node, Redis, and its own echo server, which shows what it could drive."""

    def measure(this: Round, system: str) -> None:
        figures = this.load(system, operation, pipeline, 10 if pipeline > 1 else 1)
        this.note(row, system, figures["requests_per_s"])
        this.note(row, f"{system} busy", figures["busy"])

    return Measurement((row,), measure, systems)


def node_frames(row: Row, operation: str) -> Measurement:
    """A frame for each request, as a client sends them that does not gather what is asked at the same moment."""

    def measure(this: Round, system: str) -> None:
        figures = this.load(system, operation, 16, 2, *(["--frame-each"] if system == "ours" else []))
        this.note(row, system, figures["requests_per_s"])
        this.note(row, f"{system} busy", figures["busy"])

    return Measurement((row,), measure)


def redis_benchmark(this: Round, _: str) -> None:
    """What Redis' own tool says, to check the load generator; the sets come first, so that the gets find something."""
    for pipeline, rows in ((16, IN_FLIGHT_16), (1, IN_FLIGHT_1)):
        requests = this.settings.loadgen_requests * (10 if pipeline > 1 else 1)
        command = f"redis-benchmark -p {this.servers['redis'].port} -c {CONNECTIONS} -P {pipeline} -n {requests}"
        command += f" -d {VALUE_BYTES} -r {BENCHMARK_KEYS} -t set,get --csv"
        lines = this.processes.output(command.split()).splitlines()
        rates = {name: float(rate) for name, rate in (line.replace('"', "").split(",")[:2] for line in lines[-2:])}
        for row, name in zip(rows, ("SET", "GET"), strict=True):
            this.note(row, "redis-benchmark", rates[name])


@dataclass(frozen=True)
class Phase:
    fill: Measurement
    """Fills the servers; runs whenever the phase does."""
    rest: tuple[Measurement, ...]
    durable: bool = False
    """Whether the servers keep on disk what was written."""

    def measurements(self, settings: Settings) -> list[Measurement]:
        """What is to run for the rows that are asked for."""
        rest = [each for each in self.rest if any(map(settings.shows, each.rows))]
        return [self.fill, *rest] if rest or any(map(settings.shows, self.fill.rows)) else []


PHASES = (
    Phase(
        fill(MEMORY, PAUSE_INSERT, REDIS_BATCH),
        (
            Measurement((*ONE_AT_A_TIME, *ONE_AT_A_TIME_WITHOUT_POOL), one_at_a_time),
            batches(BATCHES),
            batches(SHUFFLED, shuffled=True),
            batches(LARGE_BATCHES, batch=LARGE),
            Measurement((GET_ALL,), read_all),
            tasks(ONE_TASK, 1),
            tasks(ONE_TASK_SAME_CORE, 1, SERVER_CORE),
            Measurement((*FIFTY_TASKS, *FIFTY_TASKS_ASYNCIO), fifty_tasks),
            node(IN_FLIGHT_1[0], "put", 1),
            node(IN_FLIGHT_1[1], "get", 1),
            node(IN_FLIGHT_16[0], "put", 16),
            node(IN_FLIGHT_16[1], "get", 16),
            node_frames(IN_FLIGHT_16_FRAMES[0], "put"),
            node_frames(IN_FLIGHT_16_FRAMES[1], "get"),
            pause(PAUSE_GET_ALL, "get all"),
            pause(PAUSE_IDLE, ""),
        ),
    ),
    Phase(
        fill(MEMORY_LARGE, PAUSE_INSERT_LARGE, LARGE),
        (Measurement((*IN_FLIGHT_1, *IN_FLIGHT_16), redis_benchmark, ("redis-benchmark",)),),
    ),
    Phase(
        Measurement((JOURNAL_INSERT, PRICE_BATCHES), durable_fill, ("ours", "redis", "bare")),
        (
            Measurement((JOURNAL_BATCHES,), durable_batches),
            node(JOURNAL_1, "put", 1, ("ours", "redis")),
            node(JOURNAL_16, "put", 16, ("ours", "redis")),
            node(PRICE_1, "put", 1, ("ours", "bare")),
            node(PRICE_16, "put", 16, ("ours", "bare")),
        ),
        durable=True,
    ),
)

ROWS = (
    *(*ONE_AT_A_TIME, *ONE_AT_A_TIME_WITHOUT_POOL, *BATCHES, *SHUFFLED, *LARGE_BATCHES, GET_ALL),
    *(*ONE_TASK, *ONE_TASK_SAME_CORE, *FIFTY_TASKS, *FIFTY_TASKS_ASYNCIO),
    *(*IN_FLIGHT_1, *IN_FLIGHT_16, *IN_FLIGHT_16_FRAMES),
    *(MEMORY, MEMORY_LARGE),
    *(PAUSE_GET_ALL, PAUSE_INSERT, PAUSE_INSERT_LARGE, PAUSE_IDLE),
    *(JOURNAL_INSERT, JOURNAL_BATCHES, JOURNAL_1, JOURNAL_16, PRICE_1, PRICE_16, PRICE_BATCHES),
)


# The run.


class Steps:
    """A line on standard error that tells what runs; no thread draws it, since that would take time from a core."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._task = self.progress.add_task("", total=total)
        self._live = console.is_terminal
        self._done = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        with self.progress if self._live else nullcontext():
            yield

    def next(self, round_number: int, rows: tuple[Row, ...]) -> None:
        text = f"round {round_number}  {rows[0].name}"
        self.progress.update(self._task, completed=self._done, description=text)
        if self._live:
            self.progress.refresh()
        else:
            print(text, file=sys.stderr, flush=True)
        self._done += 1


def measure(settings: Settings) -> Values:
    values: Values = {}
    plans = [(each.durable, each.measurements(settings)) for each in PHASES]
    steps = Steps(settings.rounds * sum(len(plan) for _, plan in plans))
    loadgen = build_loadgen()
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name, steps.shown():
        directory = Path(name)
        keys = directory / "keys"
        write_keys(keys, settings.records)
        with Processes(directory) as processes:
            for number in range(1, settings.rounds + 1):
                this = Round(settings, processes, loadgen, keys, values, number)
                for durable, plan in plans:
                    with processes.servers(durable=durable) if plan else nullcontext({}) as this.servers:
                        for each in plan:
                            steps.next(number, each.rows)
                            for system in each.systems if number % 2 else each.systems[::-1]:
                                each.measure(this, system)
    return values


def describe(settings: Settings, neighbours: machine.Neighbours) -> dict[str, str]:
    return machine.describe(redis=True) | {
        "settings": f"{settings.records:,} records, keys of {KEY_BYTES} bytes, values of {VALUE_BYTES}; "
        f"medians of {settings.rounds} rounds",
        "the clients' settings": "their defaults, but for a timeout of 30 s of ours",
        "Redis' settings": " ".join(each or '""' for each in REDIS_SETTINGS + REDIS_IN_MEMORY) + ", else its defaults",
        "the node's settings": "no journal (" + " ".join(NODE_IN_MEMORY.split()) + "), else its defaults",
        "rows that begin with journal": f"the node by its defaults; Redis with {' '.join(REDIS_DURABLE)}",
        "pinning": f"servers on core {SERVER_CORE}, clients on core {CLIENT_CORE}; same core: both on {SERVER_CORE}",
        "the prober's priority": machine.prober_priority(),
        "the machine meanwhile": neighbours.describe(),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), help=f"How often everything is measured.  [{COMPLETE.rounds}]")
@click.option("--records", type=click.IntRange(1000), help=f"Records of the stores.  [{COMPLETE.records}]")
@click.option("--quick", is_flag=True, help=f"Short: {QUICK.rounds} rounds, {QUICK.records} records.")
@click.option("--only", multiple=True, metavar="PREFIX", help="Only rows that begin so. May be repeated.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help=f"Where the figures go.  [{RESULTS.name}]")
@click.option("--write-readme", is_flag=True, help="Puts the table into bench/README.md.")
def main(
    rounds: int | None,
    records: int | None,
    quick: bool,
    only: tuple[str, ...],
    json_file: Path | None,
    write_readme: bool,
) -> None:
    """Measures the dht and Redis side by side.

    Figures of a complete run go to bench/results.json, those of a --quick or partial one to build/bench/results.json.
    """
    exit_on_sigterm()
    base = QUICK if quick else COMPLETE
    settings = replace(base, rounds=rounds or base.rounds, records=records or base.records, only=only)
    complete = settings == COMPLETE or settings == replace(COMPLETE, rounds=max(settings.rounds, COMPLETE.rounds))
    if write_readme and not complete:
        raise click.UsageError(f"--write-readme needs a complete run: all rows, at least {COMPLETE.rounds} rounds")
    rows = [row for row in ROWS if settings.shows(row)]
    if not rows:
        raise click.UsageError("no row begins so; they are:\n  " + "\n  ".join(row.name for row in ROWS))
    try:
        check_cores()
        machine.warn_of_others()
        neighbours = machine.Neighbours()
        values = measure(settings)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    facts = describe(settings, neighbours)
    report = Report(facts, [judge(row, values[row.name]) for row in rows], values)
    shown = report.shown()
    shown.print(Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
    report.write_json(json_file or (RESULTS if complete else RESULTS_PARTIAL))
    if write_readme:
        shown.write_readme(README, "table")


if __name__ == "__main__":
    main()
