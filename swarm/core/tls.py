"""TLS of nodes and clients: the contexts with which they begin it, and how its errors are told.

TLS 1.2 at least, host names checked, no compression, no renegotiation. A key that everybody on the machine can read is
refused, for then it is none. docs/decisions/0012-tls.md tells why it is as it is.
"""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from swarm.core.certificate import Validity, validity_of
from swarm.core.config import ConfigError
from swarm.core.errors import BadArgument, TlsFailed

log = logging.getLogger(__name__)

OTHERS = 0o007  # the bits of a file's mode for everybody who is neither its owner nor in its group

EXPIRED = "the node needs a new one"

# What OpenSSL says of a certificate (X509_V_ERR_…), and what is to be done about it.
_HINTS = {
    9: "it is not valid yet: compare the clocks of both machines",
    10: EXPIRED,
    18: "it is signed by itself: name it, or the authority that has signed it, with ca (--tls-ca)",
    19: "name the authority that has signed it with ca (--tls-ca)",
    20: "name the authority that has signed it with ca (--tls-ca)",
    21: "name the authority that has signed it with ca (--tls-ca)",
    62: "name the node as its certificate does, or give it a certificate for this name",
    64: "name the node as its certificate does, or give it a certificate for this address",
}

# What a node tells of a client that it refuses (alerts of TLS), and what is to be done about it.
_WANTS_CERTIFICATE = (
    "the node wants a certificate of its clients: give certificate and key (--tls-certificate, --tls-key)"
)
_REFUSES_CERTIFICATE = "the node does not accept this client's certificate"
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": f"{_REFUSES_CERTIFICATE}: it is not signed by the authority of the node's client_ca",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{_REFUSES_CERTIFICATE}: it has expired, or is not valid yet; get a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": f"{_REFUSES_CERTIFICATE}: it is not for clients",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the node refuses the handshake: it may want a certificate of its clients, "
    "or the two ends have no cipher in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the two ends have no version of TLS in common; the node wants 1.2 at least",
}
NOT_TLS = "the node does not speak TLS: reach it without, or configure [tls] at the node"
TLS_ONLY = "this node speaks TLS only: give the client tls=client_context(ca) (--tls-ca FILE)"


@dataclass(frozen=True)
class TlsSection:
    """[tls] of every node's configuration. Without a certificate the node does not speak TLS."""

    certificate: str = ""
    key: str = ""
    """Empty: in the certificate's file."""
    client_ca: str = ""
    """Empty: clients need no certificate."""


class NodeTls:
    """The TLS of a node: what connections begin with, made anew when its files have changed."""

    def __init__(self, section: TlsSection) -> None:
        """Raises ConfigError; not for a certificate that is out of its time, since the clock may be wrong, too."""
        self._section = section
        self.context = _context_of(section)
        self.validity = _validity_of(section)

    @property
    def certificate(self) -> str:
        """The file's name."""
        return self._section.certificate

    def warn(self) -> None:
        """Tells in root.log if the certificate is out of its time, so that no client accepts it."""
        if why := _out_of_time(self.validity):
            log.warning("section [tls]: the certificate %s %s: no client accepts it", self.certificate, why)

    def reload(self) -> None:
        """Reads the files again, for connections that begin from now on. Where they are wrong, or the certificate is
        out of its time, all stays as it was."""
        try:
            context, validity = _context_of(self._section), _validity_of(self._section)
            if why := _out_of_time(validity):
                _refuse_configuration(f"the certificate {self.certificate} {why}")
        except ConfigError as error:
            log.error("%s; new connections go on with the certificate that was read before", error)
        else:
            self.context, self.validity = context, validity
            log.info("TLS: the certificate %s was read again", self.certificate)


def node_tls(section: TlsSection) -> NodeTls | None:
    """What the section asks for, None if that is no TLS. Raises ConfigError."""
    if section.certificate:
        return NodeTls(section)
    if section.key or section.client_ca:
        raise ConfigError("section [tls] has a key or client_ca, and no certificate: without it there is no TLS")
    return None


