"""The client side of the dht."""

from swarm.dht.client import DhtClient

__all__ = ["DhtClient"]
