"""The detectors of error rates find drifts and warnings where River 0.26.1 does."""

from __future__ import annotations

import csv
import gzip
import json
import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import river.drift.binary
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import Detector, make_detector

SHARED = Path(__file__).parents[3] / "shared" / "data"
ABSENT = "../shared/data is not here"

whole = st.integers(0, 60)
confidence = st.floats(1e-9, 1) | st.sampled_from([0.001, 0.005, 0.05])
RIVER = {
    "DDM": river.drift.binary.DDM,
    "EDDM": river.drift.binary.EDDM,
    "FHDDM": river.drift.binary.FHDDM,
    "HDDM_A": river.drift.binary.HDDMA,
    "HDDM_W": river.drift.binary.HDDMW,
}
PARAMS = {
    "DDM": {
        "warm_start": whole,
        "warning_threshold": st.floats(1, 5),
        "drift_threshold": st.floats(1, 5),
    },
    "EDDM": {"warm_start": whole, "alpha": st.floats(0.9, 1), "beta": st.floats(0.5, 0.9)},
    "FHDDM": {
        "sliding_window_size": st.integers(20, 80),
        "confidence_level": confidence,
        "short_window_size": st.none() | st.integers(1, 20),
    },
    "HDDM_A": {
        "drift_confidence": confidence,
        "warning_confidence": confidence,
        "two_sided_test": st.booleans(),
    },
    "HDDM_W": {
        "drift_confidence": confidence,
        "warning_confidence": confidence,
        "lambda_val": st.floats(0, 1) | st.floats(0.01, 0.2),
        "two_sided_test": st.booleans(),
    },
}
# Settings under which real streams give many alarms, beside the defaults.
EAGER = {
    "DDM": {"warm_start": 5, "warning_threshold": 1.2, "drift_threshold": 1.7},
    "EDDM": {"warm_start": 3, "alpha": 0.99, "beta": 0.97},
    "FHDDM": {"sliding_window_size": 40, "confidence_level": 0.01, "short_window_size": 15},
    "HDDM_A": {"drift_confidence": 0.05, "warning_confidence": 0.1, "two_sided_test": True},
    "HDDM_W": {"drift_confidence": 0.05, "warning_confidence": 0.1, "two_sided_test": True},
}

every_kind = pytest.mark.parametrize("kind", RIVER)


def of_river(kind: str, params: dict[str, Any], xs: list[int]) -> list[tuple[int, str]]:
    """River's drifts, and where its warning zone is entered.

    To River's FHDDM, and to it alone, ones are right answers.
    """
    detector: Any = RIVER[kind](**params)
    found, before = [], False
    for index, x in enumerate(xs):
        detector.update(1 - x if kind == "FHDDM" else x)
        now = detector.warning_detected and not detector.drift_detected
        if detector.drift_detected:
            found.append((index, "drift"))
        elif now and not before:
            found.append((index, "warning"))
        before = now
    return found


def ours(detector: Detector, xs: list[int]) -> list[tuple[int, str]]:
    return [(alarm.index, alarm.kind) for alarm in detector.update_many(np.array(xs, dtype=float))]


@st.composite
def streams(draw: st.DrawFn) -> list[int]:
    """Runs of a few rates, of the same pattern again and again, or what hypothesis thinks of."""
    how = draw(st.sampled_from(["rates", "rates", "patterns", "free"]))
    if how == "free":
        return draw(st.lists(st.integers(0, 1), max_size=200))
    rng = random.Random(draw(st.integers(0, 2**32)))
    n = st.integers(20, 400)
    if how == "patterns":
        pattern = st.lists(st.integers(0, 1), min_size=1, max_size=9)
        parts = draw(st.lists(st.tuples(pattern, n), min_size=1, max_size=4))
        return [pattern[i % len(pattern)] for pattern, n in parts for i in range(n)]
    rates = draw(st.lists(st.tuples(st.floats(0, 1), n), min_size=2, max_size=5))
    return [int(rng.random() < rate) for rate, n in rates for _ in range(n)]


@every_kind
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_alarms_are_where_river_has_them(kind: str, data: st.DataObject) -> None:
    params = data.draw(st.fixed_dictionaries({}, optional=PARAMS[kind]))
    xs = data.draw(streams())
    expected = of_river(kind, params, xs)
    event(f"{len(expected)} alarms")
    assert ours(make_detector(kind, params), xs) == expected


@cache
def real_bits(file: str) -> list[int]:
    """Whether a column's value is another than the last one, or is above the one before."""
    with gzip.open(SHARED / "streams" / file, "rt") as lines:
        rows = list(csv.reader(lines))[1:12_001]
    target = [row[-1] for row in rows]
    if len(set(target)) == 2:
        return [int(one != other) for one, other in pairwise(target)]
    return [int(float(one) < float(other)) for one, other in pairwise(target)]


@every_kind
@pytest.mark.parametrize(
    "file",
    [
        "elec2.csv.gz",
        "noaa_weather.csv.gz",
        "bike_hour.csv.gz",
        "tornado_sine1_w_50_n_0.1_101.csv.gz",
    ],
)
def test_alarms_on_real_streams_are_where_river_has_them(kind: str, file: str) -> None:
    if not SHARED.exists():
        pytest.skip(ABSENT)
    xs = real_bits(file)
    for params in ({}, EAGER[kind]):
        expected = of_river(kind, params, xs)
        assert ours(make_detector(kind, params), xs) == expected
    assert len(expected) > 10


def peer_cases() -> list[Any]:
    if not SHARED.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))]
    return [
        pytest.param(case, id=f"{path.stem}-{case['name']}")
        for path in sorted((SHARED / "peer_cases").glob("*.json"))
        for case in json.loads(path.read_text())
        if case["detector"].replace("_", "") in {kind.replace("_", "") for kind in RIVER}
    ]


@pytest.mark.parametrize("case", peer_cases())
def test_alarms_on_the_peers_streams_are_where_river_has_them(case: dict[str, Any]) -> None:
    xs = np.loadtxt(SHARED / "peer_cases" / case["stream"]["file"]).tolist()
    if not set(xs) <= {0.0, 1.0}:
        pytest.skip("not a stream of bits")
    name = case["detector"].replace("_", "")
    [kind] = [kind for kind in RIVER if kind.replace("_", "") == name]
    bits = [1 - int(x) if kind == "FHDDM" else int(x) for x in xs]
    found = ours(make_detector(kind, case["params"]), bits)
    assert found == of_river(kind, case["params"], bits)
    if case["peer"] == "river":
        drifts = [index for index, what in found if what == "drift"]
        observed = case["verification"]["observed"]
        assert drifts == observed["FHDDM" if kind == "FHDDM" else "drift"]
