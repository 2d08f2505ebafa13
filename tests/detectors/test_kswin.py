"""KSWIN drifts where River 0.26.1 does, draw by draw, and says what has changed."""

from __future__ import annotations

import csv
import gzip
import inspect
import itertools
import json
import math
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import river.drift
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from streamgauge.detectors import KSWIN
from streamgauge.detectors.kswin import (
    _N_WORDS,
    _RING,
    _USED,
    _is_from_pool,
    _least_distance,
    _sample_from_pool,
    _sample_from_set,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"
ABSENT = "../shared/data is not here"


def drifts_of_river(params: dict[str, Any], xs: np.ndarray) -> list[int]:
    theirs = river.drift.KSWIN(**{"seed": 0, **params})
    return [i for i, x in enumerate(xs) if (theirs.update(x), theirs.drift_detected)[1]]


def drifts(params: dict[str, Any], xs: np.ndarray) -> list[int]:
    return [alarm.index for alarm in KSWIN(**params).update_many(xs)]


def normal(seed: int, *segments: tuple[float, float, int]) -> np.ndarray:
    rng = random.Random(seed)
    return np.array([rng.gauss(mean, sd) for mean, sd, n in segments for _ in range(n)])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    segments=st.lists(
        st.tuples(st.floats(-2, 2), st.floats(0, 2), st.integers(10, 90)), min_size=2, max_size=3
    ),
    ties=st.sampled_from([0, 0.25, 1]),
    alpha=st.floats(0.01, 1),
    stat_size=st.integers(5, 20),
    more=st.integers(0, 60),
    held=st.none() | st.integers(0, 90),
)
def test_drifts_where_river_does(
    seed: int,
    segments: list[tuple[float, float, int]],
    ties: float,
    alpha: float,
    stat_size: int,
    more: int,
    held: int | None,
) -> None:
    xs = normal(seed, *segments)
    if ties:
        xs = np.round(xs / ties) * ties
    params: dict[str, Any] = {
        "alpha": alpha,
        "stat_size": stat_size,
        "window_size": 2 * stat_size + more,
        "seed": seed,
    }
    if held is not None:
        params["window"], xs = xs[:held].tolist(), xs[held:]
    expected = drifts_of_river(params, xs)
    event(f"{len(expected)} drifts")
    assert drifts(params, xs) == expected


@pytest.mark.parametrize(("file", "column"), [("bike_hour.csv.gz", -1), ("elec2.csv.gz", 3)])
def test_drifts_on_real_streams_are_where_river_has_them(file: str, column: int) -> None:
    if not SHARED.exists():
        pytest.skip(ABSENT)
    with gzip.open(SHARED / "streams" / file, "rt") as lines:
        xs = np.array([float(row[column]) for row in list(csv.reader(lines))[1:1501]])
    expected = drifts_of_river({}, xs)
    assert drifts({}, xs) == expected
    assert len(expected) > 3


def peer_cases() -> list[Any]:
    if not SHARED.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))]
    return [
        pytest.param(case, id=case["name"])
        for path in sorted((SHARED / "peer_cases").glob("*.json"))
        for case in json.loads(path.read_text())
        if case["detector"] == "KSWIN"
    ]


@pytest.mark.parametrize("case", peer_cases())
def test_drifts_on_the_peers_streams_are_where_river_has_them(case: dict[str, Any]) -> None:
    xs = np.loadtxt(SHARED / "peer_cases" / case["stream"]["file"])
    found = drifts(case["params"], xs)
    assert found == drifts_of_river(case["params"], xs)
    if case["peer"] == "river":
        assert found == case["verification"]["observed"]["drift"]


