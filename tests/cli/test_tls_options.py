"""The commands that reach nodes, and dhtdump, with TLS."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.dht.config import DhtConfig
from nodes.logfiles.config import LogfilesConfig
from nodes.queue.config import QueueConfig
from swarm.core.config import EX_CONFIG
from swarm.testing import RunningNodes, running_dht, running_logfiles, running_queue
from tests.certificates import Authority
from tests.cli.commands import swarm


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def dht(authority: Authority) -> Iterator[RunningNodes]:
    with running_dht(config=DhtConfig(tls=authority.node(client_ca=authority.ca))) as running:
        yield running


def test_options(authority: Authority, dht: RunningNodes) -> None:
    certificate = str(authority.issue("client"))
    options = ["--node", *dht.addresses, "--tls-ca", str(authority.ca), "--tls-certificate", certificate]
    assert swarm("dht", *options, "put", "a", "key", "value").returncode == 0
    done = swarm("dht", *options, "--tls", "--tls-key", certificate, "get", "a", "key")
    assert (done.returncode, done.stdout) == (0, b"value")


def test_the_environment(authority: Authority, dht: RunningNodes) -> None:
    certificate = str(authority.issue("client"))
    environment = {
        "SWARM_NODES": ",".join(dht.addresses),
        "SWARM_TLS_CA": str(authority.ca),
        "SWARM_TLS_CERTIFICATE": certificate,
        "SWARM_TLS_KEY": certificate,
    }
    assert swarm("dht", "size", environment=environment).returncode == 0


def test_queue_and_logfiles_take_them_too(authority: Authority) -> None:
    tls = authority.node()
    with running_queue(config=QueueConfig(tls=tls)) as queue, running_logfiles(config=LogfilesConfig(tls=tls)) as logs:
        for command, running in (("queue", queue), ("logfiles", logs)):
            done = swarm(command, "--node", *running.addresses, "--tls-ca", str(authority.ca), "channels")
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], b"this node speaks TLS only"),
        (["--tls"], b"(name the authority that has signed it with ca (--tls-ca))"),
        (["--tls-ca", "CA"], b"the node wants a certificate of its clients"),
    ],
    ids=["without", "the system's authorities", "without a certificate"],
)  # fmt: skip
def test_what_is_wrong_is_told_at_once(
    options: list[str], told: bytes, authority: Authority, dht: RunningNodes
) -> None:
    options = [str(authority.ca) if each == "CA" else each for each in options]
    done = swarm("dht", "--timeout", "1000s", "--node", *dht.addresses, *options, "size")
    assert done.returncode == 1
    assert told in done.stderr


def test_a_file_that_cannot_be_used(dht: RunningNodes) -> None:
    done = swarm("dht", "--node", *dht.addresses, "--tls-ca", "none.pem", "size")
    assert done.returncode == 2
    assert b"TLS: none.pem cannot be read: No such file or directory" in done.stderr


def dhtdump(directory: Path, node: str, config: str) -> "subprocess.CompletedProcess[str]":
    path = directory / "dhtdump.ini"
    path.write_text(config)
    command = [sys.executable, "-m", "dhtdump", "--config", path, "--node", node, "--oneshot"]
    command += ["--dump-dir", directory / "dump"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_dhtdump(authority: Authority, dht: RunningNodes, tmp_path: Path) -> None:
    tls = f"[tls]\nenabled = yes\nca = {authority.ca}\ncertificate = {authority.issue('client')}\n"
    done = dhtdump(tmp_path, dht.addresses[0], tls)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dump" / "manifest.json").exists()


def test_dhtdump_tells_what_is_wrong(authority: Authority, dht: RunningNodes, tmp_path: Path) -> None:
    done = dhtdump(tmp_path, dht.addresses[0], f"[tls]\nenabled = yes\nca = {authority.ca}\n")
    assert done.returncode == 1
    assert "the node wants a certificate of its clients" in done.stderr
    for config, told in (
        ("[tls]\nenabled = yes\nca = none.pem\n", "section [tls]: TLS: none.pem cannot be read"),
        ("[tls]\nca = none.pem\n", "section [tls] names files, and is not enabled: set enabled = yes"),
    ):
        done = dhtdump(tmp_path, dht.addresses[0], config)
        assert done.returncode == EX_CONFIG
        assert told in done.stderr
