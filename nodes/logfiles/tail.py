"""A tail that is written to: space is allocated ahead, so whether the disk is full is known before a record is taken.

0      48           position   position + expected      allocated
┌──────┬────────────┬──────────┬────────────────────────┐
│header│ entries    │ zeros    │ zeros                  │
└──────┴────────────┴──────────┴────────────────────────┘
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nodes.logfiles.file_names import FileName, Span
from nodes.logfiles.files import Files, Piece, write_all
from nodes.logfiles.tail_format import HEADER_BYTES, TailHeader, new_seed
from swarm.core.limits import KIB, MIB

TAIL_BYTES = 4 * MIB  # a tail that has grown past it is followed by the next
FIRST_STEP_BYTES = 64 * KIB  # allocated at first, then twice as much each time: a bucket with few records takes little
STEP_BYTES_MAX = 1 * MIB


class Tail:
    def __init__(self, files: Files, path: Path, number: int, seed: bytes, position: int, fd: int | None) -> None:
        """fd: None for one from before the node started, which is only read."""
        self._files = files
        self.path = path
        self.number = number
        self.seed = seed
        self.position = position
        """Where its entries end."""
        self.fd = fd
        self.entries = 0
        """Of those in memory, how many are in it."""
        self.ended = fd is None
        """Nothing more will come."""
        self.damaged = False
        """It is kept aside when it has done its work."""
        self._expected = 0
        self._allocated = 0

    @classmethod
    def begin(cls, files: Files, channel: Path, span: Span, generation: int, number: int) -> "Tail":
        """Raises OSError; then there is none."""
        path = channel / FileName(span, generation, "tail", number=number).path
        fd = _create(files, path)
        header = TailHeader(span, generation, number, new_seed())
        tail = cls(files, path, number, header.seed, HEADER_BYTES, fd)
        try:
            tail.make_room(0)
            write_all(files, fd, [header.pack()], 0)
        except OSError:
            tail.close()
            with suppress(OSError):  # without records: the next start removes it
                files.remove(path)
            raise
        return tail

    def make_room(self, size: int) -> None:
        """Before records are taken: space for so many bytes more in this pass. Raises OSError; nothing has changed."""
        needed = self.position + self._expected + size + 1  # behind the last entry there are zeros, always
        while needed > self._allocated:
            step = max(min(max(self._allocated, FIRST_STEP_BYTES), STEP_BYTES_MAX), needed - self._allocated)
            self._files.allocate(self._open_fd(), self._allocated, step)
            self._allocated += step
        self._expected += size

    def append(self, pieces: Sequence[Piece]) -> None:
        """What the pass has brought. Raises OSError."""
        write_all(self._files, self._open_fd(), pieces, self.position)
        self.position += sum(map(len, pieces))
        self._expected = 0

    def cut(self) -> None:
        """No more will come. Raises OSError."""
        self._files.cut(self._open_fd(), self.position)

    def close(self) -> None:
        if self.fd is not None:
            fd, self.fd = self.fd, None
            self._files.close(fd)

    def _open_fd(self) -> int:
        assert self.fd is not None, "the tail is closed"
        return self.fd


def _create(files: Files, path: Path) -> int:
    """A file in a day of a channel, whose directories may not be there yet."""
    try:
        return files.create(path)
    except FileNotFoundError:
        channel = path.parent.parent
        for directory in (channel.parent, channel, path.parent):
            files.make_directory(directory)
        return files.create(path)
