"""What the figures were measured on."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ["swarm", "trio", "anyio", "msgpack", "xxhash", "lz4", "redis", "hiredis"]


def describe() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "Redis": _redis_version(),
    }


def is_busy() -> bool:
    """Whether others use the machine, by the load of the last minute."""
    return os.getloadavg()[0] > 0.5


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _redis_version() -> str:
    out = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+).*malloc=(\S+)", out)
    return f"redis-server {found[1]}, {found[2]}" if found else out.strip()
