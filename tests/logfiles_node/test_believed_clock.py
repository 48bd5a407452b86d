"""A clock that jumps ahead does not make records too old until it has stayed there."""

import logging
import os
import time
from pathlib import Path

import pytest
from core.raw_client import until
from logfiles_node.raw_logs import HOUR, NOON, S, running

from nodes.logfiles.believed_clock import HOLD_S, JUMP_S, BelievedClock

DAY = 24 * HOUR


class Clocks:
    def __init__(self, wall: int = NOON) -> None:
        self.wall = wall
        self.monotonic = 5

    def pass_by(self, seconds: int) -> None:
        self.wall += seconds * S
        self.monotonic += seconds * S

    def believed(self, last: int | None = None) -> BelievedClock:
        return BelievedClock(last, lambda: self.wall, lambda: self.monotonic)


def test_time_that_passes_is_believed() -> None:
    clocks = Clocks()
    clock = clocks.believed()
    for seconds in (0, 10, JUMP_S * 50, 10):
        clocks.pass_by(seconds)
        assert clock.now() == clocks.wall


@pytest.mark.parametrize("jump", [-400 * DAY, -1, JUMP_S * S])
def test_a_clock_that_is_set_back_or_a_little_ahead_is_believed(jump: int) -> None:
    clocks = Clocks()
    clock = clocks.believed()
    clocks.wall += jump
    assert clock.now() == clocks.wall


def test_a_jump_ahead_is_believed_when_it_has_stayed(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    clock = clocks.believed()
    clocks.wall += 400 * DAY
    for _ in range(4):
        assert clock.now() == clocks.wall - 400 * DAY
        clocks.pass_by(HOLD_S // 4)
    assert clock.now() == clocks.wall
    clocks.pass_by(10)
    assert clock.now() == clocks.wall
    assert len(caplog.records) == 1
    assert "is 34560000 s ahead" in caplog.text


def test_a_jump_that_was_put_right_leaves_nothing_behind() -> None:
    clocks = Clocks()
    clock = clocks.believed()
    for _ in range(3):
        clocks.wall += 400 * DAY
        clock.now()
        clocks.pass_by(HOLD_S - 1)
        clock.now()
        clocks.wall -= 400 * DAY
        assert clock.now() == clocks.wall


def test_a_jump_while_the_node_was_not_there() -> None:
    clocks = Clocks()
    assert clocks.believed(NOON - JUMP_S * S).now() == NOON
    clock = clocks.believed(NOON - 400 * DAY)
    assert clock.now() == NOON - 400 * DAY
    clocks.pass_by(HOLD_S)
    assert clock.now() == clocks.wall


async def test_a_node_that_starts_with_a_clock_far_ahead_drops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the clock is ahead of is what the node said when it last ran."""
    caplog.set_level(logging.INFO)
    now = time.time_ns()
    records = [(now - hours * HOUR, b"%d" % hours) for hours in (30, 1)]
    async with running(tmp_path) as node:
        await (await node.connect()).put_many("a", records)
    lock = tmp_path / "sealing.lock"
    os.utime(lock, ns=(now - 40 * HOUR, now - 40 * HOUR))  # the clock is 40 hours ahead
    for _ in range(2):
        async with running(tmp_path, max_age=7200.0) as node:
            await until(lambda: lock.stat().st_mtime_ns > now - 40 * HOUR, 10)
            assert (await (await node.connect()).range("a")).records == records
            assert lock.stat().st_mtime_ns < now - 39 * HOUR
    assert "s ahead of the time that has passed" in caplog.text
    os.utime(lock, ns=(now, now))
    async with running(tmp_path, max_age=7200.0) as node:
        await until(lambda: int(node.node.statistics()["dropped"]) == 1, 10)
        assert (await (await node.connect()).range("a")).records == records[1:]
