"""The policy: which alarms belong together, and when a model should be retrained.

Alarms with less than a cool-down between them form an episode: one change, seen by several
detectors, or by one of them again. A metric that falls to its level opens an episode too, or
belongs to the one that is open. An episode asks for at most one retrain.

A period asks beside all that, with an episode of its own that is over at once: a change that is
found right after a regular retrain is news all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from streamgauge.stream.contracts import RetrainReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamgauge.stream.config import ModelConfig

# An episode's request carries this many of its alarms, the first ones.
_ALARMS_MAX = 32


class EpisodeAlarm(Struct, array_like=True):
    """An alarm as an episode remembers it."""

    signal: str
    detector: str
    kind: str
    direction: str
    index: int
    timestamp_ms: int
    onset: int
    statistic: float | None
    threshold: float | None
    mean_before: float | None
    mean_after: float | None


class Episode(Struct, array_like=True):
    """Alarms that are about one change.

    Attributes:
        number: 1 for the model version's first.
        last_active: outcome index of the last alarm, or of the last sign that it goes on.
        reason: what it asks for, or would.
        detectors: names of the detectors that found it.
        alarms: the first of them.
        since: index of the first outcome that a metric or a period is about, None where only
            alarms are.
        asked: whether it has asked for its retrain.
    """

    number: int
    last_active: int
    reason: RetrainReason
    detectors: list[str]
    alarms: list[EpisodeAlarm]
    since: int | None = None
    asked: bool = False

    @property
    def onset(self) -> int:
        """Estimated index of the first outcome to retrain on.

        Of alarms the latest estimate that does not lie after the first of them: Page-Hinkley's may
        reach far back before the change. Never later than what a metric or a period is about.
        """
        first = self.alarms[0].index if self.alarms else self.last_active
        onsets = [alarm.onset for alarm in self.alarms if alarm.onset <= first]
        onset = max(onsets, default=first)
        return onset if self.since is None else min(onset, self.since)


class Policy:
    """Alarms and metrics of one model version in, decisions to retrain out.

    Pure bookkeeping: every method takes the outcome index it is about, in non-decreasing order.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config.policy
        self._asking = {name for name, detector in config.detectors.items() if detector.asks}
        self._n_episodes = 0
        self._last_asked = -1
        self._last_asked_ms: int | None = None
        self._metric_is_bad = False
        self._superseded = False
        self.episode: Episode | None = None

    @property
    def closes_at(self) -> int | None:
        """Number of outcomes at which the open episode ends if nothing more happens."""
        if self.episode is None or self._waits(self.episode):
            return None
        return self.episode.last_active + self._config.cool_down + 1

    def close_if_over(self, n_outcomes: int) -> list[str]:
        """End the episode if its cool-down is over after `n_outcomes`.

        Returns the detectors that were silent in it: what they have gathered is about the change
        that the episode was about, so they take a new baseline, or would find it once more.
        """
        episode, closes_at = self.episode, self.closes_at
        if episode is None or closes_at is None or n_outcomes < closes_at:
            return []
        self.episode = None
        return sorted(self._asking - set(episode.detectors)) if episode.alarms else []

    def set_superseded(self, *, superseded: bool) -> None:
        """Set whether another version is served: then nothing is asked for.

        Episodes come and go as ever, but one that would ask stays open, and asks when this
        version is served again.
        """
        self._superseded = superseded

    def counts(self, detector: str) -> bool:
        """Return whether this detector's alarms count."""
        return detector in self._asking

    def on_alarm(self, alarm: EpisodeAlarm) -> int:
        """Take a drift alarm of a detector that counts; return the number of its episode."""
        episode = self.episode or self._open("drift")
        episode.last_active = alarm.index
        if alarm.detector not in episode.detectors:
            episode.detectors.append(alarm.detector)
        if len(episode.alarms) < _ALARMS_MAX:
            episode.alarms.append(alarm)
        return episode.number

    def on_metric(self, index: int, value: float | None) -> None:
        """Take the value of the rule's metric: when it falls to its level it asks, by itself.

        Only the fall counts: a metric that stays bad is no news, and neither asks nor keeps an
        episode open that has asked. A fall in such an episode is of the same change. A fall that
        may not be asked for yet waits for that, and is forgotten when the metric recovers.
        """
        rule = self._config.metric
        if rule is None or value is None:
            return
        was_bad = self._metric_is_bad
        self._metric_is_bad = (
            value <= rule.at_or_below
            if rule.at_or_below is not None
            else rule.at_or_above is not None and value >= rule.at_or_above
        )
        if self.episode is not None and self.episode.asked:
            return
        if self._metric_is_bad and not was_bad:
            episode = self.episode or self._open("metric")
            episode.reason = "metric"
            episode.last_active, episode.since = index, max(0, index + 1 - rule.over)
        elif self.episode is not None and not self._metric_is_bad:
            self._forget_metric(self.episode)

    def _forget_metric(self, episode: Episode) -> None:
        episode.reason, episode.since = "drift", None
        if not episode.alarms:
            self.episode = None

    @property
    def has_period(self) -> bool:
        """True where `on_time` wants to see every outcome."""
        return self._config.period is not None

    def on_time(self, index: int, timestamp_ms: int) -> Episode | None:
        """Return the period's episode that asks with this outcome, None while the period lasts."""
        rule = self._config.period
        if rule is None:
            return None
        if self._last_asked_ms is None:
            self._last_asked_ms = timestamp_ms
        is_due = (
            index - self._last_asked >= rule.outcomes
            if rule.outcomes is not None
            else timestamp_ms - self._last_asked_ms >= (rule.time or 0)
        )
        if not is_due or not self._may_ask(index):
            return None
        self._n_episodes += 1
        since = self._last_asked + 1
        self._last_asked, self._last_asked_ms = index, timestamp_ms
        return Episode(self._n_episodes, index, "period", [], [], since, asked=True)

    def decide(self, index: int, timestamp_ms: int) -> Episode | None:
        """Return the open episode if it asks for its retrain now; it will not ask again."""
        episode = self.episode
        if episode is None or not self.is_due(index):
            return None
        episode.asked, episode.last_active = True, index
        self._last_asked, self._last_asked_ms = index, timestamp_ms
        # As it is now: it may yet grow before the request is written.
        return replace(episode, detectors=[*episode.detectors], alarms=[*episode.alarms])

    def is_due(self, index: int) -> bool:
        """Return whether `decide` would ask."""
        episode = self.episode
        if episode is None or episode.asked:
            return False
        return self._may_ask(index) and self._is_enough(episode)

    def _waits(self, episode: Episode) -> bool:
        """Return whether the episode has all it needs and may not ask yet: it does not end then."""
        if episode.asked or not self._is_enough(episode):
            return False
        return self._superseded or episode.reason == "metric"

    def _may_ask(self, index: int) -> bool:
        return not self._superseded and index + 1 >= self._config.min_labels

    def _is_enough(self, episode: Episode) -> bool:
        if episode.reason == "metric":
            return True
        needed = {"any": 1, "all": len(self._asking), "at_least": self._config.k or 1}
        return len(episode.detectors) >= needed[self._config.rule]

    def _open(self, reason: RetrainReason) -> Episode:
        self._n_episodes += 1
        self.episode = Episode(self._n_episodes, 0, reason, [], [])
        return self.episode

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        return {
            "n_episodes": self._n_episodes,
            "last_asked": self._last_asked,
            "last_asked_ms": self._last_asked_ms,
            "metric_is_bad": self._metric_is_bad,
            "superseded": self._superseded,
            "episode": self.episode,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        self._n_episodes = state["n_episodes"]
        self._last_asked = state["last_asked"]
        self._last_asked_ms = state["last_asked_ms"]
        self._metric_is_bad = state["metric_is_bad"]
        self._superseded = state["superseded"]
        self.episode = msgspec.convert(state["episode"], Episode | None)
