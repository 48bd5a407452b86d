"""The contexts of TLS, from the files that a configuration names: what they allow, and what is said of bad files."""

import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from swarm.core.config import EX_CONFIG, ConfigError
from swarm.core.errors import BadArgument
from swarm.core.tls import NodeTls, TlsSection, client_context, node_context, node_tls
from tests.certificates import EXPIRED, NOT_YET, Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def test_nodes_and_clients_want_version_1_2_at_least(authority: Authority) -> None:
    for context in (node_context(authority.issue()), client_context(authority.ca), client_context()):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_tickets_to_resume_sessions_with(authority: Authority, version: ssl.TLSVersion) -> None:
    at_node, at_client = NodeTls(authority.node()).context, authority.client()
    at_client.maximum_version = version
    session = None
    for _ in range(2):
        to_node, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        node = at_node.wrap_bio(to_node, to_client, server_side=True)
        client = at_client.wrap_bio(to_client, to_node, server_hostname="localhost", session=session)
        for _ in range(3):
            for end in (client, node):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        assert client.version() == node.version() == version.name.replace("v1_", "v1.")
        assert not client.session_reused
        session = client.session
        assert session is None or not session.has_ticket


def test_clients_check_certificate_and_name() -> None:
    context = client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_clients_trust_the_system_only_where_they_name_no_authority(authority: Authority) -> None:
    assert client_context(authority.ca).cert_store_stats()["x509_ca"] == 1
    trusted = ssl.create_default_context().cert_store_stats()
    assert client_context().cert_store_stats() == trusted


def test_nodes_want_certificates_of_clients_only_with_client_ca(authority: Authority) -> None:
    assert node_context(authority.issue()).verify_mode == ssl.CERT_NONE
    assert node_context(authority.issue(), client_ca=authority.ca).verify_mode == ssl.CERT_REQUIRED


def test_certificate_and_key_may_have_a_file_each(authority: Authority, tmp_path: Path) -> None:
    both = authority.issue().read_text()
    key_begins, certificate_begins = both.index("-----BEGIN"), both.index("-----BEGIN CERTIFICATE")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text(both[certificate_begins:])  # everybody may read this
    key.touch(0o640)
    key.write_text(both[key_begins:certificate_begins])
    node_context(certificate, key)
    client_context(authority.ca, certificate, key)


def missing(authority: Authority, path: Path) -> str:
    return "cannot be read: No such file or directory"


def a_directory(authority: Authority, path: Path) -> str:
    path.mkdir()
    return "cannot be read: Is a directory"


def no_pem(authority: Authority, path: Path) -> str:
    path.touch(0o600)
    path.write_bytes(b"\x00\x01" * 100)
    return "is not understood, PEM is expected"


def empty(authority: Authority, path: Path) -> str:
    path.touch(0o600)
    return "is not understood, PEM is expected"


def half(authority: Authority, path: Path) -> str:
    authority.write(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return "is not understood, PEM is expected"


def readable_by_everybody(authority: Authority, path: Path) -> str:
    authority.write(path)
    path.chmod(0o644)
    return f"run: chmod o= {path}"


def writable_by_everybody(authority: Authority, path: Path) -> str:
    authority.write(path)
    path.chmod(0o602)
    return f"run: chmod o= {path}"


def with_a_password(authority: Authority, path: Path) -> str:
    authority.write(path)
    content = path.read_bytes()
    key = load_pem_private_key(content, None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    path.write_bytes(locked + content[content.index(b"-----BEGIN CERTIFICATE") :])
    return "has a password"


BAD_CERTIFICATES = [
    missing, a_directory, no_pem, empty, half, readable_by_everybody, writable_by_everybody, with_a_password,
]  # fmt: skip


@pytest.mark.parametrize("make", BAD_CERTIFICATES, ids=lambda make: make.__name__)
def test_a_bad_file_is_told_in_one_line(
    make: Callable[[Authority, Path], str], authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "bad.pem"
    told = make(authority, path)
    with pytest.raises(ConfigError) as of_node:
        node_context(path)
    with pytest.raises(BadArgument) as of_client:
        client_context(authority.ca, path)
    for text in (str(of_node.value), str(of_client.value)):
        assert told in text
        assert str(path) in text
        assert "\n" not in text


def test_a_key_that_does_not_match(authority: Authority) -> None:
    one, other = authority.issue(), authority.issue()
    with pytest.raises(ConfigError, match=f"the key {other} is not that of the certificate {one}"):
        node_context(one, other)
    with pytest.raises(BadArgument, match=f"the key {other} is not that of the certificate {one}"):
        client_context(authority.ca, one, other)


@pytest.mark.parametrize("make", [missing, a_directory, no_pem, empty], ids=lambda make: make.__name__)
def test_a_bad_authority_is_told_in_one_line(
    make: Callable[[Authority, Path], str], authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "bad.pem"
    make(authority, path)
    with pytest.raises(ConfigError, match=str(path)):
        node_context(authority.issue(), client_ca=path)
    with pytest.raises(BadArgument, match=str(path)):
        client_context(path)


def test_a_key_without_its_certificate(authority: Authority) -> None:
    with pytest.raises(BadArgument, match="without its certificate"):
        client_context(authority.ca, key=authority.issue())
    for section in (TlsSection(key="key.pem"), TlsSection(client_ca="ca.pem")):
        with pytest.raises(ConfigError, match="no certificate"):
            node_tls(section)
    assert node_tls(TlsSection()) is None


def test_reload_keeps_what_there_was_where_the_files_are_bad(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    section = authority.node()
    tls = NodeTls(section)
    before = tls.context
    tls.reload()
    reloaded = tls.context
    assert reloaded is not before
    Path(section.certificate).write_text("half a cert")
    tls.reload()
    assert tls.context is reloaded
    assert "go on with the certificate that was read before" in caplog.text


@pytest.mark.parametrize(("times", "said"), [(EXPIRED, "has expired on 2002-01-01"), (NOT_YET, "before 2099-01-01")])
def test_reload_refuses_a_certificate_that_is_out_of_its_time(
    authority: Authority, caplog: pytest.LogCaptureFixture, times: dict[str, datetime], said: str
) -> None:
    section = authority.node()
    tls = NodeTls(section)
    before, valid = tls.context, tls.validity
    authority.write(Path(section.certificate), **times)
    tls.reload()
    assert (tls.context, tls.validity) == (before, valid)
    (line,) = caplog.messages
    assert said in line
    assert line.endswith("new connections go on with the certificate that was read before")
    authority.write(Path(section.certificate))
    tls.reload()
    assert tls.context is not before


@pytest.mark.parametrize("kind", ["dht", "queue", "logfiles"])
def test_a_node_with_a_bad_certificate_exits_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "node.ini"
    path.write_text("[tls]\ncertificate = none.pem\n")
    command = [sys.executable, "-m", f"nodes.{kind}", "--config", path, "--data", tmp_path / "data"]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False, text=True)
    assert ended.returncode == EX_CONFIG
    said = f"{kind}node: section [tls]: none.pem cannot be read: No such file or directory"
    assert ended.stderr.splitlines()[-1] == said
    assert "Traceback" not in ended.stderr
