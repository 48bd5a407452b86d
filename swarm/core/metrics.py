"""The figures of a node as Prometheus reads them: docs/operations.md, *Watching a swarm*.

Names begin with swarm_; times are in seconds, sizes in bytes, what is full in parts of 1; what only grows ends in
_total. Every sample has the label kind. Channels beyond HTTP_CHANNELS_MAX (queues, where a channel has more than one)
are told together, as the channel OTHERS: each is a time series in every metric of a channel.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import trio
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from swarm.core.limits import HTTP_CHANNELS_MAX
from swarm.core.node import Node
from swarm.core.stats import BOUNDS_S, BUCKET_NAMES, Metric, flatten

OTHERS = "(other)"  # no channel's name, so no channel's figures are mixed with these

METRICS = {
    "uptime_s": Metric("uptime_seconds", "Since the node was started."),
    "connections": Metric("connections", "Clients that are connected."),
    "accepted": Metric("connections_accepted", "Connections of clients.", counter=True),
    "refused": Metric("connections_refused", "Connections beyond connections_max.", counter=True),
    "protocol_errors": Metric("protocol_errors", "Connections closed for not keeping to the protocol.", counter=True),
    "tls_failures": Metric("tls_failures", "TLS handshakes and connections that failed.", counter=True),
    "authentication_failures": Metric("authentication_failures", "Logins that failed.", counter=True),
    "not_allowed": Metric("not_allowed", "Requests for which a client had no permission.", counter=True),
    "bytes_in": Metric("received_bytes", "Received from clients.", counter=True),
    "bytes_out": Metric("sent_bytes", "Sent to clients.", counter=True),
    "unfinished_bytes": Metric("unfinished_bytes", "Received of requests that have not come completely."),
    "lag_s": Metric("loop_lag_seconds", "By how much the last line of stats.log was late."),
    "rss_bytes": Metric("resident_memory_bytes", "Memory of the process that is in RAM."),
    "memory_used": Metric("memory_used_bytes", "What the records are counted as."),
    "memory_reserved": Metric("memory_reserved_bytes", "Of it, what is kept aside for the rest of large batches."),
    "memory_limit": Metric("memory_limit_bytes", "What the records may take."),
    "channels": Metric("channels", "Channels of the node."),
    "records": Metric("records", "Records of the node."),
    "bytes": Metric("record_bytes", "Bytes of them: keys and values."),
    "channel.records": Metric("channel_records", "Records of the channel."),
    "channel.bytes": Metric("channel_record_bytes", "Bytes of them: keys and values."),
    "http_connections": Metric("http_connections", "HTTP connections."),
    "http_requests": Metric("http_requests", "HTTP requests.", counter=True),
    "http_refused": Metric("http_refused", "HTTP connections and requests that were refused.", counter=True),
}

Figures = Mapping[str, Any]


async def exposition(node: Node) -> bytes:
    """What /metrics answers, made in steps of a millisecond or two, between which others have their turn."""
    rows = _Rows()
    for some in node.channel_counts():
        for name, figures in some.items():
            rows.add(name, figures)
        await trio.lowlevel.checkpoint()
    parts = []
    for family in _families(node, rows):
        parts.append(generate_latest(_Collected(family)))
        await trio.lowlevel.checkpoint()
    return b"".join(parts)


class _Collected(Collector):
    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return [self._family]


class _Rows:
    """What has figures of its own: channels, or their queues. Those behind the first HTTP_CHANNELS_MAX as one."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.rows: list[tuple[dict[str, str], Figures]] = []
        self.sums: dict[str, float] = {}
        self.highest: dict[str, float] = {}

    def add(self, channel: str, figures: Figures) -> None:
        """Where a channel has several queues its own figures are the sums of theirs: those are not told again."""
        subscribers = figures.get("subscriber")
        if not subscribers:
            self._add({"channel": channel}, figures)
        else:
            for subscriber, of_queue in subscribers.items():
                self._add({"channel": channel, "subscriber": subscriber}, of_queue)

    def _add(self, labels: dict[str, str], figures: Figures) -> None:
        for name, value in figures.items():
            self.names[name] = None
            if len(self.rows) >= HTTP_CHANNELS_MAX:
                self.sums[name] = self.sums.get(name, 0) + value
                self.highest[name] = max(self.highest.get(name, value), value)
        if len(self.rows) < HTTP_CHANNELS_MAX:
            self.rows.append((labels, figures))

    def samples(self, name: str, metric: Metric) -> Iterator[tuple[dict[str, str], float]]:
        for labels, figures in self.rows:
            if name in figures:
                yield labels, figures[name]
        if name in self.sums:
            yield {"channel": OTHERS}, (self.sums if metric.summed else self.highest)[name]


def _families(node: Node, rows: _Rows) -> Iterator[Family]:
    kind = {"kind": node.service.kind}
    known = METRICS | node.service.metrics
    counts = node.counts()
    requests = counts.pop("request")
    info = GaugeMetricFamily("swarm_node_info", "Always 1; the version is that of the node's software.")
    info.add_sample(info.name, kind | {"version": node.service.software}, 1)
    yield info
    for name, value in flatten(counts).items():
        yield _family(_metric(known, name), kind, [({}, value)])
    for name in rows.names:
        metric = _metric(known, f"channel.{name}")
        yield _family(metric, kind, rows.samples(name, metric))
    yield from _of_requests(kind, requests)
    found = {rule for rule, _ in node.health.findings()}
    yield _family(_FINDING, kind, [({"rule": rule}, float(rule in found)) for rule in node.health.rules])


_FINDING = Metric("health_finding", "1 while the health rule has found something; /health says what.")
_HANDLED = Metric("requests", "Requests that were handled, those that failed among them.", counter=True)
_FAILED = Metric("requests_failed", "Requests that were answered with an error.", counter=True)
_IN_FLIGHT = Metric("requests_in_flight", "Requests that run; those that stream, everything else is answered at once.")


def _of_requests(kind: dict[str, str], requests: Figures) -> Iterator[Family]:
    named = [({"request": name.replace(" ", "_")}, figures) for name, figures in requests.items()]
    for metric, figure in ((_HANDLED, "handled"), (_FAILED, "failed"), (_IN_FLIGHT, "in_flight")):
        yield _family(metric, kind, [(labels, figures[figure]) for labels, figures in named])
    times = HistogramMetricFamily("swarm_request_duration_seconds", "Time that requests took in the node.")
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    for labels, figures in named:
        counts = accumulate(figures["times"][name] for name in BUCKET_NAMES)
        for bound, count in zip(bounds, counts, strict=True):
            times.add_sample(f"{times.name}_bucket", kind | labels | {"le": bound}, count)
    yield times


def _metric(known: Mapping[str, Metric], name: str) -> Metric:
    """What is said of a figure; of one of which nothing is said, that it is a gauge."""
    if metric := known.get(name):
        return metric
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return Metric(re.sub("_s$", "_seconds", plain), f"{name} in the statistics of this kind of node.")


def _family(metric: Metric, kind: dict[str, str], samples: Iterable[tuple[dict[str, str], float]]) -> Family:
    form = CounterMetricFamily if metric.counter else GaugeMetricFamily
    family = form(f"swarm_{metric.name}", metric.help)
    name = f"{family.name}_total" if metric.counter else family.name
    for labels, value in samples:
        family.add_sample(name, kind | labels, value * metric.scale)
    return family
