"""What the dht node answers to each of its requests. docs/protocol.md §5.

The usual case is tested in line; the definitions in swarm.dht.protocol then say what is wrong with the others.

What changes something asks the journal for room before, and notes the change when it was made. A single small record
needs no asking: a comparison with unchecked_bytes tells.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from nodes.dht.journal import Journal, NoJournal
from nodes.dht.journal_format import PUT, PUT_MANY, REMOVE
from nodes.dht.listeners import Listener, Listeners
from nodes.dht.reserves import Reserves
from nodes.dht.storage import DhtChannel, conflict, wrong_node
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.errors import SwarmError, WrongNode
from swarm.core.limits import KEY_BYTES_MAX, LARGE_RESULT_BYTES, RECORD_OVERHEAD_BYTES
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.dht import protocol
from swarm.dht.hash_range import HashRange, hash_key


class DhtRequests:
    def __init__(
        self,
        service: Service,
        channels: StorageChannels[DhtChannel],
        hash_range: HashRange,
        budget: MemoryBudget,
        journal: Journal | NoJournal,
    ) -> None:
        self._limits = service.limits
        self._value_bytes = service.limits.value_bytes
        self._channels = channels
        self._engine = channels.get
        self._range = hash_range
        self._listeners = listeners = Listeners(service)
        self._listened = listeners.by_channel
        channels.on_remove = listeners.channel_removed
        service.more_statistics.append(listeners.statistics)
        self._reserves = Reserves(budget)
        service.background.append(self._reserves.expire)
        self._journal = journal
        self._note = journal.note
        service.handle(protocol.PUT, self._put, together=self._put_together)
        service.handle(protocol.PUT_MANY, self._put_many, "batch")
        service.handle(protocol.GET, self._get, together=self._get_together)
        service.handle(protocol.GET_MANY, self._get_many, "batch")
        service.handle(protocol.EXISTS, self._exists)
        service.handle(protocol.REMOVE, self._remove)
        service.handle(protocol.UPDATE, self._update)
        service.handle(protocol.GET_ALL, self._get_all)
        service.handle(protocol.GET_ALL_KEYS, self._get_all_keys)
        service.handle(protocol.LISTEN, self._listen)
        service.handle(protocol.HASH_RANGE, lambda: (hash_range.lowest, hash_range.highest))

    def _put(self, channel: Any, key: Any, value: Any) -> None:
        try:
            if type(value) is not bytes or not (0 < len(key) <= KEY_BYTES_MAX and 0 < len(value) <= self._value_bytes):
                raise TypeError
            engine = self._engine(channel)
            if engine is None:
                raise TypeError
            if len(value) > self._journal.unchecked_bytes:
                self._journal.make_room(channel, len(key) + len(value))
            engine.put(key, value)
        except TypeError:
            protocol.PUT.check((channel, key, value), self._limits)
            with self._channels.create(channel) as engine:
                self._journal.make_room(channel, len(key) + len(value))
                engine.put(key, value)
        self._note((PUT, channel, key, value))
        if self._listened:
            self._listeners.changed(channel, key, value)

    def _get(self, channel: Any, key: Any) -> bytes | None:
        try:
            engine = self._engine(channel)
            value = None if engine is None else engine.get(key)
            if value is None and (engine is None or not 0 < len(key) <= KEY_BYTES_MAX):
                raise TypeError
        except (TypeError, WrongNode):  # only what was not found may have been wrong to ask for
            protocol.GET.check((channel, key), self._limits)
            self._check_range(key)
            return None
        return value

    def _put_together(self, channels: tuple[Any, ...], keys: tuple[Any, ...], values: tuple[Any, ...]) -> Any:
        """Puts into one channel, as a put many: together, or if something is wrong with one, none."""
        channel = channels[0]
        engine = self._engine(channel) if type(channel) is str else None
        size = protocol.records_size(keys, values, self._value_bytes)
        if engine is None or not size or channels.count(channel) < len(channels):
            return None
        try:
            self._journal.make_room(channel, size, len(keys))
            engine.put_many(keys, values, size)
        except SwarmError:
            return None
        self._note((PUT_MANY, channel, keys, values))
        if self._listened:
            self._listeners.put_many(channel, list(keys), list(values))
        return repeat(None)

    def _get_together(self, channels: tuple[Any, ...], keys: tuple[Any, ...]) -> Any:
        """Gets from one channel, if they are not much together."""
        channel = channels[0]
        engine = self._engine(channel) if type(channel) is str else None
        if engine is None or channels.count(channel) < len(channels):
            return None
        try:
            values = engine.get_each(keys)
            if None in values:  # only what was not found may have been wrong to ask for
                protocol.check_keys(list(keys), self._limits)
                for key in keys:
                    self._check_range(key)
        except (SwarmError, IndexError, TypeError):
            return None
        return values if sum(map(len, filter(None, values))) <= LARGE_RESULT_BYTES else None

    def _exists(self, channel: Any, key: Any) -> bool:
        return self._get(channel, key) is not None

    def _remove(self, channel: Any, key: Any) -> bool:
        protocol.REMOVE.check((channel, key), self._limits)
        self._check_range(key)
        engine = self._channels.get(channel)
        if engine is None:
            return False
        if self._journal.unchecked_bytes < 0:
            self._journal.make_room(channel, len(key))
        existed = engine.remove_record(key)
        if existed:
            self._note((REMOVE, channel, key))
            if self._listened:
                self._listeners.changed(channel, key, None)
        return existed

    def _update(self, channel: Any, key: Any, expected: Any, new: Any) -> None:
        protocol.UPDATE.check((channel, key, expected, new), self._limits)
        self._check_range(key)
        engine = self._channels.get(channel)
        if engine is None and expected is not None:
            raise conflict(None, expected)
        if new is not None or expected is not None:
            self._journal.make_room(channel, len(key) + len(new or b""))
        if engine is not None:
            engine.update(key, expected, new)
        elif new is not None:
            with self._channels.create(channel) as engine:
                engine.update(key, expected, new)
        if new is not None:
            self._note((PUT, channel, key, new))
        elif expected is not None:
            self._note((REMOVE, channel, key))
        if self._listened and (expected is not None or new is not None):
            self._listeners.changed(channel, key, new)

    def _put_many(self, connection: ConnectionHandler, channel: Any, keys: Any, values: Any, reserve: Any) -> None:
        is_batch = type(keys) is list and type(values) is list
        size = protocol.records_size(keys, values, self._value_bytes) if is_batch else 0
        usual = size and type(channel) is str and len(keys) <= self._limits.batch_records
        if not usual or not (reserve is None or (type(reserve) is int and reserve >= 0)):
            protocol.PUT_MANY.check((channel, keys, values, reserve), self._limits)
            protocol.check_records(keys, values, self._limits)
        if not keys:
            self._reserves.release(connection, reserve or 0)
            return
        kept_aside = False
        if reserve is None:
            kept_aside = self._reserves.release(connection, size + RECORD_OVERHEAD_BYTES * len(keys))
        elif reserve:
            self._reserves.add(connection, reserve)
        try:
            engine = self._channels.get(channel)
            if engine is not None:
                self._journal.make_room(channel, size, len(keys), kept_aside=kept_aside)
                engine.put_many(keys, values, size)
            else:
                protocol.PUT_MANY.check((channel, keys, values, reserve), self._limits)
                with self._channels.create(channel) as engine:
                    self._journal.make_room(channel, size, len(keys), kept_aside=kept_aside)
                    engine.put_many(keys, values, size)
            self._note((PUT_MANY, channel, keys, values))
        except SwarmError:
            if reserve:
                self._reserves.release(connection, reserve)
            raise
        if self._listened:
            self._listeners.put_many(channel, keys, values)

    def _get_many(self, _: ConnectionHandler, channel: Any, keys: Any) -> Sequence[bytes | None]:
        engine = self._channels.get(channel) if type(channel) is str else None
        if engine is not None and type(keys) is list and len(keys) <= self._limits.batch_records:
            try:
                return engine.get_many(keys)
            except (KeyError, IndexError, TypeError):
                pass  # something is missing or wrong
        protocol.GET_MANY.check((channel, keys), self._limits)
        for key in keys:
            self._check_range(key)
        return [None] * len(keys) if engine is None else engine.get_some(keys)

    def _get_all(self, channel: str, after: bytes, key_prefix: bytes, substring: bytes) -> Iterator[Any]:
        engine = self._channels.get(channel)
        return iter(()) if engine is None else engine.walk(after, key_prefix, substring)

    def _get_all_keys(self, channel: str, after: bytes, key_prefix: bytes, substring: bytes) -> Iterator[Any]:
        batches = self._get_all(channel, after, key_prefix, substring)
        return ((cursor, keys) for cursor, keys, _ in batches)

    def _listen(self, channel: str, key_prefix: bytes, refresh: bool) -> Listener:
        return self._listeners.add(channel, key_prefix, refresh, lambda: self._get_all(channel, b"", key_prefix, b""))

    def _check_range(self, key: bytes) -> None:
        if hash_key(key) not in self._range:
            raise wrong_node(key, self._range)
