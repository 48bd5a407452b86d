"""`swarm queue` as a process, against the two real queue nodes of a `swarm up`.

What is read from standard input, however it comes in parts, gives the same records.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.blocking import QueueClient
from swarm.cli import json_lines
from swarm.cli.queue import LINE_BYTES_MAX, BadLine, Lines
from swarm.core.limits import VALUE_BYTES_MAX
from tests.cli.commands import SWARM, swarm
from tests.waiting import PATIENCE_S, wait_until

ODD = [b"plain", "größe".encode(), b"\xff\x00", b"two\nlines\n", b"\r", b"\n", b'{"value": "x"}']


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The nodes file of a swarm of two queue nodes."""
    data = tmp_path_factory.mktemp("swarm")
    command = [*SWARM, "up", "--data", str(data), "--base-port", "0", "--dht", "1", "--queue", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield wait_until(lambda: next(data.glob("nodes-queue"), None))
        finally:
            process.terminate()


@pytest.fixture
def queue(nodes: Path) -> Iterator[QueueClient]:
    """A client of a swarm whose queues are empty."""
    with QueueClient(nodes_file=nodes) as client:
        for channel in client.channels():
            client.remove_channel(channel)
        yield client


@pytest.fixture
def one(nodes: Path, queue: QueueClient) -> str:
    """One of the two nodes: where order is looked at."""
    return nodes.read_text().split()[0]


def output_of(*arguments: str | bytes, stdin: bytes = b"") -> bytes:
    done = swarm("queue", *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def error_of(*arguments: str | bytes, stdin: bytes = b"", status: int = 1) -> str:
    """The one line with which it fails."""
    done = swarm("queue", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (status, b""), done
    text = done.stderr.decode()
    assert text.startswith("swarm: ")
    assert text.count("\n") == 1
    return text.removeprefix("swarm: ").rstrip()


@contextmanager
def running(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that goes on, with pipes."""
    command = [*SWARM, "queue", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


# Push and pop.


def test_push_and_pop(one: str, queue: QueueClient) -> None:
    assert output_of("--node", one, "push", "channel", "grün") == b""
    assert output_of("--node", one, "push", "channel", b"\xff\xfe") == b""
    assert output_of("--node", one, "pop", "channel") == "grün\n".encode()
    assert output_of("--node", one, "pop", "channel") == b"\xff\xfe\n"
    assert error_of("--node", one, "pop", "channel") == "channel channel has no record"
    assert error_of("--node", one, "pop", "unknown") == "channel unknown has no record"
    assert queue.channels() == ["channel"]


def test_lines_in_and_lines_out(one: str, queue: QueueClient) -> None:
    stdin = b"one\r\n  \n\xff\x00\nthe last has no newline"
    assert output_of("--node", one, "push", "channel", "-", stdin=stdin) == b""
    assert queue.channel_size("channel")[0] == 4
    assert output_of("--node", one, "pop", "channel", "-n", "9") == stdin + b"\n"


def test_empty_lines_are_left_out_and_counted(one: str, queue: QueueClient) -> None:
    done = swarm("queue", "--node", one, "push", "channel", "-", stdin=b"\none\n\n\ntwo\n")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"swarm: 3 empty lines left out: no record can be empty\n"
    assert output_of("--node", one, "pop", "channel", "-n", "9") == b"one\ntwo\n"
    assert swarm("queue", "--node", one, "push", "channel", "-", stdin=b"").returncode == 0


def test_an_empty_value_is_a_wrong_call(one: str, queue: QueueClient) -> None:
    assert "empty value" in error_of("--node", one, "push", "channel", "", status=2)
    assert queue.channels() == []


def test_lines_are_pushed_as_they_come(nodes: Path, queue: QueueClient) -> None:
    with running("--nodes", str(nodes), "push", "channel", "-") as process:
        assert process.stdin is not None
        for line in (b"one", b"two"):
            process.stdin.write(line[:1])
            process.stdin.flush()
            process.stdin.write(line[1:] + b"\n")
            process.stdin.flush()
            assert queue.pop("channel", wait=PATIENCE_S) == line
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


def test_many_lines_keep_their_order(one: str, queue: QueueClient) -> None:
    lines = b"".join(b"%d\n" % number for number in range(20_000))
    output_of("--node", one, "push", "channel", "-", stdin=lines)
    assert output_of("--node", one, "pop", "channel", "-n", "15000") == lines[: lines.index(b"15000\n")]
    assert output_of("--node", one, "pop", "channel", "-n", "15000") == lines[lines.index(b"15000\n") :]


def test_records_of_several_nodes_all_come(nodes: Path, queue: QueueClient) -> None:
    for number in range(4):
        queue.push("channel", b"%d" % number)
    assert all(each["records"] == 2 for each in queue.node_statistics().values())
    assert sorted(output_of("--nodes", str(nodes), "pop", "channel", "-n", "9").split()) == [b"0", b"1", b"2", b"3"]


def test_pop_waits_for_a_record(nodes: Path, queue: QueueClient) -> None:
    with running("--nodes", str(nodes), "pop", "channel", "--wait", "1h") as process:
        wait_until(lambda: all(each["waiting_pops"] for each in queue.node_statistics().values()))
        queue.push("channel", b"record")
        assert process.communicate(timeout=PATIENCE_S) == (b"record\n", b"")
        assert process.returncode == 0


def test_pop_has_waited_long_enough(nodes: Path, queue: QueueClient) -> None:
    queue.push("channel", b"record")
    assert output_of("--nodes", str(nodes), "pop", "channel", "-n", "2", "--wait", "10ms") == b"record\n"
    assert error_of("--nodes", str(nodes), "pop", "channel", "--wait", "10ms") == "channel channel has no record"


@pytest.mark.parametrize("options", [("-n", "0"), ("-n", "-1"), ("-n", "x"), ("--wait", "soon"), ("--wait", "-1s")])
def test_wrong_options_are_a_wrong_call(options: tuple[str, str]) -> None:
    done = swarm("queue", "--node", "127.0.0.1:1", "pop", "channel", *options)
    assert done.returncode == 2
    assert options[0].encode() in done.stderr


# JSON.


def test_records_as_lines_of_json(one: str, queue: QueueClient) -> None:
    queue_of_one = QueueClient(one)
    with queue_of_one as client:
        client.push_many("channel", ODD)
    lines = output_of("--node", one, "pop", "channel", "-n", "99", "--json")
    assert lines.splitlines()[:4] == [
        b'{"value": "plain"}',
        '{"value": "größe"}'.encode(),
        b'{"value_base64": "/wA="}',
        b'{"value": "two\\nlines\\n"}',
    ]
    output_of("--node", one, "push", "copy", "-", "--json", stdin=lines)
    with QueueClient(one) as client:
        assert client.pop_many("copy", 99) == ODD
    output_of("--node", one, "push", "copy", '{"value": "one\\ntwo"}', "--json")
    assert queue.pop("copy") == b"one\ntwo"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{", "is not JSON (column 2"),
        (b"\xff", "is not JSON"),
        (b"1", "is not a JSON object"),
        (b"{}", "either value or value_base64 is needed, not there"),
        (b'{"value": "x", "key": "x"}', "unknown member 'key'; known is value, or with _base64"),
        (b'{"value": ""}', "empty value"),
        (b'{"value": 1}', "value is a JSON string, not 1"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_what_stands_before_it_is_pushed(
    one: str, queue: QueueClient, line: bytes, text: str
) -> None:
    stdin = b'{"value": "1"}\n\n{"value": "2"}\n' + line + b'\n{"value": "3"}\n'
    told = error_of("--node", one, "push", "channel", "-", "--json", stdin=stdin)
    assert told.startswith(f"standard input:4: {text}")
    assert told.endswith("; records pushed before it: 2")
    assert output_of("--node", one, "pop", "channel", "-n", "9") == b"1\n2\n"


def test_a_wrong_value_as_json_is_a_wrong_call(one: str, queue: QueueClient) -> None:
    assert "is not JSON" in error_of("--node", one, "push", "channel", "{", "--json", status=2)


def test_a_line_that_is_too_long_is_named(one: str, queue: QueueClient) -> None:
    stdin = b"good\n" + b"x" * (VALUE_BYTES_MAX + 1) + b"\n"
    text = error_of("--node", one, "push", "channel", "-", stdin=stdin)
    assert text.startswith("standard input:2: value too big")
    assert text.endswith("; records pushed before it: 1")


def test_a_line_that_never_ends_takes_no_more_memory_than_the_longest(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(2 * LINE_BYTES_MAX)
        lines = Lines(as_json=False, descriptor=file.fileno())
        with pytest.raises(BadLine, match="is longer than"):
            list(lines)
        assert lines.number == 1
        assert file.tell() < LINE_BYTES_MAX + 2 * 2**20


@given(st.lists(st.sampled_from([b"a", b"\n", b"\xff", b"\r", b"bc\nd"]), max_size=12), st.integers(0, 12))
def test_however_it_comes_it_is_the_same_records(parts: list[bytes], first: int) -> None:
    """In two parts: what is whole is there before the second comes."""
    reading, writing = os.pipe()
    lines = Lines(as_json=False, descriptor=reading)
    data, rest = b"".join(parts[:first]), b"".join(parts[first:])
    given: list[bytes] = []
    try:
        steps = iter(lines)
        os.write(writing, data)
        if any(data.split(b"\n")[:-1]):
            given += next(steps)
            assert given == [line for line in data.split(b"\n")[:-1] if line]
        os.write(writing, rest)
        os.close(writing)
        for records in steps:
            assert records
            given += records
    finally:
        os.close(reading)
    whole = (data + rest).split(b"\n")
    assert given == [line for line in whole if line]
    assert lines.empty == len([line for line in whole[:-1] if not line])


@given(st.binary(min_size=1, max_size=40) | st.text(min_size=1, max_size=40).map(str.encode))
def test_a_line_of_json_gives_its_record_back(record: bytes) -> None:
    line = json_lines.encode(dict([json_lines.member("value", record)]))
    assert line.index(b"\n") == len(line) - 1
    assert json_lines.decode(line, "value") == (record,)
