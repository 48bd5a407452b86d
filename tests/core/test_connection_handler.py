"""What a node answers on one connection (docs/protocol.md §3-7): its ConnectionHandler with the test as the driver.

A request is answered by exactly one final reply, whatever is wrong with it, and the connection stays usable; what makes
the stream of messages itself unreadable ends the connection with a notice.
"""

import random
from itertools import pairwise
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import (
    BAD_ARGUMENT,
    BAD_CHANNEL,
    BAD_KEY,
    BATCH,
    BATCH_TOO_BIG,
    BEGIN_DUMP,
    CHANNEL_REMOVED,
    CHANNEL_SIZE,
    CHANNELS,
    CONFLICT,
    CREDIT,
    DONE,
    EMPTY_VALUE,
    END_DUMP,
    EVENTS,
    EXISTS,
    GET,
    GET_ALL,
    GET_ALL_KEYS,
    GET_MANY,
    HASH_RANGE,
    HEALTH,
    KIB,
    LISTEN,
    MIB,
    OUT_OF_MEMORY,
    PING,
    PROTOCOL_ERROR,
    PUT,
    PUT_MANY,
    REMOVE,
    REMOVE_CHANNEL,
    SHUTTING_DOWN,
    SIZE,
    STATS,
    STOP,
    TLS_FAILED,
    TOO_MANY_CHANNELS,
    TOO_MANY_REQUESTS,
    UNKNOWN_REQUEST,
    UNSUPPORTED_VERSION,
    UPDATE,
    VALUE_TOO_BIG,
    WRONG_KIND,
    WRONG_NODE,
    DirectConnection,
    Message,
    array,
    at_work,
    check_error,
    compressed_frame,
    frame,
    hello,
    make_dht,
    nested,
    notice_status,
    raw_frame,
)
from trio.testing import MockClock, wait_all_tasks_blocked
from xxhash import xxh3_64_intdigest

from swarm.core.errors import ShuttingDown
from swarm.core.node import Node
from swarm.core.protocol import Request
from swarm.core.stats import flatten
from swarm.dht.hash_range import HashRange

RECORD_OVERHEAD = 128
OUTPUT_MAX = MIB
LOWER_HALF = HashRange(0, 2**63 - 1)

pack: Any = msgpack.packb


def connect(**options: Any) -> DirectConnection:
    """A connection, after the hellos, to a new node. options: of make_dht."""
    return DirectConnection(make_dht(**options).service)


def keys_of_half(half: int, count: int, prefix: bytes = b"key") -> list[bytes]:
    """Keys whose hashes are in the lower (0) or upper (1) half of all."""
    keys: list[bytes] = []
    number = 0
    while len(keys) < count:
        key = b"%s-%d" % (prefix, number)
        if xxh3_64_intdigest(key) >> 63 == half:
            keys.append(key)
        number += 1
    return keys


def place(key: bytes) -> tuple[int, bytes]:
    return xxh3_64_intdigest(key), key


# Hello.


def test_the_hello_of_a_node() -> None:
    node = make_dht(hash_range=HashRange(5, 10), value_bytes=1000, streams_per_connection=3)
    magic, version, facts = DirectConnection(node.service, client="test", kind="dht").node_hello
    assert (magic, version) == ("swarm", 1)
    assert facts["kind"] == "dht"
    assert facts["node"].startswith("dhtnode ")
    assert facts["limits"] == {
        "value_bytes": 1000,
        "key_bytes": 480,
        "batch_bytes": 256 * KIB,
        "batch_records": 4096,
        "streams": 3,
    }
    assert facts["compression"] is None
    assert facts["authentication"] == []
    assert facts["hash_range"] == [5, 10]


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", TLS_FAILED),
        (b"\x00\x00\x00\x00", PROTOCOL_ERROR),
        (b"\xff\xff\xff\xff", PROTOCOL_ERROR),
        (b"\x00\x00\x10\x01", PROTOCOL_ERROR),
        (raw_frame(b"\xc1\xc1"), PROTOCOL_ERROR),
        (raw_frame(nested(1000)), PROTOCOL_ERROR),
        (raw_frame(nested(4096 - 1)), PROTOCOL_ERROR),
        (frame([1, PING]), PROTOCOL_ERROR),
        (frame(["swarm", 1, {}], [1, PING]), PROTOCOL_ERROR),
        (compressed_frame(pack([["swarm", 1, {}]])), PROTOCOL_ERROR),
        (hello(2), UNSUPPORTED_VERSION),
        (hello(kind="queue"), WRONG_KIND),
        (raw_frame(array(array(pack("swarm"), pack(1), b"\x81" + pack("kind") + nested(1000)))), WRONG_KIND),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_first_frame_that_is_refused(first: bytes, status: int) -> None:
    connection = DirectConnection(make_dht().service, greet=False)
    messages = connection.exchange(first)
    assert notice_status(messages) == status
    assert len(messages) == 1
    assert connection.closing
    assert connection.exchange(hello()) == []


def test_what_is_told_to_a_client_of_another_version_or_kind() -> None:
    service = make_dht().service
    ((_, _, (_, details)),) = DirectConnection(service, greet=False).exchange(hello(7))
    assert details == {"versions": [1]}
    ((_, _, (_, details)),) = DirectConnection(service, greet=False).exchange(hello(kind="logfiles"))
    assert details == {"kind": "dht"}


def test_requests_may_come_together_with_the_hello() -> None:
    connection = DirectConnection(make_dht().service, greet=False)
    answers = connection.exchange(hello() + frame([1, PING]) + frame([2, PING], [3, PING]))
    assert answers[0][0] == "swarm"
    assert answers[1:] == [[1, DONE, None], [2, DONE, None], [3, DONE, None]]


def test_a_hello_byte_by_byte() -> None:
    connection = DirectConnection(make_dht().service, greet=False)
    messages = [message for byte in hello() for message in connection.exchange(bytes([byte]))]
    assert [message[0] for message in messages] == ["swarm"]
    assert connection.usable()


def test_a_second_hello_is_no_request() -> None:
    connection = connect()
    assert notice_status(connection.exchange(hello())) == PROTOCOL_ERROR


# Every request.


def test_requests_of_single_records() -> None:
    connection = connect()
    assert connection.result(PING) is None
    assert connection.result(PUT, "c", b"key", b"value") is None
    assert connection.result(GET, "c", b"key") == b"value"
    assert connection.result(EXISTS, "c", b"key") is True
    assert connection.result(PUT, "c", b"key", b"other") is None
    assert connection.result(GET, "c", b"key") == b"other"
    assert connection.result(REMOVE, "c", b"key") is True
    assert connection.result(REMOVE, "c", b"key") is False
    assert connection.result(GET, "c", b"key") is None
    assert connection.result(EXISTS, "c", b"key") is False


def test_requests_of_many_records() -> None:
    connection = connect()
    assert connection.result(PUT_MANY, "c", [b"a", b"b", b"a"], [b"1", b"2", b"3"], 0) is None
    assert connection.result(PUT_MANY, "c", [], [], 0) is None
    assert connection.result(GET_MANY, "c", [b"b", b"nothing", b"a", b"b"]) == [b"2", None, b"3", b"2"]
    assert connection.result(GET_MANY, "c", [b"b", b"a"]) == [b"2", b"3"]
    assert connection.result(GET_MANY, "c", []) == []
    assert connection.result(GET_MANY, "nothing", [b"a"]) == [None]


def test_requests_about_channels_and_sizes() -> None:
    connection = connect()
    assert connection.result(CHANNELS) == []
    assert connection.result(SIZE) == [0, 0, 0]
    for channel in ("b", "a", "Z"):
        connection.result(PUT_MANY, channel, [b"k1", b"k2"], [b"one", b"two"], 0)
    connection.result(REMOVE, "Z", b"k1")
    assert connection.result(CHANNELS) == ["Z", "a", "b"]
    assert connection.result(CHANNEL_SIZE, "a") == [2, 10]
    assert connection.result(CHANNEL_SIZE, "Z") == [1, 5]
    assert connection.result(CHANNEL_SIZE, "nothing") == [0, 0]
    assert connection.result(SIZE) == [3, 5, 25]
    assert connection.result(REMOVE_CHANNEL, "a") is True
    assert connection.result(REMOVE_CHANNEL, "a") is False
    assert connection.result(SIZE) == [2, 3, 15]
    assert connection.result(HASH_RANGE) == [0, 2**64 - 1]


