"""The dht node's configuration; every key is described in etc/swarm/dht.ini."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from swarm.core.config import Address, parse_address, parse_fsync_interval, parse_size
from swarm.core.http import HttpSection
from swarm.core.limits import KIB, MIB
from swarm.core.node import LimitsSection, LogsSection
from swarm.core.tls import TlsSection
from swarm.dht.hash_range import HashRange


@dataclass(frozen=True)
class NodeSection:
    address: Annotated[Address, parse_address] = Address("127.0.0.1", 10001)
    data: Path = Path("dht-data")
    hash_range: Annotated[HashRange, HashRange.parse] = HashRange()
    memory_limit: Annotated[int, parse_size] = 0
    credentials: str = ""
    """Empty: nobody has to log in."""
    allow_open_network: bool = False


SEGMENT_BYTES_MIN = 64 * KIB  # each is a file


def _parse_segment_bytes(text: str) -> int:
    size = parse_size(text)
    if size < SEGMENT_BYTES_MIN:
        raise ValueError("a size of at least 64 KiB is expected")
    return size


@dataclass(frozen=True)
class JournalSection:
    enabled: bool = True
    fsync: Literal["never", "interval", "always"] = "interval"
    fsync_interval: Annotated[float, parse_fsync_interval] = 1.0
    segment_bytes: Annotated[int, _parse_segment_bytes] = 64 * MIB


@dataclass(frozen=True)
class DumpSection:
    dump_dir: str = ""
    """Empty: `dump` in the data directory."""
    out_of_range: Literal["fatal", "load", "ignore"] = "fatal"


@dataclass(frozen=True)
class DhtConfig:
    node: NodeSection = field(default_factory=NodeSection)
    journal: JournalSection = field(default_factory=JournalSection)
    dump: DumpSection = field(default_factory=DumpSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    tls: TlsSection = field(default_factory=TlsSection)
    logs: LogsSection = field(default_factory=LogsSection)
    http: HttpSection = field(default_factory=HttpSection)

    @property
    def dump_dir(self) -> Path:
        return Path(self.dump.dump_dir) if self.dump.dump_dir else self.node.data / "dump"
