"""Who waits for the records of a queue, in the order of their turn.

    push ──► queue ──► at the end of the pass: the line's first takes, and goes behind the others if it may have more
                                                │
             consumer, consumer, waiting pop ◄──┘

In the line are those who can take something now. Who cannot (no credit, too much unacknowledged, a client that does not
read) leaves the line and comes back, behind the others, when it can. So handing out costs as much as is handed out,
however many wait.

A line outlives its queue, and may be there before it: waiting for a record of a channel does not create the channel.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from nodes.queue.record_queue import RecordQueue
from swarm.core.errors import SwarmError

BATCH_COST = 4096  # bytes that can be copied in the time that a batch takes, however small it is


class TakerConnection(Protocol):
    """What a taker needs of the connection that it belongs to."""

    @property
    def output_full(self) -> bool: ...

    def when_room(self, function: Callable[[], None]) -> None: ...

    def send_reply(self, request_id: int, status: int, result: object, size: int = 0) -> None: ...

    def hold_reply(self, request_id: int, status: int, result: object, size: int = 0) -> None: ...

    def stream_ended(self, request_id: int) -> None: ...


class Taker(Protocol):
    """A request that waits for records: a consumer, or a pop that waits."""

    connection: TakerConnection

    def give(self, storage: RecordQueue) -> int:
        """Takes what it may have at once, and answers; the bytes that this was, 0 if there is nothing."""

    @property
    def wants_more(self) -> bool:
        """Whether it can take more now, its connection's output aside."""

    def end(self, error: SwarmError) -> None:
        """The node ends it."""


class LineQueue(Protocol):
    """The queue that a line belongs to."""

    storage: RecordQueue

    def note_change(self) -> None: ...


class Line:
    __slots__ = ("consumers", "members", "on_empty", "queue", "ready")

    def __init__(self) -> None:
        self.queue: LineQueue | None = None
        self.on_empty: Callable[[], object] = lambda: None
        """Called when the last has left while there is no queue."""
        self.consumers = 0
        self.ready: OrderedDict[Taker, None] = OrderedDict()
        self.members: dict[Taker, None] = {}
        """Those too who cannot take anything now."""

    def join(self, taker: Taker) -> None:
        self.members[taker] = None
        self.enter(taker)

    def enter(self, taker: Taker) -> None:
        """It can take something now. No matter whether it could before, or has left for good meanwhile."""
        if taker in self.members and taker not in self.ready and taker.wants_more:
            self.ready[taker] = None
            if self.queue is not None:
                self.queue.note_change()

    def leave(self, taker: Taker) -> None:
        """For good."""
        self.members.pop(taker, None)
        self.ready.pop(taker, None)
        if not self.members and self.queue is None:
            self.on_empty()

    def hand_out(self, storage: RecordQueue, budget: int) -> int:
        """Gives records to those whose turn it is; what is left of the budget in bytes."""
        ready = self.ready
        while ready and budget > 0 and storage.records > storage.unacknowledged:
            taker, _ = ready.popitem(last=False)
            if taker.connection.output_full:
                taker.connection.when_room(lambda taker=taker: self.enter(taker))  # type: ignore[misc]
                continue
            size = taker.give(storage)
            if size == 0:  # what seemed to be there was damaged
                ready[taker] = None
                ready.move_to_end(taker, last=False)
                break
            budget -= size + BATCH_COST
            if taker.wants_more:
                ready[taker] = None
        return budget
