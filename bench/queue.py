"""The queue beside Redis lists and beanstalkd:   python -m bench.queue   (bench/README.md says what is measured)

A round has two phases: one with a queue node and its peers, each fresh; one with a node alone, whose memory is watched
while records pass through.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine
from bench.processes import (
    CLIENT_CORE,
    REDIS_DURABLE,
    REDIS_IN_MEMORY,
    REDIS_SETTINGS,
    SERVER_CORE,
    Processes,
    Start,
    System,
    beanstalkd,
    node,
    redis,
)
from bench.queue_client import SENT_TO_WARM_UP, QueueJob
from bench.report import Row, Values, Wanted
from bench.rounds import Benchmark, Measurement, Phase, Round, Settings, at_least, at_most, beside

RING_MIB = 64
RING_BYTES = RING_MIB << 20
NODE_SETTINGS = f"[queue]\nring_bytes = {RING_MIB} MiB\n"
SMALL, LARGE = 100, 1024  # bytes of a record
LARGE_SHARE = 4  # of the small records, so many fewer large ones are in the queue at a time
EVERY_S = 0.002  # from one record of the delays to the next: nobody is busy with the one before
BEANSTALKD_RECORDS_MAX = 20_000  # in the queue at a time, since they are put one by one
FIRST_PASS = 1.25  # of the ring, until its memory is looked at for the first time: all of it was written to then

# The servers, and how they are called.
REDIS, REDIS_FILE = "Redis", "Redis AOF"
BEANSTALKD, BEANSTALKD_FILE = "beanstalkd", "beanstalkd -b"
SERVERS: dict[System, Start] = {
    "ours": node("nodes.queue", NODE_SETTINGS),
    REDIS: redis(REDIS_IN_MEMORY),
    REDIS_FILE: redis(REDIS_DURABLE),
    BEANSTALKD: beanstalkd(durable=False),
    BEANSTALKD_FILE: beanstalkd(durable=True),
}
ALL = tuple(SERVERS)
OURS_AND_REDIS = ("ours", REDIS, REDIS_FILE)
OURS_AND_BEANSTALKD = ("ours", BEANSTALKD, BEANSTALKD_FILE)


@dataclass(frozen=True)
class QueueSettings(Settings):
    sent: int
    """Records of each measurement of delays."""
    passed: int
    """Records that pass through the ring whose memory is looked at."""

    def count(self, value_bytes: int) -> int:
        """Of records that are in the queue at a time."""
        return self.records if value_bytes == SMALL else self.records // LARGE_SHARE


COMPLETE = QueueSettings(5, 200_000, (), single_s=1.0, sent=2_000, passed=10_000_000)
QUICK = QueueSettings(2, 20_000, (), single_s=0.25, sent=200, passed=2_000_000)


class QueueRound(Round):
    def __init__(
        self, settings: QueueSettings, processes: Processes, directory: Path, values: Values, number: int
    ) -> None:
        super().__init__(processes, values, number)
        self.settings = settings

    def job(self, system: System, work: str, value_bytes: int, **options: Any) -> QueueJob:
        client = {REDIS: "redis", REDIS_FILE: "redis", BEANSTALKD: "beanstalkd", BEANSTALKD_FILE: "beanstalkd"}
        settings = {"records": self.settings.count(value_bytes), "seconds": self.settings.single_s} | options
        return QueueJob(work, client.get(system, "ours"), self.servers[system].port, value_bytes, **settings)

    def client(
        self, system: System, work: str, value_bytes: int, *, core: int = CLIENT_CORE, **options: Any
    ) -> dict[str, float]:
        return self.processes.client(self.job(system, work, value_bytes, **options), core)


# What is measured.


def size_text(value_bytes: int) -> str:
    return f"{value_bytes} B" if value_bytes < 1024 else f"{value_bytes >> 10} KiB"


def batches(value_bytes: int, wanted: tuple[Wanted | None, Wanted | None]) -> Measurement:
    """wanted: beside Redis, and with its append-only file."""
    size = size_text(value_bytes)
    rows = [
        beside(f"blocking: {ours}_many of 1,000, {size}", {REDIS: (does, wanted[0]), REDIS_FILE: (does, wanted[1])})
        for ours, does in (("push", "redis-py, LPUSH of 1,000"), ("pop", "redis-py, RPOP of 1,000"))
    ]

    def measure(this: QueueRound, system: System) -> None:
        figures = this.client(system, "batches", value_bytes)
        this.note_all(rows[0], system, figures["push"])
        this.note_all(rows[1], system, figures["pop"])

    return Measurement((*rows[0], *rows[1]), measure, OURS_AND_REDIS)


def one_at_a_time(value_bytes: int) -> Measurement:
    rows = [
        beside(
            f"blocking: {ours}, one at a time, same core, {size_text(value_bytes)}",
            {
                REDIS: (f"redis-py, {of_redis}", at_least(1.2)),
                REDIS_FILE: (f"redis-py, {of_redis}", None),
                BEANSTALKD: (f"greenstalk, {of_beanstalkd}", at_least(1)),
                BEANSTALKD_FILE: (f"greenstalk, {of_beanstalkd}", None),
            },
        )
        for ours, of_redis, of_beanstalkd in (("push", "RPUSH", "put"), ("pop", "LPOP", "reserve, delete"))
    ]

    def measure(this: QueueRound, system: System) -> None:
        figures = this.client(system, "one at a time", value_bytes, core=SERVER_CORE)
        this.note_all(rows[0], system, figures["push"])
        this.note_all(rows[1], system, figures["pop"])

    return Measurement((*rows[0], *rows[1]), measure, ALL)


def pipelined(value_bytes: int) -> Measurement:
    does = "redis-py, pipeline of 1,000 LPUSH"
    rows = beside(f"blocking: produce, {size_text(value_bytes)}", {REDIS: (does, None), REDIS_FILE: (does, None)})

    def measure(this: QueueRound, system: System) -> None:
        this.note_all(rows, system, this.client(system, "pipelined", value_bytes)["push"])

    return Measurement(rows, measure, OURS_AND_REDIS)


def consume(value_bytes: int, core: int) -> Measurement:
    """Wanted on both pinnings: where every record takes two round trips, one core is beanstalkd's better one."""
    does = "greenstalk, reserve, delete"
    where = "same core, " if core == SERVER_CORE else ""
    rows = beside(
        f"blocking: consume, each acknowledged, {where}{size_text(value_bytes)}",
        {BEANSTALKD: (does, at_least(10)), BEANSTALKD_FILE: (does, None)},
    )

    def measure(this: QueueRound, system: System) -> None:
        records = this.settings.count(value_bytes)
        records = records if system == "ours" else min(records, BEANSTALKD_RECORDS_MAX)
        figures = this.client(system, "consume", value_bytes, core=core, records=records)
        this.note_all(rows, system, figures["consume"])

    return Measurement(rows, measure, OURS_AND_BEANSTALKD)