async def test_statistics() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        connection.result(PUT, "c", b"key", b"value")
        connection.error(GET, "c", b"")
        statistics = connection.result(STATS)
    assert statistics["records"] == 1
    assert statistics["bytes"] == 8
    assert statistics["channel"] == {"c": {"records": 1, "bytes": 8}}
    assert statistics["request"]["put"]["handled"] == 1
    assert statistics["request"]["get"]["failed"] == 1


def test_update_is_compare_and_swap() -> None:
    connection = connect()

    def update(expected: bytes | None, new: bytes | None) -> int:
        ((_, status, _),) = connection.ask([1, UPDATE, "c", b"key", expected, new])
        return int(status)

    assert update(b"old", b"new") == CONFLICT
    assert update(b"old", None) == CONFLICT
    assert update(None, None) == DONE
    assert connection.result(CHANNELS) == []
    assert update(None, b"one") == DONE
    assert update(None, b"two") == CONFLICT
    assert update(None, None) == CONFLICT
    assert update(b"one!", b"two") == CONFLICT
    assert connection.result(GET, "c", b"key") == b"one"
    assert update(b"one", b"two") == DONE
    assert update(b"one", None) == CONFLICT
    assert update(b"two", None) == DONE
    assert update(b"two", b"three") == CONFLICT
    assert connection.result(EXISTS, "c", b"key") is False


@pytest.mark.parametrize(
    "request_of_nothing",
    [
        (GET, "c", b"k"),
        (EXISTS, "c", b"k"),
        (REMOVE, "c", b"k"),
        (GET_MANY, "c", [b"k"]),
        (UPDATE, "c", b"k", None, None),
        (UPDATE, "c", b"k", b"old", b"new"),
        (CHANNEL_SIZE, "c"),
        (REMOVE_CHANNEL, "c"),
        (PUT_MANY, "c", [], [], 0),
    ],
    ids=str,
)
def test_reading_creates_no_channel(request_of_nothing: tuple[Any, ...]) -> None:
    connection = connect()
    connection.ask([1, *request_of_nothing])
    assert connection.result(CHANNELS) == []


def test_requests_of_a_frame_are_carried_out_in_order() -> None:
    connection = connect()
    replies = connection.ask(
        [5, PUT, "c", b"k", b"1"],
        [4, GET, "c", b"k"],
        [3, PUT_MANY, "c", [b"k"], [b"2"], 0],
        [2, GET, "c", b"k"],
        [1, REMOVE, "c", b"k"],
        [6, GET_MANY, "c", [b"k"]],
    )
    assert sorted(replies) == [
        [1, DONE, True],
        [2, DONE, b"2"],
        [3, DONE, None],
        [4, DONE, b"1"],
        [5, DONE, None],
        [6, DONE, [None]],
    ]


@pytest.mark.parametrize("piece", [1, 7, 1000, 10**9])
def test_many_requests_in_pieces(piece: int) -> None:
    connection = connect()
    count = 1000
    data = b"".join(
        frame([2 * number + 1, PUT, "c", b"%d" % number, b"v%d" % number], [2 * number + 2, GET, "c", b"%d" % number])
        for number in range(count)
    )
    replies: list[Message] = []
    for start in range(0, len(data), piece):
        replies += connection.exchange(data[start : start + piece])
    assert [reply[0] for reply in sorted(replies)] == list(range(1, 2 * count + 1))
    assert all(reply == [2 * n + 2, DONE, b"v%d" % n] for n, reply in enumerate(sorted(replies)[1::2]))


def test_a_frame_of_many_requests() -> None:
    connection = connect()
    count = 8192
    assert connection.ask(*([number, PING] for number in range(1, count + 1))) == [
        [number, DONE, None] for number in range(1, count + 1)
    ]


def test_one_bad_request_harms_no_other_of_its_frame() -> None:
    connection = connect(value_bytes=1000)
    replies = connection.ask(
        [1, PUT, "c", b"k", b"v"],
        [2, PUT, "c", b"k", b"v" * 1001],
        [3, 999],
        [4, GET, "../c", b"k"],
        [5, PUT_MANY, "c", [b""], [b"v"], 0],
        [6, GET],
        [7, GET, "c", b"k"],
    )
    assert {reply[0]: reply[1] for reply in replies} == {
        1: DONE,
        2: VALUE_TOO_BIG,
        3: UNKNOWN_REQUEST,
        4: BAD_CHANNEL,
        5: BAD_KEY,
        6: BAD_ARGUMENT,
        7: DONE,
    }
    assert len(replies) == 7


# Arguments of wrong types.

KEY, KEY2 = keys_of_half(0, 2)

GOOD_ARGUMENTS: dict[int, tuple[Any, ...]] = {
    PING: (),
    STATS: (),
    HEALTH: (),
    EVENTS: (),
    CHANNELS: (),
    CHANNEL_SIZE: ("c",),
    SIZE: (),
    REMOVE_CHANNEL: ("c",),
    PUT: ("c", KEY, b"value"),
    PUT_MANY: ("c", [KEY, KEY2], [b"value", b"value2"], 0),
    GET: ("c", KEY),
    GET_MANY: ("c", [KEY, KEY2]),
    EXISTS: ("c", KEY),
    REMOVE: ("c", KEY),
    UPDATE: ("c", KEY, b"value", b"new"),
    GET_ALL: ("c", b"", b"", b"", 1),
    GET_ALL_KEYS: ("c", b"", b"", b"", 1),
    HASH_RANGE: (),
    LISTEN: ("c", b"", False, 1),
    BEGIN_DUMP: (),
    END_DUMP: (1,),
}

SUBSTITUTES: list[Any] = [
    None,
    False,
    True,
    0,
    7,
    -1,
    65,
    2**64 - 1,
    -(2**63),
    0.0,
    1.0,
    float("nan"),
    b"",
    b"bytes",
    "",
    "text",
    [],
    [b"key"],
    ["text", 5],
    [[[]]],
    {},
    {"a": 1},
    msgpack.ExtType(5, b"data"),
    msgpack.Timestamp(1, 1),
]

ELEMENTS: list[Any] = [None, True, 7, 2**64 - 1, 1.5, "text", "", [], [b"key"], {}, msgpack.ExtType(5, b"key")]


def is_right(parameter: str, value: Any) -> bool:
    """Whether the document allows this value, of SUBSTITUTES, for a parameter of this name."""
    kind = type(value)
    match parameter:
        case "channel":
            return kind is str and value != ""
        case "key":
            return kind is bytes and value != b""
        case "value":
            return kind is bytes and value != b""
        case "expected" | "new":
            return value is None or (kind is bytes and value != b"")
        case "keys" | "values":
            return kind is list and all(type(element) is bytes and element for element in value)
        case "reserve":
            return value is None or (kind is int and value >= 0)
        case "after":
            return kind is bytes and value == b""
        case "key prefix" | "substring":
            return kind is bytes
        case "refresh":
            return kind is bool
        case "credit":
            return kind is int and 1 <= value <= 64
        case "segment":
            return kind is int and value >= 1
    raise AssertionError(f"the test does not know the parameter {parameter}")


STATUS_OF_WRONG = {"channel": {BAD_CHANNEL}, "key": {BAD_KEY}, "keys": {BAD_KEY, BAD_ARGUMENT}}
FOR_VALUES = {BAD_ARGUMENT, EMPTY_VALUE}

REQUESTS = [handler.request for handler in make_dht().service.handlers.values()]
POSITIONS = [
    pytest.param(request, position, id=f"{request.name}, {parameter.name}")
    for request in REQUESTS
    for position, parameter in enumerate(request.parameters)
]


def test_the_test_knows_every_request() -> None:
    assert {request.code for request in REQUESTS} == set(GOOD_ARGUMENTS)
    assert all(len(GOOD_ARGUMENTS[request.code]) == len(request.parameters) for request in REQUESTS)


def check_refused(
    connection: DirectConnection, request: Request, arguments: list[Any], statuses: set[int], position: int | None
) -> None:
    before = connection.result(SIZE)
    status, details = connection.error(request.code, *arguments)
    assert status in statuses, arguments
    if status == BAD_ARGUMENT and position is not None:
        assert details.get("position") == position, arguments
    assert connection.result(SIZE) == before


def nodes_to_refuse() -> list[Node]:
    """Whether there is a record, a channel, or nothing is no reason to be less strict."""
    nodes = [make_dht(), make_dht(), make_dht(hash_range=LOWER_HALF)]
    for node, key in zip(nodes, (KEY, b"other", KEY), strict=True):
        DirectConnection(node.service).result(PUT, "c", key, b"value")
    return [*nodes, make_dht()]


