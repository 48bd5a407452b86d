"""The examples against a real swarm."""

import runpy
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from swarm.blocking import DhtClient, QueueClient
from swarm.testing import running_logfiles
from tests.waiting import PATIENCE_S, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "standard_library.py"
WORD_COUNT = EXAMPLE.with_name("word_count.py")
CHANNEL = "standard-library"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The nodes file of a swarm of two."""
    data = tmp_path_factory.mktemp("swarm")
    command = [sys.executable, "-m", "swarm.cli.main", "up", "--data", str(data), "--base-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield wait_until(lambda: next(data.glob("nodes"), None))
        finally:
            process.terminate()


def run_example(nodes: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLE), "--nodes", str(nodes), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_the_whole_library_comes_back_as_it_was(nodes: Path) -> None:
    done = run_example(nodes)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    library = Path(sysconfig.get_path("stdlib"))
    with DhtClient(nodes_file=nodes) as dht:
        keys = list(dht.get_all_keys(CHANNEL))
        assert len(keys) > 500
        assert dht.get(CHANNEL, "email/message.py") == (library / "email/message.py").read_bytes()
        assert not dht.exists(CHANNEL, "email/mime/__init__.py")  # is empty
        assert not any(b"__pycache__" in key or b"site-packages" in key for key in keys)
        assert all(each["channel"][CHANNEL]["records"] > 100 for each in dht.node_statistics().values())
    assert f"{len(keys):,}" in done.stdout


def test_what_cannot_be_kept_is_counted(nodes: Path, tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"x")
    (tmp_path / "a.py").write_bytes(b"x")
    (tmp_path / "empty.py").touch()
    with (tmp_path / "large.a").open("wb") as large:
        large.truncate(2**24 + 1)
    done = run_example(nodes, "--library", str(tmp_path))
    assert done.returncode == 0, done
    rows = {
        cells[1].strip(): cells[2].strip() for line in done.stdout.splitlines() if len(cells := line.split("│")) > 3
    }
    assert rows["found"] == "3"
    assert (
        rows["empty, left out"] == rows["above 16 MiB, left out"] == rows["loaded"] == rows["read back, equal"] == "1"
    )


def test_without_a_swarm_it_says_so(tmp_path: Path) -> None:
    done = run_example(tmp_path / "nodes")
    assert done.returncode == 1
    assert "standard_library: cannot read the nodes file" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_difference_is_found(nodes: Path, tmp_path: Path) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    files = [tmp_path / name for name in ("same", "changed", "missing")]
    for file in files:
        file.write_bytes(b"content")
    keys = {file.name.encode() for file in files}
    with DhtClient(nodes_file=nodes) as dht, Progress(console=Console(quiet=True)) as progress:
        dht.remove_channel(CHANNEL)
        dht.put_many(CHANNEL, {"same": b"content", "changed": b"Content", "more": b"content"})
        comparison = example["compare"](dht, tmp_path, keys, progress)
    assert comparison.equal == 1
    assert sorted(comparison.different) == [
        "changed is not what the file holds",
        "missing is missing",
        "more is there, and should not be, or for the second time",
    ]


def test_every_word_is_counted_though_a_worker_is_killed(nodes: Path) -> None:
    nodes_queue = wait_until(lambda: next(nodes.parent.glob("nodes-queue"), None))
    directory = Path(sysconfig.get_path("stdlib")) / "asyncio"
    command = [sys.executable, str(WORD_COUNT), "--nodes", str(nodes_queue), "--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    files = list(directory.glob("**/*.py"))
    words = sum(len(path.read_bytes().split()) for path in files)
    assert done.stdout.startswith(f"{words:,} words in {len(files)} files; ")
    with QueueClient(nodes_file=nodes_queue) as queue:
        assert queue.channels() == []


# The system's log.

SYSTEM_LOG = EXAMPLE.with_name("system_log.py")


def run_system_log(nodes: list[str], *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SYSTEM_LOG), *(f"--node={node}" for node in nodes), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def rows_of(output: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.count("│") > 3]


def test_a_day_of_this_machines_log_is_what_grep_gives() -> None:
    if runpy.run_path(str(SYSTEM_LOG))["find_log"]() is None:
        pytest.skip("this machine has no such log")
    with running_logfiles(2) as running:
        done = run_system_log(running.addresses)
    assert done.returncode == 0, done
    rows = rows_of(done.stdout)
    assert len(rows) == 4
    assert all(row[1] == row[2] and row[3] == "equal" for row in rows)
    assert int(rows[0][1].replace(",", "")) > 0


def test_a_log_of_which_some_records_have_several_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(
        "no time\n2026-11-21 23:59:59 installed\n2026-11-22 00:00:00 installed\n\tinstalled\n\nmore\n"
        "2026-11-22 23:59:59.999999 INSTALLED upgrade b\n2026-11-23 00:00:00 installed\n"
    )
    with running_logfiles() as running:
        done = run_system_log(running.addresses, "--log", str(log))
        assert done.returncode == 0, done
        assert [row[1:] for row in rows_of(done.stdout)] == [
            ["2", "2", "equal"],
            ["1", "1", "equal"],
            ["2", "2", "equal"],
            ["1", "1", "equal"],
        ]


def test_without_a_node_or_a_log_the_example_says_so(tmp_path: Path) -> None:
    done = run_system_log(["127.0.0.1:1"], "--log", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
