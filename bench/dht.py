"""The dht side by side with Redis:   python -m bench.dht   (bench/README.md says what is measured, and how)

A round has two phases, each with a fresh node and a fresh Redis. A phase first fills both, then measures one thing
after another, ours and Redis close together, the other one first in every second round. Ratios are taken within a
round; what is shown are medians over the rounds.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.client import KEY_BYTES, REDIS_BATCH, VALUE_BYTES, Job, write_keys
from bench.processes import (
    CLIENT_CORE,
    DHT_NODE,
    DHT_NODE_IN_MEMORY,
    NODE_IN_MEMORY,
    REDIS_DURABLE,
    REDIS_IN_MEMORY,
    REDIS_SETTINGS,
    SERVER_CORE,
    Processes,
    Start,
    System,
    build_loadgen,
    redis,
)
from bench.report import Row, Values, Wanted
from bench.rounds import Benchmark, Measurement, Phase, Round, Settings, at_least, at_most

CONNECTIONS = 50
LARGE = 100_000  # records of a batch that a client cuts into parts
PAUSE_MS_MAX = 10.0
BENCHMARK_KEYS = 100_000  # of redis-benchmark, few enough that its gets find what its sets wrote


@dataclass(frozen=True)
class DhtSettings(Settings):
    idle_s: float
    """How long the prober looks at servers that nobody else uses."""
    loadgen_requests: int
    """For 1 in flight; with 16 it is ten times as many, with a frame for each twice."""


COMPLETE = DhtSettings(5, 1_000_000, (), single_s=1.0, idle_s=1.5, loadgen_requests=100_000)
QUICK = DhtSettings(2, 100_000, (), single_s=0.25, idle_s=0.5, loadgen_requests=20_000)


class DhtRound(Round):
    def __init__(
        self, settings: DhtSettings, processes: Processes, directory: Path, values: Values, number: int
    ) -> None:
        super().__init__(processes, values, number)
        self.settings = settings
        self._loadgen = build_loadgen()
        self._keys = directory / "keys"
        if number == 1:
            write_keys(self._keys, settings.records)

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
        self.note(row, system, seen["longest"])
        self.note_spread(row, system, seen)

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


# What is measured: a row's target is the issue's, and a row without one is for information.


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
    def measure(this: DhtRound, system: System) -> None:
        server = this.servers[system]
        empty = server.private_bytes()
        this.probe(system, "insert", pause, batch=batch)
        this.note(memory, system, (server.private_bytes() - empty) / this.settings.records)

    return Measurement((memory, pause), measure)


def durable_fill(this: DhtRound, system: System) -> None:
    """Fills a server that keeps what it is given, or a node that does not; the node's figure is in two rows."""
    rate = this.client(system, "insert")["put"]
    if system != "bare":
        this.note(JOURNAL_INSERT, system, rate)
    if system != "redis":
        this.note(PRICE_BATCHES, system, rate)


def durable_batches(this: DhtRound, system: System) -> None:
    this.note(JOURNAL_BATCHES, system, this.client(system, "batches")["put"])


def batches(rows: tuple[Row, Row], **options: Any) -> Measurement:
    def measure(this: DhtRound, system: System) -> None:
        this.note_put_get(system, this.client(system, "batches", **options), *rows)

    return Measurement(rows, measure)


def one_at_a_time(this: DhtRound, system: System) -> None:
    """Ours has one connection to a node, and no pool that could be left out: one figure for both rows."""
    figures = this.client(system, "one at a time", core=SERVER_CORE)
    this.note_put_get(system, figures, *ONE_AT_A_TIME)
    if system == "redis":
        figures = this.client(system, "one at a time", core=SERVER_CORE, single_connection=True)
    this.note_put_get(system, figures, *ONE_AT_A_TIME_WITHOUT_POOL)


def read_all(this: DhtRound, system: System) -> None:
    this.note(GET_ALL, system, this.client(system, "get all")["get"])


