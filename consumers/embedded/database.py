"""The embedded broker's SQLite file: its schema, its transactions, its errors in words."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from streamgauge.consumers.broker import BrokerError, BrokerTimeoutError, UnknownTopicError
from streamgauge.stream.config import duration_text
from streamgauge.stream.records import Headers, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from streamgauge.consumers.config import Config

T = TypeVar("T")

FORMAT = 2
DATABASE_NAME = "broker.db"
_WAIT_S = 0.02

# A record's id is its log's number and its offset, so that a log is one range of one B-tree and
# needs no index. 2**40 records are 30 years at a thousand a second.
_OFFSET_BITS = 40

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE logs (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        oldest_offset INTEGER NOT NULL DEFAULT 0,
        next_offset INTEGER NOT NULL DEFAULT 0,
        n_bytes INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, partition))""",
    """CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        timestamp_ms INTEGER NOT NULL,
        appended_ms INTEGER NOT NULL,
        key BLOB,
        value BLOB,
        headers BLOB)""",
    """CREATE TABLE group_offsets (
        group_name TEXT NOT NULL,
        log INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (group_name, log)) WITHOUT ROWID""",
    """CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL,
        partition INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        sequence INTEGER NOT NULL DEFAULT 0,
        state_digest TEXT NOT NULL DEFAULT '',
        config_digest TEXT NOT NULL DEFAULT '',
        UNIQUE (app, partition))""",
    """CREATE TABLE input_offsets (
        checkpoint INTEGER NOT NULL,
        input INTEGER NOT NULL,
        log INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (checkpoint, input)) WITHOUT ROWID""",
    """CREATE TABLE chunks (
        checkpoint INTEGER NOT NULL,
        name TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (checkpoint, name))""",
    """CREATE TABLE journal (
        checkpoint INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        offsets_from TEXT NOT NULL,
        offsets_to TEXT NOT NULL,
        deadline_ms INTEGER,
        state_digest TEXT NOT NULL,
        config_digest TEXT NOT NULL,
        PRIMARY KEY (checkpoint, sequence)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """One partition of one topic; `first_id` is the id of its record with offset 0."""

    id: int
    topic: str
    partition: int
    first_id: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first_id", self.id << _OFFSET_BITS)


class StoredRecord(NamedTuple):
    """A record that is to be appended."""

    log: Log
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: bytes | None


class Database:
    """One connection to the file. Not for use by two threads at a time.

    A transaction is visible to every process once it is committed, whatever happens to this one;
    after a power cut the last ones may be missing, as a whole.
    """

    def __init__(self, path: Path, timeout_ms: int) -> None:
        """Connect, creating the file where there is none.

        Raises:
            BrokerError: the file cannot be used.
        """
        self.is_open = True
        self._path = path
        self._timeout_ms = timeout_ms
        with self._translate_errors():
            # isolation_level None: transactions begin where this module says so.
            self._connection = sqlite3.connect(
                path, timeout=timeout_ms / 1000, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translate_errors():
                self._use_write_ahead_log()
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.execute("PRAGMA journal_size_limit = 67108864")
        except BrokerError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that sees one state of the log; writers neither stop it nor wait."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that writes all or, after any exception, nothing.

        Raises:
            BrokerTimeoutError: other processes were writing for the whole time-out.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def close(self) -> None:
        """Close the connection; it may be closed already."""
        self.is_open = False
        self._connection.close()

    def _use_write_ahead_log(self) -> None:
        # Two connections that both change the mode of a new file would wait for each other, so
        # SQLite fails one of them at once, whatever its time-out: that one tries again.
        deadline = time.monotonic() + self._timeout_ms / 1000
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(_WAIT_S)
            else:
                return

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._translate_errors():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, such as a full disk.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # using what was closed, say: the caller's mistake, not the file's
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.DatabaseError) -> BrokerError:
        if _is_busy(error):
            return BrokerTimeoutError(
                f"the broker in {self._path.parent} was busy for "
                f"{duration_text(self._timeout_ms)}, another process is writing to it; "
                "try again, or raise broker.timeout"
            )
        match _code(error):
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                fix = "restore it from a copy, or delete the folder to start anew"
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                fix = "make the folder and its files writable, or set broker.data_dir to another"
            case sqlite3.SQLITE_FULL:
                fix = "free some disk space; nothing was written"
            case _:
                fix = "check the disk that broker.data_dir is on"
        return BrokerError(f"{self._path}: {error}; {fix}")


def _code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_logs(database: Database, config: Config) -> dict[str, list[Log]]:
    """Return the logs of every topic, by partition; tables and topics that are missing are made.

    Raises:
        BrokerError: the file is of another format, of another program, or has another number of
            partitions than the config; it is as it was.
    """
    folder, n_partitions = config.broker.data_dir, config.broker.partitions
    wanted = list(config.topics.names().values())
    with database.reading() as connection:
        logs = _load_logs(connection, folder, n_partitions)
    if all(topic in logs for topic in wanted):
        return logs
    with database.writing() as connection:
        # Another process may have been quicker.
        logs = _load_logs(connection, folder, n_partitions)
        if not logs:
            _create(connection, n_partitions)
        connection.executemany(
            "INSERT INTO logs (topic, partition) VALUES (?, ?)",
            [(topic, p) for topic in wanted if topic not in logs for p in range(n_partitions)],
        )
        return _load_logs(connection, folder, n_partitions)


def _create(connection: sqlite3.Connection, n_partitions: int) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("partitions", n_partitions)]
    )


def _load_logs(
    connection: sqlite3.Connection, folder: str, n_partitions: int
) -> dict[str, list[Log]]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return {}
    if not {"meta", "logs", "records"} <= tables:
        raise BrokerError(
            f"{folder}/{DATABASE_NAME} belongs to another program; "
            "set broker.data_dir to a new folder"
        )
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    if meta["format"] != FORMAT:
        newer = meta["format"] > FORMAT
        raise BrokerError(
            f"{folder} was written by {'a newer' if newer else 'an older'} streamgauge (format "
            f"{meta['format']}, this one reads {FORMAT}); "
            f"{'upgrade streamgauge' if newer else 'run the version that wrote it'}, or set "
            "broker.data_dir to a new folder"
        )
    if meta["partitions"] != n_partitions:
        raise BrokerError(
            f"{folder} has {meta['partitions']} partitions, broker.partitions is {n_partitions}, "
            "and records cannot be re-partitioned; set broker.partitions back to "
            f"{meta['partitions']}, or delete the folder"
        )
    logs: dict[str, list[Log]] = {}
    for row in connection.execute("SELECT id, topic, partition FROM logs ORDER BY id"):
        logs.setdefault(row[1], []).append(Log(*row))
    return logs


def logs_of(logs: Mapping[str, Sequence[Log]], topic: str) -> Sequence[Log]:
    """Return the logs of a topic, by partition.

    Raises:
        UnknownTopicError: there is no such topic.
    """
    try:
        return logs[topic]
    except KeyError:
        raise UnknownTopicError(
            f"no topic {topic!r}; the topics are {', '.join(sorted(logs))}"
        ) from None


def append(connection: sqlite3.Connection, rows: Sequence[StoredRecord], now_ms: int) -> None:
    """Append records to their logs, in order, within the caller's write transaction."""
    next_ids: dict[Log, int] = {}
    n_bytes: dict[Log, int] = {}

    def numbered() -> Iterator[tuple[object, ...]]:
        for log, timestamp_ms, key, value, headers in rows:
            record_id = next_ids.get(log)
            if record_id is None:
                record_id = log.first_id + bounds(connection, log)[1]
                n_bytes[log] = 0
            next_ids[log] = record_id + 1
            n_bytes[log] += len(key or b"") + len(value or b"") + len(headers or b"")
            yield record_id, timestamp_ms, now_ms, key, value, headers

    connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", numbered())
    connection.executemany(
        "UPDATE logs SET next_offset = ?, n_bytes = n_bytes + ? WHERE id = ?",
        [(next_id - log.first_id, n_bytes[log], log.id) for log, next_id in next_ids.items()],
    )


