"""A piece of a range that is filtered ends in time, and what it gives does not depend on where."""

import re
from pathlib import Path

import pytest
from log_lines import log_lines
from logfiles_stored import AbandonedStore, flush

from nodes.logfiles import pieces
from nodes.logfiles.filters import Filter
from nodes.logfiles.pieces import Piece, Pieces, Range
from nodes.logfiles.range_block import decode
from nodes.logfiles.store import LogStore

RARE = rb'"ms":[0-9]*9\.0'


def read(store: LogStore, asked: Range) -> list[Piece]:
    reading = Pieces(store.channels["a"], asked)
    found = []
    while some := reading.some():
        found += some
    return found


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_filter_that_is_slow_gives_one_block_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, newest_first: bool
) -> None:
    timestamps, values = log_lines(5000)
    asked = Range(0, 1 << 62, None, newest_first, 0, Filter(1, RARE, ignore_case=False))
    with AbandonedStore(tmp_path) as store:
        for begin in range(0, 5000, 1000):
            store.put_many("a", timestamps[begin : begin + 1000], values[begin : begin + 1000])
            store.commit()
        flush(store)
        quick = read(store, asked)
        monkeypatch.setattr(pieces, "FILTERING_S", -1)
        slow = read(store, asked)
        assert len(slow) > len(quick)
        assert _values(slow) == _values(quick) == sorted(filter(re.compile(RARE).search, values))
        assert 5 < len(_values(slow)) < 200
        for number, piece in enumerate(slow[:-1]):
            rest = read(store, _after(asked, piece))
            assert [each.blocks for each in rest] == [each.blocks for each in slow[number + 1 :]]


def _values(found: list[Piece]) -> list[bytes]:
    return sorted(value for piece in found for block in piece.blocks for value in decode(block)[1])


def _after(asked: Range, piece: Piece) -> Range:
    return Range(asked.first, asked.end, piece.cursor, asked.newest_first, asked.limit, asked.filter)
