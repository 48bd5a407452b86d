"""What `swarm doctor --local` looks for on the machine of the nodes, where `swarm install-units` has laid them out.

PREFIX/srv/KIND/NAME/etc/*.ini      may name files that hold secrets
                    /data           the node writes it
"""

import configparser
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from swarm.core.health import disk_nearly_full
from swarm.monitor.checks import Check
from swarm.monitor.node_view import printable
from swarm.monitor.watch import KINDS

USER = "swarm"  # as whom the units run the nodes
SECRETS = (("node", "credentials"), ("dump", "credentials"), ("tls", "key"))
"""Sections and keys of configurations that name files with secrets."""

OTHERS = stat.S_IRWXO
SYSTEMD = Path("/run/systemd/system")  # is there where systemd runs
SYSTEMCTL_S = 10.0


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
        checks += _secrets(directory, prefix)
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


def _secrets(directory: Path, prefix: Path) -> Iterator[Check]:
    for ini in sorted((directory / "etc").glob("*.ini")):
        config = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            config.read_string(ini.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            text = printable(str(error).splitlines()[0])
            yield Check("secrets", printable(ini), False, f"it cannot be read: {text}", "run this as root")
            continue
        for section, key in SECRETS:
            if name := config.get(section, key, fallback=None):
                path = prefix / name.lstrip("/") if name.startswith("/") else directory / name
                yield _secret(path, f"{key} in {ini}")


def _secret(path: Path, named_by: str) -> Check:
    subject = printable(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Check(
            "secrets",
            subject,
            False,
            printable(f"{error.strerror} ({named_by})"),
            "bring the file there, or run this as root",
        )
    if mode & OTHERS:
        found = f"everybody on this machine can read or write it (mode {stat.S_IMODE(mode):04o})"
        return Check("secrets", subject, False, found, f"chmod o= {subject}, and replace the secret that it holds")
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