@pytest.mark.parametrize(("request_", "position"), POSITIONS)
async def test_wrong_types_in_every_position(request_: Request, position: int) -> None:
    name = request_.parameters[position].name
    nodes = nodes_to_refuse()
    async with at_work(*nodes):
        for node in nodes:
            connection = DirectConnection(node.service)
            for value in SUBSTITUTES:
                if is_right(name, value):
                    continue
                arguments = list(GOOD_ARGUMENTS[request_.code])
                arguments[position] = value
                statuses = STATUS_OF_WRONG.get(name, FOR_VALUES)
                check_refused(connection, request_, arguments, statuses, position if type(value) is not list else None)


@pytest.mark.parametrize(("code", "position"), [(PUT_MANY, 1), (PUT_MANY, 2), (GET_MANY, 1)])
def test_wrong_types_among_keys_and_values(code: int, position: int) -> None:
    (request,) = (each for each in REQUESTS if each.code == code)
    for node in nodes_to_refuse():
        connection = DirectConnection(node.service)
        for element in ELEMENTS:
            arguments = list(GOOD_ARGUMENTS[code])
            arguments[position] = [arguments[position][0], element]
            check_refused(connection, request, arguments, {BAD_KEY} if position == 1 else {BAD_ARGUMENT}, None)


@pytest.mark.parametrize(("request_", "position"), POSITIONS)
@pytest.mark.parametrize("depth", [300, 1000, 1020])
async def test_deep_nesting_in_every_position(request_: Request, position: int, depth: int) -> None:
    """Nothing that describes an argument may go down with it."""
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        parts = [pack(argument) for argument in GOOD_ARGUMENTS[request_.code]]
        parts[position] = nested(depth)
        body = array(array(pack(1), pack(request_.code), *parts))
        ((request_id, status, result),) = connection.exchange(raw_frame(body))
        check_error(request_id, status, result)
        assert status in (BAD_ARGUMENT, BAD_CHANNEL, BAD_KEY)
        assert connection.usable()


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
async def test_wrong_numbers_of_arguments(request_: Request) -> None:
    good = GOOD_ARGUMENTS[request_.code]
    nodes = nodes_to_refuse()
    async with at_work(*nodes):
        for node in nodes:
            connection = DirectConnection(node.service)
            for arguments in (*(good[:count] for count in range(len(good))), (*good, None), (*good, *good, 5, [])):
                check_refused(connection, request_, list(arguments), {BAD_ARGUMENT}, None)


@pytest.mark.parametrize(
    "code",
    [0, 9, 15, 31, 255, 2**64 - 1, -1, -(2**63), None, "get", "", b"\x12", 1.5, {"a": 1}, [], [18]],
    ids=repr,
)
def test_unknown_requests(code: object) -> None:
    connection = connect()
    for arguments in ((), ("c", b"key"), (None,) * 100):
        assert connection.error(code, *arguments)[0] == UNKNOWN_REQUEST  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [True, 1.0], ids=repr)
def test_a_code_is_an_integer(code: object) -> None:
    """True and 1.0 equal 1, ping's code, in Python; on the wire they are something else."""
    assert connect().error(code)[0] == UNKNOWN_REQUEST  # type: ignore[arg-type]


def test_an_unknown_request_whose_code_is_nested_deeply() -> None:
    connection = connect()
    ((request_id, status, result),) = connection.exchange(raw_frame(array(array(pack(1), nested(1000)))))
    check_error(request_id, status, result)
    assert status == UNKNOWN_REQUEST


# Messages that end the connection.

NO_REQUESTS: list[Message] = [
    None,
    True,
    5,
    1.5,
    "text",
    b"",
    b"\x05\x01",
    b"\x05\x12\x01\x01",
    {},
    {"a": 1, "b": 2},
    msgpack.ExtType(5, b"\x05\x01"),
    [],
    [5],
]


def check_protocol_error(connection: DirectConnection, *messages: Message) -> None:
    assert notice_status(connection.ask(*messages)) == PROTOCOL_ERROR
    assert connection.closing
    assert connection.exchange(frame([1, PING])) == []


@pytest.mark.parametrize("message", NO_REQUESTS, ids=repr)
def test_what_is_no_message(message: Message) -> None:
    check_protocol_error(connect(), message)


@pytest.mark.parametrize(
    "request_id", [0, -1, -(2**63), 2**32, 2**64 - 1, "1", b"1", True, False, 1.0, None, [], [1], {}], ids=repr
)
@pytest.mark.parametrize("code", [PING, PUT_MANY, GET_ALL, CREDIT, STOP, 999])
def test_ids_out_of_bounds(request_id: object, code: int) -> None:
    check_protocol_error(connect(), [request_id, code, *GOOD_ARGUMENTS.get(code, ())])


def test_the_smallest_and_the_largest_id() -> None:
    assert connect().ask([1, PING], [2**32 - 1, PING]) == [[1, DONE, None], [2**32 - 1, DONE, None]]


@pytest.mark.parametrize("depth", [300, 1000, 1020])
def test_messages_that_are_nested_deeply(depth: int) -> None:
    for message in (nested(depth), array(pack(0), pack(1), nested(depth)), array(nested(depth), pack(1))):
        connection = connect()
        assert notice_status(connection.exchange(raw_frame(array(message)))) == PROTOCOL_ERROR


def test_what_came_before_the_damage_is_answered() -> None:
    connection = connect()
    replies = connection.ask([1, PUT, "c", b"k", b"v"], [2, GET, "c", b"k"], None, [3, REMOVE, "c", b"k"])
    assert replies[:2] == [[1, DONE, None], [2, DONE, b"v"]]
    assert notice_status(replies) == PROTOCOL_ERROR
    assert len(replies) == 3


def test_damage_in_a_later_frame() -> None:
    connection = connect()
    replies = connection.exchange(frame([1, PING]) + raw_frame(b"\xc1") + frame([2, PING]))
    assert replies[0] == [1, DONE, None]
    assert notice_status(replies) == PROTOCOL_ERROR
    assert len(replies) == 2


@pytest.mark.parametrize("length", [0, 33 * MIB + 1, 2**31, 2**32 - 1])
def test_a_frame_that_announces_too_much_after_the_hello(length: int) -> None:
    assert notice_status(connect().exchange(length.to_bytes(4, "big"))) == PROTOCOL_ERROR


def test_a_notice_is_short_whatever_it_is_about() -> None:
    connection = connect()
    (notice,) = connection.ask([0, PUT, "c", b"k", b"v" * MIB])
    assert len(str(notice)) < 1000


# Bounds of keys, values, channels, batches.


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("length", [0, 1, 480, 481, 100_000])
def test_lengths_of_keys(length: int, existing: bool) -> None:
    connection = connect()
    if existing:
        connection.result(PUT, "c", b"key", b"value")
    key = b"x" * length
    for code, *arguments in (
        [PUT, "c", key, b"v"],
        [GET, "c", key],
        [EXISTS, "c", key],
        [PUT_MANY, "c", [b"k", key], [b"v", b"v"], 0],
        [GET_MANY, "c", [b"k", key]],
        [UPDATE, "c", key, b"v", b"w"],
        [REMOVE, "c", key],
    ):
        if 1 <= length <= 480:
            connection.result(code, *arguments)
        else:
            status, details = connection.error(code, *arguments)
            assert status == BAD_KEY
            assert key.startswith(details["key"])
            assert bool(details["key"]) == bool(key)


@pytest.mark.parametrize("length", [0, 481, 100_000])
def test_a_bad_key_is_that_on_a_node_of_a_part_of_the_range_too(length: int) -> None:
    """Every key that the node could be asked for, whether its hash is in the range or not."""
    connection = connect(hash_range=LOWER_HALF)
    connection.result(PUT, "c", keys_of_half(0, 1)[0], b"value")
    for byte in b"abcdefgh":
        for channel in ("c", "nothing"):
            for code in (GET, EXISTS, REMOVE):
                assert connection.error(code, channel, bytes([byte]) * length)[0] == BAD_KEY
            assert connection.error(PUT, channel, bytes([byte]) * length, b"v")[0] == BAD_KEY
            assert connection.error(GET_MANY, channel, [bytes([byte]) * length])[0] == BAD_KEY


VALUE_BYTES = 1000


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("length", [0, 1, VALUE_BYTES, VALUE_BYTES + 1])
def test_lengths_of_values(length: int, existing: bool) -> None:
    connection = connect(value_bytes=VALUE_BYTES)
    if existing:
        connection.result(PUT, "c", b"key", b"old")
    value = b"x" * length
    for code, *arguments in (
        [PUT, "c", b"key", value],
        [PUT_MANY, "c", [b"other", b"key"], [b"v", value], 0],
        [UPDATE, "c", b"key", value, b"w"],
        [UPDATE, "c", b"key", b"w", value],
    ):
        if 1 <= length <= VALUE_BYTES:
            connection.result(code, *arguments)
            continue
        status, details = connection.error(code, *arguments)
        assert status == (VALUE_TOO_BIG if length else EMPTY_VALUE)
        if length:
            assert details["limit"] == VALUE_BYTES
        if code == PUT_MANY:
            assert details["key"] == b"key"


