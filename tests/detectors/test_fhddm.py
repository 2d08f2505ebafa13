"""What FHDDM says about a change, and which way round it takes its input."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import river.drift.binary
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import FHDDM
from tests.detectors.test_binary_parity import ours

runs = st.lists(st.tuples(st.floats(0, 1), st.integers(20, 200)), min_size=2, max_size=4)


def drifts_of_river(xs: list[float]) -> list[int]:
    theirs = river.drift.binary.FHDDM()
    return [i for i, x in enumerate(xs) if (theirs.update(x), theirs.drift_detected)[1]]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), segments=runs, short=st.none() | st.integers(1, 30))
def test_describes_the_window_that_found_the_change(
    seed: int, segments: list[tuple[float, int]], short: int | None
) -> None:
    rng = random.Random(seed)
    xs = np.array([float(rng.random() < p) for p, n in segments for _ in range(n)])
    size, confidence = 30, 0.01
    alarms = FHDDM(size, confidence, short).update_many(xs)
    event(f"{len(alarms)} alarms")
    baseline = 0
    for alarm in alarms:
        seen = xs[baseline : alarm.index + 1]
        width = alarm.index + 1 - alarm.onset
        assert width in (size, short)
        rates = [seen[i - width : i].mean() for i in range(size, len(seen) + 1)]
        assert alarm.direction == "up"
        assert alarm.kind == "drift"
        assert alarm.mean_after == pytest.approx(rates[-1])
        assert alarm.mean_before == pytest.approx(seen[:-width].mean())
        assert alarm.statistic == pytest.approx(rates[-1] - min(rates))
        epsilon = math.sqrt(math.log(1 / confidence) / (2 * width))
        assert alarm.statistic > alarm.threshold == pytest.approx(epsilon)
        baseline = alarm.index + 1


def test_ones_are_errors_to_us_and_right_answers_to_river() -> None:
    rng = random.Random(2)
    worse = [int(rng.random() < p) for p in [0.1] * 500 + [0.7] * 500]
    better = [1 - x for x in worse]
    assert drifts_of_river(worse) == []
    [drift] = ours(FHDDM(), worse)
    assert drift[0] > 500
    assert drifts_of_river(better) == [drift[0]]
    assert ours(FHDDM(), better) == []


def test_nan_deafens_river_and_not_us() -> None:
    # Right answers first, in River's sense.
    before, after = [1.0] * 200, [0.0] * 200
    assert drifts_of_river([*before, *after])
    assert drifts_of_river([*before, math.nan, *after]) == []
    fhddm = FHDDM()
    fhddm.update_many(1 - np.array(before))
    with pytest.raises(ValueError, match="finite"):
        fhddm.update(math.nan)
    assert ours(fhddm, [1] * 200)


def test_the_short_window_finds_a_large_change_sooner() -> None:
    xs = [0] * 300 + [1] * 60
    [(long, _)] = ours(FHDDM(), xs)
    [(short, _)] = ours(FHDDM(short_window_size=10), xs)
    assert 300 < short < long


def test_readings_are_those_of_the_long_window() -> None:
    fhddm = FHDDM(sliding_window_size=4, confidence_level=0.01)
    threshold = math.sqrt(math.log(100) / 8)
    fhddm.update_many(np.zeros(3))
    assert fhddm.readings() == {"statistic": 0, "threshold": threshold, "mean": 0}
    fhddm.update_many(np.array([0.0, 1.0, 0.0]))
    assert fhddm.readings() == {"statistic": 0.25, "threshold": threshold, "mean": 0.25}


@pytest.mark.parametrize("oldest", [-1, 100])
def test_refuses_a_row_whose_position_is_out_of_range(oldest: int) -> None:
    state = FHDDM().state()
    state["row"][6] = oldest
    with pytest.raises(ValueError, match="damaged"):
        FHDDM.from_state(state)


@pytest.mark.parametrize(
    "params",
    [
        {"sliding_window_size": 0},
        {"confidence_level": 0},
        {"confidence_level": 2},
        {"short_window_size": 0},
        {"short_window_size": 101},
    ],
)
def test_refuses_parameters_out_of_range(params: dict[str, float]) -> None:
    [name] = params
    with pytest.raises(ValueError, match=name):
        FHDDM(**params)


def test_the_parameters_are_rivers() -> None:
    assert FHDDM().state()["params"] == river.drift.binary.FHDDM()._get_params()
