"""A partition's checkpoint, state chunks and journal, in the embedded broker's file.

Each function works within its caller's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from streamgauge.consumers.broker import BrokerError, Checkpoint, JournalEntry
from streamgauge.consumers.embedded.database import bounds

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from streamgauge.consumers.broker import Commit
    from streamgauge.consumers.embedded.database import Log

_decode_offsets = msgspec.json.Decoder(tuple[int, ...]).decode


class Ownership(NamedTuple):
    """A partition's row, and the epoch in which it is owned; a later epoch ends the ownership."""

    id: int
    epoch: int


def raise_epoch(
    connection: sqlite3.Connection, app: str, partition: int, inputs: Sequence[Log]
) -> Ownership:
    """Take a partition over; one that is new begins at the oldest records of its inputs.

    Raises:
        BrokerError: the app has read other topics so far.
    """
    key = (app, partition)
    connection.execute(
        "INSERT INTO checkpoints (app, partition, epoch) VALUES (?, ?, 1) "
        "ON CONFLICT (app, partition) DO UPDATE SET epoch = epoch + 1",
        key,
    )
    row = connection.execute(
        "SELECT id, epoch FROM checkpoints WHERE app = ? AND partition = ?", key
    ).fetchone()
    own = Ownership(*row)
    known = connection.execute(
        "SELECT log, topic FROM input_offsets JOIN logs ON logs.id = log WHERE checkpoint = ? "
        "ORDER BY input",
        (own.id,),
    ).fetchall()
    if not known:
        connection.executemany(
            "INSERT INTO input_offsets VALUES (?, ?, ?, ?)",
            [(own.id, i, log.id, bounds(connection, log)[0]) for i, log in enumerate(inputs)],
        )
    elif [log_id for log_id, _ in known] != [log.id for log in inputs]:
        raise BrokerError(
            f"app {app!r} has read {', '.join(topic for _, topic in known)} so far, and this "
            f"worker reads {', '.join(log.topic for log in inputs)}; set `app` to another name, or "
            "the topics back"
        )
    return own


def epochs(connection: sqlite3.Connection) -> dict[int, int]:
    """Return the epoch of each partition, by its row's id."""
    return dict(connection.execute("SELECT id, epoch FROM checkpoints"))


def read_checkpoint(connection: sqlite3.Connection, checkpoint_id: int) -> Checkpoint:
    """Return a partition's committed checkpoint."""
    sequence, state_digest, config_digest = connection.execute(
        "SELECT sequence, state_digest, config_digest FROM checkpoints WHERE id = ?",
        (checkpoint_id,),
    ).fetchone()
    offsets = connection.execute(
        "SELECT next_offset FROM input_offsets WHERE checkpoint = ? ORDER BY input",
        (checkpoint_id,),
    )
    return Checkpoint(sequence, tuple(o for (o,) in offsets), state_digest, config_digest)


def read_chunks(connection: sqlite3.Connection, checkpoint_id: int) -> dict[str, bytes]:
    """Return a partition's committed state chunks, by name."""
    return dict(
        connection.execute("SELECT name, value FROM chunks WHERE checkpoint = ?", (checkpoint_id,))
    )


def write_commit(
    connection: sqlite3.Connection, checkpoint_id: int, partition: int, commit: Commit
) -> None:
    """Write a commit's state, checkpoint and journal entry."""
    _write_chunks(connection, checkpoint_id, commit.chunks)
    after = commit.after
    connection.execute(
        "UPDATE checkpoints SET sequence = ?, state_digest = ?, config_digest = ? WHERE id = ?",
        (after.sequence, after.state_digest, after.config_digest, checkpoint_id),
    )
    connection.executemany(
        "UPDATE input_offsets SET next_offset = ? WHERE checkpoint = ? AND input = ?",
        [(offset, checkpoint_id, i) for i, offset in enumerate(after.offsets)],
    )
    entry = commit.journal_entry(partition)
    connection.execute(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            checkpoint_id,
            entry.sequence,
            _encode_offsets(entry.offsets_from),
            _encode_offsets(entry.offsets_to),
            entry.deadline_ms,
            entry.state_digest,
            entry.config_digest,
        ),
    )


def _write_chunks(
    connection: sqlite3.Connection, checkpoint_id: int, chunks: Mapping[str, bytes | None]
) -> None:
    connection.executemany(
        "DELETE FROM chunks WHERE checkpoint = ? AND name = ?",
        [(checkpoint_id, name) for name, value in chunks.items() if value is None],
    )
    connection.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?) "
        "ON CONFLICT (checkpoint, name) DO UPDATE SET value = excluded.value",
        [(checkpoint_id, name, value) for name, value in chunks.items() if value is not None],
    )


def read_journal(
    connection: sqlite3.Connection, app: str, partition: int, after: int, n_max: int
) -> list[JournalEntry]:
    """Return up to `n_max` of a partition's journal entries after the commit number `after`."""
    rows = connection.execute(
        "SELECT partition, journal.sequence, offsets_from, offsets_to, deadline_ms, "
        "journal.state_digest, journal.config_digest "
        "FROM journal JOIN checkpoints ON checkpoints.id = checkpoint "
        "WHERE app = ? AND partition = ? AND journal.sequence > ? "
        "ORDER BY journal.sequence LIMIT ?",
        (app, partition, after, n_max),
    )
    return [
        JournalEntry(p, sequence, _decode_offsets(start), _decode_offsets(end), *rest)
        for p, sequence, start, end, *rest in rows
    ]


def _encode_offsets(offsets: Sequence[int]) -> str:
    return msgspec.json.encode(offsets).decode()
