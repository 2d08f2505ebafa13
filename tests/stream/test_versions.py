"""Which version may ask: roll-outs, roll-backs, canaries, typos, A/B tests, late labels."""

import random
from itertools import islice

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.consumers.config import load_config
from streamgauge.stream.engine import Engine
from streamgauge.stream.served_version import ServedVersion, ServedVersionState
from tests.support.builders import CALM, T0, Feed, asked, requests_of, run, serve, split

CONFIG = load_config({"defaults": CALM})
# A second detector that finds the same change much later.
TWO = {
    **CALM,
    "detectors": {
        **CALM["detectors"],
        "slow": {"kind": "PageHinkley", "params": {"threshold": 25}},
    },
}


def told(feed, config=CONFIG):
    """What is asked for, the same in any batches and through restarts."""
    whole = run(config, feed.merged)
    pieces = run(config, feed.merged, [37], restarts=range(0, 100, 3))
    assert pieces.by_topic() == whole.by_topic()
    return asked(whole)


def test_a_new_version_starts_anew_and_asks_for_itself():
    feed = Feed()
    serve(feed, "1", 100)
    serve(feed, "1", 50, wrong=True)
    serve(feed, "2", 100)
    serve(feed, "2", 50, wrong=True)
    result = run(load_config({"defaults": CALM}), feed.merged, [33])
    assert asked(result) == [("1", 1), ("2", 1)]
    steps = {
        (m["version"], m["step"]) for m in result.json("drift-metrics") if m["signal"] == "error"
    }
    assert {("1", 10), ("1", 150), ("2", 10), ("2", 150)} <= steps
    assert len(steps) == 30


@pytest.mark.parametrize("sizes", [(2,), (1, 1)])
def test_a_version_that_starts_after_its_outcome_monitors_what_comes_then(sizes):
    feed = Feed()
    for version in "123":
        feed.predict(f"of {version}", version=version)
    few = load_config({"defaults": CALM, "versions_max": 2})
    before = run(few, feed.merged)
    engine = Engine(load_config({"defaults": CALM, "versions_max": 9}))
    engine.restore(before.stored, before.digests[-1])
    feed.label("of 2")
    feed.predict("another of 2", version="2")
    rest = iter(feed.merged[3:])
    for size in sizes:
        assert engine.process(split(list(islice(rest, size)))) == []
        engine.drain_chunks()
    assert engine.totals().n_outcomes == 1


def test_late_labels_of_a_superseded_version_are_measured_and_ask_for_nothing():
    feed = Feed()
    for i in range(300):
        feed.predict(f"old {i}", 0)
    for i in range(150):
        feed.label(f"old {i}", 0)
    serve(feed, "2", 75)
    for i in range(150, 300):
        feed.label(f"old {i}", 1)
    result = run(load_config({"defaults": CALM}), feed.merged, [50])
    assert asked(result) == []
    assert {alarm["version"] for alarm in result.json("drift-alarms")} == {"1"}
    assert result.engine.totals().n_outcomes == 375


def test_an_alarm_before_the_next_version_asks_also_when_both_are_in_one_batch():
    feed = Feed()
    serve(feed, "1", 100)
    serve(feed, "1", 50, wrong=True)
    serve(feed, "2", 80)
    assert asked(run(load_config({"defaults": CALM}), feed.merged)) == [("1", 1)]


def test_a_canary_of_one_percent_does_not_silence_the_version_that_is_served():
    feed = Feed()
    serve(feed, "1", 300)
    for part in range(8):
        serve(feed, "2", 1)
        serve(feed, "1", 105, wrong=part >= 4)
    result = run(load_config({"defaults": CALM}), feed.merged, [64])
    assert asked(result) == [("1", 1)]


def test_a_version_that_is_rolled_back_to_asks_again():
    feed = Feed()
    serve(feed, "1", 100)
    serve(feed, "2", 100)
    serve(feed, "1", 150)
    # The last labels of 2 are bad: nobody is to retrain it any more.
    for i in range(100):
        feed.label(f"late {i}", 1, version="2", prediction=0) if i % 2 else serve(feed, "1", 1)
    serve(feed, "1", 60, wrong=True)
    result = run(load_config({"defaults": CALM}), feed.merged, [64])
    assert asked(result) == [("1", 1)]
    assert {"1", "2"} == {alarm["version"] for alarm in result.json("drift-alarms")}


