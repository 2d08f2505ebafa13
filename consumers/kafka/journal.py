"""The journal on Kafka: one record for each commit, in the partition of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
from msgspec import Struct

from streamgauge.consumers.broker import BrokerError, JournalEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 2
_FIX = "run the version that wrote it, or start anew under another `app`"


class StoredEntry(Struct):
    """The value of a journal's record; of each input its topic and the range that was read."""

    format: int
    sequence: int
    topics: tuple[str, ...]
    offsets_from: tuple[int, ...]
    offsets_to: tuple[int, ...]
    deadline_ms: int | None
    state_digest: str
    config_digest: str

    @classmethod
    def of(cls, entry: JournalEntry, topics: Sequence[str]) -> Self:
        """Return the value that keeps an entry of these input topics."""
        return cls(FORMAT, entry.sequence, tuple(topics), *entry[2:])

    @classmethod
    def decode(cls, value: bytes | None, where: str) -> Self:
        """Return what a record's value says.

        Raises:
            BrokerError: it is of another format.
        """
        try:
            stored = msgspec.json.decode(value or b"", type=cls)
        except msgspec.DecodeError as error:
            raise BrokerError(f"the journal in {where} cannot be read: {error}; {_FIX}") from None
        if stored.format != FORMAT:
            raise BrokerError(
                f"the journal in {where} has format {stored.format}, and this version reads "
                f"{FORMAT}; {_FIX}"
            )
        return stored

    def encode(self) -> bytes:
        """Return the value of its record."""
        return msgspec.json.encode(self)

    def journal_entry(self, partition: int) -> JournalEntry:
        """Return the entry that it keeps."""
        return JournalEntry(
            partition,
            self.sequence,
            self.offsets_from,
            self.offsets_to,
            self.deadline_ms,
            self.state_digest,
            self.config_digest,
        )
