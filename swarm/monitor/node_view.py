"""What a node says of itself, as those see it who look at a swarm. No I/O.

A node may be hostile, or of another version: what it says is checked here, once. Figures that are none are an error of
the node; text is printable and of a bounded length, so it may go to a terminal or into a page as text; names of
channels are names of channels. What it does not say is 0, or empty.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from swarm.core.errors import BadChannel, ProtocolError
from swarm.core.operations import check_channel
from swarm.core.protocol import brief
from swarm.core.stats import BUCKET_NAMES
from swarm.dht.hash_range import HashRange
from swarm.monitor.rates import OWN_REQUESTS, Counters, Rates

TEXT_LENGTH_MAX = 300  # characters of one text: some lines of a terminal
NAME_LENGTH_MAX = 64
REQUESTS_MAX = 64  # kinds of them: there are some 30
FINDINGS_MAX = 64
EVENTS_MAX = 50  # what a node keeps
CHANNELS_MAX = 16384  # of one node; four times what a node has by default
FULLEST_MAX = 5  # queues
FIGURE_MAX = 2.0**64
EVENT_AT_S_MAX = 4e9  # the year 2096: who shows times may count on one that calendars know

Number = TypeVar("Number", int, float)
Figures = Mapping[str, Any]
"""Of a channel: numbers by their names, and under `subscriber` the same for each."""

Event = tuple[float, str, str]
"""Seconds since 1970, level, text."""


class Reason(StrEnum):
    """Why a node is down, for programs."""

    NOT_ASKED = "not asked yet"
    REFUSED = "refused"
    """Nobody listens there."""
    UNREACHABLE = "unreachable"
    """The network does not lead there, or the name is not known."""
    TIMEOUT = "timeout"
    TLS = "tls"
    CREDENTIALS = "credentials"
    KIND = "kind"
    """It is a node of another kind."""
    PROTOCOL = "protocol"
    """It is no node, or one of another version."""
    OTHER = "other"


@dataclass(frozen=True)
class NodeView:
    """One node at one moment. Times in seconds, sizes in bytes.

    state: "down" where it did not answer the last question; then `error` and `reason` say why, the rates are not known,
        there are no findings, and the other figures are the last that it told.
    version: of its software, for instance "dhtnode 0.1.0"; empty if it never answered.
    hash_range: of a dht node that has answered once.
    requests_per_s, requests: between the last two answers, without those that asked for this; by the request's name.
        None where that is not known: after one answer, and after a restart.
    latency_s: the median and the 99th percentile of these requests, estimated from the node's histogram; None where
        there were none.
    connections: without the one that asks.
    fullest: the fullest queues, CHANNEL or CHANNEL/SUBSCRIBER, and how full they are in percent, the fullest first.
    dump_age_s: of a dht node that has a dump.
    errors: requests that failed and connections that broke the protocol, since its start.
    findings: what its health rules find: rule and text. Empty when all is well.
    events: its last warnings and errors, oldest first, where the client may see them.
    channel: its channels' figures, by name.
    """

    kind: str
    address: str
    state: Literal["up", "down"] = "down"
    error: str | None = None
    reason: Reason | None = Reason.NOT_ASKED
    version: str = ""
    hash_range: HashRange | None = None
    uptime_s: float = 0.0
    channels: int = 0
    records: int = 0
    bytes: int = 0
    requests_per_s: float | None = None
    requests: Mapping[str, float] = field(default_factory=dict)
    latency_s: tuple[float, float] | None = None
    connections: int = 0
    rss_bytes: int = 0
    memory_used: int = 0
    memory_limit: int = 0
    lag_s: float = 0.0
    fullest: tuple[tuple[str, float], ...] = ()
    dump_age_s: float | None = None
    errors: int = 0
    findings: tuple[tuple[str, str], ...] = ()
    events: tuple[Event, ...] = ()
    channel: Mapping[str, Figures] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields, for JSON: hash_range as text, latency_s as [median, 99th percentile]."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        told |= {name: dict(told[name]) for name in ("requests", "channel")}
        return told | {"hash_range": str(self.hash_range) if self.hash_range else None}

    def down(self, reason: Reason, error: str) -> "NodeView":
        """The same node, which does not answer."""
        return replace(
            self,
            state="down",
            reason=reason,
            error=printable(error),
            requests_per_s=None,
            requests={},
            latency_s=None,
            findings=(),
        )

    def answered(self, statistics: Mapping[str, Any], rates: Rates | None) -> "NodeView":
        """The same node with new figures. ProtocolError where they are none."""
        channel = _channels(statistics.get("channel", {}))
        dump_age = statistics.get("dump_age_s")
        return replace(
            self,
            state="up",
            reason=None,
            error=None,
            uptime_s=_number(statistics, "uptime_s", 0.0),
            channels=_number(statistics, "channels", 0),
            records=_number(statistics, "records", 0),
            bytes=_number(statistics, "bytes", 0),
            requests_per_s=rates.requests_per_s if rates else None,
            requests=rates.requests if rates else {},
            latency_s=rates.latency_s if rates else None,
            connections=max(_number(statistics, "connections", 0) - 1, 0),
            rss_bytes=_number(statistics, "rss_bytes", 0),
            memory_used=_number(statistics, "memory_used", 0),
            memory_limit=_number(statistics, "memory_limit", 0),
            lag_s=_number(statistics, "lag_s", 0.0),
            fullest=_fullest(channel),
            dump_age_s=None if dump_age is None else _number(statistics, "dump_age_s", 0.0),
            errors=_number(statistics, "protocol_errors", 0)
            + sum(_number(each, "failed", 0) for name, each in _requests(statistics) if name not in OWN_REQUESTS),
            channel=MappingProxyType(channel),
        )


def counters(statistics: Mapping[str, Any], taken_at_s: float) -> Counters:
    """What rates are told from. ProtocolError where it is not there."""
    handled: dict[str, int] = {}
    histogram = [0] * len(BUCKET_NAMES)
    for name, each in _requests(statistics):
        if name not in OWN_REQUESTS:
            handled[printable(name, NAME_LENGTH_MAX)] = _number(each, "handled", 0)
            times = _mapping(each, "times")
            for position, bucket in enumerate(BUCKET_NAMES):
                histogram[position] += _number(times, bucket, 0)
    return Counters(handled, tuple(histogram), _number(statistics, "uptime_s", 0.0), taken_at_s)


def printable(text: object, length_max: int = TEXT_LENGTH_MAX) -> str:
    """Text of a stranger, for people: what is not printable is escaped, and what is too long is cut."""
    text = str(text)
    cut = text[:length_max]
    if not cut.isprintable():
        cut = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut)
    return cut if len(text) <= length_max else f"{cut}…"


def read_findings(answer: object) -> tuple[tuple[str, str], ...]:
    """The answer to `health`: rules and texts. ProtocolError where it is none."""
    match answer:
        case list() | tuple():
            return tuple(_finding(each) for each in answer[:FINDINGS_MAX])
    raise ProtocolError(f"the node's health is no array, but {brief(answer)}")


def _finding(entry: object) -> tuple[str, str]:
    match entry:
        case [str(rule), str(text)]:
            return printable(rule, NAME_LENGTH_MAX), printable(text)
    raise ProtocolError(f"{brief(entry)} is no finding of a node's health")


def read_events(answer: object) -> tuple[Event, ...]:
    """The answer to `events`. ProtocolError where it is none."""
    match answer:
        case list() | tuple():
            return tuple(_event(each) for each in answer[-EVENTS_MAX:])
    raise ProtocolError(f"the node's events are no array, but {brief(answer)}")


def _event(entry: object) -> Event:
    match entry:
        case [int(at_s) | float(at_s), str(level), str(text)] if 0 <= at_s <= EVENT_AT_S_MAX:
            return float(at_s), printable(level, NAME_LENGTH_MAX), printable(text)
    raise ProtocolError(f"{brief(entry)} is no event of a node")


def _number(values: Mapping[str, Any], name: str, missing: Number) -> Number:
    """A figure of the type that `missing` has, which stands for one that the node does not tell."""
    value = values.get(name, missing)
    if not _is_figure(value):
        raise ProtocolError(f"in the node's statistics {name} is {brief(value)}")
    return type(missing)(value)


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name, {})
    if not isinstance(value, Mapping):
        raise ProtocolError(f"in the node's statistics {name} is {brief(value)}")
    return value


def _requests(statistics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    requests = _mapping(statistics, "request")
    if len(requests) > REQUESTS_MAX:
        raise ProtocolError(f"in the node's statistics there are {len(requests)} kinds of requests")
    return [(name, _mapping(requests, name)) for name in requests]


def _channels(told: object) -> dict[str, Figures]:
    if not isinstance(told, Mapping) or len(told) > CHANNELS_MAX:
        raise ProtocolError(f"in the node's statistics the channels are {brief(told)}")
    return {_name(name): _figures_of(figures) for name, figures in told.items()}


def _figures_of(told: object) -> dict[str, Any]:
    if not isinstance(told, Mapping) or len(told) > REQUESTS_MAX:
        raise ProtocolError(f"in the node's statistics a channel is {brief(told)}")
    figures: dict[str, Any] = _plain_figures(told)
    if "subscriber" in told:
        subscribers = _mapping(told, "subscriber")
        if len(subscribers) > CHANNELS_MAX:
            raise ProtocolError(f"in the node's statistics a channel has {len(subscribers)} subscribers")
        figures["subscriber"] = {
            _name(name): _plain_figures(each) for name, each in subscribers.items() if isinstance(each, Mapping)
        }
    return figures


def _plain_figures(told: Mapping[Any, Any]) -> dict[str, int | float]:
    return {_name(name): value for name, value in told.items() if _is_figure(value)}


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= FIGURE_MAX


def _name(name: object) -> str:
    try:
        check_channel(name)
    except BadChannel as error:
        raise ProtocolError(f"in the node's statistics {brief(name)} stands for a name") from error
    return str(name)


def _fullest(channel: Mapping[str, Figures]) -> tuple[tuple[str, float], ...]:
    fullness = [(name, each["fullness"]) for name, each in channel.items() if "fullness" in each]
    for name, each in channel.items():
        fullness += [
            (f"{name}/{subscriber}", figures["fullness"])
            for subscriber, figures in each.get("subscriber", {}).items()
            if "fullness" in figures
        ]
    fullness.sort(key=lambda each: (-each[1], each[0]))
    return tuple(fullness[:FULLEST_MAX])
