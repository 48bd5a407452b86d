"""Logfiles beside SQLite, Redis streams and DuckDB:   python -m bench.logfiles   (bench/README.md says what is
measured)

A round has two phases: one with a node that seals nothing, one that seals at once, and their peers, each filled with
the same records; one that starts nodes, which were killed, on a small store and on a large one.
"""

import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench import machine
from bench.log_lines import PART
from bench.logfiles_client import DUCKDB_SETTINGS, SQLITE_SETTINGS, LogJob
from bench.processes import (
    CLIENT_CORE,
    REDIS_IN_MEMORY,
    REDIS_SETTINGS,
    SERVER_CORE,
    BenchError,
    Processes,
    Start,
    System,
    node,
    redis,
)
from bench.report import Row, Values, Wanted
from bench.rounds import Benchmark, Measurement, Peers, Phase, Round, Settings, at_least, at_most, beside

# The systems. Two of them are files of the client's.
REDIS, SQLITE, DUCKDB = "Redis", "SQLite", "DuckDB"
SEALED: System = "sealed"  # ours too: another node with the same records, all of them in buckets that are sealed
SERVERS: dict[System, Start] = {
    "ours": node("nodes.logfiles", "[store]\nseal_after = 1 d\n"),
    SEALED: node("nodes.logfiles", "[store]\nseal_after = 1 s\n"),
    REDIS: redis(REDIS_IN_MEMORY),
}
EMBEDDED = (SQLITE, DUCKDB)
ALL = ("ours", SEALED, SQLITE, REDIS, DUCKDB)
RAW = "the values"  # what they take as they are

REST_S = 0.5  # a node that has written nothing for so long has made blocks of what it can
SEAL_S = 600.0  # sealing the large store takes a fifth of it
LOOK_S = 0.1
LINE_BYTES = 210  # of a record, at most, for the room that is needed
DISK_SHARE = 0.7  # of the large store's lines: lz4 and, before that is removed, zstd
DISK_PEERS_SHARE = 2.5  # of the small store's lines, of all files of the other phase
ROWS_BEHIND = 1_000  # that the stores which are started have in a tail


@dataclass(frozen=True)
class LogSettings(Settings):
    large: int
    """Records of the large store that nodes are started on; the small one has `records`."""

    @property
    def disk_bytes(self) -> int:
        large = self.large if any(map(self.shows, START_ROWS)) else 0
        return int(LINE_BYTES * (self.records * DISK_PEERS_SHARE + large * DISK_SHARE))


COMPLETE = LogSettings(5, 1_000_000, (), single_s=1.0, large=20_000_000)
QUICK = LogSettings(2, 20_000, (), single_s=0.2, large=100_000)


class LogRound(Round):
    def __init__(
        self, settings: LogSettings, processes: Processes, directory: Path, values: Values, number: int
    ) -> None:
        super().__init__(processes, values, number)
        self.settings = settings
        self.directory = directory
        self.raw_bytes = 0.0
        if number == 1:
            check_room(settings.disk_bytes, directory)

    def note_all(self, rows: tuple[Row, ...], system: System, value: float) -> None:
        """Both of our nodes are ours."""
        super().note_all(rows, "ours" if system == SEALED else system, value)

    def client(self, system: System, work: str) -> dict[str, float]:
        program = "ours" if system == SEALED else system
        port = 0 if system in EMBEDDED else self.servers[system].port
        path = str(self.directory / system) if system in EMBEDDED else ""
        lines = str(self.directory / "lines")
        job = LogJob(work, program, self.settings.records, port, path, seconds=self.settings.single_s, lines=lines)
        return self.processes.client(job, CLIENT_CORE)


def check_room(needed: int, directory: Path) -> None:
    there = shutil.disk_usage(directory).free
    if there < needed:
        raise BenchError(
            f"{needed / 2**30:.1f} GiB of disk are needed in {directory.parent}, there are {there / 2**30:.1f}: "
            "set TMPDIR, or measure less, such as --quick"
        )


def files_of(directory: Path) -> list[Path]:
    """Of a node: those of its records."""
    return [each for each in (directory / "channels").rglob("*") if each.is_file()]


