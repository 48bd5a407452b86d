"""A bucket that is not written to any more is rewritten as one file: in the order of time, compressed harder.

    python -m nodes.logfiles.sealing DIRECTORY START LENGTH GENERATION

A node starts it, see seal_work. DIRECTORY is the descriptor of the directory of the bucket's day. What is in the sealed
file there and in the logs up to the generation goes to a temporary file, is synced, and renamed; then the name is
printed. Whenever it ends before that, nothing has changed but a temporary file, which it removes itself, or, if it was
killed, the node, or the node's next start. A bucket with damage is left as it is: what is in it may still be repaired.

Memory: blocks that do not overlap go through one by one; those that do are merged in windows of WINDOW_BYTES.

The level is 9: of 1.3 M log lines of 203 bytes 17.1 % are left, 3.1 us a record to compress and 0.16 to decompress.
Level 3 leaves 19.9 % (0.8 us, 0.19), level 6 18.0 % (2.4 us, 0.18), level 12 16.8 % (4.7 us, 0.15).
"""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from nodes.logfiles.block_format import BLOCK_BYTES, BadHeader, FileHeader, make_block, new_seed
from nodes.logfiles.file_names import UNFINISHED_SUFFIX, FileName, Span
from nodes.logfiles.files import Files, write_all
from nodes.logfiles.merging import RECORD_BYTES, View
from nodes.logfiles.range_block import decode
from nodes.logfiles.sources import Source, block_sources, open_block_file
from swarm.core.limits import MIB
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN, BadPayload, Codec, Records

LEVEL = 9
WINDOW_BYTES = 32 * MIB  # of records merged at a time: some 200 MB of memory, where many blocks overlap
NICE = 19
STATUS_DAMAGED = 3


class Damaged(Exception):
    """The bucket has damage: it is not sealed."""


def seal(
    files: Files, directory: Path, span: Span, generation: int, is_wanted: Callable[[], bool] = lambda: True
) -> FileName:
    """The sealed file that takes the place of all of a bucket's up to this generation. Raises Damaged, OSError,
    InterruptedError when it is not wanted any more: asked once a block."""
    with ExitStack() as stack:
        sources = _sources(files, directory, span, generation, stack)
        temporary = directory / temporary_name(span, generation)
        fd = files.create(temporary)
        stack.callback(files.close, fd)
        try:
            sealed = _rewrite(files, fd, sources, span, generation, is_wanted)
            files.rename(temporary, directory / sealed.name)
        except BaseException:
            with suppress(OSError):
                files.remove(temporary)
            raise
        files.sync_directory(directory)
    return sealed


def temporary_name(span: Span, generation: int) -> str:
    return Path(FileName(span, generation, "log").name).stem + UNFINISHED_SUFFIX


def _rewrite(
    files: Files, fd: int, sources: list[Source], span: Span, generation: int, is_wanted: Callable[[], bool]
) -> FileName:
    """The content of the sealed file, synced."""
    seed = new_seed()
    write_all(files, fd, [header := FileHeader(True, span, generation, seed).pack()], 0)
    offset, records, value_bytes = len(header), 0, 0
    for timestamps, values in _blocks(_in_order(View(sources, WINDOW_BYTES))):
        if not is_wanted():
            raise InterruptedError("the node has ended")
        block, stored = make_block(timestamps, values, Codec.ZSTD, seed, level=LEVEL)
        write_all(files, fd, [block.pack(seed), stored], offset)
        offset += block.bytes
        records += block.records
        value_bytes += block.value_bytes
    files.sync(fd)
    if not is_wanted():
        raise InterruptedError("the node has ended")
    return FileName(span, generation, "sealed", records=records, value_bytes=value_bytes)


def _sources(files: Files, directory: Path, span: Span, generation: int, stack: ExitStack) -> list[Source]:
    names = [FileName.parse(span.day, name) for name, _ in files.list(directory)]
    found = [name for name in names if name and name.span == span and name.generation <= generation]
    sealed = max((name for name in found if name.kind == "sealed"), key=lambda name: name.generation, default=None)
    above = sealed.generation if sealed else 0
    if any(name.kind == "tail" and name.generation > above for name in found):
        raise FileExistsError(f"a tail of {span.day}/{span.time} is not in blocks")
    logs = sorted(name.generation for name in found if name.kind == "log" and name.generation > above)
    sources: list[Source] = []
    seq = 0
    for name in ([sealed] if sealed else []) + [FileName(span, each, "log") for each in logs]:
        try:
            file = open_block_file(files, directory / name.name, span, sealed=name.kind == "sealed")
        except BadHeader as error:
            raise Damaged(f"{name.path}: {error}") from error
        stack.callback(files.close, file.fd)
        if file.index.damages:
            raise Damaged(str(file.index.damages[0]))
        sources += block_sources(file, len(file.index), TIMESTAMP_MIN, TIMESTAMP_MAX + 1, seq)
        seq += len(file.index)
    return sources


def _in_order(view: View) -> Iterator[Records]:
    for block, _ in view.blocks((TIMESTAMP_MIN, -1, 0), (TIMESTAMP_MAX + 1, -1, 0)):
        if view.damages:
            raise Damaged(str(view.damages[0]))
        if block is not None:
            try:
                yield decode(block)
            except BadPayload as error:
                raise Damaged(f"a block that begins at {block.first}: {error}") from error


def _blocks(found: Iterator[Records]) -> Iterator[Records]:
    """The same records in blocks of some BLOCK_BYTES, whatever they came in."""
    timestamps: list[int] = []
    values: list[bytes] = []
    size = 0
    for more_timestamps, more_values in found:
        more = sum(map(len, more_values)) + RECORD_BYTES * len(more_values)
        if values and size + more > BLOCK_BYTES * 3 // 2:
            yield timestamps, values
            timestamps, values, size = [], [], 0
        timestamps = timestamps + more_timestamps
        values = values + more_values
        size += more
        if size >= BLOCK_BYTES * 3 // 4:
            yield timestamps, values
            timestamps, values, size = [], [], 0
    if values:
        yield timestamps, values


def _node_is_there() -> bool:
    """Its end of standard input is open."""
    return not select.select([0], [], [], 0)[0]


def main() -> int:
    directory, start, length_s, generation = map(int, sys.argv[1:])
    os.nice(NICE)
    os.fchdir(directory)
    try:
        sealed = seal(Files(), Path(), Span(start, length_s), generation, _node_is_there)
    except Damaged as error:
        sys.stderr.write(f"{error}\n")
        return STATUS_DAMAGED
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{sealed.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
