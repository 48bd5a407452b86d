"""Writing to files: pieces of any number, by writes that may be short."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from nodes.logfiles.files import PIECES_MAX, Files, Piece, write_all


class ShortWrites(Files):
    """Each write takes some bytes of what it is given, as at the end of a disk's space or of a signal."""

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        return os.pwrite(fd, b"".join(pieces)[:700], offset)


@pytest.mark.parametrize("count", [1, 2, PIECES_MAX, PIECES_MAX + 1, 3 * PIECES_MAX])
@pytest.mark.parametrize("files", [Files(), ShortWrites()], ids=["whole", "short"])
def test_all_pieces_are_written_where_they_belong(tmp_path: Path, files: Files, count: int) -> None:
    pieces = [b"%d," % number for number in range(count)]
    fd = files.create(tmp_path / "file")
    write_all(files, fd, [memoryview(pieces[0]), *pieces[1:]], 5)
    files.close(fd)
    assert (tmp_path / "file").read_bytes() == bytes(5) + b"".join(pieces)
