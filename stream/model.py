"""One model on one partition: its join, its versions' monitors, and which version is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from streamgauge.stream.events import EventError
from streamgauge.stream.join import ModelJoin
from streamgauge.stream.monitor import DataProblemFinding, Finding, Monitor
from streamgauge.stream.served_version import ServedVersion, ServedVersionState
from streamgauge.stream.signals.learner import Learner, LearnerStateError
from streamgauge.stream.snapshot import pack, unpack
from streamgauge.stream.task import Evidence, TaskSpec

if TYPE_CHECKING:
    from streamgauge.stream.config import Config, Task
    from streamgauge.stream.events import Label, Prediction, Value
    from streamgauge.stream.join import PendingPrediction
    from streamgauge.stream.outcomes import Outcome


class VersionFinding(NamedTuple):
    """A finding about a version; `order` is the place of its outcome in the batch."""

    order: int
    model: str
    version: str
    finding: Finding


class Version(Struct, array_like=True):
    """A version that is monitored.

    Attributes:
        name: the version.
        spec: its task.
        settled: whether it has outcomes of this task; until then the task is provisional.
    """

    name: str
    spec: TaskSpec
    settled: bool = False


class _Header(Struct, array_like=True):
    """What a model's state holds besides the join and the monitors."""

    versions: list[Version]
    serving: ServedVersionState
    n_unmonitored: int


