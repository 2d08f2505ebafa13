"""Losses stay in [0, 1] on any values, and mean the same on any scale."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgauge.consumers.config import load_config
from streamgauge.stream.outcomes import Outcome
from streamgauge.stream.signals import loss as loss_module
from streamgauge.stream.signals.loss import LogLoss, ScaledAbsoluteError, ZeroOneLoss, make_loss

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
PAIRS = st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=50)


def outcomes(pairs, probability=None):
    return [Outcome("1", y_true, y_pred, probability) for y_true, y_pred in pairs]


def errors(values):
    return outcomes([(value, 0.0) for value in values])


def cut(items, sizes):
    pieces, start = [], 0
    for size in [*sizes, len(items)]:
        pieces.append(items[start : start + size])
        start += size
    return pieces


@given(PAIRS)
def test_a_regression_loss_is_in_0_to_1(pairs):
    losses = ScaledAbsoluteError().values(outcomes(pairs))
    assert losses.shape == (len(pairs),)
    assert ((losses >= 0) & (losses <= 1)).all()
    for (y_true, y_pred), loss in zip(pairs, losses, strict=True):
        assert (loss == 0) == (float(y_true) == float(y_pred)) or loss < 1e-100


@given(PAIRS, st.lists(st.integers(0, 20), max_size=5))
def test_a_regression_loss_does_not_depend_on_cuts_or_restarts(pairs, sizes):
    whole = ScaledAbsoluteError().values(outcomes(pairs))
    loss, pieces = ScaledAbsoluteError(), []
    for piece in cut(outcomes(pairs), sizes):
        pieces.append(loss.values(piece))
        restored = ScaledAbsoluteError()
        restored.restore(loss.state())
        loss = restored
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=50), st.integers(-300, 300))
def test_a_regression_loss_is_the_same_in_any_unit(values, exponent):
    unit = 2.0**exponent
    as_they_are = ScaledAbsoluteError().values(errors(values))
    in_the_unit = ScaledAbsoluteError().values(errors([value * unit for value in values]))
    assert in_the_unit == pytest.approx(as_they_are, rel=1e-12)


def test_the_scale_settles_after_1000_outcomes_and_no_outlier_moves_it():
    rng = np.random.default_rng(3)
    usual = np.abs(rng.normal(0, 5, 1000))
    usual[::50] = 1e300
    loss = ScaledAbsoluteError()
    loss.values(errors(usual))
    median = float(np.sort(usual)[500])
    assert loss.values(errors([median, 3 * median, 1e308])) == pytest.approx([0.5, 0.75, 1.0])
    loss.values(errors([1000.0] * 5000))
    assert loss.values(errors([median])) == pytest.approx([0.5]), "a drift must not become usual"
    assert loss.one(median, 0.0) == pytest.approx(0.5)


def test_errors_of_0_say_nothing_of_the_scale():
    loss = ScaledAbsoluteError()
    mixed = [error for k in range(1, 401) for error in (0.0, float(k), 0.0)][:1000]
    assert loss.values(errors(mixed))[::3].tolist() == [0.0] * 334
    assert loss.values(errors([0.0, 167.0, 501.0])) == pytest.approx([0, 0.5, 0.75])


def test_all_errors_zero_then_one_that_is_not():
    loss = ScaledAbsoluteError()
    assert loss.values(errors([0.0] * 1500)).tolist() == [0.0] * 1500
    assert loss.values(errors([1e-9, 0.0])).tolist() == [1.0, 0.0]
    assert loss.one(1.0, 1.0) == 0.0


def test_errors_beyond_any_number():
    extremes = outcomes([(1e308, -1e308), (0, 1e308), (-(2**63), 2**63 - 1), (5e-324, 0)])
    assert np.isfinite(ScaledAbsoluteError().values(extremes)).all()


@given(PAIRS, st.lists(st.integers(0, 20), max_size=5))
def test_another_predictions_loss_is_on_the_scale_that_its_outcome_left_behind(pairs, sizes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "_N_SCALE", 25)
        stepwise, whole = ScaledAbsoluteError(), ScaledAbsoluteError()
        for piece in cut(outcomes(pairs), sizes):
            whole.values(piece)
            for i, outcome in enumerate(piece):
                stepwise.values([outcome])
                expected = stepwise.one(outcome.y_true, 0.5)
                assert whole.one(outcome.y_true, 0.5, i) == expected


@pytest.mark.parametrize("y_pred", [math.nan, math.inf, -math.inf])
def test_a_prediction_of_a_learner_that_diverged_is_as_wrong_as_can_be(y_pred):
    loss = ScaledAbsoluteError()
    loss.values(errors([1.0, 2.0, 3.0]))
    assert loss.one(1.0, y_pred) == pytest.approx(1.0)


CLASSES = st.sampled_from(["a", "b", "1", "true", 0, 1, 2, 1.0, True, False])
PROBABILITY = (
    st.none()
    | st.floats(0, 1)
    | st.dictionaries(st.sampled_from(["a", "b", "0", "1", "1.0", "true", "True"]), st.floats(0, 1))
)


@given(CLASSES, CLASSES, PROBABILITY)
def test_a_log_loss_is_in_0_to_1(y_true, y_pred, probability):
    [loss] = LogLoss().values([Outcome("1", y_true, y_pred, probability)])
    assert 0 <= loss <= 1


@pytest.mark.parametrize(
    ("y_true", "y_pred", "probability", "p_true"),
    [
        ("a", "a", None, 1),
        ("a", "b", None, 0.001),
        ("a", "a", 0.8, 0.8),
        ("a", "b", 0.8, 0.2),
        ("a", "b", 1.0, 0.001),
        ("a", "a", 0.0, 0.001),
        ("a", "b", {"a": 0.3, "b": 0.7}, 0.3),
        ("c", "b", {"a": 0.3, "b": 0.7}, 0.001),
        (1, 0, {"0": 0.9, "1": 0.1}, 0.1),
        (1, 0, {"0.0": 0.9, "1.0": 0.1}, 0.1),
        (1.0, 0.0, {"0": 0.9, "1": 0.1}, 0.1),
        (1.0, 0.0, {"0.0": 0.9, "1.0": 0.1}, 0.1),
        (True, False, {"true": 0.4, "false": 0.6}, 0.4),
        (False, False, {"True": 0.4, "False": 0.6}, 0.6),
        ("a", "a", {"a": 0.0001}, 0.001),
    ],
)
def test_a_log_loss_is_of_the_true_classs_probability(y_true, y_pred, probability, p_true):
    [loss] = LogLoss().values([Outcome("1", y_true, y_pred, probability)])
    assert loss == pytest.approx(math.log(p_true) / math.log(0.001))


def test_a_class_is_wrong_or_not():
    pairs = [("a", "a"), ("a", "b"), (1, True), (1, 1.0), ("1", 1)]
    assert ZeroOneLoss().values(outcomes(pairs)).tolist() == [0, 1, 0, 0, 1]
    assert [LogLoss().one(*pair) for pair in pairs] == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("loss", "task", "kind"),
    [
        (None, "classification", ZeroOneLoss),
        (None, "regression", ScaledAbsoluteError),
        ("log_loss", "classification", LogLoss),
        ("scaled_absolute", "classification", ZeroOneLoss),
        ("log_loss", "regression", ScaledAbsoluteError),
    ],
)
def test_the_loss_is_the_configured_one_where_it_fits_or_the_tasks_own(loss, task, kind):
    assert type(make_loss(load_config({"defaults": {"loss": loss}}).defaults, task)) is kind
