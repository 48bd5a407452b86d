"""What the dashboard knows, ready to be sent: the swarm as it is now, and its history. No I/O.

Everything is encoded once, when it is new, however many browsers ask for it:

    now        the last snapshot
    history    ticks, one for each look at the swarm: [seconds since 1970, [requests/s, median, p99] of each node]

A tick has a number, and a browser names the last that it has: whether it looks for the first time, missed one answer
or slept for an hour, it gets those that it lacks. `run` tells one process from the one that took its place, whose
numbers begin anew.
"""

import json
import secrets
from collections import deque
from collections.abc import Sequence

from swarm.dashboard.snapshot import sample, snapshot
from swarm.monitor import NodeView

INTERVAL_S = 1.0  # between two looks at the swarm
HISTORY_TICKS = 900  # 15 minutes; some 20 bytes each for a node


class Board:
    def __init__(self, title: str) -> None:
        self.run = secrets.token_hex(8)
        self._title = title
        self._number = 0
        """Of the last tick; 0 before the first."""
        self._ticks: deque[bytes] = deque(maxlen=HISTORY_TICKS)
        self._now = b"null"

    def take(self, views: Sequence[NodeView], at_s: float) -> None:
        """The swarm at a moment, in seconds since 1970. The nodes are always the same, in the same order."""
        self._number += 1
        self._ticks.append(_encode([round(at_s, 2), *map(sample, views)]))
        self._now = _encode({"at_s": at_s, **snapshot(views)})

    def answer(self, run: str, after: int) -> bytes:
        """All that a browser lacks which has the ticks of that run up to this number."""
        head = {"run": self.run, "title": self._title, "number": self._number, "interval_s": INTERVAL_S}
        head["ticks_max"] = HISTORY_TICKS
        known = after if run == self.run else 0
        lacking = max(min(self._number - known, len(self._ticks)), 0)
        ticks = b",".join(list(self._ticks)[len(self._ticks) - lacking :])
        return b'%s,"now":%s,"history":[%s]}' % (_encode(head)[:-1], self._now, ticks)


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
