"""What goes to a person: tables, progress, questions. And what does not: exact bytes."""

import errno
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from swarm.core.limits import KIB

if TYPE_CHECKING:  # it takes long to import
    from rich.console import RenderableType

PIPE_COLUMNS = 1000  # of a table that goes to no terminal: more than any has
PROGRESS_RECORDS = 1000  # between two updates of a progress bar


def write_output(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def check_reader() -> None:
    """BrokenPipeError if nobody will ever read standard output: before something is waited for that would be lost."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if poll.poll(0):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def format_bytes(size: float) -> str:
    """Three digits or so, and the unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < KIB:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= KIB
    return f"{size:,.1f} TiB"


def format_number(value: float) -> str:
    """With commas; what is not whole with four digits or so."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def confirmed(question: str) -> bool:
    click.echo(f"{question} [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def write_rows(titles: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> None:
    """A table on a terminal, whose columns of numbers have commas and end at the right; elsewhere a line for each row,
    without titles, separated by tabs. A float is in percent."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(f"{cell:.1f}" if type(cell) is float else str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for number, title in enumerate(titles):
        is_text = all(type(row[number]) is str for row in rows)
        table.add_column(title, justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*map(_cell, row))
    Console().print(table)


def show_once(renderable: "RenderableType") -> None:
    """On a terminal as wide as that is; elsewhere as wide as it takes, without colours, and no spaces end a line."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(renderable)
        return
    plain = Console(highlight=False, markup=False, width=PIPE_COLUMNS)
    with plain.capture() as text:
        plain.print(renderable)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def _cell(cell: str | float) -> str:
    if type(cell) is str:
        return cell
    return f"{cell:.1f}%" if type(cell) is float else f"{cell:,}"


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how much of the total is done, and how many records that is."""
    if not shown:
        yield lambda done, records: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, records=0)
        yield lambda done, records: progress.update(task, completed=done, records=records)
