"""Dumps and start-up of a dht node:   python -m bench.restart   (bench/README.md says what is measured, and how)

For each size of the store:

    fill ──► kill -9 ──► start from the journal alone                                (stores up to JOURNAL_RECORDS_MAX)
    fill ──► gets, nobody else ──► gets beside dhtdump --oneshot ──► kill -9 ──► start from the dump
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console

from bench import machine
from bench.client import KEY_BYTES, PERCENTILES, VALUE_BYTES, VALUES, Job, write_keys
from bench.processes import (
    BUILD,
    CLIENT_CORE,
    ROOT,
    SERVER_CORE,
    BenchError,
    Processes,
    Server,
    check_cores,
    exit_on_sigterm,
)
from bench.report import MET, Cells, Shown, amount, summary, write_json

README = ROOT / "bench" / "README.md"
RESULTS = ROOT / "bench" / "restart.json"
RESULTS_PARTIAL = BUILD / "restart.json"

SIZES = (1_000_000, 10_000_000)
BATCH = 100_000  # records that the store is filled with at a time
JOURNAL_RECORDS_MAX = 1_000_000  # with more, a node has had a dump long since: the journal alone is not what it meets
SETTLE_S = 2.0  # after filling: the node syncs its journal every second
IDLE_S = 5.0  # of gets while nobody else does anything
GET_EVERY_S = (
    0.001  # in a row, gets would take so much of node and core that the dump is slow, and little of it is seen
)
SAMPLE_S = 0.05  # between two looks at dhtdump's memory
TABLE_WIDTH = 120  # where standard output is no terminal
START_MAX_S = 300.0  # a node that is not up by then never will be; far above what is wanted

MEMORY_BASE = 256 << 20  # of all processes without records
MEMORY_RECORD = 400  # bytes of memory that a record takes at most
DISK_RECORD = 300  # bytes of disk: in the journal and in the dump

# What is wanted; a size that is not here is for information.
START_S = {1_000_000: 2.0, 10_000_000: 20.0}
GETS_MS = {10_000_000: 10.0}
PRIVATE_MIB = 60.0

# What the node says about the records that it has loaded, and how long it took.
LOADED = re.compile(r"loaded \d+ channels with (\d+) records from .* in ([\d.]+) s")
REPLAYED = re.compile(r"the journal is replayed: \d+ MiB, (\d+) records written, .* in ([\d.]+) s")


@dataclass(frozen=True)
class Figure:
    name: str
    records: int
    value: float
    unit: str
    wanted: float | None = None
    """The most that it may be; None: for information."""

    @property
    def met(self) -> bool | None:
        return None if self.wanted is None else self.value <= self.wanted

    def cells(self) -> list[str]:
        wanted = "" if self.wanted is None else f"≤ {amount(self.wanted, self.unit)}"
        return [self.name, f"{self.records:,}", amount(self.value, self.unit), wanted, MET[self.met]]


@dataclass(frozen=True)
class Gets:
    """The times of another client's gets, in ms, and their number."""

    meanwhile: str
    records: int
    figures: dict[str, float]

    def cells(self) -> list[str]:
        times = [amount(self.figures[name], "ms") for name in (*(f"{share:g}%" for share in PERCENTILES), "longest")]
        return [self.meanwhile, f"{self.records:,}", f"{self.figures['number']:,.0f}", *times]


class Size:
    """What is measured with a store of so many records; figures and gets are written on the way."""

    def __init__(self, processes: Processes, directory: Path, records: int) -> None:
        self.figures: list[Figure] = []
        self.gets: list[Gets] = []
        self._processes = processes
        self._directory = directory
        self._records = records
        self._keys = directory / "keys"
        self._probed = directory / "probed"  # the first of them: the prober is to read no more

    def run(self) -> None:
        write_keys(self._keys, self._records)
        write_keys(self._probed, VALUES)
        if self._records <= JOURNAL_RECORDS_MAX:
            self._start_from_journal()
        self._dump_and_start()

    def _start_from_journal(self) -> None:
        data = self._directory / "journal-only"
        with self._filled(data) as node:
            node.kill()
        self._restart(data, "the journal alone", REPLAYED)

    def _dump_and_start(self) -> None:
        data = self._directory / "dumped"
        with self._filled(data) as node:
            self._probe_idle(node)
            self._probe_dump(node, data / "dump")
            node.kill()
        self._restart(data, "its dump", LOADED)

    @contextmanager
    def _filled(self, data: Path) -> Iterator[Server]:
        with self._processes.node_on(data) as node:
            self._say("filling a node")
            self._processes.client(Job("fill", "ours", node.port, str(self._keys), batch=BATCH), CLIENT_CORE)
            time.sleep(SETTLE_S)
            yield node

    def _probe_idle(self, node: Server) -> None:
        self._say("gets, nobody else")
        with self._processes.prober(self._probe(node)) as prober:
            begin_ns = time.monotonic_ns()
            time.sleep(IDLE_S)
            self._note_gets("nobody else", prober.finish(begin_ns, time.monotonic_ns()))

    def _probe_dump(self, node: Server, dump_dir: Path) -> None:
        self._say("gets while dhtdump reads")
        command = [sys.executable, "-m", "dhtdump", "--oneshot", "--node", f"127.0.0.1:{node.port}"]
        with self._processes.prober(self._probe(node)) as prober:
            dump = self._processes.watched([*command, "--dump-dir", str(dump_dir)], SAMPLE_S)
            seen = prober.finish(dump.begin_ns, dump.end_ns)
        self._note_gets("dhtdump", seen)
        self._note("dhtdump --oneshot, beside the gets", (dump.end_ns - dump.begin_ns) / 1e9, "s")
        self._note("dhtdump: largest private memory", dump.private_bytes_max / 2**20, "MiB", PRIVATE_MIB)
        self._note("another client's gets beside dhtdump, 99.9%", seen["99.9%"], "ms", GETS_MS.get(self._records))

    def _restart(self, data: Path, source: str, told: re.Pattern[str]) -> None:
        """told: what the node's log says, and only this time, when it has loaded all records."""
        self._say(f"start from {source}")
        begun = time.monotonic()
        with self._processes.node_on(data, start_s=START_MAX_S):
            up_s = time.monotonic() - begun
        found = told.findall((data / "root.log").read_text(encoding="utf-8"))
        if [int(loaded) for loaded, _ in found] != [self._records]:
            raise BenchError(
                f"{self._records} records were written; of {source} the node's log tells (records, s) {found}"
            )
        loading_s = found[0][1]
        self._note(f"start from {source}", up_s, "s", START_S.get(self._records))
        self._note(f"start from {source}: loading, by the node's log", float(loading_s), "s")

    def _probe(self, node: Server) -> Job:
        return Job("probe", "ours", node.port, str(self._probed), every_s=GET_EVERY_S)

    def _note(self, name: str, value: float, unit: str, wanted: float | None = None) -> None:
        self.figures.append(Figure(name, self._records, value, unit, wanted))

    def _note_gets(self, meanwhile: str, figures: dict[str, float]) -> None:
        self.gets.append(Gets(meanwhile, self._records, figures))

    def _say(self, what: str) -> None:
        print(f"{self._records:,} records: {what}", file=sys.stderr, flush=True)


