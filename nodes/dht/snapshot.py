"""Loads the dump that a node starts from, and says from which segment of the journal it goes on.

docs/formats/dump.md, *Which segments are needed* and *Loading*. Whatever of it is damaged or missing, the node either
has everything in the end (from the backup and more of the journal), or does not start unless its operator accepts that.

What is loaded are strings and dicts of them, which no garbage collection needs to look at: it is switched off.
"""

import gc
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nodes.dht.storage import DhtChannel
from swarm.core.node import NodeError, WrongData
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.dht.dump_format import (
    BACKUP_SUFFIX,
    DELETED,
    DUMP_SUFFIX,
    HASH_BYTES,
    MANIFEST,
    TEMPORARY_SUFFIX,
    Manifest,
    channel_of,
)
from swarm.dht.dumps import DumpDamaged, DumpFile, DumpUnreadable, read_manifest
from swarm.dht.hash_range import HASH_MAX, HashRange

log = logging.getLogger(__name__)

OutOfRange = Literal["fatal", "load", "ignore"]
"""What becomes of records that are outside the node's range: it refuses to start, keeps them, or leaves them out."""

Progress = Callable[[int, int], None]
"""Is told how much of how much is done; in no unit."""


@dataclass(frozen=True)
class Loaded:
    """What the journal goes on from. The defaults are those of a node without a dump."""

    replay_from: int = 1
    """Number of the first segment to be replayed."""
    first_segment: int = 1
    """Of the segment with which the dump has begun: it and those behind it have all that the dump may lack."""
    keep_from: int = 1
    """Those from this one on have not been removed when the dump was complete."""
    records: int = 0
    """That were loaded and are in the node's range."""
    from_dump: bool = False
    """Whether a manifest says so."""


NAMES_SHOWN = 20  # of unknown files, in a line of the log
_LOGS = ("root.log", "stats.log", "console.log")  # of dhtdump, and as logrotate names them
_KNOWN = {MANIFEST, DELETED, "lock"}


def load_snapshot(
    dump_dir: Path,
    channels: StorageChannels[DhtChannel],
    hash_range: HashRange,
    budget: MemoryBudget,
    policy: OutOfRange,
    accept_damage: bool,
    progress: Progress = lambda done, total: None,
) -> Loaded:
    """Fills the channels, of which there are none yet.

    accept_damage: loads what there is, where it would otherwise refuse because of damage.
    Raises NodeError.
    """
    try:
        return _load(dump_dir, channels, hash_range, budget, policy, accept_damage, progress)
    except DumpUnreadable as error:
        raise NodeError(f"the dump cannot be loaded: {error}") from error


def _load(
    dump_dir: Path,
    channels: StorageChannels[DhtChannel],
    hash_range: HashRange,
    budget: MemoryBudget,
    policy: OutOfRange,
    accept_damage: bool,
    progress: Progress,
) -> Loaded:
    begun = time.monotonic()
    with collector_at_rest():
        while True:
            manifest = _manifest(dump_dir, accept_damage)
            loading = _Loading(dump_dir, manifest, channels, hash_range, policy, accept_damage, progress)
            try:
                loading.load()
                break
            except _Replaced:
                log.info("%s: a dump was completed while the one before it was loaded: begins anew", dump_dir)
                for name, _ in channels.items():
                    deque(channels.pop(name), maxlen=0)
    loading.check_range()
    if budget.free < 0:
        log.warning("the dump takes %d bytes more than memory_limit allows: writes are refused", -budget.free)
    if loading.names:
        log.info(
            "loaded %d channels with %d records from %s in %.1f s",
            loading.loaded, loading.inside + loading.kept_outside, dump_dir, time.monotonic() - begun,
        )  # fmt: skip
    if manifest is None:
        return Loaded(records=loading.inside)
    first = min(loading.replay_from)
    return Loaded(first, manifest.first_segment, manifest.keep_from, loading.inside, from_dump=True)


class _Replaced(Exception):
    """A file is missing because there is another dump by now, which does not name it any more."""


def _manifest(dump_dir: Path, accept_damage: bool) -> Manifest | None:
    try:
        return read_manifest(dump_dir)
    except DumpDamaged as error:
        if not accept_damage:
            raise _refuse(str(error)) from error
        log.error("%s: every dump that is there is loaded", error)
        return None


def _refuse(why: str) -> WrongData:
    return WrongData(
        f"{why}. Without it records would be lost; to start nevertheless, with what there is: dhtnode --accept-damage"
    )


