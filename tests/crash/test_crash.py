"""Nothing that was acknowledged is lost, and nothing is there that was never sent, whenever kill -9 strikes.

Several clients write to a real node, with a real dhtdump beside it that makes one dump after the other. The node, the
dhtdump, or both are killed when a random number of requests has been acknowledged; after each restart every client
compares all of its channel with what it knows.

SWARM_CRASH_KILLS: how many in all, by default 60. SWARM_CRASH_SEED: prints itself, and repeats a run's choices.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.dht.config import DhtConfig, JournalSection
from swarm.blocking import DhtClient
from swarm.dht.dumps import read_manifest
from swarm.testing import DhtProcess
from tests.crash.writers import Writer
from tests.waiting import wait_until

KILLS = int(os.environ.get("SWARM_CRASH_KILLS", "60"))
SEED = int(os.environ.get("SWARM_CRASH_SEED", secrets.randbelow(2**32)))
RUNS = 6
WRITERS = 4
REQUESTS_MAX = 400  # acknowledged, between two kills
PATIENCE_S = 60.0
IMPATIENCE_S = 0.5
SEGMENT_BYTES = 1 << 20  # small, so that there are many

DHTDUMP_INI = """
[dump]
node = {node}
dump_dir = {directory}
period = 100 ms
first_wait = 0
retry_wait = 100 ms
"""


class Acknowledged:
    """Counts what all writers were told; who waits for a number is woken when it is reached."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def one(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_for(self, more: int) -> None:
        with self._changed:
            wanted = self._count + more
            assert self._changed.wait_for(lambda: self._count >= wanted, PATIENCE_S), "the writers make no progress"


class Dhtdump:
    """A dhtdump that is started again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "data" / "dump"
        self._ini = directory / "dhtdump.ini"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, node: str) -> None:
        self._ini.write_text(DHTDUMP_INI.format(node=node, directory=self.directory))
        command = [sys.executable, "-m", "dhtdump", "--config", str(self._ini)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"dhtdump has ended by itself, status {self._process.returncode}"
        self._process.kill()
        assert self._process.wait(PATIENCE_S) == -signal.SIGKILL
        self._process = None

    def wait_for_more(self, journal: Path) -> None:
        """More dumps are completed, and the journal is trimmed: what was killed so often still works."""
        before = read_manifest(self.directory)
        wait_until(lambda: read_manifest(self.directory) != before)
        wait_until(lambda: not (journal / "0000000000000001.journal").exists())

    @contextmanager
    def ended(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait(PATIENCE_S)


@pytest.mark.parametrize("run", range(RUNS))
def test_nothing_is_lost_when_it_is_killed(run: int, tmp_path: Path) -> None:
    seed = SEED + run
    print(f"SWARM_CRASH_SEED={SEED}, run {run}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    fsync = "always" if run == RUNS - 1 else "interval"
    config = DhtConfig(journal=JournalSection(segment_bytes=SEGMENT_BYTES, fsync=fsync))
    writers = [Writer(number, seed) for number in range(WRITERS)]
    acknowledged = Acknowledged()
    dhtdump = Dhtdump(tmp_path)
    with DhtProcess(tmp_path, config) as node, dhtdump.ended():
        dhtdump.start(node.address)
        for _ in range(max(1, KILLS // RUNS)):
            # Half of the time the writers last until the node is back, and what they were at is sent again.
            patient = chance.random() < 0.5
            for writer in writers:
                writer.start(node.address, PATIENCE_S if patient else IMPATIENCE_S, acknowledged.one)
            try:
                acknowledged.wait_for(chance.randint(1, REQUESTS_MAX))
                victims = chance.choice(["node", "node", "dhtdump", "both"])
                if victims != "node":
                    dhtdump.kill()
                if victims == "dhtdump":
                    dhtdump.start(node.address)
                    acknowledged.wait_for(chance.randint(1, REQUESTS_MAX))
            finally:
                node.kill()
                for writer in writers:
                    writer.stop()
            if patient:
                node.start()
            for writer in writers:
                writer.ended()
            if not patient:
                node.start()
            if victims == "both":
                dhtdump.start(node.address)
            with DhtClient(node.address, timeout=PATIENCE_S) as dht:
                for writer in writers:
                    writer.check(dht)
                assert set(dht.channels()) <= {writer.channel for writer in writers}
        dhtdump.wait_for_more(tmp_path / "data" / "journal")
