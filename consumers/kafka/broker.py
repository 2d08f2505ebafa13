"""The broker contract on Apache Kafka."""

from __future__ import annotations

from contextlib import closing
from operator import ge
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.broker import (
    BrokerError,
    JournalEntry,
    NotRetainedError,
    TopicInfo,
    UnknownTopicError,
)
from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.consumers.kafka.client import any_reachable
from streamgauge.consumers.kafka.journal import StoredEntry
from streamgauge.consumers.kafka.producer import TopicProducer
from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.reader import TopicReader
from streamgauge.consumers.kafka.topics import JOURNAL_SUFFIX, Admin, internal_topic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Record, TopicRole


class KafkaBroker:
    """The topics of one application on a Kafka cluster; see `streamgauge.consumers.broker.Broker`.

    One thread at a time may use it, and each of its producers, readers and assignments.
    """

    def __init__(self, config: Config) -> None:
        """Connect, and check the topics.

        Raises:
            BrokerError: the brokers cannot be reached, or refuse us, or the topics are not what
                the promises need.
        """
        self._config = config
        with Admin(config) as admin:
            self.n_partitions = admin.check()
        self._reader = RangeReader(config, "ranges")
        # One for each topic that is fetched from: each goes on where it stands.
        self._fetchers: dict[str, RangeReader] = {}
        self._known_ends: dict[tuple[str, int], int] = {}

    def topics(self) -> list[TopicInfo]:
        """Return the topics of the configuration."""
        return [self._info(name) for name in self._config.topics.names().values()]

    def producer(self) -> TopicProducer:
        return TopicProducer(self._config, frozenset(self._config.topics.names().values()))

    def reader(
        self, topics: Sequence[str], *, group: str | None = None, from_start: bool = True
    ) -> TopicReader:
        """Follow `topics`, from the group's place, else from the start, else from the end.

        Raises:
            UnknownTopicError: one of the topics does not exist.
            BrokerError: another reader of the group is at work.
        """
        return TopicReader(self._config, topics, group, from_start=from_start)

    def join_group(self, inputs: Sequence[TopicRole]) -> KafkaAssignment:
        """Join the worker group `config.app`, which shares the partitions of these topics.

        Raises:
            BrokerError: the brokers cannot be reached, or refuse us.
        """
        return KafkaAssignment(self._config, inputs)

    def journal(self, partition: int) -> Iterator[JournalEntry]:
        """Every committed batch of a partition whose input is retained, in order."""
        name = internal_topic(self._config, JOURNAL_SUFFIX)
        oldest: list[int] | None = None
        # One of its own: between two entries the caller may fetch their input.
        with closing(RangeReader(self._config, "journal")) as reader:
            for record in reader.read(name, partition, *reader.bounds(name, partition)):
                entry = StoredEntry.decode(record.value, f"{name!r} partition {partition}")
                if oldest is None:
                    oldest = [self._reader.bounds(topic, partition)[0] for topic in entry.topics]
                if all(map(ge, entry.offsets_from, oldest)):
                    yield entry.journal_entry(partition)

    def fetch(self, topic: str, partition: int, start_offset: int, end_offset: int) -> list[Record]:
        """Return the records with start_offset <= offset < end_offset.

        Raises:
            UnknownTopicError: there is no such topic.
            NotRetainedError: some of the records are no longer retained.
            BrokerError: there is no such partition, or some of the records are not yet written.
        """
        if start_offset >= end_offset:
            return []
        if topic not in self._config.topics.names().values():
            raise UnknownTopicError(f"no topic {topic!r}")
        if not 0 <= partition < self.n_partitions:
            raise BrokerError(f"topic {topic!r} has no partition {partition}")
        if topic not in self._fetchers:
            self._fetchers[topic] = RangeReader(self._config, f"fetch-{topic}")
        fetcher, known_end = self._fetchers[topic], self._known_ends.get((topic, partition), 0)
        if end_offset > known_end or not fetcher.stands_at(topic, partition, start_offset):
            self._check_bounds(topic, partition, start_offset, end_offset)
        return list(fetcher.read(topic, partition, start_offset, end_offset))

    def is_reachable(self, timeout_s: float, /) -> bool:
        """Find out, within so long, if any of the brokers lets another client in."""
        return any_reachable(self._config, self._reader.brokers(), timeout_s)

    def _check_bounds(self, topic: str, partition: int, start_offset: int, end_offset: int) -> None:
        start, end = self._reader.bounds(topic, partition)
        self._known_ends[topic, partition] = end
        if start_offset < start:
            raise NotRetainedError(
                f"{topic!r} partition {partition} begins at offset {start}; {start_offset} is gone"
            )
        if end_offset > end:
            raise BrokerError(
                f"{topic!r} partition {partition} ends at offset {end}, before {end_offset}"
            )

    def close(self) -> None:
        for reader in (self._reader, *self._fetchers.values()):
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _info(self, name: str) -> TopicInfo:
        bounds = [self._reader.bounds(name, partition) for partition in range(self.n_partitions)]
        n_records = sum(end - start for start, end in bounds)
        return TopicInfo(name, self.n_partitions, n_records, None, None, None)
