"""Our drift indices are those of River 0.26.1 on the same numbers."""

from __future__ import annotations

import inspect
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import river
import river.drift
import river.drift.binary
from hypothesis import given, settings
from hypothesis import strategies as st
from river.base import BinaryDriftDetector, DriftDetector

from streamgauge.detectors import (
    ADWIN,
    PageHinkley,
    RiverDetector,
    detector_from_state,
    make_detector,
)

PEER_CASES = Path(__file__).parents[3] / "shared" / "data" / "peer_cases"

RIVER_CLASSES = {
    f"{module.__name__}.{name}": found
    for module in (river.drift, river.drift.binary)
    for name in module.__all__
    if inspect.isclass(found := getattr(module, name, None))
    and issubclass(found, DriftDetector | BinaryDriftDetector)
}

values = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0])
# Long enough for changes, yet each stream is only a few numbers to shrink.
segments = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(0, 1), st.integers(40, 250)), min_size=2, max_size=5
)


@st.composite
def streams(draw: st.DrawFn) -> list[float]:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.lists(values, max_size=200))
    rng = random.Random(draw(st.integers(0, 2**32)))
    parts = [[rng.gauss(mean, sd) for _ in range(n)] for mean, sd, n in draw(segments)]
    return [x for part in parts for x in part]


def drifts_of_river(detector: Any, xs: list[float]) -> list[int]:
    indices = []
    for index, x in enumerate(xs):
        detector.update(x)
        if detector.drift_detected:
            indices.append(index)
    return indices


def warnings_of_river(detector: Any, xs: list[float]) -> list[int]:
    """Where the warning zone is entered."""
    indices, before = [], False
    for index, x in enumerate(xs):
        detector.update(x)
        now = detector.warning_detected and not detector.drift_detected
        if now and not before:
            indices.append(index)
        before = now
    return indices


def drifts(detector: Any, xs: list[float]) -> list[int]:
    return [alarm.index for alarm in detector.update_many(np.array(xs)) if alarm.kind == "drift"]


def test_river_is_the_version_that_parity_is_stated_for() -> None:
    assert river.__version__ == "0.26.1"


@settings(max_examples=150, deadline=None)
@given(
    xs=streams(),
    params=st.fixed_dictionaries(
        {},
        optional={
            "min_instances": st.integers(1, 60),
            "delta": st.floats(0, 1),
            "threshold": st.floats(0, 60),
            "alpha": st.floats(0.5, 1),
            "mode": st.sampled_from(["up", "down", "both"]),
        },
    ),
)
def test_page_hinkley_drifts_where_river_does(xs: list[float], params: dict[str, Any]) -> None:
    theirs = river.drift.PageHinkley(**params)
    assert drifts(PageHinkley(**params), xs) == drifts_of_river(theirs, xs)


@settings(max_examples=100, deadline=None)
@given(xs=streams())
def test_page_hinkley_computes_what_river_computes_to_the_last_bit(xs: list[float]) -> None:
    # No alarm, so that the sums run on.
    ours, theirs = PageHinkley(threshold=1e12), river.drift.PageHinkley(threshold=1e12)
    for x in xs:
        ours.update(x)
        theirs.update(x)
        _, mean, up, up_min, _, _, down, down_max, *_ = ours.state()["row"]
        assert mean == theirs._x_mean.get()
        assert (up, up_min) == (theirs._sum_increase, theirs._min_increase)
        assert (down, down_max) == (theirs._sum_decrease, theirs._max_decrease)


def bits(seed: int, n: int = 1500) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < (0.2, 0.7, 0.1)[i * 3 // n]) for i in range(n)]


@pytest.mark.parametrize("path", RIVER_CLASSES)
def test_the_wrapper_drifts_and_warns_where_river_does(path: str) -> None:
    cls = RIVER_CLASSES[path]
    params = {"seed": 0} if "seed" in inspect.signature(cls).parameters else {}
    xs = bits(1, 300 if path.endswith("KSWIN") else 1500)
    alarms = RiverDetector(path, params).update_many(np.array(xs))
    found = {kind: [a.index for a in alarms if a.kind == kind] for kind in ("drift", "warning")}
    assert found["drift"] == drifts_of_river(cls(**params), xs)
    if hasattr(cls, "warning_detected"):
        assert found["warning"] == warnings_of_river(cls(**params), xs)
    else:
        assert found["warning"] == []


@pytest.mark.parametrize("path", RIVER_CLASSES)
def test_every_river_detector_goes_on_from_its_state(path: str) -> None:
    xs = np.array(bits(2, 300 if path.endswith("KSWIN") else 1500))
    uninterrupted = RiverDetector(path)
    indices = [alarm.index for alarm in uninterrupted.update_many(xs)]
    # In the middle, and around an alarm where there is one.
    for stop in {len(xs) // 2, *(index + k for index in indices[:2] for k in (0, 1, 2))}:
        detector: Any = RiverDetector(path)
        before = detector.update_many(xs[:stop])
        wire = msgspec.msgpack.encode(detector.state())
        detector = detector_from_state(msgspec.msgpack.decode(wire))
        after = detector.update_many(xs[stop:])
        assert [alarm.index for alarm in before + after] == indices
        assert msgspec.msgpack.encode(detector.state()) == msgspec.msgpack.encode(
            uninterrupted.state()
        )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (river.drift.ADWIN(), ADWIN()),
        (river.drift.PageHinkley(threshold=5), PageHinkley(threshold=5)),
    ],
    ids=["ADWIN", "PageHinkley"],
)
def test_nan_deafens_river_and_not_us(theirs: Any, ours: Any) -> None:
    before, after = [0.1] * 300, [0.9] * 300
    assert drifts_of_river(theirs, [*before, float("nan"), *after]) == []
    ours.update_many(np.array(before))
    with pytest.raises(ValueError, match="finite"):
        ours.update(float("nan"))
    assert drifts(ours, after)


def peer_cases() -> list[Any]:
    path = PEER_CASES / "river.json"
    if not path.exists():
        reason = "../shared/data/peer_cases is not here"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(path.read_text())]


@pytest.mark.parametrize("case", peer_cases())
def test_drifts_where_rivers_own_tests_expect_it(case: dict[str, Any]) -> None:
    xs = np.loadtxt(PEER_CASES / case["stream"]["file"])
    name, observed = case["detector"], case["verification"]["observed"]
    if name == "FHDDM":
        found = drifts(make_detector("river.drift.binary.FHDDM", case["params"]), xs)
        assert found == observed["FHDDM"]
        return
    own = name in ("ADWIN", "PageHinkley")
    paths = [name] if own else []
    paths += [path for path in RIVER_CLASSES if path.endswith(f".{name}")]
    for path in paths:
        alarms = make_detector(path, case["params"]).update_many(xs)
        found = {kind: [a.index for a in alarms if a.kind == kind] for kind in ("drift", "warning")}
        assert found["drift"] == observed["drift"]
        if case["expected"]["drift"] is not None:
            assert found["drift"] == case["expected"]["drift"]
        # Theirs are the first warnings after the start and after each drift.
        starts = [0, *found["drift"]]
        first = [next((w for w in found["warning"] if w > start), None) for start in starts]
        edges = list(dict.fromkeys(w for w in first if w is not None))
        assert edges == observed["warning_edges"]
