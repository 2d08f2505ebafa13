"""KSWIN: a Kolmogorov-Smirnov test of recent values against a sample of older ones."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from detectors import checks
from detectors.compiled import (
    DIRECTION,
    DRIFT,
    MEAN_AFTER,
    MEAN_BEFORE,
    N_AFTER,
    NOTHING,
    STATISTIC,
    THRESHOLD,
    compiled,
    compiled_making,
    loops,
)
from detectors.row import RowDetector, usable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# The row: count since the baseline; how many values the window holds, position of the oldest, and
# the last distance. The random generator: how many of its words are used up, and the words. Then
# the window, a ring, and for each older value how many recent ones are below it, and not above it.
_N, _HELD, _OLDEST, _DISTANCE, _USED, _WORDS, _RING = 1, 2, 3, 4, 5, 6, 630
_N_WORDS = 624
# The parameters: sizes of the window and of its recent part, the least distance that is a drift,
# how to sample, and the generator as it is seeded. Distances are counts of recent values.
_SIZE, _RECENT, _CRITICAL, _FROM_POOL, _SEEDED = range(5)

_RECENT_MAX = 10_000
_SIZE_MAX = 1_000_000


@compiled
def _renew(words: NDArray[np.float64]) -> None:
    """The next 624 words of the Mersenne Twister."""
    n, middle = len(words), 397
    for i in range(n):
        high, low = int(words[i]), int(words[i + 1 if i + 1 < n else 0])
        bits = (high & 0x80000000) | (low & 0x7FFFFFFF)
        word = int(words[i + middle if i + middle < n else i + middle - n]) ^ (bits >> 1)
        words[i] = word ^ 0x9908B0DF if bits & 1 else word


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


@compiled_making
def _sample(row: NDArray[np.float64], n: int, k: int, from_pool: bool) -> NDArray[np.int64]:
    """Some k of the numbers below n: what Python's `random.sample(range(n), k)` draws."""
    bits, used = _n_bits(n), int(row[_USED])
    pool = np.arange(n)
    sample = np.empty(k, dtype=np.int64)
    for i in range(k):
        left = n - i if from_pool else n
        if left < 1 << (bits - 1):
            bits -= 1
        while True:
            if used == _N_WORDS:
                _renew(row[_WORDS:_RING])
                used = 0
            drawn = _tempered(int(row[_WORDS + used])) >> (32 - bits)
            used += 1
            if drawn < left and pool[drawn] >= 0:
                break
        sample[i] = pool[drawn]
        # Not to be drawn again: another takes its place, or it is marked.
        pool[drawn] = pool[left - 1] if from_pool else -1
    row[_USED] = used
    return sample


@compiled
def _count(row: NDArray[np.float64], at: int, newest: int, params: NDArray[np.float64]) -> None:
    """Counts the recent values below the one at a position of the ring, and not above it."""
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
    """Puts a value into the window; whether it is full."""
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


@compiled_making
def _distance(row: NDArray[np.float64], params: NDArray[np.float64]) -> int:
    """The largest difference of the empirical distributions of sample and recent values."""
    size, recent, oldest = int(params[_SIZE]), int(params[_RECENT]), int(row[_OLDEST])
    sample = _sample(row, size - recent, recent, params[_FROM_POOL] != 0)
    # How many of the sample have so many recent values below, and not above, them.
    below = np.zeros(recent + 1, dtype=np.int64)
    not_above = np.zeros(recent + 1, dtype=np.int64)
    for number in sample:
        at = oldest + number if oldest + number < size else oldest + number - size
        below[int(row[_RING + size + at])] += 1
        not_above[int(row[_RING + 2 * size + at])] += 1
    # Just below the gap over `i` recent values, and at its end.
    distance, n_up_to, n_before = 0, 0, 0
    for i in range(recent + 1):
        n_up_to += not_above[i]
        distance = max(distance, n_up_to - i, i - n_before)
        n_before += below[i]
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


@compiled_making
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
    row[_USED:_RING] = params[_SEEDED:]
    return DRIFT


class KSWIN(RowDetector):
    """Are the recent values distributed otherwise than those before them?

    After each value the last `stat_size` values of a sliding window are compared with as many drawn
    at random from the older ones, by the two-sample Kolmogorov-Smirnov test. Ranks are kept from
    value to value: a value takes time in proportion to `window_size`, half a microsecond or so at
    the defaults. Memory is 24 bytes for each value of the window and 5 KB for the random generator.

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
    loops = loops(_step, compiled_making)

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
        baseline = [0.0] * (_USED - 1) + seeded + [0.0] * (3 * size)
        super().__init__(params, numbers, baseline)
        if held:
            self._row[_RING : _RING + len(held)] = held
            self._row[_HELD] = self._row[_OLDEST] = len(held)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The detector that `state()` described.

        Raises:
            ValueError: the state is of another detector or format, or damaged.
        """
        self = super().from_state(state)
        size, recent = self._params["window_size"], self._params["stat_size"]
        row = self._row
        ranges = (
            (row[_HELD], size),
            (row[_OLDEST], size - 1),
            (row[_USED], _N_WORDS),
            (row[_WORDS:_RING], 2**32 - 1),
            (row[_RING + size :], recent),
        )
        # They become positions, which compiled code does not check.
        is_whole = all(np.all((values >= 0) & (values <= high)) for values, high in ranges)
        if not (is_whole and self._counts_fit()):
            raise ValueError("the row in this state of KSWIN is damaged; start it anew")
        return self

    def _counts_fit(self) -> bool:
        """Whether the counts of the older values, which steps change by 1, are those of the ring.

        Those of recent values are made before they are used, as all are when the window is full.
        """
        size, recent, row = self._params["window_size"], self._params["stat_size"], self._row
        if row[_HELD] < size:
            return True
        ring, below, not_above = np.roll(row[_RING:].reshape(3, size), -int(row[_OLDEST]), axis=1)
        older, newer = ring[:-recent], np.sort(ring[-recent:])
        return bool(
            np.array_equal(below[:-recent], np.searchsorted(newer, older, "left"))
            and np.array_equal(not_above[:-recent], np.searchsorted(newer, older, "right"))
        )

    def readings(self) -> dict[str, float]:
        """The last `statistic`, its `threshold`, and the `mean` of the window; 0 at first."""
        row, recent = self._row, self._params["stat_size"]
        held = int(row[_HELD])
        return {
            "statistic": float(row[_DISTANCE] / recent),
            "threshold": float(self._numbers[_CRITICAL] / recent),
            "mean": float(row[_RING : _RING + held].mean()) if held else 0.0,
        }


def _is_from_pool(n: int, k: int) -> bool:
    """Whether Python samples k of n from a list of all, and not by keeping a set of the drawn."""
    size_of_set = 21 + (4 ** math.ceil(math.log(k * 3, 4)) if k > 5 else 0)
    return n <= size_of_set


def _least_distance(n: int, alpha: float) -> int:
    """The least distance, in counts, of two samples of n that is above 0.1 and has p <= alpha."""
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
    """Whether two samples of n of one distribution are so far apart with probability <= alpha."""
    signed = range(1, n // distance + 1)
    n_paths = sum((-1) ** (k - 1) * math.comb(2 * n, n - k * distance) for k in signed)
    return bool(2 * n_paths <= Fraction(alpha) * math.comb(2 * n, n))
