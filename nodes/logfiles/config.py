"""The logfiles node's configuration; every key is described in etc/swarm/logfiles.ini."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from nodes.logfiles.file_names import DAY_S
from swarm.core.channel_patterns import best_match, parse_pattern
from swarm.core.config import Address, parse_address, parse_duration, parse_fsync_interval, parse_size
from swarm.core.http import HttpSection
from swarm.core.limits import MIB
from swarm.core.node import LimitsSection, LogsSection
from swarm.core.tls import TlsSection

TAIL_MEMORY_MIN = 64 * MIB  # two requests of the largest size, in memory
UNLIMITED = "unlimited"


def _parse_bucket(text: str) -> int:
    seconds = parse_duration(text)
    if not (seconds.is_integer() and 1 <= seconds <= DAY_S and DAY_S % seconds == 0):
        raise ValueError("a number of whole seconds is expected that divides a day, such as 10m, 1h or 24h")
    return int(seconds)


def _parse_tail_memory(text: str) -> int:
    size = parse_size(text)
    if size < TAIL_MEMORY_MIN:
        raise ValueError("a size of at least 64 MiB is expected")
    return size


def _parse_distance(text: str) -> float:
    return inf if text == UNLIMITED else parse_duration(text)


def _parse_max_age(text: str) -> float:
    age = _parse_distance(text)
    if age == 0:
        raise ValueError(f"a duration above 0 is expected, or {UNLIMITED}")
    return age


def _parse_max_bytes(text: str) -> float:
    size = inf if text == UNLIMITED else parse_size(text)
    if size == 0:
        raise ValueError(f"a size above 0 is expected, or {UNLIMITED}")
    return size


@dataclass(frozen=True)
class NodeSection:
    address: Annotated[Address, parse_address] = Address("127.0.0.1", 10201)
    data: Path = Path("logfiles-data")
    credentials: str = ""
    """Empty: nobody has to log in."""
    allow_open_network: bool = False


@dataclass(frozen=True)
class StoreSection:
    """Durations in seconds; inf: unlimited."""

    bucket: Annotated[int, _parse_bucket] = 3600
    fsync: Literal["never", "interval", "always"] = "interval"
    fsync_interval: Annotated[float, parse_fsync_interval] = 1.0
    seal_after: Annotated[float, parse_duration] = 600.0
    max_age: Annotated[float, _parse_max_age] = inf
    max_bytes: Annotated[float, _parse_max_bytes] = inf
    past_max: Annotated[float, _parse_distance] = inf
    future_max: Annotated[float, _parse_distance] = 86400.0
    tail_memory: Annotated[int, _parse_tail_memory] = 256 * MIB


@dataclass(frozen=True)
class ChannelSection:
    """What is other than in [store]; None: as there."""

    max_age: Annotated[float, _parse_max_age] | None = None
    max_bytes: Annotated[float, _parse_max_bytes] | None = None


class Retention(NamedTuple):
    """max_age_s: of a bucket, since its end. max_bytes: of all values of a channel. None: unlimited."""

    max_age_s: float | None
    max_bytes: int | None


@dataclass(frozen=True)
class LogfilesConfig:
    node: NodeSection = field(default_factory=NodeSection)
    store: StoreSection = field(default_factory=StoreSection)
    channel: Mapping[Annotated[str, parse_pattern], ChannelSection] = field(default_factory=dict)
    limits: LimitsSection = field(default_factory=LimitsSection)
    tls: TlsSection = field(default_factory=TlsSection)
    logs: LogsSection = field(default_factory=LogsSection)
    http: HttpSection = field(default_factory=HttpSection)

    def retention(self, channel: str) -> Retention:
        """Of a channel: what the longest pattern says that its name matches, then [store]."""
        chosen = best_match(self.channel, channel) or ChannelSection()
        age = self.store.max_age if chosen.max_age is None else chosen.max_age
        size = self.store.max_bytes if chosen.max_bytes is None else chosen.max_bytes
        return Retention(None if age == inf else age, None if size == inf else int(size))
