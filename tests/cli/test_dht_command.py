"""`swarm dht` as a process, against the two real nodes of a `swarm up`.

What is read from a file, whole, cut off anywhere or with any bit flipped, gives records and then BadRecord or nothing.
"""

import io
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from swarm.blocking import DhtClient
from swarm.cli.dht import (
    IMPORT_BYTES,
    IMPORT_RECORDS,
    BadRecord,
    decode_line,
    encode_line,
    in_batches,
    key_text,
    parse_key,
    read_binary,
    read_lines,
    written_whole,
)
from swarm.cli.dht import dht as dht_group
from swarm.cli.main import main
from swarm.core.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tests.cli.commands import SWARM, on_a_terminal, swarm
from tests.waiting import PATIENCE_S, wait_until

ODD = {
    b"plain": b"value",
    "größe".encode(): b"\xff\x00",
    b"\xff": b"line\n\x1b[2J",
    b"base64:": b"\xe2\x80\xa8",
    b"\n": b"-",
}

keys = st.binary(min_size=1, max_size=40) | st.text(min_size=1, max_size=40).map(str.encode)
values = st.binary(min_size=1, max_size=40) | st.text(min_size=1, max_size=40).map(str.encode)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The nodes file of a swarm of two."""
    data = tmp_path_factory.mktemp("swarm")
    with subprocess.Popen(
        [*SWARM, "up", "--data", str(data), "--base-port", "0"], stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield wait_until(lambda: next(data.glob("nodes"), None))
        finally:
            process.terminate()


@pytest.fixture
def dht(nodes: Path) -> Iterator[DhtClient]:
    """A client of a swarm that is empty."""
    with DhtClient(nodes_file=nodes) as client:
        for channel in client.channels():
            client.remove_channel(channel)
        yield client


def output_of(nodes: Path, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
    done = swarm("dht", "--nodes", str(nodes), *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def error_of(nodes: Path, *arguments: str | bytes, stdin: bytes = b"") -> str:
    """The one line with which it fails."""
    done = swarm("dht", "--nodes", str(nodes), *arguments, stdin=stdin)
    assert done.returncode == 1, done
    text = done.stderr.decode()
    assert text.startswith("swarm: ")
    assert text.count("\n") == 1
    return text.removeprefix("swarm: ").rstrip()


# Single records.


def test_put_and_get(nodes: Path, dht: DhtClient) -> None:
    assert output_of(nodes, "put", "channel", "key", "grün") == b""
    assert dht.get("channel", "key") == "grün".encode()
    assert output_of(nodes, "get", "channel", "key") == "grün".encode()


def test_a_value_from_standard_input_is_exact(nodes: Path, dht: DhtClient) -> None:
    value = bytes(range(256)) * 1000 + b"\r\n"
    output_of(nodes, "put", "channel", "key", "-", stdin=value)
    assert output_of(nodes, "get", "channel", "key") == value


def test_arguments_that_are_not_utf8_are_kept(nodes: Path, dht: DhtClient) -> None:
    output_of(nodes, "put", "channel", b"\xff\xfe", b"\xfd")
    assert dht.get("channel", b"\xff\xfe") == b"\xfd"


def test_on_a_terminal_a_value_is_followed_by_a_newline(nodes: Path, dht: DhtClient) -> None:
    dht.put("channel", "key", b"value")
    command = [*SWARM, "dht", "--nodes", str(nodes), "get", "channel", "key"]
    assert on_a_terminal(command) == (0, b"value\r\n")


def test_a_value_that_is_too_big_or_empty_is_refused(nodes: Path, dht: DhtClient) -> None:
    for stdin, text in ((b"x" * (VALUE_BYTES_MAX + 1), b"more than 16777216 bytes"), (b"", b"empty value")):
        done = swarm("dht", "--nodes", str(nodes), "put", "channel", "key", "-", stdin=stdin)
        assert done.returncode == 2
        assert text in done.stderr
    assert dht.size() == (0, 0)


def test_a_record_that_is_not_there(nodes: Path, dht: DhtClient) -> None:
    assert error_of(nodes, "get", "channel", "key") == "channel channel has no record with the key key"
    assert (
        error_of(nodes, "remove", "channel", "base64:/w==") == "channel channel has no record with the key base64:/w=="
    )
    done = swarm("dht", "--nodes", str(nodes), "exists", "channel", "key")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"no\n", b"")
    assert dht.channels() == []


def test_exists_and_remove(nodes: Path, dht: DhtClient) -> None:
    dht.put("channel", "key", b"value")
    assert output_of(nodes, "exists", "channel", "key") == b"yes\n"
    assert output_of(nodes, "remove", "channel", "key") == b""
    assert not dht.exists("channel", "key")


# Keys and channels.


def test_keys_are_lines_that_lead_back_to_the_keys(nodes: Path, dht: DhtClient) -> None:
    dht.put_many("channel", ODD)
    lines = output_of(nodes, "keys", "channel").decode().splitlines()
    assert sorted(map(parse_key, lines)) == sorted(ODD)
    assert sorted(lines) == ["base64:/w==", "base64:Cg==", "base64:YmFzZTY0Og==", "größe", "plain"]
    assert output_of(nodes, "get", "channel", "base64:/w==") == ODD[b"\xff"]


def test_keys_with_a_prefix(nodes: Path, dht: DhtClient) -> None:
    dht.put_many("channel", {b"a1": b"x", b"a2": b"x", b"b": b"x", b"\xff1": b"x"})
    assert sorted(output_of(nodes, "keys", "channel", "--prefix", "a").split()) == [b"a1", b"a2"]
    assert output_of(nodes, "keys", "channel", "--prefix", "base64:/w==") == b"base64:/zE=\n"
    assert output_of(nodes, "keys", "channel", "--prefix", "c") == b""


def test_keys_and_export_of_a_channel_that_does_not_exist(nodes: Path, dht: DhtClient, tmp_path: Path) -> None:
    assert error_of(nodes, "keys", "unknown") == "there is no channel unknown"
    assert error_of(nodes, "keys", "unknown", "--prefix", "a") == "there is no channel unknown"
    assert error_of(nodes, "export", "unknown") == "there is no channel unknown"
    assert error_of(nodes, "export", "unknown", str(tmp_path / "file")) == "there is no channel unknown"
    assert list(tmp_path.iterdir()) == []
    assert dht.channels() == []
    dht.put("empty", "key", b"value")
    dht.remove("empty", "key")
    assert output_of(nodes, "keys", "empty") == b""
    assert output_of(nodes, "export", "empty") == b""


@given(keys)
def test_every_key_has_a_text_of_one_line(key: bytes) -> None:
    text = key_text(key)
    assert text.isprintable()
    assert parse_key(text) == key


def test_channels_and_sizes(nodes: Path, dht: DhtClient) -> None:
    assert output_of(nodes, "channels") == b""
    dht.put_many("b", {f"key{number}": b"value" for number in range(100)})
    dht.put("a", "k", b"v")
    assert output_of(nodes, "channels") == b"a\t1\t2\nb\t100\t990\n"
    assert output_of(nodes, "size") == b"101\t992\n"
    assert output_of(nodes, "size", "b") == b"100\t990\n"
    assert output_of(nodes, "size", "unknown") == b"0\t0\n"


def test_channels_and_sizes_on_a_terminal(nodes: Path, dht: DhtClient) -> None:
    dht.put("channel", "k", b"v" * 1233)
    status, shown = on_a_terminal([*SWARM, "dht", "--nodes", str(nodes), "channels"])
    assert status == 0
    assert all(each in shown for each in (b"records", b"bytes", b"channel", b"1,234"))
    assert on_a_terminal([*SWARM, "dht", "--nodes", str(nodes), "size"]) == (0, b"1 record, 1,234 bytes\r\n")


def test_remove_channel(nodes: Path, dht: DhtClient) -> None:
    dht.put("channel", "key", b"value")
    assert output_of(nodes, "remove-channel", "channel") == b""
    assert dht.channels() == []
    assert error_of(nodes, "remove-channel", "channel") == "there is no channel channel"


@pytest.mark.parametrize(
    ("options", "typed", "removed"),
    [([], b"n\n", False), ([], b"\n", False), ([], b"y\n", True), (["--yes"], b"", True)],
)
def test_on_a_terminal_remove_channel_asks(
    nodes: Path, dht: DhtClient, options: list[str], typed: bytes, removed: bool
) -> None:
    dht.put("channel", "key", b"value")
    command = [*SWARM, "dht", "--nodes", str(nodes), "remove-channel", "channel", *options]
    status, shown = on_a_terminal(command, typed)
    assert (b"Remove channel channel with 1 record? [y/N]" in shown) == (not options)
    assert (dht.channels(), status) == (([], 0) if removed else (["channel"], 1))


# Export and import.


@pytest.mark.parametrize("options", [[], ["--binary"]])
def test_what_was_exported_is_the_same_after_an_import(nodes: Path, dht: DhtClient, options: list[str]) -> None:
    records = ODD | {b"%d" % number: bytes(range(256)) * 9 for number in range(2500)}
    dht.put_many("channel", records)
    exported = output_of(nodes, "export", "channel", *options)
    assert output_of(nodes, "import", "copy", *options, stdin=exported) == b""
    assert dict(dht.get_all("copy")) == records


def test_export_and_import_of_a_file(nodes: Path, dht: DhtClient, tmp_path: Path) -> None:
    dht.put_many("channel", ODD)
    file = str(tmp_path / "file")
    assert output_of(nodes, "export", "channel", file) == b""
    assert output_of(nodes, "import", "copy", file) == b""
    assert dict(dht.get_all("copy")) == ODD
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_formats(nodes: Path, dht: DhtClient) -> None:
    dht.put("channel", b"\xff", "größe".encode())
    line = output_of(nodes, "export", "channel")
    assert line.decode() == '{"key_base64": "/w==", "value": "größe"}\n'
    assert msgpack.unpackb(output_of(nodes, "export", "channel", "--binary")) == [b"\xff", "größe".encode()]


def test_export_shows_progress_on_a_terminal_only(nodes: Path, dht: DhtClient, tmp_path: Path) -> None:
    dht.put("channel", b"key", b"value")
    for command in ("export", "import"):
        status, shown = on_a_terminal(
            [*SWARM, "dht", "--nodes", str(nodes), command, "channel", str(tmp_path / "file")]
        )
        assert status == 0
        assert f"{command} channel".encode() in shown
        assert b"1 records" in shown
    assert on_a_terminal([*SWARM, "dht", "--nodes", str(nodes), "export", "channel"]) == (
        0,
        b'{"key": "key", "value": "value"}\r\n',
    )


def test_an_export_that_fails_leaves_everything_as_it_was(nodes: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    for channel, status in (("channel", 1), ("../channel", 2)):
        done = swarm("dht", "--node", "127.0.0.1:1", "--timeout", "100ms", "export", channel, str(file))
        assert done.returncode == status
    with suppress(RuntimeError), written_whole(file) as output:
        output.write(b"half")
        output.flush()
        raise RuntimeError
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"before")]


def test_a_file_that_is_replaced_keeps_its_permissions_and_its_links(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"before")
    file.chmod(0o600)
    link.symlink_to(file)
    with written_whole(link) as output:
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
        output.write(b"after")
        assert file.read_bytes() == b"before"
    assert file.read_bytes() == b"after"
    assert link.is_symlink()


def test_a_device_is_not_replaced() -> None:
    with written_whole(Path("/dev/null")) as output:
        output.write(b"x")
    assert Path("/dev/null").is_char_device()


def test_a_bad_line_is_named_and_what_stands_before_it_is_imported(nodes: Path, dht: DhtClient, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    good = [json.dumps({"key": str(number), "value": "x"}) for number in range(1500)]
    file.write_text("\n".join([*good[:1200], "", '{"key": "k"}', *good[1200:]]))
    text = error_of(nodes, "import", "channel", str(file))
    assert text == f"{file}:1202: either value or value_base64 is needed, not there; records imported before it: 1200"
    assert dht.channel_size("channel")[0] == 1200


def test_a_bad_record_of_a_binary_file_is_named(nodes: Path, dht: DhtClient) -> None:
    stdin = msgpack.packb([b"key", b"value"]) + msgpack.packb([b"key", b""])
    text = error_of(nodes, "import", "channel", "--binary", stdin=stdin)
    assert text.startswith("standard input:2: empty value")
    assert text.endswith("; records imported before it: 1")
    assert dht.get("channel", "key") == b"value"


def test_what_a_node_refuses_is_named(tmp_path: Path) -> None:
    config = tmp_path / "dht.ini"
    config.write_text("[limits]\nvalue_bytes = 10\n[node]\naddress = 127.0.0.1:0\nmemory_limit = 100 KiB\n")
    command = [sys.executable, "-m", "nodes.dht", "--config", str(config), "--data", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            address = process.stderr.readline().split(b" serves on ")[1].split(b",")[0].decode()
            lines = [encode_line(b"%d" % number, b"value") for number in range(2000)]
            too_big = [*lines[:2], encode_line(b"k", b"v" * 11), *lines[2:]]
            done = swarm("dht", "--node", address, "import", "channel", stdin=b"".join(too_big[:9]))
            assert done.returncode == 1
            assert done.stderr.startswith(b"swarm: standard input:3: ")
            assert b"value too big: 11 bytes, the node accepts 10" in done.stderr
            assert done.stderr.endswith(b"; records imported before: 0\n")
            done = swarm("dht", "--node", address, "import", "channel", stdin=b"".join(lines))
            assert done.returncode == 1
            assert b"swarm: standard input:1-1000: put many at " + address.encode() + b": out of memory" in done.stderr
        finally:
            process.terminate()


def test_a_file_that_is_not_there(nodes: Path, tmp_path: Path) -> None:
    assert error_of(nodes, "import", "channel", str(tmp_path / "x")) == f"{tmp_path / 'x'}: No such file or directory"
    assert error_of(nodes, "export", "channel", str(tmp_path / "x/y")).endswith("No such file or directory")


@given(keys, values)
def test_a_line_gives_its_record_back(key: bytes, value: bytes) -> None:
    line = encode_line(key, value)
    assert line.index(b"\n") == len(line) - 1
    assert decode_line(line) == (key, value)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "is not JSON (column 2"),
        ("\xff", "is not JSON"),
        ('{"key": "k", "value": "v"} x', "is not JSON (column 28"),
        ("[" * 100_000, "is not JSON"),
        ("1", "is not a JSON object: b'1'"),
        ("[]", "is not a JSON object"),
        ("{}", "either key or key_base64 is needed, not there"),
        ('{"key": "k", "key_base64": "aw==", "value": "v"}', "either key or key_base64 is needed, and not both"),
        ('{"key": "k", "value": 1}', "value is a JSON string, not 1"),
        ('{"key": "k", "value": null}', "value is a JSON string, not None"),
        ('{"key": "k", "value": "v", "ttl": 1}', "unknown member 'ttl'"),
        ('{"key_base64": "k", "value": "v"}', "'k' is not base64"),
        ('{"key": "k", "value_base64": "a b="}', "'a b=' is not base64"),
        ('{"key_base64": "ä", "value": "v"}', "'ä' is not base64"),
        (r'{"key": "\ud800", "value": "v"}', "key holds half of a surrogate pair"),
        ('{"key": "", "value": "v"}', "a key has 1 to 480 bytes, not 0"),
        ('{"key": "' + "k" * 481 + '", "value": "v"}', "a key has 1 to 480 bytes, not 481"),
        ('{"key": "k", "value": ""}', "empty value"),
    ],
)
def test_lines_that_are_no_records(line: str, text: str) -> None:
    with pytest.raises(BadRecord) as raised:
        list(read_lines(io.BytesIO(b"\n" + line.encode("latin-1" if line == "\xff" else "utf-8"))))
    assert str(raised.value).startswith(text)
    assert raised.value.place == 2


def test_the_longest_record_fits_into_a_line_and_a_longer_line_is_refused() -> None:
    key, value = b"\x00" * KEY_BYTES_MAX, b"\x00" * VALUE_BYTES_MAX
    line = encode_line(key, value)
    assert [record[1:] for record in read_lines(io.BytesIO(line))] == [(key, value)]
    with pytest.raises(BadRecord, match="is longer than"):
        list(read_lines(io.BytesIO(b" " * 2000 + line)))


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ([b"k"], "is not [key, value]"),
        ([b"k", "text"], "is not [key, value], both bin, but [b'k', 'text']"),
        ({}, "is not [key, value]"),
        (1, "is not [key, value]"),
        ([b"k", b"v", b"w"], "is not msgpack of [key, value]"),
        ({1: 2}, "is not msgpack of [key, value]"),
        (msgpack.ExtType(1, b"1"), "is not msgpack of [key, value]"),
        ([b"k" * 481, b"v"], "a key has 1 to 480 bytes"),
        ([b"k", b"v" * (VALUE_BYTES_MAX + 1)], "is not msgpack of [key, value]"),
    ],
)
def test_binary_items_that_are_no_records(item: object, text: str) -> None:
    file = io.BytesIO(msgpack.packb([b"k", b"v"]) + msgpack.packb(item))
    with pytest.raises(BadRecord) as raised:
        list(read_binary(file))
    assert str(raised.value).startswith(text)
    assert raised.value.place == 2


def test_the_longest_record_fits_into_a_binary_file() -> None:
    record = [b"k" * KEY_BYTES_MAX, b"v" * VALUE_BYTES_MAX]
    assert [list(each[1:]) for each in read_binary(io.BytesIO(msgpack.packb(record) * 2))] == [record, record]


RECORDS = [(b"key", b"value"), (b"\xff", b"\x00" * 40), ("größe".encode(), b"v")]
FILES = {
    "lines": (b"".join(encode_line(*record) for record in RECORDS), read_lines),
    "binary": (b"".join(msgpack.packb(record) for record in RECORDS), read_binary),
}


class _ByteByByte(io.RawIOBase):
    """A file that gives one byte at each read, as a slow pipe may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1))

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._data.read(1)
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("form", FILES)
def test_a_file_may_come_byte_by_byte(form: str) -> None:
    data, read = FILES[form]
    assert [record[1:] for record in read(_ByteByByte(data))] == RECORDS  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FILES)
