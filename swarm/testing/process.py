"""A node in a process of its own."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from nodes.dht.config import DhtConfig
from nodes.logfiles.config import UNLIMITED, LogfilesConfig
from nodes.queue.config import QueueConfig
from swarm.core.config import Address, parse_address
from swarm.core.node import LogsSection

EXIT_S = 30.0
_SERVES = re.compile(r"serves on (\S+),")


class NodeProcess:
    """A node of some kind; use DhtProcess, QueueProcess or LogfilesProcess."""

    def __init__(self, module: str, directory: Path, config: Any) -> None:
        self.address = "127.0.0.1:0"
        """Known once it was started."""
        self.output: list[str] = []
        """What it has written to its console."""
        self._module = module
        self._directory = directory
        self._config = config
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.resume()
            self.stop()

    def start(self, *options: str) -> None:
        """Starts it, with these options of its command besides its own, and returns when it serves. RuntimeError,
        with its output, if it does not come up."""
        assert self._process is None, "it is running already"
        ini = self._write_configuration()
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, "--config", str(ini), *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.output.append(line)
            if match := _SERVES.search(line):
                self.address = match[1]
                self._reader = threading.Thread(target=self.output.extend, args=[self._process.stderr])
                self._reader.start()
                return
        self._ended()
        raise RuntimeError(f"the node did not start: {''.join(self.output)}")

    def stop(self) -> int:
        """Stops it in order, as SIGTERM does; its exit status, 0 when all is well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """Ends it at once, as kill -9 does."""
        assert self._process is not None
        self._process.kill()
        self._ended()

    def pause(self) -> None:
        """Halts it: its connections stay open, and nothing is read nor answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """SIGHUP: it opens its logs anew, and reads its credentials; what it tells of that is in its output."""
        self._signal(signal.SIGHUP)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _ended(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        assert process.stderr is not None
        try:
            status = process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if self._reader is not None:
            self._reader.join()
            self._reader = None
        process.stderr.close()
        return status

    def _write_configuration(self) -> Path:
        data = self._directory / "data"
        address: Address = parse_address(self.address)
        config = replace(self._config, node=replace(self._config.node, address=address, data=data), logs=LogsSection())
        self._directory.mkdir(exist_ok=True)
        path = self._directory / "node.ini"
        with path.open("w", encoding="utf-8") as file:
            for section in fields(config):
                value = getattr(config, section.name)
                if isinstance(value, Mapping):
                    for name, each in value.items():
                        _write_section(file, f"{section.name} {name}", each)
                else:
                    _write_section(file, section.name, value)
        return path


class DhtProcess(NodeProcess):
    """A dht node as `python -m nodes.dht` runs it, for tests that kill, pause and restart it.

        with DhtProcess(tmp_path) as node:
            DhtClient([node.address])

    Restarted it has the same address, and holds all that it has acknowledged (unless config turns the journal off).
    """

    def __init__(self, directory: Path, config: DhtConfig | None = None) -> None:
        """directory: for its configuration, data and logs, made where needed.
        config: all that is to be other than the defaults; address, data directory and logs in it are not used.
        """
        super().__init__("nodes.dht", directory, config or DhtConfig())


class QueueProcess(NodeProcess):
    """A queue node as `python -m nodes.queue` runs it, for tests that kill, pause and restart it.

        with QueueProcess(tmp_path) as node:
            QueueClient([node.address])

    Restarted it has the same address, and holds all that it has acknowledged.
    """

    def __init__(self, directory: Path, config: QueueConfig | None = None) -> None:
        """As for a DhtProcess."""
        super().__init__("nodes.queue", directory, config or QueueConfig())


class LogfilesProcess(NodeProcess):
    """A logfiles node as `python -m nodes.logfiles` runs it, for tests that kill, pause and restart it.

        with LogfilesProcess(tmp_path) as node:
            LogfilesClient([node.address])

    Restarted it has the same address, and holds all that it has acknowledged.
    """

    def __init__(self, directory: Path, config: LogfilesConfig | None = None) -> None:
        """As for a DhtProcess."""
        super().__init__("nodes.logfiles", directory, config or LogfilesConfig())


def _write_section(file: IO[str], name: str, section: object) -> None:
    file.write(f"[{name}]\n")
    for field in fields(section):  # type: ignore[arg-type]
        if (value := getattr(section, field.name)) is not None:
            file.write(f"{field.name} = {UNLIMITED if value == inf else value}\n")
