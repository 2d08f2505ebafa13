"""FHDDM: a share of right answers in a window that falls below its maximum."""

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
    compiled,
    loops,
)
from streamgauge.detectors.row import RowDetector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The row: counts of values and of right answers since the baseline; right answers in the long and
# in the short window, each with its maximum; then the long window, a ring of 1 for a right answer
# and 0 for an error, and the position in it of the oldest value.
_N, _RIGHT, _LONG, _LONG_MAX, _SHORT, _SHORT_MAX, _OLDEST, _RING = range(1, 9)
# The parameters: sizes, and how far a share may fall; 0 where there is no short window.
_SIZE, _EPSILON, _SHORT_SIZE, _SHORT_EPSILON = range(4)

_SIZE_MAX = 1_000_000


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    size, short_size, oldest = int(params[_SIZE]), int(params[_SHORT_SIZE]), int(row[_OLDEST])
    n = row[_N] + 1
    right = 1 - x
    row[_N] = n
    row[_RIGHT] += right
    row[_LONG] += right - row[_RING + oldest]
    if short_size:
        # Before the ring is full, what leaves is one of its zeros.
        leaves = oldest - short_size
        row[_SHORT] += right - row[_RING + (leaves if leaves >= 0 else leaves + size)]
    row[_RING + oldest] = right
    row[_OLDEST] = oldest + 1 if oldest + 1 < size else 0
    if n < size:
        return NOTHING
    row[_LONG_MAX] = max(row[_LONG_MAX], row[_LONG])
    n_after, threshold = size, params[_EPSILON]
    # The counts tell first, as divisions take their time, up to half a value before the threshold.
    fallen_by = 0.0
    if row[_LONG_MAX] - row[_LONG] > size * threshold - 0.5:
        fallen_by = row[_LONG_MAX] / size - row[_LONG] / size
    if not fallen_by > threshold:
        if not short_size:
            return NOTHING
        row[_SHORT_MAX] = max(row[_SHORT_MAX], row[_SHORT])
        n_after, threshold = short_size, params[_SHORT_EPSILON]
        fallen_by = row[_SHORT_MAX] / short_size - row[_SHORT] / short_size
        if not fallen_by > threshold:
            return NOTHING
    right_after = row[_LONG] if n_after == size else row[_SHORT]
    found[DIRECTION] = 1
    found[STATISTIC] = fallen_by
    found[THRESHOLD] = threshold
    found[MEAN_BEFORE] = 1 - (row[_RIGHT] - right_after) / (n - n_after)
    found[MEAN_AFTER] = 1 - right_after / n_after
    found[N_AFTER] = n_after
    row[1:] = 0
    return DRIFT


class FHDDM(RowDetector):
    """Has the error rate in a sliding window risen above its minimum by more than chance allows?

    The share of right answers in the last `sliding_window_size` values is compared with its maximum
    since the baseline, by Hoeffding's inequality. Memory is 8 bytes for each value of the window;
    constant time for each value. Values are 0 (right) and 1 (error).

    Parameters (River's, with River's defaults):
        sliding_window_size: values in the window, 1 or more; no alarm before it is full.
        confidence_level: probability of so large a fall in one comparison, above 0 up to 1; the
            smaller, the fewer false alarms and the later the true ones.
        short_window_size: values in a second window, up to `sliding_window_size`, in which larger
            changes are found sooner (the stacking form, FHDDMS); none by default.

    River's FHDDM counts ones as right answers, against its own documentation: it is silent while
    errors become more and alarms when they become fewer. Here 1 is an error as everywhere. Drifts
    come at the indices at which River's raises `drift_detected` on 1 - x. There are no warnings:
    River's has the flag and never sets it.

    `onset` is the first index of the window that found the change, `mean_after` its error rate and
    `mean_before` that of all values before it. `statistic` is how far the share of right answers is
    below its maximum.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> rng = random.Random(42)
    >>> fhddm = FHDDM()
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.direction, a.onset) for a in map(fhddm.update, errors) if a]
    [(1076, 'up', 977)]

    Source: A. Pesaranghader, H. L. Viktor, Fast Hoeffding Drift Detection Method for Evolving Data
    Streams, ECML PKDD 2016, section 3; A. Pesaranghader, H. Viktor, E. Paquet, Reservoir of Diverse
    Adaptive Learners and Stacking Fast Hoeffding Drift Detection Methods for Evolving Data Streams,
    Machine Learning 107 (2018), 1711-1743. As in River the short window is only judged, and its
    maximum only kept, while the long one is full. (River takes the oldest value out of its window
    after each test, so that the window is one short between values; the tests see it full.)
    """

    kind = "FHDDM"
    is_binary = True
    loops = loops(_step)

    def __init__(
        self,
        sliding_window_size: int = 100,
        confidence_level: float = 0.000001,
        short_window_size: int | None = None,
    ) -> None:
        size = checks.whole("sliding_window_size", sliding_window_size, low=1, high=_SIZE_MAX)
        confidence = checks.real("confidence_level", confidence_level, low=0, high=1, open_at="low")
        short = short_window_size
        if short is not None:
            short = checks.whole("short_window_size", short, low=1, high=size)
        params: dict[str, Any] = {
            "sliding_window_size": size,
            "confidence_level": confidence,
            "short_window_size": short,
        }
        numbers = [
            size,
            math.sqrt((math.log(1 / confidence)) / (2 * size)),
            short or 0,
            math.sqrt((math.log(1 / confidence)) / (2 * short)) if short else 0.0,
        ]
        super().__init__(params, numbers, [0.0] * (_RING - 1 + size))

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        return {"oldest": (row[_OLDEST], 0, self._params["sliding_window_size"] - 1)}

    def readings(self) -> dict[str, float]:
        """Return the long window's `statistic` and `mean`, 0 until full, and its `threshold`."""
        row, size = self._row, self._params["sliding_window_size"]
        is_full = row[_N] >= size
        return {
            "statistic": float(row[_LONG_MAX] / size - row[_LONG] / size) if is_full else 0.0,
            "threshold": float(self._numbers[_EPSILON]),
            "mean": float(1 - row[_LONG] / size) if is_full else 0.0,
        }
