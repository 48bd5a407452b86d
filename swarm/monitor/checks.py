"""What `swarm doctor` looks for in how the nodes of a swarm are: what each check has found, and what to do. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swarm import __version__
from swarm.core.tls import EXPIRED
from swarm.dht.ring import problems_between
from swarm.monitor.node_view import NodeView, Reason

DUMP_RULE = "dump_too_old"  # of a node's health


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    name: what was looked for. subject: at which node, file or unit; the swarm as a whole where it is empty.
    ok: False: a finding; None: it could not be looked at, because of another finding, or for want of a permission.
    found: what there is, in words. advice: what to do about a finding.
    """

    name: str
    subject: str
    ok: bool | None
    found: str
    advice: str = ""


def check_nodes(views: Sequence[NodeView]) -> list[Check]:
    """Everything that can be seen of nodes over the network."""
    return [*_reachable(views), *_versions(views), *_ring(views), *_dumps(views), *_health(views)]


_ADVICE = {
    Reason.REFUSED: "nobody listens there: see whether the node runs and its root.log; compare the address in its "
    "configuration with the one given here",
    Reason.UNREACHABLE: "see whether the name is right, and whether the network and its firewalls let you through",
    Reason.TIMEOUT: "the node hangs, is overloaded or still loads, or a firewall drops what is sent: see its root.log "
    "and what its process does",
    Reason.TLS: "compare the TLS options given here with section [tls] of the node",
    Reason.CREDENTIALS: "give --credentials FILE, and see with `swarm credentials list` what the node allows",
    Reason.KIND: "name it with the option of its own kind; compare the nodes files",
    Reason.PROTOCOL: "something else than a node of this version listens there: see which process it is",
    Reason.OTHER: "see the node's root.log",
    Reason.NOT_ASKED: "see the node's root.log",
}
_MORE = "docs/operations.md tells more of each rule"  # whose texts say what to do
_ADVICE_EXPIRED = "renew its certificate, and send it SIGHUP (systemctl reload)"


def _advice(view: NodeView) -> str:
    assert view.reason is not None
    return _ADVICE_EXPIRED if view.reason == Reason.TLS and EXPIRED in (view.error or "") else _ADVICE[view.reason]


def _name(view: NodeView) -> str:
    return f"{view.kind} {view.address}"


def _reachable(views: Sequence[NodeView]) -> Iterator[Check]:
    for view in views:
        if view.state == "up":
            yield Check("reachable", _name(view), True, f"{view.version}, up for {view.uptime_s:,.0f} s")
        else:
            yield Check("reachable", _name(view), False, f"{view.reason}: {view.error}", _advice(view))


def _versions(views: Sequence[NodeView]) -> Iterator[Check]:
    others = [view for view in views if view.state == "up" and view.version.rpartition(" ")[2] != __version__]
    for view in others:
        yield Check(
            "version",
            _name(view),
            False,
            f"it runs {view.version}, this is swarm {__version__}",
            "install the same version on all machines, and restart the nodes that run another",
        )
    if not others and any(view.state == "up" for view in views):
        yield Check("version", "", True, f"all that answer run {__version__}, as this command does")


def _ring(views: Sequence[NodeView]) -> Iterator[Check]:
    dht = [view for view in views if view.kind == "dht"]
    ranges = [(view.hash_range, view.address) for view in dht if view.hash_range is not None]
    if not dht:
        return
    if len(ranges) < len(dht):
        yield Check("hash ranges", "", None, "not known, since not every dht node has answered")
        return
    problems = problems_between(ranges)
    for problem in problems:
        yield Check(
            "hash ranges",
            ", ".join(problem.nodes),
            False,
            f"{problem.kind}: {problem.hashes}",
            "name all dht nodes to this command; if all are named, correct hash_range in their configurations: what is "
            "in a gap cannot be stored, what is in an overlap is at one of the two",
        )
    if not problems:
        cover = "1 dht node covers" if len(dht) == 1 else f"{len(dht)} dht nodes cover"
        yield Check("hash ranges", "", True, f"{cover} all hashes, without gap or overlap")


def _dumps(views: Sequence[NodeView]) -> Iterator[Check]:
    for view in views:
        if view.kind == "dht" and view.state == "up":
            late = dict(view.findings).get(DUMP_RULE)
            if late:
                yield Check("dump", _name(view), False, f"{DUMP_RULE}: {late}", _MORE)
            elif view.dump_age_s is None:
                yield Check("dump", _name(view), True, "there is no dump yet")
            else:
                yield Check("dump", _name(view), True, f"the last is {view.dump_age_s / 3600:.1f} h old")


def _health(views: Sequence[NodeView]) -> Iterator[Check]:
    """All that nodes find wrong with themselves, but for what _dumps tells of."""
    for view in views:
        if view.state == "up":
            for rule, text in view.findings:
                if view.kind != "dht" or rule != DUMP_RULE:
                    yield Check("health", _name(view), False, f"{rule}: {text}", _MORE)
            if not view.findings:
                yield Check("health", _name(view), True, "the node finds nothing wrong with itself")
