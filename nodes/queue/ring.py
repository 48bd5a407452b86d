"""A ring: a file of fixed size, mapped into memory, with the entries of one queue. docs/formats/queue.md.

            0      1024   2048   4096        head              tail
    file    ┌──────┬──────┬──────┬────────────┬─────────────────┬────────────┐
            │header│state │state │ free       │ entries         │ free       │     both end and begin at the same place
            └──────┴──────┴──────┴────────────┴─────────────────┴────────────┘

The whole file is allocated before it is mapped: a store into a page for which the disk has no room would kill the node.

What is stored is there for the next process at once, whenever this one is killed; so a commit is one store of the
state, with a checksum, into the copy that does not count. What the committed state names is never overwritten: `free`
counts from its head.

Stored through the mapping, not by pwrite(2). CPU time for an entry, 64 MiB ring, ext4 (µs; second and later laps; in
brackets the first lap after an fdatasync, when every page has to be made writable again):

                  152 B           100 KB           1 MiB
    mapping       0.10 (0.16)     7.5 (51)         110 (520)
    pwrite        0.49 (0.52)     18 (19)          220 (210)

What is read is checked, always: that takes 0.4 of the 1.0 µs that an entry of one record of 100 bytes takes to be read,
and 20 of the 180 µs of one of 1,000 records of 1 KiB.

Positions are turned into places in the file here and nowhere else.
"""

import logging
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_intdigest

from nodes.queue.queue_files import Files, OpenFile, problem
from nodes.queue.ring_format import (
    ALIGNMENT,
    CHECKED_BYTES,
    CHECKSUM,
    DATA_OFFSET,
    ENTRY,
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    LOW_32,
    STATE,
    STATE_BYTES,
    STATE_OFFSETS,
    BadHeader,
    Entry,
    RingHeader,
    State,
    bits_bytes,
    entry_bytes,
    new_seed,
    pack_entry,
    pack_entry_header,
    seed_number,
    unpack_entry_header,
)
from swarm.core.limits import KIB, MIB
from swarm.queue.batch import LENGTH_BYTES

log = logging.getLogger(__name__)

COPY_BYTES = 1 * MIB  # at a time, from one ring to another
JOIN_BYTES = 16 * KIB  # below it, one store of joined pieces is cheaper than a store of each


class BadRing(Exception):
    """The file is not a ring, or not one that can be read; the text says why."""


