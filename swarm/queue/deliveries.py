"""What a consumer is given, and what of it is done. No I/O. docs/protocol.md §5, consume.

Every node gives its records in a stream of its own, in batches of consecutive numbers. Of the batch that the program is
at, one position tells all: those before it are in the program's hands or done. So what is to be acknowledged is one
range for however many records, and no record costs anything.
"""

from collections.abc import Iterable, Iterator
from itertools import repeat
from operator import length_hint
from typing import Any, NamedTuple

import swarm.queue.protocol as protocol
from swarm.core import limits
from swarm.core.client_session import Call
from swarm.core.errors import BadArgument
from swarm.core.operations import check_channel
from swarm.queue.batch import unpack
from swarm.queue.operations import QueueNodes

CONSUME_BATCH_RECORDS = 1000  # a batch of small records costs hardly more than one of them


class Record(NamedTuple):
    """A record that a consumer is given."""

    value: bytes
    redelivered: bool
    """Whether it was, or may have been, given to a consumer before that has not acknowledged it."""
    sequence: int
    """Its number in its queue at its node."""
    stream: Any
    """What it has come with; for acknowledge()."""


class Consuming:
    """What a consumer asks each node for."""

    def __init__(self, known: QueueNodes, channel: str, subscriber: str, batch_records: int, credit: int) -> None:
        check_channel(channel)
        self._arguments = channel, subscriber, batch_records, credit
        protocol.CONSUME.check(self._arguments, known.limits)
        self._nodes = range(len(known.nodes))

    def calls(self) -> list[Call]:
        return [self.call(node) for node in self._nodes]

    def call(self, node: int) -> Call:
        return Call(node, protocol.CONSUME, self._arguments)


class Delivery:
    """A batch that the program is given, one record after the other."""

    __slots__ = ("_acknowledged", "_count", "_first", "left", "stream")

    def __init__(self, stream: Any, batch: tuple[int, bool, bytes, bytes]) -> None:
        first, redelivered, lengths, data = batch
        values = unpack(lengths, data)
        numbers = range(first, first + len(values))
        fields = zip(values, repeat(redelivered), numbers, repeat(stream), strict=False)
        records: list[Record] = list(map(tuple.__new__, repeat(Record), fields))
        self.left: Iterator[Record] = iter(records)
        """Those that the program was not given yet."""
        self.stream = stream
        self._first = first
        self._count = len(records)
        self._acknowledged = 0

    def newly_done(self, held: int) -> list[int]:
        """What is to be acknowledged: a range as acknowledge takes it, or nothing.

        held: how many of those given last the program is still at.
        """
        begin = self._acknowledged
        done = self._count - length_hint(self.left) - held
        if done <= begin:
            return []
        self._acknowledged = done
        return [self._first + begin, done - begin]


def acknowledgements(records: Iterable[Record]) -> Iterator[tuple[Any, list[int]]]:
    """What acknowledges these records: streams, and ranges of no more numbers than one request takes."""
    by_stream: dict[Any, list[int]] = {}
    for record in records:
        if type(record) is not Record:
            raise BadArgument(f"what a consumer has given can be acknowledged, and not a {type(record).__name__}")
        by_stream.setdefault(record.stream, []).append(record.sequence)
    for stream, numbers in by_stream.items():
        ranges = _ranges(sorted(set(numbers)))
        for start in range(0, len(ranges), limits.ACKNOWLEDGED_NUMBERS_MAX):
            yield stream, ranges[start : start + limits.ACKNOWLEDGED_NUMBERS_MAX]


def _ranges(numbers: list[int]) -> list[int]:
    """First and count of each run of consecutive numbers."""
    ranges: list[int] = []
    following = -1
    for number in numbers:
        if number == following:
            ranges[-1] += 1
        else:
            ranges += [number, 1]
        following = number + 1
    return ranges
