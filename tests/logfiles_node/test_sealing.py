"""Sealing, retention, removal, and what opening finds: at whatever moment the node or the sealing ends."""

import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

import pytest
from log_lines import NOON, log_lines
from logfiles_stored import (
    HOUR,
    AbandonedStore,
    FailingFiles,
    Pairs,
    WatchedFiles,
    content,
    do,
    flush,
    make_blocks,
    seal_all,
)

from nodes.logfiles.bucket import PUT_OFF_S
from nodes.logfiles.file_names import FileName, Span
from nodes.logfiles.files import Files
from nodes.logfiles.sealing import seal
from nodes.logfiles.store import LogStore
from swarm.core.limits import MIB
from swarm.core.node import NodeError

SPAN = Span.of(NOON, 3600)
PAIRS: Pairs = list(zip(*log_lines(8000), strict=True))


def put(store: LogStore, pairs: Pairs, name: str = "a") -> None:
    for begin in range(0, len(pairs), 1000):
        part = pairs[begin : begin + 1000]
        store.put_many(name, [time for time, _ in part], [value for _, value in part])
        store.commit()
        make_blocks(store)


def restarted(data: Path) -> Pairs:
    with AbandonedStore(data) as store:
        return content(store)


@pytest.mark.parametrize("dies", [False, True])
def test_sealing_ends_at_every_step(tmp_path: Path, dies: bool) -> None:
    data = tmp_path / "data"
    with AbandonedStore(data) as store:
        put(store, PAIRS[::2])
        seal_all(store)
        put(store, PAIRS[1::2])
        flush(store)
    failed = []
    for number in range(1, 1000):
        copy = shutil.copytree(data, tmp_path / "copy")
        files = FailingFiles(number, errno.ENOSPC, tears=True, dies=dies)
        day = copy / "channels" / "a" / SPAN.day
        try:
            seal(files, day, SPAN, 2)
        except OSError:
            failed.append(files.failed)
        assert dies or not list(copy.rglob("*.tmp"))
        assert restarted(copy) == PAIRS
        if not files.failed:
            assert [path.name for path in day.iterdir()] == [
                f"120000_3600-2-8000-{sum(len(v) for _, v in PAIRS)}.sealed"
            ]
            break
        shutil.rmtree(copy)
    assert {"list", "open", "read", "create", "write", "sync", "rename", "sync_directory"} <= set(failed)


def test_a_void_file_that_was_not_removed_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS[:1000])
        flush(store)
        (log,) = tmp_path.rglob("*.log")
        seal(Files(), log.parent, SPAN, 1)
    (log.parent / "120000_3600-1.tmp").write_bytes(b"unfinished")
    assert restarted(tmp_path) == PAIRS[:1000]
    assert [path.suffix for path in log.parent.iterdir()] == [".sealed"]
    assert "a sealed file has all that is in it; it is removed" in caplog.text
    assert "120000_3600-1.tmp: it was not finished; it is removed" in caplog.text


def test_records_that_come_while_a_bucket_is_sealed(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS[::2])
        flush(store)
        (work,) = store.buckets_to_seal(1 << 62, 0)
        put(store, PAIRS[1::2])
        assert list(store.buckets_to_seal(1 << 62, 0)) == []
        work.run()
        assert content(store) == PAIRS
        work.finish()
        assert content(store) == PAIRS
        assert store.channels["a"].records == len(PAIRS)
        assert restarted(shutil.copytree(tmp_path, tmp_path / "copy")) == PAIRS
        seal_all(store)
        assert content(store) == PAIRS


def test_only_buckets_that_are_over_and_at_rest_are_sealed(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS[:10])
        flush(store)
        assert list(store.buckets_to_seal(SPAN.end - 1, 0)) == []
        assert list(store.buckets_to_seal(SPAN.end + 5 * 10**9, 10)) == []
        assert list(store.buckets_to_seal(1 << 62, 1000)) == []
        assert do(store.buckets_to_seal(SPAN.end, 0)) == 1
        assert do(store.buckets_to_seal(SPAN.end, 0)) == 0


