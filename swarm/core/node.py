"""A node as a process: its sockets, its directory, its signals, its statistics, and the order in which it stops.

    background   stats.log, signals, what the kind of node adds   ends last
      streams    one task for each request that streams
        listener  all sockets                           ends first

To stop: accept no more, let the answers that are on their way leave (DRAIN_S at most), tell the clients, close, end
the streams, commit, write a last line of statistics.
"""

import ctypes
import errno
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import trio

from swarm.core import limits, protocol
from swarm.core.config import Address, parse_duration, parse_size
from swarm.core.health import Health, certificate_expires, loop_lags, memory_nearly_full
from swarm.core.logs import Logs, figures
from swarm.core.protocol import Limits
from swarm.core.request_handler import Service
from swarm.core.select_listener import SelectListener
from swarm.core.stats import flatten
from swarm.core.storage_channels import MemoryBudget, StorageChannels, StorageEngine
from swarm.core.tls import NodeTls

log = logging.getLogger(__name__)

DRAIN_S = 2.0
SOCKET_MODE = 0o660  # of a Unix socket: its owner and group connect, whatever the umask of the process
BACKLOG = 1024  # connections that wait to be accepted
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHANNELS_PER_STEP = 128  # of a line of stats.log, some 1 ms


class NodeError(Exception):
    """The node cannot start, or cannot go on, for a reason that its operator can mend."""

    exit_status = 1


class WrongData(NodeError):
    """The node cannot start with what its data directory holds. Another start would not either, before its operator has
    decided what to do."""

    exit_status = 65  # EX_DATAERR, from sysexits.h


def count_up_to(most: int) -> Callable[[str], int]:
    """For a key of a configuration: takes a number from 1 to this."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise ValueError(f"a number from 1 to {most} is expected")
        return int(text)

    return parse


def _parse_value_bytes(text: str) -> int:
    size = parse_size(text)
    if not 1 <= size <= limits.VALUE_BYTES_MAX:
        raise ValueError(f"a size from 1 to {limits.VALUE_BYTES_MAX} bytes is expected")
    return size


def _parse_stats_period(text: str) -> float:
    period = parse_duration(text)
    if period < 0.1:
        raise ValueError("a duration of at least 100 ms is expected")
    return period


@dataclass(frozen=True)
class LimitsSection:
    """[limits] of every node's configuration."""

    connections_max: Annotated[int, count_up_to(1_000_000)] = limits.CONNECTIONS_MAX
    channels_max: Annotated[int, count_up_to(1_000_000)] = limits.CHANNELS_MAX
    value_bytes: Annotated[int, _parse_value_bytes] = limits.VALUE_BYTES_MAX
    streams_per_connection: Annotated[int, count_up_to(limits.STREAMS_MAX)] = limits.STREAMS_MAX

    def to_limits(self) -> Limits:
        return Limits(value_bytes=self.value_bytes, streams=self.streams_per_connection)


@dataclass(frozen=True)
class LogsSection:
    """[logs] of every node's configuration."""

    directory: str = ""
    """Empty: the data directory."""
    stats_period: Annotated[float, _parse_stats_period] = 30.0
    console: bool = True


