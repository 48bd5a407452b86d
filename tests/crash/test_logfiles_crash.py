"""Nothing that a logfiles node has acknowledged is lost, nothing doubled or out of order, whenever kill -9 strikes.

Several clients put records to a real node: in order, out of order, late, many at the same moment. Buckets are short and
sealed at once, so that at any moment tails are begun and removed, blocks are made, and buckets are sealed for the first
time or again. The node, the process that seals for it, or both are killed when a random number of requests has been
acknowledged; after each restart all is read and compared with what the clients know, while the node seals it. In the
end all is sealed, and compared again. logfiles-check has nothing to complain about in what is left by an ordered stop;
after a kill there may be files besides that the next start removes.

SWARM_CRASH_KILLS: how many in all, by default 60. SWARM_CRASH_SEED: prints itself, and repeats a run's choices.
"""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nodes.logfiles.check.findings import Kind, Status
from nodes.logfiles.config import LogfilesConfig, StoreSection
from swarm.blocking import LogfilesClient
from swarm.testing import LogfilesProcess
from tests.crash.log_writers import LogWriter, check
from tests.crash.test_crash import Acknowledged
from tests.waiting import wait_until

KILLS = int(os.environ.get("SWARM_CRASH_KILLS", "60"))
SEED = int(os.environ.get("SWARM_CRASH_SEED", secrets.randbelow(2**32)))
SYNCING = ["interval", "never", "always", "interval", "never"]  # of each run
WRITERS = 4
CHANNELS = ("a", "b")
REQUESTS_MAX = 40  # acknowledged, between two kills
PATIENCE_S = 60.0
IMPATIENCE_S = 0.5
BUCKET_S = 60
BUCKETS = 5
LEFT_BY_KILL = frozenset({Kind.STRAY_TEMPORARY, Kind.VOID_FILE})


def _sealing(data: Path) -> list[int]:
    """The processes that seal in this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if b"nodes.logfiles.sealing" in arguments:
                fd = arguments[arguments.index(b"nodes.logfiles.sealing") + 1].decode()
                if (process / "fd" / fd).readlink().is_relative_to(data):
                    found.append(int(process.name))
    return found


def _kill_sealing(data: Path) -> None:
    for process in _sealing(data):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _check_files(data: Path, left_by_kill: frozenset[Kind] = frozenset()) -> None:
    """left_by_kill: what may be found."""
    command = [sys.executable, "-m", "nodes.logfiles.check", str(data), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    found = [each for each in told if each["type"] == "finding" and each["kind"] not in left_by_kill]
    assert not found, f"{found[:5]}{ended.stderr}"
    clean = {Status.CLEAN, Status.DAMAGE_LEFT} if left_by_kill else {Status.CLEAN}
    assert ended.returncode in clean, f"status {ended.returncode}: {ended.stdout}{ended.stderr}"


def _check_content(node: LogfilesProcess, writers: list[LogWriter]) -> None:
    with LogfilesClient(node.address, timeout=PATIENCE_S) as logs:
        for channel in CHANNELS:
            found = logs.get_range(channel)
            check(channel, found.blocks(), writers)
            assert found.damaged_blocks == 0
        assert set(logs.channels()) <= set(CHANNELS)


@pytest.mark.parametrize("run", range(len(SYNCING)))
def test_no_record_is_lost_or_doubled_when_a_logfiles_node_is_killed(run: int, tmp_path: Path) -> None:
    seed = SEED + run
    print(f"SWARM_CRASH_SEED={SEED}, run {run}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    data = tmp_path / "data"
    bucket_ns = BUCKET_S * 1_000_000_000
    begin = (time.time_ns() // bucket_ns - 2 * BUCKETS) * bucket_ns  # all are over
    config = LogfilesConfig(store=StoreSection(bucket=BUCKET_S, fsync=SYNCING[run], seal_after=0.0))
    writers = [LogWriter(number, CHANNELS, begin, bucket_ns, BUCKETS, seed) for number in range(WRITERS)]
    acknowledged = Acknowledged()
    with LogfilesProcess(tmp_path, config) as node:
        for _ in range(max(1, KILLS // len(SYNCING))):
            # Half of the time the writers last until the node is back.
            patient = chance.random() < 0.5
            for writer in writers:
                writer.start(node.address, PATIENCE_S if patient else IMPATIENCE_S, acknowledged.one)
            try:
                acknowledged.wait_for(chance.randint(1, REQUESTS_MAX))
                victims = chance.choice(["node", "node", "sealing", "both"])
                if victims != "node":
                    _kill_sealing(data)
                if victims == "sealing":
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
            _check_content(node, writers)
        node.kill()
        wait_until(lambda: not _sealing(data))  # it notices that its node has ended
        _check_files(data, LEFT_BY_KILL)
        node.start()
        wait_until(lambda: not any(path.suffix in (".tail", ".log", ".tmp") for path in data.glob("channels/*/*/*")))
        _check_content(node, writers)
        assert node.stop() == 0
        assert {path.suffix for path in data.glob("channels/*/*/*")} == {".sealed"}
        _check_files(data)
        node.start()
        _check_content(node, writers)
