"""ConformalESR: ranks that are uniform, and false alarms as rare as promised on anything."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from streamgauge.detectors import ConformalESR
from streamgauge.detectors.compiled import compiled_making
from streamgauge.detectors.conformal_esr import _bet_all, _n_below, _rank

if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t": lambda rng, n: rng.standard_t(2.5, n),
    "bits": lambda rng, n: (rng.random(n) < 0.2).astype(float),
    "rare bits": lambda rng, n: (rng.random(n) < 0.01).astype(float),
    "counts": lambda rng, n: rng.poisson(2, n).astype(float),
    "constant": lambda rng, n: np.zeros(n),
    "zeros and an exponential": lambda rng, n: np.maximum(rng.exponential(size=n) - 0.5, 0),
}
every_stream = pytest.mark.parametrize("name", STREAMS)


def alarms(detector: ConformalESR, xs: Any) -> list[tuple[int, str, int]]:
    return [(a.index, a.direction, a.onset) for a in detector.update_many(np.asarray(xs, float))]


segments = st.tuples(
    st.sampled_from([0, 0.5, 2]),
    st.sampled_from([0.2, 1]),
    st.sampled_from([1, 3, 50, 10**6]),
    st.integers(1, 100),
)


@st.composite
def streams(draw: st.DrawFn) -> list[int]:
    """Whole numbers, so that there are ties and any increasing function keeps them apart."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    return [
        int(rng.gauss(mean, sd) * unit)
        for mean, sd, unit, n in draw(st.lists(segments, min_size=1, max_size=3))
        for _ in range(n)
    ]


# The algorithm with every past value kept and every sum and integral taken anew.


def location_cdf(odds: float) -> Callable[[float], float]:
    return lambda p: p / (p + odds * (1 - p))


def scale_cdf(a: float) -> Callable[[float], float]:
    return lambda p: (2 * p) ** a / 2 if p < 0.5 else 1 - (2 * (1 - p)) ** a / 2


BETS = [
    *((location_cdf(s), w) for s, w in ((1.3, 1), (1.8, 2), (3, 1), (8, 0.5))),
    *((scale_cdf(a), w) for a, w in ((0.75, 2), (0.5, 0.5))),
    *((location_cdf(1 / s), w) for s, w in ((1.3, 1), (1.8, 2), (3, 1), (8, 0.5))),
    *((scale_cdf(a), w) for a, w in ((1.5, 1), (2, 0.5))),
]
DIRECTIONS = ["up"] * 4 + ["none"] * 2 + ["down"] * 4 + ["none"] * 2


class Naive:
    def __init__(self, false_alarm_every: float, reference_max: int) -> None:
        self.every, self.size = false_alarm_every, reference_max
        self.n_seen = 0
        self.start()

    def start(self) -> None:
        self.edges: list[float] = []
        self.xs: list[float] = []
        self.logs: list[list[float]] = []
        self.begins: list[bool] = []

    def interval(self, x: float) -> tuple[float, float]:
        def place(y: float) -> int:
            return bisect_left(self.edges, y) + bisect_right(self.edges, y)

        places, here = [place(y) for y in self.xs], place(x)
        n_less, n_more = sum(p < here for p in places), sum(p > here for p in places)
        if x not in self.edges and len(self.edges) < self.size:
            insort(self.edges, x)
        self.xs.append(x)
        return n_less / len(self.xs), 1 - n_more / len(self.xs)

    def update(self, x: float) -> tuple[int, str, int, float, float, float] | None:
        self.n_seen += 1
        low, high = self.interval(x)
        self.begins.append((low, high) != (0, 1))
        self.logs.append([math.log((cdf(high) - cdf(low)) / (high - low)) for cdf, _ in BETS])
        after = np.cumsum(self.logs[::-1], axis=0)[::-1]
        weights = np.array([weight for _, weight in BETS])
        shares = np.exp(after[self.begins]).sum(axis=0) * weights / weights.sum()
        if sum(shares) < self.every:
            return None
        explain = shares / np.where(np.array(DIRECTIONS) == "none", 10, 1)
        best = int(explain.argmax())
        likely = np.flatnonzero(after[:, best] >= after[:, best].max() - 1e-9)
        onset = int(likely[-1])
        found = (
            self.n_seen - 1,
            DIRECTIONS[best],
            self.n_seen - len(self.xs) + onset,
            sum(shares),
            float(np.mean(self.xs[:onset])) if onset else math.nan,
            float(np.mean(self.xs[onset:])),
        )
        self.start()
        return found


