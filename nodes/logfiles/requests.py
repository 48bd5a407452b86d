"""What the logfiles node answers to each of its requests. docs/protocol.md §5.

A put many is a payload, and is stored as it came: it is checked in passes over its columns in C. The definitions in
swarm.logfiles.protocol then say what is wrong with one that is refused.
"""

import os
import struct
import time
from functools import partial
from typing import Any

import trio

from nodes.logfiles.config import StoreSection
from nodes.logfiles.file_names import SECOND_NS
from nodes.logfiles.filters import Filter
from nodes.logfiles.off_loop import OffLoop
from nodes.logfiles.pieces import Range
from nodes.logfiles.places import Places
from nodes.logfiles.range_reader import RangeReader, TimeSpanReader, unpack_cursor
from nodes.logfiles.served_channel import ServedChannel
from nodes.logfiles.store import LogStore
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.errors import BadArgument
from swarm.core.limits import RANGES_MAX
from swarm.core.protocol import DONE, check_channel
from swarm.core.request_handler import Service
from swarm.core.storage_channels import StorageChannels
from swarm.logfiles import protocol
from swarm.logfiles.payload import BadPayload, encode, layout
from swarm.logfiles.protocol import NEWEST_FIRST, check_range

READING_THREADS = 4  # reads from a disk wait side by side; what is in memory is read by one as fast as by four


class LogfilesRequests:
    def __init__(
        self,
        service: Service,
        channels: StorageChannels[ServedChannel],
        store: LogStore,
        section: StoreSection,
        off_loop: OffLoop,
    ) -> None:
        self._service = service
        self._off_loop = off_loop
        self._limits = service.limits
        self._batch_records = service.limits.batch_records
        self._channels = channels
        self._store = store
        self._past_max_ns = section.past_max * SECOND_NS
        self._future_max_ns = section.future_max * SECOND_NS
        self._reading = trio.CapacityLimiter(READING_THREADS)
        # A filter keeps a core busy. One core is left to the loop, which answers all others.
        self._filtering = trio.CapacityLimiter(max(1, (os.cpu_count() or 1) - 1))
        self._places = Places(RANGES_MAX)
        service.more_statistics.append(self._statistics)
        service.handle(protocol.PUT, self._put)
        service.handle(protocol.PUT_MANY, self._put_many, "batch")
        service.handle(protocol.GET_RANGE, self._get_range)
        service.handle(protocol.TIME_SPAN, self._time_span, "direct")

    # Puts.

    def _put(self, channel: Any, timestamp: Any, value: Any) -> None:
        try:
            if type(channel) is not str or type(timestamp) is not int or type(value) is not bytes:
                raise TypeError
            self._store_records(channel, encode((timestamp,), (value,)))
        except (BadArgument, BadPayload, TypeError, struct.error):
            protocol.PUT.check((channel, timestamp, value), self._limits)
            raise

    def _put_many(self, _: ConnectionHandler, channel: Any, records: Any) -> None:
        try:
            if type(channel) is not str or type(records) is not bytes:
                raise TypeError
            self._store_records(channel, records)
        except (BadArgument, BadPayload, TypeError):
            protocol.PUT_MANY.check((channel, records), self._limits)
            raise

    def _store_records(self, channel: str, encoded: bytes) -> None:
        found = layout(encoded)
        if len(found.sizes) > self._batch_records:
            raise BadPayload("more records than are accepted in one request")
        self._check_clock(found.first, found.last)
        if channel in self._channels:
            self._store.put(channel, encoded, found)
        else:
            check_channel(channel)
            with self._channels.create(channel):
                self._store.put(channel, encoded, found)

    def _check_clock(self, oldest: int, newest: int) -> None:
        now = time.time_ns()
        if newest - now > self._future_max_ns:
            raise BadArgument(
                f"the timestamp {newest} is {_days(newest - now)} ahead of the node's clock, the node accepts "
                f"{_days(self._future_max_ns)} (future_max)"
            )
        if now - oldest > self._past_max_ns:
            raise BadArgument(
                f"the timestamp {oldest} is {_days(now - oldest)} behind the node's clock, the node accepts "
                f"{_days(self._past_max_ns)} (past_max)"
            )

    # Reading.

    def _get_range(
        self, channel: str, first: int, end: int, after: bytes, order: int, limit: int, filter_: list[Any] | None
    ) -> RangeReader:
        check_range(first, end)
        make_filter = None
        if filter_ is not None:
            kind, pattern, ignore_case = filter_
            make_filter = partial(Filter, kind, pattern, ignore_case=ignore_case)
        served = self._channels.get(channel)
        return RangeReader(
            self._service,
            self._off_loop,
            self._filtering if make_filter else self._reading,
            served.stored if served else None,
            Range(first, end, unpack_cursor(after), order == NEWEST_FIRST, limit),
            make_filter,
            served.note_damage if served else self._store.tell,
            self._places,
        )

    def _time_span(self, connection: ConnectionHandler, request_id: int, channel: str) -> TimeSpanReader | None:
        served = self._channels.get(channel)
        if served is None:
            connection.send_reply(request_id, DONE, None)
            return None
        return TimeSpanReader(self._service, self._off_loop, self._reading, served.stored, connection, request_id)

    def _statistics(self) -> dict[str, Any]:
        return {"ranges": len(self._places)}


def _days(nanoseconds: float) -> str:
    seconds = nanoseconds / SECOND_NS
    return f"{seconds / 86400:.1f} days" if seconds >= 86400 else f"{seconds:.1f} s"
