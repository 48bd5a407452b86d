"""What `swarm doctor --local` looks for on the machine of the nodes, where `swarm install-units` has laid them out.

PREFIX/srv/KIND/NAME/etc/*.ini      may name files that hold secrets
                    /data           the node writes it
"""

import configparser
import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarm.core.health import disk_nearly_full
from swarm.monitor.checks import Check
from swarm.monitor.node_view import printable
from swarm.monitor.watch import KINDS

USER = "swarm"  # as whom the units run the nodes
SECRETS = (("node", "credentials"), ("dump", "credentials"), ("tls", "key"))
"""Sections and keys of configurations that name files with secrets; [tls] without a key has it in its certificate."""
AS_ROOT = "run this as root to look at secrets"

OTHERS = stat.S_IRWXO
SYSTEMD = Path("/run/systemd/system")  # is there where systemd runs
SYSTEMCTL_S = 10.0


@dataclass(frozen=True)
class Reader:
    """As whom the nodes of an instance run, who have to read its secrets."""

    name: str
    uid: int
    group: str
    gids: frozenset[int]

    def kept_out(self, path: Path, prefix: Path) -> Path | None:
        """The file, or the first directory on the way to it from the prefix on, that this user may not read or enter.
        Raises OSError."""
        if self.uid == 0:
            return None
        for each in (*reversed(path.parents), path):
            if each == path or (each != prefix and each.is_relative_to(prefix)):
                owner, group, others = (
                    (stat.S_IRUSR, stat.S_IRGRP, stat.S_IROTH)
                    if each == path
                    else (stat.S_IXUSR, stat.S_IXGRP, stat.S_IXOTH)
                )
                status = each.stat()
                bit = owner if status.st_uid == self.uid else group if status.st_gid in self.gids else others
                if not status.st_mode & bit:
                    return each
        return None

    def opened(self, path: Path) -> str:
        """The command that lets this user read a file, or enter a directory, and nobody else."""
        right = "rx" if path.is_dir() else "r"
        if path.stat().st_uid == self.uid:
            return f"chmod u+{right} {path}"
        return f"chgrp {self.group} {path}; chmod g+{right} {path}"


def _reader(data: Path, user: str) -> Reader:
    """The owner of the data directory, which the nodes write; without one, the user."""
    try:
        status = data.stat()
        uid, gid = status.st_uid, status.st_gid
    except OSError:
        uid, gid = _ids(user)
    try:
        entry = pwd.getpwuid(uid)
        name, gids = entry.pw_name, os.getgrouplist(entry.pw_name, entry.pw_gid)
        gid = entry.pw_gid
    except KeyError:
        name, gids = str(uid), [gid]
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return Reader(name, uid, group, frozenset(gids))


def check_machine(prefix: Path, user: str = USER) -> list[Check]:
    """prefix: below which srv is; units are looked at where it is the root and systemd runs.
    user: as whom the nodes run; who calls this, where there is no such user.
    """
    directories = [path for kind in KINDS for path in sorted((prefix / "srv" / kind).glob("*")) if path.is_dir()]
    if not directories:
        return [
            Check(
                "instances",
                printable(prefix / "srv"),
                False,
                "there is no node below it",
                "name the prefix that was given to `swarm install-units`, or run this on the machine of the nodes",
            )
        ]
    checks: list[Check] = []
    for directory in directories:
        if prefix == Path("/") and SYSTEMD.exists():
            checks += check_units(directory)
        checks += _secrets(directory, prefix, user)
        checks += _data(directory / "data", user)
    return checks


def check_units(directory: Path) -> Iterator[Check]:
    """Whether the node of this directory starts with the machine, and its dhtdump. systemctl is asked."""
    kind, name = directory.parent.name, directory.name
    alternatives: list[tuple[str, ...]] = [(f"{kind}@{name}.service", f"{kind}@{name}.socket")]
    if kind == "dht":
        alternatives.append((f"dhtdump@{name}.service",))
    for units in alternatives:
        states = {unit: _is_enabled(unit) for unit in units}
        enabled = [unit for unit, state in states.items() if state.startswith("enabled")]
        said = ", ".join(f"{unit} is {state}" for unit, state in states.items())
        advice = "" if enabled else f"systemctl enable --now {' '.join(units)}"
        yield Check("unit", printable(units[0]), bool(enabled), printable(said), printable(advice))


