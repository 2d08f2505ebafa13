"""The records that one input of a partition is read ahead, and the batches cut from several."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from streamgauge.consumers.broker import Batch
from streamgauge.stream.align import mergeable_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.stream.records import Headers, Record

# Of one input's records in one batch, whose dead letters are as long; one record may be longer.
_BATCH_BYTES_MAX = 16 << 20
_HEADER_LENGTHS_BYTES = 10


class _Sized(Protocol):
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class InputBuffer:
    """Records of one input of one partition, in offset order, that were read and not yet taken."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._n_bytes = 0

    def put(self, records: list[Record]) -> None:
        """Append the records that follow."""
        self.records = self.records + records if self.records else records
        self._n_bytes += sum(map(n_bytes, records))

    def take(self, n_records: int) -> list[Record]:
        """Remove and return the first records."""
        if n_records == len(self.records):
            taken, self.records, self._n_bytes = self.records, [], 0
            return taken
        taken, self.records = self.records[:n_records], self.records[n_records:]
        self._n_bytes -= sum(map(n_bytes, taken))
        return taken

    def is_ahead(self, n_batches: int, batch_max: int) -> bool:
        """Return whether it holds that many batches of `batch_max` records, or as many bytes."""
        return (
            len(self.records) >= n_batches * batch_max
            or self._n_bytes >= n_batches * _BATCH_BYTES_MAX
        )

    def batch_size(self, batch_max: int) -> int:
        """Return how many of its records one batch may hold."""
        if self._n_bytes <= _BATCH_BYTES_MAX:
            return batch_max
        ends = list(accumulate(map(n_bytes, self.records)))
        return max(1, min(batch_max, bisect_right(ends, _BATCH_BYTES_MAX)))


def cut_batch(
    partition: int, buffers: Sequence[InputBuffer], has_more: Sequence[bool], batch_max: int
) -> Batch:
    """Take the next batch out of a partition's buffers; it may be empty.

    Args:
        partition: its number.
        buffers: one for each input, in the processor's order.
        has_more: for each input, whether the broker has more than the buffer holds.
        batch_max: records of each input in one batch.
    """
    counts = mergeable_prefix(
        [buffer.records for buffer in buffers],
        has_more,
        max_records=min(buffer.batch_size(batch_max) for buffer in buffers),
    )
    return Batch(
        partition, tuple(buffer.take(n) for buffer, n in zip(buffers, counts, strict=True))
    )


def n_bytes(record: _Sized) -> int:
    """Return the size of a record before compression, or a little more."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name.encode()) + len(value) + _HEADER_LENGTHS_BYTES
    return size
