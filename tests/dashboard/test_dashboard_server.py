"""`swarm dashboard` with real nodes and sockets: what it serves, to whom, and what it refuses."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodes.dht.config import DhtConfig, NodeSection
from swarm.blocking import DhtClient, QueueClient
from swarm.core.http import INSTALL_HTTP
from swarm.core.limits import HTTP_CONNECTIONS_MAX
from swarm.testing import DhtProcess, running_dht, running_queue
from tests.cli.commands import swarm
from tests.dashboard.dashboards import asked, board_of, dht_views, get, running_dashboard, serving
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "swarm" / "dashboard" / "static"


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """Where a dashboard is served that always shows the same."""
    with serving(board_of(dht_views(3))) as url:
        yield url


# What it shows.


def test_it_shows_what_nodes_hold_and_do(tmp_path: Path) -> None:
    with running_dht(2) as dht, running_queue() as queue:
        options = [*(f"--dht={each}" for each in dht.addresses), f"--queue={queue.addresses[0]}"]
        with (
            running_dashboard(tmp_path, *options) as dashboard,
            DhtClient(dht.addresses) as writer,
            QueueClient(queue.addresses) as pusher,
        ):
            writer.put_many("words", {f"key {number}": b"value" for number in range(300)})
            pusher.push("mail", b"record")
            wait_until(lambda: dashboard.node(0).get("records", 0) + dashboard.node(1).get("records", 0) == 300)
            dashboard.wait_for_node(2, kind="queue", up=True, records=1)
            now = dashboard.data()["now"]
            assert [each["share"] for each in now["ring"]["arcs"]] == [0.5, 0.5]
            shown = {(each["kind"], each["name"]): each["records"] for each in now["channels"]["largest"]}
            assert shown == {("dht", "words"): 300, ("queue", "mail"): 1}
            assert [(each["name"], each["node"]) for each in now["queues"]["fullest"]] == [("mail", 2)]


def test_a_node_that_dies_is_shown_as_down_and_as_up_when_it_is_back(tmp_path: Path) -> None:
    with DhtProcess(tmp_path / "node") as node, running_dashboard(tmp_path, f"--dht={node.address}") as dashboard:
        dashboard.wait_for_node(0, up=True)
        node.kill()
        assert dashboard.wait_for_node(0, up=False)["error"] == "Connection refused"
        assert dashboard.data()["now"]["ring"]["served"] == 0
        node.start()
        dashboard.wait_for_node(0, up=True, error=None)
        assert len(dashboard.data()["history"]) >= 3


def test_a_node_that_asks_for_a_login_is_shown_to_those_who_have_one(tmp_path: Path) -> None:
    known, mine = tmp_path / "known", tmp_path / "mine"
    made = swarm(
        "credentials", "add", "me", "--file", str(known), "--read", "*", "--admin", "*", "--client-file", str(mine)
    )
    assert made.returncode == 0, made.stderr
    config = DhtConfig(node=NodeSection(credentials=str(known)))
    with DhtProcess(tmp_path / "node", config) as node:
        with running_dashboard(tmp_path, f"--dht={node.address}") as dashboard:
            assert "credentials" in dashboard.wait_for_node(0, up=False)["error"]
        with running_dashboard(tmp_path, f"--dht={node.address}", f"--credentials={mine}") as dashboard:
            dashboard.wait_for_node(0, up=True)


def test_it_begins_with_nodes_that_are_not_there(tmp_path: Path) -> None:
    with running_dashboard(tmp_path, "--dht=127.0.0.1:1", "--logfiles=127.0.0.1:2") as dashboard:
        node = dashboard.wait_for_node(1, kind="logfiles", up=False)
        assert (node["error"], node["requests_per_s"]) == ("Connection refused", None)


# What a browser gets.


def test_all_that_the_page_names_is_there(page: str) -> None:
    _, html = get(page, "/")
    named = re.findall(r'(?:src|href)="([^"#]+)"', html)
    for path in STATIC.glob("*.js"):
        named += [each.removeprefix("./") for each in re.findall(r' from "([^"]+)"', path.read_text(encoding="utf-8"))]
    assert {"main.js", "style.css", "uplot/uPlot.iife.min.js", "charts.js"} <= set(named)
    for each in set(named):
        status, body = get(page, f"/{each}")
        assert (status, body) == (200, (STATIC / each).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/main.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/data.json", "application/json"),
        ("/nothing", "text/plain; charset=utf-8"),
    ],
)
def test_every_answer_says_what_it_is_and_allows_nothing_from_elsewhere(
    path: str, content_type: str, page: str
) -> None:
    with asked(page, path) as response:
        headers = response.headers
    assert headers["content-type"] == content_type
    assert headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_the_page_has_no_script_and_no_style_in_it() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", html)


def test_nothing_that_nodes_say_can_become_markup() -> None:
    for path in STATIC.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b", text), path


def place(page: str) -> tuple[str, int]:
    host, _, port = page.removeprefix("http://").rstrip("/").partition(":")
    return host, int(port)


def test_one_connection_serves_many_requests(page: str) -> None:
    with socket.create_connection(place(page), timeout=PATIENCE_S) as client:
        for _ in range(3):
            client.sendall(b"HEAD /data.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += client.recv(4096)
            assert received.startswith(b"HTTP/1.1 200")


# What it refuses.


@pytest.mark.parametrize(
    "path", ["/nothing", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/uplot", "/uplot/", "/index.html/x"]
)
def test_there_is_nothing_but_the_page(path: str, page: str) -> None:
    assert get(page, path)[0] == 404


@pytest.mark.parametrize("after", ["-1", "1.5", "x", "%00", "٣", "9" * 16, ""])
def test_a_tick_that_is_no_number_is_refused(after: str, page: str) -> None:
    status, text = get(page, f"/data.json?after={after}" if after.isascii() else "/data.json?after=%D9%A3")
    assert (status, text) == (400, "after is the number of the last tick that is known\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(method: str, page: str) -> None:
    for path in ("/", "/data.json"):
        assert get(page, path, method)[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "127.0.0.2", "", "[::2]"]
)
def test_on_loopback_a_name_that_somebody_else_has_led_here_is_refused(host: str, page: str) -> None:
    assert get(page, "/data.json", host=host)[0] == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1", "[::1]:8080"])
def test_on_loopback_its_own_names_are_taken(host: str, page: str) -> None:
    assert get(page, "/data.json", host=host)[0] == 200


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, b"\x16\x03\x01"]
)
def test_garbage_ends_its_connection_and_nobody_else_notices(garbage: bytes, page: str) -> None:
    with socket.create_connection(place(page), timeout=PATIENCE_S) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while data := client.recv(4096):
                received += data
        except ConnectionResetError:
            pass
    assert b"200 OK" not in received
    assert get(page, "/data.json")[0] == 200


def test_connections_that_ask_for_nothing_keep_no_browser_out(page: str) -> None:
    with ExitStack() as others:
        for _ in range(HTTP_CONNECTIONS_MAX):
            others.enter_context(socket.create_connection(place(page), timeout=PATIENCE_S))
        assert get(page, "/data.json")[0] == 200


# The command.


def test_an_address_that_others_reach_has_to_be_asked_for() -> None:
    done = swarm("dashboard", "--address", "0.0.0.0:0", "--dht", "127.0.0.1:1")
    assert done.returncode == 2
    assert b"say --allow-open-network" in done.stderr


def test_where_others_reach_it_any_name_is_taken(tmp_path: Path) -> None:
    options = ["--address", "0.0.0.0:0", "--allow-open-network", "--dht", "127.0.0.1:1"]
    with running_dashboard(tmp_path, *options) as dashboard:
        url = f"http://127.0.0.1:{dashboard.port}/"
        assert get(url, "/data.json", host="swarm.example:8080")[0] == 200


def test_an_address_in_use_is_told(page: str) -> None:
    taken = page.removeprefix("http://").rstrip("/")
    done = swarm("dashboard", "--address", taken, "--dht", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.decode() == f"swarm: cannot listen on {taken}: Address already in use\n"


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:99999", "unix:/tmp/socket"])
def test_an_address_that_is_none_is_a_wrong_call(address: str) -> None:
    assert swarm("dashboard", "--address", address, "--dht", "127.0.0.1:1").returncode == 2


def test_without_nodes_it_says_how_to_name_them(tmp_path: Path) -> None:
    done = swarm("dashboard", "--data", str(tmp_path))
    assert done.returncode == 2
    assert b"which nodes?" in done.stderr


@pytest.mark.parametrize("package", ["starlette", "hypercorn"])
def test_a_package_that_is_missing_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from swarm.cli.main import main; main(prog_name='swarm')"
    command = [sys.executable, "-c", code, "dashboard", "--dht", "127.0.0.1:1", "--address", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert done.stderr == f"swarm: the dashboard needs {package}: {INSTALL_HTTP}\n"


def test_a_signal_ends_it_though_a_browser_reads_nothing(tmp_path: Path) -> None:
    with (
        running_dashboard(tmp_path, "--dht", "127.0.0.1:1") as dashboard,
        socket.create_connection(("127.0.0.1", dashboard.port), timeout=PATIENCE_S) as client,
    ):
        client.sendall(b"GET /uplot/uPlot.iife.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        client.recv(1)
        dashboard.process.send_signal(signal.SIGTERM)
        assert dashboard.process.wait(PATIENCE_S) == -signal.SIGTERM


def test_the_package_has_all_files_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "62.3", reason="setuptools is not installed (Debian package: python3-setuptools)")
    command = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    code = "from setuptools import setup; setup()"
    subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=True
    )
    built = tmp_path / "lib" / "swarm" / "dashboard" / "static"
    files = {each.relative_to(STATIC) for each in STATIC.rglob("*") if each.is_file()}
    assert Path("uplot/LICENSE") in files
    assert {each.relative_to(built) for each in built.rglob("*") if each.is_file()} == files
