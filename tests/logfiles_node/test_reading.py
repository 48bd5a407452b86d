"""Ranges: in order whatever overlaps, resumable whatever becomes of the files, everything but what is damaged."""

import random
import threading
from operator import itemgetter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_lines import NOON, log_lines
from logfiles_stored import (
    HOUR,
    AbandonedStore,
    Pairs,
    content,
    do,
    flush,
    make_blocks,
    pairs_of_step,
    resumed,
    seal_all,
)

from nodes.logfiles.block_format import BLOCK_BYTES, BLOCK_HEADER_BYTES, FILE_HEADER_BYTES
from nodes.logfiles.block_index import BlockIndex
from nodes.logfiles.merging import View
from nodes.logfiles.range_block import Cursor, decode, matching, position
from nodes.logfiles.reading import STEP_BYTES
from nodes.logfiles.sources import Source
from nodes.logfiles.store import LogStore
from swarm.core.errors import ChannelRemoved
from swarm.logfiles.payload import Codec, Records

times = st.lists(st.integers(0, 12), min_size=1, max_size=8)


def lines(count: int, **options: int) -> Pairs:
    return list(zip(*log_lines(count, **options), strict=True))


def put(store: LogStore, pairs: Pairs, batch: int = 1000) -> None:
    for begin in range(0, len(pairs), batch):
        part = pairs[begin : begin + batch]
        store.put_many("a", [time for time, _ in part], [value for _, value in part])
        store.commit()
        make_blocks(store)


# The merge alone, with windows of next to nothing.


def source(seq: int, timestamps: list[int]) -> Source:
    timestamps = sorted(timestamps)
    values = [b"%d %d" % (seq, number) for number in range(len(timestamps))]

    def read() -> Records:
        return timestamps, values

    run = timestamps.count(timestamps[-1])
    return Source(timestamps[0], timestamps[-1], seq, len(values), run, None, 0, read)


@settings(max_examples=400, deadline=None)
@given(st.lists(times, max_size=8), st.integers(0, 13), st.integers(0, 13), st.sampled_from([1, 40, 100, 1 << 20]))
def test_any_sources_in_any_window(sources: list[list[int]], low: int, high: int, window: int) -> None:
    found = [source(seq, timestamps) for seq, timestamps in enumerate(sources)]
    everything = [(time, value) for each in found if each.read for time, value in zip(*each.read(), strict=True)]
    everything.sort(key=itemgetter(0))
    expected = [pair for pair in everything if low <= pair[0] < high]
    for newest_first in (False, True):
        view = View(found, window)
        given: Pairs = []
        for block, key in view.blocks((low, -1, 0), (high, -1, 0), newest_first=newest_first):
            if block is not None:
                timestamps, values = decode(block)
                pairs = list(zip(timestamps, values, strict=True))
                given += pairs[::-1] if newest_first else pairs
                assert block.before == everything.index(pairs[0]) - [t for t, _ in everything].index(pairs[0][0])
            cursor = Cursor(key[0], View(found).equal_before(key))
            assert View(found).equal_before(View(found).key_of(*cursor)) == cursor.records
            before = sum(time < cursor.timestamp for time, _ in everything) + cursor.records
            if given:
                assert before == everything.index(given[-1]) + (not newest_first)
        assert given == expected[:: -1 if newest_first else 1]


# A store.


def test_what_does_not_overlap_is_given_as_it_is_stored(tmp_path: Path) -> None:
    pairs = lines(20_000)
    with AbandonedStore(tmp_path) as store:
        put(store, pairs)
        flush(store)
        (log,) = tmp_path.rglob("*.log")
        for _ in range(2):
            stored = log.read_bytes()
            blocks = [block for step in store.channels["a"].range(0, 1 << 63) for block in step.blocks]
            assert all(block.payload in stored for block in blocks)
            assert all(block.take == block.records for block in blocks)
            assert {block.codec for block in blocks} == {Codec.LZ4 if log.suffix == ".log" else Codec.ZSTD}
            seal_all(store)
            (log,) = tmp_path.rglob("*.sealed")


