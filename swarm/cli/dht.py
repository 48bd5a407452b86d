"""`swarm dht`: the records of a dht, from the command line.

What goes to a program is exact and has no ornament: values are raw bytes, tables are tab separated. What goes to a
terminal is for people. Keys are bytes, command lines and lists of lines are text, so keys have a written form that
leads back to every key (key_text, parse_key).
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
import msgpack

from swarm.blocking import DhtClient
from swarm.cli import Failure, WrongCall, json_lines
from swarm.cli.channel_commands import CHANNEL, remove_channel
from swarm.cli.json_lines import from_base64, member, to_base64
from swarm.cli.nodes import Nodes, takes_nodes
from swarm.cli.terminal import PROGRESS_RECORDS, counted, progress_bar, write_output, write_rows
from swarm.core.command_line import parsed_by
from swarm.core.errors import SwarmError
from swarm.core.limits import KEY_BYTES_MAX, KIB, MIB, VALUE_BYTES_MAX
from swarm.core.protocol import DEFAULT_LIMITS, check_channel
from swarm.dht.events import Event
from swarm.dht.protocol import check_key, check_value

IMPORT_RECORDS = 1000  # records of a batch, and
IMPORT_BYTES = 1 * MIB  # bytes of a batch: little to repeat, and what one put_many is fast with
LINE_BYTES_MAX = 6 * (VALUE_BYTES_MAX + KEY_BYTES_MAX) + KIB  # JSON writes a control character as six
BINARY_READ_BYTES = 256 * KIB

_BASE64 = "base64:"

T = TypeVar("T")


def key_text(key: bytes) -> str:
    """A key as text of one line. One that is not printable UTF-8 is "base64:" and its base64; so is one that begins
    with "base64:" itself, so that parse_key gives every key back."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return _BASE64 + to_base64(key)
    return text if text.isprintable() and not text.startswith(_BASE64) else _BASE64 + to_base64(key)


