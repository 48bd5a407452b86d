"""`swarm logfiles`: records with a timestamp, from the command line and in a shell pipe.

A value is written and read byte for byte. Times without an offset are of this machine's time zone.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from pathlib import Path
from stat import S_ISREG
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from swarm.blocking import LogfilesClient
from swarm.cli import Failure, WrongCall, json_lines
from swarm.cli.channel_commands import CHANNEL, remove_channel
from swarm.cli.follow import Following
from swarm.cli.lines import BadLine, more_within, read_lines
from swarm.cli.log_lines import EPOCH, ISO, LogRecords, TimeFormat
from swarm.cli.nodes import Nodes, takes_nodes
from swarm.cli.terminal import check_reader, counted, progress_bar, write_output, write_rows
from swarm.cli.times import parse_time, show_local, show_utc
from swarm.core.command_line import parsed_by
from swarm.core.errors import SwarmError
from swarm.core.limits import VALUE_BYTES_MAX
from swarm.core.protocol import DEFAULT_LIMITS, check_channel
from swarm.logfiles.payload import Records
from swarm.logfiles.protocol import check_value

FOLLOW_S = 1.0  # between two looks at what is new
BEGUN_S = 1.0  # so long an import waits, where nothing comes, for more lines of a record before it stores that


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@takes_nodes(LogfilesClient, "SWARM_LOGFILES_NODES", "swarm-data/nodes-logfiles")
def logfiles() -> None:
    """Stores records with a timestamp, and reads ranges of time.

    All logfiles nodes have to be named: with --nodes, with --node for each, or in the environment variable
    SWARM_LOGFILES_NODES (HOST:PORT,HOST:PORT).

    A time (T) is ISO 8601, such as 2026-11-22, 2026-11-22T14:00 or 2026-11-22T13:00:00.123456789Z; seconds since 1970;
    now; or how long ago: -90s, -2h, -7d. Without an offset it is of this machine's time zone, as those that are shown.
    """


logfiles.add_command(remove_channel)

_TIME = parsed_by(parse_time)


# In.


@logfiles.command()
@CHANNEL
@click.argument("value")
@click.option("--time", "timestamp", callback=_TIME, metavar="T", help="When it was.  [now]")
@click.pass_obj
def put(nodes: Nodes[LogfilesClient], channel: str, value: str, timestamp: int | None) -> None:
    """Stores a record, or with - as VALUE each line of standard input.

    Lines are stored as they come, with the time at which they have come unless --time says another. They are taken byte
    for byte, without the newline. Empty lines are left out.

    It stops at the first line that is no record, and where a node does not take one: status 1, and how many records
    were stored before.
    """
    with nodes.client() as client:
        if value == "-":
            _put_lines(client, channel, timestamp)
            return
        record = os.fsencode(value)
        try:
            check_value(record, DEFAULT_LIMITS)
        except SwarmError as error:
            raise WrongCall(str(error)) from error
        client.put(channel, time.time_ns() if timestamp is None else timestamp, record)


def _put_lines(client: LogfilesClient, channel: str, timestamp: int | None) -> None:
    stored = 0
    try:
        for lines in read_lines(sys.stdin.fileno(), VALUE_BYTES_MAX):
            now = time.time_ns() if timestamp is None else timestamp
            records = [(now, line) for line in lines if line]
            client.put_many(channel, records)
            stored += len(records)
    except BadLine as error:
        raise Failure(f"standard input: a line {error}; records stored before it: {stored}") from error
    except SwarmError as error:
        stored += error.details.get("stored", 0)
        raise Failure(f"{error}; records stored before: {stored}") from error


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {name!r:.60}; Europe/Berlin and UTC are some") from error


def _with_group(pattern: str) -> re.Pattern[bytes]:
    try:
        compiled = re.compile(os.fsencode(pattern))
    except re.error as error:
        raise ValueError(f"{pattern!r:.60} is no regular expression: {error}") from error
    if not compiled.groups:
        raise ValueError(f"{pattern!r:.60} has no group, which would say where the time is: \\[(.*?)\\]")
    return compiled


@logfiles.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--channel", required=True, metavar="C", help="Where to.")
@click.option(
    "--time-format",
    "form",
    metavar="F",
    default=ISO,
    show_default=True,
    help=f"{ISO} (ISO 8601), {EPOCH} (seconds since 1970), or as for strptime: %Y-%m-%d %H:%M:%S.",
)
@click.option(
    "--time-regex",
    "where",
    callback=parsed_by(_with_group),
    metavar="R",
    help="Finds the time in a line, in its group `time` or its first one, where lines do not begin with it.",
)
@click.option(
    "--timezone",
    "zone",
    callback=parsed_by(_zone),
    metavar="ZONE",
    help="Of times without an offset.  [this machine's]",
)
@click.pass_obj
def import_(
    nodes: Nodes[LogfilesClient],
    file: Path,
    channel: str,
    form: str,
    where: re.Pattern[bytes] | None,
    zone: tzinfo | None,
) -> None:
    """Stores the lines of a text log, each with the time that stands in it; - is standard input.

    A line without a time belongs to the record before, as those of a stack trace do: they are stored as one value, with
    newlines between them. So are empty lines, but at the end. Lines before the first time are left out. How many there
    were of both, and which were the first of them, is told at the end.

    Times without a year are of the last twelve months. Lines of a pipe are stored as they come. What is imported twice
    is there twice: if it stops, it tells up to which line all is stored (tail -n +LINE goes on there). Status 1 if no
    line had a time.
    """
    check_channel(channel)
    try:
        times = TimeFormat(form, zone, datetime.now())  # noqa: DTZ005 - as the log's times, without a zone
    except ValueError as error:
        raise WrongCall(f"--time-format: {error}") from error
    records = LogRecords(times, where)
    name = "standard input" if file == Path("-") else str(file)
    with nodes.client() as client, _opened(file) as descriptor:
        status = os.fstat(descriptor)
        total = status.st_size if S_ISREG(status.st_mode) else None
        with progress_bar(f"import {channel}", total, sys.stderr.isatty()) as advance:
            stored = _import(client, channel, descriptor, name, records, advance)
    _tell(name, stored, records)


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    if file == Path("-"):
        yield sys.stdin.fileno()
        return
    with file.open("rb") as opened:
        yield opened.fileno()


def _import(client: LogfilesClient, channel: str, descriptor: int, name: str, records: LogRecords, advance: Any) -> int:
    """How many were stored."""
    stored = done = 0

    def store(complete: list[tuple[int, int, bytes]]) -> None:
        nonlocal stored
        try:
            client.put_many(channel, [(timestamp, value) for _, timestamp, value in complete])
        except SwarmError as error:
            count = error.details.get("stored", 0)
            line = complete[min(count, len(complete) - 1)][0]
            raise Failure(f"{name}:{line}: {error}; all before this line is stored") from error
        stored += len(complete)

    try:
        for lines in read_lines(descriptor, VALUE_BYTES_MAX):
            store(records.add(lines))
            done += sum(map(len, lines)) + len(lines)
            advance(done, stored)
            if records.begun and not more_within(descriptor, BEGUN_S):
                store(records.take_begun())
    except BadLine as error:
        store(records.take_begun())
        raise Failure(f"{name}:{records.lines + 1}: {error}; all before this line is stored") from error
    store(records.take_begun())
    advance(done, stored)
    return stored


def _tell(name: str, stored: int, records: LogRecords) -> None:
    """What became of the lines."""
    if records.lines and not stored:
        raise Failure(f"{name}: none of {counted(records.lines, 'line')} has a time as --time-format says")
    text = f"swarm: {counted(stored, 'record')} of {counted(records.lines, 'line')} stored"
    if records.joined_count:
        those = _numbers(records.joined, records.joined_count)
        text += f"; without a time, and added to the record before: {those}"
    if records.left_out_count:
        text += f"; before the first time, and left out: {_numbers(records.left_out, records.left_out_count)}"
    click.echo(text, err=True)


def _numbers(first: list[int], count: int) -> str:
    return f"{counted(count, 'line')} ({', '.join(map(str, first))}{', …' if count > len(first) else ''})"


# Out.


@logfiles.command("get-range")
@CHANNEL
@click.option("--from", "start", callback=_TIME, metavar="T", help="The first time.  [the oldest; with --follow, now]")
@click.option("--to", "end", callback=_TIME, metavar="T", help="The time behind the last.  [the newest]")
@click.option("--substring", metavar="S", help="Only records that contain this.")
@click.option("--regex", metavar="R", help="Only records that this (RE2) matches somewhere.")
@click.option("--ignore-case", is_flag=True, help="For both.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="How many at most.")
@click.option("--newest-first", is_flag=True, help="The other way round.")
@click.option("--follow", is_flag=True, help="Then whatever comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help='Lines of JSON: {"time": "…Z", "value": "…"}.')
@click.option("--raw", is_flag=True, help="Values only, and a newline behind each.")
@click.pass_obj
def get_range(
    nodes: Nodes[LogfilesClient],
    /,
    channel: str,
    start: int | None,
    end: int | None,
    limit: int | None,
    newest_first: bool,
    follow: bool,
    as_json: bool,
    raw: bool,
    **matching: Any,
) -> None:
    """Writes the records of a channel with FROM <= time < TO, in the order of time.

    A line for each: its time with this machine's offset, a space, and its value byte for byte. With --json the time is
    UTC, and a value that is not UTF-8 is {"value_base64": "…"}.

    --follow writes what comes later too, if it is not more than 5 s older than the newest.

    Status 1 if the nodes have passed over damaged blocks, whose records are missing then.
    """
    if as_json and raw:
        raise click.UsageError("either --json or --raw can be given, not both")
    if follow and (end is not None or newest_first):
        raise click.UsageError(
            "--follow has no end, and begins with the oldest: it goes without --to and --newest-first"
        )
    for name in ("substring", "regex"):
        if matching[name] is not None:
            matching[name] = os.fsencode(matching[name])
    encode = _as_json if as_json else _as_values if raw else _as_text
    with nodes.client() as client:
        if follow:
            _follow(client, channel, time.time_ns() if start is None else start, limit, matching, encode)
            return
        ranges = client.get_range(channel, start, end, limit=limit, newest_first=newest_first, **matching)
        for block in ranges.blocks():
            write_output(encode(block))
    if ranges.damaged_blocks:
        raise Failure(f"{counted(ranges.damaged_blocks, 'damaged block')}: this is not all of channel {channel}")


def _as_text(records: Records) -> bytes:
    return b"".join([b"%b %b\n" % (show_local(each).encode(), value) for each, value in zip(*records, strict=True)])


def _as_json(records: Records) -> bytes:
    return b"".join(
        [
            json_lines.encode(dict([("time", show_utc(timestamp)), json_lines.member("value", value)]))
            for timestamp, value in zip(*records, strict=True)
        ]
    )


def _as_values(records: Records) -> bytes:
    return b"\n".join([*records[1], b""])


Encode = Callable[[Records], bytes]


def _follow(
    client: LogfilesClient, channel: str, start: int, limit: int | None, matching: dict[str, Any], encode: Encode
) -> None:
    """Returns when as many were written as the limit allows."""
    following = Following(start)
    left = limit
    while True:
        check_reader()
        for block in client.get_range(channel, following.start, **matching).blocks():
            timestamps, values = following.new_of(block, time.time_ns())
            if left is not None:
                timestamps, values = timestamps[:left], values[:left]
                left -= len(values)
            if values:
                write_output(encode((timestamps, values)))
            if left == 0:
                return
        following.was_read()
        time.sleep(FOLLOW_S)


# What there is.


@logfiles.command()
@click.pass_obj
def channels(nodes: Nodes[LogfilesClient]) -> None:
    """Lists the channels, their sizes, and the times of their oldest and newest records.

    A table on a terminal; otherwise name, records, bytes and the two times, separated by tabs.
    """
    with nodes.client() as client:
        rows = [(name, *client.channel_size(name), *_span(client, name)) for name in client.channels()]
    write_rows(("channel", "records", "bytes", "oldest", "newest"), rows)


def _span(client: LogfilesClient, channel: str) -> tuple[str, str]:
    span = client.time_span(channel)
    return (show_local(span[0]), show_local(span[1])) if span is not None else ("", "")


@logfiles.command()
@click.argument("channel", required=False)
@click.pass_obj
def size(nodes: Nodes[LogfilesClient], channel: str | None) -> None:
    """Counts the records and the bytes of their values.

    Of CHANNEL, or of all. Separated by a tab where it is no terminal.
    """
    with nodes.client() as client:
        records, record_bytes = client.size() if channel is None else client.channel_size(channel)
    click.echo(
        f"{counted(records, 'record')}, {counted(record_bytes, 'byte')}"
        if sys.stdout.isatty()
        else f"{records}\t{record_bytes}"
    )
