"""Writing files so that a crash leaves the old one or the new one, and setting aside what is cut out.

Every file is written as a temporary one, synced, and renamed; then its directory is synced.

    NAME.N.damaged   one line of JSON: which file, its length, and of each part that was cut out the offset, length,
                     kind, and a sentence; then the bytes of these parts, one behind the other

docs/formats/logfiles.md, *What is set aside*.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from nodes.logfiles.check.files import Files
from nodes.logfiles.check.findings import Finding, shown
from nodes.logfiles.check.reader import Reader
from nodes.logfiles.file_names import DAMAGED_SUFFIX, UNFINISHED_SUFFIX
from swarm.core.limits import MIB

COPY_BYTES = 1 * MIB  # in memory at a time


def write_file(files: Files, path: Path, pieces: Iterable[bytes]) -> None:
    """Puts a file with this content in the place of the one that is there, if any. Raises OSError."""
    temporary = path.with_name(path.name + UNFINISHED_SUFFIX)
    try:
        fd = files.create(temporary)
        try:
            for piece in pieces:
                while piece:
                    piece = piece[files.write(fd, piece) :]
            files.sync(fd)
        finally:
            files.close(fd)
        files.rename(temporary, path)
    except OSError:
        with suppress(OSError):  # a full disk needs the room
            files.remove(temporary)
        raise
    files.sync_directory(path.parent)


def parts(file: Reader, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes between these offsets, in pieces."""
    for start, end in ranges:
        for offset in range(start, end, COPY_BYTES):
            yield file.read(offset, min(COPY_BYTES, end - offset))


def set_aside(files: Files, path: Path, findings: list[Finding]) -> Path:
    """Writes a `.damaged` file with these parts of a file, unless there is one with the same content, of a run that
    did not finish. Nothing is overwritten. Gives its path. Raises OSError."""
    with Reader(path) as file:
        cut = sorted({(each.offset, min(each.end, file.size)): each for each in findings}.items())
        report = {
            "file": shown(Path(path.name)),
            "bytes": file.size,
            "cut": [
                {"offset": start, "length": end - start, "kind": each.kind.value, "what": each.what}
                for (start, end), each in cut
            ],
        }
        ranges = [(start, end) for (start, end), _ in cut]
        front = json.dumps(report).encode() + b"\n"
        for number in count(1):
            target = path.with_name(f"{path.name}.{number}{DAMAGED_SUFFIX}")
            if not target.exists():
                write_file(files, target, _with_front(front, parts(file, ranges)))
                return target
            if _has_content(target, front, parts(file, ranges)):
                return target
    raise AssertionError("numbers do not end")


def _with_front(front: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield front
    yield from pieces


def _has_content(path: Path, front: bytes, pieces: Iterator[bytes]) -> bool:
    with Reader(path) as file:
        offset = 0
        for piece in _with_front(front, pieces):
            if file.read(offset, len(piece)) != piece:
                return False
            offset += len(piece)
        return offset == file.size
