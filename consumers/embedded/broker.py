"""The broker in a folder: one SQLite file, no server, several processes on one machine.

Every producer, reader and worker has a connection of its own. Writers take turns; readers see
the last committed state and wait for nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from streamgauge.consumers.broker import BrokerError, JournalEntry, NotRetainedError, TopicInfo
from streamgauge.consumers.embedded.assignment import EmbeddedAssignment
from streamgauge.consumers.embedded.checkpoints import read_journal
from streamgauge.consumers.embedded.clients import EmbeddedProducer, EmbeddedReader
from streamgauge.consumers.embedded.database import (
    DATABASE_NAME,
    Database,
    bounds,
    logs_of,
    open_logs,
    read_records,
    size_of,
)
from streamgauge.consumers.embedded.locks import FileLock
from streamgauge.consumers.embedded.retention import trim

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.consumers.embedded.database import Log
    from streamgauge.stream.records import Record, TopicRole

_JOURNAL_PAGE = 1000


class EmbeddedBroker:
    """The log in the folder `broker.data_dir`; see `streamgauge.consumers.broker.Broker`.

    One thread at a time may use it, and each of its producers, readers and assignments.
    """

    def __init__(self, config: Config) -> None:
        """Open the folder, or make it with every topic of the config.

        Raises:
            BrokerError: the folder cannot be used, or does not fit the config.
        """
        self.n_partitions = config.broker.partitions
        self._config = config
        self._folder = Path(config.broker.data_dir)
        self._databases: list[Database] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BrokerError(
                f"{self._folder}: cannot be made ({error.strerror}); set broker.data_dir to a "
                "folder that can be written"
            ) from error
        self._database = self._connect()
        try:
            self._logs = open_logs(self._database, config)
        except BaseException:
            self.close()
            raise

    def topics(self) -> list[TopicInfo]:
        """Every topic of the folder."""
        with self._database.reading() as connection:
            return [_topic_info(connection, logs) for logs in self._logs.values()]

    def producer(self) -> EmbeddedProducer:
        return EmbeddedProducer(self._connect(), self._logs)

    def reader(
        self, topics: Sequence[str], *, group: str | None = None, from_start: bool = True
    ) -> EmbeddedReader:
        """Follow `topics`, from the group's place, else from the start, else from the end.

        Raises:
            UnknownTopicError: one of the topics does not exist.
            BrokerError: another reader of the group is at work.
        """
        logs = [log for topic in dict.fromkeys(topics) for log in logs_of(self._logs, topic)]
        lock = None if group is None else self._lock_group(group)
        database = self._connect()
        try:
            return EmbeddedReader(database, logs, group, lock, from_start=from_start)
        except BaseException:
            database.close()
            if lock is not None:
                lock.release()
            raise

    def join_group(self, inputs: Sequence[TopicRole]) -> EmbeddedAssignment:
        """Join the worker group `config.app`, which shares the partitions of these topics."""
        return EmbeddedAssignment(self._connect(), self._logs, self._config, inputs, self._locks)

    def journal(self, partition: int) -> Iterator[JournalEntry]:
        """Every committed batch of a partition whose input is retained, in order."""
        sequence = 0
        while True:
            with self._database.reading() as connection:
                entries = read_journal(
                    connection, self._config.app, partition, sequence, _JOURNAL_PAGE
                )
            if not entries:
                return
            yield from entries
            sequence = entries[-1].sequence

    def fetch(self, topic: str, partition: int, start_offset: int, end_offset: int) -> list[Record]:
        """Return the records with start_offset <= offset < end_offset.

        Raises:
            UnknownTopicError: there is no such topic.
            NotRetainedError: some of the records are no longer retained.
            BrokerError: there is no such partition, or some of them are not yet written.
        """
        logs = logs_of(self._logs, topic)
        if not 0 <= partition < len(logs):
            raise BrokerError(
                f"topic {topic!r} has partitions 0 to {len(logs) - 1}, and no {partition}"
            )
        if start_offset >= end_offset:
            return []
        with self._database.reading() as connection:
            oldest, end = bounds(connection, logs[partition])
            if start_offset < oldest:
                raise NotRetainedError(
                    f"{topic!r} partition {partition} is retained from offset {oldest}, and "
                    f"{start_offset} is gone; a longer broker.retention keeps more"
                )
            if end_offset > end:
                raise BrokerError(
                    f"{topic!r} partition {partition} ends at offset {end}, before {end_offset}"
                )
            return read_records(connection, logs[partition], start_offset, end_offset)

    def is_reachable(self, _timeout_s: float, /) -> bool:
        """Return True: a file can always be read from."""
        return True

    def apply_retention(self, now_ms: int) -> None:
        """Delete what is past `broker.retention`, as workers do while they commit.

        Args:
            now_ms: the time that ages are taken at, epoch milliseconds.
        """
        with self._database.writing() as connection:
            trim(connection, self._logs, self._config, now_ms)

    def close(self) -> None:
        """Close every connection, those of producers, readers and assignments too."""
        for database in self._databases:
            database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _locks(self) -> Path:
        return self._folder / "locks"

    def _connect(self) -> Database:
        database = Database(self._folder / DATABASE_NAME, self._config.broker.timeout)
        self._databases = [known for known in self._databases if known.is_open]
        self._databases.append(database)
        return database

    def _lock_group(self, group: str) -> FileLock:
        lock = FileLock(self._locks / f"{quote(group, safe='')}.reader.lock")
        if not lock.acquire():
            raise BrokerError(
                f"another reader of group {group!r} is at work (process {lock.holder}); stop it, "
                "or read with another group"
            )
        return lock


def _topic_info(connection: sqlite3.Connection, logs: Sequence[Log]) -> TopicInfo:
    n_records, n_bytes = 0, 0
    oldest_ms: list[int] = []
    newest_ms: list[int] = []
    for log in logs:
        oldest, end = bounds(connection, log)
        if end > oldest:
            n_records += end - oldest
            n_bytes += size_of(connection, log)
            oldest_ms.append(read_records(connection, log, oldest, oldest + 1)[0].timestamp_ms)
            newest_ms.append(read_records(connection, log, end - 1, end)[0].timestamp_ms)
    return TopicInfo(
        logs[0].topic,
        len(logs),
        n_records,
        n_bytes,
        min(oldest_ms, default=None),
        max(newest_ms, default=None),
    )
