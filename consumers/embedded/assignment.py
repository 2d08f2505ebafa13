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
    FencedError,
    PartitionsTakenError,
    Rebalance,
    RestoredPartition,
)
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.embedded.checkpoints import (
    Ownership,
    epochs,
    raise_epoch,
    read_checkpoint,
    read_chunks,
    write_commit,
)
from streamgauge.consumers.embedded.database import (
    StoredRecord,
    append,
    encode_headers,
    read_records,
    wait_for,
)
from streamgauge.consumers.embedded.locks import FileLock
from streamgauge.consumers.embedded.retention import trim
from streamgauge.consumers.input_buffer import InputBuffer, cut_batch

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from streamgauge.consumers.broker import Commit
    from streamgauge.consumers.config import Config
    from streamgauge.consumers.embedded.database import Database, Log
    from streamgauge.stream.records import Output, TopicRole

_REBALANCE_EVERY_S = 1.0
_RETENTION_EVERY_S = 60.0

_Ends = dict[int, int]  # by a log's id, the offset after its newest record


class _EmbeddedInput:
    """One input of one partition, read a few records ahead of what was polled."""

    def __init__(self, log: Log, next_offset: int) -> None:
        self.log = log
        self.buffer = InputBuffer()
        self._next_offset = next_offset

    def lag(self, ends: _Ends) -> int:
        """Count the records that have not been polled."""
        return len(self.buffer.records) + ends[self.log.id] - self._next_offset

    def has_more(self, ends: _Ends) -> bool:
        """Return whether there is more than what was read ahead."""
        return self._next_offset < ends[self.log.id]

    def read_ahead(self, connection: sqlite3.Connection, ends: _Ends, n_records: int) -> None:
        """Have `n_records` records at hand, or all there are."""
        end = min(ends[self.log.id], self._next_offset + n_records - len(self.buffer.records))
        if end > self._next_offset:
            self.buffer.put(read_records(connection, self.log, self._next_offset, end))
            self._next_offset = end


class _EmbeddedPartition:
    """One owned partition."""

    def __init__(self, lock: FileLock, own: Ownership, inputs: Sequence[_EmbeddedInput]) -> None:
        self.lock = lock
        self.own = own
        self.inputs = inputs

    def lag(self, ends: _Ends) -> int:
        return sum(i.lag(ends) for i in self.inputs)

    def take_batch(self, partition: int, ends: _Ends, batch_max: int) -> Batch:
        return cut_batch(
            partition,
            [i.buffer for i in self.inputs],
            [i.has_more(ends) for i in self.inputs],
            batch_max,
        )


