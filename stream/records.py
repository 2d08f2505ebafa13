"""Records: what a broker hands to the core, and what the core hands back."""

from __future__ import annotations

from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """One record as read from a topic partition.

    `timestamp_ms` is the record's own time (when it was produced), not the event's.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(NamedTuple):
    """One record to be written; `timestamp_ms` is the time of the event that caused it."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int
