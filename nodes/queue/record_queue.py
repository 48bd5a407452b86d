"""The records of one queue: in a ring, and behind it in overflow files where the configuration says so.

    push                                    take, pop
      │                                        ▲
      ▼          commit             refill     │
    pending ──────────────► ring  ◄──────── overflow files
       └────────────────────────────────────►  as long as something waits there

A request makes room and pushes; what one pass has pushed becomes one entry when the pass commits, when somebody reads
it or when it is large. The commit comes before any answer of the pass leaves. Everything is in the hands of one thread,
but for `sync`.

What is popped is done with. What is taken is given out until it is acknowledged, and comes again when it is given back
or the ring is opened anew.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from nodes.queue.given_out import GivenOut
from nodes.queue.overflow import FILE_BYTES, Ends, Overflow
from nodes.queue.queue_files import Files
from nodes.queue.reader import ANY_BYTES, Reader, Records
from nodes.queue.recovery import find_given, open_ring
from nodes.queue.ring import Ring
from nodes.queue.ring_format import (
    ALIGNMENT,
    CAPACITY_UNIT,
    ENTRY_HEADER_BYTES,
    ONE_RECORD_BYTES,
    bits_bytes,
    entry_bytes,
)
from swarm.core.errors import QueueFull, ValueTooBig
from swarm.core.limits import BATCH_BYTES, BATCH_RECORDS_MAX, MIB
from swarm.queue.batch import LENGTH_BYTES, pack_length

REFILL_BYTES = 1 * MIB  # moved from overflow files in one step, besides the entry that passes it
PENDING_BYTES = BATCH_BYTES  # pushes of one pass are joined up to so much
SPILL_BYTES = entry_bytes(BATCH_RECORDS_MAX, PENDING_BYTES)  # room made on disk in one step, at least

Full = Literal["refuse", "drop-oldest", "overflow"]


class QueueSettings(NamedTuple):
    """ring_bytes: of the data area, made a multiple of 4096. overflow_bytes: that may wait in overflow files."""

    ring_bytes: int
    full: Full = "refuse"
    overflow_bytes: int = 1 << 30

    @property
    def capacity(self) -> int:
        return max(-(-self.ring_bytes // CAPACITY_UNIT), 1) * CAPACITY_UNIT


class Delivery(NamedTuple):
    """Records with consecutive numbers from sequence on. redelivered: they may have been given out before."""

    sequence: int
    redelivered: bool
    lengths: bytes
    data: bytes


class RecordQueue:
    def __init__(self, ring: Ring, overflow: Overflow, settings: QueueSettings) -> None:
        """Use create and open."""
        self.settings = settings
        self._ring = ring
        self._overflow = overflow
        self._reader = Reader(ring)
        self._given = GivenOut(ring)
        self._lengths: list[bytes] = []  # pending
        self._data: list[bytes] = []
        self._pending = 0  # records
        self._pending_bytes = 0
        self._spills = False  # what is pending goes to the overflow files
        self._next_sequence = ring.found.next_sequence  # of the first pending record
        self._next_bytes = ring.found.next_bytes
        self.free = ring.free()
        """Bytes that the pending entry may take where it goes."""
        self._changed = False
        self._closed = False
        self.dropped = ring.found.dropped
        """Records that were dropped to make room, since the ring was made."""

    @classmethod
    def create(
        cls, path: Path, settings: QueueSettings, files: Files | None = None, *, sync: bool = True
    ) -> "RecordQueue":
        """A new one. sync: whether files are synced at all. Raises DiskFull or NodeError: then there is no file."""
        files = files or Files()
        ring = Ring.create(path, settings.capacity, files, sync=sync)
        return cls(ring, Overflow(path, files, syncs=sync), settings)

    @classmethod
    def open(
        cls,
        path: Path,
        settings: QueueSettings,
        files: Files | None = None,
        *,
        sync: bool = True,
        accept_damage: bool = False,
        overflow_file_bytes: int = FILE_BYTES,
    ) -> "RecordQueue":
        """One that is there. Raises NodeError, if it is damaged as well, unless accept_damage; DiskFull."""
        files = files or Files()
        ring = open_ring(path, settings.capacity, files, sync=sync, accept_damage=accept_damage)
        overflow = Overflow(path, files, syncs=sync, file_bytes=overflow_file_bytes)
        waiting = overflow.open(ring.found.next_sequence)
        queue = cls(ring, overflow, settings)
        queue._recover(waiting)
        return queue

    def _recover(self, waiting: Ends | None) -> None:
        """waiting: in overflow files."""
        ring, reader = self._ring, self._reader
        if waiting and waiting.next_sequence > ring.next_sequence:
            self._next_sequence, self._next_bytes = waiting.next_sequence, waiting.next_bytes
            if not ring.next_sequence:  # a new one, in place of one that was damaged
                ring.next_sequence, ring.next_bytes = waiting.first_sequence, waiting.first_bytes
                reader.go_to(0, waiting.first_sequence, waiting.first_bytes)
        self._spills = self._overflow.size > 0
        self.free = 0 if self._spills else ring.free()
        find_given(ring, reader, self._given)
        self._changed = True

    # What is in it.

    @property
    def records(self) -> int:
        """Given out or not, as far as they are not acknowledged."""
        return self._next_sequence + self._pending - self._reader.sequence + self._given.records

    @property
    def record_bytes(self) -> int:
        return self._next_bytes + self._pending_bytes - self._reader.before + self._given.size

    @property
    def unacknowledged(self) -> int:
        """Records that are given out now."""
        return self._given.records - self._given.back

    @property
    def damaged(self) -> int:
        """Records that were lost because what was read was not what was written, since the ring was made."""
        return self._ring.damaged

    @property
    def capacity(self) -> int:
        """Bytes of the ring."""
        return self._ring.capacity

    @property
    def fullness(self) -> float:
        """Percent of the ring that is taken, what is around the records included; 100 while something waits on disk."""
        if self._overflow.size:
            return 100.0
        used = (
            self._ring.tail
            - self._head()[0]
            + (entry_bytes(self._pending, self._pending_bytes) if self._pending else 0)
        )
        return min(100.0 * used / self._ring.capacity, 100.0)

    @property
    def overflow_bytes_used(self) -> int:
        return self._overflow.size

    def _head(self) -> tuple[int, int]:
        return self._given.head if self._given.spans else (self._reader.head, self._reader.sequence)

    # Pushing.

    @property
    def drops(self) -> bool:
        """Whether a push that finds no room drops records. Not while something waits in overflow files, of a time when
        the settings were others: what is pushed waits behind it, or is refused."""
        return self.settings.full == "drop-oldest" and not self._spills

    def make_room(self, count: int, data_bytes: int) -> None:
        """For a push. Raises ValueTooBig, where it does not fit into the ring though it were empty, QueueFull or
        DiskFull; nothing has changed then. Otherwise records may have been dropped, if the settings say so. The push
        comes next: before it, nothing else is asked of this queue."""
        records, size = self._pending + count, self._pending_bytes + data_bytes
        if records > BATCH_RECORDS_MAX or size > PENDING_BYTES or entry_bytes(records, size) > self.free:
            self._make_more_room(count, data_bytes)

    def _make_more_room(self, count: int, data_bytes: int) -> None:
        needed, ring = entry_bytes(count, data_bytes), self._ring
        if needed > ring.capacity:
            raise self._too_big(count, data_bytes)
        self._flush()
        if not self._spills:
            if needed > ring.free():
                self.commit()  # frees the space of what is done with
            if needed <= ring.free():
                return
            if self.settings.full == "drop-oldest":
                self._drop_oldest(needed)
                return
            if self.settings.full == "refuse":
                raise QueueFull(f"queue full: {self.records} records fill its {ring.capacity} bytes (the ring's size)")
        self._make_room_behind(needed)

    def _make_room_behind(self, needed: int) -> None:
        """In overflow files: for a whole pass of small pushes, where that is allowed and would fit into the ring."""
        limit = self.settings.overflow_bytes
        left = limit - self._overflow.size
        if needed > left:
            raise QueueFull(f"queue full: {self._overflow.size} bytes wait on disk, of {limit} (overflow_bytes)")
        room = max(needed, min(left, SPILL_BYTES, self._ring.capacity))
        self._overflow.make_room(room)
        self._spills = True
        self.free = room

    def _too_big(self, count: int, data_bytes: int) -> ValueTooBig:
        capacity = self._ring.capacity
        limit = max(capacity - ENTRY_HEADER_BYTES - bits_bytes(count) - LENGTH_BYTES * count, 0)
        what = "a record" if count == 1 else f"{count} records together"
        return ValueTooBig(
            f"value too big: {what} of {data_bytes} bytes; the queue's ring of {capacity} bytes holds {limit}",
            {"limit": limit},
        )

    def push_one(self, record: bytes) -> None:
        """make_room and push, for one record."""
        size = len(record)
        if self._pending or size + ONE_RECORD_BYTES > self.free:
            self.make_room(1, size)
        self._lengths.append(pack_length(size))
        self._data.append(record)
        self._pending += 1
        self._pending_bytes += size
        self._changed = True

    def push(self, count: int, lengths: bytes, data: bytes) -> None:
        """After make_room for the same. It is there for the next process with the next commit."""
        self._lengths.append(lengths)
        self._data.append(data)
        self._pending += count
        self._pending_bytes += len(data)
        self._changed = True

    def _flush(self) -> None:
        """What is pending becomes an entry."""
        count, size = self._pending, self._pending_bytes
        if not count:
            return
        if self._spills:
            lengths, data = b"".join(self._lengths), b"".join(self._data)
            self._overflow.append(count, self._next_sequence, self._next_bytes, lengths, data)
            self.free = 0
        else:
            ring = self._ring
            ring.append(count, size, self._next_sequence, self._next_bytes, self._lengths, self._data)
            self.free = ring.capacity - (ring.tail - ring.head)
        self._next_sequence += count
        self._next_bytes += size
        self._pending = self._pending_bytes = 0
        self._lengths.clear()
        self._data.clear()

    def _drop_oldest(self, needed: int) -> None:
        ring, reader, given = self._ring, self._reader, self._given
        head, sequence = self._head()
        missing = needed - (ring.capacity - (ring.tail - head))
        # The first entry that may stay, by one search: before it may be as many as the ring has of the smallest.
        entry = ring.next_entry(head + -(-missing // ALIGNMENT) * ALIGNMENT, sequence)
        if entry:
            self.dropped += given.drop_before(entry.sequence)
            if reader.sequence < entry.sequence:
                self.dropped += entry.sequence - reader.sequence
                reader.go_to(entry.position, entry.sequence, entry.before)
        while ring.capacity - (ring.tail - self._head()[0]) < needed:
            entry = ring.entry(self._head()[0])
            if entry is None and not given.spans:
                reader.pass_damage()
                continue
            end = entry.end_sequence if entry else given.first_end
            self.dropped += given.drop_before(end)
            if entry and reader.sequence < end:
                self.dropped += end - reader.sequence
                reader.go_to(entry.end, end, entry.before + entry.size)
        self._changed = True
        self.commit()

    # Reading.

    def pop(self, records_max: int, bytes_max: int) -> tuple[bytes, bytes]:
        """Lengths and data of the oldest records, which are done with; up to the one with which bytes_max is passed."""
        if self._given.spans:
            delivery = self.take(records_max, bytes_max)
            if delivery is None:
                return b"", b""
            self.acknowledge(delivery.sequence, len(delivery.lengths) // LENGTH_BYTES)
            return delivery.lengths, delivery.data
        records = self._read(records_max, bytes_max)
        return (records.lengths, records.data) if records else (b"", b"")

    def pop_one(self) -> bytes | None:
        if self._given.spans:
            return self.pop(1, ANY_BYTES)[1] or None
        reader, ring = self._reader, self._ring
        if reader.sequence >= ring.next_sequence:
            self._make_readable()
        record = reader.read_one()
        if record is not None or ring.damaged != ring.damaged_committed:
            self._changed = True
        return record

    def take(self, records_max: int, bytes_max: int) -> Delivery | None:
        """Gives out the oldest records, without removing them; up to the one with which bytes_max is passed. Those that
        were given back come before all others."""
        given = self._given
        if given.back and (back := given.take_back(records_max, bytes_max)):
            return Delivery(back.sequence, True, back.lengths, back.data)
        records = self._read(records_max, bytes_max)
        if records is None:
            return None
        given.add(records.sequence, records.number, records.position, len(records.data))
        return Delivery(records.sequence, False, records.lengths, records.data)

    def _read(self, records_max: int, bytes_max: int) -> Records | None:
        if self._ring.next_sequence - self._reader.sequence < records_max:
            self._make_readable()
        records = self._reader.read(records_max, bytes_max)
        if records or self._ring.damaged != self._ring.damaged_committed:
            self._changed = True
        return records

    def _make_readable(self) -> None:
        """There are not enough records in the ring: some may be elsewhere."""
        if self._spills:
            self._changed = True
            self.commit()
        else:
            self._flush()

    def acknowledge(self, first: int, count: int) -> int:
        """Of these records those that are given out now are done with. How many; others are passed over."""
        done = self._given.acknowledge(first, count)
        if done:
            self._changed = True
        return done

    def give_back(self, first: int, count: int) -> None:
        """Those that are given out and not acknowledged come again, before all others, marked."""
        self._given.give_back(first, count)

    # Committing.

    def commit(self) -> None:
        """All of it is there for the next process, however this one ends. Next to nothing where nothing has changed.
        Raises NodeError: the node must stop."""
        if not self._changed:
            return
        self._changed = False
        if self._pending:
            self._flush()
        if self._spills:
            self._overflow.commit()
        self._commit_ring()
        if self._given.spans:
            self._given.write_bits()
        if self._spills:
            if self._refill():
                self._commit_ring()
            self._overflow.forget()
        ring = self._ring
        self.free = 0 if self._spills else ring.capacity - (ring.tail - ring.head)

    def _commit_ring(self) -> None:
        reader, given = self._reader, self._given
        position, sequence = reader.position, reader.sequence
        if given.spans:
            head, head_sequence = given.head
        else:
            head, head_sequence = position if reader.cut is None else reader.head, sequence
        self._ring.commit(head, head_sequence, position, sequence, reader.before, self.dropped)

    def _refill(self) -> bool:
        """Moves what waits longest into the ring, in steps that are worth it. Whether anything has changed."""
        ring = self._ring
        if ring.free() < ring.capacity // 4 and self._reader.sequence < ring.next_sequence:
            return False
        before = ring.next_sequence
        moved = 0
        while moved < REFILL_BYTES and (waiting := self._overflow.read(ring.free())):
            size = len(waiting.data)
            ring.append(waiting.count, size, waiting.sequence, waiting.before, [waiting.lengths], [waiting.data])
            moved += size
        if not self._overflow.size:
            self._spills = False
            ring.next_sequence, ring.next_bytes = self._next_sequence, self._next_bytes
        return ring.next_sequence != before

    # Its files.

    @property
    def unsynced(self) -> bool:
        """Whether anything was committed since `sync` was called last."""
        return self._ring.unsynced or self._overflow.unsynced

    def sync(self) -> None:
        """What was committed before survives the end of the machine's power, too. May be called in a thread while
        everything else goes on, `close` included. Raises OSError."""
        moved = self._overflow.sync()
        self._ring.sync()
        for number in moved:
            if not self._closed:  # otherwise it was removed meanwhile, and its names may be another's
                self._overflow.remove([number])

    def rename_to(self, path: Path) -> None:
        """Its files, overflow first. Raises OSError; directories are not synced."""
        self._overflow.rename(path)
        self._ring.rename(path)

    def close(self) -> None:
        """After a commit."""
        self._closed = True
        self._overflow.close()
        self._ring.close()

    def remove(self) -> None:
        """Closes and removes its files."""
        self._overflow.remove_all()
        self._ring.remove()