def _context_of(section: TlsSection) -> ssl.SSLContext:
    return node_context(
        Path(section.certificate),
        Path(section.key) if section.key else None,
        Path(section.client_ca) if section.client_ca else None,
    )


def _validity_of(section: TlsSection) -> Validity:
    try:
        return validity_of(Path(section.certificate).read_bytes())
    except (OSError, ValueError) as error:
        _refuse_configuration(f"until when the certificate {section.certificate} is valid is not understood: {error}")


def _out_of_time(validity: Validity) -> str | None:
    now = datetime.now(UTC)
    if now > validity.ends:
        return f"has expired on {validity.ends:%Y-%m-%d at %H:%M} UTC"
    if now < validity.begins:
        return f"is not valid before {validity.begins:%Y-%m-%d at %H:%M} UTC, it is {now:%Y-%m-%d at %H:%M} here"
    return None


def node_context(certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> ssl.SSLContext:
    """For a node.

    certificate: a PEM file with it and what leads from it to its authority. key: by default in the same file.
    client_ca: PEM file; clients must show a certificate of this authority. Raises ConfigError, of one line.
    """
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    # Connections last long, so resuming them is worth nothing, and the tickets for it would come between the answers.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET  # the same for TLS 1.2
    _load_certificate(context, certificate, key, _refuse_configuration)
    if client_ca is not None:
        _load_ca(context, client_ca, _refuse_configuration)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca: str | Path | None = None, certificate: str | Path | None = None, key: str | Path | None = None
) -> ssl.SSLContext:
    """For a client's tls=: the node's certificate is checked, and that it is for the name by which the node is reached.

    ca: PEM file of the authority that signs the nodes' certificates; None: those that the system trusts.
    certificate, key: PEM files of the client's own, for nodes that want one; key None: in the same file.
    Raises BadArgument, of one line, if a file cannot be used.
    """
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_ca(context, Path(ca), _refuse_argument)
    if certificate is not None:
        _load_certificate(context, Path(certificate), None if key is None else Path(key), _refuse_argument)
    elif key is not None:
        raise BadArgument(f"the TLS key {key} is of no use without its certificate")
    return context


Refuse = Callable[[str], NoReturn]


def _refuse_configuration(text: str) -> NoReturn:
    raise ConfigError(f"section [tls]: {text}")


def _refuse_argument(text: str) -> NoReturn:
    raise BadArgument(f"TLS: {text}")


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None, refuse: Refuse) -> None:
    _check_readable(certificate, refuse)
    secret = certificate if key is None else key
    _check_readable(secret, refuse)
    if secret.stat().st_mode & OTHERS:
        refuse(f"the key {secret} can be read or written by everybody on this machine; run: chmod o= {secret}")
    try:
        context.load_cert_chain(certificate, key, password=lambda: refuse(f"the key {secret} has a password"))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            refuse(f"the key {secret} is not that of the certificate {certificate}")
        where = certificate if key is None else f"{certificate} or its key {key}"
        refuse(f"{where} is not understood, PEM is expected: {reason_of(error)}")


def _load_ca(context: ssl.SSLContext, ca: Path, refuse: Refuse) -> None:
    _check_readable(ca, refuse)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        refuse(f"{ca} holds no certificates of an authority, PEM is expected: {reason_of(error)}")


def _check_readable(path: Path, refuse: Refuse) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}")


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's words, without its numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused: {error.verify_message}"
    return error.reason.replace("_", " ").lower() if error.reason else str(error.args[-1])


def failed(error: ssl.SSLError) -> TlsFailed:
    """What a client tells when TLS with a node has failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = _HINTS.get(error.verify_code)
        text = f"the certificate that the node shows is refused: {error.verify_message}"
        return TlsFailed(f"{text} ({hint})" if hint else text)
    return TlsFailed(_ALERTS.get(error.reason or "", f"TLS has failed: {reason_of(error)}"))
