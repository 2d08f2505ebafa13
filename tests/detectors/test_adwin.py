"""ADWIN: River's drift indices to the last bit, what its alarms say, and its state."""

from __future__ import annotations

import csv
import gzip
import itertools
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import river.drift
from hypothesis import event, given, settings
from hypothesis import strategies as st
from river._river_rust.drift import AdaptiveWindowing

from streamgauge.detectors import ADWIN, detector_from_state
from tests.detectors.test_parity import peer_cases, streams

SHARED = Path(__file__).parents[3] / "shared" / "data"

params = st.fixed_dictionaries(
    {},
    optional={
        "delta": st.floats(1e-6, 0.999),
        "clock": st.integers(1, 70),
        "max_buckets": st.integers(1, 8),
        "min_window_length": st.integers(1, 20),
        "grace_period": st.integers(0, 60),
    },
)


def until_river_panics(xs: list[float], params: dict[str, Any]) -> tuple[list[int], int | None]:
    """River's drifts, and where it ends with a Rust panic, if it does."""
    theirs = river.drift.ADWIN(**params)
    indices = []
    for index, x in enumerate(xs):
        try:
            theirs.update(x)
        except BaseException as error:
            # pyo3's class, which is no Exception and has no place to import it from.
            if type(error).__name__ != "PanicException":
                raise
            return indices, index
        if theirs.drift_detected:
            indices.append(index)
    return indices, None


def drifts(detector: ADWIN, xs: Any) -> list[int]:
    return [alarm.index for alarm in detector.update_many(np.array(xs, dtype=np.float64))]


def check_parity(xs: Any, params: dict[str, Any]) -> int:
    """Ours drifts where River does and, where River panics, too; returns how often."""
    xs = np.asarray(xs, dtype=np.float64).tolist()
    theirs, panic = until_river_panics(xs, params)
    if panic is not None:
        event("River panics")
        theirs.append(panic)
        xs = xs[: panic + 1]
    assert drifts(ADWIN(**params), xs) == theirs
    return len(theirs)


@settings(max_examples=150, deadline=None)
@given(xs=streams(), params=params)
def test_drifts_where_river_does(xs: list[float], params: dict[str, Any]) -> None:
    check_parity(xs, params)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    means=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    scale=st.sampled_from([1.0, 0.1, 1e-7, 1e-100, 1e-158, 1e100, 1e144]),
    shift=st.sampled_from([0.0, 1.0, -1e6]),
    params=params,
)
def test_drifts_where_river_does_on_bits_of_any_scale(
    seed: int, means: list[float], scale: float, shift: float, params: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    bits = np.concatenate([rng.random(300) < mean for mean in means])
    check_parity(scale * (bits + shift), {"clock": 1, **params})


@pytest.mark.parametrize(("delta", "n_least"), [(0.002, 0), (0.3, 40), (0.9, 150)])
def test_drifts_where_river_does_when_many_splits_are_close(delta: float, n_least: int) -> None:
    rng = np.random.default_rng(3)
    streams = [rng.random(30_000) < 0.2, rng.normal(size=30_000), rng.standard_t(2.5, 30_000)]
    assert sum(check_parity(xs, {"delta": delta, "clock": 2}) for xs in streams) >= n_least


def test_river_panics_where_ours_raises_the_alarm() -> None:
    # With one bucket of each size, 9 values are a bucket of one, none of 2 and of 4, one of 8.
    # Dropping the 8 leaves sizes without a bucket at the end, of which River drops the next.
    params = {"max_buckets": 1, "clock": 1, "min_window_length": 1, "grace_period": 0}
    params |= {"delta": 0.999}
    found = []
    for seed in range(200):
        rng = random.Random(seed)
        xs = [rng.gauss(0, 1) + (i >= 20) * 20 for i in range(60)]
        theirs, panic = until_river_panics(xs, params)
        if panic is not None:
            assert drifts(ADWIN(**params), xs[: panic + 1]) == [*theirs, panic]
            found.append(seed)
    assert found


@pytest.mark.parametrize("case", peer_cases())
def test_drifts_where_river_does_on_the_streams_of_its_peers(case: Any) -> None:
    check_parity(np.loadtxt(SHARED / "peer_cases" / case["stream"]["file"]), {})


def real_streams() -> list[Any]:
    paths = sorted((SHARED / "streams").glob("*.csv.gz"))
    reason = "../shared/data/streams is not here"
    missing = [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=path.name.split(".")[0]) for path in paths] or missing


