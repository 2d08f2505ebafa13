"""The time since which the mean is another one, for detectors that only say that it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SUMS_PER_SIZE = 8
_DELTA = 0.002


@dataclass(frozen=True, slots=True)
class Split:
    """Some values in two parts, the newer of `n_after` values.

    `clarity` is the difference of the means in units of what chance allows at ADWIN's default
    confidence, for values in [0, 1].
    """

    n_after: int
    mean_before: float
    mean_after: float
    clarity: float


class Past:
    """The values since a baseline, in sums of 1, 2, 4, ... of them.

    Memory grows with the logarithm of their number, by 8 sums for each doubling; constant time
    for each value on average.

    >>> past = Past()
    >>> for x in [0.0] * 100 + [1.0] * 40:
    ...     past.add(x)
    >>> split = past.clearest_split()
    >>> split.n_after, split.mean_before, split.mean_after, round(split.clarity, 2)
    (40, 0.0, 1.0, 1.83)

    Source: the exponential histogram and the bound are those of A. Bifet and R. Gavalda, Learning
    from Time-Changing Data with Adaptive Windowing, SIAM International Conference on Data Mining
    2007, section 4; where ADWIN takes the first split that stands out, this takes the clearest.
    """

    def __init__(self) -> None:
        self._n = 0
        self._total = 0.0
        self._squares = 0.0
        # By size, those of one value first; the oldest of a size first.
        self._sums: list[list[float]] = []

    @property
    def n(self) -> int:
        """Number of values there are."""
        return self._n

    @property
    def mean(self) -> float:
        """Their mean, NaN where there are none."""
        return self._total / self._n if self._n else math.nan

    def add(self, x: float) -> None:
        """Take a value."""
        self._n += 1
        self._total += x
        self._squares += x * x
        carry = float(x)
        for row in self._sums:
            row.append(carry)
            if len(row) <= _SUMS_PER_SIZE:
                return
            carry = row.pop(0) + row.pop(0)
        self._sums.append([carry])

    def clearest_split(self) -> Split | None:
        """Return the split whose means differ most in relation to chance, None below two values."""
        return max(self._splits(), key=lambda split: split.clarity, default=None)

    def _splits(self) -> Iterator[Split]:
        if self._n < 2:
            return
        mean = self._total / self._n
        variance = max(0.0, self._squares / self._n - mean * mean)
        log_term = math.log(2 * math.log(self._n) / _DELTA)
        n_after, total_after = 0, 0.0
        for size, total in self._newest_first():
            n_after += size
            total_after += total
            n_before = self._n - n_after
            if n_before == 0:
                return
            mean_before, mean_after = (self._total - total_after) / n_before, total_after / n_after
            inverse = 1 / n_before + 1 / n_after
            allowed = math.sqrt(2 * inverse * variance * log_term) + 2 / 3 * inverse * log_term
            clarity = abs(mean_after - mean_before) / allowed
            yield Split(n_after, mean_before, mean_after, clarity)

    def _newest_first(self) -> Iterator[tuple[int, float]]:
        for power, row in enumerate(self._sums):
            for total in reversed(row):
                yield 2**power, total

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "n": self._n,
            "total": self._total,
            "squares": self._squares,
            "sums": [[*row] for row in self._sums],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Past:
        """Return the past that `state()` described."""
        self = cls()
        self._n, self._total, self._squares = state["n"], state["total"], state["squares"]
        self._sums = [[*row] for row in state["sums"]]
        return self
