"""A file that is looked at.

It is read in pieces, with pread: a disk that fails gives an error, where a mapped file would kill the process.
"""

import os
from pathlib import Path

from swarm.core.limits import MIB

SEARCH_BYTES = 1 * MIB  # looked through in one step


class Reader:
    """A regular file, open for reading; its errors are OSError."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.size = os.fstat(self._fd).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Less than count only at the end of the file."""
        data = os.pread(self._fd, count, offset)
        while len(data) < count and (more := os.pread(self._fd, count - len(data), offset + len(data))):
            data += more
        return data

    def find(self, wanted: bytes, start: int) -> int | None:
        """The offset of these bytes, here or behind."""
        for offset in range(start, self.size, SEARCH_BYTES):
            at = self.read(offset, SEARCH_BYTES + len(wanted) - 1).find(wanted)
            if at >= 0:
                return offset + at
        return None

    def only_zeros(self, start: int) -> bool:
        """Whether nothing else is in it from this offset on."""
        for offset in range(start, self.size, SEARCH_BYTES):
            piece = self.read(offset, SEARCH_BYTES)
            if piece.count(0) != len(piece):
                return False
        return True

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
