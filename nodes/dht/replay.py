"""Carries out the changes that the journal has recorded, when the node starts.

Single puts to a channel are collected, and stored as one batch, which takes a fraction of the time. A channel's changes
are made in their order; what happens to one channel means nothing to another.

Changes of records outside the node's range are counted. They are made where such records are to be loaded, and left out
otherwise; check_range says whether the node may start so.
"""

import logging
from itertools import compress
from typing import Any

from nodes.dht.journal_format import PUT, PUT_MANY, REMOVE, REMOVE_CHANNEL
from nodes.dht.snapshot import OutOfRange
from nodes.dht.storage import DhtChannel
from swarm.core.limits import KIB
from swarm.core.node import WrongData
from swarm.core.storage_channels import MemoryBudget, StorageChannels
from swarm.dht.hash_range import HashRange, hash_key

log = logging.getLogger(__name__)

RUN_RECORDS_MAX = 1024
RUN_VALUE_BYTES_MAX = 64 * KIB  # a larger value ends the run: what is collected is not stored yet, and takes memory
BEYOND_EVERYTHING = 1 << 62


class Replay:
    def __init__(
        self, channels: StorageChannels[DhtChannel], budget: MemoryBudget, hash_range: HashRange, policy: OutOfRange
    ) -> None:
        self._channels = channels
        self._budget = budget
        self._range = hash_range
        self._partial = hash_range != HashRange()
        self._loads_all = policy == "load"
        self._runs: dict[str, tuple[list[bytes], list[bytes]]] = {}  # keys and values of puts, by channel
        self.records = 0
        """That were written, one that was written twice counted twice."""
        self.removed = 0
        self.inside = 0
        """Of the records those that are in the node's range."""
        self.out_of_range = 0
        """Changes of records that are not."""
        self._budget.free += BEYOND_EVERYTHING  # the limit holds for what comes later

    def carry_out(self, changes: Any) -> None:
        """All changes of an entry. TypeError or ValueError where one is not known."""
        runs = self._runs
        for change in changes:
            if change[0] == PUT:
                _, channel, key, value = change
                try:
                    keys, values = runs[channel]
                except KeyError:
                    keys, values = runs[channel] = ([], [])
                keys.append(key)
                values.append(value)
                if len(keys) >= RUN_RECORDS_MAX or len(value) > RUN_VALUE_BYTES_MAX:
                    self._end_run(channel)
            else:
                self._end_run(change[1])
                self._carry_out_other(change)

    def _carry_out_other(self, change: Any) -> None:
        match change:
            case [code, str(channel), list(keys), list(values)] if code == PUT_MANY:
                self._put(channel, keys, values)
            case [code, str(channel), bytes(key)] if code == REMOVE:
                self._remove(channel, key)
            case [code, str(channel)] if code == REMOVE_CHANNEL:
                if self._channels.get(channel) is not None:
                    for _ in self._channels.pop(channel):
                        pass
            case _:
                raise ValueError(f"change {str(change)[:80]}")

    def _remove(self, channel: str, key: bytes) -> None:
        engine = self._channels.get(channel)
        inside = hash_key(key) in self._range
        self.out_of_range += not inside
        if engine is None:
            return
        if inside:
            self.removed += engine.remove_record(key)
        elif self._loads_all:
            with engine.any_hash():
                self.removed += engine.remove_record(key)

    def _end_run(self, channel: str) -> None:
        if channel in self._runs:
            self._put(channel, *self._runs.pop(channel))

    def _put(self, channel: str, keys: list[bytes], values: list[bytes]) -> None:
        self.records += len(keys)
        inside = [hash_key(key) in self._range for key in keys] if self._partial else [True] * len(keys)
        within = inside.count(True)
        self.inside += within
        self.out_of_range += len(keys) - within
        if within == len(keys):
            self._store(channel, keys, values)
        elif self._loads_all:
            with self._channels.load(channel).any_hash():
                self._store(channel, keys, values)
        elif within:
            self._store(channel, list(compress(keys, inside)), list(compress(values, inside)))

    def _store(self, channel: str, keys: list[bytes], values: list[bytes]) -> None:
        self._channels.load(channel).put_many(keys, values, sum(map(len, keys)) + sum(map(len, values)))

    def finish(self) -> None:
        """All was given."""
        for channel in list(self._runs):
            self._end_run(channel)
        self._budget.free -= BEYOND_EVERYTHING


def check_range(replay: Replay, dumped: int, policy: OutOfRange, hash_range: HashRange) -> None:
    """WrongData where the node must not start, because of changes in the journal that are not in its range.

    dumped: records in its range that were in the dump.
    """
    if not replay.out_of_range:
        return
    what = f"{replay.out_of_range} changes in the journal are outside the node's hash range {hash_range}"
    if not (replay.inside or dumped):
        raise WrongData(f"{what}, and none is in it: is this the journal of another node?")
    if policy == "fatal":
        raise WrongData(
            f"{what}, {replay.inside} records were written that are in it: set out_of_range in section [dump] to load "
            "or to ignore, or give the node its former range"
        )
    log.warning("%s: they are %s (out_of_range)", what, "made" if policy == "load" else "left out")
