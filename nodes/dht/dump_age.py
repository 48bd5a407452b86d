"""How old the last dump of the node is: what its manifest says, read anew when there is another."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from swarm.dht.dump_format import MANIFEST, Manifest
from swarm.dht.dumps import DumpDamaged, DumpUnreadable, read_manifest

PERIODS_MAX = 2.0  # one may fail, and be tried again
FIRST_DUMP_S = 12 * 3600.0  # two periods of a dhtdump that runs with no option


class DumpAge:
    def __init__(self, dump_dir: Path, *, journaled: bool, clock: Callable[[], float] = time.time) -> None:
        """journaled: the node has a journal, which grows until there is a dump."""
        self._dump_dir = dump_dir
        self._journaled = journaled
        self._clock = clock
        self._started = clock()
        self._read: object = None
        self._finished: float | None = None
        self._period_s: float | None = None

    @property
    def seconds(self) -> float | None:
        """Since the last dump was finished; None where there is none."""
        self._look()
        return None if self._finished is None else max(self._clock() - self._finished, 0.0)

    def statistics(self) -> dict[str, float]:
        age_s = self.seconds
        return {} if age_s is None else {"dump_age_s": round(age_s, 1)}

    def rule(self, _: bool) -> str | None:
        """The health rule dump_too_old."""
        age_s = self.seconds
        if age_s is None:
            if not self._journaled or self._clock() - self._started < FIRST_DUMP_S:
                return None
            return (
                f"there is no dump in {self._dump_dir}, so the journal grows: run a dhtdump for this node, with this "
                "dump_dir"
            )
        if self._period_s is None or age_s <= PERIODS_MAX * self._period_s:
            return None
        return (
            f"the last dump is {_hours(age_s)} old, and one is due every {_hours(self._period_s)}: see whether "
            "dhtdump runs for this node, and what its root.log says (its configuration names the directory)"
        )

    def _look(self) -> None:
        try:
            status = (self._dump_dir / MANIFEST).stat()
        except OSError:
            self._read = self._finished = None
            return
        read = (status.st_ino, status.st_mtime_ns, status.st_size)
        if read != self._read:
            self._read = read
            try:
                manifest = read_manifest(self._dump_dir)
            except (DumpDamaged, DumpUnreadable):
                manifest = None  # as good as none: a dump writes it anew
            self._finished = _time_of(manifest)
            self._period_s = manifest.period_s if manifest else None


def _time_of(manifest: Manifest | None) -> float | None:
    try:
        return datetime.fromisoformat(manifest.finished).timestamp() if manifest else None
    except (ValueError, OverflowError):
        return None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
