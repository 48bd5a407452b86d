"""Who a client is: a name, and a key that it shares with the node. docs/protocol.md §8."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Credentials:
    """What a client proves to be. key: 32 bytes; it never travels."""

    name: str
    key: bytes = field(repr=False)


CredentialsOption = Credentials | str | Path | None
"""As the clients take them: the name and key themselves, or the path of a file with the line `name:hex key`."""


def read_credentials(given: CredentialsOption) -> Credentials | None:
    """What a client was given, read from its file if it is a path."""
    if given is None or isinstance(given, Credentials):
        return given
    raise NotImplementedError("a credentials file")
