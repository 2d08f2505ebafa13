"""The detector contract: numbers in, alarms out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

AlarmKind = Literal["drift", "warning"]
Direction = Literal["up", "down", "none"]
Sides = Literal["up", "down", "both"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A detector's word that the stream has changed.

    Attributes:
        index: 0-based count of values seen when the alarm was raised.
        kind: `drift`, or `warning` from detectors that have a warning zone.
        direction: whether the mean went up or down; `none` where the detector cannot tell.
        statistic: the test statistic at the alarm, NaN where the detector keeps none.
        threshold: what the statistic is compared with, NaN where the detector keeps none.
        mean_before: mean of the values before the estimated onset, NaN where unknown.
        mean_after: mean of the values from the estimated onset on, NaN where unknown.
        onset: estimated index of the first value after the change, at most `index`.
    """

    index: int
    kind: AlarmKind
    direction: Direction
    statistic: float
    threshold: float
    mean_before: float
    mean_after: float
    onset: int


class DetectorError(StreamgaugeError, RuntimeError):
    """A detector broke on a value that it should have taken.

    The values before it have been taken. The detector is of no use until it is given a new
    baseline; then it goes on with the values after.

    Attributes:
        index: 0-based count of values taken before the one it broke on.
        alarms: those that the values before it in the same call raised.
    """

    def __init__(self, message: str, index: int, alarms: list[Alarm]) -> None:
        super().__init__(message)
        self.index = index
        self.alarms = alarms


@runtime_checkable
class Detector(Protocol):
    """A sequential change detector over one stream of finite numbers.

    After a drift alarm it takes a new baseline, from the next value on. `update_many(xs)` gives
    the alarms that `update` gives one by one, however the stream is cut. `from_state(d.state())`
    goes on exactly as `d` would. Memory is bounded, or grows with the logarithm of the stream.
    """

    @property
    def n_seen(self) -> int:
        """Number of values seen since the detector was made."""
        ...

    def update(self, x: float) -> Alarm | None:
        """Take one value; return the alarm it raised, if any.

        Raises:
            ValueError: `x` is not finite (or not what the detector can use); the state is as
                it was.
            DetectorError: the detector broke.
        """
        ...

    def update_many(self, xs: NDArray[np.float64]) -> list[Alarm]:
        """Take the values of a one-dimensional array, in order; return their alarms.

        Raises:
            ValueError: the detector cannot use some value; none has been taken.
            DetectorError: the detector broke; the values before have been taken.
        """
        ...

    def readings(self) -> dict[str, float]:
        """Return the numbers worth a chart now: width, statistic, threshold, ...; finite."""
        ...

    def rebaseline(self) -> None:
        """Forget the past and take a new baseline from the next value on; `n_seen` goes on."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to go on: numbers, strings, bytes, lists and dicts of them."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the detector that `state()` described.

        Raises:
            ValueError: the state is of another detector or of a format this version cannot read.
        """
        ...


def finite(x: float) -> float:
    """`x` as a float, or ValueError where it is NaN or infinite."""
    x = float(x)
    if not math.isfinite(x):
        raise ValueError(f"a detector takes finite numbers, got {x}")
    return x
