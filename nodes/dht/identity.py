"""Which node this is: 16 random bytes, in hexadecimal, in the file `identity` of its data directory.

They are chosen when the directory is first used, and never changed. A dump says of which node it is: so dhtdump does
not put one node's dump in the place of another's, and no node starts from what another has held.

A directory that has neither an identity nor a journal, and finds a dump, becomes the node that the dump is of: that is
how a dump is brought to a new machine.
"""

import logging
import os
import secrets
from pathlib import Path

from nodes.dht.journal_files import segment_numbers
from swarm.core.node import NodeError, WrongData
from swarm.dht.dump_format import IDENTITY_BYTES, is_identity
from swarm.dht.dumps import DumpDamaged, DumpUnreadable, read_manifest, sync_directory

log = logging.getLogger(__name__)

IDENTITY = "identity"


def new_identity() -> str:
    return secrets.token_hex(IDENTITY_BYTES)


def identity_of(data: Path, dump_dir: Path, *, accept_damage: bool) -> str:
    """Of the node that starts with this data directory and dump; keep_identity writes it down when both are loaded.

    accept_damage: takes that of the dump where the directory has lost its own. Raises NodeError.
    """
    try:
        own = _read(data / IDENTITY, accept_damage)
        journal = data / "journal"
        has_journal = journal.is_dir() and bool(segment_numbers(journal))
    except OSError as error:
        raise NodeError(f"cannot use the data directory {data}: {error}") from error
    try:
        manifest = read_manifest(dump_dir)
    except DumpDamaged:  # whether it starts then is decided where the dump is loaded
        manifest = None
    except DumpUnreadable as error:
        raise NodeError(str(error)) from error
    if manifest is None:
        return own or new_identity()
    if own is None:
        if has_journal and not accept_damage:
            raise WrongData(
                f"{data} has a journal and no file {IDENTITY}, so whether the dump in {dump_dir} is of this node is "
                "not known. Bring the file back; if the two belong together, --accept-damage starts with them"
            )
        log.warning("%s has no file %s: this is node %s from now on, as the dump says", data, IDENTITY, manifest.node)
        return manifest.node
    if own != manifest.node:
        raise WrongData(
            f"{dump_dir} holds the dump of another node, {manifest.node}; this is {own}. Move it away, and bring this "
            f"node's dump back. To become that node, start with a data directory without {IDENTITY} and journal"
        )
    return own


def keep_identity(data: Path, identity: str) -> None:
    """Durably, if it is not there already. Raises NodeError."""
    path = data / IDENTITY
    content = f"{identity}\n".encode()
    try:
        if path.exists() and path.read_bytes() == content:
            return
        data.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(data)
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror or error}") from error


def _read(path: Path, accept_damage: bool) -> str | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    if is_identity(text):
        return text
    if not accept_damage:
        raise WrongData(
            f"{path} is damaged: it is not {2 * IDENTITY_BYTES} hexadecimal digits. Bring it back; --accept-damage "
            "starts with the identity that the dump says"
        )
    log.error("%s is damaged: it is written anew", path)
    return None
