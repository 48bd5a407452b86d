"""Certificates for tests of TLS: of an authority that clients and nodes trust, and of strangers."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trustme

from swarm.core.tls import TlsSection, client_context

EXPIRED = {"not_before": datetime(2001, 1, 1, tzinfo=UTC), "not_after": datetime(2002, 1, 1, tzinfo=UTC)}
NOT_YET = {"not_before": datetime(2099, 1, 1, tzinfo=UTC), "not_after": datetime(2100, 1, 1, tzinfo=UTC)}
NAMES = ("127.0.0.1", "localhost")


@dataclass
class Authority:
    """Signs certificates, and writes them where nodes and clients find them."""

    directory: Path
    _ca: trustme.CA = field(default_factory=trustme.CA)
    _issued: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca = self.directory / "ca.pem"
        """The file with its own certificate."""
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, **times: Any) -> Path:
        """A file with a certificate for these names, and its key."""
        self._issued += 1
        path = self.directory / f"{self._issued}.pem"
        self.write(path, *names, **times)
        return path

    def write(self, path: Path, *names: str, **times: Any) -> None:
        issued = self._ca.issue_cert(*(names or NAMES), **times)
        path.touch(0o600)
        issued.private_key_and_cert_chain_pem.write_to_path(path)

    def node(self, *names: str, client_ca: Any = None, **times: Any) -> TlsSection:
        """[tls] of a node that has a certificate for these names."""
        return TlsSection(certificate=str(self.issue(*names, **times)), client_ca=str(client_ca or ""))

    def client(self, certificate: Path | None = None) -> Any:
        """tls= of a client that trusts this authority."""
        return client_context(self.ca, certificate)
