"""The two hellos (docs/protocol.md §2): each is read as what it says, or refused with the reason for it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.errors import ProtocolError, SwarmError, UnsupportedVersion, WrongKind
from swarm.core.protocol import DEFAULT_LIMITS
from swarm.core.session import ClientHello, NodeHello

NODE_FACTS: dict[str, Any] = {
    "kind": "dht",
    "node": "dhtnode 0.1",
    "limits": {
        "value_bytes": 1000,
        "key_bytes": 480,
        "batch_bytes": 2000,
        "batch_records": 100,
        "streams": 7,
    },
    "compression": None,
    "authentication": [],
    "hash_range": [0, 2**64 - 1],
}

NO_HELLOS: list[Any] = [
    [None],
    [5],
    ["swarm"],
    [b"swarm"],
    [{}],
    [[]],
    [["swarm"]],
    [["swarm", 1]],
    [["swarm", 1, None]],
    [["swarm", 1, []]],
    [["swarm", 1, "facts"]],
    [["swarm", 1, {}, {}]],
    [["swarm", 1, {}], ["swarm", 1, {}]],
    [["swarm", 1, {}], [1, 1]],
    [["swarm", "1", {}]],
    [["swarm", 1.0, {}]],
    [["swarm", None, {}]],
    [["swarm", True, {}]],
    [["swarms", 1, {}]],
    [["SWARM", 1, {}]],
    [[b"swarm", 1, {}]],
    [[1, 1]],
    [[1, 16, "c", b"k", b"v"]],
    [["GET / HTTP/1.1", 1, {}]],
]

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def node_facts(**other: Any) -> dict[str, Any]:
    return NODE_FACTS | other


def without(facts: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != name}


# The client's.


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ClientHello()),
        ({"client": "x" * 128}, ClientHello(client="x" * 128)),
        ({"kind": "dht"}, ClientHello(kind="dht")),
        ({"kind": None}, ClientHello()),
        ({"compression": []}, ClientHello()),
        ({"compression": ["zstd", "lz4"]}, ClientHello(compression=("zstd", "lz4"))),
        ({"unknown": {"fact": [1]}}, ClientHello()),
    ],
    ids=str,
)
def test_a_good_client_hello(facts: dict[str, Any], expected: ClientHello) -> None:
    assert ClientHello.from_messages([["swarm", 1, facts]], "dht") == expected


def test_a_client_hello_says_what_the_client_is() -> None:
    hello = ClientHello("test 1.0", "dht", ("lz4",))
    magic, version, facts = hello.to_message()
    assert (magic, version) == ("swarm", 1)
    assert facts == {"client": "test 1.0", "kind": "dht", "compression": ("lz4",)}


@pytest.mark.parametrize("messages", NO_HELLOS, ids=str)
def test_what_is_no_client_hello(messages: Any) -> None:
    with pytest.raises(ProtocolError):
        ClientHello.from_messages(messages, "dht")


@pytest.mark.parametrize("version", [0, 2, -1, 2**64 - 1])
@pytest.mark.parametrize("more", [[], [{}], ["whatever", 5]], ids=str)
def test_another_version_from_a_client(version: int, more: list[Any]) -> None:
    """Whatever else another version may have in its hello."""
    with pytest.raises(UnsupportedVersion) as caught:
        ClientHello.from_messages([["swarm", version, *more]], "dht")
    assert caught.value.details == {"versions": [1]}


@pytest.mark.parametrize("kind", ["queue", "logfiles", "", "DHT", 5, b"dht", ["dht"], True], ids=repr)
def test_a_client_that_expects_another_kind(kind: object) -> None:
    with pytest.raises((WrongKind, ProtocolError)) as caught:
        ClientHello.from_messages([["swarm", 1, {"kind": kind}]], "dht")
    if isinstance(kind, str):
        assert type(caught.value) is WrongKind
        assert caught.value.details == {"kind": "dht"}


def test_a_kind_that_is_nested_deeply() -> None:
    kind: Any = None
    for _ in range(1000):
        kind = [kind]
    with pytest.raises((WrongKind, ProtocolError)):
        ClientHello.from_messages([["swarm", 1, {"kind": kind}]], "dht")


@pytest.mark.parametrize(
    "facts",
    [
        {"client": None},
        {"client": 5},
        {"client": b"test"},
        {"client": ["test"]},
        {"client": "x" * 129},
        {"compression": None},
        {"compression": "lz4"},
        {"compression": b"lz4"},
        {"compression": 5},
        {"compression": {"lz4": 1}},
    ],
    ids=str,
)
def test_client_facts_of_wrong_types(facts: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        ClientHello.from_messages([["swarm", 1, facts]], "dht")


@settings(max_examples=50, deadline=None)
@given(ANYTHING)
def test_arbitrary_client_hellos(value: Any) -> None:
    for messages in (
        [value],
        [["swarm", value, {}]],
        [["swarm", 1, value]],
        [["swarm", 1, {"kind": value, "compression": value}]],
        [["swarm", 1, {"client": value, "compression": [value]}]],
    ):
        try:
            hello = ClientHello.from_messages(messages, "dht")
        except SwarmError as error:
            assert error.code in (32, 33, 34)
        else:
            assert hello.kind in ("dht", None)
            assert isinstance(hello.client, str)
            assert all(isinstance(name, str) for name in hello.compression)


# The node's.


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_a_good_node_hello(compression: str | None) -> None:
    hello = NodeHello.from_messages([["swarm", 1, node_facts(compression=compression)]])
    assert hello.kind == "dht"
    assert hello.node == "dhtnode 0.1"
    assert hello.limits.to_wire() == NODE_FACTS["limits"]
    assert hello.compression == compression
    assert hello.facts["hash_range"] == [0, 2**64 - 1]


def test_a_node_hello_is_read_as_it_was_told() -> None:
    told = NodeHello("dht", "dhtnode 0.1", DEFAULT_LIMITS, "lz4", {"hash_range": [5, 10]})
    magic, version, facts = told.to_message()
    assert (magic, version) == ("swarm", 1)
    assert set(facts) == {"kind", "node", "limits", "compression", "authentication", "hash_range"}
    read = NodeHello.from_messages([[magic, version, facts]])
    assert (read.kind, read.node, read.limits, read.compression) == ("dht", "dhtnode 0.1", DEFAULT_LIMITS, "lz4")
    assert read.facts["hash_range"] == [5, 10]


def test_node_facts_that_are_not_known_are_ignored() -> None:
    limits = NODE_FACTS["limits"] | {"more": 5}
    hello = NodeHello.from_messages([["swarm", 1, node_facts(limits=limits, more=[1])]])
    assert hello.limits.to_wire() == NODE_FACTS["limits"]


@pytest.mark.parametrize("messages", NO_HELLOS, ids=str)
def test_what_is_no_node_hello(messages: Any) -> None:
    with pytest.raises(ProtocolError):
        NodeHello.from_messages(messages)


def test_another_version_from_a_node() -> None:
    with pytest.raises(UnsupportedVersion):
        NodeHello.from_messages([["swarm", 2, NODE_FACTS]])


@pytest.mark.parametrize("missing", ["kind", "node", "limits", "compression", "authentication"])
def test_node_facts_that_are_missing(missing: str) -> None:
    with pytest.raises(ProtocolError, match=missing):
        NodeHello.from_messages([["swarm", 1, without(NODE_FACTS, missing)]])


@pytest.mark.parametrize("missing", list(NODE_FACTS["limits"]))
def test_node_limits_that_are_missing(missing: str) -> None:
    with pytest.raises(ProtocolError, match=missing):
        NodeHello.from_messages([["swarm", 1, node_facts(limits=without(NODE_FACTS["limits"], missing))]])


@pytest.mark.parametrize("limits", [None, 5, "many", [], [1, 2, 3, 4, 5], {}], ids=str)
def test_node_limits_that_are_no_map(limits: object) -> None:
    with pytest.raises(ProtocolError):
        NodeHello.from_messages([["swarm", 1, node_facts(limits=limits)]])


@pytest.mark.parametrize("value", [None, "many", [], {}, float("nan"), float("inf")], ids=str)
def test_node_limits_that_are_no_numbers(value: object) -> None:
    with pytest.raises(ProtocolError):
        NodeHello.from_messages([["swarm", 1, node_facts(limits=NODE_FACTS["limits"] | {"streams": value})]])


@pytest.mark.parametrize("authentication", [None, "hmac-sha-512", [1], [None], {}, [b"hmac-sha-512"]], ids=str)
def test_what_is_no_authentication(authentication: object) -> None:
    with pytest.raises(ProtocolError, match="authentication"):
        NodeHello.from_messages([["swarm", 1, node_facts(authentication=authentication, nonce=bytes(32))]])


@pytest.mark.parametrize("nonce", [None, "x" * 32, b"", bytes(31), bytes(33), [0] * 32], ids=repr)
def test_what_is_no_nonce(nonce: object) -> None:
    with pytest.raises(ProtocolError, match="nonce"):
        NodeHello.from_messages([["swarm", 1, node_facts(authentication=["hmac-sha-512"], nonce=nonce)]])


def test_a_node_that_asks_for_authentication() -> None:
    hello = NodeHello.from_messages([["swarm", 1, node_facts(authentication=["x", "hmac-sha-512"], nonce=bytes(32))]])
    assert hello.authentication == ("x", "hmac-sha-512")
    assert hello.nonce == bytes(32)
    assert NodeHello.from_messages([["swarm", 1, node_facts(authentication=["x"])]]).authentication == ("x",)


@settings(max_examples=50, deadline=None)
@given(ANYTHING, st.sampled_from(sorted(NODE_FACTS)))
def test_arbitrary_node_hellos(value: Any, name: str) -> None:
    for messages in (
        [value],
        [["swarm", value, NODE_FACTS]],
        [["swarm", 1, value]],
        [["swarm", 1, node_facts(**{name: value})]],
        [["swarm", 1, node_facts(limits=NODE_FACTS["limits"] | {"key_bytes": value})]],
    ):
        try:
            hello = NodeHello.from_messages(messages)
        except ProtocolError:
            continue
        assert isinstance(hello.kind, str)
        assert all(type(number) is int for number in hello.limits.to_wire().values())
