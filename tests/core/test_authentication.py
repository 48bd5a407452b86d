"""Logins at a node: docs/protocol.md §8."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from logins import (
    ALL,
    CLIENT_NONCE,
    KEY,
    OTHER_KEY,
    asks_for_logins,
    client_proof,
    clients,
    connect,
    line,
    log_in,
    logged_in,
    login,
    node_proof,
)
from raw_client import (
    AUTHENTICATE,
    BAD_ARGUMENT,
    BATCH,
    CREDIT,
    DONE,
    GET,
    GET_ALL,
    KIB,
    LISTEN,
    NOT_AUTHENTICATED,
    PING,
    PROTOCOL_ERROR,
    PUT,
    STATS,
    STOP,
    UNKNOWN_REQUEST,
    DirectConnection,
    RawClient,
    at_work,
    check_error,
    frame,
    hello,
    make_dht,
    notice_status,
    running_dht,
    until,
)

from swarm.core import authentication, limits, select_listener
from swarm.core.login_delays import LoginDelays
from swarm.core.node import Node
from swarm.core.stream_driver import serve_stream

PUT_ONE = [PUT, "c", b"key", b"value"]


def node_of(*lines: str) -> Node:
    node = make_dht()
    asks_for_logins(node, *lines)
    return node


class Served:
    """A node whose streams are driven by trio: time passes in no time."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self.node = node
        self._nursery = nursery

    async def connect(self, *, greet: bool = False, peer: str = "10.0.0.9:9") -> RawClient:
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(serve_stream, self.node.service, theirs, peer)
        client = RawClient(ours)
        if greet:
            await client.greet()
        return client


@asynccontextmanager
async def served(*lines: str) -> AsyncIterator[Served]:
    node = node_of(*lines)
    async with at_work(node), trio.open_nursery() as nursery:
        yield Served(node, nursery)
        nursery.cancel_scope.cancel()


# What a hello tells, and a login that is right.


def test_a_node_without_credentials_asks_for_nothing_and_knows_no_login() -> None:
    connection = DirectConnection(make_dht().service)
    facts = connection.node_hello[2]
    assert facts["authentication"] == []
    assert "nonce" not in facts
    assert connection.error(AUTHENTICATE, "alice", bytes(32), bytes(64))[0] == UNKNOWN_REQUEST


def test_a_node_with_credentials_tells_a_nonce_that_no_other_connection_has() -> None:
    node = node_of()
    facts = [DirectConnection(node.service).node_hello[2] for _ in range(100)]
    assert all(each["authentication"] == ["hmac-sha-512"] for each in facts)
    assert {len(each["nonce"]) for each in facts} == {32}
    assert len({each["nonce"] for each in facts}) == 100


def test_a_right_login_is_answered_with_the_nodes_proof() -> None:
    connection = DirectConnection(node_of().service)
    answer = connection.ask(login(connection.node_hello, request_id=9))
    nonce = connection.node_hello[2]["nonce"]
    assert answer == [[9, DONE, node_proof(KEY, nonce, CLIENT_NONCE, "alice")]]
    assert connection.result(PUT, "c", b"key", b"value") is None
    assert connection.result(GET, "c", b"key") == b"value"


# Before the login.


@pytest.mark.parametrize("code", [*range(4, 9), *range(16, 29), 32, 48, 200])
def test_every_other_request_is_refused_before_the_login_and_not_carried_out(code: int) -> None:
    connection = DirectConnection(node_of().service)
    for arguments in ([], ["c"], ["c", b"key"], ["c", b"key", b"value"], ["c", b"", False, 4], [None] * 9):
        assert connection.error(code, *arguments) == (NOT_AUTHENTICATED, {})
    connection.ask(login(connection.node_hello))
    assert connection.result(GET, "c", b"key") is None


@pytest.mark.parametrize("control", [[5, CREDIT, 3], [5, STOP]])
def test_controls_of_streams_that_cannot_be_there_are_ignored(control: list[int]) -> None:
    connection = DirectConnection(node_of().service)
    assert connection.ask(control) == []
    assert connection.usable()


