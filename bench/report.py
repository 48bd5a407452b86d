"""What was measured, and how it is shown: a table for the terminal, a table for bench/README.md, JSON."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.client import PERCENTILES

Values = dict[str, dict[str, list[float]]]
"""By the row's name and the series, a value for each round. Series: "ours", names of peers, others of a row's own."""

Cells = tuple[list[str], list[list[str]], set[int]]
"""A table: headings, rows, and the columns that are aligned left."""


@dataclass(frozen=True)
class Wanted:
    """at least, at most: ratio to the peer; ours at most: the value itself."""

    rule: Literal["at least", "at most", "ours at most"]
    limit: float


@dataclass(frozen=True)
class Row:
    name: str
    unit: Literal["/s", "B", "MiB", "s", "ms", "µs"]
    peer: str
    """What the other figure is of."""
    wanted: Wanted | None = None
    """None: for information."""
    against: str = "redis"
    """The series that ours is compared with."""
    spread_name: str = ""
    """Of its lines in the table of how times are spread, if not the row's name."""


@dataclass(frozen=True)
class Result:
    """A row over all rounds: medians; low and high are of what is wanted, the ratio or our own value."""

    row: Row
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    met: bool | None

    @property
    def wanted(self) -> str:
        wanted = self.row.wanted
        if wanted is None:
            return ""
        if wanted.rule == "ours at most":
            return f"≤ {amount(wanted.limit, self.row.unit)}"
        return f"{'≥' if wanted.rule == 'at least' else '≤'} {wanted.limit:g} ×"

    @property
    def spread(self) -> str:
        if self._judged_by_value:
            return f"{amount(self.low, self.row.unit)} … {amount(self.high, self.row.unit)}"
        return f"{self.low:.2f} … {self.high:.2f}"

    @property
    def _judged_by_value(self) -> bool:
        return self.row.unit == "ms"

    def cells(self) -> list[str]:
        return [
            self.row.name,
            amount(self.ours, self.row.unit),
            self.row.peer,
            amount(self.theirs, self.row.unit),
            f"{self.ratio:.2f}",
            self.spread,
            self.wanted,
            MET[self.met],
        ]


MET = {True: "✓", False: "✗", None: ""}
LEFT = {0, 2}


def judge(row: Row, series: dict[str, list[float]]) -> Result:
    ours, theirs = series["ours"], series[row.against]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    shown = ours if row.unit == "ms" else ratios
    met = None
    if row.wanted is not None:
        judged = median(ours if row.wanted.rule == "ours at most" else ratios)
        met = judged >= row.wanted.limit if row.wanted.rule == "at least" else judged <= row.wanted.limit
    return Result(row, median(ours), median(theirs), median(ratios), min(shown), max(shown), met)


def amount(value: float, unit: str) -> str:
    if unit == "ms":
        return f"{value:.2f} ms"
    if unit == "µs":
        return f"{value:.0f} µs"
    if unit == "s":
        return f"{value:.2f} s"
    if unit == "MiB":
        return f"{value:.1f} MiB"
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value / 1e6:.2f} M/s" if value >= 1e6 else f"{value / 1e3:.1f} k/s"


@dataclass(frozen=True)
class Shown:
    """What people see of a run."""

    facts: dict[str, str]
    summary: str
    tables: list[Cells]

    def print(self, console: Console) -> None:
        facts = Table(show_header=False, box=None)
        for name, value in self.facts.items():
            facts.add_row(name, escape(value))
        console.print(facts)
        for table in self.tables:
            console.print(_rich_table(*table))
        console.print(self.summary)

    def markdown(self) -> str:
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items())
        return "\n\n".join([facts, self.summary, *(_markdown_table(*table) for table in self.tables)]) + "\n"

    def write_readme(self, readme: Path, mark: str) -> None:
        """Puts all of it between <!-- mark --> and <!-- /mark --> in this file."""
        text = readme.read_text(encoding="utf-8")
        between = re.compile(rf"(?<=<!-- {mark} -->\n).*(?=<!-- /{mark} -->)", re.DOTALL)
        changed, count = between.subn(lambda _: f"\n{self.markdown()}\n", text)
        if count != 1:
            raise ValueError(f"{readme} does not have <!-- {mark} --> and <!-- /{mark} -->, each in a line of its own")
        readme.write_text(changed, encoding="utf-8")


