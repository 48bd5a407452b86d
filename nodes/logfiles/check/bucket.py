"""The files of a bucket, each for itself and against one another: what is found in them.

What a node recognises when it starts is no damage: an entry that was not complete at the end of a tail, and a block
that was not complete at the end of a `.log` while the tails have its records still. It becomes a note.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodes.logfiles.check.findings import Finding, Kind, Report, reason, shown
from nodes.logfiles.check.scan import scan
from nodes.logfiles.check.scan_tail import TooLarge
from nodes.logfiles.check.scanned import Scan
from nodes.logfiles.file_names import DAMAGED_SUFFIX, UNFINISHED_SUFFIX, FileName
from nodes.logfiles.tail_format import HEADER_BYTES, Entry

Position = tuple[int, int]
"""Number of a tail, and an offset in it."""

START: Position = (0, 0)


@dataclass(frozen=True)
class Work:
    """Files of one directory that can only be judged together. channel: the directory of the channel that they belong
    to; None if they lie somewhere else. bytes: of all."""

    directory: Path
    channel: Path | None
    names: tuple[str, ...]
    bytes: int


@dataclass
class Generation:
    """What is written to until it is sealed: a `.log`, and tails in the order of their numbers."""

    number: int
    log: Scan | None = None
    tails: list[Scan] = field(default_factory=list)

    @property
    def position(self) -> Position:
        """Up to where the tails are in blocks that are whole."""
        return max((block.position for block in self.log.blocks), default=START) if self.log else START

    def scans(self) -> list[Scan]:
        return [self.log, *self.tails] if self.log else self.tails

    def is_damaged(self) -> bool:
        return any(each.findings for each in self.scans())


@dataclass
class Bucket:
    """void: files whose records are all elsewhere, and temporary ones. misplaced: those whose header says another name
    or place. sealed: the one that counts. unreadable: sealed ones of which nothing is whole. generations: those behind
    it. complete: every file could be looked at."""

    work: Work
    report: Report = field(default_factory=Report)
    scans: list[Scan] = field(default_factory=list)
    void: list[Finding] = field(default_factory=list)
    misplaced: list[Scan] = field(default_factory=list)
    sealed: Scan | None = None
    unreadable: list[Scan] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    complete: bool = True


def look(work: Work) -> Bucket:
    """Finds what is wrong with the files. Changes nothing; what cannot be read is told in the report."""
    bucket = Bucket(work)
    for name in work.names:
        try:
            _look_at(bucket, name)
        except FileNotFoundError:
            bucket.report.notes.append(f"{shown(work.directory / name)} vanished while it was looked for")
        except OSError as error:
            bucket.complete = False
            bucket.report.errors.append(f"{shown(work.directory / name)} cannot be read: {reason(error)}")
        except TooLarge as error:
            bucket.complete = False
            bucket.report.errors.append(f"{shown(work.directory / name)}: {error}")
    if bucket.complete:
        _compare(bucket)
    for each in bucket.scans:
        bucket.report.findings += sorted(each.findings, key=lambda finding: finding.offset)
    bucket.report.findings += bucket.void
    return bucket


def _look_at(bucket: Bucket, name: str) -> None:
    path, report = bucket.work.directory / name, bucket.report
    status = path.lstat()
    if name.endswith(DAMAGED_SUFFIX):
        report.notes.append(f"{shown(path)} was set aside earlier; no node reads it")
        return
    if not stat.S_ISREG(status.st_mode):
        what = "it is a symbolic link, which is not followed" if path.is_symlink() else "it is no regular file"
        report.findings.append(Finding(path, 0, 0, Kind.BAD_NAME, f"{what}; move it away", mendable=False))
        return
    report.files += 1
    report.bytes += status.st_size
    if name.endswith(UNFINISHED_SUFFIX):
        what = "a file that was not finished; the node removes it when it starts"
        bucket.void.append(Finding(path, 0, status.st_size, Kind.STRAY_TEMPORARY, what))
        return
    found = scan(path, FileName.parse(bucket.work.directory.name, name))
    report.blocks += len(found.blocks)
    report.records += found.records
    bucket.scans.append(found)
    bucket.complete &= not found.is_unknown
    _check_name(bucket, found)


def _check_name(bucket: Bucket, found: Scan) -> None:
    right, name, channel = found.found, found.name, bucket.work.channel
    if right is None:
        if name is None:
            what = "no file of a logfiles node, by name and content; move it away"
            found.findings = []
            found.damaged(0, found.size, Kind.BAD_NAME, what, mendable=False)
        return
    if name == right:
        return
    kind = Kind.WRONG_NAME
    if name is None and FileName.parse(right.day, found.path.name) is None:
        kind = Kind.BAD_NAME
    elif right.day != bucket.work.directory.name:
        kind = Kind.WRONG_PLACE
    what = f"by its content it is {right.path}"
    if _is_count_only(name, right):
        assert name is not None
        records, size = name.records - right.records, name.value_bytes - right.value_bytes
        what += f": {records} records with {size} bytes fewer than the name says" if records > 0 else ""
    target = channel / right.path if channel else None
    mendable = target is not None and not target.exists()
    if target is not None and not mendable:
        what += ", and there is such a file already; remove one of them, or move it away"
    finding = found.damaged(0, found.size, kind, what, mendable=mendable)
    if not _is_count_only(name, right):
        bucket.misplaced.append(found)
        if target is not None and mendable:
            bucket.report.moves.append((finding, target))


def _is_count_only(name: FileName | None, right: FileName) -> bool:
    """Whether the name is right but for the numbers of what a sealed file holds."""
    return name is not None and replace(name, records=right.records, value_bytes=right.value_bytes) == right


# One against another.


def _compare(bucket: Bucket) -> None:
    here = [each for each in bucket.scans if each.name is not None and each not in bucket.misplaced]
    sealed = [each for each in here if _name(each).kind == "sealed" and each.blocks]
    bucket.sealed = max(sealed, key=lambda each: (_name(each).generation, each.records), default=None)
    generations: dict[int, Generation] = {}
    for each in sorted(here, key=_name):
        name = _name(each)
        if (
            bucket.sealed is not None
            and each is not bucket.sealed
            and name.generation <= _name(bucket.sealed).generation
        ):
            _make_void(bucket, each, f"what it holds is in {bucket.sealed.path.name} too")
        elif name.kind == "sealed":
            if each is not bucket.sealed:
                bucket.unreadable.append(each)
        else:
            generation = generations.setdefault(name.generation, Generation(name.generation))
            if name.kind == "log":
                generation.log = each
            else:
                generation.tails.append(each)
    bucket.generations = list(generations.values())
    for generation in bucket.generations:
        _compare_generation(bucket, generation)


def _name(each: Scan) -> FileName:
    assert each.name is not None
    return each.name


def _make_void(bucket: Bucket, each: Scan, why: str) -> None:
    what = f"{why}; the node removes it when it sees it"
    bucket.void.append(Finding(each.path, 0, each.size, Kind.VOID_FILE, what))
    bucket.scans.remove(each)


def _compare_generation(bucket: Bucket, generation: Generation) -> None:
    position, log = generation.position, generation.log
    for tail in [each for each in generation.tails if _name(each).number < position[0]]:
        assert log is not None
        _make_void(bucket, tail, f"what it holds is in the blocks of {log.path.name} too")
        generation.tails.remove(tail)
    _note_missing_tails(bucket, generation)
    for tail in generation.tails:
        if _name(tail).number == position[0]:
            _compare_position(tail, position[1])
        if tail.unfinished is not None:
            _judge_unfinished(bucket, tail, recognised=True)
    if log is not None and log.unfinished is not None:
        _judge_unfinished(bucket, log, recognised=_have_tails(generation, log))


def _note_missing_tails(bucket: Bucket, generation: Generation) -> None:
    """A tail in which there was nothing is removed whatever its number, so one that is missing need not be damage."""
    there = [_name(tail).number for tail in generation.tails]
    missing = sorted(set(range(generation.position[0] + 1, max(there, default=0))) - set(there))
    if missing:
        first, last = _name(generation.tails[0]).name, _name(generation.tails[-1]).name
        numbers = f"{missing[0]} to {missing[-1]}" if len(missing) > 1 else f"{missing[0]}"
        what = f"{first} to {last}: number {numbers} is not there; nothing was in it, or it was lost"
        bucket.report.notes.append(f"{shown(bucket.work.directory)}: {what}")


def _have_tails(generation: Generation, log: Scan) -> bool:
    """Whether the tails have all that may have been in the end of the `.log` that was not finished."""
    assert log.unfinished is not None
    if log.unfinished.offset == 0:
        return bool(generation.tails) and _name(generation.tails[0]).number == 1
    ahead = [entry for tail, entry in uncovered(generation) if _name(tail).number <= generation.position[0] + 1]
    return sum(len(entry.values) for entry in ahead) >= max(1, log.unfinished_records)


def uncovered(generation: Generation) -> Iterator[tuple[Scan, Entry]]:
    """The entries of tails that are not, or not as a whole, in blocks."""
    position = generation.position
    for tail in generation.tails:
        for entry in tail.entries:
            if (_name(tail).number, entry.end) > position:
                yield tail, entry


def _compare_position(tail: Scan, offset: int) -> None:
    """offset: up to which the tail's records are in blocks."""
    if tail.found is None and not tail.entries:
        return  # nothing of it can be read
    if offset > max(tail.end, *(finding.end for finding in tail.findings), HEADER_BYTES):
        what = (
            f"by the blocks it had entries up to {offset}, which are in blocks; new ones there would be taken for them"
        )
        tail.damaged(tail.end, offset, Kind.TAIL_OVERLAP, what)
        tail.unfinished = None
    for entry in tail.entries:
        if entry.start < offset < entry.end:
            what = (
                f"by the blocks the tail is in them up to {offset}, in the middle of this entry: some records are twice"
            )
            tail.damaged(entry.start, entry.end, Kind.TAIL_OVERLAP, what)


def _judge_unfinished(bucket: Bucket, each: Scan, *, recognised: bool) -> None:
    unfinished = each.unfinished
    assert unfinished is not None
    if recognised:
        what = f"{shown(each.path)}: not finished from {unfinished.offset} on; the node goes on from there"
        bucket.report.notes.append(what)
    else:
        each.findings.append(unfinished)
        each.unfinished = None
