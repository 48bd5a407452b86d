"""What is found, and how it is told to machines."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntFlag, StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """Of a finding; the names are those of `--json`. docs/formats/logfiles.md, *Damage*."""

    BAD_MAGIC = "bad-magic"
    UNKNOWN_VERSION = "unknown-version"
    TRUNCATED_HEADER = "truncated-header"
    TRUNCATED_PAYLOAD = "truncated-payload"
    HEADER_CHECKSUM = "header-checksum"
    PAYLOAD_CHECKSUM = "payload-checksum"
    IMPOSSIBLE_HEADER = "impossible-header"
    COUNT_OR_TIMES = "count-or-times"
    UNDECODABLE = "undecodable"
    OUTSIDE_BUCKET = "outside-bucket"
    OUT_OF_ORDER = "out-of-order"
    DOUBLED_BLOCK = "doubled-block"
    WRONG_PLACE = "wrong-place"
    BAD_NAME = "bad-name"
    WRONG_NAME = "wrong-name"
    TAIL_OVERLAP = "tail-overlap"
    ZERO_END = "zero-end"
    STRAY_TEMPORARY = "stray-temporary"
    VOID_FILE = "void-file"


class Status(IntFlag):
    """Exit status as that of fsck: the sum of what happened."""

    CLEAN = 0
    REPAIRED = 1
    DAMAGE_LEFT = 4
    OPERATIONAL = 8
    USAGE = 16


@dataclass(frozen=True)
class Finding:
    """offset, length: of what is damaged in the file; of a file as a whole 0 and its size. what: a sentence, what is
    lost or to be done. mendable: --fix can mend it."""

    path: Path
    offset: int
    length: int
    kind: Kind
    what: str
    mendable: bool = True
    mended: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.length

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "finding",
            "path": shown(self.path),
            "offset": self.offset,
            "length": self.length,
            "kind": self.kind.value,
            "what": self.what,
            "mendable": self.mendable,
            "mended": self.mended,
        }


@dataclass
class Report:
    """Of a part of what is checked, or of all. notes: what a node recognises itself. errors: why something could not be
    checked or mended. set_aside: files that were written. moves: what is mended by moving a file to this path."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    set_aside: list[Path] = field(default_factory=list)
    moves: list[tuple[Finding, Path]] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    blocks: int = 0
    records: int = 0

    def add(self, other: "Report") -> None:
        self.findings += other.findings
        self.notes += other.notes
        self.errors += other.errors
        self.set_aside += other.set_aside
        self.moves += other.moves
        self.files += other.files
        self.bytes += other.bytes
        self.blocks += other.blocks
        self.records += other.records

    def mended(self, findings: Iterable[Finding]) -> None:
        done = set(findings)
        self.findings = [replace(each, mended=True) if each in done else each for each in self.findings]

    @property
    def status(self) -> Status:
        status = Status.CLEAN
        if any(finding.mended for finding in self.findings):
            status |= Status.REPAIRED
        if not all(finding.mended for finding in self.findings):
            status |= Status.DAMAGE_LEFT
        if self.errors:
            status |= Status.OPERATIONAL
        return status

    def summary(self) -> dict[str, Any]:
        return {
            "type": "summary",
            "files": self.files,
            "bytes": self.bytes,
            "blocks": self.blocks,
            "records": self.records,
            "findings": len(self.findings),
            "mended": sum(finding.mended for finding in self.findings),
            "errors": len(self.errors),
            "set_aside": [shown(path) for path in self.set_aside],
            "status": int(self.status),
        }


def shown(path: Path) -> str:
    """A path as text that a terminal and JSON can take, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def reason(error: OSError) -> str:
    return error.strerror or str(error)
