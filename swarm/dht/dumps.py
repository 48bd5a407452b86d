"""The files of a dump: written by dhtdump, read by the node and by `swarm dump`. docs/formats/dump.md.

LMDB trusts its file: it maps it, and follows the pages' numbers wherever they lead. A page that is missing kills the
process (SIGBUS), one that is damaged may. So nothing is opened with LMDB here before every byte of it was read and
compared with the checksum in the trailer; and it is opened through the very descriptor that was read, so that a dhtdump
that puts another file in its place meanwhile changes nothing.

A file is written by appending: records come in the order of hashes, so LMDB fills one page after another, and holds
no more in memory than a transaction. Its own syncing is off: a file that was not finished has no name that anybody
reads, and one that was is synced as a whole.
"""

import contextlib
import errno
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import lmdb
from xxhash import xxh3_64

from swarm.core.limits import KIB, MIB
from swarm.dht.dump_format import (
    HASH_BYTES,
    MANIFEST,
    TEMPORARY_SUFFIX,
    TRAILER_BYTES,
    Manifest,
    Trailer,
    stored_key,
)
from swarm.dht.hash_range import HASH_MAX, HashRange

MAP_BYTES = 2**40  # address space, not memory; the largest channel that can be dumped
TRANSACTION_BYTES = 2 * MIB  # LMDB holds the pages of a transaction in memory until it ends
CHECK_BYTES = 1 * MIB  # read at a time
READ_RECORDS = 8192  # given at a time
DISK_FULL_BYTES = 1 * MIB  # less room than this after a write that failed: the disk is full, whatever the error says

DAMAGE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EISDIR})  # a bad disk, or no file of a dump

Progress = Callable[[int], None]
"""Is told so and so many bytes more."""


class DumpDamaged(Exception):
    """A file of a dump is not what dhtdump has written. The text names the file and what is wrong with it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} is damaged: {what}")
        self.path = path
        self.what = what


class DumpUnreadable(Exception):
    """A file of a dump cannot be read here and now, and may be whole: the process may not read it, or lacks files or
    memory. The text names the file and the reason. Nothing may be done that takes it for damaged."""


class DumpNotWritten(Exception):
    """A dump could not be written, for a reason that an operator can mend: the text says which."""


def read_trailer(path: Path) -> Trailer:
    """Quickly: the rest of the file is not looked at. DumpDamaged, DumpUnreadable; FileNotFoundError."""
    with _reading(path), path.open("rb") as file:
        return _trailer_of(path, file)


class DumpFile:
    """A channel's dump, checked as a whole and open for reading; to be closed."""

    def __init__(self, path: Path, progress: Progress = lambda count: None) -> None:
        """Reads the file to its end. Raises DumpDamaged, DumpUnreadable; FileNotFoundError if there is none."""
        self.path = path
        with contextlib.ExitStack() as opened:
            with _reading(path):
                file = opened.enter_context(path.open("rb"))
                self.trailer = trailer = _trailer_of(path, file)
                file.seek(0)
                if _checksum(file, trailer.lmdb_bytes, progress) != trailer.lmdb_checksum:
                    raise DumpDamaged(path, "its content does not have the checksum that its trailer says")
            with _reading(path):
                self._env = opened.enter_context(
                    lmdb.open(f"/proc/self/fd/{file.fileno()}", subdir=False, readonly=True, lock=False, create=False)
                )
                self._transaction = opened.enter_context(self._env.begin())
                if (entries := self._env.stat()["entries"]) != trailer.records:
                    raise DumpDamaged(path, f"it holds {entries} records, and by its trailer {trailer.records}")
            self._opened = opened.pop_all()

    def get(self, key: bytes) -> bytes | None:
        """The value of a record."""
        return self._transaction.get(stored_key(key))

    def hashes(self) -> HashRange | None:
        """From the lowest to the highest hash that a record in it has; None if it has no records."""
        with self._transaction.cursor() as cursor:
            if not cursor.first():
                return None
            lowest = cursor.key()[:HASH_BYTES]
            cursor.last()
            return HashRange(int.from_bytes(lowest, "big"), int.from_bytes(cursor.key()[:HASH_BYTES], "big"))

    def batches(self, hashes: HashRange = HashRange()) -> Iterator[tuple[Sequence[bytes], Sequence[bytes]]]:
        """The records with these hashes, in their order: stored keys (hash and key), and values."""
        end = (hashes.highest + 1).to_bytes(HASH_BYTES, "big") if hashes.highest < HASH_MAX else None
        with self._transaction.cursor() as cursor:
            if not cursor.set_range(hashes.lowest.to_bytes(HASH_BYTES, "big")):
                return
            records = cursor.iternext()
            while batch := list(islice(records, READ_RECORDS)):
                keys, values = zip(*batch, strict=True)
                if end is not None and keys[-1] >= end:
                    stop = bisect_left(keys, end)
                    if stop:
                        yield keys[:stop], values[:stop]
                    return
                yield keys, values

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _trailer_of(path: Path, file: IO[bytes]) -> Trailer:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TRAILER_BYTES))
    try:
        return Trailer.decode(file.read(TRAILER_BYTES), size)
    except ValueError as error:
        raise DumpDamaged(path, str(error)) from error


