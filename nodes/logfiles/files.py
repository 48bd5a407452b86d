"""What the storage asks of the operating system, in one place so that tests can count it, and let each fail."""

import os
from pathlib import Path


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
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def open(self, path: Path, *, to_write: bool = False) -> int:
        return os.open(path, (os.O_RDWR if to_write else os.O_RDONLY) | os.O_CLOEXEC)

    def duplicate(self, fd: int) -> int:
        return os.dup(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

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


def write_all(files: Files, fd: int, data: bytes, offset: int) -> None:
    written = files.write(fd, data, offset)
    while written < len(data):
        written += files.write(fd, data[written:], offset + written)


def read_all(files: Files, fd: int, size: int, offset: int) -> bytes:
    """Fewer bytes only where the file ends."""
    data = files.read(fd, size, offset)
    while data and len(data) < size and (more := files.read(fd, size - len(data), offset + len(data))):
        data += more
    return data
