"""How a task waits under trio; a module of its own, so that programs under asyncio need not load trio."""

import trio

from swarm.core.waiters import Waiter


class TrioWaiter(Waiter):
    __slots__ = ("_task",)

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        if not (self.done or self.batches):
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
