"""Producers and readers of the embedded broker."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.embedded.database import (
    StoredRecord,
    append,
    bounds,
    encode_headers,
    logs_of,
    read_records,
    wait_for,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from streamgauge.consumers.embedded.database import Database, Log
    from streamgauge.consumers.embedded.locks import FileLock
    from streamgauge.stream.records import Headers, Record

_QUEUE_MAX = 1000


class EmbeddedProducer:
    """Writes records to the log; see `streamgauge.consumers.broker.Producer`."""

    def __init__(self, database: Database, logs: Mapping[str, Sequence[Log]]) -> None:
        self._database = database
        self._logs = logs
        self._queued: list[StoredRecord] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue a record; equal keys go to the same partition. `timestamp_ms` None means now.

        When a thousand records are queued they are flushed first.

        Raises:
            UnknownTopicError: there is no such topic.
            BrokerTimeoutError: the queue was full and could not be written in time; this record
                is not queued, the others still are.
        """
        logs = logs_of(self._logs, topic)
        if len(self._queued) >= _QUEUE_MAX:
            self.flush()
        log = logs[0 if key is None else zlib.crc32(key) % len(logs)]
        if timestamp_ms is None:
            timestamp_ms = wall_clock_ms()
        self._queued.append(StoredRecord(log, timestamp_ms, key, value, encode_headers(headers)))

    def flush(self) -> None:
        """Write what is queued in one transaction; when it returns, readers see it.

        Raises:
            BrokerTimeoutError: not written in time; what was queued is still queued.
        """
        if self._queued:
            with self._database.writing() as connection:
                append(connection, self._queued, wall_clock_ms())
            self._queued.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Flush."""
        self.flush()


class EmbeddedReader:
    """Follows whole topics; see `streamgauge.consumers.broker.Reader`.

    Attributes:
        n_skipped: records that retention had deleted before this reader came to them.
    """

    def __init__(
        self,
        database: Database,
        logs: Sequence[Log],
        group: str | None,
        lock: FileLock | None,
        *,
        from_start: bool,
    ) -> None:
        self.n_skipped = 0
        self._database = database
        self._logs = list(logs)
        self._group = group
        self._lock = lock
        self._offsets: dict[Log, int] = {}
        with database.reading() as connection:
            places = dict(
                connection.execute(
                    "SELECT log, next_offset FROM group_offsets WHERE group_name = ?", (group,)
                )
            )
            for log in logs:
                oldest, end = bounds(connection, log)
                self._offsets[log] = places.get(log.id, oldest if from_start else end)

    def poll(self, timeout_s: float, max_records: int = 1000) -> list[Record]:
        """Return up to `max_records` unread records, in offset order within a partition."""
        return wait_for(lambda: self._read(max_records), timeout_s)

    def commit(self) -> None:
        """Remember, for the group, that everything polled so far has been dealt with.

        Raises:
            BrokerTimeoutError: not written in time; the group's place is as it was.
        """
        if self._group is None:
            return
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT INTO group_offsets VALUES (?, ?, ?) ON CONFLICT (group_name, log) "
                "DO UPDATE SET next_offset = excluded.next_offset",
                [(self._group, log.id, offset) for log, offset in self._offsets.items()],
            )

    def close(self) -> None:
        """Let another reader of the group in."""
        if self._lock is not None:
            self._lock.release()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        with self._database.reading() as connection:
            ranges = _shared(self._unread(connection), max_records)
            for log, (start, end) in ranges.items():
                records += read_records(connection, log, start, end)
        # Only now: had a read failed, nothing would have been polled.
        for log, (start, end) in ranges.items():
            self.n_skipped += start - self._offsets[log]
            self._offsets[log] = end
        if records:
            # Those just served come last, for where there are more logs than records to take.
            self._logs.sort(key=ranges.__contains__)
        return records

    def _unread(self, connection: sqlite3.Connection) -> dict[Log, tuple[int, int]]:
        unread = {}
        for log in self._logs:
            oldest, end = bounds(connection, log)
            start = max(self._offsets[log], oldest)
            if start < end:
                unread[log] = start, end
        return unread


def _shared(unread: Mapping[Log, tuple[int, int]], n_max: int) -> dict[Log, tuple[int, int]]:
    """Share `n_max` records among the logs: a backlog of one keeps no other waiting."""
    served = list(unread.items())[:n_max]
    served.sort(key=lambda item: item[1][1] - item[1][0])
    ranges = {}
    for i, (log, (start, end)) in enumerate(served):
        n = min(end - start, n_max // (len(served) - i))
        n_max -= n
        ranges[log] = start, start + n
    return ranges
