"""How client and node prove to each other that they know the same key, which does not travel. docs/protocol.md §8.
No I/O."""

import hmac
import os
from collections.abc import Sequence
from typing import Any

from swarm.core.credentials import Credentials
from swarm.core.errors import NotAuthenticated
from swarm.core.limits import NONCE_BYTES

METHOD = "hmac-sha-512"


def new_nonce() -> bytes:
    return os.urandom(NONCE_BYTES)


def client_proof(key: bytes, node_nonce: bytes, client_nonce: bytes, name: str) -> bytes:
    return hmac.digest(key, b"swarm client 1" + node_nonce + client_nonce + name.encode(), "sha512")


def node_proof(key: bytes, node_nonce: bytes, client_nonce: bytes, name: str) -> bytes:
    return hmac.digest(key, b"swarm node 1" + node_nonce + client_nonce + name.encode(), "sha512")


class ClientLogin:
    """A client's login on one connection."""

    def __init__(self, credentials: Credentials, node_nonce: bytes) -> None:
        self._credentials = credentials
        self._node_nonce = node_nonce
        self._nonce = new_nonce()

    def arguments(self) -> tuple[str, bytes, bytes]:
        """Of the request `authenticate`."""
        name = self._credentials.name
        return name, self._nonce, client_proof(self._credentials.key, self._node_nonce, self._nonce, name)

    def check(self, answer: Any) -> None:
        """NotAuthenticated unless what the node has answered proves that it knows the key."""
        expected = node_proof(self._credentials.key, self._node_nonce, self._nonce, self._credentials.name)
        if type(answer) is not bytes or not hmac.compare_digest(answer, expected):
            raise NotAuthenticated(
                f"the node does not prove that it knows the key of {self._credentials.name}: it is not the one that it "
                "should be, or has no right credentials file; nothing was sent to it"
            )


def begin_login(methods: Sequence[str], node_nonce: bytes, credentials: Credentials | None) -> ClientLogin | None:
    """What a node's hello asks for; None if that is nothing, and the client has nothing to prove.

    Raises NotAuthenticated if the two do not come together.
    """
    if not methods:
        if credentials is None:
            return None
        raise NotAuthenticated(
            f"the node asks for no authentication, so it cannot prove that it is the one that {credentials.name} wants "
            "to talk to; give the node a credentials file ([node] credentials), or use it without credentials"
        )
    if METHOD not in methods:
        raise NotAuthenticated(
            f"the node asks for authentication by {', '.join(methods)[:80]}; this client knows {METHOD}: "
            "use a version that fits the node's"
        )
    if credentials is None:
        raise NotAuthenticated(
            "the node asks for credentials, and this client has none: name a file with the line that "
            "`swarm credentials add` has given (credentials=, --credentials FILE, SWARM_CREDENTIALS)"
        )
    return ClientLogin(credentials, node_nonce)
