"""Losses: what an outcome cost, as a number in [0, 1] that every detector can take.

Detectors assume bounded input: ADWIN's test is proved for [0, 1], and on raw-scale errors
Page-Hinkley's defaults alarm all the time.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamgauge.stream.outcomes import (
    P_MIN,
    absolute_error,
    absolute_errors,
    log_losses,
    same_value,
    wrong,
)
from streamgauge.stream.signals.signal import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamgauge.stream.config import ModelConfig, Task
    from streamgauge.stream.events import Value
    from streamgauge.stream.outcomes import Outcome

# Outcomes that set the scale of a regression's errors.
_N_SCALE = 1000


class Loss(Source, Protocol):
    """Makes outcomes numbers in [0, 1], in order; 0 is right."""

    def one(self, y_true: Value, y_pred: Value, position: int = -1) -> float:
        """Return the loss of another prediction of an outcome, on the scale that it left behind.

        Args:
            y_true: the outcome's label.
            y_pred: the other prediction.
            position: the outcome's among those that `values` took last; -1 is the last one's.
        """
        ...


class _Stateless:
    def readings(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is nothing to restore."""


class ZeroOneLoss(_Stateless):
    """1 where the class is wrong."""

    def values(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        return wrong(outcomes)

    def one(self, y_true: Value, y_pred: Value, position: int = -1) -> float:  # noqa: ARG002
        return float(not same_value(y_true, y_pred))


class LogLoss(ZeroOneLoss):
    """-ln p(true class) / -ln 0.001, so 1 from p = 0.001 down and 0.1 at p = 0.5.

    A prediction without probability counts as certain. A single probability is that of the
    predicted class; the rest goes to the true class when the prediction is wrong, which is exact
    for two classes and generous for more.
    """

    def values(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        bounded: NDArray[np.float64] = log_losses(outcomes) / -math.log(P_MIN)
        return bounded


class ScaledAbsoluteError:
    """e / (e + s), where e is the absolute error and s the median of the first 1000 but for zeros.

    The median error has loss 1/2 on any scale and no outlier passes 1. The scale is the running
    median until it is settled: a scale that went on adapting would hide the drift. Errors of 0 say
    nothing of the scale; with them a model that is exactly right about as often as not would have
    a scale that jumps to and from 0 (measured: 2.4 needless requests per 100 k, at its start).
    """

    def __init__(self) -> None:
        self._errors: list[float] = []
        self._scale = 0.0
        # What the scale was after each of the last outcomes, as long as it was running.
        self._running: list[float] = []

    def values(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        errors = absolute_errors(outcomes)
        n_running = min(len(errors), _N_SCALE - len(self._errors))
        losses = np.empty_like(errors)
        self._running = []
        for i in range(n_running):
            error = float(errors[i])
            insort(self._errors, error)
            n_zero = bisect_right(self._errors, 0.0)
            if n_zero < len(self._errors):
                self._scale = self._errors[(n_zero + len(self._errors)) // 2]
            self._running.append(self._scale)
            losses[i] = _scaled(error, self._scale)
        rest = errors[n_running:]
        if self._scale > 0:
            losses[n_running:] = rest / (rest + self._scale)
        else:
            losses[n_running:] = rest > 0
        return losses

    def one(self, y_true: Value, y_pred: Value, position: int = -1) -> float:
        was_running = 0 <= position < len(self._running)
        scale = self._running[position] if was_running else self._scale
        return _scaled(absolute_error(y_true, y_pred), scale)

    def readings(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"errors": self._errors, "scale": self._scale}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._errors, self._scale = state["errors"], state["scale"]


def make_loss(config: ModelConfig, task: Task) -> Loss:
    """Return the loss that a model's version is monitored by."""
    # Whoever makes a monitor may give it another task than the configuration's.
    name = config.loss if config.settled_task == task else None
    name = name or ("zero_one" if task == "classification" else "scaled_absolute")
    losses: dict[str, type[Loss]] = {
        "zero_one": ZeroOneLoss,
        "log_loss": LogLoss,
        "scaled_absolute": ScaledAbsoluteError,
    }
    return losses[name]()


def _scaled(error: float, scale: float) -> float:
    return error / (error + scale) if error > 0 else 0.0