@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (5, 5), (25, 5), (70, 30), (64, 32), (277, 30), (278, 30), (5000, 40)]
)
def test_draws_what_python_draws(n: int, k: int) -> None:
    # Often enough for the generator's words to be used up more than once.
    rng = random.Random(11)
    row = np.zeros(_RING)
    row[_USED:] = rng.getstate()[1]
    row[_USED:] = np.roll(row[_USED:], 1)
    draw = _sample_from_pool if _is_from_pool(n, k) else _sample_from_set
    for _ in range(3 * _N_WORDS // k):
        sample = np.empty(k)
        draw(row, np.arange(float(n)), sample)
        assert sorted(sample) == sorted(rng.sample(range(n), k))


@pytest.mark.parametrize("n", [1, 2, 7, 10, 30, 100, 500])
def test_the_least_distance_is_the_first_one_whose_p_value_scipy_finds_small(n: int) -> None:
    with warnings.catch_warnings():
        # Where its exact value is a rounding error above 1 it takes another formula, as for River.
        warnings.simplefilter("ignore", RuntimeWarning)
        p = {h: ks_2samp(np.arange(n), np.arange(n) + h).pvalue for h in range(1, n + 1)}
    for alpha in (1, 0.5, 0.2, 0.05, 0.01, 0.005, 0.001, 1e-4, 1e-6):
        rare = [h for h in p if p[h] <= alpha and h / n > 0.1]
        if rare:
            assert _least_distance(n, alpha) == min(rare)
        else:
            with pytest.raises(ValueError, match="alpha"):
                _least_distance(n, alpha)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    change=st.tuples(st.floats(-3, 3), st.floats(0.2, 3)),
    held=st.integers(0, 120),
)
def test_describes_the_two_parts_of_its_window(
    seed: int, change: tuple[float, float], held: int
) -> None:
    xs = normal(seed, (0, 1, 200), (*change, 100))
    window, xs = xs[:held], xs[held:]
    alarms = KSWIN(alpha=0.01, window=window.tolist()).update_many(xs)
    event(f"{len(alarms)} alarms")
    for alarm in alarms[:1]:
        seen = np.concatenate([window, xs[: alarm.index + 1]])[-100:]
        older, recent = seen[:70], seen[70:]
        assert alarm.onset == max(0, alarm.index - 29)
        assert alarm.mean_before == pytest.approx(older.mean())
        assert alarm.mean_after == pytest.approx(recent.mean())
        error = math.sqrt(older.var() / 70 + recent.var() / 30)
        difference = recent.mean() - older.mean()
        is_clear = abs(difference) > 2 * error
        assert alarm.direction == ("none" if not is_clear else "up" if difference > 0 else "down")
        assert alarm.statistic >= alarm.threshold == _least_distance(30, 0.01) / 30


@pytest.mark.parametrize(
    ("change", "direction"), [((2, 1), "up"), ((-2, 1), "down"), ((0, 20), "none")]
)
def test_finds_direction_and_onset_of_a_clear_change(
    change: tuple[float, float], direction: str
) -> None:
    found = []
    for seed in range(20):
        xs = normal(seed, (0, 1, 300), (*change, 200))
        kswin = KSWIN(alpha=1e-3, window_size=200, stat_size=60)
        found += [alarm for alarm in kswin.update_many(xs) if alarm.index > 300][:1]
    # Where a false alarm came just before the change, there is nothing to compare it with.
    assert len(found) >= 18
    assert [alarm.direction for alarm in found].count(direction) >= 16
    assert abs(np.median([alarm.onset for alarm in found]) - 300) < 40


def test_rivers_draws_are_other_ones_each_time_and_ours_are_not() -> None:
    assert river.drift.KSWIN()._rng.random() != river.drift.KSWIN()._rng.random()
    xs = normal(1, (0, 1, 2000))
    assert drifts({}, xs) == drifts({}, xs) == drifts({"seed": 0}, xs)
    assert len({tuple(drifts({"seed": seed}, xs)) for seed in range(5)}) > 1


def test_nan_deafens_river_for_a_while_and_not_us() -> None:
    before, after = normal(1, (0, 1, 150)), normal(2, (5, 1, 60))
    # Not before it is among the recent values no more.
    assert drifts_of_river({}, np.array([*before, *after]))[0] < 170
    assert drifts_of_river({}, np.array([*before, math.nan, *after]))[0] >= 180
    kswin = KSWIN()
    kswin.update_many(before)
    with pytest.raises(ValueError, match="finite"):
        kswin.update(math.nan)
    assert kswin.update_many(after)


