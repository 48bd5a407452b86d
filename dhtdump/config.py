"""dhtdump's configuration; every key is described in etc/swarm/dhtdump.ini."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from swarm.core.config import Address, ConfigError, parse_address, parse_duration
from swarm.core.errors import BadArgument
from swarm.core.tls import client_context


def parse_period(text: str) -> float:
    """Seconds, more than none."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError("a duration longer than 0 is expected")
    return seconds


def _parse_part(text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise ValueError("a number from 0 to 1 is expected")
    return part


def _parse_multiple(text: str) -> float:
    try:
        multiple = float(text)
    except ValueError:
        multiple = 0.0
    if not 0.1 <= multiple <= 1e6:
        raise ValueError("a number from 0.1 to 1000000 is expected")
    return multiple


@dataclass(frozen=True)
class DumpSection:
    node: Annotated[Address, parse_address] = Address("127.0.0.1", 10001)
    credentials: str = ""
    """Empty: none."""
    dump_dir: Path = Path("dht-data/dump")
    period: Annotated[float, parse_period] = 6 * 3600.0
    first_wait: Annotated[float, _parse_part] = 1.0
    retry_wait: Annotated[float, parse_period] = 60.0
    journal_multiple: Annotated[float, _parse_multiple] = 2.0
    check_period: Annotated[float, parse_period] = 10.0


@dataclass(frozen=True)
class TlsSection:
    enabled: bool = False
    ca: str = ""
    """Empty: those that the system trusts."""
    certificate: str = ""
    """Empty: none."""
    key: str = ""
    """Empty: in the certificate's file."""

    def context(self) -> ssl.SSLContext | None:
        """For a client. Raises ConfigError."""
        if not self.enabled:
            if self.ca or self.certificate or self.key:
                raise ConfigError("section [tls] names files, and is not enabled: set enabled = yes")
            return None
        try:
            return client_context(self.ca or None, self.certificate or None, self.key or None)
        except BadArgument as error:
            raise ConfigError(f"section [tls]: {error}") from error


@dataclass(frozen=True)
class LogsSection:
    directory: str = ""
    """Empty: the dump directory."""
    console: bool = True


@dataclass(frozen=True)
class DumpConfig:
    dump: DumpSection = field(default_factory=DumpSection)
    tls: TlsSection = field(default_factory=TlsSection)
    logs: LogsSection = field(default_factory=LogsSection)
