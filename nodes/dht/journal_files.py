"""The files of a journal: their names, and the operations on them, in one place so that tests can let each fail."""

import os
import re
from pathlib import Path

from swarm.core.node import NodeError
from swarm.dht.dumps import sync_directory

CLOSED_NAME = "closed"  # number and length of the last segment, after an ordered stop
SEGMENT_NAME = re.compile(r"([0-9]{16})\.journal")


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:016}.journal"


def segment_numbers(directory: Path) -> list[int]:
    """Of the segments that are there, in order."""
    return sorted(int(match[1]) for path in directory.iterdir() if (match := SEGMENT_NAME.fullmatch(path.name)))


def next_segment_number(directory: Path) -> int:
    """With which the journal in this directory would go on, if there is one. Raises NodeError."""
    try:
        return max(segment_numbers(directory), default=0) + 1
    except FileNotFoundError:
        return 1
    except OSError as error:
        raise NodeError(f"the journal in {directory} cannot be read: {error.strerror or error}") from error


class Files:
    """What the journal asks of the operating system. Each may raise OSError."""

    def create(self, path: Path) -> int:
        """A file to write from its front, made where there is none; its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def allocate(self, fd: int, start: int, size: int) -> None:
        """Space on disk; the file grows, with zeros."""
        os.posix_fallocate(fd, start, size)

    def cut(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Returns when all that was written to it would survive the end of the machine's power."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        sync_directory(path)

    def close(self, fd: int) -> None:
        os.close(fd)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
