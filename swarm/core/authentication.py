"""Who may do what at a node: logins, the permissions that they give, and their end. docs/protocol.md §8.

    hello ──► tables with nothing but ping and authenticate
                  │ right proof                  │ wrong proof, or unknown name
                  ▼                              ▼
              tables of this client          after a delay: the answer, a notice, the end

A connection has the tables of its client until it ends: when the credentials are read anew, the connections of clients
for whom something has changed are cut off.
"""

import hmac
import logging
import os
from collections.abc import Iterator, Mapping

import trio

from swarm.core import limits, protocol
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.credentials import KnownClient
from swarm.core.errors import BadArgument, NotAllowed, NotAuthenticated
from swarm.core.login import METHOD, client_proof, node_proof
from swarm.core.login_delays import LoginDelays
from swarm.core.logs import SELDOM_S, SeldomLog
from swarm.core.protocol import DONE, Access
from swarm.core.request_handler import RequestTables, Running, Service
from swarm.core.restrictions import restricted

log = logging.getLogger(__name__)

FAILED_LINES_MAX = 20  # of what clients may cause, in SELDOM_S
CONNECTIONS_PER_STEP = 64  # that are looked at, and perhaps closed, some 3 ms


class Authentication:
    """The clients that a node knows, and their connections."""

    methods = (METHOD,)

    def __init__(self, service: Service, clients: Mapping[str, KnownClient]) -> None:
        """From now on the service asks every new connection to log in. All that it handles has been told it."""
        self.failures = 0
        self.not_allowed = 0
        self._service = service
        self._clients = clients
        self._tables: dict[str, RequestTables] = {}
        self._connections: dict[ConnectionHandler, KnownClient] = {}
        """All that have logged in."""
        self._delays = LoginDelays()
        self._nobodys_key = os.urandom(limits.CLIENT_KEY_BYTES)
        self._failed_log = SeldomLog(log, logging.WARNING, FAILED_LINES_MAX)
        self._refused_log = SeldomLog(log, logging.WARNING, FAILED_LINES_MAX)
        service.handle(protocol.AUTHENTICATE, self._login, "direct")
        before = (protocol.PING, protocol.AUTHENTICATE)
        self.before_login = RequestTables(
            {key: handler for key, handler in service.at_once.items() if handler.request in before},
            {request.code: service.handlers[request.code] for request in before},
        )
        service.authentication = self
        service.background.append(self._tell_of_what_was_not_told)
        service.more_statistics.append(
            lambda: {"authentication_failures": self.failures, "not_allowed": self.not_allowed}
        )

    def replace_clients(self, clients: Mapping[str, KnownClient]) -> None:
        """From now on these are the clients; connections of those that are not there any more, or for whom something
        has changed, end."""
        before, self._clients = self._clients, clients
        for name, client in before.items():
            if clients.get(name) != client:
                self._tables.pop(name, None)
        self._service.in_steps(self._cut_off_those_that_changed())

    def _cut_off_those_that_changed(self) -> Iterator[None]:
        for number, (connection, client) in enumerate(list(self._connections.items()), 1):
            now = self._clients.get(client.name)
            if now != client and connection in self._connections:
                what = "is no client any more" if now is None else "has other credentials or permissions now"
                log.info("%s: connection closed: %s %s", connection.peer, client.name, what)
                connection.cut_off(
                    NotAuthenticated(f"{client.name} {what}: the node has read its credentials anew; log in again")
                )
            if number % CONNECTIONS_PER_STEP == 0:
                yield

    def _login(
        self, connection: ConnectionHandler, request_id: int, name: str, nonce: bytes, proof: bytes
    ) -> Running | None:
        if connection.login_tried:
            raise BadArgument("a connection logs in once")
        connection.login_tried = True
        client = self._clients.get(name)
        key = client.credentials.key if client else self._nobodys_key
        right = hmac.compare_digest(proof, client_proof(key, connection.nonce, nonce, name))
        if client is None or not right:
            return self._refuse(connection, request_id, name)
        connection.admit(self._tables_of(client))
        self._connections[connection] = client
        connection.at_end.append(lambda: self._connections.pop(connection, None))
        connection.send_reply(request_id, DONE, node_proof(key, connection.nonce, nonce, name))
        return None

    def _refuse(self, connection: ConnectionHandler, request_id: int, name: str) -> Running:
        self.failures += 1
        self._service.handlers[protocol.AUTHENTICATE.code].statistics.failed += 1
        delay_s = self._delays.failed(connection.peer)
        self._failed_log.tell(
            f"{connection.peer}: login as {name} failed: there is no such client, or its key is another one; "
            f"answered in {delay_s:g} s (failures since the start: {self.failures})"
        )
        failed = _FailedLogin(self._service, connection, request_id, delay_s)
        assert self._service.nursery is not None
        self._service.nursery.start_soon(failed.run)
        return failed

    def _tables_of(self, client: KnownClient) -> RequestTables:
        tables = self._tables.get(client.name)
        if tables is None:

            def refuse(access: Access, channel: str | None) -> NotAllowed:
                return self._refuse_access(client.name, access, channel)

            tables = self._tables[client.name] = restricted(self._service, client.permissions, refuse)
        return tables

    def _refuse_access(self, name: str, access: Access, channel: str | None) -> NotAllowed:
        self.not_allowed += 1
        of_what = "all channels" if channel is None else f"channel {channel}"
        missing = f"{access}={'*' if channel is None else channel}"
        self._refused_log.tell(
            f"{name} was refused {access} of {of_what} (refused since the start: {self.not_allowed}); "
            f"{missing} in its line of the credentials file allows it"
        )
        return NotAllowed(
            f"not allowed: client {name} has no {access} permission for {of_what}; nothing was carried out. Whoever "
            f"runs the node can give it with {missing} in the client's line of the credentials file",
            {"access": access} | ({} if channel is None else {"channel": channel}),
        )

    async def _tell_of_what_was_not_told(self) -> None:
        while True:
            await trio.sleep(SELDOM_S)
            self._failed_log.look()
            self._refused_log.look()


class _FailedLogin:
    """A login whose answer waits."""

    def __init__(self, service: Service, connection: ConnectionHandler, request_id: int, delay_s: float) -> None:
        self._service = service
        self._connection = connection
        self._request_id = request_id
        self._delay_s = delay_s
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            self._service.streams_waiting += 1  # it takes nothing of the loop's time
            try:
                await trio.sleep(self._delay_s)
            finally:
                self._service.streams_waiting -= 1
            error = NotAuthenticated("login failed: there is no such client, or its key is another one")
            self._connection.send_reply(self._request_id, error.code or 0, (error.text, error.details))
            self._connection.stream_ended(self._request_id)
            self._connection.cut_off(error)

    # What the connection calls.

    def grant(self, batches: int) -> None:
        pass  # nothing of it is for sale

    def stop(self) -> None:
        pass

    def abandon(self) -> None:
        self._scope.cancel()
