"""Stores that the node's storage has written, at rest and left as by kill -9: the check finds nothing but what the next
start removes. And those that are damaged then: the storage reads after a repair all that was whole, and is content.
"""

import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from checked import check, repair
from damages import append, cut, flip
from logfiles_node.log_lines import NOON, log_lines
from logfiles_node.logfiles_stored import AbandonedStore, content, flush, make_blocks, seal_all

from nodes.logfiles.block_format import next_block
from nodes.logfiles.check.findings import Kind, Report, Status
from nodes.logfiles.file_names import SECOND_NS, FileName
from nodes.logfiles.files import Files
from nodes.logfiles.sealing import seal

LEFT_BY_KILLED = {Kind.STRAY_TEMPORARY, Kind.VOID_FILE}
Pairs = list[tuple[int, bytes]]


def written(data: Path, chance: random.Random, *, times: int = 2) -> Pairs:
    """Several buckets with blocks and tails, left as by kill -9 more than once; what was acknowledged."""
    acknowledged: Pairs = []
    for number in range(times):
        with AbandonedStore(data, bucket_s=60) as store:
            for step in range(12):
                start = NOON + (number * 12 + step - chance.choice([0, 0, 0, 5])) * 10 * SECOND_NS
                timestamps, values = log_lines(chance.choice([1, 30, 700]), chance.randrange(1 << 30), start)
                store.put_many("a", timestamps, values)
                acknowledged += zip(timestamps, values, strict=True)
                store.commit()
                if step % 4 == 3:
                    flush(store)
            make_blocks(store)
    return acknowledged


def sealed(data: Path, count: int) -> None:
    """The first buckets, as the node's sealing does it; what is void then is removed by the next start."""
    with AbandonedStore(data, bucket_s=60) as store:
        flush(store)
    for path in sorted(data.glob("channels/a/*/*.log"))[:count]:
        name = FileName.parse(path.parent.name, path.name)
        assert name is not None
        seal(Files(), path.parent, name.span, name.generation)


def kinds(report: Report) -> set[Kind]:
    assert not report.errors
    return {each.kind for each in report.findings}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_in_what_the_node_leaves(tmp_path: Path, seed: int) -> None:
    data = tmp_path / "data"
    acknowledged = written(data, random.Random(seed))
    assert kinds(check(data)) <= LEFT_BY_KILLED
    sealed(data, 3)
    assert kinds(check(data)) <= LEFT_BY_KILLED
    with AbandonedStore(data) as store:
        assert sorted(content(store)) == sorted(acknowledged)
        make_blocks(store)
    report = check(data)
    assert report.status is Status.CLEAN
    assert report.blocks > 3
    assert report.records >= len(acknowledged)


def test_a_tail_that_is_not_there_is_noted(tmp_path: Path) -> None:
    """Its number shows it. It may have had nothing in it, so it is no damage."""
    for number in range(4):
        with AbandonedStore(tmp_path) as store:  # each begins a tail of its own
            store.put_many("a", [NOON], [b"%d" % number])
            store.commit()
    assert check(tmp_path).notes == []
    for number in (2, 3):
        next(tmp_path.rglob(f"*-1-{number}.tail")).unlink()
    report = check(tmp_path)
    assert report.status is Status.CLEAN
    (note,) = report.notes
    assert note.endswith(
        "-1-1.tail to 120000_3600-1-4.tail: number 2 to 3 is not there; nothing was in it, or it was lost"
    )


@pytest.mark.parametrize("seed", range(6))
def test_what_is_mended_is_read_by_the_node(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(seed)
    data = tmp_path / "data"
    acknowledged = Counter(written(data, chance))
    sealed(data, 2)
    with AbandonedStore(data):
        pass
    paths = sorted(path for path in data.glob("channels/a/*/*") if path.suffix != ".tmp")
    for path in chance.sample(paths, min(4, len(paths))):
        size = path.stat().st_size
        match chance.randrange(3):
            case 0:
                flip(path, chance.randrange(size))
            case 1:
                cut(path, chance.randrange(size))
            case 2:
                append(path, path.read_bytes()[: chance.randrange(size)])
    repair(data)
    assert check(data).status is Status.CLEAN
    caplog.clear()
    with caplog.at_level(logging.ERROR), AbandonedStore(data) as store:
        left = Counter(content(store))
        assert not set(left) - set(acknowledged)
        assert not caplog.records
        store.put_many("a", [NOON], [b"after the repair"])
        store.commit()
        flush(store)
    assert check(data).status is Status.CLEAN
    with AbandonedStore(data) as store:
        assert Counter(content(store)) == left + Counter([(NOON, b"after the repair")])


def test_every_file_of_a_store_damaged_in_turn(tmp_path: Path) -> None:
    """With one bit flipped in it: what the node reads after the repair is all but one block or entry at most."""
    data = tmp_path / "data"
    chance = random.Random(5)
    acknowledged = Counter(written(data, chance, times=1))
    sealed(data, 2)
    with AbandonedStore(data) as store:
        assert Counter(content(store)) == acknowledged
    for path in sorted(data.glob("channels/a/*/*")):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        flip(copy / path.relative_to(data), chance.randrange(100, path.stat().st_size))
        found = check(copy).findings
        repair(copy)
        assert len(found) <= 1
        assert check(copy).status is Status.CLEAN
        with AbandonedStore(copy) as store:
            left = Counter(content(store))
        assert not left - acknowledged
        assert (acknowledged - left).total() <= 2000
        shutil.rmtree(copy)


def test_a_sealed_file_out_of_order_is_sealed_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    timestamps, values = log_lines(4000, 1, NOON, mean_step=1000)
    acknowledged = list(zip(timestamps, values, strict=True))
    with AbandonedStore(data) as store:
        for first in range(0, 4000, 500):
            store.put_many("a", timestamps[first : first + 500], values[first : first + 500])
            store.commit()
        flush(store)
        seal_all(store)
        assert content(store) == acknowledged
    (path,) = data.glob("channels/a/*/*.sealed")
    whole = path.read_bytes()
    second = next_block(whole, whole[24:32], 41)
    assert second is not None
    path.write_bytes(whole[:40] + whole[second:] + whole[40:second])
    assert kinds(check(data)) == {Kind.OUT_OF_ORDER}
    assert repair(data).status is Status.REPAIRED
    with AbandonedStore(data) as store:
        assert content(store) == acknowledged
        seal_all(store)
        assert content(store) == acknowledged
    assert check(data).status is Status.CLEAN
    assert len(list(data.glob("channels/a/*/*.sealed"))) == 1
