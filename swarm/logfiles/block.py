"""A block as a get range gives it: a payload as it is stored, and which of its records belong to the range. No I/O."""

from typing import Any, NamedTuple

import swarm.logfiles.payload as payload
from swarm.logfiles.payload import BadPayload, Records


class Block(NamedTuple):
    """docs/protocol.md §5, get range: the fields as they travel.

    codec: of the payload. records: in the payload, in the order of time. first, last: timestamps of the first and the
    last of them. skip, take: those from `skip` on, `take` in number, belong to the range. raw_bytes: length of the
    payload decompressed.
    """

    codec: int
    records: int
    first: int
    last: int
    skip: int
    take: int
    raw_bytes: int
    payload: bytes

    @classmethod
    def from_wire(cls, fields: Any) -> "Block":
        """Raises BadPayload unless it is an array of these fields that fit one another."""
        if type(fields) is not list or len(fields) != len(cls._fields):
            raise BadPayload(f"a block is an array of {len(cls._fields)} fields")
        block = cls(*fields)
        if set(map(type, block[:-1])) != {int} or type(block.payload) is not bytes:
            raise BadPayload("a block is an array of integers and, behind them, bytes")
        if not (block.skip >= 0 and block.take > 0 and block.skip + block.take <= block.records):
            raise BadPayload(f"of {block.records} records {block.take} from {block.skip} on belong to the range")
        return block


def decode(block: Block) -> Records:
    """Timestamps, in order, and values of the records of a block that belong to the range: two lists of the same
    length. Raises BadPayload."""
    timestamps, values = payload.decode(payload.decompress(block.codec, block.payload, block.raw_bytes), block.first)
    if len(values) != block.records:
        raise BadPayload(f"it has {len(values)} records, {block.records} are expected")
    if block.take == block.records:
        return timestamps, values
    end = block.skip + block.take
    return timestamps[block.skip : end], values[block.skip : end]
