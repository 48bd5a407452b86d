"""The `logfiles-check` command: what PATH may be, exit statuses, what it prints, and what it cannot check."""

import fcntl
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from damages import GOLDEN, append, flip, make
from good_store import LIVE, files, good_store

from nodes.logfiles.check.__main__ import main
from nodes.logfiles.check.scan_tail import TAIL_BYTES_MAX
from nodes.logfiles.file_names import FileName
from swarm.core.node import lock_directory

MIB = 1 << 20


class Ended:
    """A run in this process: exit status and output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["logfiles-check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, output.out, output.err

    def json(self, *arguments: object) -> tuple[int, list[dict[str, Any]]]:
        status, out, _ = self(*arguments, "--json")
        return status, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ended:
    return Ended(monkeypatch, capsys)


def test_as_a_process(tmp_path: Path) -> None:
    store, _ = make("block-payload-checksum", tmp_path)
    sealed = str(store.sealed)

    def ended(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "nodes.logfiles.check", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = ended()
    assert found.returncode == 4
    assert found.stdout.startswith(f"{sealed}\t40\t")
    assert found.stdout.splitlines()[0].split("\t")[3:5] == ["payload-checksum", "--fix mends it"]
    assert found.stderr == ""
    assert ended("--fix").returncode == 1
    again = ended()
    assert again.returncode == 0
    assert again.stdout.endswith("clean\n")


def test_on_a_terminal(tmp_path: Path) -> None:
    """A table, and a progress bar."""
    make("block-payload-checksum", tmp_path)
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-m", "nodes.logfiles.check", str(tmp_path)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=other_end, stdout=other_end, stderr=other_end, env=environment) as process:
        os.close(other_end)
        output = b""
        with suppress(OSError):  # EIO: the other end was closed
            while data := os.read(terminal, 65_536):
                output += data
        os.close(terminal)
        assert process.wait() == 4
    assert "│ payload-checksum │" in output.decode()
    assert b"100%" in output or b"bytes" in output
    assert b"findings: 1, mended: 0" in output


def test_a_directory_that_cannot_be_locked(run: Ended, tmp_path: Path) -> None:
    good_store(tmp_path)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    for options in ([], ["--fix"]):
        status, _, err = run(tmp_path, *options)
        assert status == 8
        assert "Is a directory" in err


def test_statuses(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    assert run(tmp_path)[0] == 0
    append(store.sealed, b"x")
    assert run(tmp_path)[0] == 4
    assert run(tmp_path, "--fix")[0] == 1
    assert run(tmp_path)[0] == 0
    append(store.sealed, b"x")
    (store.channel / "notes.txt").write_text("x")
    assert run(tmp_path, "--fix")[0] == 1 | 4
    store.path(FileName(LIVE, 9, "tail", 1)).touch()
    os.truncate(store.path(FileName(LIVE, 9, "tail", 1)), TAIL_BYTES_MAX + 1)
    status, _, err = run(tmp_path)
    assert status == 4 | 8
    assert f"a tail of {TAIL_BYTES_MAX + 1} bytes" in err


def test_usage(run: Ended, tmp_path: Path) -> None:
    good_store(tmp_path)
    for arguments in ([], [tmp_path, "--truncate"], [tmp_path, "--wrong"], [tmp_path, "--jobs", "0"], [tmp_path, "x"]):
        status, _, err = run(*arguments)
        assert status == 16
        assert "Usage:" in err
    assert run(tmp_path / "channels" / "app", "--channel", "app")[0] == 16
    assert run("--help")[0] == 0
    assert run("--version")[0] == 0


@pytest.mark.parametrize("golden", sorted(path.parent.name for path in GOLDEN.glob("*/findings.json")))
def test_golden_files(run: Ended, golden: str) -> None:
    data = GOLDEN / golden
    expected = json.loads((data / "findings.json").read_text())
    status, lines = run.json(data)
    assert status == 4
    *findings, summary = lines
    shown = [{key: found[key] for key in ("path", "offset", "length", "kind", "mendable")} for found in findings]
    assert shown == [each | {"path": str(data / each["path"])} for each in expected]
    assert all(found["type"] == "finding" and found["what"] and not found["mended"] for found in findings)
    assert summary["type"] == "summary"
    assert (summary["findings"], summary["mended"], summary["status"]) == (len(expected), 0, 4)


def test_what_path_may_be(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    flip(store.sealed, 45)
    flip(store.log, store.units[store.log][0].end - 1)
    day = store.sealed.parent
    for path, findings in (
        (tmp_path, 2),
        (tmp_path / "channels", 2),
        (store.channel, 2),
        (day, 2),
        (store.sealed, 1),
        (store.tail, 1),  # the log of its bucket
    ):
        status, lines = run.json(path)
        assert (status, len(lines)) == (4, findings + 1), path
    assert run(store.path(FileName(LIVE, 1, "log")), "--fix")[0] == 1
    assert [each["path"] for each in run.json(tmp_path)[1][:-1]] == [str(store.sealed)]


def test_one_channel(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    store.channel.rename(tmp_path / "channels" / "damaged")
    good_store(tmp_path)
    flip(next((tmp_path / "channels" / "damaged").rglob("*.sealed")), 45)
    assert run(tmp_path, "--channel", "app")[0] == 0
    assert run(tmp_path / "channels", "--channel", "damaged")[0] == 4
    status, _, err = run(tmp_path, "--channel", "other")
    assert status == 8
    assert "no channel other" in err


@pytest.mark.parametrize("options", [[], ["--fix"]])
def test_a_running_node_is_not_checked(run: Ended, tmp_path: Path, options: list[str]) -> None:
    store = good_store(tmp_path)
    append(store.sealed, b"x")
    before = files(tmp_path)
    with lock_directory(tmp_path):
        for path in (tmp_path, store.channel, store.sealed):
            status, _, err = run(path, *options)
            assert status == 8
            assert f"in use by another process (pid {os.getpid()})" in err
            status, (error, summary) = run.json(path, *options)
            assert (status, error["type"], summary["status"]) == (8, "error", 8)
    del before["lock"]
    assert {path: data for path, data in files(tmp_path).items() if path != "lock"} == before
    assert run(tmp_path, *options)[0] in (1, 4)


@pytest.mark.parametrize("options", [[], ["--fix"]])
def test_a_process_that_seals_may_outlive_its_node_and_is_waited_for(
    run: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    good_store(tmp_path)
    waited = []
    with (tmp_path / "sealing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def sleep(_: float) -> None:
            waited.append(1)
            if len(waited) == 3:
                lock.close()

        monkeypatch.setattr("nodes.logfiles.check.tree.sleep", sleep)
        assert run(tmp_path, *options)[0] == 0
    assert len(waited) == 3


def test_a_process_that_seals_and_does_not_end_is_told(
    run: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_store(tmp_path)
    monkeypatch.setattr("nodes.logfiles.check.tree.SEALING_WAIT_S", 0.0)
    with (tmp_path / "sealing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for options in ([], ["--fix"]):
            status, _, err = run(tmp_path, *options)
            assert status == 8
            assert "a process that seals a bucket is still at work there, though its node has ended" in err
    assert run(tmp_path, "--fix")[0] == 0


def test_a_link_to_another_disk(run: Ended, tmp_path: Path) -> None:
    """A channel's directory may be one; the node is found nevertheless."""
    store = good_store(tmp_path / "data")
    elsewhere = store.channel.rename(tmp_path / "elsewhere")
    store.channel.symlink_to(elsewhere)
    append(store.sealed, b"x")
    with lock_directory(tmp_path / "data"):
        assert run(store.channel)[0] == 8
    assert run(tmp_path / "data", "--fix")[0] == 1
    assert run(store.channel)[0] == 0