def columns(path: Path, n: int) -> list[np.ndarray]:
    """The first `n` values of each column: as they are, or whether they are the first one's."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.reader(file), 1, n + 1))
    found = []
    for column in zip(*rows, strict=True):
        try:
            found.append(np.array(column, dtype=np.float64))
        except ValueError:
            found.append(np.array([text == column[0] for text in column], dtype=np.float64))
    return found


@pytest.mark.parametrize("path", real_streams())
def test_drifts_where_river_does_on_real_streams(path: Path) -> None:
    for xs in columns(path, 10_000)[-3:]:
        check_parity(xs, {})
        check_parity(xs, {"delta": 0.2, "max_buckets": 3})


@settings(max_examples=60, deadline=None)
@given(xs=streams(), params=params)
def test_its_window_is_rivers_to_the_last_bit(xs: list[float], params: dict[str, Any]) -> None:
    ours, theirs = ADWIN(**params), river.drift.ADWIN(**params)
    for x in xs:
        if ours.update(x):
            return
        theirs.update(x)
        width, total, squares = ours.state()["row"][:3]
        assert (width, total, squares) == (theirs.width, theirs.total, theirs.variance)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    means=st.lists(st.floats(0, 1), min_size=2, max_size=3),
    clock=st.integers(1, 40),
    max_buckets=st.integers(2, 8),
)
def test_shrinks_to_the_window_that_river_has_before_it_resets(
    seed: int, means: list[float], clock: int, max_buckets: int
) -> None:
    rng = np.random.default_rng(seed)
    xs = np.concatenate([rng.random(300) < mean for mean in means]).astype(float)
    ours = ADWIN(clock=clock, max_buckets=max_buckets, on_drift="shrink")
    # Below its Python class, River goes on with what is left.
    theirs = AdaptiveWindowing(0.002, clock, max_buckets, 5, 10)
    for i, x in enumerate(xs):
        assert bool(ours.update(x)) == theirs.update(x)
        width, total, squares = ours.state()["row"][:3]
        assert width == theirs.get_width()
        window = xs[i + 1 - int(width) : i + 1]
        assert total == window.sum()
        assert squares == pytest.approx(window.var() * width, abs=1e-6)


def test_after_a_cut_rounding_does_not_deafen_it() -> None:
    xs = np.repeat([1e9, 0.0, 1.0], 400) + np.random.default_rng(1).random(1200)
    theirs = AdaptiveWindowing(0.002, 32, 5, 5, 10)
    found = [i for i, x in enumerate(xs) if theirs.update(x)]
    assert found
    assert max(found) < 800
    ours = ADWIN(on_drift="shrink").update_many(xs)
    late = [alarm for alarm in ours if alarm.index >= 800]
    assert late[0].index < 850
    assert late[0].onset == pytest.approx(800, abs=20)


def test_one_step_raises_more_alarms_where_the_window_shrinks() -> None:
    xs = np.repeat([0.0, 1.0], 1000) + np.random.default_rng(2).normal(scale=0.5, size=2000)
    assert len(drifts(ADWIN(), xs)) == 1
    shrinking = ADWIN(on_drift="shrink")
    assert len(drifts(shrinking, xs)) > 1
    assert shrinking.readings()["width"] == pytest.approx(1000, abs=100)


def test_an_alarm_tells_of_all_splits_of_the_window_before_the_cut() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        xs = rng.random(3000) < np.repeat([0.1, 0.35], 1500)
        for alarm in ADWIN(clock=1, on_drift="shrink").update_many(xs.astype(float)):
            assert alarm.statistic > alarm.threshold


def test_memory_grows_with_the_logarithm_of_the_window() -> None:
    adwin = ADWIN()
    sizes = []
    for n in (100, 900, 9_000, 90_000):
        adwin.update_many(np.resize([0.0, 1.0], n))
        sizes.append(len(adwin.state()["row"]))
    assert adwin.readings()["width"] == 100_000
    assert np.diff(sizes).max() <= 4 * 11
    assert sizes[0] <= 64
    assert sizes[-1] > sizes[0]


@pytest.mark.parametrize("max_buckets", [1, 2, 5, 40])
def test_goes_on_from_its_state_before_and_after_its_row_is_widened(max_buckets: int) -> None:
    rng = np.random.default_rng(4)
    xs = np.concatenate([rng.random(12_000) < 0.2, rng.random(2_000) < 0.3]).astype(float)
    params = {"max_buckets": max_buckets, "on_drift": "shrink"}
    whole = ADWIN(**params)
    expected = [repr(alarm) for alarm in whole.update_many(xs)]
    assert expected
    for stop in (1, 315, 316, 5115, 5116, 12_500):
        detector: Any = ADWIN(**params)
        found = detector.update_many(xs[:stop])
        wire = msgspec.msgpack.encode(detector.state())
        restored = detector_from_state(msgspec.msgpack.decode(wire))
        found += restored.update_many(xs[stop:])
        assert [repr(alarm) for alarm in found] == expected
        assert restored.state() == whole.state()


def test_a_baseline_gives_the_memory_back() -> None:
    adwin = ADWIN()
    adwin.update_many(np.zeros(100_000))
    adwin.rebaseline()
    assert adwin.state()["row"] == ADWIN().state()["row"]
    assert adwin.n_seen == 100_000


def damaged_rows() -> list[list[float]]:
    adwin = ADWIN()
    adwin.update_many(np.arange(100.0) % 2)
    row = adwin.state()["row"]
    width, tick, top, n_first = 0, 3, 4, 5
    changes = [(width, 99), (tick, 32), (tick, 0.5), (top, 60), (top, -1), (top, 0.5), (n_first, 6)]
    rows = [[*row[:at], value, *row[at + 1 :]] for at, value in changes]
    # A highest level without a bucket.
    rows.append([*row, *[0.0] * 11])
    rows[-1][top] += 1
    return [*rows, row[:-1], [*row, 0.0], row[:3], [float("nan"), *row[1:]], []]


@pytest.mark.parametrize("row", damaged_rows())
def test_a_damaged_window_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="row in this state of ADWIN is damaged"):
        ADWIN.from_state({**ADWIN().state(), "n_seen": 100, "row": row})


@settings(max_examples=40, deadline=None)
@given(xs=streams(), params=params, max_buckets=st.integers(1, 2))
def test_no_window_of_its_own_is_refused(
    xs: list[float], params: dict[str, Any], max_buckets: int
) -> None:
    params = {**params, "max_buckets": max_buckets, "clock": 1, "on_drift": "shrink"}
    adwin = ADWIN(**params)
    for x in xs:
        adwin.update(x)
        assert ADWIN.from_state(adwin.state()).state() == adwin.state()


@pytest.mark.parametrize(
    "params",
    [
        {"clock": 2**31 - 1, "min_window_length": 2**31 - 1, "grace_period": 2**31 - 1},
        {"clock": 1, "max_buckets": 1, "min_window_length": 1, "grace_period": 0},
        {"clock": 1, "min_window_length": 1, "grace_period": 0, "on_drift": "shrink"},
        {"max_buckets": 10_000},
        {"delta": np.float64(0.5), "clock": np.int64(3)},
    ],
)
def test_works_at_the_ends_of_its_ranges(params: dict[str, Any]) -> None:
    detector = ADWIN(**params)
    detector.update_many(np.resize([0.0, 1.0, 1e150, -1e150], 200))
    assert np.isfinite(list(detector.readings().values())).all()
    assert np.isfinite(detector.state()["row"]).all()
    restored = detector_from_state(msgspec.json.decode(msgspec.json.encode(detector.state())))
    assert restored.readings() == detector.readings()