def parse_key(text: str) -> bytes:
    """The key that is written so, see key_text. ValueError."""
    return from_base64(text.removeprefix(_BASE64)) if text.startswith(_BASE64) else os.fsencode(text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@takes_nodes(DhtClient, "SWARM_NODES", "swarm-data/nodes")
def dht() -> None:
    """Reads and writes the records of a dht.

    All of its nodes have to be named: with --nodes, with --node for each, or in the environment variable SWARM_NODES
    (HOST:PORT,HOST:PORT).

    KEY is text (its UTF-8 is the key), or base64: followed by the key's base64. Keys are shown in the same way: those
    that are not printable text, or begin with base64: themselves, as base64:...
    """


dht.add_command(remove_channel)

_KEY = click.argument("key", callback=parsed_by(parse_key))
_FILE = click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")


# Single records.


@dht.command()
@CHANNEL
@_KEY
@click.argument("value")
@click.pass_obj
def put(nodes: Nodes[DhtClient], channel: str, key: bytes, value: str) -> None:
    """Stores a record.

    One that has this key already is replaced. With - as VALUE the value is what standard input holds, byte for byte.
    """
    data = _read_value() if value == "-" else os.fsencode(value)
    with nodes.client() as client:
        client.put(channel, key, data)


def _read_value() -> bytes:
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise WrongCall(f"standard input holds more than {VALUE_BYTES_MAX} bytes, and no value may")
    return data


@dht.command()
@CHANNEL
@_KEY
@click.pass_obj
def get(nodes: Nodes[DhtClient], channel: str, key: bytes) -> None:
    """Writes the value of a record.

    Byte for byte, to standard output; status 1 if there is no record with this key.
    """
    with nodes.client() as client:
        value = client.get(channel, key)
    if value is None:
        raise no_record(channel, key)
    write_output(value + b"\n" if sys.stdout.isatty() else value)


@dht.command()
@CHANNEL
@_KEY
@click.pass_context
def exists(ctx: click.Context, channel: str, key: bytes) -> None:
    """Tells whether there is a record.

    Writes yes (status 0) or no (status 1).
    """
    with ctx.obj.client() as client:
        found = client.exists(channel, key)
    click.echo("yes" if found else "no")
    ctx.exit(0 if found else 1)


@dht.command()
@CHANNEL
@_KEY
@click.pass_obj
def remove(nodes: Nodes[DhtClient], channel: str, key: bytes) -> None:
    """Removes a record.

    Status 1 if there is none with this key.
    """
    with nodes.client() as client:
        if not client.remove(channel, key):
            raise no_record(channel, key)


def no_record(channel: str, key: bytes) -> Failure:
    return Failure(f"channel {channel} has no record with the key {key_text(key)}")


# Channels.


@dht.command()
@CHANNEL
@click.option("--prefix", callback=parsed_by(parse_key), default="", help="Only keys that begin so; written as KEY is.")
@click.pass_obj
def keys(nodes: Nodes[DhtClient], channel: str, prefix: bytes) -> None:
    """Lists the keys of a channel.

    One a line, in no useful order; status 1 if there is no such channel. A key that is not printable UTF-8 text is
    shown as base64: and its base64, which the other commands take as well.
    """
    with nodes.client() as client:
        _check_exists(client, channel)
        for key in client.get_all_keys(channel, key_prefix=prefix):
            sys.stdout.buffer.write(key_text(key).encode() + b"\n")


def _check_exists(client: DhtClient, channel: str) -> None:
    check_channel(channel)
    if channel not in client.channels():
        raise Failure(f"there is no channel {channel}")


@dht.command()
@click.pass_obj
def channels(nodes: Nodes[DhtClient]) -> None:
    """Lists the channels and their sizes.

    A table on a terminal; otherwise name, records, and bytes of keys and values, separated by tabs.
    """
    with nodes.client() as client:
        rows = [(name, *client.channel_size(name)) for name in client.channels()]
    write_rows(("channel", "records", "bytes"), rows)


@dht.command()
@click.argument("channel", required=False)
@click.pass_obj
def size(nodes: Nodes[DhtClient], channel: str | None) -> None:
    """Counts the records and their bytes.

    Of CHANNEL, or of all. The bytes are those of keys and values; separated by a tab where it is no terminal.
    """
    with nodes.client() as client:
        records, record_bytes = client.size() if channel is None else client.channel_size(channel)
    click.echo(
        f"{counted(records, 'record')}, {counted(record_bytes, 'byte')}"
        if sys.stdout.isatty()
        else f"{records}\t{record_bytes}"
    )


# Export and import.

Place = int
"""Where a record stands in a file: the number of its line, in a binary file its own; from 1."""


class BadRecord(Exception):
    """What a file holds at one place is not a record."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.place = place


@dht.command("export")
@CHANNEL
@_FILE
@click.option("--binary", is_flag=True, help="A msgpack stream of [key, value], both of type bin.")
@click.pass_obj
def export(nodes: Nodes[DhtClient], channel: str, file: Path, binary: bool) -> None:
    """Writes all records of a channel to a file.

    To FILE or to standard output, one record a line, as JSON: {"key": "...", "value": "..."}. What is not UTF-8
    stands base64 encoded in "key_base64" or "value_base64" instead. Records that are written meanwhile may be in it
    or not.

    FILE appears when it is complete; a file that had its name is replaced then. Status 1, and no file, if there is no
    such channel.
    """
    to_stdout = file == Path("-")
    encode = msgpack.Packer().pack if binary else _encode_line_of
    shown = sys.stderr.isatty() and not (to_stdout and sys.stdout.isatty())
    with nodes.client() as client:
        _check_exists(client, channel)
        records, _ = client.channel_size(channel)
        with (
            written_whole(file) if not to_stdout else _standard_output() as output,
            progress_bar(f"export {channel}", records, shown) as advance,
        ):
            number = 0
            for number, record in enumerate(client.get_all(channel), 1):
                output.write(encode(record))
                if number % PROGRESS_RECORDS == 0:
                    advance(number, number)
            advance(number, number)


@dht.command("import")
@CHANNEL
@_FILE
@click.option("--binary", is_flag=True, help="A msgpack stream of [key, value], both of type bin.")
@click.pass_obj
def import_(nodes: Nodes[DhtClient], channel: str, file: Path, binary: bool) -> None:
    """Stores the records of a file in a channel.

    Of FILE or of standard input, in the form that `export` writes, which says what that is. It stops at the first
    line that is wrong; what stands before that line has been stored then.
    """
    name = "standard input" if file == Path("-") else str(file)
    with (
        nodes.client() as client,
        _standard_input() if file == Path("-") else file.open("rb") as source,
        progress_bar(f"import {channel}", _size_of(source), sys.stderr.isatty()) as advance,
    ):
        records = read_binary(source) if binary else read_lines(source)
        imported = 0
        batch: list[tuple[Place, bytes, bytes]] = []
        try:
            for batch in in_batches(records):
                client.put_many(channel, [(key, value) for _, key, value in batch])
                imported += len(batch)
                advance(source.tell() if source.seekable() else imported, imported)
        except BadRecord as error:
            raise Failure(f"{name}:{error.place}: {error}; records imported before it: {imported}") from error
        except SwarmError as error:
            where = f"{name}:{_place_of(error, batch)}"
            raise Failure(f"{where}: {error}; records imported before: {imported}") from error


def _place_of(error: SwarmError, batch: list[tuple[Place, bytes, bytes]]) -> str:
    """The line that an error is about, or the lines that were on their way."""
    key_places = [place for place, key, _ in batch if key == error.details.get("key")]
    return str(key_places[-1]) if key_places else f"{batch[0][0]}-{batch[-1][0]}"


def in_batches(records: Iterable[tuple[Place, bytes, bytes]]) -> Iterator[list[tuple[Place, bytes, bytes]]]:
    """Records in lists of IMPORT_RECORDS or some IMPORT_BYTES. A BadRecord comes after all that stands before it."""
    batch: list[tuple[Place, bytes, bytes]] = []
    batch_bytes = 0
    try:
        for record in records:
            batch.append(record)
            batch_bytes += len(record[1]) + len(record[2])
            if len(batch) >= IMPORT_RECORDS or batch_bytes >= IMPORT_BYTES:
                yield batch
                batch, batch_bytes = [], 0
    except BadRecord:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def encode_line(key: bytes, value: bytes) -> bytes:
    """A record as a line of JSON."""
    members = dict([member("key", key), member("value", value)])
    return json_lines.encode(members)


@dht.command()
@CHANNEL
@click.option("--refresh", is_flag=True, help="First all records that exist.")
@click.option("--prefix", callback=parsed_by(parse_key), default="", help="Only keys that begin so; written as KEY is.")
@click.pass_obj
def listen(nodes: Nodes[DhtClient], channel: str, refresh: bool, prefix: bytes) -> None:
    """Tells what changes in a channel, until Ctrl-C.

    One event a line, as JSON: {"event": "put", "key": "...", "value": "..."}, {"event": "removed", "key": "..."}, with
    keys and values as `export` writes them; and {"event": "...", "hashes": "MIN-MAX"} for "channel removed", "lost"
    (changes are missing; a refresh follows), "refresh begins" and "refreshed": each is about the part of the channel
    with these hashes.
    """
    with nodes.client() as client, client.listen(channel, key_prefix=prefix, refresh=refresh) as events:
        for batch in events.batches():
            write_output(b"".join(map(_encode_event, batch)))


def _encode_event(event: Event) -> bytes:
    members = {"event": str(event.kind)}
    if event.key:
        members |= [member("key", event.key)]
    if event.value:
        members |= [member("value", event.value)]
    if not event.key:
        members["hashes"] = str(event.hashes)
    return json_lines.encode(members)


def _encode_line_of(record: tuple[bytes, bytes]) -> bytes:
    return encode_line(*record)


def decode_line(line: bytes) -> tuple[bytes, bytes]:
    """The key and the value in a line of JSON. ValueError says what is wrong with it."""
    key, value = json_lines.decode(line, "key", "value")
    return key, value


def read_lines(file: BinaryIO) -> Iterator[tuple[Place, bytes, bytes]]:
    """The records in a file of JSON lines; empty lines are skipped. BadRecord."""
    for number in count(1):
        line = file.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > LINE_BYTES_MAX:
            raise BadRecord(number, f"is longer than {LINE_BYTES_MAX} bytes, which no record needs")
        if not line.isspace():
            yield (number, *_checked(number, decode_line, line))


def read_binary(file: BinaryIO) -> Iterator[tuple[Place, bytes, bytes]]:
    """The records in a msgpack stream of [key, value]. BadRecord."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=VALUE_BYTES_MAX + BINARY_READ_BYTES + KIB,
        max_bin_len=VALUE_BYTES_MAX,
        max_str_len=VALUE_BYTES_MAX,
        max_array_len=2,
        max_map_len=0,
        max_ext_len=0,
    )
    fed = whole = 0  # bytes, the latter of records that have come as a whole
    number = 1
    while data := file.read(BINARY_READ_BYTES):
        unpacker.feed(data)
        fed += len(data)
        while (record := _next_record(unpacker, number)) is not None:
            yield (number, *record)
            number += 1
            whole = unpacker.tell()
    if whole != fed:
        raise BadRecord(number, "the file ends in the middle of this record")


