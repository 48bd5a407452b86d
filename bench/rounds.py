"""What the benchmarks beside peers share: rounds, the order in them, the command line.

A round has phases, each with fresh servers. A phase may fill them first; then it measures one thing after another, ours
and the peers close together, in the opposite order in every second round.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine
from bench.processes import (
    BUILD,
    ROOT,
    BenchError,
    Processes,
    Server,
    Start,
    System,
    check_cores,
    exit_on_sigterm,
)
from bench.report import Report, Row, Values, Wanted, judge

README = ROOT / "bench" / "README.md"
TABLE_WIDTH = 180  # where standard output is no terminal


def at_least(ratio: float) -> Wanted:
    return Wanted("at least", ratio)


def at_most(ratio: float) -> Wanted:
    return Wanted("at most", ratio)


Peers = Mapping[System, tuple[str, Wanted | None]]
"""By the peer's name what it does, and what is wanted of ours beside it."""


def beside(name: str, peers: Peers, unit: Any = "/s") -> tuple[Row, ...]:
    """A row for each peer."""
    return tuple(Row(f"{name}, beside {peer}", unit, does, wanted, peer) for peer, (does, wanted) in peers.items())


@dataclass(frozen=True)
class Settings:
    rounds: int
    records: int
    only: tuple[str, ...]
    single_s: float
    """How long each measurement of single requests by a Python client lasts."""

    def shows(self, row: Row) -> bool:
        return not self.only or any(row.name.casefold().startswith(prefix.casefold()) for prefix in self.only)


class Round:
    """One round, while its servers run; the measurements write their figures into values."""

    def __init__(self, processes: Processes, values: Values, number: int) -> None:
        self.processes = processes
        self.number = number
        self.servers: dict[System, Server] = {}
        self._values = values

    def note(self, row: Row, series: str, value: float) -> None:
        self._values.setdefault(row.name, {}).setdefault(series, []).append(value)

    def note_all(self, rows: tuple[Row, ...], system: System, value: float) -> None:
        """Of rows that compare ours with one peer each, in those that the system is in."""
        for row in rows:
            if system in ("ours", row.against):
                self.note(row, system, value)

    def note_spread(self, row: Row, system: System, figures: dict[str, float]) -> None:
        """How times are spread, for the table of that: number, percentiles, longest."""
        for name, value in figures.items():
            self.note(row, f"{system} {name}", value)


ThisRound = TypeVar("ThisRound", bound=Round)


@dataclass(frozen=True)
class Measurement:
    rows: tuple[Row, ...]
    measure: Callable[[Any, Any], None]
    """Called with the round for each of the systems."""
    systems: tuple[str, ...] = ("ours", "redis")


@dataclass(frozen=True)
class Phase:
    servers: dict[System, Start]
    rest: tuple[Measurement, ...]
    fill: Measurement | None = None
    """Fills the servers; runs whenever the phase does."""

    def measurements(self, settings: Settings) -> list[Measurement]:
        """What is to run for the rows that are asked for."""
        rest = [each for each in self.rest if any(map(settings.shows, each.rows))]
        if self.fill is None:
            return rest
        return [self.fill, *rest] if rest or any(map(settings.shows, self.fill.rows)) else []


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


TheseSettings = TypeVar("TheseSettings", bound=Settings)


@dataclass(frozen=True)
class Benchmark(Generic[TheseSettings]):
    """All that a benchmark beside peers is."""

    help: str
    complete: TheseSettings
    quick: TheseSettings
    records_min: int
    phases: tuple[Phase, ...]
    rows: tuple[Row, ...]
    """In the order in which they are shown."""
    round: Callable[[TheseSettings, Processes, Path, Values, int], Round]
    """Of settings, processes, a directory for its own files, values, number; before any server runs."""
    describe: Callable[[TheseSettings, machine.Neighbours], dict[str, str]]
    results: str
    """Name of the file that the figures go to."""
    mark: str
    """Of the table in bench/README.md."""
    peer_heading: str
    spread_heading: str
    """Of the first column in the table of how times are spread."""

    def command(self) -> click.Command:
        @click.command(help=self.help, context_settings={"help_option_names": ["-h", "--help"]})
        @click.option("--rounds", type=click.IntRange(1), help=f"How often all is measured.  [{self.complete.rounds}]")
        @click.option("--records", type=click.IntRange(self.records_min), help=f"[{self.complete.records}]")
        @click.option("--quick", is_flag=True, help=f"Short: {self.quick.rounds} rounds, {self.quick.records} records.")
        @click.option("--only", multiple=True, metavar="PREFIX", help="Only rows that begin so. May be repeated.")
        @click.option("--json", "file", type=click.Path(path_type=Path), help=f"For the figures.  [{self.results}]")
        @click.option("--write-readme", is_flag=True, help="Puts the table into bench/README.md.")
        def main(
            rounds: int | None,
            records: int | None,
            quick: bool,
            only: tuple[str, ...],
            file: Path | None,
            write_readme: bool,
        ) -> None:
            base = self.quick if quick else self.complete
            settings = replace(base, rounds=rounds or base.rounds, records=records or base.records, only=only)
            self._run(settings, file, write_readme)

        return main

    def _run(self, settings: TheseSettings, file: Path | None, write_readme: bool) -> None:
        exit_on_sigterm()
        most = max(settings.rounds, self.complete.rounds)
        complete = settings in (self.complete, replace(self.complete, rounds=most))
        if write_readme and not complete:
            raise click.UsageError(
                f"--write-readme needs a complete run: all rows, {self.complete.rounds} rounds at least"
            )
        rows = [row for row in self.rows if settings.shows(row)]
        if not rows:
            raise click.UsageError("no row begins so; they are:\n  " + "\n  ".join(row.name for row in self.rows))
        try:
            check_cores()
            machine.warn_of_others()
            neighbours = machine.Neighbours()
            values = self._measure(settings)
        except BenchError as error:
            raise click.ClickException(str(error)) from error
        results = [judge(row, values[row.name]) for row in rows]
        report = Report(self.describe(settings, neighbours), results, values, self.peer_heading, self.spread_heading)
        shown = report.shown()
        shown.print(Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
        report.write_json(file or (ROOT / "bench" if complete else BUILD) / self.results)
        if write_readme:
            shown.write_readme(README, self.mark)

    def _measure(self, settings: TheseSettings) -> Values:
        values: Values = {}
        plans = [(each.servers, each.measurements(settings)) for each in self.phases]
        steps = Steps(settings.rounds * sum(len(plan) for _, plan in plans))
        with (
            tempfile.TemporaryDirectory(prefix="swarm-bench-") as name,
            Processes(Path(name)) as processes,
            steps.shown(),
        ):
            for number in range(1, settings.rounds + 1):
                this = self.round(settings, processes, Path(name), values, number)
                for servers, plan in plans:
                    if not plan:
                        continue
                    with processes.servers(servers) as this.servers:
                        for each in plan:
                            steps.next(number, each.rows)
                            for system in each.systems if number % 2 else each.systems[::-1]:
                                each.measure(this, system)
        return values
