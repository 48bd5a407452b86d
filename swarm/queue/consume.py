"""Consuming a channel under trio and under asyncio."""

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import anyio

import swarm.queue.protocol as protocol
from swarm.core.async_client import AsyncClient
from swarm.core.async_streams import AsyncStreams
from swarm.core.client_session import BROKE
from swarm.core.errors import ClientClosed, SwarmError
from swarm.queue.deliveries import Consuming, Delivery, Record, acknowledgements

CLOSE_S = 1.0  # so long leaving the block waits at most for the nodes to have what was done


class Consumer:
    """The records of a channel, from QueueClient.consume. Leaving the block gives back what was not done.

    `batches` gives the same in lists, as they have come.
    """

    def __init__(self, client: AsyncClient, consuming: Consuming, manual: bool) -> None:
        self._client = client
        self._consuming = consuming
        self._manual = manual
        self._streams: AsyncStreams | None = None
        self._closed = False
        self._delivery: Delivery | None = None
        self._left: Iterator[Record] = iter(())
        self._held = 0
        """How many of the records that were given last the program is at."""
        self._told = True
        """Whether nothing has to be done for what is done to be acknowledged."""

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        streams = self._streams
        self.close()
        if streams is not None and self._client._loop is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await streams.settled()

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        if not self._told:
            self._acknowledge_soon()
        for record in self._left:
            return record
        while True:
            await self._next_delivery()
            self._held = 1
            self._told = self._manual
            for record in self._left:
                return record

    def batches(self) -> AsyncIterator[list[Record]]:
        """Lists of records, none of them empty. Each is acknowledged when the next one is asked for."""
        return _InBatches(self)

    async def _next_batch(self) -> list[Record]:
        records = list(self._left)
        while not records:
            records = list((await self._next_delivery()).left)
        self._held = len(records)
        return records

    async def acknowledge(self, *records: Record) -> int:
        """These records are done, and will not be given again; returns when the nodes have it. How many were
        acknowledged with it: those that were before, and those whose connection broke since, which come again, are
        not."""
        streams = await self._open()
        done = 0
        for stream, ranges in list(acknowledgements(records)):
            answer = await streams.ask(stream, protocol.ACKNOWLEDGE, (stream.request_id, ranges))
            done += answer or 0
        return done

    def close(self) -> None:
        """Acknowledges what is done, and stops; never waits."""
        self._closed = True
        if self._streams is not None:
            self._acknowledge()
            self._streams.close()
            self._streams = None

    def __del__(self) -> None:
        self.close()

    async def _open(self) -> AsyncStreams:
        if self._closed:
            raise ClientClosed("this consumer was closed")
        if self._streams is None:
            self._streams = AsyncStreams(self._client)
            try:
                await self._streams.start(self._consuming.calls())
            except BaseException:
                self._streams.close()
                self._streams = None
                raise
        return self._streams

    async def _next_delivery(self) -> Delivery:
        self._held = 0
        self._acknowledge()
        self._delivery = None
        streams = await self._open()
        while True:
            try:
                node, batch = await streams.next()
            except SwarmError:
                self.close()
                raise
            if batch is BROKE:
                streams.begin([self._consuming.call(node)])
            elif streams.lives(node):  # what a stream has given that broke comes again
                self._delivery = Delivery(streams.at(node), batch)
                self._left = self._delivery.left
                return self._delivery

    def _acknowledge_soon(self) -> None:
        """When the event loop runs next: however many records the program has gone through by then."""
        if self._streams is not None and self._delivery is not None:
            self._told = True
            self._streams.before_sending(self._delivery.stream, self._acknowledge_now)

    def _acknowledge_now(self) -> None:
        self._told = self._manual
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Without waiting for it."""
        if self._streams is not None and self._delivery is not None and not self._manual:
            ranges = self._delivery.newly_done(self._held)
            if ranges:
                stream = self._delivery.stream
                self._streams.tell(stream, protocol.ACKNOWLEDGE, (stream.request_id, ranges))


class _InBatches:
    """Iterates over a consumer's records in lists; unlike a generator, it can be left at any place."""

    def __init__(self, consumer: Consumer) -> None:
        self._next = consumer._next_batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Record]:
        return await self._next()
