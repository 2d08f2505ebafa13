"""KSWIN: a Kolmogorov-Smirnov test of recent values against a sample of older ones."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np

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
from streamgauge.detectors.row import RowDetector, usable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# The row: count since the baseline; how many values the window holds, position of the oldest, and
# the last distance. The random generator: how many of its words are used up, and the words. Then
# the window, a ring, and for each older value how many recent ones are below it, and not above it.
# What comes after is for a step to work with, and means nothing between steps.
_N, _HELD, _OLDEST, _DISTANCE, _USED, _WORDS, _RING = 1, 2, 3, 4, 5, 6, 630
_N_WORDS = 624
# The parameters: sizes of the window and of its recent part, the least distance that is a drift,
# how to sample, and the generator as it is seeded. Distances are counts of recent values.
_SIZE, _RECENT, _CRITICAL, _FROM_POOL, _SEEDED = range(5)

_RECENT_MAX = 10_000
_SIZE_MAX = 1_000_000
# Bits for a count of recent values.
_COUNT_BITS = 14


@compiled
def _renew(words: NDArray[np.float64]) -> None:
    """Make the next 624 words of the Mersenne Twister."""
    # In loops of known lengths, which are compiled to take several words at a time.
    n, middle = _N_WORDS, 397
    for i in range(n - middle):
        words[i] = _twisted(words[i], words[i + 1], words[i + middle])
    for i in range(n - middle, n - 1):
        words[i] = _twisted(words[i], words[i + 1], words[i + middle - n])
    words[n - 1] = _twisted(words[n - 1], words[0], words[middle - 1])


@compiled
def _twisted(high: float, low: float, other: float) -> float:
    bits = (int(high) & 0x80000000) | (int(low) & 0x7FFFFFFF)
    return float(int(other) ^ (bits >> 1) ^ (-(bits & 1) & 0x9908B0DF))


@compiled
def _tempered(word: int) -> int:
    word ^= word >> 11
    word ^= (word << 7) & 0x9D2C5680
    word ^= (word << 15) & 0xEFC60000
    return word ^ (word >> 18)


@compiled
def _n_bits(n: int) -> int:
    bits = 0
    while n >> bits:
        bits += 1
    return bits


@compiled
def _unused(row: NDArray[np.float64], used: int) -> int:
    """Return how many of the words are used up, once there is another one."""
    if used < _N_WORDS:
        return used
    _renew(row[_WORDS:_RING])
    return 0


@compiled
def _sample_from_pool(
    row: NDArray[np.float64], pool: NDArray[np.float64], sample: NDArray[np.float64]
) -> None:
    """Fill the sample with what Python's `random.sample` draws from a pool that it uses up."""
    left, end, used = len(pool), len(pool) - len(sample), int(row[_USED])
    bits = _n_bits(left)
    while left > end:
        bits -= left < 1 << (bits - 1)
        # As long as it takes so many bits to number what is left.
        while left > max(end, (1 << (bits - 1)) - 1):
            used = _unused(row, used)
            drawn = _tempered(int(row[_WORDS + used])) >> (32 - bits)
            used += 1
            # What is too large counts for nothing; a branch would be mispredicted time and again.
            at = min(drawn, left - 1)
            sample[left - end - 1] = pool[at]
            pool[at] = pool[left - 1]
            left -= drawn < left
    row[_USED] = used


@compiled
def _sample_from_set(
    row: NDArray[np.float64], pool: NDArray[np.float64], sample: NDArray[np.float64]
) -> None:
    """Fill it the same from a pool that is so large that Python marks what it has drawn."""
    bits, used = _n_bits(len(pool)), int(row[_USED])
    for i in range(len(sample)):
        drawn = len(pool)
        while drawn >= len(pool) or pool[drawn] < 0:
            used = _unused(row, used)
            drawn = _tempered(int(row[_WORDS + used])) >> (32 - bits)
            used += 1
        sample[i] = pool[drawn]
        pool[drawn] = -1
    row[_USED] = used


@compiled
def _count(row: NDArray[np.float64], at: int, newest: int, params: NDArray[np.float64]) -> None:
    """Count the recent values below the one at a position of the ring, and not above it."""
    size, recent = int(params[_SIZE]), int(params[_RECENT])
    value, below, not_above = row[_RING + at], 0, 0
    for i in range(newest - recent + 1, newest + 1):
        other = row[_RING + (i if i >= 0 else i + size)]
        below += other < value
        not_above += other <= value
    row[_RING + size + at] = below
    row[_RING + 2 * size + at] = not_above


