"""The journal of a node that runs: what its requests change is on disk before their answers leave.

    request   make_room   space on disk; DiskFull before anything has changed
              note        what was changed, a tuple in a list
    pass      commit      all that was noted, by one write(2)
    run       a task: in a thread it syncs, and cuts, syncs and closes segments that came to their end

            0      40            position             allocated
    segment ┌──────┬─────────────┬─────────────────────┐
            │header│ entries     │ zeros               │      at least HEADROOM_BYTES from position to allocated,
            └──────┴─────────────┴─────────────────────┘      or the disk is full

Space is allocated ahead, so whether the disk is full is known before a request changes anything. A change of a single
small record needs no counting: HEADROOM_BYTES is more than a pass can fill with those. Larger ones ask for room each,
and what the node keeps aside for the parts of large batches (reserves) is kept on the disk as well.
So what `note` takes, `commit` can write; if it fails in spite of that (a broken disk) the node stops with NodeError,
and the answers of that pass never leave.

What is written survives the end of the process, however it ends; what is synced survives the end of the machine's
power. Syncing is done off the loop: with `interval` every fsync_interval, with `always` as soon as something was
written. Then the answers to writes are held (Service.holds_writes) until a sync is done that began after they were
committed; passes that come meanwhile share the next one. Segments are synced in their order.
"""

import errno
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import trio

from nodes.dht.journal_files import CLOSED_NAME, Files, segment_path
from nodes.dht.journal_format import HEADER_BYTES, Change, Encoder, Header, change_bytes, new_seed
from swarm.core.errors import DiskFull
from swarm.core.limits import MIB
from swarm.core.node import NodeError
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget

log = logging.getLogger(__name__)

STEP_BYTES = 4 * MIB  # allocated at a time: 0.03 ms on ext4, 0.8 ms on tmpfs, measured
HEADROOM_BYTES = 4 * MIB  # more than a pass can change by single records whose values are small
SMALL_BYTES = 512  # a value: with key and channel 1.2 KiB, of which a pass would have to take 3,400 in its 3 ms
TRY_AGAIN_S = 0.2  # how often a node with a full disk looks whether there is room again
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})  # it may pass; others stop the node

Fsync = Literal["never", "interval", "always"]


class NoJournal:
    """In the place of a journal where there is none."""

    unchecked_bytes = 1 << 62
    note: Callable[[Change], None] = deque[Change](maxlen=0).append

    def make_room(self, channel: str, size: int, records: int = 1, *, kept_aside: bool = False) -> None:
        pass


