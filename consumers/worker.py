"""The worker: takes partitions over, and for each batch of one: process, commit, next.

It runs any processor (`stream/processor.py`), on any broker. Outputs, state and checkpoint of a
batch are written as a whole. After any error of the broker the partition's memory is dropped and
the partition taken over anew, from what was committed.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from streamgauge.consumers.broker import (
    BrokerError,
    BrokerTimeoutError,
    Checkpoint,
    Commit,
    FencedError,
    PartitionsTakenError,
)
from streamgauge.stream.processor import Processor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamgauge.consumers.broker import Assignment, Batch, Rebalance, RestoredPartition
    from streamgauge.stream.records import Output, Record

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Processor)

_POLL_S = 0.2
_RETRY_S = 0.5
# How often a commit may fail, for another reason than time, before the run is over.
_ATTEMPTS_MAX = 5
_LAG_EVERY_MS = 10_000
# Of one partition in a row; then there may be input again.
_DEADLINES_MAX = 100


class CommitFailedError(BrokerError):
    """The same commit has failed again and again, and not because the broker was busy."""


class Observer:
    """Someone who is told what a worker does; each method may be overridden.

    What an observer raises is logged, and does not end the work.
    """

    def on_commit(self, partition: int, commit: Commit) -> None:
        """Hear of a commit, after it."""

    def on_lag(self, lag: Mapping[int, int]) -> None:
        """Hear every ten seconds how many records of each owned partition are still unread."""


class PartitionTask(Generic[P]):
    """One owned partition: its processor, and where it stands.

    Args:
        partition: its number.
        processor: a new one, which becomes what the previous owner's was.
        restored: what the previous owner left.

    Raises:
        ValueError: the state left behind cannot be read, or does not fit the configuration.
    """

    def __init__(self, partition: int, processor: P, restored: RestoredPartition) -> None:
        self.checkpoint = restored.checkpoint
        self.processor = processor
        for note in processor.restore(restored.chunks, self.checkpoint.state_digest):
            log.warning("partition %d: %s", partition, note)
        if self.checkpoint.config_digest not in ("", processor.config_digest):
            log.info("partition %d: the configuration has changed since the last commit", partition)

    def process(self, batch: Batch) -> Commit:
        """Process one batch, and return what it leads to."""
        outputs = self.processor.process(batch.inputs)
        offsets = tuple(map(_next, self.checkpoint.offsets, batch.inputs))
        return self._commit(outputs, offsets)

    def due_ms(self, now_ms: int) -> int | None:
        """Return the processor's next deadline, None where the clock has not passed it."""
        deadline_ms = self.processor.next_deadline_ms()
        return deadline_ms if deadline_ms is not None and deadline_ms <= now_ms else None

    def on_deadline(self, deadline_ms: int) -> Commit:
        """Have the processor do what falls due, and return what it leads to."""
        outputs = self.processor.on_deadline(deadline_ms)
        following_ms = self.processor.next_deadline_ms()
        if following_ms is not None and following_ms <= deadline_ms:
            raise RuntimeError(
                f"the next deadline after {deadline_ms} is {following_ms}: it must be later"
            )
        return self._commit(outputs, self.checkpoint.offsets, deadline_ms)

    def _commit(
        self, outputs: Sequence[Output], offsets: tuple[int, ...], deadline_ms: int | None = None
    ) -> Commit:
        chunks = self.processor.drain_chunks()
        before = self.checkpoint
        self.checkpoint = Checkpoint(
            sequence=before.sequence + 1,
            offsets=offsets,
            state_digest=self.processor.digest,
            config_digest=self.processor.config_digest,
        )
        return Commit(before, self.checkpoint, outputs, chunks, deadline_ms)


def _next(offset: int, records: Sequence[Record]) -> int:
    return records[-1].offset + 1 if records else offset


