"""Files that were laid out below a prefix, with what is needed to lay them out again.

    not there                                          written
    as it was written last time, or is to be now       written anew, nothing
    changed by somebody, the new one as last time      stays
    changed by somebody, the new one is another        stays, the new one is written beside it as FILE.new

What was written last time is known by its SHA-256, in etc/swarm/installed.json.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from swarm.cli import Failure

RECORD = Path("etc/swarm/installed.json")


class InstalledFiles:
    def __init__(self, prefix: Path, tell: Callable[[str], None]) -> None:
        """tell: is called with a line for whatever was done."""
        self._prefix = prefix
        self._tell = tell
        self._record = self._read()
        self._as_they_are = 0

    def write(self, path: Path, text: str, *, may_replace: bool = True) -> None:
        """path: below the prefix. may_replace: also one that nobody has changed since it was written."""
        there, new, before = self._prefix / path, _checksum(text.encode()), self._record.get(str(path))
        current = _checksum(there.read_bytes()) if there.exists() else None
        self._record[str(path)] = new
        if current == new:
            self._as_they_are += 1
        elif current is None or (may_replace and current == before):
            self._put(there, text)
            self._tell(f"wrote {there}")
        elif before == new:
            self._tell(f"kept {there}, which was changed")
        else:
            self._put(there.with_name(there.name + ".new"), text)
            self._tell(f"kept {there}, which was changed or is in use: the new one is {there}.new")

    def make_directory(self, path: Path) -> None:
        if not (self._prefix / path).is_dir():
            (self._prefix / path).mkdir(parents=True)
            self._tell(f"made {self._prefix / path}")

    def close(self) -> None:
        """To be called when all are written."""
        self._put(self._prefix / RECORD, json.dumps(self._record, indent=1, sort_keys=True) + "\n")
        if self._as_they_are:
            self._tell(f"{self._as_they_are} files were as they should be")

    def _read(self) -> dict[str, str]:
        path = self._prefix / RECORD
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Failure(f"{path} is damaged ({error}): remove it, and every file that is not new stays") from error
        return {str(name): str(checksum) for name, checksum in record.items()} if isinstance(record, dict) else {}

    def _put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(text, encoding="utf-8")
        beside.chmod(0o644)
        beside.replace(path)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
