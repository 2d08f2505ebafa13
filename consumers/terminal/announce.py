"""Lines of the log for a person who runs a worker: drifts and retrain requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streamgauge.consumers.worker import Observer
from streamgauge.stream.contracts import AlarmEvent, RetrainRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamgauge.consumers.broker import Commit

# Less than a few seconds' work is no news.
_BEHIND_MIN = 100_000

log = logging.getLogger(__name__)


class FindingsLog(Observer):
    """Logs a line for each alarm and each retrain request."""

    def on_commit(self, partition: int, commit: Commit) -> None:  # noqa: ARG002 - an observer
        for output in commit.outputs:
            if output.role == "alarms":
                log.info("%s", _alarm_line(output.value))
            elif output.role == "retrain":
                log.info("%s", _retrain_line(output.value))


class LagLog(Observer):
    """Logs how far behind the worker is, while it is, and once when it no longer is."""

    def __init__(self) -> None:
        self._was_behind = False

    def on_lag(self, lag: Mapping[int, int]) -> None:
        n_unread = sum(lag.values())
        if n_unread >= _BEHIND_MIN:
            of = ", ".join(f"{n:,} in partition {p}" for p, n in sorted(lag.items()) if n)
            log.info("behind by %s records (%s)", f"{n_unread:,}", of)
        elif self._was_behind:
            log.info("no longer behind")
        self._was_behind = n_unread >= _BEHIND_MIN


def _alarm_line(value: bytes) -> str:
    alarm = AlarmEvent.read(value)
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
    request = RetrainRequest.read(value)
    return (
        f"{request.model}/{request.version}: asked for a retrain ({request.severity},"
        f" {request.reason}) on {request.window.n_outcomes:,} outcomes"
    )