@compiled
def _exchange(
    row: NDArray[np.float64], start: int, stop: int, size: int, comes: float, goes: float
) -> None:
    """Brings counts up to date with one recent value that comes and one that goes."""
    values = row[_RING + start : _RING + stop]
    below = row[_RING + size + start : _RING + size + stop]
    not_above = row[_RING + 2 * size + start : _RING + 2 * size + stop]
    for i in range(len(values)):
        value = values[i]
        below[i] += (comes < value) - (goes < value)
        not_above[i] += (comes <= value) - (goes <= value)


@compiled
def _take(row: NDArray[np.float64], x: float, params: NDArray[np.float64]) -> bool:
    """Put a value into the window; return whether it is full."""
    size, recent = int(params[_SIZE]), int(params[_RECENT])
    newest = int(row[_OLDEST])
    oldest = newest + 1 if newest + 1 < size else 0
    row[_OLDEST] = oldest
    row[_RING + newest] = x
    # The value that is no longer a recent one.
    turned = newest - recent if newest >= recent else newest - recent + size
    if row[_HELD] < size:
        row[_HELD] += 1
        if row[_HELD] < size:
            return False
        for i in range(oldest, oldest + size - recent):
            _count(row, i if i < size else i - size, newest, params)
        return True
    goes = row[_RING + turned]
    if oldest <= turned:
        _exchange(row, oldest, turned, size, x, goes)
    else:
        _exchange(row, oldest, size, size, x, goes)
        _exchange(row, 0, turned, size, x, goes)
    _count(row, turned, newest, params)
    return True


@compiled
def _fill(pool: NDArray[np.float64], row: NDArray[np.float64], size: int, start: int) -> None:
    """Fill the pool with the counts of as many values of the ring from a position on."""
    below = row[_RING + size + start :]
    not_above = row[_RING + 2 * size + start :]
    for i in range(len(pool)):
        pool[i] = below[i] + (1 << _COUNT_BITS) * not_above[i]


@compiled
def _distance(row: NDArray[np.float64], params: NDArray[np.float64]) -> int:
    """Return the largest difference of the empirical distributions of sample and recent values."""
    size, recent, oldest = int(params[_SIZE]), int(params[_RECENT]), int(row[_OLDEST])
    n = size - recent
    scratch = row[_RING + 3 * size :]
    # The pool to draw from is both counts of each older value, as one number.
    pool, sample = scratch[:n], scratch[n:size]
    below, not_above = scratch[size : size + recent + 1], scratch[size + recent + 1 :]
    n_at_end = min(n, size - oldest)
    _fill(pool[:n_at_end], row, size, oldest)
    _fill(pool[n_at_end:], row, size, 0)
    if params[_FROM_POOL]:
        _sample_from_pool(row, pool, sample)
    else:
        _sample_from_set(row, pool, sample)
    # How many of the sample have so many recent values below, and not above, them.
    below[:] = 0
    not_above[:] = 0
    for counts in sample:
        below[int(counts) & ((1 << _COUNT_BITS) - 1)] += 1
        not_above[int(counts) >> _COUNT_BITS] += 1
    # Just below the gap over `i` recent values, and at its end.
    distance, n_up_to, n_before = 0, 0, 0
    for i in range(recent + 1):
        n_up_to += int(not_above[i])
        distance = max(distance, n_up_to - i, i - n_before)
        n_before += int(below[i])
    return distance


@compiled
def _moments(
    row: NDArray[np.float64], start: int, n: int, params: NDArray[np.float64]
) -> tuple[float, float]:
    """Mean of n values of the ring from a position on, and the square of its standard error."""
    size = int(params[_SIZE])
    total = 0.0
    for i in range(start, start + n):
        total += row[_RING + i % size]
    mean = total / n
    squares = 0.0
    for i in range(start, start + n):
        squares += (row[_RING + i % size] - mean) ** 2
    return mean, squares / n / n


