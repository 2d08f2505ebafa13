"""What all detectors do alike: count their values, and take one value as an array of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from detectors.checks import number, numbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detectors.base import Alarm


class Sequential(ABC):
    """The common part of the detectors; `detectors.base.Detector` says what it promises."""

    def __init__(self) -> None:
        self._n_seen = 0

    @property
    def n_seen(self) -> int:
        """How many values have been seen since the detector was made."""
        return self._n_seen

    def update(self, x: float) -> Alarm | None:
        """Take one value; return the alarm it raised, if any.

        Raises:
            ValueError: `x` is not a number the detector can use; the state is as it was.
        """
        alarms = self._take([number(x)])
        return alarms[0] if alarms else None

    def update_many(self, xs: NDArray[np.float64]) -> list[Alarm]:
        """Take the values of a one-dimensional array, in order; return their alarms.

        Raises:
            ValueError: the detector cannot use some value; none has been taken.
        """
        return self._take(numbers(xs))

    @abstractmethod
    def _take(self, values: list[float]) -> list[Alarm]:
        """Take checked values in order, and count them in `_n_seen`."""
