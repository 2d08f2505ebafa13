"""The engine: cuts and restarts do not matter, versions come and go, requests are counted."""

import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.consumers.config import load_config
from streamgauge.stream import served_version, snapshot
from streamgauge.stream.align import mergeable_prefix
from streamgauge.stream.engine import Engine
from tests.support.builders import (
    CALM,
    TOUCHY,
    Feed,
    eventful,
    requests_of,
    restarted_always,
    run,
    serve,
    split,
    touchy,
)

KEY = b"a key of the tests"


# Less than the shortest wait of a variant.
EVENTS = {"ahead_max": "1s"}


@pytest.fixture(scope="module", autouse=True)
def quick_takeovers():
    """Versions take over within the few events that these feeds have of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_version, "_LATEST", 4)
        patch.setattr(served_version, "_TAKES_OVER", 3)
        yield


def variant(policy=None, **defaults):
    policy = {**TOUCHY["policy"], **(policy or {})}
    return {"events": EVENTS, "defaults": {**TOUCHY, "policy": policy, **defaults}}


def learning(path, params=None):
    learner = {"path": path, "params": params or {}}
    detectors = {
        "deployed": TOUCHY["detectors"]["adwin"],
        "fresh": {**TOUCHY["detectors"]["page_hinkley"], "signal": "learner_error"},
    }
    of_prices = {"learner": {"path": "river.linear_model.LinearRegression"}}
    return {**variant(learner=learner, detectors=detectors), "models": {"price": of_prices}}


VARIANTS = {
    "plain": variant(),
    "two versions at a time": {**variant(), "versions_max": 2},
    "maturity": variant(join={"label_maturity": "20s"}),
    "small buffers": variant(
        join={"pending_max": 3, "early_max": 1, "joined_max": 20, "pending_age": "30s"}
    ),
    "all and metric": variant(
        {"rule": "all", "metric": {"name": "accuracy", "at_or_below": 0.6, "over": 10}}
    ),
    "period": variant({"period": {"time": "1m"}, "cool_down": 10}),
    "log loss and classes": {
        **variant(),
        "models": {
            "number": {"loss": "log_loss"},
            "text": {"classes": ["a", "c"]},
            "price": {"task": "regression"},
        },
    },
    "tree": learning("river.tree.HoeffdingTreeClassifier", {"grace_period": 10}),
    "pipeline, with maturity": {
        **(pipeline := learning("tests.support.builders.scaled_logistic")),
        "defaults": {**pipeline["defaults"], "join": {"label_maturity": "15s"}},
    },
}
SIZES = st.lists(st.integers(1, 90), min_size=1, max_size=10)


def assert_same(run_, expected):
    for topic, outputs in expected.by_topic().items():
        assert run_.topic(topic) == outputs
    assert len(run_.outputs) == len(expected.outputs)
    assert run_.engine.totals() == expected.engine.totals()


def plain_chunks(chunks):
    """The chunks but for the learners': a pickle's bytes depend on which objects are one."""
    return {name: chunk for name, chunk in chunks.items() if not name.startswith("learner/")}


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 9999), SIZES)
def test_cuts_do_not_matter(name, seed, sizes):
    config = load_config(VARIANTS[name])
    feed = eventful(seed, 150)
    whole = run(config, feed)
    assert_same(run(config, feed, sizes), whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_one_record_at_a_time_is_like_all_at_once(name):
    config = load_config(VARIANTS[name])
    feed = eventful(7, 400)
    whole = run(config, feed)
    assert_same(run(config, feed, [1]), whole)
    assert whole.topic("drift-alarms"), "or there is nothing to compare"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.randoms(use_true_random=False), st.integers(1, 40))
def test_cuts_by_a_broker_do_not_matter_when_timestamps_collide(seed, rng, max_records):
    config = touchy()
    feed = [
        record._replace(timestamp_ms=record.timestamp_ms // 5000 * 5000)
        for record in eventful(seed, 100)
    ]
    predictions, labels = split(feed)
    whole = Engine(config)
    expected = whole.process((predictions, labels))
    engine, outputs, i, j = Engine(config), [], 0, 0
    while i < len(predictions) or j < len(labels):
        known_i = min(len(predictions), i + rng.randint(1, 60))
        known_j = min(len(labels), j + rng.randint(1, 60))
        ahead = predictions[i:known_i], labels[j:known_j]
        has_more = known_i < len(predictions), known_j < len(labels)
        counts = mergeable_prefix(ahead, has_more, max_records=max_records)
        outputs += engine.process([records[:n] for records, n in zip(ahead, counts, strict=True)])
        i, j = i + counts[0], j + counts[1]
    for role in {output.role for output in expected}:
        assert [o for o in outputs if o.role == role] == [o for o in expected if o.role == role]
    assert engine.totals() == whole.totals()


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=5, deadline=None)
@given(
    st.integers(0, 9999), SIZES, st.sets(st.integers(1, 30)), st.sampled_from([1, 3000, 1 << 20])
)
def test_restarts_do_not_matter(name, seed, sizes, restarts, log_bytes_min):
    config = load_config(VARIANTS[name])
    feed = eventful(seed, 150)
    with pytest.MonkeyPatch.context() as patch:
        # From folding the join's log at every commit to never.
        patch.setattr(snapshot, "_LOG_BYTES_MIN", log_bytes_min)
        straight = run(config, feed, sizes, state_key=KEY)
        restarted = run(config, feed, sizes, restarts=restarts, state_key=KEY)
    assert restarted.notes == []
    assert restarted.outputs == straight.outputs
    assert restarted.digests == straight.digests
    assert list(map(plain_chunks, restarted.commits)) == list(map(plain_chunks, straight.commits))
    assert restarted.stored.keys() == straight.stored.keys()
    assert restarted.engine.totals() == straight.engine.totals()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("log_bytes_min", [400, 1 << 20])
def test_a_restart_after_every_commit_does_not_matter(name, log_bytes_min, monkeypatch):
    monkeypatch.setattr(snapshot, "_LOG_BYTES_MIN", log_bytes_min)
    config = load_config(VARIANTS[name])
    feed = eventful(11, 120)
    straight = run(config, feed, [7], state_key=KEY)
    restarted = restarted_always(config, feed, [7], state_key=KEY)
    assert restarted.outputs == straight.outputs
    assert restarted.digests == straight.digests
    assert list(map(plain_chunks, restarted.commits)) == list(map(plain_chunks, straight.commits))
    if log_bytes_min == 400:
        assert any("/base/" in name for chunks in straight.commits for name in chunks)


def test_a_models_join_is_folded_for_itself(monkeypatch):
    monkeypatch.setattr(snapshot, "_LOG_BYTES_MIN", 1000)
    straight = run(touchy(), eventful(3, 200), [2])
    bases = [
        {name.split("/")[1] for name in chunks if "/base/" in name} for chunks in straight.commits
    ]
    folds = [models for models in bases if models]
    assert {model for models in folds for model in models} == {"text", "number", "price"}
    assert sum(len(models) == 1 for models in folds) > len(folds) / 2
    # It writes what little changes, of two models at most.
    assert max(len(chunks) for chunks in straight.commits) < 40
    assert len(straight.stored) < 60


def test_the_digest_tells_any_difference_in_input_outputs_or_state():
    feed = eventful(5, 100)
    straight = run(touchy(), feed, [10])
    assert run(touchy(), feed, [10]).digests == straight.digests
    assert len(set(straight.digests)) == len(straight.digests)
    position = next(i for i, record in enumerate(feed) if b'"prediction": "a"' in record.value)
    changed = [*feed]
    value = changed[position].value.replace(b'"prediction": "a"', b'"prediction": "b"')
    changed[position] = changed[position]._replace(value=value)
    digests = run(touchy(), changed, [10]).digests
    first = position // 10
    assert digests[:first] == straight.digests[:first]
    assert not set(digests[first:]) & set(straight.digests)


def test_a_commit_without_news_still_moves_the_digest_and_writes_little():
    engine = Engine(touchy())
    assert engine.process(([], [])) == []
    chunks = engine.drain_chunks()
    before = engine.digest
    engine.drain_chunks()
    assert engine.digest != before
    assert sum(len(chunk) for chunk in chunks.values()) < 50


def test_restoring_nothing_is_a_fresh_start():
    engine = Engine(touchy())
    assert engine.restore({}, "") == []
    assert engine.totals() == Engine(touchy()).totals()


def test_learners_start_afresh_without_the_key_and_it_is_said_with_a_wrong_one():
    config = load_config(VARIANTS["tree"])
    feed = eventful(2, 60)
    straight = run(config, feed, state_key=KEY)
    n_learners = sum(name.startswith("learner/") for name in straight.stored)
    assert n_learners > 1
    wrong = Engine(config, state_key=b"another")
    notes = wrong.restore(straight.stored, straight.digests[-1])
    assert len(notes) == n_learners
    assert all("learner starts afresh" in note for note in notes)
    assert wrong.totals() == straight.engine.totals()
    keyless = run(config, feed)
    assert not any(name.startswith("learner/") for name in keyless.stored)
    assert Engine(config).restore(straight.stored, "") == []


@pytest.mark.parametrize("change", ["no key", "no learner"])
def test_a_learner_that_was_left_out_for_a_while_is_not_had_back_older_than_its_monitor(change):
    config = load_config(VARIANTS["tree"])
    without = load_config(variant()) if change == "no learner" else config
    feed = eventful(2, 150)
    first = run(config, feed[:50], state_key=KEY)
    assert any(name.startswith("learner/") for name in first.stored)
    engine = Engine(without, state_key=KEY if change == "no learner" else None)
    engine.restore(first.stored, "")
    engine.process(split(feed[50:100]))
    chunks = engine.drain_chunks()
    touched = {n.split("/", 1)[1] for n in chunks if n.startswith("monitor/") and chunks[n]}
    gone = {n.split("/", 1)[1] for n in chunks if n.startswith("learner/")}
    assert gone
    assert gone <= touched | {n.split("/", 1)[1] for n in chunks if chunks[n] is None}
    assert not any(chunks[f"learner/{name}"] for name in gone)
    stored = {n: c for n, c in {**first.stored, **chunks}.items() if c is not None}
    left = {n.split("/", 1)[1] for n in stored if n.startswith("learner/")}
    assert not left & touched


def test_a_learner_that_draws_and_was_given_no_seed_can_be_replayed():
    config = load_config(learning("river.forest.ARFClassifier", {"n_models": 2}))
    feed = eventful(6, 120)
    straight = run(config, feed, [25], state_key=KEY)
    assert run(config, feed, [25], state_key=KEY).digests == straight.digests
    assert restarted_always(config, feed, [25], state_key=KEY).digests == straight.digests


def test_a_changed_configuration_keeps_what_it_can():
    feed = eventful(4, 200)
    straight = run(touchy(), feed[:150])
    changed = load_config(
        {
            "events": EVENTS,
            "defaults": {
                **TOUCHY,
                "detectors": {"adwin": {"kind": "ADWIN"}},
                "metrics": {"every": 3, "window": 500},
                "policy": {"cool_down": 2, "period": {"outcomes": 5}},
                "join": {"label_maturity": "5s", "pending_max": 2},
            },
            "versions_max": 2,
            "models_max": 1,
        }
    )
    engine = Engine(changed)
    notes = engine.restore(straight.stored, straight.digests[-1])
    assert notes
    assert all(note.endswith("detector adwin starts afresh") for note in notes)
    assert engine.totals() == straight.engine.totals()
    assert engine.process(split(feed[150:]))


# Tasks.

EVERY_5 = {"metrics": {"every": 5}}


def prices(feed, first, n, model="m", **fields):
    """Predictions of a regression, and their labels, from number `first` on."""
    for i in range(first, first + n):
        feed.predict(f"{model} {i}", 0.37 + i, model=model, **fields)
        feed.label(f"{model} {i}", 0.5 + i, model=model)


def letters_of(result):
    return [dict(o.headers)["detail"].decode() for o in result.topic("dead-letters")]


def is_regression(result):
    points = [m["values"] for m in result.json("drift-metrics") if m["signal"] == "performance"]
    return bool(points) and "mae" in points[-1]


@pytest.mark.parametrize("zero", [0.0, 0])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_regression_may_begin_with_a_zero(zero, labelled):
    feed = Feed()
    feed.predict("first", zero)
    if labelled:
        feed.label("first", 0.25)
    prices(feed, 1, 20)
    result = run(load_config({"defaults": EVERY_5}), feed.merged, [7])
    assert letters_of(result) == []
    assert is_regression(result)


@pytest.mark.parametrize("stray", ["test", True])
def test_a_test_message_does_not_settle_the_task(stray):
    feed = Feed()
    feed.predict("stray", stray)
    prices(feed, 1, 20)
    result = run(load_config({"defaults": EVERY_5}), feed.merged, [7], restarts={1, 3})
    assert letters_of(result) == []
    assert is_regression(result)
    assert_same(run(load_config({"defaults": EVERY_5}), feed.merged), result)


def begun_with_a_class():
    """A regression that began with what looked like a class, with its outcome."""
    feed = Feed()
    feed.predict("first", 0)
    feed.label("first", 0)
    prices(feed, 1, 20)
    return feed


def test_a_task_that_outcomes_have_settled_is_corrected_by_an_event():
    feed = begun_with_a_class()
    n = len(feed.merged)
    prices(feed, 30, 20, task="regression")
    prices(feed, 60, 20)
    config = load_config({"defaults": EVERY_5})
    result = run(config, feed.merged, [n, 5], restarts={1, 2, 3})
    assert len(letters_of(result)) == 40
    assert "set the event's task or the model's to regression" in letters_of(result)[0]
    assert is_regression(result)
    # It starts anew.
    assert result.json("drift-metrics")[-1]["step"] == 40
    assert_same(run(config, feed.merged), result)


def test_an_event_does_not_change_a_task_that_an_event_has_declared():
    feed = Feed()
    prices(feed, 0, 10, task="regression")
    feed.predict("stray", 1, task="classification")
    prices(feed, 10, 10)
    result = run(load_config({"defaults": EVERY_5}), feed.merged)
    assert is_regression(result)
    assert result.json("drift-metrics")[-1]["step"] == 20


def test_an_event_does_not_change_the_kind_of_the_classes_there_are_outcomes_of():
    feed = Feed()
    for i in range(10):
        feed.outcome(str(i), wrong=False)
    feed.predict("stray", "test", task="classification")
    feed.outcome("last", wrong=False)
    result = run(load_config({}), feed.merged)
    assert len(letters_of(result)) == 1
    assert result.engine.totals().n_outcomes == 11


@pytest.mark.parametrize("how", [{"task": "regression"}, {"loss": "scaled_absolute"}])
def test_a_task_that_outcomes_have_settled_is_corrected_by_the_configuration(how):
    feed = begun_with_a_class()
    straight = run(load_config({"defaults": EVERY_5}), feed.merged)
    prices(feed, 30, 20)
    config = load_config({"defaults": {**EVERY_5, **how}})
    engine = Engine(config)
    notes = engine.restore(straight.stored, straight.digests[-1])
    assert notes == ["m/1: the task is regression; it starts anew"]
    n = len(straight.topic("dead-letters"))
    assert n == 40
    outputs = engine.process(split(feed.merged[42:]))
    assert {output.role for output in outputs} == {"metrics"}
    stored = {**straight.stored, **engine.drain_chunks()}
    again = Engine(config)
    assert again.restore(stored, engine.digest) == []
    assert again.totals() == engine.totals()


def test_declared_classes_correct_what_a_test_message_looked_like():
    feed = Feed()
    feed.label("test", "test", prediction="test", version="1")
    straight = run(load_config({}), feed.merged)
    for i in range(10):
        feed.outcome(str(i), wrong=False)
    engine = Engine(load_config({"defaults": {"classes": [0, 1]}}))
    engine.restore(straight.stored, straight.digests[-1])
    outputs = engine.process(split(feed.merged[1:]))
    assert outputs == []
    assert engine.totals().n_outcomes == 11


def test_a_learner_that_the_configuration_adds_need_not_fit_the_versions_there_are():
    feed = Feed()
    serve(feed, "1", 5)
    straight = run(load_config({}), feed.merged)
    learner = {"path": "river.linear_model.LinearRegression"}
    engine = Engine(load_config({"defaults": {"learner": learner}}))
    [note] = engine.restore(straight.stored, straight.digests[-1])
    assert note.startswith("m/1: learner: ")
    serve(feed, "1", 5)
    engine.process(split(feed.merged[10:]))
    assert engine.totals().n_outcomes == 10


def test_a_label_is_checked_against_the_version_that_made_its_prediction():
    feed = Feed()
    for i in range(10):
        feed.predict(f"old {i}", "cat", version="1")
        feed.label(f"old {i}", "dog") if i < 5 else None
    for i in range(10):
        feed.predict(f"new {i}", 3, version="2")
        feed.label(f"new {i}", 3)
    for i in range(5, 10):
        # With no version, and with a wrong one: the prediction's counts.
        feed.label(f"old {i}", "dog", **({"version": "2"} if i % 2 else {}))
    feed.label("refused", 0.5)
    feed.label("old 2", "dog")
    result = run(load_config({}), feed.merged, [9])
    assert len(letters_of(result)) == 1
    assert result.engine.totals().n_outcomes == 20
    assert result.engine.totals().n_duplicate == 1
    assert not result.topic("drift-alarms")


def test_no_detector_makes_an_event_fatal():
    # `config check` refuses this; a configuration that nobody has checked must not loop.
    feed = Feed()
    for i in range(60):
        feed.label(str(i), 1.5, prediction=1.5 + i % 7, version="1")
    config = load_config({"defaults": {"detectors": {"ddm": {"kind": "river.drift.binary.DDM"}}}})
    result = run(config, feed.merged, [7], restarts={2, 5})
    assert result.engine.totals().n_outcomes == 60
    alarms = result.json("drift-alarms")
    assert {(a["kind"], a["signal"], a["detector"]) for a in alarms} == {
        ("data_problem", "error", "ddm")
    }
    assert 4 <= len(alarms) <= 6
    assert len({a["alarm_id"] for a in alarms}) == len(alarms)
    assert not result.topic("dead-letters")


# Requests.


@pytest.mark.parametrize("seed", range(5))
def test_requests_are_numbered_without_gaps_and_their_ids_are_unique(seed):
    config = load_config(VARIANTS["period"])
    feed = eventful(seed, 300)
    result = run(config, feed, [40], restarts={2, 5}, partition=3)
    requests = requests_of(result)
    assert len(requests) >= 10
    assert [request.sequence for request in requests] == list(range(1, len(requests) + 1))
    assert {request.partition for request in requests} == {3}
    ids = [dict(o.headers)["ce_id"] for o in result.topic("retrain-requests")]
    assert len(set(ids)) == len(requests)
    # Whoever processes a model, and wherever, asks for the same by the same name.
    elsewhere = run(config, feed, partition=4)
    assert [dict(o.headers)["ce_id"] for o in elsewhere.topic("retrain-requests")] == ids


def test_a_requests_window_holds_the_events_of_all_its_outcomes():
    rng = random.Random(1)
    config = touchy()
    feed, waiting, outcomes = Feed(), [], []
    for i in range(900):
        wrong = rng.random() < (0.8 if i // 150 % 2 else 0.05)
        feed.predict(str(i), 0)
        waiting.append((i, feed.now, int(wrong)))
        while len(waiting) > 20:
            number, _, truth = waiting.pop(rng.randrange(len(waiting)))
            outcomes.append((number, feed.n["labels"]))
            feed.label(str(number), truth)
    requests = requests_of(run(config, feed.merged, [100]))
    assert len(requests) > 2
    for request in requests:
        window = request.window
        assert window.n_outcomes == window.outcome_to - window.outcome_from > 0
        inside = outcomes[window.outcome_from : window.outcome_to]
        predictions, labels = zip(*inside, strict=True)
        assert window.predictions.offset_from == min(predictions)
        assert window.predictions.offset_to == max(predictions) + 1
        assert window.labels.offset_from == min(labels)
        assert window.labels.offset_to == max(labels) + 1
        assert window.outcome_from <= min(alarm.onset for alarm in request.alarms[:1])


def test_a_window_of_labels_that_carried_their_predictions_has_no_predictions():
    feed = Feed()
    for i in range(120):
        feed.outcome(str(i), wrong=i > 60)
    [request] = requests_of(run(touchy(), feed.merged))
    assert request.window.predictions is None
    assert request.window.labels.offset_to <= 120


def test_a_prediction_of_a_versions_earlier_life_with_another_task_is_a_data_problem():
    feed = Feed()
    feed.predict("of its first life", "cat", version="1")
    serve(feed, "2", 10)
    # The third version takes the place of the first, which then comes back.
    feed.predict("x", 0, version="3")
    feed.predict("y", 0.5, version="1")
    feed.label("of its first life", 3, version="unknown")
    result = run(load_config({"versions_max": 2}), feed.merged)
    [alarm] = result.json("drift-alarms")
    assert (alarm["kind"], alarm["version"]) == ("data_problem", "1")
    assert "'cat'" in alarm["detail"]
    assert result.engine.totals().n_outcomes == 11


def test_an_early_label_that_is_no_value_of_the_task_is_a_data_problem():
    feed = Feed()
    serve(feed, "1", 3)
    feed.label("early", "cat", version="2")
    feed.predict("early", 0.5, version="2")
    serve(feed, "1", 3)
    result = run(touchy(), feed.merged, [1])
    assert_same(run(touchy(), feed.merged), result)
    [alarm] = result.json("drift-alarms")
    assert (alarm["kind"], alarm["signal"], alarm["version"]) == ("data_problem", "data", "2")
    assert "'cat'" in alarm["detail"]


def test_models_do_not_touch_each_other():
    alone, both = Feed(), Feed()
    for i in range(300):
        for feed, models in ((alone, "a"), (both, "ab")):
            start = len(feed.merged)
            for model in models:
                feed.outcome(
                    f"{i}",
                    wrong=(i > 150) != (model == "b"),
                    model=model,
                    timestamp=1_700_000_000_000 + i * 1000,
                )
            assert len(feed.merged) == start + len(models)
    config = load_config({"defaults": CALM})

    def told_of_a(result):
        return [
            (
                o.role,
                {k: v for k, v in json.loads(o.value).items() if k not in ("sequence", "window")},
            )
            for o in result.outputs
            if o.key == b"a"
        ]

    assert told_of_a(run(config, both.merged, [70])) == told_of_a(run(config, alone.merged))


def test_no_more_models_than_models_max():
    feed = Feed()
    for i in range(50):
        feed.predict(str(i), 0, model=f"m{i % 5}")
    config = load_config({"models_max": 3})
    result = run(config, feed.merged, [7], restarts={2})
    letters = result.topic("dead-letters")
    assert {dict(o.headers)["reason"] for o in letters} == {b"too_many_models"}
    assert len(letters) == 20
    assert result.engine.totals().n_predictions == 30


def idle_config(models_max, **join):
    join = {"pending_age": "10m", "early_age": "10m", **join}
    return load_config({"models_max": models_max, "defaults": {**CALM, "join": join}})


def test_labels_that_match_nothing_take_no_models_place():
    feed = Feed()
    serve(feed, "1", 10)
    for i in range(50):
        feed.label("x", 0, model=f"garbage {i}")
    feed.predict("a", 0, model="late")
    feed.label("a", 0, model="late")
    serve(feed, "1", 10)
    result = run(idle_config(5), feed.merged, [7], restarts={3, 6})
    assert result.topic("dead-letters") == []
    assert sorted(result.engine._models) == ["garbage 47", "garbage 48", "garbage 49", "late", "m"]
    totals = result.engine.totals()
    assert (totals.n_outcomes, totals.n_orphaned, totals.n_models_evicted) == (21, 47, 47)
    assert totals.n_labels == 71
    # Nothing of them is left.
    assert {name.split("/")[1] for name in result.stored if "/" in name} == {
        "garbage%2047",
        "garbage%2048",
        "garbage%2049",
        "late",
        "m",
    }


def test_a_model_makes_room_when_nothing_of_it_can_be_joined_any_more():
    feed = Feed()
    for model in "abc":
        feed.predict("waits", 0, model=model)
        feed.outcome("1", wrong=False, model=model)
    feed.predict("2", 0, model="too early")
    for _ in range(700):
        feed.outcome(f"{len(feed.merged)}", wrong=False, model="c")
    feed.predict("2", 0, model="d")
    feed.predict("2", 0, model="e")
    feed.predict("2", 0, model="f")
    result = run(idle_config(3), feed.merged, [100], restarts={2})
    assert [json.loads(o.value)["model"] for o in result.topic("dead-letters")] == [
        "too early",
        "f",
    ]
    assert sorted(result.engine._models) == ["c", "d", "e"]
    totals = result.engine.totals()
    assert (totals.n_models_evicted, totals.n_expired, totals.n_pending) == (2, 3, 2)
    assert totals.n_outcomes == 703


def test_what_an_models_evicted_model_holds_is_measured_first():
    feed = Feed()
    for i in range(40):
        feed.outcome(f"{i}", wrong=i > 20, model="a")
    for i in range(1000):
        feed.outcome(f"{i}", wrong=False, model="b")
    config = load_config(
        {
            "models_max": 1,
            "events": EVENTS,
            "defaults": {
                **TOUCHY,
                "join": {"pending_age": "1m", "early_age": "1m", "label_maturity": "1m"},
            },
        }
    )
    whole = run(config, feed.merged)
    of_a = [m for m in whole.json("drift-metrics") if m["model"] == "a" and m["signal"] == "error"]
    assert [m["step"] for m in of_a] == [7, 14, 21, 28, 35]
    # Events of b are refused while a may still come back.
    letters = len(whole.topic("dead-letters"))
    assert 55 < letters < 65
    totals = whole.engine.totals()
    assert totals.n_outcomes + whole.engine._models["b"].join.n_held == 1040 - letters
    for sizes in ([1], [13], [100]):
        assert_same(run(config, feed.merged, sizes), whole)
        restarted = restarted_always(config, feed.merged, [50])
        assert restarted.outputs == run(config, feed.merged, [50]).outputs


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), SIZES, st.sets(st.integers(1, 30)))
def test_models_that_come_and_go_do_not_depend_on_cuts_or_restarts(seed, sizes, restarts):
    rng, feed = random.Random(seed), Feed(step_ms=5000)
    for i in range(200):
        model = f"{min(rng.randrange(1, 9), rng.randrange(1, 9))}"
        if rng.random() < 0.3:
            feed.label(f"{i}", 0, model=model)
        elif rng.random() < 0.5:
            feed.predict(f"{i}", 0, model=model)
        else:
            feed.outcome(f"{i}", wrong=rng.random() < 0.5, model=model)
    join = {"pending_age": "30s", "early_age": "20s", "label_maturity": "10s"}
    config = load_config({"models_max": 3, "events": EVENTS, "defaults": {**TOUCHY, "join": join}})
    whole = run(config, feed.merged)
    assert whole.engine.totals().n_models_evicted > 0
    straight = run(config, feed.merged, sizes)
    assert_same(straight, whole)
    restarted = run(config, feed.merged, sizes, restarts=restarts)
    assert restarted.commits == straight.commits
    assert restarted.digests == straight.digests
    assert restarted.stored == straight.stored


def test_names_may_be_anything():
    names = ["a/b", "%2F", "ü\n\0", "..", "x" * 200, "é" * 200]
    feed = Feed()
    for name in names:
        for version in names:
            feed.outcome("1", wrong=True, model=name, version=version)
    config = load_config({"defaults": {"metrics": {"every": 1}}})
    straight = run(config, feed.merged, [3])
    restarted = restarted_always(config, feed.merged, [3])
    assert restarted.outputs == straight.outputs
    assert straight.engine.totals().n_outcomes == len(names)
    assert {o.key.decode() for o in straight.outputs} == set(names)


def test_join_counts_are_published_and_add_up():
    feed = Feed()
    for i in range(100):
        feed.predict(f"{i}", 0)
        if i % 4:
            feed.label(f"{i}", 0)
            feed.label(f"{i}", i % 2)
    config = load_config({"defaults": {"metrics": {"every": 5}, "join": {"pending_max": 10}}})
    points = [
        m for m in run(config, feed.merged, [9]).json("drift-metrics") if m["signal"] == "join"
    ]
    assert len(points) == 250 // 10
    last = points[-1]["values"]
    assert last["n_predictions"] + last["n_labels"] == 250
    assert (last["n_outcomes"], last["n_duplicate"], last["n_correction"]) == (75, 25, 50)
    assert last["n_pending"] + last["n_expired"] == 25
    assert points[-1]["step"] == 75


def test_outputs_are_plain_bytes():
    result = run(touchy(), eventful(9, 200))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(result.outputs))
    for output in result.outputs:
        assert isinstance(output.value, bytes)
        assert all(isinstance(value, bytes) for _, value in output.headers)
