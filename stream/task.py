"""The kind of values that a model's predictions and labels are, and the check that they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from streamgauge.stream.config import Task
from streamgauge.stream.events import EventError, Value

if TYPE_CHECKING:
    from streamgauge.stream.config import ModelConfig
    from streamgauge.stream.events import Label, Prediction
    from streamgauge.stream.join_changes import PendingPrediction

ValueKind = Literal["text", "number"]


class Evidence(NamedTuple):
    """All that an event says of the task: a prediction, then its label where that is known."""

    values: tuple[Value, ...]
    task: Task | None = None
    has_probability: bool = False

    @classmethod
    def of(cls, event: Prediction | Label | PendingPrediction, *values: Value) -> Evidence:
        """Return what an event says, or a prediction that waits, by the values that are known."""
        return cls(values, event.task, event.probability is not None)

    @property
    def is_of_classes(self) -> bool:
        """True where these look like classes: text, booleans, whole numbers, a probability.

        1 is a class and 1.0 is not: a program that writes numbers writes 0.0 among them.
        """
        if self.has_probability or any(isinstance(value, str | bool) for value in self.values):
            return True
        return all(isinstance(value, int) for value in self.values)


class TaskSpec(Struct, frozen=True, array_like=True):
    """A model version's task, and whether its classes are text or numbers.

    What the config settles stands above what events declare, and that above how values look.

    Attributes:
        task: classification or regression.
        values: what its predictions and labels are.
        declared: whether the config or an event says so; otherwise it is how values look.
    """

    task: Task
    values: ValueKind
    declared: bool = False

    @classmethod
    def of(cls, seen: Evidence, config: ModelConfig) -> TaskSpec:
        """Return the task as the config settles it, else the event declares it, else it looks."""
        declared = config.settled_task or seen.task
        task: Task = declared or ("classification" if seen.is_of_classes else "regression")
        kind: ValueKind = "number" if task == "regression" else _kind(seen.values[0])
        return cls(task, kind, declared is not None)

    def is_final(self, declared: Task | None, *, settled: bool) -> bool:
        """Return whether an event that is of a `declared` task cannot change this one any more.

        Args:
            declared: as the config settles it or the event declares it, None where neither does.
            settled: whether the version has an outcome.
        """
        return settled and (self.declared or declared is None)

    def revised(self, seen: Evidence, config: ModelConfig, *, settled: bool) -> TaskSpec:
        """Return this task, or the one that there is better evidence for now.

        A declared task replaces one that only looked so. Until the version has an outcome
        (`settled`), values that do not fit replace what the earlier ones looked like: one stray
        event decides nothing.
        """
        if self.is_final(seen.task or config.settled_task, settled=settled):
            return self
        fresh = TaskSpec.of(seen, config)
        if fresh.declared and not self.declared:
            # Of a version with outcomes one event may change the task, but not the kind of class.
            if not settled or fresh.task != self.task or fresh.values == self.values:
                return fresh
            return self
        if settled or all(map(self.takes, seen.values)) or not all(map(fresh.takes, seen.values)):
            return self
        return fresh

    def with_config(self, config: ModelConfig) -> TaskSpec:
        """Return this task where the config leaves it open, else the config's."""
        expected = TaskSpec.from_config(config)
        if expected is not None:
            return expected
        if config.settled_task in (None, self.task):
            return self
        return TaskSpec("classification", "number", declared=True)

    @classmethod
    def from_config(cls, config: ModelConfig) -> TaskSpec | None:
        """Return what the config alone says, None where it leaves it to the predictions."""
        if config.settled_task == "regression":
            return cls("regression", "number", declared=True)
        if config.classes:
            return cls("classification", _kind(config.classes[0]), declared=True)
        return None

    def check(self, name: str, value: Value, config: ModelConfig) -> None:
        """Check that a prediction or label (`name` says which) is a value of this task.

        Raises:
            EventError: it is not; the detail says what to send or to configure.
        """
        problem = self.mismatch(name, value, config)
        if problem is not None:
            raise problem

    def mismatch(self, name: str, value: Value, config: ModelConfig) -> EventError | None:
        """Return what `check` raises, None where the value fits."""
        if not self.takes(value):
            return EventError("task_mismatch", self._misfit(name, value))
        classes = config.classes
        if classes is None or value in classes:
            return None
        return EventError("undeclared_class", f"{name} {value!r} is none of the classes {classes}")

    def _misfit(self, name: str, value: Value) -> str:
        if self.task == "regression":
            return f"{name} {value!r} is not a number; the task is regression"
        if _kind(value) != self.values:
            kind = "text" if self.values == "text" else "a number"
            return (
                f"{name} {value!r} is not {kind}, as the predictions are; send classes as one type"
            )
        return (
            f"{name} {value!r} is not a class, and the task is classification;"
            " set the event's task or the model's to regression"
        )

    def takes(self, value: Value) -> bool:
        """Return whether a value is one of this task, whatever its classes are."""
        kind = type(value)
        if self.values == "text":
            return kind is str
        if self.task == "regression":
            return kind is int or kind is float
        return kind is int or kind is bool or (isinstance(value, float) and value.is_integer())


def _kind(value: Value) -> ValueKind:
    return "text" if isinstance(value, str) else "number"