def _checksum(file: IO[bytes], size: int, progress: Progress = lambda count: None) -> int:
    """XXH3-64 of the next bytes of the file, or of those that there are."""
    checksum = xxh3_64()
    buffer = memoryview(bytearray(min(CHECK_BYTES, size)))
    while size and (count := file.readinto(buffer[: min(size, CHECK_BYTES)])):  # type: ignore[attr-defined]
        checksum.update(buffer[:count])
        size -= count
        progress(count)
    return checksum.intdigest()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the disk cannot read is damaged as well; what only this process cannot is not."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in DAMAGE:
            raise DumpUnreadable(f"{path} cannot be read: {error.strerror or error}") from error
        raise DumpDamaged(path, f"it cannot be read: {error.strerror or error}") from error
    except lmdb.MemoryError as error:
        raise DumpUnreadable(f"{path} cannot be mapped into memory: {error} (is there a limit, ulimit -v?)") from error
    except lmdb.Error as error:
        raise DumpDamaged(path, f"LMDB cannot read it: {error}") from error


class DumpWriter:
    """Writes a channel's dump; finish() completes it, close() gives up what is not finished. Raises DumpNotWritten."""

    def __init__(self, path: Path) -> None:
        """path: of a file that is not there yet, or is of no use."""
        self.path = path
        self.records = 0
        self.record_bytes = 0
        self._pending_bytes = 0
        path.unlink(missing_ok=True)
        with writing(path):
            self._env = lmdb.open(
                str(path), map_size=MAP_BYTES, subdir=False, lock=False, sync=False, metasync=False, meminit=False
            )
            self._transaction: lmdb.Transaction | None = self._env.begin(write=True)

    def append(self, records: list[tuple[bytes, bytes]]) -> None:
        """Stored keys and values, sorted, all behind those that were appended before."""
        transaction = self._transaction
        assert transaction is not None
        with writing(self.path):
            with transaction.cursor() as cursor:
                _, added = cursor.putmulti(records, append=True)
            assert added == len(records), f"{self.path}: records came out of order"
            size = sum([len(key) + len(value) for key, value in records]) - HASH_BYTES * len(records)
            self.records += len(records)
            self.record_bytes += size
            self._pending_bytes += size
            if self._pending_bytes >= TRANSACTION_BYTES:
                self._pending_bytes = 0
                self._transaction = None  # whatever becomes of it, it is over
                transaction.commit()
                self._env.set_mapsize(
                    MAP_BYTES
                )  # maps the file anew: what was written counts as our memory while mapped
                self._transaction = self._env.begin(write=True)

    def finish(self, first_segment: int, hash_range: HashRange) -> Trailer:
        """Completes and syncs the file; closes in every case. Takes as long as the disk does: for a worker thread."""
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        with writing(self.path):
            try:
                transaction.commit()
            finally:
                self._env.close()
            with self.path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                checksum = _checksum(file, size)
                trailer = Trailer(self.records, self.record_bytes, first_segment, hash_range, size, checksum)
                file.seek(size)
                file.write(trailer.encode())
                file.flush()
                os.fsync(file.fileno())
        return trailer

    def close(self) -> None:
        """Gives up what was not finished; the file stays."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        self._env.close()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk or LMDB refuses becomes a DumpNotWritten that names the file, and says so if the disk is full."""
    try:
        yield
    except (OSError, lmdb.Error) as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError | lmdb.Error) -> DumpNotWritten:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    with contextlib.suppress(OSError):
        disk = os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or free < DISK_FULL_BYTES:
            return DumpNotWritten(f"the disk is full: {path} cannot be written ({reason}; {free // KIB} KiB are free)")
    return DumpNotWritten(f"{path} cannot be written: {reason}")


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a dump directory; None if there is none. DumpDamaged, DumpUnreadable."""
    path = directory / MANIFEST
    try:
        with _reading(path):
            return Manifest.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DumpDamaged(path, str(error)) from error


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replaces the manifest as a whole, and syncs it. DumpNotWritten."""
    path = directory / MANIFEST
    temporary = directory / (MANIFEST + TEMPORARY_SUFFIX)
    with writing(path):
        with temporary.open("wb") as file:
            file.write(manifest.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(directory)


def sync_directory(path: Path) -> None:
    """Makes durable which files there are, and their names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
