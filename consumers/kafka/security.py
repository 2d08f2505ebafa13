"""Certificates, passwords and tokens, as a client of Kafka takes them."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from streamgauge.stream.config import ConfigError

if TYPE_CHECKING:
    from streamgauge.consumers.config import KafkaSecurity, Secret

# Without any, OpenSSL asks for the password of a key on the terminal, and waits.
_NO_PASSWORD = ""


def security_options(security: KafkaSecurity) -> dict[str, Any]:
    """Return the keyword arguments with which a client of kafka-python encrypts and signs in.

    Raises:
        ConfigError: a certificate or a secret is not where the configuration says, or is wrong.
    """
    key_password = _secret("ssl_key_password", security.ssl_key_password)
    _check_certificates(security, key_password)
    options: dict[str, Any] = {
        "security_protocol": security.protocol,
        "ssl_check_hostname": security.ssl_check_hostname,
        "ssl_cafile": security.ssl_cafile,
        "ssl_certfile": security.ssl_certfile,
        "ssl_keyfile": security.ssl_keyfile,
        "ssl_password": key_password or _NO_PASSWORD,
        "sasl_mechanism": security.sasl_mechanism,
        "sasl_plain_username": security.sasl_username,
        "sasl_plain_password": _secret("sasl_password", security.sasl_password),
    }
    if security.sasl_token is not None:
        options["sasl_oauth_token_provider"] = _Token(security.sasl_token)
    return options


def _check_certificates(security: KafkaSecurity, key_password: str | None) -> None:
    """Find out now what a client would only meet while it connects, and try again and again.

    Raises:
        ConfigError: a file is not there, is not what it should be, or its password is wrong.
    """
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(security, name)
        if path is not None:
            _read(f"broker.security.{name}", path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if security.ssl_cafile is not None:
            context.load_verify_locations(security.ssl_cafile)
    except ssl.SSLError:
        raise ConfigError(
            f"broker.security.ssl_cafile: {security.ssl_cafile}: holds no certificate in PEM"
        ) from None
    try:
        if security.ssl_certfile is not None:
            context.load_cert_chain(
                security.ssl_certfile, security.ssl_keyfile, key_password or _NO_PASSWORD
            )
    except ssl.SSLError:
        raise ConfigError(
            f"broker.security.ssl_keyfile: {security.ssl_keyfile}: is not the key of "
            f"{security.ssl_certfile} in PEM, or ssl_key_password is not its password"
        ) from None


class _Token(AbstractTokenProvider):  # type: ignore[misc]
    """A bearer token, read when a connection is made: whoever renews it just writes it anew."""

    def __init__(self, where: Secret) -> None:
        self._where = where
        self.token()

    def token(self) -> str:
        return _secret("sasl_token", self._where) or ""


def _secret(name: str, where: Secret | None) -> str | None:
    """Return the secret itself.

    Raises:
        ConfigError: it is not where the configuration says.
    """
    if where is None:
        return None
    path = f"broker.security.{name}"
    if where.env is not None:
        value = os.environ.get(where.env)
        if not value:
            raise ConfigError(f"{path}.env: the environment variable {where.env} is not set")
        return value
    value = _read(f"{path}.file", where.file or "").rstrip("\r\n")
    if not value:
        raise ConfigError(f"{path}.file: {where.file}: is empty")
    return value


def _read(field: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{field}: {path}: cannot be read: {reason}") from None
