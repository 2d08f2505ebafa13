"""Verification: replays the journal through a fresh core and compares every digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumers.broker import Broker, JournalEntry
    from stream.config import Config


@dataclass(frozen=True, slots=True)
class Verified:
    """What the replay of one partition's journal showed.

    Attributes:
        partition: its number.
        n_commits: commits whose digest was compared and agreed.
        n_records: input records replayed.
        problem: why the replay ended before the journal did; None when all of it agrees.
    """

    partition: int
    n_commits: int
    n_records: int
    problem: str | None


def verify(broker: Broker, config: Config, partition: int, state_key: bytes | None) -> Verified:
    """Replay one partition's journal; whether the core does again what it did then."""
    engine = Engine(config, partition, state_key=state_key)
    topics = config.topics
    n_records = n_commits = 0
    for entry in broker.journal(partition):
        problem = _obstacle(entry, n_commits, config)
        if problem is None:
            predictions = broker.fetch(
                topics.predictions, partition, entry.prediction_from, entry.prediction_to
            )
            labels = broker.fetch(topics.labels, partition, entry.label_from, entry.label_to)
            engine.process(predictions, labels)
            engine.take_chunks()
            n_records += len(predictions) + len(labels)
            if engine.digest != entry.state_digest:
                problem = (
                    f"commit {entry.sequence}: the digest is {entry.state_digest} in the journal,"
                    f" {engine.digest} in the replay"
                )
        if problem is not None:
            return Verified(partition, n_commits, n_records, problem)
        n_commits += 1
    return Verified(partition, n_commits, n_records, None)


def _obstacle(entry: JournalEntry, n_commits: int, config: Config) -> str | None:
    """Why an entry cannot be compared."""
    if entry.sequence != n_commits + 1:
        return (
            f"the journal goes on at commit {entry.sequence}: the input of the {n_commits + 1}th"
            " is no longer retained"
        )
    if entry.config_digest != config.digest():
        return f"commit {entry.sequence} was made under another configuration"
    return None


def verify_all(broker: Broker, config: Config, state_key: bytes | None) -> Iterator[Verified]:
    """Replay the journal of every partition."""
    for partition in range(broker.n_partitions):
        yield verify(broker, config, partition, state_key)
