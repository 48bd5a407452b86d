"""Clients that put records with all their might, and know what must be there afterwards.

All of them write to the same channels. A value begins with the number of its writer and the number of its record, so no
two are the same, and whoever finds one knows where it belongs. `known` is what was acknowledged, `doubtful` what was on
its way when a connection broke: each of those may be there once, or not. Nothing else may ever be found.
"""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from swarm.blocking import LogfilesClient
from swarm.core.errors import NodeUnreachable, SwarmError

BATCH_MAX = 600  # one request
VALUE_BYTES_MAX = 300
LARGE_BATCH_BYTES = 900_000  # of one request: a bucket with some of them gets blocks, and several tails
DIGITS = b"0123456789abcdef"

Record = tuple[int, bytes]
Content = dict[bytes, int]
"""Timestamps by value."""


@dataclass
class LogWriter:
    """One client, and the thread that it writes in until it is stopped or its node dies."""

    number: int
    channels: Sequence[str]
    first: int
    """Timestamp at which the first of its buckets begins."""
    bucket_ns: int
    buckets: int
    seed: int
    known: dict[str, Content] = field(default_factory=dict)
    doubtful: dict[str, Content] = field(default_factory=dict)
    sent: int = 0
    bug: BaseException | None = None

    def __post_init__(self) -> None:
        self.known = {channel: {} for channel in self.channels}
        self.doubtful = {channel: {} for channel in self.channels}
        self._random = random.Random(f"{self.seed} {self.number}")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._now = self.first

    def start(self, address: str, timeout_s: float, acknowledged: Callable[[], None]) -> None:
        """timeout_s: how long it tries to reach a node that has died; then it ends."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=[address, timeout_s, acknowledged])
        self._thread.start()

    def stop(self) -> None:
        """It is to begin no more requests."""
        self._stop.set()

    def ended(self) -> None:
        """Returns when it has ended: it could not reach its node, or was stopped."""
        assert self._thread is not None
        self._thread.join()
        if self.bug is not None:
            raise self.bug

    def _run(self, address: str, timeout_s: float, acknowledged: Callable[[], None]) -> None:
        try:
            with LogfilesClient(address, timeout=timeout_s) as logs:
                while not self._stop.is_set():
                    if self._write(logs):
                        acknowledged()
        except NodeUnreachable:
            pass
        except BaseException as error:
            self.bug = error
            raise

    def _write(self, logs: LogfilesClient) -> bool:
        """One request; whether it was acknowledged. Raises NodeUnreachable: nothing was sent."""
        channel = self._random.choice(self.channels)
        records = self._records(self._random.random())
        content = {value: timestamp for timestamp, value in records}
        try:
            if len(records) == 1:
                logs.put(channel, *records[0])
            else:
                logs.put_many(channel, records)
        except NodeUnreachable:
            raise
        except SwarmError:
            self.doubtful[channel] |= content
            return False
        self.known[channel] |= content
        return True

    def _records(self, chosen: float) -> list[Record]:
        """Of the next request: in order, all at the same moment, out of order, or late for older buckets."""
        count = self._random.randint(1, BATCH_MAX)
        step = self._random.choice([0, 0, 1, 1_000_000, self.bucket_ns // 500])
        times = [self._now + step * number for number in range(count)]
        if chosen < 0.1:
            return [(self._now, self._value(20))]
        if chosen < 0.2:
            large = self._value(LARGE_BATCH_BYTES // 8)
            return [(self._moment(), large), *((self._now, self._value(LARGE_BATCH_BYTES // 8)) for _ in range(7))]
        if chosen < 0.3:
            times = [self._moment() for _ in range(count)]
        elif chosen < 0.4:
            times = [self._moment()] * count
        elif chosen < 0.6:
            self._random.shuffle(times)
        else:
            self._now = times[-1] if times[-1] < self._end else self.first
        return [(time if time < self._end else self.first, self._value(VALUE_BYTES_MAX)) for time in times]

    @property
    def _end(self) -> int:
        return self.first + self.buckets * self.bucket_ns

    def _moment(self) -> int:
        """Anywhere, and rarely alone there: many records have a bucket's first moment."""
        bucket = self.first + self._random.randrange(self.buckets) * self.bucket_ns
        return bucket + self._random.choice([0, self._random.randrange(self.bucket_ns), self.bucket_ns - 1])

    def _value(self, size_max: int) -> bytes:
        """Of several kinds, so that some compress well."""
        self.sent += 1
        size = self._random.randint(1, size_max)
        rest = b" info all is well" * (size // 17 + 1) if self.sent % 3 else self._random.randbytes(size)
        return b"%d %d " % (self.number, self.sent) + rest[:size]


def check(channel: str, found: Iterable[tuple[Sequence[int], Sequence[bytes]]], writers: Sequence[LogWriter]) -> None:
    """What is found in a channel, block by block, is what was acknowledged, each record once, with any of those that
    are in doubt; by time, and at the same time in the order in which each writer has sent them. What was in doubt, and
    is there, was stored: from now on it must be there."""
    times: Content = {}
    before = -(1 << 63)
    last: dict[bytes, int] = {}
    for timestamps, values in found:
        for timestamp, value in zip(timestamps, values, strict=True):
            assert timestamp >= before, f"{channel}: {value[:30]!r} at {timestamp} comes behind {before}"
            if timestamp > before:
                before, last = timestamp, {}
            writer, number = value.split(b" ", 2)[:2]
            assert last.get(writer, 0) < int(number), f"{channel}: {value[:30]!r} comes behind {last[writer]}, or twice"
            last[writer] = int(number)
            assert value not in times, f"{channel}: {value[:30]!r} is there twice"
            times[value] = timestamp
    for each in writers:
        _settle(channel, each, times)
    assert not times, f"{channel}: {len(times)} records that nobody sent: {next(iter(times))[:30]!r} …"


def _settle(channel: str, writer: LogWriter, times: Content) -> None:
    known, doubtful = writer.known[channel], writer.doubtful[channel]
    lost = [value for value, timestamp in known.items() if times.pop(value, None) != timestamp]
    assert not lost, f"{channel}: {len(lost)} acknowledged records of {len(known)} are lost: {lost[0][:30]!r} …"
    for value in doubtful.keys() & times.keys():
        assert times.pop(value) == doubtful[value]
        known[value] = doubtful[value]
    doubtful.clear()
