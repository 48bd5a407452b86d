"""A range of a channel, read while it is written to, blocks are made, buckets are sealed and removed.

A *stretch* is a bucket, or several of different lengths that overlap. A reader takes a picture of one stretch after
the other, at the moment when it comes to it: its files, opened, how many blocks they have, the entries that are in no
block. Pictures do not change: a file that is removed can still be read by who has it open, and blocks are only ever
added. So a reader finds each record once; what comes to a stretch after the reader has, it may not find.

Between stretches, and between two reads, there is only a Cursor: a timestamp, and how many records with it come before.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from nodes.logfiles.block_format import BadHeader
from nodes.logfiles.block_index import BlockIndex, Damage
from nodes.logfiles.bucket import Bucket
from nodes.logfiles.entries import Entry, groups, joined
from nodes.logfiles.file_names import DAY_NS, Span
from nodes.logfiles.files import NotAFile
from nodes.logfiles.merging import View
from nodes.logfiles.range_block import Cursor, RangeBlock, Step
from nodes.logfiles.shared import Shared
from nodes.logfiles.sources import BlockFile, Key, Source, block_sources, open_block_file
from swarm.core.limits import APART_BYTES_MIN
from swarm.core.storage_channels import channel_removed
from swarm.logfiles.payload import TIMESTAMP_MAX, Records, timestamps_of

STEP_BYTES = APART_BYTES_MIN  # of payloads: a step ends with the block that passes it, and is a batch on the wire
STEP_SOURCES = 16  # read for merging: some 10 ms; a step may end without having found a block


class Readable(Protocol):
    """What a channel is to its readers."""

    directory: Path
    buckets: dict[Span, Bucket]
    spans: list[Span]
    removed: bool


class _Picture:
    """The sources of one stretch as they are now, and the files to be closed."""

    def __init__(self, shared: Shared, first: int, end: int) -> None:
        self.sources: list[Source] = []
        self.damages: list[Damage] = []
        self.open: list[int] = []
        self._shared = shared
        self._first = first
        self._end = end
        self._seq = 0

    def add(self, channel: Path, bucket: Bucket, *, may_miss: bool) -> None:
        """Raises FileNotFoundError where a file was removed meanwhile, OSError. may_miss: it was not, it is gone."""
        with self._shared.lock:
            sealed = bucket.sealed
            parts = [
                (part, part.log_seed, len(part.index), _entries(part.entries), part.index) for part in bucket.parts
            ]
        if sealed:
            self._add_file(channel / sealed.path, bucket.span, may_miss=may_miss)
        for part, seed, count, entries, index in parts:
            self.damages += index.damages
            if seed is not None and count:
                self._add_file(part.log_path, bucket.span, (seed, index, count), may_miss=may_miss)
            for group in groups(entries, all_of_them=True):
                self._add_group(group)

    def _add_file(
        self, path: Path, span: Span, known: tuple[bytes, BlockIndex, int] | None = None, *, may_miss: bool
    ) -> None:
        files = self._shared.files
        try:
            if known:
                file, count = BlockFile(files, path, files.open(path), *known[:2]), known[2]
            else:
                file = open_block_file(files, path, span, sealed=True, indexes=self._shared.indexes)
                count = len(file.index)
                self.damages += file.index.damages
        except BadHeader as error:
            self.damages.append(Damage(path, 0, str(error)))
            return
        except NotAFile as error:
            self.damages.append(Damage(path, 0, error.what))
            return
        except FileNotFoundError:
            if not may_miss:
                raise
            self.damages.append(Damage(path, 0, "the file is missing"))
            return
        self.open.append(file.fd)
        self.sources += block_sources(file, count, self._first, self._end, self._seq)
        self._seq += count

    def _add_group(self, group: Sequence[Entry]) -> None:
        timestamps = [each for entry in group for each in timestamps_of(entry.columns)]
        first, last = min(timestamps), max(timestamps)
        if last >= self._first and first < self._end:
            read = _reader(group)
            self.sources.append(Source(first, last, self._seq, len(timestamps), timestamps.count(last), None, 0, read))
        self._seq += 1

    def close(self) -> None:
        for fd in self.open:
            with suppress(OSError):
                self._shared.files.close(fd)
        self.open = []


def _entries(entries: list[Entry]) -> list[Entry]:
    """As they are now: only the last one may have more later."""
    return [*entries[:-1], entries[-1].as_it_is()] if entries else []


def _reader(group: Sequence[Entry]) -> Callable[[], Records]:
    return lambda: joined(group)


@contextmanager
def _picture(shared: Shared, channel: Readable, spans: list[Span], first: int, end: int) -> Iterator[_Picture]:
    picture = _take_picture(shared, channel, spans, first, end)
    try:
        yield picture
    finally:
        picture.close()


def _take_picture(shared: Shared, channel: Readable, spans: list[Span], first: int, end: int) -> _Picture:
    before: object = None
    while True:
        buckets = [bucket for span in spans if (bucket := channel.buckets.get(span))]
        now = [(bucket, bucket.sealed_generation, bucket.parts) for bucket in buckets]
        picture = _Picture(shared, first, end)
        try:
            for bucket in buckets:
                picture.add(channel.directory, bucket, may_miss=now == before)
        except FileNotFoundError:  # the bucket was sealed, or removed, meanwhile
            picture.close()
            if channel.removed:
                raise channel_removed() from None
            before = now
        except BaseException:
            picture.close()
            raise
        else:
            return picture


def _next_stretch(shared: Shared, channel: Readable, first: int, end: int, *, newest: bool) -> list[Span]:
    """The spans of the first stretch, or the last one, that has a time in the range; empty if there is none."""
    with shared.lock:
        spans = channel.spans
        low = bisect_left(spans, (first - DAY_NS, 0))  # no bucket is longer than a day
        high = bisect_left(spans, (end, 0))
        found = range(low, high)
        number = next((each for each in (reversed(found) if newest else found) if spans[each].end > first), None)
        if number is None:
            return []
        begin = _begin(spans, number)
        stretch, reach = [spans[begin]], spans[begin].end
        for span in spans[begin + 1 :]:
            if span.start >= reach:
                break
            stretch.append(span)
            reach = max(reach, span.end)
        return stretch


def _begin(spans: list[Span], number: int) -> int:
    """The first span of the stretch that this one is in. Spans divide a day, so none reaches from one into another."""
    day = spans[number].start - spans[number].start % DAY_NS
    begin = found = bisect_left(spans, (day, 0))
    reach = spans[begin].end
    for each in range(begin, number + 1):
        if spans[each].start >= reach:
            found = each
        reach = max(reach, spans[each].end)
    return found


def read_range(
    shared: Shared,
    channel: Readable,
    first: int,
    end: int,
    after: Cursor | None,
    *,
    newest_first: bool,
) -> Iterator[Step]:
    """See LogChannel.range."""
    end = min(end, TIMESTAMP_MAX + 1)
    low, high = first, end
    if after is not None and newest_first:
        high = min(high, after.timestamp + 1)
    elif after is not None:
        low = max(low, after.timestamp)
    while low < high:
        if channel.removed:
            raise channel_removed()
        spans = _next_stretch(shared, channel, low, high, newest=newest_first)
        if not spans:
            return
        with _picture(shared, channel, spans, low, high) as picture:
            view = View(picture.sources)
            view.damages += picture.damages
            lower, upper = (low, -1, 0), (high, -1, 0)
            if after is not None and newest_first:
                upper = min(upper, view.key_of(*after))
            elif after is not None:
                lower = max(lower, view.key_of(*after))
            for step in _steps(view, lower, upper, newest_first=newest_first):
                if channel.removed:
                    raise channel_removed()
                yield step
        if newest_first:
            high = spans[0].start
        else:
            low = max(span.end for span in spans)


def _steps(view: View, lower: Key, upper: Key, *, newest_first: bool) -> Iterator[Step]:
    blocks: list[RangeBlock] = []
    size, sources, last = 0, 0, upper if newest_first else lower
    for block, last in view.blocks(lower, upper, newest_first=newest_first):
        if block is None:
            sources += 1
        else:
            blocks.append(block)
            size += len(block.payload)
        if size >= STEP_BYTES or sources >= STEP_SOURCES:
            yield _step(view, last, blocks)
            blocks, size, sources = [], 0, 0
    if blocks or view.damages:
        yield _step(view, last, blocks)


def _step(view: View, key: Key, blocks: list[RangeBlock]) -> Step:
    step = Step(Cursor(key[0], view.equal_before(key)), blocks, view.damages)
    view.damages = []
    return step
