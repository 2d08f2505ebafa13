"""Outcomes: predictions together with their truth, and what they say as columns of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from streamgauge.stream.config import Task
from streamgauge.stream.events import Features, Probability, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# A true class with less probability costs no more: one certain mistake must not outweigh all.
P_MIN = 0.001
# Beyond this a square overflows.
_ERROR_MAX = 1e150


class Outcome(Struct, array_like=True, gc=False):
    """A prediction together with its truth.

    Attributes:
        version: the model version that predicted.
        y_true: the label.
        y_pred: the prediction.
        probability: of the predicted class, or class -> probability.
        features: what the prediction was made from, where a learner wants it.
        task: as declared by the event.
        predicted_ms: event time of the prediction.
        timestamp_ms: event time of the label.
        prediction_offset: where the prediction is; None where the label carried it.
        label_offset: where the label is.
    """

    version: str
    y_true: Value
    y_pred: Value
    probability: Probability | None = None
    features: Features | None = None
    task: Task | None = None
    predicted_ms: int = 0
    timestamp_ms: int = 0
    prediction_offset: int | None = None
    label_offset: int = 0


def same_value(a: Value, b: Value) -> bool:
    """Return whether two labels or classes are the same; a number never equals a string."""
    return a == b


class OutcomeColumns:
    """The columns of outcomes that the window index keeps."""

    def __init__(self, outcomes: Sequence[Outcome], losses: NDArray[np.float64]) -> None:
        self.losses = losses
        self.predicted_ms = np.array([o.predicted_ms for o in outcomes], dtype=np.int64)
        self.timestamp_ms = np.array([o.timestamp_ms for o in outcomes], dtype=np.int64)
        self.label = np.array([o.label_offset for o in outcomes], dtype=np.int64)
        # -1 where the label carried the prediction.
        self.prediction = np.array(
            [-1 if o.prediction_offset is None else o.prediction_offset for o in outcomes],
            dtype=np.int64,
        )


def wrong(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return 1 for each outcome whose class is wrong, 0 for the others; shape (n,)."""
    return np.array([not same_value(o.y_true, o.y_pred) for o in outcomes], dtype=np.float64)


def absolute_errors(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return |y_true - y_pred| of each outcome, in the target's unit, at most 1e150; shape (n,)."""
    return np.array([absolute_error(o.y_true, o.y_pred) for o in outcomes], dtype=np.float64)


def log_losses(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return -ln p(true class) of each outcome, in nats, with p at least 0.001; shape (n,)."""
    p = np.array([_p_true(o) for o in outcomes], dtype=np.float64)
    losses: NDArray[np.float64] = 0.0 - np.log(np.maximum(p, P_MIN))  # never -0.0
    return losses


def absolute_error(y_true: Value, y_pred: Value) -> float:
    """Return |y_true - y_pred|, at most 1e150."""
    error = abs(float(y_true) - float(y_pred))
    # In this order NaN becomes the maximum: diverged weights are as wrong as can be.
    return min(_ERROR_MAX, error)


def _p_true(outcome: Outcome) -> float:
    probability: Probability | None = outcome.probability
    if isinstance(probability, dict):
        for key in _class_keys(outcome.y_true):
            if key in probability:
                return probability[key]
        return 0.0
    p = 1.0 if probability is None else probability
    return p if same_value(outcome.y_true, outcome.y_pred) else 1.0 - p


def _class_keys(value: Value) -> tuple[str, ...]:
    """Return the ways to write a class as the key of a JSON object."""
    if isinstance(value, bool):
        return ("true", "True") if value else ("false", "False")
    if isinstance(value, float) and value.is_integer():
        return (str(value), str(int(value)))
    if isinstance(value, int):
        return (str(value), f"{value}.0")
    return (str(value),)
