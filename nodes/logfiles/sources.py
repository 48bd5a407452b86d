"""What is merged: runs of records in the order of time, from files and memory, and positions in them. See merging."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nodes.logfiles.block_format import BadHeader, BlockHeader
from nodes.logfiles.block_index import BlockIndex, SealedIndexes, read_block, read_file_header, walk
from nodes.logfiles.file_names import Span
from nodes.logfiles.files import Files, NotAFile, naming
from swarm.logfiles.payload import Records

Key = tuple[int, int, int]
"""Of a record: its timestamp, the number of its source, its number in the source."""


@dataclass(slots=True)
class BlockFile:
    """An open file with blocks."""

    files: Files
    path: Path
    fd: int
    seed: bytes
    index: BlockIndex

    def read(self, number: int) -> tuple[BlockHeader, bytes]:
        """Raises BadHeader, BadPayload, OSError."""
        with naming(self.path):
            return read_block(self.files, self.fd, self.seed, self.index.offsets[number], self.index.sizes[number])


def open_block_file(
    files: Files, path: Path, span: Span, *, sealed: bool, indexes: SealedIndexes | None = None
) -> BlockFile:
    """A file, and where its blocks are. indexes: remembers that. Raises BadHeader, OSError."""
    try:
        fd = files.open(path)
    except NotAFile as error:
        raise BadHeader(error.what) from error
    try:
        with naming(path):
            header = read_file_header(files, fd)
        if header.sealed != sealed or header.span != span:
            raise BadHeader("name that does not match the content")
        index = indexes.get(path, header.seed) if indexes else None
        if index is None:
            with naming(path):
                index = walk(files, fd, path, header.seed)
            if indexes:
                indexes.add(path, header.seed, index)
        return BlockFile(files, path, fd, header.seed, index)
    except BaseException:
        files.close(fd)
        raise


class Source(NamedTuple):
    """last_run: how many of its records have the last timestamp. file, number: the block; file None: in memory."""

    first: int
    last: int
    seq: int
    records: int
    last_run: int
    file: BlockFile | None
    number: int
    read: Callable[[], Records] | None

    @property
    def begin(self) -> Key:
        return self.first, self.seq, 0

    @property
    def end(self) -> Key:
        return self.last, self.seq, self.records


def block_sources(file: BlockFile, count: int, first: int, end: int, seq: int) -> list[Source]:
    """Of the first `count` blocks of a file those that have records with first <= timestamp < end, perhaps. The first
    gets the number seq, the others follow."""
    index = file.index
    spans = zip(index.firsts[:count], index.lasts[:count], strict=True)
    numbers = [number for number, (low, high) in enumerate(spans) if high >= first and low < end]
    return [
        Source(
            index.firsts[each],
            index.lasts[each],
            seq + each,
            index.records[each],
            index.last_runs[each],
            file,
            each,
            None,
        )
        for each in numbers
    ]


def cut(timestamps: Sequence[int], seq: int, key: Key) -> int:
    """How many records of this source are before a key."""
    timestamp, other, number = key
    if seq == other:
        return number
    return bisect_right(timestamps, timestamp) if seq < other else bisect_left(timestamps, timestamp)
