"""What does not fit into a ring waits behind it in files, first in, first out. docs/formats/queue.md, *Overflow files*.

              moved   offset of reading        position             allocated
    first     ┌──────┬──────────────┐
              │//////│ entries      │     … further files …
    last                             ┌────────┬─────────────────────┐
                                     │entries │ zeros               │
                                     └────────┴─────────────────────┘

    push      make_room   space on disk; DiskFull before anything has changed
              append      in a list
    pass      commit      all that was appended, by one write
    later     read        the next entries, joined, which the queue puts into its ring
              forget      what was read is committed there: files that hold nothing else are removed

Reading and writing go on at different places, mostly of different files: no mapping, each reads what it needs.
"""

import errno
import io
import logging
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from nodes.queue.queue_files import Files, OpenFile, problem
from nodes.queue.ring_format import (
    ALIGNMENT,
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    BadHeader,
    Entry,
    OverflowHeader,
    bits_bytes,
    entry_bytes,
    new_seed,
    pack_entry_header,
    seed_number,
    unpack_entry_header,
)
from swarm.core.limits import BATCH_BYTES, BATCH_RECORDS_MAX, MIB
from swarm.core.node import NodeError

log = logging.getLogger(__name__)

FILE_BYTES = 16 * MIB  # a file that has grown past it is followed by another: so much may wait to be freed
STEP_BYTES = 1 * MIB  # allocated at a time
OVERFLOW_NAME = re.compile(r"(.+)\.([0-9]{16})\.overflow")
READ_BYTES = BATCH_BYTES  # read at a time, for small entries


@dataclass
class _File:
    """One that is there. end: of its last entry."""

    number: int
    seed: bytes
    end: int


class Ends(NamedTuple):
    """Of what waits: sequence of the first record and of the next to be pushed, bytes of all records before them."""

    first_sequence: int
    first_bytes: int
    next_sequence: int
    next_bytes: int


@dataclass(frozen=True)
class Waiting:
    """Entries that were read, as one. sequence: of the first record. before: bytes of all records before it."""

    count: int
    sequence: int
    before: int
    lengths: bytes
    data: bytes


def overflow_path(ring: Path, number: int) -> Path:
    return ring.with_name(f"{ring.name.removesuffix('.ring')}.{number:016}.overflow")


def overflow_numbers(ring: Path) -> list[int]:
    """Of the overflow files behind a ring, in order. Raises OSError."""
    matches = (OVERFLOW_NAME.fullmatch(path.name) for path in ring.parent.iterdir())
    return sorted(int(match[2]) for match in matches if match and f"{match[1]}.ring" == ring.name)


def rename_overflow(ring: Path, to: Path, files: Files) -> None:
    """Those behind a ring, from the last to the first. Raises OSError."""
    for number in reversed(overflow_numbers(ring)):
        with suppress(FileNotFoundError):  # not needed any more, and removed by the thread that syncs
            files.rename(overflow_path(ring, number), overflow_path(to, number))


