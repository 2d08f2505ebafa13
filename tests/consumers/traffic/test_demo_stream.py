"""What the demo's stream promises: three changes that detectors find, at places it states."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from river import drift

from streamgauge.consumers.traffic.demo_stream import demo_stream
from streamgauge.stream.config import EventLimits
from streamgauge.stream.events import decode_label, decode_prediction


@pytest.fixture(scope="module", params=range(3))
def stream(request):
    return demo_stream(request.param)


def outcomes_of(stream):
    """The stream's events joined as the contract says: the first label of an id counts."""
    predictions, labelled, outcomes = {}, set(), []
    for event in stream.events:
        value = json.loads(event.value)
        identity = value["prediction_id"]
        if event.kind == "prediction":
            predictions[identity] = value["prediction"]
        elif identity not in labelled:
            labelled.add(identity)
            row = int(identity.removeprefix("demo-"))
            outcomes.append((row, int(predictions[identity] != value["label"])))
    return outcomes


def alarms_of(detector, errors):
    found = []
    for i, error in enumerate(errors):
        detector.update(error)
        if detector.drift_detected:
            found.append(i)
    return found


def test_the_seed_decides_everything():
    one = demo_stream(7)
    assert demo_stream(7) == one
    assert demo_stream(8).events != one.events


def test_it_can_end_now_and_is_else_the_same():
    end_ms = 1_800_000_000_000
    one, shifted = demo_stream(7), demo_stream(7, end_ms=end_ms)
    assert shifted.errors == one.errors
    times = [
        [json.loads(event.value)["timestamp"] for event in stream.events]
        for stream in (one, shifted)
    ]
    assert {b - a for a, b in zip(*times, strict=True)} == {times[1][0] - times[0][0]}
    assert end_ms - 120_000 < max(times[1]) <= end_ms


def test_it_states_the_outcomes_that_its_events_join_to(stream):
    outcomes = outcomes_of(stream)
    assert [error for _, error in outcomes] == stream.errors
    assert len(outcomes) == stream.n_labels == stream.n_predictions - stream.n_missing
    for change in stream.changes:
        first = next(i for i, (row, _) in enumerate(outcomes) if row >= change.row)
        assert change.outcome == first


def test_its_errors_before_and_after_each_change_are_those_of_its_events(stream):
    outcomes = outcomes_of(stream)
    rows = [0, *(change.row for change in stream.changes), stream.n_predictions]
    means = []
    for start, end in pairwise(rows):
        errors = [error for row, error in outcomes if start <= row < end]
        means.append(sum(errors) / len(errors))
    for change, (before, after) in zip(stream.changes, pairwise(means), strict=True):
        assert (change.error_before, change.error_after) == pytest.approx((before, after))


def test_two_changes_hurt_one_helps_and_they_lie_apart(stream):
    kinds = [change.kind for change in stream.changes]
    assert kinds == ["degradation", "improvement", "degradation"]
    for change in stream.changes:
        assert abs(change.error_after - change.error_before) > 0.08
    for one, next_one in pairwise(stream.changes):
        assert next_one.outcome - one.outcome >= 5000
    assert 20_000 <= stream.n_predictions <= 25_000


def test_labels_are_late_mixed_repeated_and_missing(stream):
    rows = [row for row, _ in outcomes_of(stream)]
    assert rows != sorted(rows)
    assert stream.n_duplicates > 100
    assert stream.n_missing > 200
    kinds = [event.kind for event in stream.events]
    assert kinds.index("label") >= 600
    assert kinds.count("label") == stream.n_labels + stream.n_duplicates


def test_the_core_accepts_every_event(stream):
    for event in stream.events:
        decode = decode_prediction if event.kind == "prediction" else decode_label
        assert decode(event.value, 1_800_000_000_000, EventLimits()).model == "demo"


def test_rivers_detectors_find_the_three_changes_and_nothing_else(stream):
    for detector, delay_max in ((drift.ADWIN(delta=0.002), 250), (drift.PageHinkley(), 1000)):
        alarms = alarms_of(detector, stream.errors)
        assert len(alarms) >= 3
        first_after = []
        for change in stream.changes:
            after = [alarm for alarm in alarms if change.outcome <= alarm]
            assert after
            assert after[0] - change.outcome <= delay_max
            first_after.append(after[0])
        stray = [a for a in alarms if not any(0 <= a - c.outcome < 1000 for c in stream.changes)]
        assert stray == []
