"""Says in the log what a person wants to know of a running worker: drifts and retrain requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamgauge.stream.config import Config
    from streamgauge.stream.records import Output

log = logging.getLogger(__name__)


def log_findings(config: Config) -> Callable[[Sequence[Output]], None]:
    """What to call with the outputs of each commit; it logs a line for each finding."""
    lines = {config.topics.alarms: _alarm_line, config.topics.retrain: _retrain_line}

    def announce(outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.topic in lines:
                log.info("%s", lines[output.topic](msgspec.json.decode(output.value)))

    return announce


def _alarm_line(alarm: dict[str, Any]) -> str:
    of = f"{alarm['model']}/{alarm['version']}"
    if alarm["kind"] == "data_problem":
        return f"{of}: data problem: {alarm['detail']}"
    means = (alarm["mean_before"], alarm["mean_after"])
    change = "" if None in means else f", mean {means[0]:.3g} -> {means[1]:.3g}"
    return (
        f"{of}: {alarm['kind']} of {alarm['signal']} found by {alarm['detector']}"
        f" at outcome {alarm['index']:,}{change}"
    )


def _retrain_line(request: dict[str, Any]) -> str:
    return (
        f"{request['model']}/{request['version']}: asked for a retrain ({request['severity']},"
        f" {request['reason']}) on {request['window']['n_outcomes']:,} outcomes"
    )
