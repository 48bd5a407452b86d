"""`swarm credentials`: who may log in to a node, and what each may do.

It changes the node's file as a whole: a new one beside it, synced, takes its place. So a node that reads it meanwhile
has either, and comments and other lines stay as they are.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

import click

from swarm.cli import Failure, WrongCall
from swarm.core import limits
from swarm.core.command_line import parsed_by
from swarm.core.config import ConfigError
from swarm.core.credentials import (
    Credentials,
    KnownClient,
    Permissions,
    parse_known_clients,
    read_known_clients,
    read_secret,
)
from swarm.core.protocol import CLIENT_NAME, CLIENT_NAME_RULE

LOCK_WAIT_S = 3.0  # for another of these commands, which takes some milliseconds
LOCK_LOOK_S = 0.02

_NEW_FILE = b"# Clients that may log in: name:key:permissions. `swarm credentials` changes this file.\n"

_takes_file = click.option(
    "--file", type=click.Path(path_type=Path), metavar="FILE", required=True, help="The credentials file of the node."
)


def _parse_name(text: str) -> str:
    if not CLIENT_NAME.fullmatch(text):
        raise ValueError(f"the name of a client has {CLIENT_NAME_RULE}")
    return text


_takes_name = click.argument("name", callback=parsed_by(_parse_name))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def credentials() -> None:
    """Says who may log in to nodes, and what each may do.

    CHANNELS are names of channels, or begins of names with a * behind them, separated by commas; * is all.
    """


@credentials.command()
@_takes_name
@_takes_file
@click.option("--read", metavar="CHANNELS", help="Channels that it may read, and take records from.")
@click.option("--write", metavar="CHANNELS", help="Channels that it may write to.")
@click.option("--admin", metavar="CHANNELS", help="Channels that it may remove; with * it may make dumps, too.")
@click.option("--replace", is_flag=True, help="Give a client that is there a new key, and these permissions.")
@click.option(
    "--client-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the line for the client to this file, and do not show it.",
)
def add(
    name: str,
    file: Path,
    read: str | None,
    write: str | None,
    admin: str | None,
    replace: bool,
    client_file: Path | None,
) -> None:
    """Lets a client log in; prints the line for the client's own file, which holds its key."""
    given = {"read": read, "write": write, "admin": admin}
    try:
        permissions = Permissions.parse(
            " ".join(f"{access}={text}" for access, text in given.items() if text is not None)
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    client = KnownClient(Credentials(name, secrets.token_bytes(limits.CLIENT_KEY_BYTES)), permissions)
    line = client.credentials.to_line() + "\n"
    with _changed(file, make=True) as lines:
        there = _number_of(lines, name)
        if there is None:
            lines.append(client.to_line().encode())
        elif replace:
            comment = lines[there].partition(b"#")[1:]
            lines[there] = b"  ".join(filter(None, (client.to_line().encode(), b"".join(comment))))
        else:
            raise WrongCall(f"{name} is in {file} already; --replace gives it a new key, and these permissions")
        if client_file is not None:  # first: a key that nobody has is of no use in the node's file
            _write_client_file(client_file, line.encode(), replace=replace)
    if client_file is None:
        click.echo(line, nl=False)
        click.echo(f"This line is all that the file of {name} needs (chmod 600); it is not shown again.", err=True)
    else:
        click.echo(
            f"{client_file} is for {name}: --credentials, SWARM_CREDENTIALS, credentials= of the clients.", err=True
        )
    _tell_what_is_next(file)


@credentials.command("list")
@_takes_file
def list_(file: Path) -> None:
    """Shows the clients and their permissions, not their keys."""
    clients = read_known_clients(file)
    rows: list[tuple[str, ...]] = [("name", "read", "write", "admin")]
    for client in sorted(clients.values(), key=lambda client: client.name):
        permissions = client.permissions
        rows.append(
            (client.name, *(str(each) or "-" for each in (permissions.read, permissions.write, permissions.admin)))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@credentials.command()
@_takes_name
@_takes_file
def revoke(name: str, file: Path) -> None:
    """Takes a client's right to log in away."""
    with _changed(file, make=False) as lines:
        there = _number_of(lines, name)
        if there is None:
            raise Failure(f"{name} is not in {file}")
        del lines[there]
    _tell_what_is_next(file)


def _tell_what_is_next(file: Path) -> None:
    click.echo(
        f"Nodes with `credentials = {file.absolute()}` in section [node] read it when they start, and on SIGHUP "
        "(systemctl reload, or kill -HUP PID).",
        err=True,
    )


@contextmanager
def _changed(file: Path, *, make: bool) -> Iterator[list[bytes]]:
    """The lines of a node's file, to be changed; when the block ends without an error they are the file's.

    make: where there is none it is made.
    """
    with _alone(file):
        there = os.path.lexists(file)
        if not (there or make):
            raise ConfigError(f"cannot read the credentials file {file}: there is none")
        before = read_secret(file) if there else _NEW_FILE
        parse_known_clients(file, before)  # what is wrong with it is told, and not written over
        lines = before.removesuffix(b"\n").split(b"\n")
        yield lines
        content = b"".join(line + b"\n" for line in lines)
        parse_known_clients(file, content)  # one more than there may be is told
        _write(file.resolve(), content, file.stat() if there else None)  # where it is a link, what it leads to


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Two of these commands at the same time: one waits for the other.

    By a lock on a file that nobody else can open: whoever can read the directory, or the credentials, could lock these,
    and keep a client from being revoked.
    """
    file = file.resolve()
    lock = file.with_name(f".{file.name}.lock")
    descriptor = _locked(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """The descriptor of the lock's file, which this process holds. Failure where somebody else does for too long."""
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, lock):
                return descriptor
        except BlockingIOError as error:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Failure(
                    f"somebody else holds {lock}, for {LOCK_WAIT_S:.0f} s already: another `swarm credentials` that "
                    "has not ended (fuser, of the Debian package psmisc, names it)"
                ) from error
            time.sleep(LOCK_LOOK_S)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file has still that name; who held the lock before has removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _number_of(lines: list[bytes], name: str) -> int | None:
    """Of the line that is about a client."""
    begin = name.encode() + b":"
    return next((number for number, line in enumerate(lines) if line.lstrip().startswith(begin)), None)


def _write_client_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Does not follow a link: whoever has put it there might get the key, or have a file written over."""
    if replace and os.path.lexists(path):
        like = path.lstat()
        if not stat.S_ISREG(like.st_mode):
            raise WrongCall(f"{path} is no regular file, and is not replaced")
        _write(path, content, like)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise WrongCall(f"{path} is there already; --replace writes over it") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _give_to(descriptor: int, like: os.stat_result, path: Path) -> None:
    try:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    except PermissionError as error:
        raise Failure(f"{path} belongs to somebody else: only they, and root, can change it") from error


def _give_to_group_of(descriptor: int, directory: Path) -> None:
    """So that the nodes can read a new file: /srv/KIND/NAME/etc is root's, and its group is theirs."""
    group = directory.stat().st_gid
    if group != os.getegid():
        with suppress(PermissionError):
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o640)


def _write(path: Path, content: bytes, like: os.stat_result | None) -> None:
    """Writes a file that its owner and the group of its directory can read, or one with the owner and mode of another,
    safely: it is there as a whole, or what was there before. A link is replaced; others never get to read the file."""
    descriptor, name = mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if like is None:
                _give_to_group_of(descriptor, path.parent)
            else:
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    _give_to(descriptor, like, path)
                os.fchmod(descriptor, like.st_mode & 0o750)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
