"""Who clients are: a name, and a key that a client shares with the nodes; on a node, what each may do.
docs/protocol.md §8.

Two kinds of file, with a line for each client; # begins a comment:

    a client's      name:key                     the key as 64 hexadecimal digits
    a node's        name:key:permissions         read=* write=orders-*,tmp admin=orders-*

Nobody but their owner, and at most his group, may read them.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swarm.core import limits
from swarm.core.channel_patterns import NO_CHANNELS, ChannelSet, parse_pattern
from swarm.core.config import ConfigError
from swarm.core.errors import BadArgument
from swarm.core.protocol import CLIENT_NAME, CLIENT_NAME_RULE, Access, brief

_HEX_KEY = re.compile(rf"[0-9A-Fa-f]{{{2 * limits.CLIENT_KEY_BYTES}}}")
_ACCESSES: tuple[Access, ...] = ("read", "write", "admin")


@dataclass(frozen=True)
class Credentials:
    """What a client proves to be. key: 32 bytes; it never travels."""

    name: str
    key: bytes = field(repr=False)

    def to_line(self) -> str:
        """As it stands in the client's file."""
        return f"{self.name}:{self.key.hex()}"


CredentialsOption = Credentials | str | Path | None
"""As the clients take them: the name and key themselves, or the path of a file with the line `name:hex key`."""


@dataclass(frozen=True)
class Permissions:
    """The channels for which a client has each access."""

    read: ChannelSet = NO_CHANNELS
    write: ChannelSet = NO_CHANNELS
    admin: ChannelSet = NO_CHANNELS

    @classmethod
    def parse(cls, text: str) -> "Permissions":
        """`read=* write=orders-*,tmp`. Raises ValueError."""
        found: dict[str, ChannelSet] = {}
        for part in text.split():
            access, equals, patterns = part.partition("=")
            if access not in _ACCESSES or not equals:
                raise ValueError(f"{brief(part)} is no permission: allowed are read=, write=, admin=, and the channels")
            if access in found:
                raise ValueError(f"{access}= is there twice; channels are separated by commas")
            found[access] = parse_channels(patterns)
        if not found:
            raise ValueError(
                "a client needs a permission at least: read=, write= or admin=, and the channels; * is all"
            )
        return cls(**found)

    def of(self, access: Access) -> ChannelSet:
        return {"read": self.read, "write": self.write, "admin": self.admin}[access]

    @property
    def are_all(self) -> bool:
        return self.read.is_every and self.write.is_every and self.admin.is_every

    def any_for(self, channel: str) -> bool:
        """Whether the client may do something with this channel."""
        return channel in self.read or channel in self.write or channel in self.admin

    def __str__(self) -> str:
        return " ".join(f"{access}={channels}" for access in _ACCESSES if (channels := self.of(access)))


def parse_channels(text: str) -> ChannelSet:
    """Patterns of channel names, separated by commas. Raises ValueError."""
    patterns = text.split(",")
    if len(patterns) > limits.CREDENTIALS_PATTERNS_MAX:
        raise ValueError(f"at most {limits.CREDENTIALS_PATTERNS_MAX} channels or begins of channels may be named")
    return ChannelSet.of(parse_pattern(pattern) for pattern in patterns)


@dataclass(frozen=True)
class KnownClient:
    """A client as a node knows it."""

    credentials: Credentials
    permissions: Permissions

    @property
    def name(self) -> str:
        return self.credentials.name

    def to_line(self) -> str:
        """As it stands in the node's file."""
        return f"{self.credentials.to_line()}:{self.permissions}"


def read_credentials(given: CredentialsOption) -> Credentials | None:
    """What a client was given, read from its file if it is a path. Raises BadArgument, and ConfigError about a file."""
    if isinstance(given, Credentials):
        if not CLIENT_NAME.fullmatch(given.name) or len(given.key) != limits.CLIENT_KEY_BYTES:
            raise BadArgument(f"a name has {CLIENT_NAME_RULE}, and a key {limits.CLIENT_KEY_BYTES} bytes")
        return given
    if given is None:
        return None
    path = Path(given)
    found: list[Credentials] = []
    for place, text in _lines(path, read_secret(path)):
        credentials, rest = _parse_line(place, text)
        if rest is not None:
            raise ConfigError(
                f"{place}: permissions belong into the file of a node; in that of a client is one line name:key"
            )
        if found:
            raise ConfigError(f"{place}: a second client: in the file of a client is one line name:key, its own")
        found.append(credentials)
    if not found:
        raise ConfigError(f"{path}: it is empty: a line name:key is needed, as `swarm credentials add` gives it")
    return found[0]


def read_known_clients(path: Path) -> dict[str, KnownClient]:
    """The clients in the file of a node, by name. Raises ConfigError, which names file and line."""
    return parse_known_clients(path, read_secret(path))


def parse_known_clients(path: Path, content: bytes) -> dict[str, KnownClient]:
    """The same, of what was read from it."""
    clients: dict[str, KnownClient] = {}
    for place, text in _lines(path, content):
        client = parse_known_client(place, text)
        if client.name in clients:
            raise ConfigError(f"{place}: client {client.name} is there a second time, once is allowed")
        if len(clients) == limits.CREDENTIALS_MAX:
            raise ConfigError(f"{place}: {limits.CREDENTIALS_MAX} clients are the most that there may be")
        clients[client.name] = client
    return clients


def parse_known_client(place: str, text: str) -> KnownClient:
    """A line without its comment. place: of the line, for ConfigError."""
    credentials, permissions = _parse_line(place, text)
    if permissions is None:
        raise ConfigError(
            f"{place}: client {credentials.name} has no permissions: name:key:permissions is expected, with "
            "permissions such as read=* write=orders-*,tmp admin=orders-*"
        )
    try:
        return KnownClient(credentials, Permissions.parse(permissions))
    except ValueError as error:
        raise ConfigError(f"{place}: client {credentials.name}: {error}") from error


def read_secret(path: Path) -> bytes:
    """The content of a file that only its owner, and at most his group, can read. Raises ConfigError."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: it is no regular file")
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o027:
                who = "others can read" if mode & 0o004 else "others can use" if mode & 0o003 else "its group can write"
                raise ConfigError(
                    f"{path}: {who} it (mode {mode:04o}), and it holds keys: chmod {mode & ~0o027:o} {path}"
                )
            content = file.read(limits.CREDENTIALS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the credentials file {path}: {error.strerror or error}") from error
    if len(content) > limits.CREDENTIALS_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: it has more than {limits.CREDENTIALS_FILE_BYTES_MAX >> 20} MiB")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """Does not wait for whoever writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _lines(path: Path, content: bytes) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is more than a comment."""
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode().partition("#")[0].strip()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}:{number}: not UTF-8: {error.reason}") from error
        if text:
            yield f"{path}:{number}", text


def _parse_line(place: str, text: str) -> tuple[Credentials, str | None]:
    """Name and key, and what follows them, None if nothing does. No error shows a key, or what might be one."""
    name, colon, rest = text.partition(":")
    key, more, permissions = rest.partition(":")
    if not CLIENT_NAME.fullmatch(name) or not colon:
        raise ConfigError(f"{place}: a line begins with the name of a client ({CLIENT_NAME_RULE}) and a colon")
    if not _HEX_KEY.fullmatch(key):
        raise ConfigError(
            f"{place}: the key of client {name} has {2 * limits.CLIENT_KEY_BYTES} hexadecimal digits; "
            f"{len(key)} characters are there"
        )
    return Credentials(name, bytes.fromhex(key)), permissions if more else None


KnownClients = Mapping[str, KnownClient]