def disk_bytes(files: list[Path]) -> int:
    """What they take, which is more than their lengths where room was allocated ahead."""
    return sum(each.stat().st_blocks * 512 for each in files)


def wait_until_at_rest(directory: Path) -> None:
    before: list[tuple[Path, int]] = []
    looked = 0
    while looked * LOOK_S < REST_S:
        time.sleep(LOOK_S)
        now = [(each, each.stat().st_size) for each in files_of(directory)]
        looked = looked + 1 if now == before else 0
        before = now


def wait_until_sealed(directory: Path) -> None:
    give_up = time.monotonic() + SEAL_S
    while {each.suffix for each in files_of(directory)} != {".sealed"}:
        if time.monotonic() > give_up:
            raise BenchError(f"not sealed after {SEAL_S:g} s: {directory}")
        time.sleep(LOOK_S)


# What is measured.

PUT_ROWS = beside(
    "put: put_many of 1,000",
    {
        SQLITE: ("1,000 INSERTs a transaction", at_least(3)),
        REDIS: ("redis-py, pipeline of 1,000 XADD", at_least(8)),
        DUCKDB: ("INSERT of 1,000", None),
    },
)


def put(this: LogRound, system: System) -> None:
    figures = this.client(system, "append")
    this.raw_bytes = figures["raw"]
    if system == SEALED:
        wait_until_sealed(this.servers[system].directory)
        return
    if system == "ours":
        wait_until_at_rest(this.servers[system].directory)
    this.note_all(PUT_ROWS, system, figures["append"])


def reading(name: str, work: str, figure: str, peers: Peers) -> Measurement:
    """Rows for each of our nodes, beside the same figures of the peers."""
    fresh, sealed = beside(f"read: {name}", peers), beside(f"sealed: {name}", peers)

    def measure(this: LogRound, system: System) -> None:
        value = this.client(system, work)[figure]
        for rows, ours in ((fresh, "ours"), (sealed, SEALED)):
            if system == ours or system not in ("ours", SEALED):
                this.note_all(rows, system, value)

    return Measurement((*fresh, *sealed), measure, ("ours", SEALED, *peers))


def disk_rows(name: str, wanted: Wanted) -> tuple[Row, ...]:
    peers: Peers = {RAW: ("the values as they are", wanted), SQLITE: ("its file", None), DUCKDB: ("its file", None)}
    return beside(f"disk: {name}", peers, "MiB")


DISK_ROWS = {"ours": disk_rows("before sealing", at_most(0.55)), SEALED: disk_rows("once sealed", at_most(0.3))}


def disk(this: LogRound, system: System) -> None:
    if system == RAW:
        taken = this.raw_bytes
    elif system in EMBEDDED:
        taken = disk_bytes(list(this.directory.glob(f"{system}*")))
    else:
        taken = disk_bytes(files_of(this.servers[system].directory))
    for ours, rows in DISK_ROWS.items():
        if system == ours or system not in DISK_ROWS:
            this.note_all(rows, system, taken / 2**20)


START_S = Row("start: until it serves, the large store", "s", "the small store", at_most(1.1), "small")
START_MIB = Row("start: private memory, the large store", "MiB", "the small store", at_most(1.1), "small")
READ_MIB = Row(
    "start: private memory when records of the newest bucket were read", "MiB", "the small store", None, "small"
)
START_ROWS = (START_S, START_MIB, READ_MIB)


def start(this: LogRound, system: System) -> None:
    """ours: the large store."""
    directory = this.directory / f"start-{system}"
    count = this.settings.large if system == "ours" else this.settings.records
    if not directory.exists():
        fill(this.processes, directory, count)
    begun = time.monotonic()
    with this.processes.node_on(directory, SERVERS["ours"]) as server:
        this.note(START_S, system, time.monotonic() - begun)
        this.note(START_MIB, system, server.private_bytes() / 2**20)
        job = LogJob("read newest", "ours", ROWS_BEHIND, server.port, first=count)
        this.processes.client(job, CLIENT_CORE)
        this.note(READ_MIB, system, server.private_bytes() / 2**20)
        server.kill()


