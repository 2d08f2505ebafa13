"""Which alarms are one episode, and which episodes ask for a retrain."""

import msgspec
import pytest
from builders import T0

from stream.config import load_config
from stream.policy import EpisodeAlarm, Policy


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


def test_a_metric_that_stays_bad_keeps_its_episode_open():
    policy = Policy(config(metric={"name": "accuracy", "at_or_below": 0.7}, cool_down=10))
    policy.on_metric(0, 0.5)
    assert ask(policy, 0)
    for index in range(5, 100, 5):
        policy.on_metric(index, 0.5)
        policy.close_if_over(index + 1)
        assert not alarmed(policy, "a", index)
    assert policy.episode.number == 1


def test_a_metric_asks_whatever_the_detectors_are_agreed_on():
    policy = Policy(config(rule="all", metric={"name": "accuracy", "at_or_below": 0.7}))
    assert not alarmed(policy, "a", 0)
    policy.on_metric(1, 0.6)
    episode = policy.decide(1, T0)
    assert (episode.reason, episode.detectors) == ("metric", ["a"])


def test_a_metric_episode_leaves_the_detectors_their_baselines():
    policy = Policy(config(metric={"name": "accuracy", "at_or_below": 0.7}))
    policy.on_metric(0, 0.5)
    policy.on_metric(1, 0.9)
    assert policy.close_if_over(11) == []
    assert policy.episode is None


def test_a_period_of_outcomes_counts_from_the_last_request_whatever_its_reason():
    policy = Policy(config(period={"outcomes": 20}, cool_down=5))
    asked = []
    for index in range(80):
        if index == 30:
            policy.on_alarm(alarm("a", index))
        policy.on_time(index, T0)
        asked += [index] * ask(policy, index)
        policy.close_if_over(index + 1)
    assert asked == [19, 30, 50, 70]


def test_a_period_of_event_time_counts_from_the_first_outcome():
    policy = Policy(config(period={"time": "1h"}, cool_down=5))
    asked = []
    for minutes in range(0, 200, 7):
        policy.on_time(minutes, T0 + minutes * 60_000)
        asked += [minutes] * ask(policy, minutes, T0 + minutes * 60_000)
        policy.close_if_over(minutes + 1)
    assert asked == [63, 126, 189]


def test_a_period_within_the_cool_down_of_a_request_opens_a_new_episode():
    policy = Policy(config(period={"outcomes": 5}, cool_down=1000))
    asked = []
    for index in range(20):
        policy.on_time(index, T0)
        if (episode := policy.decide(index, T0)) is not None:
            asked.append((index, episode.number, episode.reason))
    assert asked == [(4, 1, "period"), (9, 2, "period"), (14, 3, "period"), (19, 4, "period")]


def test_a_superseded_version_asks_for_nothing_and_its_episode_is_over():
    policy = Policy(config(period={"outcomes": 5}))
    policy.on_alarm(alarm("a", 0))
    policy.set_superseded(superseded=True)
    assert policy.episode is None
    assert not alarmed(policy, "b", 1)
    assert not policy.on_time(10, T0)
    policy.set_superseded(superseded=False)
    assert policy.on_time(11, T0)
    assert ask(policy, 11)


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
