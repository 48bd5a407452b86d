"""What a producer has collected, and what is known of what it has sent. No I/O."""

from swarm.core import limits
from swarm.core.errors import DiskFull, OutOfMemory, QueueFull, SwarmError
from swarm.queue.operations import PUSH_PART_BYTES, Channels, QueueNodes, channel_list
from swarm.queue.protocol import check_record

BATCH_BYTES = PUSH_PART_BYTES  # that wait to be sent; as many are on their way
BATCH_RECORDS = limits.BATCH_RECORDS_MAX
LATER = (QueueFull, OutOfMemory, DiskFull)
"""Why a batch is pushed again by and by."""


class Batches:
    """Records, of which some are collected, some were sent and the first are stored, always in their order."""

    def __init__(self, known: QueueNodes, channel: Channels) -> None:
        self.channels = channel_list(channel, known.limits)
        self.stored = 0
        self._known = known
        self._pushed = 0
        self._collected: list[bytes] = []
        self._collected_bytes = 0

    @property
    def full(self) -> bool:
        """Whether what is collected has to be sent before more is added."""
        return self._collected_bytes >= BATCH_BYTES or len(self._collected) >= BATCH_RECORDS

    @property
    def some(self) -> bool:
        """Whether something is collected."""
        return bool(self._collected)

    @property
    def all_stored(self) -> bool:
        return self.stored == self._pushed

    def add(self, record: bytes) -> None:
        check_record(record, self._known.limits)
        self._collected.append(record)
        self._collected_bytes += len(record)
        self._pushed += 1

    def take(self) -> list[bytes]:
        """What is collected, to be sent."""
        taken, self._collected = self._collected, []
        self._collected_bytes = 0
        return taken

    def failed(self, error: SwarmError) -> SwarmError:
        """What the program is told: with how many records were stored."""
        text = f"{error.text}; of the producer's {self._pushed} records the first {self.stored} were stored"
        told = type(error)(text, {**error.details, "stored": self.stored})
        told.node, told.request = error.node, error.request
        return told


class Sending:
    """A batch that is being pushed until all of it is stored; where there is no room now, again and again."""

    def __init__(self, batches: Batches, records: list[bytes], now: float, timeout_s: float) -> None:
        self.records = records
        """Those that are not stored."""
        self._batches = batches
        self._timeout_s = timeout_s
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._give_up = now + self._timeout_s
        self._backoff_s = limits.BACKOFF_FIRST_S

    def stored(self, count: int) -> None:
        """So many of the first."""
        self._batches.stored += count
        self.records = self.records[count:]

    def refused(self, error: SwarmError, now: float) -> float:
        """How many seconds to wait before the rest is pushed again; raises the error if it is not to be."""
        if stored := error.details.get("stored", 0):
            self.stored(stored)
            self._begin(now)
        wait_s, self._backoff_s = self._backoff_s, min(2 * self._backoff_s, limits.BACKOFF_MAX_S)
        if not isinstance(error, LATER) or now + wait_s > self._give_up:
            raise error
        return wait_s
