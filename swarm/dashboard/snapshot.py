"""What the page shows of a swarm at one moment, as values of JSON. No I/O.

However many nodes, channels and events there are, this stays small: the page takes it once a second.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swarm.dht.hash_range import HASH_MAX, HashRange
from swarm.dht.ring import RingProblem, problems_between
from swarm.monitor import NodeView

CHANNELS_SHOWN = 50  # the largest: a node may have 4,096, and nobody reads that many rows
QUEUES_SHOWN = 50  # the fullest
EVENTS_SHOWN = 50  # the newest: as many as one node keeps
FINDINGS_SHOWN = 100  # a swarm with more has one reason for most of them
PROBLEMS_SHOWN = 100  # gaps and overlaps


def snapshot(views: Sequence[NodeView]) -> dict[str, Any]:
    """Of all nodes, in their order; a node is known to the page by its number."""
    return {
        "nodes": [_node(each) for each in views],
        "ring": _ring(views),
        "channels": _channels(views),
        "queues": _queues(views),
        "findings": _findings(views),
        "events": _events(views),
    }


def sample(view: NodeView) -> tuple[float | None, float | None, float | None]:
    """What the charts draw of a node: requests per second, median and 99th percentile in ms; None is not known."""
    median, slowest = view.latency_s or (None, None)
    return _short(view.requests_per_s), _short(median, 1e3), _short(slowest, 1e3)


def _short(value: float | None, factor: float = 1.0) -> float | None:
    """With as many digits as a chart can show."""
    return None if value is None else float(f"{value * factor:.4g}")


def _node(view: NodeView) -> dict[str, Any]:
    requests_per_s, median_ms, slowest_ms = sample(view)
    return {
        "kind": view.kind,
        "address": view.address,
        "up": view.state == "up",
        "error": view.error,
        "version": view.version,
        "hashes": str(view.hash_range) if view.hash_range else None,
        "uptime_s": round(view.uptime_s),
        "channels": view.channels,
        "records": view.records,
        "bytes": view.bytes,
        "requests_per_s": requests_per_s,
        "requests": {name: _short(rate) for name, rate in view.requests.items()},
        "median_ms": median_ms,
        "p99_ms": slowest_ms,
        "connections": view.connections,
        "rss_bytes": view.rss_bytes,
        "memory_used": view.memory_used,
        "memory_limit": view.memory_limit,
        "lag_ms": _short(view.lag_s, 1e3),
        "fullest": view.fullest[0] if view.fullest else None,
        "dump_age_s": None if view.dump_age_s is None else round(view.dump_age_s),
        "errors": view.errors,
        "findings": len(view.findings),
    }


# The hash ring.


def _ring(views: Sequence[NodeView]) -> dict[str, Any]:
    """Places on the ring are from 0 to 1: a hash has more digits than a number of JavaScript."""
    ranges = [(view.hash_range, str(number)) for number, view in enumerate(views) if view.hash_range]
    problems = problems_between(ranges) if any(view.kind == "dht" for view in views) else []
    served = problems_between([each for each in ranges if views[int(each[1])].state == "up"])
    return {
        "arcs": [{"node": int(number), **_arc(hashes)} for hashes, number in sorted(ranges)],
        "problems": [
            {"kind": each.kind, "hashes": str(each.hashes), "nodes": list(map(int, each.nodes)), **_arc(each.hashes)}
            for each in problems[:PROBLEMS_SHOWN]
        ],
        "covered": _covered(problems) if ranges else 0.0,
        "served": _covered(served) if ranges else 0.0,
        "unknown": sum(1 for view in views if view.kind == "dht" and view.hash_range is None),
    }


def _covered(problems: Iterable[RingProblem]) -> float:
    """Which part of all hashes belongs to a node."""
    return 1 - sum(each.hashes.share for each in problems if each.kind == "gap")


def _arc(hashes: HashRange) -> dict[str, float]:
    return {"from": hashes.lowest / (HASH_MAX + 1), "to": (hashes.highest + 1) / (HASH_MAX + 1), "share": hashes.share}


# Channels and queues.


def _channels(views: Sequence[NodeView]) -> dict[str, Any]:
    """The largest of each kind of node, over all nodes that have a part of them; and how many there are besides."""
    sums: dict[tuple[str, str], list[int]] = {}
    for view in views:
        for name, figures in view.channel.items():
            entry = sums.setdefault((view.kind, name), [0, 0, 0])
            entry[0] += int(figures.get("records", 0))
            entry[1] += int(figures.get("bytes", 0))
            entry[2] += 1
    largest = heapq.nlargest(CHANNELS_SHOWN, sums.items(), key=lambda each: (each[1][1], each[1][0]))
    return {
        "largest": [
            {"kind": kind, "name": name, "records": records, "bytes": size, "nodes": nodes}
            for (kind, name), (records, size, nodes) in largest
        ],
        "others": len(sums) - len(largest),
        "others_bytes": sum(each[1] for each in sums.values()) - sum(size for _, (_, size, _) in largest),
    }


def _queues(views: Sequence[NodeView]) -> dict[str, Any]:
    """The fullest queues of each node: one that is full on one node may be empty on the others."""
    queues = [
        {
            "node": number,
            "name": name,
            "percent": round(float(figures["fullness"]), 1),
            "records": int(figures.get("records", 0)),
            "consumers": int(figures.get("consumers", 0)),
            "unacknowledged": int(figures.get("unacknowledged", 0)),
        }
        for number, view in enumerate(views)
        for name, figures in _queues_of(view)
    ]
    fullest = heapq.nlargest(QUEUES_SHOWN, queues, key=lambda each: (each["percent"], each["records"]))
    return {"fullest": fullest, "others": len(queues) - len(fullest)}


def _queues_of(view: NodeView) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for name, figures in view.channel.items():
        if "fullness" in figures:
            yield name, figures
        for subscriber, each in figures.get("subscriber", {}).items():
            if "fullness" in each:
                yield f"{name}/{subscriber}", each


# What is wrong, and what was told.


def _findings(views: Sequence[NodeView]) -> dict[str, Any]:
    findings = [
        {"node": number, "rule": rule, "text": text}
        for number, view in enumerate(views)
        for rule, text in view.findings
    ]
    return {"first": findings[:FINDINGS_SHOWN], "others": max(len(findings) - FINDINGS_SHOWN, 0)}


def _events(views: Sequence[NodeView]) -> list[dict[str, Any]]:
    events = [
        {"at_s": at_s, "level": level, "text": text, "node": number}
        for number, view in enumerate(views)
        for at_s, level, text in view.events
    ]
    return heapq.nlargest(EVENTS_SHOWN, events, key=lambda each: each["at_s"])
