"""The Page-Hinkley test: a cumulative sum of deviations from the running mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

from detectors import checks
from detectors.base import Alarm, Direction
from detectors.sequential import Sequential

if TYPE_CHECKING:
    from collections.abc import Mapping

_KIND = "PageHinkley"
_FORMAT = 1

Mode = Literal["up", "down", "both"]


class _Sums(NamedTuple):
    """What the test remembers since its baseline.

    `up` is the sum that rises when the mean rises, `up_min` its minimum, and `up_n`, `up_mean`
    the count and mean of the values up to that minimum; `down` likewise, with its maximum.
    """

    n: int = 0
    mean: float = 0.0
    up: float = 0.0
    up_min: float = 0.0
    up_n: int = 0
    up_mean: float = 0.0
    down: float = 0.0
    down_max: float = 0.0
    down_n: int = 0
    down_mean: float = 0.0


class PageHinkley(Sequential):
    """Has the mean of the stream risen or fallen by more than a tolerated magnitude?

    Each value's deviation from the running mean, less the tolerance, is added to a sum; an alarm
    rises when the sum is more than `threshold` above its minimum (or, for falls, below its
    maximum). Constant memory, constant time for each value.

    Parameters (River's, with River's defaults):
        min_instances: values after a baseline before any alarm.
        delta: tolerated magnitude of a change, in the unit of the values, 0 or more.
        threshold: lambda, in the unit of the values, 0 or more; the larger, the fewer false
            alarms and the later the true ones.
        alpha: forgetting factor of the sum for each value, above 0 up to 1.
        mode: test for a mean that goes `up`, `down`, or `both`.

    The alarms come at the indices at which River's PageHinkley raises `drift_detected`, to the
    last bit of the arithmetic. `onset` is the index after the sum's last minimum (maximum);
    `mean_before` and `mean_after` are the means since the baseline before it and from it on. With a
    `delta` far below the size of the change the sum wanders, and its minimum can lie long before
    the change.

    Raises:
        ValueError: a parameter is out of its range.

    >>> import random
    >>> rng = random.Random(1)
    >>> test = PageHinkley(delta=0.05, threshold=20)
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.direction, a.onset) for a in map(test.update, errors) if a]
    [(1113, 'up', 930)]

    Source: E. S. Page, Continuous Inspection Schemes, Biometrika 41 (1954), 100-115; with the
    forgetting factor of River, after R. Sebastiao and J. M. Fernandes, Supporting the
    Page-Hinkley Test with Empirical Mode Decomposition for Change Detection, ISMIS 2017.
    """

    def __init__(
        self,
        min_instances: int = 30,
        delta: float = 0.005,
        threshold: float = 50.0,
        alpha: float = 1 - 0.0001,
        mode: Mode = "both",
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"mode is one of {', '.join(get_args(Mode))}, got {mode!r}")
        high = checks.MAGNITUDE_MAX
        self._params: dict[str, Any] = {
            "min_instances": checks.whole("min_instances", min_instances, low=1, high=2**63),
            "delta": checks.real("delta", delta, low=0, high=high),
            "threshold": checks.real("threshold", threshold, low=0, high=high),
            "alpha": checks.real("alpha", alpha, low=0, high=1, open_at="low"),
            "mode": mode,
        }
        self._threshold_up = math.inf if mode == "down" else self._params["threshold"]
        self._threshold_down = math.inf if mode == "up" else self._params["threshold"]
        self._sums = _Sums()

    def _take(self, values: list[float]) -> list[Alarm]:
        params = self._params
        min_instances, delta, alpha = params["min_instances"], params["delta"], params["alpha"]
        threshold_up, threshold_down = self._threshold_up, self._threshold_down
        n, mean, up, up_min, up_n, up_mean, down, down_max, down_n, down_mean = self._sums
        alarms = []
        for index, x in enumerate(values, self._n_seen):
            # River's operations in River's order: another order rounds differently.
            n += 1
            mean += (1.0 / n) * (x - mean)
            deviation = x - mean
            up = alpha * up + deviation - delta
            down = alpha * down + deviation + delta
            if up <= up_min:
                up_min, up_n, up_mean = up, n, mean
            if down >= down_max:
                down_max, down_n, down_mean = down, n, mean
            if n >= min_instances and (
                up - up_min > threshold_up or down_max - down > threshold_down
            ):
                sums = _Sums(n, mean, up, up_min, up_n, up_mean, down, down_max, down_n, down_mean)
                alarms.append(self._alarm(index, sums))
                n, mean, up, up_min, up_n, up_mean, down, down_max, down_n, down_mean = _Sums()
        self._sums = _Sums(n, mean, up, up_min, up_n, up_mean, down, down_max, down_n, down_mean)
        self._n_seen += len(values)
        return alarms

    def _alarm(self, index: int, sums: _Sums) -> Alarm:
        direction, statistic = self._larger(sums)
        n_before, mean_before = (
            (sums.up_n, sums.up_mean) if direction == "up" else (sums.down_n, sums.down_mean)
        )
        n_after = sums.n - n_before
        return Alarm(
            index=index,
            kind="drift",
            direction=direction,
            statistic=statistic,
            threshold=self._params["threshold"],
            mean_before=mean_before,
            mean_after=mean_before + sums.n / n_after * (sums.mean - mean_before),
            onset=index + 1 - n_after,
        )

    def _larger(self, sums: _Sums) -> tuple[Direction, float]:
        """Of the tests that the mode asks for, the one with the larger statistic."""
        rise, fall = sums.up - sums.up_min, sums.down_max - sums.down
        mode = self._params["mode"]
        if mode == "up" or (mode == "both" and rise >= fall):
            return "up", rise
        return "down", fall

    def readings(self) -> dict[str, float]:
        """The `statistic`, its `threshold`, and the `mean` since the baseline, 0 right after it."""
        return {
            "statistic": self._larger(self._sums)[1],
            "threshold": self._params["threshold"],
            "mean": self._sums.mean,
        }

    def rebaseline(self) -> None:
        """Forget all sums; `n_seen` goes on."""
        self._sums = _Sums()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on; independent of River's version."""
        return {
            "detector": _KIND,
            "format": _FORMAT,
            "params": dict(self._params),
            "n_seen": self._n_seen,
            "sums": self._sums._asdict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The detector that `state()` described.

        Raises:
            ValueError: the state is of another detector or format.
        """
        checks.check_state(state, _KIND, _FORMAT, "sums")
        self = checks.made(cls, _KIND, state["params"])
        self._n_seen = checks.whole("n_seen", state["n_seen"], low=0, high=2**63)
        self._sums = checks.made(_Sums, f"the sums in this state of {_KIND}", state["sums"])
        return self
