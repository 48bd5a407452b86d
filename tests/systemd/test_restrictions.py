"""What the units forbid is nothing that the nodes need: they do all their work under the units' filters of system
calls. Not shown here is what only systemd sets up: the file system as the services see it, and their user."""

import ctypes.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from tests.systemd.layout import exec_start, instances, settings
from tests.systemd.service_runs import Service, listening, service
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not (shutil.which("systemd-analyze") and ctypes.util.find_library("seccomp")),
    reason="needs systemd-analyze and libseccomp (Debian: systemd, libseccomp2)",
)
RESTRICTED = [sys.executable, str(Path(__file__).with_name("restricted.py"))]


def system_calls(lines: list[str]) -> set[str]:
    """What SystemCallFilter= of a unit lets through: the first line says what is allowed, ~ takes away."""
    allowed: set[str] = set()
    for line in lines:
        names = members(line.removeprefix("~").split())
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def members(names: list[str]) -> set[str]:
    """With the names of sets, such as @file-system, replaced by what is in them."""
    sets = [name for name in names if name.startswith("@")]
    plain = set(names) - set(sets)
    if not sets:
        return plain
    command = ["systemd-analyze", "syscall-filter", "--no-pager", *sets]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return plain | members(re.findall(r"^ +([@a-z0-9_-]+)$", shown, re.MULTILINE))


def restricted(prefix: Path, program: str) -> list[str]:
    """The command of a unit, under that unit's restrictions."""
    found = settings(prefix, f"{program}@.service")
    (families,) = found["RestrictAddressFamilies"]
    rules = {
        "calls": sorted(system_calls(found["SystemCallFilter"])),
        "families": [getattr(socket, name) for name in families.split()],
    }
    path = prefix / f"{program}.json"
    path.write_text(json.dumps(rules))
    return [*RESTRICTED, str(path), *exec_start(prefix, program)]


@contextmanager
def running(prefix: Path, kind: str, *more_configuration: str) -> Iterator[tuple[Service, str]]:
    with listening() as sock:
        port = sock.getsockname()[1]
        instances(prefix, {kind: port})
        ini = prefix / "srv" / kind / "a" / "etc" / f"{kind}.ini"
        ini.write_text("\n".join([ini.read_text(), *more_configuration]))
        sock.close()  # the node makes its own: that is more to be allowed
        with service(prefix, restricted(prefix, kind)) as node:
            node.wait_for("READY")
            yield node, f"127.0.0.1:{port}"
            assert node.stop() == 0
    log = (prefix / "srv" / kind / "a" / "logs" / "root.log").read_text()
    assert "not permitted" not in log
    assert "ERROR" not in log


def test_the_restrictions_restrict(tmp_path: Path) -> None:
    instances(tmp_path, {"dht": 10001})
    attempt = "import os, socket\nfor f in (lambda: os.chroot('/'), lambda: socket.socket(socket.AF_PACKET)):\n"
    attempt += "    try: f()\n    except PermissionError: print('refused')\n"
    command = [*restricted(tmp_path, "dht")[:3], sys.executable, "-c", attempt]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refused\nrefused\n"


def test_a_dht_node_and_its_dumps(tmp_path: Path) -> None:
    journal = "[journal]\nfsync = always\nsegment_bytes = 64 KiB"
    with running(tmp_path, "dht", journal) as (_, address), DhtClient([address]) as dht:
        dht.put_many("channel", {b"%d" % number: bytes(100) for number in range(5000)})
        (tmp_path / "dump").mkdir()
        with service(tmp_path / "dump", restricted(tmp_path, "dhtdump")) as dump:
            dump.wait_for("READY")
            dump.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: dump.last("STATUS").endswith(": 5000 records"))
            assert dump.stop() == 0
        dht.put("channel", b"more", b"value")
    with service(tmp_path, restricted(tmp_path, "dht")) as node:  # from the dump and the journal
        node.wait_for("READY")
        with DhtClient([address]) as dht:
            assert dht.channel_size("channel")[0] == 5001
        assert node.stop() == 0


def test_a_queue_node(tmp_path: Path) -> None:
    sizes = "[queue]\nring_bytes = 64 KiB\nfull = overflow\nfsync = always"
    with running(tmp_path, "queue", sizes) as (_, address), QueueClient([address]) as queue:
        records = [b"%d" % number + bytes(1000) for number in range(200)]
        for record in records:
            queue.push("channel", record)
        popped: list[bytes] = []
        while len(popped) < len(records):
            popped += queue.pop_many("channel", 200)
        assert popped == records


def test_a_logfiles_node_that_seals(tmp_path: Path) -> None:
    """Sealing is a process of its own, which gives itself the lowest priority; reads and syncs are threads."""
    store = "[store]\nseal_after = 1 ms\nfsync = always"
    with running(tmp_path, "logfiles", store) as (_, address), LogfilesClient([address]) as logfiles:
        records = [(1_700_000_000.0 + number, b"line %d" % number) for number in range(1000)]
        logfiles.put_many("channel", records)
        wait_until(lambda: list(tmp_path.rglob("*.sealed")))
        found = logfiles.get_range("channel", 0, 1_800_000_000.0, regex="line [0-9]+")
        assert [value for _, value in found] == [value for _, value in records]
