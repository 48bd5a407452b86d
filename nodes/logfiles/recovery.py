"""What is there when a store is opened: names of sealed files, headers of the blocks of logs, and what tails have that
is in no block.

A node that was killed leaves nothing else than it has at any other moment: each record is in a block or behind what the
log's last block says of the tails. Behind the last complete block of a log, and behind the last sound entry of a tail,
there may be what was not finished; nobody was told that it was stored.

Damage is told, with path and offset. What cannot be read stays as it is, for logfiles-check; its bucket is not sealed,
so nothing is lost that may still be mended.
"""

import logging
from pathlib import Path

from nodes.logfiles.block_format import BadHeader
from nodes.logfiles.block_index import Damage, last_sound, read_file_header, walk
from nodes.logfiles.entries import Entry
from nodes.logfiles.file_names import FileName, Span
from nodes.logfiles.files import NotAFile, naming, read_all
from nodes.logfiles.part import Part
from nodes.logfiles.shared import Shared
from nodes.logfiles.sources import open_block_file
from nodes.logfiles.tail import Tail
from nodes.logfiles.tail_format import (
    HEADER_BYTES,
    Rest,
    TailHeader,
    entries,
    next_entry,
    only_zeros,
    rest,
)
from nodes.logfiles.tail_format import Entry as StoredEntry
from swarm.logfiles.payload import columns, encode

log = logging.getLogger(__name__)


def tell(shared: Shared, damage: Damage) -> None:
    """Once, however often it is met."""
    shared.damages += 1
    if (damage.path, damage.offset) not in shared.told:
        if len(shared.told) < 10_000:  # the log says enough then
            shared.told.add((damage.path, damage.offset))
        log.error("damage: %s", damage)


def load_part(
    shared: Shared, channel: Path, span: Span, generation: int, *, has_log: bool, tails: list[int]
) -> tuple[Part, bool]:
    """The part as it was left, and whether it has damage that logfiles-check may mend. Raises OSError.

    tails: numbers of the tails that are there, in order.
    """
    part = Part(shared, channel, span, generation)
    loading = _Loading(shared, part)
    if has_log:
        loading.load_log(tails)
    for number in tails:
        loading.load_tail(number)
    part.last_number = max(part.last_number, part.index.position[0], *tails, 0)
    return part, loading.damaged


def is_whole(shared: Shared, channel: Path, name: FileName) -> bool:
    """Whether a sealed file has as many blocks as its name says, by their headers. Raises OSError."""
    path = channel / name.path
    try:
        file = open_block_file(shared.files, path, name.span, sealed=True)
    except BadHeader:
        return False
    shared.files.close(file.fd)
    index = file.index
    return not index.damages and (index.records_total, index.value_bytes) == (name.records, name.value_bytes)


