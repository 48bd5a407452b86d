"""`swarm queue` as a process, against the two real queue nodes of a `swarm up`.

What is read from standard input, however it comes in parts, gives the same records.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.queue.config import QueueConfig, QueueSection
from swarm.blocking import QueueClient
from swarm.cli import json_lines
from swarm.cli.queue import LINE_BYTES_MAX, BadLine, Lines
from swarm.core.limits import VALUE_BYTES_MAX
from swarm.testing import QueueProcess
from tests.cli.commands import SWARM, on_a_terminal, swarm
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


def test_pop_that_nobody_reads_takes_nothing(nodes: Path, queue: QueueClient) -> None:
    with running("--nodes", str(nodes), "pop", "channel", "--wait", "1h") as process:
        wait_until(lambda: all(each["waiting_pops"] for each in queue.node_statistics().values()))
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == -signal.SIGPIPE
        queue.push("channel", b"record")
        assert queue.pop("channel") == b"record"


# Consume.


def consume_from(nodes: str, *options: str) -> list[str]:
    return ["--nodes" if "/" in nodes else "--node", nodes, "consume", "channel", *options]


def read_line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def test_records_are_written_as_they_come_and_are_done_then(nodes: Path, queue: QueueClient) -> None:
    with running(*consume_from(str(nodes))) as process:
        for record in (b"one", b"two"):
            queue.push("channel", record)
            assert read_line(process) == record + b"\n"
            wait_until(lambda: queue.channel_size("channel") == (0, 0))
        assert process.poll() is None


def test_ctrl_c_ends_it_without_a_word_and_nothing_is_lost(one: str, queue: QueueClient) -> None:
    with QueueClient(one) as client, running(*consume_from(one)) as process:
        client.push("channel", b"one")
        assert read_line(process) == b"one\n"
        wait_until(lambda: client.channel_size("channel") == (0, 0))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == b""
        client.push("channel", b"two")
        assert client.pop("channel") == b"two"


@pytest.mark.parametrize(
    "command", [("push", "channel", "-"), ("pop", "channel", "--wait", "1h"), ("consume", "channel")]
)
def test_ctrl_c_while_it_waits_is_no_error(nodes: Path, queue: QueueClient, command: tuple[str, ...]) -> None:
    with running("--nodes", str(nodes), *command) as process:
        if command[0] == "push":
            assert process.stdin is not None
            process.stdin.write(b"record\n")
            process.stdin.flush()
            wait_until(lambda: queue.channel_size("channel") == (1, 6))
        else:
            key = "waiting_pops" if command[0] == "pop" else "consumers"
            wait_until(lambda: all(each[key] for each in queue.node_statistics().values()))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
        assert process.returncode == -signal.SIGINT


def test_what_was_not_written_when_its_reader_ends_is_not_done(one: str, queue: QueueClient) -> None:
    records = [b"%06d" % number * 200 for number in range(5000)]  # far more than pipes hold
    with QueueClient(one) as client:
        client.push_many("channel", records)
        with running(*consume_from(one, "--subscriber", "billing")) as process:
            assert read_line(process) == records[0] + b"\n"
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(PATIENCE_S) == -signal.SIGPIPE
            assert process.stderr is not None
            assert process.stderr.read() == b""
        left = output_of(*consume_from(one, "--subscriber", "billing", "--wait", "10ms")).splitlines()
        assert len(left) > 3000
        assert left == records[-len(left) :]


def test_a_reader_that_ends_while_nothing_comes_ends_it(nodes: Path, queue: QueueClient) -> None:
    with running(*consume_from(str(nodes), "--subscriber", "billing")) as process:
        queue.push("channel", b"one")
        assert read_line(process) == b"one\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == -signal.SIGPIPE
    queue.push("channel", b"two")
    assert output_of(*consume_from(str(nodes), "--subscriber", "billing", "-n", "1")) == b"two\n"


def test_so_many_and_no_more(one: str, queue: QueueClient) -> None:
    lines = b"".join(b"%d\n" % number for number in range(3000))
    output_of("--node", one, "push", "channel", "-", stdin=lines)
    begin = lines.index(b"1500\n")
    assert output_of(*consume_from(one, "-n", "1500")) == lines[:begin]
    assert queue.channel_size("channel")[0] == 1500
    assert output_of(*consume_from(one, "-n", "9999", "--wait", "10ms")) == lines[begin:]
    assert error_of(*consume_from(one, "--wait", "10ms")) == "channel channel has no record"
    assert queue.channel_size("channel") == (0, 0)


def test_each_subscriber_is_given_all(nodes: Path, queue: QueueClient) -> None:
    with (
        running(*consume_from(str(nodes), "--subscriber", "audit")) as audit,
        running(*consume_from(str(nodes), "--subscriber", "billing")) as billing,
    ):
        wait_until(lambda: len(queue.queues("channel")) == 4)  # two at each node
        queue.push("channel", b"for all")
        assert read_line(audit) == b"for all\n"
        assert read_line(billing) == b"for all\n"


def test_a_channel_with_subscribers_cannot_be_popped(nodes: Path, queue: QueueClient) -> None:
    queue.push("channel", b"record")
    output_of(*consume_from(str(nodes), "--subscriber", "billing", "-n", "1"))
    assert "has subscribers" in error_of("--nodes", str(nodes), "pop", "channel")
    assert "has subscribers" in error_of(*consume_from(str(nodes)))


def test_a_channel_that_is_removed_ends_it(nodes: Path, queue: QueueClient) -> None:
    with running(*consume_from(str(nodes), "--subscriber", "billing")) as process:
        wait_until(lambda: queue.queues("channel"))
        output_of("--nodes", str(nodes), "remove-channel", "channel")
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (1, b"")
        assert b"the channel was removed" in err
        assert err.count(b"\n") == 1


def test_consumed_records_as_json(one: str, queue: QueueClient) -> None:
    with QueueClient(one) as client:
        client.push_many("channel", ODD)
    lines = output_of(*consume_from(one, "--json", "-n", str(len(ODD))))
    assert [json_lines.decode(line, "value")[0] for line in lines.splitlines()] == ODD


# What there is.


def test_channels_and_sizes(one: str, queue: QueueClient) -> None:
    assert output_of("--node", one, "channels") == b""
    assert output_of("--node", one, "size") == b"0\t0\t0.0\n"
    with QueueClient(one) as client:
        client.push_many("b", [b"x" * 2**20] * 32)
        client.push("a", b"x")
        fullness = client.queues("b")[0].fullness
    assert 50 < fullness < 51
    assert output_of("--node", one, "channels") == b"a\t1\t1\t0.0\nb\t32\t33554432\t%.1f\n" % fullness
    assert output_of("--node", one, "size") == b"33\t33554433\t%.1f\n" % fullness
    assert output_of("--node", one, "size", "a") == b"1\t1\t0.0\n"
    assert output_of("--node", one, "size", "unknown") == b"0\t0\t0.0\n"
    assert queue.channels() == ["a", "b"]


def test_on_a_terminal_there_is_a_table(one: str, queue: QueueClient) -> None:
    with QueueClient(one) as client:
        client.push_many("channel", [b"xy"] * 1234)
    where = ["--node", one]
    status, shown = on_a_terminal([*SWARM, "queue", *where, "channels"])
    assert status == 0
    assert all(each in shown for each in (b"records", b"full", b"channel", b"1,234", b"2,468", b"%"))
    status, shown = on_a_terminal([*SWARM, "queue", *where, "size", "channel"])
    assert (status, shown.partition(b"bytes, ")[0]) == (0, b"1,234 records, 2,468 ")


def test_subscribers_are_listed_and_dropped(one: str, queue: QueueClient) -> None:
    assert error_of("--node", one, "subscribers", "channel") == "there is no channel channel"
    output_of("--node", one, "push", "channel", "record")
    assert output_of("--node", one, "subscribers", "channel") == b""
    assert output_of(*consume_from(one, "--subscriber", "b", "-n", "1")) == b"record\n"
    with running(*consume_from(one, "--subscriber", "a")):
        wait_until(lambda: len(queue.queues("channel")) == 2)
        output_of("--node", one, "push", "channel", "another")
        wait_until(lambda: queue.channel_size("channel")[0] == 1)
        assert output_of("--node", one, "subscribers", "channel").decode() == (
            f"a\t{one}\t0\t0\t0.0\t0\t1\t0\t0\nb\t{one}\t1\t7\t0.0\t0\t0\t0\t0\n"
        )
    assert output_of("--node", one, "drop-subscriber", "channel", "b") == b""
    assert error_of("--node", one, "drop-subscriber", "channel", "b") == "channel channel has no subscriber b"
    assert [each.subscriber for each in queue.queues("channel")] == ["a"]


@pytest.mark.parametrize(
    ("options", "typed", "dropped"), [([], b"n\n", False), ([], b"y\n", True), (["--yes"], b"", True)]
)
def test_on_a_terminal_drop_subscriber_asks(
    nodes: Path, queue: QueueClient, options: list[str], typed: bytes, dropped: bool
) -> None:
    queue.push("channel", b"one")
    output_of(*consume_from(str(nodes), "--subscriber", "billing", "-n", "1"))
    queue.push_many("channel", [b"two"])
    command = [*SWARM, "queue", "--nodes", str(nodes), "drop-subscriber", "channel", "billing", *options]
    status, shown = on_a_terminal(command, typed)
    assert (b"Drop subscriber billing of channel channel with 1 record? [y/N]" in shown) == (not options)
    assert (bool(queue.queues("channel")), status) == ((False, 0) if dropped else (True, 1))


def test_remove_channel(nodes: Path, queue: QueueClient) -> None:
    queue.push("channel", b"record")
    assert output_of("--nodes", str(nodes), "remove-channel", "channel") == b""
    assert queue.channels() == []
    assert error_of("--nodes", str(nodes), "remove-channel", "channel") == "there is no channel channel"


# Which nodes, and what they refuse.


def test_the_environment_names_the_nodes(nodes: Path, queue: QueueClient) -> None:
    addresses = ",".join(nodes.read_text().split())
    environment = {"SWARM_QUEUE_NODES": addresses, "SWARM_NODES": "127.0.0.1:1"}
    done = swarm("queue", "push", "channel", "record", environment=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert queue.pop("channel") == b"record"


def test_without_nodes_it_says_how_to_name_them() -> None:
    done = swarm("queue", "channels", environment={"SWARM_QUEUE_NODES": ""})
    assert done.returncode == 2
    assert all(each in done.stderr for each in (b"--nodes FILE", b"swarm-data/nodes-queue", b"SWARM_QUEUE_NODES"))


def test_a_dht_node_is_no_queue_node(nodes: Path) -> None:
    text = error_of("--nodes", str(nodes.with_name("nodes")), "push", "channel", "record")
    assert "dht" in text
    assert "queue" in text


SMALL = QueueConfig(queue=QueueSection(ring_bytes=4 * 2**20))  # of several batches of a producer
FILLS_IT = b"".join(b"%0999d\n" % number for number in range(9000))


def test_a_full_queue_is_told_with_what_was_pushed_before(tmp_path: Path) -> None:
    with QueueProcess(tmp_path, SMALL) as node:
        done = swarm("queue", "--node", node.address, "--timeout", "100ms", "push", "channel", "-", stdin=FILLS_IT)
        assert done.returncode == 1
        found = re.fullmatch(rb"swarm: .*queue full.*; records pushed before: (\d+)\n", done.stderr)
        assert found, done.stderr
        pushed = int(found[1])
        assert 2000 < pushed < 9000
        assert output_of("--node", node.address, "pop", "channel", "-n", "9000") == FILLS_IT[: 1000 * pushed]


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    with (
        QueueProcess(tmp_path, SMALL) as node,
        running("--node", node.address, "--timeout", "1m", "push", "channel", "-") as pushing,
        running("--node", node.address, "consume", "channel", "-n", "9000") as consuming,
        ThreadPoolExecutor() as threads,
    ):
        consumed = threads.submit(consuming.communicate, timeout=PATIENCE_S)
        assert pushing.communicate(FILLS_IT, PATIENCE_S) == (b"", b"")
        assert consumed.result() == (FILLS_IT, b"")
        assert pushing.returncode == consuming.returncode == 0


# Lines.


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
