"""What `swarm install-units` has laid out, and its commands as they can be run from where it lies."""

import shlex
import subprocess
import sys
from pathlib import Path

SWARM = [sys.executable, "-m", "swarm.cli.main"]
UNITS = Path("etc/systemd/system")


def install_units(prefix: Path, *options: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
    command = [*SWARM, "install-units", "--prefix", str(prefix), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def instances(prefix: Path, ports: dict[str, int]) -> None:
    """An instance "a" of each kind, whose configuration says where it really lies."""
    options = [f"--instance={kind}:a:127.0.0.1:{port}" for kind, port in ports.items()]
    install_units(prefix, *options)
    for ini in prefix.glob("srv/*/*/etc/*.ini"):
        ini.write_text(ini.read_text().replace("/srv/", f"{prefix}/srv/"))


def settings(prefix: Path, unit: str) -> dict[str, list[str]]:
    """All of [Service] or [Socket] of a unit file: a key may be there several times."""
    found: dict[str, list[str]] = {}
    for line in (prefix / UNITS / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def exec_start(prefix: Path, program: str, instance: str = "a") -> list[str]:
    """The command of a service, with the instance's name, and with /srv below the prefix."""
    (line,) = settings(prefix, f"{program}@.service")["ExecStart"]
    return shlex.split(line.replace("%i", instance).replace(" /srv/", f" {prefix}/srv/"))
