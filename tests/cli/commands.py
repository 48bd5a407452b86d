"""The `swarm` command as a process, for tests of its parts."""

import os
import pty
import select
import subprocess
import sys

from tests.waiting import PATIENCE_S, wait_until

SWARM = [sys.executable, "-m", "swarm.cli.main"]


def swarm(
    *arguments: str | bytes, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    command = [*SWARM, *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=PATIENCE_S, check=False, env=os.environ | (environment or {})
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def on_a_terminal(command: list[str], typed: bytes = b"") -> tuple[int, bytes]:
    """Exit status and what is seen, of a command that has a terminal."""
    terminal, its_end = pty.openpty()
    with subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        os.write(terminal, typed)
        shown = b""

        def has_ended() -> bool:
            nonlocal shown
            if select.select([terminal], [], [], 0)[0]:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:  # nobody has it open any more
                    return True
            return False

        wait_until(has_ended)
        os.close(terminal)
        return process.wait(PATIENCE_S), shown
