"""Points in time as programs have them, and as the logfiles have them. No I/O."""

import math
from datetime import UTC, datetime
from typing import Any

from swarm.core.errors import BadArgument
from swarm.core.protocol import brief

Time = int | float | datetime
"""Nanoseconds since 1970-01-01 UTC as int, seconds since then as float, or a datetime that knows its time zone."""

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(time: Any) -> int:
    """Since 1970-01-01 UTC; exactly what a float or a datetime says. BadArgument for what is no Time."""
    if isinstance(time, int) and not isinstance(time, bool):
        return int(time)
    if isinstance(time, float):
        if not math.isfinite(time):
            raise BadArgument(f"a timestamp in seconds is a finite number, not {time}")
        seconds = math.floor(time)
        return seconds * SECOND + round((time - seconds) * SECOND)
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            raise BadArgument(
                f"the datetime {time} does not say in which time zone it is: give it one (datetime.now(UTC), "
                f"time.astimezone())"
            )
        since = time - _EPOCH
        return since.days * DAY + since.seconds * SECOND + since.microseconds * 1000
    raise BadArgument(
        "a timestamp is an int (nanoseconds since 1970-01-01 UTC), a float (seconds) or a datetime with a time zone, "
        f"not {brief(time)}"
    )
