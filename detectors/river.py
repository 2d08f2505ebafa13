"""Any of River's drift detectors, by import path."""

from __future__ import annotations

import inspect
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from river import __version__ as river_version
from river.base import BinaryDriftDetector, DriftDetector

from streamgauge.detectors import checks, codec
from streamgauge.detectors.base import Alarm, AlarmKind, DetectorError, Direction
from streamgauge.detectors.row import usable
from streamgauge.detectors.split import Past

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

_FORMAT = 1
# A split this clear, in units of what ADWIN would ask for, tells the direction.
_CLEAR = 0.5


class RiverDetector:
    """Has the stream changed, in the opinion of a detector of River or of another package?

    Memory and time are the wrapped detector's. After a drift River's detectors reset themselves
    at the next value.

    Args:
        path: import path of a subclass of `river.base.DriftDetector` or `BinaryDriftDetector`,
            such as `river.drift.binary.DDM`. Binary detectors take only 0 and 1. (River's FHDDM,
            against its description, finds that ones have become fewer.)
        params: its parameters. Where it has a `seed` that is not given, the seed is 0, so that
            a stream that is replayed gives the same alarms.

    A warning is an alarm of kind `warning` when the warning zone is entered, not again while the
    detector stays in it; where a value raises both, there is only the drift. River says no more
    than that the stream has changed: `statistic` and `threshold` are NaN. `direction`, `onset` and
    the means are ours: of the split of the values since the last baseline, that of the alarm among
    them, at which the mean has changed most clearly (`detectors/split.py`). Where that is less than
    half of what ADWIN would ask for, the mean has hardly changed, but perhaps the spread:
    `direction` is `none`, `onset` is the index of the alarm, `mean_before` the mean of all of
    these values, and `mean_after` is NaN.

    Besides the wrapped detector's memory there are 8 numbers for each doubling of the values
    since the baseline.

    Raises:
        ValueError: there is nothing at `path`, or no detector, or it refuses `params`, or its
            state is not something that `streamgauge.detectors.codec` can keep.

    >>> import random
    >>> rng = random.Random(42)
    >>> hddm = RiverDetector("river.drift.binary.HDDMW")
    >>> errors = rng.choices([0, 1], [9, 1], k=1000) + rng.choices([0, 1], [6, 4], k=1000)
    >>> [(a.index, a.kind, a.direction, a.onset) for a in map(hddm.update, errors) if a]
    [(1075, 'warning', 'up', 944), (1077, 'drift', 'up', 992)]
    """

    def __init__(self, path: str, params: Mapping[str, Any] | None = None) -> None:
        self._n_seen = 0
        self._path = path
        self._class = _detector_class(path)
        self._binary = issubclass(self._class, BinaryDriftDetector)
        # The path's own package, for what a detector of another package is made of.
        self._packages = {"river", path.partition(".")[0]}
        self._params = dict(params or {})
        seed = inspect.signature(self._class).parameters.get("seed")
        if seed is not None and seed.default is None and self._params.get("seed") is None:
            self._params["seed"] = 0
        self._detector: Any
        self._past: Past
        self._in_warning: bool
        self.rebaseline()
        try:
            self.state()
        except ValueError as error:
            raise ValueError(f"{path}: its state cannot be kept: {error}") from None

    @property
    def n_seen(self) -> int:
        """Number of values seen since the detector was made."""
        return self._n_seen

    def update(self, x: float) -> Alarm | None:
        """Take one value; return the alarm it raised, if any.

        Raises:
            ValueError: `x` is not a number the detector can use; the state is as it was.
        """
        alarms = self._take([checks.bit(x) if self._binary else checks.number(x)])
        return alarms[0] if alarms else None

    def update_many(self, xs: NDArray[np.float64]) -> list[Alarm]:
        """Take the values of a one-dimensional array, in order; return their alarms.

        Raises:
            ValueError: the detector cannot use some value; none has been taken.
        """
        return self._take(usable(xs, is_binary=self._binary).tolist())

    def _take(self, values: list[float]) -> list[Alarm]:
        """Take checked values in order, and count them."""
        if self._binary:
            # River's binary detectors count in ints.
            values = list(map(int, values))
        detector = self._detector
        update, has_warnings = detector.update, hasattr(detector, "warning_detected")
        past, in_warning = self._past, self._in_warning
        alarms: list[Alarm] = []
        try:
            for index, x in enumerate(values, self._n_seen):
                update(x)
                past.add(x)
                if detector.drift_detected:
                    alarms.append(_alarm(index, "drift", past))
                    past, in_warning = Past(), False
                    continue
                if has_warnings:
                    was_in_warning, in_warning = in_warning, detector.warning_detected
                    if in_warning and not was_in_warning:
                        alarms.append(_alarm(index, "warning", past))
        except Exception as error:
            # Not a ValueError, whatever it was: that would say that the state is as before.
            self._n_seen = index
            raise DetectorError(
                f"{self._path} failed at value {index}: {error!r}", index, alarms
            ) from error
        self._past, self._in_warning = past, bool(in_warning)
        self._n_seen += len(values)
        return alarms

    def readings(self) -> dict[str, float]:
        """Return the `mean` since the baseline, 0 right after it."""
        return {"mean": self._past.mean if self._past.n else 0.0}

    def rebaseline(self) -> None:
        """Make River's detector anew; `n_seen` goes on."""
        self._detector = checks.made(self._class, self._path, self._params)
        self._past, self._in_warning = Past(), False

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, with the attributes of River's objects."""
        return {
            "detector": self._path,
            "format": _FORMAT,
            "river": river_version,
            "params": {
                name: codec.encode(value, self._packages) for name, value in self._params.items()
            },
            "n_seen": self._n_seen,
            "past": self._past.state(),
            "in_warning": self._in_warning,
            "object": codec.encode(self._detector, self._packages),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the detector that `state()` described.

        Raises:
            ValueError: the state is of another kind of detector, of another format or River
                version, or holds objects of other packages.
        """
        path = str(state.get("detector"))
        checks.check_state(state, path, _FORMAT, "past", "in_warning", "object")
        checks.check_river(state, path, river_version)
        packages = {"river", path.partition(".")[0]}
        params = {name: codec.decode(value, packages) for name, value in state["params"].items()}
        self = cls(path, params)
        self._n_seen = checks.whole("n_seen", state["n_seen"], low=0, high=2**63)
        self._past, self._in_warning = Past.from_state(state["past"]), state["in_warning"]
        self._detector = codec.decode(state["object"], packages)
        if type(self._detector) is not self._class:
            raise ValueError(f"this state of {path} holds a {type(self._detector).__name__}")
        return self


def _detector_class(path: str) -> type[Any]:
    """Return the class at an import path."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"{path!r} is not an import path such as 'river.drift.KSWIN'")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {path}: {error}; check the path") from None
    is_detector = isinstance(found, type) and issubclass(found, DriftDetector | BinaryDriftDetector)
    # River's abstract classes can be made too; they would never alarm.
    if not is_detector or getattr(found.update, "__isabstractmethod__", False):
        raise ValueError(
            f"{path} is not a drift detector; give the path of a subclass of "
            f"river.base.DriftDetector or river.base.BinaryDriftDetector"
        )
    detector_class: type[Any] = found
    return detector_class


def _alarm(index: int, kind: AlarmKind, past: Past) -> Alarm:
    """Return an alarm after `past`, whose last value is the one at `index`."""
    split = past.clearest_split()
    direction: Direction = "none"
    onset, mean_before, mean_after = index, past.mean, math.nan
    if split is not None and split.clarity >= _CLEAR:
        direction = "up" if split.mean_after > split.mean_before else "down"
        onset = index + 1 - split.n_after
        mean_before, mean_after = split.mean_before, split.mean_after
    return Alarm(
        index=index,
        kind=kind,
        direction=direction,
        statistic=math.nan,
        threshold=math.nan,
        mean_before=mean_before,
        mean_after=mean_after,
        onset=onset,
    )
