"""How long the answer to a login that failed is kept back: the longer, the more of them have come from its address."""

import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_network

from swarm.core import limits

_DOUBLINGS_MAX = 64  # counted no further


class LoginDelays:
    """The failures of each address. The address that has failed longest ago is forgotten where there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        """How many, and when the last one was; the latest is the last."""

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, peer: str) -> float:
        """A login has failed; the seconds that its answer is to wait. peer: host:port as the listener tells it."""
        address, now = _host_of(peer), self._clock()
        count, last = self._failures.pop(address, (0, now))
        if now - last >= limits.LOGIN_FAILURES_FORGOTTEN_S:
            count = 0
        self._failures[address] = (min(count + 1, _DOUBLINGS_MAX), now)
        if len(self._failures) > limits.LOGIN_ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]
        return float(min(limits.LOGIN_DELAY_FIRST_S * 2**count, limits.LOGIN_DELAY_MAX_S))


def _host_of(peer: str) -> str:
    """What is counted as one: whoever has one IPv6 address usually has 2**64 of them."""
    host = peer.rpartition(":")[0] or peer
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
