"""What DDM says about a change, and what it makes of the streams that River's own is odd on."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import river.drift.binary
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import DDM
from tests.detectors.test_binary_parity import of_river, ours

runs = st.lists(st.tuples(st.floats(0, 1), st.integers(20, 300)), min_size=2, max_size=4)


def bits(seed: int, *segments: tuple[float, int]) -> np.ndarray:
    rng = random.Random(seed)
    return np.array([float(rng.random() < p) for p, n in segments for _ in range(n)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), segments=runs)
def test_describes_the_rates_before_and_after_the_minimum(
    seed: int, segments: list[tuple[float, int]]
) -> None:
    xs = bits(seed, *segments)
    alarms = DDM(warm_start=20).update_many(xs)
    event(f"{len(alarms)} alarms")
    baseline = 0
    for alarm in alarms:
        seen = xs[baseline : alarm.index + 1]
        n = np.arange(1, len(seen) + 1)
        p = np.cumsum(seen) / n
        s = np.sqrt(p * (1 - p) / n)
        at = alarm.onset - baseline - 1
        assert 20 <= at < len(seen) - 1
        assert (p + s)[20:].min() == pytest.approx((p + s)[at])
        assert alarm.direction == "up"
        assert alarm.statistic == pytest.approx((p + s)[-1])
        deviations = 3 if alarm.kind == "drift" else 2
        assert alarm.threshold == pytest.approx(p[at] + deviations * s[at])
        assert alarm.statistic > alarm.threshold
        assert alarm.mean_before == pytest.approx(seen[: at + 1].mean())
        assert alarm.mean_after == pytest.approx(seen[at + 1 :].mean())
        if alarm.kind == "drift":
            baseline = alarm.index + 1


def test_the_onset_is_early_rather_than_late() -> None:
    late = []
    for seed in range(40):
        alarms = DDM(warm_start=200).update_many(bits(seed, (0.1, 1000), (0.5, 500)))
        late += [alarm.onset - 1000 for alarm in alarms if alarm.kind == "drift"][:1]
    assert len(late) == 40
    assert max(late) <= 5


def test_an_error_after_a_minimum_without_errors_is_a_drift_as_in_river() -> None:
    xs = [0] * 31 + [1]
    assert ours(DDM(), xs) == of_river("DDM", {}, xs) == [(31, "drift")]


@pytest.mark.parametrize("x", [0, 1])
def test_a_constant_stream_raises_nothing(x: int) -> None:
    assert ours(DDM(), [x] * 1000) == of_river("DDM", {}, [x] * 1000) == []


def test_nan_deafens_river_and_not_us() -> None:
    before, after = [0, 1] * 100, [1] * 200
    assert of_river("DDM", {}, [*before, math.nan, *after]) == []  # type: ignore[list-item]
    ddm = DDM()
    ddm.update_many(np.array(before, dtype=float))
    with pytest.raises(ValueError, match="finite"):
        ddm.update(math.nan)
    assert ours(ddm, after)[-1][1] == "drift"


def test_readings_follow_the_statistic() -> None:
    ddm = DDM(warm_start=2)
    assert ddm.readings() == {"statistic": 0, "threshold": 0, "mean": 0}
    ddm.update_many(np.array([1.0, 0.0, 0.0, 0.0]))
    s = math.sqrt(0.25 * 0.75 / 4)
    expected = {"statistic": 0.25 + s, "threshold": 0.25 + 3 * s, "mean": 0.25}
    assert ddm.readings() == pytest.approx(expected)


@pytest.mark.parametrize(
    "params",
    [
        {"warm_start": -1},
        {"warm_start": 2.5},
        {"warning_threshold": 0.5},
        {"drift_threshold": 0.5},
        {"drift_threshold": math.nan},
    ],
)
def test_refuses_parameters_out_of_range(params: dict[str, float]) -> None:
    [name] = params
    with pytest.raises(ValueError, match=name):
        DDM(**params)


def test_the_parameters_are_rivers() -> None:
    theirs = river.drift.binary.DDM()._get_params()
    assert DDM().state()["params"] == theirs