def test_what_is_behind_the_login_in_its_frame_is_carried_out_and_what_is_before_it_is_not() -> None:
    connection = DirectConnection(node_of().service)
    first, second = ["c", b"1", b"one"], ["c", b"2", b"two"]
    answers = connection.ask(
        [1, PUT, *first], login(connection.node_hello, request_id=2), [3, PUT, *second], [4, GET, "c", b"1"]
    )
    assert [answer[:2] for answer in answers] == [[1, NOT_AUTHENTICATED], [2, DONE], [3, DONE], [4, DONE]]
    assert answers[3][2] is None
    assert connection.result(GET, "c", b"2") == b"two"


def test_hello_login_and_requests_in_one_send() -> None:
    """The second frame is one that a stranger may not send."""
    node = node_of()
    connection = DirectConnection(node.service)
    large = bytes(100 * KIB)
    answers = connection.exchange(frame(login(connection.node_hello)) + frame([2, PUT, "c", b"k", large]))
    assert [answer[:2] for answer in answers] == [[1, DONE], [2, DONE]]


def test_a_stranger_gets_next_to_no_memory() -> None:
    connection = DirectConnection(node_of().service)
    connection.give(frame([1, PUT, "c", b"key", bytes(4 * KIB)]))
    assert notice_status(connection.take()) == PROTOCOL_ERROR
    assert connection.closing


async def pings_until_the_end(client: RawClient, *, every_s: float) -> None:
    with suppress(EOFError, trio.BrokenResourceError):
        while True:
            await client.ask(1, PING)
            await trio.sleep(every_s)


@pytest.mark.parametrize("sent", [b"", hello()], ids=["nothing", "a hello"])
async def test_who_does_not_log_in_is_closed(sent: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with served() as here:
        client = await here.connect()
        await client.send_bytes(sent)
        assert notice_status((await client.rest())[bool(sent) :]) == PROTOCOL_ERROR
        assert trio.current_time() == pytest.approx(limits.HELLO_TIMEOUT_S)
        assert here.node.service.protocol_errors == 1


async def test_to_ask_meanwhile_gives_nobody_more_time(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as here:
        client = await here.connect(greet=True)
        await pings_until_the_end(client, every_s=1)
        assert trio.current_time() == pytest.approx(limits.HELLO_TIMEOUT_S, abs=1.1)


async def test_the_listener_too_closes_who_does_not_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HELLO_TIMEOUT_S", 0.3)
    monkeypatch.setattr(select_listener, "SWEEP_S", 0.02)
    async with running_dht() as here:
        asks_for_logins(here.node)
        inside = await connect(here.address)
        client = await here.connect()
        with trio.fail_after(10):
            await pings_until_the_end(client, every_s=0.01)
        assert here.node.service.protocol_errors == 1
        assert await inside.result(PING) is None, "who came before and has logged in is still there"
        await inside.close()


async def test_half_a_login(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as here:
        client = await here.connect()
        await client.send_bytes(hello())
        whole = frame(login(await client.receive()))
        await client.send_bytes(whole[:50])
        assert notice_status(await client.rest()) == PROTOCOL_ERROR
        slow = await here.connect()
        await slow.send_bytes(hello())
        for byte in frame(login(await slow.receive())):
            await trio.sleep(0.01)
            await slow.send_bytes(bytes([byte]))
        assert (await slow.receive())[1] == DONE


ANYTHING = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=70) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ANYTHING, min_size=1, max_size=6) | ANYTHING, min_size=1, max_size=4), st.binary(max_size=40))
def test_nothing_but_a_login_lets_a_stranger_in(messages: list[object], garbage: bytes) -> None:
    node = node_of()
    connection = DirectConnection(node.service)
    for sent in (frame(*messages), frame([1, AUTHENTICATE, *messages]), garbage):
        if not connection.closing:
            for _, status, _ in connection.exchange(sent) if sent is not garbage else ():
                assert status in (DONE, NOT_AUTHENTICATED, BAD_ARGUMENT, PROTOCOL_ERROR)
    assert not connection.handler.admitted
    assert node.channels.size() == (0, 0, 0)


def test_of_many_connections_each_is_cut_off() -> None:
    node = make_dht()
    changes = asks_for_logins(node)
    connections = [logged_in(node) for _ in range(3 * authentication.CONNECTIONS_PER_STEP + 1)]
    changes.replace_clients({})
    assert all(notice_status(connection.take()) == NOT_AUTHENTICATED for connection in connections)


