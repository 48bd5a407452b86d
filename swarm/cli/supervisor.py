"""Keeps nodes running as child processes: starts, watches, restarts and stops them. Draws nothing.

    starting ──── it serves ────► running ──── it ends ────► restarting ──── back-off ────► starting
       │                                                 every state ──── cancelled ────► stopping ────► stopped
       └── it ends, and has never served: NotStarted

A dhtdump is kept in the same way, with its node in place of an address; it serves when it has said what it dumps. It
stops before its node, so that it has no failure to tell.

A node that ends before it has ever served is not started again: a port in use or a wrong configuration stays so, and
whoever called wants to know. One that has served before is started again for ever.

Stopping is cancellation: each task that keeps a node stops its process before it ends. So an error in one of them
stops all, and no way out of run_nodes leaves a process behind. The one way that runs no code is SIGKILL to this
process, and for that the kernel is asked to pass it on (_die_with).
"""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import trio

from swarm.core.config import Address, parse_address
from swarm.core.limits import KIB

BACKOFF_FIRST_S = 0.1  # before the first restart, then twice as long each time
BACKOFF_MAX_S = 5.0
STABLE_S = 10.0  # what has run so long begins with the first back-off again
STOP_S = 10.0  # a node needs 2 s at most to stop in order
LOOK_S = 0.02  # between two looks at whether a node that starts serves already
CONSOLE_TAIL_BYTES = 64 * KIB  # of console.log, in which to look for what a node has just said
ACCEPT_DAMAGE = "--accept-damage"  # the option that a node names where it finds damage
REASON_LENGTH_MAX = 500  # characters of its last line

PR_SET_PDEATHSIG = 1  # linux/prctl.h

_SERVES = re.compile(r" (?:serves on|dumps) ([^\s,]+)")
_prctl = ctypes.CDLL(None).prctl


class NotStarted(Exception):
    """A node ended before it served. The text says which and why."""


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


