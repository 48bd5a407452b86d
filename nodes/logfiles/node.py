"""Puts a logfiles node together."""

import logging

from nodes.logfiles.config import LogfilesConfig
from nodes.logfiles.files import Files
from nodes.logfiles.metrics import METRICS
from nodes.logfiles.off_loop import OffLoop, in_thread
from nodes.logfiles.requests import LogfilesRequests
from nodes.logfiles.served_channel import ServedChannel
from nodes.logfiles.shared import Settings
from nodes.logfiles.store import LogStore
from nodes.logfiles.upkeep import Upkeep
from swarm import __version__
from swarm.core.logs import Logs
from swarm.core.node import Node, default_memory_limit
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.logfiles.protocol import KIND

log = logging.getLogger(__name__)


def make_node(
    config: LogfilesConfig, logs: Logs | None = None, *, files: Files | None = None, off_loop: OffLoop = in_thread
) -> Node:
    """A node that holds what its data directory holds. Raises NodeError if it cannot open that.

    files: the operations on the store's files. off_loop: carries out what the loop must not wait for.
    """
    section = config.store
    service = Service(
        kind=KIND,
        software=f"logfilesnode {__version__}",
        limits=config.limits.to_limits(),
        holds_writes=section.fsync == "always",
    )
    settings = Settings(
        bucket_s=section.bucket,
        syncs=section.fsync != "never",
        tail_memory=section.tail_memory,
        value_bytes_max=config.limits.value_bytes,
        channels_max=config.limits.channels_max,
    )
    store = LogStore.open(config.node.data, settings, files)
    channels = StorageChannels(
        lambda name: ServedChannel(store, name),
        config.limits.channels_max,
        lambda name: channels.load(name).leave(),
    )
    for name in store.channels:
        channels.load(name)
    if len(channels) > config.limits.channels_max:
        log.warning(
            "%d channels were loaded, channels_max is %d: no more come into being until enough are removed",
            len(channels),
            config.limits.channels_max,
        )
    upkeep = Upkeep(service, store, config, off_loop)
    service.commit = upkeep.commit
    service.background.append(upkeep.run)
    service.more_statistics.append(upkeep.statistics)
    service.metrics |= METRICS
    LogfilesRequests(service, channels, store, section, off_loop)
    return Node(
        service,
        channels,
        MemoryBudget(default_memory_limit()),  # records are in files; what it bounds is input that waits for more
        connections_max=config.limits.connections_max,
        logs=logs,
        stats_period_s=config.logs.stats_period,
    )
