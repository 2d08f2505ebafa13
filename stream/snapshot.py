"""The engine's state as named chunks of bytes: what a commit writes, what a restart reads.

Chunks are msgpack of plain values with a format number; only a learner's holds a pickle, sealed
with a key. Each model's join is a base and a log of the changes since, so that a commit of a few
events does not write a hundred thousand waiting predictions.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import msgspec

from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.stream.join_changes import JoinChange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streamgauge.stream.join import ModelJoin

FORMAT = 3

# Where a chunk of a join is full. One event may be twice as long, and two of them a chunk.
_PIECE_BYTES = 1 << 19
# A model's log is folded into a new base when it has outgrown the old one and this.
_LOG_BYTES_MIN = 1 << 15
_ENCODED_AT_ONCE = 256


class SnapshotError(StreamgaugeError, ValueError):
    """Stored state that this version cannot read; the message says what to do."""


def incomplete(name: str) -> SnapshotError:
    """Return the error that a chunk, or a part of one, is not there."""
    return SnapshotError(
        f"the stored state is not whole: {name!r} is missing; start with a fresh state"
    )


def chunk_name(kind: str, *names: str) -> str:
    """Return the name of a chunk: any model and version names, no ambiguity.

    >>> chunk_name("monitor", "a/b", "1")
    'monitor/a%2Fb/1'
    """
    return "/".join((kind, *(quote(name, safe="") for name in names)))


def split_name(name: str) -> tuple[str, list[str]]:
    """Return the kind and the names that `chunk_name` was made from.

    >>> split_name("monitor/a%2Fb/1")
    ('monitor', ['a/b', '1'])
    """
    kind, *names = name.split("/")
    return kind, [unquote(part) for part in names]


def pack(value: Any) -> bytes:
    """Return a chunk of plain values."""
    return msgspec.msgpack.encode([FORMAT, value])


def unpack(name: str, data: bytes, kind: Any = Any) -> Any:
    """Return the value in a chunk.

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


def encode_changes(changes: Sequence[JoinChange]) -> list[bytes]:
    """Encode changes of a join as lists, none longer than a piece but where one change is."""
    data = msgspec.msgpack.encode(changes)
    if len(data) <= _PIECE_BYTES or len(changes) == 1:
        return [data]
    middle = len(changes) // 2
    return encode_changes(changes[:middle]) + encode_changes(changes[middle:])


class _LogChunk:
    """A chunk of the log: its lists of changes, kept while it is so small that it may grow."""

    def __init__(self, groups: list[bytes]) -> None:
        self.n_bytes = sum(map(len, groups))
        self.groups = groups if self.n_bytes < _PIECE_BYTES else []


class JoinLog:
    """One model's join as it is stored: all of it once, the base, and the changes since, the log.

    The log is folded into a new base when it has outgrown the old one: what is written is, in
    the long run, twice what has changed. Both are cut into pieces. A commit's changes are merged
    with the chunks before it that are less than twice as long, as a counter carries, so that a
    log of many small commits is a few chunks, each twice as long as the next.

    Memory: the chunks that may still grow, at most the size of the log and of two pieces.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._n_base = 0
        self._base_bytes = 0
        self._log: list[_LogChunk] = []
        self._log_bytes = 0

    def names(self) -> list[str]:
        """Return the names of the chunks that are stored."""
        base = [self._name("base", i) for i in range(self._n_base)]
        return base + [self._name("log", i) for i in range(len(self._log))]

    def write(self, groups: Sequence[bytes], join: ModelJoin) -> dict[str, bytes | None]:
        """Return the chunks to write for one commit's changes, as `encode_changes` gave them."""
        self._log_bytes += sum(map(len, groups))
        if self._log_bytes > max(self._base_bytes, _LOG_BYTES_MIN):
            return self._fold(join)
        chunks: dict[str, bytes | None] = {}
        for group in groups:
            chunks.update(self._append(group))
        return chunks

    def _append(self, group: bytes) -> dict[str, bytes | None]:
        groups, n_bytes, n_before = [group], len(group), len(self._log)
        while self._log and self._log[-1].n_bytes < min(2 * n_bytes, _PIECE_BYTES):
            last = self._log.pop()
            groups[:0] = last.groups
            n_bytes += last.n_bytes
        number = len(self._log)
        self._log.append(_LogChunk(groups))
        gone = range(number + 1, n_before)
        chunks: dict[str, bytes | None] = {self._name("log", i): None for i in gone}
        return {**chunks, self._name("log", number): _pack_groups(groups)}

    def _fold(self, join: ModelJoin) -> dict[str, bytes | None]:
        chunks: dict[str, bytes | None] = dict.fromkeys(self.names())
        self._n_base = self._base_bytes = self._log_bytes = 0
        self._log = []
        for piece in _pieces(join.entries()):
            chunks[self._name("base", self._n_base)] = piece
            self._n_base += 1
            self._base_bytes += len(piece)
        return chunks

    def read(self, chunks: Mapping[str, bytes], join: ModelJoin) -> None:
        """Make a new join what it was, from the chunks by their names.

        Raises:
            SnapshotError: a chunk cannot be read, or is missing.
        """
        # The base comes before the log in alphabetical order, and each in its own.
        for name in sorted(chunks):
            for changes in unpack(name, chunks[name], list[list[JoinChange]]):
                join.redo(changes)
            if split_name(name)[1][1] == "base":
                self._n_base += 1
                self._base_bytes += len(chunks[name])
            else:
                raw = unpack(name, chunks[name], list[msgspec.Raw])
                self._log.append(_LogChunk([bytes(group) for group in raw]))
                self._log_bytes += self._log[-1].n_bytes
        if self.names() != sorted(chunks):
            raise SnapshotError(
                f"the join of model {self._model!r} is not whole: of its chunks there are"
                f" {', '.join(sorted(chunks))}; start with a fresh state"
            )

    def _name(self, part: str, number: int) -> str:
        return chunk_name("join", self._model, part, f"{number:06d}")


def _pieces(changes: Iterator[JoinChange]) -> Iterator[bytes]:
    """Yield chunks of all the changes, each about a piece long."""
    groups: list[bytes] = []
    n_bytes = 0
    while some := list(islice(changes, _ENCODED_AT_ONCE)):
        for group in encode_changes(some):
            if n_bytes + len(group) > _PIECE_BYTES and groups:
                yield _pack_groups(groups)
                groups, n_bytes = [], 0
            groups.append(group)
            n_bytes += len(group)
    yield _pack_groups(groups)


def _pack_groups(groups: Sequence[bytes]) -> bytes:
    return pack([msgspec.Raw(group) for group in groups])
