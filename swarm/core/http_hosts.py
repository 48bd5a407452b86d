"""The names by which HTTP on loopback may be asked for.

A page of somebody else's, in a browser on this machine, can lead a name of its own here (DNS rebinding), and would read
what is told. The browser sends that name in Host, so requests with a name that is none of loopback's are refused.
"""

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from swarm.core.config import Address

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def check_of_host(address: Address) -> list[Middleware]:
    """What an application at this address needs: 400 for names that are none of loopback's, nor its own. Nothing where
    others reach it, who have names for it that are not known here, and at a Unix socket, which no browser reaches."""
    if address.is_unix or not address.is_loopback:
        return []
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_NAMES, address.host], www_redirect=False)]
