"""One model on one partition: its join, its versions' monitors, and which version is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from stream.events import EventError
from stream.join import ModelJoin
from stream.learner import Learner, LearnerStateError
from stream.monitor import Finding, Monitor
from stream.snapshot import pack, unpack
from stream.task import TaskSpec

if TYPE_CHECKING:
    from stream.config import Config
    from stream.events import Label, Prediction, Value
    from stream.join import Outcome

# An older version is served again when so many predictions in a row are its own.
_ROLLED_BACK_AFTER = 100


@dataclass(frozen=True, slots=True)
class Misfit:
    """An outcome whose label is no value of its version's task."""

    index: int
    timestamp_ms: int
    detail: str


class Found(NamedTuple):
    """A finding about a version; `order` is the place of its outcome in the batch."""

    order: int
    model: str
    version: str
    finding: Finding | Misfit


class Version(Struct, array_like=True):
    """A version that is monitored: its task, as its first prediction showed it."""

    name: str
    spec: TaskSpec


class _Header(Struct, array_like=True):
    """What a model's state holds besides the join and the monitors."""

    versions: list[Version]
    served: str
    n_other: int
    other: str
    n_unmonitored: int


class ModelState:
    """Everything known of one model.

    Args:
        name: the model's name.
        config: the whole configuration.
    """

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.version = ""
        self._config = config.model_for(name)
        self._versions_max = config.versions_max
        self.join = ModelJoin(
            name, self._config.join, keep_features=self._config.learner is not None
        )
        self._versions: dict[str, Version] = {}
        self._monitors: dict[str, Monitor] = {}
        self._other = ""
        self._n_other = 0
        self._n_unmonitored = 0
        self._out: list[Outcome] = []
        self._orders: list[int] = []
        self._n_new_served = 0
        self._found: list[Found] = []
        self._header_changed = True
        self._changed: set[str] = set()
        self._dropped: set[str] = set()

    def take_prediction(self, event: Prediction, offset: int) -> None:
        """Take a prediction.

        Raises:
            EventError: its value does not fit the task. Nothing has changed.
        """
        self._see(event.version, event.prediction, event)
        self.join.add_prediction(event, offset, self._out)

    def take_label(self, event: Label, offset: int) -> None:
        """Take a label, which may carry its prediction.

        Raises:
            EventError: a value does not fit the task. Nothing has changed.
        """
        name, carried = event.version or self.version, event.prediction
        spec = self._spec(name, carried, event)
        if spec is not None:
            spec.check("label", event.label, self._config)
        if carried is not None:
            self._see(name, carried, event)
        self.join.add_label(event, offset, self._out)

    def _spec(
        self, version: str, prediction: Value | None, event: Prediction | Label
    ) -> TaskSpec | None:
        """The task of a version, None while nothing is known of it."""
        known = self._versions.get(version)
        if known is not None:
            return known.spec
        if prediction is None:
            return TaskSpec.expected(self._config)
        return TaskSpec.of(event, prediction, self._config)

    def _see(self, name: str, prediction: Value, event: Prediction | Label) -> None:
        """Note which version predicts; check that its prediction fits."""
        version = self._versions.get(name)
        spec = TaskSpec.of(event, prediction, self._config) if version is None else version.spec
        spec.check("prediction", prediction, self._config)
        if version is None:
            self._start(Version(name, spec))
        elif name == self.version:
            if self._n_other:
                self._n_other = 0
                self._header_changed = True
        else:
            self._see_other(name)

    def _see_other(self, name: str) -> None:
        """A version that is not the served one predicts: a straggler, or it is served again."""
        self._n_other = self._n_other + 1 if name == self._other else 1
        self._other = name
        self._header_changed = True
        if self._n_other >= _ROLLED_BACK_AFTER:
            self._serve(name)

    def _start(self, version: Version) -> None:
        monitor = self._new_monitor(version)
        if len(self._versions) >= self._versions_max:
            others = (name for name in self._versions if name != self.version)
            self._drop(next(others, self.version))
        self._versions[version.name] = version
        self._monitors[version.name] = monitor
        self._serve(version.name)

    def _new_monitor(self, version: Version) -> Monitor:
        config = self._config
        try:
            learner = (
                Learner(config.learner, version.spec.task) if config.learner is not None else None
            )
        except ValueError as error:
            raise EventError("task_mismatch", f"learner: {error}") from None
        return Monitor(config, version.spec.task, learner)

    def _drop(self, name: str) -> None:
        self._settle()
        del self._versions[name], self._monitors[name]
        self._dropped.add(name)
        self._changed.discard(name)

    def _serve(self, name: str) -> None:
        self._settle()
        for other, monitor in self._monitors.items():
            monitor.set_superseded(superseded=other != name)
        self._changed.update(self._monitors)
        self.version, self._n_other = name, 0
        self._header_changed = True

    def number_outcomes(self, n: int) -> int:
        """Number the outcomes that are new since the last call, from `n` on; the next number."""
        for outcome in self._out[len(self._orders) :]:
            self._orders.append(n)
            n += 1
            version = self._versions.get(outcome.version)
            if version is None:
                self._n_unmonitored += 1
                self._header_changed = True
            elif outcome.version == self.version:
                self._n_new_served += _fits(version, outcome)
        return n

    def take_findings(self) -> list[Found]:
        """What the outcomes since the last call led to."""
        self._settle()
        found, self._found = self._found, []
        return found

    def _settle(self) -> None:
        """Monitor the outcomes so far, while the versions are what they were when these came."""
        outcomes, self._out = self._out, []
        orders, self._orders = self._orders, []
        self._n_new_served = 0
        by_version: dict[str, tuple[list[Outcome], list[int]]] = {}
        for outcome, order in zip(outcomes, orders, strict=True):
            if outcome.version in self._monitors:
                group = by_version.setdefault(outcome.version, ([], []))
                group[0].append(outcome)
                group[1].append(order)
        for version, (its_outcomes, its_orders) in by_version.items():
            self._found.extend(self._monitored(version, its_outcomes, its_orders))

    def _monitored(self, name: str, outcomes: list[Outcome], orders: list[int]) -> list[Found]:
        monitor = self._monitors[name]
        self._changed.add(name)
        found: list[Found] = []
        version = self._versions[name]
        fits = [_fits(version, outcome) for outcome in outcomes]
        if not all(fits):
            found = self._misfits(name, monitor, outcomes, orders, fits)
            orders = [order for order, fit in zip(orders, fits, strict=True) if fit]
            outcomes = [outcome for outcome, fit in zip(outcomes, fits, strict=True) if fit]
        first = monitor.n_outcomes
        for item in monitor.update(outcomes):
            found.append(Found(orders[item.index - first], self.name, name, item))
        return found

    def _misfits(
        self,
        name: str,
        monitor: Monitor,
        outcomes: list[Outcome],
        orders: list[int],
        fits: list[bool],
    ) -> list[Found]:
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
                misfit = Misfit(index, outcome.timestamp_ms, detail)
                found.append(Found(order, self.name, name, misfit))
        return found

    @property
    def n_outcomes(self) -> int:
        """Outcomes of the served version, those of the running batch among them."""
        monitor = self._monitors.get(self.version)
        return (monitor.n_outcomes if monitor else 0) + self._n_new_served

    def join_is_due(self) -> bool:
        """Whether the join's counts are to be published now, after an event."""
        counts = self.join.counts
        every = 2 * self._config.metrics.every
        return bool(self.version) and (counts.n_predictions + counts.n_labels) % every == 0

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

    def take_header(self) -> bytes | None:
        """The model's header when it has changed since the last call."""
        if not self._header_changed:
            return None
        self._header_changed = False
        return pack(
            _Header(
                list(self._versions.values()),
                self.version,
                self._n_other,
                self._other,
                self._n_unmonitored,
            )
        )

    def take_changed(self) -> tuple[list[tuple[str, Monitor]], list[str]]:
        """Monitors that have changed since the last call, by version, and versions dropped."""
        changed = sorted(self._changed)
        dropped = sorted(self._dropped - set(self._versions))
        self._changed, self._dropped = set(), set()
        return [(name, self._monitors[name]) for name in changed], dropped

    def restore_header(self, data: bytes) -> None:
        """Become the model that `take_header()` described, with fresh monitors."""
        header = unpack(self.name, data, _Header)
        self._versions = {version.name: version for version in header.versions}
        self.version = header.served
        self._other, self._n_other = header.other, header.n_other
        self._n_unmonitored = header.n_unmonitored
        self._header_changed = False
        self._monitors = {v.name: self._new_monitor(v) for v in header.versions}
        for name, monitor in self._monitors.items():
            monitor.set_superseded(superseded=name != self.version)

    def restore_monitor(self, version: str, state: dict[str, Any]) -> list[str]:
        """Restore a version's monitor; what had to start afresh, a sentence each."""
        afresh = self._monitors[version].restore(state)
        return [f"{self.name}/{version}: detector {name} starts afresh" for name in afresh]

    def restore_learner(self, version: str, data: bytes, key: bytes) -> list[str]:
        """Restore a version's learner; why it had to start afresh, if it had to."""
        learner = self._monitors[version].learner
        if learner is None:
            return []
        try:
            learner.load(data, key)
        except LearnerStateError as error:
            return [f"{self.name}/{version}: {error}; the learner starts afresh"]
        return []


def _fits(version: Version, outcome: Outcome) -> bool:
    # A prediction may be of an earlier life of its version, when that had another task.
    return version.spec.fits(outcome.y_true) and version.spec.fits(outcome.y_pred)
