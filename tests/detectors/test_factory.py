"""Detectors by name; parameters out of range; what an import costs."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from streamgauge import detectors
from streamgauge.detectors import (
    ADWIN,
    PageHinkley,
    RiverDetector,
    detector_from_state,
    make_detector,
)


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("ADWIN", ADWIN),
        ("PageHinkley", PageHinkley),
        ("river.drift.ADWIN", RiverDetector),
        ("river.drift.binary.DDM", RiverDetector),
    ],
)
def test_makes_and_restores_by_name(kind: str, cls: type) -> None:
    detector = make_detector(kind)
    assert type(detector) is cls
    assert type(detector_from_state(detector.state())) is cls


def test_params_reach_the_detector() -> None:
    params = {"delta": 0.5, "clock": 7}
    assert make_detector("ADWIN", params).state() == ADWIN(delta=0.5, clock=7).state()


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("Adwin", {}, "no detector 'Adwin'; use ADWIN, .* or the import path"),
        (
            "ADWIN",
            {"clok": 1},
            "^ADWIN: unknown parameter 'clok' .its parameters: delta, clock, max_buckets",
        ),
        ("PageHinkley", {"lambda": 1}, "'lambda'.*its parameters: min_instances, delta, threshold"),
        ("ADWIN", {"delta": 7}, "delta is a number above 0 and below 1, got 7"),
    ],
)
def test_names_what_there_is(kind: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_detector(kind, params)


@pytest.mark.parametrize("state", [{}, {"detector": "Nilometer"}, {"detector": 5}])
def test_restores_no_unknown_detector(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no detector"):
        detector_from_state(state)


BAD = {
    ADWIN: {
        "delta": [0, 1, -0.1, float("nan"), "0.1", None, True],
        "clock": [0, -32, 1.5, 2**31, "32", True],
        "max_buckets": [0, 10_001],
        "min_window_length": [0, 2**31],
        "grace_period": [-1, 2**31],
        "on_drift": ["Reset", None],
    },
    PageHinkley: {
        "min_instances": [0, 1.5, False],
        "delta": [-0.1, float("nan"), float("inf")],
        "threshold": [-1, float("inf"), "50"],
        "alpha": [0, 1.1, -1],
        "mode": ["sideways", None],
    },
}


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(cls, name, value) for cls in BAD for name in BAD[cls] for value in BAD[cls][name]],
)
def test_names_the_parameter_that_is_out_of_range(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*, got {value!r}$"):
        cls(**{name: value})


@pytest.mark.parametrize("row", [None, "0", [], [0.0] * 11, [0.0] * 9 + [math.nan], ["x"] * 10])
def test_a_state_with_a_damaged_row_is_refused(row: Any) -> None:
    with pytest.raises(ValueError, match="row in this state"):
        PageHinkley.from_state({**PageHinkley().state(), "row": row})


@pytest.mark.parametrize(
    ("kind", "at", "name"),
    [
        ("PageHinkley", 4, "n up to the minimum"),
        ("PageHinkley", 8, "n up to the maximum"),
        ("DDM", 4, "n up to the minimum"),
        ("DDM", 5, "in warning"),
        ("EDDM", 1, "n up to the last error"),
        ("EDDM", 2, "errors"),
        ("EDDM", 6, "n up to the maximum"),
        ("EDDM", 7, "errors up to the maximum"),
        ("HDDM_A", 2, "in warning"),
        ("HDDM_A", 3, "n up to the cut for rises"),
        ("HDDM_A", 6, "n up to the cut for falls"),
        ("HDDM_W", 1, "ones"),
        ("HDDM_W", 5, "n up to the cut for rises"),
        ("HDDM_W", 6, "ones up to the cut for rises"),
        ("HDDM_W", 12, "n up to the cut for falls"),
    ],
)
def test_names_the_count_that_is_damaged_in_a_state(kind: str, at: int, name: str) -> None:
    detector = make_detector(kind)
    detector.update_many(np.array([0.0, 1.0, 0.0] * 20))
    for value in (-1.0, 0.5, 61.0, 1e300, math.inf):
        state = detector.state()
        state["row"][at] = value
        with pytest.raises(ValueError, match=f"{kind} is damaged: {name} is a whole number"):
            detector_from_state(state)


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(detectors, name) is not None for name in detectors.__all__)
    with pytest.raises(AttributeError, match="'Nilometer'"):
        detectors.Nilometer  # noqa: B018


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("streamgauge.detectors.base", ["river", "numpy"]),
        # What configurations name most is ready without the import of all of River.
        ("streamgauge.detectors.factory", ["river.drift", "numba"]),
    ],
)
def test_import_is_light(module: str, unwanted: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {unwanted!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
