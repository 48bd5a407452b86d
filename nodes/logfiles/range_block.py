"""What reading gives: blocks in the order of time, and how far it has come. No I/O."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nodes.logfiles.block_index import Damage
from swarm.logfiles import payload
from swarm.logfiles.payload import Codec, Records


class Cursor(NamedTuple):
    """A position in the order of a channel's records: behind all with a lower timestamp, and so many with this one.

    It stays right whatever becomes of the files: records with one timestamp keep their order, and new ones come behind.
    """

    timestamp: int
    records: int


class RangeBlock(NamedTuple):
    """Records as they are stored or were merged, of which those from `skip` on, `take` in number, are given.

    first, last: timestamps of the first and the last one in the payload. raw_bytes: length decompressed. before: how
    many records of the channel that have the timestamp `first` come before this block. Inside a block the order is
    always that of time; where the newest come first, whoever reads it turns it round.
    """

    records: int
    first: int
    last: int
    skip: int
    take: int
    codec: int
    raw_bytes: int
    before: int
    payload: bytes


@dataclass(slots=True)
class Step:
    """A bounded piece of work: the blocks it has found, and where to go on if it was the last that was drawn. Where
    many blocks overlap there may be none, and the cursor stays: the work done is in the iterator."""

    cursor: Cursor
    blocks: list[RangeBlock] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    """What was passed over."""


def decode(block: RangeBlock) -> Records:
    """The records that a block gives. Raises BadPayload."""
    raw = payload.decompress(block.codec, block.payload, block.raw_bytes)
    timestamps, values = payload.decode(raw, block.first)
    end = block.skip + block.take
    if len(values) != block.records or end > len(values):
        raise payload.BadPayload(f"it has {len(values)} records, {block.records} are expected")
    return timestamps[block.skip : end], values[block.skip : end]


def timestamps_of(block: RangeBlock) -> list[int]:
    """Of all that the payload has. Raises BadPayload."""
    raw = payload.decompress(block.codec, block.payload, block.raw_bytes)
    return payload.layout_of_block(raw, block.first).timestamps


def encode(timestamps: Sequence[int], values: Sequence[bytes], before: int) -> RangeBlock:
    """Records in their order, one at least, as a block that gives them all."""
    raw = payload.encode(timestamps, values)
    return RangeBlock(len(values), timestamps[0], timestamps[-1], 0, len(values), Codec.NONE, len(raw), before, raw)


def position(block: RangeBlock, timestamps: Sequence[int], number: int) -> Cursor:
    """In front of the record with this number, from 0, of all that the payload has; these are their timestamps. So a
    reader who stops in the middle of a block knows where to go on: behind a record it is one more."""
    timestamp = timestamps[number]
    equal = number - bisect_left(timestamps, timestamp)
    return Cursor(timestamp, equal + (block.before if timestamp == block.first else 0))


def matching(block: RangeBlock, matches: Callable[[list[bytes]], Sequence[int]]) -> RangeBlock | None:
    """A block with those records only whose numbers in the list of values `matches` gives, in order; None if there are
    none; the block itself if all do. `position` means nothing in it, `before` is 0: go on from the step's cursor.

    Raises BadPayload."""
    timestamps, values = decode(block)
    numbers = matches(values)
    if len(numbers) == len(values):
        return block
    if not numbers:
        return None
    return encode([timestamps[each] for each in numbers], [values[each] for each in numbers], 0)
