"""The processes of a benchmark: the two servers, the client programs, the load generator; each on one core.

Servers run on SERVER_CORE, whatever asks them on CLIENT_CORE, or, where a row says so, on the server's core too.
Whoever leaves the Processes block, by whatever way, leaves nothing running; and a process that is started here dies
with the benchmark even if the benchmark is killed.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from bench.client import CHANNEL, Task

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
SERVER_CORE = 0
CLIENT_CORE = 1
START_S = 30.0  # a server that has not come up by then never will
STOP_S = 30.0
LOOK_S = 0.02  # between two looks at whether a server that says nothing serves already
CLIENT_S = 300.0  # a client program that runs for longer hangs

REDIS_SETTINGS = ["--save", "", "--bind", "127.0.0.1", "--daemonize", "no"]
REDIS_IN_MEMORY = ["--appendonly", "no"]
REDIS_DURABLE = ["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]
NODE_IN_MEMORY = "[journal]\nenabled = no\n"

System = str
"""A server in its role: "ours", or the peer's name; "bare": ours without its journal, where ours has one."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl


class BenchError(Exception):
    """A process did not do what it should; the benchmark ends."""


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Server:
    system: System
    port: int
    process: subprocess.Popen[str]
    directory: Path
    """Of its files."""

    def private_bytes(self) -> int:
        return private_bytes(self.process)

    def resident_bytes(self) -> int:
        return rollup_bytes(self.process, "Rss")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Start:
    """How a server is started."""

    command: Callable[[Path, int], list[str]]
    """From an empty directory of its own, and a port, that is free unless the server finds one itself."""
    serves: str | None
    """A pattern for the line that says that it serves; with a group for the port where it finds one itself. None: it
    says nothing, and serves when it can be connected to."""
    says_on: Literal["stdout", "stderr"] = "stdout"
    finds_port: bool = False


def node(module: str, ini: str = "") -> Start:
    """A node: nodes.dht, nodes.queue, nodes.logfiles; with this configuration."""

    def command(directory: Path, port: int) -> list[str]:
        config = directory / "node.ini"
        config.write_text(ini, encoding="utf-8")
        options = ["--address", f"127.0.0.1:{port}", "--data", str(directory), "--config", str(config)]
        return [sys.executable, "-m", module, *options]

    return Start(command, r"serves on \S+:(\d+),", "stderr", finds_port=True)


def redis(settings: list[str]) -> Start:
    def command(directory: Path, port: int) -> list[str]:
        return ["redis-server", "--port", str(port), "--dir", str(directory), *REDIS_SETTINGS, *settings]

    return Start(command, r"[Rr]eady to accept connections")


def beanstalkd(*, durable: bool) -> Start:
    def command(directory: Path, port: int) -> list[str]:
        return ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), *(["-b", str(directory)] if durable else [])]

    return Start(command, None)


DHT_NODE = node("nodes.dht")
DHT_NODE_IN_MEMORY = node("nodes.dht", NODE_IN_MEMORY)


@dataclass(frozen=True)
class Finished:
    """A program that has run, and what it took; times are those of time.monotonic_ns."""

    begin_ns: int
    end_ns: int
    private_bytes_max: int


class Prober:
    """A client in a process of its own that takes times: of one get after another (bench.client.probe), of records that
    come (bench.queue_client.receive)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def finish(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Ends it. What it saw from begin to end (time.monotonic_ns): number, and in ms longest and percentiles."""
        return _answer(self._process, f"{begin_ns} {end_ns}\n")


