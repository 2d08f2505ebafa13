"""What EDDM says about a change, and how its warning zone is left."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import river.drift.binary
from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamgauge.detectors import EDDM
from tests.detectors.test_binary_parity import of_river, ours

runs = st.lists(st.tuples(st.floats(0, 1), st.integers(50, 400)), min_size=2, max_size=4)
WARM_START = 10


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), segments=runs)
def test_describes_the_distances_and_the_rates_around_the_maximum(
    seed: int, segments: list[tuple[float, int]]
) -> None:
    rng = random.Random(seed)
    xs = np.array([float(rng.random() < p) for p, n in segments for _ in range(n)])
    alarms = EDDM(warm_start=WARM_START).update_many(xs)
    event(f"{len(alarms)} alarms")
    baseline = 0
    for alarm in alarms:
        seen = xs[baseline : alarm.index + 1]
        errors = np.flatnonzero(seen) + 1
        distances = np.diff(errors, prepend=0)
        spreads = [
            distances[:k].mean() + 2 * (distances[:k].std(ddof=1) if k > 1 else 0)
            for k in range(1, len(distances) + 1)
            if errors[k - 1] > WARM_START
        ]
        assert len(errors) > WARM_START
        assert alarm.direction == "up"
        assert alarm.statistic == pytest.approx(spreads[-1] / max(spreads))
        assert alarm.statistic < alarm.threshold == (0.9 if alarm.kind == "drift" else 0.95)
        at = alarm.onset - baseline
        position = len(errors) - len(spreads) + int(np.argmax(spreads))
        assert spreads[list(errors).index(at) - len(errors)] == pytest.approx(max(spreads))
        assert at >= errors[position]
        assert alarm.mean_before == pytest.approx(seen[:at].mean())
        assert alarm.mean_after == pytest.approx(seen[at:].mean())
        if alarm.kind == "drift":
            baseline = alarm.index + 1


def test_the_warning_zone_outlasts_a_new_maximum_as_in_river() -> None:
    params = {"warm_start": 2, "alpha": 0.97, "beta": 0.1}
    # Distances of 9, then errors in a row, a new maximum, and errors in a row again.
    xs = [*([0] * 8 + [1]) * 3, 1, 1, 1, 1, *[0] * 60, 1, 1, 1, 1, 1, 1]
    found = ours(EDDM(**params), xs)
    assert found == of_river("EDDM", params, xs)
    assert [what for _, what in found].count("warning") == 1


def test_takes_the_root_that_river_takes() -> None:
    # River's `** 0.5` and a square root differ in the last bit of about one number in a thousand.
    rng = random.Random(3)
    xs = [int(rng.random() < 0.3) for _ in range(20_000)]
    eddm, theirs = EDDM(beta=0, alpha=0), river.drift.binary.EDDM(beta=0, alpha=0)
    for x in xs:
        eddm.update(x)
        theirs.update(x)
        maximum = eddm.state()["row"][5]
        assert maximum == max(theirs._p2s_prime_max, 0)


def test_nan_is_no_error_to_river_and_refused_by_us() -> None:
    xs = [math.nan] * 5
    assert of_river("EDDM", {}, xs) == []  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        EDDM().update_many(np.array(xs))


def test_readings_follow_the_statistic() -> None:
    eddm = EDDM(warm_start=1, beta=0.5)
    assert eddm.readings() == {"statistic": 1, "threshold": 0.5, "mean": 0}
    eddm.update_many(np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    distances = np.array([4, 1, 1])
    largest = 2.5 + 2 * np.std([4, 1], ddof=1)
    level = (distances.mean() + 2 * distances.std(ddof=1)) / largest
    assert eddm.readings() == pytest.approx({"statistic": level, "threshold": 0.5, "mean": 0.5})


@pytest.mark.parametrize(
    "params", [{"warm_start": -1}, {"alpha": 1.5}, {"beta": -0.1}, {"alpha": 0.8}]
)
def test_refuses_parameters_out_of_range(params: dict[str, float]) -> None:
    [name] = params
    with pytest.raises(ValueError, match=name):
        EDDM(**params)


def test_the_parameters_are_rivers() -> None:
    assert EDDM().state()["params"] == river.drift.binary.EDDM()._get_params()
