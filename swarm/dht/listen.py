"""Listening to a channel, and keeping a copy of it, under trio and asyncio."""

from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import anyio
import anyio.abc

from swarm.core.async_client import AsyncClient
from swarm.core.async_streams import AsyncStreams
from swarm.core.errors import ClientClosed, SwarmError
from swarm.dht.events import Copy, Event, Listening


class Events:
    """What changes in a channel, from DhtClient.listen. Leaving the loop stops it.

    `batches` gives the same in lists, as they have come: whoever acts once on many changes needs no more than that.
    """

    def __init__(self, client: AsyncClient, listening: Listening) -> None:
        self._client = client
        self._listening = listening
        self._streams: AsyncStreams | None = None
        self._events: Iterator[Event] = iter(())
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while True:
            for event in self._events:
                return event
            self._events = iter(await self._next_batch())

    async def batches(self) -> AsyncIterator[list[Event]]:
        """Lists of events, none of them empty."""
        while True:
            batch = [*self._events] or await self._next_batch()
            if batch:
                yield batch

    def close(self) -> None:
        """Stops listening."""
        self._closed = True
        if self._streams is not None:
            self._streams.close()
            self._streams = None

    def __del__(self) -> None:
        self.close()

    async def _open(self) -> AsyncStreams:
        if self._closed:
            raise ClientClosed("this listener was closed")
        if self._streams is None:
            calls = await self._client._run(self._listening.begin())
            self._streams = AsyncStreams(self._client)
            try:
                await self._streams.open(calls)
            except BaseException:
                self._streams.close()
                self._streams = None
                raise
        return self._streams

    async def _next_batch(self) -> list[Event]:
        streams = await self._open()
        return self._listening.took(streams, *await streams.next())


class Mirror:
    """A copy of a channel that is kept up to date, from DhtClient.mirror. Use it with `async with`.

    While it is not complete it holds what it knew before where it has heard nothing newer.
    """

    def __init__(self, client: AsyncClient, listening: Listening) -> None:
        self._events = Events(client, listening)
        self._copy = Copy()
        self.records: Mapping[bytes, bytes] = MappingProxyType(self._copy.records)
        """The records, by key. It changes whenever this task waits for anything, but never while it does not."""
        self._error: SwarmError | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._news = anyio.Event()
        self._version = 0
        self._told = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing: false before the first refresh, and from a loss to the end of the next."""
        return self._copy.complete

    async def ready(self) -> None:
        """Waits until it is complete."""
        while not self.complete:
            await self._wait()
        self._told = self._version

    async def changed(self) -> None:
        """Waits until something has changed since this or ready() last returned. For one task."""
        while self._told == self._version:
            await self._wait()
        self._told = self._version

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        await self._news.wait()

    async def __aenter__(self) -> Self:
        await self._events.__aenter__()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._follow)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._events.close()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)  # the program's own error goes on as it is, in no group

    async def _follow(self) -> None:
        try:
            async for batch in self._events.batches():
                for event in batch:
                    self._copy.apply(event)
                self._tell(1)
        except SwarmError as error:
            self._error = error
            self._tell(0)

    def _tell(self, changes: int) -> None:
        self._version += changes
        self._news.set()
        self._news = anyio.Event()