def _is_enabled(unit: str) -> str:
    try:
        done = subprocess.run(
            ["systemctl", "is-enabled", "--", unit], capture_output=True, text=True, timeout=SYSTEMCTL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not known ({error})"
    return done.stdout.strip() or "not installed"


def _secrets(directory: Path, prefix: Path, user: str) -> Iterator[Check]:
    etc = directory / "etc"
    try:
        inis = sorted(path for path in etc.iterdir() if path.suffix == ".ini")
    except PermissionError:
        yield Check("secrets", printable(etc), None, AS_ROOT)
        return
    except OSError:
        return  # nothing is configured
    reader = _reader(directory / "data", user)
    for ini in inis:
        config = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            config.read_string(ini.read_text(encoding="utf-8"))
        except PermissionError:
            yield Check("secrets", printable(ini), None, AS_ROOT)
            continue
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            text = printable(str(error).splitlines()[0])
            yield Check("secrets", printable(ini), False, f"it cannot be read: {text}", "mend the file")
            continue
        for key, name in _secret_files(config):
            path = prefix / name.lstrip("/") if name.startswith("/") else directory / name
            yield _secret(path, f"{key} in {ini}", prefix, reader)


def _secret_files(config: configparser.RawConfigParser) -> Iterator[tuple[str, str]]:
    """Keys of a configuration, and the files with secrets that they name."""
    for section, key in SECRETS:
        if name := config.get(section, key, fallback=None):
            yield key, name
    if not config.get("tls", "key", fallback=None) and (name := config.get("tls", "certificate", fallback=None)):
        yield "certificate", name


def _secret(path: Path, named_by: str, prefix: Path, reader: Reader) -> Check:
    subject = printable(path)
    try:
        mode = path.stat().st_mode
        closed = reader.kept_out(path, prefix)
    except PermissionError:
        return Check("secrets", subject, None, AS_ROOT)
    except OSError as error:
        return Check("secrets", subject, False, printable(f"{error.strerror} ({named_by})"), "bring the file there")
    if mode & OTHERS:
        found = f"everybody on this machine can read or write it (mode {stat.S_IMODE(mode):04o})"
        return Check("secrets", subject, False, found, f"chmod o= {subject}, and replace the secret that it holds")
    if closed:
        found = f"the nodes' user ({reader.name}) may not {'read it' if closed == path else f'enter {closed}'}"
        return Check("secrets", subject, False, printable(found), printable(reader.opened(closed)))
    return Check("secrets", subject, True, f"mode {stat.S_IMODE(mode):04o}")


def _data(path: Path, user: str) -> Iterator[Check]:
    subject = printable(path)
    try:
        status = path.stat()
    except OSError as error:
        yield Check("data", subject, False, error.strerror or str(error), f"install -d -o {user} -g {user} {subject}")
        return
    uid, gid = _ids(user)
    if not stat.S_ISDIR(status.st_mode) or not _may_write(status, uid, gid):
        found = f"the nodes' user may not write it (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})"
        yield Check("data", subject, False, found, f"chown -R {user} {subject}; chmod u=rwx {subject}")
    elif status.st_mode & stat.S_IWOTH:
        yield Check("data", subject, False, "everybody on this machine may write it", f"chmod o-w {subject}")
    else:
        yield Check("data", subject, True, "the nodes' user may write it")
    full = disk_nearly_full([path])(False)
    yield Check("disk", subject, not full, full or "there is room", "make room, or move the data" if full else "")


def _ids(user: str) -> tuple[int, int]:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return os.getuid(), os.getgid()
    return entry.pw_uid, entry.pw_gid


def _may_write(status: os.stat_result, uid: int, gid: int) -> bool:
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IWUSR)
    return bool(status.st_mode & (stat.S_IWGRP if status.st_gid == gid else stat.S_IWOTH))
