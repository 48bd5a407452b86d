"""The clients for programs without an event loop: the same methods as swarm.dht and its like, without await."""

from swarm.blocking.dht import DhtClient
from swarm.blocking.queue import QueueClient

__all__ = ["DhtClient", "QueueClient"]
