"""Records: what a broker hands to the core, and what the core hands back."""

from __future__ import annotations

from typing import Literal, NamedTuple

# What a topic is for; `Topics` in stream/config.py has the name of each.
TopicRole = Literal[
    "predictions", "labels", "metrics", "alarms", "retrain", "status", "dead_letters"
]
# What the monitor reads.
MONITOR_INPUTS: tuple[TopicRole, ...] = ("predictions", "labels")

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
    """One record to be written; `timestamp_ms` is the time of the event that caused it.

    Its role says what it is; the broker knows the topic's name.
    """

    role: TopicRole
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int
