"""The worker's side of the embedded broker: partitions are owned, polled and committed.

A partition is owned by a file lock, which ends with its process, and by an epoch in the database,
which every take-over raises: whoever commits under an older epoch is fenced. The lock saves work,
the epoch keeps the log right.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.broker import (
    Batch,
    Checkpoint,
    FencedError,
    PartitionsTakenError,
    Rebalance,
    RestoredPartition,
)
from streamgauge.consumers.embedded.database import (
    StoredRecord,
    append,
    bounds,
    encode_headers,
    logs_of,
    read_records,
    wait_for,
    wall_clock_ms,
)
from streamgauge.consumers.embedded.locks import FileLock
from streamgauge.consumers.embedded.retention import trim
from streamgauge.stream.align import mergeable_prefix

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from streamgauge.consumers.broker import Commit
    from streamgauge.consumers.embedded.database import Database, Log
    from streamgauge.stream.config import Config
    from streamgauge.stream.records import Output, Record

_REBALANCE_EVERY_S = 1.0
_RETENTION_EVERY_S = 60.0

_Ends = dict[int, int]  # by a log's id, the offset after its newest record


class _Input:
    """Where one input of one partition is read, a few records ahead of what was polled."""

    def __init__(self, log: Log, next_offset: int) -> None:
        self.log = log
        self.ahead: list[Record] = []
        self._next_offset = next_offset

    def unread(self, ends: _Ends) -> bool:
        return bool(self.ahead) or self.more(ends)

    def more(self, ends: _Ends) -> bool:
        """Whether there is more than what was read ahead."""
        return self._next_offset < ends[self.log.id]

    def read_ahead(self, connection: sqlite3.Connection, ends: _Ends, n_records: int) -> None:
        """Have `n_records` records at hand, or all there are."""
        end = min(ends[self.log.id], self._next_offset + n_records - len(self.ahead))
        if end > self._next_offset:
            self.ahead += read_records(connection, self.log, self._next_offset, end)
            self._next_offset = end

    def take(self, n_records: int) -> list[Record]:
        taken, self.ahead = self.ahead[:n_records], self.ahead[n_records:]
        return taken


class _EmbeddedPartition:
    """One owned partition."""

    def __init__(
        self, lock: FileLock, task_id: int, epoch: int, predictions: _Input, labels: _Input
    ) -> None:
        self.lock = lock
        self.id = task_id
        self.epoch = epoch
        self.predictions = predictions
        self.labels = labels

    def unread(self, ends: _Ends) -> bool:
        return self.predictions.unread(ends) or self.labels.unread(ends)

    def take_batch(self, ends: _Ends, batch_max: int) -> Batch:
        n_predictions, n_labels = mergeable_prefix(
            self.predictions.ahead,
            self.labels.ahead,
            more_predictions=self.predictions.more(ends),
            more_labels=self.labels.more(ends),
            max_records=batch_max,
        )
        return Batch(
            partition=self.predictions.log.partition,
            predictions=self.predictions.take(n_predictions),
            labels=self.labels.take(n_labels),
        )


class EmbeddedAssignment:
    """One worker's share of the input partitions; see `streamgauge.consumers.broker.Assignment`.

    The first worker takes every partition; another one waits until some are free. A partition
    whose commit was fenced is given up, and may be won again by the next `rebalance`: it is then
    both in `lost` and in `taken_over`.
    """

    def __init__(
        self, database: Database, logs: Mapping[str, Sequence[Log]], config: Config, locks: Path
    ) -> None:
        self._database = database
        self._logs = logs
        self._config = config
        self._locks = locks
        self._tasks: dict[int, _EmbeddedPartition] = {}
        self._lost: set[int] = set()
        self._next_rebalance_s = 0.0
        self._next_retention_s = time.monotonic() + _RETENTION_EVERY_S

    def rebalance(self) -> Rebalance:
        """Partitions won (fenced and restored) and lost since the last call.

        With some partitions in hand it looks for others once a second.

        Raises:
            PartitionsTakenError: this worker has no partition and can get none; the message names
                the processes that have them.
            BrokerTimeoutError: the database was busy; what this call had won is free again.
        """
        taken_over: dict[int, RestoredPartition] = {}
        if time.monotonic() >= self._next_rebalance_s or not self._tasks:
            self._drop_fenced()
            holders = self._take_free(taken_over)
            self._next_rebalance_s = time.monotonic() + _REBALANCE_EVERY_S
            if not self._tasks and not self._lost:
                raise PartitionsTakenError(
                    f"every partition of app {self._config.app!r} in "
                    f"{self._config.broker.data_dir} is owned by another worker "
                    f"(process {', '.join(sorted(holders))}); stop it first"
                )
        lost, self._lost = tuple(sorted(self._lost)), set()
        return Rebalance(taken_over, lost)

    def poll(self, timeout_s: float) -> list[Batch]:
        """The next batch of each owned partition that has unread input, and no others."""
        return wait_for(self._read, timeout_s)

    def idle(self) -> bool:
        """Whether every owned partition has been polled to the end of both of its inputs."""
        with self._database.reading() as connection:
            ends = self._ends(connection)
        return not any(task.unread(ends) for task in self._tasks.values())

    def commit(self, partition: int, commit: Commit) -> None:
        """Write the outputs, the changed state, the position and the journal entry, or nothing.

        Records past retention are deleted along with it, at most once a minute.

        Raises:
            FencedError: another worker owns the partition now, or the position does not follow
                the last one; this worker has given the partition up.
            BrokerTimeoutError: not written in time; the same commit may be tried again.
            UnknownTopicError: an output is for a topic that is not in the config.
        """
        rows = [self._row(partition, output) for output in commit.outputs]
        now_ms, now_s = wall_clock_ms(), time.monotonic()
        try:
            task = self._owned(partition)
            with self._database.writing() as connection:
                previous = _checked_position(connection, task, commit.position, partition)
                append(connection, rows, now_ms)
                _put_chunks(connection, task.id, commit.chunks)
                _put_position(connection, task.id, previous, commit.position)
                if now_s >= self._next_retention_s:
                    trim(connection, self._logs, self._config, now_ms)
        except FencedError:
            self._give_up(partition)
            raise
        if now_s >= self._next_retention_s:
            self._next_retention_s = now_s + _RETENTION_EVERY_S

    def release(self, partition: int) -> None:
        """Give a partition up, owned or not; the next `rebalance` may take it over anew."""
        self._give_up(partition)
        self._next_rebalance_s = 0.0

    def close(self) -> None:
        """Free the partitions."""
        for task in self._tasks.values():
            task.lock.release()
        self._tasks.clear()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _drop_fenced(self) -> None:
        with self._database.reading() as connection:
            epochs = dict(connection.execute("SELECT id, epoch FROM tasks"))
        for partition, task in list(self._tasks.items()):
            if epochs[task.id] != task.epoch:
                self._give_up(partition)

    def _give_up(self, partition: int) -> None:
        task = self._tasks.pop(partition, None)
        if task is not None:
            task.lock.release()
            self._lost.add(partition)

    def _take_free(self, taken_over: dict[int, RestoredPartition]) -> set[str]:
        """Take what can be had, adding it to `taken_over`; return who holds the rest."""
        holders: set[str] = set()
        try:
            for partition in range(self._config.broker.partitions):
                if partition in self._tasks:
                    continue
                lock = FileLock(self._locks / f"{self._config.app}-{partition}.lock")
                if lock.acquire():
                    taken_over[partition] = self._take_over(partition, lock)
                else:
                    holders.add(lock.holder)
        except BaseException:
            for partition in taken_over:
                self._tasks.pop(partition).lock.release()
            raise
        return holders

    def _take_over(self, partition: int, lock: FileLock) -> RestoredPartition:
        topics = self._config.topics
        predictions = self._logs[topics.predictions][partition]
        labels = self._logs[topics.labels][partition]
        try:
            task_id, epoch = self._raise_epoch(predictions, labels)
            # Only now: what an earlier owner still commits is refused from here on.
            with self._database.reading() as connection:
                position = _position(connection, task_id)
                chunks = dict(
                    connection.execute("SELECT name, value FROM chunks WHERE task = ?", (task_id,))
                )
        except BaseException:
            lock.release()
            raise
        self._tasks[partition] = _EmbeddedPartition(
            lock,
            task_id,
            epoch,
            _Input(predictions, position.prediction_offset),
            _Input(labels, position.label_offset),
        )
        return RestoredPartition(position, chunks)

    def _raise_epoch(self, predictions: Log, labels: Log) -> tuple[int, int]:
        """The partition's task and its new epoch; a new task starts at the oldest records."""
        key = (self._config.app, predictions.partition)
        with self._database.writing() as connection:
            starts = (bounds(connection, predictions)[0], bounds(connection, labels)[0])
            connection.execute(
                "INSERT INTO tasks (app, partition, epoch, prediction_offset, label_offset) "
                "VALUES (?, ?, 1, ?, ?) "
                "ON CONFLICT (app, partition) DO UPDATE SET epoch = epoch + 1",
                key + starts,
            )
            task_id, epoch = connection.execute(
                "SELECT id, epoch FROM tasks WHERE app = ? AND partition = ?", key
            ).fetchone()
        return task_id, epoch

    def _read(self) -> list[Batch]:
        batch_max = self._config.worker.batch_max
        with self._database.reading() as connection:
            ends = self._ends(connection)
            tasks = [task for task in self._tasks.values() if task.unread(ends)]
            for task in tasks:
                task.predictions.read_ahead(connection, ends, batch_max)
                task.labels.read_ahead(connection, ends, batch_max)
        # Only now: had a read failed, nothing would have been polled.
        return [task.take_batch(ends, batch_max) for task in tasks]

    def _ends(self, connection: sqlite3.Connection) -> _Ends:
        topics = self._config.topics
        return dict(
            connection.execute(
                "SELECT id, next_offset FROM logs WHERE topic IN (?, ?)",
                (topics.predictions, topics.labels),
            )
        )

    def _owned(self, partition: int) -> _EmbeddedPartition:
        task = self._tasks.get(partition)
        if task is None:
            raise FencedError(f"partition {partition} is not owned by this worker")
        return task

    def _row(self, partition: int, output: Output) -> StoredRecord:
        topic, key, value, headers, timestamp_ms = output
        log = logs_of(self._logs, topic)[partition]
        return StoredRecord(log, timestamp_ms, key, value, encode_headers(headers))


