"""The engine of one partition: a batch of records in, the records to write out.

Pure: what it does depends on the configuration and on the records alone. Its state is a set of
named chunks of bytes, of which a commit writes those that changed.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stream.align import merge
from stream.events import EventError, decode_label, decode_prediction
from stream.model import ModelState
from stream.monitor import Alarmed, DataProblem, Metrics
from stream.publish import Publisher
from stream.snapshot import JoinLog, SnapshotError, chunk_name, pack, split_name, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stream.config import Config
    from stream.events import Label, Prediction
    from stream.model import Found
    from stream.records import Output, Record

_ENGINE = "engine"


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


class Engine:
    """Watches every model of one partition.

    Args:
        config: the whole configuration.
        partition: the partition's number; it is part of what is published.
        state_key: seals the state of learners, which has to be pickled. Without it a restored
            engine starts with fresh learners.
    """

    def __init__(
        self, config: Config, partition: int = 0, *, state_key: bytes | None = None
    ) -> None:
        self._config = config
        self._publisher = Publisher(config, partition)
        self._state_key = state_key
        self._join_log = JoinLog()
        self._models: dict[str, ModelState] = {}
        self._touched: dict[str, ModelState] = {}
        self._outputs: list[Output] = []
        self._n_dead_letters = 0
        self._n_retrains = 0
        self.digest = ""

    def process(self, predictions: Sequence[Record], labels: Sequence[Record]) -> list[Output]:
        """Take one batch of a partition; return what to write, in order.

        The two inputs are merged by their records' timestamps (see `stream.align`). A record that
        cannot be used becomes a dead letter. Nothing is raised for any record whatsoever.
        """
        outputs: list[Output] = []
        points: list[tuple[int, Output]] = []
        n_outcomes = 0
        for is_label, record in merge(predictions, labels):
            try:
                model = self._take_label(record) if is_label else self._take_prediction(record)
            except EventError as error:
                self._n_dead_letters += 1
                outputs.append(self._publisher.dead_letter(record, error))
                continue
            n_outcomes = model.number_outcomes(n_outcomes)
            self._touched[model.name] = self._models[model.name] = model
            if model.join_is_due():
                points.append((n_outcomes - 1, self._join_point(model)))
        outputs.extend(self._findings(points))
        self._outputs.extend(outputs)
        return outputs

    def _take_prediction(self, record: Record) -> ModelState:
        event = decode_prediction(record.value, record.timestamp_ms, self._config.events)
        model = self._model(event)
        model.take_prediction(event, record.offset)
        return model

    def _take_label(self, record: Record) -> ModelState:
        event = decode_label(record.value, record.timestamp_ms, self._config.events)
        model = self._model(event)
        model.take_label(event, record.offset)
        return model

    def _model(self, event: Prediction | Label) -> ModelState:
        model = self._models.get(event.model)
        if model is None:
            if len(self._models) >= self._config.models_max:
                raise EventError(
                    "too_many_models",
                    f"model {event.model!r} would be one more than models_max,"
                    f" {self._config.models_max}",
                )
            return ModelState(event.model, self._config)
        return model

    def _findings(self, points: Sequence[tuple[int, Output]]) -> list[Output]:
        """What the batch's outcomes led to, in the order in which the outcomes came.

        `points` are put in their places: each comes with the number of the last outcome before.
        """
        found: list[Found] = []
        for model in self._touched.values():
            found.extend(model.take_findings())
        found.sort(key=lambda item: item.order)
        placed = [(item.order, self._output(item)) for item in found]
        placed.extend(points)
        placed.sort(key=itemgetter(0))
        return [output for _, output in placed]

    def _output(self, item: Found) -> Output:
        finding, publisher = item.finding, self._publisher
        if isinstance(finding, Metrics):
            return publisher.metrics(item.model, item.version, finding)
        if isinstance(finding, Alarmed):
            return publisher.alarm(item.model, item.version, finding)
        if isinstance(finding, DataProblem):
            return publisher.data_problem(item.model, item.version, finding)
        # Numbered here, in the order of the outcomes: the same however the input was cut.
        self._n_retrains += 1
        return publisher.retrain(item.model, item.version, finding, self._n_retrains)

    def _join_point(self, model: ModelState) -> Output:
        return self._publisher.metric_point(
            model.name,
            model.version,
            "join",
            model.n_outcomes,
            model.join.watermark_ms,
            model.join_values(),
        )

    def take_chunks(self) -> dict[str, bytes | None]:
        """The state chunks that changed since the last call; None means that one is gone.

        Also moves `digest` on: it covers every output and every change of state, but for what
        only a learner's pickle can tell.
        """
        plain: dict[str, bytes | None] = {}
        learners: dict[str, bytes | None] = {}
        deltas = []
        for model in self._touched.values():
            deltas.append(model.join.take_delta())
            header = model.take_header()
            if header is not None:
                plain[chunk_name("model", model.name)] = header
            changed, dropped = model.take_changed()
            for version, monitor in changed:
                plain[chunk_name("monitor", model.name, version)] = pack(monitor.state())
                if monitor.learner is not None and self._state_key is not None:
                    sealed = monitor.learner.dump(self._state_key)
                    learners[chunk_name("learner", model.name, version)] = sealed
            for version in dropped:
                plain[chunk_name("monitor", model.name, version)] = None
                learners[chunk_name("learner", model.name, version)] = None
        self._touched = {}
        plain[_ENGINE] = pack([self._n_dead_letters, self._n_retrains])
        packed_deltas = pack(deltas)
        self.digest = _digest(self.digest, self._outputs, plain, packed_deltas)
        self._outputs = []
        # By name, as a restored engine has them.
        joins = (self._models[name].join for name in sorted(self._models))
        return {**plain, **learners, **self._join_log.write(packed_deltas, joins)}

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
        self._n_dead_letters, self._n_retrains = unpack(_ENGINE, chunks[_ENGINE])
        notes = []
        parsed = sorted((*split_name(name), name) for name in chunks)
        for kind, names, name in parsed:
            if kind == "model":
                model = ModelState(names[0], self._config)
                notes += model.restore_header(chunks[name])
                self._models[model.name] = model
        self._restore_joins(chunks)
        for kind, names, name in parsed:
            if kind == "monitor":
                state = unpack(name, chunks[name])
                notes += self._models[names[0]].restore_monitor(names[1], state)
            elif kind == "learner" and self._state_key is not None:
                notes += self._models[names[0]].restore_learner(
                    names[1], chunks[name], self._state_key
                )
        return notes

    def _restore_joins(self, chunks: Mapping[str, bytes]) -> None:
        states, deltas = self._join_log.read(chunks)
        for state in states:
            self._models[state.model].join.restore(state)
        for delta in deltas:
            self._models[delta.model].join.redo(delta)

    def totals(self) -> Totals:
        """The counts of the whole partition."""
        counts = [model.join.counts for model in self._models.values()]
        return Totals(
            sum(c.n_predictions for c in counts),
            sum(c.n_labels for c in counts),
            sum(c.n_outcomes for c in counts),
            self._n_dead_letters,
            sum(c.n_duplicate for c in counts),
            sum(c.n_correction for c in counts),
            sum(c.n_expired for c in counts),
            sum(c.n_orphaned for c in counts),
            sum(model.join.n_pending for model in self._models.values()),
        )


def _digest(
    before: str,
    outputs: Sequence[Output],
    chunks: Mapping[str, bytes | None],
    changes: bytes,
) -> str:
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    digest.update(msgspec.msgpack.encode(outputs))
    for name in sorted(chunks):
        digest.update(msgspec.msgpack.encode([name, chunks[name]]))
    digest.update(changes)
    return digest.hexdigest()
