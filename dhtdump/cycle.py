"""One dump of a node, from begin to end. docs/formats/dump.md, *A dump, step by step*.

Whatever happens on the way, the files that a node would load are whole: a channel is written beside and renamed when
it is synced, and what it replaces stays as its backup. A cycle that fails leaves some channels newer than the manifest
says, which is no harm: all changes since the manifest's segment are replayed over them.

Memory does not grow with the channel: the node sends a batch when one was written, and LMDB writes out a transaction of
some MiB at a time. What takes as long as the disk does is done in worker threads that are abandoned when dhtdump is
stopped: they only touch files that have no name yet.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path

import trio

import swarm.dht.operations as operations
import swarm.dht.protocol as protocol
from swarm.core.errors import ChannelRemoved
from swarm.dht.client import DhtClient, Records
from swarm.dht.dump_format import (
    BACKUP_SUFFIX,
    DELETED,
    DUMP_SUFFIX,
    MANIFEST,
    TEMPORARY_SUFFIX,
    ChannelSize,
    Manifest,
    Trailer,
    channel_of,
    stored_key,
)
from swarm.dht.dumps import (
    DumpDamaged,
    DumpFile,
    DumpNotWritten,
    DumpWriter,
    read_manifest,
    read_trailer,
    sync_directory,
    write_manifest,
    writing,
)
from swarm.dht.hash_range import HashRange

log = logging.getLogger(__name__)

CREDIT = 1  # granted anew when a batch is taken: the next is on its way while one is written; more would be memory

Progress = Callable[[str, int], None]
"""Is told the channel, and how many more of its records were read."""


class DumpClient(DhtClient):
    """A client of one node, with what only dhtdump asks for."""

    told_no_journal = False
    """Whether it is in the log that the node has none: once is enough."""

    async def has_journal(self) -> bool:
        (statistics,) = (await self.node_statistics()).values()
        return "journal_bytes" in statistics

    @property
    def address(self) -> str:
        return self._ring.nodes[0]

    async def begin_dump(self) -> tuple[int, str]:
        """The segment that was begun, and the node's identity."""
        return await self._run(operations.begin_dump(self._ring))

    async def end_dump(self, segment: int) -> bool:
        return await self._run(operations.end_dump(self._ring, segment))

    def records(self, channel: str) -> "Records[tuple[bytes, bytes]]":
        return Records(self, protocol.GET_ALL, channel, credit=CREDIT)


async def dump_node(client: DumpClient, directory: Path, progress: Progress, period_s: float | None = None) -> Manifest:
    """Writes all channels of the node; what the dump's manifest says. To be followed by end_dump.

    period_s: after which the next follows; None where nobody knows.
    Raises SwarmError (the node), DumpNotWritten, DumpUnreadable (the disk): the dump before is still there.
    """
    before = manifest_before(directory)
    is_first = before is None and not (directory / MANIFEST).exists()  # no journal was trimmed for a dump here
    begun = _utc()
    segment, node = await client.begin_dump()
    if before is not None and before.node != node:
        raise DumpNotWritten(_not_its_dump(directory, before.node, client.address, node))
    _remove_leftovers(directory)
    has_journal = await client.has_journal()
    (hash_range,) = (await client.hash_ranges()).values()
    channels = {}
    for name in await client.channels():
        try:
            trailer = await _dump_channel(client, directory, name, segment, hash_range, progress)
        except ChannelRemoved:
            log.info("channel %s was removed while it was read", name)
        else:
            new = is_first if before is None else name not in before.channels
            channels[name] = ChannelSize(trailer.records, trailer.record_bytes, new)
    keep_from = _keep_from(directory, channels, before, segment) if has_journal else segment
    manifest = Manifest(segment, keep_from, begun, _utc(), channels, node, period_s)
    write_manifest(directory, manifest)
    _set_aside_others(directory, manifest)
    return manifest


def _not_its_dump(directory: Path, found: str, address: str, node: str) -> str:
    return (
        f"{directory} holds the dump of another node, {found}; {address} is {node}. Give each node a dump directory of "
        f"its own (dump_dir); if {address} shall be dumped here from now on, move what is there away first"
    )


