"""Keeps the input topics of a partition in step, by the timestamps of their records.

The merged order: of the next record of each input take the one with the smallest `timestamp_ms`,
of several the one whose input comes first. Within an input it is offset order, whatever the
timestamps: a record that is older than one before it comes right after that one. So each record
has the latest time of its input so far as its key, and the merged order is that of the keys.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, chain, repeat
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamgauge.stream.records import Record

_timestamp_ms = attrgetter("timestamp_ms")
_key = itemgetter(0)


def mergeable_prefix(
    inputs: Sequence[Sequence[Record]], has_more: Sequence[bool], *, max_records: int
) -> tuple[int, ...]:
    """Count the records of each input that can be processed before more has to be known.

    An input with more records than are given here may go on with any timestamp, so nothing of the
    others is taken past its last given record. The records taken are therefore a prefix of the
    merged order of the whole input, however it is cut. All counts are 0 only where an input that
    has more is given without any record, or where there is no input at all. Takes time linear in
    the number of records given, but for those past `max_records`.

    Args:
        inputs: the next records of each input of one partition, in offset order.
        has_more: for each input, whether records follow after the given ones.
        max_records: the most to take of each input, at least 1.
    """
    counts = [min(len(records), max_records) for records in inputs]
    is_open = [
        more or n < len(records) for records, n, more in zip(inputs, counts, has_more, strict=True)
    ]
    if not any(is_open):
        return tuple(counts)
    keys = [_keys(records[:n]) for records, n in zip(inputs, counts, strict=True)]
    if any(more and not known for more, known in zip(is_open, keys, strict=True)):
        return (0,) * len(counts)
    time_ms, last = min((known[-1], i) for i, known in enumerate(keys) if is_open[i])
    # Of equal times the earlier inputs' records come before the last one that may be taken.
    return tuple(
        (bisect_right if i <= last else bisect_left)(known, time_ms) for i, known in enumerate(keys)
    )


def merge(inputs: Sequence[Sequence[Record]]) -> list[tuple[int, Record]]:
    """Return the records of one batch in merged order, each with the index of its input.

    >>> from streamgauge.stream.records import Record
    >>> early, late = (Record("p", 0, i, t, None, b"") for i, t in enumerate((10, 30)))
    >>> label = Record("l", 0, 0, 20, None, b"")
    >>> [(i, record.timestamp_ms) for i, record in merge([[early, late], [label]])]
    [(0, 10), (1, 20), (0, 30)]
    """
    keyed = chain.from_iterable(
        zip(_keys(records), repeat(i), records, strict=False) for i, records in enumerate(inputs)
    )
    # Runs that are sorted already, which are merged in linear time; stable, so that of equal keys
    # the earlier input comes first.
    return [(i, record) for _, i, record in sorted(keyed, key=_key)]


def _keys(records: Iterable[Record]) -> list[int]:
    """Return the latest time so far, for each record."""
    return list(accumulate(map(_timestamp_ms, records), max))