def test_values_of_the_default_limit() -> None:
    connection = connect()
    largest = bytes(16 * MIB)
    assert connection.node_hello[2]["limits"]["value_bytes"] == len(largest)
    connection.result(PUT, "c", b"k", largest)
    assert connection.result(GET, "c", b"k") == largest
    connection.result(UPDATE, "c", b"k", largest, largest)
    assert connection.error(PUT, "c", b"k", largest + b"x")[0] == VALUE_TOO_BIG


REQUESTS_WITH_CHANNEL = [request for request in REQUESTS if any(each.name == "channel" for each in request.parameters)]
BAD_NAMES = [
    "",
    "../x",
    "a/b",
    "@x",
    ".",
    "..",
    "a.b",
    "x" * 129,
    "x" * 100_000,
    "ä",
    "１",
    "a\0",
    "\0",
    "a\n",
    "a ",
    " a",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("request_", REQUESTS_WITH_CHANNEL, ids=lambda request: request.name)
async def test_bad_channel_names(request_: Request, name: str) -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        connection.result(PUT, "c", b"key", b"value")
        assert connection.error(request_.code, name, *GOOD_ARGUMENTS[request_.code][1:])[0] == BAD_CHANNEL
        assert connection.result(CHANNELS) == ["c"]


@pytest.mark.parametrize("name", ["x", "x" * 128, "-", "_", "--help", "0", "azAZ09_-"], ids=lambda name: name[:10])
async def test_good_channel_names(name: str) -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        for request in REQUESTS_WITH_CHANNEL:
            connection.result(PUT, name, KEY, b"value")
            replies = connection.ask([1, request.code, name, *GOOD_ARGUMENTS[request.code][1:]])
            replies += await settled(connection)
            assert replies[0][1] in (DONE, BATCH)
            connection.ask([1, STOP])
            await settled(connection)


def test_batches_at_and_past_the_most_records() -> None:
    connection = connect()
    keys = [b"%d" % number for number in range(8192)]
    values = [b"v"] * 8192
    for code, *arguments in ([PUT_MANY, "c", keys, values, 0], [GET_MANY, "c", keys], [GET_MANY, "nothing", keys]):
        status, details = connection.error(code, *arguments)
        assert status == BATCH_TOO_BIG
        assert details == {"position": 1, "limit": 4096} or details == {"limit": 4096}
    assert connection.result(SIZE) == [0, 0, 0]
    connection.result(PUT_MANY, "c", keys[:4096], values[:4096], 0)
    assert connection.result(GET_MANY, "c", keys[:4096]) == values[:4096]
    assert connection.error(GET_MANY, "c", keys)[0] == BATCH_TOO_BIG


def test_a_get_many_ends_after_the_value_that_passes_4_mib() -> None:
    connection = connect()
    keys = [b"%d" % number for number in range(8)]
    for key in keys:
        connection.result(PUT, "c", key, bytes(MIB))
    connection.result(PUT, "c", b"huge", bytes(5 * MIB))
    assert len(connection.result(GET_MANY, "c", keys)) == 5
    assert len(connection.result(GET_MANY, "c", keys[:5])) == 5
    assert len(connection.result(GET_MANY, "c", [b"huge", *keys])) == 1
    assert connection.result(GET_MANY, "c", [b"nothing", b"huge", b"nothing"]) == [None, bytes(5 * MIB)]


def test_too_many_channels() -> None:
    connection = connect(channels_max=2)
    connection.result(PUT, "a", b"k", b"v")
    connection.result(PUT, "b", b"k", b"v")
    for code, *arguments in (
        [PUT, "c", b"k", b"v"],
        [PUT_MANY, "c", [b"k"], [b"v"], 0],
        [UPDATE, "c", b"k", None, b"v"],
    ):
        assert connection.error(code, *arguments) == (TOO_MANY_CHANNELS, {"limit": 2})
    assert connection.result(GET, "c", b"k") is None
    assert connection.result(PUT, "b", b"k", b"w") is None
    connection.result(REMOVE_CHANNEL, "a")
    assert connection.result(PUT, "c", b"k", b"v") is None


# Another node's hashes.


@pytest.mark.parametrize("existing", [False, True])
def test_keys_of_another_node(existing: bool) -> None:
    connection = connect(hash_range=LOWER_HALF)
    (mine,) = keys_of_half(0, 1)
    (other,) = keys_of_half(1, 1)
    if existing:
        connection.result(PUT, "c", mine, b"v")
    for code, *arguments in (
        [PUT, "c", other, b"v"],
        [GET, "c", other],
        [EXISTS, "c", other],
        [REMOVE, "c", other],
        [UPDATE, "c", other, None, b"v"],
        [UPDATE, "c", other, None, None],
        [PUT_MANY, "c", [mine, other], [b"v", b"v"], 0],
        [GET_MANY, "c", [mine, other]],
        [GET_MANY, "c", [other]],
    ):
        status, details = connection.error(code, *arguments)
        assert status == WRONG_NODE
        assert details == {"key": other, "hash_range": [0, 2**63 - 1]}
    assert connection.result(CHANNELS) == (["c"] if existing else [])


# put many is all or nothing.


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("keys", "values", "status", "offender"),
    [
        ([b"a", b""], [b"1", b"2"], BAD_KEY, b""),
        ([b"a", b"x" * 481], [b"1", b"2"], BAD_KEY, b"x"),
        ([b"a", 5], [b"1", b"2"], BAD_KEY, None),
        ([b"a", "b"], [b"1", b"2"], BAD_KEY, None),
        ([b"a", b"b"], [b"1", b""], EMPTY_VALUE, b"b"),
        ([b"a", b"b"], [b"", b"2"], EMPTY_VALUE, b"a"),
        ([b"a", b"b"], [b"1", b"2" * (VALUE_BYTES + 1)], VALUE_TOO_BIG, b"b"),
        ([b"a", b"b"], [b"1", 2], BAD_ARGUMENT, b"b"),
        ([b"a", b"b"], [b"1", "2"], BAD_ARGUMENT, b"b"),
        ([b"a", b"b"], [b"1"], BAD_ARGUMENT, None),
        ([b"a"], [b"1", b"2"], BAD_ARGUMENT, None),
        ([], [b"1"], BAD_ARGUMENT, None),
        ([b"a"], [], BAD_ARGUMENT, None),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_put_many_with_an_offence_stores_nothing(
    keys: list[Any], values: list[Any], status: int, offender: bytes | None, existing: bool
) -> None:
    connection = connect(value_bytes=VALUE_BYTES)
    if existing:
        connection.result(PUT, "c", b"a", b"old")
    before = connection.result(SIZE), connection.result(GET, "c", b"a")
    told, details = connection.error(PUT_MANY, "c", keys, values, 0)
    assert told == status
    if offender is not None:
        assert details["key"][:1] == offender
    assert (connection.result(SIZE), connection.result(GET, "c", b"a")) == before


def test_put_many_with_a_key_of_another_node_stores_nothing() -> None:
    mine, other = keys_of_half(0, 50), keys_of_half(1, 1)
    for existing in (False, True):
        connection = connect(hash_range=LOWER_HALF)
        if existing:
            connection.result(PUT, "c", b"k", b"old") if place(b"k")[0] < 2**63 else connection.result(
                PUT, "c", mine[0], b"old"
            )
        before = connection.result(SIZE)
        status, details = connection.error(PUT_MANY, "c", [*mine, *other, *mine], [b"v"] * 101, 0)
        assert status == WRONG_NODE
        assert details["key"] == other[0]
        assert connection.result(SIZE) == before


# Memory.


def test_out_of_memory() -> None:
    record = 10 + 1000 + RECORD_OVERHEAD
    node = make_dht(memory_limit=3 * record)
    connection = DirectConnection(node.service)
    for number in range(3):
        connection.result(PUT, "c", b"key-%06d" % number, bytes(1000))
    for code, *arguments in (
        [PUT, "c", b"k", b"v"],
        [PUT, "c", b"key-000000", bytes(1001)],
        [PUT_MANY, "c", [b"k"], [b"v"], 0],
        [UPDATE, "c", b"k", None, b"v"],
    ):
        assert connection.error(code, *arguments) == (OUT_OF_MEMORY, {"limit": 3 * record})
    assert connection.result(GET, "c", b"key-000000") == bytes(1000)
    assert connection.result(PUT, "c", b"key-000000", bytes(1000)) is None
    assert connection.result(PUT, "c", b"key-000000", bytes(900)) is None
    assert connection.error(PUT, "c", b"k", b"v")[0] == OUT_OF_MEMORY
    assert connection.result(REMOVE, "c", b"key-000001") is True
    assert connection.result(PUT, "c", b"k", b"v") is None
    assert connection.result(REMOVE_CHANNEL, "c") is True
    assert node.budget.used == 0


def test_put_many_without_memory_stores_nothing() -> None:
    connection = connect(memory_limit=10_000)
    connection.result(PUT, "c", b"a", b"old")
    before = connection.result(SIZE)
    assert connection.error(PUT_MANY, "c", [b"a", b"b", b"c"], [b"1", b"2", bytes(10_000)], 0)[0] == OUT_OF_MEMORY
    assert connection.result(SIZE) == before
    assert connection.result(GET, "c", b"a") == b"old"


@pytest.mark.parametrize(
    "write",
    [
        (PUT, "new", b"k", bytes(10_000)),
        (PUT_MANY, "new", [b"k"], [bytes(10_000)], 0),
        (PUT_MANY, "new", [b"k"], [b"v"], 10_000),
        (UPDATE, "new", b"k", None, bytes(10_000)),
    ],
    ids=["put", "put many", "put many with reserve", "update"],
)
def test_a_write_that_is_refused_creates_no_channel(write: tuple[Any, ...]) -> None:
    connection = connect(memory_limit=10_000)
    assert connection.error(*write)[0] == OUT_OF_MEMORY
    assert connection.result(CHANNELS) == []


# A batch in parts, with memory reserved.

LIMIT = 100_000


def part(number: int, size: int = 10_000) -> tuple[str, list[bytes], list[bytes]]:
    return "c", [b"part-%d" % number], [bytes(size)]


def memory_of(size: int = 10_000) -> int:
    return len(b"part-0") + size + RECORD_OVERHEAD


def test_parts_of_a_batch_are_not_refused_after_the_first() -> None:
    node = make_dht(memory_limit=LIMIT)
    connection, other = DirectConnection(node.service), DirectConnection(node.service)
    connection.result(PUT_MANY, *part(0), 4 * memory_of())
    assert node.budget.used == 5 * memory_of()
    while other.ask([1, PUT, "c", random.randbytes(20), bytes(1000)])[0][1] == DONE:
        pass
    for number in range(1, 5):
        connection.result(PUT_MANY, *part(number), None)
    assert other.error(PUT_MANY, *part(5), 0)[0] == OUT_OF_MEMORY
    connection.handler.end()
    _, records, record_bytes = other.result(SIZE)
    assert node.budget.used == record_bytes + RECORD_OVERHEAD * records


def test_the_first_part_is_refused_when_all_do_not_fit() -> None:
    node = make_dht(memory_limit=LIMIT)
    connection = DirectConnection(node.service)
    connection.result(PUT, "other", b"k", bytes(50_000))
    used = node.budget.used
    for reserve in (LIMIT - used - memory_of() + 1, LIMIT, LIMIT + 1, 2**64 - 1):
        assert connection.error(PUT_MANY, *part(0), reserve) == (OUT_OF_MEMORY, {"limit": LIMIT})
        assert node.budget.used == used
        assert connection.result(SIZE)[0] == 1
    connection.result(PUT_MANY, *part(0), LIMIT - used - memory_of())
    assert node.budget.used == LIMIT


def test_the_end_of_the_connection_releases_what_was_reserved() -> None:
    node = make_dht(memory_limit=LIMIT)
    connection = DirectConnection(node.service)
    connection.result(PUT_MANY, *part(0), 30_000)
    connection.result(PUT_MANY, *part(1), 20_000)
    connection.result(PUT_MANY, *part(2), None)
    assert node.budget.used == 2 * memory_of() + 50_000
    connection.handler.end()
    assert node.budget.used == 3 * memory_of()
    connection.handler.end()
    assert node.budget.used == 3 * memory_of()


def test_what_is_reserved_is_not_given_back_twice() -> None:
    node = make_dht(memory_limit=LIMIT)
    connection = DirectConnection(node.service)
    connection.result(PUT_MANY, *part(0), memory_of())
    for number in range(1, 4):
        connection.result(PUT_MANY, *part(number), None)
        assert node.budget.used == max(2, number + 1) * memory_of()
    connection.handler.end()
    assert node.budget.used == 4 * memory_of()


def test_reserving_is_not_mixed_up_between_connections() -> None:
    node = make_dht(memory_limit=LIMIT)
    one, two = DirectConnection(node.service), DirectConnection(node.service)
    one.result(PUT_MANY, *part(0), 50_000)
    two.result(PUT_MANY, *part(1), None)
    assert node.budget.used == 2 * memory_of() + 50_000
    two.handler.end()
    assert node.budget.used == 2 * memory_of() + 50_000
    one.handler.end()
    assert node.budget.used == 2 * memory_of()


def test_all_that_is_reserved_is_half_of_the_limit_at_most() -> None:
    node = make_dht(memory_limit=LIMIT)
    one, two = DirectConnection(node.service), DirectConnection(node.service)
    one.result(PUT_MANY, *part(0), 30_000)
    two.result(PUT_MANY, *part(1), 10_000)
    assert node.budget.reserved == 40_000
    for reserve in (10_001, 40_000):
        assert one.error(PUT_MANY, *part(2), reserve) == (OUT_OF_MEMORY, {"limit": LIMIT})
        assert node.budget.reserved == 40_000
        assert node.budget.used == 40_000 + 2 * memory_of()
    two.result(PUT_MANY, *part(2), 10_000)
    assert node.budget.reserved == LIMIT // 2
    one.handler.end()
    assert node.budget.reserved == 20_000
    one = DirectConnection(node.service)
    one.result(PUT_MANY, *part(3), 30_000)
    for connection in (one, two):
        connection.handler.end()
    assert (node.budget.reserved, node.budget.used) == (0, 4 * memory_of())


async def test_what_is_reserved_and_not_used_is_free_after_a_time(autojump_clock: MockClock) -> None:
    node = make_dht(memory_limit=LIMIT)
    async with at_work(node):
        idle, busy = DirectConnection(node.service), DirectConnection(node.service)
        idle.result(PUT_MANY, *part(0), 10_000)
        busy.result(PUT_MANY, *part(1), 3 * memory_of())
        for number in range(2, 5):
            await trio.sleep(59)
            assert node.budget.reserved == (10_000 if number < 4 else 0) + (5 - number) * memory_of()
            assert busy.result(STATS)["memory_reserved"] == node.budget.reserved
            busy.result(PUT_MANY, *part(number), None)
        assert (node.budget.reserved, node.budget.used) == (0, 5 * memory_of())
        idle.result(PUT_MANY, *part(5), None)  # late: it is a batch like others
        idle.result(PUT_MANY, *part(6), 5_000)
        assert (node.budget.reserved, node.budget.used) == (5_000, 7 * memory_of() + 5_000)
        idle.handler.end()
        assert (node.budget.reserved, node.budget.used) == (0, 7 * memory_of())


def test_a_part_that_is_refused_reserves_nothing() -> None:
    node = make_dht(memory_limit=LIMIT, hash_range=LOWER_HALF, value_bytes=VALUE_BYTES)
    connection = DirectConnection(node.service)
    mine, other = keys_of_half(0, 1), keys_of_half(1, 1)
    connection.result(PUT_MANY, "c", mine, [b"v"], 0)
    before = node.budget.used
    for channel in ("c", "new"):
        connection.error(PUT_MANY, channel, other, [b"v"], 1000)
        connection.error(PUT_MANY, channel, mine, [b""], 1000)
        connection.error(PUT_MANY, channel, mine, [b"v" * 1001], 1000)
        connection.error(PUT_MANY, channel, [5], [b"v"], 1000)
    assert node.budget.used == before


# Frames that have not come completely.


def test_half_frames_of_all_connections_have_a_bound() -> None:
    node = make_dht()
    service = node.service
    service.unfinished_bytes_max = MIB
    request = frame([1, PUT, "c", b"key", bytes(600 * KIB)])
    small = frame([1, PUT, "c", b"small", bytes(10 * KIB)])
    one, two, three = (DirectConnection(service) for _ in range(3))
    one.give(request[: 500 * KIB])
    two.give(request[: 400 * KIB])
    assert service.unfinished_bytes == 900 * KIB
    three.give(request[: 100 * KIB])
    three.give(request[100 * KIB : 124 * KIB])
    assert (one.closing, two.closing, three.closing) == (False, False, False)
    ((_, status, (_, details)),) = two.exchange(request[400 * KIB : 401 * KIB])
    assert (status, details) == (OUT_OF_MEMORY, {"limit": MIB})
    assert two.closing
    assert two.exchange(request[401 * KIB :]) == []
    assert service.unfinished_bytes == 624 * KIB
    assert one.exchange(request[500 * KIB :]) == [[1, DONE, None]]
    assert three.exchange(request[124 * KIB :]) == [[1, DONE, None]]
    assert service.unfinished_bytes == 0

    one.give(request[: 600 * KIB])
    two = DirectConnection(service)
    assert two.exchange(request[: 599 * KIB])[0][1] == OUT_OF_MEMORY
    three.give(request[: 420 * KIB])
    two = DirectConnection(service)
    for start in range(0, len(small), KIB):  # little is never too much
        two.give(small[start : start + KIB])
    assert two.take() == [[1, DONE, None]]
    one.handler.end_of_input()
    assert service.unfinished_bytes == 420 * KIB
    three.handler.end()
    assert service.unfinished_bytes == 0
    assert service.protocol_errors == 0


def test_how_much_half_frames_may_take() -> None:
    for memory_limit, most in ((MIB, 66 * MIB), (16 * 67 * MIB, 67 * MIB), (2**40, 2**36)):
        assert make_dht(memory_limit=memory_limit).service.unfinished_bytes_max == most


async def test_half_frames_are_told_in_the_statistics() -> None:
    node = make_dht()
    async with at_work(node):
        halting, other = DirectConnection(node.service), DirectConnection(node.service)
        halting.give(frame([1, PUT, "c", b"key", bytes(1000)])[:777])
        assert other.result(STATS)["unfinished_bytes"] == 777


# A line of stats.log.


async def test_a_line_of_statistics_is_made_in_short_steps() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        for number in range(1000):
            connection.result(PUT, f"channel-{number}", b"key", b"value")
        parts = list(node._stats_line())
        assert max(part.count(".records:") for part in parts) <= 128
        told = dict(figure.rsplit(":", 1) for figure in " ".join(parts).split(" "))
        expected = flatten(node.statistics())
        assert list(told) == list(expected)
        assert told["channel.channel-999.bytes"] == "8"
        assert told["records"] == "1000"


# Streams.


def fill(connection: DirectConnection, count: int, size: int = 100) -> dict[bytes, bytes]:
    """Puts some records; each of more than 256 KiB is a batch of its own."""
    records = {b"key-%d" % number: b"%d" % number + bytes(size) for number in range(count)}
    for key, value in records.items():
        connection.result(PUT, "c", key, value)
    return records


async def settled(connection: DirectConnection) -> list[Message]:
    """What the node sends until it waits for the client."""
    messages: list[Message] = []
    while True:
        await wait_all_tasks_blocked()
        more = connection.take()
        if not more:
            return messages
        messages += more


async def stream(connection: DirectConnection, *request: Any, request_id: int = 5) -> list[Message]:
    """All replies to a request that streams, granting credit until it ends."""
    messages = connection.ask([request_id, *request]) + await settled(connection)
    while messages[-1][1] == BATCH:
        messages += connection.ask([request_id, CREDIT, 1]) + await settled(connection)
    assert [message[0] for message in messages] == [request_id] * len(messages)
    assert [message[1] for message in messages[:-1]] == [BATCH] * (len(messages) - 1)
    return messages


LARGE = 257 * KIB


async def test_get_all() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        records = fill(connection, 5000)
        *batches, final = await stream(connection, GET_ALL, "c", b"", b"", b"", 1)
        assert final == [5, DONE, "end"]
        assert len(batches) > 1
        found = [(key, value) for _, _, (_, keys, values) in batches for key, value in zip(keys, values, strict=True)]
        assert len(found) == len(records)
        assert dict(found) == records
        for (_, _, (cursor, _, _)), (_, _, (_, keys, _)) in pairwise(batches):
            assert type(cursor) is bytes
            assert all(cursor < key_hash.to_bytes(8, "big") + key for key_hash, key in map(place, keys))


async def test_get_all_keys() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        records = fill(connection, 5000)
        *batches, final = await stream(connection, GET_ALL_KEYS, "c", b"", b"", b"", 1)
        assert final == [5, DONE, "end"]
        assert sorted(key for _, _, (_, keys) in batches for key in keys) == sorted(records)


async def test_get_all_goes_on_behind_a_cursor() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        records = fill(connection, 5, LARGE)
        *batches, _ = await stream(connection, GET_ALL, "c", b"", b"", b"", 1)
        in_order = sorted(records, key=place)
        assert [key for _, _, (_, keys, _) in batches for key in keys] == in_order
        for _, _, (cursor, keys, _) in batches:
            *rest, final = await stream(connection, GET_ALL_KEYS, "c", cursor, b"", b"", 64)
            assert final == [5, DONE, "end"]
            behind = in_order[in_order.index(keys[-1]) + 1 :] if keys else []
            assert [key for _, _, (_, more) in rest for key in more] == behind


async def test_get_all_with_filters() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        connection.result(PUT_MANY, "c", [b"aa", b"ab", b"ba"], [b"-one-", b"-two-", b"-one-"], 0)

        async def keys(prefix: bytes, substring: bytes) -> set[bytes]:
            *batches, final = await stream(connection, GET_ALL_KEYS, "c", b"", prefix, substring, 1)
            assert final == [5, DONE, "end"]
            return {key for _, _, (_, keys) in batches for key in keys}

        assert await keys(b"a", b"") == {b"aa", b"ab"}
        assert await keys(b"", b"one") == {b"aa", b"ba"}
        assert await keys(b"a", b"one") == {b"aa"}
        assert await keys(b"x", b"") == set()


@pytest.mark.parametrize("after", [b"x", b"x" * 7, b"x" * 489, b"x" * 10_000], ids=len)
async def test_a_cursor_of_a_wrong_length(after: bytes) -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        assert connection.error(GET_ALL, "c", after, b"", b"", 1) == (BAD_ARGUMENT, {"position": 1})


@pytest.mark.parametrize("after", [b"\0" * 8, b"\xff" * 8, b"\xff" * 488, b"\x80" + b"\0" * 300])
async def test_a_cursor_that_no_batch_has_told(after: bytes) -> None:
    for options in ({}, {"hash_range": LOWER_HALF}, {"hash_range": HashRange(2**63, 2**64 - 1)}):
        node = make_dht(**options)  # type: ignore[arg-type]
        async with at_work(node):
            connection = DirectConnection(node.service)
            for key in keys_of_half(0, 50) + keys_of_half(1, 50):
                connection.ask([1, PUT, "c", key, b"v"])
            *_, final = await stream(connection, GET_ALL, "c", after, b"", b"", 1)
            assert final == [5, DONE, "end"]


async def test_a_channel_that_does_not_exist_has_no_records() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        *batches, final = await stream(connection, GET_ALL, "c", b"", b"", b"", 1)
        assert final == [5, DONE, "end"]
        assert not any(keys for _, _, (_, keys, _) in batches)
        assert connection.result(CHANNELS) == []


async def test_no_batch_without_credit() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 10, LARGE)
        assert len(connection.ask([5, GET_ALL, "c", b"", b"", b"", 2]) + await settled(connection)) == 2
        assert connection.usable()
        assert await settled(connection) == []
        for credit in (1, 3):
            connection.ask([5, CREDIT, credit])
            assert [message[1] for message in await settled(connection)] == [BATCH] * credit
        connection.ask([5, CREDIT, 64])
        messages = await settled(connection)
        assert messages[-1] == [5, DONE, "end"]
        assert sum(len(message[2][1]) for message in messages[:-1]) == 10 - 6


@pytest.mark.parametrize("grants", [[64, 64], [65], [1000], [2**64 - 1], [60, 60]], ids=str)
async def test_credit_is_cut_at_64(grants: list[int]) -> None:
    node = make_dht(memory_limit=10**12)
    async with at_work(node):
        connection = DirectConnection(node.service)
        value = bytes(LARGE)
        with node.channels.create("c") as channel:
            for number in range(200):
                channel.put(b"key-%d" % number, value)
        assert len(connection.ask([5, GET_ALL_KEYS, "c", b"", b"", b"", 1]) + await settled(connection)) == 1
        assert connection.ask(*([5, CREDIT, grant] for grant in grants)) == []
        assert [message[:2] for message in await settled(connection)] == [[5, BATCH]] * 64
        connection.ask([5, CREDIT, 1])
        assert len(await settled(connection)) == 1


@pytest.mark.parametrize("credit", [0, 65])
async def test_initial_credit_is_from_1_to_64(credit: int) -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        assert connection.error(GET_ALL, "c", b"", b"", b"", credit) == (BAD_ARGUMENT, {"position": 4})


async def test_stop() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 10, LARGE)
        for credit in (2, 64):  # suspended, and about to run
            connection.ask([5, GET_ALL, "c", b"", b"", b"", 2])
            assert len(await settled(connection)) == 2
            connection.ask(*([[5, CREDIT, credit]] if credit > 2 else []), [5, STOP], [6, PING])
            messages = await settled(connection)
            assert messages[-1] == [5, DONE, "stopped"]
            assert connection.ask([5, STOP], [5, CREDIT, 5]) == []
            assert await settled(connection) == []
        assert node.service.streams_running == 0


