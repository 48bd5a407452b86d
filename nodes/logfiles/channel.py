"""A channel: its buckets, and what is written to them."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from pathlib import Path

from nodes.logfiles.bucket import Bucket
from nodes.logfiles.entries import cut
from nodes.logfiles.file_names import Span
from nodes.logfiles.part import Part
from nodes.logfiles.range_block import Cursor, Step
from nodes.logfiles.reading import read_range
from nodes.logfiles.shared import OPEN_TAILS_MAX, Shared
from swarm.core.errors import BadArgument, BatchTooBig, OutOfMemory, SwarmError, ValueTooBig
from swarm.logfiles.payload import Columns, Layout, encode, values
from swarm.logfiles.payload import layout as layout_of

BUCKETS_PER_BATCH_MAX = 256  # each may cost 0.1 ms: a file is made

assert BUCKETS_PER_BATCH_MAX <= OPEN_TAILS_MAX


class LogChannel:
    def __init__(self, shared: Shared, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.buckets: dict[Span, Bucket] = {}
        self.spans: list[Span] = []
        """Of all buckets, by time."""
        self.records = 0
        self.record_bytes = 0
        """Of the values."""
        self.removed = False
        self._shared = shared
        self._last: tuple[Span, Bucket] | None = None

    def put(self, encoded: bytes, layout: Layout) -> None:
        """Takes the records of a payload, several of which may have the same timestamp; `commit` of the store makes
        them durable.

        Raises BadArgument, ValueTooBig, BatchTooBig, OutOfMemory, DiskFull, and nothing has changed; NodeError: the
        node must stop.
        """
        self._check(encoded, layout)
        first, length_s = layout.first, self._shared.settings.bucket_s
        span = self._last[0] if self._last else Span.of(first, length_s)
        if not span.start <= first < span.end:
            span = Span.of(first, length_s)
        try:
            if layout.last < span.end:
                parts = [(self._part(span), cut(encoded, layout))]
            else:
                parts = self._split(layout.timestamps, values(encoded, layout), length_s)
            for part, found in parts:
                part.make_room(sum(columns.bytes for columns in found))
        except SwarmError:
            self._forget_unused({Span.of(timestamp, length_s) for timestamp in layout.timestamps})
            raise
        for part, found in parts:
            for columns in found:
                part.add(columns)
        self.records += len(layout.sizes)
        self.record_bytes += len(encoded) - layout.start

    def _check(self, encoded: bytes, layout: Layout) -> None:
        settings = self._shared.settings
        if layout.first < settings.timestamp_min or layout.last > settings.timestamp_max:
            wrong = layout.first if layout.first < settings.timestamp_min else layout.last
            raise BadArgument(
                f"the timestamp {wrong} is not within {settings.timestamp_min} and {settings.timestamp_max}"
            )
        limit = settings.value_bytes_max
        if len(encoded) > limit and max(layout.sizes) > limit:
            raise ValueTooBig(f"a value has more than {limit} bytes", {"limit": limit})
        self._shared.check_memory(len(encoded))

    def _split(self, timestamps: list[int], values: list[bytes], length_s: int) -> list[tuple[Part, list[Columns]]]:
        found: dict[Span, tuple[list[int], list[bytes]]] = {}
        for timestamp, value in zip(timestamps, values, strict=True):
            times, those = found.setdefault(Span.of(timestamp, length_s), ([], []))
            times.append(timestamp)
            those.append(value)
        if len(found) > BUCKETS_PER_BATCH_MAX:
            raise BatchTooBig(
                f"the records are of {len(found)} buckets of {length_s} s, at most {BUCKETS_PER_BATCH_MAX} are taken "
                "at once: split the batch",
                {"limit": BUCKETS_PER_BATCH_MAX},
            )
        parts = []
        for span, pair in sorted(found.items()):
            encoded = encode(*pair)
            parts.append((self._part(span), cut(encoded, layout_of(encoded))))
        return parts

    def _part(self, span: Span) -> Part:
        if self._last and self._last[0] == span:
            bucket = self._last[1]
        else:
            bucket = self.buckets.get(span) or self.add(Bucket(span))
            self._last = span, bucket
        part = bucket.part_to_write(self._shared, self.directory)
        if part not in self._shared.open and len(self._shared.open) >= OPEN_TAILS_MAX:
            raise OutOfMemory(f"{OPEN_TAILS_MAX} buckets are being written to, the most that a node has open")
        return part

    def _forget_unused(self, spans: set[Span]) -> None:
        """Of these buckets, parts that were begun for records which were refused."""
        self._last = None
        for bucket in [self.buckets[span] for span in spans if span in self.buckets]:
            with self._shared.lock:
                bucket.parts = tuple(part for part in bucket.parts if part.is_used)
            if not bucket.generation:
                self.drop(bucket)

    def add(self, bucket: Bucket) -> Bucket:
        self.buckets[bucket.span] = bucket
        with self._shared.lock:
            insort(self.spans, bucket.span)
        return bucket

    def drop(self, bucket: Bucket) -> list[Path]:
        """A bucket that is not being written to or sealed goes out of sight. Its files, to be removed."""
        self.records -= bucket.records
        self.record_bytes -= bucket.value_bytes
        names = bucket.file_names()
        with self._shared.lock:
            del self.spans[bisect_left(self.spans, bucket.span)]
            del self.buckets[bucket.span]
        self._last = None
        for part in bucket.parts:
            part.close()
        return [self.directory / name.path for name in names]

    def range(
        self,
        first: int,
        end: int,
        after: Cursor | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[Step]:
        """The records with first <= timestamp < end, in steps, each of some MiB at most; see reading.

        after: where an earlier one with the same arguments has stopped. The steps may be drawn in another thread while
        the store is written to. Raises ChannelRemoved, OSError.
        """
        return read_range(self._shared, self, first, end, after, newest_first=newest_first)

    def oldest(self) -> int | None:
        """The lowest timestamp. It may read the headers of the first bucket. Raises OSError."""
        return self._edge(newest=False)

    def newest(self) -> int | None:
        return self._edge(newest=True)

    def _edge(self, *, newest: bool) -> int | None:
        if not self.spans:
            return None
        for step in self.range(self.spans[0].start, 1 << 63, newest_first=newest):
            for block in step.blocks:
                return block.last if newest else block.first
        return None
