"""Checks that what a configuration names can be made: detectors and learners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamgauge.detectors import make_detector
from streamgauge.stream.config import ConfigError
from streamgauge.stream.signals.learner import check_keepable, make_river_model

if TYPE_CHECKING:
    from streamgauge.detectors import Detector
    from streamgauge.stream.config import CoreConfig, LearnerConfig, ModelConfig, Task


def check_components(config: CoreConfig) -> None:
    """Make every detector and learner once.

    Raises:
        ConfigError: some cannot be made; a line for each, which starts with the path of its field.
    """
    of_all = _problems(config.defaults)
    lines = [f"defaults.{problem}" for problem in of_all]
    for name, model in config.models.items():
        # A model has the defaults' detectors, and what is wrong with them has been said.
        own = (problem for problem in _problems(model) if problem not in of_all)
        lines += [f"models.{name}.{problem}" for problem in own]
    if lines:
        raise ConfigError("\n".join(lines))


def _problems(model: ModelConfig) -> list[str]:
    losses_are_binary = model.settled_task == "classification" and model.loss != "log_loss"
    problems = []
    for name, detector in model.detectors.items():
        try:
            made = make_detector(detector.kind, detector.params)
            if not losses_are_binary:
                _check_takes_fractions(made)
        except ValueError as error:
            problems.append(f"detectors.{name}: {error}")
    if model.learner is not None:
        problem = _problem_of_learner(model.learner, model.task)
        problems += [f"learner: {problem}"] if problem is not None else []
    return problems


def _check_takes_fractions(detector: Detector) -> None:
    try:
        detector.update(0.5)
    except ValueError as error:
        raise ConfigError(
            f"{error}, and its signal may lie between; give the model"
            " `task: classification` and the loss zero_one, or use another detector"
        ) from None


def _problem_of_learner(learner: LearnerConfig, task: Task | None) -> str | None:
    tasks: list[Task] = [task] if task else ["classification", "regression"]
    problems = []
    for candidate in tasks:
        try:
            check_keepable(make_river_model(learner.path, learner.params, candidate))
        except ValueError as error:
            problems.append(str(error))
    return problems[0] if len(problems) == len(tasks) else None
