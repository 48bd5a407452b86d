"""Random operations on a real node with its dumps, with crashes in between, compared with a dict.

One client, so every answer and every content is known exactly. test_crash.py has several that write while the process
is killed; here all that there is comes in any order: changes of every kind, dumps, dumps that are killed, kill -9 and
ordered stops. The segments are small, so the journal consists of many.

A second test has hypothesis choose the sequence, for it to be made shorter when it fails.

SWARM_MODEL_SECONDS: how long, by default 20. SWARM_MODEL_SEED: prints itself, and repeats a run's choices; which
operation the time ends at is not repeated. What was done last is printed, too.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.dht.config import DhtConfig, JournalSection
from swarm.blocking import DhtClient
from swarm.testing import DhtProcess

SECONDS = float(os.environ.get("SWARM_MODEL_SECONDS", "20"))
SEED = int(os.environ.get("SWARM_MODEL_SEED", secrets.randbelow(2**32)))
STEPS_MIN = 300  # on a slow machine, whatever the time
PATIENCE_S = 60.0
CHANNELS = ("a", "b", "c")
KEYS = 60  # few, so that most changes meet a record that is there
MANY_KEYS = 300
SEGMENT_BYTES = 1 << 16
SEQUENCES = int(os.environ.get("SWARM_MODEL_SEQUENCES", "6"))
CHANGES = ["put", "put_many", "remove", "update", "remove_channel"]
DUMP_S_MAX = 0.6  # in which a dump that is to be killed may have come anywhere

Content = dict[str, dict[bytes, bytes]]


class Run:
    """A node, and the content that it must have."""

    def __init__(self, node: DhtProcess, dht: DhtClient, data: Path, chance: random.Random) -> None:
        self._node = node
        self._dump_dir = data / "dump"
        self._chance = chance
        self._dht = dht
        self._content: Content = {}
        self.done: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=50)
        self._operations: dict[Callable[[], None], int] = {
            self.put: 60,
            self.put_many: 20,
            self.remove: 30,
            self.update: 20,
            self.remove_channel: 4,
            self.dump: 4,
            self.dump_that_is_killed: 2,
            self.kill: 4,
            self.stop: 2,
        }

    def step(self) -> None:
        (operation,) = self._chance.choices(list(self._operations), list(self._operations.values()))
        self.carry_out(operation)

    def carry_out(self, operation: Callable[[], None]) -> None:
        self.done[operation.__name__] += 1
        self.last.append(operation.__name__)
        operation()

    def put(self) -> None:
        channel, key, value = self._channel(), self._key(), self._value()
        self._dht.put(channel, key, value)
        self._records(channel)[key] = value

    def put_many(self) -> None:
        channel = self._channel()
        batch = {self._key(MANY_KEYS): self._value() for _ in range(self._chance.randint(1, 200))}
        self._dht.put_many(channel, batch)
        self._records(channel).update(batch)

    def remove(self) -> None:
        channel, key = self._channel(), self._key()
        was_there = self._content.get(channel, {}).pop(key, None) is not None
        assert self._dht.remove(channel, key) == was_there

    def update(self) -> None:
        """To another value, or to none."""
        channel, key = self._channel(), self._key()
        value = self._value() if self._chance.random() < 0.8 else None
        before: list[bytes | None] = []

        def change(old: bytes | None) -> bytes | None:
            before.append(old)
            return value

        self._dht.update(channel, key, change)
        assert before == [self._content.get(channel, {}).get(key)]
        if value is not None:
            self._records(channel)[key] = value
        else:
            self._content.get(channel, {}).pop(key, None)

    def remove_channel(self) -> None:
        channel = self._channel()
        self._dht.remove_channel(channel)
        self._content.pop(channel, None)

    def dump(self) -> None:
        ended = subprocess.run(self._dhtdump(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert ended.returncode == 0, ended.stderr

    def dump_that_is_killed(self) -> None:
        with subprocess.Popen(self._dhtdump(), stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(self._chance.uniform(0.2, DUMP_S_MAX))
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.returncode in (0, -signal.SIGKILL)

    def kill(self) -> None:
        self._node.kill()
        self._start()

    def stop(self) -> None:
        assert self._node.stop() == 0
        self._start()

    def _start(self) -> None:
        self._node.start()
        self.check()

    def check(self) -> None:
        """A channel without records may be there or not."""
        found = {name: dict(self._dht.get_all(name)) for name in self._dht.channels()}
        for channel in CHANNELS:
            expected, records = self._content.get(channel, {}), found.pop(channel, {})
            wrong = [key for key in expected.keys() | records.keys() if expected.get(key) != records.get(key)]
            assert not wrong, f"{channel}: {len(wrong)} records are not what they must be, {wrong[:5]}"
        assert not found

    def _channel(self) -> str:
        return self._chance.choice(CHANNELS)

    def _key(self, count: int = KEYS) -> bytes:
        return b"%d" % self._chance.randrange(count)

    def _value(self) -> bytes:
        return self._chance.randbytes(8) * self._chance.choice([1, 1, 1, 20, 400])

    def _records(self, channel: str) -> dict[bytes, bytes]:
        return self._content.setdefault(channel, {})

    def _dhtdump(self) -> list[str]:
        command = [sys.executable, "-m", "dhtdump", "--oneshot", "--node", self._node.address]
        return [*command, "--dump-dir", str(self._dump_dir)]


def test_random_operations_and_crashes(tmp_path: Path) -> None:
    print(f"SWARM_MODEL_SEED={SEED}")  # noqa: T201 - pytest shows it when the test fails
    config = DhtConfig(journal=JournalSection(segment_bytes=SEGMENT_BYTES))
    with DhtProcess(tmp_path, config) as node, DhtClient(node.address, timeout=PATIENCE_S) as dht:
        run = Run(node, dht, tmp_path / "data", random.Random(SEED))
        try:
            end, steps = monotonic() + SECONDS, 0
            while monotonic() < end or steps < STEPS_MIN:
                run.step()
                steps += 1
            run.kill()
            assert run.done["put"] > 0
        finally:
            print(dict(run.done), "at last:", *run.last)  # noqa: T201


@settings(max_examples=SEQUENCES, deadline=None)
@given(
    st.lists(st.sampled_from([*4 * CHANGES, "dump", "dump_that_is_killed", "kill", "stop"]), min_size=10, max_size=40),
    st.integers(0, 2**32),
)
def test_any_sequence_of_operations_and_crashes(operations: list[str], seed: int) -> None:
    config = DhtConfig(journal=JournalSection(segment_bytes=SEGMENT_BYTES))
    with (
        TemporaryDirectory() as directory,
        DhtProcess(Path(directory), config) as node,
        DhtClient(node.address, timeout=PATIENCE_S) as dht,
    ):
        run = Run(node, dht, Path(directory) / "data", random.Random(seed))
        for name in [*operations, "kill"]:
            run.carry_out(getattr(run, name))
