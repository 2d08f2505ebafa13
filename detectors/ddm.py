"""DDM: an error rate that rises above its minimum by a number of standard deviations."""

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

# The row: count and error rate since the baseline; error rate, its standard deviation and the count
# where their sum was at its minimum (the count is 0 as long as there is none); in the warning zone.
_N, _P, _P_MIN, _S_MIN, _N_MIN, _IN_WARNING = range(1, 7)
_WIDTH = 7
# The parameters.
_WARM_START, _WARNING, _DRIFT = range(3)


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    # River's operations in River's order: another order rounds differently.
    n = row[_N] + 1
    p = row[_P] + (1.0 / n) * (x - row[_P])
    row[_N], row[_P] = n, p
    if n <= params[_WARM_START]:
        return NOTHING
    s = math.sqrt(p * (1 - p) / n)
    level = p + s
    if row[_N_MIN] == 0 or level <= row[_P_MIN] + row[_S_MIN]:
        row[_P_MIN], row[_S_MIN], row[_N_MIN] = p, s, n
    drift_at = row[_P_MIN] + params[_DRIFT] * row[_S_MIN]
    warning_at = row[_P_MIN] + params[_WARNING] * row[_S_MIN]
    is_drift = level > drift_at
    enters_warning = level > warning_at and row[_IN_WARNING] == 0
    row[_IN_WARNING] = level > warning_at
    if not (is_drift or enters_warning):
        return NOTHING
    n_after = n - row[_N_MIN]
    found[DIRECTION] = 1
    found[STATISTIC] = level
    found[THRESHOLD] = drift_at if is_drift else warning_at
    found[MEAN_BEFORE] = row[_P_MIN]
    found[MEAN_AFTER] = row[_P_MIN] + n / n_after * (p - row[_P_MIN])
    found[N_AFTER] = n_after
    if not is_drift:
        return WARNING
    row[1:] = 0
    return DRIFT


class DDM(RowDetector):
    """Has the error rate risen significantly above its minimum?

    The sum p + s of the error rate since the baseline and its standard deviation is compared with
    p_min + k s_min, both taken where p + s was at its minimum: above it at k = `warning_threshold`
    is the warning zone, at k = `drift_threshold` drift. Constant memory, constant time for each
    value. Values are 0 (right) and 1 (error).

    Parameters (River's, with River's defaults):
        warm_start: values after a baseline before the minimum is kept and any alarm, 0 or more.
        warning_threshold: standard deviations, 1 or more.
        drift_threshold: standard deviations, 1 or more; usually above `warning_threshold`, else
            there are no warnings.

    Drifts come at the indices at which River's DDM raises `drift_detected`, warnings where its
    `warning_detected` rises. `onset` is the index after the minimum of p + s, `mean_before` and
    `mean_after` are the error rates up to the minimum and from there on. The minimum can lie long
    before the change. The rate is an average since the baseline, so that the longer that was, the
    later a change is found.

    As published, and as in River: where there was no error up to the minimum, s_min is 0 and the
    next error is a drift. With the defaults three baselines in four end so at an error rate of .01
    (.99 to the power of 31). Give a `warm_start` in which errors are expected.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> import numpy as np
    >>> rng = random.Random(42)
    >>> ddm = DDM(warm_start=100)
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> alarms = ddm.update_many(np.array(errors))
    >>> [(a.index, a.direction, a.onset) for a in alarms if a.kind == "drift"]
    [(1044, 'up', 693)]

    Source: J. Gama, P. Medas, G. Castillo, P. Rodrigues, Learning with Drift Detection, SBIA 2004,
    section 3. As in River a level is passed above it, not at it, so that a stream of only zeros or
    only ones raises nothing.
    """

    kind = "DDM"
    is_binary = True
    loops = loops(_step)

    def __init__(
        self, warm_start: int = 30, warning_threshold: float = 2.0, drift_threshold: float = 3.0
    ) -> None:
        high = checks.MAGNITUDE_MAX
        params = {
            "warm_start": checks.whole("warm_start", warm_start, low=0, high=2**53),
            # Below 1 every value would be an alarm, the one at the minimum too.
            "warning_threshold": checks.real(
                "warning_threshold", warning_threshold, low=1, high=high
            ),
            "drift_threshold": checks.real("drift_threshold", drift_threshold, low=1, high=high),
        }
        super().__init__(params, list(params.values()), [0.0] * (_WIDTH - 1))

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        return {
            "n up to the minimum": (row[_N_MIN], 0, row[_N]),
            "in warning": (row[_IN_WARNING], 0, 1),
        }

    def readings(self) -> dict[str, float]:
        """Return the `statistic` p + s, the `threshold` of drift (0 at first), and the `mean`."""
        row = self._row.tolist()
        n, p = row[_N], row[_P]
        return {
            "statistic": p + math.sqrt(p * (1 - p) / n) if n else 0.0,
            "threshold": row[_P_MIN] + self._params["drift_threshold"] * row[_S_MIN],
            "mean": p,
        }
