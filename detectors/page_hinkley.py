"""The Page-Hinkley test: a cumulative sum of deviations from the running mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

from streamgauge.detectors import checks
from streamgauge.detectors.compiled import (
    DIRECTION,
    DRIFT,
    MEAN_AFTER,
    MEAN_BEFORE,
    N_AFTER,
    NOTHING,
    STATISTIC,
    THRESHOLD,
    compiled,
    loops,
)
from streamgauge.detectors.row import RowDetector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mode = Literal["up", "down", "both"]

# The row: count and mean since the baseline; the sum that rises when the mean rises, its minimum,
# and the count and mean up to that minimum; the same of the sum that falls, with its maximum.
_N, _MEAN, _UP, _UP_MIN, _UP_N, _UP_MEAN, _DOWN, _DOWN_MAX, _DOWN_N, _DOWN_MEAN = range(1, 11)
_WIDTH = 11
# The parameters.
_MIN_INSTANCES, _DELTA, _ALPHA, _THRESHOLD_UP, _THRESHOLD_DOWN = range(5)


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    # River's operations in River's order: another order rounds differently.
    n = row[_N] + 1
    mean = row[_MEAN] + (1.0 / n) * (x - row[_MEAN])
    deviation = x - mean
    up = params[_ALPHA] * row[_UP] + deviation - params[_DELTA]
    down = params[_ALPHA] * row[_DOWN] + deviation + params[_DELTA]
    row[_N], row[_MEAN], row[_UP], row[_DOWN] = n, mean, up, down
    if up <= row[_UP_MIN]:
        row[_UP_MIN], row[_UP_N], row[_UP_MEAN] = up, n, mean
    if down >= row[_DOWN_MAX]:
        row[_DOWN_MAX], row[_DOWN_N], row[_DOWN_MEAN] = down, n, mean
    rise, fall = up - row[_UP_MIN], row[_DOWN_MAX] - down
    if n < params[_MIN_INSTANCES] or not (
        rise > params[_THRESHOLD_UP] or fall > params[_THRESHOLD_DOWN]
    ):
        return NOTHING
    # Of the tests that the mode asks for, the one with the larger statistic.
    goes_up = params[_THRESHOLD_DOWN] == math.inf or (
        params[_THRESHOLD_UP] < math.inf and rise >= fall
    )
    n_before = row[_UP_N] if goes_up else row[_DOWN_N]
    mean_before = row[_UP_MEAN] if goes_up else row[_DOWN_MEAN]
    found[DIRECTION] = 1 if goes_up else -1
    found[STATISTIC] = rise if goes_up else fall
    found[THRESHOLD] = params[_THRESHOLD_UP] if goes_up else params[_THRESHOLD_DOWN]
    found[MEAN_BEFORE] = mean_before
    found[MEAN_AFTER] = mean_before + n / (n - n_before) * (mean - mean_before)
    found[N_AFTER] = n - n_before
    row[1:] = 0
    return DRIFT


class PageHinkley(RowDetector):
    """Has the mean of the stream risen or fallen by more than a tolerated magnitude?

    Each value's deviation from the running mean, less the tolerance, is added to a sum; an alarm
    rises when the sum is more than `threshold` above its minimum (or, for falls, below its
    maximum). Constant memory, constant time for each value.

    Parameters (River's, with River's defaults):
        min_instances: values after a baseline before any alarm.
        delta: tolerated magnitude of a change, in the unit of the values, 0 or more.
        threshold: lambda, in the unit of the values, 0 or more; the larger, the fewer false
            alarms and the later the true ones.
        alpha: forgetting factor of the sum for each value, above 0 up to 1.
        mode: test for a mean that goes `up`, `down`, or `both`.

    The alarms come at the indices at which River's PageHinkley raises `drift_detected`, to the
    last bit of the arithmetic. `onset` is the index after the sum's last minimum (maximum);
    `mean_before` and `mean_after` are the means since the baseline before it and from it on. With a
    `delta` far below the size of the change the sum wanders, and its minimum can lie long before
    the change.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> rng = random.Random(1)
    >>> test = PageHinkley(delta=0.05, threshold=20)
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.direction, a.onset) for a in map(test.update, errors) if a]
    [(1113, 'up', 930)]

    Source: E. S. Page, Continuous Inspection Schemes, Biometrika 41 (1954), 100-115; with the
    forgetting factor of River, after R. Sebastiao and J. M. Fernandes, Supporting the
    Page-Hinkley Test with Empirical Mode Decomposition for Change Detection, ISMIS 2017.
    """

    kind = "PageHinkley"
    loops = loops(_step)

    def __init__(
        self,
        min_instances: int = 30,
        delta: float = 0.005,
        threshold: float = 50.0,
        alpha: float = 1 - 0.0001,
        mode: Mode = "both",
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is one of {', '.join(get_args(Mode))}, got {mode!r}")
        high = checks.MAGNITUDE_MAX
        params: dict[str, Any] = {
            "min_instances": checks.whole("min_instances", min_instances, low=1, high=2**53),
            "delta": checks.real("delta", delta, low=0, high=high),
            "threshold": checks.real("threshold", threshold, low=0, high=high),
            "alpha": checks.real("alpha", alpha, low=0, high=1, open_at="low"),
            "mode": mode,
        }
        numbers = [
            params["min_instances"],
            params["delta"],
            params["alpha"],
            math.inf if mode == "down" else params["threshold"],
            math.inf if mode == "up" else params["threshold"],
        ]
        super().__init__(params, numbers, [0.0] * (_WIDTH - 1))

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        # The last value is at a sum's extreme, or the extreme is before it.
        return {
            "n up to the minimum": (row[_UP_N], 0, row[_N] - (row[_UP] > row[_UP_MIN])),
            "n up to the maximum": (row[_DOWN_N], 0, row[_N] - (row[_DOWN] < row[_DOWN_MAX])),
        }

    def readings(self) -> dict[str, float]:
        """Return the `statistic`, its `threshold`, and `mean` since the baseline, 0 at first."""
        row = self._row.tolist()
        rise, fall = row[_UP] - row[_UP_MIN], row[_DOWN_MAX] - row[_DOWN]
        statistic = {"up": rise, "down": fall, "both": max(rise, fall)}[self._params["mode"]]
        return {
            "statistic": statistic,
            "threshold": self._params["threshold"],
            "mean": row[_MEAN],
        }