# A login that is wrong.


@pytest.mark.parametrize(
    ("name", "key"), [("alice", OTHER_KEY), ("nobody", KEY), ("Alice", KEY)], ids=["key", "name", "case"]
)
async def test_a_wrong_login_is_told_late_and_ends_the_connection(
    name: str, key: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as here:
        client = await here.connect()
        request_id, status, result = await log_in(client, name, key)
        check_error(request_id, status, result)
        assert (request_id, status) == (1, NOT_AUTHENTICATED)
        assert result == ["login failed: there is no such client, or its key is another one", {}]
        assert notice_status(await client.rest()) == NOT_AUTHENTICATED
        assert trio.current_time() == pytest.approx(limits.LOGIN_DELAY_FIRST_S)
        statistics = here.node.statistics()
        assert statistics["authentication_failures"] == 1
        assert statistics["request"]["authenticate"]["failed"] == 1
        assert here.node.service.streams_waiting == 0


async def test_while_a_failure_waits_nothing_is_carried_out_and_no_second_login_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as here:
        client = await here.connect()
        await client.send_bytes(hello())
        node_hello = await client.receive()
        wrong, right = login(node_hello, key=OTHER_KEY), login(node_hello, request_id=2)
        await client.send(wrong, right, [3, *PUT_ONE], [1, STOP], [1, CREDIT, 5], [4, PING])
        answers = {message[0]: message[1] for message in await client.rest()}
        assert answers == {1: NOT_AUTHENTICATED, 2: BAD_ARGUMENT, 3: NOT_AUTHENTICATED, 4: DONE, 0: NOT_AUTHENTICATED}
        assert trio.current_time() == pytest.approx(limits.LOGIN_DELAY_FIRST_S)
        assert here.node.channels.size() == (0, 0, 0)


async def test_who_hangs_up_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as here:
        client = await here.connect()
        await client.send_bytes(hello())
        await client.send(login(await client.receive(), key=OTHER_KEY))
        await trio.sleep(0.1)
        assert here.node.service.streams_waiting == 1
        await client.close()
        await trio.sleep(0.1)
        assert here.node.service.streams_running == here.node.service.streams_waiting == 0


async def test_failures_of_an_address_make_its_next_slower_and_nobody_elses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as here:

        async def failure_s(peer: str) -> float:
            begun = trio.current_time()
            assert (await log_in(await here.connect(peer=peer), key=OTHER_KEY))[1] == NOT_AUTHENTICATED
            return trio.current_time() - begun

        waits = [await failure_s(f"10.0.0.1:{port}") for port in range(1000, 1007)]
        assert waits == pytest.approx([0.5, 1, 2, 4, 8, 8, 8])
        assert await failure_s("10.0.0.2:1000") == pytest.approx(0.5)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failure_s, "10.0.0.1:1")
            client = await here.connect(peer="10.0.0.1:2")
            assert (await log_in(client))[1] == DONE
            assert await client.result(*PUT_ONE) is None
            assert trio.current_time() == begun, "a right login, and what follows, waits for nothing"


async def test_many_failing_logins_at_once_do_not_disturb_who_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "LOGIN_DELAY_FIRST_S", 0.01)
    monkeypatch.setattr(limits, "LOGIN_DELAY_MAX_S", 0.05)
    caplog.set_level(logging.INFO)
    attacks = 300
    async with running_dht() as here:
        asks_for_logins(here.node)
        worker = await connect(here.address)
        refused = 0

        async def attack(number: int) -> None:
            nonlocal refused
            client = await here.connect(greet=False)
            name, key = ("alice", OTHER_KEY) if number % 2 else (f"guess-{number}", KEY)
            assert (await log_in(client, name, key))[1] == NOT_AUTHENTICATED
            assert notice_status(await client.rest()) == NOT_AUTHENTICATED
            refused += 1

        async with trio.open_nursery() as nursery:
            for number in range(attacks):
                nursery.start_soon(attack, number)
            done = 0
            while refused < attacks:
                assert await worker.result(PUT, "c", b"%d" % done, b"value") is None
                done += 1
        statistics = await worker.result(STATS)
        assert statistics["authentication_failures"] == attacks
        assert statistics["channel"]["c"]["records"] == done
        await until(lambda: here.node.listener.connections == 1)
        await worker.close()
    told = [record.message for record in caplog.records if "failed" in record.message]
    assert len(told) == authentication.FAILED_LINES_MAX
    assert all(text.startswith("127.0.0.1:") and "login as " in text for text in told)