def test_the_sealing_process_ends_when_its_node_does(tmp_path: Path) -> None:
    program = """
import os, signal, subprocess, sys
from pathlib import Path
from nodes.logfiles import seal_work
from nodes.logfiles.store import LogStore
from swarm.core.limits import MIB
store = LogStore.open(Path(sys.argv[1]))
class Dying(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
seal_work.subprocess.Popen = Dying
for work in store.buckets_to_seal(1 << 62, 0):
    work.run()
"""
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        flush(store)
    process = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    check = subprocess.run(
        [sys.executable, "-m", "nodes.logfiles.check", str(tmp_path)], check=False
    )  # waits for its lock, as a node does
    assert check.returncode == 0
    with AbandonedStore(tmp_path) as store:
        assert content(store) == PAIRS
        put(store, [(NOON, b"more")])
    assert len(restarted(tmp_path)) == len(PAIRS) + 1


def sealed_with(directory: Path) -> int:
    """Most memory in bytes that the processes of this one have taken, after one has sealed a bucket of 75 MB."""
    with AbandonedStore(directory) as store:
        for number in range(150):
            store.put_many("a", [NOON + number], [os.urandom(500_000)])
            store.commit()
            make_blocks(store)
        seal_all(store)
        assert len(content(store)) == 150
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def test_a_bucket_that_does_not_overlap_is_sealed_in_little_memory(tmp_path: Path) -> None:
    """From a process of its own: until it runs its program, a process is as large as the one that made it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        assert process.submit(sealed_with, tmp_path).result() < 200 << 20


def test_a_sealing_process_that_was_killed_leaves_no_temporary_file(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS[:1000])
        flush(store)
        (work,) = store.buckets_to_seal(1 << 62, 0)
        (log,) = tmp_path.rglob("*.log")
        log.with_name("120000_3600-1.tmp").write_bytes(b"half")
        stray = log.with_name("120000_3600-1-1.tail")  # what is in no block ends it before it begins a file of its own
        stray.write_bytes(b"")
        with pytest.raises(OSError, match="120000_3600: sealing has ended"):
            do(work)
        assert not list(tmp_path.rglob("*.tmp"))
        assert content(store) == PAIRS[:1000]


def test_a_bucket_that_cannot_be_sealed_is_put_off_and_those_behind_it_are_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(NOON + HOUR * number, b"%d" % number) for number in range(4)]
    with AbandonedStore(tmp_path) as store:
        put(store, pairs)
        flush(store)
        stray = next(tmp_path.rglob("120000*.log")).with_name("120000_3600-1-9.tail")
        stray.write_bytes(b"")  # what is in no block keeps a bucket from being sealed
        failed = []
        for work in store.buckets_to_seal(1 << 62, 0):
            try:
                work.run()
            except OSError as error:
                failed.append(str(error))
            work.finish()
        assert len(failed) == 1
        assert "2026-11-22/120000_3600: " in failed[0]
        assert len(list(tmp_path.rglob("*.sealed"))) == 3
        assert list(store.buckets_to_seal(1 << 62, 0)) == []
        stray.unlink()
        monkeypatch.setattr("nodes.logfiles.store.monotonic", lambda: monotonic() + PUT_OFF_S)
        seal_all(store)
        assert len(list(tmp_path.rglob("*.sealed"))) == 4
        assert content(store) == pairs


def test_what_a_sealed_file_would_make_void_stays_if_that_is_not_whole(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS[:1000])
        flush(store)
    (log,) = tmp_path.rglob("*.log")
    sealed = log.with_name("120000_3600-5-1000-1.sealed")
    sealed.write_bytes(b"x" * 100)
    with AbandonedStore(tmp_path) as store:
        assert log.exists()
        assert store.channels["a"].buckets[SPAN].damaged
    sealed.unlink()
    assert restarted(tmp_path) == PAIRS[:1000]


# Retention and removal.


def test_retention_by_age(tmp_path: Path) -> None:
    pairs = [(NOON + HOUR * number, b"%d" % number) for number in range(10)]
    with AbandonedStore(tmp_path) as store:
        put(store, pairs[:5])
        seal_all(store)
        put(store, pairs[5:])
        assert store.retain("a", NOON + 7 * HOUR, age_s=3600) == 6
        assert store.retain("a", NOON + 7 * HOUR, age_s=3600) == 0
        assert store.retain("unknown", NOON, age_s=0) == 0
        put(store, pairs[2:3])  # a late record begins the bucket anew
        do(store.removals())
        assert not list((tmp_path / "removed").iterdir())
        assert content(store) == pairs[2:3] + pairs[6:]
        assert store.channels["a"].records == 5
    assert restarted(tmp_path) == pairs[2:3] + pairs[6:]


def test_retention_by_size(tmp_path: Path) -> None:
    pairs = [(NOON + HOUR * number, bytes(1000)) for number in range(10)]
    with AbandonedStore(tmp_path) as store:
        put(store, pairs)
        reader = store.channels["a"].range(0, 1 << 63)
        assert store.retain("a", 0, value_bytes=3500) == 7
        assert content(store) == pairs[7:]
        assert store.retain("a", 0, value_bytes=0) == 2  # never the last one
        assert [block.first for step in reader for block in step.blocks] == [pairs[9][0]]
    assert restarted(tmp_path) == pairs[9:]


def test_a_removed_channel_may_begin_anew_at_once(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        put(store, PAIRS[:10], "b")
        flush(store)
        (seal_work, *_) = store.buckets_to_seal(1 << 62, 0)
        removal = store.remove_channel("a")
        assert not (tmp_path / "channels" / "a").exists()
        put(store, PAIRS[:5])
        flush(store)
        for _ in removal:
            pass
        try:
            seal_work.run()
        finally:
            seal_work.finish()
        assert content(store) == PAIRS[:5]
        while do(store.removals()):
            pass
        assert not list((tmp_path / "removed").iterdir())
        assert store.statistics()["tail_bytes"] > 0
    with AbandonedStore(tmp_path) as store:
        assert sorted(store.channels) == ["a", "b"]
        assert content(store) == PAIRS[:5]


def test_a_removed_channel_with_the_same_records_anew_has_files_of_the_same_names(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        for text in (b"one", b"two"):
            pairs = [(NOON + number, text) for number in range(1000)]
            put(store, pairs)
            seal_all(store)
            assert content(store) == pairs
            for _ in store.remove_channel("a"):
                pass


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("how", ["removed", "dropped"])
def test_a_channel_that_begins_anew_while_others_are_sealed_is_left_alone(
    tmp_path: Path, how: str, *, sealed: bool
) -> None:
    new = [(NOON + HOUR, b"new"), (NOON + HOUR + 1, b"newer")]
    with AbandonedStore(tmp_path) as store:
        put(store, [(NOON, b"a"), (NOON + HOUR, b"b")])
        if sealed:
            flush(store)
        works = store.buckets_to_seal(1 << 62, 0)
        do(next(works))
        if how == "removed":
            for _ in store.remove_channel("a"):
                pass
        else:
            assert store.retain("a", 1 << 62, 1.0) == 2
        put(store, new)
        flush(store)
        do(works)
        assert content(store) == new
    with AbandonedStore(tmp_path) as store:
        assert content(store) == new


def test_parts_that_are_removed_while_blocks_are_made_of_others(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        for name in ("a", "b"):
            store.put_many(name, [NOON], [b"x" * MIB])
            store.commit()
        works = store.blocks_to_make()
        do(next(works))
        for _ in store.remove_channel("b"):
            pass
        do(works)


class RemovingFiles(WatchedFiles):
    """Removes the channel in front of the operation with this number, from 1, of those that a thread does, and begins
    it anew."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number
        self.store: LogStore | None = None

    def count(self, name: str) -> None:
        super().count(name)
        store = self.store
        if store is None or store._shared.names.locked():  # the loop would wait
            return
        self.left -= 1
        if self.left == 0:
            self.store = None
            self.removal = store.remove_channel("a")
            copied = store._shared.directory.with_name("killed")
            shutil.copytree(store._shared.directory, copied)
            assert restarted(copied) == []
            put(store, [(NOON, b"new")])
            flush(store)
            put(store, [(NOON, b"newer")])