def test_late_records_and_several_generations(tmp_path: Path) -> None:
    pairs = lines(12_000)
    chance = random.Random(5)
    late = [pair for pair in pairs if chance.random() < 0.05]
    punctual = [pair for pair in pairs if pair not in set(late)]
    with AbandonedStore(tmp_path) as store:
        put(store, punctual[:6000])
        seal_all(store)
        put(store, late[: len(late) // 2])
        put(store, punctual[6000:])
        flush(store)
        put(store, late[len(late) // 2 :])
        assert content(store) == pairs
        assert content(store, newest_first=True) == pairs[::-1]
        for low, high in [(0, 12_000 - 1), (100, 200), (5990, 6010), (3000, 9000)]:
            expected = pairs[low:high]
            assert content(store, "a", pairs[low][0], pairs[high][0]) == expected
            assert resumed(store, "a", pairs[low][0], pairs[high][0]) == expected
            assert resumed(store, "a", pairs[low][0], pairs[high][0], newest_first=True) == expected[::-1]
        seal_all(store)
        assert content(store) == pairs


def test_records_in_no_order_at_all(tmp_path: Path) -> None:
    pairs = lines(15_000)
    shuffled = random.Random(5).sample(pairs, len(pairs))
    with AbandonedStore(tmp_path) as store:
        put(store, shuffled)
        assert content(store) == pairs
        assert content(store, newest_first=True) == pairs[::-1]
        assert resumed(store, "a", pairs[5000][0], pairs[6000][0]) == pairs[5000:6000]
        seal_all(store)
        assert content(store) == pairs


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_cursor_and_a_reader_while_everything_changes(tmp_path: Path, newest_first: bool) -> None:
    """One reader goes on all the time, one begins anew with its cursor at each step."""
    pairs = lines(60_000, mean_step=3 * HOUR // 60_000)
    expected = pairs[:: -1 if newest_first else 1]
    with AbandonedStore(tmp_path) as store:
        put(store, pairs)
        channel = store.channels["a"]
        reader = channel.range(0, 1 << 63, newest_first=newest_first)
        found: Pairs = []
        found_anew: Pairs = []
        cursor: Cursor | None = None
        changes = [flush, seal_all, lambda store: do(store.removals()), lambda _: None]
        for number, step in enumerate(reader):
            found += pairs_of_step(step, newest_first=newest_first)
            anew = next(
                (each for each in channel.range(0, 1 << 63, cursor, newest_first=newest_first) if each.blocks), None
            )
            if anew:
                found_anew += pairs_of_step(anew, newest_first=newest_first)
                cursor = anew.cursor
            assert sum(len(block.payload) for block in step.blocks) < STEP_BYTES + 2 * BLOCK_BYTES
            changes[number % len(changes)](store)
        assert number >= 3
        assert found == expected
        found_anew += [
            pair
            for step in channel.range(0, 1 << 63, cursor, newest_first=newest_first)
            for pair in pairs_of_step(step, newest_first=newest_first)
        ]
        assert found_anew == expected


def test_readers_in_other_threads(tmp_path: Path) -> None:
    """Each finds, in order and once, what had been committed when it began, and perhaps some of what came since."""
    pairs = lines(30_000, mean_step=HOUR // 10_000)
    failed: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            before = committed
            found = content(store)
            given = set(found)
            if found[:before] != pairs[:before] or found != [pair for pair in pairs if pair in given]:
                failed.append(f"{len(found)} of {before}")

    with AbandonedStore(tmp_path) as store:
        committed = 0
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for begin in range(0, len(pairs), 500):
                put(store, pairs[begin : begin + 500])
                committed = begin + 500
                if begin % 7500 == 0:
                    flush(store)
                    do(store.buckets_to_seal(pairs[begin][0], -1e9))
                    do(store.removals())
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert not failed
        assert content(store) == pairs


def test_a_position_in_the_middle_of_a_block(tmp_path: Path) -> None:
    pairs = [(NOON + number // 7, b"%d" % number) for number in range(3000)]
    with AbandonedStore(tmp_path) as store:
        put(store, pairs, 100)
        flush(store)
        put(store, [(time, b"again " + value) for time, value in pairs[:50]])
        everything = content(store)
        channel = store.channels["a"]
        for newest_first in (False, True):
            for step in channel.range(NOON, NOON + 300, newest_first=newest_first):
                for block in step.blocks:
                    timestamps, values = decode(block._replace(skip=0, take=block.records))
                    for number in range(block.skip, block.skip + block.take, 13):
                        at = position(block, timestamps, number)
                        after = at if newest_first else at._replace(records=at.records + 1)
                        left = content(store, "a", NOON, NOON + 300, after=after, newest_first=newest_first)
                        index = everything.index((timestamps[number], values[number]))
                        within = [pair for pair in everything if pair[0] < NOON + 300]
                        assert left == (within[:index][::-1] if newest_first else within[index + 1 :])


def test_new_records_behind_a_cursor_are_found(tmp_path: Path) -> None:
    """Following: a range from a cursor at the end gives what came since, also with the same timestamp."""
    with AbandonedStore(tmp_path) as store:
        put(store, [(NOON, b"1"), (NOON, b"2")])
        *_, last = store.channels["a"].range(0, 1 << 63)
        assert list(store.channels["a"].range(0, 1 << 63, last.cursor)) == []
        put(store, [(NOON, b"3"), (NOON + 1, b"4")])
        assert content(store, after=last.cursor) == [(NOON, b"3"), (NOON + 1, b"4")]


def test_nothing_there(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, [(NOON, b"1")])
        for first, end in [(NOON + 1, NOON + 5), (0, NOON), (NOON, NOON), (NOON + 5, 0), (1 << 80, 1 << 90)]:
            assert content(store, "a", first, end) == []
            assert content(store, "a", first, end, newest_first=True) == []


def test_matching() -> None:
    everything = source(0, [1, 2, 3, 4])
    ((block, _),) = View([everything]).blocks((2, -1, 0), (9, -1, 0))
    assert block is not None
    assert decode(block) == ([2, 3, 4], [b"0 1", b"0 2", b"0 3"])
    found = matching(block, lambda values: [number for number, value in enumerate(values) if value != b"0 2"])
    assert found is not None
    assert decode(found) == ([2, 4], [b"0 1", b"0 3"])
    assert matching(block, lambda _: []) is None
    assert matching(block, lambda values: range(len(values))) is block


def test_a_removed_channel_ends_its_readers(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, lines(20_000))
        reader = store.channels["a"].range(0, 1 << 63)
        next(reader)
        for _ in store.remove_channel("a"):
            pass
        with pytest.raises(ChannelRemoved):
            list(reader)


# Damage.


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("where", ["header", "payload"])
def test_a_damaged_block_is_passed_over_and_told(
    tmp_path: Path, sealed: bool, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = lines(8000)
    with AbandonedStore(tmp_path) as store:
        put(store, pairs)
        flush(store)
        if sealed:
            seal_all(store)
        path = next(tmp_path.rglob("*.sealed" if sealed else "*.log"))
    data = bytearray(path.read_bytes())
    with AbandonedStore(tmp_path) as store:
        index = index_of(store)
    hit = 2
    data[index.offsets[hit] + (10 if where == "header" else BLOCK_HEADER_BYTES + 7)] ^= 16
    path.write_bytes(data)
    first = sum(index.records[:hit])
    expected = pairs[:first] + pairs[first + index.records[hit] :]
    with AbandonedStore(tmp_path) as store:
        assert content(store) == expected
        assert content(store, newest_first=True) == expected[::-1]
        (damage,) = [damage for step in store.channels["a"].range(0, 1 << 63) for damage in step.damages]
        assert (damage.path, damage.offset) == (path, index.offsets[hit])
        put(store, [(NOON + HOUR // 2, b"late")])
        seal_all(store)
        assert content(store) == sorted([*expected, (NOON + HOUR // 2, b"late")])
        assert path.exists()  # what may still be mended is not thrown away


def index_of(store: LogStore) -> BlockIndex:
    list(store.channels["a"].range(0, 1 << 63))
    (bucket,) = store.channels["a"].buckets.values()
    if bucket.parts:
        return bucket.parts[0].index
    assert bucket.sealed
    _, index = store._shared.indexes._found[store.channels["a"].directory / bucket.sealed.path]
    return index


def test_a_file_whose_header_is_damaged(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, lines(3000))
        flush(store)
    (path,) = tmp_path.rglob("*.log")
    data = bytearray(path.read_bytes())
    data[FILE_HEADER_BYTES - 1] ^= 1
    path.write_bytes(data)
    with AbandonedStore(tmp_path) as store:
        put(store, [(NOON, b"more")])
        flush(store)
        seal_all(store)
        assert content(store) == [(NOON, b"more")]
        assert path.read_bytes() == data


def test_a_tail_with_damage_gives_the_rest_and_is_set_aside(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        for number in range(5):
            put(store, [(NOON + number, b"%d" % number * 100)])
    (path,) = tmp_path.rglob("*.tail")
    data = bytearray(path.read_bytes())
    data[data.index(b"2222")] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        with AbandonedStore(tmp_path) as store:
            assert [value[:1] for _, value in content(store)] == [b"0", b"1", b"3", b"4"]
            flush(store)
    assert path.with_name(path.name + ".damaged").read_bytes() == data


def test_a_sealed_file_that_is_missing_is_damage(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, [(NOON, b"1"), (NOON + HOUR, b"2")])
        seal_all(store)
        min(tmp_path.rglob("*.sealed")).unlink()
        steps = list(store.channels["a"].range(0, 1 << 63))
        assert [damage.what for step in steps for damage in step.damages] == ["the file is missing"]
        assert content(store) == [(NOON + HOUR, b"2")]
