"""A dht node with a journal, without a process: what is acknowledged, what a restart finds, files that fail."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.raw_client import DirectConnection

from nodes.dht.config import DhtConfig, DumpSection, JournalSection, NodeSection
from nodes.dht.journal import Journal
from nodes.dht.journal_files import Files
from nodes.dht.node import make_node
from nodes.dht.snapshot import OutOfRange
from nodes.dht.storage import DhtChannel
from swarm.core.node import Node
from swarm.core.protocol import DONE
from swarm.dht.hash_range import HashRange

Content = dict[str, dict[bytes, bytes]]


class WatchedFiles(Files):
    """Knows which are open, so that a node that is left alone as if it had died leaves none behind."""

    def __init__(self) -> None:
        self.open: set[int] = set()

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self.open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self.open.discard(fd)
        super().close(fd)

    def forget(self) -> None:
        for fd in self.open:
            with suppress(OSError):
                os.close(fd)
        self.open.clear()


class FailingFiles(WatchedFiles):
    """The operation with this number, from 1, fails; those after it do not."""

    def __init__(self, fails: int, error: int, *, tears: bool = False, only: str = "") -> None:
        """tears: a write that fails has written half. only: operations of another name do not count."""
        super().__init__()
        self._left = fails
        self._only = only
        self._error = error
        self._tears = tears
        self._lock = threading.Lock()
        self.failed = ""
        """Which one it was."""

    def _count(self, name: str) -> None:
        with self._lock:
            self._left -= self._only in ("", name)
            if self._left == 0 and not self.failed:
                self.failed = name
                raise OSError(self._error, os.strerror(self._error))

    def create(self, path: Path) -> int:
        self._count("create")
        return super().create(path)

    def write(self, fd: int, data: bytes) -> int:
        try:
            self._count("write")
        except OSError:
            if self._tears:
                super().write(fd, data[: len(data) // 2])
            raise
        return super().write(fd, data)

    def allocate(self, fd: int, start: int, size: int) -> None:
        self._count("allocate")
        super().allocate(fd, start, size)

    def cut(self, fd: int, size: int) -> None:
        self._count("cut")
        super().cut(fd, size)

    def sync(self, fd: int) -> None:
        self._count("sync")
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        super().sync_directory(path)

    def close(self, fd: int) -> None:
        self._count("close")
        super().close(fd)

    def remove(self, path: Path) -> None:
        self._count("remove")
        super().remove(path)


def configuration(
    data: Path,
    *,
    memory_limit: int = 1 << 30,
    hash_range: HashRange | None = None,
    out_of_range: OutOfRange = "fatal",
    **journal: Any,
) -> DhtConfig:
    node = NodeSection(data=data, memory_limit=memory_limit, hash_range=hash_range or HashRange())
    return DhtConfig(node=node, journal=JournalSection(**journal), dump=DumpSection(out_of_range=out_of_range))


class JournaledNode:
    """A node in this process that a test talks to directly; as if killed with kill -9 when the block is left."""

    def __init__(
        self, data: Path, *, files: WatchedFiles | None = None, accept_damage: bool = False, **options: Any
    ) -> None:
        self.files = files or WatchedFiles()
        self.node = make_node(configuration(data, **options), accept_damage=accept_damage, files=self.files)
        self.connection = DirectConnection(self.node.service)

    def __enter__(self) -> "JournaledNode":
        return self

    def __exit__(self, *_: object) -> None:
        self.files.forget()

    @property
    def journal(self) -> Journal:
        journal = self.node.service.commit.__self__
        assert isinstance(journal, Journal)
        return journal

    def ask(self, code: int, *arguments: object) -> tuple[int, Any]:
        """Status and result of a request; it is committed, as a pass does before an answer leaves."""
        ((_, status, result),) = self.connection.ask([1, code, *arguments])
        self.node.service.commit()
        return status, result

    def acknowledged(self, code: int, *arguments: object) -> Any:
        status, result = self.ask(code, *arguments)
        assert status == DONE, result
        return result

    def content(self) -> Content:
        return content(self.node)


def content(node: Node) -> Content:
    """Every record of a node, by channel."""
    found: Content = {}
    for name, engine in node.channels.items():
        assert isinstance(engine, DhtChannel)
        found[name] = {}
        for _, keys, values in engine.walk(b"", b"", b""):
            found[name].update(zip(keys, values, strict=True))
    return found


def content_after_restart(data: Path, **options: Any) -> Content:
    with JournaledNode(data, **options) as node:
        return node.content()


def segments(data: Path) -> list[Path]:
    return sorted((data / "journal").glob("*.journal"))