def test_a_file_that_was_cut_off_anywhere_gives_what_is_whole(form: str) -> None:
    data, read = FILES[form]
    for size in range(len(data)):
        found: list[tuple[bytes, bytes]] = []
        try:
            found.extend(record[1:] for record in read(io.BytesIO(data[:size])))
            ended_well = True
        except BadRecord as error:
            assert error.place == len(found) + 1
            ended_well = False
        assert found == RECORDS[: len(found)]
        whole = b"".join(encode_line(*each) if form == "lines" else msgpack.packb(each) for each in found)
        assert ended_well == (size in (len(whole), len(whole) - (form == "lines")))


@pytest.mark.parametrize("form", FILES)
def test_a_flipped_bit_gives_records_or_a_bad_record(form: str) -> None:
    data, read = FILES[form]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert all(key and value for _, key, value in read(io.BytesIO(flipped)))
        except BadRecord as error:
            assert 1 <= error.place <= len(RECORDS) + 1


def test_batches_are_bounded_and_come_before_what_is_bad() -> None:
    def records() -> Iterator[tuple[int, bytes, bytes]]:
        yield from ((number, b"k", b"v") for number in range(IMPORT_RECORDS + 1))
        yield from ((number, b"k", b"v" * (IMPORT_BYTES // 2)) for number in range(3))
        raise BadRecord(7, "bad")

    batches: list[list[tuple[int, bytes, bytes]]] = []
    with pytest.raises(BadRecord):
        batches.extend(in_batches(records()))
    assert list(map(len, batches)) == [IMPORT_RECORDS, 3, 1]


# How it is called, and how it ends.


def test_without_nodes_it_says_how_to_name_them() -> None:
    done = swarm("dht", "size", environment={"SWARM_NODES": ""})
    assert done.returncode == 2
    assert all(each in done.stderr for each in (b"--nodes", b"swarm-data/nodes", b"--node", b"SWARM_NODES"))


def test_nodes_from_the_environment_and_from_options(nodes: Path, dht: DhtClient) -> None:
    addresses = nodes.read_text().split()
    dht.put("channel", "key", b"value")
    named = [option for address in addresses for option in ("--node", address)]
    assert swarm("dht", *named, "size").stdout == b"1\t8\n"
    assert swarm("dht", "size", environment={"SWARM_NODES": ", ".join(addresses)}).stdout == b"1\t8\n"
    both = swarm("dht", *named, "--nodes", str(nodes), "size")
    assert both.returncode == 2
    assert b"not both" in both.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--node", "127.0.0.1", "size"],
        ["--nodes", "/nonexistent", "size"],
        ["--node", "127.0.0.1:1", "--timeout", "0", "size"],
        ["--node", "127.0.0.1:1", "--timeout", "soon", "size"],
        ["--node", "127.0.0.1:1", "put", "a/b", "key", "value"],
        ["--node", "127.0.0.1:1", "put", "channel", "", "value"],
        ["--node", "127.0.0.1:1", "put", "channel", "key", ""],
        ["--node", "127.0.0.1:1", "get", "channel", "base64:x"],
        ["--node", "127.0.0.1:1", "get", "channel"],
        ["--node", "127.0.0.1:1", "unknown"],
    ],
)
def test_a_wrong_call_has_status_2(arguments: list[str]) -> None:
    done = swarm("dht", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


def test_a_node_that_is_not_there_is_one_line() -> None:
    done = swarm("dht", "--node", "127.0.0.1:1", "--timeout", "100ms", "get", "channel", "key")
    assert done.returncode == 1
    assert done.stderr.startswith(b"swarm: ")
    assert b"127.0.0.1:1: it was not reached" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_when_its_reader_has_gone_it_ends_without_a_word(nodes: Path, dht: DhtClient) -> None:
    dht.put_many("channel", {f"key {number}": b"x" * 1000 for number in range(2000)})
    command = [*SWARM, "dht", "--nodes", str(nodes), "export", "channel"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b'{"key": "k'
        process.stdout.close()
        assert process.wait(PATIENCE_S) == -signal.SIGPIPE
        assert process.stderr.read() == b""


def test_interrupted_it_ends_without_a_word(nodes: Path, dht: DhtClient) -> None:
    command = [*SWARM, "dht", "--nodes", str(nodes), "import", "channel"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(encode_line(b"%d" % number, b"v") for number in range(IMPORT_RECORDS)))
        process.stdin.flush()
        wait_until(lambda: dht.channel_size("channel")[0] == IMPORT_RECORDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == -signal.SIGINT
        assert process.stderr.read() == b""


def test_output_that_cannot_be_written_is_told(nodes: Path, dht: DhtClient) -> None:
    dht.put("channel", "key", b"value")
    with Path("/dev/full").open("wb") as full:
        command = [*SWARM, "dht", "--nodes", str(nodes), "get", "channel", "key"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (1, b"swarm: [Errno 28] No space left on device\n")


def test_closed_standard_streams_are_told(nodes: Path) -> None:
    for redirection in ("<&-", ">&-"):
        command = f"{' '.join(SWARM)} dht --nodes {nodes} size {redirection}"
        done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
        assert (done.returncode, done.stderr) == (1, b"swarm: standard input and output have to be open\n")


def test_version_and_help() -> None:
    assert swarm("--version").stdout.startswith(b"swarm 0.")
    text = swarm("--help").stdout
    assert all(each in text for each in (b"Usage: swarm [OPTIONS] COMMAND", b"  dht ", b"  up "))
    commands = {
        "put",
        "get",
        "exists",
        "remove",
        "keys",
        "channels",
        "size",
        "remove-channel",
        "export",
        "import",
        "listen",
    }
    assert set(dht_group.commands) == commands
    for command in commands:
        shown = CliRunner().invoke(main, ["dht", command, "--help"], prog_name="swarm")
        assert shown.output.startswith(f"Usage: swarm dht {command} ")


# Listening.


def listening(nodes: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [*SWARM, "dht", "--nodes", str(nodes), "listen", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def lines_until(process: "subprocess.Popen[bytes]", last: object) -> list[dict[str, str]]:
    """What it has written up to the line that is `last`; each line is there when its change is, not later."""
    assert process.stdout is not None
    lines: list[dict[str, str]] = []
    while not lines or lines[-1] != last:
        lines.append(json.loads(process.stdout.readline()))
    return lines


def test_listen_until_ctrl_c(nodes: Path, dht: DhtClient) -> None:
    dht.put_many("c", ODD)
    with listening(nodes, "c", "--refresh") as process:
        refreshed = {"event": "refreshed", "hashes": "0x0000000000000000-0xffffffffffffffff"}
        first = lines_until(process, refreshed)
        given = [
            decode_line(json.dumps({name: text for name, text in line.items() if name != "event"}).encode())
            for line in first
            if line["event"] == "put"
        ]
        assert dict(given) == ODD
        assert sorted(line["hashes"] for line in first if line["event"] == "refresh begins") == [
            "0x0000000000000000-0x7fffffffffffffff",
            "0x8000000000000000-0xffffffffffffffff",
        ]
        dht.put("c", b"\xff", b"new")
        put = {"event": "put", "key_base64": "/w==", "value": "new"}
        assert lines_until(process, put) == [put]
        dht.remove("c", "plain")
        removed = {"event": "removed", "key": "plain"}
        assert lines_until(process, removed) == [removed]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, rest, errors) == (-signal.SIGINT, b"", b"")


def test_listen_to_a_prefix(nodes: Path, dht: DhtClient) -> None:
    with listening(nodes, "c", "--refresh", "--prefix", "a") as process:
        lines_until(process, {"event": "refreshed", "hashes": "0x0000000000000000-0xffffffffffffffff"})
        dht.put_many("c", {"b": b"1", "a1": b"2"})
        put = {"event": "put", "key": "a1", "value": "2"}
        assert lines_until(process, put) == [put]
        process.terminate()
        process.communicate()


def test_listen_whose_reader_goes_away(nodes: Path, dht: DhtClient) -> None:
    with listening(nodes, "c", "--refresh") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        dht.put("c", "a", b"1")
        assert process.wait(PATIENCE_S) == -signal.SIGPIPE


def test_what_listen_refuses(nodes: Path) -> None:
    done = swarm("dht", "--nodes", str(nodes), "listen", "no such/channel")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"bad channel name" in done.stderr
