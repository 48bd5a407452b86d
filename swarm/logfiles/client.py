"""The logfiles client for programs under trio and under asyncio."""

import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

import swarm.logfiles.operations as operations
import swarm.logfiles.protocol as protocol
from swarm.core.async_client import AsyncClient, AsyncStream
from swarm.core.credentials import CredentialsOption
from swarm.core.errors import ConnectionLost, SwarmError
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.nodes_file import node_addresses
from swarm.core.transports import connect_socket
from swarm.logfiles.operations import LogfilesNodes
from swarm.logfiles.payload import Records
from swarm.logfiles.ranges import Range
from swarm.logfiles.timestamps import Time


class LogfilesClient(AsyncClient):
    """Stores records with a timestamp on some nodes, and reads ranges of time.

        async with LogfilesClient(["127.0.0.1:10021", "127.0.0.1:10022"]) as logs:
            await logs.put("channel", time.time_ns(), b"value")
            async for timestamp, value in logs.get_range("channel", start, end):
                ...

    Works under trio and under asyncio. May be used by many tasks at once, and is fastest when it is: what they ask
    for at the same moment leaves in one send. It connects in the background and reconnects for ever.

    A timestamp is given as int, nanoseconds since 1970-01-01 UTC; as float, seconds since then; or as a datetime that
    has a time zone. It is always given back as int. Several records may have the same one. Values are bytes, not empty.

    Every method may raise (all are SwarmError, which tells whose fault it is and whether to try again):
        BadChannel, EmptyValue, ValueTooBig, BadArgument: the call is wrong; nothing was sent. BadArgument may also come
            from a node that is configured to refuse timestamps that are too old, or too far in the future; then nothing
            of this request was stored.
        NodeUnreachable: not connected within the timeout; nothing was sent.
        ConnectionLost, RequestTimeout: it may or may not have been carried out. Only requests that may be repeated
            safely are, until the timeout; puts are not.
    Those that put may also raise OutOfMemory, DiskFull and TooManyChannels: no node could take it.
    """

    kind = protocol.KIND

    def __init__(
        self,
        nodes: str | Sequence[str] | None = None,
        *,
        nodes_file: str | Path | None = None,
        timeout: float = 5.0,
        compression: bool = False,
        credentials: CredentialsOption = None,
        tls: ssl.SSLContext | None = None,
        connect: Any = connect_socket,
    ) -> None:
        """nodes: addresses host:port, of all nodes; or nodes_file: a file with one a line, # begins a comment.
        timeout: seconds for each request, connecting included.
        compression: lz4 both ways; worth it over a network, not on one machine. Ranges are compressed as it is.
        credentials: for nodes that ask for them: name and key, or the path of a file with the line `name:hex key`.
        tls: for nodes that speak TLS; swarm.core.tls.client_context makes one. Not used for Unix sockets.
        connect: how an address is connected to; for tests.
        """
        addresses = node_addresses(nodes, nodes_file)
        self._logfiles = LogfilesNodes([str(address) for address in addresses])
        super().__init__(
            addresses,
            self._logfiles,
            timeout=timeout,
            compression=compression,
            credentials=credentials,
            tls=tls,
            connect=connect,
        )

    async def put(self, channel: str, timestamp: Time, value: bytes) -> None:
        """Stores a record.

        Nodes take turns. Where one is not connected, or cannot take it, the next one is tried; the error is the last
        one's, and names all. A put whose connection broke is not repeated, since it may have been stored: that raises
        ConnectionLost.
        """
        await self._run(operations.put(self._logfiles, channel, timestamp, value))

    async def put_many(self, channel: str, records: Iterable[tuple[Time, bytes]]) -> None:
        """Stores many records, pairs of timestamp and value, in any order; as far as it can take them, at one node.

        What is wrong with one of them is raised before anything is sent. Otherwise they leave in parts of 1 MiB or
        4,096 records at most, each when the one before was stored: an error's details["stored"] tells how many of the
        first were, and of the others none; but of a part that ends with ConnectionLost or RequestTimeout that is not
        known.
        """
        await self._run(operations.put_many(self._logfiles, channel, records))

    def get_range(
        self,
        channel: str,
        start: Time | None = None,
        end: Time | None = None,
        *,
        substring: bytes | str | None = None,
        regex: bytes | str | None = None,
        ignore_case: bool = False,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> "RangeRecords":
        """The records of a channel with start <= timestamp < end, (timestamp, value), in the order of time, from all
        nodes; those with the same timestamp that one node has, in the order in which it got them.

        start, end: None for everything. limit: how many at most. newest_first: the other way round, records with the
        same timestamp too. Only records that contain substring, or in which regex matches somewhere: bytes, or str
        (encoded as UTF-8); a regex has RE2's syntax (https://github.com/google/re2/wiki/Syntax). ignore_case: for both.

            async for timestamps, values in logs.get_range("channel", start, end).blocks():

        gives the same in lists, for programs that read by the million.

        What is put meanwhile may or may not be given. It goes on after a broken connection, and gives no record twice.
        A channel that does not exist has no records. Iterating raises ChannelRemoved when the channel is removed
        meanwhile, BadArgument for a regex that is none, and ProtocolError if a node sends what is no block.
        """
        reading = Range(
            self._logfiles,
            channel,
            start,
            end,
            substring=substring,
            regex=regex,
            ignore_case=ignore_case,
            limit=limit,
            newest_first=newest_first,
            credit=CLIENT_STREAM_CREDIT,
        )
        return RangeRecords(self, reading)

    async def time_span(self, channel: str) -> tuple[int, int] | None:
        """The timestamps of the oldest and the newest record, None if there is none."""
        return await self._run(operations.time_span(self._logfiles, channel))


class RangeRecords:
    """Iterates over the records of a range, from get_range. Leaving the loop stops it; nothing needs to be closed.

    `blocks` gives the same in lists; use one or the other.
    """

    def __init__(self, client: AsyncClient, reading: Range) -> None:
        self._client = client
        self._reading = reading
        self._streams: dict[int, AsyncStream] = {}
        """By node; not of those whose connection broke, or that have ended."""
        self._begun = self._ended = False
        self._records: Iterator[tuple[int, bytes]] = iter(())

    @property
    def damaged_blocks(self) -> int:
        """How many blocks the nodes have passed over because they were damaged: complete when the end was reached, not
        where a limit, or leaving the loop, has ended it before. They are logged as warnings too."""
        return self._reading.damaged_blocks

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        for record in self._records:
            return record
        self._records = zip(*(await self._next_block()), strict=True)
        return next(self._records)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def blocks(self) -> AsyncIterator[Records]:
        """Lists of timestamps and of values, of the same length and not empty: about a thousand records at a time."""
        return _InBlocks(self)

    def close(self) -> None:
        """Stops reading."""
        self._ended = True
        self._records = iter(())
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def __del__(self) -> None:
        self.close()

    async def _next_block(self) -> Records:
        """StopAsyncIteration at the end."""
        try:
            while not self._ended:
                if not self._begun:
                    await self._begin()
                if (block := self._reading.next()) is not None:
                    return block
                if (node := self._reading.wanted()) is None:
                    self.close()
                else:
                    await self._receive(node)
        except SwarmError:
            self.close()
            raise
        raise StopAsyncIteration

    async def _begin(self) -> None:
        """Asks every node, so that all are at work while the first is waited for."""
        for node in await self._client._run(self._reading.nodes()):
            await self._open(node)
        self._begun = True

    async def _open(self, node: int) -> AsyncStream | None:
        call = self._reading.call(node)
        if call is None:
            return None
        stream = AsyncStream(self._client, call)
        await stream.open()
        self._streams[node] = stream
        return stream

    async def _receive(self, node: int) -> None:
        """Takes the next batch of a node, or its final reply."""
        give_up = anyio.current_time() + self._client._timeout_s
        while (stream := self._streams.get(node) or await self._open(node)) is not None:
            try:
                batch = await stream.next()
            except ConnectionLost:
                del self._streams[node]
                if anyio.current_time() > give_up:
                    raise
                continue
            if batch is not None:
                self._reading.took(node, batch)
            else:
                del self._streams[node]
                self._reading.node_ended(node, stream.result)
            return


class _InBlocks:
    """Iterates over a range's records in lists; unlike a generator, it can be left at any place."""

    def __init__(self, records: RangeRecords) -> None:
        self._next = records._next_block

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Records:
        return await self._next()
