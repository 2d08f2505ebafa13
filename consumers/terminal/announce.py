"""Says in the log what a person wants to know of a running worker: drifts and retrain requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from streamgauge.consumers.worker import Observer

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
                log.info("%s", _alarm_line(msgspec.json.decode(output.value)))
            elif output.role == "retrain":
                log.info("%s", _retrain_line(msgspec.json.decode(output.value)))


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
