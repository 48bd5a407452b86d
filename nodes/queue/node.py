"""Puts a queue node together."""

import logging

from nodes.queue.channel import Lines, QueueChannel
from nodes.queue.config import QueueConfig
from nodes.queue.data_directory import DataDirectory
from nodes.queue.metrics import METRICS
from nodes.queue.queue_files import Files
from nodes.queue.requests import QueueRequests
from nodes.queue.served_queue import Changes, queue_nearly_full
from nodes.queue.syncing import Syncing
from swarm import __version__
from swarm.core.errors import DiskFull, TooManyChannels
from swarm.core.logs import Logs
from swarm.core.node import Node, NodeError, default_memory_limit
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.queue.protocol import KIND

log = logging.getLogger(__name__)


def make_node(
    config: QueueConfig, logs: Logs | None = None, *, accept_damage: bool = False, files: Files | None = None
) -> Node:
    """A node that holds what its data directory holds. Raises NodeError if it cannot open that.

    accept_damage: where a ring is damaged as a whole, put it aside and begin an empty one. files: the operations on
    the queues' files.
    """
    service = Service(
        kind=KIND,
        software=f"queuenode {__version__}",
        limits=config.limits.to_limits(),
        holds_writes=config.queue.fsync == "always",
    )
    lines = Lines()
    syncing = Syncing(service, config.queue.fsync, config.queue.fsync_interval)
    changes = Changes(service, syncing)
    directory = DataDirectory(config.node.data, files or Files(), syncs=config.queue.fsync != "never")

    def check_room() -> None:
        there = sum(len(channel.queues) for _, channel in channels.items())
        if there >= config.queue.queues_max:
            raise TooManyChannels(
                f"the node has {there} queues, the most it is configured for (queues_max); remove channels, or drop "
                "subscribers",
                {"limit": config.queue.queues_max},
            )

    channels: StorageChannels[QueueChannel] = StorageChannels(
        lambda name: QueueChannel(name, config.settings(name), directory, lines, changes, syncing, check_room),
        config.limits.channels_max,
        directory.remove_channel,
    )
    try:
        for channel, subscriber in directory.queues():
            engine = channels.load(channel)
            engine.load(subscriber, directory.open(channel, subscriber, engine.settings, accept_damage=accept_damage))
    except DiskFull as error:  # no client is there to be told: later is another start
        raise NodeError(str(error)) from error
    if len(channels) > config.limits.channels_max:
        log.warning(
            "%d channels were loaded, channels_max is %d: no more come into being until enough are removed",
            len(channels),
            config.limits.channels_max,
        )
    service.commit = changes.commit
    service.background.append(syncing.run)
    service.more_statistics.append(syncing.statistics)
    service.metrics |= METRICS
    service.health_rules["queue_nearly_full"] = queue_nearly_full(
        lambda: (queue for _, channel in channels.items() for queue in channel.queues.values())
    )
    QueueRequests(service, channels, lines, changes)
    return Node(
        service,
        channels,
        MemoryBudget(default_memory_limit()),  # records are in files; what it bounds is input that waits for more
        connections_max=config.limits.connections_max,
        logs=logs,
        stats_period_s=config.logs.stats_period,
    )


def close_queues(node: Node) -> None:
    """Where the process goes on after the node has ended."""
    for _, channel in node.channels.items():
        channel.close()
