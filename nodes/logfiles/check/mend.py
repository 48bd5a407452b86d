"""Mends the files of a bucket: what is whole is kept, the rest is set aside.

    void, temporary        set aside as a whole, first: nothing that is void may come to life by what follows
    .sealed                the same without what is damaged, and with a name that fits; if its blocks are out of order,
                           a `.log` of the same generation, which the node will seal again
    .log                   the same without what is damaged; the header is made anew, from the name, if need be
                           Records of a block that is damaged which a tail still has become a block again
    .tail                  its whole entries that are in no block yet, and those of the tails before it, become blocks
                           of the `.log`; the last one says that the tails are in blocks up to there. So nothing moves
                           inside a tail, where the blocks' offsets would not fit any more. Then the tail is set aside
    a wrong name or place  renamed

Each step leaves files that a second run mends to the same end: what is set aside is written first, then what is whole
takes the place of the damaged file in one rename, and only then goes what it has made void.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from nodes.logfiles.block_format import (
    BLOCK_BYTES,
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    BlockHeader,
    FileHeader,
    make_block,
    read_payload,
)
from nodes.logfiles.check.bucket import Bucket, Generation, Position
from nodes.logfiles.check.files import Files
from nodes.logfiles.check.findings import Finding, Kind, Report, reason, shown
from nodes.logfiles.check.reader import Reader
from nodes.logfiles.check.rewrite import parts, set_aside, write_file
from nodes.logfiles.check.scanned import Block, Scan
from nodes.logfiles.file_names import FileName
from nodes.logfiles.tail_format import Entry
from swarm.logfiles.payload import RECORDS_MAX, Codec

OF_THE_FILE = frozenset({Kind.WRONG_NAME, Kind.WRONG_PLACE, Kind.BAD_NAME})
"""Findings that are mended with a new name, and cut nothing out."""

Record = tuple[int, bytes]


class Mending:
    """Of one bucket. truncate: of each file what is behind its first damage goes too."""

    def __init__(self, bucket: Bucket, files: Files, *, truncate: bool = False) -> None:
        self._bucket = bucket
        self._files = files
        self._truncate = truncate

    def run(self) -> None:
        """Whatever stops it is told in the bucket's report; what was mended before is marked there."""
        try:
            self._run()
        except OSError as error:
            where = shown(Path(error.filename)) if error.filename else shown(self._bucket.work.directory)
            self._bucket.report.errors.append(f"{where} cannot be mended: {reason(error)}")

    def _run(self) -> None:
        bucket = self._bucket
        if not bucket.complete:
            if any(each.mendable for each in bucket.report.findings):
                text = "is left as it is: not all files of the bucket could be judged"
                bucket.report.errors.append(f"{shown(bucket.work.directory)} {text}")
            return
        for finding in bucket.void:
            self._set_aside(finding.path, [finding])
            self._remove(finding.path)
            bucket.report.mended([finding])
        for sealed in [*bucket.unreadable, *([bucket.sealed] if bucket.sealed else [])]:
            if sealed.findings:
                self._mend_sealed(sealed)
        for generation in bucket.generations:
            if generation.is_damaged():
                self._mend_generation(generation)

    def _kept(self, scan: Scan) -> list[Block]:
        if not self._truncate or not scan.findings:
            return scan.blocks
        first = min((each.offset for each in scan.findings if each.kind not in OF_THE_FILE), default=scan.size)
        return [block for block in scan.blocks if block.end <= first]

    # Sealed files.

    def _mend_sealed(self, scan: Scan) -> None:
        assert scan.name is not None
        findings = list(scan.findings)
        kept = self._kept(scan)
        if cut := _cut(scan, kept):
            self._set_aside(scan.path, cut)
        if not kept:
            self._remove(scan.path)
        elif any(each.kind is Kind.OUT_OF_ORDER for each in findings) and not self._truncate:
            log = FileName(scan.name.span, scan.name.generation, "log")
            self._write(log, scan, kept)  # where blocks may be in any order
            self._remove(scan.path)
        else:
            if cut:
                self._write(scan.name, scan, kept)
            records = sum(block.header.records for block in kept)
            value_bytes = sum(block.header.value_bytes for block in kept)
            self._rename(scan.path, replace(scan.name, records=records, value_bytes=value_bytes))
        self._bucket.report.mended(findings)

    def _rename(self, path: Path, name: FileName) -> None:
        if path.name != name.name:
            self._files.rename(path, path.with_name(name.name))
            self._files.sync_directory(path.parent)

    # What is written to.

    def _mend_generation(self, generation: Generation) -> None:
        log, tails = generation.log, generation.tails
        findings = [finding for each in generation.scans() for finding in each.findings]
        damaged = [tail for tail in tails if tail.findings]
        emptied = tails[: tails.index(damaged[-1]) + 1] if damaged else []
        if log is not None:
            log.blocks = self._kept(log)
        blocks: list[Block | NewBlock] = [*(log.blocks if log else []), *self._new_blocks(generation, emptied)]
        for tail in damaged:
            what = "; ".join(each.what for each in tail.findings)
            self._set_aside(tail.path, [Finding(tail.path, 0, tail.size, tail.findings[0].kind, what)])
        ends_torn = log is not None and log.unfinished is not None and bool(emptied)  # its records are in no tail now
        if log is not None and (log.findings or ends_torn or len(blocks) > len(log.blocks)):
            self._mend_log(log, blocks)
        elif log is None and blocks:
            assert emptied[0].name is not None
            name = FileName(emptied[0].name.span, generation.number, "log")
            self._write(name, Scan(self._bucket.work.directory / name.name, 0, name), blocks)
        for tail in emptied:
            self._remove(tail.path)
        self._bucket.report.mended(findings)

    def _mend_log(self, log: Scan, blocks: list["Block | NewBlock"]) -> None:
        assert log.name is not None
        if cut := _cut(log, log.blocks):
            self._set_aside(log.path, cut)
        if blocks:
            self._write(log.name, log, blocks)
        else:
            self._remove(log.path)

    def _new_blocks(self, generation: Generation, emptied: list[Scan]) -> Iterator["NewBlock"]:
        """Of the entries that are in no block, and will be in no tail."""
        group = NewBlock(generation.position)
        for tail, entry in self._entries_without_block(generation, emptied):
            assert tail.name is not None
            if group.timestamps and not group.takes(entry):
                yield group
                group = NewBlock(group.position)
            group.add(entry, (tail.name.number, entry.end))
        if group.timestamps:
            yield group

    def _entries_without_block(self, generation: Generation, emptied: list[Scan]) -> Iterator[tuple[Scan, Entry]]:
        """Told by the positions in the blocks' headers where these can be right, and by the records where they cannot:
        in a tail in which bytes may have moved, and behind a position for which a block is missing."""
        held = self._records_in_blocks(generation)
        for tail in generation.tails:
            assert tail.name is not None
            for entry in tail.entries:
                is_behind = (tail.name.number, entry.start) >= generation.position
                if tail.findings and self._truncate and entry.start >= _first_damage(tail):
                    break
                if is_behind and not tail.findings:
                    if tail in emptied:
                        yield tail, entry
                elif (rest := _without(entry, held)) is not None:
                    yield tail, rest

    def _records_in_blocks(self, generation: Generation) -> Counter[Record]:
        """Of the blocks for whose records there may be a tail still."""
        held: Counter[Record] = Counter()
        log, tails = generation.log, generation.tails
        if log is None or not tails:
            return held
        assert tails[0].name is not None
        with Reader(log.path) as file:
            for block in log.blocks:
                if block.header.tail >= tails[0].name.number:
                    stored = file.read(block.offset + BLOCK_HEADER_BYTES, block.header.stored_bytes)
                    held.update(zip(*read_payload(block.header, stored), strict=True))
        return held

    # Files.

    def _write(self, name: FileName, source: Scan, blocks: Sequence["Block | NewBlock"]) -> None:
        """A file with blocks of another, and new ones, in the place of the one with this name."""

        def pieces() -> Iterator[bytes]:
            yield FileHeader(name.kind == "sealed", name.span, name.generation, source.seed).pack()
            with ExitStack() as opened:
                file = opened.enter_context(Reader(source.path)) if source.size else None
                for block in blocks:
                    if isinstance(block, Block):
                        assert file is not None
                        yield block.header.pack(source.seed)
                        yield from parts(file, [(block.offset + BLOCK_HEADER_BYTES, block.end)])
                    else:
                        header, stored = block.make(source.seed)
                        yield header.pack(source.seed)
                        yield stored

        write_file(self._files, self._bucket.work.directory / name.name, pieces())

    def _set_aside(self, path: Path, cut: list[Finding]) -> None:
        self._bucket.report.set_aside.append(set_aside(self._files, path, cut))

    def _remove(self, path: Path) -> None:
        self._files.remove(path)
        self._files.sync_directory(path.parent)


