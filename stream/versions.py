"""The versions of one model: which are monitored, what their task is, and which one is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from streamgauge.stream.events import EventError
from streamgauge.stream.monitor import Monitor
from streamgauge.stream.served_version import ServedVersion, ServedVersionState
from streamgauge.stream.signals.learner import Learner
from streamgauge.stream.task import Evidence, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamgauge.stream.config import ModelConfig, Task
    from streamgauge.stream.events import Label, Prediction, Value
    from streamgauge.stream.join_changes import PendingPrediction
    from streamgauge.stream.outcomes import Outcome


@dataclass(slots=True)
class Version:
    """A version that is monitored.

    Attributes:
        name: the version.
        spec: its task.
        monitor: what watches it.
        learner: the model that learns beside it, where one is configured and fits its task.
        settled: whether it has outcomes of this task; until then the task is provisional.
        anew: whether it starts anew although its state is stored, for that is of another task.
    """

    name: str
    spec: TaskSpec
    monitor: Monitor
    learner: Learner | None
    settled: bool = False
    anew: bool = False


class _StoredVersion(Struct, array_like=True):
    name: str
    spec: TaskSpec
    settled: bool


class VersionsState(Struct, array_like=True):
    """All that `Versions` remembers, but for the monitors and learners."""

    versions: list[_StoredVersion]
    served: ServedVersionState
    n_unmonitored: int


class Versions:
    """The monitored versions of one model.

    Memory is that of `versions_max` monitors. When one more predicts, the one that predicted
    longest ago makes room, but never the served one.

    Args:
        model: the model's name.
        config: the model's configuration.
        versions_max: how many are monitored at once, at least 2.
        before_change: called before a version starts, is dropped or takes another task, and
            before another one is served: the outcomes until then are for what there was.
    """

    def __init__(
        self,
        model: str,
        config: ModelConfig,
        versions_max: int,
        before_change: Callable[[], None],
    ) -> None:
        self.n_unmonitored = 0
        self._model = model
        self._config = config
        self._settled_task = config.settled_task
        self._versions_max = versions_max
        self._before_change = before_change
        # Which predicted longest ago comes first, but for the served one.
        self._versions: dict[str, Version] = {}
        self._served = ServedVersion()
        self._state_changed = True
        self._changed: set[str] = set()
        self._dropped: set[str] = set()

    @property
    def served(self) -> str:
        """The served version (see served_version.py), empty before the first prediction."""
        return self._served.served

    def get(self, name: str) -> Version | None:
        """Return a version, None where it is not monitored."""
        return self._versions.get(name)

    def see(self, name: str, event: Prediction | Label, predicted_ms: int, *values: Value) -> None:
        """Take note of which version predicts, and of its task.

        Args:
            name: the version.
            event: the prediction, or the label that carries it.
            predicted_ms: event time of the prediction.
            *values: the prediction, then its label where that is known.

        Raises:
            EventError: the prediction does not fit the task. Nothing has changed.
        """
        version = self._versions.get(name)
        spec = self._spec(version, event, *values)
        spec.check("prediction", values[0], self._config)
        if version is None:
            self._start(name, spec)
        else:
            self._revise(version, spec)
            if name != self._served.served:
                self._versions[name] = self._versions.pop(name)
        if self._served.see(name, predicted_ms):
            self._serve()
        self._state_changed = True

    def take_label(self, event: Label, waiting: PendingPrediction | None) -> None:
        """Take note of a label and, where it carries its prediction, of the version.

        Args:
            event: the label.
            waiting: the prediction that waits for it, if there is one.

        Raises:
            EventError: a value does not fit the task. Nothing has changed.
        """
        if event.prediction is not None and event.version is not None:
            values = (event.prediction, event.label)
            spec = self._spec(self._versions.get(event.version), event, *values)
            spec.check("label", event.label, self._config)
            predicted_ms = event.timestamp_predicted_ms or event.timestamp_ms
            self.see(event.version, event, predicted_ms, *values)
        elif waiting is not None and (version := self._versions.get(waiting.version)) is not None:
            spec = self._spec(version, waiting, waiting.y_pred, event.label)
            spec.check("label", event.label, self._config)
            self._revise(version, spec)
        else:
            self._check_label(event.label, waiting.version if waiting else event.version)

    def _check_label(self, label: Value, name: str | None) -> None:
        """Check a label of a version, or of any (None), whose prediction is not here.

        Some version must be able to take it; whether its own is, shows when the two are joined.
        """
        names = [self.served, *self._versions] if name is None else [name]
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
        """Return the task of a version, None for a new one, with what an event of values says."""
        if version is None:
            return TaskSpec.of(Evidence.of(event, *values), self._config)
        if version.spec.is_final(event.task or self._settled_task, settled=version.settled):
            return version.spec
        seen = Evidence.of(event, *values)
        return version.spec.revised(seen, self._config, settled=version.settled)

    def _revise(self, version: Version, spec: TaskSpec) -> None:
        """Give a version its task; with another one than it had it starts anew."""
        if spec is version.spec or spec == version.spec:
            return
        if spec.task != version.spec.task:
            learner = self._new_learner(spec.task)
            self._before_change()
            version.learner, version.monitor = learner, Monitor(self._config, spec.task, learner)
            version.monitor.set_superseded(superseded=version.name != self.served)
            version.settled = False
            self._changed.add(version.name)
        version.spec = spec
        self._state_changed = True

    def _start(self, name: str, spec: TaskSpec) -> None:
        learner = self._new_learner(spec.task)
        self._before_change()
        monitor = Monitor(self._config, spec.task, learner)
        monitor.set_superseded(superseded=True)
        while len(self._versions) >= self._versions_max:
            self._drop(next(other for other in self._versions if other != self.served))
        self._versions[name] = Version(name, spec, monitor, learner)
        self._changed.add(name)

    def _new_learner(self, task: Task) -> Learner | None:
        """Return a fresh learner where one is configured.

        Raises:
            EventError: the configured one is not for this task.
        """
        config = self._config.learner
        try:
            return Learner(config, task) if config is not None else None
        except ValueError as error:
            raise EventError("task_mismatch", f"learner: {error}") from None

    def _drop(self, name: str) -> None:
        self._before_change()
        del self._versions[name]
        self._dropped.add(name)
        self._changed.discard(name)

    def _serve(self) -> None:
        """Let the version that is served now ask, and no other."""
        self._before_change()
        for name, version in self._versions.items():
            version.monitor.set_superseded(superseded=name != self.served)
        self._changed.update(self._versions)

    def expect(self, outcome: Outcome) -> bool:
        """Take note of an outcome that is to be monitored.

        Returns:
            Whether its version is monitored and both values are of its task: a prediction may be
            of an earlier life of its version, when that had another task.
        """
        version = self._versions.get(outcome.version)
        if version is None:
            self.n_unmonitored += 1
            self._state_changed = True
            return False
        takes = version.spec.takes
        if not (takes(outcome.y_true) and takes(outcome.y_pred)):
            return False
        if not version.settled:
            version.settled = self._state_changed = True
        return True

    def set_changed(self, name: str) -> None:
        """Take note that a version's monitor has taken outcomes."""
        self._changed.add(name)

    def drain_state(self) -> VersionsState | None:
        """Return the state when it has changed since the last call."""
        if not self._state_changed:
            return None
        self._state_changed = False
        stored = [_StoredVersion(v.name, v.spec, v.settled) for v in self._versions.values()]
        return VersionsState(stored, self._served.state(), self.n_unmonitored)

    def drain_changed(self) -> tuple[list[Version], list[str]]:
        """Return the versions whose monitors have changed since the last call, and those dropped.

        Both in the order of their names.
        """
        changed = [self._versions[name] for name in sorted(self._changed)]
        dropped = sorted(self._dropped - set(self._versions))
        self._changed, self._dropped = set(), set()
        return changed, dropped

    def restore(self, state: VersionsState) -> list[str]:
        """Become what `drain_state()` described, with fresh monitors and learners.

        Returns:
            A sentence for each version that starts anew since the configuration now has another
            task, and for each that can have no learner.
        """
        self._served = ServedVersion(state.served)
        self.n_unmonitored = state.n_unmonitored
        self._state_changed = False
        return [note for stored in state.versions for note in self._revive(stored)]

    def _revive(self, stored: _StoredVersion) -> list[str]:
        notes = []
        name, spec = stored.name, stored.spec.with_config(self._config)
        self._state_changed |= spec != stored.spec
        anew = spec.task != stored.spec.task
        if anew:
            self._changed.add(name)
            notes.append(f"{self._model}/{name}: the task is {spec.task}; it starts anew")
        learner = None
        try:
            learner = self._new_learner(spec.task)
        except EventError as error:
            notes.append(f"{self._model}/{name}: {error.detail}; it goes on without")
        monitor = Monitor(self._config, spec.task, learner)
        monitor.set_superseded(superseded=name != self.served)
        settled = stored.settled and not anew
        self._versions[name] = Version(name, spec, monitor, learner, settled, anew)
        return notes
