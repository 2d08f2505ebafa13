"""What kind of values a model's predictions and labels are, and whether an event's values fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from stream.config import Task
from stream.events import EventError

if TYPE_CHECKING:
    from stream.config import ModelConfig
    from stream.events import Label, Prediction, Value

ValueKind = Literal["text", "number"]


class TaskSpec(Struct, frozen=True, array_like=True):
    """A model's task, and whether its classes are text or numbers."""

    task: Task
    values: ValueKind

    @classmethod
    def of(cls, event: Prediction | Label, prediction: Value, config: ModelConfig) -> TaskSpec:
        """The task as the config settles it, else as the event declares it, else as it looks.

        A prediction that is text or a boolean, or comes with a probability, is a class; so is a
        whole number, and any other number is a regression's.
        """
        task = config.settled_task or event.task
        if task is None:
            is_class = (
                isinstance(prediction, str | bool)
                or event.probability is not None
                or prediction == int(prediction)
            )
            task = "classification" if is_class else "regression"
        return cls(task, _kind(prediction))

    @classmethod
    def expected(cls, config: ModelConfig) -> TaskSpec | None:
        """What the config alone says, None where it leaves it to the predictions."""
        if config.settled_task == "regression":
            return cls("regression", "number")
        return cls("classification", _kind(config.classes[0])) if config.classes else None

    def check(self, name: str, value: Value, config: ModelConfig) -> None:
        """Whether a prediction or label (`name` says which) is a value of this task.

        Raises:
            EventError: it is not; the detail says what to send or to configure.
        """
        if self.task == "regression":
            if isinstance(value, str | bool):
                raise EventError(
                    "task_mismatch", f"{name} {value!r} is not a number; the task is regression"
                )
            return
        if _kind(value) != self.values:
            raise EventError(
                "task_mismatch",
                f"{name} {value!r} is {_kind(value)}, but the predictions are {self.values};"
                " send classes as one type",
            )
        if isinstance(value, float) and not value.is_integer():
            raise EventError(
                "task_mismatch",
                f"{name} {value!r} is not a class, and the task is classification;"
                " set the event's task or the model's to regression",
            )
        if config.classes is not None and value not in config.classes:
            raise EventError(
                "undeclared_class", f"{name} {value!r} is none of the classes {config.classes}"
            )

    def fits(self, value: Value) -> bool:
        """Whether a label or a prediction is one that this task's loss can take."""
        if self.task == "regression":
            return not isinstance(value, str | bool)
        return isinstance(value, str) == (self.values == "text")


def _kind(value: Value) -> ValueKind:
    return "text" if isinstance(value, str) else "number"