def tasks(rows: tuple[Row, Row], count: int, core: int = CLIENT_CORE) -> Measurement:
    def measure(this: DhtRound, system: System) -> None:
        backend = "trio" if system == "ours" else "asyncio"
        this.note_put_get(system, this.client(system, "tasks", core=core, tasks=count, backend=backend), *rows)

    return Measurement(rows, measure)


def fifty_tasks(this: DhtRound, system: System) -> None:
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

    def measure(this: DhtRound, system: str) -> None:
        figures = this.load(system, operation, pipeline, 10 if pipeline > 1 else 1)
        this.note(row, system, figures["requests_per_s"])
        this.note(row, f"{system} busy", figures["busy"])

    return Measurement((row,), measure, systems)


def node_frames(row: Row, operation: str) -> Measurement:
    """A frame for each request, as a client sends them that does not gather what is asked at the same moment."""

    def measure(this: DhtRound, system: str) -> None:
        figures = this.load(system, operation, 16, 2, *(["--frame-each"] if system == "ours" else []))
        this.note(row, system, figures["requests_per_s"])
        this.note(row, f"{system} busy", figures["busy"])

    return Measurement((row,), measure)


def redis_benchmark(this: DhtRound, _: str) -> None:
    """What Redis' own tool says, to check the load generator; the sets come first, so that the gets find something."""
    for pipeline, rows in ((16, IN_FLIGHT_16), (1, IN_FLIGHT_1)):
        requests = this.settings.loadgen_requests * (10 if pipeline > 1 else 1)
        command = f"redis-benchmark -p {this.servers['redis'].port} -c {CONNECTIONS} -P {pipeline} -n {requests}"
        command += f" -d {VALUE_BYTES} -r {BENCHMARK_KEYS} -t set,get --csv"
        lines = this.processes.output(command.split()).splitlines()
        rates = {name: float(rate) for name, rate in (line.replace('"', "").split(",")[:2] for line in lines[-2:])}
        for row, name in zip(rows, ("SET", "GET"), strict=True):
            this.note(row, "redis-benchmark", rates[name])


IN_MEMORY: dict[System, Start] = {"ours": DHT_NODE_IN_MEMORY, "redis": redis(REDIS_IN_MEMORY)}
PHASES = (
    Phase(
        IN_MEMORY,
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
        fill(MEMORY, PAUSE_INSERT, REDIS_BATCH),
    ),
    Phase(
        IN_MEMORY,
        (Measurement((*IN_FLIGHT_1, *IN_FLIGHT_16), redis_benchmark, ("redis-benchmark",)),),
        fill(MEMORY_LARGE, PAUSE_INSERT_LARGE, LARGE),
    ),
    Phase(
        {"ours": DHT_NODE, "redis": redis(REDIS_DURABLE), "bare": DHT_NODE_IN_MEMORY},
        (
            Measurement((JOURNAL_BATCHES,), durable_batches),
            node(JOURNAL_1, "put", 1, ("ours", "redis")),
            node(JOURNAL_16, "put", 16, ("ours", "redis")),
            node(PRICE_1, "put", 1, ("ours", "bare")),
            node(PRICE_16, "put", 16, ("ours", "bare")),
        ),
        Measurement((JOURNAL_INSERT, PRICE_BATCHES), durable_fill, ("ours", "redis", "bare")),
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


def describe(settings: DhtSettings, neighbours: machine.Neighbours) -> dict[str, str]:
    return machine.describe(["redis", "hiredis"], Redis=machine.redis_version()) | {
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


BENCHMARK = Benchmark(
    """Measures the dht and Redis side by side.

    Figures of a complete run go to bench/results.json, those of a --quick or partial one to build/bench/results.json.
    """,
    COMPLETE,
    QUICK,
    1_000,
    PHASES,
    ROWS,
    DhtRound,
    describe,
    results="results.json",
    mark="table",
    peer_heading="Redis'",
    spread_heading="another client's gets",
)

if __name__ == "__main__":
    BENCHMARK.command()()
