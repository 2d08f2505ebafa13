"""The worker's side of Kafka: partitions are assigned, taken over, polled and committed.

Take-over of a partition, between polls: fence whoever wrote for it before, read its changelog to
the end, go on from the position found there. Whatever happens to a commit whose outcome is not
known, the next take-over finds out. The group only says who should work on what.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from streamgauge.consumers.broker import (
    Batch,
    BrokerError,
    BrokerTimeoutError,
    Checkpoint,
    FencedError,
    Rebalance,
    RestoredPartition,
)
from streamgauge.consumers.input_buffer import cut_batch, n_bytes
from streamgauge.consumers.kafka.changelog import Changelog
from streamgauge.consumers.kafka.client import kafka_settings
from streamgauge.consumers.kafka.input import Input, InputReader
from streamgauge.consumers.kafka.journal import StoredEntry
from streamgauge.consumers.kafka.membership import Membership
from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.topics import JOURNAL_SUFFIX, STATE_SUFFIX, internal_topic
from streamgauge.consumers.kafka.transaction import (
    ProducerRecord,
    TopicOffset,
    TransactionalWriter,
)
from streamgauge.stream.publish import LETTER_HEADERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.consumers.broker import Commit
    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Output, TopicRole

log = logging.getLogger(__name__)

_RETRY_MIN_S, _RETRY_MAX_S = 0.2, 5.0
_FENCED_S = 1.5
# Longer than the search for a coordinator takes where there is one, as after a start.
_SILENT_S = 3.0
# Later than this a `rebalance` in which one take-over has failed begins no other: the worker may
# have been told to stop.
_TAKE_OVERS_S = 2.0
# Long enough for a broker that was suspended to learn what happened meanwhile.
_OLD_ANSWERS_S = 10.0
# Gathering more input than one poll gives makes commits fewer; it ends soon in any case.
_GATHER_S = 0.1
# Leaves room in 4 MB for what is kept beside a dead letter's value, and the batch around it.
_VALUE_BYTES_MAX = 3_900_000
_KEPT_BYTES_MAX = 1_000


@dataclass(slots=True)
class _KafkaPartition:
    """One owned partition, and the checkpoint that it is at."""

    writer: TransactionalWriter
    changelog: Changelog
    inputs: list[Input]
    checkpoint: Checkpoint


class _Retry(NamedTuple):
    """A take-over that failed: when to try again, and how long to wait after that."""

    at_s: float
    delay_s: float


class KafkaAssignment:
    """One worker's share of the input partitions; see `streamgauge.consumers.broker.Assignment`."""

    def __init__(self, config: Config, inputs: Sequence[TopicRole]) -> None:
        """Join the worker group `config.app`.

        Args:
            config: the whole configuration.
            inputs: roles of the topics that a processor reads, in its order.

        Raises:
            BrokerError: the brokers cannot be reached, or refuse us.
        """
        self._config = config
        self._inputs = [config.topics.name_of(role) for role in inputs]
        self._partitions: dict[int, _KafkaPartition] = {}
        self._restored_to: dict[int, TopicOffset] = {}
        self._behind_since_s: dict[int, float] = {}
        self._retries: dict[int, _Retry] = {}
        self._lost: set[int] = set()
        self._may_have_more = False
        self._silence_told = False
        self._reader = RangeReader(config, "restore")
        self._input = InputReader(config, self._inputs)
        self._membership = Membership(config, config.app, self._inputs[0])

    def rebalance(self) -> Rebalance:
        """Partitions won (fenced and restored) and lost since the last call.

        A partition whose take-over fails for now is tried again by a later call.

        Raises:
            BrokerError: the brokers refuse us, or a partition's state is not what was committed.
        """
        self._tell_of_silence()
        assigned = self._membership.assigned()
        gone = self._membership.drain_revoked() | (self._partitions.keys() - assigned)
        for partition in gone & self._partitions.keys():
            self._give_up(partition)
        restored = {}
        deadline_s = time.monotonic() + _TAKE_OVERS_S
        # While nothing answers, an attempt does nothing but keep the worker from stopping.
        wanted = set() if self._silence_told else assigned - self._partitions.keys()
        for partition in sorted(wanted, key=self._turn):
            won = self._try_to_take_over(partition)
            if won is not None:
                restored[partition] = won
            elif time.monotonic() > deadline_s:
                break
        lost, self._lost = tuple(sorted(self._lost)), set()
        return Rebalance(restored, lost)

    def poll(self, timeout_s: float) -> list[Batch]:
        """Return the next batch of each owned partition that has unread input at hand.

        Raises:
            BrokerTimeoutError: the brokers did not answer in time.
            BrokerError: input was deleted before it was processed.
        """
        deadline_s = time.monotonic() + timeout_s
        batches = self._read(0.0 if self._may_have_more else timeout_s)
        while not batches and (left_s := deadline_s - time.monotonic()) > 0:
            batches = self._read(left_s)
        self._may_have_more = bool(batches)
        return batches

    def _read(self, timeout_s: float) -> list[Batch]:
        self._input.read(timeout_s, gather_s=_GATHER_S)
        for partition in self._input.drain_out_of_range():
            log.warning("partition %d: its next input is gone; taking it over anew", partition)
            self.release(partition)
        batches = (self._next_batch(p, owned) for p, owned in self._partitions.items())
        return [batch for batch in batches if len(batch)]

    def idle(self) -> bool:
        """Return whether every assigned partition has been polled to the end of all of its inputs.

        Raises:
            BrokerError: all others have been, but a damaged record stops one of them.
        """
        if not self._membership.is_stable or self._membership.assigned() != self._partitions.keys():
            return False
        corrupt = self._input.corrupt
        inputs = [i for owned in self._partitions.values() for i in owned.inputs]
        if not self._are_read([i for i in inputs if i.where.partition not in corrupt]):
            return False
        if corrupt:
            raise BrokerError("; ".join(corrupt.values()))
        return True

    def is_read(self, partition: int) -> bool:
        """Return whether an owned partition has been polled to the end of all of its inputs.

        Not where a damaged record stops it.

        Raises:
            BrokerTimeoutError: the brokers did not answer in time.
        """
        return partition not in self._input.corrupt and self._are_read(
            self._partitions[partition].inputs
        )

    def _are_read(self, inputs: Sequence[Input]) -> bool:
        if any(i.buffer.records for i in inputs):
            return False
        ends = self._reader.committed_ends([i.where for i in inputs]) if inputs else {}
        return all(self._input.position(i) >= ends[i.where] for i in inputs)

    def lag(self) -> dict[int, int]:
        """Return how many records of each owned partition have not been polled.

        As far as the brokers have told along with what they sent; control records count too.
        """
        return {
            partition: sum(map(self._input.lag, owned.inputs))
            for partition, owned in self._partitions.items()
        }

    def commit(self, partition: int, commit: Commit) -> None:
        """Write the outputs, the changed state, the checkpoint and the journal entry, or nothing.

        Raises:
            FencedError: another worker owns the partition now, or the commit does not follow the
                last one; this worker has given the partition up.
            BrokerError: whether it was written is not known; release the partition, and its next
                take-over tells.
        """
        owned = self._partitions.get(partition)
        if owned is None:
            raise FencedError(f"partition {partition} is not owned by this worker")
        try:
            commit.check_follows(partition, owned.checkpoint)
        except FencedError:
            self._give_up(partition)
            raise
        try:
            rows = [self._row(output) for output in commit.outputs]
            rows += owned.changelog.rows(commit)
            rows.append(self._journal_row(partition, commit))
            owned.writer.write(rows, follows=self._restored_to.pop(partition, None))
        except FencedError:
            # The group may not have told us yet whose the partition is; to fence the other one
            # back at once would only take it away for another moment.
            self._retries[partition] = _Retry(time.monotonic() + _FENCED_S, _RETRY_MIN_S)
            self._give_up(partition)
            raise
        except BaseException:
            # What the changelog object now takes as written may not be.
            self._give_up(partition)
            raise
        owned.checkpoint = commit.after
        inputs = [i.where for i in owned.inputs]
        self._membership.note(dict(zip(inputs, commit.after.offsets, strict=True)))

    def release(self, partition: int) -> None:
        """Give a partition up, owned or not; the next `rebalance` may take it over anew."""
        self._give_up(partition)

    def close(self) -> None:
        """Leave the group; others take the partitions over at once."""
        for owned in self._partitions.values():
            owned.writer.close()
        self._partitions.clear()
        self._membership.close()
        self._input.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _tell_of_silence(self) -> None:
        """Say once for each outage that nothing comes, and once that it is over."""
        is_silent = self._membership.silent_s() > _SILENT_S
        if is_silent == self._silence_told:
            return
        self._silence_told = is_silent
        where = kafka_settings(self._config).bootstrap_servers
        if is_silent:
            log.warning("Kafka at %s does not answer; waiting", where)
        else:
            log.info("Kafka at %s answers again", where)

    def _turn(self, partition: int) -> tuple[float, int]:
        """Sorts partitions: those that were never tried first, then by how long ago it was."""
        retry = self._retries.get(partition)
        return (0.0 if retry is None else retry.at_s, partition)

    def _try_to_take_over(self, partition: int) -> RestoredPartition | None:
        """Return the partition's committed state, or None where it cannot be had for now."""
        retry = self._retries.get(partition, _Retry(0.0, _RETRY_MIN_S))
        if time.monotonic() < retry.at_s:
            return None
        try:
            restored = self._take_over(partition)
        except (BrokerTimeoutError, FencedError) as error:
            log.warning("partition %d: not taken over yet: %s", partition, error)
            delay_s = min(2 * retry.delay_s, _RETRY_MAX_S)
            self._retries[partition] = _Retry(time.monotonic() + retry.delay_s, delay_s)
            return None
        self._retries.pop(partition, None)
        return restored

    def _take_over(self, partition: int) -> RestoredPartition:
        self._check_inputs(partition)
        writer = TransactionalWriter(self._config, partition)
        try:
            changelog, restored = self._restore(partition)
            inputs = self._input.open(partition, restored.checkpoint)
        except BaseException:
            writer.abandon()
            raise
        self._partitions[partition] = _KafkaPartition(
            writer, changelog, inputs, restored.checkpoint
        )
        return restored

    def _check_inputs(self, partition: int) -> None:
        """Compare our inputs with those of the last commit, before anybody is fenced.

        Raises:
            BrokerError: the app has read other topics so far.
        """
        entry = self._last_entry(partition)
        if entry is not None and list(entry.topics) != self._inputs:
            raise BrokerError(
                f"app {self._config.app!r} has read {', '.join(entry.topics)} so far, and this "
                f"worker reads {', '.join(self._inputs)}; set `app` to another name, or the topics "
                "back"
            )

    def _restore(self, partition: int) -> tuple[Changelog, RestoredPartition]:
        """Read the changelog; only after the fencing, so that nothing is added to it meanwhile."""
        topic = internal_topic(self._config, STATE_SUFFIX)
        changelog = Changelog(topic, self._inputs)
        start, end = self._reader.bounds(topic, partition)
        restored = changelog.restore(self._reader.read(topic, partition, start, end))
        # The next commit has to follow what was read: nothing else may have been written since.
        self._restored_to[partition] = TopicOffset(topic, end)
        if restored is None and start > 0:
            raise BrokerError(
                f"{topic!r} partition {partition} begins at offset {start}: the state that it held "
                "was deleted. Restore it from a copy, or start anew under another `app`"
            )
        self._check_newest(partition, restored.checkpoint.sequence if restored else 0)
        if restored is not None:
            return changelog, restored
        return changelog, RestoredPartition(self._input.start_checkpoint(partition), {})

    def _check_newest(self, partition: int, sequence: int) -> None:
        """Compare the state's last commit with the journal's; both are written at once.

        Raises:
            BrokerTimeoutError: the journal is ahead, as it may be for a while where a broker was
                suspended and does not know yet that it leads the state's partition no more.
            BrokerError: the journal is ahead and stays so.
        """
        last = self._last_journalled(partition)
        if last <= sequence:
            self._behind_since_s.pop(partition, None)
            return
        now_s = time.monotonic()
        since_s = self._behind_since_s.setdefault(partition, now_s)
        is_old_answer = now_s - since_s < _OLD_ANSWERS_S
        raise (BrokerTimeoutError if is_old_answer else BrokerError)(
            f"{internal_topic(self._config, STATE_SUFFIX)!r} partition {partition} ends with "
            f"commit {sequence}, and the journal got to commit {last} at least: the state of that "
            "was deleted. Restore it from a newer copy, or start anew under another `app`"
        )

    def _last_journalled(self, partition: int) -> int:
        """Return a commit that the journal got to: the last one, as far as entries are retained."""
        entry = self._last_entry(partition)
        if entry is not None:
            return entry.sequence
        start, _ = self._reader.bounds(internal_topic(self._config, JOURNAL_SUFFIX), partition)
        return 1 if start > 0 else 0

    def _last_entry(self, partition: int) -> StoredEntry | None:
        topic = internal_topic(self._config, JOURNAL_SUFFIX)
        record = self._reader.last(topic, partition)
        if record is None:
            return None
        return StoredEntry.decode(record.value, f"{topic!r} partition {partition}")

    def _next_batch(self, partition: int, owned: _KafkaPartition) -> Batch:
        return cut_batch(
            partition,
            [i.buffer for i in owned.inputs],
            [self._input.has_more(i) for i in owned.inputs],
            self._config.worker.batch_max,
        )

    def _journal_row(self, partition: int, commit: Commit) -> ProducerRecord:
        entry = StoredEntry.of(commit.journal_entry(partition), self._inputs)
        topic = internal_topic(self._config, JOURNAL_SUFFIX)
        return ProducerRecord(topic, None, entry.encode())

    def _give_up(self, partition: int) -> None:
        owned = self._partitions.pop(partition, None)
        self._input.close_partition(partition)
        if owned is not None:
            owned.writer.abandon()
            self._lost.add(partition)

    def _row(self, output: Output) -> ProducerRecord:
        # In topics that only workers write to Kafka puts the time of writing in its place.
        role, key, value, headers, timestamp_ms = output
        row = ProducerRecord(self._config.topics.name_of(role), key, value, headers, timestamp_ms)
        size = n_bytes(row)
        if size <= _VALUE_BYTES_MAX:
            return row
        if role != "dead_letters":
            raise BrokerError(
                f"an output to {row.topic!r} has {size} bytes, and Kafka's topics take at most "
                f"{_VALUE_BYTES_MAX}; nothing was written"
            )
        # The whole record stays where it came from.
        return _shortened(row, size)


def _shortened(letter: ProducerRecord, size: int) -> ProducerRecord:
    """Return a dead letter with our own headers, and the beginnings of its key and its value."""
    own = letter.headers[: len(LETTER_HEADERS)]
    return letter._replace(
        key=letter.key and letter.key[:_KEPT_BYTES_MAX],
        value=letter.value and letter.value[:_VALUE_BYTES_MAX],
        headers=(
            *((name, told[:_KEPT_BYTES_MAX]) for name, told in own),
            ("truncated_from", str(size).encode()),
        ),
    )