def test_paths_that_cannot_be_checked(run: Ended, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, text in ((tmp_path / "nothing", "No such file"), (tmp_path / "empty", "no data directory")):
        status, _, err = run(path)
        assert status == 8
        assert text in err


def test_a_data_directory_without_a_channel(run: Ended, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    assert run(tmp_path)[0] == 0


def test_what_is_no_regular_file(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    day = store.log.parent
    (day / "150000_3600-1.log").symlink_to(store.log)
    os.mkfifo(day / "160000_3600-1.log")
    (day / "170000_3600-1.log").mkdir()
    (tmp_path / "channels" / "bad name").mkdir()
    (tmp_path / "channels" / "file").touch()
    (store.channel / "not-a-day").mkdir()
    before = files(store.channel)
    for options in ([], ["--fix"]):
        status, lines = run.json(tmp_path, *options)
        assert status == 4
        assert {found["kind"] for found in lines[:-1]} == {"bad-name"}
        assert len(lines) == 7
    assert files(store.channel) == before


def test_names_that_no_terminal_takes(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    name = os.path.join(os.fsencode(store.channel), b"\xff\x1b[2J\n")  # noqa: PTH118  # bytes
    with open(name, "w"):  # noqa: PTH123  # bytes
        pass
    status, out, _ = run(tmp_path)
    assert status == 4
    assert "\\xff\\x1b[2J\\n\t" in out
    assert run.json(tmp_path)[1][0]["path"].endswith("\\xff\\x1b[2J\\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    append(store.sealed, b"x")
    store.log.chmod(0)
    status, _, err = run(tmp_path)
    assert status == 4 | 8
    assert f"{store.log} cannot be read: Permission denied" in err


def test_notes_are_told_on_request(run: Ended, tmp_path: Path) -> None:
    store = good_store(tmp_path)
    os.truncate(store.log, store.units[store.log][2].end - 1)
    status, out, _ = run(tmp_path)
    assert (status, len(out.splitlines())) == (0, 1)
    assert "not finished from" in run(tmp_path, "--verbose")[1]
    assert [line["type"] for line in run.json(tmp_path, "-v")[1]] == ["note", "summary"]


def test_several_processes(run: Ended, tmp_path: Path) -> None:
    """A file whose content does not matter makes it worth while."""
    store = good_store(tmp_path)
    flip(store.sealed, 45)
    flip(store.log, store.units[store.log][0].end - 1)
    alone = run.json(tmp_path, "--jobs", "1")[1]
    large = store.log.with_name("180000_3600-1.log.tmp")
    large.touch()
    os.truncate(large, 100 * MIB)
    status, lines = run.json(tmp_path, "--jobs", "2")
    assert status == 4
    assert [line for line in lines if line.get("path") != str(large)][:-1] == alone[:-1]
    assert (lines[-1]["findings"], lines[-1]["records"]) == (3, alone[-1]["records"])


def test_stopped_by_the_keyboard(tmp_path: Path) -> None:
    """As a status of its own it would be that of a repair."""
    good_store(tmp_path)
    code = (
        "import os, signal, sys\n"
        "from nodes.logfiles.check import __main__ as check\n"
        "check.find = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.argv = ['logfiles-check', {str(tmp_path)!r}]\n"
        "check.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 8
    assert "stopped" in ended.stderr
