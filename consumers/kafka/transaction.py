"""Transactions of one partition: all of a commit's records become visible, or none of them.

This is what keeps retrain requests from being lost or repeated, and kafka-python 3.0 needs care:
`commit_transaction` may return although a batch has expired meanwhile, or without having sent
anything, and may never return. So every record's future is resolved before it is called, it has a
deadline, and a writer that has failed in any way is never used again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from streamgauge.consumers.broker import BrokerTimeoutError, FencedError
from streamgauge.consumers.kafka.client import abandon, make_producer
from streamgauge.consumers.kafka.errors import translate_errors
from streamgauge.consumers.kafka.topics import written_topics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Headers

# A request that gets no answer (5 s) is not tried again within the time for sending, one whose
# connection breaks is; what is abandoned is aborted by the next owner's `init_transactions`, or by
# the brokers after the transaction's own time-out.
_INIT_TIMEOUT_S = 5.0
_SEND_TIMEOUT_S = 4.0
_COMMIT_TIMEOUT_S = 4.0
_DELIVERY_TIMEOUT_MS = 10_000
_TRANSACTION_TIMEOUT_MS = 30_000
# CONCURRENT_TRANSACTIONS is answered to the first request after each commit, and the back-off is
# waited out: with the default of 100 ms a commit takes 110 ms, with 5 ms it takes 7.
_RETRY_BACKOFF_MS = 5


class ProducerRecord(NamedTuple):
    """A record to be written to the writer's partition of a topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


class TopicOffset(NamedTuple):
    """An offset of the writer's partition of a topic."""

    topic: str
    offset: int


class TransactionalWriter:
    """Writes for one partition, and fences whoever wrote for it before.

    Raises:
        BrokerTimeoutError: the brokers did not answer in time; make another one.
        BrokerError: they refused.
    """

    def __init__(self, config: Config, partition: int) -> None:
        self.partition = partition
        self._config = config
        with translate_errors(config):
            self._producer = make_producer(
                config,
                f"worker-{partition}",
                transactional_id=f"{config.app}-{partition}",
                transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
                max_block_ms=int(_INIT_TIMEOUT_S * 1000),
                retry_backoff_ms=_RETRY_BACKOFF_MS,
            )
            # All at once, meanwhile: the first record for each topic would wait 100 ms for it.
            self._producer._metadata.set_topics(written_topics(config))  # noqa: SLF001 - no public way
            try:
                self._fence()
            except BaseException:
                self.abandon()
                raise

    def write(self, rows: Sequence[ProducerRecord], follows: TopicOffset | None = None) -> None:
        """Write the rows in one transaction.

        Args:
            rows: what to write.
            follows: where the first of them that is of its topic has to come to lie. Otherwise
                nothing is written: what they rest on is not the end of that topic.

        Raises:
            FencedError: another writer has taken this one's place, or has written what this one
                does not know; nothing was written.
            BrokerError: whether or not they were written is not known. Abandon this writer, make
                another one, and read what was committed.
        """
        try:
            with translate_errors(self._config):
                self._begin()
                places = self._resolve(self._send(rows))
                if follows is not None:
                    _check_place(places, follows)
                self._commit()
        except FencedError as error:
            raise FencedError(f"partition {self.partition}: {error}") from error

    def abandon(self) -> None:
        """Let go of a writer that has failed: its transaction is never committed by it."""
        abandon(self._producer)

    def close(self) -> None:
        """End a writer that has nothing to write any more."""
        self.abandon()

    def _fence(self) -> None:
        self._producer.init_transactions()

    def _begin(self) -> None:
        self._producer.begin_transaction()

    def _send(self, rows: Sequence[ProducerRecord]) -> list[Any]:
        send, partition = self._producer.send, self.partition
        return [
            send(row.topic, row.value, row.key, list(row.headers), partition, row.timestamp_ms)
            for row in rows
        ]

    def _resolve(self, futures: Sequence[Any]) -> list[TopicOffset]:
        """Have every record acknowledged, or raise; where they have come to lie."""
        deadline_s = time.monotonic() + _SEND_TIMEOUT_S
        self._producer.flush(timeout=_SEND_TIMEOUT_S)
        written = [f.get(timeout=max(0.0, deadline_s - time.monotonic())) for f in futures]
        return [TopicOffset(record.topic, record.offset) for record in written]

    def _commit(self) -> None:
        """Do what `commit_transaction` does, but with a deadline: it waits without end otherwise.

        Not by a thread that calls it: it would wait for ever, and keep the producer alive.
        """
        producer = self._producer
        result = producer._transaction_manager.begin_commit()  # noqa: SLF001 - no public way
        producer._sender.wakeup()  # noqa: SLF001
        if not result.wait(_COMMIT_TIMEOUT_S * 1000):
            raise BrokerTimeoutError(f"the commit was not confirmed within {_COMMIT_TIMEOUT_S:g} s")


def _check_place(places: Sequence[TopicOffset], follows: TopicOffset) -> None:
    """Raise where the first record of a topic has not come to lie where it should.

    A broker that was suspended while another one took its partition over answers the first
    requests afterwards as if it still led it. What was read up to the end that it gives is old.
    """
    first = min(place.offset for place in places if place.topic == follows.topic)
    if first != follows.offset:
        raise FencedError(
            f"{follows.topic!r} was read to offset {follows.offset}, and goes on at {first}"
        )