@pytest.mark.parametrize("versions_max", [2, 3])
def test_no_more_versions_are_monitored_than_versions_max(versions_max):
    feed = Feed()
    for version in "12345":
        feed.predict(f"late {version}", 0, version=version)
        serve(feed, version, 20)
    for version in "12345":
        feed.label(f"late {version}", 0, version=version)
    config = load_config({"defaults": CALM, "versions_max": versions_max})
    result = run(config, feed.merged, [30], restarts={2, 4})
    monitors = sorted(name for name in result.stored if name.startswith("monitor/"))
    assert monitors == [f"monitor/m/{v}" for v in ["1", *"2345"[1 - versions_max :]]], (
        "the served one stays"
    )
    assert result.engine.totals().n_unmonitored == 5 - versions_max
    assert result.engine.totals().n_outcomes == 105


def carried(feed, version, n, *, wrong=False, predicted=None):
    """Labels that carry their predictions, made at `predicted` or now."""
    for i in range(n):
        at = feed.now if predicted is None else predicted + i
        name = f"{version}-{len(feed.merged)}"
        feed.label(name, int(wrong), version=version, prediction=0, timestamp_predicted=at)


def mixed(feed, n, shares, *, wrong=(), seed=1):
    """Predictions and labels of versions with these shares of the traffic."""
    rng = random.Random(seed)
    for version in rng.choices([*shares], [*shares.values()], k=n):
        serve(feed, version, 1, wrong=version in wrong)


@pytest.mark.parametrize("stray_at", [0, 100, 151, 156, 160])
def test_a_stray_version_neither_loses_nor_doubles_a_request(stray_at):
    feed = Feed()
    for i in range(260):
        if i == stray_at:
            feed.predict("stray", 0, version="typo")
        serve(feed, "1", 1, wrong=150 <= i < 190)
    for config in (CONFIG, load_config({"defaults": TWO})):
        assert told(feed, config) == [("1", 1)]


def test_a_late_burst_of_labels_that_carry_their_predictions_rolls_nothing_back():
    feed = Feed()
    start = feed.now
    carried(feed, "1", 200)
    carried(feed, "2", 200)
    carried(feed, "1", 120, predicted=start + 200_000 - 120)
    carried(feed, "2", 60)
    carried(feed, "2", 40, wrong=True)
    carried(feed, "2", 100)
    assert told(feed) == [("2", 1)]


