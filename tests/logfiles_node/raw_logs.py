"""A logfiles node that listens, in the test's own loop or as a process, and its requests as docs/protocol.md gives
them."""

import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import lz4.block
import trio
import zstandard
from core.raw_client import BATCH, DONE, RawClient, check_error

from nodes.logfiles.config import ChannelSection, LogfilesConfig, NodeSection, StoreSection
from nodes.logfiles.node import make_node
from swarm.core.config import Address
from swarm.core.node import LimitsSection, Node, listen

DISK_FULL = 29
READ_FAILED = 48
PUT, PUT_MANY, GET_RANGE, TIME_SPAN = range(48, 52)
OLDEST_FIRST, NEWEST_FIRST = 0, 1
SUBSTRING, REGEX = 0, 1
EVER = (-(2**63), 2**63 - 1)

S = 1_000_000_000
HOUR = 3600 * S
NOON = 1_795_348_800 * S  # 2026-11-22 12:00:00 UTC
UNTIL_THEN = replace(StoreSection(), fsync="never", future_max=float("inf"))

Record = tuple[int, bytes]


def read_block(fields: list[Any]) -> list[Record]:
    """The records of a block that belong to the range, in the order of time."""
    codec, count, first, last, skip, take, raw_size, payload = fields
    if codec == 1:
        payload = lz4.block.decompress(payload, uncompressed_size=raw_size)
    elif codec == 2:
        payload = zstandard.decompress(payload)
    assert len(payload) == raw_size
    records = unpack(payload)
    assert len(records) == count
    assert (records[0][0], records[-1][0]) == (first, last)
    assert 0 < take <= count - skip
    return records[skip : skip + take]


def pack(timestamps: Sequence[int], values: Sequence[bytes]) -> bytes:
    """A payload, whatever is in it: docs/formats/logfiles.md."""
    columns = struct.pack(f"<I{len(timestamps)}q", len(timestamps), *timestamps)
    return columns + struct.pack(f"<{len(values)}I", *map(len, values)) + b"".join(values)


def unpack(payload: bytes) -> list[Record]:
    (count,) = struct.unpack_from("<I", payload)
    timestamps = struct.unpack_from(f"<{count}q", payload, 4)
    sizes = struct.unpack_from(f"<{count}I", payload, 4 + 8 * count)
    ends = list(accumulate(sizes, initial=4 + 12 * count))
    assert ends[-1] == len(payload)
    return [(at, payload[begin:end]) for at, (begin, end) in zip(timestamps, pairwise(ends), strict=True)]


class Range:
    """What a get range has given, batch by batch. result: of its final reply."""

    def __init__(self) -> None:
        self.cursors: list[bytes] = []
        self.batches: list[list[Record]] = []
        self.blocks: list[list[Any]] = []
        self.status = 0
        self.result: Any = None

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    @property
    def values(self) -> list[bytes]:
        return [value for _, value in self.records]

    def take(self, batch: list[Any], order: int) -> None:
        cursor, blocks = batch
        self.cursors.append(cursor)
        self.blocks += blocks
        records: list[Record] = []
        for block in blocks:
            found = read_block(block)
            records += reversed(found) if order == NEWEST_FIRST else found
        self.batches.append(records)


class LogsClient:
    def __init__(self, raw: RawClient) -> None:
        self.raw = raw

    async def put(self, channel: str, timestamp: int, value: bytes) -> None:
        assert await self.raw.result(PUT, channel, timestamp, value) is None

    async def put_many(self, channel: str, records: Sequence[Record]) -> None:
        timestamps, values = zip(*records, strict=True)
        assert await self.raw.result(PUT_MANY, channel, pack(timestamps, values)) is None

    async def put_all(self, channel: str, records: Sequence[Record], size: int = 1000) -> None:
        for start in range(0, len(records), size):
            await self.put_many(channel, records[start : start + size])

    async def error(self, code: int, *arguments: object) -> tuple[int, str, dict[str, Any]]:
        """Status, text and details of a request that is refused; the connection must stay usable."""
        request_id, status, result = await self.raw.ask(82, code, *arguments)
        check_error(request_id, status, result)
        assert await self.raw.ask(83, 1) == [83, DONE, None]
        return (status, *result)

    async def range(
        self,
        channel: str,
        start: int = EVER[0],
        end: int = EVER[1],
        *,
        after: bytes = b"",
        order: int = OLDEST_FIRST,
        limit: int = 0,
        filter: Any = None,
        credit: int = 8,
        batches: int = 1 << 30,
    ) -> Range:
        """All of it, or so many batches; then it is stopped."""
        found = Range()
        await self.raw.send([90, GET_RANGE, channel, start, end, after, order, limit, filter, credit])
        while True:
            request_id, status, result = await self.raw.receive()
            assert request_id == 90
            if status != BATCH:
                found.status, found.result = status, result
                return found
            if len(found.batches) < batches:
                found.take(result, order)
                await self.raw.send([90, 2, 1] if len(found.batches) < batches else [90, 3])

    async def refused_range(self, *arguments: object) -> tuple[int, str, dict[str, Any]]:
        return await self.error(GET_RANGE, *arguments)


def make_config(
    directory: Path,
    *,
    channel: dict[str, ChannelSection] | None = None,
    limits: LimitsSection | None = None,
    **store: Any,
) -> LogfilesConfig:
    """store: of the [store] section; nothing is synced, and any time is taken."""
    return LogfilesConfig(
        node=NodeSection(data=directory),
        store=replace(UNTIL_THEN, **store),
        channel=channel or {},
        limits=limits or LimitsSection(),
    )


class RunningLogs:
    def __init__(self, node: Node, address: tuple[str, int]) -> None:
        self.node = node
        self.address = address
        self._clients: list[RawClient] = []

    async def connect(self) -> LogsClient:
        """A client; it is closed at the end at the latest."""
        client = await RawClient.connect(self.address)
        self._clients.append(client)
        return LogsClient(client)

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def running(directory: Path, **options: Any) -> AsyncIterator[RunningLogs]:
    """A logfiles node of this process that listens on loopback, and holds what is in the directory. options: of
    make_config, and files. It must be alive at the end, and stop in order."""
    files = options.pop("files", None)
    node = make_node(make_config(directory, **options), files=files)
    with closing(listen(Address("127.0.0.1", 0))) as sock:
        async with trio.open_nursery() as nursery:
            logs = RunningLogs(node, sock.getsockname())
            await nursery.start(node.run, [sock])
            try:
                yield logs
            finally:
                await logs.close_clients()
            node.stop()


@asynccontextmanager
async def client_of(directory: Path, **options: Any) -> AsyncIterator[LogsClient]:
    async with running(directory, **options) as logs:
        yield await logs.connect()


def lines(count: int, start: int = NOON, step: int = S // 1000, size: int = 100) -> list[Record]:
    """Records like lines of a log, no two the same, in order."""
    return [
        (
            start + number * step,
            b"%08d %s" % (number, struct.pack("<I", number * 2654435761 & 0xFFFFFFFF).hex().encode() * (size // 8)),
        )
        for number in range(count)
    ]


def chunks(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]
