"""What HDDM-W says about a change, on either side."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import river.drift.binary
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import HDDM_W
from tests.detectors.test_binary_parity import of_river, ours

LAMBDA = 0.05
runs = st.lists(st.tuples(st.floats(0, 1), st.integers(20, 300)), min_size=2, max_size=4)


def bits(seed: int, *segments: tuple[float, int]) -> np.ndarray:
    rng = random.Random(seed)
    return np.array([float(rng.random() < p) for p, n in segments for _ in range(n)])


def weighted(xs: np.ndarray) -> tuple[float, float]:
    """The weighted mean, and River's sum of squared weights."""
    mean, squares = xs[0], 1.0
    for x in xs[1:]:
        mean = LAMBDA * x + (1 - LAMBDA) * mean
    for _ in xs:
        squares = LAMBDA**2 + (1 - LAMBDA) ** 2 * squares
    return mean, squares


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), segments=runs, two_sided=st.booleans())
def test_describes_the_means_before_and_after_the_cut_point(
    seed: int, segments: list[tuple[float, int]], two_sided: bool
) -> None:
    xs = bits(seed, *segments)
    alarms = HDDM_W(two_sided_test=two_sided).update_many(xs)
    event(f"{len(alarms)} alarms")
    baseline = 0
    for alarm in alarms:
        before, after = xs[baseline : alarm.onset], xs[alarm.onset : alarm.index + 1]
        assert alarm.mean_before == pytest.approx(before.mean())
        assert alarm.mean_after == pytest.approx(after.mean())
        (mean, squares), (new_mean, new_squares) = weighted(before), weighted(after)
        assert alarm.direction == ("up" if new_mean > mean else "down")
        assert alarm.direction == "up" or two_sided
        assert alarm.statistic == pytest.approx(abs(new_mean - mean))
        confidence = 0.001 if alarm.kind == "drift" else 0.005
        bound = math.sqrt((squares + new_squares) * math.log(1 / confidence) / 2)
        assert alarm.statistic > alarm.threshold == pytest.approx(bound)
        if alarm.kind == "drift":
            baseline = alarm.index + 1


@pytest.mark.parametrize(("before", "after", "direction"), [(0.1, 0.6, "up"), (0.6, 0.1, "down")])
def test_sees_rises_and_asked_for_falls(before: float, after: float, direction: str) -> None:
    for seed in range(10):
        xs = bits(seed, (before, 300), (after, 300))
        drifts = [a for a in HDDM_W(two_sided_test=True).update_many(xs) if a.kind == "drift"]
        assert direction in {alarm.direction for alarm in drifts if alarm.index >= 300}
        one_sided = {alarm.direction for alarm in HDDM_W().update_many(xs)}
        assert one_sided <= {"up"}


def test_nan_deafens_river_and_not_us() -> None:
    before, after = [0, 1] * 100, [1] * 200
    assert of_river("HDDM_W", {}, [*before, math.nan, *after]) == []  # type: ignore[list-item]
    hddm = HDDM_W()
    hddm.update_many(np.array(before, dtype=float))
    with pytest.raises(ValueError, match="finite"):
        hddm.update(math.nan)
    assert ours(hddm, after)[-1][1] == "drift"


@pytest.mark.parametrize("two_sided", [False, True])
def test_readings_reach_the_threshold_at_a_drift_and_not_before(two_sided: bool) -> None:
    xs = bits(4, (0.5, 500), (0.0 if two_sided else 1.0, 500))
    hddm = HDDM_W(two_sided_test=two_sided)
    drift = next(a for a in HDDM_W(two_sided_test=two_sided).update_many(xs) if a.kind == "drift")
    for x in xs[: drift.index]:
        hddm.update(x)
        readings = hddm.readings()
        assert readings["statistic"] <= readings["threshold"]
    assert readings["mean"] == pytest.approx(weighted(xs[: drift.index])[0])
    assert readings["statistic"] == pytest.approx(drift.statistic, rel=0.2)
    assert readings["threshold"] == pytest.approx(drift.threshold, rel=0.1)


@pytest.mark.parametrize(
    "params",
    [
        {"drift_confidence": 0},
        {"warning_confidence": 2},
        {"lambda_val": 1.5},
        {"two_sided_test": "yes"},
    ],
)
def test_refuses_parameters_out_of_range(params: dict[str, float]) -> None:
    [name] = params
    with pytest.raises(ValueError, match=name):
        HDDM_W(**params)


def test_the_parameters_are_rivers() -> None:
    assert HDDM_W().state()["params"] == river.drift.binary.HDDMW()._get_params()
