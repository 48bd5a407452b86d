"""The logfiles client for programs without an event loop."""

import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, starmap
from pathlib import Path
from types import TracebackType
from typing import Self

from swarm.core.blocking_client import BlockingClient, BlockingStream
from swarm.core.credentials import CredentialsOption
from swarm.core.errors import ConnectionLost
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.nodes_file import node_addresses
from swarm.logfiles import operations, protocol
from swarm.logfiles.operations import LogfilesNodes
from swarm.logfiles.payload import Records
from swarm.logfiles.ranges import Range
from swarm.logfiles.timestamps import Time


class LogfilesClient(BlockingClient):
    """As swarm.logfiles.LogfilesClient, which says what each method does and raises, but blocking.

        with LogfilesClient(["127.0.0.1:10021", "127.0.0.1:10022"]) as logs:
            logs.put("channel", time.time_ns(), b"value")

    Threads may share it, one request at a time; give each its own for more.
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
    ) -> None:
        addresses = node_addresses(nodes, nodes_file)
        self._logfiles = LogfilesNodes([str(address) for address in addresses])
        super().__init__(
            addresses, self._logfiles, timeout=timeout, compression=compression, credentials=credentials, tls=tls
        )

    def put(self, channel: str, timestamp: Time, value: bytes) -> None:
        self._run(operations.put(self._logfiles, channel, timestamp, value))

    def put_many(self, channel: str, records: Iterable[tuple[Time, bytes]]) -> None:
        self._run(operations.put_many(self._logfiles, channel, records))

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

    def time_span(self, channel: str) -> tuple[int, int] | None:
        return self._run(operations.time_span(self._logfiles, channel))


class RangeRecords:
    """Iterates over the records of a range, from get_range. Leaving the loop stops it; nothing needs to be closed.

    `blocks` gives the same in lists; use one or the other.
    """

    def __init__(self, client: BlockingClient, reading: Range) -> None:
        self._reading = reading
        self._blocks = _blocks(client, reading)
        self._records: Iterator[tuple[int, bytes]] = chain.from_iterable(starmap(zip, self._blocks))

    @property
    def damaged_blocks(self) -> int:
        """How many blocks the nodes have passed over because they were damaged: complete when the end was reached, not
        where a limit, or leaving the loop, has ended it before. They are logged as warnings too."""
        return self._reading.damaged_blocks

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self._records

    def __next__(self) -> tuple[int, bytes]:
        return next(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def blocks(self) -> Iterator[Records]:
        """Lists of timestamps and of values, of the same length and not empty: about a thousand records at a time."""
        return self._blocks

    def close(self) -> None:
        """Stops reading."""
        self._blocks.close()
        self._records = iter(())


def _blocks(client: BlockingClient, reading: Range) -> Generator[Records, None, None]:
    streams: dict[int, BlockingStream] = {}
    try:
        for node in client._run(reading.nodes()):  # all are at work while the first is waited for
            with suppress(ConnectionLost):  # it is asked again when its batch is wanted
                _open(client, reading, streams, node)
        while True:
            if (block := reading.next()) is not None:
                yield block
                del block  # values may be large: of two blocks one is enough in memory
            elif (wanted := reading.wanted()) is not None:
                _receive(client, reading, streams, wanted)
            else:
                return
    finally:
        for stream in streams.values():
            stream.close()


def _open(client: BlockingClient, reading: Range, streams: dict[int, BlockingStream], node: int) -> None:
    """Asks a node, unless it has nothing more to give."""
    call = reading.call(node)
    if call is not None:
        stream = BlockingStream(client, call)
        stream.open()
        streams[node] = stream


def _receive(client: BlockingClient, reading: Range, streams: dict[int, BlockingStream], node: int) -> None:
    """Takes the next batch of a node, or its final reply."""
    give_up = time.monotonic() + client._timeout_s
    while True:
        try:
            if node not in streams:
                _open(client, reading, streams, node)
            if node not in streams:
                return
            stream = streams[node]
            batch = stream.next()
        except ConnectionLost:
            streams.pop(node, None)
            if time.monotonic() > give_up:
                raise
            continue
        if batch is not None:
            reading.took(node, batch)
        else:
            del streams[node]
            reading.node_ended(node, stream.result)
        return
