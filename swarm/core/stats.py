"""Request statistics, the same on nodes and in clients: counts and a histogram of times per request."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, NamedTuple

BOUNDS_S = (10e-6, 100e-6, 1e-3, 10e-3, 100e-3)
"""Upper bounds of the histogram's buckets in seconds; what takes longer than the last is in a bucket of its own."""

BUCKET_NAMES = ("10us", "100us", "1ms", "10ms", "100ms", "more")


class Metric(NamedTuple):
    """How one of the figures of a node is told to Prometheus.

    name: without "swarm_" before it, and without the "_total" that a counter has behind it; with the unit that it has
    times scale. counter: it only grows while the node runs. summed: of several channels together it is their sum, and
    otherwise the highest of them.
    """

    name: str
    help: str
    counter: bool = False
    scale: float = 1.0
    summed: bool = True


class RequestStatistics:
    """Of one kind of request: how many are in flight, were handled, failed, and how long they took."""

    __slots__ = ("failed", "histogram", "in_flight", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0
        self.failed = 0
        self.histogram = [0] * len(BUCKET_NAMES)

    def record(self, count: int, seconds: float) -> None:
        """Counts requests that took this long together; each goes into the histogram with their mean."""
        self.histogram[bisect_left(BOUNDS_S, seconds / count)] += count

    @property
    def handled(self) -> int:
        return sum(self.histogram)

    def snapshot(self) -> dict[str, Any]:
        return {
            "in_flight": self.in_flight,
            "handled": self.handled,
            "failed": self.failed,
            "times": dict(zip(BUCKET_NAMES, self.histogram, strict=True)),
        }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested statistics as one level, names joined by dots: how they stand in stats.log."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}".replace(" ", "_")
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = value
    return flat
