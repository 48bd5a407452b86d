"""`swarm logfiles` as a process, against two real logfiles nodes."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.logfiles.config import LogfilesConfig, StoreSection
from swarm.blocking import LogfilesClient
from swarm.cli import json_lines
from swarm.cli.times import show_local
from swarm.logfiles.timestamps import SECOND
from swarm.testing import LogfilesProcess, running_logfiles
from tests.cli.commands import SWARM, on_a_terminal, swarm
from tests.waiting import PATIENCE_S, wait_until

T0 = 1_700_000_000 * SECOND
ODD = [b"plain", "größe".encode(), b"\xff\x00", b"two\nlines\n", b"\r", b'{"value": "x"}']


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that names two nodes."""
    file = tmp_path_factory.mktemp("swarm") / "nodes-logfiles"
    with running_logfiles(2) as running:
        file.write_text("\n".join(running.addresses))
        yield file


@pytest.fixture
def logs(nodes: Path) -> Iterator[LogfilesClient]:
    """A client of nodes that hold nothing."""
    with LogfilesClient(nodes_file=nodes) as client:
        for channel in client.channels():
            client.remove_channel(channel)
        yield client


def output_of(nodes: Path, *arguments: str | bytes, stdin: bytes = b"", told: str = "") -> bytes:
    """What it writes; told: what it says to people besides."""
    done = swarm("logfiles", "--nodes", str(nodes), *arguments, stdin=stdin)
    assert (done.returncode, done.stderr.decode()) == (0, told)
    return done.stdout


