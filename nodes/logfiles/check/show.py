"""How findings and progress are shown: a table on a terminal, lines elsewhere, JSON for machines."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from nodes.logfiles.check.findings import Finding, Report, shown

COLUMNS = ("file", "offset", "bytes", "finding", "state", "what")


def state(finding: Finding) -> str:
    if finding.mended:
        return "mended"
    return "--fix mends it" if finding.mendable else "by hand"


def show_json(report: Report, *, verbose: bool) -> None:
    """One object a line: the findings, the errors, and at the end the summary."""
    lines = [finding.to_json() for finding in report.findings]
    lines += [{"type": "note", "text": text} for text in report.notes if verbose]
    lines += [{"type": "error", "text": text} for text in report.errors]
    for line in [*lines, report.summary()]:
        click.echo(json.dumps(line))


def show_text(report: Report, *, verbose: bool) -> None:
    if report.findings and sys.stdout.isatty():
        _show_table(report.findings)
    else:
        for each in report.findings:
            row = (shown(each.path), str(each.offset), str(each.length), each.kind.value, state(each), each.what)
            click.echo("\t".join(row))
    for text in report.notes if verbose else []:
        click.echo(f"note: {text}")
    for path in report.set_aside:
        click.echo(f"set aside: {shown(path)}")
    for text in report.errors:
        click.echo(f"logfiles-check: {text}", err=True)
    click.echo(_summary(report))


def _summary(report: Report) -> str:
    size = f"{report.files:,} files, {report.bytes:,} bytes, {report.blocks:,} blocks, {report.records:,} records"
    if not report.findings:
        return f"{size}: {'no damage found' if report.errors else 'clean'}"
    mended = sum(finding.mended for finding in report.findings)
    return f"{size}: findings: {len(report.findings)}, mended: {mended}"


def _show_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in COLUMNS:
        table.add_column(title, justify="right" if title in ("offset", "bytes") else "left", overflow="fold")
    for each in findings:
        row = shown(each.path), f"{each.offset:,}", f"{each.length:,}", each.kind.value, state(each), each.what
        table.add_row(*map(Text, row))
    Console().print(table)


@contextmanager
def progress_bar(total: int, is_shown: bool) -> Iterator[Callable[[int], None]]:
    if not is_shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("check"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("check", total=total)
        yield lambda count: bar.update(task, advance=count)
