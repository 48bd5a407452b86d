"""What a service manager (systemd) and a process of ours tell one another; under a plain shell, nothing.

    to us      NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS in the environment: read once and unset, so that no child
               process takes them for its own
    from us    datagrams of lines NAME=VALUE to NOTIFY_SOCKET; nothing comes back

No message is waited for: a service manager that does not read them must not halt a node. READY=1 is repeated with
every status, so that one that was lost is made up for.

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). Why no library does it: docs/decisions/0013-units.md.
"""

import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager

import trio

from swarm.core.config import UNIX_PATH_BYTES_MAX, ConfigError

log = logging.getLogger(__name__)

FIRST_INHERITED_FD = 3  # SD_LISTEN_FDS_START
INHERITED_MAX = 64  # listening sockets; a unit has one or two, and more digits are no number that anybody meant
STATUS_LENGTH_MAX = 1000  # characters; systemd reads 4 KiB of a message, which may be four bytes for each
PING_MIN_S = 0.05  # between two signs of life, however small the watchdog's time is
EXTEND_S = 60.0  # more time is asked for at once, so that a process that is gone is noticed after this
EXTEND_EVERY_S = 20.0
STOP_S_MAX = 600.0  # a stop that takes longer hangs: it is killed then, by which nothing is lost that was acknowledged

assert EXTEND_EVERY_S < EXTEND_S / 2

_MICROSECONDS = re.compile(r"[0-9]{1,18}")


class ServiceManager:
    """The one that has started this process, if any."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes what concerns messages out of the environment. What of it makes no sense is told and ignored."""
        self._address = _notify_address(environment.pop("NOTIFY_SOCKET", ""))
        self._is_reached = True
        pid, time_us = environment.pop("WATCHDOG_PID", ""), environment.pop("WATCHDOG_USEC", "")
        self._watchdog_s = _watchdog_s(time_us) if pid in ("", str(os.getpid())) else None

    def tell(self, *lines: str) -> None:
        """Sends one message. That one cannot be sent is logged, once until another can."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if self._is_reached:
                log.warning("the service manager does not take messages: %s", error.strerror or error)
            self._is_reached = False
        else:
            self._is_reached = True

    async def keep_watchdog(self) -> None:
        """Gives a sign of life twice in the watchdog's time, until cancelled: from the loop, so that none comes where
        that hangs."""
        while self._address and self._watchdog_s:
            self.tell("WATCHDOG=1")
            await trio.sleep(max(self._watchdog_s / 2, PING_MIN_S))

    async def keep_status(self, period_s: float, text: Callable[[], str]) -> None:
        """Tells that it serves, and this text, at once and every period_s, until cancelled."""
        while self._address:
            self.tell("READY=1", status(text()))
            await trio.sleep(period_s)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.tell("READY=1")

    @contextmanager
    def more_time(self, *lines: str, at_most_s: float = math.inf) -> Iterator[None]:
        """Tells these lines, and asks for more time while the block runs, so that it is not taken to hang.

        From a thread, since the block may keep the loop from running.
        """
        more = f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1e6:.0f}"
        self.tell(*lines, more)
        ended = threading.Event()
        until = time.monotonic() + at_most_s

        def keep_asking() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            while not ended.wait(EXTEND_EVERY_S) and time.monotonic() < until:
                self.tell(more)

        thread = threading.Thread(target=keep_asking, daemon=True)
        if self._address is not None:
            thread.start()
        try:
            yield
        finally:
            ended.set()


def status(text: str) -> str:
    """A line for `tell` that people are shown: without control characters, and not too long."""
    return "STATUS=" + "".join(each if each.isprintable() else " " for each in text)[:STATUS_LENGTH_MAX]


def inherited_sockets(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Sockets that the service manager listens on and has handed to this process; they are the caller's.

    Raises ConfigError if one is not a listening TCP or Unix socket. What is for another process is left alone.
    """
    pid, count, _ = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()):
        return []
    if not re.fullmatch("[0-9]{1,9}", count) or int(count) > INHERITED_MAX:
        raise ConfigError(f"LISTEN_FDS in the environment is {count!r}: a number from 0 to {INHERITED_MAX} is expected")
    return [_listening(fd) for fd in range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count))]


def _listening(fd: int) -> socket.socket:
    what = f"descriptor {fd}, which the service manager has passed, is"
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(f"{what} no socket: {error.strerror}") from None
    sock.set_inheritable(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"{what} neither a TCP nor a Unix stream socket: the unit has to say ListenStream=")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"{what} not listening: the unit has to say Accept=no")
    return sock


def _notify_address(text: str) -> str | None:
    if not text:
        return None
    if text[0] not in "/@" or not 1 < len(os.fsencode(text)) <= UNIX_PATH_BYTES_MAX:
        log.warning("NOTIFY_SOCKET in the environment is neither a path nor @name, and is ignored: %r", text)
        return None
    return "\0" + text[1:] if text.startswith("@") else text


def _watchdog_s(text: str) -> float | None:
    if not text:
        return None
    if not _MICROSECONDS.fullmatch(text) or int(text) == 0:
        log.warning("WATCHDOG_USEC in the environment is no number of microseconds, and is ignored: %r", text)
        return None
    return int(text) / 1e6
