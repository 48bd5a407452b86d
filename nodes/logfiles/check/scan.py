"""One file from its front to its end: what of it is whole, and what is not."""

from pathlib import Path

from nodes.logfiles.block_format import FILE_MAGIC
from nodes.logfiles.check.reader import Reader
from nodes.logfiles.check.scan_blocks import scan_blocks
from nodes.logfiles.check.scan_tail import TAIL_MAGIC, scan_tail
from nodes.logfiles.check.scanned import Scan
from nodes.logfiles.file_names import FileName


def scan(path: Path, name: FileName | None) -> Scan:
    """Raises OSError, TooLarge."""
    with Reader(path) as file:
        found = Scan(path, file.size, name)
        front = file.read(0, len(FILE_MAGIC))
        is_tail = name.kind == "tail" if name else front == TAIL_MAGIC
        if name is not None and front in (FILE_MAGIC, TAIL_MAGIC):
            is_tail = front == TAIL_MAGIC  # the content says what it is; the name is looked at elsewhere
        if name is None and front not in (FILE_MAGIC, TAIL_MAGIC):
            return found
        if is_tail:
            scan_tail(file, found)
        else:
            scan_blocks(file, found)
        return found
