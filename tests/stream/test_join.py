"""The join against a naive model of it, its bounds, and its log of changes."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.stream.config import JoinSettings
from streamgauge.stream.events import Label, Prediction
from streamgauge.stream.join import ModelJoin
from streamgauge.stream.join_changes import JoinChange
from streamgauge.stream.outcomes import same_value
from tests.support.builders import T0

DAY = 86_400_000


def prediction(key, at, value=0, **fields):
    return Prediction(str(key), "m", fields.pop("version", "1"), at, value, **fields)


def label(key, at, value=0, **fields):
    return Label(str(key), "m", value, at, **fields)


def inline(key, at, value=0, predicted=None):
    return label(key, at, value, version="1", prediction=0, timestamp_predicted_ms=predicted)


def feed(join, events, offset=0):
    """The outcomes of some events, one list for each event."""
    outcomes = []
    for i, event in enumerate(events, offset):
        out = []
        (join.add_label if isinstance(event, Label) else join.add_prediction)(event, i, out)
        outcomes.append(out)
    return outcomes


def stored(changes):
    """Changes as they are after they were written and read."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(list(changes)), type=list[JoinChange])


def copied(join, config=None):
    copy = ModelJoin("m", config or join._config)
    copy.redo(stored(join.entries()))
    return copy


def brief(outcomes):
    return [
        [(o.y_true, o.y_pred, o.predicted_ms, o.prediction_offset, o.label_offset) for o in out]
        for out in outcomes
    ]


@dataclass
class NaiveJoin:
    """The rules without bounds, written for reading."""

    maturity: int = 0
    watermark: int = 0
    predictions: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)
    held: list = field(default_factory=list)
    n_joined: int = 0
    n_duplicate_predictions: int = 0
    n_duplicate: int = 0
    n_correction: int = 0

    def add(self, event, offset):
        key = event.prediction_id
        if isinstance(event, Label):
            self.add_label(key, event, offset)
        elif key in self.predictions:
            self.n_duplicate_predictions += 1
        else:
            self.predictions[key] = (event.prediction, event.timestamp_ms, offset)
            if key in self.labels:
                self.join(key)
        self.watermark = max(self.watermark, event.timestamp_ms)
        ripe = sorted(o for o in self.held if o[0] <= self.watermark - self.maturity)
        self.held = [o for o in self.held if o not in ripe]
        return [outcome for _, _, outcome in ripe]

    def add_label(self, key, event, offset):
        if key in self.labels:
            if self.labels[key][0] == event.label:
                self.n_duplicate += 1
            else:
                self.n_correction += 1
            return
        self.labels[key] = (event.label, event.timestamp_ms, offset)
        if key not in self.predictions and event.prediction is not None:
            predicted_ms = event.timestamp_predicted_ms or event.timestamp_ms
            self.predictions[key] = (event.prediction, predicted_ms, None)
        if key in self.predictions:
            self.join(key)

    def join(self, key):
        y_pred, predicted_ms, prediction_offset = self.predictions[key]
        y_true, _, label_offset = self.labels[key]
        outcome = (y_true, y_pred, predicted_ms, prediction_offset, label_offset)
        self.n_joined += 1
        self.held.append((predicted_ms, self.n_joined, outcome))


TIMES = st.integers(T0, T0 + 1000)
EVENTS = st.lists(
    st.one_of(
        st.builds(prediction, st.integers(0, 12), TIMES, st.integers(0, 1)),
        st.builds(label, st.integers(0, 12), TIMES, st.integers(0, 1)),
        st.builds(inline, st.integers(0, 12), TIMES, st.integers(0, 1), st.none() | TIMES),
    ),
    max_size=60,
)


@given(EVENTS, st.sampled_from([1, 50, 400, 2000]))
def test_the_join_does_what_the_naive_one_does(events, maturity):
    join = ModelJoin("m", JoinSettings(label_maturity=f"{maturity}ms"))
    naive = NaiveJoin(maturity)
    expected = [naive.add(event, i) for i, event in enumerate(events)]
    assert brief(feed(join, events)) == expected
    counts = join.counts
    assert counts.n_duplicate_predictions == naive.n_duplicate_predictions
    assert (counts.n_duplicate, counts.n_correction) == (naive.n_duplicate, naive.n_correction)
    assert counts.n_outcomes == sum(map(len, expected))
    assert join.n_held == len(naive.held)
    assert join.n_pending == len(naive.predictions.keys() - naive.labels.keys())
    assert join.n_early == len(naive.labels.keys() - naive.predictions.keys())


