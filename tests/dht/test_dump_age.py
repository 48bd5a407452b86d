"""How old a dht node says its dump is, and when that is too old."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nodes.dht.dump_age import FIRST_DUMP_S, DumpAge
from swarm.dht.dump_format import Manifest
from swarm.dht.dumps import write_manifest

HOUR = 3600.0
NODE = "9f86d081884c7d659a2feaa0c55ad015"
DUMP = Manifest(1, 1, "2026-11-22T05:59:00Z", "2026-11-22T06:00:00Z", {}, NODE, HOUR)
FINISHED = datetime(2026, 11, 22, 6, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = FINISHED

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_age_of_the_last_dump(tmp_path: Path, clock: Clock) -> None:
    age = DumpAge(tmp_path, journaled=True, clock=clock)
    assert age.statistics() == {}
    write_manifest(tmp_path, DUMP)
    clock.now += 90.25
    assert age.statistics() == {"dump_age_s": 90.2}
    clock.now += 100
    assert age.seconds == 190.25
    write_manifest(tmp_path, replace(DUMP, finished="2026-11-22T06:03:00Z"))
    assert age.seconds == 10.25
    clock.now -= 60
    assert age.seconds == 0, "the clock was set back"
    (tmp_path / "manifest.json").unlink()
    assert age.statistics() == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 2}', DUMP.encode().replace(b"T06:00:00Z", b"T26:00:00Z")])
def test_a_manifest_without_a_time_is_as_none(tmp_path: Path, content: bytes) -> None:
    age = DumpAge(tmp_path, journaled=True)
    (tmp_path / "manifest.json").write_bytes(content)
    assert age.statistics() == {}
    assert age.rule(False) is None


def test_a_dump_is_too_old_after_two_periods(tmp_path: Path, clock: Clock) -> None:
    age = DumpAge(tmp_path, journaled=True, clock=clock)
    write_manifest(tmp_path, DUMP)
    clock.now += 2 * HOUR
    assert age.rule(False) is None
    clock.now += 1
    assert age.rule(False) == (
        "the last dump is 2.0 h old, and one is due every 1.0 h: see whether dhtdump runs for this node, and what its "
        "root.log says (its configuration names the directory)"
    )
    write_manifest(tmp_path, replace(DUMP, finished="2026-11-22T08:00:00Z"))
    assert age.rule(True) is None


def test_a_dump_without_a_period_is_never_too_old(tmp_path: Path, clock: Clock) -> None:
    """Older versions have written none; --oneshot does not know when the next follows."""
    age = DumpAge(tmp_path, journaled=True, clock=clock)
    clock.now += 1000 * HOUR
    for period_s in (b'"none"', b"null", b"0", b"-1", b"1e99", b"NaN", b"[]"):
        (tmp_path / "manifest.json").write_bytes(
            DUMP.encode().replace(b'"period_s": 3600.0', b'"period_s": ' + period_s)
        )
        assert age.seconds == 1000 * HOUR
        assert age.rule(False) is None, period_s
    (tmp_path / "manifest.json").write_bytes(DUMP.encode().replace(b'"period_s"', b'"other"'))
    assert age.seconds == 1000 * HOUR
    assert age.rule(False) is None


def test_a_journal_without_any_dump_is_told_after_half_a_day(tmp_path: Path, clock: Clock) -> None:
    journaled = DumpAge(tmp_path, journaled=True, clock=clock)
    without = DumpAge(tmp_path, journaled=False, clock=clock)
    clock.now += FIRST_DUMP_S - 1
    assert journaled.rule(False) is None
    clock.now += 1
    assert "run a dhtdump for this node" in (journaled.rule(False) or "")
    assert without.rule(False) is None
    write_manifest(tmp_path, replace(DUMP, finished="2026-11-22T18:00:00Z"))
    assert journaled.rule(True) is None
