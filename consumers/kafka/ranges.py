"""Reading ranges of partitions whose end is known: changelogs, journals, past input."""

from __future__ import annotations

import time
from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from streamgauge.consumers.broker import BrokerTimeoutError, NotRetainedError
from streamgauge.consumers.kafka.client import kafka_settings, make_consumer
from streamgauge.consumers.kafka.errors import translate_errors
from streamgauge.stream.config import duration_text
from streamgauge.stream.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from streamgauge.consumers.config import Config

_ASK_AGAIN_S = 0.05
_POLL_MS = 200
_POLL_RECORDS = 5_000
_LAST_OFFSETS = 16


def as_records(polled: Iterable[Any]) -> list[Record]:
    """Return what kafka-python polled as our records; a header's null value is empty."""
    return [
        Record(
            r.topic,
            r.partition,
            r.offset,
            r.timestamp,
            r.key,
            r.value,
            tuple([(name, value or b"") for name, value in r.headers]) if r.headers else (),
        )
        for r in polled
    ]


def ask_offsets(
    ask: Callable[[list[TopicPartition], int], dict[TopicPartition, int]],
    partitions: Iterable[TopicPartition],
    timeout_ms: int,
) -> dict[TopicPartition, int]:
    """Ask a consumer's `beginning_offsets` or `end_offsets` (`ask`) for every partition.

    kafka-python 3.0 asks only the leaders that it knows of just now, and raises a KeyError where
    that leaves a partition out: so it is asked again.

    Raises:
        KafkaTimeoutError: there is no leader of one of them in time.
    """
    wanted = list(partitions)
    deadline_s = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            return ask(wanted, timeout_ms)
        except KeyError as error:
            if time.monotonic() > deadline_s:
                raise KafkaTimeoutError(f"no leader of {error}") from None
            time.sleep(_ASK_AGAIN_S)


class RangeReader:
    """Reads one partition at a time, from one offset to another.

    Its end offsets are those of uncommitted records too: what it has read up to there is all that
    was written before, committed or aborted.

    A read that goes on where the last one ended takes first what the client has fetched already:
    many short reads in a row cost no more than a long one. Memory is that of one poll's records.
    """

    def __init__(self, config: Config, role: str) -> None:
        self._config = config
        self._timeout_ms = kafka_settings(config).timeout
        self._stands_at: tuple[TopicPartition, int] | None = None
        self._ahead: list[Record] = []
        with translate_errors(config):
            self._consumer = make_consumer(config, role)
            self._any_consumer = make_consumer(
                config, f"{role}-end", isolation_level="read_uncommitted"
            )

    def stands_at(self, topic: str, partition: int, offset: int) -> bool:
        """Return whether the last read ended there, so that the next one only has to go on."""
        return self._stands_at == (TopicPartition(topic, partition), offset)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the oldest retained offset, and the one after the newest, committed or not."""
        where = TopicPartition(topic, partition)
        with translate_errors(self._config):
            starts = ask_offsets(self._any_consumer.beginning_offsets, [where], self._timeout_ms)
            ends = ask_offsets(self._any_consumer.end_offsets, [where], self._timeout_ms)
        return starts[where], ends[where]

    def committed_ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """For each partition the offset after the newest record that can be read now."""
        with translate_errors(self._config):
            return ask_offsets(self._consumer.end_offsets, partitions, self._timeout_ms)

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield the committed records with start <= offset < end.

        Raises:
            BrokerTimeoutError: for the whole time-out nothing came.
            NotRetainedError: some of them are no longer retained.
        """
        if start >= end:
            return
        where = TopicPartition(topic, partition)
        if not self.stands_at(topic, partition, start):
            self._go_to(where, start)
        # Until all of it is read: who breaks this off has not read to any known place.
        self._stands_at = None
        while True:
            n = bisect_left(self._ahead, end, key=attrgetter("offset"))
            wanted, self._ahead = self._ahead[:n], self._ahead[n:]
            yield from wanted
            if self._ahead or self._position(where) >= end:
                break
            self._read_ahead(where)
        self._stands_at = where, end

    def _go_to(self, where: TopicPartition, offset: int) -> None:
        self._ahead = []
        self._consumer.unsubscribe()
        self._consumer.assign([where])
        self._consumer.seek(where, offset)

    def _position(self, where: TopicPartition) -> int:
        """Return the offset that the client gives next.

        Raises:
            NotRetainedError: what was to come next is gone.
        """
        with translate_errors(self._config):
            position: int | None = self._consumer.position(where, timeout_ms=self._timeout_ms)
        if position is None:
            raise NotRetainedError(
                f"{where.topic!r} partition {where.partition}: what was to be read is not retained"
            )
        return position

    def _read_ahead(self, where: TopicPartition) -> None:
        """Poll until records come, or the client gets past what is not for us, such as markers.

        Raises:
            BrokerTimeoutError: for the whole time-out nothing came.
        """
        before = self._position(where)
        deadline_s = time.monotonic() + self._timeout_ms / 1000
        while self._position(where) == before:
            if time.monotonic() > deadline_s:
                raise BrokerTimeoutError(
                    f"{where.topic!r} partition {where.partition} gave nothing after offset "
                    f"{before} for {duration_text(self._timeout_ms)}"
                )
            with translate_errors(self._config):
                self._ahead += as_records(
                    self._consumer.poll(_POLL_MS, _POLL_RECORDS).get(where, [])
                )

    def last(self, topic: str, partition: int) -> Record | None:
        """Return the newest committed record that is retained, None where there is none.

        Markers and what was aborted take offsets too: it looks back in growing steps.
        """
        start, end = self.bounds(topic, partition)
        n_offsets = _LAST_OFFSETS
        while start < end:
            step_start = max(start, end - n_offsets)
            records = list(self.read(topic, partition, step_start, end))
            if records:
                return records[-1]
            end, n_offsets = step_start, 2 * n_offsets
        return None

    def brokers(self) -> list[str]:
        """Return the addresses of all brokers, as far as they are known."""
        return [
            f"[{broker.host}]:{broker.port}"
            if ":" in broker.host
            else f"{broker.host}:{broker.port}"
            for broker in self._consumer._cluster.brokers()  # noqa: SLF001
        ]

    def close(self) -> None:
        self._consumer.close(autocommit=False)
        self._any_consumer.close(autocommit=False)