@settings(max_examples=30, deadline=None)
@given(xs=streams(), every=st.floats(5, 1000), size=st.integers(15, 60))
def test_does_what_the_plain_algorithm_does(xs: list[int], every: float, size: int) -> None:
    naive = Naive(every, size)
    expected = [alarm for x in xs if (alarm := naive.update(x))]
    found = ConformalESR(every, reference_max=size).update_many(np.array(xs, float))
    assert [(a.index, a.direction, a.onset) for a in found] == [alarm[:3] for alarm in expected]
    for ours, theirs in zip(found, expected, strict=True):
        numbers = (ours.statistic, ours.mean_before, ours.mean_after)
        assert numbers == pytest.approx(theirs[3:], rel=1e-6, abs=1e-6, nan_ok=True)


def increasing(rng: random.Random, xs: list[int]) -> list[float]:
    """The values of a random increasing function."""
    known = sorted(set(xs))
    steps = itertools.accumulate(10 ** rng.uniform(-3, 5) for _ in known)
    image = dict(zip(known, steps, strict=True))
    return [image[x] - 1000 for x in xs]


@settings(max_examples=60, deadline=None)
@given(xs=streams(), seed=st.integers(0, 2**32))
def test_alarms_do_not_depend_on_the_scale_of_the_values(xs: list[int], seed: int) -> None:
    one, other = (ConformalESR(50, reference_max=63) for _ in range(2))
    image = increasing(random.Random(seed), xs)
    assert alarms(one, xs) == alarms(other, image)
    assert one.readings()["statistic"] == other.readings()["statistic"]


# Ranks


@compiled_making
def counts(row, params, xs):
    """How many of the values before each are known to be below it, and above it."""
    found = np.empty((len(xs), 2))
    for i in range(len(xs)):
        found[i] = _rank(row, params, xs[i])
        row[1] += 1
    return found


def ranks(detector: ConformalESR, xs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each value's rank, drawn from what is known of it."""
    n_less, n_more = counts(detector._row, detector._numbers, xs).T
    n = np.arange(1, len(xs) + 1)
    return (n_less + rng.random(len(xs)) * (n - n_less - n_more)) / n


def p_uniform(p: np.ndarray) -> float:
    """How likely values as uneven as these are, alone and in pairs, if they are uniform."""
    cells = np.minimum((p * 8).astype(int), 7)
    pairs = np.bincount(cells[::2] * 8 + cells[1::2], minlength=64)
    return min(
        float(stats.chisquare(pairs).pvalue), float(stats.chisquare(np.bincount(cells)).pvalue)
    )


@every_stream
def test_ranks_are_uniform(name: str) -> None:
    rng = np.random.default_rng(3)
    p = np.concatenate(
        [ranks(ConformalESR(reference_max=63), STREAMS[name](rng, 2_000), rng) for _ in range(50)]
    )
    assert p_uniform(p) > 1e-3


def test_ranks_are_uniform_in_one_long_stream() -> None:
    rng = np.random.default_rng(4)
    assert p_uniform(ranks(ConformalESR(), STREAMS["normal"](rng, 500_000), rng)) > 1e-3


def test_the_check_of_uniformity_notices_a_fixed_reference() -> None:
    rng = np.random.default_rng(4)
    reference = np.sort(rng.normal(size=100))
    p = (np.searchsorted(reference, rng.normal(size=500_000)) + rng.random(500_000)) / 101
    assert p_uniform(p) < 1e-6


# False alarms

EVERY = 3_000
N_VALUES = 600_000
# So many false alarms are too many, if they are as rare as promised, in all but 1 of 1,000 cases.
TOO_MANY = stats.poisson.isf(1e-3, N_VALUES / EVERY)


@every_stream
def test_false_alarms_are_as_rare_as_promised(name: str) -> None:
    xs = STREAMS[name](np.random.default_rng(5), N_VALUES)
    assert len(ConformalESR(EVERY).update_many(xs)) <= TOO_MANY


def test_the_bound_notices_a_threshold_that_is_too_low() -> None:
    xs = STREAMS["normal"](np.random.default_rng(5), N_VALUES)
    assert len(ConformalESR(EVERY / 3).update_many(xs)) > TOO_MANY


@compiled_making
def n_alarms_with(reference, xs, row, baseline, params):
    n = 0
    for x in xs:
        below = _n_below(reference, 0, len(reference), x) / (len(reference) + 1)
        statistic = _bet_all(row, params, below, 1 - below - 1 / (len(reference) + 1))
        if statistic >= params[0]:
            n += 1
            row[:] = baseline
    return n


def test_the_bound_notices_a_fixed_reference() -> None:
    rng = np.random.default_rng(5)
    detector = ConformalESR(EVERY)
    baseline = detector._row.copy()
    reference, xs = np.sort(rng.normal(size=100)), rng.normal(size=N_VALUES)
    assert n_alarms_with(reference, xs, detector._row, baseline, detector._numbers) > TOO_MANY


# Changes


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "up": lambda xs: xs + 1,
    "down": lambda xs: xs - 1,
    "grows": lambda xs: xs * 2,
    "shrinks": lambda xs: xs / 2,
}


