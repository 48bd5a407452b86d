"""What the storage asks of the operating system, in one place so that tests can count it, and let each fail.

A file with records is a regular file. Something else in its place, a directory, a FIFO, a device or a symbolic link, is
never read, waited for, or written through.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Piece = bytes | bytearray | memoryview
PIECES_MAX = 1024  # of one write, IOV_MAX of Linux

# A FIFO is not waited for, nor a link followed.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OTHERWISE = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})  # what opening a directory, a link, a socket gives


class NotAFile(OSError):
    """Of a path. what: a sentence."""

    what = "it is no regular file"

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, self.what, str(path))


class Files:
    """Each may raise OSError."""

    def list(self, path: Path) -> list[tuple[str, bool]]:
        """The names in a directory, and whether each is a directory."""
        with os.scandir(path) as found:
            return [(each.name, each.is_dir(follow_symlinks=False)) for each in found]

    def make_directory(self, path: Path) -> bool:
        """Whether it was not there; so it is now."""
        try:
            path.mkdir()
        except FileExistsError:
            return False
        return True

    def create(self, path: Path) -> int:
        """An empty file to read and write; its descriptor."""
        return _open_regular(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def open(self, path: Path, *, to_write: bool = False) -> int:
        """Raises NotAFile too."""
        return _open_regular(path, os.O_RDWR if to_write else os.O_RDONLY)

    def modified(self, path: Path) -> int | None:
        """When it was last changed, a timestamp; None if it is not there."""
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def set_modified(self, path: Path, timestamp: int) -> None:
        os.utime(path, ns=(timestamp, timestamp))

    def duplicate(self, fd: int) -> int:
        return os.dup(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        """One behind the other, PIECES_MAX at most."""
        return os.pwritev(fd, pieces, offset)

    def allocate(self, fd: int, start: int, size: int) -> None:
        """Space on disk; the file grows, with zeros."""
        os.posix_fallocate(fd, start, size)

    def cut(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Returns when all that was written to it would survive the end of the machine's power."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Makes durable which files there are, and their names."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_directory(self, path: Path) -> None:
        path.rmdir()


def _open_regular(path: Path, flags: int) -> int:
    try:
        fd = os.open(path, flags | _FLAGS, 0o666)
    except OSError as error:
        if error.errno in _OTHERWISE:
            raise NotAFile(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotAFile(path)
    return fd


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What fails with a descriptor says of which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_all(files: Files, fd: int, pieces: Sequence[Piece], offset: int) -> None:
    size = sum(map(len, pieces))
    written = files.write(fd, pieces, offset) if len(pieces) <= PIECES_MAX else 0
    if written < size:
        data = memoryview(b"".join(pieces))
        while written < size:
            written += files.write(fd, [data[written:]], offset + written)


def read_all(files: Files, fd: int, size: int, offset: int) -> bytes:
    """Fewer bytes only where the file ends."""
    data = files.read(fd, size, offset)
    while data and len(data) < size and (more := files.read(fd, size - len(data), offset + len(data))):
        data += more
    return data