class Processes:
    def __init__(self, directory: Path) -> None:
        """directory: for what the servers write; the caller removes it."""
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []
        self._servers = 0

    def __enter__(self) -> Self:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that the time of a child's child (loadgen has one) counts as ours too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in list(self._started):
            self._end(process)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    # Servers.

    @contextmanager
    def servers(self, starts: dict[System, Start]) -> Iterator[dict[System, Server]]:
        """Each with nothing in it."""
        servers: dict[System, Server] = {}
        directories = {system: self._new_directory(system) for system in starts}
        try:
            for system, start in starts.items():
                servers[system] = self._start_server(system, start, directories[system], START_S)
            yield servers
        finally:
            for server in servers.values():
                self._end(server.process)
            for directory in directories.values():
                shutil.rmtree(directory)

    @contextmanager
    def node_on(self, directory: Path, start: Start = DHT_NODE, start_s: float = START_S) -> Iterator[Server]:
        """A node with what is in the directory; it is up within start_s."""
        directory.mkdir(exist_ok=True)
        server = self._start_server("ours", start, directory, start_s)
        try:
            yield server
        finally:
            self._end(server.process)

    def _start_server(self, system: System, start: Start, directory: Path, start_s: float) -> Server:
        port = 0 if start.finds_port else _free_port()
        streams = {"stderr": subprocess.PIPE} if start.says_on == "stderr" else {}
        process = self._start(start.command(directory, port), core=SERVER_CORE, **streams)
        pipe = process.stderr if start.says_on == "stderr" else process.stdout
        assert pipe is not None
        if start.serves is None:
            _wait_for_port(process, port, start_s)
        else:
            match = _wait_for_line(process, pipe, start.serves, start_s)
            port = int(match[1]) if start.finds_port else port
        return Server(system, port, process, directory)

    def _new_directory(self, name: str) -> Path:
        self._servers += 1
        directory = self._directory / f"{name}-{self._servers}"
        directory.mkdir()
        return directory

    # Clients.

    def client(self, job: Task, core: int) -> dict[str, float]:
        """Runs a Python client program, see bench.client and those named after it, and returns its figures."""
        process = self._start_client(job, core)
        try:
            return _answer(process)
        finally:
            self._end(process)

    @contextmanager
    def prober(self, job: Task) -> Iterator[Prober]:
        process = self._start_client(job, CLIENT_CORE)
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                _answer(process)
                raise BenchError("the prober did not get ready")
            yield Prober(process)
        finally:
            self._end(process)

    def loadgen(self, program: Path, protocol: str, port: int | None, *options: str) -> dict[str, Any]:
        """Runs bench/loadgen.c, and returns the figures that its head describes."""
        command = [str(program), "--protocol", protocol, "--channel", CHANNEL, "--echo-cpu", str(SERVER_CORE), *options]
        figures: dict[str, Any] = json.loads(self.output(command + (["--port", str(port)] if port else [])))
        if figures["misses"]:
            raise BenchError(f"{figures['misses']} of {figures['requests']} gets found nothing: {command}")
        return figures

    def output(self, command: list[str]) -> str:
        """What a program that runs on the clients' core writes to standard output."""
        process = self._start(command, core=CLIENT_CORE, stderr=subprocess.PIPE)
        try:
            return _output(process)
        finally:
            self._end(process)

    def watched(self, command: list[str], sample_s: float) -> Finished:
        """Runs a program that writes little on the clients' core, and looks at its memory every sample_s."""
        begin_ns = time.monotonic_ns()
        process = self._start(command, core=CLIENT_CORE, stderr=subprocess.PIPE)
        largest = 0
        try:
            while process.poll() is None:
                if time.monotonic_ns() - begin_ns > CLIENT_S * 1e9:
                    raise BenchError(f"not finished after {CLIENT_S:g} s: {command}")
                with suppress(ProcessLookupError):  # it has just ended
                    largest = max(largest, private_bytes(process))
                time.sleep(sample_s)
            end_ns = time.monotonic_ns()
            _output(process)
        finally:
            self._end(process)
        return Finished(begin_ns, end_ns, largest)

    def _start_client(self, job: Task, core: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", job.module, job.to_json()]
        return self._start(command, core=core, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    # All of them.

    def _start(
        self, command: list[str], *, core: int, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.STDOUT
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],  # becomes the command: the pid is the same
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends the others
            preexec_fn=_die_with_parent,
        )
        self._started.append(process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process not in self._started:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._started.remove(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError, ValueError):
                    pipe.close()


def private_bytes(process: subprocess.Popen[str]) -> int:
    """Memory that is this process's own: Private_Clean and Private_Dirty."""
    return rollup_bytes(process, "Private_(?:Clean|Dirty)")


def rollup_bytes(process: subprocess.Popen[str], names: str) -> int:
    """The sum of these lines of the process's smaps_rollup; names is a pattern."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * sum(int(kib) for kib in re.findall(rf"^{names}:\s+(\d+) kB", text, re.MULTILINE))


def exit_on_sigterm() -> None:
    """So that whoever has started processes ends them."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def build_loadgen() -> Path:
    """Compiles the load generator if it is older than its source."""
    source, program = ROOT / "bench" / "loadgen.c", BUILD / "loadgen"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)
    return program


def check_cores() -> None:
    if not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        raise BenchError(f"cores {SERVER_CORE} and {CLIENT_CORE} are needed: one for servers, one for clients")


def _output(process: subprocess.Popen[str], text: str | None = None) -> str:
    try:
        out, err = process.communicate(text, timeout=CLIENT_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"not finished after {CLIENT_S:g} s: {process.args!r}") from None
    if process.returncode != 0:
        raise BenchError(f"status {process.returncode}: {process.args!r}\n{err}")
    return out


def _answer(process: subprocess.Popen[str], text: str | None = None) -> dict[str, float]:
    answer: dict[str, float] = json.loads(_output(process, text))
    return answer


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_for_line(
    process: subprocess.Popen[str], pipe: IO[str], pattern: str, start_s: float = START_S
) -> re.Match[str]:
    """Reads until a line matches; whatever the server writes later is read and thrown away."""
    give_up = threading.Timer(start_s, process.kill)
    give_up.start()
    lines = []
    try:
        for line in pipe:
            lines.append(line)
            if match := re.search(pattern, line):
                threading.Thread(target=_drain, args=[pipe], daemon=True).start()
                return match
    finally:
        give_up.cancel()
    raise BenchError(f"did not start: {process.args!r}\n{''.join(lines)}")


def _wait_for_port(process: subprocess.Popen[str], port: int, start_s: float) -> None:
    """Until the server can be connected to."""
    give_up = time.monotonic() + start_s
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(LOOK_S)
    raise BenchError(f"did not start: {process.args!r}")


def _drain(pipe: IO[str]) -> None:
    with suppress(OSError, ValueError):
        for _ in pipe:
            pass
