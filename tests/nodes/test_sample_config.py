"""etc/swarm/dht.ini shows every key of the dht node's configuration with its default."""

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from nodes.dht.config import DhtConfig
from swarm.core.config import load

SAMPLE = Path(__file__).parents[2] / "etc" / "swarm" / "dht.ini"
KEY = re.compile(r"^#(\w+) =", re.MULTILINE)


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    path = tmp_path / "dht.ini"
    path.write_text(KEY.sub(r"\1 =", SAMPLE.read_text()))
    return path


def keys_of_sample() -> list[tuple[str, str]]:
    """Section and key of every key in it, in their order."""
    found: list[tuple[str, str]] = []
    section = ""
    for line in SAMPLE.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := KEY.match(line):
            found.append((section, key[1]))
    return found


def test_as_it_is_it_changes_nothing() -> None:
    assert load(DhtConfig, SAMPLE) == DhtConfig()


def test_every_value_in_it_is_the_default(uncommented: Path) -> None:
    assert load(DhtConfig, uncommented) == DhtConfig()


def test_every_key_is_in_it_once_in_the_order_of_the_code() -> None:
    config = DhtConfig()
    assert keys_of_sample() == [
        (section.name, key.name) for section in fields(config) for key in fields(getattr(config, section.name))
    ]


def test_every_key_is_described() -> None:
    lines = SAMPLE.read_text().splitlines()
    for above, line in pairwise(lines):
        assert not KEY.match(line) or above.startswith("# "), line
