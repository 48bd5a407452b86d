"""docs/protocol.md and the code say the same: requests, errors, statuses and limits."""

import re
from pathlib import Path

import pytest

from swarm.core import errors, limits, protocol
from swarm.core.errors import SwarmError
from swarm.core.login import METHOD
from swarm.core.protocol import Request
from swarm.core.session import NodeHello
from swarm.dht import protocol as dht_protocol
from swarm.logfiles import payload
from swarm.logfiles import protocol as logfiles_protocol
from swarm.logfiles.block import Block
from swarm.queue import batch
from swarm.queue import protocol as queue_protocol

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")

Row = list[str]


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    match = re.search(rf"^#+ {re.escape(title)}$\n(.*?)(?=^#+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no section {title}"
    return match[1]


def tables(text: str) -> list[list[Row]]:
    """The tables in a text, each as rows of cells, without their heads."""
    found: list[list[Row]] = []
    previous = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        previous = line
    return [rows[2:] for rows in found]


def table(title: str) -> list[Row]:
    return tables(section(title))[0]


def number(text: str) -> int:
    """The first number in a text, with its unit."""
    match = re.search(r"(\d[\d,]*)(?: (KiB|MiB))?", text)
    assert match is not None, text
    return int(match[1].replace(",", "")) * {None: 1, "KiB": limits.KIB, "MiB": limits.MIB}[match[2]]


def requests_of(module: object) -> dict[int, Request]:
    return {value.code: value for value in vars(module).values() if isinstance(value, Request)}


def number_after(words: str, title: str) -> int:
    """The number that follows these words in a section."""
    text = " ".join(section(title).split())
    assert words in text, f"{words!r} is not in {title!r}"
    return number(text.partition(words)[2])


# Requests.


@pytest.mark.parametrize(
    ("title", "module"),
    [
        ("5. Requests of every node", protocol),
        ("Requests of the dht node", dht_protocol),
        ("Requests of the queue node", queue_protocol),
        ("Requests of the logfiles node", logfiles_protocol),
    ],
    ids=["every node", "dht", "queue", "logfiles"],
)
def test_requests(title: str, module: object) -> None:
    documented: dict[int, tuple[str, list[str] | None]] = {}
    for codes, names, arguments, *_ in table(title):
        for code, name in zip(codes.split(", "), names.split(", "), strict=True):
            known = None if arguments.startswith("see") else [] if arguments == "–" else arguments.split(", ")
            documented[int(code)] = (name, known)
    requests = requests_of(module)
    assert set(documented) == set(requests)
    for code, (name, arguments) in documented.items():
        assert requests[code].name == name
        if arguments is not None:
            assert [parameter.name for parameter in requests[code].parameters] == arguments, name


@pytest.mark.parametrize(
    ("title", "module"),
    [
        ("Requests of the dht node", dht_protocol),
        ("Requests of the queue node", queue_protocol),
        ("Requests of the logfiles node", logfiles_protocol),
    ],
    ids=["dht", "queue", "logfiles"],
)
def test_which_requests_stream(title: str, module: object) -> None:
    for code, _, arguments, result in table(title):
        request = requests_of(module)[int(code)]
        assert request.streams == result.startswith("stream of")
        assert request.streams == arguments.endswith("credit")


def test_no_code_is_used_twice() -> None:
    modules = (protocol, dht_protocol, queue_protocol, logfiles_protocol)
    codes = [code for module in modules for code in requests_of(module)]
    assert len(codes) == len(set(codes))


def test_which_requests_are_repeatable() -> None:
    """Carried out twice they leave, and answer, the same as once."""
    not_repeatable = {"remove channel", "authenticate", "remove", "update", "begin dump"}
    not_repeatable |= {"push", "push many", "pop", "pop many", "wait pop", "drop subscriber"}
    for module in (protocol, dht_protocol, queue_protocol):
        for request in requests_of(module).values():
            assert request.repeatable == (request.name not in not_repeatable), request.name
    for request in requests_of(logfiles_protocol).values():
        assert request.repeatable == (not request.name.startswith("put")), request.name


def test_events_of_listen() -> None:
    documented = {int(row[0]): row[1] for row in tables(section("Requests of the dht node"))[1]}
    names = ("RECORDS", "CHANNEL_REMOVED", "LOST", "REFRESH_BEGINS", "REFRESHED")
    assert documented == {getattr(dht_protocol, name): name.lower().replace("_", " ") for name in names}


# Statuses and errors.


def test_statuses() -> None:
    documented = {row[1]: row[0] for row in table("3. Requests and replies")}
    assert int(documented["done"]) == protocol.DONE
    assert int(documented["batch"]) == protocol.BATCH
    assert f'`"{protocol.STREAM_END}"`' in section("3. Requests and replies")
    assert f'`"{protocol.STREAM_STOPPED}"`' in section("3. Requests and replies")


def errors_with_a_code() -> dict[int, type[SwarmError]]:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SwarmError)]
    by_code = {each.code: each for each in classes if each.code is not None}
    assert len(by_code) == sum(each.code is not None for each in classes), "two errors have the same code"
    return by_code


