"""Predictions and labels keep step, however the input is cut."""

import time

from hypothesis import given
from hypothesis import strategies as st

from streamgauge.stream.align import merge, mergeable_prefix
from streamgauge.stream.records import Record

# Few distinct timestamps, in any order: ties and late records are the cases that matter.
TIMES = st.lists(st.integers(0, 8), max_size=30)


def records(topic, times):
    return [Record(topic, 0, offset, t, None, b"") for offset, t in enumerate(times)]


def merged_by_the_rule(predictions, labels):
    """The rule as it is written in streamgauge.stream.align, without a thought for speed."""
    if not predictions or not labels:
        return [(False, p) for p in predictions] + [(True, x) for x in labels]
    if predictions[0].timestamp_ms <= labels[0].timestamp_ms:
        return [(False, predictions[0]), *merged_by_the_rule(predictions[1:], labels)]
    return [(True, labels[0]), *merged_by_the_rule(predictions, labels[1:])]


@given(TIMES, TIMES)
def test_merge_follows_the_rule(prediction_times, label_times):
    predictions, labels = records("p", prediction_times), records("l", label_times)
    assert merge(predictions, labels) == merged_by_the_rule(predictions, labels)


@given(TIMES, TIMES, st.integers(1, 12), st.data())
def test_the_merged_order_does_not_depend_on_the_cuts(
    prediction_times, label_times, max_records, data
):
    predictions, labels = records("p", prediction_times), records("l", label_times)
    whole = merge(predictions, labels)
    pieces = []
    i = j = 0
    while i < len(predictions) or j < len(labels):
        # A broker may have buffered more or less than it is asked for, but something of each.
        known_i = data.draw(st.integers(i + 1, len(predictions))) if i < len(predictions) else i
        known_j = data.draw(st.integers(j + 1, len(labels))) if j < len(labels) else j
        n_predictions, n_labels = mergeable_prefix(
            predictions[i:known_i],
            labels[j:known_j],
            more_predictions=known_i < len(predictions),
            more_labels=known_j < len(labels),
            max_records=max_records,
        )
        assert n_predictions + n_labels > 0, "no progress"
        assert max(n_predictions, n_labels) <= max_records
        pieces += merge(predictions[i : i + n_predictions], labels[j : j + n_labels])
        i, j = i + n_predictions, j + n_labels
    assert pieces == whole


@given(TIMES, TIMES)
def test_all_known_input_is_taken_at_once(prediction_times, label_times):
    taken = mergeable_prefix(
        records("p", prediction_times),
        records("l", label_times),
        more_predictions=False,
        more_labels=False,
        max_records=30,
    )
    assert taken == (len(prediction_times), len(label_times))


def test_a_topic_waits_for_the_other_only_while_that_has_more():
    predictions = records("p", [1, 2])
    waits = mergeable_prefix(
        predictions, [], more_predictions=False, more_labels=True, max_records=10
    )
    goes_on = mergeable_prefix(
        predictions, [], more_predictions=False, more_labels=False, max_records=10
    )
    assert (waits, goes_on) == ((0, 0), (2, 0))


def test_nothing_is_taken_past_the_last_known_record_of_the_other_topic():
    taken = mergeable_prefix(
        records("p", [10, 20]),
        records("l", [5, 20, 30]),
        more_predictions=True,
        more_labels=False,
        max_records=10,
    )
    assert taken == (2, 1), "the label at 20 comes after the prediction at 20, then it must wait"


def test_merging_ten_thousand_records_takes_milliseconds():
    predictions = records("p", range(0, 10_000, 2))
    labels = records("l", range(1, 10_000, 2))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        merged = merge(predictions, labels)
        seconds.append(time.perf_counter() - start)
    assert [record.timestamp_ms for _, record in merged] == list(range(10_000))
    assert min(seconds) < 0.05, "ten times the target: the merge is no longer linear"
