"""What the parts of one store have in common: its settings, its files, and what is to be done for all of them.

The lock guards what readers in other threads take a picture of. It is held for some microseconds, never while anything
is read or written.
"""

import errno
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from nodes.logfiles.block_index import SealedIndexes
from nodes.logfiles.files import Files
from nodes.logfiles.tail import Tail
from swarm.core.errors import DiskFull, OutOfMemory
from swarm.core.limits import CHANNELS_MAX, MIB, VALUE_BYTES_MAX
from swarm.core.node import NodeError
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN

OPEN_TAILS_MAX = 512  # each takes a descriptor; past half of it, those not written to for the longest become blocks
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})  # it may pass; others stop the node


@dataclass(frozen=True, slots=True)
class Settings:
    """bucket_s: length of new buckets, divides a day. syncs: False where nothing is ever synced (fsync = never).
    tail_memory: bytes that records may take that are not in blocks yet. timestamp_min, timestamp_max: both included."""

    bucket_s: int = 3600
    syncs: bool = True
    tail_memory: int = 256 * MIB
    value_bytes_max: int = VALUE_BYTES_MAX
    channels_max: int = CHANNELS_MAX
    timestamp_min: int = TIMESTAMP_MIN
    timestamp_max: int = TIMESTAMP_MAX


class Work(Protocol):
    """Something to be done off the loop."""

    def run(self) -> None:
        """In a thread. Raises OSError where the disk does not let it; then it comes again, later."""

    def finish(self) -> None:
        """On the loop, when run has ended, whether it has raised or not. Raises OSError."""


class Writable(Protocol):
    """What a part of a bucket is to the store as a whole."""

    def write(self) -> int:
        """What the pass has brought; so many bytes."""

    @property
    def is_at_rest(self) -> bool:
        """Whether `take` may be called."""

    def take(self, *, flush: bool = False) -> Work | None:
        """Work to make blocks."""


class Shared:
    def __init__(self, directory: Path, settings: Settings, files: Files) -> None:
        self.directory = directory
        self.settings = settings
        self.files = files
        self.lock = Lock()
        self.names = Lock()
        """Held while a thread opens or removes files of a part by their names, and while a channel is removed: what has
        these names afterwards may be another channel's."""
        self.indexes = SealedIndexes()
        self.touched: dict[Writable, None] = {}
        """Parts that the present pass has brought records to."""
        self.open: dict[Writable, None] = {}
        """Parts with a tail to write to; the one that was not written to for the longest comes first."""
        self.full: dict[Writable, None] = {}
        """Parts that blocks are to be made of."""
        self.unsynced: dict[Tail, None] = {}
        self.new_names: dict[Path, None] = {}
        """Directories with files that may not survive the end of the machine's power, by name."""
        self.to_close: list[int] = []
        """Descriptors of removed tails: with the last one the kernel frees some MiB, which takes ms."""
        self.tail_bytes = 0
        """Memory of the records that are in no block yet."""
        self.voids: list[Path] = []
        """Files that nobody needs any more."""
        self.damages = 0
        """Told up to now."""
        self.told: set[tuple[Path, int]] = set()

    def check_memory(self, wanted: int) -> None:
        """Raises OutOfMemory: records come faster than the disk takes them."""
        limit = self.settings.tail_memory
        if self.tail_bytes + wanted > limit:
            raise OutOfMemory(
                f"out of memory: {wanted} bytes wanted, {max(limit - self.tail_bytes, 0)} of {limit} are free for "
                "records that wait to become blocks on disk",
                {"limit": limit},
            )

    def problem(self, what: str, error: OSError) -> Exception:
        """What is to be raised where the operating system has refused something."""
        if error.errno in NO_ROOM:
            return DiskFull(f"the node cannot {what}: {error.strerror or error}")
        return NodeError(f"the node cannot {what}: {error}")
