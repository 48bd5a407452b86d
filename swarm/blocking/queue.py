"""The queue client for programs without an event loop."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from swarm.core.blocking_client import BlockingClient
from swarm.core.errors import SwarmError
from swarm.core.nodes_file import node_addresses
from swarm.queue import operations, protocol
from swarm.queue.operations import Channels, Queue, QueueNodes

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
    ) -> None:
        addresses = node_addresses(nodes, nodes_file)
        self._queues = QueueNodes([str(address) for address in addresses])
        super().__init__(addresses, self._queues, timeout=timeout, compression=compression)

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

    def pop(self, channel: str, *, wait: float = 0.0) -> bytes | None:
        return self._run(operations.pop(self._queues, channel, wait))

    def pop_many(self, channel: str, records: int, *, wait: float = 0.0) -> list[bytes]:
        return self._run(operations.pop_many(self._queues, channel, records, wait))

    def queues(self, channel: str) -> list[Queue]:
        return self._run(operations.queues(self._queues, channel))

    def drop_subscriber(self, channel: str, subscriber: str) -> bool:
        return self._run(operations.drop_subscriber(self._queues, channel, subscriber))
