"""The times of certificates: as another program reads them, and of what is none."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.certificate import Validity, validity_of, validity_of_der
from tests.certificates import EXPIRED, NOT_YET, Authority

FAR = {"not_before": datetime(1950, 1, 1, tzinfo=UTC), "not_after": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}
EDGE = {"not_before": datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), "not_after": datetime(2050, 1, 1, tzinfo=UTC)}

ANY = r"\w"  # what is wrong has many texts, of base64, too


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("times", [EXPIRED, NOT_YET, FAR, EDGE], ids=["expired", "not yet", "far", "edge"])
def test_the_times_with_which_it_was_issued(authority: Authority, times: dict[str, datetime]) -> None:
    path = authority.issue(**times)
    assert validity_of(path.read_bytes()) == Validity(times["not_before"], times["not_after"])


def test_it_agrees_with_another_reader(authority: Authority) -> None:
    for path in (authority.issue(), authority.issue("x" * 60 + ".example"), authority.ca):
        content = path.read_bytes()
        known = x509.load_pem_x509_certificates(content)[0]
        assert validity_of(content) == (known.not_valid_before_utc, known.not_valid_after_utc)


def test_the_first_certificate_counts(authority: Authority) -> None:
    expired = authority.issue(**EXPIRED).read_bytes()
    assert validity_of(expired + authority.ca.read_bytes()).ends == EXPIRED["not_after"]
    assert validity_of(authority.ca.read_bytes() + expired).ends > datetime.now(UTC) + timedelta(days=365)


def test_each_name_that_openssl_gives_to_a_certificate(authority: Authority) -> None:
    content = authority.issue(**EXPIRED).read_bytes()
    for name in (b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"):
        assert validity_of(content.replace(b" CERTIFICATE", b" " + name)).ends == EXPIRED["not_after"]


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\xff\xfe\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate(pem: bytes) -> None:
    with pytest.raises(ValueError, match=ANY):
        validity_of(pem)


def der_of(path: Path) -> bytes:
    return x509.load_pem_x509_certificates(path.read_bytes())[0].public_bytes(Encoding.DER)


def test_one_that_is_cut_off_anywhere(authority: Authority) -> None:
    der = der_of(authority.issue())
    for length in range(len(der)):
        with pytest.raises(ValueError, match=ANY):
            validity_of_der(der[:length])


@pytest.mark.parametrize(
    "time", [b"011301000000Z", b"010100000060Z", b"0101010000+00", b"20010101Z", b"01010100000\xb2Z"]
)
def test_times_of_another_form(authority: Authority, time: bytes) -> None:
    der = der_of(authority.issue(**EXPIRED))
    assert b"\x17\x0d010101000000Z" in der
    bad = der.replace(b"\x17\x0d010101000000Z", b"\x17\x0d" + time.ljust(13, b"Z"))
    with pytest.raises(ValueError, match=ANY):
        validity_of_der(bad)


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    with pytest.raises(ValueError, match=ANY):
        validity_of_der(data)