def words(name: str) -> str:
    return re.sub(r"(?<=.)(?=[A-Z])", " ", name).lower()


def test_errors() -> None:
    documented = {int(row[0]): row[1] for row in table("6. Errors")}
    assert documented == {code: words(each.__name__) for code, each in errors_with_a_code().items()}
    assert min(documented) == 16


@pytest.mark.parametrize("row", table("6. Errors"), ids=lambda row: row[1])
def test_whose_fault_an_error_is_and_whether_to_try_again(row: Row) -> None:
    code, _, fault, again, details = row
    error = errors_with_a_code()[int(code)]
    assert error.fault == fault
    assert error.try_again == (again != "no")
    assert ("notice" in details) == (32 <= int(code) <= 37 or code == "39")


def test_errors_named_in_the_text_are_in_the_table() -> None:
    names = {row[1] for row in table("6. Errors")}
    for name in ("protocol error", "unsupported version", "wrong kind"):
        assert name in names
        assert f"`{name}`" in section("2. Hello")
    for name in ("too many requests", "channel removed", "wrong node", "out of memory", "conflict"):
        assert name in names


# Bounds.


def test_bounds_of_frames() -> None:
    before_hello, other, strangers, arrays, arrays_in_others, elements, depth, depth_of_others = (
        row[1] for row in table("1. Frames")
    )
    assert number(before_hello) == limits.HELLO_BYTES_MAX
    assert number(other) == limits.FRAME_BYTES_MAX
    assert number(strangers) == limits.ARRAY_ELEMENTS_STRANGER
    assert number(arrays) == limits.FRAME_ARRAYS_LARGE
    assert number_after("nested arrays in a body above", "1. Frames") == limits.FRAME_BYTES_PLAIN
    assert number(arrays_in_others) == limits.FRAME_ARRAYS_MAX
    assert number_after("nested arrays in another body above", "1. Frames") == limits.FRAME_BYTES_UNCOUNTED
    assert number(elements) == limits.ARRAY_ELEMENTS_MAX
    assert number_after("elements of an array in a body above", "1. Frames") == limits.DEPTH_BYTES_MIN
    assert number(depth) == limits.DEPTH_MAX
    assert number(depth_of_others) == 1024
    assert number_after("and more than", "1. Frames") == limits.FRAME_MESSAGES


