"""Reading a range of time from all nodes of a client, in the order of time. No I/O.

    node 0  ──► block block …  ─┐
    node 1  ──► block block …  ─┼─► next() ──► block
    node 2  ──► block block …  ─┘

What a node gives is in order, so of the nodes' first blocks everything up to the least of their last timestamps is
known: that much of them is given as one block. Where blocks do not overlap it is one of them, as it has come; where
they do, their runs are merged by Python's own sort, which finds runs. So a record costs a comparison or two in C, and
with one node nothing.

Each node has a cursor, which says how far what has been taken from it goes: after a broken connection the next
request goes on behind it.
"""

import logging
from bisect import bisect_right
from collections import deque
from itertools import chain
from operator import neg
from typing import Any

import swarm.logfiles.protocol as protocol
from swarm.core.client_session import Call, Steps
from swarm.core.errors import BadArgument, ProtocolError
from swarm.core.operations import all_nodes, check_channel
from swarm.core.protocol import brief, type_name
from swarm.logfiles.block import Block, decode
from swarm.logfiles.operations import LogfilesNodes
from swarm.logfiles.payload import BadPayload, Records
from swarm.logfiles.protocol import ANY_TIME, NEWEST_FIRST, OLDEST_FIRST, FilterKind
from swarm.logfiles.timestamps import Time, nanoseconds

log = logging.getLogger(__name__)


class _Source:
    """What one node gives of the range."""

    def __init__(self) -> None:
        self.cursor = b""
        self.taken = 0
        """Records that have come from it."""
        self.ended = False
        self.blocks: deque[Block] = deque()
        """That were not looked at yet."""
        self.timestamps: list[int] = []
        """Of the block that is being given; empty if there is none."""
        self.values: list[bytes] = []
        self.given = 0
        """So many of its records were."""


