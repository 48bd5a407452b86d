"""What all connections of a client have in common."""

from dataclasses import dataclass

from swarm.core.credentials import Credentials


@dataclass(frozen=True)
class ConnectionSettings:
    """kind: of node that is expected.
    timeout_s: of each request, connecting included.
    compression: whether frames may be compressed with lz4.
    credentials: what the client proves to be; None: nothing.
    """

    kind: str
    timeout_s: float
    compression: bool = False
    credentials: Credentials | None = None
