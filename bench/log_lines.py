"""Records that look like those of real structured logs: levels, services, hosts, ids, times. No line comes twice.

They come from a seed, so that every process that wants them makes the same ones.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
STEP_NS = 3_600_000  # a million records an hour, each somewhere in its step: in order, no two at the same time
TENANTS = 1_000
PART = 1_000_000  # records that come from one seed

_LEVELS = ["info"] * 70 + ["debug"] * 20 + ["warn"] * 8 + ["error"] * 2
_SERVICES = ["auth", "billing", "cart", "catalog", "frontend", "gateway", "inventory", "mail", "payments", "search"]
_PATHS = ["/api/v1/users/%d", "/api/v1/orders/%d/items", "/api/v2/search?q=%d", "/static/app.%d.js", "/login?user=%d"]
_STATUSES = [200] * 80 + [201] * 5 + [304] * 8 + [404] * 6 + [500]

Record = tuple[int, bytes]


def begin_ns(number: int) -> int:
    """Where the step of a record begins."""
    return int(BEGIN.timestamp()) * 10**9 + number * STEP_NS


def substring(tenant: int) -> str:
    """What one line in TENANTS has."""
    return f'"tenant":"t-{tenant:04}"'


def records(count: int, first: int = 0) -> Iterator[Record]:
    """Timestamps in ns and lines of some 200 bytes, from the record of this number on; the same ones whenever they
    begin with the same number."""
    for number in range(first, first + count):
        if number == first or number % PART == 0:
            chance = random.Random(number)
            below, pick = chance.random, chance.choice
            seconds, clock = -1, ""
        timestamp = begin_ns(number) + int(below() * STEP_NS)
        if timestamp // 10**9 != seconds:
            seconds = timestamp // 10**9
            clock = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line = (
            f'{{"ts":"{clock}.{timestamp % 10**9 // 1_000:06}Z","level":"{pick(_LEVELS)}",'
            f'"service":"{pick(_SERVICES)}","host":"web-{int(below() * 40):02}",'
            f'"trace":"{chance.getrandbits(128):032x}",{substring(int(below() * TENANTS))},'
            f'"msg":"{pick(_PATHS) % int(below() * 1e6)} {pick(_STATUSES)}, '
            f'{int(below() * 8e4)} bytes in {40 * below() * below():.2f} ms"}}'
        )
        yield timestamp, line.encode()
