"""`swarm dht`: the records of a dht, from the command line.

What goes to a program is exact and has no ornament: values are raw bytes, tables are tab separated. What goes to a
terminal is for people. Keys are bytes, command lines and lists of lines are text, so keys have a written form that
leads back to every key (key_text, parse_key).
"""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
import msgpack

from swarm.blocking import DhtClient
from swarm.cli import Failure, WrongCall
from swarm.core.command_line import parsed_by
from swarm.core.config import parse_duration
from swarm.core.errors import SwarmError
from swarm.core.limits import KEY_BYTES_MAX, KIB, MIB, VALUE_BYTES_MAX
from swarm.core.protocol import DEFAULT_LIMITS, check_channel
from swarm.dht.events import Event
from swarm.dht.protocol import check_key, check_value

IMPORT_RECORDS = 1000  # records of a batch, and
IMPORT_BYTES = 1 * MIB  # bytes of a batch: little to repeat, and what one put_many is fast with
LINE_BYTES_MAX = 6 * (VALUE_BYTES_MAX + KEY_BYTES_MAX) + KIB  # JSON writes a control character as six
BINARY_READ_BYTES = 256 * KIB
PROGRESS_RECORDS = 1000  # between two updates of a progress bar

_BASE64 = "base64:"
_NODES_VARIABLE = "SWARM_NODES"

T = TypeVar("T")


def key_text(key: bytes) -> str:
    """A key as text of one line. One that is not printable UTF-8 is "base64:" and its base64; so is one that begins
    with "base64:" itself, so that parse_key gives every key back."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return _BASE64 + _to_base64(key)
    return text if text.isprintable() and not text.startswith(_BASE64) else _BASE64 + _to_base64(key)


def parse_key(text: str) -> bytes:
    """The key that is written so, see key_text. ValueError."""
    return _from_base64(text.removeprefix(_BASE64)) if text.startswith(_BASE64) else os.fsencode(text)


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{text!r:.40} is not base64 ({error})") from error


# Where the nodes are.


def _parse_timeout(text: str) -> float:
    timeout_s = parse_duration(text)
    if timeout_s <= 0:
        raise ValueError("a timeout is longer than 0")
    return timeout_s


@dataclass(frozen=True)
class Nodes:
    """The nodes that the command line names."""

    addresses: tuple[str, ...]
    file: Path | None
    timeout_s: float

    def client(self) -> DhtClient:
        """A client of them, to be opened. Without options the environment names them; UsageError if that does not."""
        if self.file and self.addresses:
            raise click.UsageError("either --nodes or --node can be given, not both")
        if self.file:
            return DhtClient(nodes_file=self.file, timeout=self.timeout_s)
        named = self.addresses or [each.strip() for each in os.environ.get(_NODES_VARIABLE, "").split(",")]
        if not any(named):
            raise click.UsageError(
                "which nodes? Name their file with --nodes FILE (`swarm up` writes swarm-data/nodes), "
                f"each with --node HOST:PORT, or all in the environment variable {_NODES_VARIABLE}"
            )
        return DhtClient(list(named), timeout=self.timeout_s)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--node", "addresses", multiple=True, metavar="HOST:PORT", help="A node; repeat it for each.")
@click.option(
    "--nodes",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File that names all nodes, HOST:PORT a line, # begins a comment; `swarm up` writes swarm-data/nodes.",
)
@click.option(
    "--timeout",
    callback=parsed_by(_parse_timeout),
    metavar="DURATION",
    default="5s",
    show_default=True,
    help="Of each request: 250ms, 5s, 1m.",
)
@click.pass_context
def dht(ctx: click.Context, addresses: tuple[str, ...], file: Path | None, timeout: float) -> None:
    """Reads and writes the records of a dht.

    All of its nodes have to be named: with --nodes, with --node for each, or in the environment variable SWARM_NODES
    (HOST:PORT,HOST:PORT).

    KEY is text (its UTF-8 is the key), or base64: followed by the key's base64. Keys are shown in the same way: those
    that are not printable text, or begin with base64: themselves, as base64:...
    """
    ctx.obj = Nodes(addresses, file, timeout)


_KEY = click.argument("key", callback=parsed_by(parse_key))
_CHANNEL = click.argument("channel")
_FILE = click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")


# Single records.


@dht.command()
@_CHANNEL
@_KEY
@click.argument("value")
@click.pass_obj
def put(nodes: Nodes, channel: str, key: bytes, value: str) -> None:
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
@_CHANNEL
@_KEY
@click.pass_obj
def get(nodes: Nodes, channel: str, key: bytes) -> None:
    """Writes the value of a record.

    Byte for byte, to standard output; status 1 if there is no record with this key.
    """
    with nodes.client() as client:
        value = client.get(channel, key)
    if value is None:
        raise no_record(channel, key)
    write_output(value + b"\n" if sys.stdout.isatty() else value)


@dht.command()
@_CHANNEL
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
@_CHANNEL
@_KEY
@click.pass_obj
def remove(nodes: Nodes, channel: str, key: bytes) -> None:
    """Removes a record.

    Status 1 if there is none with this key.
    """
    with nodes.client() as client:
        if not client.remove(channel, key):
            raise no_record(channel, key)


def no_record(channel: str, key: bytes) -> Failure:
    return Failure(f"channel {channel} has no record with the key {key_text(key)}")


def write_output(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


# Channels.


@dht.command()
@_CHANNEL
@click.option("--prefix", callback=parsed_by(parse_key), default="", help="Only keys that begin so; written as KEY is.")
@click.pass_obj
def keys(nodes: Nodes, channel: str, prefix: bytes) -> None:
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
def channels(nodes: Nodes) -> None:
    """Lists the channels and their sizes.

    A table on a terminal; otherwise name, records, and bytes of keys and values, separated by tabs.
    """
    with nodes.client() as client:
        rows = [(name, *client.channel_size(name)) for name in client.channels()]
    if sys.stdout.isatty():
        _show_table(rows)
    else:
        for row in rows:
            click.echo("\t".join(map(str, row)))


def _show_table(rows: list[tuple[str, int, int]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("channel")
    for title in ("records", "bytes"):
        table.add_column(title, justify="right")
    for name, records, size in rows:
        table.add_row(name, f"{records:,}", f"{size:,}")
    Console().print(table)


@dht.command()
@click.argument("channel", required=False)
@click.pass_obj
def size(nodes: Nodes, channel: str | None) -> None:
    """Counts the records and their bytes.

    Of CHANNEL, or of all. The bytes are those of keys and values; separated by a tab where it is no terminal.
    """
    with nodes.client() as client:
        records, record_bytes = client.size() if channel is None else client.channel_size(channel)
    click.echo(
        f"{_counted(records, 'record')}, {_counted(record_bytes, 'byte')}"
        if sys.stdout.isatty()
        else f"{records}\t{record_bytes}"
    )


@dht.command("remove-channel")
@_CHANNEL
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove_channel(nodes: Nodes, channel: str, yes: bool) -> None:
    """Removes a channel with all its records.

    Asks first if standard input is a terminal. Status 1 if there is no such channel.
    """
    with nodes.client() as client:
        if sys.stdin.isatty() and not yes:
            records, _ = client.channel_size(channel)
            if not _confirmed(f"Remove channel {channel} with {_counted(records, 'record')}?"):
                raise Failure("nothing was removed")
        if not client.remove_channel(channel):
            raise Failure(f"there is no channel {channel}")


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def _confirmed(question: str) -> bool:
    click.echo(f"{question} [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# Export and import.

Place = int
"""Where a record stands in a file: the number of its line, in a binary file its own; from 1."""


class BadRecord(Exception):
    """What a file holds at one place is not a record."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.place = place