def manifest_before(directory: Path) -> Manifest | None:
    """That of the last complete dump. One that is damaged is as good as none: then all of the journal is kept. Raises
    DumpUnreadable."""
    try:
        return read_manifest(directory)
    except DumpDamaged as error:
        log.error("%s", error)
        return None


def _utc() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _remove_leftovers(directory: Path) -> None:
    """Of a dump that was killed."""
    with writing(directory):
        for path in directory.glob(f"*{TEMPORARY_SUFFIX}"):
            log.info("removing %s, left by a dump that did not finish", path.name)
            path.unlink()


async def _dump_channel(
    client: DumpClient, directory: Path, name: str, segment: int, hash_range: HashRange, progress: Progress
) -> Trailer:
    path = directory / (name + DUMP_SUFFIX)
    temporary = directory / (name + DUMP_SUFFIX + TEMPORARY_SUFFIX)
    try:
        writer = DumpWriter(temporary)
        try:
            async with aclosing(client.records(name).batches()) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    writer.append(sorted([(stored_key(key), value) for key, value in batch]))
                    progress(name, len(batch))
                    del batch  # before the next is received
        except BaseException:
            writer.close()
            raise
        trailer = await trio.to_thread.run_sync(writer.finish, segment, hash_range, abandon_on_cancel=True)
        keep = await trio.to_thread.run_sync(_is_sound, path, abandon_on_cancel=True)
        _put_in_place(path, temporary, keep_as_backup=keep)
    finally:
        with suppress(OSError):  # so that a disk that is full has room again
            temporary.unlink(missing_ok=True)
    return trailer


def _is_sound(path: Path) -> bool:
    """Whether a file may become the backup: in place of one that is sound, it has to be."""
    try:
        DumpFile(path).close()
    except FileNotFoundError:
        return False
    except DumpDamaged as error:
        log.error("%s: it does not become the backup, the one before stays", error)
        return False
    return True


def _put_in_place(path: Path, temporary: Path, *, keep_as_backup: bool) -> None:
    """At every moment there is a file under the channel's name, once there was one."""
    with writing(path):
        if keep_as_backup:
            backup = path.with_name(path.name.removesuffix(DUMP_SUFFIX) + BACKUP_SUFFIX)
            linked = backup.with_name(backup.name + TEMPORARY_SUFFIX)
            os.link(path, linked)
            linked.replace(backup)
        temporary.replace(path)
        sync_directory(path.parent)


def _keep_from(directory: Path, channels: dict[str, ChannelSize], before: Manifest | None, segment: int) -> int:
    """The first segment that is needed should any file of the manifest's be damaged and its backup take its place."""
    if before is None:
        return 1
    needed = [segment, before.first_segment]
    for name in channels:
        with suppress(FileNotFoundError, DumpDamaged):
            needed.append(read_trailer(directory / (name + BACKUP_SUFFIX)).first_segment)
    return max(1, min(needed))


def _set_aside_others(directory: Path, manifest: Manifest) -> None:
    """Moves files of channels that are not there any more."""
    with writing(directory / DELETED):
        others = [
            path
            for path in directory.iterdir()
            if (found := channel_of(path.name)) and found[0] not in manifest.channels
        ]
        if others:
            (directory / DELETED).mkdir(exist_ok=True)
            for path in others:
                log.info("%s moves to %s: its channel was removed", path.name, DELETED)
                path.replace(directory / DELETED / path.name)
            sync_directory(directory / DELETED)
            sync_directory(directory)


class JournalKept(Exception):
    """A dump is complete, and the node has not trimmed its journal for it. The text says why, and what to do."""


async def end_dump(client: DumpClient, directory: Path, manifest: Manifest) -> bool | None:
    """Lets the node trim its journal; None: it has none. The dump is complete whatever becomes of this. Raises
    JournalKept, which the next dump does not mend; SwarmError."""
    if await client.end_dump(manifest.first_segment):
        return True
    if await client.has_journal():
        raise JournalKept(
            "the node did not trim its journal: it does not find this dump where it would load it from. "
            f"{directory} has to be the dump_dir of the node (section [dump]; dump in its data directory); root.log of "
            "the node may say more"
        )
    if not client.told_no_journal:
        client.told_no_journal = True
        log.info("the node has no journal: should it end, what was written since the last dump is gone")
    return None