def delays(name: str, ours: str) -> Measurement:
    """From push to a client that waits, by the work ours; the peers' waiting is what it is."""
    brpop, reserve = "redis-py, BRPOP", "greenstalk, reserve"
    peers = {BEANSTALKD: (reserve, None), BEANSTALKD_FILE: (reserve, None), REDIS_FILE: (brpop, None)}
    medians = beside(f"delay: median, {name}", {REDIS: (brpop, at_most(1)), **peers}, "µs")
    late = beside(f"delay: 99%, {name}", {REDIS: (brpop, None), **peers}, "µs")
    medians = (replace(medians[0], spread_name=name), *medians[1:])

    def measure(this: QueueRound, system: System) -> None:
        work = {"ours": ours, REDIS: "receive", REDIS_FILE: "receive"}.get(system, "receive by consume")
        options: dict[str, Any] = {"records": this.settings.sent, "every_s": EVERY_S}
        with this.processes.prober(this.job(system, work, SMALL, **options)) as receiver:
            this.client(system, "send", SMALL, **options)
            seen = receiver.finish(0, 0)
        this.note_all(medians, system, 1e3 * seen["50%"])
        this.note_all(late, system, 1e3 * seen["99%"])
        this.note_spread(medians[0], system, seen)

    return Measurement((*medians, *late), measure, ALL)


