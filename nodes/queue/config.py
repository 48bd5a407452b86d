"""The queue node's configuration; every key is described in etc/swarm/queue.ini."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from nodes.queue.record_queue import QueueSettings
from swarm.core.channel_patterns import best_match, parse_pattern
from swarm.core.config import Address, parse_address, parse_fsync_interval, parse_size
from swarm.core.http import HttpSection
from swarm.core.limits import KIB, MIB
from swarm.core.node import LimitsSection, LogsSection, count_up_to
from swarm.core.tls import TlsSection

GIB = 1024 * MIB
RING_BYTES_MIN = 64 * KIB  # a file, a mapping and a page of header belong to each

Full = Literal["refuse", "drop-oldest", "overflow"]


def _parse_ring_bytes(text: str) -> int:
    size = parse_size(text)
    if size < RING_BYTES_MIN:
        raise ValueError("a size of at least 64 KiB is expected")
    return size


@dataclass(frozen=True)
class NodeSection:
    address: Annotated[Address, parse_address] = Address("127.0.0.1", 10101)
    data: Path = Path("queue-data")
    credentials: str = ""
    """Empty: nobody has to log in."""
    allow_open_network: bool = False


@dataclass(frozen=True)
class QueueSection:
    ring_bytes: Annotated[int, _parse_ring_bytes] = 64 * MIB
    full: Full = "refuse"
    overflow_bytes: Annotated[int, parse_size] = 1 * GIB
    fsync: Literal["never", "interval", "always"] = "interval"
    fsync_interval: Annotated[float, parse_fsync_interval] = 1.0
    queues_max: Annotated[int, count_up_to(1_000_000)] = 4096


@dataclass(frozen=True)
class ChannelSection:
    """What is other than in [queue]; None: as there."""

    ring_bytes: Annotated[int, _parse_ring_bytes] | None = None
    full: Full | None = None
    overflow_bytes: Annotated[int, parse_size] | None = None


@dataclass(frozen=True)
class QueueConfig:
    node: NodeSection = field(default_factory=NodeSection)
    queue: QueueSection = field(default_factory=QueueSection)
    channel: Mapping[Annotated[str, parse_pattern], ChannelSection] = field(default_factory=dict)
    limits: LimitsSection = field(default_factory=LimitsSection)
    tls: TlsSection = field(default_factory=TlsSection)
    logs: LogsSection = field(default_factory=LogsSection)
    http: HttpSection = field(default_factory=HttpSection)

    def settings(self, channel: str) -> QueueSettings:
        """Of the queues of a channel: what the longest pattern says that its name matches, then [queue]."""
        chosen = best_match(self.channel, channel) or ChannelSection()
        return QueueSettings(
            ring_bytes=self.queue.ring_bytes if chosen.ring_bytes is None else chosen.ring_bytes,
            full=self.queue.full if chosen.full is None else chosen.full,
            overflow_bytes=self.queue.overflow_bytes if chosen.overflow_bytes is None else chosen.overflow_bytes,
        )
