"""A model's quality as people speak of it: accuracy, MAE, ..., since its start and of late."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgauge.stream.outcomes import absolute_errors, log_losses, wrong
from streamgauge.stream.window import running_sum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamgauge.stream.config import ModelConfig, Task
    from streamgauge.stream.outcomes import Outcome


class _Tail:
    """The last `size` values, and the sum of all; constant time for each value, on average.

    Values are kept in a row, for their mean to be the same however they came. A full row is
    left for one with as much room again, so at most twice the values are held.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._n = 0
        self._total = 0.0
        self._row: NDArray[np.float64] = np.empty(0)
        self._end = 0

    def extend(self, values: NDArray[np.float64]) -> None:
        self._n += len(values)
        self._total = running_sum(self._total, values)
        values = values[-self._size :]
        if self._end + len(values) > len(self._row):
            self._make_room(len(values))
        self._row[self._end : self._end + len(values)] = values
        self._end += len(values)

    def _make_room(self, n: int) -> None:
        kept = self._last(self._size)
        self._row = np.empty(2 * (len(kept) + n))
        self._row[: len(kept)] = kept
        self._end = len(kept)

    def _last(self, n: int) -> NDArray[np.float64]:
        return self._row[max(0, self._end - n) : self._end]

    def mean(self) -> float | None:
        """Return the mean of all values, None while there are none."""
        return self._total / self._n if self._n else None

    def last_mean(self, over: int) -> float | None:
        """Return the mean of the last `over` values, None while there are fewer."""
        last = self._last(over)
        return float(last.mean()) if len(last) == over else None

    def state(self) -> dict[str, Any]:
        return {"n": self._n, "total": self._total, "values": self._last(self._size).tobytes()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._n, self._total = state["n"], state["total"]
        # A copy, for a row that is read from bytes cannot be written to.
        self._row = np.frombuffer(state["values"])[-self._size :].copy()
        self._end = len(self._row)


class Performance:
    """Metrics of one model version.

    Classification has `accuracy` (and `log_loss` where predictions come with a probability: in
    nats, of probabilities of at least 0.001), regression `mae` and `rmse` in the target's unit.
    Each also as `<name>_window`, over the last `metrics.window` outcomes, once there are so many.

    Memory: the last window's values of each metric.
    """

    def __init__(self, config: ModelConfig, task: Task) -> None:
        self._task = task
        self._window = config.metrics.window
        rule = config.policy.metric
        size = max(self._window, rule.over if rule else 0)
        names = ("wrong", "log_loss") if task == "classification" else ("absolute", "squared")
        self._tails = {name: _Tail(size) for name in names}
        self._has_probability = False

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes, in order."""
        if self._task == "classification":
            self._tails["wrong"].extend(wrong(outcomes))
            with_probability = self._from_first_probability(outcomes)
            if with_probability:
                self._tails["log_loss"].extend(log_losses(with_probability))
        else:
            errors = absolute_errors(outcomes)
            self._tails["absolute"].extend(errors)
            self._tails["squared"].extend(errors * errors)

    def _from_first_probability(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        if self._has_probability:
            return outcomes
        for i, outcome in enumerate(outcomes):
            if outcome.probability is not None:
                self._has_probability = True
                return outcomes[i:]
        return ()

    def values(self) -> dict[str, float]:
        """Return every metric there is by now."""
        metrics = {name: self._metric(name, None) for name in self._names()}
        metrics |= {f"{name}_window": self._metric(name, self._window) for name in self._names()}
        return {name: value for name, value in metrics.items() if value is not None}

    def over(self, name: str, n_outcomes: int) -> float | None:
        """Return a metric over the last `n_outcomes`, None while there are fewer, or none of it."""
        return self._metric(name, n_outcomes) if name in self._names() else None

    def _names(self) -> tuple[str, ...]:
        if self._task == "regression":
            return ("mae", "rmse")
        return ("accuracy", "log_loss")

    def _metric(self, name: str, over: int | None) -> float | None:
        tail = self._tails[_SOURCE[name]]
        mean = tail.mean() if over is None else tail.last_mean(over)
        if mean is None:
            return None
        if name == "accuracy":
            return 1.0 - mean
        return math.sqrt(mean) if name == "rmse" else mean

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        return {
            "has_probability": self._has_probability,
            "tails": {name: tail.state() for name, tail in self._tails.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        self._has_probability = state["has_probability"]
        for name, tail in self._tails.items():
            tail.restore(state["tails"][name])


_SOURCE = {"accuracy": "wrong", "log_loss": "log_loss", "mae": "absolute", "rmse": "squared"}
