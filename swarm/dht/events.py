"""What a listener is told, and what it is at with each of its nodes. No I/O. docs/protocol.md §5, listen.

Every node tells its own part of the channel, in a stream of its own. An event that is about more than one record says
which hashes it is about, so what one node tells never touches what another has told. `refreshed` alone is about the
whole: it is told when no node is left whose records have still to come.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import swarm.dht.protocol as protocol
from swarm.core.client_session import BROKE, Call, Steps
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.operations import all_nodes, check_channel
from swarm.dht.hash_range import HashRange, hash_key
from swarm.dht.operations import Key, encode_prefix
from swarm.dht.ring import Ring

EventKind = Literal["put", "removed", "channel removed", "lost", "refresh begins", "refreshed"]

_ALL = HashRange()
_KINDS: dict[int, EventKind] = {
    protocol.CHANNEL_REMOVED: "channel removed",
    protocol.LOST: "lost",
    protocol.REFRESH_BEGINS: "refresh begins",
}


class Event(NamedTuple):
    """One thing that a listener is told.

    put              the record `key` now has the value `value`; also what a refresh gives
    removed          the record `key` was removed
    channel removed  all records whose hash is in `hashes` were removed with their channel: one node's part of it
    lost             changes in `hashes` are missing: the client was too slow, or its connection broke. A refresh
                     follows as soon as the node can be reached
    refresh begins   what was known of `hashes` is void; the records that exist follow
    refreshed        all of them were given, and no other refresh is under way: nothing is missing
    """

    kind: EventKind
    key: bytes = b""
    value: bytes = b""
    hashes: HashRange = _ALL

    def among(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the keys that are in `hashes`."""
        if self.hashes == _ALL:
            return list(keys)
        return [key for key in keys if hash_key(key) in self.hashes]


class Streams(Protocol):
    """What a client has its streams in."""

    def begin(self, calls: Iterable[Call]) -> None: ...

    def stop(self) -> None: ...


class Listening:
    """One listener: what to ask each node for, and what its answers mean."""

    def __init__(self, ring: Ring, channel: str, key_prefix: Key, refresh: bool) -> None:
        check_channel(channel)
        self._arguments = channel, encode_prefix(key_prefix)
        protocol.LISTEN.check((*self._arguments, refresh, CLIENT_STREAM_CREDIT), ring.limits)
        self._ring = ring
        self._refresh = refresh
        self._ranges: dict[int, HashRange] = {}
        self._incomplete: set[int] = set()
        """Nodes whose records have still to come, all or the rest of them."""

    def begin(self) -> Steps[list[Call]]:
        """The first request for each node."""
        nodes = yield from all_nodes(self._ring)
        return self._begin(nodes, self._refresh)

    def took(self, streams: Streams, node: int, batch: Any) -> list[Event]:
        """What a batch of a node tells, or BROKE in its place; begins the streams anew that have to be."""
        if self._ranges != self._ring.ranges:  # who has told what is not known any more: all is void
            streams.stop()
            streams.begin(self._begin(list(self._ranges), refresh=True))
            return [Event("lost"), Event("refresh begins")]
        if batch is BROKE:
            self._incomplete.add(node)
            streams.begin([self._call(node)])
            return [Event("lost", hashes=self._ranges[node])]
        return list(self._events(node, batch))

    def _begin(self, nodes: list[int], refresh: bool) -> list[Call]:
        self._ranges = dict(self._ring.ranges)
        self._incomplete = set(nodes) if refresh else set()
        return [self._call(node) for node in nodes]

    def _call(self, node: int) -> Call:
        arguments = (*self._arguments, node in self._incomplete, CLIENT_STREAM_CREDIT)
        return Call(node, protocol.LISTEN, arguments)

    def _events(self, node: int, batch: list[Any]) -> Iterator[Event]:
        for kind, *content in batch:
            if kind == protocol.RECORDS:
                for key, value in zip(*content, strict=True):
                    yield Event("removed", key) if value is None else Event("put", key, value)
            elif kind == protocol.REFRESHED:
                self._incomplete.discard(node)
                if not self._incomplete:
                    yield Event("refreshed")
            else:
                if kind != protocol.CHANNEL_REMOVED:
                    self._incomplete.add(node)
                yield Event(_KINDS[kind], hashes=self._ranges[node])


class Copy:
    """The records of a channel, kept as a listener is told.

    During a refresh it holds what it knew before, until something newer has come.
    """

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.complete = False
        """Whether nothing is missing. Then it is what the nodes hold, but for what is on its way."""
        self._doubtful: set[bytes] = set()
        """Keys of which the refresh that is under way has told nothing yet."""

    def apply(self, event: Event) -> None:
        match event.kind:
            case "put":
                self.records[event.key] = event.value
                self._doubtful.discard(event.key)
            case "removed":
                self.records.pop(event.key, None)
                self._doubtful.discard(event.key)
            case "channel removed":
                self._drop(event.among(self.records))
            case "lost":
                self.complete = False
            case "refresh begins":
                self._doubtful.update(event.among(self.records))
            case "refreshed":
                self._drop(list(self._doubtful))
                self._doubtful = set()
                self.complete = True

    def _drop(self, keys: list[bytes]) -> None:
        for key in keys:
            del self.records[key]
        self._doubtful.difference_update(keys)
