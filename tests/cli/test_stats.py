"""`swarm stats` with what real nodes have written, rotated, compressed, torn, and with what is no stats.log."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.blocking import DhtClient
from swarm.cli.plot import plot
from swarm.cli.terminal import format_number
from swarm.core.limits import KIB, MIB
from swarm.monitor.stats_log import LINE_BYTES_MAX, POINTS_MAX, Points, is_counter, parse_line
from swarm.testing import DhtProcess
from tests.cli.commands import SWARM, swarm
from tests.waiting import shown_on_terminal

BEGIN_S = 1_795_000_000


def when(number: int) -> str:
    """Half a minute after the one before."""
    return datetime.fromtimestamp(BEGIN_S + 30 * number, UTC).strftime("%Y-%m-%d %H:%M:%S.000")


def line(number: int, **figures: object) -> str:
    values = {"uptime_s": 30.0 * (number + 1)} | figures
    return f"{when(number)} {' '.join(f'{name}:{value}' for name, value in values.items())}\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten lines: a counter that grows by 60, and a figure."""
    path = tmp_path / "stats.log"
    path.write_text("".join(line(number, accepted=60 * number, records=number % 4) for number in range(10)))
    return path


def told(*arguments: "str | Path") -> dict[str, object]:
    done = swarm("stats", "--json", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_what_a_real_node_writes_is_understood(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        dht.put("channel", "key", b"value")
    result = told(tmp_path / "data" / "stats.log")
    assert (result["lines"], result["not_understood"]) == (1, 0)
    figures = result["figures"]
    assert figures["channel.channel.records"]["last"] == 1
    assert figures["request.put.handled"]["last"] == 1
    assert figures["request.put.handled"]["rate_per_s"] is None


def test_first_last_least_most_and_rate(log: Path) -> None:
    figures = told(log)["figures"]
    assert figures["accepted"] == {"first": 0, "last": 540, "min": 0, "max": 540, "rate_per_s": 2.0, "lines": 10}
    assert figures["records"] == {"first": 0, "last": 1, "min": 0, "max": 3, "rate_per_s": None, "lines": 10}


def test_elsewhere_than_on_a_terminal_it_is_separated_by_tabs(log: Path) -> None:
    done = swarm("stats", str(log))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        "name\tfirst\tlast\tmin\tmax\tper second",
        "accepted\t0\t540\t0\t540\t2",
        "records\t0\t1\t0\t3\t",
        "uptime_s\t30\t300\t30\t300\t",
    ]


def test_on_a_terminal_it_is_a_table(log: Path) -> None:
    status, shown = shown_on_terminal([*SWARM, "stats", str(log)])
    assert status == 0
    assert f"{when(0)[:-4]} to {when(9)[:-4]} UTC, 10 lines" in shown
    assert "accepted" in shown


def test_the_names(log: Path) -> None:
    assert swarm("stats", str(log), "--list").stdout == b"accepted\nrecords\nuptime_s\n"


def test_a_plot_is_drawn_for_each_name(log: Path) -> None:
    done = swarm("stats", str(log), "--plot", "accepted", "--plot", "records")
    heading, _, first, *rows = done.stdout.decode().splitlines()
    assert heading.endswith("10 lines")
    assert first == "accepted per second"
    assert "records" in rows
    assert sum("█" in row for row in rows) > 10


def test_over_a_restart_a_rate_is_that_of_what_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "stats.log"
    path.write_text(
        line(0, accepted=1000)
        + line(1, accepted=1300)
        + line(2, uptime_s=1.0, accepted=5)
        + line(3, uptime_s=31.0, accepted=305)
    )
    result = told(path, "--plot", "accepted")
    assert result["restarts"] == 1
    assert result["figures"]["accepted"]["rate_per_s"] == 10.0
    assert [value for _, value in result["points"]["accepted"]] == [10.0, 10.0]


def test_rotated_files_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    lines = [line(number, accepted=60 * number) for number in range(9)]
    with gzip.open(tmp_path / "stats.log.2.gz", "wt") as oldest:
        oldest.writelines(lines[:3])
    (tmp_path / "stats.log.1").write_text("".join(lines[3:6]))
    (tmp_path / "stats.log").write_text("".join(lines[6:]))
    result = told(*(tmp_path / name for name in ("stats.log", "stats.log.2.gz", "stats.log.1")))
    assert (result["lines"], result["first"], result["last"]) == (9, when(0)[:-4], when(8)[:-4])
    assert result["figures"]["accepted"]["rate_per_s"] == 2.0
    assert (result["figures"]["accepted"]["first"], result["figures"]["accepted"]["last"]) == (0, 480)


def test_only_the_last_of_it(log: Path) -> None:
    result = told(log, "--last", "1m")
    assert (result["lines"], result["first"]) == (3, when(7)[:-4])


def test_lines_that_are_none_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "stats.log"
    garbage = [
        b"",
        b"\x00\xff\x1b[2J",
        b"2026-11-22 06:57:32.123 INFO swarm.core.node: serves",
        b"2026-99-99 06:57:32.123 a:1",
        b"2026-11-22 06:57:32.123",
        b"2026-11-22 06:57:32.123 a:",
        b"2026-11-22 06:57:32.123 a:1 hal",
        b"2026-11-22 06:57:32.123 \x1b[2J:1",
        "2026-11-22 06:57:32.123 ä:1".encode(),
    ]
    path.write_bytes(line(0).encode() + b"\n".join(garbage) + b"\n" + line(1).encode() + line(2).encode()[:-5])
    done = swarm("stats", str(path), "--json")
    result = json.loads(done.stdout)
    assert (result["lines"], result["not_understood"]) == (2, len(garbage))
    assert done.stderr.decode().splitlines() == [
        f"swarm: {path}: {len(garbage)} lines are none of a stats.log, and are passed over",
        f"swarm: {path}: the last line has no end: it is being written, or was torn; it is passed over",
    ]


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n" * 5, b"\x00" * 100_000, b"\x1f\x8b", b"\x1f\x8bgarbage" * 9])
def test_what_is_no_stats_log_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    done = swarm("stats", str(path))
    assert (done.returncode, done.stdout) == (1, b"")
    *_, last = done.stderr.decode().splitlines()
    assert last == f"swarm: no line of a stats.log in {path}"


def test_a_compressed_file_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress("".join(line(number, noise=number * 2654435761 % 2**32) for number in range(5000)).encode())
    path = tmp_path / "stats.log.gz"
    path.write_bytes(whole[: len(whole) // 2])
    done = swarm("stats", str(path), "--json")
    assert done.returncode == 0
    assert 1000 < json.loads(done.stdout)["lines"] < 4000
    assert f"{path}: it cannot be read to its end" in done.stderr.decode()


def test_lines_of_another_version_are_told(tmp_path: Path) -> None:
    path = tmp_path / "stats.log"
    path.write_text(line(0, old=1) + line(1, new=2) + line(2, new=3, text="never"))
    done = swarm("stats", str(path), "--json")
    figures = json.loads(done.stdout)["figures"]
    assert {name: each["lines"] for name, each in figures.items()} == {"old": 1, "new": 2, "text": 1, "uptime_s": 3}
    assert (figures["text"]["last"], figures["text"]["max"]) == ("never", None)
    for options in ((), ("--json",)):
        assert "3 of 4 names are not in every line" in swarm("stats", str(path), *options).stderr.decode()
    for options in (("--list",), ("--plot", "uptime_s")):
        done = swarm("stats", str(path), *options)
        assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_in_a_file_reaches_the_terminal_raw(tmp_path: Path) -> None:
    path = tmp_path / "stats.log"
    path.write_text(f"{when(0)} evil:[red]x\\x1b[2J last:2026-11-22T10:00:00\n")
    shown = swarm("stats", str(path)).stdout.decode()
    assert "[red]x\\x1b[2J" in shown
    assert shown.replace("\n", "").replace("\t", "").isprintable()
    path.write_bytes(f"{when(0)} evil:\x1b[2J\n".encode())
    assert swarm("stats", str(path)).stdout.decode().replace("\n", "").replace("\t", "").isprintable()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--plot", "recor"), "there is no 'recor' in it: did you mean records?"),
        (("--plot", "zzz"), "`--list` shows all"),
        (("--plot", "accepted", "--last", "1s"), "a rate needs two lines"),
    ],
)
def test_what_cannot_be_drawn_is_told(log: Path, options: tuple[str, ...], said: str) -> None:
    done = swarm("stats", str(log), *options)
    assert (done.returncode, done.stdout) == (1, b"")
    assert said in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "status"), [((), 2), (("missing",), 1), (("/",), 1), (("file", "--last", "soon"), 2)]
)
def test_wrong_calls(arguments: tuple[str, ...], status: int) -> None:
    done = swarm("stats", *arguments)
    assert (done.returncode, done.stdout) == (status, b"")


