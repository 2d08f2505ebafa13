"""FOCuS: what it finds is what a search over all starts finds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.detectors import FOCuS, MixtureESR, make_detector
from streamgauge.detectors.focus import _CAPACITY, _FALLS, _RISES, Family, threshold_for

values = {"bernoulli": st.floats(0, 1), "gaussian": st.floats(-50, 50)}


def log_likelihood(family: Family, xs: np.ndarray, mean: float) -> float:
    if family == "gaussian":
        return float(-((xs - mean) ** 2).sum() / 2)
    likelihood = 0.0
    for x in xs:
        likelihood += x * math.log(mean) if x > 0 else 0.0
        likelihood += (1 - x) * math.log(1 - mean) if x < 1 else 0.0
    return likelihood


def by_search(family: Family, xs: np.ndarray, baseline: float | None) -> float:
    """The largest log likelihood ratio over all starts."""

    def fitted(part: np.ndarray) -> float:
        return log_likelihood(family, part, float(np.clip(part.mean(), 1e-300, 1 - 1e-16)))

    if family == "gaussian":

        def fitted(part: np.ndarray) -> float:
            return log_likelihood(family, part, float(part.mean()))

    if baseline is not None:
        whole = log_likelihood(family, xs, baseline)
        return max(
            log_likelihood(family, xs[:start], baseline) + fitted(xs[start:]) - whole
            for start in range(len(xs))
        )
    starts = range(1, len(xs))
    return max((fitted(xs[:t]) + fitted(xs[t:]) - fitted(xs) for t in starts), default=0.0)


@pytest.mark.parametrize("family", ["bernoulli", "gaussian"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_statistic_is_the_largest_over_all_starts(family: Family, data: st.DataObject) -> None:
    value = st.sampled_from([0.0, 1.0]) | values[family]
    xs = np.array(data.draw(st.lists(value, min_size=1, max_size=20)))
    baseline = data.draw(st.none() | st.floats(0.05, 0.95))
    detector = FOCuS(family, baseline, threshold=1e9)
    detector.update_many(xs)
    expected = by_search(family, xs, baseline)
    assert detector.readings()["statistic"] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("family", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("baseline", [None, 0.2])
def test_alarms_at_the_first_value_at_which_the_statistic_reaches_the_threshold(
    family: Family, baseline: float | None
) -> None:
    """The bound that spares the logarithms spares no alarm."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        xs = (rng.random(400) < np.where(np.arange(400) < 250, 0.2, 0.5)).astype(float)
        detector, silent = FOCuS(family, baseline, threshold=6), FOCuS(family, baseline)
        statistics = []
        for x in xs:
            silent.update(x)
            statistics.append(silent.readings()["statistic"])
            if statistics[-1] >= 6:
                break
        alarms = detector.update_many(xs[: len(statistics)])
        assert [alarm.index for alarm in alarms] == [
            i for i, statistic in enumerate(statistics) if statistic >= 6
        ]
        assert [alarm.statistic for alarm in alarms] == [s for s in statistics if s >= 6]


def test_the_onset_and_the_size_are_those_of_the_change() -> None:
    off, sizes = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        detector = FOCuS(threshold=1e9)
        detector.update_many((rng.random(3_000) < 0.2).astype(float))
        detector.update_many((rng.random(300) < 0.4).astype(float))
        change = detector.estimate()
        assert change is not None
        off.append(abs(change.onset - 3_000))
        sizes.append(change.mean_after - change.mean_before)
    assert np.median(off) <= 12
    assert np.median(sizes) == pytest.approx(0.2, abs=0.02)


def test_size_is_in_the_unit_of_the_values() -> None:
    xs = np.random.default_rng(2).normal(1_000, 20, 600) - 100 * (np.arange(600) >= 500)
    alarm = FOCuS("gaussian", sd=20).update_many(xs)[0]
    assert (alarm.direction, alarm.onset) == ("down", 500)
    assert alarm.mean_before == pytest.approx(1_000, abs=4)
    assert alarm.mean_after == pytest.approx(900, abs=25)
    known = FOCuS("gaussian", baseline=1_000, sd=20).update_many(xs)[0]
    assert (known.direction, known.onset) == ("down", 500)


