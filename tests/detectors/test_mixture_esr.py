"""MixtureESR: its arithmetic, its false alarms, its delays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.detectors import MixtureESR, make_detector
from streamgauge.detectors.mixture_esr import _components

if TYPE_CHECKING:
    from collections.abc import Callable

N = 10_000


def bits(seed: int, *segments: tuple[float, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(n) < p for p, n in segments]).astype(float)


def by_definition(xs: list[float], baseline: float | None, sides: Any) -> list[float]:
    """Every statistic from the paper's sum over starts of products of factors."""
    bets, weights = _components(sides)
    statistics = []
    for n in range(1, len(xs) + 1):
        total = 0.0
        for bet, weight in zip(bets, weights, strict=True):
            for start in range(n):
                product = weight
                for i in range(start, n):
                    mean = (math.fsum(xs[:i]) + 0.5) / (i + 1) if baseline is None else baseline
                    c = bet * mean / (1 + bet * mean)
                    product *= 1 + c * (xs[i] / mean - 1)
                total += product
        statistics.append(total)
    return statistics


@settings(max_examples=25, deadline=None)
@given(
    xs=st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=12),
    baseline=st.none() | st.floats(0.001, 0.999),
    sides=st.sampled_from(["up", "down", "both"]),
)
def test_the_statistic_is_the_weighted_sum_over_all_starts(
    xs: list[float], baseline: float | None, sides: Any
) -> None:
    detector = MixtureESR(10**15, baseline, sides, autocorrelated=False)
    for x, expected in zip(xs, by_definition(xs, baseline, sides), strict=True):
        detector.update(x)
        assert detector.readings()["statistic"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sides", ["up", "down", "both"])
def test_weights_sum_to_one_and_bets_can_lose_no_more_than_is_staked(sides: Any) -> None:
    bets, weights = _components(sides)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-15)
    assert all(bet > -1 and weight >= 0 for bet, weight in zip(bets, weights, strict=True))
    assert all(
        weight == 0
        for bet, weight in zip(bets, weights, strict=True)
        if sides in {"up", "down"} and (bet > 0) != (sides == "up")
    )


@settings(max_examples=50, deadline=None)
@given(baseline=st.floats(0.001, 0.999), data=st.data())
def test_the_excess_over_the_count_is_a_martingale_under_the_baseline(
    baseline: float, data: st.DataObject
) -> None:
    """E[statistic] grows by exactly 1, for any distribution on two points with that mean."""
    past = data.draw(st.lists(st.floats(0, 1), max_size=8))
    low = data.draw(st.floats(0, baseline))
    high = data.draw(st.floats(baseline, 1).filter(lambda x: x > low))
    p_high = (baseline - low) / (high - low)

    def statistic(*xs: float) -> float:
        detector = MixtureESR(10**15, baseline, autocorrelated=False)
        detector.update_many(np.array(xs))
        return detector.readings()["statistic"]

    expected = p_high * statistic(*past, high) + (1 - p_high) * statistic(*past, low)
    assert expected == pytest.approx(statistic(*past) + 1, rel=1e-6)


def n_false_alarms(detector: MixtureESR, xs: np.ndarray) -> int:
    return len(detector.update_many(xs))


def autocorrelated_bits(rng: np.random.Generator, n: int) -> np.ndarray:
    """A Markov chain of mean .2 whose neighbours have correlation .3."""
    fresh = rng.random(n) >= 0.3
    since = np.maximum.accumulate(np.where(fresh, np.arange(n), 0))
    return (rng.random(n) < 0.2).astype(float)[since]


STATIONARY: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "bits .01": lambda rng, n: (rng.random(n) < 0.01).astype(float),
    "bits .2": lambda rng, n: (rng.random(n) < 0.2).astype(float),
    "bits .5": lambda rng, n: (rng.random(n) < 0.5).astype(float),
    "Beta(8, 32)": lambda rng, n: rng.beta(8, 32, n),
    "autocorrelated bits": autocorrelated_bits,
}
MEANS = {
    "autocorrelated bits": 0.2,
    "bits .01": 0.01,
    "bits .2": 0.2,
    "bits .5": 0.5,
    "Beta(8, 32)": 0.2,
}
N_VALUES = 2_000_000
# 200 false alarms are expected at most; a Poisson count of that mean exceeds 240 once in 300 times,
# and the streams are seeded.
N_MOST = 240


@pytest.mark.parametrize("stream", STATIONARY)
@pytest.mark.parametrize("known", [True, False], ids=["known", "plug-in"])
def test_false_alarms_are_no_more_than_promised(stream: str, known: bool) -> None:
    xs = STATIONARY[stream](np.random.default_rng(20), N_VALUES)
    detector = MixtureESR(N, baseline=MEANS[stream] if known else None)
    assert n_false_alarms(detector, xs) <= N_MOST