def test_shuffled_labels_that_carry_their_predictions_follow_the_roll_out():
    rng = random.Random(4)
    feed = Feed()
    n = 1200
    made = [(T0 + i * 1000, "1" if i < n // 2 else "2", i >= n - 60) for i in range(n)]
    arrivals = sorted(made, key=lambda event: event[0] + rng.uniform(0, 120_000))
    for at, version, wrong in arrivals:
        feed.label(f"{at}", int(wrong), version=version, prediction=0, timestamp_predicted=at)
    assert told(feed) == [("2", 1)]


def degraded_while_another_is_served(n_after):
    """Version 1 goes bad as a canary beside 2, is good again for `n_after`, and is served again."""
    feed = Feed()
    serve(feed, "1", 100)
    for i in range(100):
        feed.predict(f"late {i}", 0, version="1")
    serve(feed, "2", 150)
    for i in range(40):
        feed.label(f"late {i}", 1)
    for i in range(40, 40 + n_after):
        feed.label(f"late {i}", 0)
    assert told(feed) == []
    serve(feed, "1", 100)
    return feed


@pytest.mark.parametrize("n_after", [5, 60])
def test_what_a_version_has_found_while_another_was_served_is_asked_for_after_the_roll_back(
    n_after,
):
    # Within the cool-down of its last alarm, and long after.
    feed = degraded_while_another_is_served(n_after)
    assert told(feed) == [("1", 1)]
    [request] = requests_of(run(CONFIG, feed.merged))
    assert request.window.outcome_from <= 100
    assert request.window.n_outcomes > 40


def test_a_roll_out_and_back_between_two_detectors_does_not_double_the_request():
    feed = Feed()
    serve(feed, "1", 150)
    serve(feed, "1", 12, wrong=True)
    serve(feed, "2", 80)
    serve(feed, "1", 76)
    serve(feed, "1", 30, wrong=True)
    config = load_config({"defaults": {**TWO, "policy": {"min_labels": 30, "cool_down": 200}}})
    result = run(config, feed.merged)
    alarms = [(a["detector"], a["episode"]) for a in result.json("drift-alarms")]
    assert {name for name, _ in alarms} == {"page_hinkley", "slow"}
    assert {episode for _, episode in alarms if episode} == {1}
    assert told(feed, config) == [("1", 1)]


def test_a_canary_for_days_asks_for_nothing_and_silences_nothing():
    feed = Feed()
    mixed(feed, 1500, {"1": 0.99, "2": 0.01})
    mixed(feed, 300, {"1": 0.99, "2": 0.01}, wrong="12", seed=2)
    assert told(feed) == [("1", 1)]


def test_a_gradual_roll_out_ends_with_the_new_version():
    feed = Feed()
    for share in range(5, 100, 10):
        mixed(feed, 150, {"1": 100 - share, "2": share}, seed=share)
    serve(feed, "2", 50, wrong=True)
    assert told(feed) == [("2", 1)]


def test_a_version_that_keeps_a_fifth_of_the_traffic_does_not_keep_the_word():
    feed = Feed()
    serve(feed, "1", 100)
    mixed(feed, 600, {"1": 0.2, "2": 0.8})
    mixed(feed, 120, {"1": 0.2, "2": 0.8}, wrong="12", seed=2)
    assert told(feed) == [("2", 1)]


@pytest.mark.parametrize("seed", range(3))
def test_of_two_versions_in_an_a_b_test_one_asks(seed):
    feed = Feed()
    serve(feed, "1", 100)
    mixed(feed, 1500, {"1": 0.5, "2": 0.5}, seed=seed)
    mixed(feed, 150, {"1": 0.5, "2": 0.5}, wrong="12", seed=seed)
    result = run(CONFIG, feed.merged)
    assert {alarm["version"] for alarm in result.json("drift-alarms")} == {"1", "2"}
    assert told(feed) == [("1", 1)]


def test_a_first_prediction_with_a_typo_does_not_keep_the_word():
    feed = Feed()
    feed.predict("stray", 0, version="typo")
    serve(feed, "1", 150)
    serve(feed, "1", 50, wrong=True)
    assert told(feed) == [("1", 1)]


def test_typos_do_not_push_out_a_version_that_predicts():
    feed = Feed()
    serve(feed, "1", 100)
    for i in range(30):
        serve(feed, "2", 1)
        feed.predict(f"typo {i}", 0, version=f"typo {i}")
        serve(feed, "1", 2)
    config = load_config({"defaults": CALM, "versions_max": 3})
    steps = [
        m["step"] for m in run(config, feed.merged).json("drift-metrics") if m["version"] == "2"
    ]
    assert steps
    assert max(steps) == 30


# The rule itself.


def seen(events):
    serving = ServedVersion()
    return serving, [version for version, at in events if serving.see(version, at)]


def test_the_first_version_is_served_and_another_one_after_75_of_the_latest_100():
    events = [("1", T0 + i) for i in range(500)] + [("2", T0 + 500 + i) for i in range(75)]
    serving, changes = seen(events[:-1])
    assert (serving.served, changes) == ("1", ["1"])
    assert serving.see(*events[-1])
    assert serving.served == "2"


def test_with_equal_times_the_later_arrival_is_later():
    for first, then in ("12", "21"):
        serving, changes = seen([(first, T0)] * 100 + [(then, T0)] * 75)
        assert changes == [first, then]
        assert serving.served == then


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("122"), st.integers(0, 300)), max_size=400), st.data())
def test_serving_goes_on_from_its_state_and_knows_the_latest_100(events, data):
    cut = data.draw(st.integers(0, len(events)))
    whole, _ = seen(events)
    part, _ = seen(events[:cut])
    stored = msgspec.msgpack.encode(part.state())
    twin = ServedVersion(msgspec.msgpack.decode(stored, type=ServedVersionState))
    for version, at in events[cut:]:
        twin.see(version, at)
    assert twin.state() == whole.state()
    numbered = sorted((at, n, version) for n, (version, at) in enumerate(events, 1))
    assert sorted(whole.state().latest) == numbered[-100:]
