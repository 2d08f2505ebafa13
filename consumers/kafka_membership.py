"""Which partitions are this worker's: membership in the worker group.

The group only says who should work on what. It is not what keeps two workers apart: a worker that
was suspended still believes in its partitions, and is fenced when it tries to commit.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata

from consumers.kafka_client import consumer_options, errors_in_words, settings_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from consumers.broker import Position
    from stream.config import Config

_HEARTBEATS_PER_SESSION = 4


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what happens to the assignment; runs on the client's I/O thread."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._lock = threading.Lock()
        self._revoked: set[int] = set()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        # Input is read by another consumer; this one is a member and nothing else.
        self._consumer.pause(*assigned)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        with self._lock:
            self._revoked.update(partition for _, partition in revoked)

    def take_revoked(self) -> set[int]:
        with self._lock:
            revoked, self._revoked = self._revoked, set()
        return revoked


class Membership:
    """This worker's place in the group `config.app`.

    Members are all of one kind (dynamic, cooperative): kafka-python's assignors lose members
    when static and dynamic ones mix.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._topics = config.topics
        session_ms = settings_of(config).session_timeout
        with errors_in_words(config):
            self._consumer = KafkaConsumer(
                **{
                    **consumer_options(config, "member"),
                    "group_id": config.app,
                    "session_timeout_ms": session_ms,
                    "heartbeat_interval_ms": session_ms // _HEARTBEATS_PER_SESSION,
                    "partition_assignment_strategy": [CooperativeStickyAssignor],
                    # Never used: what is assigned is paused. But a position there must be.
                    "auto_offset_reset": "latest",
                }
            )
            self._listener = _Listener(self._consumer)
            self._consumer.subscribe([self._topics.predictions], listener=self._listener)

    def poll(self, timeout_s: float) -> None:
        """Join where we are not a member, and take part in rebalances."""
        with errors_in_words(self._config):
            self._consumer.poll(timeout_ms=round(timeout_s * 1000))

    def assigned(self) -> set[int]:
        """The partitions that the group has given to this worker."""
        return {partition for _, partition in self._consumer.assignment()}

    def take_revoked(self) -> set[int]:
        """Partitions taken away since the last call, those won back meanwhile included."""
        return self._listener.take_revoked()

    @property
    def is_stable(self) -> bool:
        """Whether this worker is a member and no rebalance is under way."""
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    def note(self, positions: Mapping[int, Position]) -> None:
        """Tell the group how far input is processed, for tools that show lag.

        Best effort: nothing that we do reads it, and an error is no error of ours.
        """
        if not positions:
            return
        offsets = {}
        for partition, position in positions.items():
            for topic, offset in (
                (self._topics.predictions, position.prediction_offset),
                (self._topics.labels, position.label_offset),
            ):
                offsets[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, "", -1)
        self._consumer.commit_async(offsets, callback=lambda *_: None)

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close(autocommit=False)