def test_of_many_addresses_the_oldest_is_forgotten() -> None:
    now = 0.0
    delays = LoginDelays(lambda: now)
    for number in range(limits.LOGIN_ADDRESSES_MAX + 1):
        assert delays.failed(f"10.0.{number >> 8}.{number & 255}:1") == 0.5
    assert len(delays) == limits.LOGIN_ADDRESSES_MAX
    assert delays.failed("10.0.0.0:1") == 0.5, "it was forgotten"
    assert delays.failed("10.0.0.2:1") == 1.0


def test_failures_are_forgotten_when_there_was_none_for_long() -> None:
    now = 0.0
    delays = LoginDelays(lambda: now)
    for _ in range(200):
        delays.failed("10.0.0.1:1")
    now += limits.LOGIN_FAILURES_FORGOTTEN_S - 1
    assert delays.failed("10.0.0.1:2") == 8.0
    now += limits.LOGIN_FAILURES_FORGOTTEN_S
    assert delays.failed("10.0.0.1:3") == 0.5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1:1", "10.0.0.1:2", True),
        ("10.0.0.1:1", "10.0.0.11:1", False),
        ("2001:db8::1:1", "2001:db8::ffff:2", True),
        ("2001:db8::1:1", "2001:db8:0:1::1:1", False),
        ("fe80::1%eth0:1", "fe80::2%eth0:1", True),
        ("::ffff:10.0.0.1:1", "::ffff:10.0.0.2:1", False),
        ("unix socket", "unix socket", True),
        ("", "", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    delays = LoginDelays(lambda: 0.0)
    delays.failed(one)
    assert delays.failed(other) == (1.0 if same else 0.5)


# Attacks.


async def test_a_login_that_was_recorded_proves_nothing_on_another_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as here:
        recorded = await here.connect()
        await recorded.send_bytes(hello())
        right = login(await recorded.receive())
        await recorded.send(right)
        assert (await recorded.receive())[1] == DONE
        attacker = await here.connect(greet=True)
        assert (await attacker.ask(*right))[1] == NOT_AUTHENTICATED
        assert notice_status(await attacker.rest()) == NOT_AUTHENTICATED
        again = await recorded.ask(*right)
        assert again[1] == BAD_ARGUMENT
        assert await recorded.result(PING) is None


async def test_the_nodes_proof_sent_back_is_no_login(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as here:
        client = await here.connect()
        await client.send_bytes(hello())
        nonce = (await client.receive())[2]["nonce"]
        reflected = node_proof(KEY, nonce, CLIENT_NONCE, "alice")
        assert (await client.ask(1, AUTHENTICATE, "alice", CLIENT_NONCE, reflected))[1] == NOT_AUTHENTICATED


@pytest.mark.parametrize("position", range(64))
def test_a_proof_with_one_wrong_bit(position: int) -> None:
    node = node_of()
    nonce = (connection := DirectConnection(node.service)).node_hello[2]["nonce"]
    proof = bytearray(client_proof(KEY, nonce, CLIENT_NONCE, "alice"))
    proof[position] ^= 1 << position % 8
    with pytest.raises(AssertionError):  # the answer is late: without a loop there is nobody to give it
        connection.ask([1, AUTHENTICATE, "alice", CLIENT_NONCE, bytes(proof)])
    assert not connection.handler.admitted


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["alice"],
        ["alice", CLIENT_NONCE],
        ["alice", CLIENT_NONCE, bytes(64), 1],
        ["alice", CLIENT_NONCE, bytes(63)],
        ["alice", CLIENT_NONCE, bytes(65)],
        ["alice", CLIENT_NONCE, b""],
        ["alice", CLIENT_NONCE, "x" * 64],
        ["alice", CLIENT_NONCE, None],
        ["alice", CLIENT_NONCE, [0] * 64],
        ["alice", bytes(31), bytes(64)],
        ["alice", bytes(33), bytes(64)],
        ["alice", "x" * 32, bytes(64)],
        [b"alice", CLIENT_NONCE, bytes(64)],
        [None, CLIENT_NONCE, bytes(64)],
        [["alice"], CLIENT_NONCE, bytes(64)],
        ["", CLIENT_NONCE, bytes(64)],
        ["a" * 65, CLIENT_NONCE, bytes(64)],
        ["alice\n", CLIENT_NONCE, bytes(64)],
        ["älice", CLIENT_NONCE, bytes(64)],
    ],
    ids=repr,
)
def test_what_is_no_login_is_told_and_is_no_attempt(arguments: list[object]) -> None:
    node = node_of()
    connection = DirectConnection(node.service)
    assert connection.error(AUTHENTICATE, *arguments)[0] == BAD_ARGUMENT
    assert connection.ask(login(connection.node_hello))[0][1] == DONE
    assert node.service.authentication is not None
    assert [more() for more in node.service.more_statistics][-1]["authentication_failures"] == 0


