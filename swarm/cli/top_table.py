"""The table of `swarm top`: one row a node, and in words what is wrong with it. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from swarm.cli.terminal import format_bytes
from swarm.core.health import LAG_S_MAX
from swarm.core.stats import BOUNDS_S
from swarm.monitor import NodeView, Reason

COLUMNS = (
    "state",
    "kind",
    "address",
    "hashes",
    "records",
    "bytes",
    "req/s",
    "p99",
    "conns",
    "memory",
    "fullest",
    "dump",
    "lag",
    "errors",
)
LEAST_IMPORTANT = ("hashes", "lag", "conns", "dump", "errors", "bytes", "kind", "memory", "p99", "fullest", "records")
"""Of the columns, in the order in which they go where a terminal is too narrow for all."""

_TEXTS = frozenset({"state", "kind", "address", "fullest"})
GAP = 2  # columns of the terminal between two of the table
FULL_PERCENT = 90.0  # from which on a queue, or the memory, is shown in red
PROBLEMS_MAX = 50  # lines below the table

SORTED_BY: dict[str, tuple[str, Callable[[NodeView], Any]]] = {
    "n": ("named", lambda view: 0),
    "s": ("state", lambda view: view.state == "up"),
    "r": ("req/s", lambda view: -(view.requests_per_s or 0)),
    "b": ("bytes", lambda view: -view.bytes),
    "m": ("memory", lambda view: -_memory_percent(view)),
    "f": ("fullest", lambda view: -(view.fullest[0][1] if view.fullest else -1)),
    "e": ("errors", lambda view: -view.errors),
}
"""By the key that chooses it: its name, and what is compared."""


def draw(
    views: Sequence[NodeView],
    *,
    columns: int | None = None,
    lines: int | None = None,
    sorted_by: str = "n",
    with_keys: bool = False,
) -> RenderableType:
    """What is seen of the nodes.

    columns, lines: of the terminal; None: as many as it takes. sorted_by: a key of SORTED_BY.
    with_keys: tell which there are.
    """
    views = sorted(views, key=SORTED_BY[sorted_by][1])
    rows = [_cells(view) for view in views]
    found = problems(views)
    room = PROBLEMS_MAX if lines is None else max(lines - len(rows) - 1 - with_keys, 1)
    if len(found) > room:
        found = [*found[: room - 1], f"and {len(found) - room + 1} more"]
    below = [Text(each, "red", no_wrap=lines is not None, overflow="ellipsis" if lines else None) for each in found]
    return Group(_table(rows, columns), *below, *([_keys(sorted_by)] if with_keys else []))


def _keys(sorted_by: str) -> Text:
    """Which keys there are; the one by which the rows are sorted stands out."""
    names = [(f"  {key} {name}", "bold" if key == sorted_by else "dim") for key, (name, _) in SORTED_BY.items()]
    return Text.assemble(("q quit  sort:", "dim"), *names, no_wrap=True, overflow="ellipsis")


def problems(views: Sequence[NodeView]) -> list[str]:
    """In words what is wrong with which node, a line each."""
    found = []
    for view in views:
        name = f"{view.kind} {view.address}"
        if view.state == "down" and view.reason != Reason.NOT_ASKED:
            found.append(f"{name} is down: {view.error}")
        found += [f"{name}, {rule}: {text}" for rule, text in view.findings]
    return found


def _table(rows: Sequence[Mapping[str, Text]], columns: int | None) -> Table:
    widths = {title: max([len(title), *(cell_len(row[title].plain) for row in rows)]) for title in COLUMNS}
    dispensable = iter(LEAST_IMPORTANT)
    while columns is not None and sum(widths.values()) + GAP * (len(widths) - 1) > columns:
        if (title := next(dispensable, None)) is None:
            break
        del widths[title]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for title in widths:
        table.add_column(title, justify="left" if title in _TEXTS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[title] for title in widths))
    return table


def _cells(view: NodeView) -> dict[str, Text]:
    cells = dict.fromkeys(COLUMNS, Text("–", "dim"))
    cells |= {
        "state": _state(view),
        "kind": Text(view.kind),
        "address": Text(view.address),
    }
    if view.hash_range is not None:
        cells["hashes"] = Text(f"{view.hash_range.share:.1%}")
    if view.state == "down":
        return cells
    cells |= {
        "records": Text(f"{view.records:,}"),
        "bytes": Text(format_bytes(view.bytes)),
        "conns": Text(f"{view.connections:,}"),
        "memory": _memory(view),
        "lag": Text(format_seconds(view.lag_s), "red" if view.lag_s > LAG_S_MAX else ""),
        "errors": Text(f"{view.errors:,}"),
    }
    if view.requests_per_s is not None:
        cells["req/s"] = Text(f"{view.requests_per_s:,.0f}")
    if view.latency_s is not None:
        cells["p99"] = Text(_latency(view.latency_s[1]))
    if view.fullest:
        name, percent = view.fullest[0]
        cells["fullest"] = Text(f"{percent:.0f}% {_shortened(name)}", "red" if percent >= FULL_PERCENT else "")
    if view.dump_age_s is not None:
        cells["dump"] = Text(format_seconds(view.dump_age_s))
    return cells


def _state(view: NodeView) -> Text:
    if view.reason == Reason.NOT_ASKED:
        return Text("…", "dim")
    return Text(view.state, "green" if view.state == "up" else "bold red")


def _memory_percent(view: NodeView) -> float:
    return 100 * view.memory_used / view.memory_limit if view.memory_limit else 0.0


def _memory(view: NodeView) -> Text:
    if not view.memory_used:  # its records are on disk
        return Text(format_bytes(view.rss_bytes))
    text = f"{format_bytes(view.memory_used)}/{format_bytes(view.memory_limit)}"
    return Text(text, "red" if _memory_percent(view) >= FULL_PERCENT else "")


def _shortened(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _latency(seconds: float) -> str:
    return f">{format_seconds(seconds)}" if seconds >= BOUNDS_S[-1] else format_seconds(seconds)


def format_seconds(seconds: float) -> str:
    """Two digits or so, and the unit."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs" if seconds else "0"
    for size, unit, bound in ((1e-3, "ms", 1.0), (1.0, "s", 120.0), (60.0, "min", 7200.0), (3600.0, "h", 172_800.0)):
        if seconds < bound:
            return f"{seconds / size:.1f} {unit}" if seconds < 9.95 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"