def test_a_channel_is_removed_for_good_whatever_a_thread_does_with_it(tmp_path: Path) -> None:
    removed = 0
    for number in range(1, 100):
        data = tmp_path / str(number) / "data"
        data.parent.mkdir()
        files = RemovingFiles(number)
        with AbandonedStore(data, files=files) as store:
            store.put_many("a", *map(list, zip(*PAIRS[:4000], strict=True)))
            store.commit()
            (part,) = store.channels["a"].buckets[SPAN].parts
            work = part.take(flush=True)
            assert work is not None
            files.store = store
            work.run()
            if files.left > 0:
                break
            removed += 1
            assert [path.name for path in (data / "removed").iterdir()] == ["1"]
            work.finish()
            assert list(files.removal)
            assert content(store) == [(NOON, b"new"), (NOON, b"newer")]
            assert store.statistics()["tail_bytes"] < 1000
            put(store, [(NOON, b"newest")])
            flush(store)
            while do(store.removals()):
                pass
        assert restarted(data) == [(NOON, b"new"), (NOON, b"newer"), (NOON, b"newest")]
    assert removed >= 5


def test_a_channel_that_cannot_be_removed_stays(tmp_path: Path) -> None:
    files = FailingFiles(1, errno.ENOSPC, only="rename")
    with AbandonedStore(tmp_path, files=files) as store:
        put(store, PAIRS[:10])
        with pytest.raises(OSError, match="No space left"):
            store.remove_channel("a")
        put(store, PAIRS[10:20])
        assert content(store) == PAIRS[:20]
    assert restarted(tmp_path) == PAIRS[:20]


