"""When what was committed is safe from the machine losing its power, too: the fsync setting.

What is committed survives the end of the process, however it ends. Syncing is done off the loop, by one task and one
thread: with `interval` every fsync_interval, with `always` as soon as something was committed. Then the answers to
writes are held (Service.holds_writes) until a sync is done that began after they were committed; passes that come
meanwhile share the next one.
"""

from time import monotonic
from typing import Any, Literal

import trio

from nodes.queue.record_queue import RecordQueue
from swarm.core.node import NodeError
from swarm.core.request_handler import Service

Fsync = Literal["never", "interval", "always"]


class Syncing:
    def __init__(self, service: Service, fsync: Fsync, interval_s: float) -> None:
        self._service = service
        self._fsync = fsync
        self._every_s = interval_s if fsync == "interval" else float("inf")
        self.unsynced: dict[RecordQueue, None] = {}
        """What was committed and is not synced; always the same map."""
        self._wanted = trio.Event()
        self._removed: set[RecordQueue] = set()  # since the last sync began
        self._failed = False
        self.syncs = 0
        self.longest_s = 0.0

    def committed(self) -> None:
        """A pass has been committed; what it has changed is in unsynced."""
        if self._service.held:
            self._wanted.set()

    def forget(self, storage: RecordQueue) -> None:
        """It was removed. A thread may be syncing it: whether it can is no matter any more."""
        self.unsynced.pop(storage, None)
        if self._fsync != "never":
            self._removed.add(storage)

    def statistics(self) -> dict[str, Any]:
        return {"syncs": self.syncs, "longest_sync_s": round(self.longest_s, 6)}

    async def run(self) -> None:
        """As long as the node runs; at its end all is synced. Raises NodeError."""
        try:
            while True:
                with trio.move_on_after(self._every_s):
                    await self._wanted.wait()
                self._wanted = trio.Event()
                held = self._service.take_held()
                await self._sync()
                self._service.release_held(held)
        finally:
            if not self._failed:
                self._sync_each(self._take())

    async def _sync(self) -> None:
        if storages := self._take():
            await trio.to_thread.run_sync(self._sync_each, storages)
        self._removed.clear()

    def _take(self) -> list[RecordQueue]:
        """All that has been committed before."""
        storages = list(self.unsynced) if self._fsync != "never" else []
        self.unsynced.clear()
        return storages

    def _sync_each(self, storages: list[RecordQueue]) -> None:
        begun = monotonic()
        for storage in storages:
            try:
                storage.sync()
            except OSError as error:
                if storage in self._removed:
                    continue
                self._failed = True
                raise NodeError(f"a queue cannot be synced: {error}") from error
            self.syncs += 1
        if storages:
            self.longest_s = max(self.longest_s, monotonic() - begun)
