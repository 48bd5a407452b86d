"""Something else in the place of a file with records: it is damage, whoever meets it. Nobody waits for it, and nothing
is written through it."""

import contextlib
import logging
import os
import socket
from pathlib import Path

import pytest
from log_lines import NOON, log_lines
from logfiles_stored import HOUR, AbandonedStore, Pairs, content, do, flush, make_blocks, pairs_of, seal_all

from nodes.logfiles.file_names import Span
from nodes.logfiles.sealing import Damaged, seal
from nodes.logfiles.store import LogStore

SPAN = Span.of(NOON, 3600)
PAIRS: Pairs = list(zip(*log_lines(3000), strict=True))
LATER: Pairs = [(NOON + HOUR, b"later")]
KINDS = ["directory", "fifo", "link", "device", "socket"]


def put(store: LogStore, pairs: Pairs) -> None:
    store.put_many("a", [time for time, _ in pairs], [value for _, value in pairs])
    store.commit()
    make_blocks(store)


def in_the_place_of(path: Path, kind: str) -> None:
    path.rename(path.with_name("kept"))
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path.with_name("kept"))
    elif kind == "device":
        path.symlink_to("/dev/zero")  # a device of one's own needs rights that a test does not have
    else:
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):  # its path may be too long
            made.bind(path.name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["log", "sealed", "tail"])
def test_it_is_damage_when_the_store_is_opened(tmp_path: Path, kind: str, suffix: str) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        if suffix != "tail":
            flush(store)
        if suffix == "sealed":
            seal_all(store)
        put(store, LATER)
    (path,) = tmp_path.rglob(f"12*.{suffix}")
    in_the_place_of(path, kind)
    with AbandonedStore(tmp_path) as store:
        assert store.channels["a"].buckets[SPAN].damaged or suffix == "sealed"
        steps = list(store.channels["a"].range(0, 1 << 62))
        told = [damage for step in steps for damage in step.damages]
        assert [(each.path, each.what) for each in told] == [(path, "it is no regular file")]
        assert [pair for pair in pairs_of(iter(steps)) if pair not in PAIRS] == LATER
        put(store, [(NOON, b"new")])
        flush(store)
        assert (NOON, b"new") in content(store)
    kept = path.with_name("kept").read_bytes()
    assert kept.startswith(b"SWARM")
    path.rmdir() if kind == "directory" else path.unlink()
    path.with_name("kept").rename(path)
    assert path.read_bytes() == kept
    with AbandonedStore(tmp_path) as store:
        assert sorted(content(store)) == sorted([*PAIRS, *LATER, (NOON, b"new")])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["log", "sealed"])
def test_it_is_damage_to_a_reader_and_to_sealing(tmp_path: Path, kind: str, suffix: str) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        flush(store)
        if suffix == "sealed":
            seal_all(store)
        put(store, LATER)
        (path,) = tmp_path.rglob(f"12*.{suffix}")
        in_the_place_of(path, kind)
        steps = list(store.channels["a"].range(0, 1 << 62))
        assert [(each.path, each.what) for step in steps for each in step.damages] == [(path, "it is no regular file")]
        assert pairs_of(iter(steps)) == LATER
        with pytest.raises(Damaged, match="it is no regular file"):
            seal(store._shared.files, path.parent, SPAN, 1)


def test_a_log_that_something_else_has_replaced_is_not_written_to(tmp_path: Path) -> None:
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        (log,) = tmp_path.rglob("*.log")
        in_the_place_of(log, "link")
        before = log.with_name("kept").read_bytes()
        put(store, [(NOON, b"more")])
        (part,) = store.channels["a"].buckets[SPAN].parts
        work = part.take(flush=True)
        with pytest.raises(OSError, match=f"it is no regular file: '{log}'"):
            do(work)
        assert log.with_name("kept").read_bytes() == before
        log.unlink()
        log.with_name("kept").rename(log)
        flush(store)
        assert sorted(content(store)) == sorted([*PAIRS, (NOON, b"more")])


def test_names_of_files_that_cannot_be_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with AbandonedStore(tmp_path) as store:
        put(store, PAIRS)
        flush(store)
        (log,) = tmp_path.rglob("*.log")
        store._shared.files.read = _fails  # type: ignore[method-assign]
        with pytest.raises(OSError, match=f"Input/output error: '{log}'"):
            content(store)


def _fails(fd: int, size: int, offset: int) -> bytes:
    raise OSError(5, os.strerror(5))
