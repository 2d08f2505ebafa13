"""FOCuS: the likelihood ratio of a change at any time, of any size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from streamgauge.detectors import checks
from streamgauge.detectors.compiled import (
    DIRECTION,
    DRIFT,
    MEAN_AFTER,
    MEAN_BEFORE,
    N_AFTER,
    N_FOUND,
    NOTHING,
    STATISTIC,
    THRESHOLD,
    compiled,
    loops,
)
from streamgauge.detectors.row import RowDetector

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Far enough from the largest number that sums of squares stay finite.
_MAGNITUDE_MAX, _SD_MIN = 1e100, 1e-30

Family = Literal["bernoulli", "gaussian"]

# Candidates kept for rises, and as many for falls: the corners of a convex hull of n steps of a
# random walk, of which there are about ln(n).
_CAPACITY = 32
# The row: count and sum since the baseline, what is taken off every value before it is summed, and
# how many candidates were dropped for lack of room; then for rises and for falls how many corners
# there are, and of each the count and the sum up to it.
_N, _SUM, _ORIGIN, _N_DROPPED, _RISES = 1, 2, 3, 4, 5
_FALLS = _RISES + 1 + 2 * _CAPACITY
_WIDTH = _FALLS + 1 + 2 * _CAPACITY
# The parameters; without a baseline, `_BASELINE` is NaN.
_IS_BERNOULLI, _SD, _BASELINE, _THRESHOLD = range(4)


@compiled
def _drop_flattest(row: NDArray[np.float64], at: int) -> None:
    """Drop the corner that is nearest, vertically, to the line between its neighbours.

    No sum of values since a start is then off by more than that distance.
    """
    flattest, least = 1, math.inf
    for k in range(1, _CAPACITY - 1):
        corner = at + 1 + 2 * k
        share = (row[corner] - row[corner - 2]) / (row[corner + 2] - row[corner - 2])
        line = row[corner - 1] + share * (row[corner + 3] - row[corner - 1])
        if abs(line - row[corner + 1]) < least:
            flattest, least = k, abs(line - row[corner + 1])
    for i in range(at + 1 + 2 * flattest, at + 1 + 2 * (_CAPACITY - 1)):
        row[i] = row[i + 2]
    row[at] -= 1
    row[_N_DROPPED] += 1


@compiled
def _extend(row: NDArray[np.float64], at: int, sign: float) -> None:
    """Add the point (count, sum) to the lower hull (sign 1) or the upper one (sign -1)."""
    n, total = row[_N], row[_SUM]
    k = int(row[at])
    while k > 1:
        corner = at + 1 + 2 * (k - 1)
        rise, run = row[corner + 1] - row[corner - 1], row[corner] - row[corner - 2]
        if sign * (rise * (n - row[corner]) - (total - row[corner + 1]) * run) < 0:
            break
        k -= 1
    row[at] = k
    if k == _CAPACITY:
        _drop_flattest(row, at)
        k -= 1
    row[at + 1 + 2 * k], row[at + 2 + 2 * k] = n, total
    row[at] = k + 1


@compiled
def _divergence(p: float, q: float) -> float:
    """Of Bernoulli(p) from Bernoulli(q), in nats."""
    p = min(max(p, 0.0), 1.0)
    divergence = 0.0
    if p > 0:
        divergence += p * math.log(p / q)
    if p < 1:
        divergence += (1 - p) * math.log((1 - p) / (1 - q))
    return divergence


@compiled
def _ratio(
    row: NDArray[np.float64], n_before: float, sum_before: float, params: NDArray[np.float64]
) -> float:
    """Return the log likelihood ratio of a change after `n_before` values against none."""
    n, total, baseline = float(row[_N]), float(row[_SUM]), float(params[_BASELINE])
    n_after = n - n_before
    after = (total - sum_before) / n_after
    if not math.isnan(baseline):
        if params[_IS_BERNOULLI]:
            return n_after * _divergence(after, baseline)
        return n_after * after * after / 2
    mean, before = total / n, sum_before / n_before
    if not params[_IS_BERNOULLI]:
        return n_before * n_after / n * (after - before) ** 2 / 2
    if not 0 < mean < 1:
        return 0.0
    return n_before * _divergence(before, mean) + n_after * _divergence(after, mean)


@compiled
def _may_alarm(row: NDArray[np.float64], at: int, params: NDArray[np.float64]) -> bool:
    """Return whether a candidate's ratio may reach the threshold: a bound without logarithms."""
    n, total = row[_N], row[_SUM]
    # A Bernoulli divergence is at most the chi-squared one.
    if math.isnan(params[_BASELINE]):
        mean = total / n
        scale = mean * (1 - mean) if params[_IS_BERNOULLI] else 2.0
        least = params[_THRESHOLD] * scale
        for k in range(1, int(row[at]) - 1):
            n_before = row[at + 1 + 2 * k]
            excess = row[at + 2 + 2 * k] - n_before * mean
            if excess * excess * n >= least * n_before * (n - n_before):
                return True
        return False
    mean = params[_BASELINE] if params[_IS_BERNOULLI] else 0.0
    scale = mean * (1 - mean) if params[_IS_BERNOULLI] else 2.0
    least = params[_THRESHOLD] * scale
    for k in range(int(row[at]) - 1):
        n_after = n - row[at + 1 + 2 * k]
        excess = total - row[at + 2 + 2 * k] - n_after * mean
        if excess * excess >= least * n_after:
            return True
    return False


