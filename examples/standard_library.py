"""Loads every file of Python's standard library into a running swarm, reads all of it back, and compares.

    swarm up                                                          # in another terminal
    python examples/standard_library.py --nodes swarm-data/nodes

The key of a record is the file's path below the library's directory, the value is what the file holds. A dht keeps
no empty values, and none above 16 MiB: such files (__init__.py, a static libpython) are counted and left out. What is
read back comes through a client of its own, and is compared byte by byte with the files. Exit status 1 if anything
differs.
"""

import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from swarm.blocking import DhtClient
from swarm.core.errors import SwarmError
from swarm.core.limits import VALUE_BYTES_MAX

CHANNEL = "standard-library"
LEFT_OUT = {"__pycache__", "site-packages"}
BATCH_BYTES = 1 << 20  # of the files that are put at once: few round trips, little memory


def find_files(library: Path) -> dict[Path, int]:
    """Every regular file in it with its size, but for compiled code and packages that were added."""
    found: dict[Path, int] = {}
    for directory, names, files in os.walk(library):
        names[:] = sorted(set(names) - LEFT_OUT)
        paths = (Path(directory, name) for name in sorted(files))
        found |= {path: path.stat().st_size for path in paths if path.is_file()}
    return found


def key_of(path: Path, library: Path) -> bytes:
    return os.fsencode(path.relative_to(library))


def batches(library: Path, files: Iterable[Path]) -> Iterator[dict[bytes, bytes]]:
    """Key and content of each file, some BATCH_BYTES at a time."""
    batch: dict[bytes, bytes] = {}
    batch_bytes = 0
    for path in files:
        content = batch[key_of(path, library)] = path.read_bytes()
        batch_bytes += len(content)
        if batch_bytes >= BATCH_BYTES:
            yield batch
            batch, batch_bytes = {}, 0
    if batch:
        yield batch


@dataclass
class Comparison:
    """What was read back, against the files."""

    equal: int = 0
    equal_bytes: int = 0
    different: list[str] = field(default_factory=list)


def compare(dht: DhtClient, library: Path, expected: set[bytes], progress: Progress) -> Comparison:
    """Reads the whole channel and holds each record against its file; expected: the keys that have to be there."""
    result = Comparison()
    missing = set(expected)
    for key, value in progress.track(dht.get_all(CHANNEL), total=len(expected), description="read"):
        if key not in missing:
            result.different.append(f"{os.fsdecode(key)} is there, and should not be, or for the second time")
        elif value != (library / os.fsdecode(key)).read_bytes():
            result.different.append(f"{os.fsdecode(key)} is not what the file holds")
        else:
            result.equal += 1
            result.equal_bytes += len(value)
        missing.discard(key)
    result.different += (f"{os.fsdecode(key)} is missing" for key in sorted(missing))
    return result


@click.command()
@click.option("--nodes", required=True, help="File that names the nodes of the swarm, as `swarm up` writes it.")
@click.option(
    "--library",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=sysconfig.get_path("stdlib"),
    show_default=True,
    help="Directory to load.",
)
def main(nodes: str, library: Path) -> None:
    """Loads Python's standard library into a swarm, reads it back, and compares."""
    try:
        different = run(nodes, library)
    except (SwarmError, OSError) as error:
        sys.exit(f"standard_library: {error}")
    for line in different:
        print(line, file=sys.stderr)
    sys.exit(1 if different else 0)


def run(nodes: str, library: Path) -> list[str]:
    """Loads, compares, prints the summary; what differs."""
    found = find_files(library)
    files = [path for path, size in found.items() if 0 < size <= VALUE_BYTES_MAX]
    keys = {key_of(path, library) for path in files}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        with DhtClient(nodes_file=nodes, timeout=30.0) as dht:
            dht.remove_channel(CHANNEL)  # what another run has left
            begun = time.perf_counter()
            for batch in batches(library, progress.track(files, description="load")):
                dht.put_many(CHANNEL, batch)
            load_s = time.perf_counter() - begun
        with DhtClient(nodes_file=nodes, timeout=30.0) as dht:
            begun = time.perf_counter()
            comparison = compare(dht, library, keys, progress)
            read_s = time.perf_counter() - begun
            shares = {node: each["channel"].get(CHANNEL, {}) for node, each in dht.node_statistics().items()}

    empty = [size for size in found.values() if size == 0]
    too_big = [size for size in found.values() if size > VALUE_BYTES_MAX]
    rows = [
        ("found", len(found), sum(found.values()), ""),
        ("empty, left out", len(empty), 0, ""),
        ("above 16 MiB, left out", len(too_big), sum(too_big), ""),
        ("loaded", len(files), sum(map(found.__getitem__, files)), f"{load_s:.2f}"),
        *(
            (f"  on {node}, with keys", share.get("records", 0), share.get("bytes", 0), "")
            for node, share in shares.items()
        ),
        ("read back, equal", comparison.equal, comparison.equal_bytes, f"{read_s:.2f}"),
        ("different", len(comparison.different), "", ""),
    ]
    show(str(library), rows)
    return comparison.different


def show(title: str, rows: Iterable[tuple[str, int, int | str, str]]) -> None:
    table = Table("", title=title)
    for name in ("files", "bytes", "seconds"):
        table.add_column(name, justify="right")
    for name, files, size, seconds in rows:
        table.add_row(name, f"{files:,}", size if isinstance(size, str) else f"{size:,}", seconds)
    Console().print(table)


if __name__ == "__main__":
    main()
