"""Waiting for what another process does without telling anybody."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.02
PATIENCE_S = 30.0  # far more than anything takes, so that a busy machine fails no test


def wait_until(condition: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """Looks again and again until the condition gives something true; what it gave. AssertionError after the time."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s, but still {result!r}"
        time.sleep(LOOK_S)
    return result


def shown_on_terminal(command: Sequence[str]) -> tuple[int, str]:
    """Runs a command on a terminal, until it ends: its exit status, and what it has shown."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    shown = b""
    with subprocess.Popen(
        command, stdin=its_end, stdout=its_end, stderr=its_end, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(its_end)
        try:
            while data := os.read(terminal, 65536):
                shown += data
        except OSError:  # EIO: nobody has the other end any more
            pass
        status = process.wait(PATIENCE_S)
    os.close(terminal)
    return status, shown.decode()
