"""Whether what a configuration names can be made: detectors and learners, with their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors import make_detector
from stream.config import ConfigError
from stream.learner import check_keepable, make_river_model

if TYPE_CHECKING:
    from detectors import Detector
    from stream.config import Config, LearnerConfig, ModelConfig, Task


def check_components(config: Config) -> None:
    """Make every detector and learner once.

    Raises:
        ConfigError: one cannot be made; the message starts with the path of its field.
    """
    _check("defaults", config.defaults)
    for name, model in config.models.items():
        _check(f"models.{name}", model)


def _check(path: str, model: ModelConfig) -> None:
    losses_are_binary = model.settled_task == "classification" and model.loss != "log_loss"
    for name, detector in model.detectors.items():
        try:
            made = make_detector(detector.kind, detector.params)
        except ValueError as error:
            raise ConfigError(f"{path}.detectors.{name}: {error}") from None
        if not losses_are_binary:
            _check_takes_fractions(f"{path}.detectors.{name}", made)
    if model.learner is not None:
        _check_learner(f"{path}.learner", model.learner, model.task)


def _check_takes_fractions(path: str, detector: Detector) -> None:
    try:
        detector.update(0.5)
    except ValueError as error:
        raise ConfigError(
            f"{path}: {error}, and its signal may lie between; give the model"
            " `task: classification` and the loss zero_one, or use another detector"
        ) from None


def _check_learner(path: str, learner: LearnerConfig, task: Task | None) -> None:
    tasks: list[Task] = [task] if task else ["classification", "regression"]
    problems = []
    for candidate in tasks:
        try:
            check_keepable(make_river_model(learner.path, learner.params, candidate))
        except ValueError as error:
            problems.append(str(error))
    if len(problems) == len(tasks):
        raise ConfigError(f"{path}: {problems[0]}")