def test_bounds_of_requests_and_connections() -> None:
    assert "from 1 to 2³²−1" in section("3. Requests and replies")
    assert limits.REQUEST_ID_MAX == 2**32 - 1
    assert number_after("has not read a byte of waiting output for", "3. Requests and replies") == (
        limits.STALLED_OUTPUT_TIMEOUT_S
    )
    closes = "3. Requests and replies"
    assert number_after("has not read the last of it", closes) == limits.CLOSING_TIMEOUT_S
    assert number_after("it stands still while", "8. Authentication") == limits.STRANGER_OUTPUT_BYTES_MAX
    assert number_after("When nothing more has come of a frame for", closes) == limits.UNFINISHED_FRAME_TIMEOUT_S
    assert number_after("may take 1/", closes) == 1 / limits.UNFINISHED_SHARE
    assert number_after("memory limit (", closes) == 2 * limits.FRAME_BYTES_MAX
    assert number_after("and has more than", closes) == limits.UNFINISHED_BYTES_FREE
    assert number_after("whose hello is not complete within", "2. Hello") == limits.HELLO_TIMEOUT_S
    assert number_after("number of batches the node may send (1 to", "4. Streams") == limits.CREDIT_MAX
    assert number_after("granted and not used never exceeds", "4. Streams") == limits.CREDIT_MAX
    assert number_after("A connection has at most", "4. Streams") == limits.STREAMS_MAX


def test_bounds_of_names_keys_and_answers() -> None:
    assert number_after("are str of 1 to", "5. Requests of every node") == limits.CHANNEL_LENGTH_MAX
    title = "Requests of the dht node"
    assert number_after("*key* is bin of 1 to", title) == limits.KEY_BYTES_MAX
    assert number_after("key bytes + value bytes +", title) == limits.RECORD_OVERHEAD_BYTES
    assert number_after("kept aside together is 1/", title) == 1 / limits.RESERVED_SHARE
    assert number_after("used nor added any for", title) == limits.RESERVE_TIMEOUT_S
    assert number_after("ends after the value with which it passes", title) == limits.REPLY_BYTES_MAX
    assert number_after("waits in the node: at most", title) == limits.LISTENER_BYTES_MAX
    assert number_after("of keys and values and", title) == limits.LISTENER_CHANGES_MAX
    assert number_after("A node has at most", title) == limits.LISTENERS_MAX
    assert number_after("the place up to which the batch has come:", title) == dht_protocol.CURSOR_HASH_BYTES


def test_bounds_of_queues() -> None:
    title = "Requests of the queue node"
    assert number_after("`channels` is an array of 1 to", title) == limits.PUSH_CHANNELS_MAX
    assert number_after("into none. At most", title) == limits.BATCH_RECORDS_MAX
    assert number_after("A reply ends with the record with which it passes", title) == limits.POP_BYTES_MAX
    assert number_after("`wait` milliseconds (0 to", title) == limits.POP_WAIT_MS_MAX
    assert number_after("A node has at most", title) == limits.CONSUMERS_MAX
    assert number_after("first and count (", title) == limits.ACKNOWLEDGED_NUMBERS_MAX
    assert number_after("A channel has at most", title) == limits.SUBSCRIBERS_MAX
    assert number_after("has not acknowledged consists of", title) == limits.UNACKNOWLEDGED_RANGES_MAX
    assert batch.LENGTH_BYTES * 8 == 32


def test_bounds_of_logfiles() -> None:
    title = "Requests of the logfiles node"
    assert number_after("since 1970-01-01 UTC, from −", title) == -payload.TIMESTAMP_MIN
    assert number_after("(1677-09-22) to", title) == payload.TIMESTAMP_MAX
    assert number_after("such a payload, uncompressed, of 1 to", title) == limits.BATCH_RECORDS_MAX
    assert number_after("A pattern has 1 to", title) == limits.FILTER_BYTES_MAX
    assert number_after("`raw size` is its length decompressed, at most", title) == payload.RAW_BYTES_MAX
    assert number_after("`cursor` (bin of", title) == limits.CURSOR_BYTES
    assert number_after("`order` is", title) == logfiles_protocol.OLDEST_FIRST
    assert number_after("oldest first,", title) == logfiles_protocol.NEWEST_FIRST
    for kind, says in (("SUBSTRING", "the value contains"), ("REGEX", "the regular expression")):
        assert f"kind {logfiles_protocol.FilterKind[kind].value}, {says}" in " ".join(section(title).split())
    codecs = section(title).partition("codecs are")[2]
    for codec in payload.Codec:
        assert f"{codec.value} ({codec.name.lower()}" in codecs


