"""From when until when a certificate is valid: the ssl module tells it of a peer's certificate, not of one's own."""

import re
import ssl
from datetime import UTC, datetime
from typing import NamedTuple

_PEM = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END (?:X509 |TRUSTED )?CERTIFICATE-----", re.DOTALL
)

# Tags of DER (X.690 §8.1.2).
_INTEGER, _UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _VERSION = 0x02, 0x17, 0x18, 0x30, 0xA0

UTC_TIME_CENTURY = 50  # two digits of a year: from 50 on of the last century (RFC 5280 §4.1.2.5.1)


class Validity(NamedTuple):
    begins: datetime
    ends: datetime


def validity_of(pem: bytes) -> Validity:
    """Of the first certificate in it, which is the one that is shown to others. Raises ValueError, of one line."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}\n{found[1].decode('ascii').strip()}\n{ssl.PEM_FOOTER}")
    return validity_of_der(der)


def validity_of_der(der: bytes) -> Validity:
    """RFC 5280 §4.1: Certificate { TBSCertificate { [0] version, serialNumber, signature, issuer, Validity { notBefore,
    notAfter }, … }, … }, where all that has parts is a SEQUENCE, and the version may be left out."""
    certificate, _ = _take(der, _SEQUENCE)
    rest, _ = _take(certificate, _SEQUENCE)
    if rest[:1] == bytes([_VERSION]):
        _, rest = _take(rest, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):
        _, rest = _take(rest, tag)
    times, _ = _take(rest, _SEQUENCE)
    begins, times = _take(times, _UTC_TIME, _GENERALIZED_TIME)
    ends, _ = _take(times, _UTC_TIME, _GENERALIZED_TIME)
    return Validity(_time(begins), _time(ends))


def _take(data: bytes, *tags: int) -> tuple[bytes, bytes]:
    """The content of the element with which data begins, and what comes after it (X.690 §8.1.3: its length is one byte,
    or that many bytes as the first says)."""
    if len(data) < 2 or data[0] not in tags:
        raise ValueError("it is no certificate")
    length, begin = data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin], "big")
    if len(data) < begin + length:
        raise ValueError("the certificate is not complete")
    return data[begin : begin + length], data[begin + length :]


def _time(content: bytes) -> datetime:
    """RFC 5280 §4.1.2.5: YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ, which is Greenwich time."""
    if not re.fullmatch(rb"\d{12}(\d\d)?Z", content):
        raise ValueError("the certificate has a time of another form than RFC 5280 knows")
    text = content.decode("ascii")
    if len(text) == len("YYMMDDHHMMSSZ"):
        text = ("19" if int(text[:2]) >= UTC_TIME_CENTURY else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
