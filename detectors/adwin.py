"""ADWIN: a window that keeps as much of the stream as has the same mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from streamgauge.detectors import checks
from streamgauge.detectors.compiled import (
    DIRECTION,
    DRIFT,
    GROW,
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
    from numpy.typing import NDArray

OnDrift = Literal["reset", "shrink"]

_INT_MAX = 2**31 - 1
# Levels of buckets, of 1, 2, 4, ... values each, that hold more values than a float64 can count.
_LEVELS_MAX = 54
_COUNT_BITS = 14
_SLACK = 1 - 1e-9
_COUNT_MAX = (1 << _COUNT_BITS) - 1

# The row: of the window its width, sum, and sum of squared deviations from the mean; values since
# the last look for a change; and its highest level. Then the levels, those of single values first,
# so that a row that ends with a lower level is the beginning of one with more. A level has the
# number of its buckets with the place of the oldest, then their sums, and, but for single values,
# their sums of squared deviations, both as rings.
_WIDTH, _TOTAL, _SQUARES, _TICK, _TOP, _LEVELS = range(1, 7)
# The parameters.
_DELTA, _CLOCK, _MAX_BUCKETS, _MIN_LENGTH, _GRACE, _SHRINK = range(6)


@compiled
def _level(k: int, max_buckets: int) -> int:
    """Return where level `k` begins in the row, with its number of buckets."""
    return _LEVELS + k * (2 * max_buckets + 1) - (max_buckets if k > 0 else 0)


@compiled
def _has_room(row: NDArray[np.float64], max_buckets: int) -> bool:
    """Return whether the row is wide enough for the buckets as they are after one more value."""
    top = int(row[_TOP])
    if _level(top + 2, max_buckets) <= len(row):
        return True
    k = 0
    while k <= top and _count(row, _level(k, max_buckets)) == max_buckets:
        k += 1
    return k <= top


@compiled
def _count(row: NDArray[np.float64], at: int) -> int:
    """Return the number of buckets of the level that begins at `at`."""
    return int(row[at]) & _COUNT_MAX


@compiled
def _oldest(row: NDArray[np.float64], at: int) -> int:
    """Return the place of its oldest bucket, from 0."""
    return int(row[at]) >> _COUNT_BITS


@compiled
def _add(row: NDArray[np.float64], x: float, max_buckets: int) -> None:
    # River's operations in River's order, here and below: another order rounds differently.
    width = row[_WIDTH] + 1
    if width > 1:
        deviation = x - row[_TOTAL] / (width - 1)
        row[_SQUARES] += (width - 1) * deviation * deviation / width
    row[_WIDTH] = width
    row[_TOTAL] += x
    _add_bucket(row, x, max_buckets)


@compiled
def _add_bucket(row: NDArray[np.float64], x: float, max_buckets: int) -> None:
    """Add a value to level 0; of a full level the two oldest buckets go up, merged."""
    total, squares, size, k, at = x, 0.0, 1.0, 0, _LEVELS
    while _count(row, at) == max_buckets:
        first = _oldest(row, at)
        second = first + 1 if first + 1 < max_buckets else 0
        sums = at + 1
        deviations = sums + max_buckets
        total_0, total_1 = row[sums + first], row[sums + second]
        squares_0, squares_1 = 0.0, 0.0
        if k > 0:
            squares_0, squares_1 = row[deviations + first], row[deviations + second]
        if max_buckets == 1:
            total_1, squares_1 = total, squares
            row[at] = 0
        else:
            row[sums + first] = total
            if k > 0:
                row[deviations + first] = squares
            start = second + 1 if second + 1 < max_buckets else 0
            row[at] = (start << _COUNT_BITS) + max_buckets - 1
        # Division by a power of two, exact as its multiplication.
        difference = total_0 * (1 / size) - total_1 * (1 / size)
        total = total_0 + total_1
        squares = squares_0 + squares_1 + size * 0.5 * difference * difference
        size *= 2
        at = deviations if k == 0 else deviations + max_buckets
        k += 1
    place = _oldest(row, at) + _count(row, at)
    if place >= max_buckets:
        place -= max_buckets
    row[at] += 1
    row[at + 1 + place] = total
    if k > 0:
        row[at + 1 + max_buckets + place] = squares
    row[_TOP] = max(row[_TOP], k)


@compiled
def _log_term(width: float, delta: float) -> float:
    return math.log(2.0 * math.log(width) / delta)


@compiled
def _allowed(
    n_before: float, n_after: float, min_length: float, variance: float, log_term: float
) -> float:
    """Return how far the means of two parts of the window may differ."""
    inverse = 1.0 / (n_before - min_length + 1.0) + 1.0 / (n_after - min_length + 1.0)
    return math.sqrt(2.0 * inverse * variance * log_term) + 2.0 / 3.0 * log_term * inverse


@compiled
def _is_cut(row: NDArray[np.float64], params: NDArray[np.float64]) -> bool:
    """Return whether the means of two parts of the window differ by more than is allowed.

    The allowed difference e = sqrt(a m) + b m needs a root and divisions for every split, and
    hardly any split comes near it. With n0 and n1 values in the parts, s the sum of the lessened
    sizes, and u0 and u1 the sums, m n0 n1 >= s, so that a split can stand out only if
    |u0 n1 - u1 n0| - b s is positive and its square above a s n0 n1. That is asked first, with the
    left side enlarged, and b and a lessened, by more than rounding can have changed.
    """
    width, min_length = row[_WIDTH], params[_MIN_LENGTH]
    lessened = width - 2 * min_length + 2
    if lessened < 2:
        return False
    max_buckets = int(params[_MAX_BUCKETS])
    variance, log_term = row[_SQUARES] / width, _log_term(width, params[_DELTA])
    linear = 2.0 / 3.0 * log_term * lessened * _SLACK
    square = 2.0 * variance * log_term * lessened * _SLACK
    if not square > 1e-250:  # its products could lose their digits
        square = -1.0
    size = float(1 << int(row[_TOP]))
    n0, n1, u0, u1 = 0.0, width, 0.0, row[_TOTAL]
    for k in range(int(row[_TOP]), -1, -1):
        at = _level(k, max_buckets)
        i, last = at + _oldest(row, at), at + max_buckets
        for _ in range(_count(row, at)):
            i = i + 1 if i < last else at + 1
            n0 += size
            n1 -= size
            u0 += row[i]
            u1 -= row[i]
            left, right = u0 * n1, u1 * n0
            beyond = abs(left - right) + 1e-15 * (abs(left) + abs(right)) - linear
            if beyond * abs(beyond) < square * (n0 * n1):
                continue
            if n0 < min_length or n1 < min_length:
                continue
            difference = abs(u0 / n0 - u1 / n1)
            if difference > _allowed(n0, n1, min_length, variance, log_term):
                return True
        size *= 0.5
    return False


@compiled
def _find_clearest(
    row: NDArray[np.float64], params: NDArray[np.float64], found: NDArray[np.float64]
) -> None:
    """Fill `found` with the split whose means differ most in relation to what is allowed."""
    width, min_length = row[_WIDTH], params[_MIN_LENGTH]
    max_buckets = int(params[_MAX_BUCKETS])
    variance, log_term = row[_SQUARES] / width, _log_term(width, params[_DELTA])
    n0, n1, u0, u1 = 0.0, width, 0.0, row[_TOTAL]
    clearest = -1.0
    for k in range(int(row[_TOP]), -1, -1):
        at = _level(k, max_buckets)
        i, last = at + _oldest(row, at), at + max_buckets
        for _ in range(_count(row, at)):
            i = i + 1 if i < last else at + 1
            n0 += 2.0**k
            n1 -= 2.0**k
            u0 += row[i]
            u1 -= row[i]
            if n0 < min_length or n1 < min_length:
                continue
            before, after = u0 / n0, u1 / n1
            allowed = _allowed(n0, n1, min_length, variance, log_term)
            if abs(after - before) > clearest * allowed:
                clearest = abs(after - before) / allowed
                found[DIRECTION] = 1 if after > before else -1
                found[STATISTIC] = abs(after - before)
                found[THRESHOLD] = allowed
                found[MEAN_BEFORE] = before
                found[MEAN_AFTER] = after
                found[N_AFTER] = n1


@compiled
def _drop_oldest(row: NDArray[np.float64], max_buckets: int) -> None:
    at = _level(int(row[_TOP]), max_buckets)
    start = _oldest(row, at) + 1
    row[at] = ((start if start < max_buckets else 0) << _COUNT_BITS) + _count(row, at) - 1
    while row[_TOP] > 0 and _count(row, at) == 0:
        row[at : _level(int(row[_TOP]) + 1, max_buckets)] = 0
        row[_TOP] -= 1
        at = _level(int(row[_TOP]), max_buckets)
    _sum_buckets(row, max_buckets)


@compiled
def _sum_buckets(row: NDArray[np.float64], max_buckets: int) -> None:
    """Return the window's sums from its buckets' sums."""
    n, total, squares = 0.0, 0.0, 0.0
    for k in range(int(row[_TOP]), -1, -1):
        at, size = _level(k, max_buckets), 2.0**k
        i, last = at + _oldest(row, at), at + max_buckets
        for _ in range(_count(row, at)):
            i = i + 1 if i < last else at + 1
            if n > 0:
                difference = row[i] / size - total / n
                squares += n * size / (n + size) * difference * difference
            if k > 0:
                squares += row[i + max_buckets]
            n += size
            total += row[i]
    row[_WIDTH], row[_TOTAL], row[_SQUARES] = n, total, squares


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    max_buckets = int(params[_MAX_BUCKETS])
    if not _has_room(row, max_buckets):
        return GROW
    _add(row, x, max_buckets)
    row[_TICK] += 1
    if row[_TICK] < params[_CLOCK]:
        return NOTHING
    row[_TICK] = 0
    if not (row[_WIDTH] > params[_GRACE] and _is_cut(row, params)):
        return NOTHING
    _find_clearest(row, params, found)
    if params[_SHRINK] == 0:
        row[1:] = 0
        return DRIFT
    _drop_oldest(row, max_buckets)
    while _is_cut(row, params):
        _drop_oldest(row, max_buckets)
    return DRIFT


class ADWIN(RowDetector):
    """Has the mean of the stream changed, and since when?

    A window of the last values is cut wherever the means of its older and its newer part differ
    by more than chance allows. Memory grows with the logarithm of the window's width: by 88 bytes
    for each doubling, at the default `max_buckets`. Every `clock`-th value costs time in
    proportion to that, the others constant time on average.

    Parameters (River's, with River's defaults):
        delta: confidence, above 0 and below 1; the smaller, the fewer false alarms.
        clock: look for a change at every `clock`-th value.
        max_buckets: buckets of each size before two are merged into one twice as large.
        min_window_length: values that either part of the window must have at the least.
        grace_period: values after a baseline before any alarm.
        on_drift: after an alarm `reset` starts with an empty window, as River does; `shrink`
            drops the oldest buckets until no split stands out and goes on with the values that
            are left, as in the paper. Then one change can raise several alarms.

    With `reset` the alarms come at the indices at which River's ADWIN raises `drift_detected`, to
    the last bit of the arithmetic. What they say is of the split of the window, as it was before
    the cut, whose means differ most in relation to the allowed difference: `statistic` is the
    difference, `threshold` the allowed difference, and `onset` the first value after the split.
    (Where ADWIN cuts is no estimate of the onset: it drops the oldest bucket until no split
    stands out, and often stops long before the change.)

    With `max_buckets=1` a size can be without a bucket, and River, which then drops a bucket that
    is not there, ends with a Rust panic in the midst of an alarm. This class raises that alarm.
    With `shrink` the window's sums are made anew from the buckets after a cut: subtracting what
    is dropped, as River does, can leave a variance that is rounding error, or negative, in which
    case nothing stands out any more.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> rng = random.Random(1)
    >>> adwin = ADWIN()
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.direction, a.onset) for a in map(adwin.update, errors) if a]
    [(1087, 'up', 976)]

    Source: A. Bifet and R. Gavalda, Learning from Time-Changing Data with Adaptive Windowing,
    SIAM International Conference on Data Mining 2007, ADWIN2 of section 4. As in River, the
    sizes n0 and n1 in the allowed difference are lessened by `min_window_length - 1`.
    """

    kind = "ADWIN"
    row_format = 2
    loops = loops(_step)

    def __init__(
        self,
        delta: float = 0.002,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
        on_drift: OnDrift = "reset",
    ) -> None:
        if on_drift not in get_args(OnDrift):
            raise ValueError(f"on_drift is one of {', '.join(get_args(OnDrift))}, got {on_drift!r}")
        params: dict[str, Any] = {
            "delta": checks.real("delta", delta, low=0, high=1, open_at="low high"),
            "clock": checks.whole("clock", clock, low=1, high=_INT_MAX),
            "max_buckets": checks.whole("max_buckets", max_buckets, low=1, high=10_000),
            "min_window_length": checks.whole(
                "min_window_length", min_window_length, low=1, high=_INT_MAX
            ),
            "grace_period": checks.whole("grace_period", grace_period, low=0, high=_INT_MAX),
            "on_drift": on_drift,
        }
        numbers = [*list(params.values())[:-1], float(on_drift == "shrink")]
        # Some levels at once, so that few rows are ever moved; but not when one of them is large.
        step = max(1, 20 // max_buckets)
        widths = [_level(k, max_buckets) for k in range(2 + step, _LEVELS_MAX + step, step)]
        super().__init__(params, numbers, [0.0] * (widths[0] - 1), widths)

    def readings(self) -> dict[str, float]:
        """Return the window's `width` and the `mean` of the values in it, 0 in an empty one."""
        width, total = self._row[[_WIDTH, _TOTAL]].tolist()
        return {"width": width, "mean": total / width if width else 0.0}

    def _used(self, row: NDArray[np.float64]) -> int:
        return int(_level(int(row[_TOP]) + 1, self._params["max_buckets"]))

    def _is_whole(self, row: NDArray[np.float64]) -> bool:
        clock, max_buckets = self._params["clock"], self._params["max_buckets"]
        if len(row) < _LEVELS or row[_TOP] not in range(_LEVELS_MAX):
            return False
        starts = [_level(k, max_buckets) for k in range(int(row[_TOP]) + 2)]
        if len(row) != starts.pop():
            return False
        if not all(code in range(max_buckets << _COUNT_BITS) for code in row[starts]):
            return False
        counts = row[starts].astype(np.int64) & _COUNT_MAX
        # River panics at a highest size without a bucket; no step leaves one.
        return bool(
            counts.max() <= max_buckets
            and (counts[-1] > 0 or row[_TOP] == 0)
            and row[_WIDTH] == counts @ 2.0 ** np.arange(len(counts))
            and row[_TICK] in range(clock)
        )