class Model:
    """Everything known of one model.

    Args:
        name: the model's name.
        config: the whole configuration.
    """

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._config = config.model_for(name)
        self._settled_task = self._config.settled_task
        self._join_every = 2 * self._config.metrics.every
        self._versions_max = config.versions_max
        self.join = ModelJoin(
            name, self._config.join, keep_features=self._config.learner is not None
        )
        # Which predicted longest ago comes first, but for the served one.
        self._versions: dict[str, Version] = {}
        self._monitors: dict[str, Monitor] = {}
        self._serving = ServedVersion()
        self._n_unmonitored = 0
        self._out: list[Outcome] = []
        self._orders: list[int] = []
        self._fits: list[bool] = []
        self._n_new_served = 0
        self._found: list[VersionFinding] = []
        self._header_changed = True
        self._changed: set[str] = set()
        self._dropped: set[str] = set()
        # Versions that a restored model does not restore.
        self._anew: set[str] = set()

    @property
    def version(self) -> str:
        """The served version (see served_version.py), empty before the first prediction."""
        return self._serving.served

    def add_prediction(self, event: Prediction, offset: int) -> None:
        """Take a prediction.

        Raises:
            EventError: its value does not fit the task. Nothing has changed.
        """
        self._see(event.version, event, event.timestamp_ms, event.prediction)
        self.join.add_prediction(event, offset, self._out)

    def add_label(self, event: Label, offset: int) -> None:
        """Take a label, which may carry its prediction.

        Raises:
            EventError: a value does not fit the task. Nothing has changed.
        """
        waiting = self.join.waiting(event.prediction_id)
        if event.prediction is not None and event.version is not None:
            values = (event.prediction, event.label)
            spec = self._spec(self._versions.get(event.version), event, *values)
            spec.check("label", event.label, self._config)
            predicted_ms = event.timestamp_predicted_ms or event.timestamp_ms
            self._see(event.version, event, predicted_ms, *values)
        elif waiting is not None and (version := self._versions.get(waiting.version)) is not None:
            spec = self._spec(version, waiting, waiting.y_pred, event.label)
            spec.check("label", event.label, self._config)
            self._revise(version, spec)
        else:
            self._check_label(event.label, waiting.version if waiting else event.version)
        self.join.add_label(event, offset, self._out)

    def _check_label(self, label: Value, name: str | None) -> None:
        """Check a label of a version, or of any (None), whose prediction is not here.

        Some version must be able to take it; whether its own is, shows when the two are joined.
        """
        names = [self.version, *self._versions] if name is None else [name]
        versions = [self._versions[name] for name in names if name in self._versions]
        if versions and all(version.settled for version in versions):
            specs = [version.spec for version in versions]
        else:
            expected = TaskSpec.from_config(self._config)
            specs = [] if expected is None else [expected]
        problems = [spec.mismatch("label", label, self._config) for spec in specs]
        if problems and problems[0] is not None and all(problems):
            raise problems[0]

    def _spec(
        self, version: Version | None, event: Prediction | Label | PendingPrediction, *values: Value
    ) -> TaskSpec:
        """The task of a version, None for a new one, with what an event of these values says."""
        if version is None:
            return TaskSpec.of(Evidence.of(event, *values), self._config)
        if version.spec.is_final(event.task or self._settled_task, settled=version.settled):
            return version.spec
        seen = Evidence.of(event, *values)
        return version.spec.revised(seen, self._config, settled=version.settled)

    def _see(self, name: str, event: Prediction | Label, predicted_ms: int, *values: Value) -> None:
        """Note which version predicts; check that its prediction, the first of `values`, fits."""
        version = self._versions.get(name)
        spec = self._spec(version, event, *values)
        spec.check("prediction", values[0], self._config)
        if version is None:
            self._start(Version(name, spec))
        else:
            self._revise(version, spec)
            if name != self._serving.served:
                self._versions[name] = self._versions.pop(name)
        if self._serving.see(name, predicted_ms):
            self._serve()
        self._header_changed = True

    def _revise(self, version: Version, spec: TaskSpec) -> None:
        """Give a version its task; with another one than it had it starts anew."""
        if spec is version.spec or spec == version.spec:
            return
        if spec.task != version.spec.task:
            monitor = self._new_monitor(spec.task)
            monitor.set_superseded(superseded=version.name != self.version)
            self._settle()
            self._monitors[version.name] = monitor
            self._changed.add(version.name)
            version.settled = False
        version.spec = spec
        self._header_changed = True

    def _start(self, version: Version) -> None:
        self._settle()
        monitor = self._new_monitor(version.spec.task)
        monitor.set_superseded(superseded=True)
        while len(self._versions) >= self._versions_max:
            self._drop(next(name for name in self._versions if name != self.version))
        self._versions[version.name] = version
        self._monitors[version.name] = monitor
        self._changed.add(version.name)

    def _new_monitor(self, task: Task) -> Monitor:
        config = self._config
        try:
            learner = Learner(config.learner, task) if config.learner is not None else None
        except ValueError as error:
            raise EventError("task_mismatch", f"learner: {error}") from None
        return Monitor(config, task, learner)

    def _drop(self, name: str) -> None:
        self._settle()
        del self._versions[name], self._monitors[name]
        self._dropped.add(name)
        self._changed.discard(name)

    def _serve(self) -> None:
        """Let the version that is served now ask, and no other."""
        self._settle()
        for name, monitor in self._monitors.items():
            monitor.set_superseded(superseded=name != self.version)
        self._changed.update(self._monitors)

    def place_outcomes(self, n: int) -> int:
        """Number the outcomes that are new since the last call, from `n` on; the next number."""
        for outcome in self._out[len(self._orders) :]:
            version = self._versions.get(outcome.version)
            fits = version is not None and _fits(version, outcome)
            self._orders.append(n)
            self._fits.append(fits)
            n += 1
            if version is None:
                self._n_unmonitored += 1
                self._header_changed = True
            elif fits:
                self._n_new_served += outcome.version == self.version
                if not version.settled:
                    version.settled = self._header_changed = True
        return n

    def drain_findings(self) -> list[VersionFinding]:
        """What the outcomes since the last call led to."""
        self._settle()
        found, self._found = self._found, []
        return found

    def _settle(self) -> None:
        """Monitor the outcomes so far, while the versions are what they were when these came."""
        outcomes, self._out = self._out, []
        orders, self._orders = self._orders, []
        fits, self._fits = self._fits, []
        self._n_new_served = 0
        by_version: dict[str, tuple[list[Outcome], list[int], list[bool]]] = {}
        for outcome, order, fit in zip(outcomes, orders, fits, strict=True):
            if outcome.version in self._monitors:
                group = by_version.setdefault(outcome.version, ([], [], []))
                group[0].append(outcome)
                group[1].append(order)
                group[2].append(fit)
        for version, group in by_version.items():
            self._found.extend(self._monitored(version, *group))

    def _monitored(
        self, name: str, outcomes: list[Outcome], orders: list[int], fits: list[bool]
    ) -> list[VersionFinding]:
        monitor = self._monitors[name]
        self._changed.add(name)
        found: list[VersionFinding] = []
        if not all(fits):
            found = self._misfits(name, monitor, outcomes, orders, fits)
            orders = [order for order, fit in zip(orders, fits, strict=True) if fit]
            outcomes = [outcome for outcome, fit in zip(outcomes, fits, strict=True) if fit]
        first = monitor.n_outcomes
        for item in monitor.update(outcomes):
            found.append(VersionFinding(orders[item.index - first], self.name, name, item))
        return found

    def _misfits(
        self,
        name: str,
        monitor: Monitor,
        outcomes: list[Outcome],
        orders: list[int],
        fits: list[bool],
    ) -> list[VersionFinding]:
        found = []
        index = monitor.n_outcomes
        for outcome, order, fit in zip(outcomes, orders, fits, strict=True):
            index += fit
            if not fit:
                detail = (
                    f"the label {outcome.y_true!r} at offset {outcome.label_offset} and its"
                    f" prediction {outcome.y_pred!r} are not both values of a"
                    f" {self._versions[name].spec.task}; they were left out"
                )
                problem = DataProblemFinding(index, outcome.timestamp_ms, "data", "join", detail)
                found.append(VersionFinding(order, self.name, name, problem))
        return found

    @property
    def n_outcomes(self) -> int:
        """Outcomes of the served version, those of the running batch among them."""
        monitor = self._monitors.get(self.version)
        return (monitor.n_outcomes if monitor else 0) + self._n_new_served

    def join_is_due(self) -> bool:
        """Whether the join's counts are to be published now, after an event."""
        counts = self.join.counts
        is_due = (counts.n_predictions + counts.n_labels) % self._join_every == 0
        return is_due and bool(self.version)

    def join_values(self) -> dict[str, float]:
        """The join's counts, to publish."""
        values = msgspec.structs.asdict(self.join.counts)
        values.update(
            n_pending=self.join.n_pending,
            n_early=self.join.n_early,
            n_held=self.join.n_held,
            n_unmonitored=self._n_unmonitored,
        )
        return {name: float(value) for name, value in values.items()}

    def close(self) -> None:
        """Let go of all that waits: the model is about to be forgotten."""
        self.join.close(self._out)

    def drain_header(self) -> bytes | None:
        """The model's header when it has changed since the last call."""
        if not self._header_changed:
            return None
        self._header_changed = False
        return pack(
            _Header(list(self._versions.values()), self._serving.state(), self._n_unmonitored)
        )

    def drain_changed(self) -> tuple[list[tuple[str, Monitor]], list[str]]:
        """Monitors that have changed since the last call, by version, and versions dropped."""
        changed = sorted(self._changed)
        dropped = sorted(self._dropped - set(self._versions))
        self._changed, self._dropped = set(), set()
        return [(name, self._monitors[name]) for name in changed], dropped

    def restore_header(self, data: bytes) -> list[str]:
        """Become the model that `drain_header()` described, with fresh monitors.

        Returns:
            A sentence for each version that starts anew since the configuration now has another
            task, and for each that can have no learner.
        """
        header = unpack(self.name, data, _Header)
        self._versions = {version.name: version for version in header.versions}
        self._serving = ServedVersion(header.serving)
        self._n_unmonitored = header.n_unmonitored
        self._header_changed = False
        return [note for version in header.versions for note in self._revive(version)]

    def _revive(self, version: Version) -> list[str]:
        notes = []
        spec = version.spec.with_config(self._config)
        if spec.task != version.spec.task:
            version.settled = False
            self._anew.add(version.name)
            self._changed.add(version.name)
            notes.append(f"{self.name}/{version.name}: the task is {spec.task}; it starts anew")
        if spec != version.spec:
            version.spec = spec
            self._header_changed = True
        try:
            monitor = self._new_monitor(spec.task)
        except EventError as error:
            monitor = Monitor(self._config, spec.task)
            notes.append(f"{self.name}/{version.name}: {error.detail}; it goes on without")
        monitor.set_superseded(superseded=version.name != self.version)
        self._monitors[version.name] = monitor
        return notes

    def restore_monitor(self, version: str, state: dict[str, Any]) -> list[str]:
        """Restore a version's monitor; what had to start afresh, a sentence each."""
        if version in self._anew:
            return []
        afresh = self._monitors[version].restore(state)
        return [f"{self.name}/{version}: detector {name} starts afresh" for name in afresh]

    def restore_learner(self, version: str, data: bytes, key: bytes) -> list[str]:
        """Restore a version's learner; why it had to start afresh, if it had to."""
        learner = self._monitors[version].learner
        if learner is None or version in self._anew:
            return []
        try:
            learner.load(data, key)
        except LearnerStateError as error:
            return [f"{self.name}/{version}: {error}; the learner starts afresh"]
        return []


def _fits(version: Version, outcome: Outcome) -> bool:
    # A prediction may be of an earlier life of its version, when that had another task.
    takes = version.spec.takes
    return takes(outcome.y_true) and takes(outcome.y_pred)
