"""The queue client for programs without an event loop."""

import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

from swarm.blocking.consume import Consumer
from swarm.blocking.produce import Producer
from swarm.core.blocking_client import BlockingClient
from swarm.core.credentials import CredentialsOption
from swarm.core.errors import SwarmError
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.nodes_file import node_addresses
from swarm.queue import operations, protocol
from swarm.queue.deliveries import CONSUME_BATCH_RECORDS, Consuming, Record
from swarm.queue.operations import Channels, Queue, QueueNodes
from swarm.queue.protocol import OWN_QUEUE

CLOSE_S = 1.0  # so long at most closing the client takes where a pop was interrupted, to give back what comes of it


class QueueClient(BlockingClient):
    """As swarm.queue.QueueClient, which says what each method does and raises, but blocking.

        with QueueClient(["127.0.0.1:10011", "127.0.0.1:10012"]) as queue:
            queue.push("channel", b"record")

    Threads may share it, one request at a time: while one waits in a pop the others wait too. Give each its own for
    more.
    """

    kind = protocol.KIND

    def __init__(
        self,
        nodes: str | Sequence[str] | None = None,
        *,
        nodes_file: str | Path | None = None,
        timeout: float = 5.0,
        compression: bool = False,
        credentials: CredentialsOption = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        addresses = node_addresses(nodes, nodes_file)
        self._queues = QueueNodes([str(address) for address in addresses])
        super().__init__(
            addresses, self._queues, timeout=timeout, compression=compression, credentials=credentials, tls=tls
        )

    def close(self) -> None:
        """Closes every connection; the client cannot be used any more."""
        with self._lock:
            if self._open:
                self._give_back()
            super().close()

    def _give_back(self) -> None:
        """What was popped and is not wanted any more goes back to its node."""
        for connection in self._connections:
            connection.wait_for_late_answers(time.monotonic() + CLOSE_S)
        if self._queues.kept:
            with suppress(SwarmError):
                self._run(operations.give_back(self._queues))

    def push(self, channel: Channels, record: bytes) -> None:
        self._run(operations.push(self._queues, channel, record))

    def push_many(self, channel: Channels, records: Iterable[bytes]) -> None:
        self._run(operations.push_many(self._queues, channel, records))

    def produce(self, channel: Channels) -> Producer:
        """A batch leaves when it is full, with the first push after 10 ms, and with flush(); that push returns when it
        is stored. For one thread."""
        return Producer(self, self._queues, channel)

    def pop(self, channel: str, *, wait: float = 0.0) -> bytes | None:
        """An interrupt that strikes while it waits loses nothing; one that strikes when the answer is there may lose
        it, as one in the caller would."""
        return self._run(operations.pop(self._queues, channel, wait))

    def pop_many(self, channel: str, records: int, *, wait: float = 0.0) -> list[bytes]:
        return self._run(operations.pop_many(self._queues, channel, records, wait))

    @overload
    def consume(
        self,
        channel: str,
        *,
        subscriber: str = ...,
        manual: bool = ...,
        batch_records: int = ...,
        credit: int = ...,
        timeout: None = None,
    ) -> Consumer[Record]: ...
    @overload
    def consume(
        self,
        channel: str,
        *,
        subscriber: str = ...,
        manual: bool = ...,
        batch_records: int = ...,
        credit: int = ...,
        timeout: float,
    ) -> Consumer[Record | None]: ...
    def consume(
        self,
        channel: str,
        *,
        subscriber: str = OWN_QUEUE,
        manual: bool = False,
        batch_records: int = CONSUME_BATCH_RECORDS,
        credit: int = CLIENT_STREAM_CREDIT,
        timeout: float | None = None,
    ) -> Any:
        """From its return on the subscriber exists. What is done is told to the node when a batch is done, when the
        consumer would wait, and with the first step after 10 ms. With a timeout (seconds, 0 or more) it gives None
        whenever nothing has come for so long, so that a program can do something else, or stop. It is for one thread,
        and has connections of its own: other threads can use the client meanwhile.
        """
        return Consumer(self, Consuming(self._queues, channel, subscriber, batch_records, credit), manual, timeout)

    def queues(self, channel: str) -> list[Queue]:
        return self._run(operations.queues(self._queues, channel))

    def drop_subscriber(self, channel: str, subscriber: str) -> bool:
        return self._run(operations.drop_subscriber(self._queues, channel, subscriber))
