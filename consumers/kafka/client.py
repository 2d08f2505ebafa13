"""What every client of Kafka is made with, and what its errors mean to us."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kafka.errors as kafka_errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.net.sasl.oauth import AbstractTokenProvider

from streamgauge.consumers.broker import (
    BrokerError,
    BrokerTimeoutError,
    FencedError,
    NotRetainedError,
    UnknownTopicError,
)
from streamgauge.consumers.config import KafkaSettings
from streamgauge.stream.config import ConfigError, duration_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamgauge.consumers.config import Config, KafkaSecurity, Secret

REQUEST_TIMEOUT_MS = 5_000

# Without any, OpenSSL asks for the password of a key on the terminal, and waits.
_NO_PASSWORD = ""

_TIMED_OUT = (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError)
_FENCED = (
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.InvalidTxnStateError,
    kafka_errors.InvalidProducerIdMappingError,
)

# At DEBUG the clients log all that they are configured with, passwords among it. And what they
# call errors is the ordinary life of a cluster: what matters is raised, and told in our words.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


class _LastRefusal(logging.Handler):
    """Remembers why no connection could be made.

    The client logs that and no more: after the time-out it only says that it could not connect,
    whether nobody listens there or our password is wrong.
    """

    def __init__(self, logger: str) -> None:
        super().__init__(logging.WARNING)
        self._error: BaseException | None = None
        self._at_s = 0.0
        source = logging.getLogger(logger)
        source.setLevel(logging.WARNING)
        source.propagate = False
        source.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            # That it was tried for too long is what is known already.
            if isinstance(argument, BaseException) and not isinstance(argument, _TIMED_OUT):
                self._error, self._at_s = argument, time.monotonic()

    def within(self, seconds: float) -> BaseException | None:
        """The last reason, where it is not older than that."""
        return self._error if time.monotonic() - self._at_s <= seconds else None


_last_refusal = _LastRefusal("kafka.net.manager")


def kafka_settings(config: Config) -> KafkaSettings:
    """The section `broker`, which says that the broker is Kafka.

    Raises:
        ConfigError: it says otherwise.
    """
    if not isinstance(config.broker, KafkaSettings):
        raise ConfigError("broker.kind: this is for `kafka`, set it and broker.bootstrap_servers")
    return config.broker


def client_options(config: Config, role: str) -> dict[str, Any]:
    """Keyword arguments for any client of kafka-python.

    Args:
        config: the whole configuration.
        role: what the client is for; part of its `client_id`, which brokers log.

    Raises:
        ConfigError: a secret is not where the configuration says.
    """
    settings = kafka_settings(config)
    return {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        # Brokers log it, and other workers name it where it is in their way.
        "client_id": f"{config.app}-{role}-{os.getpid()}",
        "bootstrap_timeout_ms": settings.timeout,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        # A broker that comes back is found within a second, not within the default of thirty.
        "reconnect_backoff_max_ms": 1_000,
        "metadata_max_age_ms": 30_000,
        **_security_options(settings.security),
    }


def _consumer_options(config: Config, role: str) -> dict[str, Any]:
    """Keyword arguments for `KafkaConsumer`: raw bytes, committed records, explicit positions."""
    return {
        **client_options(config, role),
        "isolation_level": "read_committed",
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 100,
        "max_partition_fetch_bytes": 4 << 20,
        "metrics_enabled": False,
    }


def _producer_options(config: Config, role: str) -> dict[str, Any]:
    """Keyword arguments for `KafkaProducer`: idempotent, all replicas, few requests."""
    return {
        **client_options(config, role),
        "acks": "all",
        "compression_type": "lz4",
        "linger_ms": 20,
        "batch_size": 1 << 18,
        "max_request_size": 4 << 20,
        "metrics_enabled": False,
    }


def make_consumer(config: Config, role: str, **options: Any) -> KafkaConsumer:
    """A consumer with our options and others; brokers make no topic because of it."""
    consumer = KafkaConsumer(**{**_consumer_options(config, role), **options})
    _forbid_topics(consumer._cluster)  # noqa: SLF001
    return consumer


def make_producer(config: Config, role: str, **options: Any) -> KafkaProducer:
    """A producer with our options and others; brokers make no topic because of it."""
    producer = KafkaProducer(**{**_producer_options(config, role), **options})
    _forbid_topics(producer._metadata)  # noqa: SLF001
    return producer


def _forbid_topics(cluster: Any) -> None:
    # kafka-python 3.0 does not pass its option `allow_auto_create_topics` on to where it counts.
    cluster.config["allow_auto_create_topics"] = False


def _security_options(security: KafkaSecurity) -> dict[str, Any]:
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
    """The secret itself.

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