@dataclass(frozen=True)
class Report:
    facts: dict[str, str]
    results: list[Result]
    values: Values
    peer_heading: str
    spread_heading: str
    """Of the first column in the table of how times are spread."""

    def tables(self) -> list[Cells]:
        """Those that have rows."""
        headings = ["", "ours", self.peer_heading, "", "ratio", "lowest … highest", "wanted", "met"]
        results = [result.cells() for result in self.results]
        tables = [(headings, results, LEFT), (LOAD_HEADINGS, self._load_cells(), {0})]
        tables.append(([self.spread_heading, *SPREAD_HEADINGS], self._spread_cells(), {0}))
        return [table for table in tables if table[1]]

    def _load_cells(self) -> list[list[str]]:
        """The load generator's own figures, of every row that it has measured."""
        return [
            [
                name,
                amount(median(series["ours"]), "/s"),
                f"{median(series['ours busy']):.0%}",
                amount(median(series["redis"]), "/s") if "redis" in series else "",
                f"{median(series['redis busy']):.0%}" if "redis" in series else "",
                amount(median(series["echo"]), "/s") if "echo" in series else "",
                f"{median(series['echo']) / median(series['ours']):.1f}" if "echo" in series else "",
                amount(median(series["redis-benchmark"]), "/s") if "redis-benchmark" in series else "",
            ]
            for name, series in self._series()
            if "ours busy" in series
        ]

    def _spread_cells(self) -> list[list[str]]:
        """How times are spread, of every row that has such series."""
        return [
            [
                f"{result.row.spread_name or result.row.name}, {system}",
                f"{median(numbers):,.0f}",
                *(amount(median(series[f"{system} {share:g}%"]), "ms") for share in PERCENTILES),
                amount(median(series[f"{system} longest"]), "ms"),
                amount(max(series[f"{system} longest"]), "ms"),
            ]
            for result in self.results
            for series in [self.values[result.row.name]]
            for key, numbers in series.items()
            if key.endswith(SPREAD_NUMBER)
            for system in [key.removesuffix(SPREAD_NUMBER)]
        ]

    def _series(self) -> list[tuple[str, dict[str, list[float]]]]:
        return [(result.row.name, self.values[result.row.name]) for result in self.results]

    def shown(self) -> Shown:
        return Shown(self.facts, summary([result.met for result in self.results]), self.tables())

    def write_json(self, path: Path) -> None:
        rows = [asdict(result) | {"series": self.values[result.row.name]} for result in self.results]
        write_json(path, {"facts": self.facts, "rows": rows})


def summary(met: list[bool | None]) -> str:
    judged = [each for each in met if each is not None]
    return f"{sum(judged)} of {len(judged)} wanted figures are met."


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


LOAD_HEADINGS = [
    "load generator",
    "ours",
    "busy",
    "Redis",
    "busy",
    "ceiling (echo)",
    "ceiling ÷ ours",
    "redis-benchmark, Redis",
]
SPREAD_NUMBER = " number"  # behind the system, in the name of a series; the others are called as the columns
SPREAD_HEADINGS = ["number", *(f"{share:g}%" for share in PERCENTILES), "longest", "longest of all rounds"]


def _rich_table(headings: list[str], rows: list[list[str]], left: set[int]) -> Table:
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in left else "right", no_wrap=number not in left)
    for row in rows:
        table.add_row(*row)
    return table


def _markdown_table(headings: list[str], rows: list[list[str]], left: set[int]) -> str:
    lines = [headings, ["---" if number in left else "---:" for number in range(len(headings))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
