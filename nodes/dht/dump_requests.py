"""What the node does for its dhtdump: says which node it is and begins a segment of its journal, and removes those
that a dump has replaced."""

import logging
from pathlib import Path
from typing import Any, Protocol

from swarm.core.connection_handler import ConnectionHandler
from swarm.core.request_handler import Service
from swarm.dht import protocol
from swarm.dht.dumps import DumpDamaged, DumpUnreadable, read_manifest

log = logging.getLogger(__name__)


class SegmentedJournal(Protocol):
    """What a dump needs of the journal."""

    first_undumped: int
    """The segment with which the last complete dump has begun; what is in those from it on is in no dump yet."""

    def rotate(self) -> int:
        """Begins a new segment; its number. Every change that is made from now on is in it or behind it."""

    def remove_before(self, keep_from: int) -> None:
        """Removes the segments before this one."""


class DumpRequests:
    def __init__(
        self,
        service: Service,
        identity: str,
        dump_dir: Path,
        journal: SegmentedJournal | None,
        next_segment: int = 1,
    ) -> None:
        """dump_dir: from where the node would load its dump, were it started now. journal: None if there is none; then
        next_segment is the one with which a journal would go on."""
        self._service = service
        self._identity = identity
        self._dump_dir = dump_dir
        self._journal = journal
        self._next_segment = next_segment
        service.handle(protocol.BEGIN_DUMP, self._begin, "batch")
        service.handle(protocol.END_DUMP, self._end, "batch")

    def _begin(self, _: ConnectionHandler) -> tuple[int, str]:
        return self._journal.rotate() if self._journal else self._next_segment, self._identity

    def _end(self, _: ConnectionHandler, segment: Any) -> bool:
        protocol.END_DUMP.check((segment,), self._service.limits)
        try:
            manifest = read_manifest(self._dump_dir)
        except (DumpDamaged, DumpUnreadable) as error:
            log.error("the journal is not trimmed: %s", error)
            return False
        if self._journal is None or manifest is None or manifest.first_segment != segment:
            return False
        self._journal.first_undumped = segment
        self._journal.remove_before(manifest.keep_from)
        log.info("dump of segment %d is complete: the journal is kept from segment %d on", segment, manifest.keep_from)
        return True
