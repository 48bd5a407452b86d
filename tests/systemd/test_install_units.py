"""`swarm install-units`: what it lays out, and that it leaves alone what somebody has changed."""

import shutil
import stat
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import pytest

from dhtdump.config import DumpConfig
from nodes.dht.config import DhtConfig
from nodes.logfiles.config import LogfilesConfig
from nodes.queue.config import QueueConfig
from swarm.cli.install_units import parse_instance
from swarm.core.config import Address, load
from swarm.dht.hash_range import split_evenly
from tests.systemd.layout import UNITS, install_units, settings

ROOT = Path(__file__).parents[2]
ALL = [
    "--instance=dht:a:127.0.0.1:10001",
    "--instance=dht:b:[::1]:10002",
    "--instance=queue:q:127.0.0.1:10101",
    "--instance=logfiles:l:unix:/run/swarm/l.sock",
]


def laid_out(prefix: Path) -> dict[str, bytes]:
    return {str(path.relative_to(prefix)): path.read_bytes() for path in prefix.rglob("*") if path.is_file()}


def test_what_is_laid_out(tmp_path: Path) -> None:
    said = install_units(tmp_path, *ALL).stdout
    found = laid_out(tmp_path)
    for part, place in {"systemd": UNITS, "swarm": "etc/swarm", "logrotate": "etc/logrotate.d"}.items():
        for file in (ROOT / "etc" / part).iterdir():
            assert f"{place}/{file.name}" in found
    assert {"etc/sysusers.d/swarm.conf", "etc/tmpfiles.d/swarm.conf"} <= set(found)
    assert not [name for name in found if name.endswith((".tmp", ".new"))]
    for name in set(found) - {"etc/swarm/installed.json"}:
        assert f"wrote {tmp_path / name}\n" in said
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
    for instance in ("dht/a", "dht/b", "queue/q", "logfiles/l"):
        assert {path.name for path in (tmp_path / "srv" / instance).iterdir()} == {"etc", "data", "logs"}


def test_the_configurations_of_instances(tmp_path: Path) -> None:
    install_units(tmp_path, *ALL)
    low, high = split_evenly(2)
    a = load(DhtConfig, tmp_path / "srv/dht/a/etc/dht.ini")
    b = load(DhtConfig, tmp_path / "srv/dht/b/etc/dht.ini")
    assert (a.node.address, a.node.hash_range, str(a.node.data)) == (
        Address("127.0.0.1", 10001),
        low,
        "/srv/dht/a/data",
    )
    assert (b.node.address, b.node.hash_range, b.logs.directory) == (Address("::1", 10002), high, "/srv/dht/b/logs")
    assert a.node.memory_limit == b.node.memory_limit > 0
    dump = load(DumpConfig, tmp_path / "srv/dht/b/etc/dhtdump.ini")
    assert (dump.dump.node, dump.dump.dump_dir) == (b.node.address, b.dump_dir)
    assert load(QueueConfig, tmp_path / "srv/queue/q/etc/queue.ini").node.address.port == 10101
    logfiles = load(LogfilesConfig, tmp_path / "srv/logfiles/l/etc/logfiles.ini")
    assert logfiles.node.address == Address.unix("/run/swarm/l.sock")


def test_one_dht_node_has_all_hashes(tmp_path: Path) -> None:
    install_units(tmp_path, "--instance=dht:a:127.0.0.1:10001")
    config = load(DhtConfig, tmp_path / "srv/dht/a/etc/dht.ini")
    assert (config.node.hash_range, config.node.memory_limit) == (DhtConfig().node.hash_range, 0)


@pytest.mark.parametrize(
    ("unit", "address"),
    [("dht@a", "127.0.0.1:10001"), ("dht@b", "[::1]:10002"), ("logfiles@l", "/run/swarm/l.sock")],
)
def test_sockets_listen_where_the_nodes_are_configured_to(tmp_path: Path, unit: str, address: str) -> None:
    install_units(tmp_path, *ALL)
    assert settings(tmp_path, f"{unit}.socket.d/address.conf")["ListenStream"] == ["", address]


def test_a_second_time_nothing_is_written(tmp_path: Path) -> None:
    install_units(tmp_path, *ALL)
    before = laid_out(tmp_path)
    said = install_units(tmp_path, *ALL).stdout
    assert laid_out(tmp_path) == before
    assert "wrote" not in said
    assert f"{len(before) - 1} files were as they should be" in said


