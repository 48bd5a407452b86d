"""`swarm credentials`, and commands that log in."""

import fcntl
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from commands import swarm

from nodes.dht.config import DhtConfig
from nodes.dht.config import NodeSection as DhtNodeSection
from nodes.logfiles.config import LogfilesConfig
from nodes.logfiles.config import NodeSection as LogfilesNodeSection
from nodes.queue.config import NodeSection as QueueNodeSection
from nodes.queue.config import QueueConfig
from swarm.core.credentials import read_credentials, read_known_clients
from swarm.testing import DhtProcess, LogfilesProcess, QueueProcess
from tests.waiting import PATIENCE_S


def add(file: Path, name: str, *options: str) -> "subprocess.CompletedProcess[bytes]":
    return swarm("credentials", "add", name, "--file", str(file), *options)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_add_makes_the_file_and_prints_the_clients_line(tmp_path: Path) -> None:
    file = tmp_path / "node"
    done = add(file, "alice", "--read", "*", "--write", "orders-*,tmp")
    assert done.returncode == 0, done.stderr
    assert mode_of(file) == 0o600
    known = read_known_clients(file)["alice"]
    assert done.stdout.decode() == known.credentials.to_line() + "\n"
    assert str(known.permissions) == "read=* write=orders-*,tmp"
    told = done.stderr.decode()
    assert "SIGHUP" in told
    assert "systemctl reload" in told
    assert str(file) in told
    assert known.credentials.key.hex() not in told


def test_add_writes_the_clients_file(tmp_path: Path) -> None:
    file, mine = tmp_path / "node", tmp_path / "mine"
    done = add(file, "alice", "--read", "*", "--client-file", str(mine))
    assert (done.returncode, done.stdout) == (0, b"")
    assert mode_of(mine) == 0o600
    assert read_credentials(mine) == read_known_clients(file)["alice"].credentials
    before = mine.read_bytes(), file.read_bytes()
    done = add(file, "bob", "--read", "*", "--client-file", str(mine))
    assert (done.returncode, (mine.read_bytes(), file.read_bytes())) == (2, before)
    assert b"is there already" in done.stderr


def test_a_clients_file_that_is_replaced_keeps_its_owner_and_mode(tmp_path: Path) -> None:
    file, mine = tmp_path / "node", tmp_path / "mine"
    mine.write_text("old")
    mine.chmod(0o640)
    if os.geteuid() == 0:  # nobody else can give files away
        os.chown(mine, 1234, 4321)
    before = mine.stat()
    assert add(file, "alice", "--read", "*", "--client-file", str(mine), "--replace").returncode == 0
    after = mine.stat()
    assert (after.st_uid, after.st_gid, mode_of(mine)) == (before.st_uid, before.st_gid, 0o640)
    assert mine.read_text() == read_known_clients(file)["alice"].credentials.to_line() + "\n"
    mine.chmod(0o666)
    assert add(file, "alice", "--read", "*", "--client-file", str(mine), "--replace").returncode == 0
    assert mode_of(mine) == 0o640, "others cannot read it, and its group cannot write it"


@pytest.mark.parametrize("options", [[], ["--replace"]])
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_clients_file_that_is_a_link_is_not_followed(options: list[str], there: bool, tmp_path: Path) -> None:
    file, link, elsewhere = tmp_path / "node", tmp_path / "mine", tmp_path / "elsewhere"
    if there:
        elsewhere.write_text("not mine")
    link.symlink_to(elsewhere)
    done = add(file, "alice", "--read", "*", "--client-file", str(link), *options)
    assert done.returncode == 2
    assert (b"no regular file" if options else b"is there already") in done.stderr
    assert link.is_symlink()
    assert elsewhere.read_text() == "not mine" if there else not elsewhere.exists()
    assert not file.exists(), "nobody has the key"


