"""The broker contract: what streamgauge asks of a log, whichever log it is.

A broker keeps topics of partitions of records, and for each input partition the worker's state,
positions and journal. What one `commit` writes becomes visible as a whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streamgauge.stream.records import Headers, Output, Record


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
    """Where a partition's committed journal stands.

    Attributes:
        sequence: number of commits so far (0: none yet).
        prediction_offset: offset of the next prediction to read.
        label_offset: offset of the next label to read.
        state_digest: digest of everything the core did up to here, chained from commit to commit.
        config_digest: digest of the config that the last commit was made under.
    """

    sequence: int = 0
    prediction_offset: int = 0
    label_offset: int = 0
    state_digest: str = ""
    config_digest: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one batch of one partition has led to; written as a whole.

    Attributes:
        position: the position after the batch; its `sequence` is the last one's plus 1.
        outputs: records to append. An output goes to the partition of its topic that has the
            worker's partition number.
        chunks: state chunks that changed, by name; None deletes a chunk.
    """

    position: Checkpoint
    outputs: Sequence[Output]
    chunks: Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True)
class RestoredPartition:
    """What the previous owner of a partition left: its position and its state chunks."""

    position: Checkpoint
    chunks: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Unread input of one partition, in offset order, cut so that the two topics keep step."""

    partition: int
    predictions: list[Record] = field(default_factory=list)
    labels: list[Record] = field(default_factory=list)


class Rebalance(NamedTuple):
    """How this worker's partitions changed: first drop `lost`, then start `taken_over`.

    A partition that was lost and won back is in both.
    """

    taken_over: dict[int, RestoredPartition]
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
    """One committed batch: the input ranges [from, to) and the digest after it."""

    partition: int
    sequence: int
    prediction_from: int
    prediction_to: int
    label_from: int
    label_to: int
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
        """Up to `max_records` unread records, in offset order within a partition.

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
        """The next batch of owned partitions that have unread input; none is kept waiting.

        Waits up to `timeout_s` when there is none. What was polled but not committed is polled
        again only after the partition was taken over anew.
        """
        ...

    def idle(self) -> bool:
        """Whether every owned partition has been polled to the end of both of its inputs."""
        ...

    def commit(self, partition: int, commit: Commit) -> None:
        """Write the outputs, the changed state, the position and the journal entry, or nothing.

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

    def join_group(self) -> Assignment:
        """Join the worker group."""
        ...

    def journal(self, partition: int) -> Iterator[JournalEntry]:
        """Every committed batch of a partition whose input is retained, in order."""
        ...

    def fetch(self, topic: str, partition: int, start_offset: int, end_offset: int) -> list[Record]:
        """The records with start_offset <= offset < end_offset.

        Raises:
            NotRetainedError: some of them are no longer retained.
        """
        ...

    def is_reachable(self, timeout_s: float, /) -> bool:
        """Whether it can be read from just now, found out within so long."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
