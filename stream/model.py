"""One model on one partition: its join, and what its outcomes lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import asdict

from streamgauge.stream.chunks import ModelChunks
from streamgauge.stream.join import ModelJoin
from streamgauge.stream.monitor import DataProblemFinding, Finding
from streamgauge.stream.signals.learner import LearnerStateError
from streamgauge.stream.snapshot import incomplete
from streamgauge.stream.totals import ModelTotals
from streamgauge.stream.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamgauge.stream.chunks import ChunkChanges
    from streamgauge.stream.config import CoreConfig
    from streamgauge.stream.events import Label, Prediction
    from streamgauge.stream.outcomes import Outcome
    from streamgauge.stream.signals.learner import Learner
    from streamgauge.stream.versions import Version


class VersionFinding(NamedTuple):
    """A finding about a version; `order` is the place of its outcome in the batch."""

    order: int
    model: str
    version: str
    finding: Finding


class _Group(NamedTuple):
    """The outcomes of one version: their places in the batch, and whether each is monitored."""

    outcomes: list[Outcome]
    orders: list[int]
    fits: list[bool]


class Model:
    """Everything known of one model; it needs no engine to go on, to be stored and restored.

    After each event `place_outcomes`, after each batch `drain_findings`, with each commit
    `drain_chunks`. What it finds and stores depends on the events alone.

    Args:
        name: the model's name.
        config: the whole configuration.
        state_key: seals the state of learners, which has to be pickled. Without it a restored
            model starts with fresh learners.
    """

    def __init__(self, name: str, config: CoreConfig, state_key: bytes | None = None) -> None:
        self.name = name
        its_config = config.model_for(name)
        self._state_key = state_key
        self._join_every = 2 * its_config.metrics.every
        self.join = ModelJoin(name, its_config.join, keep_features=its_config.learner is not None)
        self._versions = Versions(name, its_config, config.versions_max, self._monitor_outcomes)
        self._chunks = ModelChunks(name)
        # Outcomes that are not monitored yet, and of those that are placed where, and if they fit.
        self._out: list[Outcome] = []
        self._orders: list[int] = []
        self._fits: list[bool] = []
        self._n_new_served = 0
        self._found: list[VersionFinding] = []

    @property
    def version(self) -> str:
        """The served version (see served_version.py), empty before the first prediction."""
        return self._versions.served

    def add_prediction(self, event: Prediction, offset: int) -> None:
        """Take a prediction.

        Raises:
            EventError: its value does not fit the task. Nothing has changed.
        """
        self._versions.see(event.version, event, event.timestamp_ms, event.prediction)
        self.join.add_prediction(event, offset, self._out)

    def add_label(self, event: Label, offset: int) -> None:
        """Take a label, which may carry its prediction.

        Raises:
            EventError: a value does not fit the task. Nothing has changed.
        """
        self._versions.take_label(event, self.join.waiting(event.prediction_id))
        self.join.add_label(event, offset, self._out)

    def place_outcomes(self, n: int) -> int:
        """Give the outcomes that are new since the last call their numbers, from `n` on.

        Returns:
            The number after the last one's.
        """
        n_placed = len(self._orders)
        if n_placed == len(self._out):
            return n
        served = self.version
        for outcome in self._out[n_placed:]:
            fits = self._versions.expect(outcome)
            self._orders.append(n)
            self._fits.append(fits)
            self._n_new_served += fits and outcome.version == served
            n += 1
        return n

    def drain_findings(self) -> list[VersionFinding]:
        """Return what the outcomes since the last call led to, all of which are placed."""
        self._monitor_outcomes()
        found, self._found = self._found, []
        return found

    def _monitor_outcomes(self) -> None:
        """Monitor the outcomes so far, while the versions are what they were when these came."""
        outcomes, self._out = self._out, []
        orders, self._orders = self._orders, []
        fits, self._fits = self._fits, []
        self._n_new_served = 0
        groups: dict[str, _Group] = {}
        for outcome, order, fit in zip(outcomes, orders, fits, strict=True):
            group = groups.get(outcome.version)
            if group is None:
                group = groups[outcome.version] = _Group([], [], [])
            group.outcomes.append(outcome)
            group.orders.append(order)
            group.fits.append(fit)
        for name, group in groups.items():
            version = self._versions.get(name)
            if version is not None:
                self._found.extend(self._monitored(version, group))

    def _monitored(self, version: Version, group: _Group) -> list[VersionFinding]:
        self._versions.set_changed(version.name)
        found: list[VersionFinding] = []
        outcomes, orders, fits = group
        if not all(fits):
            found = self._misfits(version, group)
            orders = [order for order, fit in zip(orders, fits, strict=True) if fit]
            outcomes = [outcome for outcome, fit in zip(outcomes, fits, strict=True) if fit]
        first = version.monitor.n_outcomes
        for item in version.monitor.update(outcomes):
            found.append(VersionFinding(orders[item.index - first], self.name, version.name, item))
        return found

    def _misfits(self, version: Version, group: _Group) -> list[VersionFinding]:
        found = []
        index = version.monitor.n_outcomes
        for outcome, order, fit in zip(*group, strict=True):
            index += fit
            if not fit:
                detail = (
                    f"the label {outcome.y_true!r} at offset {outcome.label_offset} and its"
                    f" prediction {outcome.y_pred!r} are not both values of a"
                    f" {version.spec.task}; they were left out"
                )
                problem = DataProblemFinding(index, outcome.timestamp_ms, "data", "join", detail)
                found.append(VersionFinding(order, self.name, version.name, problem))
        return found

    @property
    def n_outcomes(self) -> int:
        """Outcomes of the served version, those of the running batch among them."""
        version = self._versions.get(self.version)
        return (version.monitor.n_outcomes if version else 0) + self._n_new_served

    def join_is_due(self) -> bool:
        """Return whether the join's counts are to be published now, after an event."""
        counts = self.join.counts
        is_due = (counts.n_predictions + counts.n_labels) % self._join_every == 0
        return is_due and bool(self.version)

    def totals(self) -> ModelTotals:
        """Return the model's counts."""
        join = self.join
        return ModelTotals(
            **asdict(join.counts),
            n_pending=join.n_pending,
            n_early=join.n_early,
            n_held=join.n_held,
            n_unmonitored=self._versions.n_unmonitored,
        )

    def close(self) -> None:
        """Let go of all that waits: the model is about to be forgotten."""
        self.join.close(self._out)

    def deletions(self) -> ChunkChanges:
        """Return what to write when the model is forgotten: all its stored chunks are gone."""
        return self._chunks.deletions()

    def drain_chunks(self) -> ChunkChanges:
        """Return the chunks that have changed since the last call."""
        self._monitor_outcomes()
        changed, dropped = self._versions.drain_changed()
        gone = dict.fromkeys(dropped)
        monitors = {version.name: version.monitor.state() for version in changed}
        learners = {version.name: self._sealed(version.learner) for version in changed}
        return self._chunks.write(
            self.join, self._versions.drain_state(), monitors | gone, learners | gone
        )

    def _sealed(self, learner: Learner | None) -> bytes | None:
        """Return a learner's state, None where none is to be kept.

        What is stored of it from before would be out of step with its monitor.
        """
        if learner is None or self._state_key is None:
            return None
        return learner.dump(self._state_key)

    def restore(self, chunks: Mapping[str, bytes]) -> list[str]:
        """Become the model that wrote these chunks, all it ever wrote that are not gone.

        Returns:
            What could not be restored and starts afresh, a sentence each.

        Raises:
            SnapshotError: a chunk cannot be read, or is missing. The model is of no use then.
        """
        try:
            return self._restore(chunks)
        except KeyError as error:
            raise incomplete(error.args[0]) from error

    def _restore(self, chunks: Mapping[str, bytes]) -> list[str]:
        stored = self._chunks.read(chunks, self.join)
        notes = self._versions.restore(stored.header)
        for name, data in stored.learners.items():
            notes += self._restore_learner(name, data)
        for name, state in stored.monitors.items():
            notes += self._restore_monitor(name, state)
        return notes

    def _restore_learner(self, name: str, data: bytes) -> list[str]:
        version = self._version(name)
        if version.learner is None or version.anew or self._state_key is None:
            return []
        try:
            version.learner.load(data, self._state_key)
        except LearnerStateError as error:
            return [f"{self.name}/{name}: {error}; the learner starts afresh"]
        return []

    def _restore_monitor(self, name: str, state: Mapping[str, Any]) -> list[str]:
        version = self._version(name)
        if version.anew:
            return []
        afresh = version.monitor.restore(state)
        return [f"{self.name}/{name}: detector {detector} starts afresh" for detector in afresh]

    def _version(self, name: str) -> Version:
        version = self._versions.get(name)
        if version is None:
            raise KeyError(name)
        return version
