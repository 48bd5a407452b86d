"""The units: systemd understands them, they let the nodes do little else than what they do, and they start them."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from swarm.core.config import EX_CONFIG
from swarm.core.node import BACKLOG, WrongData
from tests.systemd.layout import UNITS, exec_start, install_units, instances, settings
from tests.systemd.service_runs import NODES, Service, listening, service
from tests.waiting import wait_until

EXPOSURE_MAX = 3.0
PROGRAMS = (*NODES, "dhtdump")

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze (Debian: systemd)"
)
every_program = pytest.mark.parametrize("program", PROGRAMS)


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("prefix")
    install_units(prefix, *(f"--instance={kind}:a:127.0.0.1:{port}" for port, kind in enumerate(NODES, 10001)))
    return prefix


def analyze(prefix: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{prefix / UNITS}:", "LC_ALL": "C"}
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@needs_systemd
def test_systemd_has_nothing_to_say_about_them(laid_out: Path) -> None:
    names = [path.name.replace("@.", "@a.") for path in (laid_out / UNITS).iterdir() if path.is_file()]
    assert len(names) == 8
    verified = analyze(laid_out, "verify", "--man=no", *names)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("wrong", ["Type=unheard-of", "Unheard=of", "ExecStart=/nowhere/dhtnode"])
def test_it_would_have(laid_out: Path, tmp_path: Path, wrong: str) -> None:
    """So that an empty answer means something: the same with one line that is wrong."""
    prefix = shutil.copytree(laid_out, tmp_path / "prefix")
    unit = prefix / UNITS / "dht@.service"
    key = wrong.partition("=")[0]
    lines = [wrong if line.startswith(f"{key}=") else line for line in unit.read_text().splitlines()]
    unit.write_text("\n".join(lines if wrong in lines else [*lines, "[Service]", wrong]))
    assert analyze(prefix, "verify", "--man=no", "dht@a.service").stderr


@needs_systemd
@every_program
def test_what_they_are_exposed_to(laid_out: Path, program: str) -> None:
    unit = str(laid_out / UNITS / f"{program}@.service")
    threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    found = analyze(laid_out, "security", "--offline=true", "--no-pager", threshold, unit)
    assert found.returncode == 0, found.stdout
    assert "Overall exposure level" in found.stdout


@every_program
def test_a_failure_that_no_restart_mends_is_not_followed_by_one(laid_out: Path, program: str) -> None:
    found = settings(laid_out, f"{program}@.service")
    (statuses,) = found["RestartPreventExitStatus"]
    expected = {EX_CONFIG} if program == "dhtdump" else {EX_CONFIG, WrongData.exit_status}
    assert set(map(int, statuses.split())) == expected
    assert found["Restart"] == ["on-failure"]


@pytest.mark.parametrize("kind", NODES)
def test_as_many_connections_wait_as_a_node_itself_lets_wait(laid_out: Path, kind: str) -> None:
    assert settings(laid_out, f"{kind}@.socket")["Backlog"] == [str(BACKLOG)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[dict[str, Service]]:
    """Every command of the units as it stands there, but for where the files are, with the sockets of the units."""
    with ExitStack() as stack:
        sockets = {kind: stack.enter_context(listening()) for kind in NODES}
        instances(tmp_path, {kind: sock.getsockname()[1] for kind, sock in sockets.items()})
        services: dict[str, Service] = {}
        for program in PROGRAMS:
            (tmp_path / program).mkdir()
            services[program] = stack.enter_context(
                service(
                    tmp_path / program,
                    exec_start(tmp_path, program),
                    sockets=[sockets[program]] if program in sockets else [],
                    environment={"WATCHDOG_USEC": "200000"},
                )
            )
        yield services


def test_the_commands_of_the_units(running: dict[str, Service], tmp_path: Path) -> None:
    for each in running.values():
        each.wait_for("READY")
        each.wait_for("WATCHDOG", 2)
    ports = {kind: port_of(tmp_path, kind) for kind in NODES}
    with DhtClient([f"127.0.0.1:{ports['dht']}"]) as dht:
        dht.put("channel", b"key", b"value")
        assert dht.get("channel", b"key") == b"value"
        running["dhtdump"].process.send_signal(signal.SIGUSR1)
        wait_until(lambda: running["dhtdump"].last("STATUS").endswith(": 1 records"))
    with QueueClient([f"127.0.0.1:{ports['queue']}"]) as queue:
        queue.push("channel", b"value")
        assert queue.pop("channel") == b"value"
    with LogfilesClient([f"127.0.0.1:{ports['logfiles']}"]) as logfiles:
        logfiles.put("channel", 1_700_000_000.0, b"value")
        assert [value for _, value in logfiles.get_range("channel", 0, 1_800_000_000.0)] == [b"value"]
    for program in reversed(PROGRAMS):
        assert running[program].stop() == 0
        log = "logs/dhtdump" if program == "dhtdump" else "logs"
        kind = "dht" if program == "dhtdump" else program
        said = (tmp_path / "srv" / kind / "a" / log / "root.log").read_text()
        assert "WARNING" not in said
        assert "ERROR" not in said
    assert (tmp_path / "srv/dht/a/data/dump/channel.lmdb").exists()


def port_of(prefix: Path, kind: str) -> int:
    (_, address) = settings(prefix, f"{kind}@a.socket.d/address.conf")["ListenStream"]
    return int(address.rpartition(":")[2])
