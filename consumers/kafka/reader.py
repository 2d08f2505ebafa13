"""Producers and readers of Kafka."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from streamgauge.consumers.broker import BrokerError, UnknownTopicError
from streamgauge.consumers.kafka.client import (
    REQUEST_TIMEOUT_MS,
    abandon,
    kafka_settings,
    make_consumer,
    make_producer,
    translate_errors,
)
from streamgauge.consumers.kafka.membership import Membership
from streamgauge.consumers.kafka.ranges import as_records, ask_offsets
from streamgauge.consumers.kafka.topics import Admin
from streamgauge.consumers.kafka.transaction import ProducerRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Headers, Record

_QUEUE_MAX = 1000
_POLL_MS = 100


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


class TopicReader:
    """Follows whole topics on Kafka; see `streamgauge.consumers.broker.Reader`.

    A group's place is kept in Kafka under its name. That it has one reader is seen to by a group
    of its own, `<group>.reader`: the member that has all of its partitions reads.
    """

    def __init__(
        self, config: Config, topics: Sequence[str], group: str | None, *, from_start: bool
    ) -> None:
        self._config = config
        self._group = group
        self._timeout_ms = kafka_settings(config).timeout
        self._lock: Membership | None = None
        with translate_errors(config):
            self._consumer = make_consumer(
                config,
                f"reader-{group or 'alone'}",
                group_id=group,
                auto_offset_reset="earliest",
            )
        try:
            self._open(topics, from_start=from_start)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout_s: float, max_records: int = 1000) -> list[Record]:
        """Up to `max_records` unread records, in offset order within a partition.

        Waits up to `timeout_s` for the first one, or longer where there is one that is only slow
        to come; an empty list means that none was left.

        Raises:
            BrokerError: another reader of the group has taken this one's place.
        """
        deadline_s = time.monotonic() + timeout_s
        give_up_s = deadline_s + self._timeout_ms / 1000
        with translate_errors(self._config):
            while True:
                self._check_lock()
                left_s = deadline_s - time.monotonic()
                polled = self._consumer.poll(
                    max(0, min(_POLL_MS, round(left_s * 1000))), max_records
                )
                if polled:
                    return [r for records in polled.values() for r in as_records(records)]
                if left_s <= 0 and (self._is_at_end() or time.monotonic() > give_up_s):
                    return []

    def commit(self) -> None:
        """Remember, for the group, that everything polled so far has been dealt with.

        Raises:
            BrokerTimeoutError: not written in time; the group's place may be as it was.
            BrokerError: another reader of the group has taken this one's place.
        """
        if self._group is None:
            return
        self._check_lock()
        with translate_errors(self._config):
            offsets = {
                where: OffsetAndMetadata(self._consumer.position(where), "", -1)
                for where in self._consumer.assignment()
            }
            self._consumer.commit(offsets, timeout_ms=self._timeout_ms)

    def close(self) -> None:
        """Let another reader of the group in."""
        if self._lock is not None:
            self._lock.close()
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _is_at_end(self) -> bool:
        partitions = self._consumer.assignment()
        ends = ask_offsets(self._consumer.end_offsets, partitions, self._timeout_ms)
        return all((self._consumer.position(where) or 0) >= ends[where] for where in partitions)

    def _open(self, topics: Sequence[str], *, from_start: bool) -> None:
        """Go to where to begin in every partition of the topics.

        Raises:
            UnknownTopicError: one of them does not exist.
            BrokerError: another reader of the group is at work.
        """
        with translate_errors(self._config):
            partitions = {topic: self._partitions(topic) for topic in dict.fromkeys(topics)}
        if self._group is not None:
            self._take_lock(topics[0], partitions[topics[0]])
        wanted = [TopicPartition(topic, p) for topic, found in partitions.items() for p in found]
        with translate_errors(self._config):
            self._consumer.assign(wanted)
            # Now, and not with the first poll: what is written from here on is new.
            for where, offset in self._starts(wanted, from_start=from_start).items():
                self._consumer.seek(where, offset)

    def _partitions(self, topic: str) -> set[int]:
        partitions: set[int] = self._consumer.partitions_for_topic(topic)
        if not partitions:
            raise UnknownTopicError(f"no topic {topic!r}; `streamgauge topics list` shows what is")
        return partitions

    def _starts(
        self, partitions: list[TopicPartition], *, from_start: bool
    ) -> dict[TopicPartition, int]:
        """The group's place in each partition, else its start, else its end."""
        consumer = self._consumer
        ask = consumer.beginning_offsets if from_start else consumer.end_offsets
        starts = ask_offsets(ask, partitions, self._timeout_ms)
        if self._group is not None:
            for where in partitions:
                place = consumer.committed(where, timeout_ms=self._timeout_ms)
                starts[where] = starts[where] if place is None else place
        return starts

    def _take_lock(self, topic: str, partitions: set[int]) -> None:
        """Be the one reader of the group.

        Raises:
            BrokerError: another one is, and is not merely a dead one's shadow in the group.
        """
        name = f"{self._group}.reader"
        settings = kafka_settings(self._config)
        deadline_s = time.monotonic() + (settings.session_timeout + settings.timeout) / 1000
        with Admin(self._config) as admin:
            while members := admin.members(name):
                self._give_up_at(deadline_s, ", ".join(members))
        self._lock = Membership(self._config, name, topic)
        while self._lock.assigned() != partitions:
            self._give_up_at(deadline_s, "started at the same time")

    def _give_up_at(self, deadline_s: float, who: str) -> None:
        if time.monotonic() > deadline_s:
            raise BrokerError(
                f"another reader of group {self._group!r} is at work ({who}); stop it, or read "
                "with another group"
            )
        time.sleep(0.05)

    def _check_lock(self) -> None:
        if self._lock is not None and not self._lock.assigned():
            raise BrokerError(
                f"another reader of group {self._group!r} has taken this one's place; stop one"
            )
