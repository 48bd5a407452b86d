"""A plot in a terminal, of characters: no more than is needed to see when something has changed. No I/O.

plotext was considered: it draws more, and comes as a compiled wheel for some systems only.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from swarm.cli.terminal import format_number

BARS = " ▁▂▃▄▅▆▇█"
LINES = 10


def plot(title: str, points: Iterable[tuple[float, float]], columns: int) -> list[str]:
    """Lines of at most so many columns. points: seconds since 1970 and value, in the order of time, at least one.

    Each column is the largest value in its time, so that no peak gets lost; an empty column has none.
    """
    points = list(points)
    values = [value for _, value in points]
    low, high = min(0.0, *values), max(values) if max(values) > min(0.0, *values) else min(0.0, *values) + 1
    labels = [format_number(high), format_number((low + high) / 2), format_number(low)]
    margin = max(map(len, labels)) + 1
    width = max(columns - margin - 1, 10)
    heights = [None if value is None else (value - low) / (high - low) for value in _columns(points, width)]
    rows = []
    for row in range(LINES):
        label = {0: labels[0], LINES // 2: labels[1], LINES - 1: labels[2]}.get(row, "")
        bars = "".join(_cell(height, LINES - 1 - row) for height in heights)
        rows.append(f"{label:>{margin - 1}} │{bars}".rstrip())
    begin, end = (_when(each) for each in (points[0][0], points[-1][0]))
    gap = max(width - len(begin) - len(end), 1)
    return [title, *rows, f"{'':>{margin}}└{'─' * width}", f"{'':>{margin}} {begin}{'':>{gap}}{end}"]


def _columns(points: list[tuple[float, float]], width: int) -> list[float | None]:
    begin, end = points[0][0], points[-1][0]
    found: list[float | None] = [None] * width
    for at_s, value in points:
        position = min(int((at_s - begin) / (end - begin) * width), width - 1) if end > begin else 0
        present = found[position]
        found[position] = value if present is None else max(present, value)
    if len(points) < width:  # between two points it is taken to stay as it was
        for position in range(1, width):
            found[position] = found[position - 1] if found[position] is None else found[position]
    return found


def _cell(height: float | None, row_from_below: int) -> str:
    if height is None:
        return " "
    eighths = round(height * LINES * 8) - row_from_below * 8
    if row_from_below == 0:
        eighths = max(eighths, 1)  # 0 is seen, too
    return BARS[min(max(eighths, 0), 8)]


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
