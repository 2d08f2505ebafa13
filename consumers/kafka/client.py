"""Clients of Kafka, made with our settings."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import kafka.errors as kafka_errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streamgauge.consumers.config import KafkaSettings
from streamgauge.consumers.kafka.security import security_options
from streamgauge.stream.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamgauge.consumers.config import Config

REQUEST_TIMEOUT_MS = 5_000

# At DEBUG the clients log all that they are configured with, passwords among it. And what they
# call errors is the ordinary life of a cluster: what matters is raised, and told in our words.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


def kafka_settings(config: Config) -> KafkaSettings:
    """Return the section `broker`, which says that the broker is Kafka.

    Raises:
        ConfigError: it says otherwise.
    """
    if not isinstance(config.broker, KafkaSettings):
        raise ConfigError("broker.kind: this is for `kafka`, set it and broker.bootstrap_servers")
    return config.broker


def client_options(config: Config, role: str) -> dict[str, Any]:
    """Return the keyword arguments for any client of kafka-python.

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
        **security_options(settings.security),
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
    """Make a consumer with our options and others; brokers make no topic because of it."""
    consumer = KafkaConsumer(**{**_consumer_options(config, role), **options})
    _forbid_topics(consumer._cluster)  # noqa: SLF001
    return consumer


def make_producer(config: Config, role: str, **options: Any) -> KafkaProducer:
    """Make a producer with our options and others; brokers make no topic because of it."""
    producer = KafkaProducer(**{**_producer_options(config, role), **options})
    _forbid_topics(producer._metadata)  # noqa: SLF001
    return producer


def _forbid_topics(cluster: Any) -> None:
    # kafka-python 3.0 does not pass its option `allow_auto_create_topics` on to where it counts.
    cluster.config["allow_auto_create_topics"] = False


def any_reachable(config: Config, known: Iterable[str], timeout_s: float) -> bool:
    """Return true when a broker, configured or `known`, lets a client in within `timeout_s`.

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
