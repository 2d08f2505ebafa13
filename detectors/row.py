"""Detectors whose memory is a row of numbers and whose algorithm is compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from streamgauge.detectors import checks
from streamgauge.detectors.base import Alarm, AlarmKind, Direction
from streamgauge.detectors.compiled import (
    DIRECTION,
    GROW,
    MEAN_AFTER,
    MEAN_BEFORE,
    N_AFTER,
    N_FOUND,
    NOTHING,
    STATISTIC,
    THRESHOLD,
    WARNING,
    first_beyond,
    first_no_bit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from streamgauge.detectors.compiled import Loops

_DIRECTIONS: tuple[Direction, ...] = ("none", "up", "down")  # by 0, 1 and -1
_N = 1  # where the row has the count of the values that it knows of
# Values for which room for alarms is made at once.
_CHUNK = 1 << 16


class RowDetector(ABC):
    """The common part of the compiled detectors; `Detector` (base.py) says what it promises.

    A subclass says what it is called in a state and a configuration (`kind`), the version of its
    row's layout (`row_format`), whether it takes only 0 and 1 (`is_binary`) or values of which
    range (`low`, `high`), and the loops over its compiled step; and it gives the row of a new
    baseline, without the count in front. That row begins with a second count, from 0: of how many
    of the last values the detector knows, those since the baseline or, for ADWIN, in its window.

    Args:
        params: the checked parameters, by name.
        numbers: the parameters as the step takes them.
        baseline: the row of a new baseline, without the count.
        widths: how wide a row may be, count included, for a detector whose memory grows; the
            first is that of a new baseline.
    """

    kind: ClassVar[str]
    row_format: ClassVar[int] = 1
    is_binary: ClassVar[bool] = False
    low: float = -checks.MAGNITUDE_MAX
    high: float = checks.MAGNITUDE_MAX
    loops: ClassVar[Loops]

    def __init__(
        self,
        params: Mapping[str, Any],
        numbers: Sequence[float],
        baseline: Sequence[float],
        widths: Sequence[int] = (),
    ) -> None:
        self._params = dict(params)
        self._numbers = np.array(numbers, dtype=np.float64)
        self._baseline = np.array(baseline, dtype=np.float64)
        self._widths = tuple(widths) or (len(baseline) + 1,)
        self._row = np.concatenate([[0.0], self._baseline])
        self._found = np.zeros(N_FOUND)

    @property
    def n_seen(self) -> int:
        """Number of values seen since the detector was made."""
        return int(self._row[0])

    def update(self, x: float) -> Alarm | None:
        """Take one value; return the alarm it raised, if any.

        Raises:
            ValueError: `x` is not a number the detector can use; the state is as it was.
        """
        x = checks.bit(x) if self.is_binary else checks.number(x, self.low, self.high)
        kind = self.loops.one(self._row, x, self._numbers, self._found)
        if kind == NOTHING:
            return None
        if kind == GROW:
            self._row = widened(self._row, self._widths)
            return self.update(x)
        return _alarm(kind, self.n_seen - 1, self._found.tolist())

    def update_many(self, xs: NDArray[np.float64]) -> list[Alarm]:
        """Take the values of a one-dimensional array, in order; return their alarms.

        Raises:
            ValueError: the detector cannot use some value; none has been taken.
        """
        values = usable(xs, is_binary=self.is_binary, low=self.low, high=self.high)
        alarms: list[Alarm] = []
        start = 0
        while start < len(values):
            start += self._take(values[start : start + _CHUNK], alarms)
        return alarms

    def _take(self, values: NDArray[np.float64], alarms: list[Alarm]) -> int:
        """Take values while the row is wide enough, and say how many."""
        n_before = self.n_seen
        at = np.empty(len(values), dtype=np.int64)
        kinds = np.empty(len(values), dtype=np.int8)
        found = np.empty((len(values) + 1, N_FOUND))
        n = self.loops.many(self._row, values, self._numbers, at, kinds, found)
        n_taken = len(values)
        if n and kinds[n - 1] == GROW:
            n -= 1
            n_taken = int(at[n])
            self._row = widened(self._row, self._widths)
        for position, kind, row in zip(at[:n], kinds[:n], found[:n], strict=True):
            alarms.append(_alarm(int(kind), n_before + int(position), row.tolist()))
        return n_taken

    def rebaseline(self) -> None:
        """Forget the past and take a new baseline from the next value on; `n_seen` goes on."""
        self._row = np.concatenate([self._row[:1], self._baseline])

    def with_row(self, row: NDArray[np.float64]) -> Self:
        """Return a detector of the same kind and parameters that goes on from a copy of `row`."""
        other = copy(self)
        other._row, other._found = row.copy(), np.zeros(N_FOUND)  # noqa: SLF001
        return other

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The parameters as the step takes them."""
        return self._numbers

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name."""
        return dict(self._params)

    @property
    def baseline(self) -> NDArray[np.float64]:
        """The row of a new baseline, without the count."""
        return self._baseline

    @property
    def widths(self) -> tuple[int, ...]:
        """Return how wide a row may be, the narrowest, which is that of a new baseline, first."""
        return self._widths

    @abstractmethod
    def readings(self) -> dict[str, float]:
        """Return the numbers worth a chart now; finite."""

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as numbers; independent of River's and numba's versions."""
        return {
            "detector": self.kind,
            "format": self.row_format,
            "params": dict(self._params),
            "n_seen": self.n_seen,
            "row": self._row[1 : self._used(self._row)].tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the detector that `state()` described.

        Raises:
            ValueError: the state is of another detector or format, or damaged.
        """
        checks.check_state(state, cls.kind, cls.row_format, "row")
        self: Self = checks.made(cls, cls.kind, state["params"])
        n_seen = checks.whole("n_seen", state["n_seen"], low=0, high=2**53)
        row = checks.row(cls.kind, n_seen, state["row"], self._is_whole)
        # It tells onsets, which would come before the first value.
        checks.counts(cls.kind, "n", row[_N], 0, n_seen)
        for name, (values, low, high) in self._counts(row).items():
            checks.counts(cls.kind, name, values, low, high)
        width = next(width for width in self._widths if width >= len(row))
        self._row = np.concatenate([row, np.zeros(width - len(row))])
        return self

    def _used(self, row: NDArray[np.float64]) -> int:
        """Return how many numbers of a row are worth keeping; the rest are 0, or mean nothing."""
        return len(row)

    def _counts(
        self,
        row: NDArray[np.float64],  # noqa: ARG002
    ) -> dict[str, tuple[Any, float, float]]:
        """Other whole numbers in a stored row, by name, and the least and the largest they can be.

        They tell onsets and positions, which compiled code does not check.
        """
        return {}

    def _is_whole(self, row: NDArray[np.float64]) -> bool:
        """Return whether this can be the used part of a row."""
        return len(row) == self._widths[0]


def widened(row: NDArray[np.float64], widths: Sequence[int]) -> NDArray[np.float64]:
    """Return a row with the next width."""
    width = next(width for width in widths if width > len(row))
    return np.concatenate([row, np.zeros(width - len(row))])


def usable(
    xs: ArrayLike,
    *,
    is_binary: bool,
    low: float = -checks.MAGNITUDE_MAX,
    high: float = checks.MAGNITUDE_MAX,
) -> NDArray[np.float64]:
    """Return a one-dimensional array, contiguous, of values that a detector can use.

    Raises:
        ValueError: it has another number of dimensions, or one of its values is refused.
    """
    if np.ndim(xs) != 1:
        raise ValueError(f"a detector takes a one-dimensional array, got shape {np.shape(xs)}")
    array = np.ascontiguousarray(xs, dtype=np.float64)
    position = first_no_bit(array) if is_binary else first_beyond(array, low, high)
    if position >= 0:
        try:
            checks.bit(array[position]) if is_binary else checks.number(array[position], low, high)
        except ValueError as error:
            raise ValueError(f"{error} at position {position} of the array") from None
    return array


def _alarm(kind: int, index: int, found: list[float]) -> Alarm:
    what: AlarmKind = "warning" if kind == WARNING else "drift"
    return Alarm(
        index=index,
        kind=what,
        direction=_DIRECTIONS[int(found[DIRECTION])],
        statistic=found[STATISTIC],
        threshold=found[THRESHOLD],
        mean_before=found[MEAN_BEFORE],
        mean_after=found[MEAN_AFTER],
        onset=index + 1 - int(found[N_AFTER]),
    )
