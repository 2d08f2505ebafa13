"""The engine of one partition: a batch of records in, the records to write out.

Pure: what it does depends on the configuration and on the records alone. Its state is a set of
named chunks of bytes, of which a commit writes those that changed.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct, field
from msgspec.structs import astuple

from streamgauge.stream.align import merge
from streamgauge.stream.events import EventError, decode_label, decode_prediction
from streamgauge.stream.eviction import EvictionQueue
from streamgauge.stream.join import JoinCounts
from streamgauge.stream.model import Model
from streamgauge.stream.monitor import AlarmFinding, DataProblemFinding, MetricsFinding, Monitor
from streamgauge.stream.publish import Publisher
from streamgauge.stream.records import MONITOR_INPUTS
from streamgauge.stream.snapshot import (
    JoinLog,
    SnapshotError,
    chunk_name,
    encode_changes,
    pack,
    split_name,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamgauge.stream.config import CoreConfig
    from streamgauge.stream.events import Label, Prediction
    from streamgauge.stream.model import VersionFinding
    from streamgauge.stream.records import Output, Record, TopicRole

_ENGINE = "engine"

_Chunks = dict[str, bytes | None]


class Totals(NamedTuple):
    """What a partition has seen since it was first read."""

    n_predictions: int
    n_labels: int
    n_outcomes: int
    n_dead_letters: int
    n_duplicate: int
    n_correction: int
    n_expired: int
    n_orphaned: int
    n_pending: int
    n_evicted: int
    n_held: int
    n_duplicate_predictions: int


def sum_totals(totals: Sequence[Totals]) -> Totals:
    """Return the counts of several partitions together, zeros for none."""
    return Totals(*map(sum, zip(*totals, strict=True))) if totals else Totals(*[0] * 12)


class _Counts(Struct, array_like=True):
    """What the engine itself counts."""

    n_dead_letters: int = 0
    n_retrains: int = 0
    n_evicted: int = 0
    gone: JoinCounts = field(default_factory=JoinCounts)


class Engine:
    """Watches every model of one partition.

    Args:
        config: the whole configuration.
        partition: the partition's number; it is part of what is published.
        state_key: seals the state of learners, which has to be pickled. Without it a restored
            engine starts with fresh learners.
    """

    inputs: tuple[TopicRole, ...] = MONITOR_INPUTS

    def __init__(
        self, config: CoreConfig, partition: int = 0, *, state_key: bytes | None = None
    ) -> None:
        self._config = config
        self._publisher = Publisher(config, partition)
        self._state_key = state_key
        self._join_logs: dict[str, JoinLog] = {}
        self._models: dict[str, Model] = {}
        self._idle = EvictionQueue(self._models)
        self._touched: dict[str, Model] = {}
        self._evicted: set[str] = set()
        self._found: list[VersionFinding] = []
        self._stored_plain: dict[str, set[str]] = {}
        self._stored_learners: dict[str, set[str]] = {}
        self._outputs: list[Output] = []
        self._counts = _Counts()
        self.digest = ""
        self.config_digest = config.digest()

    def process(self, batch: Sequence[Sequence[Record]]) -> list[Output]:
        """Take one batch of a partition, predictions and labels; return what to write, in order.

        The two inputs are merged by their records' timestamps (see align.py). A record that cannot
        be used becomes a dead letter. Nothing is raised for any record whatsoever.
        """
        outputs: list[Output] = []
        points: list[tuple[int, Output]] = []
        n_outcomes = 0
        limits = self._config.events
        for is_label, record in merge(batch):
            try:
                if is_label:
                    label = decode_label(record.value, record.timestamp_ms, limits)
                    model = self._models.get(label.model) or self._new_model(label)
                    model.add_label(label, record.offset)
                else:
                    prediction = decode_prediction(record.value, record.timestamp_ms, limits)
                    model = self._models.get(prediction.model) or self._new_model(prediction)
                    model.add_prediction(prediction, record.offset)
            except EventError as error:
                self._counts.n_dead_letters += 1
                outputs.append(self._publisher.dead_letter(record, error))
                continue
            if model.name not in self._models:
                n_outcomes = self._admit(model, n_outcomes)
            n_outcomes = model.place_outcomes(n_outcomes)
            self._touched[model.name] = model
            if model.join_is_due():
                points.append((n_outcomes - 1, self._join_point(model)))
        outputs.extend(self._findings(points))
        self._outputs.extend(outputs)
        return outputs

    def _new_model(self, event: Prediction | Label) -> Model:
        """A model that is watched as soon as its first event has been taken."""
        if self._is_full and self._idle.longest(event.timestamp_ms) is None:
            raise EventError(
                "too_many_models",
                f"model {event.model!r} would be one more than models_max,"
                f" {self._config.models_max}, and none has been idle for so long that it"
                " could make room",
            )
        return Model(event.model, self._config)

    @property
    def _is_full(self) -> bool:
        return len(self._models) >= self._config.models_max

    def _admit(self, model: Model, n_outcomes: int) -> int:
        """Watch a new model, in the place of an idle one where it has to be; the outcomes' number.

        An event has been taken by it already, so a refused event makes room for nobody.
        """
        if self._is_full:
            idle = self._idle.longest(model.join.watermark_ms)
            if idle is not None:
                n_outcomes = self._evict(self._models[idle], n_outcomes)
        self._models[model.name] = model
        self._idle.add(model.name)
        return n_outcomes

    def _evict(self, model: Model, n_outcomes: int) -> int:
        model.close()
        n_outcomes = model.place_outcomes(n_outcomes)
        self._found.extend(model.drain_findings())
        self._counts.n_evicted += 1
        self._counts.gone = _sum([self._counts.gone, model.join.counts])
        self._idle.remove_longest()
        del self._models[model.name]
        self._touched.pop(model.name, None)
        self._evicted.add(model.name)
        return n_outcomes

    def _findings(self, points: Sequence[tuple[int, Output]]) -> list[Output]:
        """What the batch's outcomes led to, in the order in which the outcomes came.

        `points` are put in their places: each comes with the number of the last outcome before.
        """
        found, self._found = self._found, []
        for model in self._touched.values():
            found.extend(model.drain_findings())
        found.sort(key=lambda item: item.order)
        placed = [(item.order, self._output(item)) for item in found]
        placed.extend(points)
        placed.sort(key=itemgetter(0))
        return [output for _, output in placed]

    def _output(self, item: VersionFinding) -> Output:
        finding, publisher = item.finding, self._publisher
        if isinstance(finding, MetricsFinding):
            return publisher.metrics(item.model, item.version, finding)
        if isinstance(finding, AlarmFinding):
            return publisher.alarm(item.model, item.version, finding)
        if isinstance(finding, DataProblemFinding):
            return publisher.data_problem(item.model, item.version, finding)
        # Numbered here, in the order of the outcomes: the same however the input was cut.
        self._counts.n_retrains += 1
        return publisher.retrain(item.model, item.version, finding, self._counts.n_retrains)

    def _join_point(self, model: Model) -> Output:
        return self._publisher.metric_point(
            model.name,
            model.version,
            "join",
            model.n_outcomes,
            model.join.watermark_ms,
            {**model.join_values(), "n_models_evicted": float(self._counts.n_evicted)},
        )

    def next_deadline_ms(self) -> int | None:
        """Return None: nothing here falls due without input."""
        return None

    def on_deadline(self, deadline_ms: int) -> list[Output]:
        """Raise: there is no deadline."""
        raise AssertionError(f"no deadline at {deadline_ms}")

    def drain_chunks(self) -> _Chunks:
        """The state chunks that changed since the last call; None means that one is gone.

        Also moves `digest` on: it covers every output and every change of state, but for what
        only a learner's pickle can tell.
        """
        plain, others = self._forgotten()
        changes: list[bytes] = []
        for model in self._touched.values():
            groups = encode_changes(model.join.drain_changes())
            changes += groups
            others.update(self._join_log(model.name).write(groups, model.join))
            its_plain, its_learners = self._changed(model)
            plain.update(its_plain)
            others.update(its_learners)
        self._touched = {}
        plain[_ENGINE] = pack(self._counts)
        self.digest = _digest(self.digest, self._outputs, plain, changes)
        self._outputs = []
        return {**plain, **others}

    def _forgotten(self) -> tuple[_Chunks, _Chunks]:
        """What evicted models leave to be deleted: plain chunks, and all others."""
        plain: _Chunks = {}
        others: _Chunks = {}
        for model in self._evicted:
            plain.update(dict.fromkeys(self._stored_plain.pop(model, ())))
            others.update(dict.fromkeys(self._stored_learners.pop(model, ())))
            log = self._join_logs.pop(model, None)
            others.update(dict.fromkeys(log.names() if log is not None else ()))
        self._evicted = set()
        return plain, others

    def _changed(self, model: Model) -> tuple[_Chunks, _Chunks]:
        """A model's plain chunks that have changed, and its learners'."""
        plain: _Chunks = {}
        learners: _Chunks = {}
        header = model.drain_header()
        if header is not None:
            plain[chunk_name("model", model.name)] = header
        changed, dropped = model.drain_changed()
        for version, monitor in changed:
            plain[chunk_name("monitor", model.name, version)] = pack(monitor.state())
            learners[chunk_name("learner", model.name, version)] = self._sealed(monitor)
        for version in dropped:
            plain[chunk_name("monitor", model.name, version)] = None
            learners[chunk_name("learner", model.name, version)] = None
        _note(self._stored_plain.setdefault(model.name, set()), plain)
        stored = self._stored_learners.setdefault(model.name, set())
        learners = {n: chunk for n, chunk in learners.items() if chunk is not None or n in stored}
        _note(stored, learners)
        return plain, learners

    def _sealed(self, monitor: Monitor) -> bytes | None:
        """A learner's state, None where none is to be kept: one of before would be out of step."""
        if monitor.learner is None or self._state_key is None:
            return None
        return monitor.learner.dump(self._state_key)

    def _join_log(self, model: str) -> JoinLog:
        return self._join_logs.setdefault(model, JoinLog(model))

    def restore(self, chunks: Mapping[str, bytes], digest: str) -> list[str]:
        """Become the engine that wrote these chunks, all it ever wrote that are not gone.

        Args:
            chunks: by name.
            digest: the engine's digest then.

        Returns:
            What could not be restored and starts afresh, a sentence each.

        Raises:
            SnapshotError: a chunk cannot be read, or is missing.
        """
        self.digest = digest
        if not chunks:
            return []
        try:
            return self._restore(chunks)
        except KeyError as error:
            raise SnapshotError(
                f"the stored state is not whole: {error} is missing; start with a fresh state"
            ) from error

    def _restore(self, chunks: Mapping[str, bytes]) -> list[str]:
        self._counts = unpack(_ENGINE, chunks[_ENGINE], _Counts)
        notes = []
        parsed = sorted((*split_name(name), name) for name in chunks)
        for kind, names, name in parsed:
            if kind == "model":
                model = Model(names[0], self._config)
                notes += model.restore_header(chunks[name])
                self._models[model.name] = model
        self._restore_joins(chunks)
        self._idle = EvictionQueue(self._models)
        for kind, names, name in parsed:
            if kind in ("model", "monitor"):
                self._stored_plain.setdefault(names[0], set()).add(name)
            elif kind == "learner":
                self._stored_learners.setdefault(names[0], set()).add(name)
            if kind == "monitor":
                state = unpack(name, chunks[name])
                notes += self._models[names[0]].restore_monitor(names[1], state)
            elif kind == "learner" and self._state_key is not None:
                notes += self._models[names[0]].restore_learner(
                    names[1], chunks[name], self._state_key
                )
        return notes

    def _restore_joins(self, chunks: Mapping[str, bytes]) -> None:
        by_model: dict[str, dict[str, bytes]] = {}
        for name, chunk in chunks.items():
            kind, names = split_name(name)
            if kind == "join":
                by_model.setdefault(names[0], {})[name] = chunk
        for model in by_model.keys() | self._models.keys():
            self._join_log(model).read(by_model[model], self._models[model].join)

    def totals(self) -> Totals:
        """The counts of the whole partition."""
        c = _sum([self._counts.gone, *(model.join.counts for model in self._models.values())])
        return Totals(
            c.n_predictions,
            c.n_labels,
            c.n_outcomes,
            self._counts.n_dead_letters,
            c.n_duplicate,
            c.n_correction,
            c.n_expired,
            c.n_orphaned,
            sum(model.join.n_pending for model in self._models.values()),
            self._counts.n_evicted,
            sum(model.join.n_held for model in self._models.values()),
            c.n_duplicate_predictions,
        )


def _sum(counts: Sequence[JoinCounts]) -> JoinCounts:
    return JoinCounts(*map(sum, zip(*map(astuple, counts), strict=True)))


def _note(stored: set[str], chunks: _Chunks) -> None:
    for name, chunk in chunks.items():
        if chunk is None:
            stored.discard(name)
        else:
            stored.add(name)


def _digest(
    before: str,
    outputs: Sequence[Output],
    chunks: Mapping[str, bytes | None],
    changes: Sequence[bytes],
) -> str:
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    digest.update(msgspec.msgpack.encode(outputs))
    for name in sorted(chunks):
        digest.update(msgspec.msgpack.encode([name, chunks[name]]))
    for group in changes:
        digest.update(group)
    return digest.hexdigest()
