"""HDDM-W: two weighted averages that are further apart than McDiarmid's inequality allows."""

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

# The row: counts of values and of ones since the baseline; their weighted mean and the sum of its
# squared weights; in the warning zone. Then, for rises and for falls, the cut point: the four
# numbers there, the mean's outer bound (its negative for falls), and weighted mean and sum of
# squared weights of the values after it.
_N, _ONES, _MEAN, _SQUARES, _IN_WARNING, _RISE, _FALL = 1, 2, 3, 4, 5, 6, 13
_CUT_N, _CUT_ONES, _CUT_MEAN, _CUT_SQUARES, _CUT_BOUND, _NEW_MEAN, _NEW_SQUARES = range(7)
_WIDTH = 20
# The parameters: logarithms of one over the confidences; the weight of a new value, one minus it,
# and the squares of both.
_LOG_DRIFT, _LOG_WARNING, _WEIGHT, _KEPT, _WEIGHT_SQUARED, _KEPT_SQUARED, _TWO_SIDED = range(7)


@compiled
def _allowed(squares: float, log_term: float) -> float:
    """Return how far weighted means may be apart; `squares` is the sum of all squared weights."""
    return math.sqrt(squares * log_term / 2)


@compiled
def _side(
    row: NDArray[np.float64],
    cut: int,
    sign: int,
    x: float,
    error: float,
    params: NDArray[np.float64],
) -> int:
    """Move a cut point or, where it stays, say how far the values after it are from those before.

    River's operations in River's order, as in the step.
    """
    bound = sign * row[_MEAN] + error
    if row[cut + _CUT_N] == 0 or bound < row[cut + _CUT_BOUND]:
        row[cut + _CUT_N], row[cut + _CUT_ONES] = row[_N], row[_ONES]
        row[cut + _CUT_MEAN], row[cut + _CUT_SQUARES] = row[_MEAN], row[_SQUARES]
        row[cut + _CUT_BOUND], row[cut + _NEW_SQUARES] = bound, 1.0
        return NOTHING
    is_first = row[_N] == row[cut + _CUT_N] + 1
    mean = x if is_first else params[_WEIGHT] * x + params[_KEPT] * row[cut + _NEW_MEAN]
    squares = params[_WEIGHT_SQUARED] + params[_KEPT_SQUARED] * row[cut + _NEW_SQUARES]
    row[cut + _NEW_MEAN], row[cut + _NEW_SQUARES] = mean, squares
    change = sign * (mean - row[cut + _CUT_MEAN])
    if change <= 0:
        return NOTHING
    both = row[cut + _CUT_SQUARES] + squares
    if change > _allowed(both, params[_LOG_DRIFT]):
        return DRIFT
    return WARNING if change > _allowed(both, params[_LOG_WARNING]) else NOTHING


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    row[_N] += 1
    row[_ONES] += x
    row[_MEAN] = x if row[_N] == 1 else params[_WEIGHT] * x + params[_KEPT] * row[_MEAN]
    row[_SQUARES] = params[_WEIGHT_SQUARED] + params[_KEPT_SQUARED] * row[_SQUARES]
    error = _allowed(row[_SQUARES], params[_LOG_DRIFT])
    rise = _side(row, _RISE, 1, x, error, params)
    fall = _side(row, _FALL, -1, x, error, params) if params[_TWO_SIDED] else NOTHING
    was_in_warning = row[_IN_WARNING]
    row[_IN_WARNING] = WARNING in (rise, fall)
    if DRIFT in (rise, fall):
        kind = DRIFT
    elif row[_IN_WARNING] and not was_in_warning:
        kind = WARNING
    else:
        return NOTHING
    cut = _RISE if rise == kind else _FALL
    n_cut, ones_cut = row[cut + _CUT_N], row[cut + _CUT_ONES]
    both = row[cut + _CUT_SQUARES] + row[cut + _NEW_SQUARES]
    log_term = params[_LOG_DRIFT] if kind == DRIFT else params[_LOG_WARNING]
    found[DIRECTION] = 1 if rise == kind else -1
    found[STATISTIC] = abs(row[cut + _NEW_MEAN] - row[cut + _CUT_MEAN])
    found[THRESHOLD] = _allowed(both, log_term)
    found[MEAN_BEFORE] = ones_cut / n_cut
    found[MEAN_AFTER] = (row[_ONES] - ones_cut) / (row[_N] - n_cut)
    found[N_AFTER] = row[_N] - n_cut
    if kind == DRIFT:
        row[1:] = 0
        row[_SQUARES] = 1.0
    return kind