def fill(processes: Processes, directory: Path, count: int) -> None:
    """Everything is sealed but some records in a tail, and the node is killed."""
    with processes.node_on(directory, SERVERS[SEALED]) as server:
        for first in range(0, count, PART):
            processes.client(LogJob("append", "ours", min(PART, count - first), server.port, first=first), CLIENT_CORE)
        wait_until_sealed(directory)
    with processes.node_on(directory, SERVERS["ours"]) as server:
        processes.client(LogJob("append", "ours", ROWS_BEHIND, server.port, first=count), CLIENT_CORE)
        server.kill()


MEASUREMENTS = (
    reading(
        "full range, block by block",
        "read",
        "read",
        {
            SQLITE: ("SELECT, fetchall", at_least(1.3)),
            REDIS: ("redis-py, XRANGE of 1,000", None),
            DUCKDB: ("SELECT, fetchall", None),
        },
    ),
    reading(
        "full range, record by record",
        "read each",
        "read",
        {
            SQLITE: ("SELECT, iterating", at_least(0.8)),
            REDIS: ("redis-py, XRANGE of 1,000", None),
            DUCKDB: ("SELECT, fetchmany of 1,000", None),
        },
    ),
    reading(
        "1 % of the range",
        "read part",
        "read",
        {
            SQLITE: ("SELECT by its index, fetchall", at_least(1)),
            REDIS: ("redis-py, XRANGE of 1,000", None),
            DUCKDB: ("SELECT, fetchall", None),
        },
    ),
    reading(
        "records looked through, substring in 0.1 %",
        "find",
        "find",
        {SQLITE: ("LIKE '%…%'", at_least(3)), DUCKDB: ("LIKE '%…%'", None)},
    ),
    Measurement((*DISK_ROWS["ours"], *DISK_ROWS[SEALED]), disk, ("ours", SEALED, SQLITE, DUCKDB, RAW)),
)
PHASES = (
    Phase(SERVERS, MEASUREMENTS, fill=Measurement(PUT_ROWS, put, ALL)),
    Phase({}, (Measurement(START_ROWS, start, ("ours", "small")),)),
)
ROWS = PUT_ROWS + tuple(row for phase in PHASES for each in phase.rest for row in each.rows)


def describe(settings: LogSettings, neighbours: machine.Neighbours) -> dict[str, str]:
    packages = ["zstandard", "google-re2", "redis", "hiredis", "duckdb"]
    peers = {"SQLite": sqlite3.sqlite_version, "Redis": machine.redis_version(), "DuckDB": version("duckdb")}
    return machine.describe(packages, **peers) | {
        "settings": f"{settings.records:,} records of some 200 bytes (bench/log_lines.py), a million an hour; for the "
        f"start stores of {settings.records:,} and {settings.large:,}; medians of {settings.rounds} rounds",
        "the clients' settings": "their defaults, but for a timeout of 30 s of ours",
        "the nodes' settings": "seal_after 1 d, so that nothing is sealed while it is measured; once sealed: 1 s; else "
        "the defaults, so what was put is synced every second",
        "SQLite's settings": f"{', '.join(SQLITE_SETTINGS)}, an index on the time",
        "Redis' settings": " ".join(each or '""' for each in REDIS_SETTINGS + REDIS_IN_MEMORY) + ", else its defaults",
        "DuckDB's settings": f"{', '.join(DUCKDB_SETTINGS)}; it syncs each transaction",
        "pinning": f"servers on core {SERVER_CORE}, clients, and with them SQLite and DuckDB, on core {CLIENT_CORE}",
        "files": machine.file_system(Path(tempfile.gettempdir())) + "; what is read is in the page cache",
        "the machine meanwhile": neighbours.describe(),
    }


BENCHMARK = Benchmark(
    f"""Measures logfiles beside SQLite, Redis streams and DuckDB.

    A complete run needs {COMPLETE.disk_bytes / 2**30:.1f} GiB of disk in TMPDIR. Its figures go to bench/logfiles.json,
    those of a --quick or partial one to build/bench/logfiles.json.
    """,
    COMPLETE,
    QUICK,
    1_000,
    PHASES,
    ROWS,
    LogRound,
    describe,
    results="logfiles.json",
    mark="logfiles",
    peer_heading="the peer's",
    spread_heading="",
)

if __name__ == "__main__":
    BENCHMARK.command()()
