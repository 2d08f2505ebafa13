"""A partition's state on a compacted topic: chunks, and the checkpoint that they belong to.

The key of a chunk's record is its name and the number of the part, its value is the part's bytes;
a chunk that is gone has null values. The record `checkpoint` says where the input stands and what
the whole set of chunks hashes to, so that a log that has lost something is noticed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from streamgauge.consumers.broker import BrokerError, Checkpoint, RestoredPartition
from streamgauge.consumers.kafka.transaction import ProducerRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamgauge.consumers.broker import Commit
    from streamgauge.stream.records import Record

FORMAT = 2
# Below the 1 MB that brokers take as a record by default, with room for the key and the batch.
PART_BYTES_MAX = 900_000

_CHECKPOINT_KEY = b"checkpoint"
_OLD_POSITION_KEY = b"position"
_PARTS_HEADER = "parts"
# No part of a chunk's name can hold it: names are URL-quoted.
_SEPARATOR = "#"


class _StoredCheckpoint(Struct):
    """The value of the record `checkpoint`; of each input its topic and the next offset."""

    format: int
    sequence: int
    topics: tuple[str, ...]
    offsets: tuple[int, ...]
    state_digest: str
    config_digest: str
    n_chunks: int
    chunks_digest: str


class _StoredFormat(Struct):
    """The field that every format of that value begins with."""

    format: int


class Changelog:
    """One partition's changelog as it is known, to write the next commit's records.

    Memory is a few dozen bytes for each chunk.
    """

    def __init__(self, topic: str, input_topics: Sequence[str]) -> None:
        self._topic = topic
        self._input_topics = tuple(input_topics)
        self._n_parts: dict[str, int] = {}
        self._hashes: dict[str, int] = {}
        self._digest = 0

    def rows(self, commit: Commit) -> list[ProducerRecord]:
        """Return the records of one commit's state, its checkpoint last.

        Call it once for a commit: what it returns is taken as written.
        """
        rows = [row for name, chunk in commit.chunks.items() for row in self._change(name, chunk)]
        rows.append(ProducerRecord(self._topic, _CHECKPOINT_KEY, self._checkpoint(commit.after)))
        return rows

    def _change(self, name: str, chunk: bytes | None) -> list[ProducerRecord]:
        parts = [] if chunk is None else _parts(chunk)
        headers = ((_PARTS_HEADER, str(len(parts)).encode()),)
        rows = [
            ProducerRecord(self._topic, _key(name, number), part, headers)
            for number, part in enumerate(parts)
        ]
        n_before = self._n_parts.get(name, 0)
        rows += [
            ProducerRecord(self._topic, _key(name, i), None) for i in range(len(parts), n_before)
        ]
        self._note(name, chunk, len(parts))
        return rows

    def _note(self, name: str, chunk: bytes | None, n_parts: int) -> None:
        # An exclusive or of hashes is the same in any order, and takes changes one by one.
        self._digest ^= self._hashes.pop(name, 0)
        self._n_parts.pop(name, None)
        if chunk is not None:
            self._hashes[name] = _hash(name, chunk)
            self._n_parts[name] = n_parts
            self._digest ^= self._hashes[name]

    def _checkpoint(self, checkpoint: Checkpoint) -> bytes:
        return msgspec.json.encode(
            _StoredCheckpoint(
                FORMAT,
                checkpoint.sequence,
                self._input_topics,
                checkpoint.offsets,
                checkpoint.state_digest,
                checkpoint.config_digest,
                len(self._hashes),
                f"{self._digest:032x}",
            )
        )

    def restore(self, records: Iterable[Record]) -> RestoredPartition | None:
        """Return what the records amount to, None where no commit is among them.

        Args:
            records: every committed record of the partition that is still there, in order.

        Raises:
            BrokerError: the state is not what was committed, or of a format we cannot read.
        """
        latest: dict[bytes, Record] = {}
        for record in records:
            if record.key is not None:
                latest[record.key] = record
        old = latest.pop(_OLD_POSITION_KEY, None)
        stored = latest.pop(_CHECKPOINT_KEY, None) or old
        if stored is None:
            return None
        chunks = {}
        for name, n_parts in _part_counts(latest).items():
            parts = [latest.get(_key(name, number)) for number in range(n_parts)]
            values = [part.value for part in parts if part is not None and part.value is not None]
            # What is missing shows in the digest.
            chunks[name] = b"".join(values)
            # As many as there are, and not as we would make of it: they may be of a version that
            # cuts otherwise, and have to go when there are fewer.
            self._note(name, chunks[name], n_parts)
        return RestoredPartition(self._checked(stored), chunks)

    def _checked(self, record: Record) -> Checkpoint:
        where = f"{self._topic!r} partition {record.partition}"
        value = record.value or b""
        try:
            stored_format = msgspec.json.decode(value, type=_StoredFormat).format
            if stored_format != FORMAT:
                raise BrokerError(
                    f"the state in {where} has format {stored_format}, and this version reads "
                    f"{FORMAT}; run the version that wrote it, or start anew under another `app`"
                )
            stored = msgspec.json.decode(value, type=_StoredCheckpoint)
        except msgspec.DecodeError as error:
            raise BrokerError(f"the checkpoint in {where} cannot be read: {error}") from None
        if stored.topics != self._input_topics:
            raise BrokerError(
                f"the state in {where} is of a worker that read {', '.join(stored.topics)}, and "
                f"this one reads {', '.join(self._input_topics)}; set `app` to another name, or the"
                " topics back"
            )
        if (stored.n_chunks, stored.chunks_digest) != (len(self._hashes), f"{self._digest:032x}"):
            raise BrokerError(
                f"the state in {where} is not whole: {len(self._hashes)} chunks of "
                f"{stored.n_chunks} were found, or some are not the last ones. The topic has lost "
                "records, by a retention or by deletion; it must be compacted only. Restore it "
                "from a copy, or start anew under another `app`"
            )
        return Checkpoint(
            stored.sequence, stored.offsets, stored.state_digest, stored.config_digest
        )


def _part_counts(latest: Mapping[bytes, Record]) -> dict[str, int]:
    """Return how many parts each chunk has, by name."""
    return {
        _name(key): int(dict(record.headers)[_PARTS_HEADER])
        for key, record in latest.items()
        if record.value is not None
    }


def _parts(chunk: bytes) -> list[bytes]:
    return [chunk[i : i + PART_BYTES_MAX] for i in range(0, len(chunk), PART_BYTES_MAX)] or [b""]


def _key(name: str, number: int) -> bytes:
    return f"{name}{_SEPARATOR}{number}".encode()


def _name(key: bytes) -> str:
    return key.decode().rpartition(_SEPARATOR)[0]


def _hash(name: str, chunk: bytes) -> int:
    return int.from_bytes(
        hashlib.blake2b(chunk, digest_size=16, key=hashlib.blake2b(name.encode()).digest()).digest()
    )