def test_keys_are_random(tmp_path: Path) -> None:
    file = tmp_path / "node"
    for number in range(3):
        assert add(file, f"c{number}", "--read", "*").returncode == 0
    assert len({client.credentials.key for client in read_known_clients(file).values()}) == 3


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "node"
    before = f"# ours\n\n  alice:{'ab' * 32}:read=a   # old\n#bob:gone\nzoe:{'cd' * 32}:admin=*"
    file.write_text(before)
    file.chmod(0o640)
    assert add(file, "bob", "--write", "b").returncode == 0
    assert mode_of(file) == 0o640
    lines = file.read_text().splitlines()
    assert lines[:-1] == before.splitlines()
    assert lines[-1].startswith("bob:")
    done = add(file, "alice", "--write", "b")
    assert done.returncode == 2
    assert b"alice is in " in done.stderr
    assert b"--replace" in done.stderr
    assert file.read_text().splitlines() == lines
    assert add(file, "alice", "--write", "b", "--replace").returncode == 0
    replaced = file.read_text().splitlines()
    assert replaced[:2] + replaced[3:] == lines[:2] + lines[3:]
    assert replaced[2].startswith("alice:")
    assert replaced[2].endswith(":write=b  # old")
    assert "abab" not in replaced[2], "the key is another one"
    assert swarm("credentials", "revoke", "alice", "--file", str(file)).returncode == 0
    assert file.read_text().splitlines() == replaced[:2] + replaced[3:]
    assert {path.name for path in tmp_path.iterdir()} == {"node"}


def test_a_file_of_another_owner_keeps_him(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    file = tmp_path / "node"
    file.write_text("")
    file.chmod(0o640)
    os.chown(file, 1234, 4321)
    assert add(file, "alice", "--read", "*").returncode == 0
    assert (file.stat().st_uid, file.stat().st_gid, mode_of(file)) == (1234, 4321, 0o640)


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file, link = tmp_path / "etc" / "node", tmp_path / "link"
    assert add(file, "alice", "--read", "*").returncode == 0
    link.symlink_to(file)
    assert add(link, "bob", "--read", "*").returncode == 0
    assert link.is_symlink()
    assert set(read_known_clients(file)) == {"alice", "bob"}


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "node"
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda number: add(file, f"c{number}", "--read", "*"), range(8)))
    assert [each.returncode for each in done] == [0] * 8
    assert set(read_known_clients(file)) == {f"c{number}" for number in range(8)}


def test_who_can_read_the_directory_cannot_hold_the_command_up(tmp_path: Path) -> None:
    file = tmp_path / "node"
    assert add(file, "alice", "--read", "*").returncode == 0
    file.chmod(0o640)
    held = [os.open(path, os.O_RDONLY) for path in (tmp_path, file)]
    for descriptor in held:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    done = swarm("credentials", "revoke", "alice", "--file", str(file))
    for descriptor in held:
        os.close(descriptor)
    assert done.returncode == 0, done.stderr
    assert read_known_clients(file) == {}


def test_a_command_that_does_not_end_is_told_to_the_next(tmp_path: Path) -> None:
    file, lock = tmp_path / "node", tmp_path / ".node.lock"
    assert add(file, "alice", "--read", "*").returncode == 0
    lock.touch(0o600)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = swarm("credentials", "revoke", "alice", "--file", str(file))
    assert done.returncode == 1
    assert f"somebody else holds {lock}" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert set(read_known_clients(file)) == {"alice"}
    done = swarm("credentials", "revoke", "alice", "--file", str(file))
    assert done.returncode == 0, "one that a killed command has left does no harm"
    assert not lock.exists()