@dht.command("export")
@_CHANNEL
@_FILE
@click.option("--binary", is_flag=True, help="A msgpack stream of [key, value], both of type bin.")
@click.pass_obj
def export(nodes: Nodes, channel: str, file: Path, binary: bool) -> None:
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
@_CHANNEL
@_FILE
@click.option("--binary", is_flag=True, help="A msgpack stream of [key, value], both of type bin.")
@click.pass_obj
def import_(nodes: Nodes, channel: str, file: Path, binary: bool) -> None:
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
    members = dict([_member("key", key), _member("value", value)])
    return _json_line(members)


def _json_line(members: dict[str, str]) -> bytes:
    return json.dumps(members, ensure_ascii=False).encode() + b"\n"


@dht.command()
@_CHANNEL
@click.option("--refresh", is_flag=True, help="First all records that exist.")
@click.option("--prefix", callback=parsed_by(parse_key), default="", help="Only keys that begin so; written as KEY is.")
@click.pass_obj
def listen(nodes: Nodes, channel: str, refresh: bool, prefix: bytes) -> None:
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
        members |= [_member("key", event.key)]
    if event.value:
        members |= [_member("value", event.value)]
    if not event.key:
        members["hashes"] = str(event.hashes)
    return _json_line(members)


def _encode_line_of(record: tuple[bytes, bytes]) -> bytes:
    return encode_line(*record)


def _member(name: str, data: bytes) -> tuple[str, str]:
    try:
        return name, data.decode()
    except UnicodeDecodeError:
        return f"{name}_base64", _to_base64(data)


def decode_line(line: bytes) -> tuple[bytes, bytes]:
    """The key and the value in a line of JSON. ValueError says what is wrong with it."""
    try:
        members = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (column {error.colno}: {error.msg})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if type(members) is not dict:
        raise ValueError(f"is not a JSON object: {line!r:.40}")
    key, value = _bytes_of("key", members), _bytes_of("value", members)
    if members:
        raise ValueError(f"unknown member {next(iter(members))!r:.40}; known are key and value, or with _base64")
    return key, value


def _bytes_of(name: str, members: dict[str, Any]) -> bytes:
    """Takes a key or value out of the members."""
    found = [each for each in (name, f"{name}_base64") if each in members]
    if len(found) != 1:
        raise ValueError(f"either {name} or {name}_base64 is needed, " + ("and not both" if found else "not there"))
    content = members.pop(found[0])
    if type(content) is not str:
        raise ValueError(f"{found[0]} is a JSON string, not {content!r:.40}")
    try:
        return content.encode() if found[0] == name else _from_base64(content)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half of a surrogate pair, which is no text") from error


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


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how much of the total is done, and how many records that is."""
    if not shown:
        yield lambda done, records: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, records=0)
        yield lambda done, records: progress.update(task, completed=done, records=records)
