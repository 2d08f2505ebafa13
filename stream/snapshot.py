"""The engine's state as named chunks of bytes: what a commit writes, what a restart reads.

Chunks are msgpack of plain values with a format number; only a learner's holds a pickle, sealed
with a key. The join is a log: a base and the changes since, so that a commit of a few events
does not write a hundred thousand waiting predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import msgspec

from stream.join import JoinDelta, JoinState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stream.join import ModelJoin

FORMAT = 1

_JOIN_BASE = "join/base"
_JOIN_CHANGES = "join/changes/"
# The log is folded into a new base when it has outgrown the old one and this.
_LOG_BYTES_MIN = 1 << 20
_LOG_CHUNKS_MAX = 1000


class SnapshotError(ValueError):
    """Stored state that this version cannot read; the message says what to do."""


def chunk_name(kind: str, *names: str) -> str:
    """The name of a chunk: any model and version names, no ambiguity.

    >>> chunk_name("monitor", "a/b", "1")
    'monitor/a%2Fb/1'
    """
    return "/".join((kind, *(quote(name, safe="") for name in names)))


def split_name(name: str) -> tuple[str, list[str]]:
    """The kind and the names that `chunk_name` was made from.

    >>> split_name("monitor/a%2Fb/1")
    ('monitor', ['a/b', '1'])
    """
    kind, *names = name.split("/")
    return kind, [unquote(part) for part in names]


def pack(value: Any) -> bytes:
    """A chunk of plain values."""
    return msgspec.msgpack.encode([FORMAT, value])


def unpack(name: str, data: bytes, kind: Any = Any) -> Any:
    """The value in a chunk.

    Raises:
        SnapshotError: the chunk is of another format, or damaged.
    """
    try:
        stored_format, raw = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])
        if stored_format != FORMAT:
            raise SnapshotError(
                f"state chunk {name!r} has format {stored_format}, this version reads {FORMAT};"
                " run the version that wrote it, or start with a fresh state"
            )
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"state chunk {name!r} is damaged: {error}") from None


class JoinLog:
    """Decides how the joins of a partition are written: as changes, or as a new base."""

    def __init__(self) -> None:
        self._base_bytes = 0
        self._log_bytes = 0
        self._log: list[str] = []

    def write(self, packed_changes: bytes, joins: Iterable[ModelJoin]) -> dict[str, bytes | None]:
        """The chunks to write for one commit's changes."""
        full = (
            self._log_bytes + len(packed_changes) > max(self._base_bytes, _LOG_BYTES_MIN)
            or len(self._log) >= _LOG_CHUNKS_MAX
        )
        if not full:
            name = f"{_JOIN_CHANGES}{len(self._log):012d}"
            self._log.append(name)
            self._log_bytes += len(packed_changes)
            return {name: packed_changes}
        base = pack([join.state() for join in joins])
        chunks: dict[str, bytes | None] = dict.fromkeys(self._log)
        chunks[_JOIN_BASE] = base
        self._base_bytes, self._log_bytes, self._log = len(base), 0, []
        return chunks

    def read(self, chunks: Mapping[str, bytes]) -> tuple[list[JoinState], list[JoinDelta]]:
        """The base and the changes since, oldest first.

        Raises:
            SnapshotError: a chunk cannot be read.
        """
        base = chunks.get(_JOIN_BASE)
        self._log = sorted(name for name in chunks if name.startswith(_JOIN_CHANGES))
        self._base_bytes = len(base or b"")
        self._log_bytes = sum(len(chunks[name]) for name in self._log)
        states = [] if base is None else unpack(_JOIN_BASE, base, list[JoinState])
        deltas = [
            delta for name in self._log for delta in unpack(name, chunks[name], list[JoinDelta])
        ]
        return states, deltas
