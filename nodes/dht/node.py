"""Puts a dht node together."""

from nodes.dht.config import DhtConfig
from nodes.dht.dump_requests import DumpRequests
from nodes.dht.requests import DhtRequests
from nodes.dht.storage import DhtChannel
from swarm import __version__
from swarm.core.logs import Logs
from swarm.core.node import Node, default_memory_limit
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.dht.protocol import KIND


def make_node(config: DhtConfig, logs: Logs | None = None) -> Node:
    hash_range = config.node.hash_range
    service = Service(
        kind=KIND,
        software=f"dhtnode {__version__}",
        limits=config.limits.to_limits(),
        facts={"hash_range": [hash_range.lowest, hash_range.highest]},
    )
    budget = MemoryBudget(config.node.memory_limit or default_memory_limit())
    channels = StorageChannels(lambda: DhtChannel(hash_range, budget), config.limits.channels_max)
    DhtRequests(service, channels, hash_range, budget)
    DumpRequests(service, config.dump_dir, journal=None)
    return Node(
        service,
        channels,
        budget,
        connections_max=config.limits.connections_max,
        logs=logs,
        stats_period_s=config.logs.stats_period,
    )
