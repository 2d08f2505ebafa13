"""What ought to have been published: the pure core over the input, as the journal has cut it."""

from __future__ import annotations

from collections import Counter
from itertools import islice, zip_longest
from operator import ge
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from kafka import KafkaAdminClient, TopicPartition

from streamgauge.consumers.broker import BrokerError
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.changelog import Changelog
from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.topics import JOURNAL_SUFFIX, STATE_SUFFIX, internal_topic
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS
from tests.faults.settings import N_PARTITIONS, STATE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streamgauge.consumers.broker import JournalEntry
    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Output, Record

LINES_MAX = 5  # of each kind of difference in one partition
PROBE_RECORDS = 400


class Verdict:
    """What was found; `problems` is empty where everything is as it should be."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()

    def add(self, problems: Iterator[str]) -> None:
        found = list(problems)
        self.problems += found[:LINES_MAX]
        if len(found) > LINES_MAX:
            self.problems.append(f"... and {len(found) - LINES_MAX} more like these")


class Content(NamedTuple):
    """What two equal records have in common wherever they stand."""

    key: bytes | None
    value: bytes | None
    headers: Any


def content(item: Output | Record) -> Content:
    return Content(item.key, item.value, item.headers)


class Oracle:
    """Compares what a run has left behind with what it should have.

    Args:
        config: the run's configuration, with brokers that nobody hurts any more.
        injected: the values of the poison that was sent.
        seen: what a reader has read while the faults happened, by topic, partition and offset.
    """

    def __init__(
        self,
        config: Config,
        injected: Sequence[bytes],
        seen: Mapping[tuple[str, int, int], Record],
    ) -> None:
        self._config = config
        self._injected = injected
        self._seen = seen
        self._topics = config.topics
        self._ids: Counter[str] = Counter()
        self._outputs = {
            name: getattr(config.topics, name)
            for name in ("retrain", "alarms", "metrics", "dead_letters")
        }

    def judge(self) -> Verdict:
        """Everything, of every partition."""
        verdict = Verdict()
        dead: list[bytes] = []
        with KafkaBroker(self._config) as broker:
            reader = RangeReader(self._config, "oracle")
            try:
                for partition in range(N_PARTITIONS):
                    try:
                        dead += self._judge(broker, reader, partition, verdict)
                    except BrokerError as error:
                        verdict.problems.append(f"partition {partition} cannot be judged: {error}")
            finally:
                reader.close()
        verdict.add(f"event id {i} came {n} times" for i, n in self._ids.items() if n > 1)
        missing = Counter(self._injected) - Counter(dead)
        verdict.add(f"no dead letter for {value!r}" for value in missing)
        uncalled = set(dead) - set(self._injected)
        verdict.add(f"a dead letter that was not injected: {value!r}" for value in uncalled)
        return verdict

    def _inputs(self) -> list[str]:
        return [self._topics.name_of(role) for role in MONITOR_INPUTS]

    def _judge(
        self, broker: KafkaBroker, reader: RangeReader, partition: int, verdict: Verdict
    ) -> list[bytes]:
        journal = list(broker.journal(partition))
        entries = _sound(journal)
        verdict.add(self._journal_problems(journal, entries, reader, partition))
        verdict.lost["commits"] += sum(entry not in journal for entry in entries)
        verdict.repeated["commits"] += sum(entry not in entries for entry in journal)
        engine = Engine(self._config, partition, state_key=STATE_KEY.encode())
        expected: dict[str, list[Output]] = {topic: [] for topic in self._outputs.values()}
        digests = []
        inputs = [
            broker.fetch(topic, partition, 0, reader.bounds(topic, partition)[1])
            for topic in self._inputs()
        ]
        for entry in entries:
            batch = [
                records[start:end]
                for records, start, end in zip(
                    inputs, entry.offsets_from, entry.offsets_to, strict=True
                )
            ]
            for output in engine.process(batch):
                expected[self._topics.name_of(output.role)].append(output)
            engine.drain_chunks()
            if entry.state_digest not in ("", engine.digest):
                digests.append(f"partition {partition}: another digest at commit {entry.sequence}")
        verdict.add(iter(digests))
        verdict.counts["commits"] += len(journal)
        dead: list[bytes] = []
        for name, topic in self._outputs.items():
            actual = list(reader.read(topic, partition, *reader.bounds(topic, partition)))
            verdict.counts[name] += len(actual)
            verdict.add(_differences(name, partition, expected[topic], actual))
            verdict.add(self._seen_otherwise(topic, partition, actual))
            _count_losses(name, expected[topic], actual, verdict)
            if name == "retrain":
                verdict.add(self._sequence_problems(partition, actual))
            if name == "dead_letters":
                dead = [record.value or b"" for record in actual]
        verdict.add(self._state_problems(broker, reader, partition, engine))
        verdict.add(self._open_problems(reader, partition))
        return dead

    def _journal_problems(
        self,
        journal: Sequence[JournalEntry],
        sound: Sequence[JournalEntry],
        reader: RangeReader,
        partition: int,
    ) -> Iterator[str]:
        """Whether every offset of the input is covered exactly once."""
        for e in journal:
            if e not in sound:
                yield f"partition {partition}: journal entry out of line: {e}"
        for e in sound:
            if e not in journal:
                yield f"partition {partition}: nothing was committed for {e}"
        last = sound[-1] if sound else None
        topics = self._inputs()
        for topic, end in zip(topics, last.offsets_to if last else (0, 0), strict=True):
            bounds = reader.bounds(topic, partition)
            if bounds != (0, end):
                yield f"{topic} {partition} has offsets {bounds}, the journal covers {0, end}"

    def _sequence_problems(self, partition: int, requests: Sequence[Record]) -> Iterator[str]:
        for number, record in enumerate(requests, 1):
            sequence = msgspec.json.decode(record.value or b"{}")["sequence"]
            self._ids[dict(record.headers)["ce_id"].decode()] += 1
            if sequence != number:
                yield f"partition {partition}: request {sequence} in the place of {number}"

    def _seen_otherwise(
        self, topic: str, partition: int, records: Sequence[Record]
    ) -> Iterator[str]:
        """Whether the reader amid the faults saw just what is there now."""
        now = {(topic, partition, record.offset): record for record in records}
        then = {place: r for place, r in self._seen.items() if place[:2] == (topic, partition)}
        for place in sorted(now.keys() | then.keys()):
            if now.get(place) != then.get(place):
                yield f"{place}: read as {then.get(place)} amid the faults, now {now.get(place)}"

    def _state_problems(
        self, broker: KafkaBroker, reader: RangeReader, partition: int, engine: Engine
    ) -> Iterator[str]:
        """Whether an engine restored from the changelog goes on as the oracle's does."""
        topic = internal_topic(self._config, STATE_SUFFIX)
        records = reader.read(topic, partition, *reader.bounds(topic, partition))
        try:
            taken_over = Changelog(topic, self._inputs()).restore(records)
        except BrokerError as error:
            yield str(error)
            return
        if taken_over is None:
            yield f"partition {partition}: no state"
            return
        checkpoint = taken_over.checkpoint
        if checkpoint.state_digest != engine.digest:
            yield f"partition {partition}: the state's digest is not the oracle's"
        restored = Engine(self._config, partition, state_key=STATE_KEY.encode())
        restored.restore(taken_over.chunks, checkpoint.state_digest)
        if restored.totals() != engine.totals():
            yield f"partition {partition}: restored {restored.totals()}, not {engine.totals()}"
        # What is not in any count shows in what it makes of further input.
        ends = zip(self._inputs(), checkpoint.offsets, strict=True)
        probe = [
            broker.fetch(name, partition, max(0, end - PROBE_RECORDS), end) for name, end in ends
        ]
        outputs = [one.process(probe) for one in (restored, engine)]
        for one in (restored, engine):
            one.drain_chunks()
        if outputs[0] != outputs[1] or restored.digest != engine.digest:
            yield f"partition {partition}: the restored state goes on otherwise than the oracle"

    def _open_problems(self, reader: RangeReader, partition: int) -> Iterator[str]:
        """Whether a transaction that was left open keeps readers from the end of a topic."""
        names = [*self._outputs.values()]
        names += [internal_topic(self._config, suffix) for suffix in (JOURNAL_SUFFIX, STATE_SUFFIX)]
        committed = reader.committed_ends([TopicPartition(name, partition) for name in names])
        for where, end in committed.items():
            _, any_end = reader.bounds(where.topic, partition)
            if end != any_end:
                yield f"{where.topic} {partition} can be read to {end}, and ends at {any_end}"


