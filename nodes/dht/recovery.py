"""What a node does with its journal when it starts: replays it, and sees to it that it is whole.

The segments that a dump has not made unnecessary are replayed in order, each up to the first place without a sound
entry. What may be there, and what is done about it, is a table in docs/formats/journal.md, *Reading*: a torn tail is
cut; damage is a NodeError that names file and offset, unless the operator accepts it. Then the damaged segment is set
aside in `damaged/`, and one that holds its sound entries takes its place, marked as mended. Nothing but zeros is ever
destroyed: a torn tail is set aside as well.

What an ordered stop has noted (`closed`) tells a last segment that was shortened or removed since from one that ends
where the process or the machine was stopped.

Whatever is recorded is loaded, also beyond the memory limit: nothing that was acknowledged is left out for a limit.
"""

import logging
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from nodes.dht.journal import STEP_BYTES
from nodes.dht.journal_files import CLOSED_NAME, SEGMENT_NAME, segment_numbers, segment_path
from nodes.dht.journal_format import (
    HEADER_BYTES,
    BadHeader,
    Data,
    Header,
    Rest,
    entries,
    new_seed,
    next_entry,
    only_zeros,
    rest,
)
from nodes.dht.loading_progress import told_progress
from nodes.dht.replay import Replay
from nodes.dht.snapshot import Loaded
from swarm.core.limits import KIB
from swarm.core.node import NodeError, WrongData
from swarm.dht.dumps import sync_directory

log = logging.getLogger(__name__)

MISSING_MAX = 1000  # segments that --accept-damage replaces: a larger gap is a file that does not belong here
BEGUN_BYTES = HEADER_BYTES + STEP_BYTES  # of a segment before its first entry; that one makes it grow
TOLD_EVERY_BYTES = 64 * KIB  # between two looks at the clock


@dataclass
class Recovered:
    """What the journal goes on from."""

    last_number: int = 0
    last_bytes: int = 0
    segments: dict[int, int] = field(default_factory=dict)
    """Length of each segment that is there."""


def recover(directory: Path, replay: Replay, loaded: Loaded, *, accept_damage: bool = False) -> Recovered:
    """Replays the segments that are needed behind what was loaded. Raises NodeError where that is not possible."""
    try:
        is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        recovered = _Recovery(directory, replay, loaded, accept_damage, is_new=is_new).run()
        if is_new:  # and will not be so at the next start, even if the disk has no room for a segment now
            segment_path(directory, recovered.last_number + 1).touch()
        return recovered
    except OSError as error:
        raise NodeError(f"the journal in {directory} cannot be read or mended: {error}") from error


def check_not_ignored(directory: Path) -> None:
    """NodeError if a node without a journal would leave one alone that has been written to: what was
    acknowledged would be missing."""
    try:
        numbers = segment_numbers(directory) if directory.exists() else []
        for number in numbers:
            with _opened(segment_path(directory, number)) as data:
                if number > 1 or not only_zeros(data, HEADER_BYTES):
                    raise WrongData(
                        f"the journal in {directory} has records, and enabled = no in section [journal] would leave "
                        f"them out. Set enabled = yes, or, to go on without them, move {directory} away"
                    )
    except OSError as error:
        raise NodeError(f"the journal in {directory} cannot be read: {error}") from error