def peak_bytes(path: Path) -> int:
    """Memory that reading the file takes at most, in a process of its own."""
    code = (
        "from pathlib import Path; from swarm.monitor.stats_log import LogFile, Points, Summary\n"
        "summary = Summary(points={'accepted': Points()})\n"
        f"for data in LogFile(Path({str(path)!r})).lines(): summary.take(data)\n"
        "[peak] = [each.split()[1] for each in open('/proc/self/status') if each.startswith('VmHWM')]\n"
        "print(peak, summary.lines)"
    )
    done = subprocess.run([SWARM[0], "-c", code], capture_output=True, text=True, check=True)
    peak_kib, lines = map(int, done.stdout.split())
    assert lines > 0
    return peak_kib * KIB


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    sizes = []
    for count in (6_000, 60_000):  # as values of some 500 bytes for each line these would differ by 27 MB
        path = tmp_path / f"{count}.log"
        path.write_text("".join(line(number, accepted=number, padding=number) for number in range(count)))
        sizes.append(peak_bytes(path))
    assert sizes[1] < sizes[0] + 3 * MIB


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "stats.log"
    with path.open("wb") as file:
        file.write(line(0).encode())
        file.write(when(1).encode() + b" a:" + b"1" * (2 * LINE_BYTES_MAX) + b"\n")
        file.write(line(2).encode())
    result = told(path)
    assert (result["lines"], result["not_understood"]) == (2, 1)


