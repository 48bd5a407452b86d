"""The time by which records are too old.

What retention drops is gone, so a clock that is wrong must not make everything too old. A clock that is suddenly ahead
by more than the time that has passed, while the node runs or since it last ran, is believed only when it has stayed
there for a day: long enough for somebody, or NTP, to put it right. Meanwhile time goes on as if it had not jumped.

After a node has been down for more than an hour, or its machine slept, that looks the same: then what is too old is
dropped a day later, and nothing else is different.
"""

import logging
import time
from collections.abc import Callable

from nodes.logfiles.file_names import SECOND_NS

log = logging.getLogger(__name__)

JUMP_S = 3600  # a clock is set by less than that, if it was not wrong
HOLD_S = 86_400


class BelievedClock:
    def __init__(
        self,
        last: int | None,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """last: what it said when the node was last there; None: it never was."""
        self._wall = wall
        self._monotonic = monotonic
        self._asked_at = monotonic()
        self._believed = wall() if last is None else last
        self._ahead_since: int | None = None

    def now(self) -> int:
        """A timestamp. To be asked once in a while."""
        at, says = self._monotonic(), self._wall()
        expected = self._believed + at - self._asked_at
        self._asked_at = at
        self._believed = expected if self._is_ahead(says - expected, at) else says
        return self._believed

    def _is_ahead(self, ahead: int, at: int) -> bool:
        """And has not stayed there."""
        if ahead <= JUMP_S * SECOND_NS:
            self._ahead_since = None
        elif self._ahead_since is None:
            self._ahead_since = at
            log.warning(
                "the clock is %d s ahead of the time that has passed since the node last looked at it: if it stays so "
                "for a day it is believed, until then nothing is too old because of that",
                ahead // SECOND_NS,
            )
        elif at - self._ahead_since >= HOLD_S * SECOND_NS:
            self._ahead_since = None
        return self._ahead_since is not None
