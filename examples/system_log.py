"""Imports a log of this machine, asks for a day of it, filters it, and compares all of that with what grep gives.

    logfilesnode                                                      # in another terminal
    python examples/system_log.py --node 127.0.0.1:10201

    a log in /var/log ──► put_many ──► nodes ──► get_range (a day, a substring, a regular expression) ══ grep

A line without a time belongs to the record before it, as in `swarm logfiles import`. The log is that of the package
manager where there is one, or what --log names: one whose lines begin with ISO 8601. Exit status 1 if anything differs.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from swarm.blocking import LogfilesClient

CHANNEL = "system-log"
LOGS = ("/var/log/dpkg.log", "/var/log/dnf.log", "/var/log/dnf5.log", "/var/log/apk.log", "/var/log/syslog")
LINES_AT_A_TIME = 1000
TIME = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?")


def find_log() -> Path | None:
    """The first log that this machine has, and that can be read; in one of an hour there is nothing to be asked."""
    for path in map(Path, LOGS):
        try:
            if any(True for _ in read_log(path)):
                return path
        except OSError:
            continue
    return None


def read_log(path: Path) -> Iterator[tuple[datetime, bytes]]:
    """Records: when, and what. Lines before the first time are left out."""
    when, lines = None, list[bytes]()
    with path.open("rb") as log:
        for line in log:
            match = TIME.match(line)
            if match is None:
                lines.append(line.rstrip(b"\n"))
                continue
            if when is not None:
                yield when, b"\n".join(lines).rstrip(b"\n")
            when = datetime.fromisoformat(match[0].decode()).astimezone()  # without an offset it is this machine's time
            lines = [line.rstrip(b"\n")]
    if when is not None:
        yield when, b"\n".join(lines).rstrip(b"\n")


def import_log(logs: LogfilesClient, path: Path) -> Counter[str]:
    """How many records it has of each day, as they are written in it."""
    days: Counter[str] = Counter()
    batch: list[tuple[datetime, bytes]] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("import", total=path.stat().st_size)
        for when, value in read_log(path):
            batch.append((when, value))
            days[value[:10].decode()] += 1
            if len(batch) == LINES_AT_A_TIME:
                logs.put_many(CHANNEL, batch)
                progress.advance(task, sum(len(value) + 1 for _, value in batch))
                batch = []
        logs.put_many(CHANNEL, batch)
        progress.update(task, completed=path.stat().st_size)
    return days


def grep(path: Path, *arguments: str) -> Counter[bytes]:
    """The lines that grep finds in a file. Status 1 is that there are none."""
    done = subprocess.run(["grep", "-a", *arguments, str(path)], capture_output=True, check=False, env={"LC_ALL": "C"})
    if done.returncode > 1:
        raise click.ClickException(done.stderr.decode())
    return Counter(done.stdout.splitlines())


def lines_of(values: list[bytes]) -> Counter[bytes]:
    """Records may have several lines."""
    return Counter(line for value in values for line in value.split(b"\n"))


@click.command()
@click.option("--node", "nodes", multiple=True, required=True, metavar="HOST:PORT", help="A node; repeat it for each.")
@click.option("--log", type=click.Path(path_type=Path), help="Which log.  [that of the package manager]")
@click.option("--word", default="installed", show_default=True, help="What the day is searched for.")
def main(nodes: tuple[str, ...], log: Path | None, word: str) -> None:
    """Compares ranges of a log with what grep gives."""
    log = log or find_log()
    if log is None:
        raise click.ClickException(f"none of {', '.join(LOGS)} is there and has times: name one with --log")
    table = Table(title=str(log))
    for title in ("question", "records", "lines", "as grep"):
        table.add_column(title)
    wrong = 0
    with LogfilesClient(nodes) as logs:
        logs.remove_channel(CHANNEL)  # of an earlier run
        days = import_log(logs, log)
        day, _ = days.most_common(1)[0]
        start = datetime.fromisoformat(day).astimezone()
        end = (datetime.fromisoformat(day) + timedelta(days=1)).astimezone()

        def ask(question: str, expected: Counter[bytes] | None, **options: str | bool) -> list[bytes]:
            """What is found; compared, unless records have more lines than grep would give."""
            nonlocal wrong
            values = [value for _, value in logs.get_range(CHANNEL, start, end, **options)]  # type: ignore[arg-type]
            found = lines_of(values)
            equal = expected is None or found == expected
            wrong += not equal
            table.add_row(question, f"{len(values):,}", f"{found.total():,}", "equal" if equal else "DIFFERENT")
            return values

        single = all(b"\n" not in value for value in ask(f"all of {day}", None))
        of_the_day = grep(log, f"^{day}")
        ask("all of it, once more", of_the_day if single else None)
        for question, arguments, options in (
            (f"with {word}", ["-F", word], {"substring": word}),
            (f"with {word.upper()}, ignoring case", ["-F", "-i", word.upper()], {"substring": word.upper()}),
            (f"with ^.* {word}$ or [0-9]+-[0-9]", ["-E", f"{word}$|[0-9]+-[0-9]"], {"regex": f"{word}$|[0-9]+-[0-9]"}),
        ):
            expected = grep(log, *arguments) & of_the_day
            ask(question, expected if single else None, **options, ignore_case="-i" in arguments)
        records, _ = logs.channel_size(CHANNEL)
        logs.remove_channel(CHANNEL)
    if records != days.total():
        wrong += 1
        click.echo(f"{records} records were stored, of {days.total()}", err=True)
    Console().print(table)
    if wrong:
        raise click.ClickException(f"{wrong} of these differ")


if __name__ == "__main__":
    main()
