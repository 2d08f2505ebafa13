"""Retention on the embedded broker: old records go, and too many, but never unprocessed input."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from streamgauge.consumers.embedded.database import bounds, size_of
from streamgauge.stream.records import MONITOR_INPUTS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.consumers.embedded.database import Log

_SIZE = "ifnull(length(key), 0) + ifnull(length(value), 0) + ifnull(length(headers), 0)"


def trim(
    connection: sqlite3.Connection,
    logs: Mapping[str, Sequence[Log]],
    config: Config,
    now_ms: int,
) -> None:
    """Delete what is past retention, within the caller's write transaction.

    Of an input topic only records go that every app of this folder has committed past; where no
    app has read it yet, those of predictions and labels stay. Journal
    entries of `config.app` go with the first of their input. The file keeps its size; the room is
    used again.
    """
    retention = config.broker.retention
    for topic in config.topics.names().values():
        removable = {log: _removable_to(connection, log, config) for log in logs[topic]}
        for log, end in removable.items():
            _remove(connection, log, _first_younger(connection, log, end, now_ms - retention.age))
        for log, end in _past_size(connection, removable, retention.size_mb * 1_000_000).items():
            _remove(connection, log, end)
    _forget_journal(connection, config)


def _removable_to(connection: sqlite3.Connection, log: Log, config: Config) -> int:
    """Return the offset up to which a log's records are nobody's unprocessed input."""
    query = "SELECT min(next_offset) FROM input_offsets WHERE log = ?"
    (committed,) = connection.execute(query, (log.id,)).fetchone()
    if committed is not None:
        return int(committed)
    # Serving code writes to these from before the first worker reads them.
    inputs = [config.topics.name_of(role) for role in MONITOR_INPUTS]
    return 0 if log.topic in inputs else bounds(connection, log)[1]


def _first_younger(connection: sqlite3.Connection, log: Log, end: int, than_ms: int) -> int:
    row = connection.execute(
        "SELECT id - ? FROM records WHERE id >= ? AND id < ? AND appended_ms >= ? "
        "ORDER BY id LIMIT 1",
        (log.first_id, log.first_id, log.first_id + end, than_ms),
    ).fetchone()
    return end if row is None else int(row[0])


def _past_size(
    connection: sqlite3.Connection, removable: Mapping[Log, int], size_max: int
) -> dict[Log, int]:
    """For each log, the offset up to which records must go, the oldest of the topic first."""
    size = sum(size_of(connection, log) for log in removable)
    by_id = {log.id: log for log in removable}
    ends: dict[Log, int] = {}
    if size > size_max:
        oldest_first = heapq.merge(*(_sizes(connection, *item) for item in removable.items()))
        for _, log_id, offset, n_bytes in oldest_first:
            ends[by_id[log_id]] = offset + 1
            size -= n_bytes
            if size <= size_max:
                break
    return ends


def _sizes(
    connection: sqlite3.Connection, log: Log, end: int
) -> Iterator[tuple[int, int, int, int]]:
    for appended_ms, offset, n_bytes in connection.execute(
        f"SELECT appended_ms, id - ?, {_SIZE} FROM records WHERE id >= ? AND id < ? ORDER BY id",  # noqa: S608 - a constant
        (log.first_id, log.first_id, log.first_id + end),
    ):
        yield appended_ms, log.id, offset, n_bytes


def _remove(connection: sqlite3.Connection, log: Log, end: int) -> None:
    if end <= bounds(connection, log)[0]:
        return
    ids = (log.first_id, log.first_id + end)
    (n_bytes,) = connection.execute(
        f"SELECT ifnull(sum({_SIZE}), 0) FROM records WHERE id >= ? AND id < ?",  # noqa: S608 - a constant
        ids,
    ).fetchone()
    connection.execute("DELETE FROM records WHERE id >= ? AND id < ?", ids)
    connection.execute(
        "UPDATE logs SET oldest_offset = ?, n_bytes = n_bytes - ? WHERE id = ?",
        (end, n_bytes, log.id),
    )


def _forget_journal(connection: sqlite3.Connection, config: Config) -> None:
    inputs = connection.execute(
        "SELECT checkpoint, input, oldest_offset FROM input_offsets "
        "JOIN checkpoints ON checkpoints.id = checkpoint JOIN logs ON logs.id = log WHERE app = ?",
        (config.app,),
    ).fetchall()
    # Offsets only grow from entry to entry, so what stays is the newest, without a gap.
    connection.executemany(
        "DELETE FROM journal WHERE checkpoint = ? "
        "AND json_extract(offsets_from, '$[' || ? || ']') < ?",
        inputs,
    )
