"""`swarm stats`: a stats.log read back, as a table or drawn as a plot."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from swarm.cli import Failure
from swarm.cli.plot import plot
from swarm.cli.terminal import format_number
from swarm.core.command_line import parsed_by
from swarm.core.config import parse_duration
from swarm.monitor.stats_log import Figure, LogFile, Points, Summary, Value, is_counter, time_span

PROGRESS_AFTER_S = 1.0
PLOTS_MAX = 16
COLUMNS_ELSEWHERE = 100  # of a plot that goes to no terminal
TITLES = ("name", "first", "last", "min", "max", "per second")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--plot", "plots", multiple=True, metavar="NAME", help="Draw this figure; of a counter, its rate. Repeat."
)
@click.option(
    "--last",
    "last_s",
    callback=parsed_by(parse_duration),
    metavar="DURATION",
    help="Only what was written in this time before the last line: 30m, 1h, 7d.",
)
@click.option("--list", "as_list", is_flag=True, help="Only the names.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def stats(files: tuple[Path, ...], plots: tuple[str, ...], last_s: float | None, as_list: bool, as_json: bool) -> None:
    """Reads a node's stats.log back: what each figure was at first, at last, at least and at most.

    \b
    Of those that only count, the rate per second too, over restarts of the node. Of a log that was rotated name all
    files, compressed or not; they are read in the order of their times. docs/operations.md says what each name means;
    those of histograms (.times.) are shown with --list, --json and --plot.
    """
    if len(plots) > PLOTS_MAX:
        raise click.BadParameter(f"{PLOTS_MAX} at most", param_hint="--plot")
    summary = _read(files, plots, last_s)
    _tell_what_differs(summary, each_name=as_json or not (as_list or plots))
    if as_json:
        click.echo(json.dumps(_to_json(summary)))
    elif as_list:
        click.echo("\n".join(sorted(summary.figures)))
    elif plots:
        _draw(summary)
    else:
        _print(summary)


def _read(files: Sequence[Path], plots: Sequence[str], last_s: float | None) -> Summary:
    spans = {path: time_span(path, first_only=last_s is None) for path in files}
    since_s = float("-inf")
    if last_s is not None:
        since_s = max((span[1] for span in spans.values() if span), default=0.0) - last_s
    summary = Summary(points={name: Points() for name in plots})
    for path in sorted(spans, key=lambda path: spans[path] or (0.0, 0.0)):
        before, misunderstood = summary.lines, summary.not_understood
        log = LogFile(path)
        for data in _with_progress(log):
            summary.take(data, since_s)
        _tell_of(log, summary.lines - before, summary.not_understood - misunderstood)
    if not summary.lines:
        raise Failure(f"no line of a stats.log in {', '.join(map(str, files))}")
    for name in plots:
        if not list(summary.points[name]):
            _refuse_plot(summary, name)
    return summary


def _with_progress(log: LogFile) -> Iterator[bytes]:
    """The lines; a bar on what takes longer than PROGRESS_AFTER_S."""
    begun = time.monotonic()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task: TaskID | None = None
    with ExitStack() as shown:
        for number, data in enumerate(log.lines()):
            yield data
            if number % 256 == 0:
                if task is None and time.monotonic() - begun > PROGRESS_AFTER_S:
                    task = progress.add_task(log.path.name, total=log.size)
                    shown.enter_context(progress)
                if task is not None:
                    progress.update(task, completed=log.position)


def _tell_of(log: LogFile, taken: int, not_understood: int) -> None:
    if not_understood:
        _tell(f"{log.path}: {not_understood:,} lines are none of a stats.log, and are passed over")
    if log.unfinished:
        _tell(f"{log.path}: the last line has no end: it is being written, or was torn; it is passed over")
    if log.damage:
        _tell(f"{log.path}: it cannot be read to its end: {log.damage}")
    if not taken and not not_understood and log.size == 0:
        _tell(f"{log.path}: it is empty")


def _tell_what_differs(summary: Summary, *, each_name: bool) -> None:
    """each_name: what every name was is shown, so that it matters which lines have it."""
    some = sum(figure.lines < summary.lines for figure in summary.figures.values())
    if some and each_name:
        _tell(
            f"{some:,} of {len(summary.figures):,} names are not in every line: channels and kinds of requests come "
            "and go, and nodes of another version tell other figures"
        )
    if summary.names_left_out:
        _tell(f"there are more than {len(summary.figures):,} names: the others are left out")


def _refuse_plot(summary: Summary, name: str) -> None:
    figure = summary.figures.get(name)
    if figure is None:
        like = [each for each in summary.figures if name in each] or get_close_matches(name, summary.figures)
        hint = f"did you mean {' or '.join(like[:3])}?" if like else "`--list` shows all"
        raise Failure(f"there is no {name!r:.100} in it: {hint}")
    why = "it is text" if isinstance(figure.last, str) else "a rate needs two lines without a restart between them"
    raise Failure(f"{name} cannot be drawn: {why}")


def _tell(text: str) -> None:
    click.echo(f"swarm: {text}", err=True)


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(" ", "seconds").removesuffix("+00:00")


def _print(summary: Summary) -> None:
    names = [name for name in sorted(summary.figures) if ".times." not in name]
    rows = [(name, *_cells(name, summary.figures[name])) for name in names]
    if not sys.stdout.isatty():
        click.echo("\n".join("\t".join(row) for row in [TITLES, *rows]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in TITLES:
        table.add_column(title, justify="left" if title == "name" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(_heading(summary))
    console.print(table)


def _heading(summary: Summary) -> str:
    restarts = f", {summary.restarts} restarts" if summary.restarts else ""
    return f"{_when(summary.first_s)} to {_when(summary.last_s)} UTC, {summary.lines:,} lines{restarts}"


def _cells(name: str, figure: Figure) -> tuple[str, ...]:
    rate = figure.rate_per_s if is_counter(name) else None
    return (
        _shown(figure.first),
        _shown(figure.last),
        "" if figure.min is None else _shown(figure.min),
        "" if figure.max is None else _shown(figure.max),
        "" if rate is None else format_number(rate),
    )


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else format_number(value)


def _draw(summary: Summary) -> None:
    console = Console(highlight=False, markup=False)
    columns = console.width if console.is_terminal else COLUMNS_ELSEWHERE
    click.echo(_heading(summary))
    for name, points in summary.points.items():
        title = f"{name} per second" if is_counter(name) else name
        click.echo("\n" + "\n".join(plot(title, points, columns)))


def _to_json(summary: Summary) -> dict[str, object]:
    return {
        "first": _when(summary.first_s),
        "last": _when(summary.last_s),
        "lines": summary.lines,
        "not_understood": summary.not_understood,
        "restarts": summary.restarts,
        "figures": {
            name: {
                "first": figure.first,
                "last": figure.last,
                "min": figure.min,
                "max": figure.max,
                "rate_per_s": figure.rate_per_s if is_counter(name) else None,
                "lines": figure.lines,
            }
            for name, figure in sorted(summary.figures.items())
        },
        "points": {name: list(points) for name, points in summary.points.items()},
    }