def _next_record(unpacker: Any, number: int) -> tuple[bytes, bytes] | None:
    """The next record if it is there as a whole. BadRecord."""
    try:
        item = unpacker.unpack()
    except msgpack.OutOfData:
        return None
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRecord(number, f"is not msgpack of [key, value] ({error or type(error).__name__})") from error
    return _checked(number, _pair, item)


def _pair(item: object) -> tuple[bytes, bytes]:
    match item:
        case [bytes(key), bytes(value)]:
            return key, value
    raise ValueError(f"is not [key, value], both bin, but {item!r:.40}")


def _checked(place: Place, decode: Callable[[T], tuple[bytes, bytes]], encoded: T) -> tuple[bytes, bytes]:
    """The record, if it is one and a dht would take it. BadRecord."""
    try:
        key, value = decode(encoded)
        check_key(key, DEFAULT_LIMITS)
        check_value(value, DEFAULT_LIMITS, key)
    except (ValueError, SwarmError) as error:
        raise BadRecord(place, str(error)) from error
    return key, value


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _standard_input() -> Iterator[BinaryIO]:
    yield sys.stdin.buffer


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when it is complete; if anything is raised, all stays as it was."""
    path = path.resolve()  # a link stays one, what it leads to is replaced
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("wb") as output:
            yield output
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as output:
            if path.exists():
                temporary.chmod(path.stat().st_mode & 0o777)
            yield output
            output.flush()
            os.fsync(output.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _size_of(file: BinaryIO) -> int | None:
    return os.fstat(file.fileno()).st_size if file.seekable() else None
