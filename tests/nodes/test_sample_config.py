"""Each file in etc/swarm shows every key of a configuration with its default."""

import re
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from dhtdump.config import DumpConfig
from nodes.dht.config import DhtConfig
from nodes.queue.config import ChannelSection, QueueConfig
from swarm.core.config import load

DIRECTORY = Path(__file__).parents[2] / "etc" / "swarm"
CONFIGURATIONS: dict[str, type[DhtConfig | DumpConfig | QueueConfig]] = {
    "dht.ini": DhtConfig,
    "dhtdump.ini": DumpConfig,
    "queue.ini": QueueConfig,
}
KEY = re.compile(r"^#(\w+) =", re.MULTILINE)


@pytest.fixture(params=sorted(CONFIGURATIONS))
def name(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def keys_of_sample(name: str) -> list[tuple[str, str]]:
    """Section and key of every key in it, in their order."""
    found: list[tuple[str, str]] = []
    section = ""
    for line in (DIRECTORY / name).read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := KEY.match(line):
            found.append((section, key[1]))
    return found


def test_each_is_known() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == set(CONFIGURATIONS)


def test_as_it_is_it_changes_nothing(name: str) -> None:
    config = CONFIGURATIONS[name]
    assert load(config, DIRECTORY / name) == config()


def test_every_value_in_it_is_the_default(name: str, tmp_path: Path) -> None:
    config = CONFIGURATIONS[name]
    uncommented = tmp_path / name
    uncommented.write_text(KEY.sub(r"\1 =", (DIRECTORY / name).read_text()))
    assert load(config, uncommented) == config()


def test_every_key_is_in_it_once_in_the_order_of_the_code(name: str) -> None:
    config = CONFIGURATIONS[name]()
    assert keys_of_sample(name) == [
        (section.name, key.name)
        for section in fields(config)
        if not isinstance(getattr(config, section.name), Mapping)
        for key in fields(getattr(config, section.name))
    ]


def test_every_key_is_described(name: str) -> None:
    lines = (DIRECTORY / name).read_text().splitlines()
    for above, line in pairwise(lines):
        assert not KEY.match(line) or above.startswith("# "), line


def test_what_it_shows_of_sections_with_names(tmp_path: Path) -> None:
    text = (DIRECTORY / "queue.ini").read_text()
    shown = tmp_path / "queue.ini"
    shown.write_text("\n".join(re.findall(r"^#     (.*)$", text, re.MULTILINE)))
    config = load(QueueConfig, shown)
    assert {key.name for key in fields(ChannelSection)} == {
        key.name for key in fields(ChannelSection) for each in config.channel.values() if getattr(each, key.name)
    }
    assert config.settings("telemetry-7").full == "drop-oldest"
    assert config.settings("orders").overflow_bytes == 16 << 30
    assert config.settings("orders2") == QueueConfig().settings("orders")