def test_a_second_login_is_refused_and_the_connection_stays_as_it_is() -> None:
    connection = logged_in(node_of(line(), line("bob", key=OTHER_KEY)))
    (answer,) = connection.ask(login(connection.node_hello, "bob", OTHER_KEY))
    assert answer[1] == BAD_ARGUMENT
    assert connection.result(*PUT_ONE) is None


# Credentials that change.


async def test_clients_that_are_gone_or_changed_are_cut_off_and_their_streams_end() -> None:
    async with running_dht() as here:
        changes = asks_for_logins(here.node, *(line(name) for name in ("stays", "gone", "key", "more", "less")))
        connected = {name: await connect(here.address, name) for name in ("stays", "gone", "key", "more", "less")}
        for client in connected.values():
            assert await client.ask(5, LISTEN, "c", b"", False, 64) == [5, BATCH, []]
        others = (line("key", key=OTHER_KEY), line("more", "read=*"), line("less", "read=*"))
        changes.replace_clients(clients(line("stays"), *others, line("new")))
        for name in ("gone", "key", "more", "less"):
            ((request_id, status, (text, _)),) = await connected[name].rest()
            assert (request_id, status) == (0, NOT_AUTHENTICATED)
            assert text.startswith(name)
        await until(lambda: here.node.service.streams_running == 1)
        assert await connected["stays"].result(PUT, "d", b"k", b"v") is None
        for name, key in (("stays", KEY), ("key", OTHER_KEY), ("more", KEY), ("new", KEY)):
            await (await connect(here.address, name, key)).close()
        for client in connected.values():
            await client.close()


async def test_who_is_cut_off_has_the_rest_of_no_answer_but_others_have_theirs() -> None:
    """A stream that waits for credit, and one whose output waits, end with the connection."""
    async with running_dht() as here:
        changes = asks_for_logins(here.node, line(), line("reader", "read=*"))
        writer, reader = await connect(here.address), await connect(here.address, "reader")
        for number in range(40):
            await writer.result(PUT, "c", b"%d" % number, bytes(300 * KIB))
        await reader.send(*([number, GET_ALL, "c", b"", b"", b"", 64] for number in range(1, 9)))
        await reader.receive()
        changes.replace_clients(clients(line()))
        assert notice_status(await reader.rest()) == NOT_AUTHENTICATED
        await until(lambda: here.node.service.streams_running == 0)
        assert len(await writer.result(GET, "c", b"7")) == 300 * KIB
        await writer.close()
        await reader.close()


def test_the_same_credentials_read_again_change_nothing() -> None:
    node = make_dht()
    changes = asks_for_logins(node, line(), line("bob", "read=a,b*"))
    connection, other = logged_in(node), logged_in(node, "bob")
    changes.replace_clients(clients("# in another order\n", line("bob", "read=b*,a"), line(permissions=ALL)))
    assert connection.usable()
    assert other.usable()


def test_a_connection_that_has_ended_is_forgotten() -> None:
    node = make_dht()
    changes = asks_for_logins(node)
    connection = logged_in(node)
    connection.handler.end()
    flushes = connection.flushes
    changes.replace_clients({})
    assert connection.flushes == flushes