# What it is made of.


def test_which_names_only_grow() -> None:
    for name in ("accepted", "request.put.handled", "request.get.times.10us", "channel.a.dropped"):
        assert is_counter(name)
    for name in ("records", "channel.a.records", "request.listen.in_flight", "lag_s", "uptime_s"):
        assert not is_counter(name)


def test_values_have_the_types_of_their_text() -> None:
    parsed = parse_line(f"{when(0)} a:1 b:0.5 c:nan d:2026-11-22T10:00:00 e:1e400".encode())
    assert parsed is not None
    assert parsed.values == {"a": 1, "b": 0.5, "c": "nan", "d": "2026-11-22T10:00:00", "e": "1e400"}
    assert parsed.at_s == BEGIN_S


@pytest.mark.parametrize("count", [1, POINTS_MAX, POINTS_MAX + 1, 10 * POINTS_MAX + 7])
def test_points_are_bounded_and_cover_the_whole(count: int) -> None:
    points = Points()
    for number in range(count):
        points.add(float(number), float(number % 10))
    kept = list(points)
    assert len(kept) <= POINTS_MAX + 1
    assert kept == sorted(kept)
    assert kept[0][0] < 32
    assert kept[-1][0] > count - 33
    assert all(0 <= value <= 9 for _, value in kept)


def heights(rows: list[str]) -> Iterator[int]:
    bars = [row.partition("│")[2] for row in rows if "│" in row]
    for column in range(max(map(len, bars))):
        yield sum(row[column : column + 1] not in ("", " ") for row in bars)


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_a_plot_keeps_its_width_and_its_peaks(columns: int) -> None:
    points = [(float(number), 1000.0 if number == 700 else number % 3) for number in range(1000)]
    rows = plot("title", points, columns)
    assert rows[0] == "title"
    assert max(map(len, rows)) <= max(columns, 48)
    drawn = list(heights(rows))
    assert max(drawn) == 10
    assert drawn.count(10) == 1
    assert min(drawn) == 1


@pytest.mark.parametrize("points", [[(5.0, 0.0)], [(5.0, 0.0), (5.0, 0.0)], [(1.0, -5.0), (2.0, 5.0)], [(1.0, 1e300)]])
def test_a_plot_of_little(points: list[tuple[float, float]]) -> None:
    assert len(plot("title", points, 80)) == 13


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234567, "1,234,567"), (0.123456, "0.1235"), (1234.56, "1,234.6"), (1e300, "1e+300")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert format_number(value) == text
