"""The monitor of one model version: outcomes in; metrics, alarms and retrain decisions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamgauge.stream.outcomes import OutcomeColumns
from streamgauge.stream.performance import Performance
from streamgauge.stream.policy import Episode, EpisodeAlarm, Policy
from streamgauge.stream.signals.catalog import make_signals
from streamgauge.stream.signals.signal import DetectorFailure, SignalAlarm
from streamgauge.stream.window import Block, WindowIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamgauge.stream.config import ModelConfig, Task
    from streamgauge.stream.contracts import PublishedAlarmKind
    from streamgauge.stream.outcomes import Outcome
    from streamgauge.stream.signals.learner import Learner

# The signal whose values windows are summed up by.
_ERROR = "error"


@dataclass(frozen=True, slots=True)
class MetricsFinding:
    """The metrics of one signal after `index + 1` outcomes."""

    index: int
    timestamp_ms: int
    signal: str
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class AlarmFinding:
    """An alarm, what it means, and the episode that it belongs to, if it counts for one."""

    index: int
    timestamp_ms: int
    kind: PublishedAlarmKind
    found: SignalAlarm
    episode: int | None


@dataclass(frozen=True, slots=True)
class DataProblemFinding:
    """An outcome that the core cannot use, although each of its events was well formed."""

    index: int
    timestamp_ms: int
    signal: str
    detector: str
    detail: str


@dataclass(frozen=True, slots=True)
class RetrainDecision:
    """A decision to ask for a retrain, with what was known at the deciding outcome."""

    index: int
    timestamp_ms: int
    episode: Episode
    metrics: dict[str, tuple[float | None, float | None]]
    n_before: int
    since: Block


Finding = MetricsFinding | AlarmFinding | DataProblemFinding | RetrainDecision


class Monitor:
    """A watch on one version of one model.

    Results depend on the sequence of outcomes alone, not on how it is cut into calls. Memory is
    bounded but for the learner's.

    Args:
        config: the model's configuration.
        task: classification or regression.
        learner: scored on each outcome, then learns from it.
    """

    def __init__(self, config: ModelConfig, task: Task, learner: Learner | None = None) -> None:
        self.n_outcomes = 0
        self._config = config
        self._performance = Performance(config, task)
        self._policy = Policy(config)
        self._windows = WindowIndex()
        self.signals = make_signals(config, task, learner)

    def update(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        """Take outcomes, in order; return what was found, by outcome index."""
        findings: list[Finding] = []
        start = 0
        while start < len(outcomes):
            stop = start + min(len(outcomes) - start, self._segment_end() - self.n_outcomes)
            self._take(outcomes[start:stop], findings)
            start = stop
        return findings

    def set_superseded(self, *, superseded: bool) -> None:
        """Set whether another version is served: then go on measuring, but ask for nothing."""
        self._policy.set_superseded(superseded=superseded)

    def _segment_end(self) -> int:
        """Return the number of outcomes at which something must be looked at, whatever happens.

        Never more than a cool-down away, so that no episode can both open and end before it.
        """
        every = self._config.metrics.every
        end = min(
            (self.n_outcomes // every + 1) * every,
            self.n_outcomes + self._config.policy.cool_down,
        )
        closes_at = self._policy.closes_at
        return end if closes_at is None else max(self.n_outcomes + 1, min(end, closes_at))

    def _take(self, outcomes: Sequence[Outcome], findings: list[Finding]) -> None:
        start = self.n_outcomes
        values: dict[str, NDArray[np.float64]] = {}
        found: list[SignalAlarm | DetectorFailure] = []
        for name, signal in self.signals.items():
            if signal.clock == "outcome":
                values[name] = signal.source.values(outcomes)
                found += signal.update(values[name], start)
        columns = OutcomeColumns(outcomes, values[_ERROR])
        by_index: dict[int, list[SignalAlarm | DetectorFailure]] = {}
        for item in found:
            by_index.setdefault(item.index - start, []).append(item)
        self._performance.record(outcomes)
        done = 0
        for i in self._stops(by_index, len(outcomes), start):
            self._windows.record(columns, done, i + 1)
            done = i + 1
            self._decide(start + i, outcomes[i], by_index.get(i, ()), findings)
        self._windows.record(columns, done, len(outcomes))
        self.n_outcomes += len(outcomes)
        self._at_segment_end(outcomes[-1], findings)

    def _stops(
        self, by_index: Mapping[int, list[SignalAlarm | DetectorFailure]], n: int, start: int
    ) -> list[int]:
        """Return the positions in the segment at which the policy has something to look at."""
        if self._policy.has_period:
            return list(range(n))
        stops = set(by_index)
        if self._policy.is_due(start):
            # It could not ask before, since another version was served.
            stops.add(0)
        last_unripe = self._config.policy.min_labels - 1 - start
        if 0 <= last_unripe < n:
            stops.add(last_unripe)
        return sorted(stops)

    def _decide(
        self,
        index: int,
        outcome: Outcome,
        found: Sequence[SignalAlarm | DetectorFailure],
        findings: list[Finding],
    ) -> None:
        timestamp_ms = outcome.timestamp_ms
        for item in found:
            if isinstance(item, DetectorFailure):
                findings.append(_problem(item, timestamp_ms))
            else:
                findings.append(self._alarmed(item, timestamp_ms))
        self._ask(index, timestamp_ms, self._policy.decide(index, timestamp_ms), findings)
        self._ask(index, timestamp_ms, self._policy.on_time(index, timestamp_ms), findings)

    def _alarmed(self, item: SignalAlarm, timestamp_ms: int) -> AlarmFinding:
        alarm = item.alarm
        kind: PublishedAlarmKind = alarm.kind
        if kind == "drift" and alarm.direction == "down":
            kind = "improvement"
        counts = kind == "drift" or (
            kind == "improvement" and self._config.policy.ask_on_improvement
        )
        number = None
        if counts and self._policy.counts(item.detector):
            number = self._policy.on_alarm(_episode_alarm(item, kind, timestamp_ms))
        return AlarmFinding(item.index, timestamp_ms, kind, item, number)

    def _ask(
        self, index: int, timestamp_ms: int, episode: Episode | None, findings: list[Finding]
    ) -> None:
        if episode is None:
            return
        before, since = self._windows.split(min(episode.onset, index))
        metrics = {_ERROR: (before.mean_loss, since.mean_loss)}
        findings.append(RetrainDecision(index, timestamp_ms, episode, metrics, before.n, since))

    def _at_segment_end(self, last: Outcome, findings: list[Finding]) -> None:
        index = self.n_outcomes - 1
        if self.n_outcomes % self._config.metrics.every == 0:
            findings.extend(self._metrics(index, last.timestamp_ms))
            rule = self._config.policy.metric
            if rule is not None:
                self._policy.on_metric(index, self._performance.over(rule.name, rule.over))
                episode = self._policy.decide(index, last.timestamp_ms)
                self._ask(index, last.timestamp_ms, episode, findings)
        silent = self._policy.close_if_over(self.n_outcomes)
        if silent:
            for signal in self.signals.values():
                signal.rebaseline(silent)

    def _metrics(self, index: int, timestamp_ms: int) -> list[MetricsFinding]:
        performance = {**self._performance.values(), "n_outcomes": float(self.n_outcomes)}
        points = [MetricsFinding(index, timestamp_ms, "performance", performance)]
        for name, signal in self.signals.items():
            points.append(MetricsFinding(index, timestamp_ms, name, signal.readings()))
        return points

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, but for the learner."""
        return {
            "n_outcomes": self.n_outcomes,
            "performance": self._performance.state(),
            "policy": self._policy.state(),
            "windows": self._windows.state(),
            "signals": {name: signal.state() for name, signal in self.signals.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Become what `state()` described; a signal that it does not know is new.

        Returns:
            The names of detectors that had to start afresh.
        """
        self.n_outcomes = state["n_outcomes"]
        self._performance.restore(state["performance"])
        self._policy.restore(state["policy"])
        self._windows = WindowIndex(msgspec.convert(state["windows"], list[Block]))
        known = state["signals"]
        return [
            detector
            for name, signal in self.signals.items()
            if name in known
            for detector in signal.restore(known[name])
        ]


def _problem(item: DetectorFailure, timestamp_ms: int) -> DataProblemFinding:
    detail = f"{item.detail} (failure {item.n} of this detector, which goes on without the value)"
    return DataProblemFinding(item.index, timestamp_ms, item.signal, item.detector, detail)


def _episode_alarm(item: SignalAlarm, kind: PublishedAlarmKind, timestamp_ms: int) -> EpisodeAlarm:
    alarm = item.alarm
    return EpisodeAlarm(
        item.signal,
        item.detector,
        kind,
        alarm.direction,
        item.index,
        timestamp_ms,
        item.onset,
        known(alarm.statistic),
        known(alarm.threshold),
        known(alarm.mean_before),
        known(alarm.mean_after),
    )


def known(value: float) -> float | None:
    """Return a number, or None where it is not known."""
    return float(value) if np.isfinite(value) else None