class _Loading:
    def __init__(self, shared: Shared, part: Part) -> None:
        self._shared = shared
        self._files = shared.files
        self._part = part
        self.damaged = False

    def load_log(self, tails: list[int]) -> None:
        part = self._part
        try:
            fd = self._files.open(part.log_path)
        except NotAFile as error:
            self._strange(part.log_path, error)
            return
        with naming(part.log_path):
            self._load_log(fd, tails)

    def _load_log(self, fd: int, tails: list[int]) -> None:
        part = self._part
        try:
            header = read_file_header(self._files, fd)
            if (header.sealed, header.span, header.generation) != (False, part.span, part.generation):
                raise BadHeader("name that does not match the content")
            index = walk(self._files, fd, part.log_path, header.seed)
            if tails:
                sound = last_sound(self._files, fd, index, header.seed, tails[0])
                if sound < len(index):
                    log.warning("%s, offset %d: not finished; it is cut", part.log_path, index.offsets[sound])
                    index = walk(self._files, fd, part.log_path, header.seed, index.offsets[sound])
            part.torn = index.end < self._files.size(fd)
        except BadHeader as error:
            self._bad_log(fd, error, tails)
            return
        finally:
            self._files.close(fd)
        part.index, part.log_seed = index, header.seed
        found, index.damages = index.damages, []
        for damage in found:
            if damage.offset >= index.end and tails:
                log.warning("%s: not finished; it is cut when the bucket is next written to", damage)
            else:
                self.damaged = True
                index.damages.append(damage)
                part.frozen |= damage.offset >= index.end  # no tail has what was there: it is not cut
                tell(self._shared, damage)

    def _bad_log(self, fd: int, error: BadHeader, tails: list[int]) -> None:
        part = self._part
        size = self._files.size(fd)
        if tails[:1] == [1] and only_zeros(read_all(self._files, fd, min(size, 1 << 20), 0), 0):
            log.warning("%s: not finished; it is begun anew", part.log_path)  # its tails have all that was in it
            return
        part.frozen = True
        self._unreadable(part.log_path, str(error))

    def _strange(self, path: Path, error: NotAFile) -> None:
        """Something else is in the place of a file: nothing is written there, new records go into the next
        generation."""
        self._part.frozen = True
        self._unreadable(path, error.what)

    def _unreadable(self, path: Path, what: str) -> None:
        """A file as a whole; readers of the bucket are told of it too."""
        self.damaged = True
        damage = Damage(path, 0, what)
        self._part.index.damages.append(damage)
        tell(self._shared, damage)

    def load_tail(self, number: int) -> None:
        part, files = self._part, self._files
        path = part.channel / FileName(part.span, part.generation, "tail", number=number).path
        if number < part.index.position[0]:
            files.remove(path)  # all of it is in blocks
            return
        try:
            fd = files.open(path)
        except NotAFile as error:
            self._strange(path, error)
            return
        with naming(path):
            try:
                data = read_all(files, fd, files.size(fd), 0)
            finally:
                files.close(fd)
        try:
            header = TailHeader.unpack(data[:HEADER_BYTES])
            if (header.span, header.generation, header.number) != (part.span, part.generation, number):
                raise BadHeader("name that does not match the content")
        except BadHeader as error:
            if only_zeros(data, HEADER_BYTES):
                log.warning("%s: nothing was written to it; it is removed", path)
                files.remove(path)
            else:
                self._unreadable(path, str(error))
            return
        self._load_entries(Tail(files, path, number, header.seed, len(data), None), data)

    def _load_entries(self, tail: Tail, data: bytes) -> None:
        part = self._part
        part.tails.append(tail)
        in_blocks = part.index.position[1] if part.index.position[0] == tail.number else 0
        end = max(HEADER_BYTES, in_blocks)
        if in_blocks > len(data):
            self._set_aside(tail, Damage(tail.path, len(data), f"blocks say that they hold it up to {in_blocks}"))
        for entry in entries(data, tail.seed, end):
            self._load(tail, entry)
            end = entry.end
        found = rest(data, tail.seed, end)
        if found is Rest.TORN:
            log.warning("%s, offset %d: the last write was not finished; it is left out", tail.path, end)
        while found is Rest.DAMAGED:
            self._set_aside(tail, Damage(tail.path, end, "damage"))
            behind = next_entry(data, tail.seed, end + 1)
            if behind is None:
                break
            for entry in entries(data, tail.seed, behind.start):
                self._load(tail, entry)
                end = entry.end
            found = rest(data, tail.seed, end)
        if not tail.entries:
            self._shared.full[part] = None  # so that it is removed

    def _set_aside(self, tail: Tail, damage: Damage) -> None:
        tail.damaged = True
        tell(self._shared, damage)

    def _load(self, tail: Tail, entry: StoredEntry) -> None:
        span = self._part.span
        if min(entry.timestamps) < span.start or max(entry.timestamps) >= span.end:
            self._set_aside(tail, Damage(tail.path, entry.start, "records outside the bucket's time"))
            return
        self._part.load(Entry(columns(encode(entry.timestamps, entry.values)), tail, entry.end))