def test_river_takes_settings_with_which_it_fails_and_we_refuse_them() -> None:
    params = {"window_size": 50, "stat_size": 30}
    with pytest.raises(ValueError, match="Sample larger than population"):
        drifts_of_river(params, np.arange(50.0))
    with pytest.raises(ValueError, match="window_size is at least twice stat_size"):
        KSWIN(**params)


def test_the_window_is_for_the_start_alone_as_in_river() -> None:
    # Of an array River cannot tell whether it is empty.
    window = normal(3, (0, 1, 99))
    with pytest.raises(ValueError, match="ambiguous"):
        river.drift.KSWIN(window=window)
    kswin = KSWIN(window=window)
    assert kswin.n_seen == 0
    assert kswin.readings()["mean"] == pytest.approx(window.mean())
    assert kswin.update(0.0) is None
    assert kswin.readings()["statistic"] > 0
    kswin.rebaseline()
    assert kswin.readings() == KSWIN().readings()


def test_goes_on_from_a_state_with_a_window() -> None:
    kswin = KSWIN(window=[1.0, 2.0])
    kswin.update(3.0)
    assert KSWIN.from_state(kswin.state()).state() == kswin.state()


@pytest.mark.parametrize(
    ("position", "value"), [(2, 101), (3, 100), (3, -1), (5, 625), (6, 2**32), (-1, 31), (-1, -1)]
)
def test_refuses_a_row_whose_positions_are_out_of_range(position: int, value: float) -> None:
    state = KSWIN().state()
    state["row"][position - 1 if position > 0 else position] = value
    with pytest.raises(ValueError, match="damaged"):
        KSWIN.from_state(state)


@pytest.mark.parametrize("n", [100, 130, 199])
def test_refuses_counts_that_are_not_those_of_the_window(n: int) -> None:
    kswin = KSWIN(alpha=1e-6)
    kswin.update_many(np.round(normal(1, (0, 1, n)), 1))
    state = kswin.state()
    counts = np.array(state["row"][-200:]).reshape(2, 100)
    oldest = int(state["row"][2])
    for at, damage in itertools.product((oldest, (oldest + 69) % 100), (1, -1, 0.5)):
        for i in (0, 1):
            damaged = counts.copy()
            damaged[i, at] = min(30, max(0, damaged[i, at] + damage))
            if (damaged != counts).any():
                with pytest.raises(ValueError, match="damaged"):
                    KSWIN.from_state({**state, "row": [*state["row"][:-200], *damaged.ravel()]})
    # What is left of a recent value's counts from when it was an older one does not matter.
    counts[:, (oldest + 70) % 100] = 30
    restored = KSWIN.from_state({**state, "row": [*state["row"][:-200], *counts.ravel()]})
    more = normal(2, (0, 1, 300), (1, 1, 300))
    assert restored.update_many(more) == kswin.update_many(more)


def test_readings_follow_the_statistic() -> None:
    kswin = KSWIN(window_size=20, stat_size=10, alpha=0.01)
    assert kswin.readings() == {"statistic": 0, "threshold": 0.8, "mean": 0}
    kswin.update_many(np.arange(10.0))
    assert kswin.readings() == {"statistic": 0, "threshold": 0.8, "mean": 4.5}
    kswin.update_many(np.arange(10.0) + 5)
    assert kswin.readings() == {"statistic": 0.5, "threshold": 0.8, "mean": 7}


@pytest.mark.parametrize(
    "params",
    [
        {"alpha": 0},
        {"alpha": 1.5},
        {"alpha": 1e-20},
        {"window_size": 0},
        {"stat_size": 0},
        {"stat_size": 2.5},
        {"seed": -1},
        {"seed": None},
    ],
)
def test_refuses_parameters_out_of_range(params: dict[str, Any]) -> None:
    [name] = params
    with pytest.raises(ValueError, match=name):
        KSWIN(**params)


def test_the_parameters_are_rivers_but_for_the_seed() -> None:
    theirs = inspect.signature(river.drift.KSWIN).parameters
    defaults = {name: parameter.default for name, parameter in theirs.items()}
    assert {**KSWIN().state()["params"], "seed": None} == defaults
