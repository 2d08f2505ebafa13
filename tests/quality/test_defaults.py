"""The promise of a configuration without settings, on streams short enough for every day."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamgauge.consumers.config import load_config
from tests.quality.defaults import (
    ERROR_RATES,
    REGRESSION_ERRORS,
    STEP_AT,
    Tally,
    delays,
    regression,
    stationary,
    step,
)

# At most this many requests for 100,000 outcomes without a change.
BUDGET = 1.2
N = 20_000


def most(n_outcomes):
    """More requests than this come once in 10,000 times, if the budget is kept."""
    mean = BUDGET * n_outcomes / 100_000
    k, total = 0, math.exp(-mean)
    while 1 - total > 1e-4:
        k += 1
        total += math.exp(-mean) * mean**k / math.factorial(k)
    return k


def total(tallies):
    result = Tally()
    for tally in tallies:
        result += tally
    return result


def test_a_classifier_that_does_not_change_is_left_alone():
    tally = total(
        stationary(rate, N, seed) for seed, rate in enumerate((*ERROR_RATES, *ERROR_RATES))
    )
    assert tally.n_requests <= most(tally.n_outcomes)


def test_a_regressor_that_does_not_change_is_left_alone():
    tally = total(
        regression(of, N, seed) for seed, of in enumerate([*REGRESSION_ERRORS.values()] * 2)
    )
    assert tally.n_requests <= most(tally.n_outcomes)


def test_the_bound_notices_page_hinkley_asking():
    detectors = {"page_hinkley": {"kind": "PageHinkley"}}
    config = load_config({"defaults": {"detectors": detectors}})
    tally = total(stationary(rate, 5 * N, 1, config) for rate in (0.2, 0.3, 0.4, 0.5))
    assert tally.n_requests > most(tally.n_outcomes)


def test_a_step_is_asked_for_soon():
    found, n_early = delays(range(15))
    assert n_early <= 2
    # The median of 100 seeds is at most 300; this is one of fewer.
    assert np.median(found) <= 400


@pytest.mark.parametrize("rates", [(0.02, 0.2), (0.5, 0.8)])
def test_a_large_step_is_asked_for_at_once_and_once(rates):
    tally = step(3, rates)
    assert tally.n_requests == 1
    assert STEP_AT < tally.first_request < STEP_AT + 100
