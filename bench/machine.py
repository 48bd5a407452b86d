"""What the figures were measured on."""

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from bench.client import PROBER_PRIORITY

PACKAGES = ["swarm", "trio", "anyio", "msgpack", "xxhash", "lz4", "lmdb"]
LOOK_AROUND_S = 1.0  # for whether others use the machine
OTHERS_MAX = 0.05  # of the machine's time, that others may use without being complained about


def describe(packages: list[str], **peers: str) -> dict[str, str]:
    """packages: of the peers' clients; peers: their versions by their names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES + packages),
    } | peers


class Neighbours:
    """How much of the machine others used from its making on: what else runs on it, and what its host took away."""

    def __init__(self) -> None:
        self._begun = _Times()

    def shares(self) -> tuple[float, float]:
        """Of the time of all cores, 1 being all: used by other processes, taken by the host. Children that have not
        ended yet count as others."""
        now, begun = _Times(), self._begun
        whole_s = max(now.clock_s - begun.clock_s, 0.01) * (os.cpu_count() or 1)
        others_s = (now.used_s - begun.used_s) - (now.own_s - begun.own_s)
        return max(others_s, 0.0) / whole_s, (now.stolen_s - begun.stolen_s) / whole_s

    def describe(self) -> str:
        used, stolen = self.shares()
        return f"{used:.1%} of its time used by other processes, {stolen:.1%} taken by its host"


class _Times:
    """Seconds since some time: of the clock; of all cores in use; of this process and its ended children; stolen."""

    def __init__(self) -> None:
        user, nice, system, _idle, _iowait, irq, softirq, stolen = (
            int(ticks) / os.sysconf("SC_CLK_TCK")
            for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        )
        own = os.times()
        self.clock_s = time.monotonic()
        self.used_s = user + nice + system + irq + softirq
        self.own_s = own.user + own.system + own.children_user + own.children_system
        self.stolen_s = stolen


def prober_priority() -> str:
    """That the prober can give itself."""
    allowed = subprocess.run(["chrt", "-f", str(PROBER_PRIORITY), "true"], capture_output=True).returncode == 0
    return "real time" if allowed else "normal, real time is not allowed here"


def available_memory() -> int:
    """Bytes that processes can still have."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def file_system(directory: Path) -> str:
    """The name of its kind, such as ext4."""
    command = ["df", "--output=fstype", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def warn_of_others() -> None:
    """Looks around for LOOK_AROUND_S, and says so on standard error if others use the machine."""
    neighbours = Neighbours()
    time.sleep(LOOK_AROUND_S)
    if sum(neighbours.shares()) > OTHERS_MAX:
        print(f"The machine is not idle, figures may be wrong: {neighbours.describe()}", file=sys.stderr)


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()


def redis_version() -> str:
    out = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+).*malloc=(\S+)", out)
    return f"redis-server {found[1]}, {found[2]}" if found else out.strip()


def beanstalkd_version() -> str:
    return subprocess.run(["beanstalkd", "-v"], capture_output=True, text=True, check=True).stdout.strip()
