"""Records that look like those of real structured logs: levels, services, hosts, ids, times; no line twice."""

import json
import random
from datetime import UTC, datetime

NOON = 1_795_348_800_000_000_000  # 2026-11-22 12:00 UTC, in ns
_SERVICES = ["auth", "billing", "cart", "catalog", "frontend", "gateway", "inventory", "mail", "payments", "search"]
_PATHS = [
    "/api/v1/users/%d",
    "/api/v1/orders/%d/items",
    "/login",
    "/api/v2/search?q=%d",
    "/static/app.%d.js",
    "/health",
]
_MESSAGES = [
    "request handled",
    "cache miss, fetched from origin",
    "connection to upstream reset by peer, trying again",
    "user signed in",
    "slow query",
    "payment accepted",
]


def log_lines(
    count: int, seed: int = 1, start: int = NOON, mean_step: int = 3_000_000
) -> tuple[list[int], list[bytes]]:
    """Timestamps, in order, and lines of about 200 bytes."""
    chance = random.Random(seed)
    timestamps, values = [], []
    timestamp = start
    for _ in range(count):
        timestamp += int(chance.expovariate(1 / mean_step))
        path = chance.choice(_PATHS)
        line = {
            "ts": datetime.fromtimestamp(timestamp / 1e9, UTC).isoformat(),
            "level": chance.choices(["info", "debug", "warn", "error"], [70, 20, 8, 2])[0],
            "service": chance.choice(_SERVICES),
            "host": f"web-{chance.randrange(40):02}",
            "request": f"{chance.getrandbits(64):016x}",
            "path": path % chance.randrange(1_000_000) if "%" in path else path,
            "status": chance.choices([200, 201, 304, 404, 500], [80, 5, 8, 6, 1])[0],
            "ms": round(chance.lognormvariate(2, 1), 2),
            "msg": chance.choice(_MESSAGES),
        }
        timestamps.append(timestamp)
        values.append(json.dumps(line, separators=(",", ":")).encode())
    return timestamps, values
