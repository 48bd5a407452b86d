"""Whether a node is well: rules that are looked at with every line of stats.log, and whenever somebody asks.

A rule says what is wrong and what to do about it, in a text of its own. That a finding begins or ends is told once, in
root.log; what those who ask see is what holds at that moment. A kind of node adds its rules to Service.health_rules.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from swarm.core.limits import MIB

log = logging.getLogger(__name__)

GIB = 1024 * MIB

MEMORY_NEARLY_FULL = 0.90  # of memory_limit
MEMORY_ENOUGH = 0.85
LAG_S_MAX = 0.1  # clients notice it: a round trip takes less than a thousandth of it
LAG_S_ENOUGH = 0.05
DISK_FREE_SHARE = 0.05  # of a file system: below it many become slow, too
DISK_FREE_BYTES_MIN = 1 * GIB  # less is gone in no time, however small the file system
DISK_FREE_BYTES_ENOUGH = 20 * GIB  # 5 % of a large file system is more than anybody would act on
DISK_ENDS = 1.1  # times as much has to be free for the finding to end
CERTIFICATE_ENDS_SOON = timedelta(days=14)  # somebody is back from a holiday by then

HealthRule = Callable[[bool], str | None]
"""What is wrong and what to do, in one sentence; None: nothing. Is told whether this was found the last time: a finding
may end later than it begins, so that it does not come and go all the time. It takes a millisecond or two at most."""


class Finding(NamedTuple):
    rule: str
    text: str


class Health:
    def __init__(self, rules: Mapping[str, HealthRule]) -> None:
        """rules: by name; more may be added."""
        self.rules = rules
        self._told: set[str] = set()

    def findings(self) -> list[Finding]:
        """What is wrong now, in the order of the rules."""
        found = ((name, rule(name in self._told)) for name, rule in self.rules.items())
        return [Finding(name, text) for name, text in found if text]

    def look(self) -> None:
        """Tells in root.log what has begun and what has ended since the last look."""
        findings = self.findings()
        for rule, text in findings:
            if rule not in self._told:
                log.warning("%s: %s", rule, text)
        found = {rule for rule, _ in findings}
        for rule in self._told - found:
            log.info("%s: is over", rule)
        self._told = found


def memory_nearly_full(used: Callable[[], int], limit: int) -> HealthRule:
    def rule(holds: bool) -> str | None:
        share = used() / limit
        if share < (MEMORY_ENOUGH if holds else MEMORY_NEARLY_FULL):
            return None
        return (
            f"{100 * share:.0f} % of memory_limit ({limit >> 20} MiB) are used; at the "
            "limit writes are refused: remove records, spread them over more nodes, or raise the limit"
        )

    return rule


def loop_lags(lag_s: Callable[[], float]) -> HealthRule:
    def rule(holds: bool) -> str | None:
        if lag_s() <= (LAG_S_ENOUGH if holds else LAG_S_MAX):
            return None
        return (
            f"the loop lags {lag_s() * 1e3:.0f} ms behind: the node, or its machine, has more to do than it can; "
            "spread the load over more nodes, or give it more of a core"
        )

    return rule


def disk_nearly_full(
    directories: Sequence[Path], statvfs: Callable[[Path], os.statvfs_result] = os.statvfs
) -> HealthRule:
    """directories: that the node writes to; one that cannot be looked at is passed over."""

    def rule(holds: bool) -> str | None:
        for directory in directories:
            try:
                system = statvfs(directory)
            except OSError:
                continue
            free, size = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
            least = max(min(DISK_FREE_SHARE * size, DISK_FREE_BYTES_ENOUGH), DISK_FREE_BYTES_MIN)
            if free < least * (DISK_ENDS if holds else 1):
                return (
                    f"the disk of {directory} is nearly full, {free >> 20} of {size >> 20} MiB are free: make room "
                    "before writes are refused"
                )
        return None

    return rule


def certificate_expires(path: str, ends: Callable[[], datetime], now_s: Callable[[], float] = time.time) -> HealthRule:
    """path: of the file. ends: until when the certificate is valid with which connections begin."""

    def rule(holds: bool) -> str | None:
        end = ends()
        left = end - datetime.fromtimestamp(now_s(), UTC)
        if left >= CERTIFICATE_ENDS_SOON:
            return None
        expires, then = ("expires", "then ") if left > timedelta() else ("has expired", "")
        return (
            f"the TLS certificate {path} {expires} on {end:%Y-%m-%d at %H:%M} UTC, and {then}no client accepts the "
            "node: renew it and send SIGHUP (systemctl reload)"
        )

    return rule
