"""What PATH stands for: the directories and files in it, as pieces of work; and whether a node has them open."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from nodes.logfiles.check.bucket import Work
from nodes.logfiles.check.findings import Finding, Kind, Report, reason, shown
from nodes.logfiles.file_names import CHANNELS, parse_day
from swarm.core.errors import BadChannel
from swarm.core.node import NodeError, lock_directory
from swarm.core.protocol import check_channel

LOCK = "lock"
SEALING_LOCK = "sealing.lock"  # of processes that seal, which may end after their node
SEALING_WAIT_S = 10.0  # they end with the block that they are at, some ms; as long as a node waits for them
_FRONT = re.compile(r"\d{6}_\d{1,5}", re.ASCII)  # start and length of a bucket


class Impossible(Exception):
    """PATH cannot be checked; the text says why."""


@dataclass
class Found:
    """What there is to be done. report: what is wrong with the directories themselves."""

    work: list[Work] = field(default_factory=list)
    report: Report = field(default_factory=Report)


def data_directory(path: Path) -> Path | None:
    """The data directory of a node that a path is, or is in; None if it is in none."""
    for candidate in (path, *path.parents):
        channels = candidate / CHANNELS
        if channels.is_dir() and (path == candidate or path.is_relative_to(channels)):
            return candidate
    return path if (path / LOCK).is_file() else None


@contextmanager
def kept_from_nodes(data: Path | None, *, to_change: bool) -> Iterator[None]:
    """No node runs on this directory meanwhile, nor, if it is to be changed, another check. Raises Impossible."""
    with ExitStack() as opened:
        if data is not None and to_change:
            try:
                opened.enter_context(lock_directory(data))
            except NodeError as error:
                raise Impossible(str(error)) from error
        elif data is not None:
            _lock_node(opened, data)
        if data is not None:
            _lock_sealing(opened, data)
        yield


def _lock_node(opened: ExitStack, data: Path) -> None:
    """Nothing is written for it."""
    if (file := _open(opened, data / LOCK)) is not None and not _lock(file, data / LOCK):
        owner = file.read().strip() or "unknown"
        text = f"{shown(data)} is in use by another process (pid {owner}), which changes its files"
        raise Impossible(f"{text}: stop it first")


def _lock_sealing(opened: ExitStack, data: Path) -> None:
    """A node that was killed leaves a process that seals a bucket, which ends by itself: that is waited for."""
    if (file := _open(opened, data / SEALING_LOCK)) is None:
        return
    until = monotonic() + SEALING_WAIT_S
    while not _lock(file, data / SEALING_LOCK):
        if monotonic() >= until:
            text = "a process that seals a bucket is still at work there, though its node has ended"
            raise Impossible(f"{shown(data)} is in use: {text}; it will end by itself: try again in a moment")
        sleep(0.05)


def _open(opened: ExitStack, path: Path) -> IO[str] | None:
    try:
        return opened.enter_context(path.open())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Impossible(f"{shown(path)} cannot be locked: {reason(error)}") from error


def _lock(file: IO[str], path: Path) -> bool:
    """Whether nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Impossible(f"{shown(path)} cannot be locked: {reason(error)}") from error
    return True


def find(path: Path, channel: str | None) -> Found:
    """path: resolved. channel: the only one of a data directory that is looked at. Raises Impossible."""
    found = Found()
    try:
        if not path.is_dir():
            _find_file(found, path)
        elif parse_day(path.name) is not None:
            _find_in_day(found, path, path.parent)
        elif path.name == CHANNELS:
            _find_channels(found, path, channel)
        elif (path / CHANNELS).is_dir():
            _find_channels(found, path / CHANNELS, channel)
        elif any(parse_day(name) is not None for name in _names(path)) or path.parent.name == CHANNELS:
            _find_in_channel(found, path)
        elif not (path / LOCK).is_file():
            raise Impossible(f"{shown(path)} is no data directory of a logfiles node, nor a channel or a day of one")
    except OSError as error:
        raise Impossible(f"{shown(path)} cannot be read: {reason(error)}") from error
    if channel is not None and not found.work and not (_channels(path) / channel).is_dir():
        raise Impossible(f"{shown(path)} has no channel {channel}")
    return found


def _channels(path: Path) -> Path:
    return path if path.name == CHANNELS else path / CHANNELS


def _find_file(found: Found, path: Path) -> None:
    """A file is judged with the others of its bucket, so they are looked at too."""
    path.stat()
    is_in_day = parse_day(path.parent.name) is not None
    bucket = _bucket(path.name)
    names = sorted(name for name in _names(path.parent) if _bucket(name) == bucket) if is_in_day else [path.name]
    found.work.append(_work(path.parent, path.parent.parent if is_in_day else None, names))


def _find_channels(found: Found, path: Path, only: str | None) -> None:
    for entry in _entries(path):
        if only is not None and entry.name != only:
            continue
        try:
            check_channel(entry.name)
        except BadChannel:
            _misplaced(found, path / entry.name, "no name of a channel")
            continue
        if entry.is_dir():
            _tolerant(found, path / entry.name, _find_in_channel)
        else:
            _misplaced(found, path / entry.name, "no directory of a channel")


def _find_in_channel(found: Found, path: Path) -> None:
    for entry in _entries(path):
        if not entry.is_dir():
            found.work.append(_work(path, path, [entry.name]))
        elif parse_day(entry.name) is None:
            _misplaced(found, path / entry.name, "no directory of a day")
        else:
            _tolerant(found, path / entry.name, lambda found, day: _find_in_day(found, day, path))


def _find_in_day(found: Found, path: Path, channel: Path) -> None:
    names = sorted(_names(path), key=lambda name: (_bucket(name), name))
    found.work.extend(_work(path, channel, list(group)) for _, group in groupby(names, _bucket))


def find_in_days(directories: set[Path]) -> Found:
    """Of the directories of these days."""
    found = Found()
    for directory in sorted(directories):
        _tolerant(found, directory, lambda found, day: _find_in_day(found, day, day.parent))
    return found


def _tolerant(found: Found, path: Path, look: Callable[[Found, Path], None]) -> None:
    """One directory that cannot be read does not keep the others from being looked at."""
    try:
        look(found, path)
    except OSError as error:
        found.report.errors.append(f"{shown(path)} cannot be read: {reason(error)}")


def _names(path: Path) -> list[str]:
    return [each.name for each in path.iterdir()]


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _misplaced(found: Found, path: Path, what: str) -> None:
    found.report.findings.append(Finding(path, 0, 0, Kind.BAD_NAME, f"{what}; move it away", mendable=False))


def _bucket(name: str) -> str:
    """Of the bucket that a file belongs to by the front of its name; the name itself, if there is no such front."""
    front = name.partition("-")[0]
    return front if _FRONT.fullmatch(front) else name


def _work(directory: Path, channel: Path | None, names: list[str]) -> Work:
    return Work(directory, channel, tuple(names), sum(_size(directory / name) for name in names))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0  # whoever looks at it will say why
