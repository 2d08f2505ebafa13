"""The engine of one partition: a batch of records in, the records to write out.

Pure: what it does depends on the configuration and on the records alone. Its state is a set of
named chunks of bytes, of which a commit writes those that changed.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict

from streamgauge.stream.align import merge
from streamgauge.stream.chunks import ChunkChanges, by_model
from streamgauge.stream.events import EventError, decode_label, decode_prediction
from streamgauge.stream.eviction import EvictionQueue
from streamgauge.stream.model import Model
from streamgauge.stream.monitor import AlarmFinding, DataProblemFinding, MetricsFinding
from streamgauge.stream.publish import Publisher
from streamgauge.stream.records import MONITOR_INPUTS
from streamgauge.stream.snapshot import incomplete, pack, unpack
from streamgauge.stream.totals import ModelTotals, Totals, add_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamgauge.stream.chunks import Chunks
    from streamgauge.stream.config import CoreConfig
    from streamgauge.stream.events import Label, Prediction
    from streamgauge.stream.model import VersionFinding
    from streamgauge.stream.records import Output, Record, TopicRole

_ENGINE = "engine"


class _Counts(Struct, array_like=True):
    """The engine's own counts."""

    n_dead_letters: int = 0
    n_retrains: int = 0
    n_models_evicted: int = 0
    gone: ModelTotals = field(default_factory=ModelTotals)


class Engine:
    """A watch on every model of one partition.

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
        self._models: dict[str, Model] = {}
        self._idle = EvictionQueue(self._models)
        self._touched: dict[str, Model] = {}
        # What evicted models leave to be deleted with the next commit.
        self._left = ChunkChanges()
        self._found: list[VersionFinding] = []
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
        """Return a model that is watched as soon as its first event has been taken."""
        if self._is_full and self._idle.longest(event.timestamp_ms) is None:
            raise EventError(
                "too_many_models",
                f"model {event.model!r} would be one more than models_max,"
                f" {self._config.models_max}, and none has been idle for so long that it"
                " could make room",
            )
        return Model(event.model, self._config, self._state_key)

    @property
    def _is_full(self) -> bool:
        return len(self._models) >= self._config.models_max

    def _admit(self, model: Model, n_outcomes: int) -> int:
        """Watch a new model, if need be in the place of an idle one; return the next number.

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
        self._counts.n_models_evicted += 1
        self._counts.gone = add_up(ModelTotals, [self._counts.gone, model.totals()])
        self._idle.remove_longest()
        del self._models[model.name]
        self._touched.pop(model.name, None)
        self._left.extend(model.deletions())
        return n_outcomes

    def _findings(self, points: Sequence[tuple[int, Output]]) -> list[Output]:
        """Return what the batch's outcomes led to, in the order in which the outcomes came.

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
        counts = asdict(model.totals()) | {"n_models_evicted": self._counts.n_models_evicted}
        return self._publisher.metric_point(
            model.name,
            model.version,
            "join",
            model.n_outcomes,
            model.join.watermark_ms,
            {name: float(n) for name, n in counts.items()},
        )

    def next_deadline_ms(self) -> int | None:
        """Return None: nothing here falls due without input."""
        return None

    def on_deadline(self, deadline_ms: int) -> list[Output]:
        """Raise: there is no deadline."""
        raise AssertionError(f"no deadline at {deadline_ms}")

    def drain_chunks(self) -> Chunks:
        """Return the state chunks that changed since the last call; None means that one is gone.

        Also moves `digest` on: it covers every output and every change of state, but for what
        only a learner's pickle can tell.
        """
        changes, self._left = self._left, ChunkChanges()
        for model in self._touched.values():
            changes.extend(model.drain_chunks())
        self._touched = {}
        changes.plain[_ENGINE] = pack(self._counts)
        self.digest = _digest(self.digest, self._outputs, changes)
        self._outputs = []
        return changes.chunks()

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
        if _ENGINE not in chunks:
            raise incomplete(_ENGINE)
        self._counts = unpack(_ENGINE, chunks[_ENGINE], _Counts)
        notes = []
        for name, its_chunks in by_model(chunks).items():
            model = Model(name, self._config, self._state_key)
            notes += model.restore(its_chunks)
            self._models[name] = model
        self._idle = EvictionQueue(self._models)
        return notes

    def totals(self) -> Totals:
        """Return the counts of the whole partition."""
        models = (model.totals() for model in self._models.values())
        return Totals(
            **asdict(add_up(ModelTotals, [self._counts.gone, *models])),
            n_dead_letters=self._counts.n_dead_letters,
            n_models_evicted=self._counts.n_models_evicted,
        )


def _digest(before: str, outputs: Sequence[Output], changes: ChunkChanges) -> str:
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    digest.update(msgspec.msgpack.encode(outputs))
    for name in sorted(changes.plain):
        digest.update(msgspec.msgpack.encode([name, changes.plain[name]]))
    for group in changes.join_changes:
        digest.update(group)
    return digest.hexdigest()
