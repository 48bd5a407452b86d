"""What each kind of node tells over HTTP: real processes, real sockets."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from http_asking import (
    HTTP,
    KINDS,
    AnyProcess,
    client_of,
    connect,
    ended,
    get,
    http_address,
    make_process,
    read_answer,
    samples_of,
    value,
    write,
)

from nodes.dht.config import NodeSection
from swarm.core.config import Address
from swarm.core.limits import MIB
from swarm.core.node import LogsSection
from swarm.dht.dump_format import Manifest
from swarm.dht.dumps import write_manifest
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module")
def process(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyProcess]:
    """A node that holds three records of 100 bytes in channel a, and one in channel b."""
    with make_process(kind, tmp_path_factory.mktemp(kind)) as process:
        with client_of(kind, process) as client:
            write(kind, client, "a")
            write(kind, client, "b", 1)
        yield process


@pytest.fixture
def address(process: AnyProcess) -> tuple[str, int]:
    return http_address(process)


def test_metrics(kind: str, address: tuple[str, int]) -> None:
    answer = get(address, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = samples_of(answer.body)
    assert all(dict(labels)["kind"] == kind for _, labels in samples)
    assert value(samples, "swarm_records", kind=kind) == 4
    assert value(samples, "swarm_record_bytes", kind=kind) == 400
    assert value(samples, "swarm_channel_records", kind=kind, channel="a") == 3
    assert value(samples, "swarm_channel_record_bytes", kind=kind, channel="b") == 100
    assert value(samples, "swarm_channels", kind=kind) == 2
    assert value(samples, "swarm_received_bytes_total", kind=kind) > 400
    assert value(samples, "swarm_memory_limit_bytes", kind=kind) > MIB
    assert value(samples, "swarm_resident_memory_bytes", kind=kind) > MIB
    request = {"dht": "put_many", "queue": "push_many", "logfiles": "put_many"}[kind]
    assert value(samples, "swarm_requests_total", kind=kind, request=request) == 2
    assert value(samples, "swarm_requests_failed_total", kind=kind, request=request) == 0
    buckets = [
        value(samples, "swarm_request_duration_seconds_bucket", kind=kind, request=request, le=bound)
        for bound in ("1e-05", "0.0001", "0.001", "0.01", "0.1", "+Inf")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 2
    assert value(samples, "swarm_health_finding", kind=kind, rule="memory_nearly_full") == 0


def test_stats_are_those_of_the_request(kind: str, process: AnyProcess, address: tuple[str, int]) -> None:
    answer = get(address, "/stats")
    assert answer.headers["content-type"] == "application/json"
    with client_of(kind, process) as client:
        (told,) = client.node_statistics().values()
    assert answer.json["channel"] == told["channel"]
    assert list(answer.json) == list(told)
    assert answer.json["records"] == 4
    assert answer.json["http_requests"] >= 1


def test_health(kind: str, address: tuple[str, int]) -> None:
    for path in ("/health", "/health?strict"):
        answer = get(address, path)
        found = {each["rule"] for each in answer.json["findings"]}
        assert found <= {"disk_nearly_full", "loop_lags"}, "which are of the machine"
        assert answer.json["status"] == ("warning" if found else "ok")
        assert answer.json["kind"] == kind
        assert answer.status == (503 if found and "strict" in path else 200)


def test_ready(address: tuple[str, int]) -> None:
    assert (get(address, "/ready").status, get(address, "/ready").body) == (200, b"ready\n")


def test_the_page_for_people(kind: str, address: tuple[str, int]) -> None:
    answer = get(address, "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert f"{kind}node ".encode() in answer.body
    for path in ("/metrics", "/health", "/ready", "/stats"):
        assert f'<a href="{path}">'.encode() in answer.body


def test_nothing_is_kept_by_others(address: tuple[str, int]) -> None:
    for path in ("/", "/metrics", "/health", "/ready", "/stats"):
        headers = get(address, path).headers
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_head_is_answered_without_a_body(address: tuple[str, int]) -> None:
    for path in ("/", "/metrics", "/health", "/ready", "/stats"):
        answer = get(address, path, "HEAD")
        assert answer.status == 200
        assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_methods_that_change_something_are_refused(address: tuple[str, int], method: str) -> None:
    answer = get(address, "/metrics", method)
    assert answer.status == 405
    assert answer.headers["allow"] in ("GET, HEAD", "HEAD, GET")


@pytest.mark.parametrize("path", ["/nope", "/metrics/", "//", "/../etc/passwd", "/%2e%2e/%00", "/metrics%20", "*"])
def test_unknown_paths(address: tuple[str, int], path: str) -> None:
    assert get(address, path).status in (404, 307)


def test_a_connection_is_used_for_several_requests(address: tuple[str, int]) -> None:
    with connect(address) as sock:
        for _ in range(3):
            sock.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(sock).body == b"ready\n"


def test_http_1_0(address: tuple[str, int]) -> None:
    with connect(address) as sock:
        sock.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert read_answer(sock).body == b"ready\n"
        assert ended(sock)


def test_a_client_that_closes_its_side_is_answered(address: tuple[str, int]) -> None:
    with connect(address) as sock:
        sock.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_answer(sock).body == b"ready\n"
        assert ended(sock)


# Findings.


def test_a_finding_is_told_everywhere(tmp_path: Path) -> None:
    """In root.log, over the wire, and over HTTP."""
    node = NodeSection(memory_limit=10 * MIB)
    with make_process("dht", tmp_path, node=node) as process, client_of("dht", process) as client:
        client.put("c", b"key", bytes(9 * MIB + 500_000))
        (of_client,) = client.node_health().values()
        ((rule, text),) = [each for each in of_client if each[0] == "memory_nearly_full"]
        assert text.startswith("95 % of memory_limit (10 MiB) are used; ")
        answer = get(http_address(process), "/health")
        assert answer.status == 200, "it serves as well as it can"
        assert answer.json["status"] == "warning"
        assert {"rule": rule, "text": text} in answer.json["findings"]
        assert get(http_address(process), "/health?strict").status == 503
        samples = samples_of(get(http_address(process), "/metrics").body)
        assert value(samples, "swarm_health_finding", kind="dht", rule="memory_nearly_full") == 1
        assert value(samples, "swarm_health_finding", kind="dht", rule="dump_too_old") == 0
        assert get(http_address(process), "/ready").status == 200


def test_a_dump_that_is_too_old(tmp_path: Path) -> None:
    with make_process("dht", tmp_path) as process:
        address = http_address(process)
        assert "dump_age_s" not in get(address, "/stats").json
        dump = tmp_path / "data" / "dump"
        dump.mkdir(exist_ok=True)
        finished = datetime.now(UTC) - timedelta(hours=3)
        manifest = Manifest(1, 1, "begun", finished.strftime("%Y-%m-%dT%H:%M:%SZ"), {}, "0" * 32, 3600.0)
        write_manifest(dump, manifest)
        with client_of("dht", process) as client:
            (found,) = client.node_health().values()
        text = dict(found)["dump_too_old"]
        assert text.startswith("the last dump is 3.0 h old, and one is due every 1.0 h: see whether dhtdump runs")
        samples = samples_of(get(address, "/metrics").body)
        assert 3 * 3600 <= value(samples, "swarm_dump_age_seconds", kind="dht") < 3 * 3600 + 600
        write_manifest(dump, replace(manifest, period_s=None))
        with client_of("dht", process) as client:
            (found,) = client.node_health().values()
            assert "dump_too_old" not in dict(found)
            (statistics,) = client.node_statistics().values()
            assert statistics["dump_age_s"] >= 3 * 3600


def test_findings_and_events_in_the_log(tmp_path: Path) -> None:
    """As the default configuration has it, but for the period."""
    ini = tmp_path / "node.ini"
    logs = LogsSection(stats_period=0.1)
    assert logs.console
    with make_process("dht", tmp_path, node=NodeSection(memory_limit=10 * MIB)) as process:
        process.stop()
        ini.write_text(ini.read_text().replace("stats_period = 30.0", "stats_period = 0.1"))
        process._write_configuration = lambda: ini  # type: ignore[method-assign]
        process.start()
        with client_of("dht", process) as client:
            client.put("c", b"key", bytes(9 * MIB + 500_000))

            def events() -> list[tuple[float, str, str]]:
                (told,) = client.node_events().values()
                return [each for each in told if "memory_nearly_full" in each[2]]

            ((time, level, text),) = wait_until(events)
            assert level == "WARNING"
            assert text.startswith("memory_nearly_full: 95 % of memory_limit")
            assert abs(time - datetime.now(UTC).timestamp()) < 600
            client.remove_channel("c")
            log = tmp_path / "data" / "root.log"
            wait_until(lambda: "memory_nearly_full: is over" in log.read_text())
            assert log.read_text().count(" WARNING swarm.core.health: memory_nearly_full: 95 %") == 1
            assert len(events()) == 1


# The process.


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with make_process("queue", tmp_path, replace(HTTP, address=Address.unix(str(path)))):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = read_answer(sock)
        assert json.loads(answer.body)["kind"] == "queue"


def test_http_ends_with_the_node(tmp_path: Path) -> None:
    with make_process("dht", tmp_path) as process:
        address = http_address(process)
        with connect(address) as sock, client_of("dht", process):
            sock.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(sock).status == 200
            assert process.stop() == 0
            assert ended(sock)
        with pytest.raises(ConnectionRefusedError):
            connect(address)