class Ring:
    """The bytes, and the committed state. What the records mean is the business of RecordQueue."""

    def __init__(self, path: Path, fd: int, mapped: mmap.mmap, header: RingHeader, state: State, files: Files) -> None:
        """Takes over fd and mapped. Use create and open."""
        self.path = path
        self.capacity = header.capacity
        self.found = state
        """What was committed when it was opened."""
        self.generation = state.generation
        self.head = state.head
        """As it was committed last."""
        self.tail = state.tail
        self.next_sequence = state.next_sequence
        """Of the next record that comes into the ring."""
        self.next_bytes = state.next_bytes
        self.damaged = self.damaged_committed = state.damaged
        self.seed = header.seed
        self.mark = header.seed[:4]
        self.number = seed_number(header.seed)
        self.unsynced = False
        self._file = OpenFile(fd, files)
        self._files = files
        self._map = mapped
        self._view = memoryview(mapped)
        self._end = DATA_OFFSET + header.capacity

    @classmethod
    def create(
        cls, path: Path, capacity: int, files: Files, *, sync: bool = True, content_of: "Ring | None" = None
    ) -> "Ring":
        """A new one, whole or not at all, in place of what has this name. Raises DiskFull or NodeError.

        content_of: another, whose entries and state it gets; those fit into it.
        """
        beside = path.with_name(path.name + ".tmp")
        ring = cls._create(beside, RingHeader(capacity, content_of.seed if content_of else new_seed()), files)
        if content_of:
            ring._copy_from(content_of)
        else:
            ring._store_state(State(generation=1))
        try:
            if sync:
                ring.sync()
            files.rename(beside, path)
            ring.path = path
            if sync:
                files.sync_directory(path.parent)
        except OSError as error:
            if content_of and ring.path == path:
                ring.close()  # it has taken the other's place
            else:
                ring.remove()
            raise problem(path, "be created", error) from error
        return ring

    @classmethod
    def _create(cls, path: Path, header: RingHeader, files: Files) -> "Ring":
        size = DATA_OFFSET + header.capacity
        try:
            fd = files.create(path)
        except OSError as error:
            raise problem(path, "be created", error) from error
        try:
            files.allocate(fd, 0, size)
            mapped = files.map(fd, size)
        except OSError as error:
            files.close(fd)
            with suppress(OSError):
                files.remove(path)
            raise problem(path, "be created", error) from error
        mapped[:HEADER_BYTES] = header.pack()
        return cls(path, fd, mapped, header, State(), files)

    def _copy_from(self, other: "Ring") -> None:
        """Its entries to the same positions, which are at other places here. With the same seed they stay what they
        are, sound or not."""
        state = other.found
        for position in range(state.head, state.tail, COPY_BYTES):
            self._store(position, other.copy(position, min(COPY_BYTES, state.tail - position)))
        self._store_state(state._replace(generation=state.generation + 1))
        self.tail, self.next_sequence, self.next_bytes = state.tail, state.next_sequence, state.next_bytes
        self.damaged = self.damaged_committed = state.damaged

    @classmethod
    def open(cls, path: Path, files: Files) -> "Ring":
        """Raises BadRing; NodeError or DiskFull where the file cannot be opened."""
        try:
            fd = files.open(path)
        except OSError as error:
            raise problem(path, "be opened", error) from error
        try:
            return cls._opened(path, fd, files)
        except OSError as error:
            files.close(fd)
            raise problem(path, "be read", error) from error
        except BadRing:
            files.close(fd)
            raise

    @classmethod
    def _opened(cls, path: Path, fd: int, files: Files) -> "Ring":
        try:
            header = RingHeader.unpack(files.read(fd, HEADER_BYTES, 0))
        except BadHeader as error:
            raise BadRing(str(error)) from None
        size = DATA_OFFSET + header.capacity
        if (there := files.size(fd)) < size:
            raise BadRing(f"it has {there} bytes of {size}")
        number = seed_number(header.seed)
        copies = [files.read(fd, STATE_BYTES, offset) for offset in STATE_OFFSETS]
        states = [state for data in copies if (state := State.unpack(data, number, header.capacity))]
        if not states:
            raise BadRing("neither copy of its state is sound")
        if len(states) == 1 and all(data.strip(b"\0") for data in copies):
            log.warning(
                "%s: one copy of its state is not sound, and the other counts. Nothing is lost if the process was "
                "killed while it wrote it; otherwise the last commit may be: what it pushed is lost, what it took "
                "comes again",
                path,
            )
        files.allocate(fd, 0, size)  # a copy of a ring may have holes
        return cls(path, fd, files.map(fd, size), header, max(states), files)

    # Writing.

    def free(self) -> int:
        """Bytes that an entry may be written to now."""
        return self.capacity - (self.tail - self.head)

    def append(
        self, count: int, size: int, sequence: int, before: int, lengths: Sequence[bytes], data: Sequence[bytes]
    ) -> None:
        """An entry of records with `size` bytes together, behind the tail. There is room for it. Nobody sees it before
        the commit. lengths and data may be in pieces."""
        position, number = self.tail, self.number
        end = position + entry_bytes(count, size)
        assert end - self.head <= self.capacity
        if size < JOIN_BYTES:
            content = b"".join((*lengths, *data))
            self._store(position, pack_entry(number, self.mark, count, size, sequence, position, before, content))
        else:
            pieces = (b"".join(lengths), *data)
            hashed = xxh3_64(seed=number)
            for piece in pieces:
                hashed.update(piece)
            checksum = hashed.intdigest()
            first = pack_entry_header(self.seed, number, count, sequence, position, before, size, checksum)
            for piece in (first, bytes(bits_bytes(count)), *pieces):
                self._store(position, piece)
                position += len(piece)
        self.tail = end
        self.next_sequence = sequence + count
        self.next_bytes = before + size

    def _store(self, position: int, data: bytes) -> None:
        offset = DATA_OFFSET + position % self.capacity
        end = offset + len(data)
        if end <= self._end:
            self._map[offset:end] = data
        else:
            first = self._end - offset
            self._map[offset : self._end] = data[:first]
            self._map[DATA_OFFSET : end - self.capacity] = data[first:]

    def commit(
        self, head: int, head_sequence: int, given: int, given_sequence: int, given_bytes: int, dropped: int
    ) -> None:
        """What was appended is there for the next process, and what is before the head is free."""
        self.generation = generation = self.generation + 1
        fields = STATE.pack(
            generation,
            head,
            head_sequence,
            given,
            given_sequence,
            given_bytes,
            self.tail,
            self.next_sequence,
            self.next_bytes,
            dropped,
            self.damaged,
            0,
        )
        offset = STATE_OFFSETS[generation & 1]
        self._map[offset : offset + STATE_BYTES] = fields + CHECKSUM.pack(xxh3_64_intdigest(fields, self.number))
        self.head = head
        self.damaged_committed = self.damaged
        self.unsynced = True

    def _store_state(self, state: State) -> None:
        """Of a ring that is made."""
        offset = STATE_OFFSETS[state.generation & 1]
        self._map[offset : offset + STATE_BYTES] = state.pack(self.number)
        self.found, self.generation, self.head = state, state.generation, state.head
        self.unsynced = True

    def store_bits(self, entry: Entry, bits: int) -> None:
        """Which of its records were acknowledged. Only for entries that the committed state says were given."""
        self._store(entry.position + ENTRY_HEADER_BYTES, bits.to_bytes(bits_bytes(entry.records), "little"))
        self.unsynced = True

    # Reading.

    def copy(self, position: int, size: int) -> bytes:
        offset = DATA_OFFSET + position % self.capacity
        end = offset + size
        if end <= self._end:
            return self._map[offset:end]
        return self._map[offset : self._end] + self._map[DATA_OFFSET : end - self.capacity]

    def entry(self, position: int) -> Entry | None:
        """What begins there; None if no sound header does. It ends where the tail is, or before."""
        data = self.copy(position, ENTRY_HEADER_BYTES)
        entry = unpack_entry_header(data, self.seed, self.number, position)
        return entry if entry and entry.end <= self.tail else None

    def is_sound(self, entry: Entry) -> bool:
        """Whether lengths and records are what was written."""
        offset = DATA_OFFSET + entry.lengths_at % self.capacity
        end = offset + entry.content_bytes
        if end <= self._end:
            return xxh3_64_intdigest(self._view[offset:end], self.number) == entry.content_checksum
        hashed = xxh3_64(self._view[offset : self._end], self.number)
        hashed.update(self._view[DATA_OFFSET : end - self.capacity])
        return hashed.intdigest() == entry.content_checksum

    def next_entry(self, position: int, sequence: int) -> Entry | None:
        """The first with a sound header that begins there or behind, with records from this number on or behind."""
        mark = self.seed[:4]
        while position < self.tail:
            offset = DATA_OFFSET + position % self.capacity
            length = min(self._end - offset, self.tail - position)
            found = self._map.find(mark, offset, offset + length)  # positions are aligned as offsets are
            if found < 0:
                position += length
            else:
                position += found - offset
                if position % ALIGNMENT == 0 and (entry := self.entry(position)) and entry.sequence >= sequence:
                    return entry
                position += 1
        return None

    def bits(self, entry: Entry) -> int:
        """Bit by bit, which of its records were acknowledged; sensible only where they were given out."""
        bits = int.from_bytes(self.copy(entry.position + ENTRY_HEADER_BYTES, bits_bytes(entry.records)), "little")
        return bits & ((1 << entry.records) - 1)

    def only_record(self, position: int, sequence: int) -> bytes | None:
        """What whole_entries would read of an entry with one record; None for any other, and where something is not as
        it should be."""
        offset = DATA_OFFSET + position % self.capacity
        begin = offset + ENTRY_HEADER_BYTES + 8
        if position >= self.tail or begin > self._end:
            return None
        mapped, number = self._map, self.number
        mark, count, first, at, _, size, checksum, content_checksum = ENTRY.unpack_from(mapped, offset)
        if count != 1 or first != sequence or at != position or mark != self.mark:
            return None
        end = begin + LENGTH_BYTES + size
        if end > self._end or xxh3_64_intdigest(mapped[offset : offset + CHECKED_BYTES], number) & LOW_32 != checksum:
            return None
        content = self._view[begin:end]
        return mapped[begin + LENGTH_BYTES : end] if xxh3_64_intdigest(content, number) == content_checksum else None

    def whole_entries(
        self, position: int, sequence: int, records: int, size: int, lengths: list[bytes], data: list[bytes]
    ) -> tuple[int, int, int]:
        """Reads entries from this position on, the first record of which has this sequence, as long as all is as it
        should be: no more than these records and bytes, sound, without a gap, and not over the end of the data area.
        Lengths and data are appended to the lists. Position and sequence behind what was read, and its bytes.

        The one loop that every small entry passes; everything unusual is left to others, one entry at a time.
        """
        unpack, mapped, view, number, mark = ENTRY.unpack_from, self._map, self._view, self.number, self.seed[:4]
        limit, tail, digest, left = self._end, self.tail, xxh3_64_intdigest, size
        offset = DATA_OFFSET + position % self.capacity
        while position < tail and offset + ENTRY_HEADER_BYTES <= limit:
            found_mark, count, first, at, _, length, checksum, content_checksum = unpack(mapped, offset)
            if first != sequence or at != position or found_mark != mark or count > records or length > left:
                break
            if digest(mapped[offset : offset + CHECKED_BYTES], number) & LOW_32 != checksum:
                break
            begin = offset + ENTRY_HEADER_BYTES + ((count + 63) >> 6 << 3)
            middle = begin + 4 * count
            end = middle + length
            if end > limit or digest(view[begin:end], number) != content_checksum:
                break
            lengths.append(mapped[begin:middle])
            data.append(mapped[middle:end])
            records -= count
            left -= length
            sequence += count
            end = (end + 7) & ~7
            position += end - offset
            offset = end
            if not records:
                break
        return position, sequence, size - left

    def damage(self, position: int, first: int, count: int, what: str) -> None:
        """Records from this number on are lost: they are counted, and told."""
        self.damaged += count
        offset = DATA_OFFSET + position % self.capacity
        log.error("%s, offset %d: %d records from %d on are lost: %s", self.path, offset, count, first, what)

    # Its file.

    def sync(self) -> None:
        """May be called in a thread while everything else goes on. Raises OSError."""
        self.unsynced = False
        self._file.sync()

    def rename(self, path: Path) -> None:
        """Raises OSError; the directories are not synced."""
        self._files.rename(self.path, path)
        self.path = path

    def close(self) -> None:
        self._view.release()
        self._map.close()
        self._file.close()

    def remove(self) -> None:
        """Closes it too."""
        self.close()
        try:
            self._files.remove(self.path)
        except OSError as error:
            log.error("%s cannot be removed: %s", self.path, error)