@compiled
def _likeliest(
    row: NDArray[np.float64], params: NDArray[np.float64], found: NDArray[np.float64]
) -> None:
    """Write the candidate with the largest ratio to `found`; a ratio of 0 where there is none."""
    known = not math.isnan(params[_BASELINE])
    found[STATISTIC], found[THRESHOLD] = 0.0, params[_THRESHOLD]
    found[DIRECTION], found[N_AFTER] = 0, 0
    found[MEAN_BEFORE] = found[MEAN_AFTER] = math.nan
    for at in (_RISES, _FALLS):
        for k in range(0 if known else 1, int(row[at]) - 1):
            n_before, sum_before = row[at + 1 + 2 * k], row[at + 2 + 2 * k]
            ratio = _ratio(row, n_before, sum_before, params)
            if ratio <= found[STATISTIC]:
                continue
            n_after = row[_N] - n_before
            found[STATISTIC], found[N_AFTER] = ratio, n_after
            found[MEAN_AFTER] = (row[_SUM] - sum_before) / n_after
            found[MEAN_BEFORE] = sum_before / n_before if n_before > 0 else math.nan
    if found[N_AFTER] == 0:
        return
    against = found[MEAN_BEFORE]
    if known:
        against = params[_BASELINE] if params[_IS_BERNOULLI] else 0.0
    found[DIRECTION] = 1 if found[MEAN_AFTER] > against else -1
    found[MEAN_BEFORE] = row[_ORIGIN] + params[_SD] * found[MEAN_BEFORE]
    found[MEAN_AFTER] = row[_ORIGIN] + params[_SD] * found[MEAN_AFTER]


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    if row[_N] == 0:
        row[_RISES] = row[_FALLS] = 1  # the corner at the start, count and sum 0
        if not params[_IS_BERNOULLI]:
            row[_ORIGIN] = x if math.isnan(params[_BASELINE]) else params[_BASELINE]
    row[_N] += 1
    row[_SUM] += (x - row[_ORIGIN]) / params[_SD]
    _extend(row, _RISES, 1.0)
    _extend(row, _FALLS, -1.0)
    if not (_may_alarm(row, _RISES, params) or _may_alarm(row, _FALLS, params)):
        return NOTHING
    _likeliest(row, params, found)
    if found[STATISTIC] < params[_THRESHOLD]:
        return NOTHING
    row[1:] = 0
    return DRIFT


class Change(NamedTuple):
    """The likeliest change since the baseline.

    Attributes:
        onset: index of its first value.
        mean_before: mean of the values before it, NaN where there are none.
        mean_after: mean of the values from it on.
        statistic: its log likelihood ratio against no change, in nats.
    """

    onset: int
    mean_before: float
    mean_after: float
    statistic: float


