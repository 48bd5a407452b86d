"""Producing without an event loop: a stream of pushes, collected into batches."""

import logging
import time
from types import TracebackType
from typing import Self

from swarm.core.blocking_client import BlockingClient
from swarm.core.errors import ClientClosed, SwarmError
from swarm.queue import operations
from swarm.queue.batches import Batches, Sending
from swarm.queue.operations import Channels, QueueNodes

log = logging.getLogger(__name__)

COLLECT_S = 0.01  # a batch leaves with the first push after so long, though it is not full


class Producer:
    """Pushes records in batches, from QueueClient.produce. Use it with `with`, from one thread."""

    def __init__(self, client: BlockingClient, known: QueueNodes, channel: Channels) -> None:
        self._client = client
        self._known = known
        self._batches = Batches(known, channel)
        self._error: SwarmError | None = None
        self._open = False
        self._send_at = 0.0

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
            elif isinstance(error, Exception) and self._error is None:
                self._flush_after()
        finally:
            self._open = False

    def push(self, record: bytes) -> None:
        """Adds a record; where the batch is full, or collected for COLLECT_S, returns when all of it is stored."""
        self._check()
        now = time.monotonic()
        if not self._batches.some:
            self._send_at = now + COLLECT_S
        self._batches.add(record)
        if self._batches.full or now >= self._send_at:
            self.flush()

    def flush(self) -> None:
        """Returns when all records are stored."""
        self._check()
        try:
            self._push(self._batches.take())
        except SwarmError as error:
            self._error = error
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._batches.failed(self._error) from self._error
        if not self._open:
            raise ClientClosed("the producer is not open: use it inside `with`")

    def _flush_after(self) -> None:
        """The program's own error is the one to be raised."""
        try:
            self.flush()
        except SwarmError as failed:
            log.error("%s", failed)

    def _push(self, records: list[bytes]) -> None:
        sending = Sending(self._batches, records, time.monotonic(), self._client._timeout_s)
        while sending.records:
            try:
                self._client._run(operations.push_many(self._known, self._batches.channels, sending.records))
                sending.stored(len(sending.records))
            except SwarmError as error:
                time.sleep(sending.refused(error, time.monotonic()))
