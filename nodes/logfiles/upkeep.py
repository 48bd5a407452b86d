"""What a logfiles node does beside its requests: syncs, makes blocks, seals buckets, drops what is too old.

The store says what there is to do; each piece is carried out in a thread, and finished on the loop. A piece that the
disk refuses is told in root.log and comes again, later: until then everything stays readable as it is. Only what was
acknowledged and cannot be synced ends the node.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any, Literal

import trio

from nodes.logfiles.believed_clock import BelievedClock
from nodes.logfiles.config import LogfilesConfig, Retention
from nodes.logfiles.off_loop import OffLoop
from nodes.logfiles.seal_work import SealWork
from nodes.logfiles.shared import Work
from nodes.logfiles.store import LogStore, SyncWork
from swarm.core.errors import SwarmError
from swarm.core.limits import MIB
from swarm.core.node import NodeError
from swarm.core.request_handler import Service

log = logging.getLogger(__name__)

BLOCKS_PAUSE_S = 0.02  # between two looks for blocks to be made: at 400 MB/s some 8 MB come meanwhile
ROUND_S = 10.0  # between two looks for what is to be sealed, or to be dropped
RETRY_S = 10.0  # after an error
FAILURES_MAX = 8  # of sealing, in a round: then it is not the bucket, and each costs a process
TOLD_MAX = 1000  # reasons that are remembered, to tell each once

# Batches that come faster than blocks are made are slowed down, before any has to be refused: their answers are held.
# From nothing at half of tail_memory to this rate at its end.
BEHIND_BYTES_PER_S = 50 * MIB  # what any disk and any core make blocks of
BEHIND_PAUSE_S = 1.0  # at most: it is a part of the time that clients wait for an answer

Fsync = Literal["never", "interval", "always"]


class Upkeep:
    def __init__(self, service: Service, store: LogStore, config: LogfilesConfig, off_loop: OffLoop) -> None:
        self._service = service
        self._store = store
        self._off_loop = off_loop
        self._fsync: Fsync = config.store.fsync
        self._sync_every_s = config.store.fsync_interval if self._fsync == "interval" else float("inf")
        self._seal_after_s = config.store.seal_after
        self._retention: Callable[[str], Retention] = config.retention
        self._retained: dict[str, Retention] = {}
        self._clock = BelievedClock(store.last_time)
        self._full = trio.Event()
        self._full.set()  # what was loaded may fill blocks
        self._sync_wanted = trio.Event()
        self._sync_failed = False
        self._release_wanted = trio.Event()
        self._written = 0
        """Bytes, while blocks are behind, since answers were released last."""
        self.syncs = 0
        self.longest_sync_s = 0.0
        self.sealed = 0
        self.dropped = 0
        self.failures = 0
        self._told: set[str] = set()
        """Why buckets could not be sealed."""

    def commit(self) -> None:
        """At the end of a pass: writes what it has brought."""
        written = self._store.commit()
        self._service.holds_batches = self._store.behind > 0
        self._written = self._written + written if self._service.holds_batches else 0
        if self._store.has_blocks_to_make:
            self._full.set()
        if self._service.held:
            (self._sync_wanted if self._fsync == "always" else self._release_wanted).set()

    def statistics(self) -> dict[str, Any]:
        return self._store.statistics() | {
            "syncs": self.syncs,
            "longest_sync_s": round(self.longest_sync_s, 6),
            "sealed": self.sealed,
            "dropped": self.dropped,
            "failures": self.failures,
        }

    async def run(self) -> None:
        """As long as the node runs; at its end the store is closed. Raises NodeError."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sync)
                nursery.start_soon(self._release)
                nursery.start_soon(self._make_blocks)
                nursery.start_soon(self._seal)
                nursery.start_soon(self._drop)
        finally:
            if not self._sync_failed:
                self._store.close()

    # Syncing.

    async def _sync(self) -> None:
        while True:
            with trio.move_on_after(self._sync_every_s):
                await self._sync_wanted.wait()
            self._sync_wanted = trio.Event()
            held = self._service.take_held() if self._fsync == "always" else []
            await self._sync_once()
            if held:
                await self._catch_up()
                self._service.release_held(held)

    async def _release(self) -> None:
        """Answers that are not held for a sync."""
        while True:
            await self._release_wanted.wait()
            self._release_wanted = trio.Event()
            held = self._service.take_held()
            await self._catch_up()
            self._service.release_held(held)

    async def _catch_up(self) -> None:
        """Gives the thread that makes blocks time, as it is behind."""
        written, self._written = self._written, 0
        until = trio.current_time() + min(self._store.behind * written / BEHIND_BYTES_PER_S, BEHIND_PAUSE_S)
        while self._store.behind > 0 and trio.current_time() < until:
            await trio.sleep(min(BLOCKS_PAUSE_S, until - trio.current_time()))

    async def _sync_once(self) -> None:
        try:
            work = self._store.take_sync()
            if work is not None:
                await self._off_loop(partial(self._timed, work))
        except OSError as error:
            self._sync_failed = True
            raise NodeError(f"what was written cannot be synced: {error}") from error

    def _timed(self, work: SyncWork) -> None:
        begun = monotonic()
        work.run()
        self.syncs += 1
        self.longest_sync_s = max(self.longest_sync_s, monotonic() - begun)

    # What may fail, and is tried again.

    async def _make_blocks(self) -> None:
        while True:
            await self._full.wait()
            self._full = trio.Event()
            while await self._carry_out("make blocks", self._store.blocks_to_make()):
                pass
            await trio.sleep(BLOCKS_PAUSE_S)

    async def _seal(self) -> None:
        while True:
            for _ in range(2):  # what is in tails becomes blocks, and these are sealed then
                await self._seal_some()
            await trio.sleep(ROUND_S)

    async def _seal_some(self) -> None:
        """A bucket with which it fails is put off by the store; those behind it have their turn."""
        works = self._store.buckets_to_seal(time.time_ns(), self._seal_after_s)
        for _ in range(FAILURES_MAX):
            try:
                for work in works:
                    try:
                        await self._off_loop(work.run)
                    finally:
                        work.finish()
                    self.sealed += isinstance(work, SealWork)
            except OSError as error:
                self.failures += 1
                self._tell_of_sealing(str(error))
            else:
                return

    def _tell_of_sealing(self, error: str) -> None:
        if error not in self._told:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()
            self._told.add(error)
            log.error("the node could not seal a bucket, and will try again, less and less often: %s", error)

    async def _carry_out(self, what: str, works: Iterable[Work]) -> int:
        """How many were done. After an error the rest has time until later."""
        done = 0
        try:
            for work in works:
                try:
                    await self._off_loop(work.run)
                finally:
                    work.finish()
                if (close := self._store.close_removed()) is not None:
                    await self._off_loop(close)
                done += 1
        except (OSError, SwarmError) as error:
            await self._failed(what, error)
            self._full.set()  # also when writes are refused meanwhile, so that nothing else would
        return done

    async def _drop(self) -> None:
        while True:
            try:
                await self._drop_once()
            except (OSError, SwarmError) as error:
                await self._failed("drop old records", error)
            await trio.sleep(ROUND_S)

    async def _drop_once(self) -> None:
        now = self._clock.now()
        self._store.note_time(now)
        for name in list(self._store.channels):
            kept = self._retention_of(name)
            while kept != Retention(None, None):
                dropped = self._store.retain(name, now, kept.max_age_s, kept.max_bytes)
                if not dropped:
                    break
                self.dropped += dropped
                log.info("channel %s: %d buckets were dropped, the oldest, as configured", name, dropped)
                await trio.lowlevel.checkpoint()
        while (work := self._store.removals()) is not None:
            try:
                await self._off_loop(work.run)
            finally:
                work.finish()

    def _retention_of(self, name: str) -> Retention:
        found = self._retained.get(name)
        if found is None:
            found = self._retained[name] = self._retention(name)
        return found

    async def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.error("the node could not %s, and will try again: %s", what, error)
        await trio.sleep(RETRY_S)
