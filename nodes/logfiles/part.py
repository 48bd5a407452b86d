"""The files of one generation of a bucket that is not sealed: its tails, and the log of its blocks.

    put      make_room   space in the tail; DiskFull before anything has changed
             add         the records, encoded
    pass     write       all that was added, by one write(2); from then on they are entries, in memory and in the tail
    thread   BlockWork   entries become blocks, some 256 KiB each, appended to the log
    pass     finish      the entries leave the memory

A part's records in the order in which they came: the blocks of its log, then its entries. Entries that a BlockWork has
taken stay where they are until it is finished, so readers find each record once at any moment. What the log's last
block says, number of a tail and offset in it, is the same border on disk.

A tail is removed when all of it is in blocks and the log is synced. One that has grown is followed by the next;
`flush` ends it at any size.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from nodes.logfiles.block_format import BLOCK_BYTES, BlockHeader, FileHeader, new_seed, pack_block
from nodes.logfiles.block_index import BlockIndex
from nodes.logfiles.entries import Entry, block_payload, groups, one, together
from nodes.logfiles.file_names import DAMAGED_SUFFIX, FileName, Span
from nodes.logfiles.files import Piece, naming, write_all
from nodes.logfiles.shared import Shared
from nodes.logfiles.tail import TAIL_BYTES, Tail
from nodes.logfiles.tail_format import ENTRY_BYTES, entries_bytes, entry_header
from swarm.core.limits import MIB
from swarm.logfiles import payload
from swarm.logfiles.payload import RECORD_BYTES, Codec, Columns

log = logging.getLogger(__name__)

WORK_BYTES = 4 * MIB  # of records that one BlockWork takes: some 20 ms of a thread
JOINED_BYTES = (
    ENTRY_BYTES // 4
)  # entries below it are joined in memory, so that a tail of single records is few objects


class Part:
    def __init__(self, shared: Shared, channel: Path, span: Span, generation: int) -> None:
        """channel: its directory."""
        self.shared = shared
        self.channel = channel
        self.span = span
        self.generation = generation
        self.log_path = channel / FileName(span, generation, "log").path
        self.log_seed: bytes | None = None
        """None: there is no log yet."""
        self.index = BlockIndex()
        self.torn = False
        """Behind the log's last block there is something that has to be cut."""
        self.entries: list[Entry] = []
        self.tails: list[Tail] = []
        """Those that there are, in their order; the last one may be written to."""
        self.last_number = 0
        self.written_at = monotonic()
        self.frozen = False
        """It is being sealed, or its log cannot be read: its files stay as they are."""
        self._added: list[Columns] = []
        """Not written yet."""
        self._tail: Tail | None = None
        self.in_no_block = 0
        """Bytes of the entries."""
        self._taken = 0  # entries at the front that a BlockWork has
        self.busy = False
        self.gone = False
        """Its files are not its own any more: another part may have files of the same names."""

    # What requests and passes call.

    def make_room(self, size: int) -> None:
        """For records that take so many bytes encoded. Raises DiskFull; nothing has changed."""
        tail = self._tail
        if tail is None or (tail.position > TAIL_BYTES and not self._added):
            tail = self._begin_tail()
        try:
            tail.make_room(entries_bytes(size))
        except OSError as error:
            raise self.shared.problem(f"allocate space for {tail.path}", error) from error

    def add(self, columns: Columns) -> None:
        """Records for which make_room was called, of ENTRY_BYTES, or one."""
        self._added.append(columns)
        self.shared.touched[self] = None
        self.shared.tail_bytes += columns.bytes

    def write(self) -> int:
        """What was added; so many bytes. Raises DiskFull or NodeError: the node must stop then."""
        tail, shared = self._tail, self.shared
        assert tail is not None, "records were added without make_room"
        data: list[Piece] = []
        found = []
        begin = end = tail.position
        for added in together(self._added):
            pieces = payload.pieces(added)
            header = entry_header(tail.seed, pieces)
            data.append(header)
            data += pieces
            end += len(header) + sum(map(len, pieces))
            found.append(Entry(one(added), tail, end))
        try:
            tail.append(data)
        except OSError as error:
            raise shared.problem(f"write {tail.path}", error) from error
        self._added = []
        with shared.lock:
            for entry in found:
                self._append(entry)
        if shared.settings.syncs:
            shared.unsynced[tail] = None
        self.written_at = monotonic()
        shared.open.pop(self, None)
        shared.open[self] = None
        if self.in_no_block >= BLOCK_BYTES:
            shared.full[self] = None
        return end - begin

    def _append(self, entry: Entry) -> None:
        self.in_no_block += entry.bytes
        last = self.entries[-1] if len(self.entries) > self._taken else None
        if last and last.tail is entry.tail and last.bytes + entry.bytes <= JOINED_BYTES:
            last.append(entry)
        else:
            self.entries.append(entry)
            entry.tail.entries += 1

    def load(self, entry: Entry) -> None:
        """One that a tail had when the node started."""
        self._append(entry)
        self.shared.tail_bytes += entry.bytes
        if self.in_no_block >= BLOCK_BYTES:
            self.shared.full[self] = None

    @property
    def value_bytes(self) -> int:
        """Of all records that are not only added."""
        entries = sum(entry.bytes - RECORD_BYTES * entry.records for entry in self.entries)
        return self.index.value_bytes + entries

    @property
    def records(self) -> int:
        return self.index.records_total + sum(entry.records for entry in self.entries)

    def _begin_tail(self) -> Tail:
        shared = self.shared
        self.end_tail()
        try:
            tail = Tail.begin(shared.files, self.channel, self.span, self.generation, self.last_number + 1)
        except OSError as error:
            raise shared.problem(f"begin a tail in {self.log_path.parent}", error) from error
        self.last_number = tail.number
        self.tails.append(tail)
        self._tail = tail
        shared.open[self] = None
        if shared.settings.syncs:
            for directory in (tail.path.parent, self.channel, self.channel.parent):
                shared.new_names[directory] = None
        return tail

    def end_tail(self) -> None:
        """The next record begins another one. Nothing is added and not written."""
        assert not self._added
        tail, self._tail = self._tail, None
        self.shared.open.pop(self, None)
        if tail is None:
            return
        tail.ended = True
        if tail not in self.shared.unsynced:
            tail.close()

    def cut_tail(self) -> None:
        """Nothing more will be written: the space that was allocated ahead is given back. Raises OSError."""
        if self._tail is not None:
            self._tail.cut()

    @property
    def is_used(self) -> bool:
        """There are files of it."""
        return bool(self.tails) or self.log_seed is not None or self.frozen

    @property
    def is_at_rest(self) -> bool:
        """Nothing is added and not written, and no work has it; it is still there."""
        return not (self.busy or self.frozen or self._added or self.gone)

    def close(self) -> None:
        """Gives up its files, and what it holds in memory; they stay as they are."""
        self.shared.tail_bytes -= sum(entry.bytes for entry in self.entries)
        self.drop_added()
        self.shared.open.pop(self, None)
        for tail in self.tails:
            self.shared.unsynced.pop(tail, None)
            tail.close()

    def drop_added(self) -> None:
        """What was added and not written is not wanted any more, and nothing will be."""
        self.gone = True
        self.shared.touched.pop(self, None)
        self.shared.full.pop(self, None)
        self.shared.tail_bytes -= sum(each.bytes for each in self._added)
        self._added = []

    # Blocks.

    def take(self, *, flush: bool = False) -> "BlockWork | None":
        """Work to make blocks of what is there. flush: of all of it, and the tail ends; without, where a block is
        full."""
        assert self.is_at_rest
        if flush:
            self.end_tail()
        taken, size = [], 0
        for group in groups(self.entries, all_of_them=flush):
            if size >= WORK_BYTES:
                break
            taken.append(group)
            size += sum(entry.bytes for entry in group)
        self._taken = sum(map(len, taken))
        left = {entry.tail for entry in self.entries[self._taken :]}
        done = [tail for tail in self.tails if tail is not self._tail and tail not in left]
        if not taken and not done:
            return None
        self.busy = True
        return BlockWork(self, taken, done)

    def finished(self, blocks: list[tuple[int, BlockHeader]], written: int, removed: list[Tail]) -> None:
        """Of the entries so many are in these blocks."""
        with self.shared.lock:
            for offset, header in blocks:
                self.index.add(offset, header)
            gone = self.entries[:written]
            del self.entries[:written]
            self._taken = 0
            self.busy = False
            for entry in gone:
                entry.tail.entries -= 1
                self.in_no_block -= entry.bytes
                self.shared.tail_bytes -= entry.bytes
        for tail in removed:
            self.tails.remove(tail)
            self.shared.unsynced.pop(tail, None)
            if tail.fd is not None:
                self.shared.to_close.append(tail.fd)
                tail.fd = None
        if self.in_no_block >= BLOCK_BYTES or any(tail is not self._tail and not tail.entries for tail in self.tails):
            self.shared.full[self] = None


