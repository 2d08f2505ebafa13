"""What HDDM-A says about a change, on either side."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import river.drift.binary
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import HDDM_A
from tests.detectors.test_binary_parity import of_river, ours

runs = st.lists(st.tuples(st.floats(0, 1), st.integers(20, 300)), min_size=2, max_size=4)


def bits(seed: int, *segments: tuple[float, int]) -> np.ndarray:
    rng = random.Random(seed)
    return np.array([float(rng.random() < p) for p, n in segments for _ in range(n)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), segments=runs, two_sided=st.booleans())
def test_describes_the_means_before_and_after_the_cut_point(
    seed: int, segments: list[tuple[float, int]], two_sided: bool
) -> None:
    xs = bits(seed, *segments)
    alarms = HDDM_A(two_sided_test=two_sided).update_many(xs)
    event(f"{len(alarms)} alarms")
    baseline = 0
    for alarm in alarms:
        seen = xs[baseline : alarm.index + 1]
        n_total, n_cut = len(seen), alarm.onset - baseline
        n = np.arange(1, n_total + 1)
        sign = 1 if alarm.direction == "up" else -1
        bounds = sign * np.cumsum(seen) / n + np.sqrt(math.log(1000) / (2 * n))
        assert bounds[n_cut - 1] == pytest.approx(bounds.min())
        assert alarm.mean_before == pytest.approx(seen[:n_cut].mean())
        assert alarm.mean_after == pytest.approx(seen[n_cut:].mean())
        assert (alarm.mean_after > alarm.mean_before) == (sign == 1)
        assert alarm.statistic == pytest.approx(abs(seen.mean() - seen[:n_cut].mean()))
        confidence = 0.001 if alarm.kind == "drift" else 0.005
        weight = (n_total - n_cut) / (n_cut * n_total)
        assert alarm.threshold == pytest.approx(math.sqrt(weight / 2 * math.log(2 / confidence)))
        assert alarm.statistic >= alarm.threshold
        if alarm.kind == "drift":
            baseline = alarm.index + 1


@pytest.mark.parametrize(("before", "after", "direction"), [(0.1, 0.6, "up"), (0.6, 0.1, "down")])
def test_sees_rises_and_asked_for_falls(before: float, after: float, direction: str) -> None:
    for seed in range(10):
        xs = bits(seed, (before, 1000), (after, 400))
        drifts = [a for a in HDDM_A(two_sided_test=True).update_many(xs) if a.kind == "drift"]
        assert {alarm.direction for alarm in drifts} == {direction}
        assert any(abs(alarm.onset - 1000) < 400 for alarm in drifts)
        one_sided = [a for a in HDDM_A().update_many(xs) if a.kind == "drift"]
        assert bool(one_sided) == (direction == "up")


def test_nan_deafens_river_and_not_us() -> None:
    before, after = [0, 1] * 100, [1] * 200
    assert of_river("HDDM_A", {}, [*before, math.nan, *after]) == []  # type: ignore[list-item]
    hddm = HDDM_A()
    hddm.update_many(np.array(before, dtype=float))
    with pytest.raises(ValueError, match="finite"):
        hddm.update(math.nan)
    assert ours(hddm, after)[-1][1] == "drift"


@pytest.mark.parametrize("two_sided", [False, True])
def test_readings_reach_the_threshold_at_a_drift_and_not_before(two_sided: bool) -> None:
    xs = bits(4, (0.5, 500), (0.1 if two_sided else 0.9, 500))
    hddm = HDDM_A(two_sided_test=two_sided)
    [drift] = [a for a in HDDM_A(two_sided_test=two_sided).update_many(xs) if a.kind == "drift"]
    for x in xs[: drift.index]:
        assert hddm.update(x) is None or hddm.n_seen < drift.index + 1
        readings = hddm.readings()
        assert readings["statistic"] < readings["threshold"] or readings["threshold"] == 0
    assert readings["mean"] == pytest.approx(xs[: drift.index].mean())
    assert readings["statistic"] == pytest.approx(drift.statistic, rel=0.1)
    assert readings["threshold"] == pytest.approx(drift.threshold, rel=0.1)


@pytest.mark.parametrize(
    "params",
    [
        {"drift_confidence": 0},
        {"drift_confidence": 1.5},
        {"warning_confidence": -1},
        {"two_sided_test": 1},
    ],
)
def test_refuses_parameters_out_of_range(params: dict[str, float]) -> None:
    [name] = params
    with pytest.raises(ValueError, match=name):
        HDDM_A(**params)


def test_the_parameters_are_rivers() -> None:
    assert HDDM_A().state()["params"] == river.drift.binary.HDDMA()._get_params()
