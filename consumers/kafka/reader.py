"""A reader of whole topics, alone or as the one reader of a group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from streamgauge.consumers.broker import BrokerError, UnknownTopicError
from streamgauge.consumers.kafka.client import kafka_settings, make_consumer
from streamgauge.consumers.kafka.errors import translate_errors
from streamgauge.consumers.kafka.membership import Membership
from streamgauge.consumers.kafka.ranges import as_records, ask_offsets
from streamgauge.consumers.kafka.topics import Admin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Record

_POLL_MS = 100


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
        """Return up to `max_records` unread records, in offset order within a partition.

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
        """Return the group's place in each partition, else its start, else its end."""
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
