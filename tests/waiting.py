"""Waiting for what another process does without telling anybody."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.02
PATIENCE_S = 30.0  # far more than anything takes, so that a busy machine fails no test


def wait_until(condition: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """Looks again and again until the condition gives something true; what it gave. AssertionError after the time."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s, but still {result!r}"
        time.sleep(LOOK_S)
    return result
