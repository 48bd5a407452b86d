"""A store against a sorted list as model.

At any moment a range gives exactly the records that were taken, in the order of time, those with the same timestamp in
the order in which they came; after a crash every record that was committed, and none twice.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import pytest
from log_lines import NOON, log_lines
from logfiles_stored import (
    HOUR,
    AbandonedStore,
    FailingFiles,
    Pairs,
    WatchedFiles,
    after_restart,
    content,
    do,
    flush,
    make_blocks,
    resumed,
    seal_all,
)

from nodes.logfiles import shared
from nodes.logfiles.channel import BUCKETS_PER_BATCH_MAX
from nodes.logfiles.file_names import Span
from nodes.logfiles.files import Files
from nodes.logfiles.seal_work import SealWork
from nodes.logfiles.sealing import seal
from nodes.logfiles.shared import Settings
from nodes.logfiles.store import LogStore
from nodes.logfiles.tail import TAIL_BYTES
from swarm.core.errors import (
    BadArgument,
    BadChannel,
    BatchTooBig,
    DiskFull,
    EmptyValue,
    OutOfMemory,
    TooManyChannels,
    ValueTooBig,
)
from swarm.core.node import NodeError
from swarm.logfiles.payload import TIMESTAMP_MAX, TIMESTAMP_MIN

MIB = 1 << 20


def put(store: LogStore, pairs: Pairs, name: str = "a") -> None:
    store.put_many(name, [time for time, _ in pairs], [value for _, value in pairs])
    store.commit()


def in_order(pairs: Pairs) -> Pairs:
    return sorted(pairs, key=itemgetter(0))


# What is taken, and what is refused.


@pytest.mark.parametrize(("timestamps", "values", "error"), [
    ([], [], BadArgument), ([1], [], BadArgument), ([1], [b"a", b"b"], BadArgument), ([1.0], [b"a"], BadArgument),
    ([True], [b"a"], BadArgument), ([None], [b"a"], BadArgument), ([1, "2"], [b"a", b"b"], BadArgument),
    ([1], ["a"], BadArgument), ([1], [bytearray(b"a")], BadArgument), ([1, 2], [b"a", b""], EmptyValue),
    ([TIMESTAMP_MIN - 1], [b"a"], BadArgument), ([TIMESTAMP_MAX + 1], [b"a"], BadArgument),
    ([1 << 70], [b"a"], BadArgument), ([1, 2], [b"a", bytes(1001)], ValueTooBig),
    ([HOUR * each for each in range(BUCKETS_PER_BATCH_MAX + 1)], [b"a"] * (BUCKETS_PER_BATCH_MAX + 1), BatchTooBig),
])  # fmt: skip
def test_what_is_refused_changes_nothing(
    tmp_path: Path, timestamps: list[int], values: list[bytes], error: type[Exception]
) -> None:
    with AbandonedStore(tmp_path, value_bytes_max=1000) as store:
        with pytest.raises(error):
            store.put_many("new", timestamps, values)
        assert not store.channels
        put(store, [(1, b"a" * 1000)])
        with pytest.raises(error):
            store.put_many("a", timestamps, values)
        store.commit()
        assert content(store) == [(1, b"a" * 1000)]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "@x", "a" * 129, "é", "a\0"])
def test_bad_channel_names(tmp_path: Path, name: str) -> None:
    with AbandonedStore(tmp_path) as store:
        with pytest.raises(BadChannel):
            store.put_many(name, [1], [b"a"])
        assert not list((tmp_path / "channels").iterdir())


def test_channels_are_limited(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path, channels_max=1) as store:
        put(store, [(1, b"a")])
        with pytest.raises(TooManyChannels):
            store.put_many("b", [1], [b"a"])
        put(store, [(2, b"b")])


def test_timestamps_at_the_bounds_and_before_1970(tmp_path: Path) -> None:
    pairs = [(TIMESTAMP_MAX, b"last"), (-1, b"before"), (0, b"then"), (TIMESTAMP_MIN, b"first"), (-HOUR, b"hour")]
    for bucket_s in (3600, 86_400):
        data = tmp_path / str(bucket_s)
        with AbandonedStore(data, bucket_s=bucket_s) as store:
            put(store, pairs)
            assert content(store) == in_order(pairs)
            assert content(store, "a", -HOUR, 0) == [(-HOUR, b"hour"), (-1, b"before")]
            assert (store.channels["a"].oldest(), store.channels["a"].newest()) == (TIMESTAMP_MIN, TIMESTAMP_MAX)
            seal_all(store)
            assert content(store, newest_first=True) == in_order(pairs)[::-1]
        with AbandonedStore(data, bucket_s=60) as store:
            assert content(store) == in_order(pairs)


def test_bucket_borders(tmp_path: Path) -> None:
    pairs = [(NOON + HOUR * hour + off, b"%d %d" % (hour, off)) for hour in range(4) for off in (-1, 0, 1)]
    with AbandonedStore(tmp_path) as store:
        put(store, pairs[::-1])
        assert content(store) == pairs
        assert len(store.channels["a"].buckets) == 5
        for low in range(13):
            for high in range(13):
                first = pairs[low][0] if low < 12 else TIMESTAMP_MAX
                end = pairs[high][0] if high < 12 else TIMESTAMP_MAX
                assert content(store, "a", first, end) == pairs[low:high]


def test_equal_timestamps_keep_their_order_in_every_state(tmp_path: Path) -> None:
    pairs: Pairs = []

    def more(store: LogStore) -> None:
        new = [(NOON + number % 3, b"%06d" % (len(pairs) + number) * 20) for number in range(3000)]
        pairs.extend(new)
        put(store, new)

    def check(store: LogStore) -> None:
        assert content(store) == in_order(pairs)
        assert content(store, newest_first=True) == in_order(pairs)[::-1]
        assert content(store, "a", NOON + 1, NOON + 2) == [pair for pair in pairs if pair[0] == NOON + 1]
        for newest_first in (False, True):
            assert (
                resumed(store, "a", 0, 1 << 63, newest_first=newest_first)
                == in_order(pairs)[:: -1 if newest_first else 1]
            )

    with AbandonedStore(tmp_path) as store:
        for change in (more, make_blocks, more, flush, more, seal_all, more, flush, more, seal_all, more, make_blocks):
            change(store)
            check(store)
    with AbandonedStore(tmp_path) as store:
        check(store)


def test_a_pass_is_one_write_for_each_tail(tmp_path: Path) -> None:
    files = WatchedFiles()
    with AbandonedStore(tmp_path, files=files) as store:
        put(store, [(NOON, b"a"), (NOON + HOUR, b"b")])
        files.done.clear()
        for number in range(50):
            store.put_many("a", [NOON + number], [b"%d" % number])
        store.put_many("a", [NOON + 1, NOON + HOUR], [os.urandom(200_000), b"b"])
        assert "write" not in files.done
        store.commit()
        store.commit()
        assert files.done["write"] == 2
        assert store.take_sync() is not None


def test_sizes(tmp_path: Path) -> None:
    pairs = list(zip(*log_lines(20_000, mean_step=HOUR // 5000), strict=True))
    with AbandonedStore(tmp_path) as store:
        for begin in range(0, len(pairs), 700):
            put(store, pairs[begin : begin + 700])
            make_blocks(store)

        def check(store: LogStore) -> None:
            channel = store.channels["a"]
            assert channel.records == len(pairs)
            assert channel.record_bytes == sum(len(value) for _, value in pairs)
            buckets = channel.buckets.values()
            assert sum(bucket.records for bucket in buckets) == channel.records
            assert sum(bucket.value_bytes for bucket in buckets) == channel.record_bytes
            assert (channel.oldest(), channel.newest()) == (pairs[0][0], pairs[-1][0])

        check(store)
        with AbandonedStore(shutil.copytree(tmp_path, tmp_path / "copy")) as copy:
            check(copy)
        seal_all(store)
        check(store)
    with AbandonedStore(tmp_path) as store:
        check(store)


def test_how_much_of_log_lines_is_left_on_disk(tmp_path: Path) -> None:
    timestamps, values = log_lines(50_000)
    with AbandonedStore(tmp_path) as store:
        for begin in range(0, len(values), 1000):
            put(store, list(zip(timestamps[begin : begin + 1000], values[begin : begin + 1000], strict=True)))
            make_blocks(store)
        raw = sum(map(len, values))
        stored = [path for path in tmp_path.rglob("*.*") if path.is_file()]
        assert {path.suffix for path in stored} == {".log", ".tail", ".lock"}
        assert sum(path.stat().st_size for path in stored if path.suffix == ".log") < 0.4 * raw
        assert sum(path.stat().st_size for path in stored if path.suffix == ".tail") < 3 * TAIL_BYTES
        seal_all(store)
        (sealed,) = tmp_path.rglob("*.sealed")
        assert sealed.stat().st_size < 0.2 * raw
        assert not list(tmp_path.rglob("*.log"))
        assert content(store) == list(zip(timestamps, values, strict=True))


def test_files_grow_and_go_as_the_document_says(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        for number in range(100):
            put(store, [(NOON + number, os.urandom(MIB // 8))])
            make_blocks(store)
            tails = list(tmp_path.rglob("*.tail"))
            assert len(tails) <= 2
            assert all(path.stat().st_size <= TAIL_BYTES + 2 * MIB for path in tails)
        assert store.statistics()["tail_bytes"] < MIB
        assert max(path.name for path in tails) == "120000_3600-1-4.tail"
        flush(store)
        assert not list(tmp_path.rglob("*.tail"))
        assert len(content(store)) == 100
        assert store.statistics()["tail_bytes"] == 0


def test_an_ordered_end(tmp_path: Path) -> None:
    files = WatchedFiles()
    with AbandonedStore(tmp_path, files=files) as store:
        put(store, [(NOON, b"a")])
        store.put_many("a", [NOON + 1], [b"b"])
        store.close()
        assert not files.fds
        assert files.done["sync"] == 1
        (tail,) = tmp_path.rglob("*.tail")
        assert tail.stat().st_size < 200
    with AbandonedStore(tmp_path) as store:
        assert content(store) == [(NOON, b"a"), (NOON + 1, b"b")]


def test_memory_is_bounded_when_no_blocks_are_made(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path, tail_memory=4 * MIB) as store:
        for number in range(15):
            put(store, [(NOON + number, os.urandom(MIB // 4))])
        with pytest.raises(OutOfMemory):
            put(store, [(NOON, os.urandom(MIB // 2))])
        assert len(content(store)) == 15
        make_blocks(store)
        put(store, [(NOON, b"a")])


def test_many_buckets_at_once_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(NOON + HOUR * number, b"%d" % number) for number in range(300)]
    files = WatchedFiles()
    with AbandonedStore(tmp_path, files=files) as store:
        for number in range(3):
            put(store, [(time + number, value) for time, value in pairs[:BUCKETS_PER_BATCH_MAX]])
        put(store, pairs[BUCKETS_PER_BATCH_MAX:])
        assert len(files.fds) == 301
        make_blocks(store)
        assert len(files.fds) == shared.OPEN_TAILS_MAX // 2 + 1
        monkeypatch.setattr("nodes.logfiles.channel.OPEN_TAILS_MAX", 256)
        with pytest.raises(OutOfMemory, match="256 buckets are being written to"):
            store.put_many("b", [1], [b"b"])
        assert len(content(store)) == 3 * BUCKETS_PER_BATCH_MAX + 300 - BUCKETS_PER_BATCH_MAX


# Crashes.


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_and_crashes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    model: dict[str, list[tuple[int, bytes, int]]] = {"a": [], "b": []}
    settings = {"bucket_s": chance.choice([60, 3600, 86_400])}
    data = tmp_path / "data"
    now = NOON

    def expected(name: str, first: int = TIMESTAMP_MIN, end: int = TIMESTAMP_MAX) -> Pairs:
        """Among equal timestamps those in the bucket that begins earlier come first, then those in the shorter one."""
        found = sorted(model[name], key=lambda record: (record[0], *Span.of(record[0], record[2])))
        return [(time, value) for time, value, _ in found if first <= time < end]

    def some(count: int) -> Pairs:
        nonlocal now
        pairs = []
        for _ in range(count):
            now += chance.choice([0, 0, 1, 1000, 10**9])
            late = chance.choice([0] * 8 + [chance.randrange(2 * HOUR)])
            pairs.append((now - late, os.urandom(chance.choice([1, 20, 200, 3000]))))
        return pairs

    crashes = 0
    while crashes < 4:
        with AbandonedStore(data, **settings) as store:
            for _ in range(chance.randrange(5, 15)):
                name = chance.choice("ab")
                for _ in range(chance.randrange(1, 4)):
                    pairs = some(chance.choice([1, 10, 500]))
                    store.put_many(name, *map(list, zip(*pairs, strict=True)))
                    model[name] += [(*pair, settings["bucket_s"]) for pair in pairs]
                store.commit()
                match chance.randrange(12):
                    case 0:
                        do(store.take_sync())
                    case 1 | 2:
                        do(store.blocks_to_make())
                    case 3 if name in store.channels:
                        flush(store, name)
                    case 4:
                        seal_here(store, chance)
                    case 5:
                        do(store.removals())
                    case 6 if name in store.channels:
                        first, end = sorted(now - chance.randrange(3 * HOUR) for _ in range(2))
                        wanted = expected(name, first, end)
                        assert content(store, name, first, end) == wanted
                        assert content(store, name, first, end, newest_first=True) == wanted[::-1]
                        assert resumed(store, name, first, end) == wanted
                        assert resumed(store, name, first, end, newest_first=True) == wanted[::-1]
            for name, pairs in model.items():
                assert content(store, name) == expected(name)
                if pairs:
                    assert store.channels[name].records == len(pairs)
        crashes += 1
        settings["bucket_s"] = chance.choice([settings["bucket_s"], 60, 3600])
        with AbandonedStore(data) as store:
            for name in model:
                assert content(store, name) == expected(name)


def seal_here(store: LogStore, chance: random.Random) -> None:
    """Sometimes the node dies in the middle: what it has not done is left out."""
    for channel in store.channels.values():
        for bucket in [each for each in channel.buckets.values() if each.parts][:2]:
            for part in bucket.parts:
                if part.is_at_rest:
                    do(part.take(flush=True))
    for work in store.buckets_to_seal(1 << 62, 0):
        if not isinstance(work, SealWork):
            do(iter([work]))
            continue
        work._sealed = seal(
            Files(), work._channel.directory / work._bucket.span.day, work._bucket.span, work._generation
        )
        os.close(work._directory)
        if chance.random() < 0.8:
            work.finish()


def test_copies_of_the_directory_between_any_two_operations(tmp_path: Path) -> None:
    """What is committed is in every copy; what is on its way may be."""
    data = tmp_path / "data"
    copies: list[Pairs] = []
    committed: Pairs = []
    wanted: Pairs = []

    class CopyingFiles(WatchedFiles):
        def count(self, name: str) -> None:
            super().count(name)
            if name in ("write", "cut", "rename", "remove", "sync", "create", "allocate") and committed:
                found = after_restart(data)
                assert found in (in_order(committed), in_order(wanted))
                copies.append(found)

    with AbandonedStore(data, files=CopyingFiles()) as store:
        for number in range(6):
            new = [(NOON + chance, os.urandom(40_000)) for chance in random.Random(number).choices(range(9), k=3)]
            wanted += new
            put(store, new)
            committed += new
            make_blocks(store)
            if number == 3:
                flush(store)
            do(store.take_sync())
        do(store.removals())
    assert len(copies) > 20


@pytest.mark.parametrize("what", ["payload of the last block", "end of the log", "header of the log", "empty log"])
def test_a_log_that_was_not_synced_when_the_power_went(tmp_path: Path, what: str) -> None:
    """Its tail is still there, and has the records."""
    pairs = [(NOON + number, os.urandom(50_000)) for number in range(25)]
    with AbandonedStore(tmp_path) as store:
        for pair in pairs:
            put(store, [pair])
            make_blocks(store)
        (log,) = tmp_path.rglob("*.log")
    data = bytearray(log.read_bytes())
    match what:
        case "payload of the last block":
            data[-10:] = bytes(10)
        case "end of the log":
            data[-300_000:] = bytes(300_000)
        case "header of the log":
            data[:] = bytes(len(data))
        case "empty log":
            data.clear()
    log.write_bytes(data)
    for number in range(3):
        with AbandonedStore(tmp_path) as store:
            assert content(store) == in_order(pairs)
            assert store.channels["a"].records == len(pairs)
            pairs.append((NOON + 100 - number, os.urandom(300_000)))
            put(store, pairs[-1:])
            make_blocks(store)
            assert content(store) == in_order(pairs)
            assert store.statistics()["damages"] == 0


WRITER = """
import sys
from pathlib import Path
from nodes.logfiles.store import LogStore
store = LogStore.open(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    values = [b"%d " % each + b"x" * (each % 3000) for each in range(number, number + 50)]
    store.put_many("a", [1_795_348_800_000_000_000 + each * 700_000_000 for each in range(number, number + 50)], values)
    store.commit()
    number += 50
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    for work in store.blocks_to_make():
        work.run()
        work.finish()
    if number % 2000 == 0:
        for work in store.buckets_to_seal(1 << 62, 0):
            work.run()
            work.finish()
"""


def test_killed_with_kill_9(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(acknowledged)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for _ in range(chance.randrange(20, 60)):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            last = process.stdout.read().split()
        acknowledged = int(last[-1]) if last and last[-1].endswith("0") else acknowledged
        with AbandonedStore(tmp_path) as store:
            found = [int(value.split()[0]) for _, value in content(store)]
            assert found == list(range(len(found)))
            assert acknowledged <= len(found) <= acknowledged + 50
            assert store.channels["a"].records == len(found)
            acknowledged = len(found)


# Files that fail.


@pytest.mark.parametrize(("error", "tears"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_every_operation_fails_once(tmp_path: Path, error: int, tears: bool) -> None:
    """The request is refused, or the node stops, or the work comes again; what was committed is there, and readable."""
    failed = set()
    for number in range(1, 300):
        data = tmp_path / str(number)
        files = FailingFiles(number, error, tears=tears)
        committed: Pairs = []
        taken: Pairs = []
        try:
            with AbandonedStore(data, files=files) as store:
                for pass_number in range(12):
                    new = [(NOON + pass_number % 4 * HOUR // 2, os.urandom(100_000)) for _ in range(2)]
                    try:
                        store.put_many("a", *map(list, zip(*new, strict=True)))
                    except DiskFull:
                        assert error == errno.ENOSPC
                        continue
                    taken += new
                    store.commit()
                    committed = taken[:]
                    try:
                        do(store.blocks_to_make())
                        if pass_number == 6:
                            flush(store)
                    except OSError:
                        pass
                    assert content(store) == in_order(committed)
                    do(store.take_sync())
                    do(store.removals())
                    if pass_number == 8:
                        taken = [pair for pair in taken if pair[0] >= NOON + HOUR]
                        committed = taken[:]
                        store.retain("a", NOON + HOUR, age_s=0)
        except (NodeError, OSError):
            assert files.failed
        if not files.failed:
            break
        failed.add(files.failed)
        found = after_restart(data) if (data / "channels").exists() else []
        assert [pair for pair in found if pair in committed] == in_order(committed)
        assert len(found) == len(set(found))
        shutil.rmtree(data)
    assert not files.failed
    assert {"write", "allocate", "create", "sync", "open", "remove", "rename", "list"} <= failed


def test_a_disk_that_is_full_for_blocks_is_tried_again(tmp_path: Path) -> None:
    files = FailingFiles(3, errno.ENOSPC, only="write", tears=True)  # header and entry of a tail, then a log
    pairs = [(NOON + number, os.urandom(100_000)) for number in range(5)]
    with AbandonedStore(tmp_path, files=files) as store:
        put(store, pairs)
        with pytest.raises(OSError, match="No space left"):
            do(store.blocks_to_make())
        assert content(store) == pairs
        assert after_restart(tmp_path) == pairs
        make_blocks(store)
        assert content(store) == pairs
        assert after_restart(tmp_path) == pairs


@pytest.mark.parametrize("operation", ["create", "allocate", "write"])
def test_a_bucket_whose_first_records_were_refused_is_none(tmp_path: Path, operation: str) -> None:
    files = FailingFiles(0, errno.ENOSPC, only=operation)
    with AbandonedStore(tmp_path, files=files) as store:
        put(store, [(NOON, b"a")])
        files.fail_next()
        with pytest.raises(DiskFull):
            store.put_many("a", [NOON, NOON + HOUR], [b"b", b"c"])
        assert store.statistics()["buckets"] == 1
        seal_all(store)
        assert content(store) == [(NOON, b"a")]
        files.fail_next()
        with pytest.raises(DiskFull):
            store.put_many("a", [NOON], [b"d"])
        assert not do(store.buckets_to_seal(1 << 62, 0))
        put(store, [(NOON, b"e"), (NOON + HOUR, b"f")])
        seal_all(store)
        assert content(store) == [(NOON, b"a"), (NOON, b"e"), (NOON + HOUR, b"f")]
    assert not list(tmp_path.rglob("*.tail"))


def test_a_tail_that_was_only_begun_leaves_no_bucket(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, [(NOON, b"a")])
    (path,) = tmp_path.rglob("*.tail")
    path.write_bytes(bytes(65536))
    with AbandonedStore(tmp_path) as store:
        assert not store.statistics()["buckets"]
        assert not do(store.buckets_to_seal(1 << 62, 0))


def test_a_failed_sync_is_told(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path, files=FailingFiles(1, errno.EIO, only="sync")) as store:
        put(store, [(NOON, b"a")])
        with pytest.raises(OSError, match="Input/output"):
            do(store.take_sync())


def test_never_synced(tmp_path: Path) -> None:
    files = WatchedFiles()
    with AbandonedStore(tmp_path, files=files, syncs=False) as store:
        for number in range(60):
            put(store, [(NOON + number, os.urandom(100_000))])
            make_blocks(store)
        flush(store)
        assert store.take_sync() is None
        assert "sync" not in files.done
        assert len(after_restart(tmp_path)) == 60


def test_settings_have_defaults() -> None:
    assert Settings().bucket_s == 3600
