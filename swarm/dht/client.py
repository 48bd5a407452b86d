"""The dht client for programs under trio and under asyncio."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio

import swarm.dht.operations as operations
import swarm.dht.protocol as protocol
from swarm.core.async_client import AsyncClient, AsyncStream
from swarm.core.credentials import CredentialsOption
from swarm.core.errors import ConnectionLost, SwarmError
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.nodes_file import node_addresses
from swarm.core.protocol import Request
from swarm.core.transports import connect_socket
from swarm.dht.events import Listening
from swarm.dht.hash_range import HashRange
from swarm.dht.listen import Events, Mirror
from swarm.dht.operations import Key, Walk
from swarm.dht.ring import Ring, RingProblem

Record = TypeVar("Record")


class DhtClient(AsyncClient):
    """Reads and writes the records of a dht that is spread over some nodes.

        async with DhtClient(["127.0.0.1:10001", "127.0.0.1:10002"]) as dht:
            await dht.put("channel", "key", b"value")

    Works under trio and under asyncio. May be used by many tasks at once, and is fastest when it is: what they ask
    for at the same moment leaves in one send. It connects in the background and reconnects for ever.

    Keys are bytes or str (encoded as UTF-8), 1 to 480 bytes. Values are bytes, not empty.

    Every method may raise (all are SwarmError, which tells whose fault it is and whether to try again):
        BadChannel, BadKey, EmptyValue, ValueTooBig, BadArgument: the call is wrong; nothing was sent.
        NodeUnreachable: not connected within the timeout; nothing was sent.
        ConnectionLost, RequestTimeout: it may or may not have been carried out. Requests
            that may be repeated safely are, until the timeout.
    Those that write may also raise OutOfMemory and TooManyChannels: nothing was written.
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
        compression: lz4 both ways; worth it over a network, not on one machine.
        credentials: for nodes that ask for them: name and key, or the path of a file with the line `name:hex key`.
        tls: for nodes that speak TLS; swarm.core.tls.client_context makes one. Not used for Unix sockets.
        connect: how an address is connected to; for tests.
        """
        addresses = node_addresses(nodes, nodes_file)
        self._ring = Ring([str(address) for address in addresses])
        super().__init__(
            addresses,
            self._ring,
            timeout=timeout,
            compression=compression,
            credentials=credentials,
            tls=tls,
            connect=connect,
        )

    @property
    def ring_problems(self) -> list[RingProblem]:
        """Gaps and overlaps in the hash ranges of the nodes that were reached; they are also logged as warnings."""
        return self._ring.problems()

    async def put(self, channel: str, key: Key, value: bytes) -> None:
        """Stores a record, in place of the one that has this key."""
        await self._run(operations.put(self._ring, channel, key, value))

    async def get(self, channel: str, key: Key) -> bytes | None:
        """The value of a record, None if there is none."""
        return await self._run(operations.get(self._ring, channel, key))

    async def exists(self, channel: str, key: Key) -> bool:
        """Whether there is a record with this key."""
        return await self._run(operations.exists(self._ring, channel, key))

    async def remove(self, channel: str, key: Key) -> bool:
        """Removes a record; whether there was one. Not repeated by itself, since the second answer would be another."""
        return await self._run(operations.remove(self._ring, channel, key))

    async def put_many(self, channel: str, records: Mapping[Any, bytes] | Iterable[tuple[Key, bytes]]) -> None:
        """Stores many records at once; of a key that comes more than once the last.

        Every record is checked before the first is sent. Each node stores all of its part or nothing. When one
        raises, the others may have stored theirs; putting it again is safe.
        """
        await self._run(operations.put_many(self._ring, channel, records))

    async def get_many(self, channel: str, keys: Iterable[Key]) -> dict[Any, bytes]:
        """The records that exist, by the keys as they were given."""
        return await self._run(operations.get_many(self._ring, channel, keys))

    async def put_if_absent(self, channel: str, key: Key, value: bytes) -> bool:
        """Stores a record unless one has this key already; whether it was stored."""
        return await self._run(operations.put_if_absent(self._ring, channel, key, value))

    async def update(
        self, channel: str, key: Key, function: Callable[[bytes | None], bytes | None], *, attempts: int = 1
    ) -> bytes | None:
        """Compare and swap: reads the value, computes the new one, writes it only if the record is still as it was
        read.

        function: is given the value, None if there is no record; returns the new value, None for no record (which
            removes it), or the same value to leave everything as it is. Must not wait for anything.
        attempts: how often to begin anew after a conflict.
        Returns the new value. Raises Conflict when the record was changed or removed meanwhile: nothing was written.
        """
        return await self._run(operations.update(self._ring, channel, key, function, attempts))

    def get_all(self, channel: str, *, key_prefix: Key = b"", substring: bytes = b"") -> "Records[tuple[bytes, bytes]]":
        """All records of a channel, (key, value), in no useful order; optionally only those whose key begins with
        key_prefix and whose value contains substring.

        Every record that exists from begin to end is given exactly once, whatever is written meanwhile. Goes on
        after a broken connection. Nodes are read one after another: if the channel is removed meanwhile, ChannelRemoved
        is raised where that ends the reading of a node. A node that is read after it was removed there gives nothing,
        as it gives no record that was removed before its turn.
        """
        return Records(self, protocol.GET_ALL, channel, key_prefix, substring)

    def get_all_keys(self, channel: str, *, key_prefix: Key = b"", substring: bytes = b"") -> "Records[bytes]":
        """All keys of a channel; otherwise as get_all."""
        return Records(self, protocol.GET_ALL_KEYS, channel, key_prefix, substring)

    def listen(self, channel: str, *, key_prefix: Key = b"", refresh: bool = False) -> Events:
        """What changes in a channel, for ever: Events, from now on; with refresh all records that exist come first.

            async with dht.listen("channel") as events:
                ...                                           # from here on every change is told
                async for event in events: ...

        `async for event in dht.listen(…)` alone begins with its first step. The channel need not exist. key_prefix:
        only records whose key begins with it.

        It goes on when a connection breaks: then, and when this program is too slow, changes are lost. That is told,
        and a refresh follows. Each event says what it means (swarm.dht.Event); this keeps a dict up to date:

            records = {}
            async for event in dht.listen("channel", refresh=True):
                match event.kind:
                    case "put":
                        records[event.key] = event.value
                    case "removed":
                        records.pop(event.key, None)
                    case "channel removed" | "refresh begins":
                        for key in event.among(records):
                            del records[key]

        Entering it raises NodeUnreachable or RequestTimeout unless every node has answered within the timeout.
        """
        return Events(self, Listening(self._ring, channel, key_prefix, refresh))

    def mirror(self, channel: str, *, key_prefix: Key = b"") -> Mirror:
        """The records of a channel, in the memory of this program and kept up to date; reading them waits for nothing.

            async with dht.mirror("channel") as mirror:
                await mirror.ready()
                mirror.records[b"key"]

        key_prefix: only records whose key begins with it. Entering it raises what entering listen() raises.
        """
        return Mirror(self, Listening(self._ring, channel, key_prefix, refresh=True))

    async def hash_ranges(self) -> dict[str, HashRange]:
        """Which hashes each node is responsible for, by its address."""
        return await self._run(operations.hash_ranges(self._ring))


class Records(Generic[Record]):
    """Iterates over a channel, from get_all or get_all_keys. Leaving the loop stops it; nothing needs to be closed.

    `batches` gives the same in lists, for programs that read by the million.
    """

    def __init__(
        self,
        client: DhtClient,
        request: Request,
        channel: str,
        key_prefix: Key = b"",
        substring: bytes = b"",
        credit: int = CLIENT_STREAM_CREDIT,
    ) -> None:
        """credit: batches that the node may be ahead."""
        self._stream: AsyncStream | None = None
        self._client = client
        self._pairs = request is protocol.GET_ALL
        self._walk = Walk(client._ring, request, channel, key_prefix, substring, credit)
        self._records: Any = iter(())
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        for record in self._records:
            return record  # type: ignore[no-any-return]
        while True:
            batch = await self._next_batch()
            if batch is None:
                raise StopAsyncIteration
            self._records = zip(batch[1], batch[2], strict=True) if self._pairs else iter(batch[1])
            for record in self._records:
                return record  # type: ignore[no-any-return]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def batches(self) -> AsyncIterator[list[Record]]:
        """Lists of records, as they were sent: some thousand at a time."""
        while (batch := await self._next_batch()) is not None:
            if batch[1]:
                records: Any = zip(batch[1], batch[2], strict=True) if self._pairs else batch[1]
                given = list(records)
                del batch, records  # values may be large: of two batches one is enough in memory
                yield given
                del given

    def close(self) -> None:
        """Stops reading."""
        self._ended = True
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __del__(self) -> None:
        self.close()

    async def _next_batch(self) -> Any:
        if self._ended:
            return None
        try:
            return await self._receive_batch()
        except SwarmError:
            self._ended = True
            raise

    async def _receive_batch(self) -> Any:
        give_up = anyio.current_time() + self._client._timeout_s
        while True:
            if self._stream is None:
                call = await self._client._run(self._walk.next_call())
                if call is None:
                    return None
                self._stream = AsyncStream(self._client, call)
                await self._stream.open()
            try:
                batch = await self._stream.next()
            except ConnectionLost:
                self._stream = None
                if anyio.current_time() > give_up:
                    raise
                continue
            if batch is not None:
                self._walk.took(batch)
                return batch
            self._stream = None
            self._walk.node_ended()
