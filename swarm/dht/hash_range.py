"""Which hash a key has, and which node is responsible for it."""

import re
from dataclasses import dataclass
from itertools import pairwise

from xxhash import xxh3_64_intdigest as hash_key

__all__ = ["HASH_MAX", "HashRange", "hash_key", "split_evenly"]

HASH_MAX = 2**64 - 1

_NUMBER = "(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*")


@dataclass(frozen=True, order=True)
class HashRange:
    """The hashes from lowest to highest, both inclusive."""

    lowest: int = 0
    highest: int = HASH_MAX

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.highest <= HASH_MAX:
            raise ValueError(f"a hash range goes from 0 to {HASH_MAX:#x} and not backwards, not {self}")

    def __contains__(self, key_hash: int) -> bool:
        return self.lowest <= key_hash <= self.highest

    def __str__(self) -> str:
        return f"{self.lowest:#018x}-{self.highest:#018x}"

    @property
    def share(self) -> float:
        """Which part of all hashes it is, from 0 to 1."""
        return (self.highest - self.lowest + 1) / (HASH_MAX + 1)

    @classmethod
    def parse(cls, text: str) -> "HashRange":
        """Reads MIN-MAX, decimal or hexadecimal with 0x; ValueError with what is wrong."""
        match = _RANGE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a hash range MIN-MAX (decimal, or hexadecimal with 0x)")
        lowest, highest = (int(text, 16 if text.startswith("0x") else 10) for text in match.groups())
        return cls(lowest, highest)


def split_evenly(parts: int) -> list[HashRange]:
    """The whole range in parts of the same size, without gap or overlap."""
    edges = [(HASH_MAX + 1) * number // parts for number in range(parts + 1)]
    return [HashRange(low, high - 1) for low, high in pairwise(edges)]