def test_a_lock_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".node.lock").symlink_to(tmp_path / "elsewhere")
    done = add(tmp_path / "node", "alice", "--read", "*")
    assert done.returncode == 1
    assert b".node.lock" in done.stderr
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "alice"], "needs a permission at least"),
        (["add", "al ice", "--read", "*"], "the name of a client has 1 to 64 characters"),
        (["add", "alice", "--read", "a b"], "is no permission"),
        (["add", "alice", "--read", ""], "the name of a channel is expected"),
        (["add", "alice", "--read", "*x"], "the name of a channel is expected"),
        (["revoke", "nobody"], "is not in"),
        (["add"], "Missing argument 'NAME'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_calls_change_nothing(arguments: list[str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "node"
    assert add(file, "zoe", "--read", "*").returncode == 0
    before = file.read_bytes()
    done = swarm("credentials", *arguments, "--file", str(file))
    assert done.returncode in (1, 2)
    assert told in done.stderr.decode()
    assert file.read_bytes() == before


def test_a_file_with_a_mistake_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "node"
    file.write_text("alice:123:read=*\n")
    file.chmod(0o600)
    for command in (["add", "bob", "--read", "*"], ["revoke", "alice"], ["list"]):
        done = swarm("credentials", *command, "--file", str(file))
        assert done.returncode == 2
        assert f"{file}:1: the key of client alice" in done.stderr.decode()
    assert file.read_text() == "alice:123:read=*\n"
    file.chmod(0o644)
    assert b"chmod 640" in swarm("credentials", "list", "--file", str(file)).stderr


def test_no_file(tmp_path: Path) -> None:
    for command in (["revoke", "alice"], ["list"]):
        done = swarm("credentials", *command, "--file", str(tmp_path / "missing"))
        assert done.returncode == 2
        assert b"cannot read the credentials file" in done.stderr
    assert add(tmp_path / "no" / "directory", "alice", "--read", "*").returncode == 1


def test_list_shows_permissions_and_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "node"
    add(file, "zoe", "--admin", "*")
    add(file, "alice", "--read", "*", "--write", "orders-*,tmp")
    done = swarm("credentials", "list", "--file", str(file))
    assert [line.split() for line in done.stdout.decode().splitlines()] == [
        ["name", "read", "write", "admin"],
        ["alice", "*", "orders-*,tmp", "-"],
        ["zoe", "-", "-", "*"],
    ]


# Commands that log in.


@pytest.mark.parametrize("kind", ["dht", "queue", "logfiles"])
def test_commands_log_in(kind: str, tmp_path: Path) -> None:
    file, mine, poor = tmp_path / "node", tmp_path / "mine", tmp_path / "poor"
    add(file, "alice", "--read", "*", "--write", "*", "--client-file", str(mine))
    add(file, "poor", "--read", "c", "--client-file", str(poor))
    node: DhtProcess | QueueProcess | LogfilesProcess
    if kind == "dht":
        node = DhtProcess(tmp_path / "d", DhtConfig(node=DhtNodeSection(credentials=str(file))))
    elif kind == "queue":
        node = QueueProcess(tmp_path / "d", QueueConfig(node=QueueNodeSection(credentials=str(file))))
    else:
        node = LogfilesProcess(tmp_path / "d", LogfilesConfig(node=LogfilesNodeSection(credentials=str(file))))
    put = {"dht": ["put", "c", "key", "value"], "queue": ["push", "c", "value"], "logfiles": ["put", "c", "value"]}[
        kind
    ]
    with node:
        at = [kind, "--node", node.address]
        done = swarm(*at, "--credentials", str(mine), *put)
        assert done.returncode == 0, done.stderr
        done = swarm(*at, "channels", environment={"SWARM_CREDENTIALS": str(mine)})
        assert done.stdout.startswith(b"c\t"), done.stderr
        done = swarm(*at, "channels")
        assert done.returncode == 1
        assert b"asks for credentials" in done.stderr
        assert b"SWARM_CREDENTIALS" in done.stderr
        done = swarm(*at, "--credentials", str(poor), *put)
        assert done.returncode == 1
        assert b"client poor has no write permission for channel c" in done.stderr
        done = swarm(*at, "--credentials", str(file), "channels")
        assert done.returncode == 2
        assert b"permissions belong into the file of a node" in done.stderr
        mine.chmod(0o644)
        done = swarm(*at, "--credentials", str(mine), "channels")
        assert done.returncode == 2
        assert b"chmod 640" in done.stderr


def test_dhtdump_logs_in(tmp_path: Path) -> None:
    file, dump, poor = tmp_path / "node", tmp_path / "dump", tmp_path / "poor"
    add(file, "dump", "--read", "*", "--admin", "*", "--client-file", str(dump))
    add(file, "poor", "--read", "*", "--client-file", str(poor))
    config = replace(DhtConfig(), node=DhtNodeSection(credentials=str(file)))
    with DhtProcess(tmp_path / "d", config) as node:
        command = [sys.executable, "-m", "dhtdump", "--node", node.address, "--oneshot"]
        command += ["--dump-dir", str(tmp_path / "d" / "data" / "dump")]

        def run(*options: str) -> "subprocess.CompletedProcess[bytes]":
            return subprocess.run([*command, *options], capture_output=True, timeout=PATIENCE_S, check=False)

        assert run("--credentials", str(dump)).returncode == 0
        refused = run("--credentials", str(poor))
        assert refused.returncode == 1
        assert b"client poor has no admin permission for all channels" in refused.stderr
        assert b"asks for credentials" in run().stderr
        missing = run("--credentials", str(tmp_path / "missing"))
        assert missing.returncode == 78
        assert b"cannot read the credentials file" in missing.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_a_new_file_of_a_node_can_be_read_by_the_group_of_its_directory(tmp_path: Path) -> None:
    group = 12345
    os.chown(tmp_path, -1, group)
    file = tmp_path / "credentials"
    for options in (["a", "--read", "*"], ["b", "--read", "*"]):
        done = swarm("credentials", "add", *options, "--file", str(file))
        assert done.returncode == 0, done.stderr
        assert (file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (group, 0o640)
    assert list(read_known_clients(file)) == ["a", "b"]
