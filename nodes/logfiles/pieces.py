"""The pieces of a range, one after the other, in a thread: what the store gives, as a filter and a limit leave it.

A piece is a batch on the wire: a step of the store, which is a block if blocks are large, so that a frame ends with it;
several where they are small, or where a filter has left little of them. It ends with a Cursor: that of the last step,
or, where that was left in its middle, behind the last record that was looked at. (In front of it where the newest come
first.)

Of a block that is taken as a whole the stored bytes go on. Records that are taken of other blocks are collected in new
ones, which are small: nothing is gained by compressing them.
"""

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from time import monotonic

from nodes.logfiles.block_format import BLOCK_BYTES
from nodes.logfiles.block_index import Damage
from nodes.logfiles.channel import LogChannel
from nodes.logfiles.filters import Filter
from nodes.logfiles.range_block import Cursor, RangeBlock, Step, encode, position, timestamps_of
from swarm.core.limits import APART_BYTES_MIN, KIB, MIB
from swarm.logfiles import payload
from swarm.logfiles.payload import RECORDS_MAX, BadPayload, Records

log = logging.getLogger(__name__)

READ_BYTES = 512 * KIB  # of payloads that a range reads ahead of what was sent
STEPS_MAX = 64  # in a piece: buckets with few records each, or work that has found no block
FILTERING_S = 0.05  # of looking in one go, but a block at least: an evil expression takes a thousand times as long
FILTERED_BYTES = 4 * MIB  # decompressed, that it looks at in one go: some 20,000 lines, 20 ms for an expression


@dataclass(frozen=True)
class Range:
    """What is asked for. limit: records, 0 for all."""

    first: int
    end: int
    after: Cursor | None = None
    newest_first: bool = False
    limit: int = 0
    filter: Filter | None = None


@dataclass(slots=True)
class Piece:
    """damages: told by the store. damaged: blocks that were passed over."""

    cursor: Cursor
    blocks: list[RangeBlock] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    damaged: int = 0


