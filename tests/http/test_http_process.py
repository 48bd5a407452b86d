"""[http] of a configuration: what is refused at the start, and that nothing is loaded where it is not set."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from http_asking import HTTP, KINDS, get, http_address, make_process

from swarm.core.config import Address
from swarm.core.http import INSTALL_HTTP
from swarm.core.node import listen
from tests.waiting import PATIENCE_S

EX_CONFIG = 78
HEAVY = ("starlette", "hypercorn", "prometheus_client", "h11", "h2")


def run(kind: str, directory: Path, http: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """A node with this section [http], which ends by itself: its exit status, and what it said."""
    ini = directory / "node.ini"
    ini.write_text(f"[node]\naddress = 127.0.0.1:0\ndata = {directory / 'data'}\n[http]\n{http}\n")
    done = subprocess.run(
        [sys.executable, "-m", f"nodes.{kind}", "--config", str(ini)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | (environment or {}),
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("kind", "address"), [("dht", "0.0.0.0:0"), ("queue", "[::]:0"), ("logfiles", "node.example:80")]
)
def test_it_is_loopback_unless_the_configuration_says_otherwise(tmp_path: Path, kind: str, address: str) -> None:
    status, said = run(kind, tmp_path, f"address = {address}")
    assert status == EX_CONFIG
    assert f"{kind}node: {address} in section [http] is not known to be loopback" in said
    assert "allow_open_network = yes in section [http]" in said
    assert "Traceback" not in said


def test_an_open_network_that_is_allowed(tmp_path: Path) -> None:
    http = replace(HTTP, address=Address("0.0.0.0", 0), allow_open_network=True)
    with make_process("dht", tmp_path, http) as process:
        _, port = http_address(process)
        assert get(("127.0.0.1", port), "/ready").status == 200


@pytest.mark.parametrize("address", ["8080", "localhost", "http://localhost:1", "localhost:99999"])
def test_a_bad_address(tmp_path: Path, address: str) -> None:
    status, said = run("dht", tmp_path, f"address = {address}")
    assert status == EX_CONFIG
    assert "node.ini:5: section [http], key address: " in said


def test_an_address_in_use(tmp_path: Path) -> None:
    with closing(listen(Address("127.0.0.1", 0))) as sock:
        place = f"127.0.0.1:{sock.getsockname()[1]}"
        status, said = run("dht", tmp_path, f"address = {place}")
    assert status == 1
    assert said.splitlines()[-1] == (
        f"dhtnode: HTTP (address in section [http]): cannot listen on {place}: Address already in use"
    )


@pytest.mark.parametrize("package", ["starlette", "hypercorn", "prometheus_client"])
def test_a_package_that_is_not_installed(tmp_path: Path, package: str) -> None:
    missing = tmp_path / "missing" / package
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text(f"raise ModuleNotFoundError('No module named {package}', name='{package}')\n")
    path = {"PYTHONPATH": f"{missing.parent}{os.pathsep}{Path(__file__).parents[2]}"}
    status, said = run("queue", tmp_path, "address = 127.0.0.1:0", path)
    assert status == EX_CONFIG
    assert said.splitlines()[-1] == (
        f"queuenode: section [http] needs the package {package}, which is not installed: {INSTALL_HTTP}"
    )
    assert INSTALL_HTTP in (tmp_path / "data" / "root.log").read_text()
    assert "Traceback" not in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("http", "imported"), [("", False), ("address = 127.0.0.1:0", True)])
def test_nothing_is_imported_for_http_where_there_is_none(tmp_path: Path, kind: str, http: str, imported: bool) -> None:
    """The interpreter tells each import until the node serves."""
    ini = tmp_path / "node.ini"
    ini.write_text(f"[node]\naddress = 127.0.0.1:0\ndata = {tmp_path / 'data'}\n[http]\n{http}\n")
    command = [sys.executable, "-X", "importtime", "-m", f"nodes.{kind}", "--config", str(ini)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        found = set()
        for line in node.stderr:
            if " serves on " in line:
                break
            found.add(line.rpartition("|")[2].strip().partition(".")[0])
        node.terminate()
        node.stderr.read()
    assert node.returncode == 0
    assert "trio" in found
    assert found & set(HEAVY) == (set(HEAVY) if imported else set())
