"""EDDM: errors that come closer to each other than they used to."""

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

# The row: count since the baseline, and count at the last error; the number of errors, the mean of
# their distances and the sum of its squared deviations; the maximum of mean + 2 standard
# deviations, and the counts of values and errors there; in the warning zone.
_N, _N_LAST, _ERRORS, _MEAN, _SQUARES, _MAX, _N_MAX, _ERRORS_MAX, _IN_WARNING = range(1, 10)
_WIDTH = 10
# The parameters, and the power that is a square root.
_WARM_START, _ALPHA, _BETA, _HALF = range(4)

# Far more than two ways to take a root differ by, relative to it.
_SLACK = 1e-9


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    n = row[_N] + 1
    row[_N] = n
    if x == 0:
        return NOTHING
    # River's operations in River's order: another order rounds differently.
    distance = n - row[_N_LAST]
    errors = row[_ERRORS] + 1
    mean_old = row[_MEAN]
    mean = mean_old + (1.0 / errors) * (distance - mean_old)
    row[_SQUARES] += (distance - mean_old) * (distance - mean)
    row[_N_LAST], row[_ERRORS], row[_MEAN] = n, errors, mean
    if n <= params[_WARM_START]:
        return NOTHING
    variance = row[_SQUARES] / (errors - 1) if errors > 1 else 0.0
    # Between the levels, where most values are, the quicker root does.
    roughly = mean + 2 * math.sqrt(variance)
    if (
        errors > params[_WARM_START]
        and params[_ALPHA] * row[_MAX] < roughly * (1 - _SLACK)
        and roughly * (1 + _SLACK) < row[_MAX]
    ):
        row[_IN_WARNING] = 0
        return NOTHING
    # A power, as in River: of a thousand square roots it rounds one differently. It is a parameter
    # so that the compiler does not see that it is one half.
    spread = mean + 2 * math.pow(variance, params[_HALF])
    if spread > row[_MAX]:
        row[_MAX], row[_N_MAX], row[_ERRORS_MAX] = spread, n, errors
        return NOTHING
    if errors <= params[_WARM_START]:
        return NOTHING
    level = spread / row[_MAX]
    is_drift = level < params[_BETA]
    enters_warning = level < params[_ALPHA] and row[_IN_WARNING] == 0
    row[_IN_WARNING] = level < params[_ALPHA]
    if not (is_drift or enters_warning):
        return NOTHING
    n_after = n - row[_N_MAX]
    found[DIRECTION] = 1
    found[STATISTIC] = level
    found[THRESHOLD] = params[_BETA] if is_drift else params[_ALPHA]
    found[MEAN_BEFORE] = row[_ERRORS_MAX] / row[_N_MAX]
    found[MEAN_AFTER] = (errors - row[_ERRORS_MAX]) / n_after
    found[N_AFTER] = n_after
    if not is_drift:
        return WARNING
    row[1:] = 0
    return DRIFT


class EDDM(RowDetector):
    """Have errors come significantly closer to each other?

    Of the distances between errors, the mean plus two standard deviations is divided by its maximum
    since the baseline: below `alpha` is the warning zone, below `beta` drift. Constant memory,
    constant time for each value. Values are 0 (right) and 1 (error).

    Parameters (River's, with River's defaults):
        warm_start: errors after a baseline before any alarm, and values before the maximum is
            kept, 0 or more.
        alpha: level of the warning zone, from 0 to 1, at least `beta`.
        beta: level of drift, from 0 to 1; the larger, the sooner an alarm, true or false.

    Drifts come at the indices at which River's EDDM raises `drift_detected`, warnings where its
    `warning_detected` rises: as there, the warning zone is left only at an error whose level is at
    least `alpha`, and not at one that sets a new maximum. `onset` is the index after the maximum;
    `mean_before` and `mean_after` are the error rates up to it and from there on.

    False alarms are the rule: with the defaults, more than nine of ten baselines of a constant
    error rate end in one before the thousandth error (measured at rates of .05 and .2).

    Raises:
        ValueError: a parameter is out of its range, or `alpha` is below `beta`.

    >>> import random
    >>> rng = random.Random(42)
    >>> eddm = EDDM(alpha=0.8, beta=0.75)
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.kind, a.onset) for a in map(eddm.update, errors) if a]
    [(267, 'drift', 34), (911, 'warning', 521), (998, 'drift', 521)]

    Source: M. Baena-Garcia and others, Early Drift Detection Method, Fourth International Workshop
    on Knowledge Discovery from Data Streams, 2006, section 3. As in River the first distance is
    that of the first error from the baseline.
    """

    kind = "EDDM"
    is_binary = True
    loops = loops(_step)

    def __init__(self, warm_start: int = 30, alpha: float = 0.95, beta: float = 0.9) -> None:
        params = {
            "warm_start": checks.whole("warm_start", warm_start, low=0, high=2**53),
            "alpha": checks.real("alpha", alpha, low=0, high=1),
            "beta": checks.real("beta", beta, low=0, high=1),
        }
        if alpha < beta:
            raise ValueError(f"alpha is at least beta, got {alpha!r} and {beta!r}")
        super().__init__(params, [*params.values(), 0.5], [0.0] * (_WIDTH - 1))

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        n_last, errors = row[_N_LAST], row[_ERRORS]
        return {
            "n up to the last error": (n_last, 0, row[_N]),
            "errors": (errors, 0, n_last),
            "n up to the maximum": (row[_N_MAX], 0, n_last),
            "errors up to the maximum": (row[_ERRORS_MAX], 0, min(errors, row[_N_MAX])),
            "in warning": (row[_IN_WARNING], 0, 1),
        }

    def readings(self) -> dict[str, float]:
        """Return the `statistic` (1 at the maximum), the `threshold` of drift, and the `mean`."""
        row = self._row.tolist()
        errors, maximum = row[_ERRORS], row[_MAX]
        deviation = math.sqrt(row[_SQUARES] / (errors - 1)) if errors > 1 else 0.0
        return {
            "statistic": (row[_MEAN] + 2 * deviation) / maximum if maximum else 1.0,
            "threshold": self._params["beta"],
            "mean": errors / row[_N] if errors else 0.0,
        }
