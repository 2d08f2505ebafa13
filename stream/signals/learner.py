"""A River model beside the deployed one: scored on each outcome, then it learns from it.

Progressive validation: the learner has never seen an outcome when it is scored on it, so its
loss says what a freshly trained model would lose now, next to what the deployed one loses.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import river

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamgauge.stream.config import LearnerConfig, Task
    from streamgauge.stream.outcomes import Outcome
    from streamgauge.stream.signals.loss import Loss

_FORMAT = 1


class LearnerStateError(StreamgaugeError, ValueError):
    """A stored learner cannot be trusted or read; the message says why. Start a fresh one."""


class Learner:
    """A River classifier or regressor, by import path.

    Raises:
        ValueError: the path names no River model of this task, or it cannot be made with these
            parameters.
    """

    def __init__(self, config: LearnerConfig, task: Task) -> None:
        self._config = config
        self._model = make_river_model(config.path, config.params, task)
        self.n_failed = 0

    def losses(self, outcomes: Sequence[Outcome], loss: Loss) -> NDArray[np.float64]:
        """Score, then learn, one outcome after the other; return the loss of each, shape (n,).

        An outcome without features, or one that the model raises on, is no news of the learner's
        quality: it counts 1 in `n_failed` and repeats no value (its loss is NaN).

        Args:
            outcomes: the next outcomes.
            loss: has taken them, and no others since: each of the learner's losses is on the
                scale that its outcome has left behind.
        """
        losses = np.full(len(outcomes), np.nan)
        for i, outcome in enumerate(outcomes):
            if outcome.features is None:
                self.n_failed += 1
                continue
            x = {name: value for name, value in outcome.features.items() if value is not None}
            try:
                y_pred = self._model.predict_one(x)
                self._model.learn_one(x, outcome.y_true)
                # A classifier that has seen no class yet predicts None, which is wrong.
                value = 1.0 if y_pred is None else loss.one(outcome.y_true, y_pred, i)
            except Exception:  # noqa: BLE001 - any River model, any user's features
                self.n_failed += 1
                continue
            losses[i] = value
        return losses

    def dump(self, key: bytes) -> bytes:
        """Return the whole state, sealed with `key`: River's models can only be pickled."""
        payload = pickle.dumps((self._model, self.n_failed), protocol=5)
        head = self._head()
        return msgspec.msgpack.encode([head, _seal(key, head, payload), payload])

    def load(self, data: bytes, key: bytes) -> None:
        """Become the learner that `dump` described.

        Raises:
            LearnerStateError: sealed with another key, changed since, of another River version
                or configuration, or of a class that is gone. The learner is as it was.
        """
        try:
            head, seal, payload = msgspec.msgpack.decode(data, type=tuple[str, bytes, bytes])
        except msgspec.DecodeError as error:
            raise LearnerStateError(f"the learner's state cannot be read: {error}") from None
        if not hmac.compare_digest(seal, _seal(key, head, payload)):
            raise LearnerStateError(
                "the learner's state was sealed with another STREAMGAUGE_STATE_KEY, or changed"
            )
        if head != self._head():
            raise LearnerStateError(f"the learner's state is of {head}, and this is {self._head()}")
        try:
            self._model, self.n_failed = pickle.loads(payload)  # noqa: S301 - sealed by us
        except Exception as error:  # noqa: BLE001 - whatever a class that has changed raises
            raise LearnerStateError(f"the learner's state cannot be read: {error}") from None

    def _head(self) -> str:
        params = msgspec.json.encode(self._config.params, order="sorted").decode()
        return f"format {_FORMAT}, river {river.__version__}, {self._config.path} {params}"


class LearnerLosses:
    """The source of the learner's losses.

    Args:
        learner: it learns whenever values are asked for; its state is sealed and stored apart.
        loss: the deployed model's, whose `values` are asked for first.
    """

    def __init__(self, learner: Learner, loss: Loss) -> None:
        self._learner = learner
        self._loss = loss

    def values(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        return self._learner.losses(outcomes, self._loss)

    def readings(self) -> dict[str, float]:
        return {"n_failed": float(self._learner.n_failed)}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is nothing to restore but what is sealed."""


def make_river_model(path: str, params: dict[str, Any], task: Task) -> Any:
    """Return a River model by import path.

    Where it has a `seed` that is not given, the seed is 0, so that a stream that is replayed
    gives the same losses.

    Raises:
        ValueError: not a River model of this task, or not with these parameters.
    """
    from river import base, compose  # noqa: PLC0415 - two seconds, for those who use a learner

    factory = _import_object(path)
    try:
        model = factory(**_seeded(factory, params))
    except TypeError as error:
        with_what = params or "no parameters"
        raise ValueError(f"{path} cannot be made with {with_what}: {error}") from None
    fits = base.Classifier if task == "classification" else base.Regressor
    kind = model[-1] if isinstance(model, compose.Pipeline) else model
    if not isinstance(kind, fits):
        raise ValueError(f"{path} is not a River {fits.__name__.lower()}, and the task is {task}")
    return model


def _import_object(path: str) -> Any:
    """Return what an import path such as `river.linear_model.LogisticRegression` names.

    Raises:
        ValueError: there is no such module or attribute; the message says which.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or path.startswith("."):
        raise ValueError(f"{path!r} is not an import path; write it as package.module.Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {error}") from None
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"module {module_name!r} has no {name!r}") from None


def check_keepable(model: Any) -> None:
    """Check that a model's state can be stored at all.

    Raises:
        ValueError: it cannot be pickled, or not be had back.
    """
    try:
        pickle.loads(pickle.dumps(model, protocol=5))  # noqa: S301 - our own
    except Exception as error:  # noqa: BLE001 - whatever a model's own pickling raises
        raise ValueError(f"its state cannot be kept: {error}") from None


def _seeded(factory: Any, params: dict[str, Any]) -> dict[str, Any]:
    try:
        seed = inspect.signature(factory).parameters.get("seed")
    except (TypeError, ValueError):
        # No callable, which the call will say, or one in C that does not show its parameters.
        return params
    if seed is None or seed.default is not None or params.get("seed") is not None:
        return params
    return {**params, "seed": 0}


def _seal(key: bytes, head: str, payload: bytes) -> bytes:
    return hmac.digest(key, head.encode() + b"\0" + payload, hashlib.sha256)
