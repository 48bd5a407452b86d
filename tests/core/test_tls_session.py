"""TLS of one connection, without a socket."""

import hmac
import ssl
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarm.core import limits
from swarm.core.tls import NodeTls, client_context
from swarm.core.tls_session import IDLE_BYTES_MAX, SEALED_BYTES, TlsSession
from tests.certificates import Authority

NEW_KEYS, NEW_KEYS_OF_BOTH = b"\x18\x00\x00\x01\x00", b"\x18\x00\x00\x01\x01"


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1), of one block."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\x00\x01"
    return hmac.digest(secret, info, "sha384")[:size]


class Pair:
    """A node's end, and a client that shakes hands and then seals its records itself."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory / "authority")
        context = client_context(authority.ca)
        context.keylog_filename = str(directory / "keys")
        self.node = TlsSession(NodeTls(authority.node()).context, server_side=True)
        self.client = TlsSession(context, server_hostname="localhost")
        self.client.shake_hands(b"")
        self.node.shake_hands(self.client.outgoing())
        assert self.client.shake_hands(self.node.outgoing())
        assert self.node.shake_hands(self.client.outgoing())
        lines = [line.split() for line in (directory / "keys").read_text().splitlines()]
        (secret,) = (line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0")
        self._secret = bytes.fromhex(secret)
        self._into = memoryview(bytearray(limits.RECEIVE_BYTES))

    def new_keys(self, message: bytes) -> Iterator[bytes]:
        """Records that change the keys, one after the other."""
        while True:
            header = b"\x17\x03\x03" + (len(message) + 17).to_bytes(2, "big")
            key, nonce = expand(self._secret, b"key", 32), expand(self._secret, b"iv", 12)
            yield header + AESGCM(key).encrypt(nonce, message + b"\x16", header)
            self._secret = expand(self._secret, b"traffic upd", 48)

    def receive(self, data: bytes) -> bytes | None:
        """What the node's end gets, None if nothing came out."""
        size = self.node.receive(memoryview(data), self._into)
        return None if size is None else bytes(self._into[:size])


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize("message", [NEW_KEYS, NEW_KEYS_OF_BOTH])
def test_new_keys_without_end_end_the_connection_before_they_are_looked_at(pair: Pair, message: bytes) -> None:
    records = list(islice(pair.new_keys(message), SEALED_BYTES // 27))
    with pytest.raises(ssl.SSLError, match="next to no data"):
        pair.receive(b"".join(records))
    answers = len(pair.node.outgoing()) // 27  # each takes the node a key of its own
    assert answers <= 2 * IDLE_BYTES_MAX // 27


def test_new_keys_little_by_little_end_it_too(pair: Pair) -> None:
    records = list(islice(pair.new_keys(NEW_KEYS), IDLE_BYTES_MAX // 27 + 1))
    for record in records[:-1]:
        assert pair.receive(record) is None
    with pytest.raises(ssl.SSLError, match="next to no data"):
        pair.receive(records[-1])


def test_some_new_keys_are_taken(pair: Pair) -> None:
    for record in islice(pair.new_keys(NEW_KEYS_OF_BOTH), 1000):
        assert pair.receive(record) is None
    assert pair.node.outgoing()


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_data_is_no_reason_to_end_it(pair: Pair, size: int) -> None:
    """However little there is in a record, and however the records come."""
    sealed = b"".join(pair.client.encrypt(bytes(size)) for _ in range(300_000 // (size + 22)))
    got = 0
    for start in range(0, len(sealed), 10_000):
        got += len(pair.receive(sealed[start : start + 10_000]) or b"")
    assert got == 300_000 // (size + 22) * size