async def test_stop_in_the_frame_that_starts_the_stream() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 3)
        assert connection.ask([5, GET_ALL, "c", b"", b"", b"", 64], [5, STOP]) == []
        messages = await settled(connection)
        assert messages[-1] == [5, DONE, "stopped"]
        assert all(message[1] == BATCH for message in messages[:-1])


def test_credit_and_stop_for_ids_without_a_stream_are_ignored() -> None:
    connection = connect()
    assert connection.ask([1, CREDIT, 1], [2, STOP], [2**32 - 1, CREDIT, 64]) == []
    assert connection.usable()


@pytest.mark.parametrize(
    "control",
    [
        [CREDIT],
        [CREDIT, 0],
        [CREDIT, -1],
        [CREDIT, None],
        [CREDIT, True],
        [CREDIT, 1.0],
        [CREDIT, "1"],
        [CREDIT, [1]],
        [CREDIT, 1, 1],
        [STOP, None],
        [STOP, 1],
    ],
    ids=str,
)
async def test_bad_credit_and_stop_end_the_connection(control: list[Any]) -> None:
    check_protocol_error(connect(), [5, *control])
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 3, LARGE)
        connection.ask([5, GET_ALL, "c", b"", b"", b"", 1])
        await settled(connection)
        check_protocol_error(connection, [5, *control])
        await wait_all_tasks_blocked()
        assert node.service.streams_running == 0