def _names(dump_dir: Path) -> list[str]:
    try:
        return sorted(each.name for each in dump_dir.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NodeError(f"cannot read the dump directory {dump_dir}: {error.strerror or error}") from error


def _warn_of_others(dump_dir: Path, names: Iterable[str], wanted: set[str]) -> None:
    temporary, unfinished, unknown = [], [], []
    for name in names:
        found = channel_of(name)
        if name.endswith(TEMPORARY_SUFFIX):
            temporary.append(name)
        elif found and found[0] not in wanted:
            unfinished.append(name)
        elif not found and name not in _KNOWN and not name.startswith(_LOGS):
            unknown.append(name)
    for what, which in (
        ("files of a dump that did not finish, which are not loaded", temporary),
        ("files of channels that are not in the last complete dump, which are not loaded", unfinished),
        ("unknown files, which are left alone", unknown),
    ):
        if which:
            more = f" and {len(which) - NAMES_SHOWN} more" if len(which) > NAMES_SHOWN else ""
            log.warning("%s: %s: %s%s", dump_dir, what, ", ".join(which[:NAMES_SHOWN]), more)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Loading makes millions of objects, none of which is garbage: the collector would look at them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass
class _Loading:
    dump_dir: Path
    manifest: Manifest | None
    channels: StorageChannels[DhtChannel]
    hash_range: HashRange
    policy: OutOfRange
    accept_damage: bool
    progress: Progress
    loaded: int = 0
    inside: int = 0
    outside: dict[str, int] = field(default_factory=dict)
    """Records outside the range, by channel."""
    replay_from: list[int] = field(default_factory=list)
    """Of what was loaded in place of damaged files, and of the dump: the lowest is where the journal goes on."""
    _done: int = 0
    _total: int = 0

    @property
    def kept_outside(self) -> int:
        return sum(self.outside.values()) if self.policy == "load" else 0

    names: list[str] = field(default_factory=list)
    """Of the channels that the dump has."""

    def load(self) -> None:
        """Of each channel the dump, or its backup. Raises NodeError, _Replaced."""
        if self.manifest:
            self.replay_from.append(self.manifest.first_segment)
        files = _names(self.dump_dir)
        self.names = sorted(
            self.manifest.channels if self.manifest else {found[0] for found in map(channel_of, files) if found}
        )
        _warn_of_others(self.dump_dir, files, set(self.names))
        paths = [self.dump_dir / (name + DUMP_SUFFIX) for name in self.names]
        self._total = 2 * sum(
            _size_of(path) for path in paths
        )  # reading it is the one half, filling the channel the other
        for path in paths:
            done = self._done
            dump = self._open(path)
            if dump is not None:
                with dump:
                    self._fill(path.name.removesuffix(DUMP_SUFFIX), dump)
            self._done = done + 2 * _size_of(path)

    def _open(self, path: Path) -> DumpFile | None:
        """A sound file of the channel; None where there is none and that is accepted."""
        try:
            return DumpFile(path, self._advance)
        except DumpDamaged as error:
            what = str(error)
        except FileNotFoundError:
            what = f"{path} is missing"
            self._check_not_replaced()
        backup = path.with_name(path.name.removesuffix(DUMP_SUFFIX) + BACKUP_SUFFIX)
        try:
            dump = DumpFile(backup, self._advance)
        except (DumpDamaged, FileNotFoundError) as error:
            what += f", and {error}" if isinstance(error, DumpDamaged) else f", and there is no {backup.name}"
            if self.manifest:
                self.replay_from.append(self.manifest.keep_from)
            if self._is_in_journal(path.name.removesuffix(DUMP_SUFFIX)):
                log.error("%s: the channel is new, and begins with what the journal has, which is all of it", what)
                return None
            if not self.accept_damage:
                raise _refuse(what) from error
            log.error("%s: the channel begins with what the journal has", what)
            return None
        self.replay_from.append(dump.trailer.first_segment)
        log.error("%s: %s is loaded, and the journal replayed from where that begins", what, backup.name)
        return dump

    def _is_in_journal(self, channel: str) -> bool:
        """Whether all records of a channel of the dump are in segments that are replayed now, or the node does not
        start. Where the dump has kept none of those before it there may have been no journal."""
        manifest = self.manifest
        return manifest is not None and manifest.channels[channel].new and manifest.keep_from < manifest.first_segment

    def _check_not_replaced(self) -> None:
        try:
            found = read_manifest(self.dump_dir)
        except DumpDamaged:
            return
        if found != self.manifest:
            raise _Replaced

    def _fill(self, name: str, dump: DumpFile) -> None:
        keeps = self.policy == "load"
        records = dump.trailer.records
        inside = 0

        def counted() -> Iterator[tuple[Sequence[bytes], Sequence[bytes]]]:
            nonlocal inside
            for keys, values in dump.batches(HashRange() if keeps else self.hash_range):
                inside += _count_within(keys, self.hash_range) if keeps else len(keys)
                self._advance(dump.trailer.lmdb_bytes * len(keys) // max(records, 1))
                yield keys, values

        self.channels.load(name).load(counted(), records, dump.hashes() if keeps else None)
        self.loaded += 1
        self.inside += inside
        if inside < records:
            self.outside[name] = records - inside

    def _advance(self, count: int) -> None:
        self._done += count
        self.progress(min(self._done, self._total), self._total)

    def check_range(self) -> None:
        """What becomes of records outside the node's range."""
        if not self.outside:
            return
        count = sum(self.outside.values())
        where = ", ".join(f"{records} in {name}" for name, records in list(self.outside.items())[:NAMES_SHOWN])
        what = (
            f"of {count + self.inside} records in the dump {count} are outside the node's hash range {self.hash_range}"
        )
        what += f" ({where})"
        if not self.inside:
            raise WrongData(f"{what}: is this the dump of another node?")
        if self.policy == "fatal":
            raise WrongData(
                f"{what}: set out_of_range in section [dump] to load or to ignore, or give the node its former range"
            )
        log.warning("%s: they are %s (out_of_range)", what, "loaded" if self.policy == "load" else "left out")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _count_within(keys: Sequence[bytes], hashes: HashRange) -> int:
    """How many of the stored keys, in their order, have these hashes."""
    start = bisect_left(keys, hashes.lowest.to_bytes(HASH_BYTES, "big"))
    if hashes.highest == HASH_MAX:
        return len(keys) - start
    return bisect_left(keys, (hashes.highest + 1).to_bytes(HASH_BYTES, "big")) - start
