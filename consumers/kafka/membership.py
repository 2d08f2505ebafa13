"""Membership in a consumer group: which partitions of a topic are this process's.

The group only says who should work on what. It is not what keeps two workers apart: one that was
suspended still believes in its partitions, and is fenced when it tries to commit.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata

from streamgauge.consumers.broker import BrokerTimeoutError
from streamgauge.consumers.kafka.client import kafka_settings, make_consumer
from streamgauge.consumers.kafka.errors import to_broker_error, translate_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kafka import KafkaConsumer, TopicPartition

    from streamgauge.consumers.config import Config

log = logging.getLogger(__name__)

_POLL_MS = 200
_HEARTBEAT_MS_MAX = 1_000
_NOTE_EVERY_S = 1.0
_RETRY_S = 0.5
# Who is told to stop does not wait a whole request's time for a broker that hangs.
_LEAVE_MS = 2_000
# A process that hangs for so long is not kept in the group by the thread that polls for it.
_SILENT_S_MAX = 120.0


class _Assignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Tells the group which partitions this member has.

    The client's own tells what it was given last, even where the group has thrown it out since, and
    a partition that one member claims and does not have is given to nobody.
    """

    consumer: KafkaConsumer

    def metadata(self, topics: Collection[str]) -> Any:
        self.member_assignment = list(self.consumer.assignment())
        return super().metadata(topics)


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

    def drain_revoked(self) -> set[int]:
        with self._lock:
            revoked, self._revoked = self._revoked, set()
        return revoked


class Membership:
    """This process's place in a group whose members share the partitions of one topic.

    A thread of its own polls for it: a rebalance takes several polls of some length, and must not
    wait for a batch to be processed. Members are all of one kind (dynamic, cooperative):
    kafka-python's assignors lose members when static and dynamic ones mix.
    """

    def __init__(self, config: Config, group: str, topic: str) -> None:
        self._config = config
        self._offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self._problem: BaseException | None = None
        self._asked_s = time.monotonic()
        self._silent_since_s: float | None = None
        self._closing = threading.Event()
        session_ms = kafka_settings(config).session_timeout
        assignor = _Assignor()
        with translate_errors(config):
            self._consumer = make_consumer(
                config,
                "member",
                group_id=group,
                session_timeout_ms=session_ms,
                # How long a rebalance waits for a member, and almost how long a member waits for
                # the answer. By default one lost answer holds the whole group up for five minutes;
                # this thread polls all the time, so no member needs longer than this.
                max_poll_interval_ms=2 * session_ms,
                heartbeat_interval_ms=min(_HEARTBEAT_MS_MAX, session_ms // 4),
                partition_assignment_strategy=[assignor],
                # Never used: what is assigned is paused. But a position there must be.
                auto_offset_reset="latest",
            )
            assignor.consumer = self._consumer
            self._listener = _Listener(self._consumer)
            self._consumer.subscribe([topic], listener=self._listener)
            # Who leads the group assigns nothing of a topic that it has not yet asked about.
            self._consumer.partitions_for_topic(topic)
        self._thread = threading.Thread(target=self._follow, name="membership", daemon=True)
        self._thread.start()

    def assigned(self) -> set[int]:
        """Return the partitions that the group has given to this process.

        Raises:
            BrokerError: the brokers refuse us.
        """
        self._asked_s = time.monotonic()
        if self._problem is not None:
            raise to_broker_error(self._problem, self._config)
        return {partition for _, partition in self._consumer.assignment()}

    def drain_revoked(self) -> set[int]:
        """Partitions taken away since the last call, those won back meanwhile included."""
        return self._listener.drain_revoked()

    @property
    def is_stable(self) -> bool:
        """True where this process is a member and no rebalance is under way."""
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    def silent_s(self) -> float:
        """For how long no broker has spoken for the group, 0 where one does."""
        since_s = self._silent_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def note(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell the group how far input is processed, for tools that show lag.

        Best effort: nothing that we do reads it, and an error is no error of ours.
        """
        self._offsets.update((p, OffsetAndMetadata(o, "", -1)) for p, o in offsets.items())

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._closing.set()
        self._thread.join()
        self._commit_noted()
        self._consumer.close(autocommit=False, timeout_ms=_LEAVE_MS)

    def _follow(self) -> None:
        next_note_s = 0.0
        while not self._closing.is_set():
            now_s = time.monotonic()
            if now_s - self._asked_s > _SILENT_S_MAX:
                self._closing.wait(_RETRY_S)
                continue
            try:
                self._consumer.poll(timeout_ms=_POLL_MS, max_records=1)
                if now_s >= next_note_s:
                    next_note_s = now_s + _NOTE_EVERY_S
                    self._commit_noted()
            except Exception as error:  # noqa: BLE001 - the owner is told, by its next question
                if not isinstance(to_broker_error(error, self._config), BrokerTimeoutError):
                    self._problem = error
                    return
                log.debug("the group does not answer: %s", error)
                self._closing.wait(_RETRY_S)
            self._look_for_coordinator()

    def _look_for_coordinator(self) -> None:
        # There is no public way. It answers every heartbeat, so that it is missed within seconds
        # of a broker that has stopped, and within a request's time-out of one that hangs.
        if not self._consumer._coordinator.coordinator_unknown():  # noqa: SLF001
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = time.monotonic()

    def _commit_noted(self) -> None:
        offsets, self._offsets = self._offsets, {}
        if offsets:
            self._consumer.commit_async(offsets, callback=lambda *_: None)