@pytest.mark.parametrize("code", [GET_ALL, GET_ALL_KEYS, PING, GET, PUT_MANY, GET_MANY])
async def test_an_id_that_a_stream_has_is_in_use(code: int) -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 3, LARGE)
        connection.ask([5, GET_ALL, "c", b"", b"", b"", 1])
        await settled(connection)
        check_protocol_error(connection, [5, code, *GOOD_ARGUMENTS[code]])


async def test_an_id_is_free_after_the_end() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        for _ in range(3):
            assert (await stream(connection, GET_ALL, "c", b"", b"", b"", 1))[-1] == [5, DONE, "end"]
        assert connection.ask([5, PING]) == [[5, DONE, None]]


async def test_the_65th_stream() -> None:
    node = make_dht()
    async with at_work(node):
        connection, other = DirectConnection(node.service), DirectConnection(node.service)
        fill(connection, 3, LARGE)
        for request_id in range(1, 65):
            connection.ask([request_id, GET_ALL_KEYS, "c", b"", b"", b"", 1])
        assert len(await settled(connection)) == 64
        for code in (GET_ALL, GET_ALL_KEYS):
            assert connection.error(code, "c", b"", b"", b"", 1) == (TOO_MANY_REQUESTS, {"limit": 64})
        assert len(other.ask([1, GET_ALL, "c", b"", b"", b"", 1]) + await settled(other)) == 1
        connection.ask([7, STOP])
        assert await settled(connection) == [[7, DONE, "stopped"]]
        assert len(connection.ask([65, GET_ALL, "c", b"", b"", b"", 1]) + await settled(connection)) == 1
    for _ in range(2):
        connection.handler.end()


