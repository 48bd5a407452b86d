"""Pops that wait for a record, up to a time. docs/protocol.md §5, wait pop."""

import heapq
from itertools import count

import trio

from nodes.queue.line import Line, TakerConnection
from nodes.queue.record_queue import RecordQueue
from swarm.core.errors import SwarmError
from swarm.core.limits import POP_BYTES_MAX
from swarm.core.protocol import DONE
from swarm.core.request_handler import Service

NOTHING = (b"", b"")
STALE_MIN = 1024  # entries of the heap, below which it is not worth to look for those that wait no longer


class WaitingPops:
    """All of a node, and when their time is over. One task looks after that, however many there are."""

    def __init__(self, service: Service) -> None:
        self.count = 0
        self.holds = service.holds_writes
        self._heap: list[tuple[float, int, WaitingPop]] = []
        self._numbers = count()
        self._earlier = trio.Event()

    def add(
        self, line: Line, connection: TakerConnection, request_id: int, records: int, wait_s: float
    ) -> "WaitingPop":
        pop = WaitingPop(self, line, connection, request_id, records)
        self.count += 1
        deadline = trio.current_time() + wait_s
        if not self._heap or deadline < self._heap[0][0]:
            self._earlier.set()
        if len(self._heap) > STALE_MIN + 2 * self.count:
            self._heap = [entry for entry in self._heap if entry[2].waiting]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (deadline, next(self._numbers), pop))
        line.join(pop)
        return pop

    async def expire(self) -> None:
        """Answers those whose time is over, as long as the node runs."""
        while True:
            with trio.move_on_at(self._heap[0][0]) if self._heap else trio.CancelScope():
                await self._earlier.wait()
            self._earlier = trio.Event()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, _, pop = heapq.heappop(self._heap)
                if pop.waiting:
                    pop.stop()

    def statistics(self) -> dict[str, int]:
        return {"waiting_pops": self.count}


class WaitingPop:
    def __init__(
        self,
        pops: WaitingPops,
        line: Line,
        connection: TakerConnection,
        request_id: int,
        records: int,
    ) -> None:
        self.connection = connection
        self.waiting = True
        self._pops = pops
        self._line = line
        self._request_id = request_id
        self._records = records

    # What the line calls.

    @property
    def wants_more(self) -> bool:
        return self.waiting

    def give(self, storage: RecordQueue) -> int:
        lengths, data = storage.pop(self._records, POP_BYTES_MAX)
        if not lengths:
            return 0
        send = self.connection.hold_reply if self._pops.holds else self.connection.send_reply
        send(self._request_id, DONE, (lengths, data), len(lengths) + len(data))
        self._leave()
        return len(lengths) + len(data)

    def end(self, error: SwarmError) -> None:
        self.connection.send_reply(self._request_id, error.code or 0, (error.text, error.details))
        self._leave()

    # What the connection calls.

    def grant(self, batches: int) -> None:
        """It has one answer, and no credit."""

    def stop(self) -> None:
        """Answers with nothing; at the end of its time too."""
        self.connection.send_reply(self._request_id, DONE, NOTHING)
        self._leave()

    def abandon(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.waiting:
            self.waiting = False
            self._line.leave(self)
            self.connection.stream_ended(self._request_id)
            self._pops.count -= 1
