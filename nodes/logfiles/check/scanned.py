"""What is known of one file when it was looked at from its front to its end."""

from dataclasses import dataclass, field
from pathlib import Path

from nodes.logfiles import tail_format
from nodes.logfiles.block_format import BadHeader, BlockHeader, new_seed
from nodes.logfiles.check.findings import Finding, Kind
from nodes.logfiles.file_names import FileName
from nodes.logfiles.tail_format import Entry

NO_SEED = bytes(8)


@dataclass(frozen=True)
class Block:
    """A whole one, and where it begins."""

    offset: int
    header: BlockHeader

    @property
    def end(self) -> int:
        return self.offset + self.header.bytes

    @property
    def position(self) -> tuple[int, int]:
        """Up to where the tails are in blocks: number of a tail, and offset in it."""
        return self.header.tail, self.header.tail_offset


@dataclass
class Scan:
    """Of a file. name: as it is, None if that is no name. found: the one that its header says, None if that is not
    sound. seed: with which its blocks or entries can be read, or written anew. unfinished: the end that a node may have
    been writing when it was stopped: a finding or not, depending on the other files of the bucket."""

    path: Path
    size: int
    name: FileName | None
    found: FileName | None = None
    seed: bytes = field(default_factory=new_seed)
    blocks: list[Block] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unfinished: Finding | None = None
    unfinished_records: int = 0
    """How many records the block has that was not finished, if that is known."""

    @property
    def is_unknown(self) -> bool:
        """Written by a program that knows more than this one: nothing can be said of it."""
        return any(each.offset == 0 and each.kind is Kind.UNKNOWN_VERSION for each in self.findings)

    @property
    def end(self) -> int:
        """Where the entries of a tail end."""
        return self.entries[-1].end if self.entries else tail_format.HEADER_BYTES

    @property
    def records(self) -> int:
        return sum(block.header.records for block in self.blocks) + sum(len(entry.values) for entry in self.entries)

    @property
    def value_bytes(self) -> int:
        return sum(block.header.value_bytes for block in self.blocks)

    def damaged(self, offset: int, end: int, kind: Kind, what: str, *, mendable: bool = True) -> Finding:
        finding = Finding(self.path, offset, end - offset, kind, what, mendable)
        self.findings.append(finding)
        return finding


def header_damage(scan: Scan, found: bytes, size: int, magic: bytes, error: BadHeader, *, is_begun: bool) -> None:
    """The finding for what a file begins with. is_begun: it is as the node leaves it that had just begun it."""
    if is_begun:
        scan.unfinished = Finding(scan.path, 0, scan.size, Kind.TRUNCATED_HEADER, f"{error}")
    elif len(found) < size:
        scan.damaged(0, len(found), Kind.TRUNCATED_HEADER, f"{error}: the node reads nothing of this file")
    elif not found.startswith(magic):
        scan.damaged(0, size, Kind.BAD_MAGIC, "it does not begin as such a file does: the node reads nothing of it")
    elif str(error).startswith("unknown version"):
        what = f"{error}: a newer program has written it; use the logfiles-check of that one"
        scan.damaged(0, scan.size, Kind.UNKNOWN_VERSION, what, mendable=False)
    elif str(error).startswith("checksum"):
        scan.damaged(0, size, Kind.HEADER_CHECKSUM, f"{error}: the node reads nothing of this file")
    else:
        scan.damaged(0, size, Kind.IMPOSSIBLE_HEADER, f"{error}: the node reads nothing of this file")