def any_reachable(config: Config, known: Iterable[str], timeout_s: float) -> bool:
    """Whether any broker, of the configured or of the `known` ones, lets a client in by then.

    Each is asked on its own: a client that is given several spends all of its time on one that
    hangs.
    """
    try:
        options = client_options(config, "question")
    except ConfigError:
        # A secret is no longer where it was: nothing lets us in.
        return False
    answered = threading.Event()

    def ask(server: str) -> None:
        own = {"bootstrap_servers": [server], "bootstrap_timeout_ms": round(timeout_s * 1000)}
        with suppress(kafka_errors.KafkaError):
            client = KafkaAdminClient(**{**options, **own})
            answered.set()
            client.close()

    for server in {*options["bootstrap_servers"], *known}:
        # Not waited for: a handshake with a broker that hangs has no end.
        threading.Thread(target=ask, args=(server,), daemon=True).start()
    return answered.wait(timeout_s)


def abandon(producer: KafkaProducer) -> None:
    """Let go of a producer that has failed, and of whatever it has not sent."""

    def close() -> None:
        try:
            producer.close(timeout=0)
        except kafka_errors.KafkaTimeoutError:
            # With records in flight `close` raises before it has told its thread to end.
            producer._sender.force_close()  # noqa: SLF001 - there is no public way

    # Its thread may hang on a broker that does not answer; nobody waits for it.
    threading.Thread(target=close, daemon=True).start()


@contextmanager
def translate_errors(config: Config) -> Iterator[None]:
    """Make the client's errors the broker contract's.

    Raises:
        FencedError: another producer has taken this one's place.
        BrokerTimeoutError: the brokers did not answer, or not in time; trying again may help.
        UnknownTopicError: there is no such topic.
        NotRetainedError: what should be read was deleted.
        BrokerError: any other refusal.
    """
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise to_broker_error(error, config) from error
    except OSError as error:
        raise BrokerError(
            f"Kafka at {kafka_settings(config).bootstrap_servers}: {error}"
        ) from error


def to_broker_error(error: BaseException, config: Config) -> BrokerError:
    """An error of the client as one of the broker contract's."""
    settings = kafka_settings(config)
    where = f"Kafka at {settings.bootstrap_servers}"
    if isinstance(error, kafka_errors.KafkaTimeoutError) and "bootstrap" in str(error):
        error = _last_refusal.within(settings.timeout / 1000) or error
    name = type(error).__name__
    what = str(error) if name in str(error) else f"{name}: {error}".removesuffix(": ")
    if isinstance(error, _FENCED):
        return FencedError(f"another worker has taken the partition over ({what})")
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return UnknownTopicError(
            f"{where} lacks a topic ({what}); `streamgauge topics create` makes them all"
        )
    if isinstance(error, kafka_errors.OffsetOutOfRangeError):
        return NotRetainedError(f"{where} no longer retains this ({what})")
    is_asked = settings.security.protocol != "PLAINTEXT"
    if is_asked and "disconnected" in what:
        # Its answer and the end of the connection come together, and the client drops the answer.
        return BrokerTimeoutError(
            f"{where} broke every connection off for {duration_text(settings.timeout)} while we "
            "said who we are; most likely it does not accept our credentials: see broker.security"
        )
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return BrokerError(f"{where} does not accept our credentials; see broker.security")
    if isinstance(error, kafka_errors.AuthorizationError):
        return BrokerError(f"{where} does not allow this ({what}); grant it to our user")
    # Of a transaction's request the client says it in words alone.
    is_late = kafka_errors.RequestTimedOutError.__name__ in what
    if is_late or isinstance(error, kafka_errors.KafkaTimeoutError | kafka_errors.RetriableError):
        return BrokerTimeoutError(
            f"{where} did not answer within {duration_text(settings.timeout)} ({what}); "
            "check that it runs, broker.bootstrap_servers and broker.security"
        )
    return BrokerError(f"{where}: {what}")