class Journal:
    def __init__(
        self,
        service: Service,
        directory: Path,
        budget: MemoryBudget,
        *,
        last_number: int = 0,
        last_bytes: int = 0,
        segments: Mapping[int, int] | None = None,
        fsync: Fsync = "interval",
        fsync_interval_s: float = 1.0,
        segment_bytes: int = 64 * MIB,
        files: Files | None = None,
    ) -> None:
        """Begins a segment behind the last one there is, if the disk has room for it. Raises NodeError.

        last_number, last_bytes: number and length of the last segment, 0 for none. segments: length of each that is
        there. segment_bytes: a segment that has grown past it is followed by another.
        """
        self.number = last_number
        self._service = service
        self._directory = directory
        self._budget = budget
        self._files = files or Files()
        self._fsync = fsync
        self._sync_every_s = fsync_interval_s if fsync == "interval" else float("inf")
        self._segment_bytes = segment_bytes
        self._segments = dict(segments or {})
        self.first_undumped = 0
        """Number of the first segment that no dump makes unnecessary."""
        self._changes: list[Change] = []
        self.note = self._changes.append
        """Takes a change that was made; it is committed with the pass. Every request of a write comes here."""
        self.unchecked_bytes = -1
        """A change with a value of at most so many bytes needs no make_room."""
        self._encoder = Encoder(bytes(8))
        self._fd: int | None = None
        self._position = last_bytes
        self._allocated = 0
        self._expected = 0  # bytes of this pass's changes that make_room has allowed
        self._next_step = 0  # position at which more is to be allocated, or the next segment to be begun
        self._rotate_at = segment_bytes
        self.disk_full = False
        self.times_full = 0
        self._try_at = 0.0
        self._ended: list[tuple[int, int]] = []  # segments to be cut, synced and closed: descriptor, length
        self._unsynced = False
        self._new_names = False  # the directory is to be synced
        self._remove_before = 0
        self._wanted = trio.Event()  # something is to be done before the interval is over
        self._failed = False
        self._closed = False
        self.syncs = 0
        self.longest_sync_s = 0.0
        with suppress(DiskFull):  # was told; the first write that finds room begins the segment
            self._allocate(HEADROOM_BYTES)

    # What requests and passes call.

    def make_room(self, channel: str, size: int, records: int = 1, *, kept_aside: bool = False) -> None:
        """Before a change is made: space for it. size: bytes of its keys and values. kept_aside: it was a part of what
        is reserved, until now. Raises DiskFull."""
        if self._fd is None:
            self._allocate(HEADROOM_BYTES)
        expected = self._expected + change_bytes(channel, records, size)
        try:
            self._allocate(self._position + expected + HEADROOM_BYTES + self._budget.reserved)
        except DiskFull:  # nothing is written without asking then: of what is kept aside the headroom is not missing
            if not kept_aside or self._position + expected > self._allocated:
                raise
        self._expected = expected

    def commit(self) -> None:
        """Writes what was noted. Raises NodeError if that is not possible: the node must stop."""
        self._expected = 0
        if self._changes:
            entry = self._encoder.encode(self._changes)
            self._changes.clear()
            self._write(entry)
            self._position += len(entry)
            self._unsynced = True
            if self._position > self._next_step:
                self._step()
        if self._service.held:
            self._wanted.set()

    def rotate(self) -> int:
        """Begins a new segment, unless nothing is in the present one. Its number: all changes up to now are in
        segments before it. Raises DiskFull."""
        self.commit()
        if self._fd is None:
            self._allocate(HEADROOM_BYTES)
        elif self._position > HEADER_BYTES:
            try:
                self._begin_segment()
            except OSError as error:
                raise self._problem("begin a segment", error) from error
        return self.number

    def remove_before(self, number: int) -> None:
        """Segments with lower numbers are no longer needed, and are removed soon."""
        self._remove_before = min(max(number, self._remove_before), self.number)
        self._wanted.set()

    def bytes_since(self, number: int) -> int:
        """Length of all segments from this one on."""
        closed = sum(size for each, size in self._segments.items() if each >= number)
        return closed + (self._position if self._fd is not None else 0)

    def statistics(self) -> dict[str, Any]:
        return {
            "journal_bytes": self.bytes_since(0),
            "journal_segments": len(self._segments) + (self._fd is not None),
            "journal_undumped_bytes": self.bytes_since(self.first_undumped),
            "journal_disk_full": int(self.disk_full),
            "journal_times_full": self.times_full,
            "journal_syncs": self.syncs,
            "journal_longest_sync_s": round(self.longest_sync_s, 6),
        }

    # The task beside the requests.

    async def run(self) -> None:
        """Syncs, and ends segments, as long as the node runs; then closes the journal. Raises NodeError."""
        try:
            while True:
                with trio.move_on_after(self._sync_every_s):
                    await self._wanted.wait()
                self._wanted = trio.Event()
                held = self._service.take_held()
                try:
                    await self._sync()
                except OSError as error:
                    self._failed = True
                    raise NodeError(f"the journal in {self._directory} cannot be synced: {error}") from error
                self._service.release_held(held)
                await self._remove_old()
        finally:
            self._close()

    async def _sync(self) -> None:
        """All that has been committed before."""
        ended, self._ended = self._ended, []
        fd = self._fd if self._unsynced and self._fsync != "never" else None
        new_names, self._new_names = self._new_names, False
        self._unsynced = False
        if ended or fd is not None:
            await trio.to_thread.run_sync(self._sync_files, ended, fd, new_names)

    async def _remove_old(self) -> None:
        for number in sorted(each for each in self._segments if each < self._remove_before):
            try:
                await trio.to_thread.run_sync(self._files.remove, segment_path(self._directory, number))
            except OSError as error:
                log.error("a segment that is not needed any more cannot be removed: %s", error)
                return
            del self._segments[number]

    def _sync_files(self, ended: list[tuple[int, int]], fd: int | None, new_names: bool) -> None:
        """In a thread. Segments in their order: one never is on disk while the end of the one before it is not."""
        files, syncs = self._files, self._fsync != "never"
        for each, size in ended:
            files.cut(each, size)
            if syncs:
                files.sync(each)
            files.close(each)
        begun = monotonic()
        if fd is not None:
            files.sync(fd)
            self.syncs += 1
            self.longest_sync_s = max(self.longest_sync_s, monotonic() - begun)
        if new_names and syncs:
            files.sync_directory(self._directory)

    def _close(self) -> None:
        """The node ends. What was committed is cut to its length and synced, unless that has failed before."""
        self._closed = True
        has_entries = self._fd is not None and self._position > HEADER_BYTES
        if self._fd is not None:
            self._ended.append((self._fd, self._position))
            self._fd = None
        if self._failed:
            for fd, _ in self._ended:
                with suppress(OSError):
                    self._files.close(fd)
            return
        try:
            self._sync_files(self._ended, None, self._new_names)
        except OSError as error:
            raise NodeError(f"the journal in {self._directory} cannot be synced: {error}") from error
        if has_entries:
            self._note_end()

    def _note_end(self) -> None:
        """So that the next start finds out if the last segment is not any more what it was; it goes without, too."""
        files, syncs = self._files, self._fsync != "never"
        path = self._directory / CLOSED_NAME
        try:
            fd = files.create(path)
            try:
                files.write(fd, b"%d %d\n" % (self.number, self._position))
                if syncs:
                    files.sync(fd)
            finally:
                files.close(fd)
            if syncs:
                files.sync_directory(self._directory)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)

    # Inside.

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            self._check_open()
        assert self._fd is not None, "a change was noted without make_room"
        try:
            written = self._files.write(self._fd, data)
            while written < len(data):
                written += self._files.write(self._fd, data[written:])
        except OSError as error:
            self._failed = True
            raise NodeError(
                f"the journal {segment_path(self._directory, self.number)} cannot be written: {error}"
            ) from error

    def _check_open(self) -> None:
        """Connections go on for a moment after a sync has failed: nothing that they write may be acknowledged."""
        if self._closed:
            raise NodeError(f"the journal in {self._directory} is closed: what comes now cannot be written")

    def _step(self) -> None:
        """The segment has grown: makes room ahead, and begins the next segment where it is time."""
        if self._position >= self._rotate_at and not self._budget.reserved:
            try:
                self._begin_segment()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise self._problem("begin a segment", error) from error
                self._rotate_at = self._position + STEP_BYTES  # until then this one goes on
        with suppress(DiskFull):  # was told; the next write is refused
            self._allocate(self._position + HEADROOM_BYTES + self._budget.reserved)

    def _allocate(self, wanted: int) -> None:
        """Makes the segment reach up to this offset at least, and begins one if there is none. Raises DiskFull."""
        if wanted > self._allocated or self._fd is None:
            self._check_open()
            if monotonic() < self._try_at:
                raise self._refusal()
            try:
                if self._fd is None:
                    self._begin_segment()
                assert self._fd is not None
                if (missing := wanted - self._allocated) > 0:
                    size = -(-missing // STEP_BYTES) * STEP_BYTES
                    self._files.allocate(self._fd, self._allocated, size)
                    self._allocated += size
            except OSError as error:
                raise self._problem("allocate space", error) from error
            self._try_at = 0.0
        if self.disk_full:
            self.disk_full = False
            log.warning("there is room on the disk of %s again: writes are accepted", self._directory)
        self.unchecked_bytes = SMALL_BYTES
        self._set_next_step()

    def _set_next_step(self) -> None:
        self._next_step = min(self._rotate_at - 1, self._allocated - HEADROOM_BYTES - self._budget.reserved)

    def _begin_segment(self) -> None:
        """Whole or not at all. Raises OSError.

        At the start a file with a header and nothing else may be there: a segment that was begun and not used. It is
        never removed, for a dump may say that the journal goes on with it.
        """
        header = Header(self.number + 1, self._position, new_seed())
        path = segment_path(self._directory, header.number)
        fd = self._files.create(path)
        try:
            if self._files.write(fd, header.pack()) != HEADER_BYTES:
                raise OSError(errno.ENOSPC, "No space left on device")
            allocated = STEP_BYTES + -(-self._budget.reserved // STEP_BYTES) * STEP_BYTES
            self._files.allocate(fd, HEADER_BYTES, allocated)
        except OSError:
            self._files.close(fd)
            if self._fd is not None:
                self._files.remove(path)
            raise
        if self._fd is not None:
            self._segments[self.number] = self._position
            self._ended.append((self._fd, self._position))
            self._wanted.set()
        self._fd = fd
        self.number = header.number
        self._encoder = Encoder(header.seed)
        self._position = HEADER_BYTES
        self._allocated = HEADER_BYTES + allocated
        self._rotate_at = self._segment_bytes
        self._set_next_step()
        self._new_names = self._unsynced = True

    def _problem(self, what: str, error: OSError) -> Exception:
        """What is raised because of it: DiskFull, or the end of the node."""
        if error.errno not in NO_ROOM:
            self._failed = True
            return NodeError(f"the journal in {self._directory} cannot {what}: {error}")
        self._try_at = monotonic() + TRY_AGAIN_S
        needed = self._position + self._expected + HEADROOM_BYTES + self._budget.reserved
        has_headroom = self._fd is not None and needed <= self._allocated
        if not self.disk_full and not has_headroom:  # otherwise there is room for small changes still
            self.disk_full = True
            self.unchecked_bytes = -1
            self.times_full += 1
            log.error(
                "the disk of %s is full (%s): writes are refused until there is room", self._directory, error.strerror
            )
        return self._refusal()

    def _refusal(self) -> DiskFull:
        return DiskFull("disk full: the node has no room for its journal; reads go on, writes when there is room again")
