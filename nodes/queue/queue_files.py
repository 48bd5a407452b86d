"""What the rings and overflow files ask of the operating system, in one place so that tests can let each fail."""

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from swarm.core.errors import DiskFull
from swarm.core.node import NodeError

NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)  # it may pass; others stop the node. ENOMEM: a process has 65530 mappings at most (vm.max_map_count)


class Files:
    """Each may raise OSError."""

    def create(self, path: Path) -> int:
        """A new file, empty, to be read and written; its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def allocate(self, fd: int, start: int, size: int) -> None:
        """Space on disk; the file grows, with zeros."""
        os.posix_fallocate(fd, start, size)

    def map(self, fd: int, size: int) -> mmap.mmap:
        """The file in memory, shared with it. Everything that is stored there is stored by `mapped[a:b] = bytes`."""
        return mmap.mmap(fd, size)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: Sequence[bytes], offset: int) -> int:
        return os.pwritev(fd, data, offset)

    def cut(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Returns when all that was written to it, stored in its mapping too, would survive the end of the machine's
        power."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def problem(path: Path, what: str, error: OSError) -> Exception:
    """What is raised because of it: DiskFull, or the end of the node."""
    if error.errno in NO_ROOM:
        return DiskFull(f"disk full: {path.name} cannot {what} ({error.strerror}); later, when there is room again")
    return NodeError(f"{path} cannot {what}: {error.strerror or error}")


class OpenFile:
    """A descriptor that a thread may sync while the loop goes on and closes it: the later of the two closes it."""

    def __init__(self, fd: int, files: Files) -> None:
        self.fd = fd
        self._files = files
        self._lock = Lock()
        self._syncs = 0
        self._closed = False

    def sync(self) -> None:
        """Nothing where it is closed. Raises OSError."""
        with self._lock:
            if self._closed:
                return
            self._syncs += 1
        try:
            self._files.sync(self.fd)
        finally:
            with self._lock:
                self._syncs -= 1
                last = self._closed and not self._syncs
            if last:
                self._files.close(self.fd)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            last = not self._syncs
        if last:
            self._files.close(self.fd)
