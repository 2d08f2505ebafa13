"""Input of the owned partitions: read a little ahead, never more than the worker can take."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any

from kafka import TopicPartition
from kafka.errors import CorruptRecordError, OffsetOutOfRangeError

from streamgauge.consumers.broker import BrokerError, Checkpoint
from streamgauge.consumers.input_buffer import InputBuffer
from streamgauge.consumers.kafka.client import kafka_settings, make_consumer
from streamgauge.consumers.kafka.errors import translate_errors
from streamgauge.consumers.kafka.ranges import as_records, ask_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Record

log = logging.getLogger(__name__)

# An input rests when it is so many batches ahead, until it is only one.
_AHEAD_BATCHES_MAX = 3
# For the first record of one input alone, in the search for a damaged one.
_ALONE_MS = 1_000

_CORRUPT = re.compile(r"TopicPartition\(topic='(?P<topic>[^']+)', partition=(?P<partition>\d+)\)")


class Input:
    """One input topic of one partition, read a few records ahead of what was polled."""

    def __init__(self, where: TopicPartition, next_offset: int, known_end: int) -> None:
        self.where = where
        self.buffer = InputBuffer()
        self.next_offset = next_offset
        self.known_end = known_end
        self.rests = False

    def put(self, records: list[Record]) -> None:
        self.buffer.put(records)
        self.next_offset = records[-1].offset + 1


class InputReader:
    """Reads all inputs of every owned partition with one consumer, partitions set by hand.

    Attributes:
        corrupt: by partition, what is wrong with a record that cannot be read; that partition
            stands still.
    """

    def __init__(self, config: Config, topics: Sequence[str]) -> None:
        self.corrupt: dict[int, str] = {}
        self._config = config
        self._topics = topics
        self._settings = kafka_settings(config)
        self._batch_max = config.worker.batch_max
        self._inputs: dict[TopicPartition, Input] = {}
        self._out_of_range: set[int] = set()
        with translate_errors(config):
            self._consumer = make_consumer(config, "input", fetch_max_bytes=16 << 20)

    def start_checkpoint(self, partition: int) -> Checkpoint:
        """Return where a partition begins that no worker has ever committed: the oldest records."""
        starts = self._offsets(partition, self._consumer.beginning_offsets)
        return Checkpoint(offsets=tuple(starts[where] for where in self._all(partition)))

    def open(self, partition: int, checkpoint: Checkpoint) -> list[Input]:
        """Read a partition from a checkpoint on.

        Raises:
            BrokerError: input after the checkpoint was deleted, and `broker.lost_input` is `stop`.
        """
        starts = self._offsets(partition, self._consumer.beginning_offsets)
        ends = self._offsets(partition, self._consumer.end_offsets)
        opened = []
        for where, offset in zip(self._all(partition), checkpoint.offsets, strict=True):
            start = max(offset, starts[where])
            if start > offset:
                self._lost_input(where, offset, start)
            elif offset > ends[where]:
                raise BrokerError(
                    f"{where.topic!r} partition {partition} ends at offset {ends[where]}, before "
                    f"the committed position {offset}: the topic was made anew. Start anew under "
                    "another `app`"
                )
            opened.append(Input(where, start, ends[where]))
        self._inputs.update((i.where, i) for i in opened)
        self._assign()
        return opened

    def close_partition(self, partition: int) -> None:
        """Read a partition no more."""
        self.corrupt.pop(partition, None)
        for where in self._all(partition):
            self._inputs.pop(where, None)
        self._assign()

    def read(self, timeout_s: float, *, gather_s: float) -> None:
        """Have some records ahead, where there are any.

        Args:
            timeout_s: how long to wait for the first record.
            gather_s: how long to go on while more comes at once.
        """
        self._throttle()
        n = self._poll(timeout_s)
        deadline_s = time.monotonic() + gather_s
        while n and time.monotonic() < deadline_s and not self._has_full_batch():
            n = self._poll(0.0)

    def has_more(self, i: Input) -> bool:
        """Return whether there is more than what was read ahead."""
        return i.next_offset < i.known_end and self.position(i) < i.known_end

    def lag(self, i: Input) -> int:
        """Count the records that have not been polled, as far as the brokers have told."""
        return len(i.buffer.records) + max(0, i.known_end - self.position(i))

    def position(self, i: Input) -> int:
        """Return the offset that is read next, past records not for us, such as markers."""
        if i.where not in self._consumer.assignment():
            return i.next_offset
        with translate_errors(self._config):
            position: int | None = self._consumer.position(i.where, timeout_ms=0)
        i.next_offset = max(i.next_offset, position or 0)
        return i.next_offset

    def drain_out_of_range(self) -> set[int]:
        """Partitions whose next input is no longer there, since the last call."""
        taken, self._out_of_range = self._out_of_range, set()
        return taken

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _poll(self, timeout_s: float) -> int:
        """Poll once; how many records came."""
        with translate_errors(self._config):
            try:
                polled = self._consumer.poll(
                    timeout_ms=round(timeout_s * 1000), max_records=self._batch_max
                )
            except OffsetOutOfRangeError as error:
                self._out_of_range |= {where.partition for where in error.args[0]}
                return 0
            except CorruptRecordError as error:
                self._stop_at(error)
                return 0
        return self._keep(polled)

    def _keep(self, polled: dict[TopicPartition, list[Any]]) -> int:
        for where, records in polled.items():
            self._inputs[where].put(as_records(records))
        for where in self._consumer.assignment():
            i = self._inputs[where]
            i.known_end = max(i.known_end, self._consumer.highwater(where) or 0)
        return sum(map(len, polled.values()))

    def _stop_at(self, error: CorruptRecordError) -> None:
        """Stand still at a record that cannot be read, and go on with the other partitions."""
        match = _CORRUPT.search(str(error))
        if match is None:
            self._find_damaged(error)
        else:
            self._stop(TopicPartition(match["topic"], int(match["partition"])), error)
        self._read_nothing()
        self._assign()

    def _find_damaged(self, error: CorruptRecordError) -> None:
        """Stop what cannot be read, where neither broker nor client says what it is.

        That is so where it is a batch's head that is damaged. Each input is asked alone.

        Raises:
            CorruptRecordError: all of them can be read now.
        """
        n_before = len(self.corrupt)
        for where, i in self._inputs.items():
            if where.partition in self.corrupt:
                continue
            self._read_nothing()
            self._consumer.assign([where])
            self._consumer.seek(where, i.next_offset)
            try:
                self._keep(self._consumer.poll(_ALONE_MS, max_records=self._batch_max))
            except CorruptRecordError as found:
                self._stop(where, found)
        if len(self.corrupt) == n_before:
            raise error

    def _stop(self, where: TopicPartition, error: CorruptRecordError) -> None:
        topic, partition = where
        self.corrupt[partition] = (
            f"partition {partition} stands still at a damaged record of {topic!r}: {error}"
        )
        log.error(self.corrupt[partition])

    def _read_nothing(self) -> None:
        """Have the client forget what it has fetched.

        What it holds of a partition with a damaged record it would look through without end as
        soon as that partition is polled again, and never return.
        """
        self._consumer.unsubscribe()
        self._consumer.poll(0)

    def _has_full_batch(self) -> bool:
        return any(i.buffer.is_ahead(1, self._batch_max) for i in self._inputs.values())

    def _throttle(self) -> None:
        """Let inputs that are far ahead of the others rest, and wake those that no longer are.

        Not by `pause`: what kafka-python 3.0 has fetched of a paused partition it may park for
        good, when no other partition gets any more records.
        """
        for i in self._inputs.values():
            n_batches_max = 1 if i.rests else _AHEAD_BATCHES_MAX
            rests = i.buffer.is_ahead(n_batches_max, self._batch_max)
            if rests != i.rests:
                i.rests = rests
                self._assign()

    def _assign(self) -> None:
        """Have the consumer read what should be read now, each from where it stands."""
        awake = {
            where: i
            for where, i in self._inputs.items()
            if not i.rests and where.partition not in self.corrupt
        }
        new = awake.keys() - self._consumer.assignment()
        self._consumer.assign(list(awake))
        for where in new:
            self._consumer.seek(where, awake[where].next_offset)

    def _all(self, partition: int) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for topic in self._topics]

    def _offsets(self, partition: int, ask: Any) -> dict[TopicPartition, int]:
        with translate_errors(self._config):
            return ask_offsets(ask, self._all(partition), self._settings.timeout)

    def _lost_input(self, where: TopicPartition, offset: int, start: int) -> None:
        lost = f"{start - offset} records of {where.topic!r} partition {where.partition}"
        if self._settings.lost_input == "stop":
            raise BrokerError(
                f"{lost} were deleted before they were processed; a longer retention keeps them, "
                "`broker.lost_input: skip` goes on without them"
            )
        log.error("%s were deleted before they were processed", lost)
