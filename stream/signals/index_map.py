"""The places of a detector's values: for any past one, by its count, the outcome index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Values that are remembered one by one; further back every second of as many, and so on.
_RECENT = 16
_RUNS_MAX = 4096


class IndexMap:
    """The outcome indices of a detector's values, which outcomes without a value lie between.

    What is known exactly are the recent values, coarser ones further back, and the last drift;
    between them it is interpolated. Which those are, counts decide, not how the stream is cut.
    A value that lies n back is found to within the outcomes of about n/8 values, and exactly where
    no outcome lacked a value. The state is 8 pairs of numbers for each doubling, one where no
    outcome lacked a value.

    Args:
        state: what `state()` gave, nothing for a detector whose first value is yet to come.
    """

    def __init__(self, state: Sequence[Sequence[int]] = ((), ())) -> None:
        drift, runs = state
        # The count of the last drift's value, if there was any.
        self._drift = list(drift)
        # From which count on, how many more outcomes there were than values.
        self._starts = np.array([start for start, _ in _pairs(runs)], dtype=np.int64)
        self._offsets = np.array([offset for _, offset in _pairs(runs)], dtype=np.int64)

    def record(self, count: int, outcomes: NDArray[np.int64]) -> None:
        """Take the outcome indices of the values from `count` on."""
        n = len(outcomes)
        if not n:
            return
        if len(self._starts) > _RUNS_MAX:
            # Not the new ones: what is found among them is known by what was known then.
            self._forget(count - 1)
        first, last = int(outcomes[0]) - count, int(outcomes[-1]) - count - n + 1
        if not len(self._starts):
            self._starts, self._offsets = np.array([0]), np.array([first])
        if self._offsets[-1] == last:
            return
        offsets = outcomes - np.arange(count, count + n)
        begins = np.flatnonzero(np.diff(offsets, prepend=self._offsets[-1]))
        self._starts = np.concatenate((self._starts, begins + count))
        self._offsets = np.concatenate((self._offsets, offsets[begins]))

    def outcome(self, value: int, now: int) -> int:
        """Return the outcome index of a value, as known at the value `now`; both are counts."""
        if len(self._starts) == 1:
            return max(0, value + int(self._offsets[0]))
        knots, offsets = self._known(now)
        at = int(np.searchsorted(knots, value, side="right")) - 1
        place = int(offsets[at])
        if knots[at] < value:
            gap = int(knots[at + 1] - knots[at])
            place += (value - int(knots[at])) * (int(offsets[at + 1]) - place) // gap
        return max(0, value + place)

    def drifted(self, value: int) -> None:
        """Keep the place of a drift: what is found after it does not lie before it."""
        self._drift = [value]

    def state(self, n_seen: int) -> list[list[int]]:
        """Return everything needed to go on after `n_seen` values."""
        if len(self._starts) > 1:
            self._forget(n_seen - 1)
        runs = np.column_stack((self._starts, self._offsets))
        return [self._drift, runs.ravel().tolist()]

    def _forget(self, now: int) -> None:
        knots, offsets = self._known(now)
        begins = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - 1))
        self._starts, self._offsets = knots[begins], offsets[begins]

    def _known(self, now: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the values of known place at `now`, and how many more outcomes there were."""
        levels = np.arange(now.bit_length() + 1)[:, np.newaxis]
        knots = ((now >> levels) - np.arange(_RECENT)) << levels
        knots = np.unique(np.append(knots[knots >= 0], self._drift).astype(np.int64))
        return knots, self._offsets[np.searchsorted(self._starts, knots, side="right") - 1]


def _pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))
