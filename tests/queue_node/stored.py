"""A queue in a test: records as lists of bytes, and files that a test watches or lets fail."""

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nodes.queue.queue_files import Files
from nodes.queue.record_queue import QueueSettings, RecordQueue
from swarm.queue.batch import pack, unpack

ANY = 1 << 40
SMALL = QueueSettings(4096)


def push(queue: RecordQueue, *values: bytes) -> None:
    """As one push; not committed."""
    lengths, data = pack(values)
    queue.make_room(len(values), len(data))
    queue.push(len(values), lengths, data)


def pop(queue: RecordQueue, records_max: int = 4096, bytes_max: int = ANY) -> list[bytes]:
    return unpack(*queue.pop(records_max, bytes_max))


def pop_all(queue: RecordQueue) -> list[bytes]:
    found: list[bytes] = []
    while values := pop(queue):
        found += values
    return found


def take(queue: RecordQueue, records_max: int = 4096, bytes_max: int = ANY) -> tuple[int, bool, list[bytes]]:
    """Sequence, whether redelivered, records."""
    delivery = queue.take(records_max, bytes_max)
    assert delivery
    return delivery.sequence, delivery.redelivered, unpack(delivery.lengths, delivery.data)


def reopened(queue: RecordQueue, path: Path, settings: QueueSettings = SMALL, **options: Any) -> RecordQueue:
    """As after a kill -9: nothing is committed before."""
    queue.close()
    return RecordQueue.open(path, settings, **options)


class _WatchedMap(mmap.mmap):
    after_store: Callable[[], None]

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self.after_store()


class WatchedFiles(Files):
    """Calls after every store into a mapping, and every operation that changes a file or its name."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def map(self, fd: int, size: int) -> mmap.mmap:
        mapped = _WatchedMap(fd, size)
        mapped.after_store = self.changed
        return mapped

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self.changed()
        return fd

    def allocate(self, fd: int, start: int, size: int) -> None:
        super().allocate(fd, start, size)
        self.changed()

    def write(self, fd: int, data: Sequence[bytes], offset: int) -> int:
        """A byte less than half first, then all."""
        whole = b"".join(data)
        super().write(fd, [whole[: len(whole) // 2]], offset)
        self.changed()
        written = super().write(fd, data, offset)
        self.changed()
        return written

    def cut(self, fd: int, size: int) -> None:
        super().cut(fd, size)
        self.changed()

    def rename(self, path: Path, to: Path) -> None:
        super().rename(path, to)
        self.changed()

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.changed()


class FailingFiles(Files):
    """The operation with this number, from 1, fails; those after it do not. A write that fails has written half."""

    def __init__(self, fails: int, error: int) -> None:
        self._left = fails
        self._error = error
        self.failed = ""
        """Which one it was."""
        self.open_now: set[int] = set()

    def _count(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            self.failed = name
            raise OSError(self._error, os.strerror(self._error))

    def create(self, path: Path) -> int:
        self._count("create")
        fd = super().create(path)
        self.open_now.add(fd)
        return fd

    def open(self, path: Path) -> int:
        self._count("open")
        fd = super().open(path)
        self.open_now.add(fd)
        return fd

    def close(self, fd: int) -> None:
        super().close(fd)
        self.open_now.remove(fd)

    def size(self, fd: int) -> int:
        self._count("size")
        return super().size(fd)

    def allocate(self, fd: int, start: int, size: int) -> None:
        self._count("allocate")
        super().allocate(fd, start, size)

    def map(self, fd: int, size: int) -> mmap.mmap:
        self._count("map")
        return super().map(fd, size)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._count("read")
        return super().read(fd, size, offset)

    def write(self, fd: int, data: Sequence[bytes], offset: int) -> int:
        try:
            self._count("write")
        except OSError:
            whole = b"".join(data)
            super().write(fd, [whole[: len(whole) // 2]], offset)
            raise
        return super().write(fd, data, offset)

    def cut(self, fd: int, size: int) -> None:
        self._count("cut")
        super().cut(fd, size)

    def sync(self, fd: int) -> None:
        self._count("sync")
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        super().sync_directory(path)

    def rename(self, path: Path, to: Path) -> None:
        self._count("rename")
        super().rename(path, to)

    def remove(self, path: Path) -> None:
        self._count("remove")
        super().remove(path)
