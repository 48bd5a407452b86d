"""`swarm queue`: records into queues and out of them, from the command line and in a shell pipe.

A record is a line: without its newline on the way in, with one on the way out, and byte for byte otherwise. Where
records may hold newlines, --json writes them as lines of JSON. What was read is pushed at once, however little it is,
and what has come is written before anything is waited for.
"""

import os
import sys
from collections.abc import Iterator, Sequence

import click

from swarm.blocking import QueueClient
from swarm.cli import Failure, WrongCall, json_lines
from swarm.cli.channel_commands import CHANNEL, remove_channel
from swarm.cli.lines import BadLine, LineTooLong, more_within, read_lines
from swarm.cli.nodes import Nodes, takes_nodes
from swarm.cli.terminal import check_reader, confirmed, counted, write_output, write_rows
from swarm.core.command_line import parsed_by
from swarm.core.config import parse_duration
from swarm.core.errors import SwarmError
from swarm.core.limits import CLIENT_STREAM_CREDIT, KIB, VALUE_BYTES_MAX
from swarm.core.protocol import DEFAULT_LIMITS
from swarm.queue import Queue
from swarm.queue.deliveries import CONSUME_BATCH_RECORDS
from swarm.queue.protocol import OWN_QUEUE, check_record

POP_RECORDS = (
    1000  # taken from the nodes at a time: what one request is fast with, and little to lose when it is cut off
)
LINE_BYTES_MAX = 6 * VALUE_BYTES_MAX + KIB  # JSON writes a control character as six

LOOK_S = 1.0  # between two looks, while it waits, at whether somebody still reads what it writes

_VALUE = "value"  # the member of a line of JSON


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@takes_nodes(QueueClient, "SWARM_QUEUE_NODES", "swarm-data/nodes-queue")
def queue() -> None:
    """Puts records into queues, and takes them out.

    All queue nodes have to be named: with --nodes, with --node for each, or in the environment variable
    SWARM_QUEUE_NODES (HOST:PORT,HOST:PORT).

    A record is a line: the newline at its end does not belong to it. With --json a record is a line of JSON,
    {"value": "..."}, and may hold newlines; one that is not UTF-8 is {"value_base64": "..."}.
    """


queue.add_command(remove_channel)

_JSON = click.option("--json", "as_json", is_flag=True, help="Records are lines of JSON.")
_RECORDS = click.option("-n", "records", type=click.IntRange(1), metavar="N", help="How many at most.")
_WAIT = click.option(
    "--wait", "wait_s", callback=parsed_by(parse_duration), metavar="DURATION", help="For the next record: 500ms, 10s."
)


# In.


class Lines:
    """The records that a file or pipe has: at each step all that have come, as soon as there is one."""

    def __init__(self, as_json: bool, descriptor: int) -> None:
        self.number = 0
        """Of the last line that was taken, from 1."""
        self.empty = 0
        """Lines without anything in them: no record can be empty."""
        self._as_json = as_json
        self._descriptor = descriptor

    def __iter__(self) -> Iterator[list[bytes]]:
        """Raises BadLine, after all that stands before that line."""
        try:
            for lines in read_lines(self._descriptor, LINE_BYTES_MAX):
                yield from self._records(lines)
        except LineTooLong:
            self.number += 1
            raise

    @property
    def more(self) -> bool:
        """Whether the next step would not have to wait."""
        return more_within(self._descriptor, 0)

    def _records(self, lines: Sequence[bytes]) -> Iterator[list[bytes]]:
        records: list[bytes] = []
        try:
            for line in lines:
                self.number += 1
                if line:
                    records.append(record_of(line, self._as_json))
                else:
                    self.empty += 1
        except BadLine:
            if records:
                yield records
            raise
        if records:
            yield records


def record_of(line: bytes, as_json: bool) -> bytes:
    """BadLine if it is none."""
    try:
        record = json_lines.decode(line, _VALUE)[0] if as_json else line
        check_record(record, DEFAULT_LIMITS)
    except (ValueError, SwarmError) as error:
        raise BadLine(str(error)) from error
    return record


