"""What an alarm says about the change, checked against the values themselves."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import ADWIN, Alarm, PageHinkley

steps = st.tuples(st.floats(-2, 2), st.integers(20, 300))


def normal(seed: int, *segments: tuple[float, int], sd: float = 0.5) -> np.ndarray:
    rng = random.Random(seed)
    return np.array([rng.gauss(mean, sd) for mean, n in segments for _ in range(n)])


def check_means(alarms: list[Alarm], xs: np.ndarray) -> None:
    """`mean_before` and `mean_after` are those since the last alarm, before and from the onset."""
    baseline = 0
    for alarm in alarms:
        assert baseline < alarm.onset <= alarm.index
        before, after = xs[baseline : alarm.onset], xs[alarm.onset : alarm.index + 1]
        assert alarm.mean_before == pytest.approx(before.mean(), abs=1e-9)
        assert alarm.mean_after == pytest.approx(after.mean(), abs=1e-9)
        baseline = alarm.index + 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), segments=st.lists(steps, min_size=2, max_size=4))
def test_adwin_describes_a_split_of_its_window(
    seed: int, segments: list[tuple[float, int]]
) -> None:
    xs = normal(seed, *segments)
    delta, short = 0.002, 5 - 1
    alarms = ADWIN(delta=delta).update_many(xs)
    event(f"{len(alarms)} alarms")
    check_means(alarms, xs)
    baseline = 0
    for alarm in alarms:
        window = xs[baseline : alarm.index + 1]
        n_before, n_after = alarm.onset - baseline, alarm.index + 1 - alarm.onset
        log_term = math.log(2 * math.log(len(window)) / delta)
        inverse = 1 / (n_before - short) + 1 / (n_after - short)
        allowed = math.sqrt(2 * inverse * window.var() * log_term) + 2 / 3 * inverse * log_term
        assert alarm.threshold == pytest.approx(allowed, rel=1e-9)
        assert alarm.statistic == pytest.approx(abs(alarm.mean_after - alarm.mean_before))
        assert alarm.direction == ("up" if alarm.mean_after > alarm.mean_before else "down")
        baseline = alarm.index + 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    segments=st.lists(steps, min_size=2, max_size=4),
    mode=st.sampled_from(["up", "down", "both"]),
)
def test_page_hinkley_describes_the_values_around_the_last_extreme(
    seed: int, segments: list[tuple[float, int]], mode: str
) -> None:
    xs = normal(seed, *segments)
    alarms = PageHinkley(threshold=10, mode=mode).update_many(xs)
    event(f"{len(alarms)} alarms")
    check_means(alarms, xs)
    for alarm in alarms:
        assert alarm.statistic > alarm.threshold == 10
        assert alarm.direction == mode or mode == "both"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("detector", [ADWIN, lambda: PageHinkley(delta=0.3)])
def test_finds_direction_and_onset_of_a_clear_change(detector, sign: int) -> None:
    for seed in range(20):
        xs = sign * normal(seed, (0.0, 1000), (1.0, 500))
        [alarm] = detector().update_many(xs)
        assert alarm.direction == ("up" if sign == 1 else "down")
        assert abs(alarm.onset - 1000) <= 64, f"seed {seed}"
        assert alarm.statistic > alarm.threshold


def test_adwins_onset_is_that_of_the_change_though_its_window_reaches_further_back() -> None:
    # A change that shows only just makes ADWIN drop a bucket or two of the oldest values.
    errors = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        xs = np.concatenate([rng.random(3000) < 0.1, rng.random(3000) < 0.2]).astype(float)
        alarm = next(a for a in ADWIN().update_many(xs) if a.index >= 3000)
        assert alarm.direction == "up", f"seed {seed}"
        assert alarm.statistic > alarm.threshold, f"seed {seed}"
        errors.append(abs(alarm.onset - 3000))
    assert np.median(errors) <= 64
    # The start of the window that ADWIN keeps is off by more than a thousand for most seeds.
    assert np.quantile(errors, 0.9) <= 256


def test_both_tests_of_page_hinkley_at_once_give_the_larger() -> None:
    # Down first and then up by more, all of it before the first test is made.
    xs = np.array([0.0] * 10 + [-30.0] * 5 + [60.0] * 5)
    [alarm] = PageHinkley(min_instances=20, alpha=1, threshold=20).update_many(xs)
    assert (alarm.index, alarm.direction, alarm.onset) == (19, "up", 15)
    check_means([alarm], xs)


@pytest.mark.parametrize("mode", ["up", "down"])
def test_page_hinkley_tells_only_what_its_mode_tests(mode: str) -> None:
    rise = normal(1, (0.0, 300), (2.0, 300))
    detector = PageHinkley(mode=mode, threshold=20)
    assert bool(detector.update_many(rise)) == (mode == "up")
    assert bool(PageHinkley(mode=mode, threshold=20).update_many(-rise)) == (mode == "down")