def _position(connection: sqlite3.Connection, task_id: int) -> Checkpoint:
    return Checkpoint(
        *connection.execute(
            "SELECT sequence, prediction_offset, label_offset, state_digest, config_digest "
            "FROM tasks WHERE id = ?",
            (task_id,),
        ).fetchone()
    )


def _checked_position(
    connection: sqlite3.Connection, task: _EmbeddedPartition, position: Checkpoint, partition: int
) -> Checkpoint:
    """The committed position, when `task` still owns the partition and `position` comes next."""
    (epoch,) = connection.execute("SELECT epoch FROM tasks WHERE id = ?", (task.id,)).fetchone()
    if epoch != task.epoch:
        raise FencedError(
            f"partition {partition} was taken over by another worker (epoch {epoch}, this worker "
            f"had {task.epoch}); nothing was written"
        )
    previous = _position(connection, task.id)
    if position.sequence != previous.sequence + 1:
        raise FencedError(
            f"partition {partition} stands at commit {previous.sequence}, and commit "
            f"{position.sequence} does not follow it; nothing was written"
        )
    return previous


def _put_chunks(
    connection: sqlite3.Connection, task_id: int, chunks: Mapping[str, bytes | None]
) -> None:
    connection.executemany(
        "DELETE FROM chunks WHERE task = ? AND name = ?",
        [(task_id, name) for name, value in chunks.items() if value is None],
    )
    connection.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?) "
        "ON CONFLICT (task, name) DO UPDATE SET value = excluded.value",
        [(task_id, name, value) for name, value in chunks.items() if value is not None],
    )


def _put_position(
    connection: sqlite3.Connection, task_id: int, previous: Checkpoint, position: Checkpoint
) -> None:
    connection.execute(
        "UPDATE tasks SET sequence = ?, prediction_offset = ?, label_offset = ?, "
        "state_digest = ?, config_digest = ? WHERE id = ?",
        (
            position.sequence,
            position.prediction_offset,
            position.label_offset,
            position.state_digest,
            position.config_digest,
            task_id,
        ),
    )
    connection.execute(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            task_id,
            position.sequence,
            previous.prediction_offset,
            position.prediction_offset,
            previous.label_offset,
            position.label_offset,
            position.state_digest,
            position.config_digest,
        ),
    )
