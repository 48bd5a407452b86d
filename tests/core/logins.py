"""Clients that log in, right or wrong; the proofs as docs/protocol.md §8 gives them, without the project's code."""

import hmac
from pathlib import Path
from typing import Any

import trio
from core.raw_client import AUTHENTICATE, DirectConnection, RawClient, hello

from swarm.core.authentication import Authentication
from swarm.core.credentials import KnownClient, parse_known_clients
from swarm.core.node import Node

KEY = bytes(range(32))
OTHER_KEY = bytes(reversed(range(32)))
CLIENT_NONCE = b"c" * 32
ALL = "read=* write=* admin=*"


def client_proof(key: bytes, node_nonce: bytes, client_nonce: bytes, name: str) -> bytes:
    return hmac.new(key, b"swarm client 1" + node_nonce + client_nonce + name.encode(), "sha512").digest()


def node_proof(key: bytes, node_nonce: bytes, client_nonce: bytes, name: str) -> bytes:
    return hmac.new(key, b"swarm node 1" + node_nonce + client_nonce + name.encode(), "sha512").digest()


def login(node_hello: list[Any], name: str = "alice", key: bytes = KEY, request_id: int = 1) -> list[Any]:
    """The request with which a client logs in that has read this hello."""
    proof = client_proof(key, node_hello[2]["nonce"], CLIENT_NONCE, name)
    return [request_id, AUTHENTICATE, name, CLIENT_NONCE, proof]


def line(name: str = "alice", permissions: str = ALL, key: bytes = KEY) -> str:
    return f"{name}:{key.hex()}:{permissions}\n"


def clients(*lines: str) -> dict[str, KnownClient]:
    return parse_known_clients(Path("credentials"), "".join(lines).encode())


def asks_for_logins(node: Node, *lines: str) -> Authentication:
    """From now on the node knows these clients only; by default alice, who may do everything."""
    return Authentication(node.service, clients(*(lines or (line(),))))


def logged_in(node: Node, name: str = "alice", key: bytes = KEY) -> DirectConnection:
    """A connection whose client has logged in."""
    connection = DirectConnection(node.service)
    ((_, status, result),) = connection.ask(login(connection.node_hello, name, key))
    assert status == 0, result
    return connection


async def log_in(client: RawClient, name: str = "alice", key: bytes = KEY) -> Any:
    """Greets, and logs in: the answer."""
    await client.send_bytes(hello())
    await client.send(login(await client.receive(), name, key))
    return await client.receive()


async def connect(address: tuple[str, int], name: str = "alice", key: bytes = KEY) -> RawClient:
    """A client that has logged in at a node."""
    client = RawClient(await trio.open_tcp_stream(*address))
    assert (await log_in(client, name, key))[1] == 0
    return client
