"""The two hellos that begin a connection. docs/protocol.md §2. No I/O."""

from dataclasses import dataclass, field
from typing import Any

from swarm.core.errors import ProtocolError, UnsupportedVersion, WrongKind
from swarm.core.framing import Message
from swarm.core.limits import HELLO_BYTES_MAX, NONCE_BYTES
from swarm.core.login import METHOD
from swarm.core.protocol import VERSION, Limits, brief

MAGIC = "swarm"
LZ4 = "lz4"


@dataclass(frozen=True)
class ClientHello:
    client: str = ""
    kind: str | None = None
    compression: tuple[str, ...] = ()

    def to_message(self) -> Message:
        return (MAGIC, VERSION, {"client": self.client, "kind": self.kind, "compression": self.compression})

    @classmethod
    def from_messages(cls, messages: list[Message], node_kind: str) -> "ClientHello":
        """Reads a client's first frame; raises the error to refuse it with."""
        facts = _facts(messages, "client")
        client, kind, compression = facts.get("client", ""), facts.get("kind"), facts.get("compression", [])
        if not isinstance(client, str) or len(client) > 128:
            raise ProtocolError("the fact client in a hello is text of 128 characters at most")
        if kind is not None and kind != node_kind:
            raise WrongKind(f"this is a {node_kind} node, not {brief(kind)}", {"kind": node_kind})
        if not isinstance(compression, list):
            raise ProtocolError("the fact compression in a hello is an array")
        return cls(client, kind, tuple(name for name in compression if isinstance(name, str)))


@dataclass(frozen=True)
class NodeHello:
    kind: str
    node: str
    limits: Limits
    compression: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What only this kind of node tells, for instance its hash range."""
    authentication: tuple[str, ...] = ()
    """Methods of which the client has to use one; none: it need not log in."""
    nonce: bytes = b""
    """For the login, if there is one."""

    def to_message(self) -> Message:
        shared: dict[str, Any] = {
            "kind": self.kind,
            "node": self.node,
            "limits": self.limits.to_wire(),
            "compression": self.compression,
            "authentication": list(self.authentication),
        }
        if self.authentication:
            shared["nonce"] = self.nonce
        return (MAGIC, VERSION, shared | self.facts)

    @classmethod
    def from_messages(cls, messages: list[Message]) -> "NodeHello":
        """Reads a node's first frame. ProtocolError if it is none, or asks for what this client cannot do."""
        facts = _facts(messages, "node")
        try:
            kind, node, told, authentication = (facts[name] for name in ("kind", "node", "limits", "authentication"))
            node_limits = {name: told[name] for name in Limits.__dataclass_fields__}
            compression = facts["compression"]
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"the node's hello lacks a fact: {error}") from error
        if type(kind) is not str or type(node) is not str or compression not in (None, LZ4):
            raise ProtocolError("in the node's hello kind, node or compression is not as it should be")
        if not all(type(limit) is int and limit > 0 for limit in node_limits.values()):
            raise ProtocolError("in the node's hello a limit is not a number above 0")
        if type(authentication) is not list or not all(type(method) is str for method in authentication):
            raise ProtocolError("in the node's hello authentication is not an array of text")
        nonce = facts.get("nonce", b"")
        if METHOD in authentication and (type(nonce) is not bytes or len(nonce) != NONCE_BYTES):
            raise ProtocolError(
                f"the node asks for authentication by {METHOD}, and its nonce is not {NONCE_BYTES} bytes"
            )
        return cls(kind, node, Limits(**node_limits), compression, facts, tuple(authentication), nonce)


def _facts(messages: list[Message], peer: str) -> dict[str, Any]:
    match messages:
        case [["swarm", int(version), dict(facts)]] if type(version) is int and version == VERSION:
            return facts
        case [["swarm", int(version), *_], *_] if type(version) is int and version != VERSION:
            raise UnsupportedVersion(
                f"the {peer} speaks version {version} of the protocol, this end version {VERSION}",
                {"versions": [VERSION]},
            )
    raise ProtocolError(f"the {peer}'s first frame (at most {HELLO_BYTES_MAX} bytes) is not a hello")