async def test_fewer_streams_where_so_configured() -> None:
    node = make_dht(streams_per_connection=2)
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 3, LARGE)
        connection.ask([1, GET_ALL, "c", b"", b"", b"", 1], [2, GET_ALL, "c", b"", b"", b"", 1])
        assert connection.ask([3, GET_ALL, "c", b"", b"", b"", 1])[0][1] == TOO_MANY_REQUESTS


async def test_streams_side_by_side() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        records = fill(connection, 20, LARGE)
        for request_id in range(1, 11):
            connection.ask([request_id, GET_ALL_KEYS, "c", b"", b"", b"", 64])
        connection.ask([11, PING])
        messages = await settled(connection)
        for request_id in range(1, 11):
            mine = [message for message in messages if message[0] == request_id]
            assert mine[-1] == [request_id, DONE, "end"]
            assert sorted(key for _, _, (_, keys) in mine[:-1] for key in keys) == sorted(records)


async def test_a_channel_that_is_removed_ends_the_streams_that_read_it() -> None:
    node = make_dht()
    async with at_work(node):
        connection, other = DirectConnection(node.service), DirectConnection(node.service)
        fill(connection, 10, LARGE)
        for request_id in (1, 2):
            connection.ask([request_id, GET_ALL, "c", b"", b"", b"", 1])
        await settled(connection)
        assert other.result(REMOVE_CHANNEL, "c") is True
        assert other.result(PUT, "c", b"new", b"value") is None
        connection.ask([1, CREDIT, 5], [2, CREDIT, 5])
        finals = await settled(connection)
        assert sorted(final[:2] for final in finals) == [[1, CHANNEL_REMOVED], [2, CHANNEL_REMOVED]]
        for final in finals:
            check_error(*final)
        assert connection.usable()


async def test_the_end_of_a_connection_ends_its_streams() -> None:
    for end in ("end", "end of input", "notice"):
        node = make_dht()
        async with at_work(node):
            connection = DirectConnection(node.service)
            fill(connection, 10, LARGE)
            for request_id in (1, 2):  # one waits for credit, one for room in the output
                connection.ask([request_id, GET_ALL, "c", b"", b"", b"", 1 + 63 * (request_id - 1)])
            await wait_all_tasks_blocked()
            assert node.service.streams_running == 2
            if end == "end":
                connection.handler.end()
            elif end == "end of input":
                connection.handler.end_of_input()
            else:
                connection.handler.refuse(ShuttingDown("the node is shutting down"))
            await wait_all_tasks_blocked()
            assert node.service.streams_running == 0
            if end == "notice":
                assert notice_status(connection.take()) == SHUTTING_DOWN
            elif end == "end":
                assert connection.take() == []


@pytest.mark.parametrize("count", [0, 3])
async def test_a_connection_that_turns_out_to_be_gone_when_a_stream_sends(count: int) -> None:
    """As the listener finds out: sending fails, be it the first batch or the final reply."""
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, count, LARGE)
        replies = len(await stream(connection, GET_ALL, "c", b"", b"", b"", 64))
        assert connection.flushes == replies
        for gone_at in range(1, replies + 1):
            connection = DirectConnection(node.service)

            def find_out(connection: DirectConnection = connection, gone_at: int = gone_at) -> None:
                if connection.flushes == gone_at:
                    connection.handler.end()

            connection.on_flush = find_out
            connection.give(frame([1, GET_ALL, "c", b"", b"", b"", 64]))
            await settled(connection)
            assert connection.flushes == gone_at
            assert node.service.streams_running == 0


# Output of a client that does not read.


@pytest.mark.parametrize(
    ("size", "count"), [(1000, 8000), (64 * KIB, 200), (64 * KIB + 1, 200), (300 * KIB, 40), (3 * MIB, 5)]
)
def test_a_client_that_does_not_read_stands_still(size: int, count: int) -> None:
    connection = connect()
    connection.result(PUT, "c", b"k", bytes(size))
    requests = [[number, GET, "c", b"k"] for number in range(1, count + 1)]
    most = OUTPUT_MAX + size + 64 * KIB
    connection.give(frame(*requests))
    while not connection.handler.output_full:
        assert connection.handler.pending
        connection.work()
    assert OUTPUT_MAX < connection.output_bytes <= most
    connection.work()
    assert connection.handler.pending
    assert connection.output_bytes <= most
    replies = connection.take(size)
    replies += connection.take(connection.output_bytes - OUTPUT_MAX)
    while connection.handler.pending:
        connection.work()
        assert connection.output_bytes <= most
        replies += connection.take(100 * KIB)
    replies += connection.take()
    assert [reply[0] for reply in replies] == list(range(1, count + 1))
    assert all(reply[1] == DONE and len(reply[2]) == size for reply in replies)
    assert connection.usable()


