"""The broker contract: what streamgauge asks of a log, whichever log it is.

A broker keeps topics of partitions of records, and for each input partition the worker's state,
positions and journal. What one `commit` writes becomes visible as a whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streamgauge.stream.records import Headers, Output, Record, TopicRole


class BrokerError(StreamgaugeError):
    """A broker could not do what was asked; the message says what and what to do."""


class BrokerTimeoutError(BrokerError):
    """The broker did not answer in time; nothing was written."""


class UnknownTopicError(BrokerError):
    """The topic does not exist."""


class NotRetainedError(BrokerError):
    """Records that were asked for have been deleted by retention."""


class FencedError(BrokerError):
    """Another worker has taken this partition over; nothing was written, drop its state."""


class PartitionsTakenError(BrokerError):
    """Every partition is owned by another live worker of the same group."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The place where a partition stands after a commit.

    Attributes:
        sequence: number of commits so far (0: none yet).
        offsets: for each input, in the processor's order, the offset of the next record to read.
        state_digest: digest of everything the processor did up to here, chained from commit to
            commit.
        config_digest: digest of the config that the last commit was made under.
    """

    sequence: int = 0
    offsets: tuple[int, ...] = ()
    state_digest: str = ""
    config_digest: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """All that one batch of a partition, or one deadline, has led to; written as a whole.

    Attributes:
        before: the checkpoint that it follows.
        after: the checkpoint that it makes; its `sequence` is one more.
        outputs: records to append. An output goes to the partition of its role's topic that has
            the worker's partition number.
        chunks: state chunks that changed, by name; None deletes a chunk.
        deadline_ms: the deadline that it is of, None for a batch.
    """

    before: Checkpoint
    after: Checkpoint
    outputs: Sequence[Output]
    chunks: Mapping[str, bytes | None]
    deadline_ms: int | None = None

    def journal_entry(self, partition: int) -> JournalEntry:
        """Return what the journal keeps of it."""
        return JournalEntry(
            partition,
            self.after.sequence,
            self.before.offsets,
            self.after.offsets,
            self.deadline_ms,
            self.after.state_digest,
            self.after.config_digest,
        )

    def check_follows(self, partition: int, committed: Checkpoint) -> None:
        """Check that it follows on the last commit.

        Raises:
            FencedError: it does not: another worker has committed meanwhile.
        """
        if self.before.sequence != committed.sequence:
            raise FencedError(
                f"partition {partition} stands at commit {committed.sequence}, and commit "
                f"{self.after.sequence} does not follow it; nothing was written"
            )


@dataclass(frozen=True, slots=True)
class RestoredPartition:
    """All that the previous owner of a partition left: its checkpoint and its state chunks."""

    checkpoint: Checkpoint
    chunks: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Unread input of one partition, cut so that its inputs keep step (see `stream/align.py`).

    Attributes:
        partition: its number.
        inputs: for each input, in the processor's order, its next records in offset order.
    """

    partition: int
    inputs: tuple[list[Record], ...]

    def __len__(self) -> int:
        """Count the records."""
        return sum(map(len, self.inputs))


class Rebalance(NamedTuple):
    """A change of this worker's partitions: first drop `lost`, then start `restored`.

    A partition that was lost and won back is in both.
    """

    restored: dict[int, RestoredPartition]
    lost: tuple[int, ...]


class TopicInfo(NamedTuple):
    """A topic as `streamgauge topics list` shows it."""

    name: str
    n_partitions: int
    n_records: int
    n_bytes: int | None
    oldest_timestamp_ms: int | None
    newest_timestamp_ms: int | None


class JournalEntry(NamedTuple):
    """One commit: the input ranges [from, to), in the processor's order, and the digest after it.

    `deadline_ms` is the deadline that it is of, None for a batch of records.
    """

    partition: int
    sequence: int
    offsets_from: tuple[int, ...]
    offsets_to: tuple[int, ...]
    deadline_ms: int | None
    state_digest: str
    config_digest: str


class Producer(Protocol):
    """Writes records outside of a worker's commit: what serving code and the demo do."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue a record; equal keys go to the same partition. `timestamp_ms` None means now.

        Raises:
            UnknownTopicError: there is no such topic.
            BrokerTimeoutError: the queue is full and was not written in time; this record was
                not queued.
        """
        ...

    def flush(self) -> None:
        """Write what is queued; when it returns, readers see it.

        Raises:
            BrokerTimeoutError: not written in time; what was queued is still queued.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None:
        """Flush."""
        ...


class Reader(Protocol):
    """Follows whole topics; sees only what is committed. With a group it remembers its place."""

    def poll(self, timeout_s: float, max_records: int = 1000) -> list[Record]:
        """Return up to `max_records` unread records, in offset order within a partition.

        Waits up to `timeout_s` for the first one; an empty list means none came.
        """
        ...

    def commit(self) -> None:
        """Remember, for the group, that everything polled so far has been dealt with."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Assignment(Protocol):
    """One worker's share of the input partitions: take over, poll, commit."""

    def rebalance(self) -> Rebalance:
        """Partitions won (fenced and restored) and lost since the last call.

        Raises:
            PartitionsTakenError: this worker has no partition and can get none.
        """
        ...

    def poll(self, timeout_s: float) -> list[Batch]:
        """Return the next batch of owned partitions that have unread input; none is kept waiting.

        Waits up to `timeout_s` when there is none. What was polled but not committed is polled
        again only after the partition was taken over anew.
        """
        ...

    def idle(self) -> bool:
        """Return whether every owned partition has been polled to the end of all of its inputs."""
        ...

    def is_read(self, partition: int) -> bool:
        """Return whether an owned partition has been polled to the end of all of its inputs.

        As the broker says now, and not as it said last.

        Raises:
            BrokerTimeoutError: it did not say in time.
        """
        ...

    def lag(self) -> dict[int, int]:
        """Return how many records of each owned partition have not been polled.

        As far as is known without asking the broker for more than it has told already.
        """
        ...

    def commit(self, partition: int, commit: Commit) -> None:
        """Write the outputs, the changed state, the checkpoint and the journal entry, or nothing.

        Raises:
            FencedError: another worker owns the partition now.
            BrokerTimeoutError: not written in time.
        """
        ...

    def release(self, partition: int) -> None:
        """Give a partition up, owned or not; the next `rebalance` may take it over anew."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Broker(Protocol):
    """A log with the topics of one streamgauge application."""

    @property
    def n_partitions(self) -> int:
        """Partitions of each topic."""
        ...

    def topics(self) -> list[TopicInfo]: ...

    def producer(self) -> Producer: ...

    def reader(
        self, topics: Sequence[str], *, group: str | None = None, from_start: bool = True
    ) -> Reader:
        """Follow `topics`, from the group's place, else from the start, else from the end."""
        ...

    def join_group(self, inputs: Sequence[TopicRole]) -> Assignment:
        """Join the worker group of the application, which shares the partitions of these topics.

        Args:
            inputs: roles of the topics that a processor reads, in its order; a partition is the
                one with the same number of each.
        """
        ...

    def journal(self, partition: int) -> Iterator[JournalEntry]:
        """Every committed batch of a partition whose input is retained, in order."""
        ...

    def fetch(self, topic: str, partition: int, start_offset: int, end_offset: int) -> list[Record]:
        """Return the records with start_offset <= offset < end_offset.

        Raises:
            NotRetainedError: some of them are no longer retained.
        """
        ...

    def is_reachable(self, timeout_s: float, /) -> bool:
        """Find out, within so long, if it can be read from just now."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
