"""Puts a dht node together."""

import logging

from nodes.dht.config import DhtConfig
from nodes.dht.dump_age import DumpAge
from nodes.dht.dump_requests import DumpRequests
from nodes.dht.identity import identity_of, keep_identity, new_identity
from nodes.dht.journal import Journal, NoJournal
from nodes.dht.journal_files import Files, next_segment_number
from nodes.dht.journal_format import REMOVE_CHANNEL
from nodes.dht.loading_progress import told_progress
from nodes.dht.metrics import METRICS
from nodes.dht.recovery import check_not_ignored, recover
from nodes.dht.replay import Replay, check_range
from nodes.dht.requests import DhtRequests
from nodes.dht.snapshot import Loaded, collector_at_rest, load_snapshot
from nodes.dht.storage import DhtChannel
from swarm import __version__
from swarm.core.logs import Logs
from swarm.core.node import Node, default_memory_limit
from swarm.core.request_handler import Service
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.dht.protocol import KIND

log = logging.getLogger(__name__)


def make_node(
    config: DhtConfig,
    logs: Logs | None = None,
    *,
    accept_damage: bool = False,
    loads_dump: bool = False,
    files: Files | None = None,
) -> Node:
    """A node that holds what its data directory holds. Loads it, which may take long; raises NodeError if it cannot.

    accept_damage: start with what is sound of a damaged dump or journal. loads_dump: also where there is no journal; a
    node for tests begins empty then. files: the operations on the journal's files.
    """
    hash_range = config.node.hash_range
    service = Service(
        kind=KIND,
        software=f"dhtnode {__version__}",
        limits=config.limits.to_limits(),
        facts={"hash_range": [hash_range.lowest, hash_range.highest]},
        holds_writes=config.journal.enabled and config.journal.fsync == "always",
    )
    budget = MemoryBudget(config.node.memory_limit or default_memory_limit())

    def note_removal(name: str) -> None:
        journal.make_room(name, 0)
        journal.note((REMOVE_CHANNEL, name))

    channels = StorageChannels(lambda _: DhtChannel(hash_range, budget), config.limits.channels_max, note_removal)
    journal: Journal | NoJournal
    identity, next_segment = new_identity(), 1
    if config.journal.enabled or loads_dump:
        identity = identity_of(config.node.data, config.dump_dir, accept_damage=accept_damage)
    if config.journal.enabled:
        journal = _load(config, service, channels, budget, identity, accept_damage=accept_damage, files=files)
        service.commit = journal.commit
        service.background.append(journal.run)
        service.more_statistics.append(journal.statistics)
    else:
        journal = NoJournal()
        if loads_dump:
            check_not_ignored(config.node.data / "journal")
            next_segment = next_segment_number(config.node.data / "journal")
            _load_dump(config, channels, budget, accept_damage)
            keep_identity(config.node.data, identity)
    if len(channels) > config.limits.channels_max:
        log.warning(
            "%d channels were loaded, channels_max is %d: no more come into being until enough are removed",
            len(channels),
            config.limits.channels_max,
        )
    if config.journal.enabled or loads_dump:
        dump_age = DumpAge(config.dump_dir, journaled=config.journal.enabled)
        service.more_statistics.append(dump_age.statistics)
        service.health_rules["dump_too_old"] = dump_age.rule
    service.metrics |= METRICS
    DhtRequests(service, channels, hash_range, budget, journal)
    DumpRequests(service, identity, config.dump_dir, journal if isinstance(journal, Journal) else None, next_segment)
    return Node(
        service,
        channels,
        budget,
        connections_max=config.limits.connections_max,
        logs=logs,
        stats_period_s=config.logs.stats_period,
    )


def _load_dump(
    config: DhtConfig, channels: StorageChannels[DhtChannel], budget: MemoryBudget, accept_damage: bool
) -> Loaded:
    with told_progress("loading the dump") as progress:
        return load_snapshot(
            config.dump_dir,
            channels,
            config.node.hash_range,
            budget,
            config.dump.out_of_range,
            accept_damage,
            progress,
        )


def _load(
    config: DhtConfig,
    service: Service,
    channels: StorageChannels[DhtChannel],
    budget: MemoryBudget,
    identity: str,
    *,
    accept_damage: bool,
    files: Files | None,
) -> Journal:
    """Fills the channels, and opens the journal for what comes."""
    directory = config.node.data / "journal"
    with collector_at_rest():
        loaded = _load_dump(config, channels, budget, accept_damage)
        replay = Replay(channels, budget, config.node.hash_range, config.dump.out_of_range)
        recovered = recover(directory, replay, loaded, accept_damage=accept_damage)
    check_range(replay, loaded.records, config.dump.out_of_range, config.node.hash_range)
    if budget.free < 0:
        log.warning(
            "what was loaded takes %d MiB, the memory limit is %d MiB: writes are refused until enough is removed",
            budget.used >> 20,
            budget.limit >> 20,
        )
    keep_identity(config.node.data, identity)
    section = config.journal
    journal = Journal(
        service,
        directory,
        budget,
        last_number=recovered.last_number,
        last_bytes=recovered.last_bytes,
        segments=recovered.segments,
        fsync=section.fsync,
        fsync_interval_s=section.fsync_interval,
        segment_bytes=section.segment_bytes,
        files=files,
    )
    journal.first_undumped = loaded.replay_from
    return journal
