"""What reads the store off the loop: a get range, whose pieces are the batches of a stream, and a time span.

    loop     the stream wants a batch ──► _begin ──► Signal        the next one is there ──► batch
    thread                                       draws and filters some pieces ─┘

One thread at a time works for a range, for some ms; ranges take turns for the threads, in the order in which they ask.
So a range that finds nothing costs the others no more than one that gives all.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from struct import Struct
from typing import Final

import trio

from nodes.logfiles.block_index import Damage
from nodes.logfiles.channel import LogChannel
from nodes.logfiles.filters import Filter
from nodes.logfiles.off_loop import OffLoop
from nodes.logfiles.pieces import Piece, Pieces, Range
from nodes.logfiles.places import Places
from nodes.logfiles.range_block import Cursor, RangeBlock
from swarm.core.errors import ReadFailed, SwarmError
from swarm.core.limits import CURSOR_BYTES
from swarm.core.protocol import DONE
from swarm.core.request_handler import Service, Signal, StreamConnection
from swarm.core.storage_channels import channel_removed
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN

log = logging.getLogger(__name__)

_cursor = Struct(">qQ")
assert _cursor.size == CURSOR_BYTES

WireBlock = tuple[int, int, int, int, int, int, int, bytes]
TAKE: Final = 5  # of a WireBlock: how many records it gives
Batch = tuple[bytes, list[WireBlock]]


def unpack_cursor(data: bytes) -> Cursor | None:
    """Of a request; None: at the begin."""
    return Cursor(*_cursor.unpack(data)) if data else None


class RangeReader:
    """The batches of one get range, for a stream."""

    def __init__(
        self,
        service: Service,
        off_loop: OffLoop,
        limiter: trio.CapacityLimiter,
        channel: LogChannel | None,
        asked: Range,
        make_filter: Callable[[], Filter] | None,
        tell: Callable[[Damage], None],
        places: Places,
    ) -> None:
        """limiter: of the threads. channel: None if there is none. make_filter: of the range. tell: called for what was
        passed over. Raises TooManyRequests, and BadArgument as make_filter does."""
        self._service = service
        self._off_loop = off_loop
        self._limiter = limiter
        self._tell = tell
        self._places = places
        self._channel = channel
        self._asked = asked
        self._make_filter = make_filter
        self._given_up = False
        self._ready: deque[tuple[Batch, int]] = deque()
        """With how many blocks were passed over for each."""
        self._error: SwarmError | None = None
        self._cursor = b""
        self.is_working = False
        self._closed = False
        self._damaged = 0
        self._damaged_ahead = 0
        """Since the last batch."""
        pieces = self._begin()
        places.take(self)
        self._pieces = pieces

    def __iter__(self) -> Iterator[Batch | Signal]:
        return self

    def __next__(self) -> Batch | Signal:
        if self._channel is not None and self._channel.removed:
            raise channel_removed()
        self._places.take(self)
        if self._given_up:
            self._given_up = False
            self._pieces = self._begin()
        if self._ready:
            return self._sent(*self._ready.popleft())
        if self._error:
            raise self._error
        if self._pieces is None:
            raise StopIteration
        assert not self.is_working
        assert self._service.nursery is not None
        signal = Signal(self._service, soon=True)
        self.is_working = True
        self._service.nursery.start_soon(self._work, self._pieces, signal)
        return signal

    def _begin(self) -> Pieces | None:
        if self._make_filter is not None:
            self._asked = replace(self._asked, filter=self._make_filter())
        return Pieces(self._channel, self._asked) if self._channel else None

    def _sent(self, batch: Batch, damaged: int) -> Batch:
        """What is asked for from now on is what is behind it."""
        self._damaged += damaged
        limit = self._asked.limit
        if limit:
            limit -= sum(block[TAKE] for block in batch[1])
            if limit == 0:
                self._make_filter = self._channel = None  # there is nothing behind it
        self._asked = replace(self._asked, after=unpack_cursor(batch[0]), limit=limit)
        return batch

    def final(self, ended: str) -> tuple[str, int]:
        return ended, self._damaged + self._damaged_ahead + sum(damaged for _, damaged in self._ready)

    def give_up(self) -> None:
        """What was read ahead is read again."""
        assert not self.is_working
        self._given_up = True
        if self._pieces is not None:
            self._pieces.close()
            self._pieces = None
        self._ready.clear()
        self._error = None
        self._damaged_ahead = 0
        self._cursor = b""
        self._asked = replace(self._asked, filter=None)

    def close(self) -> None:
        self._closed = True
        self._places.leave(self)
        if not self.is_working and self._pieces is not None:
            self._pieces.close()

    async def _work(self, pieces: Pieces, signal: Signal) -> None:
        try:
            found = await self._off_loop(pieces.some, self._limiter)
        except SwarmError as error:
            self._error = error
        except OSError as error:
            self._error = _read_failed(error)
        else:
            self._pieces = pieces if found else None
            for piece in found:
                self._take(piece)
        finally:
            self.is_working = False
            if self._closed:
                pieces.close()
            signal.set()

    def _take(self, piece: Piece) -> None:
        self._damaged_ahead += piece.damaged
        for damage in piece.damages:
            self._tell(damage)
        cursor = _cursor.pack(*piece.cursor)
        if piece.blocks or cursor != self._cursor:  # or else there is nothing to tell yet
            self._ready.append(((cursor, [_to_wire(block) for block in piece.blocks]), self._damaged_ahead))
            self._damaged_ahead = 0
        self._cursor = cursor


class TimeSpanReader:
    """A time span, read off the loop: a request that is answered later, and cannot be stopped."""

    def __init__(
        self,
        service: Service,
        off_loop: OffLoop,
        limiter: trio.CapacityLimiter,
        channel: LogChannel,
        connection: StreamConnection,
        request_id: int,
    ) -> None:
        self._off_loop = off_loop
        self._limiter = limiter
        self._channel = channel
        self._connection = connection
        self._request_id = request_id
        self._abandoned = False
        assert service.nursery is not None
        service.nursery.start_soon(self._run)

    def grant(self, batches: int) -> None:
        pass

    def stop(self) -> None:
        pass

    def abandon(self) -> None:
        self._abandoned = True

    async def _run(self) -> None:
        try:
            span = await self._off_loop(partial(_time_span, self._channel), self._limiter)
        except OSError as error:
            self._answer_error(_read_failed(error))
        except SwarmError as error:
            self._answer_error(error)
        else:
            self._answer(DONE, span)

    def _answer_error(self, error: SwarmError) -> None:
        assert error.code is not None
        self._answer(error.code, (error.text, error.details))

    def _answer(self, status: int, result: object) -> None:
        if not self._abandoned:
            self._connection.send_reply(self._request_id, status, result)
            self._connection.stream_ended(self._request_id)


def _time_span(channel: LogChannel) -> tuple[int, int] | None:
    """In a thread. Raises ChannelRemoved, OSError."""
    first, last = _edge(channel, newest=False), _edge(channel, newest=True)
    return None if first is None or last is None else (first, last)


def _edge(channel: LogChannel, *, newest: bool) -> int | None:
    for step in channel.range(TIMESTAMP_MIN, TIMESTAMP_MAX + 1, newest_first=newest):
        for block in step.blocks:
            return block.last if newest else block.first
    return None


def _read_failed(error: OSError) -> ReadFailed:
    log.error("reading has failed: %s", error)
    return ReadFailed(f"the node cannot read its files: {error.strerror or error}")


def _to_wire(block: RangeBlock) -> WireBlock:
    """As swarm.logfiles.block.Block has it."""
    return (
        block.codec,
        block.records,
        block.first,
        block.last,
        block.skip,
        block.take,
        block.raw_bytes,
        block.payload,
    )
