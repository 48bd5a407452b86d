"""Metrics: names and units, what is told of many channels and what that costs, and who relies on them.

etc/prometheus and etc/grafana may only name what running nodes expose, and the document names all of it.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from core.raw_client import PUT, DirectConnection, at_work, make_dht
from http_asking import KINDS, client_of, get, http_address, make_process, samples_of, value, write
from prometheus_client.parser import text_string_to_metric_families

from nodes.dht.config import NodeSection
from nodes.queue.config import ChannelSection, QueueSection
from swarm.core.credentials import Credentials, KnownClient, Permissions
from swarm.core.limits import CLIENT_KEY_BYTES, HTTP_CHANNELS_MAX
from swarm.core.metrics import OTHERS, exposition
from swarm.core.node import CHANNELS_PER_STEP
from swarm.dht.dump_format import Manifest
from swarm.dht.dumps import write_manifest
from tests.certificates import Authority

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "etc" / "grafana" / "swarm.json"
ALERTS = ROOT / "etc" / "prometheus" / "alerts.yml"
PROMETHEUS = ROOT / "etc" / "prometheus" / "prometheus.yml"
DOCUMENT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NAME = re.compile(r"\bswarm_[a-z_]+")


def log_in(directory: Path) -> tuple[Credentials, dict[str, Any]]:
    """A client, and the section [node] of a node that knows it."""
    client = KnownClient(Credentials("client", b"k" * CLIENT_KEY_BYTES), Permissions.parse("read=* write=*"))
    file = directory / "credentials"
    file.touch(0o600)
    file.write_text(client.to_line())
    return client.credentials, {"node": NodeSection(credentials=str(file))}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """What a node of each kind exposes that has been used: a dht node with a dump and logins, a queue with a
    subscriber, and with TLS."""
    with ExitStack() as stack:
        texts = {}
        for kind in KINDS:
            directory = tmp_path_factory.mktemp(kind)
            credentials, tls = None, None
            sections: dict[str, Any] = {}
            if kind == "dht":
                credentials, sections = log_in(directory)
            if kind == "queue":
                authority = Authority(directory)
                tls, sections = authority.client(), {"tls": authority.node()}
            process = stack.enter_context(make_process(kind, directory, **sections))
            client = stack.enter_context(client_of(kind, process, credentials, tls))
            write(kind, client, "a")
            if kind == "dht":
                (directory / "data" / "dump").mkdir(exist_ok=True)
                manifest = Manifest(1, 1, "begun", "2026-11-22T06:00:00Z", {}, "0" * 32)
                write_manifest(directory / "data" / "dump", manifest)
            if kind == "queue":
                with client.consume("a", subscriber="first") as batches:
                    next(iter(batches))
            texts[kind] = get(http_address(process), "/metrics").body
        yield texts


def names(text: bytes) -> set[str]:
    return {name for name, _ in samples_of(text)}


@pytest.fixture(scope="module")
def all_names(exposed: dict[str, bytes]) -> set[str]:
    return set().union(*map(names, exposed.values()))


def test_names_units_and_types(exposed: dict[str, bytes]) -> None:
    for text in exposed.values():
        for family in text_string_to_metric_families(text.decode()):
            assert re.fullmatch(r"swarm_[a-z][a-z_]*[a-z]", family.name)
            assert not re.search(r"_(s|ms|percent|kib|mib)$", family.name)
            assert family.documentation.endswith(".")
            assert "in the statistics of this kind" not in family.documentation, f"{family.name} is not described"
            for sample in family.samples:
                assert (family.type == "counter") == sample.name.endswith("_total")


def test_the_queue_of_a_subscriber(exposed: dict[str, bytes]) -> None:
    samples = samples_of(exposed["queue"])
    assert value(samples, "swarm_channel_records", kind="queue", channel="a", subscriber="first") == 3
    assert 0 < value(samples, "swarm_queue_fullness_ratio", kind="queue", channel="a", subscriber="first") < 0.1


def test_every_metric_is_documented_and_nothing_else(exposed: dict[str, bytes]) -> None:
    table = DOCUMENT.partition("### Metrics")[2].partition("\n#")[0]
    documented = set(re.findall(r"`(swarm_[a-z_]+)`", table))
    assert documented == set().union(*map(names, exposed.values()))


# What relies on them.


def expressions_of_dashboard() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def expressions_of_alerts() -> list[str]:
    return re.findall(r"^ +expr: (.+)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("expressions", [expressions_of_dashboard, expressions_of_alerts], ids=["dashboard", "alerts"])
def test_what_is_named_is_exposed(expressions: Any, all_names: set[str]) -> None:
    for expression in expressions():
        used = set(NAME.findall(expression))
        assert used or "up{" in expression, expression
        assert used <= all_names, expression


def test_labels_that_are_named_are_exposed(exposed: dict[str, bytes]) -> None:
    there = {label for text in exposed.values() for _, labels in samples_of(text) for label, _ in labels}
    there |= {"instance", "job"}  # Prometheus' own
    for expression in [*expressions_of_dashboard(), *expressions_of_alerts()]:
        used = set(re.findall(r"(\w+)=~?\"", expression))
        for by in re.findall(r"by \(([^)]*)\)", expression):
            used |= set(by.split(", "))
        assert used <= there, expression


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["title"] == "Swarm"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    taken = {(x, y) for each in places for x in columns(each) for y in range(each["y"], each["y"] + each["h"])}
    assert len(taken) == sum(each["w"] * each["h"] for each in places), "two panels in one place"
    assert max(x for x, _ in taken) < 24
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", DASHBOARD.read_text())) <= variables


def columns(place: dict[str, int]) -> range:
    return range(place["x"], place["x"] + place["w"])


def test_there_is_an_alert_for_each_health_rule(exposed: dict[str, bytes]) -> None:
    rules = {
        dict(labels)["rule"]
        for text in exposed.values()
        for name, labels in samples_of(text)
        if name == "swarm_health_finding"
    }
    alerts = "\n".join(expressions_of_alerts())
    assert set(re.findall(r'rule="(\w+)"', alerts)) == rules
    assert "up{" in alerts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian package prometheus)")
def test_prometheus_takes_the_files(exposed: dict[str, bytes]) -> None:
    for command in (["check", "rules", str(ALERTS)], ["check", "config", str(PROMETHEUS)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# Many channels.


async def test_the_number_of_series_is_bounded() -> None:
    node = make_dht()
    client = DirectConnection(node.service)
    for number in range(HTTP_CHANNELS_MAX + 50):
        client.result(PUT, f"c{number:04}", b"key", b"12345")
    async with at_work(node):
        samples = samples_of(await exposition(node))
    assert value(samples, "swarm_channel_records", kind="dht", channel="c0000") == 1
    assert value(samples, "swarm_channel_records", kind="dht", channel=OTHERS) == 50
    assert value(samples, "swarm_channel_record_bytes", kind="dht", channel=OTHERS) == 50 * 8
    assert sum(name == "swarm_channel_records" for name, _ in samples) == HTTP_CHANNELS_MAX + 1
    of_channels = [number for (name, _), number in samples.items() if name == "swarm_channel_records"]
    assert sum(of_channels) == value(samples, "swarm_records", kind="dht")


def test_of_queues_that_are_told_together_the_fullest_counts(tmp_path: Path) -> None:
    sections = {
        "queue": QueueSection(ring_bytes=64 * 1024, fsync="never"),
        "channel": {"full-*": ChannelSection(ring_bytes=64 * 1024)},
    }
    with make_process("queue", tmp_path, **sections) as process, client_of("queue", process) as client:
        for number in range(HTTP_CHANNELS_MAX + 2):
            client.push(f"a{number:04}", b"x")
        client.push("z", b"x" * 60_000)
        samples = samples_of(get(http_address(process), "/metrics").body)
        assert 0.9 < value(samples, "swarm_queue_fullness_ratio", kind="queue", channel=OTHERS) <= 1
        assert value(samples, "swarm_channel_records", kind="queue", channel=OTHERS) == 3


async def test_many_channels_are_told_in_steps() -> None:
    """Others have their turn between them: all takes 10 ms here, the longest step 1 or 2 ms, measured."""
    node = make_dht()
    client = DirectConnection(node.service)
    for number in range(4096):
        client.result(PUT, f"channel-{number}", b"key", b"value")
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with at_work(node), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        text = await exposition(node)
        assert turns >= 4096 // CHANNELS_PER_STEP + text.count(b"# TYPE") - 2, "one more or less at both ends"
        nursery.cancel_scope.cancel()
