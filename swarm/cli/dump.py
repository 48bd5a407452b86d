"""`swarm dump`: looks into the dumps of a dht node, while none runs or beside it.

Everything is read and compared with its checksum before anything of it is shown, as the node does when it starts. A
damaged file is read from its backup, and that is said.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from swarm.cli import Failure
from swarm.cli.dht import encode_line, no_record, parse_key
from swarm.cli.terminal import PROGRESS_RECORDS, progress_bar, write_output
from swarm.core.command_line import parsed_by
from swarm.core.protocol import check_channel
from swarm.dht.dump_format import BACKUP_SUFFIX, DUMP_SUFFIX, HASH_BYTES, MANIFEST, Trailer, channel_of
from swarm.dht.dumps import DumpDamaged, DumpFile, DumpUnreadable, read_manifest


def _checked_channel(text: str) -> str:
    check_channel(text)
    return text


_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
_CHANNEL = click.argument("channel", callback=parsed_by(_checked_channel))
_KEY = click.argument("key", callback=parsed_by(parse_key))


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DumpUnreadable as error:
            raise Failure(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def dump() -> None:
    """Looks into the dumps of a dht node.

    DIR is a dump directory (of `swarm up`: swarm-data/dht-1/dump). No node is needed. Changes since the dump are in the
    node's journal, and not seen here.
    """


@dataclass(frozen=True)
class Found:
    """A file of a dump. trailer: None where it is damaged, and damage says how."""

    path: Path
    trailer: Trailer | None
    damage: str
    age: timedelta

    @property
    def row(self) -> tuple[str, ...]:
        size = ("–", "–", "–") if self.trailer is None else (
            str(self.trailer.records), str(self.trailer.record_bytes), str(self.trailer.hash_range),
        )  # fmt: skip
        age = str(int(self.age.total_seconds()))
        return self.path.name, *size, age, f"damaged: {self.damage}" if self.damage else "sound"


@dump.command("list")
@_DIRECTORY
@click.pass_context
def list_(ctx: click.Context, directory: Path) -> None:
    """Lists the files and whether they are sound.

    Name, records, bytes of keys and values, hash range, age, and sound or damaged. Where it is no terminal separated by
    tabs, the age in seconds. Reads everything. Status 1 if anything is damaged or missing.
    """
    paths = _dumps_in(directory)
    total = sum(path.stat().st_size for path in paths)
    with progress_bar("check", total, sys.stderr.isatty()) as advance:
        found = list(_check_all(paths, advance))
    if sys.stdout.isatty():
        _show_table(found)
    else:
        for each in found:
            click.echo("\t".join(each.row))
    complete = _is_complete(directory, {path.name for path in paths})
    ctx.exit(0 if complete and not any(each.damage for each in found) else 1)


def _is_complete(directory: Path, names: set[str]) -> bool:
    """Whether everything is there that the manifest names; tells what is not."""
    try:
        manifest = read_manifest(directory)
    except DumpDamaged as error:
        click.echo(f"swarm: {error}", err=True)
        return False
    if manifest is None:
        click.echo(f"swarm: {directory} has no {MANIFEST}: no dump was completed there", err=True)
        return True
    missing = sorted({channel + DUMP_SUFFIX for channel in manifest.channels} - names)
    for name in missing:
        click.echo(f"swarm: {directory / name} is missing", err=True)
    return not missing


def _dumps_in(directory: Path) -> list[Path]:
    paths = sorted(path for path in directory.iterdir() if channel_of(path.name))
    if not paths and not (directory / MANIFEST).exists():
        raise Failure(f"{directory} holds no dump")
    return paths


def _check_all(paths: list[Path], advance: Callable[[int, int], None]) -> Iterator[Found]:
    done = records = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        advance(done, records)

    for path in paths:
        age = datetime.now(UTC) - datetime.fromtimestamp(path.stat().st_mtime, UTC)
        age = timedelta(seconds=round(age.total_seconds()))
        try:
            with DumpFile(path, read) as file:
                yield Found(path, file.trailer, "", age)
                records += file.trailer.records
        except DumpDamaged as error:
            yield Found(path, None, error.what, age)


def _show_table(found: list[Found]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file")
    for title in ("records", "bytes", "hashes", "age"):
        table.add_column(title, justify="right")
    table.add_column("state")
    for each in found:
        if each.trailer is None:
            table.add_row(each.path.name, "–", "–", "–", str(each.age), "damaged")
        else:
            trailer = each.trailer
            size = f"{trailer.records:,}", f"{trailer.record_bytes:,}", f"{trailer.hash_range.share:.1%}"
            table.add_row(each.path.name, *size, str(each.age), "sound")
    Console().print(table)
    for each in found:
        if each.damage:
            click.echo(f"swarm: {each.path} is damaged: {each.damage}", err=True)


@dump.command()
@_DIRECTORY
@_CHANNEL
@_KEY
def get(directory: Path, channel: str, key: bytes) -> None:
    """Writes the value of a record.

    Byte for byte, to standard output; status 1 if there is no record with this key.
    """
    with _open(directory, channel) as file:
        value = file.get(key)
    if value is None:
        raise no_record(channel, key)
    write_output(value + b"\n" if sys.stdout.isatty() else value)


@dump.command()
@_DIRECTORY
@_CHANNEL
def export(directory: Path, channel: str) -> None:
    """Writes all records of a channel to standard output.

    One a line, in the form of `swarm dht export`, which says what that is; `swarm dht import` reads it.
    """
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    with _open(directory, channel) as file, progress_bar(f"export {channel}", file.trailer.records, shown) as advance:
        number = 0
        for keys, values in file.batches():
            for stored, value in zip(keys, values, strict=True):
                sys.stdout.buffer.write(encode_line(stored[HASH_BYTES:], value))
                number += 1
                if number % PROGRESS_RECORDS == 0:
                    advance(number, number)
        advance(number, number)


def _open(directory: Path, channel: str) -> DumpFile:
    """The channel's dump, or its backup where that is damaged."""
    backup = directory / (channel + BACKUP_SUFFIX)
    try:
        return DumpFile(directory / (channel + DUMP_SUFFIX))
    except FileNotFoundError:
        what = f"{directory} holds no dump of channel {channel}"
    except DumpDamaged as error:
        what = str(error)
    try:
        file = DumpFile(backup)
    except FileNotFoundError:
        raise Failure(what) from None
    except DumpDamaged as error:
        raise Failure(f"{what}; {error}") from error
    click.echo(f"swarm: {what}; this is from {backup.name}", err=True)
    return file