def test_what_somebody_has_changed_stays(tmp_path: Path) -> None:
    """And what another version brings is written beside it, once."""
    install_units(tmp_path, *ALL)
    unit = tmp_path / UNITS / "dht@.service"
    ours = unit.read_text()
    unit.write_text("mine")
    for _ in range(2):
        said = install_units(tmp_path, *ALL).stdout
        assert f"kept {unit}, which was changed\n" in said
        assert not unit.with_name("dht@.service.new").exists()
    other = ("--python", "/elsewhere/bin/python")
    said = install_units(tmp_path, *ALL, *other).stdout
    assert f"kept {unit}, which was changed or is in use: the new one is {unit}.new" in said
    new = unit.with_name("dht@.service.new")
    assert "ExecStart=/elsewhere/bin/dhtnode " in new.read_text()
    new.unlink()
    install_units(tmp_path, *ALL, *other)
    assert not new.exists()
    assert unit.read_text() == "mine"
    unit.write_text(ours)


def test_what_nobody_has_changed_is_replaced(tmp_path: Path) -> None:
    install_units(tmp_path)
    said = install_units(tmp_path, "--python", "/elsewhere/bin/python").stdout
    assert f"wrote {tmp_path / UNITS / 'queue@.service'}" in said
    (command,) = settings(tmp_path, "queue@.service")["ExecStart"]
    assert command == "/elsewhere/bin/queuenode --config /srv/queue/%i/etc/queue.ini"


def test_the_configuration_of_an_instance_is_never_replaced(tmp_path: Path) -> None:
    """Another hash range, for instance, would keep the node from starting."""
    install_units(tmp_path, ALL[0])
    ini = tmp_path / "srv/dht/a/etc/dht.ini"
    before = ini.read_text()
    said = install_units(tmp_path, *ALL).stdout
    assert ini.read_text() == before
    assert f"the new one is {ini}.new" in said
    assert "hash_range" in Path(f"{ini}.new").read_text()


def test_a_file_that_was_removed_comes_again(tmp_path: Path) -> None:
    install_units(tmp_path)
    (tmp_path / "etc/swarm/dht.ini").unlink()
    assert f"wrote {tmp_path}/etc/swarm/dht.ini\n" in install_units(tmp_path).stdout


def test_where_others_may_come_from_is_told(tmp_path: Path) -> None:
    assert "may be reached by others" in install_units(tmp_path, "--instance=queue:q:192.0.2.1:10101").stdout
    assert "may be reached by others" not in install_units(tmp_path / "b", *ALL).stdout


