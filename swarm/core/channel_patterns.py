"""Patterns of channel names, in sections of a configuration like [channel telemetry-*] and permissions like
read=telemetry-*."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ChannelSet:
    """The channels whose names match one of some patterns."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    """Sorted; "" is every channel."""

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "ChannelSet":
        """patterns: as parse_pattern gives them."""
        patterns = set(patterns)
        begins = {pattern for pattern in patterns if pattern.endswith(EVERY_REST)}
        return cls(frozenset(patterns - begins), tuple(sorted(begin[:-1] for begin in begins)))

    @property
    def is_every(self) -> bool:
        return "" in self.prefixes

    def __contains__(self, name: str) -> bool:
        return name in self.names or name.startswith(self.prefixes)

    def __bool__(self) -> bool:
        return bool(self.names or self.prefixes)

    def __str__(self) -> str:
        """The patterns, as a credentials file has them."""
        return ",".join([*(begin + EVERY_REST for begin in self.prefixes), *sorted(self.names)])


NO_CHANNELS = ChannelSet()