@pytest.mark.parametrize("together", [True, False])
def test_of_large_answers_some_leave_while_the_next_are_made(together: bool) -> None:
    """A pass gives a connection 512 KiB and what passes that; a last answer leaves nothing to be done."""
    connection = connect()
    connection.result(PUT, "c", b"k", bytes(100 * KIB))
    requests = [[number, GET, "c", b"k"] for number in range(1, 19)]
    connection.give(frame(*requests) if together else b"".join(frame(request) for request in requests))
    replies = []
    passes = 1
    while connection.handler.pending:
        assert 500 * KIB < connection.output_bytes < 800 * KIB
        replies += connection.take()
        connection.work()
        passes += 1
    assert passes == 3
    replies += connection.take()
    assert replies == [[number, DONE, bytes(100 * KIB)] for number in range(1, 19)]
    connection.give(frame([1, GET, "c", b"k"]))
    assert not connection.handler.pending


def test_long_answers_other_than_values_are_bounded_too() -> None:
    connection = connect()
    for number in range(1000):
        connection.result(PUT, f"{number:0>128}", b"k", b"v")
    answer = 1000 * 130
    connection.give(frame(*([number, CHANNELS] for number in range(1, 101))))
    assert connection.output_bytes <= OUTPUT_MAX + answer + 64 * KIB


def test_batches_are_bounded_too() -> None:
    connection = connect()
    connection.result(PUT_MANY, "c", [b"%d" % n for n in range(100)], [bytes(10 * KIB)] * 100, 0)
    keys = [b"%d" % n for n in range(100)]
    connection.give(frame(*([number, GET_MANY, "c", keys] for number in range(1, 101))))
    assert connection.output_bytes <= OUTPUT_MAX + 101 * 10 * KIB


async def test_streams_stop_at_the_bound_too() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        records = fill(connection, 30, LARGE)
        for request_id in range(1, 11):
            connection.ask([request_id, GET_ALL, "c", b"", b"", b"", 64])
        await wait_all_tasks_blocked()
        assert connection.output_bytes <= OUTPUT_MAX + 10 * (LARGE + KIB)
        messages = await settled(connection)
        assert sum(len(message[2][1]) for message in messages if message[1] == BATCH) == 10 * len(records)


async def test_a_full_output_holds_requests_back_and_loses_none() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        fill(connection, 30, LARGE)
        connection.ask([1, GET_ALL, "c", b"", b"", b"", 64])
        await wait_all_tasks_blocked()
        assert connection.handler.output_full
        connection.give(frame([2, PUT, "c", b"late", b"value"]))
        assert connection.handler.pending
        assert DirectConnection(node.service).result(GET, "c", b"late") is None
        messages = connection.take()
        connection.work()
        messages += connection.take()
        assert [2, DONE, None] in messages
        messages += await settled(connection)
        assert messages[-1][:2] == [1, DONE]


def test_output_that_leaves_in_pieces() -> None:
    connection = connect()
    connection.result(PUT, "c", b"k", bytes(5000))
    connection.give(frame(*([number, GET, "c", b"k"] for number in range(1, 4))))
    replies: list[Message] = []
    while connection.output_bytes:
        replies += connection.take(7)
    assert [reply[0] for reply in replies] == [1, 2, 3]


# The end.


def test_after_the_end_nothing_is_carried_out() -> None:
    node = make_dht()
    connection = DirectConnection(node.service)
    connection.handler.end()
    assert connection.exchange(frame([1, PUT, "c", b"k", b"v"])) == []
    assert DirectConnection(node.service).result(SIZE) == [0, 0, 0]


def test_a_notice_is_sent_once() -> None:
    connection = connect()
    connection.handler.refuse(ShuttingDown("the node is shutting down"))
    connection.handler.refuse(ShuttingDown("the node is shutting down"))
    assert notice_status(connection.take()) == SHUTTING_DOWN


def test_compression_that_both_agreed_to() -> None:
    service = make_dht().service
    connection = DirectConnection(service, compression=["zstd", "lz4"])
    assert connection.node_hello[2]["compression"] == "lz4"
    value = bytes(100_000)
    request = pack([[1, PUT, "c", b"k", value], [2, GET, "c", b"k"]])
    connection.give(compressed_frame(request))
    assert connection.output_bytes < 10_000
    assert connection.take() == [[1, DONE, None], [2, DONE, value]]
    assert connection.usable()


def test_compression_that_was_not_agreed_to() -> None:
    connection = connect()
    assert notice_status(connection.exchange(compressed_frame(pack([[1, PING]])))) == PROTOCOL_ERROR


# Requests of one kind in one frame are carried out together: nobody can tell.

CHANNEL_NAMES = st.sampled_from(["a", "a", "a", "b", "no/name", "", 7, None, b"a", ["a"]])
RECORD_KEYS = st.sampled_from(
    [b"k1", b"k2", b"k3", *keys_of_half(0, 3), *keys_of_half(1, 1), b"", bytes(481), "k1", 5, None]
)
RECORD_VALUES = st.sampled_from([b"v", b"other", bytes(900), b"", bytes(1001), "v", 5, None, [], {}])
IDS = st.sampled_from([1, 2, 3, 4, 2**32 - 1])
SMALL_REQUESTS = {
    PUT: st.tuples(IDS, st.just(PUT), CHANNEL_NAMES, RECORD_KEYS, RECORD_VALUES),
    GET: st.tuples(IDS, st.just(GET), CHANNEL_NAMES, RECORD_KEYS),
}


@given(data=st.data())
@settings(deadline=None)
def test_requests_in_one_frame_have_the_answers_of_requests_one_by_one(data: st.DataObject) -> None:
    nodes = [make_dht(hash_range=LOWER_HALF, value_bytes=1000, memory_limit=2500, channels_max=2) for _ in range(2)]
    together, alone = (DirectConnection(node.service) for node in nodes)
    for _ in range(3):
        code = data.draw(st.sampled_from([PUT, GET]))
        requests = data.draw(st.lists(SMALL_REQUESTS[code], min_size=1, max_size=6))
        answers = together.ask(*map(list, requests))
        assert answers == [answer for request in requests for answer in alone.ask(list(request))]
        assert nodes[0].channels.size() == nodes[1].channels.size()
    counted = [node.service.handlers[code].statistics.snapshot() for node in nodes for code in (PUT, GET)]
    for figures in counted:
        del figures["times"]
    assert counted[:2] == counted[2:]


@pytest.mark.parametrize(
    "message",
    [
        {1: 1, 16: 1, "a": 1, b"k": 1, b"v": 1},
        "abcde",
        [1.0, PUT, "a", b"k", b"v"],
        [True, PUT, "a", b"k", b"v"],
        [0, PUT, "a", b"k", b"v"],
        [2**32, PUT, "a", b"k", b"v"],
        [-1, PUT, "a", b"k", b"v"],
        [1],
        [],
    ],
)
def test_what_is_no_request_among_requests_of_one_kind(message: Message) -> None:
    connection = connect()
    connection.result(PUT, "a", b"k", b"old")
    good = [1, PUT, "a", b"k", b"new"]
    for messages in ([good, message], [message, good], [message, message]):
        connection = DirectConnection(connection.handler.service)
        assert notice_status(connection.ask(*messages)[-1:]) == PROTOCOL_ERROR
        assert connection.closing


@pytest.mark.parametrize("code", [float(PUT), True, "16", None, [16]])
def test_a_code_that_is_no_number_among_requests_of_one_kind(code: object) -> None:
    connection = connect()
    answers = connection.ask([1, PUT, "a", b"k", b"v"], [2, code, "a", b"k", b"w"])
    assert [(request_id, status) for request_id, status, _ in answers] == [(1, DONE), (2, UNKNOWN_REQUEST)]
    assert connection.result(GET, "a", b"k") == b"v"


def test_a_frame_of_more_requests_than_are_carried_out_together() -> None:
    connection = connect()
    connection.result(PUT, "a", b"k", b"v")
    for count in (255, 256, 257, 1000):
        assert connection.ask(*([n + 1, GET, "a", b"k"] for n in range(count))) == [
            [n + 1, DONE, b"v"] for n in range(count)
        ]


def test_large_values_got_in_one_frame_count_as_output() -> None:
    connection = connect()
    connection.result(PUT, "a", b"k", bytes(400 * KIB))
    connection.give(frame(*([n + 1, GET, "a", b"k"] for n in range(6))))
    assert connection.output_bytes < OUTPUT_MAX + 500 * KIB
    assert connection.handler.pending