@pytest.mark.parametrize(
    ("instance", "why"),
    [
        ("x:a:127.0.0.1:1", "dht:NAME:ADDRESS"),
        ("dht:a", "dht:NAME:ADDRESS"),
        ("", "dht:NAME:ADDRESS"),
        ("dht::127.0.0.1:1", "dht:NAME:ADDRESS"),
        ("dht:../a:127.0.0.1:1", "dht:NAME:ADDRESS"),
        ("dht:-a:127.0.0.1:1", "dht:NAME:ADDRESS"),
        ("dht:%i:127.0.0.1:1", "dht:NAME:ADDRESS"),
        (f"dht:{65 * 'a'}:127.0.0.1:1", "dht:NAME:ADDRESS"),
        ("dht:a:127.0.0.1", "an address is host:port"),
        ("dht:a:127.0.0.1:0", "stays the same"),
        ("dht:a:127.0.0.1:99999", "a port is"),
        ("dht:a:example.org:1", "not on names"),
        ("dht:a:unix:relative", "begins with /"),
        ("dht:a:unix:/a b", "begins with /"),
        ("dht:a:unix:/a%i", "begins with /"),
    ],
)
def test_an_instance_that_cannot_be(instance: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_instance(instance)


def test_it_is_a_wrong_call_that_writes_nothing(tmp_path: Path) -> None:
    said = install_units(tmp_path, "--instance=dht:../a:127.0.0.1:1", status=2).stderr
    assert "Invalid value for '--instance': dht:NAME:ADDRESS" in said
    assert not laid_out(tmp_path)


@pytest.mark.parametrize("second", ["dht:a:127.0.0.1:10002", "queue:b:127.0.0.1:10001"])
def test_instances_that_are_in_each_others_way(tmp_path: Path, second: str) -> None:
    said = install_units(tmp_path, "--instance=dht:a:127.0.0.1:10001", f"--instance={second}", status=2).stderr
    assert "more than once" in said


@pytest.mark.parametrize("address", ["127.0.0.1:10101", "unix:/run/swarm/x.sock", "[::1]:10101"])
def test_the_address_of_another_instance_is_refused(tmp_path: Path, address: str) -> None:
    install_units(tmp_path, f"--instance=queue:x:{address}")
    before = laid_out(tmp_path)
    said = install_units(tmp_path, f"--instance=queue:y:{address}", status=1).stderr
    assert said.splitlines()[-1] == (
        f"swarm: queue:y cannot have the address {address}: queue@x has it, as "
        f"{tmp_path}/{UNITS}/queue@x.socket.d/address.conf says. Give it another one"
    )
    assert laid_out(tmp_path) == before
    install_units(tmp_path, f"--instance=queue:x:{address}")
    install_units(tmp_path, "--instance=queue:y:127.0.0.1:10102")


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file")
    assert install_units(tmp_path, status=1).stderr.splitlines()[-1].endswith("Not a directory")
    (tmp_path / "b/etc/swarm").mkdir(parents=True)
    for text in ("{", "\0", '{"a": '):
        (tmp_path / "b/etc/swarm/installed.json").write_text(text)
        assert "installed.json is damaged" in install_units(tmp_path / "b", status=1).stderr


@pytest.mark.parametrize("record", ["[]", "7", '{"a": [1]}', "null"])
def test_a_record_of_another_form_is_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "etc/swarm").mkdir(parents=True)
    (tmp_path / "etc/swarm/installed.json").write_text(record)
    (tmp_path / "etc/swarm/dht.ini").write_text("mine")
    install_units(tmp_path)
    assert (tmp_path / "etc/swarm/dht.ini").read_text() == "mine"


def test_commands_that_a_unit_cannot_name(tmp_path: Path) -> None:
    assert "characters" in install_units(tmp_path, "--python", "/with space/python", status=1).stderr
    assert "do not see /home/me/" in install_units(tmp_path, "--python", "/home/me/venv/bin/python").stderr
    assert install_units(tmp_path / "b", "--python", "/opt/swarm/bin/python").stderr == ""


@pytest.mark.parametrize("hidden", [True, False])
def test_a_venv_whose_python_is_in_a_home(tmp_path: Path, hidden: bool) -> None:
    """Made by hand: where services look for the commands is not hidden, and what they lead to is."""
    directory = Path(tempfile.mkdtemp(prefix="swarm-venv-", dir="/dev/shm"))
    try:
        python = directory / "bin" / "python3"
        python.parent.mkdir()
        python.symlink_to("/root/.pyenv/bin/python3" if hidden else "/dev/null")
        said = install_units(tmp_path, "--python", str(python)).stderr
        assert bool(said) == hidden
        if hidden:
            assert f"do not see /root/.pyenv/bin/python3, to which {python} leads" in said
            assert "/usr/bin/python3 -m venv /opt/swarm" in said
    finally:
        shutil.rmtree(directory)


def test_the_package_has_the_files() -> None:
    installed = files("swarm") / "etc"
    for file in (ROOT / "etc").rglob("*"):
        if file.is_file():
            relative = file.relative_to(ROOT / "etc")
            assert installed.joinpath(*relative.parts).read_bytes() == file.read_bytes()


def test_a_wheel_has_the_files(tmp_path: Path) -> None:
    """What a wheel holds is what build_py collects."""
    pytest.importorskip("setuptools", reason="needs setuptools (Debian: python3-setuptools)")
    copy, built = tmp_path / "checkout", tmp_path / "built"
    for name in ("swarm", "nodes", "dhtdump", "etc"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "import setuptools; setuptools.setup()",
        "-q",
        "build_py",
        "-d",
        str(built),
    ]
    subprocess.run(command, cwd=copy, check=True)
    assert (built / "nodes/dht/__main__.py").exists()
    for file in (ROOT / "etc").rglob("*"):
        if file.is_file():
            relative = file.relative_to(ROOT)
            assert (built / "swarm" / relative).read_bytes() == file.read_bytes()
            assert not (built / "swarm" / relative).is_symlink()