def test_what_cannot_be_deleted_is_tried_again(tmp_path: Path) -> None:
    files = FailingFiles(1, errno.EIO, only="remove_directory")
    with AbandonedStore(tmp_path, files=files) as store:
        for name in ("a", "b", "c"):
            put(store, PAIRS[:5], name)
            for _ in store.remove_channel(name):
                pass
        with pytest.raises(OSError, match="Input/output"):
            do(store.removals())
        assert do(store.removals())
        assert not list((tmp_path / "removed").iterdir())


def test_what_was_being_removed_is_removed_by_the_next_start(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        store.remove_channel("a")
        assert list((tmp_path / "removed").iterdir())
    with AbandonedStore(tmp_path) as store:
        assert not store.channels
        assert not list((tmp_path / "removed").iterdir())


# Opening.


def test_100_000_buckets_are_opened_without_a_file_being_read(tmp_path: Path) -> None:
    channel = tmp_path / "channels" / "a"
    for day in range(70):
        start = NOON + day * 24 * HOUR
        directory = channel / Span.of(start, 60).day
        directory.mkdir(parents=True)
        for minute in range(1440):
            name = FileName(
                Span.of(start - 12 * HOUR + minute * HOUR // 60, 60), 1, "sealed", records=2, value_bytes=300
            )
            os.mknod(directory / name.name)
    files = WatchedFiles()
    with AbandonedStore(tmp_path, files=files) as store:
        assert "open" not in files.done
        assert "read" not in files.done
        assert files.done == {"make_directory": 2, "create": 1, "list": 73}  # the lock; removed, channels, a, its days
        assert store.channels["a"].records == 2 * 70 * 1440
        assert store.channels["a"].record_bytes == 300 * 70 * 1440
        assert len(store.channels["a"].buckets) == 70 * 1440


def test_unknown_files_are_named_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS[:10])
    channels = tmp_path / "channels"
    strange = [channels / "file", channels / "a" / "2026-13-01", channels / "a" / SPAN.day / "notes.txt"]
    strange += [channels / "a" / SPAN.day / "120000_3600-01.log", channels / "é"]
    for path in strange:
        path.mkdir() if path.name in ("é", "2026-13-01") else path.write_bytes(b"mine")
    for number in range(50):
        (channels / "a" / SPAN.day / f"x{number}").touch()
    caplog.set_level(logging.WARNING)
    assert restarted(tmp_path) == PAIRS[:10]
    assert all(path.exists() for path in strange)
    assert len(caplog.records) == 21
    assert "and 35 more such files" in caplog.text


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "channels").write_bytes(b"")
    with pytest.raises(NodeError):
        LogStore.open(tmp_path)
