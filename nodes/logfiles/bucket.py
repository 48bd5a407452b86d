"""A span of time of a channel, and which files its records are in.

    sealed   one file, all records up to a generation; only what its name says is known until it is read
    parts    the generations behind it, each with a log and tails; a bucket that is not written to has none

The order of records with the same timestamp is: the sealed file, then the parts by generation; in each the log, then
the entries.
"""

from pathlib import Path
from time import monotonic

from nodes.logfiles.file_names import FileName, Span
from nodes.logfiles.part import Part
from nodes.logfiles.shared import Shared

PUT_OFF_S = 20.0  # two rounds: those behind a bucket that cannot be sealed have their turn
PUT_OFF_MAX_S = 640.0  # a disk that is full has room again some time


class Bucket:
    __slots__ = (
        "damaged",
        "failures",
        "parts",
        "put_off_until",
        "sealed_generation",
        "sealed_records",
        "sealed_value_bytes",
        "sealing",
        "span",
    )

    def __init__(self, span: Span) -> None:
        self.span = span
        self.sealed_generation = 0
        """0: there is no sealed file."""
        self.sealed_records = 0
        self.sealed_value_bytes = 0
        self.parts: tuple[Part, ...] = ()
        self.damaged = False
        """It has what logfiles-check may mend: it is not sealed."""
        self.sealing = False
        self.failures = 0
        """To seal it, one after the other."""
        self.put_off_until = 0.0
        """Monotonic: it is not tried again before."""

    def put_off(self) -> None:
        """It could not be sealed: it has time until later, twice as long each time."""
        self.put_off_until = monotonic() + min(PUT_OFF_S * 2**self.failures, PUT_OFF_MAX_S)
        self.failures += 1

    @property
    def sealed(self) -> FileName | None:
        if not self.sealed_generation:
            return None
        return FileName(
            self.span,
            self.sealed_generation,
            "sealed",
            records=self.sealed_records,
            value_bytes=self.sealed_value_bytes,
        )

    def set_sealed(self, name: FileName) -> None:
        self.sealed_generation = name.generation
        self.sealed_records = name.records
        self.sealed_value_bytes = name.value_bytes

    @property
    def records(self) -> int:
        return self.sealed_records + sum(part.records for part in self.parts)

    @property
    def value_bytes(self) -> int:
        return self.sealed_value_bytes + sum(part.value_bytes for part in self.parts)

    @property
    def generation(self) -> int:
        """The last one there is; 0 for none."""
        return self.parts[-1].generation if self.parts else self.sealed_generation

    def part_to_write(self, shared: Shared, channel: Path) -> Part:
        """The part that new records come to; it is begun where there is none."""
        if self.parts and not self.parts[-1].frozen:
            return self.parts[-1]
        part = Part(shared, channel, self.span, self.generation + 1)
        with shared.lock:
            self.parts = (*self.parts, part)
        return part

    def file_names(self) -> list[FileName]:
        """Every file of it that there may be."""
        found = [self.sealed] if self.sealed_generation else []
        names: list[FileName] = [name for name in found if name]
        for part in self.parts:
            names.append(FileName(self.span, part.generation, "log"))
            names += [FileName(self.span, part.generation, "tail", number=tail.number) for tail in part.tails]
        return names