@compiled
def _step(
    row: NDArray[np.float64],
    x: float,
    params: NDArray[np.float64],
    found: NDArray[np.float64],
) -> int:
    row[_N] += 1
    if not _take(row, x, params):
        return NOTHING
    distance = _distance(row, params)
    row[_DISTANCE] = distance
    if distance < params[_CRITICAL]:
        return NOTHING
    size, recent, oldest = int(params[_SIZE]), int(params[_RECENT]), int(row[_OLDEST])
    before, error_before = _moments(row, oldest, size - recent, params)
    after, error_after = _moments(row, oldest + size - recent, recent, params)
    is_clear = abs(after - before) > 2 * math.sqrt(error_before + error_after)
    found[DIRECTION] = 0 if not is_clear else 1 if after > before else -1
    found[STATISTIC] = distance / recent
    found[THRESHOLD] = params[_CRITICAL] / recent
    found[MEAN_BEFORE] = before
    found[MEAN_AFTER] = after
    found[N_AFTER] = min(recent, row[_N])
    row[1:] = 0
    for i in range(_N_WORDS + 1):
        row[_USED + i] = params[_SEEDED + i]
    return DRIFT


class KSWIN(RowDetector):
    """Are the recent values distributed otherwise than those before them?

    After each value the last `stat_size` values of a sliding window are compared with as many drawn
    at random from the older ones, by the two-sample Kolmogorov-Smirnov test. Ranks are kept from
    value to value: a value takes time in proportion to `window_size`, half a microsecond or so at
    the defaults. Memory is at most 40 bytes for each value of the window and 5 KB for the random
    generator.

    Parameters (River's, with River's defaults except for the seed):
        alpha: probability of a false drift in one such comparison, above 0 up to 1. It is made
            after every value, so that it is no false-alarm rate: on normal values the default
            alarms falsely 130 times in 100,000 values, 1e-4 still 7 times (measured).
        window_size: values in the window, at least twice `stat_size`, up to 1,000,000; no alarm
            before it is full.
        stat_size: values in each sample, from 1 to 10,000.
        seed: of the random draws, from 0; 0 by default. River's default is a new one every time,
            so that a stream that is replayed raises other alarms.
        window: values to begin with, the oldest first; those that fit. They are not counted, and
            a later baseline begins without them.

    Drifts come at the indices at which River's KSWIN with the same seed raises `drift_detected`:
    the draws are those of Python's `random.Random(seed).sample`, and the p-value is that of the
    exact distribution, turned into a least distance once. As in River:

    - A distance up to 0.1 is no drift, whatever its p-value.
    - The generator is seeded anew at each new baseline, and that begins with an empty window.
      (River keeps the recent values at a drift, and loses them at the next value.)
    - The formula of River's documentation, sqrt(-ln(alpha) / r), is not what is compared.

    River accepts settings with which it fails once the window is full (`window_size` below twice
    `stat_size`, a `stat_size` of 0) or never alarms (`alpha` below the least p-value); here they
    are refused. NaN makes River deaf as long as it is among the values compared, and is refused.

    `onset` is the first index of the recent values, `mean_before` the mean of the older values in
    the window and `mean_after` of the recent ones. `direction` is `none` where these differ by no
    more than two standard errors: then the distribution has changed in another way. `statistic` is
    the distance, `threshold` the least one that is a drift.

    Raises:
        ValueError: a parameter is out of its range, or no distance is rare enough for `alpha`.

    >>> import random
    >>> rng = random.Random(12345)
    >>> kswin = KSWIN(alpha=0.0001)
    >>> values = [rng.gauss(0, 1) for _ in range(1000)] + [rng.gauss(2, 1) for _ in range(500)]
    >>> [(a.index, a.direction, a.onset) for a in map(kswin.update, values) if a]
    [(1019, 'up', 990)]

    Source: C. Raab, M. Heusinger, F.-M. Schleif, Reactive Soft Prototype Computing for Concept
    Drift Streams, Neurocomputing 416 (2020), 340-351. Exact distribution: J. L. Hodges, The
    Significance Probability of the Smirnov Two-Sample Test, Arkiv for Matematik 3 (1958), 469-486.
    Generator: M. Matsumoto, T. Nishimura, Mersenne Twister, ACM TOMACS 8(1), 1998, 3-30.
    """

    kind = "KSWIN"
    loops = loops(_step)

    def __init__(
        self,
        alpha: float = 0.005,
        window_size: int = 100,
        stat_size: int = 30,
        seed: int = 0,
        window: Sequence[float] | None = None,
    ) -> None:
        recent = checks.whole("stat_size", stat_size, low=1, high=_RECENT_MAX)
        size = checks.whole("window_size", window_size, low=2, high=_SIZE_MAX)
        if size < 2 * recent:
            raise ValueError(
                f"window_size is at least twice stat_size, got {window_size} and {stat_size}"
            )
        # Of a full window the oldest value makes room for the first one.
        held = None if window is None else usable(window, is_binary=False)[-(size - 1) :].tolist()
        params: dict[str, Any] = {
            "alpha": checks.real("alpha", alpha, low=0, high=1, open_at="low"),
            "window_size": size,
            "stat_size": recent,
            "seed": checks.whole("seed", seed, low=0, high=2**63 - 1),
            "window": held,
        }
        words = random.Random(params["seed"]).getstate()[1][:_N_WORDS]
        seeded = [_N_WORDS, *words]
        critical = _least_distance(recent, params["alpha"])
        numbers = [size, recent, critical, _is_from_pool(size - recent, recent), *seeded]
        n_scratch = size + 2 * (recent + 1)
        baseline = [0.0] * (_USED - 1) + seeded + [0.0] * (3 * size + n_scratch)
        super().__init__(params, numbers, baseline)
        if held:
            self._row[_RING : _RING + len(held)] = held
            self._row[_HELD] = self._row[_OLDEST] = len(held)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the detector that `state()` described.

        Raises:
            ValueError: the state is of another detector or format, or damaged.
        """
        self = super().from_state(state)
        if not self._counts_fit():
            raise ValueError("the row in this state of KSWIN is damaged; start it anew")
        return self

    def _counts(self, row: NDArray[np.float64]) -> dict[str, tuple[Any, float, float]]:
        size, recent = self._params["window_size"], self._params["stat_size"]
        return {
            "held": (row[_HELD], 0, size),
            "oldest": (row[_OLDEST], 0, size - 1),
            "used words": (row[_USED], 0, _N_WORDS),
            "word": (row[_WORDS:_RING], 0, 2**32 - 1),
            "recent values below or not above": (row[_RING + size : _RING + 3 * size], 0, recent),
        }

    def _used(self, row: NDArray[np.float64]) -> int:  # noqa: ARG002
        return _RING + 3 * int(self._params["window_size"])

    def _is_whole(self, row: NDArray[np.float64]) -> bool:
        return len(row) == self._used(row)

    def _counts_fit(self) -> bool:
        """Return whether the older values' counts, which steps change by 1, are the ring's.

        Those of recent values are made before they are used, as all are when the window is full.
        """
        size, recent, row = self._params["window_size"], self._params["stat_size"], self._row
        if row[_HELD] < size:
            return True
        counted = row[_RING : self._used(row)]
        ring, below, not_above = np.roll(counted.reshape(3, size), -int(row[_OLDEST]), axis=1)
        older, newer = ring[:-recent], np.sort(ring[-recent:])
        return bool(
            np.array_equal(below[:-recent], np.searchsorted(newer, older, "left"))
            and np.array_equal(not_above[:-recent], np.searchsorted(newer, older, "right"))
        )

    def readings(self) -> dict[str, float]:
        """Return the last `statistic`, its `threshold`, and the window's `mean`; 0 at first."""
        row, recent = self._row, self._params["stat_size"]
        held = int(row[_HELD])
        return {
            "statistic": float(row[_DISTANCE] / recent),
            "threshold": float(self._numbers[_CRITICAL] / recent),
            "mean": float(row[_RING : _RING + held].mean()) if held else 0.0,
        }


def _is_from_pool(n: int, k: int) -> bool:
    """Return whether Python samples k of n from a list of all, not with a set of the drawn."""
    size_of_set = 21 + (4 ** math.ceil(math.log(k * 3, 4)) if k > 5 else 0)
    return n <= size_of_set


def _least_distance(n: int, alpha: float) -> int:
    """Return the least distance above 0.1, in counts, of two samples of n with p <= alpha."""
    low, high = n // 10 + 1, n
    if not _is_rare(n, high, alpha):
        raise ValueError(
            f"alpha is at least {2 / math.comb(2 * n, n):.3g}, the least p-value of samples of "
            f"{n} (stat_size), got {alpha}"
        )
    while low < high:
        middle = (low + high) // 2
        if _is_rare(n, middle, alpha):
            high = middle
        else:
            low = middle + 1
    return low


def _is_rare(n: int, distance: int, alpha: float) -> bool:
    """Return whether two samples of n of one kind are so far apart with p <= alpha."""
    signed = range(1, n // distance + 1)
    n_paths = sum((-1) ** (k - 1) * math.comb(2 * n, n - k * distance) for k in signed)
    return bool(2 * n_paths <= Fraction(alpha) * math.comb(2 * n, n))
