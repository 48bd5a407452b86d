"""What the directories of a store say when it is opened: which buckets each channel has, and in which files.

Directories are listed; of the files only those of buckets that are not sealed are opened. What a node leaves that was
killed is removed here, with a warning: files that were not finished, and those that a sealed file has made void.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from nodes.logfiles.block_index import Damage
from nodes.logfiles.bucket import Bucket
from nodes.logfiles.channel import LogChannel
from nodes.logfiles.file_names import UNFINISHED_SUFFIX, FileName, Span, parse_day
from nodes.logfiles.recovery import is_whole, load_part, tell
from nodes.logfiles.shared import Shared
from swarm.core.errors import BadChannel
from swarm.core.protocol import check_channel

log = logging.getLogger(__name__)

WARNINGS_MAX = 20  # each names a file; then their number is told


@dataclass(slots=True)
class _Found:
    """Of one bucket that is not only sealed."""

    sealed: list[FileName] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    tails: list[FileName] = field(default_factory=list)


class Warnings:
    """So that thousands of strange files do not fill the log."""

    def __init__(self) -> None:
        self._told = 0

    def tell(self, text: str, path: Path) -> None:
        self._told += 1
        if self._told <= WARNINGS_MAX:
            log.warning("%s: %s", path, text)

    def finish(self) -> None:
        if self._told > WARNINGS_MAX:
            log.warning("... and %d more such files", self._told - WARNINGS_MAX)


def load_channels(shared: Shared, directory: Path) -> dict[str, LogChannel]:
    """Every channel, as it was left. Raises OSError."""
    warnings = Warnings()
    channels = {}
    for name, is_directory in sorted(shared.files.list(directory)):
        try:
            check_channel(name)
        except BadChannel:
            is_directory = False
        if is_directory:
            channels[name] = _load_channel(shared, LogChannel(shared, name, directory / name), warnings)
        else:
            warnings.tell("it is not a channel; it is left alone", directory / name)
    warnings.finish()
    return {name: channel for name, channel in channels.items() if channel.buckets}


def _load_channel(shared: Shared, channel: LogChannel, warnings: Warnings) -> LogChannel:
    spans: list[Span] = []
    for day, is_directory in shared.files.list(channel.directory):
        if not is_directory or parse_day(day) is None:
            warnings.tell("it is not the directory of a day; it is left alone", channel.directory / day)
            continue
        for span, found in _list_day(shared, channel.directory / day, warnings).items():
            bucket = Bucket(span)
            _load_bucket(shared, channel, bucket, found, warnings)
            if bucket.generation:
                channel.buckets[span] = bucket
                spans.append(span)
                channel.records += bucket.records
                channel.record_bytes += bucket.value_bytes
    channel.spans = sorted(spans)
    return channel


def _list_day(shared: Shared, directory: Path, warnings: Warnings) -> dict[Span, _Found]:
    buckets: dict[Span, _Found] = {}
    for name, is_directory in shared.files.list(directory):
        found = FileName.parse(directory.name, name)
        if found is None:
            if name.endswith(UNFINISHED_SUFFIX) and not is_directory:
                warnings.tell("it was not finished; it is removed", directory / name)
                shared.files.remove(directory / name)
            else:
                warnings.tell("it is not a file with records; it is left alone", directory / name)
            continue
        bucket = buckets.setdefault(found.span, _Found())
        if found.kind == "sealed":
            bucket.sealed.append(found)
        elif found.kind == "log":
            bucket.logs.append(found.generation)
        else:
            bucket.tails.append(found)
    return buckets


def _load_bucket(shared: Shared, channel: LogChannel, bucket: Bucket, found: _Found, warnings: Warnings) -> None:
    sealed = max(found.sealed, key=lambda name: name.generation, default=None)
    if sealed:
        bucket.set_sealed(sealed)
    names = [*found.sealed, *found.tails, *(FileName(bucket.span, each, "log") for each in found.logs)]
    void = [name for name in names if name.generation <= bucket.sealed_generation and name != sealed]
    if sealed and void and not is_whole(shared, channel.directory, sealed):
        bucket.damaged = True
        what = "not as its name says; what it would make void is left for logfiles-check"
        tell(shared, Damage(channel.directory / sealed.path, 0, what))
        void = []
    for name in void:
        warnings.tell("a sealed file has all that is in it; it is removed", channel.directory / name.path)
        shared.files.remove(channel.directory / name.path)
    generations = {name.generation for name in names if name.generation > bucket.sealed_generation}
    for generation in sorted(generations):
        tails = sorted(name.number for name in found.tails if name.generation == generation)
        part, damaged = load_part(
            shared, channel.directory, bucket.span, generation, has_log=generation in found.logs, tails=tails
        )
        if part.tails or generation in found.logs or damaged:  # or its only tail had just been begun, and was removed
            bucket.parts = (*bucket.parts, part)
        bucket.damaged |= damaged
