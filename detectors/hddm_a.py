"""HDDM-A: two averages that are further apart than Hoeffding's inequality allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

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
    WARNING,
    compiled,
    loops,
)
from streamgauge.detectors.row import RowDetector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The row: count and mean since the baseline; in the warning zone; then, for rises and for falls,
# the cut point: count and mean there, and the mean's outer bound (its negative for falls).
_N, _MEAN, _IN_WARNING, _RISE, _FALL = 1, 2, 3, 4, 7
_CUT_N, _CUT_MEAN, _CUT_BOUND = range(3)
_WIDTH = 10
# The parameters: logarithms of one and two over the confidences.
_LOG_CUT, _LOG_DRIFT, _LOG_WARNING, _TWO_SIDED = range(4)


@compiled
def _allowed(n: float, n_cut: float, log_term: float) -> float:
    """Return how far the means of the first n_cut and of all n values may be apart."""
    m = (n - n_cut) / n_cut * (1.0 / n)
    return math.sqrt(m / 2 * log_term)


@compiled
def _side(
    row: NDArray[np.float64], cut: int, sign: int, error: float, params: NDArray[np.float64]
) -> int:
    """Move a cut point or, where it stays, say how far the mean has gone from it."""
    n, mean = row[_N], row[_MEAN]
    bound = sign * mean + error
    n_cut = row[cut + _CUT_N]
    if n_cut == 0 or row[cut + _CUT_BOUND] >= bound:
        row[cut + _CUT_N], row[cut + _CUT_MEAN], row[cut + _CUT_BOUND] = n, mean, bound
        return NOTHING
    change = sign * (mean - row[cut + _CUT_MEAN])
    if change <= 0:
        return NOTHING
    if change >= _allowed(n, n_cut, params[_LOG_DRIFT]):
        return DRIFT
    return WARNING if change >= _allowed(n, n_cut, params[_LOG_WARNING]) else NOTHING


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
    row[_N], row[_MEAN] = n, mean
    error = math.sqrt(1.0 / (2 * n) * params[_LOG_CUT])
    rise = _side(row, _RISE, 1, error, params)
    fall = _side(row, _FALL, -1, error, params) if params[_TWO_SIDED] else NOTHING
    was_in_warning = row[_IN_WARNING]
    row[_IN_WARNING] = WARNING in (rise, fall)
    if DRIFT in (rise, fall):
        kind = DRIFT
    elif row[_IN_WARNING] and not was_in_warning:
        kind = WARNING
    else:
        return NOTHING
    cut = _RISE if rise == kind else _FALL
    n_cut, mean_cut = row[cut + _CUT_N], row[cut + _CUT_MEAN]
    log_term = params[_LOG_DRIFT] if kind == DRIFT else params[_LOG_WARNING]
    found[DIRECTION] = 1 if rise == kind else -1
    found[STATISTIC] = abs(mean - mean_cut)
    found[THRESHOLD] = _allowed(n, n_cut, log_term)
    found[MEAN_BEFORE] = mean_cut
    found[MEAN_AFTER] = mean_cut + n / (n - n_cut) * (mean - mean_cut)
    found[N_AFTER] = n - n_cut
    if kind == DRIFT:
        row[1:] = 0
    return kind


class HDDM_A(RowDetector):  # noqa: N801  # River's and the paper's name
    """Has the mean since a cut point risen by more than chance allows?

    The cut point is where the upper confidence bound of the mean since the baseline was lowest;
    there, the mean is compared with the one now by Hoeffding's inequality. Constant memory,
    constant time for each value. Values are 0 (right) and 1 (error).

    Parameters (River's, with River's defaults):
        drift_confidence: probability of a false drift in one such comparison, above 0 up to 1;
            the smaller, the fewer false alarms and the later the true ones.
        warning_confidence: the same for warnings; usually larger.
        two_sided_test: whether falls count as well, with a cut point of their own.

    Drifts come at the indices at which River's HDDMA raises `drift_detected`, warnings where its
    `warning_detected` rises, to the last bit of the arithmetic. `onset` is the index after the cut
    point; `mean_before` and `mean_after` are the means up to it and from there on, `statistic` is
    the difference between the mean at the cut point and the one over all values since the baseline.

    The comparison is made after every value with a cut point chosen by the data, so that the
    confidences are no false-alarm rates.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> rng = random.Random(42)
    >>> hddm = HDDM_A()
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.kind, a.direction, a.onset) for a in map(hddm.update, errors) if a]
    [(1060, 'warning', 'up', 935), (1074, 'drift', 'up', 935)]

    Source: I. Frias-Blanco and others, Online and Non-Parametric Drift Detection Methods Based on
    Hoeffding's Bounds, IEEE TKDE 27(3), 2015, 810-823 (A-test). As in River the comparison takes
    the logarithm of 2 / confidence one-sided as well, which is the more cautious, and the cut point
    that of 1 / `drift_confidence`, for warnings too.
    """

    kind = "HDDM_A"
    is_binary = True
    loops = loops(_step)

    def __init__(
        self,
        drift_confidence: float = 0.001,
        warning_confidence: float = 0.005,
        two_sided_test: bool = False,
    ) -> None:
        params: dict[str, Any] = {
            name: checks.real(name, value, low=0, high=1, open_at="low")
            for name, value in (
                ("drift_confidence", drift_confidence),
                ("warning_confidence", warning_confidence),
            )
        }
        params["two_sided_test"] = checks.flag("two_sided_test", two_sided_test)
        numbers = [
            math.log(1.0 / params["drift_confidence"]),
            math.log(2.0 / params["drift_confidence"]),
            math.log(2.0 / params["warning_confidence"]),
            float(two_sided_test),
        ]
        super().__init__(params, numbers, [0.0] * (_WIDTH - 1))

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        n, first = row[_N], min(row[_N], 1)
        falls_too = self._params["two_sided_test"]
        return {
            "in warning": (row[_IN_WARNING], 0, 1),
            "n up to the cut for rises": (row[_RISE + _CUT_N], first, n),
            "n up to the cut for falls": (row[_FALL + _CUT_N], first * falls_too, n * falls_too),
        }

    def readings(self) -> dict[str, float]:
        """Return `statistic` and `threshold` of drift, of the side closer to it, and the `mean`.

        Statistic and threshold are 0 where the last value is the cut point.
        """
        row, log_term = self._row.tolist(), float(self._numbers[_LOG_DRIFT])
        sides = [(_RISE, 1), (_FALL, -1)] if self._params["two_sided_test"] else [(_RISE, 1)]
        pairs = [
            (
                sign * (row[_MEAN] - row[cut + _CUT_MEAN]),
                _allowed(row[_N], row[cut + _CUT_N], log_term),
            )
            for cut, sign in sides
            if row[cut + _CUT_N] < row[_N]
        ]
        statistic, threshold = max(pairs, key=lambda pair: pair[0] - pair[1], default=(0.0, 0.0))
        return {"statistic": statistic, "threshold": threshold, "mean": row[_MEAN]}