class EmbeddedAssignment:
    """One worker's share of the input partitions; see `streamgauge.consumers.broker.Assignment`.

    The first worker takes every partition; another one waits until some are free. A partition
    whose commit was fenced is given up, and may be won again by the next `rebalance`: it is then
    both in `lost` and in `restored`.
    """

    def __init__(
        self,
        database: Database,
        logs: Mapping[str, Sequence[Log]],
        config: Config,
        inputs: Sequence[TopicRole],
        locks: Path,
    ) -> None:
        self._database = database
        self._logs = logs
        self._config = config
        self._topics = [config.topics.name_of(role) for role in inputs]
        self._locks = locks
        self._partitions: dict[int, _EmbeddedPartition] = {}
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
        restored: dict[int, RestoredPartition] = {}
        if time.monotonic() >= self._next_rebalance_s or not self._partitions:
            self._drop_fenced()
            holders = self._take_free(restored)
            self._next_rebalance_s = time.monotonic() + _REBALANCE_EVERY_S
            if not self._partitions and not self._lost:
                raise PartitionsTakenError(
                    f"every partition of app {self._config.app!r} in "
                    f"{self._config.broker.data_dir} is owned by another worker "
                    f"(process {', '.join(sorted(holders))}); stop it first"
                )
        lost, self._lost = tuple(sorted(self._lost)), set()
        return Rebalance(restored, lost)

    def poll(self, timeout_s: float) -> list[Batch]:
        """Return the next batch of each owned partition that has unread input, and no others."""
        return wait_for(self._read, timeout_s)

    def idle(self) -> bool:
        """Return whether every owned partition has been polled to the end of all of its inputs."""
        return not any(self.lag().values())

    def is_read(self, partition: int) -> bool:
        """Return whether an owned partition has been polled to the end of all of its inputs."""
        return not self.lag()[partition]

    def lag(self) -> dict[int, int]:
        """Return how many records of each owned partition have not been polled."""
        with self._database.reading() as connection:
            ends = self._ends(connection)
        return {partition: owned.lag(ends) for partition, owned in self._partitions.items()}

    def commit(self, partition: int, commit: Commit) -> None:
        """Write the outputs, the changed state, the checkpoint and the journal entry, or nothing.

        Records past retention are deleted along with it, at most once a minute.

        Raises:
            FencedError: another worker owns the partition now, or the commit does not follow the
                last one; this worker has given the partition up.
            BrokerTimeoutError: not written in time; the same commit may be tried again.
        """
        rows = [self._row(partition, output) for output in commit.outputs]
        now_ms, now_s = wall_clock_ms(), time.monotonic()
        try:
            own = self._owned(partition).own
            with self._database.writing() as connection:
                _check_epoch(connection, own, partition)
                commit.check_follows(partition, read_checkpoint(connection, own.id))
                append(connection, rows, now_ms)
                write_commit(connection, own.id, partition, commit)
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
        for owned in self._partitions.values():
            owned.lock.release()
        self._partitions.clear()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _drop_fenced(self) -> None:
        with self._database.reading() as connection:
            current = epochs(connection)
        for partition, owned in list(self._partitions.items()):
            if current[owned.own.id] != owned.own.epoch:
                self._give_up(partition)

    def _give_up(self, partition: int) -> None:
        owned = self._partitions.pop(partition, None)
        if owned is not None:
            owned.lock.release()
            self._lost.add(partition)

    def _take_free(self, restored: dict[int, RestoredPartition]) -> set[str]:
        """Take what can be had, adding it to `restored`; return who holds the rest."""
        holders: set[str] = set()
        try:
            for partition in range(self._config.broker.partitions):
                if partition in self._partitions:
                    continue
                lock = FileLock(self._locks / f"{self._config.app}-{partition}.lock")
                if lock.acquire():
                    restored[partition] = self._take_over(partition, lock)
                else:
                    holders.add(lock.holder)
        except BaseException:
            for partition in restored:
                self._partitions.pop(partition).lock.release()
            raise
        return holders

    def _take_over(self, partition: int, lock: FileLock) -> RestoredPartition:
        logs = [self._logs[topic][partition] for topic in self._topics]
        try:
            with self._database.writing() as connection:
                own = raise_epoch(connection, self._config.app, partition, logs)
            # Only now: what an earlier owner still commits is refused from here on.
            with self._database.reading() as connection:
                checkpoint = read_checkpoint(connection, own.id)
                chunks = read_chunks(connection, own.id)
        except BaseException:
            lock.release()
            raise
        inputs = list(map(_EmbeddedInput, logs, checkpoint.offsets))
        self._partitions[partition] = _EmbeddedPartition(lock, own, inputs)
        return RestoredPartition(checkpoint, chunks)

    def _read(self) -> list[Batch]:
        batch_max = self._config.worker.batch_max
        with self._database.reading() as connection:
            ends = self._ends(connection)
            unread = {p: owned for p, owned in self._partitions.items() if owned.lag(ends)}
            for owned in unread.values():
                for i in owned.inputs:
                    i.read_ahead(connection, ends, batch_max)
        # Only now: had a read failed, nothing would have been polled.
        return [owned.take_batch(p, ends, batch_max) for p, owned in unread.items()]

    def _ends(self, connection: sqlite3.Connection) -> _Ends:
        marks = ", ".join("?" * len(self._topics))
        query = f"SELECT id, next_offset FROM logs WHERE topic IN ({marks})"  # noqa: S608 - marks
        return dict(connection.execute(query, self._topics))

    def _owned(self, partition: int) -> _EmbeddedPartition:
        owned = self._partitions.get(partition)
        if owned is None:
            raise FencedError(f"partition {partition} is not owned by this worker")
        return owned

    def _row(self, partition: int, output: Output) -> StoredRecord:
        role, key, value, headers, timestamp_ms = output
        log = self._logs[self._config.topics.name_of(role)][partition]
        return StoredRecord(log, timestamp_ms, key, value, encode_headers(headers))


def _check_epoch(connection: sqlite3.Connection, own: Ownership, partition: int) -> None:
    epoch = epochs(connection)[own.id]
    if epoch != own.epoch:
        raise FencedError(
            f"partition {partition} was taken over by another worker (epoch {epoch}, this worker "
            f"had {own.epoch}); nothing was written"
        )