class FOCuS(RowDetector):
    """The time at which the mean has most likely changed, and by how much.

    The likelihood ratio of a change against none is compared over every start and every size, and
    an alarm rises when its logarithm reaches a threshold. Constant memory (136 numbers); a value
    takes time in proportion to the candidates kept, about 2 ln(n) of n values, at most 64.

    Parameters:
        family: `bernoulli` for values from 0 to 1 (calibrated for bits), `gaussian` for values that
            scatter normally with a known standard deviation.
        baseline: the mean before a change, in the unit of the values, which holds after an alarm as
            well; None leaves it open.
        sd: standard deviation of gaussian values, in their unit.
        false_alarm_every: mean number of values up to a false alarm, 2 or more; sets the threshold.
        threshold: of the log likelihood ratio, in nats, above 0, instead of `false_alarm_every`.

    Only starts that are corners of the convex hull of the cumulative sums can be the likeliest, now
    or later: the lower hull for rises, the upper one for falls. `estimate()` tells the likeliest
    change at any time, without an alarm.

    Measured, not proved: the threshold is 1.14 ln(`false_alarm_every`) - .9 nats, fitted to
    simulated gaussian values and bits for one false alarm in 400 to 16,000, and extrapolated beyond
    that. Bits that are seldom 1 raise fewer.

    Raises:
        ValueError: a parameter is out of its range; or, later, a value.

    >>> import random
    >>> rng = random.Random(1)
    >>> test = FOCuS()
    >>> errors = rng.choices([0, 1], [8, 2], k=2000) + rng.choices([0, 1], [6, 4], k=200)
    >>> [(a.index, a.direction, a.onset) for a in map(test.update, errors) if a]
    [(2195, 'up', 2074)]

    Source: G. Romano, I. A. Eckley, P. Fearnhead, G. Rigaill, Fast Online Changepoint Detection via
    Functional Pruning CUSUM Statistics, Journal of Machine Learning Research 24 (2023), 1-36; the
    hull as in K. Ward, G. Romano, I. Eckley, P. Fearnhead, A constant-per-iteration likelihood
    ratio test for online changepoint detection for exponential family models, Statistics and
    Computing 34 (2024). Theirs keep any number of candidates; here, where there is no room for
    another in one direction, the one that changes the hull least is dropped, and counted.
    """

    kind = "FOCuS"
    loops = loops(_step)

    def __init__(
        self,
        family: Family = "bernoulli",
        baseline: float | None = None,
        sd: float = 1.0,
        false_alarm_every: int = 100_000,
        threshold: float | None = None,
    ) -> None:
        if family not in get_args(Family):
            raise ValueError(f"family is one of {', '.join(get_args(Family))}, got {family!r}")
        is_bernoulli = family == "bernoulli"
        if is_bernoulli and sd != 1:
            raise ValueError(f"sd is of gaussian values only, got {sd!r}")
        every = checks.whole("false_alarm_every", false_alarm_every, low=2, high=10**15)
        high = _MAGNITUDE_MAX
        params: dict[str, Any] = {
            "family": family,
            "baseline": None if baseline is None else _baseline(baseline, is_bernoulli),
            "sd": checks.real("sd", sd, low=_SD_MIN, high=high),
            "false_alarm_every": every,
            "threshold": None
            if threshold is None
            else checks.real("threshold", threshold, low=0, high=high, open_at="low"),
        }
        numbers = [
            is_bernoulli,
            params["sd"],
            math.nan if baseline is None else params["baseline"],
            threshold_for(every) if threshold is None else params["threshold"],
        ]
        self.low, self.high = (0.0, 1.0) if is_bernoulli else (-high, high)
        super().__init__(params, numbers, [0.0] * (_WIDTH - 1))

    def estimate(self) -> Change | None:
        """Return the likeliest change since the baseline; None before any can be told."""
        found = np.zeros(N_FOUND)
        _likeliest(self._row, self._numbers, found)
        if found[N_AFTER] == 0:
            return None
        onset = self.n_seen - int(found[N_AFTER])
        return Change(
            onset, float(found[MEAN_BEFORE]), float(found[MEAN_AFTER]), float(found[STATISTIC])
        )

    def readings(self) -> dict[str, float]:
        """Return `statistic`, `threshold`, and how many candidates are kept and were dropped."""
        change = self.estimate()
        return {
            "statistic": change.statistic if change else 0.0,
            "threshold": float(self._numbers[_THRESHOLD]),
            "candidates": float(self._row[_RISES] + self._row[_FALLS]),
            "dropped": float(self._row[_N_DROPPED]),
        }

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        return {
            "candidates for rises": (row[_RISES], 0, _CAPACITY),
            "candidates for falls": (row[_FALLS], 0, _CAPACITY),
        }


def threshold_for(false_alarm_every: int) -> float:
    """Return the log likelihood ratio, in nats, reached by chance once in so many values."""
    return max(1.14 * math.log(false_alarm_every) - 0.9, 0.1)


def _baseline(value: float, is_bernoulli: bool) -> float:
    if is_bernoulli:
        return checks.real("baseline", value, low=0, high=1, open_at="low high")
    return checks.real("baseline", value, low=-_MAGNITUDE_MAX, high=_MAGNITUDE_MAX)
