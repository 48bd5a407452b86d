"""Consuming a channel, for programs without an event loop."""

import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import swarm.queue.protocol as protocol
from swarm.core.blocking_client import BlockingClient
from swarm.core.blocking_streams import BlockingStreams
from swarm.core.client_session import BROKE
from swarm.core.errors import ClientClosed, SwarmError, checked_timeout
from swarm.queue.deliveries import Consuming, Delivery, Record, acknowledgements

ACKNOWLEDGE_S = 0.01  # what is done is told so late at most, if the program asks for a record then
CLOSE_S = 1.0  # so long closing it waits at most for each node to have what was done

Step = TypeVar("Step", Record, Record | None)


class Consumer(Generic[Step]):
    """The records of a channel, from QueueClient.consume; close() gives back what was not done, so does `with`.

    `batches` gives the same in lists, as they have come; an empty one when nothing has come within the timeout.
    """

    def __init__(self, client: BlockingClient, consuming: Consuming, manual: bool, timeout: float | None) -> None:
        self._timeout_s: float | None = timeout if timeout in (None, 0) else checked_timeout(timeout)
        self._consuming = consuming
        self._manual = manual
        self._delivery: Delivery | None = None
        self._left: Iterator[Record] = iter(())
        self._held = 0
        """How many of the records that were given last the program is at."""
        self._acknowledge_at = math.inf
        self._closed = False
        client._check_open()
        self._streams = BlockingStreams(client)
        try:
            self._streams.start(consuming.calls())
        except BaseException:
            self._streams.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if time.monotonic() >= self._acknowledge_at:
            self._acknowledge()
        record: Any = next(self._left, None)
        while record is None and self._next_delivery():
            self._held = 1
            record = next(self._left, None)
        return record  # type: ignore[no-any-return]  # a cast is a call, for each record

    def batches(self) -> Iterator[list[Record]]:
        """Each list is acknowledged when the next one is asked for."""
        while True:
            records = [*self._left]
            while not records and self._next_delivery():
                records = [*self._left]
            self._held = len(records)
            yield records

    def acknowledge(self, *records: Record) -> int:
        """These records are done, and will not be given again; returns when the nodes have it. How many were
        acknowledged with it: those that were before, and those whose connection broke since, which come again, are
        not."""
        self._check_open()
        done = 0
        for stream, ranges in list(acknowledgements(records)):
            done += self._streams.ask(stream, protocol.ACKNOWLEDGE, (stream.request_id, ranges)) or 0
        return done

    def close(self) -> None:
        """Acknowledges what is done, gives back the rest, and closes its connections."""
        if not self._closed:
            self._closed = True
            self._acknowledge()
            self._left = iter(())
            self._streams.stop()
            self._streams.settle(time.monotonic() + CLOSE_S)
            self._streams.close()

    def __del__(self) -> None:
        if hasattr(self, "_streams"):  # what is wrong with the arguments may have been raised before
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this consumer was closed")

    def _next_delivery(self) -> bool:
        """Whether there is one within the timeout."""
        self._check_open()
        self._held = 0
        self._acknowledge()
        self._delivery = None
        self._acknowledge_at = math.inf
        while True:
            try:
                answer = self._streams.next(self._timeout_s)
            except SwarmError:
                self.close()
                raise
            if answer is None:
                return False
            node, batch = answer
            if batch is BROKE:
                self._streams.begin([self._consuming.call(node)])
            elif self._streams.lives(node):  # what a stream has given that broke comes again
                self._delivery = Delivery(self._streams.at(node), batch)
                self._left = self._delivery.left
                self._acknowledge_at = math.inf if self._manual else time.monotonic() + ACKNOWLEDGE_S
                return True

    def _acknowledge(self) -> None:
        """Without waiting for it."""
        if self._delivery is not None and not self._manual:
            ranges = self._delivery.newly_done(self._held)
            if ranges:
                stream = self._delivery.stream
                self._streams.tell(stream, protocol.ACKNOWLEDGE, (stream.request_id, ranges))
            self._acknowledge_at = time.monotonic() + ACKNOWLEDGE_S
