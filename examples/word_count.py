"""Counts the words of Python's standard library: a queue gives its files to workers, one of which is killed on the way.

    swarm up                                                          # in another terminal
    python examples/word_count.py --nodes swarm-data/nodes-queue

    this program ──► files ──► workers (each a process) ──► counts ──► this program

A worker acknowledges a file when it has pushed its count. So what a worker had not finished when it was killed is given
to another one. What it had finished and not acknowledged is counted twice; a count names its file, so that does no
harm. In the end everything is counted once more without a queue, and compared. Exit status 1 if anything differs.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from swarm.blocking import QueueClient

FILES, COUNTS = "word-count-files", "word-count-counts"
SUBSCRIBER = "workers"
FILES_AT_A_TIME = 10  # that a worker is given: few, so that all have something to do
COUNTS_AT_A_TIME = 100
PATIENCE_S = 30.0  # for the next count


def find_files(directory: Path) -> list[str]:
    """Every Python file in it, but for packages that were added."""
    return sorted(str(path) for path in directory.glob("**/*.py") if "site-packages" not in path.parts)


def count_words(path: str) -> int:
    return len(Path(path).read_bytes().split())


def work(queue: QueueClient) -> None:
    """What a worker does, until it is stopped."""
    with queue.consume(FILES, subscriber=SUBSCRIBER, batch_records=FILES_AT_A_TIME, credit=1, manual=True) as files:
        for file in files:
            path = os.fsdecode(file.value)
            count = {"path": path, "words": count_words(path), "redelivered": file.redelivered, "worker": os.getpid()}
            queue.push(COUNTS, json.dumps(count).encode())
            files.acknowledge(file)


def take_counts(queue: QueueClient, files: int, workers: list["subprocess.Popen[bytes]"]) -> tuple[dict[str, int], int]:
    """The words of every file; and how many files were given to a second worker. Kills a worker after a quarter."""
    words: dict[str, int] = {}
    again = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("count", total=files)
        while len(words) < files:
            counts = [json.loads(each) for each in queue.pop_many(COUNTS, COUNTS_AT_A_TIME, wait=PATIENCE_S)]
            if not counts:
                raise click.ClickException(
                    f"nothing was counted for {PATIENCE_S:g} s; {len(words)} of {files} files were"
                )
            words |= {each["path"]: each["words"] for each in counts}
            again += sum(each["redelivered"] for each in counts)
            progress.update(task, completed=len(words))
            if len(words) > files // 4 and workers[0].poll() is None:
                workers[0].kill()
    return words, again


@click.command()
@click.option("--nodes", required=True, type=click.Path(path_type=Path), help="File that names the queue nodes.")
@click.option(
    "--directory",
    default=sysconfig.get_path("stdlib"),
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose Python files are counted.  [that of the standard library]",
)
@click.option("--workers", default=3, type=click.IntRange(2), show_default=True, help="How many processes count.")
@click.option("--worker", is_flag=True, hidden=True)
def main(nodes: Path, directory: Path, workers: int, worker: bool) -> None:
    """Counts the words of Python files with some processes, and kills one of them."""
    with QueueClient(nodes_file=nodes) as queue:
        if worker:
            work(queue)
            return
        for channel in (FILES, COUNTS):
            queue.remove_channel(channel)  # of an earlier run
        files = find_files(directory)
        queue.push_many(FILES, map(os.fsencode, files))
        command = [sys.executable, __file__, "--worker", "--nodes", str(nodes)]
        processes = [subprocess.Popen(command) for _ in range(workers)]
        try:
            words, again = take_counts(queue, len(files), processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for channel in (FILES, COUNTS):
            queue.remove_channel(channel)
    click.echo(
        f"{sum(words.values()):,} words in {len(words):,} files; {again} were given to a worker for the second time"
    )
    if words != {path: count_words(path) for path in files}:
        raise click.ClickException("the files hold other words than that")


if __name__ == "__main__":
    main()