class BlockWork:
    """Entries of a part become blocks of its log; tails that are in blocks as a whole are removed then."""

    def __init__(self, part: Part, taken: list[Sequence[Entry]], done: list[Tail]) -> None:
        self._part = part
        self._taken = taken
        self._done = done
        self._blocks: list[tuple[int, BlockHeader]] = []
        self._written = 0
        self._removed: list[Tail] = []
        self.failed = False

    def run(self) -> None:
        self.failed = True
        with naming(self._part.log_path):
            self._run()
        self.failed = False

    def _run(self) -> None:
        part = self._part
        files, syncs = part.shared.files, part.shared.settings.syncs
        if self._taken or (syncs and part.log_seed is not None):
            with part.shared.names:
                if part.gone:
                    return
                fd = self._open_log()
            try:
                self._write_blocks(fd)
                if self._done and syncs:
                    files.sync(fd)
                    self._sync_names()
            finally:
                files.close(fd)
        with part.shared.names:
            for tail in [] if part.gone else self._done:
                if tail.damaged:
                    files.rename(tail.path, tail.path.with_name(tail.path.name + DAMAGED_SUFFIX))
                else:
                    files.remove(tail.path)
                self._removed.append(tail)

    def _sync_names(self) -> None:
        try:
            self._part.shared.files.sync_directory(self._part.log_path.parent)
        except FileNotFoundError:
            if not self._part.gone:
                raise

    def finish(self) -> None:
        self._part.finished(self._blocks, self._written, self._removed)

    def _open_log(self) -> int:
        part = self._part
        files = part.shared.files
        if part.log_seed is not None:
            fd = files.open(part.log_path, to_write=True)
            if part.torn:
                files.cut(fd, part.index.end)
                part.torn = False
            return fd
        fd = files.create(part.log_path)
        try:
            header = FileHeader(False, part.span, part.generation, new_seed())
            write_all(files, fd, [header.pack()], 0)
        except OSError:
            files.close(fd)
            raise
        part.log_seed = header.seed
        return fd

    def _write_blocks(self, fd: int) -> None:
        part = self._part
        seed = part.log_seed
        assert seed is not None
        offset = part.index.end
        for group in self._taken:
            last = group[-1]
            header, stored = pack_block(block_payload(group), Codec.LZ4, tail=last.tail.number, tail_offset=last.end)
            part.torn = True
            write_all(part.shared.files, fd, [header.pack(seed), stored], offset)
            part.torn = False
            self._blocks.append((offset, header))
            self._written += len(group)
            offset += header.bytes
