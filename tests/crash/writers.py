"""Clients that write with all their might, and know what must be there afterwards.

Each has a channel of its own, so it knows the content: `known` is what was acknowledged, `doubtful` what the one
request would have changed that was on its way when the connection broke. Nothing else may ever be found.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.blocking import DhtClient
from swarm.core.errors import SwarmError

KEYS = 3000
BATCH_MAX = 1000  # one request, so all of it or nothing is stored
VALUE_BYTES_MAX = 2000
LARGE_VALUE_BYTES = 300_000

Content = dict[bytes, bytes]


@dataclass(frozen=True)
class Doubt:
    """A request of which nobody knows whether it was carried out. after: what the channel holds if it was."""

    what: str
    after: Content


@dataclass
class Writer:
    """One client, and the thread that it writes in until it is stopped or its node dies."""

    number: int
    seed: int
    known: Content = field(default_factory=dict)
    doubt: Doubt | None = None
    written: int = 0
    """Requests so far, over all lives of the node; every value holds it, so no two are the same."""
    bug: BaseException | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed} {self.number}")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def channel(self) -> str:
        return f"writer-{self.number}"

    def start(self, address: str, timeout_s: float, acknowledged: Callable[[], None]) -> None:
        """timeout_s: how long it tries to reach a node that has died; then it ends."""
        assert self.doubt is None
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=[address, timeout_s, acknowledged])
        self._thread.start()

    def stop(self) -> None:
        """It is to begin no more requests."""
        self._stop.set()

    def ended(self) -> None:
        """Returns when it has ended: it could not reach its node, or was stopped."""
        assert self._thread is not None
        self._thread.join()
        if self.bug is not None:
            raise self.bug

    def check(self, dht: DhtClient) -> None:
        """What is found is what was acknowledged, with all or nothing of the request that is in doubt."""
        found = dict(dht.get_all(self.channel))
        wrong = differences(self.known, found)
        if wrong and self.doubt is not None:
            wrong_otherwise = differences(self.doubt.after, found)
            wrong = wrong_otherwise and f"{wrong}; or, if the {self.doubt.what} was carried out, {wrong_otherwise}"
        assert not wrong, f"{self.channel} after {self.written} requests: {wrong}"
        self.known, self.doubt = found, None

    def _run(self, address: str, timeout_s: float, acknowledged: Callable[[], None]) -> None:
        try:
            with DhtClient(address, timeout=timeout_s) as dht:
                while not self._stop.is_set():
                    if not self._write(dht):
                        return
                    acknowledged()
        except BaseException as error:
            self.bug = error
            raise

    def _write(self, dht: DhtClient) -> bool:
        """One request; whether it was acknowledged."""
        self.written += 1
        what, after, request = self._choose(dht)
        try:
            request()
        except SwarmError:
            self.doubt = Doubt(what, after)
            return False
        self.known = after
        return True

    def _choose(self, dht: DhtClient) -> tuple[str, Content, Callable[[], object]]:
        """What is to be done, what the channel holds afterwards, and the request."""
        chosen = self._random.random()
        key = self._key()
        value = self._value(LARGE_VALUE_BYTES if chosen > 0.995 else self._random.randint(20, VALUE_BYTES_MAX))
        without = {each: self.known[each] for each in self.known if each != key}
        if chosen < 0.35:
            count = self._random.randint(1, BATCH_MAX)
            batch = {self._key(): self._value(50) + b" %d" % number for number in range(count)}
            return "put many", self.known | batch, lambda: dht.put_many(self.channel, batch)
        if chosen < 0.5:
            return "remove", without, lambda: dht.remove(self.channel, key)
        if chosen < 0.6:
            return "update", self.known | {key: value}, lambda: dht.update(self.channel, key, lambda _: value)
        if chosen < 0.62:
            return "update to nothing", without, lambda: dht.update(self.channel, key, lambda _: None)
        if chosen < 0.63:
            return "remove channel", {}, lambda: dht.remove_channel(self.channel)
        return "put", self.known | {key: value}, lambda: dht.put(self.channel, key, value)

    def _key(self) -> bytes:
        return b"key %d" % self._random.randrange(KEYS)

    def _value(self, size: int) -> bytes:
        return b"%s %d " % (self.channel.encode(), self.written) + self._random.randbytes(size)


def differences(expected: Content, found: Content) -> str:
    """Empty where there are none."""
    if expected == found:
        return ""
    lost = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    other = [key for key in expected if key in found and expected[key] != found[key]]
    parts = {"are missing": lost, "should not be there": extra, "have another value": other}
    return ", ".join(f"{len(keys)} records {what} ({keys[0]!r} …)" for what, keys in parts.items() if keys)