@given(EVENTS)
def test_without_maturity_each_outcome_comes_at_once(events):
    join = ModelJoin("m", JoinSettings())
    naive = NaiveJoin(-(10**15))
    expected = [naive.add(event, i) for i, event in enumerate(events)]
    assert brief(feed(join, events)) == expected


@given(EVENTS, st.sampled_from([0, 50, 2000]))
def test_an_outcome_is_released_once_it_is_mature_and_in_prediction_order(events, maturity):
    join = ModelJoin("m", JoinSettings(label_maturity=f"{maturity}ms"))
    watermark = 0
    for event, released in zip(events, feed(join, events), strict=True):
        watermark = max(watermark, event.timestamp_ms)
        if maturity:
            times = [outcome.predicted_ms for outcome in released]
            assert times == sorted(times)
            assert all(time + maturity <= watermark for time in times)


BOUNDS = st.builds(
    lambda pending, early, joined, held, age, maturity: JoinSettings(
        pending_max=pending,
        early_max=early,
        joined_max=joined,
        held_max=held,
        pending_age=f"{age}ms",
        early_age=f"{age}ms",
        label_maturity=f"{maturity}ms",
    ),
    st.integers(1, 6),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(1, 6),
    st.sampled_from([0, 100, 5000]),
    st.sampled_from([0, 100]),
)


@given(EVENTS, BOUNDS)
def test_bounds_hold_and_whatever_is_dropped_is_counted(events, bounds):
    join = ModelJoin("m", bounds)
    for i, event in enumerate(events):
        out = feed(join, [event], i)
        assert join.n_pending <= bounds.pending_max
        assert join.n_early <= bounds.early_max
        assert len(join._joined) <= bounds.joined_max
        assert join.n_held <= bounds.held_max
        assert all(o.label_offset <= i for o in out[0])
    counts = join.counts
    n_joined = counts.n_outcomes + join.n_held
    repeats = counts.n_duplicate + counts.n_correction
    assert counts.n_labels == n_joined + repeats + join.n_early + counts.n_orphaned
    waited = counts.n_predictions - counts.n_duplicate_predictions
    assert join.n_pending + counts.n_expired <= waited
    assert waited <= join.n_pending + counts.n_expired + n_joined


@settings(max_examples=200)
@given(EVENTS, BOUNDS, BOUNDS, st.lists(st.integers(1, 20), max_size=10), st.integers(0, 5))
def test_the_log_of_changes_rebuilds_the_join_whatever_the_config_is_then(
    events, bounds, bounds_then, cuts, n_in_base
):
    join = ModelJoin("m", bounds)
    log, base, start = [], [], 0
    for number, size in enumerate([*cuts, 10**9]):
        feed(join, events[start : start + size], start)
        log += stored(join.drain_changes())
        start += size
        if number == n_in_base:
            base, log = stored(join.entries()), []
    rebuilt = ModelJoin("m", bounds_then)
    rebuilt.redo(base)
    rebuilt.redo(log)
    assert stored(rebuilt.entries()) == stored(join.entries())
    # And it goes on as the other one, once it has its configuration.
    twin = copied(rebuilt, bounds)
    more = [inline(99, T0 + 1500), label(3, T0 + 1500), prediction(4, T0 + 9000)]
    assert brief(feed(twin, more)) == brief(feed(join, more))
    assert stored(twin.entries()) == stored(join.entries())


def test_a_rebuilt_join_keeps_every_field_of_what_waits():
    config = JoinSettings(label_maturity="1d", early_age="30d")
    join = ModelJoin("m", config, keep_features=True)
    features = {"a": 1, "b": 0.5, "c": "x", "d": True, "e": None, "f": 1.0}
    whole = prediction(1, T0, 2.0, probability={"2": 0.25}, features=features, task="regression")
    feed(join, [whole, prediction(2, T0, value=True), label(2, T0, value=True), label(3, T0, "x")])
    rebuilt = ModelJoin("m", config, keep_features=True)
    rebuilt.redo(stored(join.drain_changes()))
    late = [label(1, T0 + 2 * DAY, 1.0), prediction(3, T0 + 2 * DAY, "y"), label(4, T0 + 4 * DAY)]
    outcomes = [outcome for out in feed(rebuilt, late) for outcome in out]
    assert outcomes == [outcome for out in feed(join, late) for outcome in out]
    of_bool, of_number, of_text = outcomes
    assert of_bool.y_true is True
    assert (of_number.features, of_number.probability) == (features, {"2": 0.25})
    assert [type(value) for value in of_number.features.values()] == [*map(type, features.values())]
    assert (type(of_number.y_pred), of_number.task) == (float, "regression")
    assert (of_text.y_true, of_text.y_pred) == ("x", "y")