FIGURE_HEADINGS = ["", "records", "measured", "wanted", "met"]
GETS_HEADINGS = [
    "another client's gets beside",
    "records",
    "number",
    *(f"{share:g}%" for share in PERCENTILES),
    "longest",
]


@dataclass(frozen=True)
class Report:
    facts: dict[str, str]
    sizes: list[Size]

    @property
    def figures(self) -> list[Figure]:
        return [figure for size in self.sizes for figure in size.figures]

    @property
    def gets(self) -> list[Gets]:
        return [gets for size in self.sizes for gets in size.gets]

    def shown(self) -> Shown:
        tables: list[Cells] = [
            (FIGURE_HEADINGS, [figure.cells() for figure in self.figures], {0}),
            (GETS_HEADINGS, [gets.cells() for gets in self.gets], {0}),
        ]
        return Shown(self.facts, summary([figure.met for figure in self.figures]), tables)

    def write_json(self, path: Path) -> None:
        figures = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        write_json(path, {"facts": self.facts, "figures": figures, "gets": [asdict(gets) for gets in self.gets]})


def check_room(records: int) -> None:
    """That the largest store has room. Raises BenchError."""
    directory = Path(tempfile.gettempdir())
    for what, needed, there, remedy in (
        ("memory", MEMORY_BASE + records * MEMORY_RECORD, machine.available_memory(), ""),
        (f"disk in {directory}", records * DISK_RECORD, shutil.disk_usage(directory).free, "set TMPDIR, or "),
    ):
        if there < needed:
            raise BenchError(
                f"{records:,} records need {needed / 2**30:.1f} GiB of {what}, there are {there / 2**30:.1f}: "
                f"{remedy}measure less, such as --records {SIZES[0]}"
            )


def measure(sizes: list[int]) -> list[Size]:
    measured = []
    for records in sizes:
        with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name, Processes(Path(name)) as processes:
            size = Size(processes, Path(name), records)
            size.run()
            measured.append(size)
    return measured


def describe(sizes: list[int], neighbours: machine.Neighbours) -> dict[str, str]:
    return machine.describe([]) | {
        "settings": f"{' and '.join(f'{each:,}' for each in sizes)} records, keys of {KEY_BYTES} bytes, "
        f"values of {VALUE_BYTES}; a get every {GET_EVERY_S * 1e3:g} ms; once each",
        "the settings of node, dhtdump and clients": "their defaults, but for the clients' timeout of 30 s",
        "pinning": f"the node on core {SERVER_CORE}, dhtdump and clients on core {CLIENT_CORE}",
        "the prober's priority": machine.prober_priority(),
        "files": f"{machine.file_system(Path(tempfile.gettempdir()))}; when a node starts, they are in the page cache",
        "the machine meanwhile": neighbours.describe(),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--records",
    "sizes",
    multiple=True,
    type=click.IntRange(VALUES),
    help=f"Records of a store. May be repeated.  [{' and '.join(map(str, SIZES))}]",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help=f"Where the figures go.  [{RESULTS.name}]")
@click.option("--write-readme", is_flag=True, help="Puts the table into bench/README.md.")
def main(sizes: tuple[int, ...], json_file: Path | None, write_readme: bool) -> None:
    """Measures dumps and start-up of a dht node.

    Figures of a complete run, which is one without --records, go to bench/restart.json, others to
    build/bench/restart.json.
    """
    exit_on_sigterm()
    wanted = sorted(set(sizes or SIZES))
    complete = wanted == sorted(SIZES)
    if write_readme and not complete:
        raise click.UsageError("--write-readme needs a complete run: without --records")
    try:
        check_cores()
        check_room(max(wanted))
        machine.warn_of_others()
        os.sched_setaffinity(0, {CLIENT_CORE})  # looking at dhtdump's memory shall not take time from the node
        neighbours = machine.Neighbours()
        measured = measure(wanted)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    report = Report(describe(wanted, neighbours), measured)
    shown = report.shown()
    shown.print(Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
    report.write_json(json_file or (RESULTS if complete else RESULTS_PARTIAL))
    if write_readme:
        shown.write_readme(README, "restart")


if __name__ == "__main__":
    main()