class Range:
    def __init__(
        self,
        known: LogfilesNodes,
        channel: str,
        start: Time | None,
        end: Time | None,
        *,
        substring: bytes | str | None,
        regex: bytes | str | None,
        ignore_case: bool,
        limit: int | None,
        newest_first: bool,
        credit: int,
    ) -> None:
        """BadArgument, BadChannel"""
        check_channel(channel)
        self.damaged_blocks = 0
        """That the nodes have passed over, as far as they have told: each does at its end."""
        self._known = known
        self._channel = channel
        self._newest_first = bool(newest_first)
        if limit is not None and (type(limit) is not int or limit < 1):
            raise BadArgument(f"limit is how many records at most, an integer of at least 1, not {brief(limit)}")
        self._limit = limit or 0
        self._left = limit
        """Records that may still be given; None for all."""
        self._times = _bound(start, ANY_TIME[0]), _bound(end, ANY_TIME[1])
        protocol.check_range(*self._times)
        self._filter = _filter(substring, regex, ignore_case)
        self._credit = credit
        self._sources: dict[int, _Source] = {}
        protocol.GET_RANGE.check(self._arguments(_Source()), known.limits)

    def nodes(self) -> Steps[list[int]]:
        """Those to be asked: all. To be called once, first of all."""
        nodes = yield from all_nodes(self._known)
        self._sources = {node: _Source() for node in nodes}
        return nodes

    def call(self, node: int) -> Call | None:
        """The request for what has not come from a node; None if that is nothing, and the node is not asked again."""
        source = self._sources[node]
        source.ended = source.ended or self._is_full(source)
        return None if source.ended else Call(node, protocol.GET_RANGE, self._arguments(source))

    def _is_full(self, source: _Source) -> bool:
        """Whether as much has come as is wanted at most: only its final reply is missing."""
        return 0 < self._limit <= source.taken

    def _arguments(self, source: _Source) -> tuple[Any, ...]:
        order = NEWEST_FIRST if self._newest_first else OLDEST_FIRST
        limit = self._limit and self._limit - source.taken
        return self._channel, *self._times, source.cursor, order, limit, self._filter, self._credit

    def wanted(self) -> int | None:
        """The node that has to give its next batch, or its final reply, before next() gives more; None at the end."""
        over = self._left == 0
        for node, source in self._sources.items():
            if _waits(source) and (not over or self._is_full(source)):
                return node
        return None

    def took(self, node: int, batch: Any) -> None:
        """A batch of a node has come. ProtocolError if it is none."""
        source = self._sources[node]
        match batch:
            case [bytes(cursor), list(blocks)]:
                try:
                    came = list(map(Block.from_wire, blocks))
                except BadPayload as error:
                    raise self._wrong(node, error) from error
            case _:
                raise ProtocolError(f"{self._known.nodes[node]} sent {brief(batch)}, which is no batch of a range")
        source.cursor = cursor
        source.taken += sum(block.take for block in came)
        source.blocks.extend(came)

    def node_ended(self, node: int, result: Any) -> None:
        """A node has given everything. result: its final reply. ProtocolError if it is none."""
        self._sources[node].ended = True
        match result:
            case [str(), int(damaged)]:
                self.damaged_blocks += damaged
            case _:
                raise ProtocolError(f"{self._known.nodes[node]} ended a range with {brief(result)}")
        if damaged:
            log.warning(
                "%s: of channel %s %d damaged block(s) were passed over: their records are missing in what was read",
                self._known.nodes[node],
                self._channel,
                damaged,
            )

    def next(self) -> Records | None:
        """Timestamps and values of some records, at least one; None where there are none before wanted() has come.
        ProtocolError if a block is none."""
        if self._left == 0 or any(map(_waits, self._sources.values())):
            return None
        for node, source in self._sources.items():
            if source.blocks and not source.timestamps:
                self._look_at_next(node, source)
        sources = [source for source in self._sources.values() if source.timestamps]
        if not sources:
            return None
        timestamps, values = self._merged(sources)
        if self._left is not None:
            timestamps, values = timestamps[: self._left], values[: self._left]
            self._left -= len(values)
        return timestamps, values

    def _look_at_next(self, node: int, source: _Source) -> None:
        try:
            source.timestamps, source.values = decode(source.blocks.popleft())
        except BadPayload as error:
            raise self._wrong(node, error) from error
        source.given = 0
        if self._newest_first:
            source.timestamps.reverse()
            source.values.reverse()

    def _merged(self, sources: list[_Source]) -> Records:
        if len(sources) == 1:
            return _rest(sources[0])
        lasts = [source.timestamps[-1] for source in sources]
        bound = max(lasts) if self._newest_first else min(lasts)
        runs = [run for source in sources if (run := self._up_to(bound, source))[0]]
        if len(runs) == 1:
            return runs[0]
        timestamps = list(chain.from_iterable(times for times, _ in runs))
        values = list(chain.from_iterable(values for _, values in runs))
        order = sorted(range(len(timestamps)), key=timestamps.__getitem__, reverse=self._newest_first)
        return list(map(timestamps.__getitem__, order)), list(map(values.__getitem__, order))

    def _up_to(self, bound: int, source: _Source) -> Records:
        """Takes what is not behind this timestamp."""
        if source.timestamps[-1] == bound:
            return _rest(source)
        if self._newest_first:
            stop = bisect_right(source.timestamps, -bound, source.given, key=neg)
        else:
            stop = bisect_right(source.timestamps, bound, source.given)
        run = source.timestamps[source.given : stop], source.values[source.given : stop]
        source.given = stop
        return run

    def _wrong(self, node: int, error: BadPayload) -> ProtocolError:
        return ProtocolError(f"{self._known.nodes[node]} sent a block of channel {self._channel} that is none: {error}")


def _waits(source: _Source) -> bool:
    return not (source.ended or source.blocks or source.timestamps)


def _rest(source: _Source) -> Records:
    """Takes what is left of its block."""
    timestamps, values = source.timestamps, source.values
    source.timestamps, source.values = [], []
    return (timestamps[source.given :], values[source.given :]) if source.given else (timestamps, values)


def _bound(time: Time | None, otherwise: int) -> int:
    return otherwise if time is None else min(max(nanoseconds(time), ANY_TIME[0]), ANY_TIME[1])


def _filter(substring: bytes | str | None, regex: bytes | str | None, ignore_case: bool) -> list[Any] | None:
    if substring is not None and regex is not None:
        raise BadArgument("either a substring or a regex can be given, not both")
    if substring is not None:
        return [int(FilterKind.SUBSTRING), _pattern("substring", substring), bool(ignore_case)]
    if regex is not None:
        return [int(FilterKind.REGEX), _pattern("regex", regex), bool(ignore_case)]
    return None


def _pattern(name: str, pattern: object) -> bytes:
    if isinstance(pattern, str):
        try:
            return pattern.encode()
        except UnicodeEncodeError as error:
            raise BadArgument(f"{name} holds half of a surrogate pair, which is no text") from error
    if type(pattern) is not bytes:
        raise BadArgument(f"{name} is bytes or str, not {type_name(pattern)}")
    return pattern