def test_a_threshold_too_low_by_a_third_is_noticed() -> None:
    xs = STATIONARY["bits .2"](np.random.default_rng(20), N_VALUES)
    assert n_false_alarms(MixtureESR(2 * N // 3, baseline=0.2), xs) > N_MOST


def test_autocorrelation_that_is_not_accounted_for_is_noticed() -> None:
    xs = autocorrelated_bits(np.random.default_rng(20), N_VALUES)
    assert n_false_alarms(MixtureESR(N, autocorrelated=False), xs) > 5 * N_MOST


def test_a_wrong_baseline_is_noticed() -> None:
    xs = STATIONARY["bits .2"](np.random.default_rng(20), N_VALUES)
    assert n_false_alarms(MixtureESR(N, baseline=0.18), xs) > N_MOST


def delays(n_seeds: int, baseline: float | None, before: float, after: float) -> list[int]:
    """Values from the change at 10,000 to its alarm, of the streams without a false alarm."""
    found = []
    for seed in range(n_seeds):
        alarm = next(
            iter(
                MixtureESR(baseline=baseline).update_many(
                    bits(seed, (before, 10_000), (after, 5_000))
                )
            ),
            None,
        )
        assert alarm is not None
        if alarm.index >= 10_000:
            found.append(alarm.index - 9_999)
    return found


# Medians of 201 streams are off by about 12 values.
@pytest.mark.parametrize(("baseline", "median"), [(0.2, 265), (None, 290)])
def test_a_rise_from_02_to_03_is_seen_soon(baseline: float | None, median: float) -> None:
    found = delays(201, baseline, 0.2, 0.3)
    assert np.median(found) <= median
    assert np.quantile(found, 0.9) <= 2 * median
    assert len(found) >= 175


def test_a_change_is_not_taken_for_autocorrelation() -> None:
    """Values that scatter little, so that a covariance would be all change."""
    rng = np.random.default_rng(6)
    xs = 0.5 + 0.01 * rng.standard_normal(2_000) + 0.05 * (np.arange(2_000) >= 1_500)
    alarms = MixtureESR().update_many(xs), MixtureESR(autocorrelated=False).update_many(xs)
    assert alarms[0][0].index <= alarms[1][0].index + 25 <= 1_600


def test_evidence() -> None:
    xs = bits(3, (0.2, 3_000), (0.5, 500))
    alarm = MixtureESR().update_many(xs)[0]
    assert alarm.direction == "up"
    assert alarm.statistic >= alarm.threshold == 100_000
    assert abs(alarm.onset - 3_000) <= 15
    assert alarm.mean_before == pytest.approx(0.2, abs=0.02)
    assert alarm.mean_after == pytest.approx(0.5, abs=0.15)


def test_a_fall_is_a_fall_and_one_side_does_not_see_the_other() -> None:
    falls = bits(4, (0.5, 2_000), (0.2, 500))
    assert MixtureESR().update_many(falls)[0].direction == "down"
    assert MixtureESR(sides="down", baseline=0.5).update_many(falls)[0].direction == "down"
    assert MixtureESR(sides="up", baseline=0.5).update_many(falls) == []


def test_what_is_seen_of_1_is_what_is_seen_of_0_mirrored() -> None:
    xs = np.random.default_rng(5).random(5_000) ** 2
    one, other = MixtureESR(2_000), MixtureESR(2_000)
    mirrored = other.update_many(1 - xs)
    opposite = {"up": "down", "down": "up"}
    for a, b in zip(one.update_many(xs), mirrored, strict=True):
        assert (a.index, a.onset, a.direction) == (b.index, b.onset, opposite[b.direction])
        assert a.mean_after == pytest.approx(1 - b.mean_after)
    assert mirrored


def test_constants_raise_no_alarm_and_their_end_does() -> None:
    for constant in (0.0, 0.3, 1.0):
        detector = MixtureESR()
        assert detector.update_many(np.full(50_000, constant)) == []
        alarms = detector.update_many(np.full(200, 1 - constant))
        assert alarms[0].onset >= 49_990


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"false_alarm_every": 1}, "false_alarm_every is a whole number from 2"),
        ({"false_alarm_every": 1e5}, "false_alarm_every is a whole number"),
        ({"baseline": 0}, "baseline is a number above 0 and below 1"),
        ({"baseline": 1.0}, "baseline is a number above 0 and below 1"),
        ({"sides": "left"}, "sides is one of up, down, both"),
        ({"autocorrelated": 1}, "autocorrelated is true or false"),
    ],
)
def test_refuses_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_detector("MixtureESR", params)


@pytest.mark.parametrize("bad", [-1e-9, 1.0000001, 7.0])
def test_refuses_values_that_are_not_from_0_to_1(bad: float) -> None:
    detector = MixtureESR()
    detector.update_many(np.array([0.0, 1.0, 0.5]))
    before = detector.state()
    with pytest.raises(ValueError, match="takes numbers from 0 to 1"):
        detector.update(bad)
    with pytest.raises(ValueError, match=r"from 0 to 1, got .* at position 1 of the array"):
        detector.update_many(np.array([0.5, bad]))
    assert detector.state() == before