@queue.command()
@CHANNEL
@click.argument("value")
@_JSON
@click.pass_obj
def push(nodes: Nodes[QueueClient], channel: str, value: str, as_json: bool) -> None:
    """Pushes a record, or with - as VALUE each line of standard input.

    Lines are pushed as they come, and taken byte for byte; the last one needs no newline. A record cannot be empty:
    empty lines are left out, and how many there were is told at the end. Where all nodes are full it waits for room, as
    long as --timeout of `swarm queue` says.

    It stops at the first line that is no record, and where there was no room in time: status 1, and how many records
    were pushed before.
    """
    with nodes.client() as client:
        if value == "-":
            _push_lines(client, channel, as_json)
            return
        try:
            record = record_of(os.fsencode(value), as_json)
        except BadLine as error:
            raise WrongCall(str(error)) from error
        client.push(channel, record)


def _push_lines(client: QueueClient, channel: str, as_json: bool) -> None:
    lines = Lines(as_json, sys.stdin.fileno())
    pushed = 0
    try:
        with client.produce(channel) as producer:
            try:
                for records in lines:
                    for record in records:
                        producer.push(record)
                    pushed += len(records)
                    if not lines.more:
                        producer.flush()
            except BadLine as error:
                producer.flush()
                raise Failure(f"standard input:{lines.number}: {error}; records pushed before it: {pushed}") from error
    except SwarmError as error:
        raise Failure(f"{error}; records pushed before: {error.details.get('stored', 0)}") from error
    if lines.empty:
        click.echo(f"swarm: {counted(lines.empty, 'empty line')} left out: no record can be empty", err=True)


# Out.


@queue.command()
@CHANNEL
@_RECORDS
@_WAIT
@_JSON
@click.pass_obj
def pop(nodes: Nodes[QueueClient], channel: str, records: int | None, wait_s: float | None, as_json: bool) -> None:
    """Takes the oldest record out and writes it, or with -n the N oldest.

    Ends when there are no more; with --wait, when none has come for so long. Status 1 if there was none at all.

    What is popped is gone from the queue: when this command is killed, or what reads its output ends before it has read
    everything, up to 1000 records are lost with it. If that must not be, use consume.
    """
    wanted = records or 1
    popped = 0
    with nodes.client() as client:
        while popped < wanted and (batch := _pop_some(client, channel, wanted - popped, wait_s or 0.0)):
            write_output(_encode(batch, as_json))
            popped += len(batch)
    if not popped:
        raise Failure(f"channel {channel} has no record")


def _pop_some(client: QueueClient, channel: str, most: int, wait_s: float) -> list[bytes]:
    """What there is, or comes in time."""
    while True:
        check_reader()
        batch = client.pop_many(channel, min(most, POP_RECORDS), wait=min(wait_s, LOOK_S))
        wait_s -= LOOK_S
        if batch or wait_s <= 0:
            return batch


@queue.command()
@CHANNEL
@click.option("--subscriber", metavar="NAME", default=OWN_QUEUE, help="Each is given all records.  [none]")
@_RECORDS
@_WAIT
@_JSON
@click.pass_obj
def consume(
    nodes: Nodes[QueueClient],
    channel: str,
    subscriber: str,
    records: int | None,
    wait_s: float | None,
    as_json: bool,
) -> None:
    """Writes the records of a channel as they come, until Ctrl-C.

    Or until N have come (-n), or none for so long (--wait); status 1 if none came at all.

    A record is acknowledged when it was written, so that none is lost: what was not written when this command ends, by
    whatever way, is given again. What stands in a pipe whose reader ends has been written: take no more than is needed
    with -n.

    Each subscriber is given all records, and those who consume by the same name share them. The first that a channel
    has takes over what is in it. Without a name it is the channel's own queue, which has to be without subscribers.
    """
    left = sys.maxsize if records is None else records
    batch_records = min(left, CONSUME_BATCH_RECORDS)
    credit = CLIENT_STREAM_CREDIT if records is None else 1  # no more than is wanted: others may want the rest
    look_s = LOOK_S if wait_s is None else min(wait_s, LOOK_S)
    idle_s, none_came = 0.0, True
    with (
        nodes.client() as client,
        client.consume(
            channel,
            subscriber=subscriber,
            manual=True,
            batch_records=batch_records,
            credit=credit,
            timeout=look_s,
        ) as consumer,
    ):
        for batch in consumer.batches():
            if batch:
                part = batch[:left]
                write_output(_encode([record.value for record in part], as_json))
                consumer.acknowledge(*part)
                left -= len(part)
                idle_s, none_came = 0.0, False
            else:
                check_reader()
                idle_s += look_s
            if not left or (wait_s is not None and idle_s >= wait_s):
                break
    if none_came:
        raise Failure(f"channel {channel} has no record")


