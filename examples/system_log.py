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
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from swarm.blocking import LogfilesClient
from swarm.core.errors import SwarmError

CHANNEL = "system-log"
LOGS = ("/var/log/dpkg.log", "/var/log/dnf.log", "/var/log/dnf5.log", "/var/log/apk.log", "/var/log/syslog")
LINES_AT_A_TIME = 1000
TIME = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?")


def find_log() -> Path | None:
    """The first log that this machine has, that can be read, and that has times."""
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
        stored, _ = logs.channel_size(CHANNEL)
        if stored != days.total() or not stored:
            raise click.ClickException(f"{stored} of {days.total()} records were stored")
        progress.update(task, completed=path.stat().st_size)
    return days


def grep(path: Path, *arguments: str) -> Counter[bytes]:
    """The lines that grep finds in a file. Status 1 is that there are none."""
    done = subprocess.run(["grep", "-a", *arguments, str(path)], capture_output=True, check=False, env={"LC_ALL": "C"})
    if done.returncode > 1:
        raise click.ClickException(done.stderr.decode())
    return Counter(done.stdout.splitlines())


class Comparison:
    """What the nodes and what grep find in a day of a log."""

    def __init__(self, logs: LogfilesClient, log: Path, day: str) -> None:
        self.table = Table("records", "nodes", "grep", "", title=str(log))
        self.wrong = 0
        self._logs = logs
        self._log = log
        self._day = day
        self._start = datetime.fromisoformat(day).astimezone()
        self._end = (datetime.fromisoformat(day) + timedelta(days=1)).astimezone()
        self._of_the_day = grep(log, f"^{day}")

    def ask(self, question: str, pattern: str, arguments: list[str], **options: Any) -> None:
        """pattern: what is found in every record that is given, and in every line that grep finds with its arguments.

        A record may have several lines: what is compared are the lines that begin with the day.
        """
        matches = re.compile(pattern.encode()).search
        values = [value for _, value in self._logs.get_range(CHANNEL, self._start, self._end, **options)]
        lines = Counter(line for value in values for line in value.split(b"\n") if matches(line))
        expected = grep(self._log, *arguments) & self._of_the_day
        equal = all(map(matches, values)) and lines & self._of_the_day == expected
        self.wrong += not equal
        self.table.add_row(
            escape(question), f"{len(values):,}", f"{expected.total():,}", "equal" if equal else "DIFFERENT"
        )


def compare(nodes: tuple[str, ...], log: Path, word: str, regex: str) -> Comparison:
    with LogfilesClient(nodes) as logs:
        logs.remove_channel(CHANNEL)  # of an earlier run
        day, _ = import_log(logs, log).most_common(1)[0]
        comparison = Comparison(logs, log, day)
        comparison.ask(f"of {day}", "", [""])
        comparison.ask(f"with {word}", re.escape(word), ["-F", word], substring=word)
        anyhow = f"(?i){re.escape(word)}"
        comparison.ask(f"with {word} in any case", anyhow, ["-F", "-i", word], substring=word.upper(), ignore_case=True)
        comparison.ask(f"that match {regex}", regex, ["-E", regex], regex=regex)
        logs.remove_channel(CHANNEL)
    return comparison


@click.command()
@click.option("--node", "nodes", multiple=True, required=True, metavar="HOST:PORT", help="A node; repeat it for each.")
@click.option("--log", type=click.Path(path_type=Path), help="Which log.  [that of the package manager]")
@click.option("--word", default="installed", show_default=True, help="What the day is searched for.")
@click.option("--regex", default="(install|upgrade|trigproc) [a-m]", show_default=True, help="The same.")
def main(nodes: tuple[str, ...], log: Path | None, word: str, regex: str) -> None:
    """Compares ranges of a log with what grep gives."""
    log = log or find_log()
    if log is None:
        raise click.ClickException(f"none of {', '.join(LOGS)} is there and has times: name one with --log")
    try:
        comparison = compare(nodes, log, word, regex)
    except (SwarmError, OSError) as error:
        raise click.ClickException(str(error)) from error
    Console().print(comparison.table)
    if comparison.wrong:
        raise click.ClickException(f"{comparison.wrong} of these differ")


if __name__ == "__main__":
    main()
