"""Verification: replays the journal through a fresh core and compares every digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from streamgauge.consumers.broker import NotRetainedError
from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.stream.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamgauge.consumers.broker import Broker, JournalEntry
    from streamgauge.consumers.config import Config
    from streamgauge.stream.processor import Processor
    from streamgauge.stream.records import Record


Verdict = Literal["agrees", "differs", "not comparable"]


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of replaying one partition's journal.

    Attributes:
        partition: its number.
        n_commits: commits whose digest was compared and agreed.
        n_records: input records replayed.
        outcome: whether the whole journal agrees, a commit differs, or from one on nothing can be
            said, because its input is no longer retained or its configuration was another.
        problem: why the replay ended before the journal did; None when all of it agrees.
    """

    partition: int
    n_commits: int
    n_records: int
    outcome: Verdict
    problem: str | None = None


def verify(broker: Broker, config: Config, partition: int, processor: Processor) -> Verified:
    """Replay one partition's journal through a new processor, and compare every digest.

    Args:
        broker: where the journal and its input are.
        config: the whole configuration.
        partition: the partition's number.
        processor: one that is as it was before the partition's first commit.
    """
    n_records = n_commits = 0
    for entry in broker.journal(partition):
        try:
            batch = _input(entry, n_commits, broker, config, processor)
        except _IncomparableError as error:
            return Verified(partition, n_commits, n_records, "not comparable", str(error))
        if entry.deadline_ms is None:
            processor.process(batch)
        else:
            processor.on_deadline(entry.deadline_ms)
        processor.drain_chunks()
        n_records += sum(map(len, batch))
        if processor.digest != entry.state_digest:
            problem = (
                f"commit {entry.sequence}: the digest is {entry.state_digest} in the journal,"
                f" {processor.digest} in the replay"
            )
            return Verified(partition, n_commits, n_records, "differs", problem)
        n_commits += 1
    return Verified(partition, n_commits, n_records, "agrees")


class _IncomparableError(StreamgaugeError):
    """A commit, and each one after it, cannot be compared; the message says why."""


def _input(
    entry: JournalEntry, n_commits: int, broker: Broker, config: Config, processor: Processor
) -> list[list[Record]]:
    """Return the input of a commit that follows on `n_commits` others."""
    gone = f"the input of commit {n_commits + 1} is no longer retained"
    if entry.sequence != n_commits + 1:
        raise _IncomparableError(f"{gone}, and the journal goes on at commit {entry.sequence}")
    if entry.config_digest != processor.config_digest:
        raise _IncomparableError(f"commit {entry.sequence} was made under another configuration")
    if len(entry.offsets_from) != len(processor.inputs):
        raise _IncomparableError(
            f"commit {entry.sequence} is of {len(entry.offsets_from)} inputs, and this processor"
            f" has {len(processor.inputs)}"
        )
    topics = map(config.topics.name_of, processor.inputs)
    ranges = zip(topics, entry.offsets_from, entry.offsets_to, strict=True)
    try:
        return [broker.fetch(topic, entry.partition, *offsets) for topic, *offsets in ranges]
    except NotRetainedError as error:
        # It went between the reading of the journal and this.
        raise _IncomparableError(gone) from error


def verify_all(broker: Broker, config: Config, state_key: bytes | None) -> Iterator[Verified]:
    """Replay the journal of every partition of the monitor."""
    for partition in range(broker.n_partitions):
        yield verify(broker, config, partition, Engine(config, partition, state_key=state_key))
