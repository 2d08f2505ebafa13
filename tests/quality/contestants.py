"""Who is measured: our detectors, River's, CapyMOA's where it is installed, and two dummies."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from streamgauge.detectors import make_detector

if TYPE_CHECKING:
    from collections.abc import Callable

OURS, RIVER, CAPYMOA, DUMMY = "streamgauge", "River", "CapyMOA", "dummy"
# What each takes; `streams.Source.values` says what there is.
FITS = {
    "bits": {"bits"},
    "unit": {"bits", "unit"},
    "squashed": {"bits", "unit", "real"},
    "real": {"bits", "unit", "real"},
    "unbounded": {"real"},
}
# Values by whose median size the others are squashed, as in `streamgauge.stream.signals.loss.ScaledAbsoluteError`.
N_SCALE = 1000
# A detector that does not run compiled is measured on at most so many values and changes.
SLOW = (1_000_000, 100)


@dataclass(frozen=True)
class Contestant:
    """A way to detect changes.

    Attributes:
        family: whose algorithm it is.
        make: `make(source)` gives a new detector; only one that is told its baseline looks at
            the source.
        takes: `bits`; numbers of the `unit` interval; the same, and others `squashed` to it; any
            `real` ones; or only `unbounded` ones.
        most: values and changes that it is measured on at the most.
        false_alarm_every: values per false alarm, where it promises a rate.
        rho: the correlation up to which it promises that.
        is_told: whether it knows the baseline.
    """

    name: str
    family: str
    make: Callable = field(repr=False)
    takes: str = "real"
    most: tuple[float, float] = (np.inf, np.inf)
    false_alarm_every: float | None = None
    rho: float = 0.0
    is_told: bool = False

    def fits(self, source):
        return source.values in FITS[self.takes]

    @property
    def scores_errors(self):
        """Whether it can watch a learner's errors, whose rate nobody knows beforehand."""
        return not self.is_told and self.takes != "unbounded"

    def promises(self, source):
        return self.false_alarm_every is not None and source.rho <= self.rho

    def detector(self, source):
        """A new detector for numbers of a source."""
        detector = self.make(source)
        if self.takes == "squashed" and source.values == "real":
            return Squashed(detector)
        return detector


class Own:
    """A detector of this project."""

    def __init__(self, kind, **params):
        self.detector = make_detector(kind, params)

    def drifts(self, xs):
        """Positions in an array at which a drift is found."""
        n_before = self.detector.n_seen
        alarms = self.detector.update_many(xs)
        return np.array([a.index - n_before for a in alarms if a.kind == "drift"], dtype=np.int64)

    def is_worse(self, x):
        """Takes one value; whether there is a drift that is no improvement."""
        alarm = self.detector.update(x)
        return alarm is not None and alarm.kind == "drift" and alarm.direction != "down"


class OneByOne:
    """A detector that takes one value at a time and does not say in which direction it moved."""

    def drifts(self, xs):
        take = self.is_worse
        found = [i for i, x in enumerate(xs.tolist()) if take(x)]
        return np.array(found, dtype=np.int64)


class FromRiver(OneByOne):
    """A detector of River, as it is."""

    def __init__(self, path, **params):
        module, _, name = path.rpartition(".")
        self.detector = getattr(importlib.import_module(module), name)(**params)

    def is_worse(self, x):
        self.detector.update(x)
        return self.detector.drift_detected


class FromCapyMOA(OneByOne):
    """A detector of CapyMOA, made anew after each alarm, as its own drift classifiers do."""

    def __init__(self, name):
        self.make = getattr(importlib.import_module("capymoa.drift.detectors"), name)
        self.detector = self.make()

    def is_worse(self, x):
        self.detector.add_element(x)
        found = self.detector.detected_change()
        if found:
            self.detector = self.make()
        return found


class Squashed:
    """Makes numbers losses in [0, 1], as if they were the errors of a regression."""

    def __init__(self, detector):
        self.detector = detector
        self.scale = None

    def drifts(self, xs):
        sizes = np.abs(xs)
        if self.scale is None:
            self.scale = np.median(sizes[:N_SCALE])
        return self.detector.drifts(sizes / (sizes + self.scale))


