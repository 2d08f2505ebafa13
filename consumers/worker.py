"""The worker: takes partitions over, and for each batch of one: process, commit, next.

Outputs, state and position of a batch are written as a whole. After any error of the broker the
partition's memory is dropped and the partition taken over anew, from what was committed.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from streamgauge.consumers.broker import (
    BrokerError,
    BrokerTimeoutError,
    Checkpoint,
    Commit,
    FencedError,
    PartitionsTakenError,
)
from streamgauge.stream.engine import Engine
from streamgauge.stream.totals import Totals, add_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamgauge.consumers.broker import Assignment, Batch, Rebalance, RestoredPartition
    from streamgauge.stream.config import Config
    from streamgauge.stream.records import Output, Record

log = logging.getLogger(__name__)

_POLL_S = 0.2
_RETRY_S = 0.5
# How often a commit may fail, for another reason than time, before the run is over.
_ATTEMPTS_MAX = 5


class CommitFailedError(BrokerError):
    """The same commit has failed again and again, and not because the broker was busy."""


class PartitionTask:
    """One owned partition: its engine, and where it stands.

    Args:
        config: the whole configuration.
        partition: its number.
        taken_over: what the previous owner left.
        state_key: seals learners.

    Raises:
        ValueError: the state left behind cannot be read, or does not fit the configuration.
    """

    def __init__(
        self, config: Config, partition: int, taken_over: RestoredPartition, state_key: bytes | None
    ) -> None:
        self.position = taken_over.position
        self.engine = Engine(config, partition, state_key=state_key)
        for note in self.engine.restore(taken_over.chunks, self.position.state_digest):
            log.warning("partition %d: %s", partition, note)
        self._config_digest = config.digest()
        if self.position.config_digest not in ("", self._config_digest):
            log.info("partition %d: the configuration has changed since the last commit", partition)

    def process(self, batch: Batch) -> Commit:
        """What one batch leads to."""
        outputs = self.engine.process(batch.predictions, batch.labels)
        chunks = self.engine.drain_chunks()
        self.position = Checkpoint(
            sequence=self.position.sequence + 1,
            prediction_offset=_next(self.position.prediction_offset, batch.predictions),
            label_offset=_next(self.position.label_offset, batch.labels),
            state_digest=self.engine.digest,
            config_digest=self._config_digest,
        )
        return Commit(self.position, outputs, chunks)


def _next(offset: int, records: Sequence[Record]) -> int:
    return records[-1].offset + 1 if records else offset


class Worker:
    """Runs the tasks of the partitions that this process owns.

    Args:
        config: the whole configuration.
        tasks: this worker's place in the worker group; the caller closes it.
        state_key: seals learners.
        on_commit: told the outputs of each commit, after it.
    """

    def __init__(
        self,
        config: Config,
        tasks: Assignment,
        *,
        state_key: bytes | None = None,
        on_commit: Callable[[Sequence[Output]], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._broker = tasks
        self._state_key = state_key
        self._on_commit = on_commit
        self._tasks: dict[int, PartitionTask] = {}
        # By partition: the commit that failed last, and how often it has.
        self._failed: dict[int, tuple[int, int]] = {}

    def start(self) -> None:
        """Take over what can be had.

        Raises:
            PartitionsTakenError: another worker owns every partition.
            ValueError: a partition's state cannot be read, or does not fit the configuration.
        """
        self._apply(self._broker.rebalance())

    def run(
        self,
        *,
        until_idle: bool,
        should_stop: Callable[[], bool],
        each_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Work until told to stop, or with `until_idle` until all input is processed.

        `each_turn` is called between polls, a few times a second while there is little to do.

        A broker that is busy, and partitions lost to another worker, are waited for.

        Raises:
            CommitFailedError: a commit cannot be made.
            ValueError: as from `start`.
        """
        while not should_stop():
            each_turn()
            try:
                self._apply(self._broker.rebalance())
                if not self.step(_POLL_S) and until_idle and self._broker.idle():
                    return
            except (BrokerTimeoutError, PartitionsTakenError) as error:
                log.warning("%s; trying again", error)
                time.sleep(_RETRY_S)

    def step(self, timeout_s: float) -> int:
        """Process what one poll gives; the number of records, those to be done over included.

        Raises:
            CommitFailedError: a commit cannot be made.
        """
        n = 0
        for batch in self._broker.poll(timeout_s):
            self._handle(batch)
            n += len(batch.predictions) + len(batch.labels)
        return n

    def _apply(self, change: Rebalance) -> None:
        """Drop what was lost, take over what was won."""
        for partition in change.lost:
            if self._tasks.pop(partition, None) is not None:
                log.info("partition %d: handed over", partition)
        for partition, taken_over in change.taken_over.items():
            self._tasks[partition] = PartitionTask(
                self._config, partition, taken_over, self._state_key
            )
            log.info("partition %d: at commit %d", partition, taken_over.position.sequence)

    def _handle(self, batch: Batch) -> None:
        """Process and commit a batch; where that fails it is done over after a take-over."""
        partition = batch.partition
        commit = self._tasks[partition].process(batch)
        try:
            self._broker.commit(partition, commit)
        except BrokerError as error:
            # Whether or not it was written, only the log knows: start again from there.
            what = "lost" if isinstance(error, FencedError) else "taking it over anew"
            log.warning("partition %d: %s: %s", partition, what, error)
            del self._tasks[partition]
            self._broker.release(partition)
            if not isinstance(error, BrokerTimeoutError | FencedError):
                self._back_off(partition, commit.position.sequence, error)
        else:
            self._failed.pop(partition, None)
            self._on_commit(commit.outputs)

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

    def partitions(self) -> frozenset[int]:
        """Those that this worker owns, or owned when its place in the group was closed."""
        return frozenset(self._tasks)

    def totals(self) -> Totals:
        """The counts of the partitions that this worker owns, since they were first read."""
        return add_up(Totals, [task.engine.totals() for task in self._tasks.values()])
