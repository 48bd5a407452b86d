"""The dht node's configuration; every key is described in etc/swarm/dht.ini."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from swarm.core.config import Address, parse_address, parse_size
from swarm.core.node import LimitsSection, LogsSection
from swarm.dht.hash_range import HashRange


@dataclass(frozen=True)
class NodeSection:
    address: Annotated[Address, parse_address] = Address("127.0.0.1", 10001)
    data: Path = Path("dht-data")
    hash_range: Annotated[HashRange, HashRange.parse] = HashRange()
    memory_limit: Annotated[int, parse_size] = 0
    allow_open_network: bool = False


@dataclass(frozen=True)
class DumpSection:
    dump_dir: str = ""
    """Empty: `dump` in the data directory."""
    out_of_range: Literal["fatal", "load", "ignore"] = "fatal"


@dataclass(frozen=True)
class DhtConfig:
    node: NodeSection = field(default_factory=NodeSection)
    dump: DumpSection = field(default_factory=DumpSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    logs: LogsSection = field(default_factory=LogsSection)

    @property
    def dump_dir(self) -> Path:
        return Path(self.dump.dump_dir) if self.dump.dump_dir else self.node.data / "dump"
