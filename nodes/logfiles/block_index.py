"""Where the blocks of one file are, and what they say of themselves: their headers, without the payloads.

A file is walked from header to header, so finding out what is in 1 GiB of blocks reads some 10,000 headers. What is
kept is 38 bytes a block.
"""

import mmap
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from nodes.logfiles.block_format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    BadHeader,
    BlockHeader,
    FileHeader,
    check_stored,
    next_block,
)
from nodes.logfiles.files import Files, read_all
from swarm.logfiles.payload import BadPayload

INDEXED_BLOCKS_MAX = 1 << 18  # of sealed files, that are remembered: 10 MB of memory


@dataclass(frozen=True, slots=True)
class Damage:
    path: Path
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}, offset {self.offset}: {self.what}"


@dataclass(slots=True)
class BlockIndex:
    """Of one file, in its order. Only added to, so a part from the front is a picture of an earlier time."""

    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("I"))
    """Bytes of each block with its header."""
    firsts: "array[int]" = field(default_factory=lambda: array("q"))
    lasts: "array[int]" = field(default_factory=lambda: array("q"))
    records: "array[int]" = field(default_factory=lambda: array("I"))
    last_runs: "array[int]" = field(default_factory=lambda: array("H"))
    tails: "array[int]" = field(default_factory=lambda: array("I"))
    records_total: int = 0
    value_bytes: int = 0
    """Of all values."""
    end: int = FILE_HEADER_BYTES
    """Where the last one ends."""
    position: tuple[int, int] = (0, 0)
    """Number of a tail and the offset in it: up to where records are in these blocks."""
    damages: list[Damage] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, offset: int, header: BlockHeader) -> None:
        """Of a block that begins at this offset."""
        self.offsets.append(offset)
        self.sizes.append(header.bytes)
        self.firsts.append(header.first)
        self.lasts.append(header.last)
        self.records.append(header.records)
        self.last_runs.append(header.last_run)
        self.tails.append(header.tail)
        self.records_total += header.records
        self.value_bytes += header.value_bytes
        self.end = offset + header.bytes
        self.position = max(self.position, (header.tail, header.tail_offset))


class SealedIndexes:
    """The indexes of the sealed files that were read last. A path alone does not say which file it is: a bucket that
    was removed and filled with the same anew has a file of the same name, with another seed."""

    def __init__(self) -> None:
        self._found: OrderedDict[Path, tuple[bytes, BlockIndex]] = OrderedDict()
        self._blocks = 0
        self._lock = Lock()

    def get(self, path: Path, seed: bytes) -> BlockIndex | None:
        """Of the file with this path and seed."""
        with self._lock:
            found = self._found.get(path)
            if found is None or found[0] != seed:
                return None
            self._found.move_to_end(path)
            return found[1]

    def add(self, path: Path, seed: bytes, index: BlockIndex) -> None:
        with self._lock:
            if (before := self._found.pop(path, None)) is not None:
                self._blocks -= len(before[1]) + 1
            self._found[path] = seed, index
            self._blocks += len(index) + 1
            while self._blocks > INDEXED_BLOCKS_MAX and len(self._found) > 1:
                self._blocks -= len(self._found.popitem(last=False)[1][1]) + 1


def read_file_header(files: Files, fd: int) -> FileHeader:
    """Raises BadHeader, OSError."""
    return FileHeader.unpack(read_all(files, fd, FILE_HEADER_BYTES, 0))


def walk(files: Files, fd: int, path: Path, seed: bytes, size: int | None = None) -> BlockIndex:
    """The complete blocks of a file, by their headers. What is not one is noted as damage, the end of the file too.

    size: of what is looked at, from the front; by default the whole file. Raises OSError.
    """
    index = BlockIndex()
    size = files.size(fd) if size is None else size
    offset = FILE_HEADER_BYTES
    while offset < size:
        try:
            header = BlockHeader.unpack(read_all(files, fd, BLOCK_HEADER_BYTES, offset), seed)
            if offset + header.bytes > size:
                raise BadHeader(
                    f"truncated payload: {size - offset - BLOCK_HEADER_BYTES} bytes of {header.stored_bytes}"
                )
        except BadHeader as error:
            index.damages.append(Damage(path, offset, str(error)))
            offset = _go_on(files, fd, size, seed, offset)
        else:
            index.add(offset, header)
            offset += header.bytes
    return index


def _go_on(files: Files, fd: int, size: int, seed: bytes, offset: int) -> int:
    """Where the next sound header behind this offset is; the file's end if there is none."""
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as data:
        found = next_block(data, seed, offset + 1)
    return size if found is None else min(found, size)


def read_block(files: Files, fd: int, seed: bytes, offset: int, size: int) -> tuple[BlockHeader, bytes]:
    """Header and payload as stored, whose checksums are right. Raises BadHeader, BadPayload, OSError."""
    header = BlockHeader.unpack(read_all(files, fd, BLOCK_HEADER_BYTES, offset), seed)
    stored = read_all(files, fd, size - BLOCK_HEADER_BYTES, offset + BLOCK_HEADER_BYTES)  # by itself: it is not copied
    check_stored(header, stored)
    return header, stored


def last_sound(files: Files, fd: int, index: BlockIndex, seed: bytes, first_tail: int) -> int:
    """How many blocks of a log, from the front, are to be kept when the node starts.

    A block whose records are in a tail that is still there was perhaps not synced when the machine's power ended: its
    payload is read, and the first that is damaged ends the log. first_tail: number of the first tail that is there.
    """
    for number in range(len(index)):
        if index.tails[number] >= first_tail:
            try:
                read_block(files, fd, seed, index.offsets[number], index.sizes[number])
            except (BadHeader, BadPayload):
                return number
    return len(index)
