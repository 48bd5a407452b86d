"""`swarm install-units`: what systemd and logrotate need for nodes that start with the machine.

    etc/… of the package ──► PREFIX/etc/systemd/system, swarm, logrotate.d, sysusers.d, tmpfiles.d
    --instance             ──► PREFIX/srv/KIND/NAME/{etc,data,logs}, and a drop-in with its address

What it writes it remembers by its checksum in PREFIX/etc/swarm/installed.json
(swarm.cli.installed_files). So a file that somebody has changed is
told from one that is only older, and is never overwritten: the new one is written beside it as FILE.new, once.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

import click

from swarm.cli import Failure
from swarm.cli.installed_files import InstalledFiles
from swarm.core.command_line import parsed_by
from swarm.core.config import Address, parse_address
from swarm.core.limits import MIB
from swarm.core.node import default_memory_limit
from swarm.dht.hash_range import HashRange, split_evenly

COMMANDS = "/opt/swarm/bin/"  # where the units of the package have them
PLACES = {
    "systemd": "etc/systemd/system",
    "swarm": "etc/swarm",
    "logrotate": "etc/logrotate.d",
    "sysusers": "etc/sysusers.d",
    "tmpfiles": "etc/tmpfiles.d",
}
"""Of the directories in etc, and where their files go."""
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # from services, by ProtectHome and PrivateTmp

_INSTANCE = re.compile(r"(dht|queue|logfiles):([A-Za-z0-9_][A-Za-z0-9_-]{0,63}):(.+)")
_LISTEN = re.compile(r"^ListenStream=(\S+)\s*$", re.MULTILINE)
_UNIT_PATH = re.compile(r"/[A-Za-z0-9._/+@-]+")  # what needs no quoting in a unit


@dataclass(frozen=True)
class Instance:
    """A node to be: its directory is /srv/KIND/NAME."""

    kind: str
    name: str
    address: Address

    @property
    def directory(self) -> Path:
        return Path("srv", self.kind, self.name)

    @property
    def units(self) -> list[str]:
        dump = [f"dhtdump@{self.name}.service"] if self.kind == "dht" else []
        return [f"{self.kind}@{self.name}.socket", f"{self.kind}@{self.name}.service", *dump]


def parse_instance(text: str) -> Instance:
    """KIND:NAME:ADDRESS, with an IP address and a port, or a Unix path that begins at the root."""
    match = _INSTANCE.fullmatch(text)
    if match is None:
        raise ValueError("dht:NAME:ADDRESS, queue:NAME:ADDRESS or logfiles:NAME:ADDRESS; a name has A-Z a-z 0-9 _ -")
    address = parse_address(match[3])
    if address.is_unix:
        if not _UNIT_PATH.fullmatch(address.path):
            raise ValueError("unix: is followed by a path that begins with / and has only A-Z a-z 0-9 . _ / + @ -")
    else:
        try:
            ip_address(address.host)
        except ValueError:
            raise ValueError("systemd listens on IP addresses, such as 127.0.0.1, and not on names") from None
        if address.port == 0:
            raise ValueError("clients need a port that stays the same, from 1 to 65535")
    return Instance(match[1], match[2], address)


def parse_instances(texts: tuple[str, ...]) -> list[Instance]:
    instances = [parse_instance(text) for text in texts]
    for each in instances:
        if sum((each.kind, each.name) == (other.kind, other.name) for other in instances) > 1:
            raise ValueError(f"{each.kind}:{each.name} is there more than once")
        if sum(each.address == other.address for other in instances) > 1:
            raise ValueError(f"the address {each.address} is there more than once")
    return instances


@click.command("install-units", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--prefix",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    metavar="DIR",
    help="Lay the files out below it, for a package.  [/]",
)
@click.option(
    "--instance",
    "instances",
    multiple=True,
    callback=parsed_by(parse_instances),
    metavar="KIND:NAME:ADDRESS",
    help="Make the directories of a node too: dht:a:127.0.0.1:10001. May be given several times.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="The Python beside which the commands are that the units start.  [this one]",
)
def install_units(prefix: Path, instances: list[Instance], python: Path | None) -> None:
    """Lays out systemd units, sample configurations, and what logrotate needs.

    What somebody has changed since it was written stays: what would take its place is written beside it as FILE.new.
    """
    commands = _commands(python)
    _refuse_taken_addresses(prefix, instances)
    installed = InstalledFiles(prefix, click.echo)
    for path, text in _files(commands):
        installed.write(path, text)
    dht = [each for each in instances if each.kind == "dht"]
    ranges = dict(zip(dht, split_evenly(max(1, len(dht))), strict=False))
    for each in instances:
        for path, text in _configuration(each, _share(ranges.get(each), len(dht))):
            installed.write(path, text, may_replace=False)
        installed.write(*_socket_address(each))
        for name in ("data", "logs"):
            installed.make_directory(each.directory / name)
    installed.close()
    _tell_next(prefix, instances)


def _commands(python: Path | None) -> str:
    """The directory of the commands, as it stands in units."""
    given = (python or Path(sys.executable)).absolute()
    directory = f"{given.parent}/"
    if not _UNIT_PATH.fullmatch(directory):
        raise Failure(
            f"{directory} has characters that units cannot have: install the package elsewhere, as /opt/swarm"
        )
    if python is None and not (given.parent / "dhtnode").exists():
        raise Failure(f"{given.parent} has no dhtnode: name the Python beside which the commands are, with --python")
    interpreter = str(given.resolve())
    if directory.startswith(HIDDEN):
        _warn_of_hidden(directory, "install the package elsewhere, as /opt/swarm")
    elif interpreter.startswith(HIDDEN):
        advice = "make the venv anew with the system's Python, as /usr/bin/python3 -m venv /opt/swarm"
        _warn_of_hidden(f"{interpreter}, to which {given} leads", advice)
    return directory


def _warn_of_hidden(what: str, advice: str) -> None:
    why = "since they see no home and no temporary directory"
    click.echo(f"swarm: warning: services do not see {what}, {why}: {advice}", err=True)


def _refuse_taken_addresses(prefix: Path, instances: Iterable[Instance]) -> None:
    """An address that an instance of an earlier call has: its drop-in says which."""
    taken = {}
    for path in sorted((prefix / PLACES["systemd"]).glob("*@*.socket.d/address.conf")):
        unit = path.parent.name.removesuffix(".socket.d")
        for address in _LISTEN.findall(path.read_text(encoding="utf-8", errors="replace")):
            taken[address] = unit
    for each in instances:
        unit = taken.get(_listen_address(each), "")
        if unit not in ("", f"{each.kind}@{each.name}"):
            raise Failure(
                f"{each.kind}:{each.name} cannot have the address {each.address}: {unit} has it, as "
                f"{prefix / _drop_in(unit)} says. Give it another one"
            )


def _files(commands: str) -> Iterable[tuple[Path, str]]:
    """Of the package: where they go, and what they hold."""
    for directory, place in PLACES.items():
        for file in sorted((files("swarm") / "etc" / directory).iterdir(), key=lambda each: each.name):
            yield Path(place, file.name), file.read_text(encoding="utf-8").replace(COMMANDS, commands)


def _share(hash_range: HashRange | None, nodes: int) -> dict[str, str]:
    """What a dht node has of the hashes and the memory that those of this machine share."""
    if hash_range is None or nodes == 1:
        return {}
    return {"hash_range": str(hash_range), "memory_limit": f"{default_memory_limit() // nodes // MIB} MiB"}


def _configuration(instance: Instance, share: Mapping[str, str]) -> Iterable[tuple[Path, str]]:
    here = f"/{instance.directory}"
    node = {"address": str(instance.address), "data": f"{here}/data", **share}
    yield _ini(instance, instance.kind, {"node": node, "logs": {"directory": f"{here}/logs"}})
    if instance.kind == "dht":
        dump = {"node": str(instance.address), "dump_dir": f"{here}/data/dump"}
        yield _ini(instance, "dhtdump", {"dump": dump, "logs": {"directory": f"{here}/logs/dhtdump"}})


def _ini(instance: Instance, name: str, sections: Mapping[str, Mapping[str, str]]) -> tuple[Path, str]:
    lines = [f"# /etc/swarm/{name}.ini describes every key."]
    for section, keys in sections.items():
        lines += ["", f"[{section}]", *(f"{key} = {value}" for key, value in keys.items())]
    return instance.directory / "etc" / f"{name}.ini", "\n".join(lines) + "\n"


def _listen_address(instance: Instance) -> str:
    return instance.address.path or str(instance.address)


def _drop_in(unit: str) -> Path:
    return Path(PLACES["systemd"], f"{unit}.socket.d", "address.conf")


def _socket_address(instance: Instance) -> tuple[Path, str]:
    listen = _listen_address(instance)
    return (
        _drop_in(f"{instance.kind}@{instance.name}"),
        f"# The same as in /{instance.directory}/etc.\n\n[Socket]\nListenStream=\nListenStream={listen}\n",
    )


def _tell_next(prefix: Path, instances: Iterable[Instance]) -> None:
    units = [unit for each in instances for unit in each.units]
    if prefix.absolute() == Path("/"):
        click.echo("Next, as root:")
        click.echo("  systemd-sysusers swarm.conf")
        click.echo("  systemd-tmpfiles --create swarm.conf")
        click.echo("  systemctl daemon-reload")
        if units:
            click.echo(f"  systemctl enable --now swarm.target {' '.join(units)}")
    if not units:
        click.echo(
            "No node was named: swarm install-units --instance dht:a:127.0.0.1:10001 makes the directories of one"
        )
    for each in instances:
        if not each.address.is_loopback:
            click.echo(
                f"{each.address} may be reached by others: the node does not start before "
                f"/{each.directory}/etc/{each.kind}.ini says who may do what there"
            )
    if any(each.kind == "dht" for each in instances):
        click.echo("The dht nodes of a swarm share the hashes: if there are others, give each its part (hash_range)")
