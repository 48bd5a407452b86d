"""The records of a node on disk: channels, buckets, and the work beside the requests.

    request   put         refused with a reason, or taken as a whole
    pass      commit      one write(2) for each tail that was touched, before any answer leaves
    thread    take_sync, blocks_to_make, retain, buckets_to_seal, removals:
              what each gives has `run`, for a thread, and then `finish`, for the loop again

Memory: records that are in no block yet, at most Settings.tail_memory; past it writes are refused with `out of memory`,
so a disk that is slower than the writers slows them, and nothing else. Besides that some 40 bytes for each block of a
bucket that is not sealed, and 350 for each bucket.

What is removed goes to DATA/removed first, by renaming: from then on its names are free. It is deleted from there, one
after the other, in a thread, or when the store is opened again.
"""

import fcntl
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from nodes.logfiles.block_index import Damage
from nodes.logfiles.channel import LogChannel
from nodes.logfiles.file_names import CHANNELS, REMOVED
from nodes.logfiles.files import Files
from nodes.logfiles.opening import load_channels
from nodes.logfiles.part import Part
from nodes.logfiles.recovery import tell
from nodes.logfiles.seal_work import SealWork
from nodes.logfiles.shared import OPEN_TAILS_MAX, Settings, Shared, Work
from nodes.logfiles.tail import Tail
from swarm.core.errors import BadArgument, EmptyValue, TooManyChannels
from swarm.core.node import NodeError
from swarm.core.protocol import check_channel
from swarm.logfiles import payload
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN, Layout

log = logging.getLogger(__name__)

SEALING_LOCK = "sealing.lock"
LOCK_TIMEOUT_S = 10.0  # a sealing process ends some ms after its node
REMOVALS_PER_WORK = 64  # files deleted by one piece of work
RETAIN_BUCKETS = 64  # dropped in one step, 20 us each


