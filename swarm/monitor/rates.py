"""What two answers of a node to the same question come to: requests per second, and how long they took. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.core.stats import BOUNDS_S, BUCKET_NAMES

SHORTEST_S = BOUNDS_S[0] / 10
"""Where the first bucket of the histogram is taken to begin: as with the others, its end is ten times that."""

OWN_REQUESTS = frozenset({"stats", "health", "events"})
"""What asking for figures takes. It is no load, so it is not counted."""


@dataclass(frozen=True)
class Counters:
    """Of all requests but OWN_REQUESTS, since the node's start; taken_at_s: by a clock that only goes forward."""

    handled: Mapping[str, int]
    histogram: tuple[int, ...]
    uptime_s: float
    taken_at_s: float


@dataclass(frozen=True)
class Rates:
    """Between two answers.

    requests: per second, by the request's name, of those that came at all; the largest first.
    latency_s: the median and the 99th percentile, None where nothing was asked for.
    """

    requests_per_s: float
    requests: Mapping[str, float]
    latency_s: tuple[float, float] | None


def rates(before: Counters | None, now: Counters) -> Rates | None:
    """None where they cannot be told: there is nothing before, or the node was restarted since."""
    if before is None or now.taken_at_s <= before.taken_at_s or _is_of_another_start(before, now):
        return None
    seconds = now.taken_at_s - before.taken_at_s
    counts = {name: count - before.handled.get(name, 0) for name, count in now.handled.items()}
    busiest = sorted((name for name, count in counts.items() if count), key=lambda name: (-counts[name], name))
    histogram = [after - first for first, after in zip(before.histogram, now.histogram, strict=True)]
    return Rates(
        sum(counts.values()) / seconds,
        {name: counts[name] / seconds for name in busiest},
        (quantile(histogram, 0.5), quantile(histogram, 0.99)) if any(histogram) else None,
    )


def _is_of_another_start(before: Counters, now: Counters) -> bool:
    return (
        now.uptime_s < before.uptime_s
        or any(now.handled.get(name, 0) < count for name, count in before.handled.items())
        or any(after < first for first, after in zip(before.histogram, now.histogram, strict=True))
    )


def quantile(histogram: list[int], share: float) -> float:
    """Seconds that this share of the requests took at most, estimated; the histogram counts at least one.

    Inside a bucket they are taken to be spread evenly over the logarithm of the time. What took longer than the last
    bound is given as that bound: how much longer is not known.
    """
    assert len(histogram) == len(BUCKET_NAMES)
    rank = share * sum(histogram)
    passed = 0
    for lower, upper, count in zip((SHORTEST_S, *BOUNDS_S), BOUNDS_S, histogram, strict=False):
        if count and passed + count >= rank:
            return float(lower * (upper / lower) ** ((rank - passed) / count))
        passed += count
    return BOUNDS_S[-1]
