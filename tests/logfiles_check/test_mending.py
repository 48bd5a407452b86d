"""Mending: what is set aside, `--truncate`, and a run that is stopped at any of its steps.

Whatever step fails, or is the last one before the end of the process: a second run leaves what one that was not stopped
leaves.
"""

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from checked import check, repair
from damages import DAMAGES, append, change, cut, flip, make
from good_store import LATE, LIVE, SEALED, content, files, good_store

from nodes.logfiles.check.files import Files
from nodes.logfiles.check.findings import Kind, Status
from nodes.logfiles.file_names import DAMAGED_SUFFIX, FileName


def set_aside(path: Path) -> tuple[dict[str, Any], bytes]:
    """Report and bytes of a .damaged file."""
    front, _, rest = path.read_bytes().partition(b"\n")
    report: dict[str, Any] = json.loads(front)
    return report, rest


class Killed(BaseException):
    """The process ends here."""


class StoppingFiles(Files):
    """The operation with this number, from 1, fails, or is the last one; a write has written half by then."""

    def __init__(self, stops: int, error: BaseException) -> None:
        self._left = stops
        self._error = error

    @property
    def has_stopped(self) -> bool:
        return self._left <= 0

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise self._error

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, fd: int, data: bytes) -> int:
        try:
            self._count()
        except BaseException:
            super().write(fd, data[: len(data) // 2])
            raise
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._count()
        super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)

    def make_directory(self, path: Path) -> None:
        self._count()
        super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._count()
        super().sync_directory(path)


MENDABLE = [
    name
    for name in DAMAGES
    if name not in ("file-unknown-version", "bad-name-of-something-else", "a-copy-in-the-wrong-place")
]


@pytest.mark.parametrize("name", MENDABLE)
def test_killed_at_every_step(tmp_path: Path, name: str) -> None:
    make(name, tmp_path / "whole", 3)
    repair(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    for step in range(1, 1000):
        data = tmp_path / str(step)
        make(name, data, 3)
        stopping = StoppingFiles(step, Killed())
        try:
            repair(data, stopping)
        except Killed:
            pass
        else:
            assert not stopping.has_stopped
            assert step > 3 or name.startswith(("wrong", "bad"))
            return
        repair(data)
        assert check(data).status is Status.CLEAN
        assert content(data) == expected
    raise AssertionError("it does not end")


@pytest.mark.parametrize(
    "name", ["block-count", "entry-payload-checksum", "sealed-out-of-order", "wrong-place", "void-log"]
)
def test_every_step_fails_on_a_full_disk(tmp_path: Path, name: str) -> None:
    for step in range(1, 1000):
        data = tmp_path / str(step)
        make(name, data, 3)
        stopping = StoppingFiles(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        report = repair(data, stopping)
        if not stopping.has_stopped:
            return
        assert report.status & Status.OPERATIONAL
        assert "No space left on device" in report.errors[0]
        repair(data)
        assert check(data).status is Status.CLEAN
    raise AssertionError("it does not end")


def test_what_is_cut_out_is_set_aside(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    first, _, third = store.units[store.sealed]
    for unit in (first, third):
        flip(store.sealed, unit.end - 1)
    path, damaged = store.sealed, store.sealed.read_bytes()
    report = repair(tmp_path)
    (aside,) = report.set_aside
    assert aside == path.with_name(f"{path.name}.1{DAMAGED_SUFFIX}")
    said, rest = set_aside(aside)
    assert (said["file"], said["bytes"]) == (path.name, len(damaged))
    assert [(each["offset"], each["length"], each["kind"]) for each in said["cut"]] == [
        (unit.start, unit.end - unit.start, "payload-checksum") for unit in (first, third)
    ]
    assert rest == damaged[first.start : first.end] + damaged[third.start : third.end]
    assert store.sealed.name == f"110000_3600-2-8-{sum(len(value) for _, value in store.units[path][1].records)}.sealed"


def test_nothing_that_was_set_aside_is_overwritten(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    seen: dict[str, bytes] = {}
    for number in range(1, 4):
        append(store.log, b"something" * number)
        (aside,) = repair(tmp_path).set_aside
        assert aside.name == f"{store.log.name}.{number}{DAMAGED_SUFFIX}"
        now = files(tmp_path)
        assert all(now[path] == data for path, data in seen.items())
        seen = {path: data for path, data in now.items() if path.endswith(DAMAGED_SUFFIX)}
    assert len(seen) == 3
    assert check(tmp_path).status is Status.CLEAN


def test_a_tail_is_set_aside_as_a_whole(tmp_path: Path) -> None:
    """Its entries that are whole, and in no block, become a block."""
    store = good_store(tmp_path)
    good, entry = content(tmp_path), store.units[store.tail][7]
    flip(store.tail, entry.start)
    damaged = store.tail.read_bytes()
    (aside,) = repair(tmp_path).set_aside
    assert set_aside(aside)[1] == damaged
    assert not store.tail.exists()
    assert good - content(tmp_path) == Counter(entry.records)


def test_truncate(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    sealed, first = store.sealed, store.units[store.sealed][0]
    good = content(tmp_path)
    flip(sealed, store.units[sealed][1].start)
    damaged = sealed.read_bytes()
    report = repair(tmp_path, truncate=True)
    assert report.status is Status.REPAIRED
    assert set_aside(report.set_aside[0])[1] == damaged[first.end :]
    assert store.sealed.read_bytes() == damaged[: first.end]
    assert good - content(tmp_path) == Counter(record for unit in store.units[sealed][1:] for record in unit.records)
    assert check(tmp_path).status is Status.CLEAN


def test_truncate_a_tail(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    good = content(tmp_path)
    entries = store.units[store.tail]
    flip(store.tail, entries[7].end - 1)
    repair(tmp_path, truncate=True)
    left = content(tmp_path)
    assert good - left == Counter(entries[7].records + entries[8].records)
    assert check(tmp_path).status is Status.CLEAN


def test_every_block_of_a_file_is_damaged(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    sealed = store.sealed
    for unit in store.units[sealed]:
        flip(sealed, unit.end - 1)
    damaged = sealed.read_bytes()
    (aside,) = repair(tmp_path).set_aside
    assert not sealed.exists()
    assert set_aside(aside)[1] == damaged[40:]
    assert check(tmp_path).status is Status.CLEAN


def test_a_log_whose_header_is_gone_gets_it_from_its_name(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    before = store.log.read_bytes()
    change(store.log, 0, bytes(24))
    repair(tmp_path)
    assert store.log.read_bytes() == before


def test_blocks_behind_a_lost_seed_are_found_by_their_lengths(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    good = content(tmp_path)
    change(store.log, 0, bytes(40))
    flip(store.log, store.units[store.log][2].end - 1)
    assert [each.kind for each in check(tmp_path).findings] == [Kind.BAD_MAGIC, Kind.HEADER_CHECKSUM]
    repair(tmp_path)
    assert content(tmp_path) == good  # the tail has the records of the third block


def test_blocks_out_of_order_become_a_log(tmp_path: Path) -> None:
    store, _ = make("sealed-out-of-order", tmp_path)
    sealed, records = store.sealed, content(tmp_path)
    repair(tmp_path)
    assert not sealed.exists()
    assert store.path(FileName(SEALED, 2, "log")).exists()
    assert content(tmp_path) == records


def test_a_sealed_file_of_which_nothing_is_whole_makes_nothing_void(tmp_path: Path) -> None:
    """The files of its generation, if they are there still, are all that has these records."""
    store = good_store(tmp_path)
    good = content(tmp_path)
    (sealed,) = store.channel.glob(f"*/{LATE.time}*.sealed")
    store.write_tail(FileName(LATE, 1, "tail", 1), [store.units[sealed][0].records])
    flip(sealed, store.units[sealed][0].end - 1)
    repair(tmp_path)
    assert check(tmp_path).status is Status.CLEAN
    assert content(tmp_path) == good


def test_an_unfinished_end_is_no_damage(tmp_path: Path) -> None:
    store = good_store(tmp_path)
    before = content(tmp_path)
    units = store.units[store.log]
    cut(store.log, units[2].end - 3)
    change(store.tail, store.units[store.tail][-1].end, store.tail.read_bytes()[48:90])
    for _ in range(2):
        report = check(tmp_path)
        assert report.status is Status.CLEAN
        assert len(report.notes) == 2
        assert repair(tmp_path).status is Status.CLEAN
    assert content(tmp_path) == before


@pytest.mark.parametrize("data", [b"", bytes(48), bytes(5000), b"SWARMT\0\1", b"x" * 48])
def test_a_tail_that_has_just_been_begun(tmp_path: Path, data: bytes) -> None:
    """Nothing had been written to it but its header."""
    store = good_store(tmp_path)
    store.tail.with_name(store.tail.name.replace("-1.tail", "-2.tail")).write_bytes(data)
    assert check(tmp_path).status is Status.CLEAN


@pytest.mark.parametrize("data", [b"", bytes(5000)])
def test_a_log_that_has_just_been_begun(tmp_path: Path, data: bytes) -> None:
    store = good_store(tmp_path)
    store.write_tail(FileName(LIVE, 2, "tail", 1), [store.records(LIVE, 3)])
    store.path(FileName(LIVE, 2, "log")).write_bytes(data)
    assert check(tmp_path).status is Status.CLEAN
    store.path(FileName(LIVE, 2, "tail", 1)).rename(store.path(FileName(LIVE, 2, "tail", 2)))
    assert [each.kind for each in check(tmp_path).findings] == [Kind.WRONG_NAME, Kind.TRUNCATED_HEADER]


def test_a_damaged_file_with_a_wrong_name(tmp_path: Path) -> None:
    """It is renamed, and mended where it belongs then."""
    store = good_store(tmp_path)
    good, sealed, unit = content(tmp_path), store.sealed, store.units[store.sealed][1]
    flip(sealed, unit.end - 1)
    sealed.rename(sealed.with_name(sealed.name.replace("110000", "010000")))
    assert {each.kind for each in check(tmp_path).findings} == {Kind.WRONG_NAME, Kind.PAYLOAD_CHECKSUM}
    report = repair(tmp_path)
    assert report.status is Status.REPAIRED
    assert [(each.kind, each.mended) for each in report.findings] == [
        (Kind.WRONG_NAME, True),
        (Kind.PAYLOAD_CHECKSUM, True),
    ]
    assert check(tmp_path).status is Status.CLEAN
    assert good - content(tmp_path) == Counter(unit.records)


def test_names_that_are_exchanged(tmp_path: Path) -> None:
    """Neither place is free."""
    store = good_store(tmp_path)
    tail = store.write_tail(FileName(LIVE, 1, "tail", 2), [store.records(LIVE, 2)])
    before = store.tail.read_bytes(), tail.read_bytes()
    store.tail.write_bytes(before[1])
    tail.write_bytes(before[0])
    report = repair(tmp_path)
    assert [(each.kind, each.mendable) for each in report.findings] == [(Kind.WRONG_NAME, False)] * 2
    assert (tail.read_bytes(), store.tail.read_bytes()) == before