def test_before_a_second_value_there_is_no_estimate() -> None:
    detector = FOCuS()
    assert detector.estimate() is None
    detector.update(1)
    assert detector.estimate() is None


def test_candidates_are_bounded_and_the_dropped_counted() -> None:
    """Of values that rise steadily every start is a candidate."""
    xs = np.linspace(0, 1, 5_000)
    bounded = FOCuS("gaussian", threshold=1e9)
    bounded.update_many(xs)
    row = bounded.state()["row"]
    assert max(row[_RISES - 1], row[_FALLS - 1]) == _CAPACITY
    assert bounded.readings()["dropped"] == 5_000 - (_CAPACITY - 1)
    expected = max(
        t * (5_000 - t) / 5_000 * (xs[:t].mean() - xs[t:].mean()) ** 2 / 2 for t in range(1, 5_000)
    )
    assert bounded.readings()["statistic"] == pytest.approx(expected, rel=0.01)


N_VALUES = 1_000_000
STREAMS: dict[str, tuple[dict[str, Any], float]] = {
    "bits .5": ({}, 0.5),
    "bits .2": ({"baseline": 0.2}, 0.2),
    "gaussian": ({"family": "gaussian"}, math.nan),
}


def n_false_alarms(stream: str, every: int, **more: Any) -> int:
    params, p = STREAMS[stream]
    rng = np.random.default_rng(8)
    gaussian = params.get("family") == "gaussian"
    xs = rng.standard_normal(N_VALUES) if gaussian else (rng.random(N_VALUES) < p).astype(float)
    return len(FOCuS(**params, false_alarm_every=every, **more).update_many(xs))


# 200 are expected at most; a Poisson count of that mean exceeds 240 once in 300 times.
@pytest.mark.parametrize("stream", STREAMS)
def test_false_alarms_are_as_calibrated(stream: str) -> None:
    assert n_false_alarms(stream, 5_000) <= 240


def test_a_threshold_too_low_by_half_a_nat_is_noticed() -> None:
    assert n_false_alarms("gaussian", 5_000, threshold=threshold_for(5_000) - 0.5) > 240


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"family": "poisson"}, "family is one of bernoulli, gaussian"),
        ({"baseline": 1.5}, "baseline is a number above 0 and below 1"),
        ({"sd": 2.0}, "sd is of gaussian values only"),
        ({"family": "gaussian", "sd": 0}, "sd is a number from 1e-30"),
        ({"threshold": 0}, "threshold is a number above 0"),
        ({"false_alarm_every": 1}, "false_alarm_every is a whole number from 2"),
    ],
)
def test_refuses_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_detector("FOCuS", params)


@pytest.mark.parametrize("bad", [-0.5, 1.5])
def test_bernoulli_refuses_values_that_are_not_from_0_to_1(bad: float) -> None:
    with pytest.raises(ValueError, match="takes numbers from 0 to 1"):
        FOCuS().update(bad)
    FOCuS("gaussian").update(bad)


def test_the_largest_values_leave_no_infinity() -> None:
    detector = FOCuS("gaussian", sd=1e-30)
    for x in [1e100, -1e100] * 20:
        alarm = detector.update(x)
        assert alarm is None or math.isfinite(alarm.statistic)
        assert np.isfinite(detector.state()["row"]).all()


@pytest.mark.parametrize("count", [-1.0, 2.5, _CAPACITY + 1.0, 1e300, math.inf])
def test_refuses_a_damaged_count_of_candidates(count: float) -> None:
    detector = FOCuS()
    detector.update_many(np.array([0.0, 1.0, 0.0]))
    for at in (_RISES, _FALLS):
        state = detector.state()
        state["row"][at - 1] = count
        with pytest.raises(ValueError, match="damaged"):
            FOCuS.from_state(state)


def test_beside_the_alarm_detector_it_tells_the_onset() -> None:
    rng = np.random.default_rng(9)
    xs = (rng.random(4_000) < np.where(np.arange(4_000) < 3_000, 0.1, 0.25)).astype(float)
    alarm = MixtureESR().update_many(xs)[0]
    beside = FOCuS(threshold=1e9)
    beside.update_many(xs[: alarm.index + 1])
    change = beside.estimate()
    assert change is not None
    assert abs(change.onset - 3_000) <= 30
