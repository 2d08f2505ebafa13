"""The learner: scored before it learns, sealed when it is stored."""

import random

import msgspec
import numpy as np
import pytest

from streamgauge.stream.config import LearnerConfig
from streamgauge.stream.outcomes import Outcome
from streamgauge.stream.signals.learner import Learner, LearnerStateError, make_river_model
from streamgauge.stream.signals.loss import ScaledAbsoluteError, ZeroOneLoss

KEY = b"key"
TREE = LearnerConfig(path="river.tree.HoeffdingTreeClassifier", params={"grace_period": 20})
LINEAR = LearnerConfig(path="river.linear_model.LinearRegression")
PIPELINE = LearnerConfig(path="tests.support.builders.scaled_logistic")


def outcomes(n, seed=1):
    rng = random.Random(seed)
    xs = [rng.random() for _ in range(n)]
    return [
        Outcome("1", x > 0.5, False, features={"x": x, "y": rng.random(), "z": None}) for x in xs
    ]


@pytest.mark.parametrize("config", [TREE, PIPELINE])
def test_a_learner_learns(config):
    learner = Learner(config, "classification")
    losses = learner.losses(outcomes(500), ZeroOneLoss())
    assert losses[0] == (1.0 if config is TREE else losses[0])
    assert losses[400:].mean() < 0.15 < losses[:20].mean()
    assert learner.n_failed == 0


def test_it_is_scored_before_it_learns():
    learner = Learner(LearnerConfig(path="river.dummy.NoChangeClassifier"), "classification")
    alternating = [Outcome("1", i % 2, 0, features={"x": 1}) for i in range(50)]
    assert learner.losses(alternating, ZeroOneLoss()).tolist() == [1.0] * 50


@pytest.mark.parametrize("params", [{}, {"seed": None}, {"seed": 3}])
def test_a_learner_that_draws_does_the_same_again(params):
    config = LearnerConfig(path="river.forest.ARFClassifier", params={"n_models": 3, **params})
    first, again = (
        Learner(config, "classification").losses(outcomes(300), ZeroOneLoss()) for _ in range(2)
    )
    assert first.tolist() == again.tolist()


def test_outcomes_that_it_cannot_use_are_counted_and_have_no_loss():
    learner = Learner(LINEAR, "regression")
    odd = [{"x": "text"}, None, {"x": 1.0}, {}]
    losses = learner.losses(
        [Outcome("1", 1.0, 1.0, features=x) for x in odd], ScaledAbsoluteError()
    )
    assert np.isnan(losses).tolist() == [True, True, False, False]
    assert learner.n_failed == 2


def test_a_learner_that_diverges_is_as_wrong_as_can_be():
    learner = Learner(LINEAR, "regression")
    loss = ScaledAbsoluteError()
    rows = [Outcome("1", float(i % 2), 0.0, features={"x": 1e9}) for i in range(100)]
    loss.values(rows)
    losses = learner.losses(rows, loss)
    used = losses[np.isfinite(losses)]
    assert used[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("config", [TREE, PIPELINE])
def test_a_stored_learner_goes_on(config):
    learner, restored = Learner(config, "classification"), Learner(config, "classification")
    learner.losses(outcomes(300), ZeroOneLoss())
    restored.load(learner.dump(KEY), KEY)
    more = outcomes(300, seed=2)
    expected = learner.losses(more, ZeroOneLoss())
    assert restored.losses(more, ZeroOneLoss()).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "cannot be read"),
        (lambda data: b"", "cannot be read"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "another STREAMGAUGE_STATE_KEY"),
        (lambda data: data.replace(b"river 0", b"river 1"), "another STREAMGAUGE_STATE_KEY"),
        (lambda data: msgspec.msgpack.encode([1, b"", b""]), "cannot be read"),
    ],
)
def test_a_state_that_was_changed_is_refused_and_nothing_happens(change, message):
    learner = Learner(TREE, "classification")
    learner.losses(outcomes(50), ZeroOneLoss())
    before = learner.dump(KEY)
    with pytest.raises(LearnerStateError, match=message):
        learner.load(change(before), KEY)
    assert learner.dump(KEY) == before


class Gone:
    """What was pickled when it could be, and cannot be had back any more."""

    def __reduce__(self):
        return int, ("gone",)


def test_a_model_that_cannot_be_had_back_is_refused_and_nothing_happens():
    learner = Learner(TREE, "classification")
    before = learner.dump(KEY)
    learner._model = Gone()
    gone = learner.dump(KEY)
    learner.load(before, KEY)
    with pytest.raises(LearnerStateError, match=r"cannot be read: .*gone"):
        learner.load(gone, KEY)
    assert learner.dump(KEY) == before


def test_a_state_of_another_key_or_configuration_is_refused():
    data = Learner(TREE, "classification").dump(KEY)
    with pytest.raises(LearnerStateError, match="another STREAMGAUGE_STATE_KEY"):
        Learner(TREE, "classification").load(data, b"other")
    other = TREE.model_copy(update={"params": {"grace_period": 21}})
    with pytest.raises(LearnerStateError, match="grace_period"):
        Learner(other, "classification").load(data, KEY)


@pytest.mark.parametrize(
    ("path", "params", "task", "message"),
    [
        ("LinearRegression", {}, "regression", "not an import path"),
        ("river.nowhere.Model", {}, "regression", "cannot import"),
        ("river.linear_model.NoModel", {}, "regression", "has no 'NoModel'"),
        ("river.linear_model.LinearRegression", {"depth": 3}, "regression", "depth"),
        ("river.linear_model.LinearRegression", {}, "classification", "not a River classifier"),
        ("tests.support.builders.scaled_logistic", {}, "regression", "not a River regressor"),
        ("river.drift.ADWIN", {}, "regression", "not a River regressor"),
        ("os.getcwd", {}, "regression", "not a River regressor"),
        ("os.sep", {}, "regression", "cannot be made"),
        ("..", {}, "regression", "not an import path"),
    ],
)
def test_a_path_that_is_no_model_of_the_task_is_an_error(path, params, task, message):
    with pytest.raises(ValueError, match=message):
        make_river_model(path, params, task)
