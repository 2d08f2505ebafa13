"""Where a detector's values are is known, the nearer the better."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from streamgauge.stream.signals.index_map import IndexMap

GAPS = st.lists(st.sampled_from([1, 1, 1, 2, 30, 1000]), min_size=1, max_size=400)


def places_of(outcomes):
    places = IndexMap()
    places.record(0, outcomes)
    return places


@given(GAPS)
def test_a_place_is_found_to_within_an_eighth_of_the_values_since(gaps):
    outcomes = np.cumsum(gaps)
    places, now = places_of(outcomes), len(gaps) - 1
    for value in range(len(gaps)):
        slack = (now - value) // 8
        place = places.outcome(value, now)
        assert outcomes[max(0, value - slack)] <= place <= outcomes[min(now, value + slack)]


@given(GAPS, st.integers(0, 399))
@example([1000] * 302 + [1] * 98, 301)
def test_what_is_found_after_a_drift_lies_after_it(gaps, drift):
    outcomes = np.cumsum(gaps)
    drift = min(drift, len(gaps) - 1)
    places = places_of(outcomes[: drift + 1])
    places.drifted(drift)
    places = IndexMap(places.state(drift + 1))
    places.record(drift + 1, outcomes[drift + 1 :])
    places = IndexMap(places.state(len(gaps)))
    assert places.outcome(drift, len(gaps) - 1) == outcomes[drift]
    after = [places.outcome(value, len(gaps) - 1) for value in range(drift + 1, len(gaps))]
    assert all(place > outcomes[drift] for place in after)
    assert sorted(set(after)) == after


def test_what_is_known_does_not_hang_on_what_came_later_in_the_same_call():
    outcomes = np.cumsum(np.random.default_rng(1).integers(1, 20, 5000))
    whole, cut = places_of(outcomes), places_of(outcomes[:3001])
    values = range(0, 3001, 7)
    expected = [cut.outcome(value, 3000) for value in values]
    assert [whole.outcome(value, 3000) for value in values] == expected
    assert IndexMap(cut.state(3001)).outcome(1234, 3000) == cut.outcome(1234, 3000)


def test_more_runs_than_are_kept_are_forgotten_without_a_difference():
    outcomes = np.cumsum(np.random.default_rng(1).integers(2, 20, 20_000))
    whole, pieces = places_of(outcomes), IndexMap()
    for start in range(0, 20_000, 1000):
        pieces.record(start, outcomes[start : start + 1000])
    for value in range(0, 20_000, 37):
        assert pieces.outcome(value, 19_999) == whole.outcome(value, 19_999)
    assert pieces.state(20_000) == whole.state(20_000)