def test_ages_are_event_time_and_are_checked_within_a_sixtyfourth_of_them():
    join = ModelJoin("m", JoinSettings(pending_age="64s", early_age="128s"))
    feed(join, [prediction("old", T0), label("lonely", T0)])
    for second in range(1, 140):
        feed(join, [prediction(f"at {second}", T0 + 1000 * second)])
        if second <= 64:
            assert join.counts.n_expired == 0
        if second == 66:
            assert join.counts.n_expired >= 1
        if second == 128:
            assert join.counts.n_orphaned == 0
    assert join.counts.n_orphaned == 1
    assert 64 <= join.n_pending <= 66
    # What has expired is forgotten: its label waits in vain.
    assert feed(join, [label("old", T0 + 140_000)]) == [[]]
    assert join.n_early == 1


def test_a_full_buffer_drops_the_oldest():
    join = ModelJoin("m", JoinSettings(pending_max=300))
    feed(join, [prediction(i, T0 + i) for i in range(301)])
    assert join.counts.n_expired == 4, "one percent at once, and the one too many"
    assert next(iter(join._pending)) == "4"


def test_a_bound_that_was_lowered_holds_after_the_next_event():
    join = ModelJoin("m", JoinSettings(pending_max=100, early_max=100))
    feed(join, [prediction(i, T0) for i in range(80)])
    feed(join, [label(f"early {i}", T0) for i in range(80)])
    smaller = copied(join, JoinSettings(pending_max=10, early_max=10))
    feed(smaller, [prediction("one more", T0), label("another", T0)])
    assert (smaller.n_pending, smaller.n_early) == (10, 10)
    assert smaller.counts.n_expired == smaller.counts.n_orphaned == 71


def test_maturity_that_was_taken_away_releases_what_is_held():
    join = ModelJoin("m", JoinSettings(label_maturity="1d"))
    feed(join, [inline(1, T0 + 5), inline(2, T0 + 3)])
    assert join.n_held == 2
    eager = copied(join, JoinSettings())
    [released] = feed(eager, [inline(3, T0 + 6)])
    assert [o.predicted_ms - T0 for o in released] == [3, 5, 6]


def test_what_is_held_beyond_its_bound_is_released_early_the_oldest_first_and_counted():
    join = ModelJoin("m", JoinSettings(label_maturity="1d", held_max=10))
    released = feed(join, [inline(i, T0 + 100 - i) for i in range(100)])
    assert [len(out) for out in released] == [0] * 10 + [1] * 90
    assert [out[0].predicted_ms - T0 for out in released[10:]] == list(range(90, 0, -1))
    assert (join.n_held, join.counts.n_released_early, join.counts.n_outcomes) == (10, 90, 90)
    # What matures is not early.
    [matured] = feed(join, [label("none", T0 + DAY + 95)])
    assert len(matured) == 5
    assert (join.n_held, join.counts.n_released_early, join.counts.n_outcomes) == (5, 90, 95)


def test_features_are_kept_only_where_they_are_wanted():
    for keep in (True, False):
        join = ModelJoin("m", JoinSettings(), keep_features=keep)
        events = [
            prediction(1, T0, features={"a": 1}),
            label(1, T0),
            label(2, T0, features={"b": 2}),
            prediction(2, T0),
        ]
        kept = [outcome.features for out in feed(join, events) for outcome in out]
        assert kept == ([{"a": 1}, {"b": 2}] if keep else [None, None])


@pytest.mark.parametrize("value", [0, False, "", 0.0])
def test_a_false_label_is_a_label(value):
    join = ModelJoin("m", JoinSettings())
    outcomes = feed(
        join, [label(1, T0, value), label(1, T0, value), prediction(1, T0), label(1, T0, value)]
    )
    assert len(outcomes[2]) == 1
    assert join.counts.n_duplicate == 2


def test_a_number_never_equals_a_string():
    assert not same_value(1, "1")
    assert same_value(1, 1.0)
    assert same_value(True, 1)


def test_there_are_few_changes_when_little_has_changed():
    join = ModelJoin("m", JoinSettings())
    feed(join, [prediction(i, T0) for i in range(10_000)])
    assert len(join.drain_changes()) == 10_001
    feed(join, [label(1, T0)])
    assert len(join.drain_changes()) == 2
    assert len(join.drain_changes()) == 1