def error_of(nodes: Path, *arguments: str | bytes, stdin: bytes = b"", status: int = 1) -> str:
    """The last line of what it says when it fails."""
    done = swarm("logfiles", "--nodes", str(nodes), *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (status, b""), done
    return done.stderr.decode().rstrip().splitlines()[-1].removeprefix("swarm: ")


@contextmanager
def running(nodes: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that goes on, with pipes."""
    command = [*SWARM, "logfiles", "--nodes", str(nodes), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


# Put and get-range.


def test_put_and_get_range(nodes: Path, logs: LogfilesClient) -> None:
    before = time.time_ns()
    assert output_of(nodes, "put", "a", "grün") == b""
    assert output_of(nodes, "put", "a", b"\xff\xfe", "--time", "2023-11-14T22:13:20.000000001Z") == b""
    [(old, first), (new, second)] = logs.get_range("a")
    assert (old, first, second) == (T0 + 1, b"\xff\xfe", "grün".encode())
    assert before <= new <= time.time_ns()
    assert output_of(nodes, "get-range", "a") == b"%b \xff\xfe\n%b gr\xc3\xbcn\n" % (
        show_local(old).encode(),
        show_local(new).encode(),
    )
    assert output_of(nodes, "get-range", "none") == b""
    assert logs.channels() == ["a"]


@pytest.mark.parametrize("options", [[], ["--json"], ["--raw"]])
def test_values_of_every_kind(nodes: Path, logs: LogfilesClient, options: list[str]) -> None:
    logs.put_many("a", [(T0 + number, value) for number, value in enumerate(ODD)])
    output = output_of(nodes, "get-range", "a", *options)
    if options == ["--raw"]:
        assert output == b"\n".join(ODD) + b"\n"
    elif options == ["--json"]:
        lines = output.splitlines()
        assert [json_lines.decode(line, "time", "value")[1] for line in lines] == ODD
        assert [json.loads(line)["time"] for line in lines] == [
            f"2023-11-14T22:13:20.00000000{number}Z" for number in range(len(ODD))
        ]
    else:
        expected = [b"%b %b\n" % (show_local(T0 + number).encode(), value) for number, value in enumerate(ODD)]
        assert output == b"".join(expected)


def test_ranges(nodes: Path, logs: LogfilesClient) -> None:
    for number in range(0, 100, 5):
        logs.put_many("a", [(T0 + each * SECOND, b"record %d" % each) for each in range(number, number + 5)])

    def raw(*options: str) -> list[int]:
        lines = output_of(nodes, "get-range", "a", "--raw", *options).splitlines()
        return [int(line.removeprefix(b"record ")) for line in lines]

    assert raw() == list(range(100))
    assert raw("--newest-first", "--limit", "7") == list(range(99, 92, -1))
    assert raw("--from", "1700000010", "--to", "2023-11-14T22:13:35Z") == list(range(10, 15))
    assert raw("--from", "1700000010.000000001", "--limit", "2") == [11, 12]
    assert raw("--from", "-1d") == []
    assert raw("--substring", "RECORD 5", "--ignore-case") == [5, *range(50, 60)]
    assert raw("--substring", "RECORD 5") == []
    assert raw("--regex", "[13]$", "--to", "1700000020") == [1, 3, 11, 13]


def test_a_regular_expression_that_is_none(nodes: Path, logs: LogfilesClient) -> None:
    logs.put("a", T0, b"x")
    assert "regular expression" in error_of(nodes, "get-range", "a", "--regex", "(", status=2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get-range", "a", "--from", "yesterday"], "a time is ISO 8601"),
        (["get-range", "a", "--from", "2", "--to", "1"], "above"),
        (["get-range", "a", "--json", "--raw"], "not both"),
        (["get-range", "a", "--substring", "a", "--regex", "b"], "not both"),
        (["get-range", "a", "--follow", "--to", "now"], "without --to"),
        (["get-range", "a", "--follow", "--newest-first"], "without --to"),
        (["get-range", "a", "--limit", "0"], "limit"),
        (["get-range", "../a"], "bad channel name"),
        (["put", "../a", "x"], "bad channel name"),
        (["put", "a", ""], "empty value"),
        (["put", "a", "x", "--time", "2262-04-12T00:00Z"], "a timestamp is from"),
        (["import", "-", "--channel", "../a"], "bad channel name"),
        (["import", "-"], "--channel"),
        (["import", "-", "--channel", "a", "--time-format", "%H:%M"], "on which day"),
        (["import", "-", "--channel", "a", "--time-regex", "("], "no regular expression"),
        (["import", "-", "--channel", "a", "--time-regex", "x"], "no group"),
        (["import", "-", "--channel", "a", "--timezone", "Nowhere/Here"], "no time zone"),
        (["import", "-", "--channel", "a", "--timezone", "../../etc/passwd"], "no time zone"),
    ],
)
def test_wrong_calls(nodes: Path, logs: LogfilesClient, arguments: list[str], text: str) -> None:
    done = swarm("logfiles", "--nodes", str(nodes), *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert text in " ".join(done.stderr.decode().split())
    assert logs.channels() == []


def test_nodes_have_to_be_named() -> None:
    done = swarm("logfiles", "size", environment={"SWARM_LOGFILES_NODES": ""})
    assert done.returncode == 2
    assert b"SWARM_LOGFILES_NODES" in done.stderr
    assert b"swarm-data/nodes-logfiles" in done.stderr
    dead = swarm("logfiles", "--timeout", "50ms", "size", environment={"SWARM_LOGFILES_NODES": "127.0.0.1:1"})
    assert (dead.returncode, dead.stderr.count(b"\n")) == (1, 1)


def test_lines_are_put_as_they_come(nodes: Path, logs: LogfilesClient) -> None:
    with running(nodes, "put", "a", "-") as process:
        assert process.stdin is not None
        for count, line in enumerate((b"one", b"two\xff"), 1):
            process.stdin.write(line[:1])
            process.stdin.flush()
            process.stdin.write(line[1:] + b"\n\n")
            process.stdin.flush()
            wait_until(lambda count=count: logs.channel_size("a")[0] == count)  # type: ignore[misc]
        process.stdin.write(b"without a newline")
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    given = list(logs.get_range("a"))
    assert [value for _, value in given] == [b"one", b"two\xff", b"without a newline"]
    assert all(abs(timestamp - time.time_ns()) < PATIENCE_S * SECOND for timestamp, _ in given)


def test_a_reader_that_ends_is_no_error(nodes: Path, logs: LogfilesClient) -> None:
    logs.put_many("a", [(T0 + number, b"x" * 1000) for number in range(3000)])
    with running(nodes, "get-range", "a") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith(b"x\n")
        process.stdout.close()
        assert process.wait(PATIENCE_S) == -signal.SIGPIPE
        assert process.stderr.read() == b""


def test_follow(nodes: Path, logs: LogfilesClient) -> None:
    now = time.time_ns()
    logs.put("a", now - 3600 * SECOND, b"old")
    logs.put("a", now, b"one")
    with running(nodes, "get-range", "a", "--follow", "--raw", "--from", "-10m", "--regex", "^[^-]") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"one\n"
        logs.put_many("a", [(now + SECOND, b"two"), (now + SECOND, b"- no"), (now + SECOND, b"two")])
        assert [process.stdout.readline() for _ in range(2)] == [b"two\n"] * 2
        logs.put("a", now, b"late")
        assert process.stdout.readline() == b"late\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == -signal.SIGINT
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_follow_until_a_limit(nodes: Path, logs: LogfilesClient) -> None:
    now = time.time_ns()
    logs.put("a", now, b"one")
    with running(nodes, "get-range", "a", "--follow", "--raw", "--from", "-1h", "--limit", "3") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        logs.put_many("a", [(now + number, b"%d" % number) for number in range(5)])
        assert process.stdout.read() == b"0\n1\n"
        assert process.wait(PATIENCE_S) == 0


def test_following_ends_with_its_reader(nodes: Path, logs: LogfilesClient) -> None:
    with running(nodes, "get-range", "a", "--follow") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == -signal.SIGPIPE


# Import.

LOG = """first line without a time
2023-11-14 22:13:20 one
2023-11-14 22:13:21 two
Traceback:
  File

2023-11-14 22:13:22 three
"""


def test_import(nodes: Path, logs: LogfilesClient, tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text(LOG)
    told = (
        "swarm: 3 records of 7 lines stored; without a time, and added to the record before: 2 lines (4, 5); before "
        "the first time, and left out: 1 line (1)\n"
    )
    expected = [
        (T0, b"2023-11-14 22:13:20 one"),
        (T0 + SECOND, b"2023-11-14 22:13:21 two\nTraceback:\n  File"),
        (T0 + 2 * SECOND, b"2023-11-14 22:13:22 three"),
    ]
    options = ["--time-format", "%Y-%m-%d %H:%M:%S", "--timezone", "UTC"]
    output_of(nodes, "import", str(file), "--channel", "a", *options, told=told)
    output_of(nodes, "import", "-", "--channel", "b", "--timezone", "UTC", stdin=LOG.encode(), told=told)
    assert list(logs.get_range("a")) == list(logs.get_range("b")) == expected


def test_import_finds_times_by_a_regular_expression(nodes: Path, logs: LogfilesClient) -> None:
    lines = b'::1 - - [14/Nov/2023:23:13:20 +0100] "GET /" 200\n::1 - - [14/Nov/2023:23:13:21 +0100] "GET /a" 404\n'
    options = ["--time-regex", r"\[([^]]+)\]", "--time-format", "%d/%b/%Y:%T %z"]
    told = "swarm: 2 records of 2 lines stored\n"
    output_of(nodes, "import", "-", "--channel", "a", *options, stdin=lines, told=told)
    assert [timestamp for timestamp, _ in logs.get_range("a")] == [T0, T0 + SECOND]
    assert output_of(nodes, "get-range", "a", "--raw") == lines


def test_a_log_in_which_no_time_is_found(nodes: Path, logs: LogfilesClient, tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("one\ntwo\n")
    assert error_of(nodes, "import", str(file), "--channel", "a") == (
        f"{file}: none of 2 lines has a time as --time-format says"
    )
    output_of(nodes, "import", "-", "--channel", "a", told="swarm: 0 records of 0 lines stored\n")
    assert "No such file" in error_of(nodes, "import", str(tmp_path / "none"), "--channel", "a")
    assert logs.channels() == []


def test_import_of_a_pipe_stores_lines_as_they_come(nodes: Path, logs: LogfilesClient) -> None:
    with running(nodes, "import", "-", "--channel", "a") as process:
        assert process.stdin is not None
        process.stdin.write(b"2023-11-14T22:13:20Z one\n")
        process.stdin.flush()
        wait_until(lambda: logs.channel_size("a")[0] == 1)
        process.stdin.write(b" of it\n2023-11-14T22:13:21Z two\n")
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    assert list(logs.get_range("a")) == [
        (T0, b"2023-11-14T22:13:20Z one"),
        (T0, b" of it"),
        (T0 + SECOND, b"2023-11-14T22:13:21Z two"),
    ]


def test_what_a_node_refuses_is_told_with_its_line(tmp_path: Path) -> None:
    config = LogfilesConfig(store=StoreSection(fsync="never", past_max=86400.0 * 365 * 100))
    nodes = tmp_path / "nodes"
    with running_logfiles(config=config) as running, LogfilesClient(running.addresses) as logs:
        nodes.write_text(running.addresses[0])
        lines = [b"2023-11-14T22:13:20Z %d" % number for number in range(4096)] + [b"1800-01-01T00:00:00Z x", b"y"]
        told = error_of(nodes, "import", "-", "--channel", "a", stdin=b"\n".join(lines))
        assert re.match(r"standard input:4097: .*; all before this line is stored", told)
        assert logs.channel_size("a")[0] == 4096


def test_progress_is_shown_on_a_terminal(nodes: Path, logs: LogfilesClient, tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("".join(f"2023-11-14T22:13:20Z {number}\n" for number in range(20_000)))
    status, shown = on_a_terminal([*SWARM, "logfiles", "--nodes", str(nodes), "import", str(file), "--channel", "a"])
    assert status == 0
    assert b"import a" in shown
    assert b"20,000 records of 20,000 lines stored" in shown
    assert logs.channel_size("a")[0] == 20_000


# What there is.


def test_channels_size_and_remove_channel(nodes: Path, logs: LogfilesClient) -> None:
    logs.put_many("a", [(T0, b"123"), (T0 + SECOND, b"45")])
    logs.put("b", T0, b"6")
    first, last = show_local(T0), show_local(T0 + SECOND)
    assert output_of(nodes, "channels").decode() == f"a\t2\t5\t{first}\t{last}\nb\t1\t1\t{first}\t{first}\n"
    assert output_of(nodes, "size") == b"3\t6\n"
    assert output_of(nodes, "size", "a") == b"2\t5\n"
    assert output_of(nodes, "size", "none") == b"0\t0\n"
    status, shown = on_a_terminal([*SWARM, "logfiles", "--nodes", str(nodes), "size", "a"])
    assert (status, shown.strip()) == (0, b"2 records, 5 bytes")
    assert output_of(nodes, "remove-channel", "a") == b""
    assert error_of(nodes, "remove-channel", "a") == "there is no channel a"
    assert logs.channels() == ["b"]


def test_times_are_of_the_time_zone_of_the_environment(nodes: Path, logs: LogfilesClient) -> None:
    logs.put("a", T0, b"x")
    command = ["logfiles", "--nodes", str(nodes), "get-range", "a"]
    done = swarm(*command, "--from", "2023-11-15T03:13:20", "--limit", "1", environment={"TZ": "Asia/Karachi"})
    assert done.stdout == b"2023-11-15T03:13:20.000000000+05:00 x\n"
    assert swarm(*command, "--from", "2023-11-15T03:13:20", environment={"TZ": "UTC"}).stdout == b""


def test_damage_is_told_and_has_status_1(tmp_path: Path) -> None:
    some = [(T0 + number * SECOND, os.urandom(500)) for number in range(300)]
    config = LogfilesConfig(store=StoreSection(fsync="never", seal_after=0.0))
    nodes = tmp_path / "nodes"
    with LogfilesProcess(tmp_path / "node", config) as node:
        with LogfilesClient(node.address) as logs:
            logs.put_many("a", some)
            logs.put("a", T0 + 7200 * SECOND, b"after")
        node.stop()
        node.start()
        wait_until(lambda: len(list(tmp_path.rglob("*.sealed"))) == 2)
        node.stop()
        file = min(tmp_path.rglob("*.sealed"))
        content = bytearray(file.read_bytes())
        content[1000] ^= 1
        file.write_bytes(content)
        node.start()
        nodes.write_text(node.address)
        done = swarm("logfiles", "--nodes", str(nodes), "get-range", "a", "--raw")
    assert done.returncode == 1
    assert done.stdout == b"after\n"
    assert done.stderr.decode().splitlines() == [
        f"swarm: {node.address}: of channel a 1 damaged block(s) were passed over: their records are missing in what "
        "was read",
        "swarm: 1 damaged block: this is not all of channel a",
    ]
