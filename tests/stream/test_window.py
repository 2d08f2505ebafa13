"""The window index against all outcomes kept, and its memory."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.stream.outcomes import Outcome, OutcomeColumns
from streamgauge.stream.window import WindowIndex


def made(seed, n):
    rng = np.random.default_rng(seed)
    outcomes = [
        Outcome(
            "1",
            0,
            0,
            predicted_ms=int(i * 10 - rng.integers(0, 100)),
            timestamp_ms=int(i * 10 + rng.integers(0, 100)),
            # Late labels, and every third without a prediction of its own.
            prediction_offset=None if i % 3 == 0 else int(i + rng.integers(0, 30)),
            label_offset=int(i + rng.integers(0, 5)),
        )
        for i in range(n)
    ]
    return outcomes, rng.random(n)


def indexed(outcomes, losses, cuts=()):
    index = WindowIndex()
    columns = OutcomeColumns(outcomes, losses)
    bounds = [0, *sorted(min(cut, len(outcomes)) for cut in cuts), len(outcomes)]
    for start, stop in pairwise(bounds):
        index.record(columns, start, stop)
    return index


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3000), st.data())
def test_a_split_covers_every_outcome_from_the_given_one_on(seed, n, data):
    outcomes, losses = made(seed, n)
    position = data.draw(st.integers(0, n - 1))
    before, since = indexed(outcomes, losses).split(position)
    assert before.n + since.n == n
    assert before.n <= position
    # Not much more than was asked for.
    assert position - before.n <= 32 + (n - position) / 6
    for block, part, its_losses in (
        (before, outcomes[: before.n], losses[: before.n]),
        (since, outcomes[before.n :], losses[before.n :]),
    ):
        if not part:
            assert block.mean_loss is None
            continue
        assert block.mean_loss == pytest.approx(its_losses.mean())
        assert block.predicted_ms_min == min(o.predicted_ms for o in part)
        assert block.timestamp_ms_max == max(o.timestamp_ms for o in part)
        assert block.label_min == min(o.label_offset for o in part)
        assert block.label_max == max(o.label_offset for o in part)
        offsets = [o.prediction_offset for o in part if o.prediction_offset is not None]
        if offsets:
            assert (block.prediction_min, block.prediction_max) == (min(offsets), max(offsets))
        else:
            assert block.prediction_max == -1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(1, 2000), st.lists(st.integers(0, 2000), max_size=40))
def test_the_index_does_not_depend_on_how_the_outcomes_were_cut(seed, n, cuts):
    outcomes, losses = made(seed, n)
    assert indexed(outcomes, losses, cuts).state() == indexed(outcomes, losses).state()


def test_memory_grows_with_the_logarithm():
    outcomes, losses = made(1, 1000)
    columns = OutcomeColumns(outcomes, losses)
    index = WindowIndex()
    n_blocks = {}
    for thousands in range(1, 1025):
        index.record(columns, 0, 1000)
        n_blocks[thousands] = len(index.state())
    assert n_blocks[1024] <= n_blocks[1] + 10 * 8
    assert index.split(0)[1].n == 1_024_000


def test_an_empty_index_has_nothing_before_and_nothing_since():
    before, since = WindowIndex().split(0)
    assert (before.n, since.n, since.mean_loss) == (0, 0, None)