class NewBlock:
    """Of entries of tails. position: up to where the tails are in blocks when it is written."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.timestamps: list[int] = []
        self.values: list[bytes] = []
        self._bytes = 0

    def takes(self, entry: Entry) -> bool:
        fits = self._bytes + entry.end - entry.start <= BLOCK_BYTES
        return fits and len(self.values) + len(entry.values) <= RECORDS_MAX

    def add(self, entry: Entry, position: Position) -> None:
        self.timestamps += entry.timestamps
        self.values += entry.values
        self.position = max(self.position, position)
        self._bytes += entry.end - entry.start

    def make(self, seed: bytes) -> tuple[BlockHeader, bytes]:
        order = sorted(range(len(self.timestamps)), key=self.timestamps.__getitem__)
        timestamps, values = [self.timestamps[each] for each in order], [self.values[each] for each in order]
        tail, offset = self.position
        return make_block(timestamps, values, Codec.LZ4, seed, tail=tail, tail_offset=offset)


def _without(entry: Entry, held: Counter[Record]) -> Entry | None:
    """What of an entry is not among these records, which it takes out of them."""
    rest = []
    for record in zip(entry.timestamps, entry.values, strict=True):
        if held[record] > 0:
            held[record] -= 1
        else:
            rest.append(record)
    return entry._replace(timestamps=[at for at, _ in rest], values=[value for _, value in rest]) if rest else None


def _first_damage(scan: Scan) -> int:
    return min((each.offset for each in scan.findings), default=scan.size)


def _cut(scan: Scan, kept: list[Block]) -> list[Finding]:
    """What of a file with blocks is not kept, with the findings in it."""
    damage = [each for each in scan.findings if each.kind not in OF_THE_FILE]
    if scan.unfinished is not None:
        damage.append(scan.unfinished)
    start = 0 if any(each.offset == 0 for each in damage) else FILE_HEADER_BYTES
    ends = [start, *(block.end for block in kept)]
    begins = [*(block.offset for block in kept), scan.size]
    cut = []
    for begin, end in zip(ends, begins, strict=True):
        inside = [each for each in damage if begin <= each.offset < end]
        if begin < end and (inside or damage):
            what = "; ".join(each.what for each in inside) or "it is behind the first damage"
            cut.append(Finding(scan.path, begin, end - begin, (inside or damage)[0].kind, what))
    return cut


def move(files: Files, report: Report) -> set[Path]:
    """Renames what is in the wrong place, or has a wrong name; the directories into which it has come.

    In one process, when the buckets are mended: it goes from one bucket to another.
    """
    changed = set()
    for finding, target in report.moves:
        try:
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            files.make_directory(target.parent)
            files.rename(finding.path, target)
            for directory in (target.parent.parent, target.parent, finding.path.parent):
                files.sync_directory(directory)
        except OSError as error:
            report.errors.append(f"{shown(finding.path)} cannot be moved to {shown(target)}: {reason(error)}")
            continue
        changed.add(target.parent)
        report.findings = [each for each in report.findings if each.path != finding.path or each == finding]
        report.mended([finding])
    return changed
