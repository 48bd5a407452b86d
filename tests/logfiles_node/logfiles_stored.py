"""A store in this process that a test talks to directly, and files that are watched, or fail."""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nodes.logfiles.file_names import SECOND_NS
from nodes.logfiles.files import Files, Piece
from nodes.logfiles.range_block import Cursor, Step, decode
from nodes.logfiles.shared import Settings, Work
from nodes.logfiles.store import LogStore

Pairs = list[tuple[int, bytes]]
HOUR = 3600 * SECOND_NS


class WatchedFiles(Files):
    """Counts what is done, and knows which are open, so that a store that is left alone as if it had died leaves none
    behind."""

    def __init__(self) -> None:
        self.fds: set[int] = set()
        self.done: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        with self._lock:
            self.done[name] = self.done.get(name, 0) + 1

    def _opened(self, fd: int) -> int:
        self.fds.add(fd)
        return fd

    def forget(self) -> None:
        for fd in list(self.fds):
            with suppress(OSError):
                os.close(fd)
        self.fds.clear()

    def close(self, fd: int) -> None:
        self.count("close")
        self.fds.discard(fd)
        super().close(fd)

    def list(self, path: Path) -> list[tuple[str, bool]]:
        self.count("list")
        return super().list(path)

    def make_directory(self, path: Path) -> bool:
        self.count("make_directory")
        return super().make_directory(path)

    def create(self, path: Path) -> int:
        self.count("create")
        return self._opened(super().create(path))

    def open(self, path: Path, *, to_write: bool = False) -> int:
        self.count("open")
        return self._opened(super().open(path, to_write=to_write))

    def duplicate(self, fd: int) -> int:
        self.count("duplicate")
        return self._opened(super().duplicate(fd))

    def size(self, fd: int) -> int:
        self.count("size")
        return super().size(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.count("read")
        return super().read(fd, size, offset)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        self.count("write")
        return super().write(fd, pieces, offset)

    def allocate(self, fd: int, start: int, size: int) -> None:
        self.count("allocate")
        super().allocate(fd, start, size)

    def cut(self, fd: int, size: int) -> None:
        self.count("cut")
        super().cut(fd, size)

    def sync(self, fd: int) -> None:
        self.count("sync")
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self.count("sync_directory")
        super().sync_directory(path)

    def rename(self, path: Path, to: Path) -> None:
        self.count("rename")
        super().rename(path, to)

    def remove(self, path: Path) -> None:
        self.count("remove")
        super().remove(path)

    def remove_directory(self, path: Path) -> None:
        self.count("remove_directory")
        super().remove_directory(path)


class FailingFiles(WatchedFiles):
    """The operation with this number, from 1, fails; those after it do not. Closing never does."""

    def __init__(self, fails: int, error: int, *, tears: bool = False, dies: bool = False, only: str = "") -> None:
        """tears: a write that fails has written half. dies: everything after it fails as well."""
        super().__init__()
        self._left = fails
        self._error = error
        self._tears = tears
        self._dies = dies
        self._only = only
        self.failed = ""
        """Which one it was."""

    def fail_next(self) -> None:
        self._left = 1

    def count(self, name: str) -> None:
        super().count(name)
        with self._lock:
            if name == "close" or self._only not in ("", name):
                return
            self._left -= 1
            if self._left == 0 or (self._dies and self._left < 0):
                self.failed = self.failed or name
                raise OSError(self._error, os.strerror(self._error))

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        try:
            self.count("write")
        except OSError:
            if self._tears and self._left == 0:
                data = b"".join(pieces)
                Files.write(self, fd, [data[: len(data) // 2]], offset)
            raise
        return Files.write(self, fd, pieces, offset)


def do(works: "Iterator[Any] | Work | None") -> int:
    """Carries out work; how much there was. What fails raises after it was finished."""
    if works is None:
        return 0
    count = 0
    for work in works if isinstance(works, Iterator) else [works]:
        count += 1
        try:
            work.run()
        finally:
            work.finish()
    return count


def make_blocks(store: LogStore) -> None:
    while do(store.blocks_to_make()):
        pass
    if (close := store.close_removed()) is not None:
        close()


def flush(store: LogStore, name: str = "a") -> None:
    """All records go into blocks."""
    for bucket in store.channels[name].buckets.values():
        for part in bucket.parts:
            if part.is_at_rest:
                do(part.take(flush=True))


def seal_all(store: LogStore) -> None:
    """All buckets are sealed, by processes."""
    while do(store.buckets_to_seal(1 << 62, 0)):
        pass


def pairs_of(steps: Iterator[Step], *, newest_first: bool = False) -> Pairs:
    found: Pairs = []
    for step in steps:
        found += pairs_of_step(step, newest_first=newest_first)
    return found


def pairs_of_step(step: Step, *, newest_first: bool = False) -> Pairs:
    found: Pairs = []
    for block in step.blocks:
        timestamps, values = decode(block)
        assert len(values) == block.take > 0
        pairs = list(zip(timestamps, values, strict=True))
        found += reversed(pairs) if newest_first else pairs
    return found


def content(store: LogStore, name: str = "a", first: int = -(1 << 63), end: int = 1 << 63, **options: Any) -> Pairs:
    """What a range gives, which must be the same in one go, and the other way round."""
    if name not in store.channels:
        return []
    return pairs_of(store.channels[name].range(first, end, **options), newest_first=options.get("newest_first", False))


def resumed(store: LogStore, name: str, first: int, end: int, *, newest_first: bool = False) -> Pairs:
    """The same, each step that gives something by a range of its own."""
    found: Pairs = []
    after: Cursor | None = None
    while True:
        steps = store.channels[name].range(first, end, after, newest_first=newest_first)
        step = next((step for step in steps if step.blocks), None)
        if step is None:
            return found
        found += pairs_of_step(step, newest_first=newest_first)
        assert step.cursor != after, "no progress"
        after = step.cursor


class AbandonedStore:
    """A store that is as if killed with kill -9 when the block is left."""

    def __init__(self, data: Path, *, files: WatchedFiles | None = None, **settings: Any) -> None:
        self.files = files or WatchedFiles()
        self.data = data
        self.settings = Settings(**settings)

    def __enter__(self) -> LogStore:
        try:
            return LogStore.open(self.data, self.settings, self.files)
        except BaseException:
            self.files.forget()
            raise

    def __exit__(self, *_: object) -> None:
        self.files.forget()


def after_restart(data: Path, name: str = "a") -> Pairs:
    """Of a copy, so that the store may go on."""
    copy = data.with_name(data.name + "-copy")
    shutil.copytree(data, copy)
    try:
        with AbandonedStore(copy) as store:
            return content(store, name)
    finally:
        shutil.rmtree(copy)
