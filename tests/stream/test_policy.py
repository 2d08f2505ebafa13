"""Which alarms are one episode, and which episodes ask for a retrain."""

import msgspec
import pytest

from streamgauge.consumers.config import load_config
from streamgauge.stream.policy import EpisodeAlarm, Policy
from tests.support.builders import T0


def config(**policy):
    detectors = {name: {"kind": "ADWIN"} for name in "abc"}
    detectors["silent"] = {"kind": "ADWIN", "asks": False}
    policy = {"min_labels": 0, "cool_down": 10, **policy}
    return load_config({"defaults": {"detectors": detectors, "policy": policy}}).defaults


def alarm(detector, index, onset=None):
    onset = index if onset is None else onset
    return EpisodeAlarm("error", detector, "drift", "up", index, T0, onset, 1.0, 0.5, 0.1, 0.4)


def ask(policy, index, timestamp_ms=T0):
    """Whether the policy asks at this outcome."""
    return policy.decide(index, timestamp_ms) is not None


def alarmed(policy, detector, index):
    policy.on_alarm(alarm(detector, index))
    return ask(policy, index)


@pytest.mark.parametrize(
    ("rule", "asked_at"),
    [
        ({"rule": "any"}, "a"),
        ({"rule": "at_least", "k": 2}, "b"),
        ({"rule": "at_least", "k": 3}, "c"),
        ({"rule": "all"}, "c"),
    ],
)
def test_a_rule_says_how_many_detectors_must_agree(rule, asked_at):
    policy = Policy(config(**rule))
    asked = [name for i, name in enumerate("aabbcc") if alarmed(policy, name, i)]
    assert asked == [asked_at]


def test_only_detectors_that_ask_count():
    policy = Policy(config())
    assert [policy.counts(name) for name in ("a", "silent", "unknown")] == [True, False, False]


def test_an_episode_asks_once_and_the_next_one_again():
    policy = Policy(config(cool_down=10))
    assert alarmed(policy, "a", 5)
    assert not alarmed(policy, "b", 9)
    assert policy.closes_at == 20
    assert policy.close_if_over(19) == []
    assert policy.episode is not None
    assert policy.close_if_over(20) == ["c"], "the silent ones, of those that ask"
    assert policy.episode is None
    assert not ask(policy, 20)
    assert alarmed(policy, "b", 21)
    assert policy.episode.number == 2


def test_each_alarm_puts_the_end_off():
    policy = Policy(config(cool_down=10))
    for index in (0, 9, 18, 27):
        policy.on_alarm(alarm("a", index))
        assert policy.close_if_over(index + 10) == []
    assert policy.episode.number == 1
    assert policy.close_if_over(38) == ["b", "c"]


def test_a_drift_before_min_labels_is_asked_for_once_when_they_are_there():
    policy = Policy(config(min_labels=8))
    assert not alarmed(policy, "a", 3)
    assert [index for index in range(4, 12) if ask(policy, index)] == [7]


def test_a_drift_whose_episode_ended_before_min_labels_is_not_asked_for():
    policy = Policy(config(min_labels=50))
    policy.on_alarm(alarm("a", 3))
    policy.close_if_over(14)
    assert not ask(policy, 49)


def test_the_onset_is_the_latest_estimate_not_after_the_first_alarm():
    policy = Policy(config())
    policy.on_alarm(alarm("a", 30, onset=12))
    assert policy.episode.onset == 12
    policy.on_alarm(alarm("b", 31, onset=25))
    assert policy.episode.onset == 25
    policy.on_alarm(alarm("c", 40, onset=31))
    assert policy.episode.onset == 25


def test_a_decision_is_about_what_was_known_then():
    policy = Policy(config())
    policy.on_alarm(alarm("a", 30))
    episode = policy.decide(30, T0)
    policy.on_alarm(alarm("b", 33))
    assert (episode.detectors, len(episode.alarms), episode.last_active) == (["a"], 1, 30)


