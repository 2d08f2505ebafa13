"""Lines of the log for a person who runs a worker: drifts and retrain requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streamgauge.stream.contracts import AlarmEvent, RetrainRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamgauge.stream.config import Config
    from streamgauge.stream.records import Output

log = logging.getLogger(__name__)


def log_findings(config: Config) -> Callable[[Sequence[Output]], None]:
    """Return a function that logs a line for each finding among the outputs of a commit."""
    lines = {config.topics.alarms: _alarm_line, config.topics.retrain: _retrain_line}

    def announce(outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.topic in lines:
                log.info("%s", lines[output.topic](output.value))

    return announce


def _alarm_line(value: bytes) -> str:
    alarm = AlarmEvent.model_validate_json(value)
    of = f"{alarm.model}/{alarm.version}"
    if alarm.kind == "data_problem":
        return f"{of}: data problem: {alarm.detail}"
    change = ""
    if alarm.mean_before is not None and alarm.mean_after is not None:
        change = f", mean {alarm.mean_before:.3g} -> {alarm.mean_after:.3g}"
    return (
        f"{of}: {alarm.kind} of {alarm.signal} found by {alarm.detector}"
        f" at outcome {alarm.index:,}{change}"
    )


def _retrain_line(value: bytes) -> str:
    request = RetrainRequest.model_validate_json(value)
    return (
        f"{request.model}/{request.version}: asked for a retrain ({request.severity},"
        f" {request.reason}) on {request.window.n_outcomes:,} outcomes"
    )
