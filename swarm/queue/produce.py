"""Producing under trio and under asyncio: a stream of pushes with flow control.

One batch is on its way at a time, and the next is collected meanwhile. With more of them one that is refused could be
stored behind those that were sent after it; and the gain would be small, since a batch grows while it waits.
"""

import logging
from types import TracebackType
from typing import Self

import anyio
import anyio.abc

import swarm.queue.operations as operations
from swarm.core.async_client import AsyncClient
from swarm.core.errors import ClientClosed, SwarmError
from swarm.queue.batches import Batches, Sending
from swarm.queue.operations import Channels, QueueNodes

log = logging.getLogger(__name__)


class Producer:
    """Pushes records in batches, from QueueClient.produce. Use it with `async with`; many tasks may."""

    def __init__(self, client: AsyncClient, known: QueueNodes, channel: Channels) -> None:
        self._client = client
        self._known = known
        self._batches = Batches(known, channel)
        self._error: SwarmError | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._collected = anyio.Event()
        self._changed = anyio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._send)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        try:
            if error is None:
                await self.flush()
            elif isinstance(error, Exception) and self._error is None:
                await self._flush_after()
        finally:
            tasks, self._tasks = self._tasks, None
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)  # the program's own error goes on as it is, in no group

    async def push(self, record: bytes) -> None:
        """Adds a record; waits while too many are not stored. Raises what has become of those before it."""
        self._check()
        while self._batches.full:
            await self._changed.wait()
            self._check()
        if not self._batches.some:
            self._collected.set()
        self._batches.add(record)

    async def flush(self) -> None:
        """Returns when all records are stored."""
        self._check()
        while not self._batches.all_stored:
            await self._changed.wait()
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._batches.failed(self._error) from self._error
        if self._tasks is None:
            raise ClientClosed("the producer is not open: use it inside `async with`")

    async def _flush_after(self) -> None:
        """The program's own error is the one to be raised."""
        try:
            await self.flush()
        except SwarmError as failed:
            log.error("%s", failed)

    async def _send(self) -> None:
        try:
            while True:
                await self._collected.wait()
                self._collected = anyio.Event()
                while self._batches.some:
                    records = self._batches.take()
                    self._tell()
                    await self._push(records)
                    self._tell()
        except SwarmError as error:
            self._error = error
            self._tell()

    async def _push(self, records: list[bytes]) -> None:
        sending = Sending(self._batches, records, anyio.current_time(), self._client._timeout_s)
        while sending.records:
            try:
                await self._client._run(operations.push_many(self._known, self._batches.channels, sending.records))
                sending.stored(len(sending.records))
            except SwarmError as error:
                await anyio.sleep(sending.refused(error, anyio.current_time()))

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
