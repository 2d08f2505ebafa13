"""ADWIN: a window that keeps as much of the stream as has the same mean."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from river import __version__ as river_version
from river._river_rust.drift import AdaptiveWindowing

from detectors import checks
from detectors.base import Alarm
from detectors.sequential import Sequential

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KIND = "ADWIN"
_FORMAT = 1
_INT_MAX = 2**31 - 1


class ADWIN(Sequential):
    """Has the mean of the stream changed, and since when?

    A window of the last values is cut wherever the means of its older and its newer part differ
    by more than chance allows. Memory grows with the logarithm of the window's width: by
    128 bytes for each doubling, at the default `max_buckets`. Every `clock`-th value costs time
    in proportion to that, the others constant time.

    Parameters (River's, with River's defaults):
        delta: confidence, above 0 and below 1; the smaller, the fewer false alarms.
        clock: look for a change at every `clock`-th value.
        max_buckets: buckets of each size before two are merged into one twice as large.
        min_window_length: values that either part of the window must have at the least.
        grace_period: values after a baseline before any alarm.

    The alarms come at the indices at which River's ADWIN raises `drift_detected`. What they say
    is of the split of the window, as it was before the cut, whose means differ most in relation
    to the allowed difference: `statistic` is the difference, `threshold` the allowed difference,
    and `onset` the first value after the split. (Where ADWIN cuts is no estimate of the onset: it
    drops the oldest bucket until no split stands out, and often stops long before the change.)
    Splits among the values dropped are no longer known; where several buckets were dropped,
    `statistic` need not exceed `threshold`.

    After an alarm River starts with an empty window, and so does this class; the window of the
    paper goes on with the values after the cut.

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

    def __init__(
        self,
        delta: float = 0.002,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        super().__init__()
        self._params: dict[str, Any] = {
            "delta": checks.real("delta", delta, low=0, high=1, open_at="low high"),
            "clock": checks.whole("clock", clock, low=1, high=_INT_MAX),
            "max_buckets": checks.whole("max_buckets", max_buckets, low=1, high=10_000),
            "min_window_length": checks.whole(
                "min_window_length", min_window_length, low=1, high=_INT_MAX
            ),
            "grace_period": checks.whole("grace_period", grace_period, low=0, high=_INT_MAX),
        }
        self._window = AdaptiveWindowing(**self._params)

    def _take(self, values: list[float]) -> list[Alarm]:
        clock = self._params["clock"]
        alarms = []
        start = 0
        while start < len(values):
            # An alarm empties the window, so its width is the count by which River goes.
            look = start + clock - 1 - int(self._window.get_width()) % clock
            update = self._window.update
            for x in values[start:look]:
                update(x)
            if look < len(values) and (alarm := self._look(values[look], self._n_seen + look)):
                alarms.append(alarm)
            start = look + 1
        self._n_seen += len(values)
        return alarms

    def _look(self, x: float, index: int) -> Alarm | None:
        window = self._window
        # River's get_variance is the sum of squared deviations from the mean.
        n, total, squares = window.get_width(), window.get_total(), window.get_variance()
        if not window.update(x):
            return None
        squares += n / (n + 1) * (x - total / n) ** 2
        splits = self._splits(int(n) + 1, total + x, squares)
        split = max(splits, key=lambda split: split.statistic / split.threshold)
        self.rebaseline()
        return Alarm(
            index=index,
            kind="drift",
            direction="up" if split.mean_after > split.mean_before else "down",
            statistic=split.statistic,
            threshold=split.threshold,
            mean_before=split.mean_before,
            mean_after=split.mean_after,
            onset=index + 1 - split.n_after,
        )

    def _splits(self, n: int, total: float, squares: float) -> Iterator[_Split]:
        """The splits of the window before the cut, of `n` values, that lie outside what it dropped.

        There is at least one: the last bucket was dropped for a split at its end or later.
        """
        short = self._params["min_window_length"] - 1
        log_term = math.log(2 * math.log(n) / self._params["delta"])
        n_after, total_after = 0, 0.0
        for size, bucket_total in _buckets(self._window.__getstate__()):
            n_after += size
            total_after += bucket_total
            n_before = n - n_after
            if min(n_before, n_after) <= short:
                continue
            inverse = 1 / (n_before - short) + 1 / (n_after - short)
            yield _Split(
                n_after=n_after,
                mean_before=(total - total_after) / n_before,
                mean_after=total_after / n_after,
                threshold=math.sqrt(2 * inverse * squares / n * log_term)
                + 2 / 3 * inverse * log_term,
            )

    def readings(self) -> dict[str, float]:
        """The window's `width` and the `mean` of the values in it, 0 in an empty one."""
        width = self._window.get_width()
        return {"width": width, "mean": self._window.get_total() / width if width else 0.0}

    def rebaseline(self) -> None:
        """Start with an empty window; `n_seen` goes on."""
        self._window = AdaptiveWindowing(**self._params)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, with River's own bytes for the window."""
        return {
            "detector": _KIND,
            "format": _FORMAT,
            "river": river_version,
            "params": dict(self._params),
            "n_seen": self._n_seen,
            "window": self._window.__getstate__(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The detector that `state()` described.

        Raises:
            ValueError: the state is of another detector, format or River version, or damaged.
        """
        checks.check_state(state, _KIND, _FORMAT, "window")
        checks.check_river(state, _KIND, river_version)
        self = checks.made(cls, _KIND, state["params"])
        self._n_seen = checks.whole("n_seen", state["n_seen"], low=0, high=2**63)
        # River panics, with no Exception, on bytes that it cannot read.
        if not _whole(state["window"], self._params["max_buckets"]):
            raise ValueError(f"the window in this state of {_KIND} is damaged; start it anew")
        self._window.__setstate__(state["window"])
        return self


@dataclass(frozen=True, slots=True)
class _Split:
    """Two parts of a window, the newer of `n_after` values, and how far their means may differ."""

    n_after: int
    mean_before: float
    mean_after: float
    threshold: float

    @property
    def statistic(self) -> float:
        return abs(self.mean_after - self.mean_before)


# How River 0.26.1 writes its window (rust_src/adwin.rs, in order, little-endian): the parameters,
# four sums, four counts and the number of rows; then the rows of buckets, those of one value
# first, each with its capacity, its number of buckets and two arrays, the buckets' sums and
# variances, oldest bucket first; then the parameters again.
_HEAD = struct.Struct("<diQ2d4d4iQ")
_ROW = struct.Struct("<QQQ")
_LENGTH = struct.Struct("<Q")
_TAIL = struct.Struct("<diQii")


def _row_size(capacity: int) -> int:
    return _ROW.size + _LENGTH.size + 2 * 8 * capacity


def _whole(window: bytes, max_buckets: int) -> bool:
    """Whether a window's bytes are all there."""
    if not isinstance(window, bytes) or len(window) < _HEAD.size:
        return False
    n_rows: int = _HEAD.unpack_from(window)[-1]
    return len(window) == _HEAD.size + n_rows * _row_size(max_buckets + 1) + _TAIL.size


def _buckets(window: bytes) -> Iterator[tuple[int, float]]:
    """Size and sum of each bucket of a window, newest first."""
    position = _HEAD.size
    for row in range(_HEAD.unpack_from(window)[-1]):
        _, n_buckets, capacity = _ROW.unpack_from(window, position)
        totals = struct.unpack_from(f"<{n_buckets}d", window, position + _ROW.size)
        for total in reversed(totals):
            yield 2**row, total
        position += _row_size(capacity)