class HDDM_W(RowDetector):  # noqa: N801  # River's and the paper's name
    """Has the weighted mean of recent values risen by more than chance allows?

    The cut point is where the upper confidence bound of the exponentially weighted mean since the
    baseline was lowest; that mean is compared with the weighted mean of the values after it by
    McDiarmid's inequality. Constant memory, constant time for each value. Values are 0 (right) and
    1 (error).

    Parameters (River's, with River's defaults):
        drift_confidence: probability of a false drift in one such comparison, above 0 up to 1;
            the smaller, the fewer false alarms and the later the true ones.
        warning_confidence: the same for warnings; usually larger.
        lambda_val: weight of a new value, from 0 to 1; the larger, the shorter the memory.
        two_sided_test: whether falls count as well, with a cut point of their own.

    Drifts come at the indices at which River's HDDMW raises `drift_detected`, warnings where its
    `warning_detected` rises, to the last bit of the arithmetic. `onset` is the index after the cut
    point; `mean_before` and `mean_after` are the plain means up to it and from there on, and
    `statistic` is the difference between the weighted ones. As the bound narrows while the weighted
    mean settles, the cut point can lie long before the change.

    The comparison is made after every value with a cut point chosen by the data, so that the
    confidences are no false-alarm rates.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> rng = random.Random(42)
    >>> hddm = HDDM_W()
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.kind, a.direction, a.onset) for a in map(hddm.update, errors) if a]
    [(1075, 'warning', 'up', 520), (1077, 'drift', 'up', 520)]

    Source: I. Frias-Blanco and others, Online and Non-Parametric Drift Detection Methods Based on
    Hoeffding's Bounds, IEEE TKDE 27(3), 2015, 810-823 (W-test). As in River a weighted mean begins
    at its first value, which so has a weight of 1, and yet the sum of squared weights after it is
    lambda^2 + (1 - lambda)^2: bounds on few values are up to 5 % too tight at the default.
    """

    kind = "HDDM_W"
    is_binary = True
    loops = loops(_step)

    def __init__(
        self,
        drift_confidence: float = 0.001,
        warning_confidence: float = 0.005,
        lambda_val: float = 0.05,
        two_sided_test: bool = False,
    ) -> None:
        params: dict[str, Any] = {
            name: checks.real(name, value, low=0, high=1, open_at="low")
            for name, value in (
                ("drift_confidence", drift_confidence),
                ("warning_confidence", warning_confidence),
            )
        }
        weight = checks.real("lambda_val", lambda_val, low=0, high=1)
        params["lambda_val"] = weight
        params["two_sided_test"] = checks.flag("two_sided_test", two_sided_test)
        numbers = [
            math.log(1 / params["drift_confidence"]),
            math.log(1 / params["warning_confidence"]),
            weight,
            1 - weight,
            weight * weight,
            (1 - weight) ** 2,
            float(two_sided_test),
        ]
        baseline = [0.0] * (_WIDTH - 1)
        baseline[_SQUARES - 1] = 1.0
        super().__init__(params, numbers, baseline)

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        found: dict[str, tuple[Any, float, float]] = {
            "ones": (row[_ONES], 0, row[_N]),
            "in warning": (row[_IN_WARNING], 0, 1),
        }
        for name, cut, is_tested in (
            ("rises", _RISE, True),
            ("falls", _FALL, self._params["two_sided_test"]),
        ):
            n, ones = row[cut + _CUT_N], row[cut + _CUT_ONES]
            least, most = (min(row[_N], 1), row[_N]) if is_tested else (0, 0)
            found[f"n up to the cut for {name}"] = (n, least, most)
            found[f"ones up to the cut for {name}"] = (ones, 0, min(n, row[_ONES]))
        return found

    def readings(self) -> dict[str, float]:
        """Return `statistic` and `threshold` of drift, of the side closer to it; weighted `mean`.

        Statistic and threshold are 0 where the last value is the cut point.
        """
        row, log_term = self._row.tolist(), float(self._numbers[_LOG_DRIFT])
        sides = [(_RISE, 1), (_FALL, -1)] if self._params["two_sided_test"] else [(_RISE, 1)]
        pairs = [
            (
                sign * (row[cut + _NEW_MEAN] - row[cut + _CUT_MEAN]),
                _allowed(row[cut + _CUT_SQUARES] + row[cut + _NEW_SQUARES], log_term),
            )
            for cut, sign in sides
            if row[cut + _CUT_N] < row[_N]
        ]
        statistic, threshold = max(pairs, key=lambda pair: pair[0] - pair[1], default=(0.0, 0.0))
        return {"statistic": statistic, "threshold": threshold, "mean": row[_MEAN]}
