"""The clearest split of a past, against the values themselves."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.detectors.split import Past

unit = st.lists(st.floats(0, 1), max_size=400)


def past_of(xs: list[float]) -> Past:
    past = Past()
    for x in xs:
        past.add(x)
    return past


@settings(max_examples=60, deadline=None)
@given(unit)
def test_a_split_has_the_means_of_its_parts(xs: list[float]) -> None:
    past = past_of(xs)
    assert past.n == len(xs)
    split = past.clearest_split()
    assert (split is None) == (len(xs) < 2)
    if split is not None:
        assert 0 < split.n_after < len(xs)
        assert split.mean_before == pytest.approx(np.mean(xs[: -split.n_after]), abs=1e-9)
        assert split.mean_after == pytest.approx(np.mean(xs[-split.n_after :]), abs=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(10))
def test_finds_the_onset_of_a_clear_change(seed: int, sign: int) -> None:
    rng = random.Random(seed)
    p_before, p_after = (0.1, 0.6) if sign > 0 else (0.6, 0.1)
    xs = [float(rng.random() < (p_before if i < 1000 else p_after)) for i in range(1100)]
    split = past_of(xs).clearest_split()
    assert split is not None
    assert 80 <= split.n_after <= 120
    assert split.clarity > 1
    assert math.copysign(1, split.mean_after - split.mean_before) == sign


def test_chance_is_not_clear() -> None:
    rng = random.Random(1)
    for p in (0.01, 0.1, 0.5):
        for _ in range(30):
            split = past_of([float(rng.random() < p) for _ in range(500)]).clearest_split()
            assert split is not None
            assert split.clarity < 1


@settings(max_examples=30, deadline=None)
@given(unit, unit)
def test_goes_on_from_its_state(before: list[float], after: list[float]) -> None:
    past = past_of(before)
    twin = Past.from_state(msgspec.msgpack.decode(msgspec.msgpack.encode(past.state())))
    for x in after:
        past.add(x)
        twin.add(x)
    assert twin.state() == past.state()
    assert twin.clearest_split() == past.clearest_split()
