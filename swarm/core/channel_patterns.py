"""Settings for some of a node's channels: the names of sections like [channel telemetry-*]."""

from collections.abc import Mapping
from typing import TypeVar

from swarm.core.errors import BadChannel
from swarm.core.protocol import check_channel

T = TypeVar("T")

EVERY_REST = "*"


def parse_pattern(text: str) -> str:
    """A channel's name, or the begin of names with * behind it. Raises ValueError."""
    prefix = text.removesuffix(EVERY_REST)
    if text != EVERY_REST:
        try:
            check_channel(prefix)
        except BadChannel as error:
            raise ValueError(f"the name of a channel is expected, or its begin and {EVERY_REST}: {error}") from error
    return text


def best_match(patterns: Mapping[str, T], channel: str) -> T | None:
    """What the longest pattern has that the name matches, its own name before any with *; None if there is none."""
    matching = [pattern for pattern in patterns if _matches(pattern, channel)]
    return patterns[max(matching, key=_precision)] if matching else None


def _matches(pattern: str, channel: str) -> bool:
    return channel.startswith(pattern[:-1]) if pattern.endswith(EVERY_REST) else channel == pattern


def _precision(pattern: str) -> tuple[bool, int]:
    return not pattern.endswith(EVERY_REST), len(pattern)
