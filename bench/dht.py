"""The dht side by side with Redis:   python -m bench.dht   (bench/README.md says what is measured, and how)

A round has two phases, each with a fresh node and a fresh Redis. A phase first fills both, then measures one thing
after another, ours and Redis close together, the other one first in every second round. Ratios are taken within a
round; what is shown are medians over the rounds.
"""

import signal
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
    REDIS_SETTINGS,
    ROOT,
    SERVER_CORE,
    BenchError,
    Processes,
    Server,
    System,
    build_loadgen,
    check_cores,
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
    """For 1 in flight; with 16 it is ten times as many."""

    def shows(self, row: Row) -> bool:
        return not self.only or any(row.name.casefold().startswith(prefix.casefold()) for prefix in self.only)


COMPLETE = Settings(5, 1_000_000, (), single_s=1.0, idle_s=1.5, loadgen_requests=120_000)
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
        settings = {"keys": str(self._keys), "seconds": self.settings.single_s} | options
        return Job(work, system, self.servers[system].port, **settings)

    def client(self, system: System, work: str, *, core: int = CLIENT_CORE, **options: Any) -> dict[str, float]:
        return self.processes.client(self.job(system, work, **options), core)

    def probe(self, system: System, work: str, rows: tuple[Row, Row], **options: Any) -> None:
        """The longest and the 99.9th percentile of the times of another client's gets, while a client does its work."""
        with self.processes.prober(self.job(system, "probe")) as prober:
            if work:
                figures = self.client(system, work, **options)
                seen = prober.finish(int(figures["begin_ns"]), int(figures["end_ns"]))
            else:
                begin_ns = time.monotonic_ns()
                time.sleep(self.settings.idle_s)
                seen = prober.finish(begin_ns, time.monotonic_ns())
        self.note(rows[0], system, seen["longest_ms"])
        self.note(rows[1], system, seen["p999_ms"])

    def load(self, system: str, operation: str, pipeline: int, *options: str) -> dict[str, Any]:
        """Runs the load generator against ours, redis or echo."""
        protocol, port = {
            "ours": ("swarm", self.servers["ours"].port),
            "redis": ("redis", self.servers["redis"].port),
            "echo": ("echo", None),
        }[system]
        requests = self.settings.loadgen_requests * (10 if pipeline > 1 else 1)
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
BATCH_PEERS = ("redis-py, MSET of 1,000", "redis-py, MGET of 1,000")
ASYNC_PEERS = ("redis.asyncio, SET", "redis.asyncio, GET")
TASKS_PEERS = ("redis.asyncio, 50 tasks, SET", "redis.asyncio, 50 tasks, GET")

ONE_AT_A_TIME = put_get_rows("blocking: {}, one at a time, same core", SINGLE_PEERS, (1.2, 1.2))
BATCHES = put_get_rows("blocking: {}_many of 1,000", BATCH_PEERS, (2, 1.5))
SHUFFLED = put_get_rows("blocking: {}_many of 1,000 random keys", BATCH_PEERS)
LARGE_BATCHES = put_get_rows("blocking: {}_many of 100,000", BATCH_PEERS, (3, 2))
GET_ALL = Row("blocking: get_all", "/s", "redis-py, SCAN + MGET of 1,000", at_least(3))
ONE_TASK = put_get_rows("trio: {}, one task", ASYNC_PEERS, (1, 1))
ONE_TASK_SAME_CORE = put_get_rows("trio: {}, one task, same core", ASYNC_PEERS)
FIFTY_TASKS = put_get_rows("trio: {}, 50 tasks", TASKS_PEERS, (4, 4))
FIFTY_TASKS_ASYNCIO = put_get_rows("asyncio: {}, 50 tasks", TASKS_PEERS)


def node_rows(name: str, wanted: float | None) -> tuple[Row, Row]:
    return put_get_rows(
        f"node: {{}}, 50 connections, {name}", ("redis-server, SET", "redis-server, GET"), wanted and (wanted, wanted)
    )


IN_FLIGHT_1 = node_rows("1 in flight", 0.7)
IN_FLIGHT_16 = node_rows("16 in flight", 0.4)
IN_FLIGHT_16_FRAMES = node_rows("16 in flight, a frame each", None)

MEMORY = Row("memory: a record", "B", "redis-server", at_most(1.3))
MEMORY_LARGE = Row("memory: a record, put 100,000 at a time", "B", "redis-server")


def pause_rows(what: str, peer: str, *, limited: bool = True) -> tuple[Row, Row]:
    return (
        Row(f"pause: longest, {what}", "ms", peer, Wanted("ours at most", PAUSE_MS_MAX) if limited else None),
        Row(f"pause: 99.9%, {what}", "ms", peer),
    )


PAUSE_GET_ALL = pause_rows("get_all", "SCAN + MGET of 1,000")
PAUSE_INSERT = pause_rows("put_many of 1,000 inserts", "MSET of 1,000")
PAUSE_INSERT_LARGE = pause_rows("put_many of 100,000 inserts", "MSET of 1,000")
PAUSE_IDLE = pause_rows("nobody else", "nobody else", limited=False)


def fill(memory: Row, pauses: tuple[Row, Row], batch: int) -> Measurement:
    def measure(this: Round, system: System) -> None:
        server = this.servers[system]
        empty = server.private_bytes()
        this.probe(system, "insert", pauses, batch=batch)
        this.note(memory, system, (server.private_bytes() - empty) / this.settings.records)

    return Measurement((memory, *pauses), measure)


