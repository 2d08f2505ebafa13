"""The next value as the last few foretell it, where values are autocorrelated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from streamgauge.detectors.compiled import compiled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDER = 4
# Values this far apart are taken to be independent.
_FAR = 8
# The memory: sums of squared differences between values 1 to `ORDER` apart, and `_FAR` apart; the
# last `_FAR` values, the last first; the coefficients of the last `ORDER` values.
_NEAR_SUMS, _FAR_SUM, _LAST, _COEFFICIENTS = 0, ORDER, ORDER + 1, ORDER + 1 + _FAR
WIDTH = _COEFFICIENTS + ORDER
# Coefficients are estimated from this many values on, and anew after so many more.
_N_MIN, _EVERY = 64, 32
# A partial autocorrelation counts if it is above 0 by so many of its standard errors. Those that
# are not would add noise; negative ones make a sum of bets too small, never too large.
_Z = 2.0
_PARTIAL_MAX = 0.95


@compiled
def _estimate(memory: NDArray[np.float64], n: int) -> None:
    """Estimate the coefficients by the Durbin-Levinson recursion.

    The autocorrelation at lag k is 1 less the mean squared difference of values k apart over that
    of values `_FAR` apart: a change of the mean, which autocovariances would take for strong
    autocorrelation, adds little to either.
    """
    coefficients = memory[_COEFFICIENTS : _COEFFICIENTS + ORDER]
    coefficients[:] = 0
    far = memory[_FAR_SUM]
    if far <= 0:
        return
    least = _Z * math.sqrt(2.0 / n)
    unexplained = 1.0
    for k in range(ORDER):
        partial = 1.0 - memory[_NEAR_SUMS + k] / far
        for j in range(k):
            partial -= coefficients[j] * (1.0 - memory[_NEAR_SUMS + k - 1 - j] / far)
        partial /= unexplained
        partial = min(partial, _PARTIAL_MAX) if partial > least else 0.0
        # In pairs from both ends, each of which changes by the other.
        for j in range((k + 1) // 2):
            left, right = coefficients[j], coefficients[k - 1 - j]
            coefficients[j] = left - partial * right
            coefficients[k - 1 - j] = right - partial * left
        coefficients[k] = partial
        unexplained *= 1.0 - partial * partial


@compiled
def expected(row: NDArray[np.float64], at: int, n: int, mean: float) -> float:
    """Return the mean, from 0 to 1, of the value after `n` others of the given mean over all."""
    if n < _N_MIN:
        return mean
    if n % _EVERY == 0:
        _estimate(row[at : at + WIDTH], n - _FAR)
    value = mean
    for j in range(ORDER):
        value += row[at + _COEFFICIENTS + j] * (row[at + _LAST + j] - mean)
    return min(max(value, 0.0), 1.0)


@compiled
def remember(row: NDArray[np.float64], at: int, n: int, x: float) -> None:
    """Take the value that comes after `n` others."""
    if n >= _FAR:
        for j in range(ORDER):
            difference = x - row[at + _LAST + j]
            row[at + _NEAR_SUMS + j] += difference * difference
        difference = x - row[at + _LAST + _FAR - 1]
        row[at + _FAR_SUM] += difference * difference
    for j in range(_FAR - 1, 0, -1):
        row[at + _LAST + j] = row[at + _LAST + j - 1]
    row[at + _LAST] = x
