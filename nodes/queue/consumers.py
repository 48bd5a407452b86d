"""Consumers: streams that are given records, and acknowledge them. docs/protocol.md §5, consume.

A consumer has no task: the queue's line gives it records at the end of a pass, as long as it has credit, its client
reads, and not too much of what it was given is unacknowledged.
"""

from bisect import bisect_right

from nodes.queue.line import Line, TakerConnection
from nodes.queue.record_queue import RecordQueue
from swarm.core import limits
from swarm.core.errors import SwarmError, TooManyRequests
from swarm.core.limits import BATCH_BYTES, CREDIT_MAX, UNACKNOWLEDGED_RANGES_MAX
from swarm.core.protocol import BATCH, DONE, STREAM_STOPPED
from swarm.core.request_handler import Service
from swarm.queue.batch import LENGTH_BYTES


class GivenRanges:
    """What one consumer was given and has not acknowledged: ranges of sequences in their order, apart from each other.

    A range goes from its first to before its end, and is shortened from either side. What was acknowledged in its
    middle only the storage knows; here are counted the records that are left of each.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self._left: list[int] = []

    def __len__(self) -> int:
        return len(self._firsts)

    def add(self, first: int, count: int) -> None:
        at = bisect_right(self._firsts, first)
        if at and self._ends[at - 1] == first:
            self._ends[at - 1] += count
            self._left[at - 1] += count
        else:
            self._firsts.insert(at, first)
            self._ends.insert(at, first + count)
            self._left.insert(at, count)

    def acknowledge(self, first: int, count: int, storage: RecordQueue) -> int:
        """Those records that are in these ranges; how many of them had not been acknowledged before."""
        end = first + count
        at = max(bisect_right(self._firsts, first) - 1, 0)
        acknowledged = 0
        while at < len(self._firsts) and self._firsts[at] < end:
            low, high = max(first, self._firsts[at]), min(end, self._ends[at])
            if low < high:
                done = storage.acknowledge(low, high - low)
                acknowledged += done
                self._left[at] -= done
                if low == self._firsts[at]:
                    self._firsts[at] = high
                elif high == self._ends[at]:
                    self._ends[at] = low
                if self._left[at] <= 0 or self._firsts[at] >= self._ends[at]:
                    del self._firsts[at], self._ends[at], self._left[at]
                    continue
            at += 1
        return acknowledged

    def give_back(self, storage: RecordQueue) -> None:
        for first, end in zip(self._firsts, self._ends, strict=True):
            storage.give_back(first, end - first)
        self._firsts, self._ends, self._left = [], [], []


class Consumers:
    """The consumers of a node."""

    def __init__(self, service: Service) -> None:
        self.count = 0
        self.redelivered = 0
        """Records that were given out again."""
        self.holds = service.holds_writes

    def add(self, line: Line, connection: TakerConnection, request_id: int, records: int, credit: int) -> "Consumer":
        consumer = Consumer(self, line, connection, request_id, records, credit)
        self.count += 1
        line.consumers += 1
        line.join(consumer)
        return consumer

    def check_room(self) -> None:
        """TooManyRequests if there may be no more of them."""
        if self.count >= limits.CONSUMERS_MAX:
            raise TooManyRequests(
                f"the node has {limits.CONSUMERS_MAX} consumers, the most there may be",
                {"limit": limits.CONSUMERS_MAX},
            )

    def statistics(self) -> dict[str, int]:
        return {"consumers": self.count, "redelivered": self.redelivered}


class Consumer:
    def __init__(
        self,
        consumers: Consumers,
        line: Line,
        connection: TakerConnection,
        request_id: int,
        records: int,
        credit: int,
    ) -> None:
        self.connection = connection
        self._consumers = consumers
        self._line = line
        self._request_id = request_id
        self._records = records
        self._credit = credit
        self._given = GivenRanges()
        self._send = connection.hold_reply if consumers.holds else connection.send_reply

    # What the line calls.

    @property
    def wants_more(self) -> bool:
        return self._credit > 0 and len(self._given) < UNACKNOWLEDGED_RANGES_MAX

    def give(self, storage: RecordQueue) -> int:
        delivery = storage.take(self._records, BATCH_BYTES)
        if delivery is None:
            return 0
        count, size = len(delivery.lengths) // LENGTH_BYTES, len(delivery.lengths) + len(delivery.data)
        self._given.add(delivery.sequence, count)
        self._credit -= 1
        if delivery.redelivered:
            self._consumers.redelivered += count
        batch = (delivery.sequence, delivery.redelivered, delivery.lengths, delivery.data)
        self._send(self._request_id, BATCH, batch, size)
        return size

    def end(self, error: SwarmError) -> None:
        """What it had not acknowledged is given to others, if the queue is still there."""
        self._leave()
        self._send(self._request_id, error.code or 0, (error.text, error.details))
        self.connection.stream_ended(self._request_id)

    # What the connection calls.

    def grant(self, batches: int) -> None:
        self._credit = min(self._credit + batches, CREDIT_MAX)
        self._line.enter(self)

    def stop(self) -> None:
        self._leave()
        self._send(self._request_id, DONE, STREAM_STOPPED)
        self.connection.stream_ended(self._request_id)

    def abandon(self) -> None:
        self._leave()

    def acknowledge(self, ranges: list[int]) -> int:
        """ranges: pairs of first and count. How many records were acknowledged with it."""
        queue = self._line.queue
        if queue is None:
            return 0
        storage, given = queue.storage, self._given
        done = sum(
            given.acknowledge(first, count, storage) for first, count in zip(ranges[::2], ranges[1::2], strict=True)
        )
        queue.note_change()
        self._line.enter(self)
        return done

    def _leave(self) -> None:
        self._consumers.count -= 1
        self._line.consumers -= 1
        self._line.leave(self)
        queue = self._line.queue
        if queue is not None and self._given:
            self._given.give_back(queue.storage)
            queue.note_change()