def batches(rows: tuple[Row, Row], **options: Any) -> Measurement:
    def measure(this: Round, system: System) -> None:
        this.note_put_get(system, this.client(system, "batches", **options), *rows)

    return Measurement(rows, measure)


def one_at_a_time(this: Round, system: System) -> None:
    this.note_put_get(system, this.client(system, "one at a time", core=SERVER_CORE), *ONE_AT_A_TIME)


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


def pauses(rows: tuple[Row, Row], work: str) -> Measurement:
    return Measurement(rows, lambda this, system: this.probe(system, work, rows))


def node(row: Row, operation: str, pipeline: int) -> Measurement:
    """The load generator against node, Redis, and its own echo server, which shows what it could drive."""

    def measure(this: Round, system: str) -> None:
        figures = this.load(system, operation, pipeline)
        this.note(row, system, figures["requests_per_s"])
        this.note(row, f"{system} busy", figures["busy"])

    return Measurement((row,), measure, ("ours", "redis", "echo"))


def node_frames(row: Row, operation: str) -> Measurement:
    """A frame for each request, as 16 programs behind one connection would send them."""

    def measure(this: Round, system: str) -> None:
        figures = this.load(system, operation, 16, *(["--frame-each"] if system == "ours" else []))
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

    def measurements(self, settings: Settings) -> list[Measurement]:
        """What is to run for the rows that are asked for."""
        rest = [each for each in self.rest if any(map(settings.shows, each.rows))]
        return [self.fill, *rest] if rest or any(map(settings.shows, self.fill.rows)) else []


PHASES = (
    Phase(
        fill(MEMORY, PAUSE_INSERT, REDIS_BATCH),
        (
            Measurement(ONE_AT_A_TIME, one_at_a_time),
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
            pauses(PAUSE_GET_ALL, "get all"),
            pauses(PAUSE_IDLE, ""),
        ),
    ),
    Phase(
        fill(MEMORY_LARGE, PAUSE_INSERT_LARGE, LARGE),
        (Measurement((*IN_FLIGHT_1, *IN_FLIGHT_16), redis_benchmark, ("redis-benchmark",)),),
    ),
)

ROWS = (
    *(*ONE_AT_A_TIME, *BATCHES, *SHUFFLED, *LARGE_BATCHES, GET_ALL),
    *(*ONE_TASK, *ONE_TASK_SAME_CORE, *FIFTY_TASKS, *FIFTY_TASKS_ASYNCIO),
    *(*IN_FLIGHT_1, *IN_FLIGHT_16, *IN_FLIGHT_16_FRAMES),
    *(MEMORY, MEMORY_LARGE),
    *(*PAUSE_GET_ALL, *PAUSE_INSERT, *PAUSE_INSERT_LARGE, *PAUSE_IDLE),
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
    plans = [each.measurements(settings) for each in PHASES]
    steps = Steps(settings.rounds * sum(map(len, plans)))
    loadgen = build_loadgen()
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name, steps.shown():
        directory = Path(name)
        keys = directory / "keys"
        write_keys(keys, settings.records)
        with Processes(directory) as processes:
            for number in range(1, settings.rounds + 1):
                this = Round(settings, processes, loadgen, keys, values, number)
                for plan in filter(None, plans):
                    with processes.servers() as this.servers:
                        for each in plan:
                            steps.next(number, each.rows)
                            for system in each.systems if number % 2 else each.systems[::-1]:
                                each.measure(this, system)
    return values


def describe(settings: Settings, busy: bool) -> dict[str, str]:
    return machine.describe() | {
        "settings": f"{settings.records:,} records, keys of {KEY_BYTES} bytes, values of {VALUE_BYTES}; "
        f"medians of {settings.rounds} rounds",
        "Redis' settings": " ".join(each or '""' for each in REDIS_SETTINGS) + ", else its defaults",
        "the node's settings": "its defaults",
        "pinning": f"servers on core {SERVER_CORE}, clients on core {CLIENT_CORE}; same core: both on {SERVER_CORE}",
        "machine at the start": "in use by others: figures may be wrong" if busy else "idle",
    }


def _stop(number: int, _: object) -> None:
    sys.exit(128 + number)


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
    signal.signal(signal.SIGTERM, _stop)
    base = QUICK if quick else COMPLETE
    settings = replace(base, rounds=rounds or base.rounds, records=records or base.records, only=only)
    complete = settings == COMPLETE or settings == replace(COMPLETE, rounds=max(settings.rounds, COMPLETE.rounds))
    if write_readme and not complete:
        raise click.UsageError(f"--write-readme needs a complete run: all rows, at least {COMPLETE.rounds} rounds")
    rows = [row for row in ROWS if settings.shows(row)]
    if not rows:
        raise click.UsageError("no row begins so; they are:\n  " + "\n  ".join(row.name for row in ROWS))
    facts = describe(settings, machine.is_busy())
    try:
        check_cores()
        values = measure(settings)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    report = Report(facts, [judge(row, values[row.name]) for row in rows], values)
    report.print(Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
    report.write_json(json_file or (RESULTS if complete else RESULTS_PARTIAL))
    if write_readme:
        report.write_readme(README)


if __name__ == "__main__":
    main()