def test_an_episode_keeps_its_first_32_alarms_and_all_of_its_detectors():
    policy = Policy(config(cool_down=1000))
    for index in range(100):
        policy.on_alarm(alarm("abc"[index // 40], index))
    assert [a.index for a in policy.episode.alarms] == list(range(32))
    assert policy.episode.detectors == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("bound", "bad", "fine"),
    [({"at_or_below": 0.7}, 0.7, 0.71), ({"at_or_above": 0.3}, 0.3, 0.29)],
)
def test_a_metric_asks_when_it_falls_and_again_after_it_has_recovered(bound, bad, fine):
    policy = Policy(config(metric={"name": "accuracy", **bound}, cool_down=10))
    asked = []
    for index, value in enumerate([None, fine, bad, bad, bad, fine, fine, bad, bad]):
        policy.on_metric(index * 5, value)
        asked += [index] * ask(policy, index * 5)
        policy.close_if_over(index * 5 + 1)
    # The fall at 7 is within the cool-down of the one that ended at 4: 15 outcomes, over.
    assert asked == [2, 7]
    assert policy.episode.reason == "metric"


def test_a_metric_that_stays_bad_swallows_no_later_change():
    policy = Policy(config(metric={"name": "accuracy", "at_or_below": 0.7}, cool_down=10))
    policy.on_metric(0, 0.5)
    assert ask(policy, 0)
    asked = []
    for index in range(5, 60, 5):
        policy.on_metric(index, 0.5)
        if index == 30:
            policy.on_alarm(alarm("a", index))
        asked += [index] * ask(policy, index)
        policy.close_if_over(index + 1)
    assert asked == [30]
    assert policy.episode is None


def test_a_metric_that_falls_in_an_episode_that_has_asked_is_of_the_same_change():
    policy = Policy(config(metric={"name": "accuracy", "at_or_below": 0.7}, cool_down=10))
    assert alarmed(policy, "a", 0)
    policy.on_metric(5, 0.5)
    assert not ask(policy, 5)
    policy.close_if_over(11)
    assert policy.episode is None, "the fall did not put the end off"


def test_a_metric_that_may_not_ask_yet_waits_while_it_is_bad():
    rule = {"metric": {"name": "accuracy", "at_or_below": 0.7, "over": 3}, "min_labels": 100}
    policy = Policy(config(**rule, cool_down=10))
    policy.on_metric(5, 0.5)
    assert not ask(policy, 5)
    assert policy.closes_at is None
    assert policy.close_if_over(60) == []
    episode = policy.decide(99, T0)
    assert (episode.reason, episode.onset) == ("metric", 3)
    assert policy.closes_at == 110


@pytest.mark.parametrize("alarmed_too", [False, True])
def test_a_metric_that_recovers_before_it_may_ask_is_forgotten(alarmed_too):
    rule = {"metric": {"name": "accuracy", "at_or_below": 0.7}, "min_labels": 100, "rule": "all"}
    policy = Policy(config(**rule))
    if alarmed_too:
        policy.on_alarm(alarm("a", 4))
    policy.on_metric(5, 0.5)
    policy.on_metric(8, 0.9)
    assert not ask(policy, 99)
    assert (policy.episode is not None) == alarmed_too
    policy.close_if_over(99)
    assert policy.episode is None


def test_a_metric_asks_whatever_the_detectors_are_agreed_on():
    policy = Policy(config(rule="all", metric={"name": "accuracy", "at_or_below": 0.7}))
    assert not alarmed(policy, "a", 0)
    policy.on_metric(1, 0.6)
    episode = policy.decide(1, T0)
    assert (episode.reason, episode.detectors) == ("metric", ["a"])


@pytest.mark.parametrize(("onset", "expected"), [(5, 5), (35, 21)])
def test_a_metrics_window_is_never_shorter_than_what_it_was_taken_over(onset, expected):
    metric = {"name": "accuracy", "at_or_below": 0.7, "over": 20}
    policy = Policy(config(rule="all", metric=metric))
    policy.on_alarm(alarm("a", 38, onset=onset))
    policy.on_metric(40, 0.6)
    assert policy.decide(40, T0).onset == expected


def test_a_metric_episode_leaves_the_detectors_their_baselines():
    policy = Policy(config(metric={"name": "accuracy", "at_or_below": 0.7}))
    policy.on_metric(0, 0.5)
    policy.on_metric(1, 0.9)
    assert policy.close_if_over(11) == []
    assert policy.episode is None


def asked_by(policy, index, timestamp_ms=T0):
    """What asks at this outcome, in the order in which a monitor asks."""
    episodes = policy.decide(index, timestamp_ms), policy.on_time(index, timestamp_ms)
    return [(index, e.reason, e.number, e.onset) for e in episodes if e is not None]


def test_a_period_of_outcomes_counts_from_the_last_request_whatever_its_reason():
    policy = Policy(config(period={"outcomes": 20}, cool_down=5))
    asked = []
    for index in range(80):
        if index == 30:
            policy.on_alarm(alarm("a", index, onset=28))
        asked += asked_by(policy, index)
        policy.close_if_over(index + 1)
    assert asked == [
        (19, "period", 1, 0),
        (30, "drift", 2, 28),
        (50, "period", 3, 31),
        (70, "period", 4, 51),
    ]


def test_a_period_of_event_time_counts_from_the_first_outcome():
    policy = Policy(config(period={"time": "1h"}, cool_down=5))
    asked = []
    for minutes in range(0, 200, 7):
        asked += asked_by(policy, minutes, T0 + minutes * 60_000)
        policy.close_if_over(minutes + 1)
    assert asked == [(63, "period", 1, 0), (126, "period", 2, 64), (189, "period", 3, 127)]


def test_a_period_waits_for_min_labels():
    policy = Policy(config(period={"outcomes": 5}, min_labels=12))
    asked = [entry for index in range(20) for entry in asked_by(policy, index)]
    assert asked == [(11, "period", 1, 0), (16, "period", 2, 12)]


def test_a_period_within_the_cool_down_of_a_request_asks():
    policy = Policy(config(period={"outcomes": 5}, cool_down=1000))
    policy.on_alarm(alarm("a", 0))
    asked = [(index, number) for i in range(16) for index, _, number, _ in asked_by(policy, i)]
    assert asked == [(0, 1), (5, 2), (10, 3), (15, 4)]
    assert policy.episode.number == 1


def test_a_drift_within_the_cool_down_of_a_period_asks():
    policy = Policy(config(period={"outcomes": 20}, cool_down=1000))
    asked = []
    for index in range(30):
        if index == 22:
            policy.on_alarm(alarm("a", index, onset=20))
        asked += asked_by(policy, index)
    assert asked == [(19, "period", 1, 0), (22, "drift", 2, 20)]


def test_a_period_leaves_a_drift_that_waits_for_another_detector_its_request():
    policy = Policy(config(rule="at_least", k=2, period={"outcomes": 20}, cool_down=1000))
    asked = []
    for index in range(30):
        if index in (15, 25):
            policy.on_alarm(alarm("ab"[index // 20], index, onset=index - 1))
        asked += asked_by(policy, index)
    assert asked == [(19, "period", 2, 0), (25, "drift", 1, 14)]


def test_a_superseded_version_asks_for_what_it_has_found_when_it_is_served_again():
    policy = Policy(config(period={"outcomes": 5}))
    policy.set_superseded(superseded=True)
    assert not alarmed(policy, "b", 1)
    assert policy.on_time(10, T0) is None
    assert policy.closes_at is None
    assert policy.close_if_over(100) == [], "what would ask waits"
    policy.set_superseded(superseded=False)
    assert policy.is_due(101)
    assert policy.decide(101, T0).reason == "drift"
    assert policy.on_time(106, T0).reason == "period"
    assert policy.closes_at == 112


def test_a_superseded_versions_episode_ends_when_there_is_nothing_to_ask():
    policy = Policy(config(rule="at_least", k=2))
    assert not alarmed(policy, "a", 0)
    policy.set_superseded(superseded=True)
    assert policy.close_if_over(11) == ["b", "c"], "one detector was not enough"
    assert not alarmed(policy, "a", 20)
    assert not alarmed(policy, "b", 22)
    policy.set_superseded(superseded=False)
    assert ask(policy, 30)
    policy.set_superseded(superseded=True)
    assert not alarmed(policy, "c", 35)
    policy.close_if_over(46)
    policy.set_superseded(superseded=False)
    assert policy.episode is None, "it has asked"
    assert not ask(policy, 47)


def test_a_restored_policy_goes_on():
    settings = config(metric={"name": "accuracy", "at_or_below": 0.7}, period={"time": "1d"})
    policy = Policy(settings)
    policy.on_time(0, T0)
    policy.on_metric(1, 0.5)
    alarmed(policy, "b", 2)
    restored = Policy(settings)
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(policy.state())))
    assert msgspec.to_builtins(restored.state()) == msgspec.to_builtins(policy.state())
    for each in (policy, restored):
        assert each.close_if_over(13) == ["a", "c"]
        each.on_metric(14, 0.5)
        assert each.episode is None, "bad as before: no fresh fall"
        assert each.on_time(15, T0 + 86_400_000)