class Worker(Generic[P]):
    """Runs the processors of the partitions that this process owns.

    Args:
        make_processor: makes a partition's processor, given its number.
        assignment: this worker's place in the worker group; the caller closes it.
        observers: told what happens, in this order.
    """

    def __init__(
        self,
        make_processor: Callable[[int], P],
        assignment: Assignment,
        *,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._make_processor = make_processor
        self._assignment = assignment
        self._observers = observers
        self._tasks: dict[int, PartitionTask[P]] = {}
        # By partition: the commit that failed last, and how often it has.
        self._failed: dict[int, tuple[int, int]] = {}
        self._next_lag_ms = 0

    def start(self) -> None:
        """Take over what can be had.

        Raises:
            PartitionsTakenError: another worker owns every partition.
            ValueError: a partition's state cannot be read, or does not fit the configuration.
        """
        self._apply(self._assignment.rebalance())

    def run(
        self,
        *,
        until_idle: bool,
        should_stop: Callable[[], bool],
        clock_ms: Callable[[], int],
        each_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Work until told to stop, or with `until_idle` until all input is processed.

        A broker that is busy, and partitions lost to another worker, are waited for.

        Args:
            until_idle: end when there is nothing more to do now; deadlines that are yet to come
                are for the next run.
            should_stop: asked between polls.
            clock_ms: gives the time, in epoch milliseconds, that deadlines are compared with.
            each_turn: called between polls, a few times a second while there is little to do.

        Raises:
            CommitFailedError: a commit cannot be made.
            ValueError: as from `start`.
        """
        while not should_stop():
            each_turn()
            try:
                self._apply(self._assignment.rebalance())
                n_done = self.step(_POLL_S, clock_ms())
                if not n_done and until_idle and self._assignment.idle():
                    return
            except (BrokerTimeoutError, PartitionsTakenError) as error:
                log.warning("%s; trying again", error)
                time.sleep(_RETRY_S)

    def step(self, timeout_s: float, now_ms: int) -> int:
        """Process what one poll gives, and what has fallen due where there is no input.

        Args:
            timeout_s: how long to wait for input.
            now_ms: the time that deadlines are compared with, epoch milliseconds.

        Returns:
            The number of records and deadlines, those to be done over included.

        Raises:
            CommitFailedError: a commit cannot be made.
        """
        n = 0
        is_due = any(task.due_ms(now_ms) is not None for task in self._tasks.values())
        for batch in self._assignment.poll(0.0 if is_due else timeout_s):
            task = self._tasks[batch.partition]
            self._commit(batch.partition, task.process(batch))
            n += len(batch)
        n += self._meet_deadlines(now_ms)
        if self._observers and now_ms >= self._next_lag_ms:
            self._next_lag_ms = now_ms + _LAG_EVERY_MS
            lag = self._assignment.lag()
            self._tell(lambda observer: observer.on_lag(lag))
        return n

    def _meet_deadlines(self, now_ms: int) -> int:
        """Do what has fallen due in partitions that have no input left; count the deadlines."""
        n = 0
        for partition, task in list(self._tasks.items()):
            if task.due_ms(now_ms) is None or not self._assignment.is_read(partition):
                continue
            for _ in range(_DEADLINES_MAX):
                deadline_ms = task.due_ms(now_ms)
                if deadline_ms is None or not self._commit(
                    partition, task.on_deadline(deadline_ms)
                ):
                    break
                n += 1
        return n

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        """Tell each observer; what one of them fails with is not the work's."""
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:
                log.exception("%s failed", type(observer).__name__)

    def _apply(self, change: Rebalance) -> None:
        """Drop what was lost, take over what was won."""
        for partition in change.lost:
            if self._tasks.pop(partition, None) is not None:
                log.info("partition %d: handed over", partition)
        for partition, restored in change.restored.items():
            processor = self._make_processor(partition)
            self._tasks[partition] = PartitionTask(partition, processor, restored)
            log.info("partition %d: at commit %d", partition, restored.checkpoint.sequence)

    def _commit(self, partition: int, commit: Commit) -> bool:
        """Commit, and return whether it was; else the same input is processed after a take-over."""
        try:
            self._assignment.commit(partition, commit)
        except BrokerError as error:
            # Whether or not it was written, only the log knows: start again from there.
            what = "lost" if isinstance(error, FencedError) else "taking it over anew"
            log.warning("partition %d: %s: %s", partition, what, error)
            del self._tasks[partition]
            self._assignment.release(partition)
            if not isinstance(error, BrokerTimeoutError | FencedError):
                self._back_off(partition, commit.after.sequence, error)
            return False
        self._failed.pop(partition, None)
        self._tell(lambda observer: observer.on_commit(partition, commit))
        return True

    def _back_off(self, partition: int, sequence: int, error: BrokerError) -> None:
        """Wait before the next attempt, longer each time; give up after some."""
        last, n = self._failed.get(partition, (sequence, 0))
        n = n + 1 if last == sequence else 1
        if n >= _ATTEMPTS_MAX:
            raise CommitFailedError(
                f"partition {partition}: commit {sequence} failed {n} times: {error}"
            ) from error
        self._failed[partition] = (sequence, n)
        time.sleep(_RETRY_S * 2 ** (n - 1))

    def processors(self) -> dict[int, P]:
        """Return the processors of the partitions that this worker owns, by partition.

        Also those that it owned when its place in the group was closed.
        """
        return {partition: task.processor for partition, task in self._tasks.items()}