def default_memory_limit() -> int:
    """Three quarters of the machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


class Node:
    """One running node of any kind."""

    def __init__(
        self,
        service: Service,
        channels: StorageChannels[Any],
        budget: MemoryBudget,
        *,
        connections_max: int = limits.CONNECTIONS_MAX,
        logs: Logs | None = None,
        stats_period_s: float = 30.0,
    ) -> None:
        self.service = service
        self.channels = channels
        self.budget = budget
        self._connections_max = connections_max
        self._logs = logs
        self._stats_period_s = stats_period_s
        self._started = time.monotonic()
        self.stop_requested = trio.Event()
        self.lag_s = 0.0
        self.tls: NodeTls | None = None
        """Of its listening sockets, if set before it runs."""
        service.unfinished_bytes_max = max(int(budget.limit * limits.UNFINISHED_SHARE), service.unfinished_bytes_max)
        service.handle(protocol.PING, lambda: None)
        service.handle(protocol.STATS, lambda _: self.statistics(), "batch")
        rules = {
            "memory_nearly_full": memory_nearly_full(lambda: budget.used, budget.limit),
            "loop_lags": loop_lags(lambda: self.lag_s),
        }
        service.health_rules = rules | service.health_rules
        self.health = Health(service.health_rules)
        service.handle(protocol.HEALTH, lambda _: self.health.findings(), "batch")
        service.handle(protocol.EVENTS, lambda _: logs.events if logs else [], "batch")
        channels.add_handlers(service)

    async def run(
        self,
        listeners: list[socket.socket],
        *,
        task_status: trio.TaskStatus[SelectListener] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves on sockets that listen (see `listen`) until stop() is called."""
        if tls := self.tls:
            tls.warn()
            ends = certificate_expires(tls.certificate, lambda: tls.validity.ends)
            self.service.health_rules["certificate_expires"] = ends
        self.listener = listener = SelectListener(self.service, listeners, self._connections_max, self.tls)
        async with trio.open_nursery() as background:
            background.start_soon(self._write_stats)
            for function in self.service.background:
                background.start_soon(function)
            async with trio.open_nursery() as streams:
                self.service.nursery = streams
                async with trio.open_nursery() as serving:
                    serving.start_soon(listener.run)
                    task_status.started(listener)
                    await self.stop_requested.wait()
                    listener.stop_accepting()
                    with trio.move_on_after(DRAIN_S):
                        await listener.drained()
                    serving.cancel_scope.cancel()
                streams.cancel_scope.cancel()
            self.service.commit()
            background.cancel_scope.cancel()
        self._write_stats_line(self._stats_line())

    def stop(self) -> None:
        """Begins the ordered stop; run() returns when it is done."""
        self.stop_requested.set()

    async def handle_signals(
        self, reload: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """SIGTERM and SIGINT stop the node, SIGHUP reopens its logs and calls reload."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see stopped_by_signals
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if number == signal.SIGHUP:
                    if self._logs:
                        self._logs.reopen()
                    log.info("%s: logs reopened", name)
                    reload()
                else:
                    log.info("%s: stopping", name)
                    self.stop()

    def statistics(self) -> dict[str, Any]:
        """All that the node counts, since it was started; times in seconds, sizes in bytes."""
        return self.counts() | {"channel": _channel_counts(self.channels.items())}

    def counts(self) -> dict[str, Any]:
        """All but what is counted for each channel."""
        channels, records, record_bytes = self.channels.size()
        return {
            "uptime_s": round(time.monotonic() - self._started, 1),
            "connections": self.listener.connections,
            "accepted": self.listener.accepted,
            "refused": self.listener.refused,
            "protocol_errors": self.service.protocol_errors,
            "tls_failures": self.listener.tls_failures,
            "bytes_in": self.service.bytes_in,
            "bytes_out": self.service.bytes_out,
            "unfinished_bytes": self.service.unfinished_bytes,
            "lag_s": round(self.lag_s, 4),
            "rss_bytes": resident_bytes(),
            "memory_used": self.budget.used,
            "memory_reserved": self.budget.reserved,
            "memory_limit": self.budget.limit,
            "channels": channels,
            "records": records,
            "bytes": record_bytes,
            **{name: value for more in self.service.more_statistics for name, value in more().items()},
            "request": {
                handler.request.name: handler.statistics.snapshot()
                for handler in self.service.handlers.values()
                if handler.statistics.handled or handler.statistics.in_flight or handler.statistics.failed
            },
        }

    def channel_counts(self) -> Iterator[dict[str, dict[str, Any]]]:
        """What is counted for each channel, in steps of CHANNELS_PER_STEP."""
        channels = self.channels.items()
        while some := list(islice(channels, CHANNELS_PER_STEP)):
            yield _channel_counts(some)

    @property
    def stopping(self) -> bool:
        return self.stop_requested.is_set()

    async def _write_stats(self) -> None:
        while True:
            due = trio.current_time() + self._stats_period_s
            await trio.sleep_until(due)
            self.lag_s = trio.current_time() - due
            self.health.look()
            parts = []
            for part in self._stats_line():
                parts.append(part)
                await trio.lowlevel.checkpoint()
            self._write_stats_line(parts)

    def _stats_line(self) -> Iterator[str]:
        """What statistics() holds, as it stands in stats.log: made in steps, since a node may have many channels."""
        yield figures(flatten(self.counts()))
        for some in self.channel_counts():
            yield figures(flatten({"channel": some}))

    def _write_stats_line(self, parts: Iterable[str]) -> None:
        if self._logs:
            self._logs.stats(parts)


def _channel_counts(channels: Iterable[tuple[str, StorageEngine]]) -> dict[str, dict[str, Any]]:
    return {name: engine.figures() for name, engine in channels}


class StoppedEarly(BaseException):
    """A signal, which the text names, has ended the node before it serves. No Exception: on its way up nobody takes it
    for an error of their own."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """For the time in which a node loads what it holds: SIGTERM and SIGINT raise StoppedEarly in the block.

    From its end on they wait for Node.handle_signals, as SIGHUP does from its begin on.
    """

    def stop(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, lambda *_: None)  # once is enough
        raise StoppedEarly(signal.Signals(number).name)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        for each in before:
            signal.signal(each, stop)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, before.keys())
        for each, handler in before.items():
            signal.signal(each, handler)


def listen(address: Address) -> socket.socket:
    """A socket that listens on the address; NodeError if that is not possible."""
    with ExitStack() as stack:
        try:
            if address.is_unix:
                _remove_stale_socket(Path(address.path))
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.bind(address.path)
                Path(address.path).chmod(SOCKET_MODE)  # before it listens nobody can connect
            else:
                family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
                sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(place)
            sock.listen(BACKLOG)
        except OSError as error:
            raise NodeError(f"cannot listen on {address}: {error.strerror or error}") from error
        stack.pop_all()
        return sock


def _remove_stale_socket(path: Path) -> None:
    """A socket file that nobody listens on any more is in the way of the next bind."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            with closing(socket.socket(socket.AF_UNIX)) as probe:
                probe.setblocking(False)  # else it waits where those that wait to be accepted are as many as may be
                if probe.connect_ex(str(path)) not in (0, errno.EAGAIN):
                    path.unlink()


def lock_directory(path: Path, what: str = "data directory", *, owner: str | None = None) -> IO[str]:
    """Makes the directory and keeps it to this process until the file is closed; NodeError if another has it.

    owner: the kind of program whose directory it becomes, or is: WrongData if it is another's. None: of any.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / "lock").open("a+")
    except OSError as error:
        raise NodeError(f"cannot use the {what} {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        pid = file.readline().strip() or "unknown"
        file.close()
        raise NodeError(f"the {what} {path} is in use by another process (pid {pid})") from error
    file.seek(0)
    before = file.read().split()[1:]
    if owner and before and before != [owner]:
        file.close()
        raise WrongData(f"the {what} {path} is that of a {before[0]}, and this is a {owner}: give each its own")
    file.truncate(0)
    file.write("".join(f"{line}\n" for line in (os.getpid(), *([owner] if owner else before))))
    file.flush()
    return file


def raise_open_files() -> None:
    """As many as the system allows: connections are open files, and so are queues; 1024 is a usual soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def prepare_process() -> None:
    """What a process does that is a node and nothing else, when it has loaded what it holds."""
    gc.set_threshold(50_000, 20, 50)  # a frame may decode into many objects, and hardly any object is part of a cycle
    gc.freeze()  # what is here now is here for good: no collection needs to look at it
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """What frames and blocks are decoded into is freed at once, and taken again for the next. By itself glibc gives the
    end of a heap back to the system when 128 KiB of it are free, and then each page costs a fault anew: a sixth of the
    time of looking through records. Each thread that allocates has a heap. mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and need none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, limits.MMAP_BYTES_MIN)
        mallopt(M_TRIM_THRESHOLD, limits.FREED_BYTES_KEPT)


def resident_bytes() -> int:
    """Memory of this process that is in RAM, in bytes; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
