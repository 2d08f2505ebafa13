"""A producer that keeps what was not acknowledged, and sends it once more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.broker import BrokerError, UnknownTopicError
from streamgauge.consumers.kafka.client import (
    REQUEST_TIMEOUT_MS,
    abandon,
    kafka_settings,
    make_producer,
)
from streamgauge.consumers.kafka.errors import translate_errors
from streamgauge.consumers.kafka.transaction import ProducerRecord

if TYPE_CHECKING:
    from kafka import KafkaProducer

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Headers

_QUEUE_MAX = 1000


class TopicProducer:
    """Writes records to Kafka; see `streamgauge.consumers.broker.Producer`.

    A record whose acknowledgement was lost is sent once more by the next `flush`: the join counts
    it as a duplicate. It is sent by another client, since one that has failed may never recover.
    """

    def __init__(self, config: Config, topics: frozenset[str]) -> None:
        self._config = config
        self._topics = topics
        self._queued: list[ProducerRecord] = []
        self._producer: KafkaProducer | None = None
        with translate_errors(config):
            self._client()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue a record; equal keys go to the same partition. `timestamp_ms` None means now.

        When a thousand records are queued they are flushed first.

        Raises:
            UnknownTopicError: there is no such topic.
            BrokerTimeoutError: the queue was full and could not be written in time; this record
                is not queued, the others still are.
        """
        if topic not in self._topics:
            raise UnknownTopicError(f"no topic {topic!r}; there are {', '.join(self._topics)}")
        if len(self._queued) >= _QUEUE_MAX:
            self.flush()
        if timestamp_ms is None:
            timestamp_ms = time.time_ns() // 1_000_000
        # Kafka has no record with neither a key nor a value.
        self._queued.append(
            ProducerRecord(
                topic, b"" if key is value is None else key, value, headers, timestamp_ms
            )
        )

    def flush(self) -> None:
        """Write what is queued; when it returns, readers see it.

        Raises:
            BrokerTimeoutError: not written in time; what was not acknowledged is still queued.
        """
        if not self._queued:
            return
        try:
            with translate_errors(self._config):
                self._write(self._client())
        except BrokerError:
            self.close()
            raise

    def _write(self, producer: KafkaProducer) -> None:
        """Send what is queued, and keep in the queue what was not acknowledged."""
        sent = [
            (
                row,
                producer.send(
                    row.topic, row.value, row.key, list(row.headers), None, row.timestamp_ms
                ),
            )
            for row in self._queued
        ]
        try:
            producer.flush(timeout=kafka_settings(self._config).timeout / 1000)
        finally:
            self._queued = [row for row, future in sent if not future.succeeded()]
        for _, future in sent:
            if future.failed():
                raise future.exception

    def _client(self) -> KafkaProducer:
        if self._producer is None:
            timeout_ms = kafka_settings(self._config).timeout
            self._producer = make_producer(
                self._config,
                "producer",
                # The client refuses a time-out that no request fits into.
                request_timeout_ms=min(REQUEST_TIMEOUT_MS, timeout_ms // 2),
                delivery_timeout_ms=timeout_ms,
                max_block_ms=timeout_ms,
            )
        return self._producer

    def close(self) -> None:
        """Let the connections go; what is queued is not written."""
        producer, self._producer = self._producer, None
        if producer is not None:
            abandon(producer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Flush."""
        try:
            self.flush()
        finally:
            self.close()