class LogStore:
    def __init__(self, shared: Shared, channels: dict[str, LogChannel], lock: int, last_time: int | None) -> None:
        """Use `open`."""
        self.last_time = last_time
        """What `note_time` was told last, in this run or one before; None: never."""
        self.channels = channels
        self._shared = shared
        self._lock = lock
        self._removed: list[Path] = []
        self._removals = 0

    @classmethod
    def open(cls, data_dir: Path, settings: Settings | None = None, files: Files | None = None) -> "LogStore":
        """What is in a directory that nobody else uses. Raises NodeError."""
        files = files or Files()
        shared = Shared(data_dir, settings or Settings(), files)
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            for name in (CHANNELS, REMOVED):
                if files.make_directory(data_dir / name):
                    shared.new_names[data_dir] = None
            last_time = files.modified(data_dir / SEALING_LOCK)
            lock = _lock(files, data_dir / SEALING_LOCK)
            if last_time is not None:
                files.set_modified(data_dir / SEALING_LOCK, last_time)
            _empty(files, data_dir / REMOVED)
            return cls(shared, load_channels(shared, data_dir / CHANNELS), lock, last_time)
        except OSError as error:
            raise NodeError(f"the records in {data_dir} cannot be read: {error}") from error

    # Requests and passes.

    def put_many(self, name: str, timestamps: Sequence[int], values: Sequence[bytes]) -> None:
        """As put, of records that are not encoded. Also raises EmptyValue."""
        if len(timestamps) != len(values) or not values:
            raise BadArgument(f"{len(timestamps)} timestamps and {len(values)} values; one of each at least")
        if set(map(type, timestamps)) != {int}:
            raise BadArgument("a timestamp is a whole number of nanoseconds since 1970-01-01 UTC")
        if set(map(type, values)) != {bytes}:
            raise BadArgument("a value is bytes")
        if not all(values):
            raise EmptyValue("a value is empty")
        if min(timestamps) < TIMESTAMP_MIN or max(timestamps) > TIMESTAMP_MAX:
            raise BadArgument(f"a timestamp is not within {TIMESTAMP_MIN} and {TIMESTAMP_MAX}")
        encoded = payload.encode(timestamps, values)
        self.put(name, encoded, payload.layout(encoded))

    def put(self, name: str, encoded: bytes, layout: Layout) -> None:
        """See LogChannel.put; the channel comes into being with its first records. Also raises BadChannel,
        TooManyChannels."""
        channel = self.channels.get(name)
        if channel is not None:
            channel.put(encoded, layout)
            return
        check_channel(name)
        limit = self._shared.settings.channels_max
        if len(self.channels) >= limit:
            raise TooManyChannels(f"the node has {limit} channels, the most it is configured for", {"limit": limit})
        channel = LogChannel(self._shared, name, self._shared.directory / CHANNELS / name)
        channel.put(encoded, layout)
        self.channels[name] = channel

    def commit(self) -> int:
        """Writes what the pass has brought; so many bytes. Raises NodeError if that is not possible: the node must
        stop."""
        touched = self._shared.touched
        written = 0
        if touched:
            for part in touched:
                try:
                    written += part.write()
                except Exception as error:
                    raise error if isinstance(error, NodeError) else NodeError(str(error)) from error
            touched.clear()
        return written

    @property
    def behind(self) -> float:
        """How much of the memory's second half is taken by records that are in no block: above 0 more come than blocks
        are made of, at 1 they are refused."""
        return 2 * self._shared.tail_bytes / self._shared.settings.tail_memory - 1

    @property
    def has_unsynced(self) -> bool:
        return bool(self._shared.unsynced or self._shared.new_names)

    # Work beside them.

    def take_sync(self) -> "SyncWork | None":
        """All that has been committed up to now. None: it is synced already, or never is. Raises OSError."""
        shared = self._shared
        if not self.has_unsynced or not shared.settings.syncs:
            return None
        tails, names = list(shared.unsynced), list(shared.new_names)
        shared.unsynced.clear()
        shared.new_names.clear()
        return SyncWork(shared, tails, names)

    @property
    def has_blocks_to_make(self) -> bool:
        return bool(self._shared.full) or len(self._shared.open) > OPEN_TAILS_MAX // 2

    def blocks_to_make(self) -> Iterator[Work]:
        """Of every part that has enough for a block; of those with open tails, when they are many, the ones that were
        not written to for the longest. To be carried out one after the other, or several at a time."""
        shared = self._shared
        for part in list(shared.full):
            if part in shared.full and part.is_at_rest:  # others may have been removed since the last was given
                del shared.full[part]
                if (work := part.take()) is not None:
                    yield work
        for part in list(shared.open)[: max(0, len(shared.open) - OPEN_TAILS_MAX // 2)]:
            if part.is_at_rest and (work := part.take(flush=True)) is not None:
                yield work

    def close_removed(self) -> Callable[[], None] | None:
        """What closes the tails that were removed, in a thread. None: there are none."""
        shared = self._shared
        if not shared.to_close:
            return None
        taken, shared.to_close = shared.to_close, []
        return partial(_close_all, shared.files, taken)

    def buckets_to_seal(self, now: int, after_s: float) -> Iterator[Work]:
        """Of every bucket whose span is over, and that was not written to, for so long. now: a timestamp.

        What is in tails becomes blocks first; the bucket is sealed when it is asked again. One with which that fails
        is put off. Raises OSError.
        """
        for channel in list(self.channels.values()):
            for bucket in [each for each in channel.buckets.values() if each.parts]:
                written_at = max(part.written_at for part in bucket.parts)
                is_over = bucket.span.end + after_s * 1e9 <= now and written_at + after_s <= monotonic()
                is_there = (
                    channel.buckets.get(bucket.span) is bucket and not channel.removed
                )  # since the last was given
                if not (is_over and is_there) or bucket.sealing or bucket.damaged:
                    continue
                if bucket.put_off_until > monotonic():
                    continue
                flushes = [part for part in bucket.parts if part.tails or part.entries]
                if not flushes:
                    try:
                        seal = SealWork(self._shared, channel, bucket, self._lock, self.discard)
                    except OSError:
                        bucket.put_off()
                        raise
                    yield seal
                    if seal.failed:
                        bucket.put_off()
                for part in flushes:
                    if part.is_at_rest and (flush := part.take(flush=True)) is not None:
                        yield flush
                        if flush.failed:
                            bucket.put_off()
                            break

    def retain(self, name: str, now: int, age_s: float | None = None, value_bytes: int | None = None) -> int:
        """Drops the oldest buckets of a channel: those that ended longer ago than an age, and those beyond a number of
        bytes of values. How many; at most RETAIN_BUCKETS at a time. Raises OSError."""
        channel = self.channels.get(name)
        dropped = 0
        while channel is not None and channel.spans and dropped < RETAIN_BUCKETS:
            bucket = channel.buckets[channel.spans[0]]
            too_old = age_s is not None and bucket.span.end + age_s * 1e9 <= now
            too_much = value_bytes is not None and channel.record_bytes > value_bytes and len(channel.spans) > 1
            at_rest = not bucket.sealing and all(part.is_at_rest or part.frozen for part in bucket.parts)
            if not (too_old or too_much) or not at_rest:
                break
            for path in channel.drop(bucket):
                self.discard(path)
            with suppress(OSError):  # others are in it
                self._shared.files.remove_directory(channel.directory / bucket.span.day)
            dropped += 1
        return dropped

    def note_time(self, now: int) -> None:
        """Kept for the next run, by which it may know that the clock has jumped. Raises OSError."""
        self.last_time = now
        self._shared.files.set_modified(self._shared.directory / SEALING_LOCK, now)

    def discard(self, path: Path) -> None:
        """A file or directory that nobody needs goes out of the way. Raises OSError, unless it is not there."""
        shared = self._shared
        self._removals += 1
        to = shared.directory / REMOVED / str(self._removals)
        try:
            shared.files.rename(path, to)
        except FileNotFoundError:
            return
        self._removed.append(to)
        shared.new_names[path.parent] = None

    def remove_channel(self, name: str) -> Iterator[None]:
        """Removes a channel that exists: it is gone for good when this returns, and its name is free. What it holds in
        memory it gives up in steps, to be drawn. Raises OSError: it is there as before.

        A thread may be making blocks of it: that goes on in files that nobody sees any more.
        """
        channel = self.channels[name]
        parts = [part for bucket in channel.buckets.values() for part in bucket.parts]
        with self._shared.names:
            self.discard(channel.directory)
            channel.removed = True
            for part in parts:
                part.drop_added()
        del self.channels[name]
        return _closed(parts)

    def removals(self) -> "RemovalWork | None":
        """Deletes what was discarded."""
        if not self._removed:
            return None
        taken, self._removed = self._removed[:REMOVALS_PER_WORK], self._removed[REMOVALS_PER_WORK:]
        return RemovalWork(self._shared.files, taken, self._removed)

    def close(self) -> None:
        """An ordered end, while no work is under way: tails are cut to their length and synced. Raises NodeError."""
        shared = self._shared
        parts = [
            part for channel in self.channels.values() for bucket in channel.buckets.values() for part in bucket.parts
        ]
        try:
            self.commit()
            for part in parts:
                part.cut_tail()
            if (work := self.take_sync()) is not None:
                work.run()
                work.finish()
        except OSError as error:
            raise NodeError(f"the records in {shared.directory} cannot be synced: {error}") from error
        finally:
            for part in parts:
                part.close()
            _close_all(shared.files, [*shared.to_close, self._lock])

    def tell(self, damage: Damage) -> None:
        """What a reader has passed over goes to root.log, once."""
        tell(self._shared, damage)

    def statistics(self) -> dict[str, int]:
        shared = self._shared
        return {
            "buckets": sum(len(channel.buckets) for channel in self.channels.values()),
            "open_tails": len(shared.open),
            "tail_bytes": shared.tail_bytes,
            "damages": shared.damages,
        }


class SyncWork:
    def __init__(self, shared: Shared, tails: list[Tail], names: list[Path]) -> None:
        """Takes descriptors of its own: the tails may be closed meanwhile. Raises OSError."""
        self._shared = shared
        self._names = names
        self._fds: list[int] = []
        for tail in tails:
            if tail.fd is not None:
                self._fds.append(shared.files.duplicate(tail.fd))
                if tail.ended:
                    tail.close()

    def run(self) -> None:
        """In a thread. Raises OSError: what was committed is perhaps not durable, and never will be; the node must
        stop."""
        files = self._shared.files
        try:
            for fd in self._fds:
                files.sync(fd)
            for directory in self._names:
                try:
                    files.sync_directory(directory)
                except FileNotFoundError:
                    log.debug("%s was removed meanwhile", directory)
        finally:
            for fd in self._fds:
                files.close(fd)
            self._fds = []

    def finish(self) -> None:
        pass


class RemovalWork:
    def __init__(self, files: Files, paths: list[Path], left: list[Path]) -> None:
        """left: gets what could not be deleted."""
        self._files = files
        self._paths = paths
        self._left = left

    def run(self) -> None:
        while self._paths:
            _delete(self._files, self._paths[0])
            del self._paths[0]

    def finish(self) -> None:
        self._left += self._paths[1:] + self._paths[:1]


def _closed(parts: list[Part]) -> Iterator[None]:
    for part in parts:
        while part.busy:
            yield
        part.close()
        yield


def _close_all(files: Files, descriptors: list[int]) -> None:
    for each in descriptors:
        files.close(each)


def _delete(files: Files, path: Path) -> None:
    """A file, or a directory with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        for name, _ in files.list(path):
            _delete(files, path / name)
        files.remove_directory(path)
    else:
        files.remove(path)


def _empty(files: Files, directory: Path) -> None:
    left = files.list(directory)
    if left:
        log.warning("%s: %d things were not deleted when the node ended; they are now", directory, len(left))
    for name, _ in left:
        _delete(files, directory / name)


def _lock(files: Files, path: Path) -> int:
    """Processes that seal hold it as well, so none of a node that was killed is still at work when this returns."""
    fd = files.create(path)
    until = monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > until:
                files.close(fd)
                raise
            sleep(0.01)
        else:
            return fd