class Always:
    """Finds a drift in every value."""

    def drifts(self, xs):
        return np.arange(len(xs))

    def is_worse(self, x):
        return True


class Never:
    """Finds none."""

    def drifts(self, xs):
        return np.array([], dtype=np.int64)

    def is_worse(self, x):
        return False


def own(name, family, kind, takes, /, *, told=None, **params):
    """A detector of this project, where `told` names the parameter that is the baseline."""

    def make(source):
        return Own(kind, **params, **({told: source.mean} if told else {}))

    every = params.get("false_alarm_every", 100_000) if kind.endswith("ESR") else None
    is_for_dependent = kind == "MixtureESR" and params.get("autocorrelated", True)
    return Contestant(
        name,
        family,
        make,
        takes,
        false_alarm_every=every,
        rho=0.3 if is_for_dependent else 0.0,
        is_told=told is not None,
    )


def rivers(path, takes, most, **params):
    """A detector of River that alarms at other indices than ours of that name."""
    name = f"{path.rpartition('.')[2]} of River"
    return Contestant(name, RIVER, lambda _: FromRiver(path, **params), takes, most)


def capymoa():
    """CapyMOA's detectors, where it is installed."""
    if find_spec("capymoa") is None:
        return []
    takes = {
        "ADWIN": "real",
        "CUSUM": "real",
        "DDM": "bits",
        "EWMAChart": "bits",
        "GeometricMovingAverage": "real",
        "HDDMAverage": "unit",
        "HDDMWeighted": "unit",
        "PageHinkley": "real",
        "RDDM": "bits",
        "SEED": "real",
        "STEPD": "bits",
    }
    return [
        Contestant(
            f"{name} of CapyMOA", CAPYMOA, lambda _, name=name: FromCapyMOA(name), what, SLOW
        )
        for name, what in takes.items()
    ]


# River's names stand for our compiled detectors where these alarm at River's indices, which
# `tests/detectors/test_parity.py` checks.
CONTESTANTS = {
    contestant.name: contestant
    for contestant in [
        own("e-SR", OURS, "MixtureESR", "squashed"),
        own("e-SR, every 10,000", OURS, "MixtureESR", "squashed", false_alarm_every=10_000),
        own("e-SR, known baseline", OURS, "MixtureESR", "unit", told="baseline"),
        own(
            "e-SR, known, independent",
            OURS,
            "MixtureESR",
            "unit",
            told="baseline",
            autocorrelated=False,
        ),
        own("conformal e-SR", OURS, "ConformalESR", "real"),
        own("conformal e-SR, location", OURS, "ConformalESR", "real", detects="location"),
        own("conformal e-SR, every 10,000", OURS, "ConformalESR", "real", false_alarm_every=10_000),
        own("FOCuS", OURS, "FOCuS", "unit"),
        own("FOCuS, gaussian", OURS, "FOCuS", "unbounded", family="gaussian"),
        own("ADWIN", RIVER, "ADWIN", "real"),
        own("ADWIN, shrinking", OURS, "ADWIN", "real", on_drift="shrink"),
        own("ADWIN, delta 2e-6", RIVER, "ADWIN", "real", delta=2e-6),
        own("PageHinkley", RIVER, "PageHinkley", "real"),
        own("PageHinkley, threshold 150", RIVER, "PageHinkley", "real", threshold=150.0),
        own("DDM", RIVER, "DDM", "bits"),
        own("EDDM", RIVER, "EDDM", "bits"),
        own("FHDDM", RIVER, "FHDDM", "bits"),
        own("HDDM_A", RIVER, "HDDM_A", "bits"),
        own("HDDM_W", RIVER, "HDDM_W", "bits"),
        own("KSWIN", RIVER, "KSWIN", "real"),
        own("KSWIN, alpha 1e-4", RIVER, "KSWIN", "real", alpha=1e-4),
        # Theirs takes ones for successes.
        rivers("river.drift.binary.FHDDM", "bits", SLOW),
        *capymoa(),
        Contestant("always", DUMMY, lambda _: Always()),
        Contestant("never", DUMMY, lambda _: Never()),
    ]
}
