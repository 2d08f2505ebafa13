"""A River model that is trained once and then serves: what replays and the demo deploy."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamgauge.consumers.traffic.csv_rows import CsvFeatures, Target
    from streamgauge.stream.config import Task


class FrozenModelError(StreamgaugeError, ValueError):
    """The model cannot be made, trained or used; the message says why."""


class Answer(NamedTuple):
    """An answer of a model; the probability is that of the predicted class."""

    value: Target
    probability: float | None = None


class FrozenModel:
    """A River model that learns from some rows once and only predicts from then on.

    Empty values are left out of what the model sees, as River has it. The rows are learned in
    random order: in a file's own order a feature that changes slowly, such as the month, leaves
    River's running scaler, and then the weights, far off.

    Args:
        learner: a fresh River classifier or regressor.
        task: which of the two it is used for.
        rows: features and target of each training row.
        numeric_only: also leave text out.
        seed: of the order the rows are learned in.

    Raises:
        FrozenModelError: the learner cannot learn these rows.
    """

    def __init__(
        self,
        learner: Any,
        task: Task,
        rows: Iterable[tuple[CsvFeatures, Target]],
        *,
        numeric_only: bool = False,
        seed: int = 0,
    ) -> None:
        from river.naive_bayes.base import BaseNB  # takes 2 s

        rows = list(rows)
        random.Random(seed).shuffle(rows)
        self._learner = learner
        self._numeric_only = numeric_only
        self._classes = _binary_classes(learner, rows) if task == "classification" else None
        self._answer = self._classify if task == "classification" else self._regress
        self._naive_bayes = isinstance(learner, BaseNB)
        self._gives_probability = True
        code = {label: coded for coded, label in (self._classes or {}).items()}
        try:
            for features, target in rows:
                learner.learn_one(self._x(features), code.get(target, target))
        except Exception as error:  # a learner may come from anywhere
            raise self._failed("cannot learn these rows", error) from error

    def predict(self, features: CsvFeatures) -> Answer:
        """Return what the model answers to one row.

        Raises:
            FrozenModelError: it gives no answer, or one that is not finite.
        """
        try:
            answer = self._answer(self._x(features))
        except Exception as error:  # a learner may come from anywhere
            raise self._failed("cannot predict this row", error) from error
        if answer.value is None:
            raise FrozenModelError(f"{self._name()} gives no prediction; use more training rows")
        if isinstance(answer.value, float) and not math.isfinite(answer.value):
            raise FrozenModelError(f"{self._name()} predicts {answer.value}; use another learner")
        return answer

    def _x(self, features: CsvFeatures) -> dict[str, Any]:
        return {
            name: value
            for name, value in features.items()
            if value is not None and not (self._numeric_only and isinstance(value, str))
        }

    def _regress(self, x: dict[str, Any]) -> Answer:
        return Answer(float(self._learner.predict_one(x)))

    def _classify(self, x: dict[str, Any]) -> Answer:
        if self._naive_bayes:
            # River's predict_proba_one gives the same five times slower, in scipy's logsumexp.
            probabilities = _softmax(self._learner.joint_log_likelihood(x))
            coded = max(probabilities, key=probabilities.__getitem__)
        else:
            coded = self._learner.predict_one(x)
            probabilities = self._probabilities(x)
        probability = probabilities.get(coded, math.nan)
        return Answer(
            self._classes[coded] if self._classes else coded,
            min(1.0, float(probability)) if math.isfinite(probability) else None,
        )

    def _probabilities(self, x: dict[str, Any]) -> dict[Any, float]:
        if not self._gives_probability:
            return {}
        try:
            probabilities: dict[Any, float] = self._learner.predict_proba_one(x)
        except NotImplementedError:
            self._gives_probability = False
            return {}
        return probabilities

    def _name(self) -> str:
        return str(self._learner)  # a pipeline names its steps

    def _failed(self, what: str, error: Exception) -> FrozenModelError:
        return FrozenModelError(
            f"{self._name()} {what} ({type(error).__name__}: {error}); "
            "drop the columns it cannot use, or use another learner"
        )


def _softmax(scores: dict[Any, float]) -> dict[Any, float]:
    highest = max(scores.values())
    weights = {key: math.exp(score - highest) for key, score in scores.items()}
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def _binary_classes(
    learner: Any, rows: Sequence[tuple[CsvFeatures, Target]]
) -> dict[bool, Target] | None:
    """Return what False and True stand for, where the learner knows only these two."""
    if learner._multiclass:  # noqa: SLF001 - River has no public name for it
        return None
    classes = sorted({target for _, target in rows}, key=str)
    if len(classes) > 2:
        raise FrozenModelError(
            f"{type(learner).__name__} tells two classes apart, the target has {len(classes)}; "
            "wrap it, or use another learner"
        )
    return {False: classes[0], True: classes[-1]}


def make_learner(path: str, task: Task) -> Any:
    """Return a fresh River model for `task` by import path, such as `river.tree.SGTClassifier`.

    Raises:
        FrozenModelError: there is no such thing, it needs arguments, or it is for another task.
    """
    from streamgauge.stream.signals.learner import make_river_model  # imports River

    try:
        return make_river_model(path, {}, task)
    except ValueError as error:
        raise FrozenModelError(str(error)) from None


def default_learner(task: Task) -> Any:
    """Return the model that is deployed where none is named; it uses numbers only."""
    from river import linear_model, naive_bayes, preprocessing  # takes 2 s

    if task == "classification":
        return naive_bayes.GaussianNB()
    return preprocessing.StandardScaler() | linear_model.LinearRegression()
