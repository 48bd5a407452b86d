"""Following a channel: what is new in a range of time that is read again and again. No I/O.

Records do not come in the order of their timestamps: what is a little older than the newest may still come. So those
of the last LATE_S are read again each time, and what of them was given already is known by its time and value.
"""

from collections import Counter

from swarm.logfiles.payload import Records
from swarm.logfiles.timestamps import SECOND

LATE_S = 5  # so much older than the newest, or than now, a record may be that comes and is still given


class Following:
    def __init__(self, start: int) -> None:
        self.start = start
        """From when on to read the next time."""
        self._given: Counter[tuple[int, bytes]] = Counter()
        """Of the records from start on, how often each was given: two may be the same in everything."""
        self._read: Counter[tuple[int, bytes]] = Counter()
        """The same, as far as they were read this time."""
        self._floor = start

    def new_of(self, records: Records, now: int) -> Records:
        """Those that were not given before, of records that were read this time, which come in the order of time."""
        new: Records = ([], [])
        for record in zip(*records, strict=True):
            self._read[record] += 1
            if self._read[record] > self._given[record]:
                new[0].append(record[0])
                new[1].append(record[1])
        self._floor = max(self._floor, min(records[0][-1], now) - LATE_S * SECOND)
        self._read = Counter({record: count for record, count in self._read.items() if record[0] >= self._floor})
        return new

    def was_read(self) -> None:
        """Everything from start on was read: the next time begins."""
        self._given, self._read = self._read, Counter()
        self.start = self._floor