def test_the_fields_of_a_block() -> None:
    fields = re.search(r"A block is `\[(.*?)\]`", section("Requests of the logfiles node"))
    assert fields
    assert fields[1].split(", ") == [name.replace("raw_bytes", "raw size") for name in Block._fields]


def test_the_limits_that_a_hello_tells() -> None:
    title = "7. Limits"
    told = protocol.DEFAULT_LIMITS.to_wire()
    assert number_after("longest value (default", title) == told["value_bytes"] == limits.VALUE_BYTES_MAX
    assert number_after("longest key (", title) == told["key_bytes"] == limits.KEY_BYTES_MAX
    assert number_after("keys of one get many (", title) == told["batch_records"] == limits.BATCH_RECORDS_MAX
    assert number_after("should have at most (", title) == told["batch_bytes"] == limits.BATCH_BYTES
    assert number_after("most streams of one connection (", title) == told["streams"] == limits.STREAMS_MAX
    assert number_after("A node holds at most", title) == limits.OUTPUT_BYTES_MAX


def test_the_facts_of_the_hellos() -> None:
    client_facts, node_facts, refusals = tables(section("2. Hello"))
    assert [row[0] for row in client_facts] == ["`client`", "`kind`", "`compression`"]
    assert number(client_facts[0][2]) == 128
    told = NodeHello("dht", "node", protocol.DEFAULT_LIMITS, authentication=(METHOD,)).to_message()[2]
    documented = {row[0].strip("`") for row in node_facts}
    assert documented == {*told, "hash_range"}
    for name in told["limits"]:
        assert f"`{name}`" in section("2. Hello")
    assert len(refusals) == 3


# Authentication.


def test_bounds_of_authentication() -> None:
    title = "8. Authentication"
    assert number_after("for each a name (1 to", title) == limits.CLIENT_NAME_LENGTH_MAX
    assert number_after("a key of", title) == limits.CLIENT_KEY_BYTES
    assert number_after("`nonce` of its own (bin of", title) == limits.NONCE_BYTES
    assert number_after("a `proof` (bin of", title) == limits.PROOF_BYTES
    assert f"delay, {limits.LOGIN_DELAY_FIRST_S:g} s at first" in section(title)
    assert number_after("of the same address (IPv6: of its first 64 bits) up to", title) == limits.LOGIN_DELAY_MAX_S
    assert number_after("and is 0.5 s again after", title) == limits.LOGIN_FAILURES_FORGOTTEN_S
    assert number_after("nobody has tried to log in within", title) == limits.HELLO_TIMEOUT_S
    assert f"**{METHOD}**" in section(title)
    assert f"`{METHOD}`" in section("2. Hello")


def test_the_access_of_each_request() -> None:
    documented = {access: re.split(r"[,;] ", names) for access, names in tables(section("8. Authentication"))[0]}
    requests: dict[str, list[str]] = {"read": [], "write": [], "admin": []}
    about_streams = {protocol.GRANT_CREDIT.name, protocol.STOP.name, protocol.AUTHENTICATE.name}
    for module in (protocol, dht_protocol, queue_protocol, logfiles_protocol):
        for request in requests_of(module).values():
            if request.name not in {*about_streams, *requests[request.access]}:
                requests[request.access].append(request.name)
    assert documented == requests


def test_the_version() -> None:
    assert TEXT.startswith(f"# The wire protocol, version {protocol.VERSION}\n")
    assert f"`version` is an integer, {protocol.VERSION} for this page" in TEXT
