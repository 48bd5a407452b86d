"""What a new connection costs until its first request may be sent: connecting, hello, and the login if there is one.

python -m bench.handshakes      without and with a login, at nodes of this process
"""

import secrets
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from nodes.dht.config import DhtConfig, JournalSection
from nodes.dht.node import make_node
from swarm.blocking import DhtClient
from swarm.core.authentication import Authentication
from swarm.core.blocking_client import BlockingClient
from swarm.core.credentials import Credentials, KnownClient, Permissions
from swarm.core.node import Node
from swarm.testing.nodes import run_in_thread

ROUNDS = 1000


def handshakes_s(make: Callable[[], BlockingClient], rounds: int = ROUNDS) -> list[float]:
    """Seconds of each of so many connections, one after the other. make: a new client of one node that is reached, for
    instance partial(DhtClient, [address], credentials=…, tls=…)."""
    taken = []
    for _ in range(rounds):
        with make() as client:
            begun = time.perf_counter()
            client.ready()
            taken.append(time.perf_counter() - begun)
    return taken


def node_with_logins(credentials: Credentials, config: DhtConfig | None = None) -> Node:
    """A dht node without files, at which this client may do everything."""
    node = make_node(config or DhtConfig(journal=JournalSection(enabled=False)))
    Authentication(
        node.service, {credentials.name: KnownClient(credentials, Permissions.parse("read=* write=* admin=*"))}
    )
    return node


def main() -> None:
    credentials = Credentials("bench", secrets.token_bytes(32))
    without = partial(make_node, DhtConfig(journal=JournalSection(enabled=False)))
    for name, make, given in (
        ("without login", without, None),
        ("with login", partial(node_with_logins, credentials), credentials),
    ):
        with run_in_thread("dht", [make], None) as nodes:
            taken = handshakes_s(partial(DhtClient, nodes.addresses, credentials=given))
        print(f"{name}: median {median(taken) * 1e3:.3f} ms, highest {max(taken) * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
