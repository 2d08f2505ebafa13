"""A user with a password, and certificates made on the spot, for listeners with SASL and TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.kafka.wire import HOST

if TYPE_CHECKING:
    from pathlib import Path

MODULES = "org.apache.kafka.common.security"
USER = "streamgauge"
PASSWORD = "secret-of-the-tests"
VALID_FOR = dt.timedelta(days=2)


class Security:
    """What brokers and clients know of each other.

    Args:
        folder: where the certificates go.

    Attributes:
        user, password: for PLAIN and SCRAM-SHA-512.
        ca: the certificate that all others are signed by.
        client: the client's certificate, and its key.
    """

    user = USER
    password = PASSWORD

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self.client = (folder / "client.pem", folder / "client.key")
        self._broker = folder / "broker.pem"

    def settings(self) -> dict[str, str]:
        """Make the certificates; the server properties that go with them."""
        self.ca.parent.mkdir(exist_ok=True)
        authority = Authority()
        self.ca.write_bytes(authority.certificate)
        certificate, key = authority.issue("broker")
        self._broker.write_bytes(key + certificate)
        for path, content in zip(self.client, authority.issue("client"), strict=True):
            path.write_bytes(content)
        return {
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._broker),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
            "listener.name.ssl.ssl.client.auth": "required",
            **_jaas("plain", "plain.PlainLoginModule", f'user_{USER}="{PASSWORD}"'),
            **_jaas("scram-sha-512", "scram.ScramLoginModule"),
            # Kafka's own default for tests: it believes a token that nobody has signed.
            **_jaas("oauthbearer", "oauthbearer.OAuthBearerLoginModule"),
        }

    def storage_options(self) -> tuple[str, str]:
        """What the storage has to be laid out with for a user of SCRAM."""
        return ("--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]")


def _jaas(mechanism: str, module: str, options: str = "") -> dict[str, str]:
    return {
        f"listener.name.{listener}.{mechanism}.sasl.jaas.config": (
            f"{MODULES}.{module} required {options};"
        )
        for listener in ("sasl_plaintext", "sasl_ssl")
    }


class Authority:
    """Issues certificates that are trusted by whoever trusts its own, which is `certificate`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority")
        certificate = _builder(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.certificate = _pem(certificate.sign(self._key, hashes.SHA256()))

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """A certificate for this machine and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
        certificate = _builder(_name(name), self._name, key.public_key()).add_extension(
            x509.SubjectAlternativeName(here), critical=False
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _pem(certificate.sign(self._key, hashes.SHA256())), private


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_FOR)
        .not_valid_after(now + VALID_FOR)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
