"""What TLS and a login cost:   python -m bench.security   (bench/README.md says what is measured)

Each row is the same client and the same node, with and without: batches and single records with TLS, and the time until
a new client has its first answer, with TLS, with a login, and with both.
"""

import ssl
import tempfile
from pathlib import Path

import trustme

from bench import machine
from bench.processes import CLIENT_CORE, SERVER_CORE, Processes, Start, System, node
from bench.queue_client import BATCH
from bench.report import Row, Values, Wanted
from bench.rounds import Benchmark, Measurement, Phase, Round, Settings, at_least
from bench.security_client import SecurityJob
from swarm.core.credentials import Credentials, KnownClient, Permissions

VALUE_BYTES = 100
TLS_KEPT = 0.65  # of the throughput of batches
LOGIN_MS = 2.0
RING_BYTES = 64 << 20
CERTIFICATE, CA, CLIENT, CLIENTS = "node.pem", "ca.pem", "client", "clients"

# A node in its role. Beside "ours", which has it all, there are:
WITHOUT, LOGIN, TLS = "without", "with a login", "with TLS"


def secured(module: str, ini: str = "", *, tls: bool = False, login: bool = False) -> Start:
    """A node whose certificate and credentials are in its directory, with what its clients need."""
    plain = node(module, ini)

    def command(directory: Path, port: int) -> list[str]:
        config = ini
        if tls:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(directory / CA)
            certificate = directory / CERTIFICATE
            certificate.touch(0o600)
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
            config += f"\n[tls]\ncertificate = {certificate}\n"
        if login:
            client = KnownClient(Credentials("bench", bytes(32)), Permissions.parse("read=* write=* admin=*"))
            for name, line in ((CLIENTS, client.to_line()), (CLIENT, client.credentials.to_line())):
                (directory / name).touch(0o600)
                (directory / name).write_text(f"{line}\n", encoding="utf-8")
            config += f"\n[node]\ncredentials = {directory / CLIENTS}\n"
        return node(module, config).command(directory, port)

    return Start(command, plain.serves, plain.says_on, plain.finds_port)


DHT_NODES: dict[System, Start] = {
    "ours": secured("nodes.dht", tls=True),
    WITHOUT: secured("nodes.dht"),
}
RING = f"[queue]\nring_bytes = {RING_BYTES}\n"
QUEUE_NODES: dict[System, Start] = {
    "ours": secured("nodes.queue", RING, tls=True),
    WITHOUT: secured("nodes.queue", RING),
}
LOGIN_NODES: dict[System, Start] = {
    WITHOUT: secured("nodes.dht"),
    LOGIN: secured("nodes.dht", login=True),
    TLS: secured("nodes.dht", tls=True),
    "ours": secured("nodes.dht", tls=True, login=True),
}
COMPLETE = Settings(5, 100_000, (), single_s=1.0)
QUICK = Settings(2, 10_000, (), single_s=0.25)


class SecurityRound(Round):
    def __init__(self, settings: Settings, processes: Processes, directory: Path, values: Values, number: int) -> None:
        super().__init__(processes, values, number)
        self.settings = settings

    def client(self, system: System, work: str, *, core: int = CLIENT_CORE) -> dict[str, float]:
        server = self.servers[system]
        files = {"ca": server.directory / CA, "credentials": server.directory / CLIENT}
        there = {name: str(path) for name, path in files.items() if path.exists()}
        settings = self.settings
        job = SecurityJob(work, server.port, settings.records, VALUE_BYTES, settings.single_s, **there)
        return self.processes.client(job, core)


def compared(work: str, names: dict[str, str], wanted: Wanted | None, core: int = CLIENT_CORE) -> Measurement:
    """The same with TLS and without. names: of the rows, by the figure of the client program."""
    rows = {figure: Row(name, "/s", "without TLS", wanted, WITHOUT) for figure, name in names.items()}

    def measure(this: SecurityRound, system: System) -> None:
        figures = this.client(system, work, core=core)
        for figure, row in rows.items():
            this.note(row, system, figures[figure])

    return Measurement(tuple(rows.values()), measure, ("ours", WITHOUT))


CONNECTS = {
    LOGIN: Row(f"connect: {LOGIN}", "ms", "without", Wanted("ours at most", LOGIN_MS), WITHOUT),
    TLS: Row(f"connect: {TLS}", "ms", "without", None, WITHOUT),
    "ours": Row("connect: with both", "ms", "without", None, WITHOUT),
}


def connect(this: SecurityRound, system: System) -> None:
    taken_ms = this.client(system, "connect")["ms"]
    for each, row in CONNECTS.items():
        if system == WITHOUT:
            this.note(row, WITHOUT, taken_ms)
        elif system == each:
            this.note(row, "ours", taken_ms)


def batch_names(**names: str) -> dict[str, str]:
    return {figure: f"blocking: {name} of {BATCH:,}, {VALUE_BYTES} B" for figure, name in names.items()}


SINGLE = {each: f"blocking: {each}, one at a time, same core, {VALUE_BYTES} B" for each in ("put", "get")}
PHASES = (
    Phase(
        DHT_NODES,
        (
            compared("dht batches", batch_names(put="put_many", get="get_many"), at_least(TLS_KEPT)),
            compared("one at a time", SINGLE, None, SERVER_CORE),
        ),
    ),
    Phase(
        QUEUE_NODES,
        (compared("queue batches", batch_names(push="push_many", pop="pop_many"), at_least(TLS_KEPT)),),
    ),
    Phase(LOGIN_NODES, (Measurement(tuple(CONNECTS.values()), connect, tuple(LOGIN_NODES)),)),
)
ROWS = tuple(row for phase in PHASES for each in phase.rest for row in each.rows)


def describe(settings: Settings, neighbours: machine.Neighbours) -> dict[str, str]:
    return machine.describe(["trustme"]) | {
        "TLS": f"{ssl.OPENSSL_VERSION}; version 1.3 with the cipher that OpenSSL chooses (AES-256-GCM), a certificate "
        "with an EC key (P-256) that one authority has signed; no resumption",
        "settings": f"{settings.records:,} records in batches of {BATCH:,}; {settings.single_s:g} s of each; "
        f"connect: the median of that time; medians of {settings.rounds} rounds",
        "the clients' settings": "their defaults, but for a timeout of 30 s",
        "the nodes' settings": f"their defaults (with the journal), and a ring of {RING_BYTES >> 20} MiB",
        "pinning": f"servers on core {SERVER_CORE}, clients on core {CLIENT_CORE}; same core: both on {SERVER_CORE}",
        "files": machine.file_system(Path(tempfile.gettempdir())),
        "the machine meanwhile": neighbours.describe(),
    }


BENCHMARK = Benchmark(
    """Measures what TLS and a login cost.

    Figures of a complete run go to bench/security.json, those of a --quick or partial one to build/bench/security.json.
    """,
    COMPLETE,
    QUICK,
    BATCH,
    PHASES,
    ROWS,
    SecurityRound,
    describe,
    results="security.json",
    mark="security",
    peer_heading="without",
    spread_heading="",
)

if __name__ == "__main__":
    BENCHMARK.command()()