class _Recovery:
    def __init__(self, directory: Path, replay: Replay, loaded: Loaded, accept_damage: bool, *, is_new: bool) -> None:
        self._directory = directory
        self._replay = replay
        self._accept_damage = accept_damage
        self._loaded = loaded
        self._is_new = is_new
        self._last = 0
        self._begun = 0  # number of a last segment that is to be begun anew, in the same file
        self._closed_number, self._closed_bytes = self._read_closed()
        self._previous_bytes = 0  # what the header of the segment says
        self._end_before = 0  # where the entries of the segment before ended
        self._mended_before = (
            True  # and whether it may be shorter than the next one says; nothing is known of the first
        )

    def run(self) -> Recovered:
        self._name_unknown_files()
        self._find_begun()
        numbers = self._with_missing_replaced(segment_numbers(self._directory))
        self._last = numbers[-1] if numbers else 0
        total = sum(segment_path(self._directory, each).stat().st_size for each in numbers)
        begun = monotonic()
        with told_progress("replaying the journal") as progress:
            done = 0

            def tell(size: int) -> None:
                nonlocal done
                done += size
                progress(done, total)

            for number in numbers:
                self._replay_segment(number, tell)
            self._replay.finish()
        if total:
            log.info(
                "the journal is replayed: %d MiB, %d records written, %d removed, in %.1f s",
                total >> 20, self._replay.records, self._replay.removed, monotonic() - begun,
            )  # fmt: skip
        self._remove_closed()
        return self._what_is_there(numbers)

    def _read_closed(self) -> tuple[int, int]:
        """Number and length of the last segment, if the journal was closed in order; 0 if that is not known."""
        path = self._directory / CLOSED_NAME
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return 0, 0
        if (found := re.fullmatch(rb"([0-9]{1,16}) ([0-9]{1,16})\n", text)) is None:
            log.warning("%s says nothing: the journal is read as after a stop without order", path)
            return 0, 0
        return int(found[1]), int(found[2])

    def _remove_closed(self) -> None:
        path = self._directory / CLOSED_NAME
        if path.exists():
            path.unlink()
            sync_directory(self._directory)

    def _name_unknown_files(self) -> None:
        for path in sorted(self._directory.iterdir()):
            if not SEGMENT_NAME.fullmatch(path.name) and path.name not in ("damaged", CLOSED_NAME):
                log.warning("%s is no segment of the journal; it is left alone", path)

    def _find_begun(self) -> None:
        """The last segment, where the machine stopped while it was begun; one that is longer, or of which is known that
        it was used, is damaged instead."""
        numbers = segment_numbers(self._directory)
        if not numbers or numbers[-1] < self._loaded.first_segment or numbers[-1] <= self._closed_number:
            return
        path = segment_path(self._directory, numbers[-1])
        with _opened(path) as data:
            if len(data) >= HEADER_BYTES and (len(data) > BEGUN_BYTES or not only_zeros(data, 0)):
                return
            log.warning("%s has just been begun when the node was stopped; it is begun anew", path)
            if not only_zeros(data, 0):
                self._set_aside(path, 0, data[:])
        self._begun = numbers[-1]

    def _with_missing_replaced(self, there: list[int]) -> list[int]:
        """Every number from the first to be replayed to the last one."""
        first, last = self._loaded.replay_from, self._last_needed(there)
        numbers = [each for each in there if first <= each <= last]
        lowest = numbers[0] if numbers else max(first, last)
        if first < lowest:
            first = self._front_replaced(first, lowest)
        wanted = range(lowest, last + 1)
        if len(wanted) - len(numbers) > MISSING_MAX:
            raise WrongData(
                f"{len(wanted) - len(numbers)} segments before {segment_path(self._directory, last)} are missing"
            )
        for number in sorted(set(wanted) - set(numbers)):
            path = segment_path(self._directory, number)
            self._damage(f"the segment {path} is missing")
            self._replace_missing(number)
        return list(range(first, last + 1))

    def _front_replaced(self, first: int, lowest: int) -> int:
        """Those before the lowest one are missing; from which on there are segments then. Without a manifest none are
        replaced: dumps may have made any number of them unnecessary."""
        paths = [segment_path(self._directory, number) for number in (first, lowest - 1, lowest)]
        missing = f"segments {paths[0]} to {paths[1]} are" if first < lowest - 1 else f"segment {paths[0]} is"
        self._damage(f"the {missing} missing: what is replayed begins with {paths[2]}")
        if not self._loaded.from_dump or lowest - first > MISSING_MAX:
            return lowest
        for number in range(first, lowest):
            self._replace_missing(number)
        return first

    def _replace_missing(self, number: int) -> None:
        path = segment_path(self._directory, number)
        self._write_mended(path, Header(number, 0, new_seed(), mended=True), [])

    def _last_needed(self, there: list[int]) -> int:
        """The last segment there is. Where there is none since the dump began, one is missing if it is not sure that
        nothing was written: the last before it is gone as well, though the dump has kept it."""
        if self._begun:
            return self._begun - 1
        begun = self._loaded.first_segment
        last = max(there[-1] if there else 0, self._closed_number)
        if last >= begun:
            return last
        if begun == 1:  # a dump of a node that had no journal says so too
            return 1 if self._loaded.from_dump and not self._is_new else 0
        if begun - 1 in there or begun == self._loaded.keep_from:
            path = segment_path(self._directory, begun)
            log.warning("the journal ends before %s: nothing was written since the dump", path)
            return begun - 1
        return begun

    def _replay_segment(self, number: int, tell: Callable[[int], None]) -> None:
        path = segment_path(self._directory, number)
        with _opened(path) as data:
            header = self._header(path, number, data)
            if header is None:
                self._end_before, self._mended_before = HEADER_BYTES, True
                return
            end = self._replay_entries(path, header, data, tell)
        self._end_before, self._mended_before = end, header.mended or self._mended_before

    def _header(self, path: Path, number: int, data: Data) -> Header | None:
        """None: it was damaged, and replaced by a segment without entries."""
        try:
            header = Header.unpack(data[:HEADER_BYTES])
            if header.number != number:
                raise BadHeader(f"it says that it is segment {header.number}")
        except BadHeader as error:
            self._damage(f"{path}, offset 0: bad header: {error}")
            log.error("%s: %d bytes are left out", path, len(data))
            self._mend(path, Header(number, 0, new_seed(), mended=True), [])
            self._previous_bytes = 0
            return None
        if not self._mended_before and self._end_before < header.previous_bytes:
            self._lost_end(number - 1, header.previous_bytes)
        self._mended_before = False
        self._previous_bytes = header.previous_bytes
        return header

    def _lost_end(self, number: int, size: int) -> None:
        path = segment_path(self._directory, number)
        self._damage(f"{path}, offset {self._end_before}: it has lost its end: it had {size} bytes")
        log.error("%s: %d bytes are left out", path, size - self._end_before)
        with _opened(path) as data:
            header = Header.unpack(data[:HEADER_BYTES])
            parts = [data[HEADER_BYTES : self._end_before]]
        self._mend(path, Header(number, header.previous_bytes, header.seed, mended=True), parts)

    def _replay_entries(self, path: Path, header: Header, data: Data, tell: Callable[[int], None]) -> int:
        end = HEADER_BYTES
        told = end
        for start, end, changes in entries(data, header.seed):
            self._carry_out(path, start, changes)
            if end - told > TOLD_EVERY_BYTES:
                tell(end - told)
                told = end
        found = rest(data, header.seed, end)
        is_last = header.number == self._last
        is_short = header.number == self._closed_number and end < self._closed_bytes
        if found is Rest.NOTHING and not is_short:
            if is_last and end < len(data):
                _cut(path, end)
        elif found is Rest.TORN and is_last and not is_short:
            tail = data[end : _bytes_before_zeros(data, end)]
            log.warning(
                "%s, offset %d: torn tail: the last write was under way when the node was stopped, or its end is "
                "damaged; %d bytes are cut, and set aside as %s",
                path, end, len(tail), self._set_aside(path, end, tail),
            )  # fmt: skip
            _cut(path, end)
        else:
            is_cut = found is Rest.NOTHING
            what = f"it has lost its end: it had {self._closed_bytes} bytes" if is_cut else "damage"
            self._damage(f"{path}, offset {end}: {what}")
            end = self._go_on_behind(path, header, data, end, tell)
            self._mended_before = True
        return end

    def _go_on_behind(self, path: Path, header: Header, data: Data, end: int, tell: Callable[[int], None]) -> int:
        """Replays the sound entries behind damage, and leaves out the rest. Where the mended segment ends."""
        parts = [data[HEADER_BYTES:end]]
        left_out = 0
        at = end
        while (entry := next_entry(data, header.seed, at)) is not None:
            left_out += entry.start - at
            self._carry_out(path, entry.start, entry.changes)
            parts.append(data[entry.start : entry.end])
            tell(entry.end - at)
            at = entry.end
        left_out += _bytes_before_zeros(data, at) - at
        log.error("%s: %d bytes are left out", path, left_out)
        self._mend(path, Header(header.number, header.previous_bytes, header.seed, mended=True), parts)
        return HEADER_BYTES + sum(map(len, parts))

    def _carry_out(self, path: Path, start: int, changes: object) -> None:
        try:
            self._replay.carry_out(changes)
        except (TypeError, ValueError, IndexError) as error:
            raise WrongData(
                f"{path}, offset {start}: an entry is sound and not understood ({error}): "
                "a newer version may have written it"
            ) from error

    def _damage(self, what: str) -> None:
        if not self._accept_damage:
            raise WrongData(
                f"the journal is damaged: {what}. Take a copy of {self._directory}; then --accept-damage starts the "
                "node with all that is sound"
            )
        log.error("the journal is damaged: %s", what)

    def _mend(self, path: Path, header: Header, parts: list[bytes]) -> None:
        kept = self._aside(path.name)
        os.link(path, kept)
        sync_directory(kept.parent)
        self._write_mended(path, header, parts)
        log.error("%s: set aside as %s; what is sound has taken its place", path, kept)

    def _set_aside(self, path: Path, offset: int, data: bytes) -> Path:
        """What the segment has there and will not have any more. The file that has it now."""
        kept = self._aside(f"{path.name}.from-{offset}")
        _write_synced(kept, data)
        sync_directory(kept.parent)
        return kept

    def _aside(self, name: str) -> Path:
        """A name of its own for what is set aside."""
        directory = self._directory / "damaged"
        directory.mkdir(exist_ok=True)
        return next(each for count in range(sys.maxsize) if not (each := directory / f"{name}.{count}").exists())

    def _write_mended(self, path: Path, header: Header, parts: list[bytes]) -> None:
        beside = path.with_suffix(".tmp")
        _write_synced(beside, b"".join((header.pack(), *parts)))
        beside.replace(path)
        sync_directory(self._directory)

    def _what_is_there(self, replayed: list[int]) -> Recovered:
        """A last segment without entries is as if it had not been begun: the journal begins it anew. Never one before
        that of the dump: what is written to it would not be replayed."""
        segments = {
            number: segment_path(self._directory, number).stat().st_size for number in segment_numbers(self._directory)
        }
        segments.pop(self._begun, None)
        if not replayed:
            return Recovered(self._loaded.first_segment - 1, 0, segments)
        last = replayed[-1]
        if self._end_before == HEADER_BYTES and last >= self._loaded.first_segment:
            del segments[last]
            return Recovered(last - 1, self._previous_bytes, segments)
        return Recovered(last, self._end_before, segments)


@contextmanager
def _opened(path: Path) -> Iterator[Data]:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _bytes_before_zeros(data: Data, start: int) -> int:
    """Where the zeros begin that the data ends with."""
    end = len(data)
    while end > start and (rest_of := data[max(start, end - 4096) : end].rstrip(b"\0")) == b"":
        end = max(start, end - 4096)
    return end if end == start else max(start, end - 4096) + len(rest_of)
