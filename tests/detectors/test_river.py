"""`RiverDetector`: import paths, warnings, seeds, binary values and failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import river.drift
from river.base import DriftAndWarningDetector, DriftDetector

from streamgauge.detectors import DetectorError, RiverDetector, detector_from_state

HERE = __name__


class Scripted(DriftAndWarningDetector):
    """Takes 1 for a warning, 2 for a drift, 3 for both."""

    def update(self, x: float) -> None:
        self._drift_detected = x in (2, 3)
        self._warning_detected = x in (1, 3)


class Unkeepable(DriftDetector):
    def __init__(self) -> None:
        super().__init__()
        self.transform = lambda x: x

    def update(self, x: float) -> None: ...


def scripted(*xs: float) -> list[tuple[int, str]]:
    alarms = RiverDetector(f"{HERE}.Scripted").update_many(np.array(xs, dtype=float))
    return [(alarm.index, alarm.kind) for alarm in alarms]


def test_a_warning_is_told_when_the_zone_is_entered() -> None:
    assert scripted(0, 1, 1, 1, 0, 1, 1) == [(1, "warning"), (5, "warning")]


def test_a_drift_wins_over_a_warning_and_ends_the_zone() -> None:
    assert scripted(0, 3, 0) == [(1, "drift")]
    assert scripted(1, 1, 2, 1, 1) == [(0, "warning"), (2, "drift"), (3, "warning")]
    assert scripted(1, 3, 1) == [(0, "warning"), (1, "drift"), (2, "warning")]


def test_the_zone_is_remembered_in_the_state() -> None:
    detector: Any = RiverDetector(f"{HERE}.Scripted")
    assert detector.update(1).kind == "warning"
    detector = detector_from_state(detector.state())
    assert detector.update(1) is None


def test_rebaseline_leaves_the_zone() -> None:
    detector = RiverDetector(f"{HERE}.Scripted")
    assert detector.update(1)
    detector.rebaseline()
    assert detector.update(1)


def test_an_alarm_without_a_clear_change_makes_nothing_up() -> None:
    detector = RiverDetector(f"{HERE}.Scripted")
    first, second, third = detector.update_many(np.array([0.0, 1.0, 0.5, 2.0, 2.0]))
    assert (first.index, first.kind, first.mean_before) == (1, "warning", 0.5)
    assert (second.index, second.kind, second.mean_before) == (3, "drift", 0.875)
    assert (third.index, third.mean_before) == (4, 2.0)
    for alarm in (first, second, third):
        assert alarm.direction == "none"
        assert alarm.onset == alarm.index
        assert all(math.isnan(x) for x in (alarm.statistic, alarm.threshold, alarm.mean_after))


@pytest.mark.parametrize(("before", "after", "direction"), [(0.2, 0.9, "up"), (0.9, 0.2, "down")])
def test_an_alarm_says_which_way_and_since_when_the_mean_has_gone(
    before: float, after: float, direction: str
) -> None:
    detector = RiverDetector(f"{HERE}.Scripted")
    # The 2 is the drift, and a value like any other.
    first, second = detector.update_many(
        np.array([before] * 64 + [after] * 31 + [2] + [before] * 64 + [after] * 47 + [2.0])
    )
    for alarm, start in ((first, 0), (second, 96)):
        assert alarm.direction == direction
        assert abs(alarm.onset - start - 64) <= 4
        n_after = alarm.index + 1 - alarm.onset
        xs = [before] * 64 + [after] * (alarm.index - start - 64) + [2]
        assert alarm.mean_before == pytest.approx(np.mean(xs[:-n_after]))
        assert alarm.mean_after == pytest.approx(np.mean(xs[-n_after:]))


def test_kswin_without_a_seed_gives_the_same_alarms_each_time() -> None:
    xs = np.random.default_rng(3).normal(0, 1, 250)
    path, window = "river.drift.KSWIN", {"alpha": 0.2, "window_size": 30, "stat_size": 10}
    seeded = RiverDetector(path, {**window, "seed": 0}).update_many(xs)
    assert seeded
    for params in (window, {**window, "seed": None}):
        assert repr(RiverDetector(path, params).update_many(xs)) == repr(seeded)
    other = RiverDetector(path, {**window, "seed": 1}).update_many(xs)
    assert repr(other) != repr(seeded)


def test_parameters_that_are_lists_are_kept() -> None:
    window = [0.5, 0.25]
    detector: Any = RiverDetector("river.drift.KSWIN", {"window": window})
    assert detector_from_state(detector.state()).state() == detector.state()


@pytest.mark.parametrize("name", ["DDM", "EDDM", "FHDDM", "HDDMA", "HDDMW"])
@pytest.mark.parametrize("bad", [0.5, 2.0, -1.0])
def test_binary_detectors_take_bits_only(name: str, bad: float) -> None:
    detector = RiverDetector(f"river.drift.binary.{name}")
    detector.update_many(np.array([0.0, 1.0, 1.0]))
    before = detector.state()
    with pytest.raises(ValueError, match="takes 0 or 1, got"):
        detector.update(bad)
    with pytest.raises(ValueError, match="takes 0 or 1, got"):
        detector.update_many(np.array([0.0, 1.0, bad]))
    assert detector.state() == before


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("KSWIN", {}, "not an import path such as 'river.drift.KSWIN'"),
        ("", {}, "not an import path"),
        (".drift.KSWIN", {}, "not an import path"),
        ("river..KSWIN", {}, "not an import path"),
        ("river.drift.KSWINN", {}, "there is no river.drift.KSWINN.*check the path"),
        ("rivver.drift.KSWIN", {}, "No module named 'rivver'"),
        ("river.stats.Mean", {}, "not a drift detector; give the path of a subclass"),
        ("river.drift.binary", {}, "not a drift detector"),
        ("river.base.DriftDetector", {}, "not a drift detector"),
        ("river.drift.KSWIN", {"alfa": 1}, "'alfa'.*its parameters: alpha, window_size"),
        ("river.drift.KSWIN", {"alpha": 2}, "river.drift.KSWIN: Alpha must be between 0 and 1"),
        ("river.drift.KSWIN", {"alpha": "x"}, "river.drift.KSWIN: "),
        (f"{HERE}.Unkeepable", {}, "its state cannot be kept"),
    ],
)
def test_refuses_what_is_no_detector(path: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RiverDetector(path, params)


def test_a_failure_inside_river_is_not_taken_for_a_bad_value() -> None:
    # River draws 30 of the 20 values that are not recent.
    detector = RiverDetector("river.drift.KSWIN", {"window_size": 50, "stat_size": 30})
    with pytest.raises(DetectorError, match=r"river\.drift\.KSWIN failed at value 49: ValueError"):
        detector.update_many(np.zeros(60))
    assert detector.n_seen == 49


class Brittle(Scripted):
    """A scripted one that breaks on 9, and is of no use from then on."""

    broken = False

    def update(self, x: float) -> None:
        if x == 9 or self.broken:
            self.broken = True
            raise ZeroDivisionError
        super().update(x)


def test_a_broken_detector_tells_what_it_had_found_and_goes_on_from_a_new_baseline() -> None:
    detector = RiverDetector(f"{HERE}.Brittle")
    with pytest.raises(DetectorError, match="failed at value 3: ZeroDivisionError") as caught:
        detector.update_many(np.array([0, 2, 1, 9, 0, 2.0]))
    told = [(alarm.index, alarm.kind) for alarm in caught.value.alarms]
    assert (told, caught.value.index, detector.n_seen) == ([(1, "drift"), (2, "warning")], 3, 3)
    detector.rebaseline()
    assert [(a.index, a.kind) for a in detector.update_many(np.array([0, 2.0]))] == [(4, "drift")]


def test_a_state_holds_only_its_own_detector() -> None:
    ddm = RiverDetector("river.drift.binary.DDM").state()
    kswin = RiverDetector("river.drift.KSWIN").state()
    with pytest.raises(ValueError, match="holds a KSWIN"):
        RiverDetector.from_state({**ddm, "object": kswin["object"]})
    foreign = {"class": "subprocess:Popen", "newargs": [], "state": None}
    with pytest.raises(ValueError, match="subprocess:Popen is not a class of river"):
        RiverDetector.from_state({**ddm, "object": foreign})


def test_the_params_given_are_not_shared() -> None:
    params = {"alpha": 0.01}
    detector = RiverDetector("river.drift.KSWIN", params)
    params["alpha"] = 5
    detector.rebaseline()
    assert detector.state()["params"]["alpha"] == 0.01
    assert isinstance(detector._detector, river.drift.KSWIN)
