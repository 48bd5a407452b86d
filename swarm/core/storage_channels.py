"""The channels of a node: a name, and the storage engine that holds what is in it.

A channel comes into being with the first write to it. Looking for one that does not exist finds None and creates
nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from swarm.core import protocol
from swarm.core.errors import ChannelRemoved, OutOfMemory, TooManyChannels
from swarm.core.protocol import check_channel
from swarm.core.request_handler import Service


class StorageEngine(Protocol):
    """What holds the records of one channel."""

    @property
    def records(self) -> int:
        """How many records there are."""

    @property
    def record_bytes(self) -> int:
        """Bytes of keys and values, without what it takes to hold them."""

    def figures(self) -> dict[str, Any]:
        """What statistics tell of it: numbers, or maps of such. Names are without spaces and colons."""

    def remove(self) -> Iterator[None]:
        """The channel is removed: gives up everything, in short steps; whoever still reads it is told."""


class MemoryBudget:
    """The memory that the records of a node may take, in bytes."""

    __slots__ = ("free", "limit", "reserved")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit
        self.reserved = 0
        """Of what is not free: kept aside for records that have not come yet."""

    @property
    def used(self) -> int:
        return self.limit - self.free

    def refuse(self, wanted: int) -> OutOfMemory:
        return OutOfMemory(
            f"out of memory: {wanted} bytes wanted, {max(self.free, 0)} of {self.limit} are free "
            "(memory_limit in the node's configuration); remove records, or spread them over more nodes",
            {"limit": self.limit},
        )


Engine = TypeVar("Engine", bound=StorageEngine)


class StorageChannels(Generic[Engine]):
    def __init__(
        self, create: Callable[[str], Engine], channels_max: int, before_removal: Callable[[str], None] = lambda _: None
    ) -> None:
        """create: makes the engine of a new channel, whose name it is given. channels_max: most channels there may be.
        before_removal: called with the name of a channel that is going to be removed; an error that it raises is the
        answer, and the channel stays."""
        self._create = create
        self._before_removal = before_removal
        self._channels_max = channels_max
        self._channels: dict[str, Engine] = {}
        self.get = self._channels.get
        """The engine of a channel; None if there is none."""
        self.on_remove: Callable[[str], None] = lambda name: None
        """Called with the name of a channel that was removed."""

    def __len__(self) -> int:
        return len(self._channels)

    def items(self) -> Iterator[tuple[str, Engine]]:
        return iter(sorted(self._channels.items()))

    @contextmanager
    def create(self, name: str) -> Iterator[Engine]:
        """An engine for the first write to a channel, which comes into being only if the write succeeds.

        Raises TooManyChannels. The name has been checked.
        """
        if len(self._channels) >= self._channels_max:
            raise TooManyChannels(
                f"the node has {self._channels_max} channels, the most it is configured for (channels_max)",
                {"limit": self._channels_max},
            )
        assert name not in self._channels
        engine = self._create(name)
        yield engine
        self._channels[name] = engine

    def load(self, name: str) -> Engine:
        """The engine of a channel while a node starts: made where there is none, however many there are."""
        engine = self._channels.get(name)
        if engine is None:
            engine = self._channels[name] = self._create(name)
        return engine

    def pop(self, name: str) -> Iterator[None]:
        """Removes a channel that exists; the steps in which its engine gives up what it holds, to be drawn."""
        return self._channels.pop(name).remove()

    def __contains__(self, name: object) -> bool:
        return name in self._channels

    def remove(self, name: str, in_steps: Callable[[Iterator[None]], None]) -> None:
        """Removes a channel that exists. in_steps: draws the steps."""
        self._before_removal(name)
        in_steps(self.pop(name))
        self.on_remove(name)

    def add_handlers(self, service: Service) -> None:
        """Handles the requests about channels that every kind of node answers."""
        service.handle(protocol.CHANNELS, lambda _: sorted(self._channels), "batch")
        service.handle(protocol.CHANNEL_SIZE, self._channel_size, "batch")
        service.handle(protocol.SIZE, lambda _: self.size(), "batch")
        service.handle(protocol.REMOVE_CHANNEL, lambda _, name: self._remove_channel(service, name), "batch")

    def size(self) -> tuple[int, int, int]:
        """Channels, records and bytes of the node."""
        engines = self._channels.values()
        return len(engines), sum(engine.records for engine in engines), sum(engine.record_bytes for engine in engines)

    def _channel_size(self, _: object, name: object) -> tuple[int, int]:
        check_channel(name)
        engine = self._channels.get(str(name))
        return (engine.records, engine.record_bytes) if engine else (0, 0)

    def _remove_channel(self, service: Service, name: object) -> bool:
        check_channel(name)
        if name not in self._channels:
            return False
        self.remove(str(name), service.in_steps)
        return True


def channel_removed() -> ChannelRemoved:
    return ChannelRemoved("the channel was removed while it was read")