def bounds(connection: sqlite3.Connection, log: Log) -> tuple[int, int]:
    """Return the offset of the oldest retained record of a log, and the offset after the newest."""
    oldest, end = connection.execute(
        "SELECT oldest_offset, next_offset FROM logs WHERE id = ?", (log.id,)
    ).fetchone()
    return oldest, end


def size_of(connection: sqlite3.Connection, log: Log) -> int:
    """Return the bytes of keys, values and headers that a log retains."""
    (n_bytes,) = connection.execute("SELECT n_bytes FROM logs WHERE id = ?", (log.id,)).fetchone()
    return int(n_bytes)


def read_records(
    connection: sqlite3.Connection, log: Log, start_offset: int, end_offset: int
) -> list[Record]:
    """Return the records of a log with start_offset <= offset < end_offset that there are."""
    topic, partition, first_id = log.topic, log.partition, log.first_id
    rows = connection.execute(
        "SELECT id - ?, timestamp_ms, key, value, headers FROM records "
        "WHERE id >= ? AND id < ? ORDER BY id",
        (first_id, first_id + start_offset, first_id + end_offset),
    )
    return [
        Record(
            topic,
            partition,
            offset,
            timestamp_ms,
            key,
            value,
            () if headers is None else _HEADERS.decode(headers),
        )
        for offset, timestamp_ms, key, value, headers in rows
    ]


_HEADERS = msgspec.msgpack.Decoder(Headers)


def encode_headers(headers: Headers) -> bytes | None:
    """Headers as they are stored."""
    return msgspec.msgpack.encode(headers) if headers else None


def wait_for(read: Callable[[], list[T]], timeout_s: float) -> list[T]:
    """Return what `read` finds, asking again for up to `timeout_s` while it finds nothing."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = read()
        remaining_s = deadline - time.monotonic()
        if found or remaining_s <= 0:
            return found
        time.sleep(min(_WAIT_S, remaining_s))
