"""Processes started as systemd starts them: with a notify socket, and with sockets that listen already."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.waiting import PATIENCE_S, wait_until

NODES = ("dht", "queue", "logfiles")

# LISTEN_PID is the pid of the process that is executed, so it is set by itself. Arguments: how many descriptors, which,
# the command.
_LAUNCH = """
import os, sys
count = int(sys.argv[1])
fds, command = [os.dup(int(fd)) for fd in sys.argv[2 : 2 + count]], sys.argv[2 + count :]
for fd in sys.argv[2 : 2 + count]:
    os.close(int(fd))
for number, fd in enumerate([os.dup2(fd, 200 + number) for number, fd in enumerate(fds)]):
    os.dup2(fd, 3 + number)
os.closerange(3 + count, 300)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(count))
os.environ.setdefault("LISTEN_FDNAMES", ":".join(["name"] * count))
os.execv(command[0], command)
"""


class Service:
    """A process, and what it has told its service manager."""

    def __init__(self, process: "subprocess.Popen[str]", messages: list[dict[str, str]]) -> None:
        self.process = process
        self.messages = messages

    def count(self, name: str) -> int:
        return sum(name in message for message in self.messages)

    def last(self, name: str) -> str:
        """Its value in the last message that has it; empty if none has."""
        return next((message[name] for message in reversed(self.messages) if name in message), "")

    def wait_for(self, name: str, more_than: int = 0) -> None:
        def is_there() -> bool:
            assert self.process.poll() is None or self.count(name) > more_than, self.errors()
            return self.count(name) > more_than

        wait_until(is_there)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def errors(self) -> str:
        """What it has said on standard error; it has to have ended."""
        self.process.wait(PATIENCE_S)
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextmanager
def notify_socket(address: str, messages: list[dict[str, str]]) -> Iterator[None]:
    """Messages come as they are sent; whatever is sent to the socket is read at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)

        def read() -> None:
            while lines := sock.recv(65536).decode():
                messages.append(dict(line.split("=", 1) for line in lines.split("\n")))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", sock.getsockname())
            reader.join()


@contextmanager
def service(
    directory: Path,
    command: Sequence[str],
    *,
    sockets: Sequence[socket.socket] = (),
    environment: Mapping[str, str] | None = None,
    notify: str | None = None,
) -> Iterator[Service]:
    """Runs it until the block is left. environment: besides our own. notify: address of the notify socket."""
    messages: list[dict[str, str]] = []
    address = notify or str(directory / "notify")
    fds = [sock.fileno() for sock in sockets]
    launched = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(len(fds)), *map(str, fds), *command]
    with suppress(FileNotFoundError):
        Path(address).unlink()
    with (
        notify_socket(address, messages),
        subprocess.Popen(
            launched if fds or (environment and "LISTEN_FDS" in environment) else list(command),
            pass_fds=fds,
            env={**os.environ, "NOTIFY_SOCKET": address, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield Service(process, messages)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def node_command(kind: str, directory: Path, address: str = "127.0.0.1:0", *, ini: str = "") -> list[str]:
    """Of a node with its data in the directory. ini: all of its configuration that is not on the command line."""
    directory.mkdir(exist_ok=True)
    (directory / "node.ini").write_text(ini)
    options = ["--config", str(directory / "node.ini"), "--data", str(directory / "data"), "--address", address]
    return [sys.executable, "-m", f"nodes.{kind}", *options]


def root_log(directory: Path) -> str:
    path = directory / "data" / "root.log"
    return path.read_text() if path.exists() else ""


def served_address(directory: Path) -> str:
    """Where a node says that it serves."""
    _, _, rest = root_log(directory).rpartition(" serves on ")
    return rest.partition(",")[0]


def wait_for_log(directory: Path, condition: Callable[[str], bool]) -> None:
    wait_until(lambda: condition(root_log(directory)))


def listening(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A socket as a .socket unit has it."""
    return socket.create_server(address, backlog=128)


def name_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"