GROWTH = Row("memory: private, what came to it", "MiB", "the ring", at_most(1.1), against="the ring")
STEADY = {
    kind: Row(
        f"memory: {kind}, at the end", "MiB", "after the first round of the ring", at_most(1.02), against="before"
    )
    for kind in ("private", "resident")
}


def memory(this: QueueRound, system: System) -> None:
    server = this.servers[system]
    empty = server.private_bytes()
    first = int(FIRST_PASS * RING_BYTES / SMALL)
    this.client(system, "pass through", SMALL, records=first)
    before = {"private": server.private_bytes(), "resident": server.resident_bytes()}
    this.client(system, "pass through", SMALL, records=this.settings.passed - first)
    after = {"private": server.private_bytes(), "resident": server.resident_bytes()}
    this.note(GROWTH, "ours", (after["private"] - empty) / 2**20)
    this.note(GROWTH, "the ring", RING_MIB)
    for kind, row in STEADY.items():
        this.note(row, "ours", after[kind] / 2**20)
        this.note(row, "before", before[kind] / 2**20)


MEASUREMENTS = (
    batches(SMALL, (None, None)),
    batches(LARGE, (at_least(1), at_least(1.5))),
    one_at_a_time(SMALL),
    one_at_a_time(LARGE),
    pipelined(SMALL),
    pipelined(LARGE),
    *(consume(value_bytes, core) for value_bytes in (SMALL, LARGE) for core in (CLIENT_CORE, SERVER_CORE)),
    delays("pop with wait", "receive"),
    delays("consume", "receive by consume"),
)
PHASES = (
    Phase(SERVERS, MEASUREMENTS),
    Phase({"ours": SERVERS["ours"]}, (Measurement((GROWTH, *STEADY.values()), memory, ("ours",)),)),
)
ROWS = tuple(row for phase in PHASES for each in phase.rest for row in each.rows)


def describe(settings: QueueSettings, neighbours: machine.Neighbours) -> dict[str, str]:
    packages = ["redis", "hiredis", "greenstalk"]
    peers = {"Redis": machine.redis_version(), "beanstalkd": machine.beanstalkd_version()}
    return machine.describe(packages, **peers) | {
        "settings": f"{settings.count(SMALL):,} records of {size_text(SMALL)}, {settings.count(LARGE):,} of "
        f"{size_text(LARGE)} in the queue at a time; {settings.sent:,} for each delay, one every {EVERY_S * 1e3:g} ms, "
        f"after {SENT_TO_WARM_UP} to warm up; {settings.passed:,} for the memory; medians of {settings.rounds} rounds",
        "the clients' settings": "their defaults, but for a timeout of 30 s of ours",
        "Redis' settings": " ".join(each or '""' for each in REDIS_SETTINGS + REDIS_IN_MEMORY) + ", else its defaults",
        "Redis AOF": "with an append-only file: " + " ".join(REDIS_DURABLE),
        "beanstalkd's settings": "its defaults; -b: with a write-ahead log, which it syncs every 50 ms",
        "the node's settings": f"a ring of {RING_MIB} MiB, else its defaults",
        "pinning": f"servers on core {SERVER_CORE}, clients on core {CLIENT_CORE}; same core: both on {SERVER_CORE}",
        "the receiver's priority": machine.prober_priority(),
        "files": machine.file_system(Path(tempfile.gettempdir())),
        "the machine meanwhile": neighbours.describe(),
    }


BENCHMARK = Benchmark(
    """Measures the queue beside Redis lists and beanstalkd.

    Figures of a complete run go to bench/queue.json, those of a --quick or partial one to build/bench/queue.json.
    """,
    COMPLETE,
    QUICK,
    4_000,
    PHASES,
    ROWS,
    QueueRound,
    describe,
    results="queue.json",
    mark="queue",
    peer_heading="the peer's",
    spread_heading="delay of a record",
)

if __name__ == "__main__":
    BENCHMARK.command()()
