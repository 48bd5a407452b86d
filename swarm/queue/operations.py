"""What each method of a queue client does, once for all of them, as operations (swarm.core.operations). No I/O.

A push goes to one node, and to the next where that one cannot take it. A pop takes from any node. Both begin with
another node each time.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import swarm.queue.protocol as protocol
from swarm.core import limits
from swarm.core.any_node import Parts, Turns, check_sizes, store_in_parts, to_one_node
from swarm.core.client_session import WAIT_FOR_NODES, Call, FirstOf, Steps
from swarm.core.errors import BadArgument, NodeUnreachable, SwarmError
from swarm.core.known_nodes import KnownNodes
from swarm.core.operations import ask_all, check_channel, raise_first
from swarm.core.protocol import Limits, brief, type_name
from swarm.queue.batch import LENGTH_BYTES, pack_lengths, unpack
from swarm.queue.kept import Kept

log = logging.getLogger(__name__)

PUSH_PART_BYTES = limits.FRAME_BYTES_PLAIN - 16 * limits.KIB
"""Lengths and data of one part of a large push: with the names of 64 channels it is still an ordinary frame."""
SMALL_QUEUE_PARTS = 4  # that a queue holds which is smaller than one part of a large push
POP_PARTS_MAX = 16  # of a large pop many, asked for before one is answered: the node may have become empty meanwhile
WAIT_PART_S = limits.CLIENT_ASK_S  # who waits longer asks again: so a node that hangs is noticed
WAIT_PART_RETRY_S = 1.0  # the same where a node is not connected: it may have come back

assert PUSH_PART_BYTES + limits.PUSH_CHANNELS_MAX * (limits.CHANNEL_LENGTH_MAX + 3) < limits.FRAME_BYTES_PLAIN


class QueueNodes(KnownNodes):
    """What a queue client knows: its nodes, whose turn it is, and what it holds of theirs."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(nodes)
        self.kept = Kept()
        self._record_bytes: dict[str, int] = {}
        self._part_bytes: dict[str, int] = {}
        """Of channels with a queue that is smaller than one part."""
        self.pushes, self.pops = Turns(len(self.nodes)), Turns(len(self.nodes))

    def saw(self, channel: str, record_bytes: int) -> None:
        """How large records of a channel are."""
        if len(self._record_bytes) >= limits.CHANNELS_MAX:
            self._record_bytes.clear()
        self._record_bytes[channel] = record_bytes

    def part_records(self, channel: str) -> int:
        """How many records one pop many asks for: as many as make a batch, as far as is known."""
        size = self._record_bytes.get(channel, 0)
        return min(max(limits.BATCH_BYTES // size, 1), self.limits.batch_records) if size else self.limits.batch_records

    def part_bytes(self, channels: list[str]) -> int:
        """Lengths and data of one part of a large push to these channels."""
        if not self._part_bytes:
            return PUSH_PART_BYTES
        return min(self._part_bytes.get(channel, PUSH_PART_BYTES) for channel in channels)

    def has_small_queue(self, channels: list[str], limit: int, part_bytes: int) -> int:
        """A part was too big for the queue of one of these channels, which holds at most `limit` bytes: how large
        parts are from now on. Small enough to find room, too, where something is in it."""
        if len(self._part_bytes) >= limits.CHANNELS_MAX:
            self._part_bytes.clear()
        smaller = max(min(limit, part_bytes) // SMALL_QUEUE_PARTS, 1)
        self._part_bytes.update(dict.fromkeys(channels, smaller))
        return smaller


class Queue(NamedTuple):
    """One queue of a channel at one node."""

    node: str
    """Its address."""
    subscriber: str
    """Empty for the channel's own queue."""
    records: int
    bytes: int
    fullness: float
    """Percent."""
    unacknowledged: int
    """Of the records: given to consumers."""
    consumers: int
    dropped: int
    """Records that were lost because the queue was full, where the node is configured to drop the oldest."""
    damaged: int
    """Records that were lost because what was read back was not what was written."""


Channels = str | Sequence[str]
"""One channel, or several, of which each is given all records."""


def push(known: QueueNodes, channel: Channels, record: bytes) -> Steps[None]:
    protocol.check_record(record, known.limits)
    if type(channel) is not str:
        yield from push_many(known, channel, [record])
        return
    check_channel(channel)
    if known.several:
        yield from to_one_node(known.pushes.next(), Call(0, protocol.PUSH, (channel, record), at_once=True))
    else:
        yield Call(0, protocol.PUSH, (channel, record))


def push_many(known: QueueNodes, channel: Channels, records: Iterable[bytes]) -> Steps[None]:
    channels = channel_list(channel, known.limits)
    records = _list(records)
    if not records:
        return
    sizes = _sizes(records, known.limits)

    def call_of(start: int, stop: int) -> Call:
        part = pack_lengths(sizes[start:stop]), b"".join(records[start:stop])
        return Call(0, protocol.PUSH_MANY, (channels, *part), len(part[1]), at_once=known.several)

    smaller = partial(known.has_small_queue, channels)
    part_bytes = known.part_bytes(channels)
    yield from store_in_parts(known, known.pushes.next(), sizes, LENGTH_BYTES, part_bytes, call_of, smaller)


def channel_list(channel: Channels, node_limits: Limits) -> list[str]:
    """Raises what is wrong with one of the names, or with all of them together."""
    if isinstance(channel, Sequence) and not isinstance(channel, str | bytes):
        channels = list(channel)
    else:
        channels = [channel]
    protocol.check_channels(channels, node_limits)
    return channels


def _list(records: Iterable[bytes]) -> list[bytes]:
    if isinstance(records, bytes | bytearray | memoryview | str):
        raise BadArgument(f"records are a list of bytes, not {type_name(records)}")
    return records if type(records) is list else list(records)


def _sizes(records: list[bytes], node_limits: Limits) -> list[int]:
    """The records' lengths; raises what is wrong with the first that is not right."""
    if set(map(type, records)) != {bytes}:
        for record in records:
            protocol.check_record(record, node_limits)
    sizes = list(map(len, records))
    check_sizes(sizes, node_limits)
    return sizes


class _Popped:
    """What one pop has got. What comes when it is over is kept, and so is everything if it fails."""

    def __init__(self, known: QueueNodes, channel: str, most: int) -> None:
        self._known = known
        self._channel = channel
        self._most = most
        self._parts: list[tuple[int, list[bytes]]] = []
        self._count = 0
        self._over = False

    def left(self) -> int:
        """How many more are wanted."""
        return self._most - self._count - self._known.kept.count(self._channel)

    def some(self) -> bool:
        return bool(self._count or self._known.kept.count(self._channel))

    def take(self, node: int, asked: int, answer: tuple[bytes, bytes]) -> bool:
        """What a node has answered; whether it may have more."""
        records = unpack(*answer)
        size = len(answer[1])
        if self._over:
            self._known.kept.add(self._channel, node, records)
        elif records:
            self._parts.append((node, records))
            self._count += len(records)
            self._known.saw(self._channel, size // len(records))
        return len(records) == asked or size >= limits.POP_BYTES_MAX

    def give_up(self) -> None:
        self._over = True
        for node, records in self._parts:
            self._known.kept.add(self._channel, node, records)

    def finish(self) -> list[bytes]:
        """The records: what was kept is older than what has come now."""
        self._over = True
        kept = self._known.kept.take(self._channel)
        if not kept and self._count <= self._most:
            of_parts = [records for _, records in self._parts]
            return of_parts[0] if len(of_parts) == 1 else list(chain.from_iterable(of_parts))
        together = kept + [(node, record) for node, records in self._parts for record in records]
        self._known.kept.put_back(self._channel, together[self._most :])
        return [record for _, record in together[: self._most]]


def pop(known: QueueNodes, channel: str, wait: float) -> Steps[bytes | None]:
    if known.several or wait or known.kept:
        records = yield from pop_many(known, channel, 1, wait)
        return records[0] if records else None
    check_channel(channel)
    record: bytes | None = yield Call(0, protocol.POP, (channel,), late=partial(_keep_one, known, channel))
    if known.kept.count(channel):  # it has come meanwhile, and is older
        known.kept.add(channel, 0, [record] if record is not None else [])
        (_, record), *more = known.kept.take(channel)
        known.kept.put_back(channel, more)
    return record


def _keep_one(known: QueueNodes, channel: str, record: bytes | None) -> None:
    known.kept.add(channel, 0, [record] if record is not None else [])


def pop_many(known: QueueNodes, channel: str, records: int, wait: float) -> Steps[list[bytes]]:
    check_channel(channel)
    if type(records) is not int or records < 1:
        raise BadArgument(f"records is how many at most, an integer of at least 1, not {brief(records)}")
    _check_wait(wait)
    popped = _Popped(known, channel, records)
    try:
        if known.several or not wait or known.part_records(channel) < records:
            yield from _pop_now(known, channel, popped)
        if wait and not popped.some():
            yield from _pop_later(known, channel, popped, wait)
    except BaseException:
        popped.give_up()
        raise
    return popped.finish()


def _check_wait(wait: float) -> None:
    number = isinstance(wait, int | float) and not isinstance(wait, bool)
    if not number or not 0 <= wait <= limits.TIMEOUT_S_MAX:
        raise BadArgument(f"wait is a number of seconds from 0 to {limits.TIMEOUT_S_MAX:g}, not {brief(wait)}")


def _pop_now(known: QueueNodes, channel: str, popped: _Popped) -> Steps[None]:
    """What is there, node after node."""
    while True:
        unreachable = 0
        for node in known.pops.next():
            if popped.left() <= 0:
                return
            try:
                yield from _pop_from(known, channel, node, popped)
            except NodeUnreachable:
                if not known.several:
                    raise
                unreachable += 1
        if unreachable < len(known.nodes):
            return
        yield WAIT_FOR_NODES


def _pop_from(known: QueueNodes, channel: str, node: int, popped: _Popped) -> Steps[None]:
    """What one node has. A large answer is asked for in parts, so that one is decoded while the next is sent."""
    more = True
    while more and (left := popped.left()) > 0:
        part = known.part_records(channel)
        counts = [min(part, left - start) for start in range(0, left, part)][:POP_PARTS_MAX]
        calls = [
            Call(
                node,
                protocol.POP_MANY,
                (channel, count),
                limits.BATCH_BYTES,
                take=partial(popped.take, node, count),
                at_once=known.several,
                late=partial(popped.take, node, count),
            )
            for count in counts
        ]
        answers = [(yield calls[0])] if len(calls) == 1 else (yield calls)
        raise_first(answers)
        more = all(answers)


def _pop_later(known: QueueNodes, channel: str, popped: _Popped, wait: float) -> Steps[None]:
    """What comes first to any node."""
    part_s = WAIT_PART_RETRY_S if known.several else WAIT_PART_S
    count = min(popped.left(), known.limits.batch_records)
    while wait > 0 and not popped.some():
        now_s = min(wait, part_s)
        calls = [
            Call(
                node,
                protocol.WAIT_POP,
                (channel, count, math.ceil(now_s * 1000)),
                take=partial(popped.take, node, count),
                at_once=known.several,
                wait_s=now_s,
                late=partial(popped.take, node, count),
            )
            for node in known.pops.next()
        ]
        results, took_s = yield FirstOf(calls, popped.some, known.kept.arrivals)
        missing = [result for result in results if type(result) is NodeUnreachable]
        if not known.several or len(missing) < len(results):
            raise_first([result for result in results if not known.several or type(result) is not NodeUnreachable])
        else:
            yield WAIT_FOR_NODES
        part_s = WAIT_PART_RETRY_S if missing else WAIT_PART_S
        wait -= took_s
    for call, more in zip(calls, results, strict=True):
        if more is True:
            yield from _pop_from(known, channel, call.node, popped)


def give_back(known: QueueNodes) -> Steps[None]:
    """Pushes what is kept to the nodes it is from; for a client that is closed."""
    for (channel, node), records in known.kept.take_all().items():
        sizes = list(map(len, records))
        start = 0
        parts = Parts(sizes, LENGTH_BYTES, known.limits.batch_records, known.part_bytes([channel]))
        try:
            while start < len(records):
                stop = parts.end(start)
                part = pack_lengths(sizes[start:stop]), b"".join(records[start:stop])
                yield Call(node, protocol.PUSH_MANY, ([channel], *part), at_once=True)
                start = stop
        except SwarmError as error:
            log.error(
                "%s: %d records of channel %s that were popped, and that the program did not take, are lost: %s",
                known.nodes[node],
                len(records) - start,
                channel,
                error,
            )
        else:
            log.warning(
                "%s: %d records of channel %s that were popped, and that the program did not take, were pushed again",
                known.nodes[node],
                len(records),
                channel,
            )


def queues(known: QueueNodes, channel: str) -> Steps[list[Queue]]:
    check_channel(channel)
    answers = yield from ask_all(known, protocol.QUEUES, channel)
    return [
        Queue(known.nodes[node], *each)
        for node, answer in zip(known.in_order(), answers, strict=True)
        for each in answer
    ]


def drop_subscriber(known: QueueNodes, channel: str, subscriber: str) -> Steps[bool]:
    check_channel(channel)
    protocol.check_subscriber(subscriber, known.limits)
    return any((yield from ask_all(known, protocol.DROP_SUBSCRIBER, channel, subscriber)))
