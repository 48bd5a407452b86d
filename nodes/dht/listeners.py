"""Who listens to which channel, and what each has still to be told. docs/protocol.md §5, listen.

    put, remove, … ──► Listeners ──► Listener: [key, value] [key, None] [b"", None] …      waits to be told
                                               of one listen request            │
                                     channel ── walk, while it is refreshed ────┴──► batch of events

A change is put down for each listener of its channel when it is made: two references, nothing is copied. The task of
the stream turns into a batch whatever waits by then. It draws a step of the walk only after all that waits, so the two
come in the order in which they took effect: a record that the walk gives is at least as new as what was told of it
before, and whatever changes behind the walk's back is told as a change.

What waits is bounded. A listener that is too slow loses all of it and all that changes until it asks for more; then it
is told so, and refreshed. All that is kept of what was lost is whether the channel was removed.

Invariant: in _keys and _values, which are as long as each other, b"" stands for the removal of the channel.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from swarm.core.errors import ChannelRemoved, TooManyRequests
from swarm.core.limits import LISTENER_BYTES_MAX, LISTENER_CHANGES_MAX, LISTENERS_MAX
from swarm.core.request_handler import Service, Signal
from swarm.dht.protocol import CHANNEL_REMOVED, LOST, RECORDS, REFRESH_BEGINS, REFRESHED

Event = tuple[Any, ...]
Walk = Iterator[tuple[bytes, list[bytes], list[bytes]]]


class Listeners:
    """The listeners of a node. Whoever has changed a channel that is in by_channel tells it here."""

    def __init__(self, service: Service) -> None:
        self.by_channel: dict[str, list[Listener]] = {}
        """Empty while nobody listens to anything: that is all a write looks at then."""
        self.count = 0
        self.lost = 0
        """How often a listener was too slow."""
        self._service = service

    def add(self, channel: str, key_prefix: bytes, refresh: bool, walk: Callable[[], Walk]) -> "Listener":
        """A listener that is told what changes from now on, until it is closed. walk: begins to read the channel."""
        if self.count >= LISTENERS_MAX:
            raise TooManyRequests(
                f"the node has {LISTENERS_MAX} listen requests running, the most there may be", {"limit": LISTENERS_MAX}
            )
        listener = Listener(self, self._service, channel, key_prefix, refresh, walk)
        self.by_channel.setdefault(channel, []).append(listener)
        self.count += 1
        return listener

    def changed(self, channel: str, key: bytes, value: bytes | None) -> None:
        """A record was stored, or with None removed."""
        for listener in self.by_channel.get(channel, ()):
            listener.changed(key, value)

    def put_many(self, channel: str, keys: list[bytes], values: list[bytes]) -> None:
        for listener in self.by_channel.get(channel, ()):
            listener.put_many(keys, values)

    def channel_removed(self, channel: str) -> None:
        for listener in self.by_channel.get(channel, ()):
            listener.channel_removed()

    def statistics(self) -> dict[str, int]:
        return {"listeners": self.count, "listeners_lost": self.lost}

    def _discard(self, listener: "Listener") -> None:
        others = self.by_channel[listener.channel]
        others.remove(listener)
        if not others:
            del self.by_channel[listener.channel]
        self.count -= 1


class Listener:
    """One listen request: an iterator of batches, and of Signals where there is nothing to tell."""

    def __init__(
        self,
        listeners: Listeners,
        service: Service,
        channel: str,
        key_prefix: bytes,
        refresh: bool,
        walk: Callable[[], Walk],
    ) -> None:
        self.channel = channel
        self._listeners = listeners
        self._service = service
        self._prefix = key_prefix
        self._begin_walk = walk
        self._walk: Walk | None = None
        """The refresh that is under way."""
        self._refresh_due = refresh
        self._keys: list[bytes] = []
        self._values: list[bytes | None] = []
        self._bytes = 0
        self._lost = False
        self._removed = False
        """Whether the channel's removal was among what was lost."""
        self._signal = Signal(service)
        self._signal.set()  # the first batch comes at once
        self._begun = False
        self._closed = False

    # What the handlers call.

    def changed(self, key: bytes, value: bytes | None) -> None:
        if key.startswith(self._prefix) and self._has_room(1, len(key) + (len(value) if value else 0)):
            self._keys.append(key)
            self._values.append(value)

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        if self._prefix:
            chosen = [(key, value) for key, value in zip(keys, values, strict=True) if key.startswith(self._prefix)]
            keys, values = [key for key, _ in chosen], [value for _, value in chosen]
        if keys and self._has_room(len(keys), sum(map(len, keys)) + sum(map(len, values))):
            self._keys += keys
            self._values += values

    def channel_removed(self) -> None:
        if self._has_room(1, 0):
            self._keys.append(b"")
            self._values.append(None)
        else:
            self._removed = True

    def close(self) -> None:
        """The stream has ended: nothing more is put down."""
        if not self._closed:
            self._closed = True
            self._listeners._discard(self)

    def _has_room(self, changes: int, size: int) -> bool:
        """Whether a change is to be put down; counts it, or everything that waits as lost."""
        if self._lost:
            return False
        self._signal.set()
        if self._keys and (self._bytes + size > LISTENER_BYTES_MAX or len(self._keys) + changes > LISTENER_CHANGES_MAX):
            self._lost = True
            self._removed = b"" in self._keys
            self._keys, self._values, self._bytes = [], [], 0
            self._listeners.lost += 1
            return False
        self._bytes += size
        return True

    # What the stream calls.

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> list[Event] | Signal:
        events = self._told_of_loss() if self._lost else _events(*self._take())
        if not self._keys:
            if self._refresh_due:
                self._refresh_due = False
                self._walk = self._begin_walk()
                events.append((REFRESH_BEGINS,))
            if self._walk is not None:
                return events + self._walk_on(self._walk)  # empty where the filter has left nothing: others' turn
        if events or not self._begun:
            self._begun = True
            return events
        self._signal = Signal(self._service)
        return self._signal

    def _told_of_loss(self) -> list[Event]:
        events: list[Event] = [(LOST,), (CHANNEL_REMOVED,)] if self._removed else [(LOST,)]
        self._lost = self._removed = False
        self._refresh_due = True
        return events

    def _take(self) -> tuple[list[bytes], list[bytes | None]]:
        """Everything that waits; of one change that is larger than the bound, as much as fits."""
        keys, values = self._keys, self._values
        if self._bytes <= LISTENER_BYTES_MAX:
            self._keys, self._values, self._bytes = [], [], 0
            return keys, values
        sizes = list(accumulate(len(key) + len(value or b"") for key, value in zip(keys, values, strict=True)))
        count = max(1, bisect_right(sizes, LISTENER_BYTES_MAX))
        self._keys, self._values, self._bytes = keys[count:], values[count:], sizes[-1] - sizes[count - 1]
        return keys[:count], values[:count]

    def _walk_on(self, walk: Walk) -> list[Event]:
        self._begun = True
        try:
            _, keys, values = next(walk)
        except (StopIteration, ChannelRemoved):  # the removal was told, or waits; what came later is told as changes
            self._walk = None
            return [(REFRESHED,)]
        return [(RECORDS, keys, values)] if keys else []


def _events(keys: list[bytes], values: list[bytes | None]) -> list[Event]:
    """Changes in the order in which they were made."""
    events: list[Event] = []
    start = 0
    for _ in range(keys.count(b"")):
        stop = keys.index(b"", start)
        if stop > start:
            events.append((RECORDS, keys[start:stop], values[start:stop]))
        events.append((CHANNEL_REMOVED,))
        start = stop + 1
    if start < len(keys):
        events.append((RECORDS, keys[start:], values[start:]) if start else (RECORDS, keys, values))
    return events
