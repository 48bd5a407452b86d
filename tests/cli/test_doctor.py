"""`swarm doctor` with real nodes and broken ones, and with the files of an installation."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.dht.config import DhtConfig, NodeSection
from nodes.dht.dump_age import DumpAge
from swarm import __version__
from swarm.blocking import DhtClient
from swarm.core.limits import MIB
from swarm.dht.hash_range import HASH_MAX, HashRange, split_evenly
from swarm.monitor import NodeView, Reason
from swarm.monitor.checks import Check, check_nodes
from swarm.monitor.local_checks import Reader, check_machine, check_units
from swarm.testing import DhtProcess, LogfilesProcess, QueueProcess
from tests.certificates import EXPIRED, Authority
from tests.cli.commands import swarm
from tests.monitor.hostile import for_stats, hostile_node

NOWHERE = "127.0.0.1:1"
SOMEBODY = 65534  # neither root nor who owns the tests' files
NOBODY = "no-such-user"  # so that the nodes are taken to be run by who runs the tests


def findings(*options: str) -> list[tuple[str, str, str]]:
    """Name, subject and text of what it finds; its exit status says whether that is anything."""
    done = swarm("doctor", "--json", "--timeout", "2s", *options)
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["healthy"] else 1)
    found = [each for each in told["checks"] if each["ok"] is False]
    assert bool(found) != told["healthy"]
    assert all(each["advice"] for each in found)
    return [(each["name"], each["subject"], each["found"]) for each in found]


def test_a_swarm_that_is_well(tmp_path: Path) -> None:
    with (
        DhtProcess(tmp_path / "d") as dht,
        QueueProcess(tmp_path / "q") as queue,
        LogfilesProcess(tmp_path / "l") as logs,
    ):
        options = ("--dht", dht.address, "--queue", queue.address, "--logfiles", logs.address)
        assert findings(*options) == []
        done = swarm("doctor", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    *lines, last = done.stdout.decode().splitlines()
    assert last == "0 findings"
    assert all(line.startswith("✓") for line in lines)
    assert {line.split()[1] for line in lines} == {"reachable", "version", "hash", "dump", "health"}


def test_each_way_not_to_be_reachable(tmp_path: Path) -> None:
    with (
        QueueProcess(tmp_path / "queue") as queue,
        DhtProcess(tmp_path / "dht") as hangs,
        hostile_node("dht", lambda code: "garbage") as garbage,
        hangs.paused(),
    ):
        found = findings("--dht", ",".join([NOWHERE, queue.address, hangs.address, garbage, "no-such-host.invalid:1"]))
    assert [(name, subject) for name, subject, _ in found] == [
        ("reachable", f"dht {address}")
        for address in (NOWHERE, queue.address, hangs.address, garbage, "no-such-host.invalid:1")
    ]
    texts = [text.partition(":")[0] for _, _, text in found]
    assert texts == ["refused", "kind", "timeout", "protocol", "unreachable"]


def test_a_login_that_is_missing_or_wrong_is_told(tmp_path: Path) -> None:
    known = tmp_path / "known"
    options = {"reader": ("--read", "*"), "writer": ("--write", "*"), "admin": ("--read", "*", "--admin", "*")}
    for name, permissions in options.items():
        mine = ("--client-file", str(tmp_path / name))
        assert swarm("credentials", "add", name, "--file", str(known), *permissions, *mine).returncode == 0
    (tmp_path / "stranger").write_text(f"reader:{'00' * 32}\n")
    (tmp_path / "stranger").chmod(0o600)
    config = DhtConfig(node=NodeSection(credentials=str(known)))
    with DhtProcess(tmp_path / "node", config) as node:
        told = {
            name: findings("--dht", node.address, *(("--credentials", str(tmp_path / name)) if name else ()))
            for name in ("", "stranger", "writer", "reader", "admin")
        }
    for name in ("", "stranger"):
        [(check, subject, text)] = told[name]
        assert (check, subject) == ("reachable", f"dht {node.address}")
        assert text.startswith("credentials: ")
    assert told["reader"] == told["writer"] == told["admin"] == []  # figures are for every client that has logged in


def test_tls_that_is_missing_or_wrong_is_told(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    with (
        DhtProcess(tmp_path / "tls", DhtConfig(tls=authority.node())) as with_tls,
        DhtProcess(tmp_path / "plain") as plain,
    ):
        assert findings("--dht", with_tls.address, "--tls-ca", str(authority.ca)) == []
        for options in (
            ("--dht", with_tls.address),
            ("--dht", with_tls.address, "--tls-ca", str(stranger.ca)),
            ("--dht", plain.address, "--tls-ca", str(authority.ca)),
        ):
            [(check, _, text)] = findings(*options)
            assert (check, text.partition(":")[0]) == ("reachable", "tls")


def test_a_certificate_that_has_expired_is_to_be_renewed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with DhtProcess(tmp_path / "node", DhtConfig(tls=authority.node(**EXPIRED))) as node:
        assert "has expired on 2002-01-01" in (tmp_path / "node/data/root.log").read_text()
        done = swarm("doctor", "--json", "--dht", node.address, "--tls-ca", str(authority.ca))
    check = json.loads(done.stdout)["checks"][0]
    assert check["ok"] is False
    assert "certificate has expired" in check["found"]
    assert check["advice"] == "renew its certificate, and send it SIGHUP (systemctl reload)"


def test_another_version_is_a_finding() -> None:
    with hostile_node("queue", for_stats({}), software="queuenode 0.0.9") as address:
        assert findings("--queue", address) == [
            ("version", f"queue {address}", f"it runs queuenode 0.0.9, this is swarm {__version__}")
        ]


def test_what_a_node_finds_wrong_with_itself_is_a_finding(tmp_path: Path) -> None:
    config = DhtConfig(node=NodeSection(memory_limit=2 * MIB))
    with DhtProcess(tmp_path, config) as node, DhtClient(node.address) as dht:
        for number in range(11):
            dht.put("channel", f"key {number}", b"x" * 180_000)
        [(name, subject, text)] = findings("--dht", node.address)
    assert (name, subject) == ("health", f"dht {node.address}")
    assert text.startswith("memory_nearly_full: ")


@pytest.mark.parametrize(
    ("ranges", "texts"),
    [
        ([HashRange(0, 99), HashRange(100, HASH_MAX)], []),
        ([HashRange(0, 99), HashRange(101, HASH_MAX)], [f"gap: {HashRange(100, 100)}"]),
        ([HashRange(0, 100), HashRange(100, HASH_MAX)], [f"overlap: {HashRange(100, 100)}"]),
        ([HashRange(5, 100)], [f"gap: {HashRange(0, 4)}", f"gap: {HashRange(101, HASH_MAX)}"]),
        ([HashRange(), HashRange()], [f"overlap: {HashRange()}"]),
    ],
)
def test_gaps_and_overlaps(ranges: list[HashRange], texts: list[str]) -> None:
    assert failed(check_nodes([up(hash_range=each) for each in ranges])) == [f"hash ranges: {text}" for text in texts]


def test_a_gap_between_real_nodes(tmp_path: Path) -> None:
    ranges = (HashRange(0, 99), HashRange(101, HASH_MAX))
    first, second = (DhtConfig(node=NodeSection(hash_range=each)) for each in ranges)
    with DhtProcess(tmp_path / "1", first) as one, DhtProcess(tmp_path / "2", second) as other:
        found = findings("--dht", f"{one.address},{other.address}")
    assert found == [("hash ranges", "", f"gap: {HashRange(100, 100)}")]


def up(kind: str = "dht", **figures: object) -> NodeView:
    values = {"version": f"x {__version__}", "hash_range": HashRange() if kind == "dht" else None, "reason": None}
    return NodeView(kind, NOWHERE, "up", **values | figures)  # type: ignore[arg-type]


def failed(checks: list[Check]) -> list[str]:
    return [f"{check.name}: {check.found}" for check in checks if check.ok is False]


def test_a_dump_that_is_too_old_is_a_finding_of_the_dump() -> None:
    old = up(dump_age_s=90_000.0, findings=(("dump_too_old", "the last dump is 25.0 h old"),))
    checks = check_nodes([old])
    assert failed(checks) == ["dump: dump_too_old: the last dump is 25.0 h old"]
    assert "health" not in {check.name for check in checks}, "and nothing says that the node finds nothing"
    assert failed(check_nodes([up(dump_age_s=3600.0)])) == []


def test_what_is_to_be_done_about_a_dump_is_said_once(tmp_path: Path) -> None:
    hours = 20 * 3600.0
    rule = DumpAge(tmp_path, journaled=True, clock=iter([0.0, hours]).__next__).rule(False)
    assert rule
    [check] = [check for check in check_nodes([up(findings=(("dump_too_old", rule),))]) if check.name == "dump"]
    assert f"{check.found} {check.advice}".count("dhtdump") == 1


def test_one_node_covers_and_two_cover() -> None:
    for ranges, text in [([HashRange()], "1 dht node covers all"), (split_evenly(2), "2 dht nodes cover all")]:
        [check] = [each for each in check_nodes([up(hash_range=each) for each in ranges]) if each.name == "hash ranges"]
        assert check.found.startswith(text)


def test_ranges_are_not_known_before_every_dht_node_has_answered() -> None:
    dead = NodeView("dht", NOWHERE).down(Reason.REFUSED, "Connection refused")
    [check] = [check for check in check_nodes([up(), dead]) if check.name == "hash ranges"]
    assert check.ok is None


def test_every_reason_has_an_advice() -> None:
    for reason in Reason:
        [check] = check_nodes([NodeView("queue", NOWHERE).down(reason, "why")])
        assert check.advice


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Path]:
    """As `swarm install-units --prefix` lays it out, with a login and TLS."""
    node = tmp_path / "srv" / "dht" / "a"
    (node / "etc").mkdir(parents=True)
    (node / "data").mkdir(mode=0o750)
    (node / "etc" / "dht.ini").write_text(
        "[node]\ncredentials = etc/credentials\n[tls]\ncertificate = etc/node.pem\nkey = /srv/dht/a/etc/node.key\n"
    )
    for name in ("credentials", "node.key"):
        (node / "etc" / name).touch(mode=0o640)
    (node / "data").chmod(0o750)
    yield tmp_path
    (node / "data").chmod(0o750)


def local_failures(prefix: Path) -> list[tuple[str, str]]:
    return [
        (check.name, check.found)
        for check in check_machine(prefix, NOBODY)
        if check.ok is False and check.name != "disk"
    ]


def test_an_installation_that_is_well(installation: Path) -> None:
    assert local_failures(installation) == []
    assert [check.name for check in check_machine(installation, NOBODY)] == ["secrets", "secrets", "data", "disk"]


@pytest.mark.parametrize("name", ["credentials", "node.key"])
@pytest.mark.parametrize("mode", [0o644, 0o642, 0o641])
def test_secrets_that_others_can_read_are_a_finding(installation: Path, name: str, mode: int) -> None:
    (installation / "srv/dht/a/etc" / name).chmod(mode)
    [(check, found)] = local_failures(installation)
    assert check == "secrets"
    assert f"{mode:04o}" in found


def test_secrets_that_are_missing_are_a_finding(installation: Path) -> None:
    (installation / "srv/dht/a/etc/node.key").unlink()
    [(check, found)] = local_failures(installation)
    assert check == "secrets"
    assert found.startswith("No such file or directory (key in ")


def test_a_key_in_the_file_of_its_certificate_is_a_secret(installation: Path) -> None:
    etc = installation / "srv/dht/a/etc"
    (etc / "dht.ini").write_text("[tls]\ncertificate = etc/node.pem\n")
    (etc / "node.pem").touch(mode=0o644)
    (etc / "node.pem").chmod(0o644)
    [(check, found)] = local_failures(installation)
    assert (check, "0644" in found) == ("secrets", True)


def stranger() -> Reader:
    """To whom nothing of this test belongs."""
    return Reader("swarm", os.getuid() + 1, "swarms", frozenset({os.getgid() + 1}))


def test_a_secret_that_the_nodes_may_not_read(installation: Path) -> None:
    etc = installation / "srv/dht/a/etc"
    etc.chmod(0o755)
    (etc / "node.key").chmod(0o640)
    assert stranger().kept_out(etc / "node.key", installation) == etc / "node.key"
    assert stranger().opened(etc / "node.key") == f"chgrp swarms {etc}/node.key; chmod g+r {etc}/node.key"
    (etc / "node.key").chmod(0o644)
    assert stranger().kept_out(etc / "node.key", installation) is None
    etc.chmod(0o750)
    assert stranger().kept_out(etc / "node.key", installation) == etc
    assert stranger().opened(etc) == f"chgrp swarms {etc}; chmod g+rx {etc}"


def test_owner_and_group_are_told_apart(installation: Path) -> None:
    key = installation / "srv/dht/a/etc/node.key"
    mine = Reader("me", os.getuid() or 1, "mine", frozenset({os.getgid()}))
    key.chmod(0o640)
    assert mine.kept_out(key, installation) is None
    key.chmod(0o200)
    assert mine.kept_out(key, installation) == key
    assert Reader("root", 0, "root", frozenset({0})).kept_out(key, installation) is None


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have files of two users")


@needs_root
def test_secrets_of_root_that_the_owner_of_the_data_may_not_read(installation: Path) -> None:
    node = installation / "srv/dht/a"
    os.chown(node / "data", SOMEBODY, SOMEBODY)
    for name in (".", "credentials", "node.key"):
        os.chown(node / "etc" / name, 0, SOMEBODY)
    (node / "etc").chmod(0o750)
    assert [found for name, found in local_failures(installation) if name == "secrets"] == []
    os.chown(node / "etc/node.key", 0, 0)
    [check] = [each for each in check_machine(installation, NOBODY) if each.name == "secrets" and each.ok is False]
    assert check.subject == str(node / "etc/node.key")
    assert "may not read it" in check.found
    assert check.advice.endswith(f"; chmod g+r {node}/etc/node.key")
    for command in check.advice.split("; "):
        subprocess.run(command.split(), check=True)
    assert [found for name, found in local_failures(installation) if name == "secrets"] == []


@needs_root
def test_who_may_not_look_at_secrets_is_told_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        prefix, etc = Path(name), Path(name) / "srv/dht/a/etc"
        etc.mkdir(parents=True)
        (prefix / "srv/dht/a/data").mkdir()
        prefix.chmod(0o755)
        etc.chmod(0o700)
        os.seteuid(SOMEBODY)
        try:
            checks = [check for check in check_machine(prefix, NOBODY) if check.name == "secrets"]
            assert checks == [Check("secrets", str(etc), None, "run this as root to look at secrets")]
        finally:
            os.seteuid(0)
        (etc / "dht.ini").write_text("[node]\ncredentials = secret/credentials\n")
        etc.chmod(0o755)
        (prefix / "srv/dht/a/secret").mkdir(mode=0o700)
        os.seteuid(SOMEBODY)
        try:
            [check] = [check for check in check_machine(prefix, NOBODY) if check.name == "secrets"]
            assert (check.ok, check.found) == (None, "run this as root to look at secrets")
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("text", [b"credentials = x\n", b"\xff\xfe", b"[node\n"])
def test_a_configuration_that_cannot_be_read_is_a_finding(installation: Path, text: bytes) -> None:
    (installation / "srv/dht/a/etc/dht.ini").write_bytes(text)
    [(check, found)] = local_failures(installation)
    assert (check, found.partition(":")[0]) == ("secrets", "it cannot be read")


@pytest.mark.parametrize(
    ("mode", "said"), [(0o550, "may not write it"), (0o757, "everybody on this machine may write it")]
)
def test_a_data_directory_with_a_wrong_mode_is_a_finding(installation: Path, mode: int, said: str) -> None:
    (installation / "srv/dht/a/data").chmod(mode)
    [(check, found)] = local_failures(installation)
    assert check == "data"
    assert said in found


def test_a_data_directory_that_is_missing_or_none_is_a_finding(installation: Path) -> None:
    data = installation / "srv/dht/a/data"
    data.rmdir()
    assert local_failures(installation) == [("data", "No such file or directory")]
    data.touch()
    assert local_failures(installation)[0][0] == "data"
    data.unlink()
    data.mkdir()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs systemctl (Debian package systemd)")
def test_units_that_are_not_enabled_are_a_finding() -> None:
    found = list(check_units(Path("/srv/dht/no-such-instance")))
    assert [(check.name, check.subject, check.ok) for check in found] == [
        ("unit", f"{unit}@no-such-instance.service", False) for unit in ("dht", "dhtdump")
    ]
    assert found[1].advice == "systemctl enable --now dhtdump@no-such-instance.service"


def test_where_there_is_no_systemctl_units_are_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [check] = check_units(Path("/srv/queue/a"))
    assert (check.ok, check.advice) == (False, "systemctl enable --now queue@a.service queue@a.socket")
    assert "not known" in check.found


def test_where_nothing_is_installed_that_is_a_finding(tmp_path: Path) -> None:
    assert [name for name, _ in local_failures(tmp_path)] == ["instances"]


def test_the_machine_is_looked_at_too(installation: Path, tmp_path: Path) -> None:
    (installation / "srv/dht/a/etc/credentials").chmod(0o644)
    with QueueProcess(tmp_path / "queue") as queue:
        found = findings("--queue", queue.address, "--local", str(installation))
    assert [(name, subject) for name, subject, _ in found if name == "secrets"] == [
        ("secrets", str(installation / "srv/dht/a/etc/credentials"))
    ]


def test_nothing_that_a_node_sends_reaches_the_terminal_raw() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n"
    answers = {4: {}, 10: [[evil, evil]], 11: []}
    with hostile_node("dht", lambda code: answers[code], software=evil) as address:
        for options in ((), ("--json",)):
            done = swarm("doctor", "--dht", address, *options)
            assert done.returncode == 1
            assert done.stdout.decode().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "options", [("--dht", "nowhere"), ("--dht", NOWHERE, "--timeout", "0s"), ("--dht", NOWHERE, "--no-such")]
)
def test_wrong_calls_have_status_2(options: tuple[str, ...]) -> None:
    done = swarm("doctor", *options)
    assert (done.returncode, done.stdout) == (2, b"")