def _encode(records: Sequence[bytes], as_json: bool) -> bytes:
    if as_json:
        return b"".join([json_lines.encode(dict([json_lines.member(_VALUE, record)])) for record in records])
    return b"\n".join([*records, b""])


# What there is.


@queue.command()
@click.pass_obj
def channels(nodes: Nodes[QueueClient]) -> None:
    """Lists the channels, their sizes and how full they are.

    A table on a terminal; otherwise name, records, bytes, and the fullness of the fullest of its queues in percent,
    separated by tabs.
    """
    with nodes.client() as client:
        rows = [(name, *client.channel_size(name), fullness_of(client.queues(name))) for name in client.channels()]
    write_rows(("channel", "records", "bytes", "full"), rows)


@queue.command()
@click.argument("channel", required=False)
@click.pass_obj
def size(nodes: Nodes[QueueClient], channel: str | None) -> None:
    """Counts the records and their bytes, and tells how full it is.

    Of CHANNEL, or of all. The bytes are those of the records, and a record counts in the queue of every subscriber;
    fullness is that of the fullest queue, in percent. Separated by tabs where it is no terminal.
    """
    with nodes.client() as client:
        records, record_bytes = client.size() if channel is None else client.channel_size(channel)
        names = client.channels() if channel is None else [channel]
        fullness = max((fullness_of(client.queues(name)) for name in names), default=0.0)
    click.echo(
        f"{counted(records, 'record')}, {counted(record_bytes, 'byte')}, {fullness:.1f}% full"
        if sys.stdout.isatty()
        else f"{records}\t{record_bytes}\t{fullness:.1f}"
    )


def fullness_of(queues: Sequence[Queue]) -> float:
    """Of the fullest, in percent."""
    return max((each.fullness for each in queues), default=0.0)


@queue.command()
@CHANNEL
@click.pass_obj
def subscribers(nodes: Nodes[QueueClient], channel: str) -> None:
    """Lists the subscribers of a channel.

    One a line for each node: subscriber, node, records, bytes, fullness in percent, records that consumers were given
    and have not acknowledged, consumers, records that were dropped, and damaged ones. Separated by tabs where it is no
    terminal. Nothing if the channel has no subscriber; status 1 if there is no such channel.
    """
    with nodes.client() as client:
        found = client.queues(channel)
    if not found:
        raise Failure(f"there is no channel {channel}")
    titles = ("subscriber", "node", "records", "bytes", "full", "given", "consumers", "dropped", "damaged")
    rows = [(each.subscriber, each.node, *each[2:]) for each in found if each.subscriber]
    write_rows(titles, sorted(rows))


@queue.command("drop-subscriber")
@CHANNEL
@click.argument("subscriber")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop_subscriber(nodes: Nodes[QueueClient], channel: str, subscriber: str, yes: bool) -> None:
    """Removes a subscriber with all records that wait for it.

    Asks first if standard input is a terminal. Status 1 if there is no such subscriber.
    """
    with nodes.client() as client:
        if sys.stdin.isatty() and not yes:
            records = sum(each.records for each in client.queues(channel) if each.subscriber == subscriber)
            if not confirmed(f"Drop subscriber {subscriber} of channel {channel} with {counted(records, 'record')}?"):
                raise Failure("nothing was removed")
        if not client.drop_subscriber(channel, subscriber):
            raise Failure(f"channel {channel} has no subscriber {subscriber}")
