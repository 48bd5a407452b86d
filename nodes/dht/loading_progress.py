"""How far a node is that loads what it holds: in root.log every few seconds, and by a bar where a terminal is."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

TOLD_EVERY_S = 5.0  # in root.log
BAR_AFTER_S = 1.0  # what is done by then needs no bar
LOOKED_AT_EVERY_S = 0.1


@contextmanager
def told_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how much of how much is done."""
    bar = _Bar(what) if sys.stderr.isatty() else None
    begun = looked = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal looked, told
        now = time.monotonic()
        if now - looked < LOOKED_AT_EVERY_S:
            return
        looked = now
        if bar is not None and now - begun > BAR_AFTER_S:
            bar.show(done, total)
        if now - told > TOLD_EVERY_S:
            told = now
            log.info("%s: %d%%", what, 100 * done // max(total, 1))

    try:
        yield tell
    finally:
        if bar is not None:
            bar.close()


class _Bar:
    def __init__(self, what: str) -> None:
        from rich.console import Console  # only a terminal needs it
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what)

    def show(self, done: int, total: int) -> None:
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        self._progress.stop()
