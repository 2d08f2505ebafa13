"""The signals of one model version: each with its source of values and its detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamgauge.stream.signals.learner import LearnerLosses
from streamgauge.stream.signals.loss import make_loss
from streamgauge.stream.signals.names import signal_names
from streamgauge.stream.signals.signal import Signal

if TYPE_CHECKING:
    from streamgauge.stream.config import ModelConfig, Task
    from streamgauge.stream.signals.learner import Learner
    from streamgauge.stream.signals.signal import Source


def make_signals(config: ModelConfig, task: Task, learner: Learner | None) -> dict[str, Signal]:
    """Return fresh signals by name, in the order in which they are to take their values.

    Args:
        config: the model's configuration.
        task: classification or regression.
        learner: what the signals of a learner are about; without it there are none of them.
    """
    loss = make_loss(config, task)
    sources: dict[str, Source] = {"error": loss}
    if learner is not None:
        sources["learner_error"] = LearnerLosses(learner, loss)
    names = signal_names(has_learner=learner is not None)
    return {name: Signal(name, config.detectors, sources[name]) for name in names}