class Overflow:
    def __init__(self, ring: Path, files: Files, *, syncs: bool = True, file_bytes: int = FILE_BYTES) -> None:
        """syncs: whether sync will be called."""
        self.ring = ring
        self._files = files
        self._syncs = syncs
        self._file_bytes = file_bytes
        self._there: deque[_File] = deque()
        self._index = 0  # of the file that is read; those before it have moved
        self._reading = HEADER_BYTES  # offset in it
        self._chunk = b""  # of it
        self._chunk_at = 0
        self._out: OpenFile | None = None  # the last file, if it is written to
        self._number = 0  # of the last
        self._position = self._allocated = 0  # in it, what is not written yet included
        self._pieces: list[bytes] = []  # to be written
        self._ended: list[OpenFile] = []  # to be synced and closed
        self._moved: list[int] = []  # files to be removed when the ring is synced
        self._new_names = False
        self.size = 0
        """Bytes of what waits, written or not."""
        self.unsynced = False

    # At the start.

    def open(self, next_sequence: int) -> Ends | None:
        """Finds the files that are there. next_sequence: what is below it has moved. None where nothing waits. Raises
        NodeError."""
        try:
            for number in overflow_numbers(self.ring):
                self._number = number
                self._find(number)
            last = next((entry for file in reversed(self._there) if (entry := self._find_end(file))), None)
            self.size = sum(each.end - HEADER_BYTES for each in self._there)
            while (first := self._next()) and first.end_sequence <= next_sequence:
                self._pass(first.end)
            self.forget()
        except OSError as error:
            raise NodeError(f"the overflow files of {self.ring} cannot be read: {error}") from error
        if first is None or last is None:
            return None
        return Ends(first.sequence, first.before, last.end_sequence, last.before + last.size)

    def _find(self, number: int) -> None:
        path = overflow_path(self.ring, number)
        with path.open("rb") as file:
            data = file.read(HEADER_BYTES)
            size = file.seek(0, io.SEEK_END)
        try:
            header = OverflowHeader.unpack(data)
            if header.number != number:
                raise BadHeader(f"it says that its number is {header.number}")
        except BadHeader as error:
            if data.strip(b"\0"):
                log.error("%s is damaged, and left as it is: %s", path, error)
            else:
                self._files.remove(path)  # was begun, and nothing written to it
            return
        self._there.append(_File(number, header.seed, size))

    def _find_end(self, file: _File) -> Entry | None:
        """Cuts off what is no entry. The last one; None where there is none."""
        path = overflow_path(self.ring, file.number)
        data = path.read_bytes()
        last, end = None, HEADER_BYTES
        while entry := _next_entry(data, 0, file.seed, end):
            if _is_sound(data[entry.lengths_at : entry.end], entry, file.seed):
                last = entry
            elif _next_entry(data, 0, file.seed, entry.end) is None:
                break
            end = entry.end
        if data[end:].strip(b"\0"):
            log.warning("%s: the last %d bytes are not what was written, and are cut off", path, file.end - end)
        fd = self._files.open(path)
        try:
            self._files.cut(fd, end)
        finally:
            self._files.close(fd)
        file.end = end
        return last

    # Writing.

    def make_room(self, size: int) -> None:
        """Before an entry of this size is appended: space for it on disk. Raises DiskFull, or NodeError."""
        wanted = self._position + size
        if self._out is None:
            self._begin_file(HEADER_BYTES + size)
        elif wanted > self._allocated:
            try:
                self._files.allocate(self._out.fd, self._allocated, wanted + STEP_BYTES - self._allocated)
            except OSError as error:
                raise problem(overflow_path(self.ring, self._number), "be made longer", error) from error
            self._allocated = wanted + STEP_BYTES

    def append(self, count: int, sequence: int, before: int, lengths: bytes, data: bytes) -> None:
        seed = self._there[-1].seed
        number = seed_number(seed)
        content = lengths + data
        header = pack_entry_header(
            seed, number, count, sequence, self._position, before, len(data), xxh3_64_intdigest(content, number)
        )
        size = entry_bytes(count, len(data))
        bits = bytes(bits_bytes(count))
        self._pieces += (header, bits, content, bytes(size - len(header) - len(bits) - len(content)))
        self._position += size
        self.size += size

    def commit(self) -> None:
        """Writes what was appended. Raises NodeError."""
        if not self._pieces:
            return
        assert self._out
        file = self._there[-1]
        data = b"".join(self._pieces)
        self._pieces.clear()
        path = overflow_path(self.ring, self._number)
        try:
            while data:
                written = self._files.write(self._out.fd, [data], file.end)
                file.end += written
                data = data[written:]
        except OSError as error:
            raise NodeError(f"{path} cannot be written: {error}") from error
        self.unsynced = True
        if file.end >= self._file_bytes:
            self._end_file()

    def _begin_file(self, size: int) -> None:
        number, seed = self._number + 1, new_seed()
        path = overflow_path(self.ring, number)
        fd = -1
        try:
            fd = self._files.create(path)
            self._files.allocate(fd, 0, size + STEP_BYTES)
            if self._files.write(fd, [OverflowHeader(number, seed).pack()], 0) != HEADER_BYTES:
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            if fd >= 0:
                self._files.close(fd)
                with suppress(OSError):
                    self._files.remove(path)
            raise problem(path, "be created", error) from error
        self._out = OpenFile(fd, self._files)
        self._number = number
        self._position = HEADER_BYTES
        self._allocated = size + STEP_BYTES
        self._there.append(_File(number, seed, HEADER_BYTES))
        self.unsynced = self._new_names = True

    def _end_file(self) -> None:
        out = self._out
        assert out
        with suppress(OSError):  # zeros at its end are passed over
            self._files.cut(out.fd, self._there[-1].end)
        if self._syncs:
            self._ended.append(out)  # from here on a thread that syncs may close it; before, it must find it in _out
        else:
            out.close()
        self._out = None

    # Reading.

    def read(self, room: int) -> Waiting | None:
        """The next entries, as one that takes at most so many bytes in a ring; None where nothing waits that was
        committed, or the next does not fit. Raises NodeError."""
        try:
            return self._read(room)
        except OSError as error:
            raise NodeError(f"the overflow files of {self.ring} cannot be read: {error}") from error

    def _read(self, room: int) -> Waiting | None:
        lengths: list[bytes] = []
        data: list[bytes] = []
        count = size = sequence = before = 0
        while entry := self._next():
            if not lengths:
                sequence, before = entry.sequence, entry.before
            if entry.sequence != sequence + count or entry_bytes(count + entry.records, size + entry.size) > room:
                break
            if lengths and (count + entry.records > BATCH_RECORDS_MAX or size + entry.size > BATCH_BYTES):
                break
            content = self._bytes(entry.lengths_at, entry.content_bytes)
            if _is_sound(content, entry, self._there[self._index].seed):
                lengths.append(content[: 4 * entry.records])
                data.append(content[4 * entry.records :])
                count += entry.records
                size += entry.size
            elif lengths:
                break
            else:
                self._tell(entry.position, "an entry is not what was written")
            self._pass(entry.end)
        return Waiting(count, sequence, before, b"".join(lengths), b"".join(data)) if lengths else None

    def _next(self) -> Entry | None:
        """The next entry with a sound header."""
        while self._index < len(self._there):
            file = self._there[self._index]
            if self._reading < file.end:
                header = self._bytes(self._reading, ENTRY_HEADER_BYTES)
                entry = unpack_entry_header(header, file.seed, seed_number(file.seed), self._reading)
                if entry and entry.end <= file.end:
                    return entry
                rest = self._bytes(self._reading, file.end - self._reading)
                entry = _next_entry(rest, self._reading, file.seed, self._reading)
                if rest.strip(b"\0"):
                    self._tell(self._reading, "no entry begins there")
                self._pass(entry.position if entry else file.end)
            elif self._index == len(self._there) - 1 and self._out:
                return None
            else:
                self._index += 1
                self._reading = HEADER_BYTES
                self._chunk = b""
        return None

    def _bytes(self, offset: int, size: int) -> bytes:
        """Of the file that is read."""
        start = offset - self._chunk_at
        if start < 0 or start + size > len(self._chunk):
            file = self._there[self._index]
            fd = self._files.open(overflow_path(self.ring, file.number))
            try:
                self._chunk = self._files.read(fd, min(max(size, READ_BYTES), file.end - offset), offset)
            finally:
                self._files.close(fd)
            self._chunk_at, start = offset, 0
        return self._chunk[start : start + size]

    def _pass(self, offset: int) -> None:
        self.size -= offset - self._reading
        self._reading = offset

    def _tell(self, offset: int, what: str) -> None:
        log.error("%s, offset %d: %s", overflow_path(self.ring, self._there[self._index].number), offset, what)

    # What is not needed any more.

    def forget(self) -> None:
        """What was read is committed in the ring."""
        if self._out and not self.size and not self._pieces and self._reading > HEADER_BYTES:
            self._end_file()
            self._next()
        for _ in range(self._index):
            self._moved.append(self._there.popleft().number)
        self._index = 0
        if self._moved and not self._syncs:
            self.remove(self._take_moved())
        elif self._moved:
            self.unsynced = True

    def _take_moved(self) -> list[int]:
        return [self._moved.pop() for _ in range(len(self._moved))]

    def remove(self, numbers: list[int]) -> None:
        for number in numbers:
            try:
                self._files.remove(overflow_path(self.ring, number))  # as it is called now
            except OSError as error:
                log.error("an overflow file that is not needed any more cannot be removed: %s", error)

    def sync(self) -> list[int]:
        """In a thread, while all else goes on. What is to be removed when the ring is synced, too. Raises OSError."""
        self.unsynced = False
        moved = self._take_moved()
        if out := self._out:  # before those that ended: it may become one of them now
            out.sync()
        while self._ended:
            ended = self._ended.pop()
            ended.sync()
            ended.close()
        if self._new_names:
            self._new_names = False
            self._files.sync_directory(self.ring.parent)
        return moved

    # Their names.

    def rename(self, ring: Path) -> None:
        """Raises OSError."""
        rename_overflow(self.ring, ring, self._files)
        self.ring = ring

    def close(self) -> None:
        for each in [*self._ended, *([self._out] if self._out else [])]:
            each.close()
        self._ended, self._out = [], None

    def remove_all(self) -> None:
        self.close()
        self.remove(overflow_numbers(self.ring))


def _is_sound(content: bytes, entry: Entry, seed: bytes) -> bool:
    return xxh3_64_intdigest(content[: entry.content_bytes], seed_number(seed)) == entry.content_checksum


def _next_entry(data: bytes, base: int, seed: bytes, offset: int) -> Entry | None:
    """The first with a sound header from this offset of the file on. data: what the file has from `base` on."""
    found = data.find(seed[:4], offset - base)
    while found >= 0:
        if (base + found) % ALIGNMENT == 0:
            header = data[found : found + ENTRY_HEADER_BYTES]
            entry = unpack_entry_header(header, seed, seed_number(seed), base + found)
            if entry and entry.end <= base + len(data):
                return entry
        found = data.find(seed[:4], found + 1)
    return None
