"""fsync = always: an answer to what changes a queue leaves when that is on disk, and not before."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from core.raw_client import at_work, frame, until
from queue_node.raw_queue import (
    ACKNOWLEDGE,
    BATCH,
    CHANNEL_SIZE,
    CONSUME,
    DONE,
    POP,
    POP_MANY,
    PUSH,
    PUSH_MANY,
    REMOVE_CHANNEL,
    STOP,
    WAIT_POP,
    QueueConnection,
    open_node,
    pack,
)

from nodes.queue.queue_files import Files
from swarm.core.limits import OUTPUT_BYTES_MAX
from swarm.core.node import Node, NodeError

TEST_S = 20.0


class SlowFiles(Files):
    """Whose syncs wait until they may, or fail."""

    def __init__(self) -> None:
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncs = 0
        self.fail = False

    def sync(self, fd: int) -> None:
        assert self.may_sync.wait(TEST_S)
        if self.fail:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        super().sync(fd)

    @contextmanager
    def stuck(self) -> Iterator[None]:
        self.may_sync.clear()
        try:
            yield
        finally:
            self.may_sync.set()


class Waiting:
    """A connection, and what has come on it."""

    def __init__(self, node: Node) -> None:
        self.connection = QueueConnection(node)
        self.connection.on_flush = self._note
        self.answers: list[list[object]] = []
        self._changed = trio.Event()

    def _note(self) -> None:
        self.answers += self.connection.take()
        self._changed.set()

    def ask(self, *messages: object) -> None:
        self.connection.give(frame(*messages))
        self._note()

    async def until(self, count: int) -> list[list[object]]:
        with trio.fail_after(TEST_S):
            while len(self.answers) < count:
                self._changed = trio.Event()
                await self._changed.wait()
        answers, self.answers = self.answers, []
        return answers


def reasons(error: BaseException) -> set[type[BaseException]]:
    if isinstance(error, BaseExceptionGroup):
        return set().union(*(reasons(each) for each in error.exceptions))
    return {type(error)}


async def test_answers_to_what_changes_something_are_held_until_it_is_synced(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="always", files=files) as node:
        async with at_work(node):
            client, reader = Waiting(node), Waiting(node)
            client.ask([1, PUSH, "c", b"1"])
            assert await client.until(1) == [[1, DONE, None]]
            with files.stuck():
                client.ask([1, PUSH, "c", b"2"], [2, PUSH_MANY, ["c"], *pack(b"3", b"4")], [3, POP, "c"])
                client.ask([4, POP_MANY, "c", 1], [5, WAIT_POP, "c", 1, 1000])
                for number in range(3):
                    reader.ask([number + 1, CHANNEL_SIZE, "c"])
                    assert await reader.until(1) == [[number + 1, DONE, [1, 1]]]
                    await trio.testing.wait_all_tasks_blocked()
                assert client.answers == []
            assert await client.until(5) == [
                [1, DONE, None],
                [2, DONE, None],
                [3, DONE, b"1"],
                [4, DONE, list(pack(b"2"))],
                [5, DONE, list(pack(b"3"))],
            ]


async def test_batches_are_held_and_come_before_the_end_of_their_stream(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="always", files=files) as node:
        async with at_work(node):
            client, consumer = Waiting(node), Waiting(node)
            consumer.ask([1, CONSUME, "c", "s", 10, 10])
            with files.stuck():
                client.ask([1, PUSH, "c", b"1"])
                consumer.ask([2, ACKNOWLEDGE, 1, [0, 1]], [1, STOP])
                await trio.testing.wait_all_tasks_blocked()
                assert client.answers == consumer.answers == []
            assert await client.until(1) == [[1, DONE, None]]
            assert await consumer.until(3) == [
                [1, BATCH, [0, False, *pack(b"1")]],
                [2, DONE, 1],
                [1, DONE, "stopped"],
            ]


async def test_what_is_held_is_bounded(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="always", files=files, ring_bytes=1 << 24) as node:
        async with at_work(node):
            client, consumer = Waiting(node), Waiting(node)
            for number in range(1, 101):
                client.ask([number, PUSH, "c", bytes(100_000)])
            await client.until(100)
            with files.stuck():
                consumer.ask([1, CONSUME, "c", "s", 1, 64])
                await trio.testing.wait_all_tasks_blocked()
                given = node.channels.get("c").queues["s"].storage.unacknowledged
                assert OUTPUT_BYTES_MAX < given * 100_000 < OUTPUT_BYTES_MAX + 200_000
            await consumer.until(64)  # it goes on when they have left


async def test_a_channel_that_is_removed_while_it_is_synced(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="always", files=files) as node:
        async with at_work(node):
            client = Waiting(node)
            client.ask([1, PUSH, "c", b"1"], [2, PUSH, "d", b"1"])
            await client.until(2)
            with files.stuck():
                client.ask([1, PUSH, "c", b"2"])
                await trio.testing.wait_all_tasks_blocked()
                client.ask([2, REMOVE_CHANNEL, "c"])
                await trio.testing.wait_all_tasks_blocked()
            assert await client.until(2) == [[1, DONE, None], [2, DONE, True]]
            client.ask([1, PUSH, "c", b"3"], [2, POP, "c"])
            assert await client.until(2) == [[1, DONE, None], [2, DONE, b"3"]]


async def test_a_sync_that_fails_stops_the_node_and_acknowledges_nothing(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="always", files=files) as node:
        with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012
            async with at_work(node):
                client = Waiting(node)
                client.ask([1, PUSH, "c", b"1"])
                await client.until(1)
                files.fail = True
                client.ask([1, PUSH, "c", b"2"])
                await trio.sleep(TEST_S)
        assert reasons(raised.value) == {NodeError}
        assert client.answers == []


async def test_interval_syncs_what_was_changed_and_holds_nothing(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="interval", fsync_interval=0.01, files=files) as node:
        client = QueueConnection(node)
        for channel in ("a", "b", "c"):
            client.push(channel, b"1")
        before = files.syncs
        async with at_work(node):
            await until(lambda: files.syncs == before + 3)
            with files.stuck():
                client.push("a", b"2")
                client.push("b", b"2")
            await until(lambda: files.syncs == before + 5)
            client.push("c", b"2")
        assert files.syncs == before + 6  # at the end at the latest


async def test_never_syncs_nothing(tmp_path: Path) -> None:
    files = SlowFiles()
    with open_node(tmp_path, fsync="never", files=files) as node:
        async with at_work(node):
            client, consumer = QueueConnection(node), QueueConnection(node)
            client.push("c", b"1")
            consumer.consume(1, "c", "s")
            client.result(REMOVE_CHANNEL, "c")
    assert files.syncs == 0
