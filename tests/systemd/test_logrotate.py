"""etc/logrotate/swarm, carried out by logrotate on nodes that run: no line is lost."""

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.systemd.layout import exec_start, instances
from tests.systemd.service_runs import NODES, Service, listening, service
from tests.waiting import wait_until

LOGROTATE = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.skipif(not LOGROTATE, reason="needs logrotate (Debian: logrotate)")


def rotate(prefix: Path) -> None:
    """Once, whether it is due or not, as the user that we are."""
    rules = prefix / "rules"
    text = (prefix / "etc/logrotate.d/swarm").read_text().replace("/srv/", f"{prefix}/srv/")
    rules.write_text(text.replace("    su swarm swarm\n", ""))
    rules.chmod(0o644)
    assert LOGROTATE
    command = [LOGROTATE, "--force", "--state", str(prefix / "state"), str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_line_is_lost(tmp_path: Path) -> None:
    """dhtdump numbers the lines of its stats.log, the nodes say in root.log what became of them."""
    logs = {kind: tmp_path / "srv" / kind / "a" / "logs" for kind in NODES}
    of_dump = logs["dht"] / "dhtdump"
    with ExitStack() as stack:
        sockets = {kind: stack.enter_context(listening()) for kind in NODES}
        instances(tmp_path, {kind: sock.getsockname()[1] for kind, sock in sockets.items()})
        running: list[Service] = []
        for program in (*NODES, "dhtdump"):
            command = exec_start(tmp_path, program) + (["--period", "20ms"] if program == "dhtdump" else [])
            (tmp_path / program).mkdir()
            inherited = [sockets[program]] if program in sockets else []
            running.append(stack.enter_context(service(tmp_path / program, command, sockets=inherited)))
            running[-1].wait_for("READY")
        for _ in range(2):
            lines = len(numbers(of_dump))
            wait_until(lambda lines=lines: len(numbers(of_dump)) > lines + 3)  # type: ignore[misc]
            rotate(tmp_path)
            for directory in (*logs.values(), of_dump):
                wait_until(lambda path=directory / "root.log": path.exists() and "logs reopened" in path.read_text())  # type: ignore[misc]
            wait_until((of_dump / "stats.log").exists)
            wait_until(lambda: (of_dump / "stats.log").stat().st_size > 0)
        for each in reversed(running):
            assert each.stop() == 0
    found = numbers(of_dump)
    assert found == list(range(1, len(found) + 1))
    for kind, directory in logs.items():
        newest, middle = (directory / "root.log").read_text(), (directory / "root.log.1").read_text()
        assert newest.endswith("stopped\n")
        assert "logs reopened" in middle
        oldest = subprocess.run(
            ["zcat", directory / "root.log.2.gz"], capture_output=True, text=True, check=True
        ).stdout
        assert f"{kind}node serves on" in oldest
        assert (oldest + middle + newest).count("logs reopened") == 2


def numbers(directory: Path) -> list[int]:
    """Of all dumps in all stats.log, the oldest first."""
    text = ""
    for name in ("stats.log.2.gz", "stats.log.1", "stats.log"):
        if (directory / name).exists():
            text += subprocess.run(["zcat", "-f", directory / name], capture_output=True, text=True, check=True).stdout
    return [int(each) for each in re.findall(r" dumps:(\d+) ", text)]
