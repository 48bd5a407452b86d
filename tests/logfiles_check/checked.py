"""Checks and repairs a store in this process."""

from pathlib import Path
from typing import Any

from nodes.logfiles.check.files import Files
from nodes.logfiles.check.findings import Report
from nodes.logfiles.check.run import Options, run
from nodes.logfiles.check.tree import find


def check(path: Path) -> Report:
    return run(find(path, None), Options(), Files(), lambda count: None)


def repair(path: Path, files: Files | None = None, *, truncate: bool = False) -> Report:
    return run(find(path, None), Options(fix=True, truncate=truncate), files or Files(), lambda count: None)


def found(report: Report) -> list[tuple[Any, ...]]:
    return [(each.path, each.offset, each.length, each.kind, each.mendable) for each in report.findings]