@pytest.mark.parametrize("change", CHANGES)
def test_finds_the_change_it_is_made_for(change: str) -> None:
    direction = change if change in ("up", "down") else "none"
    detects = "location" if change in ("up", "down") else "scale"
    side = "up" if change in ("up", "grows") else "down"
    found, n_false = [], 0
    for seed in range(40):
        xs = np.random.default_rng(seed).standard_t(2.5, 1_600)
        xs[1_000:] = CHANGES[change](xs[1_000:])
        for params in ({}, {"detects": detects, "sides": side}):
            first = ConformalESR(**params).update_many(xs)[0]
            assert first.threshold == 100_000 <= first.statistic
            if first.index < 1_000:
                n_false += 1
            else:
                assert first.direction == direction
                found.append((first.index, first.onset, first.mean_before, first.mean_after))
    assert n_false <= 3
    index, onset, before, after = np.median(found, axis=0)
    assert index < 1_070
    assert onset == pytest.approx(1_000, abs=5)
    assert before == pytest.approx(0, abs=0.1)
    assert after == pytest.approx({"up": 1, "down": -1}.get(change, 0), abs=0.3)


@pytest.mark.parametrize("change", CHANGES)
def test_is_deaf_to_changes_that_it_is_not_asked_for(change: str) -> None:
    detects = "scale" if change in ("up", "down") else "location"
    side = "down" if change in ("up", "grows") else "up"
    same = "location" if change in ("up", "down") else "scale"
    xs = np.random.default_rng(8).logistic(size=1_200)
    xs[1_000:] = CHANGES[change](xs[1_000:])
    assert alarms(ConformalESR(detects=same), xs)
    assert not alarms(ConformalESR(detects=same, sides=side), xs)
    assert not alarms(ConformalESR(detects=detects, sides=side), xs)


def test_goes_on_after_an_alarm_with_what_comes_next_alone() -> None:
    rng = np.random.default_rng(6)
    xs = np.concatenate([rng.normal(size=2_000), rng.normal(1, 1, 2_000), rng.normal(size=300)])
    found = ConformalESR().update_many(xs)
    assert [a.direction for a in found] == ["up", "down"]
    rest = xs[found[0].index + 1 :]
    indices = [a.index for a in ConformalESR().update_many(rest)]
    assert indices == [found[1].index - found[0].index - 1]


def test_a_constant_stream_never_alarms_and_does_not_wear_it_out() -> None:
    detector = ConformalESR(100)
    assert not alarms(detector, np.full(100_000, 0.1))
    assert alarms(detector, np.full(2, 0.2))


def test_takes_the_largest_numbers_there_are() -> None:
    rng = np.random.default_rng(7)
    xs = np.concatenate([rng.normal(size=1_000), rng.normal(1, 1, 500)])
    scaled = xs * (1e150 / np.abs(xs).max())
    assert alarms(ConformalESR(), scaled) == alarms(ConformalESR(), xs) != []
    assert all(
        map(math.isfinite, ConformalESR.from_state(ConformalESR().state()).readings().values())
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"detects": "mean"}, "detects is one of location, scale, both, got 'mean'"),
        ({"sides": 2}, "sides is one of up, down, both, got 2"),
        ({"false_alarm_every": 1}, "false_alarm_every is a number from 2"),
        ({"reference_max": 14}, "reference_max is a whole number from 15"),
    ],
)
def test_refuses_parameters_out_of_range(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConformalESR(**params)


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, -1), (0, 41), (0, 39), (0, 1e300), (2, -1), (2, 0.5), (2, 41), (2, math.inf)],
)
def test_refuses_a_state_that_would_lead_out_of_the_row(position: int, value: float) -> None:
    detector = ConformalESR()
    detector.update_many(np.random.default_rng(9).random(40))
    state = detector.state()
    state["row"][position] = value
    with pytest.raises(ValueError, match="damaged"):
        ConformalESR.from_state(state)
