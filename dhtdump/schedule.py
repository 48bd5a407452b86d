"""When dumps are made, and what is told of each.

first wait ──► dump ──► wait for period, or until the journal has grown ──► dump ──► …
                └─ failed ──► retry wait ──► dump

begin_now ends each of the waits.
"""

import logging
import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from dhtdump.config import DumpSection
from dhtdump.cycle import DumpClient, JournalKept, Progress, dump_node, end_dump, manifest_before
from swarm.core.errors import SwarmError
from swarm.core.limits import MIB
from swarm.core.logs import Logs, figures
from swarm.core.stats import flatten
from swarm.dht.dump_format import Manifest
from swarm.dht.dumps import DumpNotWritten, DumpUnreadable

log = logging.getLogger(__name__)

JOURNAL_FLOOR_BYTES = 64 * MIB  # a journal up to this is replayed in a second or so: no reason for a dump
NODE_TIMEOUT_S = 10.0  # for a batch: the node is patient with slow readers, and we are with a busy node


class Schedule:
    def __init__(
        self, config: DumpSection, client: DumpClient, logs: Logs | None = None, *, once: bool = False
    ) -> None:
        """once: no further dump follows by itself."""
        self._config = config
        self._period_s = None if once else config.period
        self._client = client
        self._logs = logs
        self._directory: Path = config.dump_dir
        self._dumps = 0
        self._failures = 0
        self._last: Manifest | None = None
        with suppress(DumpUnreadable):  # the first dump will tell
            self._last = manifest_before(self._directory)
        self._wanted = trio.Event()
        self._doing = "starting"
        self.journal_kept: str | None = None
        """Why the node did not trim its journal for the last dump. As long as it does not, no dump begins early: the
        journal would not become shorter by it."""

    async def run(self) -> None:
        """Dumps again and again, until cancelled."""
        wait_s = random.uniform(0, self._config.first_wait * self._config.period)
        while True:
            self._announce(wait_s, "next dump", early=self.journal_kept is None)
            await self._wait(wait_s)
            while await self.dump() is not None:
                self._announce(self._config.retry_wait, "next attempt")
                with trio.move_on_after(self._config.retry_wait):
                    await self._wanted.wait()
            wait_s = self._config.period

    @property
    def status(self) -> str:
        """What it does, and what the last complete dump was, in a line."""
        if self._last is None:
            return f"{self._doing}; no dump yet"
        return f"{self._doing}; last dump {self._last.finished}: {self._last.records} records"

    def begin_now(self) -> None:
        """The next dump begins at once; behind the one that is being made."""
        self._wanted.set()

    async def dump(self, progress: Progress = lambda channel, records: None) -> str | None:
        """One dump; None, or why it failed. Both are in the logs."""
        begun = time.monotonic()
        self._wanted = trio.Event()
        self._doing = "dumping"
        try:
            manifest = await dump_node(self._client, self._directory, progress, self._period_s)
        except (SwarmError, DumpNotWritten, DumpUnreadable) as error:
            self._failures += 1
            log.error("the dump failed, the one before stays: %s", error)
            self._write_stats(None, time.monotonic() - begun)
            return str(error)
        trimmed = await self._end(manifest)
        duration_s = time.monotonic() - begun
        self._dumps += 1
        self._last = manifest
        log.info(
            "dumped %d channels with %d records, %d bytes, in %.1f s; the journal is needed from segment %d on",
            len(manifest.channels), manifest.records, manifest.record_bytes, duration_s, manifest.keep_from,
        )  # fmt: skip
        self._write_stats(manifest, duration_s, trimmed)
        return None

    async def _end(self, manifest: Manifest) -> bool | None:
        """Whether the journal was trimmed; None where there is none."""
        self.journal_kept = None
        try:
            return await end_dump(self._client, self._directory, manifest)
        except JournalKept as error:
            self.journal_kept = str(error)
            log.error("%s. Until then no dump begins early", error)
        except SwarmError as error:
            log.warning("the journal was not trimmed: %s", error)
        return False

    def _announce(self, wait_s: float, what: str, *, early: bool = False) -> None:
        due = datetime.fromtimestamp(time.time(), UTC) + timedelta(seconds=wait_s)
        or_when = ", or when the journal has grown" if early else ""
        self._doing = f"{what} at {due.strftime('%Y-%m-%d %H:%M:%S')} UTC"
        log.info("%s%s", self._doing, or_when)

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while True:
                with trio.move_on_after(self._config.check_period):
                    await self._wanted.wait()
                    return
                if self.journal_kept:
                    continue
                undumped = await self._undumped_bytes()
                if has_grown(undumped, self._last.record_bytes if self._last else 0, self._config.journal_multiple):
                    log.info("the journal has grown by %d bytes since the last dump: the next begins early", undumped)
                    return

    async def _undumped_bytes(self) -> int:
        """Of the journal since the last dump; 0 where the node does not tell."""
        try:
            (statistics,) = (await self._client.node_statistics()).values()
        except SwarmError:
            return 0
        return int(statistics.get("journal_undumped_bytes", 0))

    def _write_stats(self, manifest: Manifest | None, duration_s: float, trimmed: bool | None = None) -> None:
        if self._logs is None:
            return
        values: dict[str, Any] = {
            "dumps": self._dumps,
            "failures": self._failures,
            "failed": 0 if manifest else 1,
            "duration_s": round(duration_s, 3),
            "last_success": self._last.finished if self._last else "never",
        }
        if manifest is not None:
            values |= {
                "first_segment": manifest.first_segment,
                "keep_from": manifest.keep_from,
                "channels": len(manifest.channels),
                "records": manifest.records,
                "bytes": manifest.record_bytes,
                "channel": {
                    name: {"records": size.records, "bytes": size.bytes} for name, size in manifest.channels.items()
                },
            } | ({} if trimmed is None else {"trimmed": int(trimmed)})
        self._logs.stats([figures(flatten(values))])


def has_grown(journal_bytes: int, dump_bytes: int, multiple: float) -> bool:
    """Whether the journal since the last dump is so large that the next should not wait."""
    return journal_bytes > max(JOURNAL_FLOOR_BYTES, multiple * dump_bytes)