class Pieces:
    def __init__(self, channel: LogChannel, asked: Range) -> None:
        self._steps: Iterator[Step] = channel.range(
            asked.first, asked.end, asked.after, newest_first=asked.newest_first
        )
        self._asked = asked
        self._left = asked.limit or None
        """Records; None: any number."""
        self._blocks: deque[RangeBlock] = deque()
        """Of the step, those that were not looked at."""
        self._step_end = Cursor(0, 0)
        self._looked = 0
        self._until = 0.0
        """Bytes, decompressed, since `some` has begun."""

    def close(self) -> None:
        """No more is wanted; no thread is at work."""
        self._steps = iter(())
        self._blocks.clear()

    def some(self) -> list[Piece]:
        """As many as take some ms; none: that was all. Raises ChannelRemoved, OSError."""
        found: list[Piece] = []
        size = self._looked = 0
        self._until = monotonic() + FILTERING_S
        while size < READ_BYTES and not self._is_enough and (piece := self._next()) is not None:
            found.append(piece)
            size += sum(len(block.payload) for block in piece.blocks)
        return found

    @property
    def _is_enough(self) -> bool:
        return self._looked >= FILTERED_BYTES or (self._looked > 0 and monotonic() > self._until)

    def _next(self) -> Piece | None:
        if self._left is not None or self._asked.filter is not None:
            return self._look()
        piece: Piece | None = None
        for step in islice(self._steps, STEPS_MAX):
            piece = piece or Piece(step.cursor)
            piece.cursor = step.cursor
            piece.blocks += step.blocks
            piece.damages += step.damages
            piece.damaged += len(step.damages)
            if sum(len(block.payload) for block in piece.blocks) >= APART_BYTES_MIN:
                break
        return piece

    def _look(self) -> Piece | None:
        """At blocks, of several steps if there is little in them."""
        piece: Piece | None = None
        found = _Found(newest_first=self._asked.newest_first)
        while self._left != 0 and found.size < APART_BYTES_MIN and not self._is_enough:
            if self._blocks:
                piece = piece or Piece(self._step_end)
            elif (step := next(self._steps, None)) is not None:
                self._blocks.extend(step.blocks)
                self._step_end = step.cursor
                piece = piece or Piece(step.cursor)
                piece.damages += step.damages
                piece.damaged += len(step.damages)
            else:
                break
            piece.cursor = self._look_at_some(piece, found) or self._step_end
        if piece is not None:
            piece.blocks = found.blocks()
        return piece

    def _look_at_some(self, piece: Piece, found: "_Found") -> Cursor | None:
        """Of this step. The cursor, if that is not the step's."""
        while self._blocks:
            block = self._blocks.popleft()
            self._looked += block.raw_bytes
            try:
                self._look_at(block, found)
                if self._left == 0 or (self._is_enough and self._blocks):
                    return found.cursor or self._behind(block)
            except BadPayload as error:
                log.error("damage: a block of %d records from %d on: %s", block.records, block.first, error)
                piece.damaged += 1
        return None

    def _look_at(self, block: RangeBlock, found: "_Found") -> None:
        if self._asked.filter is None:
            assert self._left is not None
            part = _first_of(block, self._left, newest_first=self._asked.newest_first)
            if part is not block:
                found.cursor = self._behind(part)
            found.add_block(part)
            self._left -= part.take
            return
        raw = payload.decompress(block.codec, block.payload, block.raw_bytes)
        first = self._asked.filter.first(raw)
        if first is not None:
            sizes, start = payload.sizes_of(raw)
            starts = list(accumulate(sizes, initial=start))
            numbers = self._asked.filter.select(raw, starts, first)
            if numbers:
                self._select(block, raw, payload.timestamp_column(raw), starts, numbers, found)

    def _select(
        self,
        block: RangeBlock,
        raw: bytes,
        timestamps: Sequence[int],
        starts: list[int],
        numbers: list[int],
        found: "_Found",
    ) -> None:
        """Of the records with these numbers, those that belong to the range."""
        if block.take < block.records:
            numbers = numbers[bisect_left(numbers, block.skip) : bisect_left(numbers, block.skip + block.take)]
        if self._left is not None and len(numbers) >= self._left:
            numbers = numbers[-self._left :] if self._asked.newest_first else numbers[: self._left]
            found.cursor = self._at(block, timestamps, numbers[0] if self._asked.newest_first else numbers[-1])
        if self._left is not None:
            self._left -= len(numbers)
        if len(numbers) == block.take:
            found.add_block(block)
        elif numbers:
            values = [raw[starts[each] : starts[each + 1]] for each in numbers]
            found.add_records([timestamps[each] for each in numbers], values)

    def _behind(self, block: RangeBlock) -> Cursor:
        """All that the block gives was given."""
        timestamps = timestamps_of(block)
        return self._at(block, timestamps, block.skip if self._asked.newest_first else block.skip + block.take - 1)

    def _at(self, block: RangeBlock, timestamps: Sequence[int], number: int) -> Cursor:
        """The record with this number was given, and all that come before it in the order of the range."""
        cursor = position(block, timestamps, number)
        return cursor if self._asked.newest_first else Cursor(cursor.timestamp, cursor.records + 1)


def _first_of(block: RangeBlock, most: int, *, newest_first: bool) -> RangeBlock:
    if block.take <= most:
        return block
    return block._replace(skip=block.skip + block.take - most if newest_first else block.skip, take=most)


class _Found:
    """What a piece gives, in the order of the range."""

    def __init__(self, *, newest_first: bool) -> None:
        self.cursor: Cursor | None = None
        """Where the limit was reached in the middle of a block."""
        self.size = 0
        """Bytes of payloads, about."""
        self._newest_first = newest_first
        self._blocks: list[RangeBlock] = []
        self._records: list[Records] = []
        self._count = 0
        self._bytes = 0

    def add_block(self, block: RangeBlock) -> None:
        self._flush()
        self._blocks.append(block)
        self.size += len(block.payload)

    def add_records(self, timestamps: list[int], values: list[bytes]) -> None:
        """In the order of time, all behind those that were added before; in front of them if the newest come first."""
        if self._count + len(values) > RECORDS_MAX or self._bytes > BLOCK_BYTES:
            self._flush()
        self._records.append((timestamps, values))
        self._count += len(values)
        size = sum(map(len, values))
        self._bytes += size
        self.size += size

    def blocks(self) -> list[RangeBlock]:
        self._flush()
        return self._blocks

    def _flush(self) -> None:
        records, self._records, self._count, self._bytes = self._records, [], 0, 0
        if not records:
            return
        if self._newest_first:
            records.reverse()
        timestamps = list(chain.from_iterable(each for each, _ in records))
        values = list(chain.from_iterable(each for _, each in records))
        self._blocks.append(encode(timestamps, values, 0))