def _sound(journal: Sequence[JournalEntry]) -> list[JournalEntry]:
    """The entries that each go on where the one before has ended, and one for each that is lost."""
    sound: list[JournalEntry] = []
    for entry in journal:
        n, ends = (sound[-1].sequence, sound[-1].offsets_to) if sound else (0, (0, 0))
        if entry.sequence > n + 1 and all(map(ge, entry.offsets_from, ends)):
            # What was lost is what the input between the two would have led to.
            sound.append(
                entry._replace(
                    sequence=entry.sequence - 1,
                    offsets_from=ends,
                    offsets_to=entry.offsets_from,
                    state_digest="",
                )
            )
            sound.append(entry)
        elif (entry.sequence, entry.offsets_from) == (n + 1, ends):
            sound.append(entry)
    return sound


def _differences(
    name: str, partition: int, expected: Sequence[Output], actual: Sequence[Record]
) -> Iterator[str]:
    for number, (a, b) in enumerate(zip_longest(map(content, expected), map(content, actual))):
        if a != b:
            yield f"{name} {partition}, record {number}: expected {a}, got {b}"


def _count_losses(
    name: str, expected: Sequence[Output], actual: Sequence[Record], verdict: Verdict
) -> None:
    wanted = Counter(map(content, expected))
    got = Counter(map(content, actual))
    verdict.lost[name] += (wanted - got).total()
    verdict.repeated[name] += (got - wanted).total()


def hanging_transactions(config: Config) -> list[str]:
    """Transactions of a run's workers that nobody has ended, a line each."""
    states = internal_topic(config, STATE_SUFFIX), internal_topic(config, JOURNAL_SUFFIX)
    topics = [*config.topics.model_dump().values(), *states]
    places = [TopicPartition(topic, p) for topic in topics for p in range(N_PARTITIONS)]
    with KafkaAdminClient(bootstrap_servers=config.broker.bootstrap_servers.split(",")) as admin:
        lines = [
            f"transaction {listing.transactional_id} is {listing.state}"
            for listings in admin.list_transactions().values()
            for listing in listings
            if listing.transactional_id.startswith(f"{config.app}-")
            and str(getattr(listing.state, "value", listing.state)) in UNFINISHED
        ]
        lines += [
            f"{where.topic} {where.partition}: producer {p.producer_id} has one open"
            for where, state in admin.describe_producers(places).items()
            for p in state.active_producers
            if p.current_transaction_start_offset not in (None, -1)
        ]
        lines += [f"hanging: {found}" for found in admin.find_hanging_transactions()]
    return list(islice(lines, 20))


UNFINISHED = ("Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence")