class NodeProcess:
    """One node: `python -m MODULE --address ADDRESS --data DATA OPTIONS`, and what has become of it."""

    address_option, data_option, _verb = "--address", "--data", "running on"

    def __init__(
        self,
        name: str,
        module: str,
        address: Address,
        data: Path,
        options: Sequence[str],
        tell: Callable[[str, str], None],
    ) -> None:
        """address: with port 0 the node chooses one, and keeps it when it is restarted.
        data: the node's directory; what it says on its console goes to console.log in it.
        tell: is called with the name and a sentence whenever something has happened; must not raise.
        """
        self.name = name
        self.address = address
        self.data = data
        self.state = State.STARTING
        self.pid: int | None = None
        self.restarts = 0
        self.kind = module.removeprefix("nodes.")
        self._module = module
        self._options = options
        self._tell = tell
        self.stops_after: NodeProcess | None = None
        """What is stopped before it, where both are to be stopped."""
        self._has_served = False
        self._ended: trio.Event | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the node running until cancelled, which stops it; started when it serves for the first time.

        Raises NotStarted if it never does.
        """
        self._ended = trio.Event()
        try:
            await self._keep_running(task_status)
        finally:
            self.state = State.STOPPED
            self._ended.set()

    def kill(self) -> None:
        """Ends it at once; for the impatient while it is stopping."""
        if self._process is not None:
            self._process.kill()

    @property
    def _console(self) -> Path:
        return self.data / "console.log"

    async def _keep_running(self, task_status: trio.TaskStatus[None]) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            begun = trio.current_time()
            how = await self._run_once(task_status)
            if not self._has_served:
                raise NotStarted(f"{self.name} does not start: it {how}")
            if trio.current_time() - begun >= STABLE_S:
                backoff_s = BACKOFF_FIRST_S
            self.state = State.RESTARTING
            self.restarts += 1
            self._tell(self.name, f"{how}; restarting in {backoff_s:g} s")
            await trio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _run_once(self, task_status: trio.TaskStatus[None]) -> str:
        """Runs it from its start to its end; how it ended."""
        self.state = State.STARTING
        try:
            said_before = self._console.stat().st_size if self._console.exists() else 0
            started = self._start()
        except OSError as error:
            return f"could not be run: {error}"
        with started as process:
            self._process, self.pid = process, process.pid
            try:
                if await self._comes_up(process, said_before):
                    self._serves(process.pid, task_status)
                await _end_of(process)
            finally:
                if process.poll() is None:
                    await self._stop(process)
                self._process = self.pid = None
        return self._how_it_ended(process.returncode, said_before)

    def _start(self) -> "subprocess.Popen[bytes]":
        # -P: a directory "nodes" where the user happens to be is not the package.
        command = [sys.executable, "-P", "-m", self._module]
        command += [self.address_option, str(self.address), self.data_option, str(self.data), *self._options]
        self.data.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        # Not trio's run_process: it forks in a worker thread, and the kernel takes the end of that thread, after ten
        # idle seconds, for the end of the parent. A session of its own: Ctrl-C is for us, who stop it in order.
        with self._console.open("ab") as console:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=lambda: _die_with(parent),
            )

    async def _comes_up(self, process: "subprocess.Popen[bytes]", said_before: int) -> bool:
        """Waits until the node says that it serves, and where; False if it ends first."""
        while process.poll() is None:
            if serves := _SERVES.search(self._said(said_before)):
                self.address = parse_address(serves[1])
                return True
            await trio.sleep(LOOK_S)
        return False

    def _serves(self, pid: int, task_status: trio.TaskStatus[None]) -> None:
        self.state = State.RUNNING
        self._tell(self.name, f"{self._verb} {self.address} (pid {pid})")
        if not self._has_served:
            self._has_served = True
            task_status.started()

    async def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        self.state = State.STOPPING
        with trio.CancelScope(shield=True):
            if self.stops_after is not None and self.stops_after._ended is not None:
                await self.stops_after._ended.wait()
            self._tell(self.name, "stopping")
            process.terminate()
            with trio.move_on_after(STOP_S) as patience:
                await _end_of(process)
            if patience.cancelled_caught:
                self._tell(self.name, f"did not stop within {STOP_S:g} s: it is killed")
                process.kill()
                await _end_of(process)
        self._tell(self.name, "stopped")

    def _how_it_ended(self, status: int, said_before: int) -> str:
        if status < 0:
            return f"was killed by signal {-status} ({signal.strsignal(-status)})"
        last = self._said(said_before).rstrip().rpartition("\n")[2]
        reason = "".join(each for each in last if each.isprintable())[:REASON_LENGTH_MAX]
        by_hand = f"; by hand it starts with: {self._by_hand}" if ACCEPT_DAMAGE in last else ""
        return f"ended with exit status {status}" + (
            f": {reason} (see {self._console}){by_hand}" if status and reason else ""
        )

    @property
    def _by_hand(self) -> str:
        """The command with which its operator accepts the damage."""
        where = (self.address_option, str(self.address), self.data_option, str(self.data))
        return shlex.join((f"{self.kind}node", *where, *self._options, ACCEPT_DAMAGE))

    def _said(self, after: int) -> str:
        """What is in the console's file after so many bytes, of the end of it."""
        with self._console.open("rb") as console:
            size = console.seek(0, os.SEEK_END)
            console.seek(max(after, size - CONSOLE_TAIL_BYTES))
            return console.read().decode(errors="replace")


class DumpProcess(NodeProcess):
    """The dhtdump of a node: address is the node's, data the dump directory."""

    address_option, data_option, _verb = "--node", "--dump-dir", "dumps"


async def run_nodes(nodes: Sequence[NodeProcess], *, task_status: trio.TaskStatus[None]) -> None:
    """Keeps all of them running until cancelled; started when each has served.

    Raises an exception group of NotStarted, after the others were stopped.
    """
    async with trio.open_nursery() as running:
        async with trio.open_nursery() as starting:
            for node in nodes:
                starting.start_soon(running.start, node.run)
        task_status.started()


async def _end_of(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        process.wait()


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies, however that dies. Runs in the child, before exec.

    It is kept through exec. SIGKILL, for it has to work on a node that hangs too, and nodes lose nothing by it. Python
    warns of code between fork and exec in programs with threads: this is one system call, looked up beforehand.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
