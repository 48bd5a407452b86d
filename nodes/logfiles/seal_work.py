"""Sealing as the node sees it: a process that rewrites a bucket, and what becomes of the bucket then.

Why a process: the records go through Python, some 1 us each beside the compression, and with a thread of the node that
would be time in which no request is answered. It has the lowest priority, and ends when the node does.

The parts that are sealed are frozen: no file of theirs changes, records that come go to the next generation. When the
sealed file is there under its name, the bucket has it in the place of the parts, in one step, and their files are
discarded. If the node ends in between, the next start finds them void.

The process works in the directory that it was given, not by its name: a channel that is removed and begun anew
meanwhile is another directory.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nodes.logfiles.bucket import Bucket
from nodes.logfiles.channel import LogChannel
from nodes.logfiles.file_names import FileName
from nodes.logfiles.sealing import STATUS_DAMAGED, temporary_name
from nodes.logfiles.shared import Shared

log = logging.getLogger(__name__)


class SealWork:
    def __init__(
        self,
        shared: Shared,
        channel: LogChannel,
        bucket: Bucket,
        lock: int,
        discard: Callable[[Path], None],
    ) -> None:
        """Of a bucket whose parts are at rest, and have no tails. lock: a descriptor that the process holds open."""
        self._shared = shared
        self._channel = channel
        self._bucket = bucket
        self._lock = lock
        self._discard = discard
        self._parts = bucket.parts
        self._generation = bucket.generation
        self._sealed: FileName | None = None
        self._is_damaged = False
        self.failed = False
        self._voids = [channel.directory / name.path for name in bucket.file_names()]
        self._directory = os.open(channel.directory / bucket.span.day, os.O_RDONLY | os.O_DIRECTORY)
        bucket.sealing = True
        for part in self._parts:
            part.frozen = True

    def run(self) -> None:
        """In a thread. Raises OSError."""
        self.failed = True
        try:
            self._seal()
        except OSError:
            with suppress(OSError):  # left by a process that was killed
                os.unlink(temporary_name(self._bucket.span, self._generation), dir_fd=self._directory)
            raise
        finally:
            os.close(self._directory)
        self.failed = False

    def _seal(self) -> None:
        span = self._bucket.span
        place = self._channel.directory / span.day
        numbers = (self._directory, span.start, span.length_s, self._generation)
        command = [sys.executable, "-m", "nodes.logfiles.sealing", *map(str, numbers)]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self._directory, self._lock),
            text=True,
        ) as process:
            assert process.stdout
            assert process.stderr
            output, errors = process.stdout.read(), process.stderr.read()
        bucket = f"{place}/{span.time}_{span.length_s}"
        self._is_damaged = process.returncode == STATUS_DAMAGED
        if self._is_damaged:
            log.error("a bucket with damage is not sealed: %s: %s", bucket, errors.strip())
            return
        if process.returncode:
            raise OSError(f"{bucket}: sealing has ended with status {process.returncode}: {errors.strip()[-500:]}")
        self._sealed = FileName.parse(span.day, output.strip())
        if self._sealed is None:
            raise OSError(f"{bucket}: sealing has given {output!r:.100}")

    def finish(self) -> None:
        bucket, sealed = self._bucket, self._sealed
        bucket.sealing = False
        bucket.damaged |= self._is_damaged
        if self._channel.removed or sealed is None:
            return
        with self._shared.lock:
            bucket.parts = bucket.parts[len(self._parts) :]
            before = bucket.sealed_records, bucket.sealed_value_bytes
            bucket.set_sealed(sealed)
        self._channel.records += sealed.records - before[0] - sum(part.records for part in self._parts)
        self._channel.record_bytes += sealed.value_bytes - before[1] - sum(part.value_bytes for part in self._parts)
        for part in self._parts:
            part.close()
        for path in self._voids:
            if path.name != sealed.name:
                self._discard(path)
