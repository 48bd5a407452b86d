"""Whatever is done to the bytes of a store: the check ends, and changes nothing. After `--fix` the second check is
clean, a strict reading finds nothing to complain about, and every block and every entry that was whole is still there.
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from checked import check, repair
from good_store import Record, Store, content, files, good_store

from nodes.logfiles.check.findings import Status
from swarm.logfiles.payload import Codec

SEEDS = 150

Change = Callable[[random.Random, bytes], bytes]


def some(chance: random.Random, data: bytes) -> tuple[int, int]:
    """A range in it, a short or a long one."""
    start = chance.randrange(len(data))
    return start, min(len(data), start + 1 + int(chance.random() ** 3 * len(data)))


def flipped(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def truncated(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def zeroed(chance: random.Random, data: bytes) -> bytes:
    start, end = some(chance, data)
    return data[:start] + bytes(end - start) + data[end:]


def garbled(chance: random.Random, data: bytes) -> bytes:
    start, end = some(chance, data)
    return data[:start] + chance.randbytes(end - start) + data[end:]


def doubled(chance: random.Random, data: bytes) -> bytes:
    start, end = some(chance, data)
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


def removed(chance: random.Random, data: bytes) -> bytes:
    start, end = some(chance, data)
    return data[:start] + data[end:]


CHANGES: list[Change] = [flipped, truncated, zeroed, garbled, doubled, removed]
SHIFTING = {doubled, removed}


def damaged(store: Store, chance: random.Random) -> set[Change]:
    """What was done."""
    done = set()
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        path = chance.choice(sorted(store.units))
        data, change = path.read_bytes(), chance.choice(CHANGES)
        if data:
            path.write_bytes(change(chance, data))
            done.add(change)
    return done


def seed_of(path: Path, data: bytes) -> bytes:
    return data[32:40] if path.suffix == ".tail" else data[24:32]


def whole_records(store: Store, before: dict[Path, bytes]) -> Counter[Record]:
    """Those of the blocks and entries that are still as they were. Without the seed of its file nothing is."""
    found: Counter[Record] = Counter()
    for path, units in store.units.items():
        data = path.read_bytes()
        if seed_of(path, data) == seed_of(path, before[path]):
            for unit in units:
                if before[path][unit.start : unit.end] in data:
                    found |= Counter(unit.records)
    return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_damage(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = good_store(tmp_path, seed, chance.choice(list(Codec)))
    good, before = content(tmp_path), {path: path.read_bytes() for path in store.units}
    done = damaged(store, chance)
    whole, as_damaged = whole_records(store, before), files(tmp_path)

    first = check(tmp_path)
    assert not first.errors
    assert files(tmp_path) == as_damaged
    fixed = repair(tmp_path)
    assert not fixed.errors
    assert fixed.status in (Status.CLEAN, Status.REPAIRED)
    assert bool(first.findings) == bool(fixed.findings)

    assert check(tmp_path).status is Status.CLEAN
    left = content(tmp_path)
    assert not whole - left
    assert not set(left) - set(good)
    if not done & SHIFTING:
        assert not left - good


@pytest.mark.parametrize("seed", range(0, SEEDS, 5))
def test_random_damage_truncated(tmp_path: Path, seed: int) -> None:
    store = good_store(tmp_path, seed)
    good = content(tmp_path)
    damaged(store, random.Random(seed))
    fixed = repair(tmp_path, truncate=True)
    assert not fixed.errors
    assert check(tmp_path).status is Status.CLEAN
    assert not set(content(tmp_path)) - set(good)
