"""The dht client for programs without an event loop."""

import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from swarm.blocking.listen import Events
from swarm.core.blocking_client import BlockingClient, BlockingStream
from swarm.core.credentials import CredentialsOption
from swarm.core.errors import ConnectionLost
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.nodes_file import node_addresses
from swarm.core.protocol import Request
from swarm.dht import operations, protocol
from swarm.dht.events import Copy, Event, Listening
from swarm.dht.hash_range import HashRange
from swarm.dht.operations import Key, Walk
from swarm.dht.ring import Ring, RingProblem


class DhtClient(BlockingClient):
    """As swarm.dht.DhtClient, which says what each method does and raises, but blocking.

        with DhtClient(["127.0.0.1:10001", "127.0.0.1:10002"]) as dht:
            dht.put("channel", "key", b"value")

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
        self._ring = Ring([str(address) for address in addresses])
        super().__init__(
            addresses, self._ring, timeout=timeout, compression=compression, credentials=credentials, tls=tls
        )

    @property
    def ring_problems(self) -> list[RingProblem]:
        return self._ring.problems()

    def put(self, channel: str, key: Key, value: bytes) -> None:
        self._run(operations.put(self._ring, channel, key, value))

    def get(self, channel: str, key: Key) -> bytes | None:
        return self._run(operations.get(self._ring, channel, key))

    def exists(self, channel: str, key: Key) -> bool:
        return self._run(operations.exists(self._ring, channel, key))

    def remove(self, channel: str, key: Key) -> bool:
        return self._run(operations.remove(self._ring, channel, key))

    def put_many(self, channel: str, records: Mapping[Any, bytes] | Iterable[tuple[Key, bytes]]) -> None:
        self._run(operations.put_many(self._ring, channel, records))

    def get_many(self, channel: str, keys: Iterable[Key]) -> dict[Any, bytes]:
        return self._run(operations.get_many(self._ring, channel, keys))

    def put_if_absent(self, channel: str, key: Key, value: bytes) -> bool:
        return self._run(operations.put_if_absent(self._ring, channel, key, value))

    def update(
        self, channel: str, key: Key, function: Callable[[bytes | None], bytes | None], *, attempts: int = 1
    ) -> bytes | None:
        return self._run(operations.update(self._ring, channel, key, function, attempts))

    def get_all(self, channel: str, *, key_prefix: Key = b"", substring: bytes = b"") -> "Records[tuple[bytes, bytes]]":
        return self._records(protocol.GET_ALL, channel, key_prefix, substring)

    def get_all_keys(self, channel: str, *, key_prefix: Key = b"", substring: bytes = b"") -> "Records[bytes]":
        return self._records(protocol.GET_ALL_KEYS, channel, key_prefix, substring)

    @overload
    def listen(
        self, channel: str, *, key_prefix: Key = ..., refresh: bool = ..., timeout: None = None
    ) -> Events[Event]: ...
    @overload
    def listen(
        self, channel: str, *, key_prefix: Key = ..., refresh: bool = ..., timeout: float
    ) -> Events[Event | None]: ...
    def listen(
        self, channel: str, *, key_prefix: Key = b"", refresh: bool = False, timeout: float | None = None
    ) -> Any:
        """From its return on every change is told. With a timeout (seconds, 0 or more) it gives None whenever nothing
        has come for so long, so that a program can do something else, or stop. It is for one thread, and has
        connections of its own: other threads can use the client meanwhile.
        """
        return Events(self, Listening(self._ring, channel, key_prefix, refresh), timeout)

    def mirror(
        self, channel: str, *, key_prefix: Key = b"", timeout: float | None = None
    ) -> Iterator[Mapping[bytes, bytes]]:
        """The records of a channel, whenever they have changed: always the same mapping, kept up to date between steps.

            for records in dht.mirror("settings", timeout=1.0):
                ...

        The first step gives it when it is complete; while a refresh is under way it is not given. With a timeout
        (seconds) it is given unchanged when nothing has come for so long, so that a program can do something else, or
        stop: if it is complete, else with what is known.
        """
        copy = Copy()
        records = MappingProxyType(copy.records)
        with Events(self, Listening(self._ring, channel, key_prefix, refresh=True), timeout) as events:
            for batch in events.batches():
                for event in batch:
                    copy.apply(event)
                if copy.complete or not batch:
                    yield records

    def hash_ranges(self) -> dict[str, HashRange]:
        return self._run(operations.hash_ranges(self._ring))

    def _records(self, request: Request, channel: str, key_prefix: Key, substring: bytes) -> "Records[Any]":
        walk = Walk(self._ring, request, channel, key_prefix, substring, CLIENT_STREAM_CREDIT)
        return Records(self._batches(walk))

    def _batches(self, walk: Walk) -> Generator[list[Any], None, None]:
        give_up = time.monotonic() + self._timeout_s
        while (call := self._run(walk.next_call())) is not None:
            stream = BlockingStream(self, call)
            try:
                stream.open()
                while (batch := stream.next()) is not None:
                    walk.took(batch)
                    _, keys, *values = batch
                    if keys:
                        yield list(zip(keys, *values, strict=True)) if values else keys
                    give_up = time.monotonic() + self._timeout_s
            except ConnectionLost:
                if time.monotonic() > give_up:
                    raise
            else:
                walk.node_ended()
            finally:
                stream.close()


Record = TypeVar("Record")


class Records(Generic[Record]):
    """Iterates over a channel, from get_all or get_all_keys. Leaving the loop stops it; nothing needs to be closed.

    `batches` gives the same in lists.
    """

    def __init__(self, batches: Generator[list[Record], None, None]) -> None:
        self._batches = batches
        self._records = chain.from_iterable(batches)

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def batches(self) -> Iterator[list[Record]]:
        """Lists of records, as they were sent: some thousand at a time."""
        return self._batches

    def close(self) -> None:
        """Stops reading."""
        self._batches.close()
        self._records = chain()
