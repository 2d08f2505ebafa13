"""Every kind of bad record becomes one dead letter, and changes nothing else."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from streamgauge.consumers.config import load_config
from streamgauge.stream.config import EventLimits
from streamgauge.stream.contracts import AlarmEvent, MetricPoint
from streamgauge.stream.engine import Engine
from streamgauge.stream.events import EventError, decode_label, decode_prediction, model_of
from streamgauge.stream.records import Record
from tests.support.builders import T0, Feed, event, run

CONFIG = load_config(
    {
        "models_max": 4,
        "events": {"features_max": 3, "segments_max": 2, "bytes_max": 50_000},
        "defaults": {"metrics": {"every": 1}},
        "models": {
            "declared": {"classes": ["a", "b"]},
            "regression": {"task": "regression"},
            "future": {"classes": ["a", "b"]},
        },
    }
)
GOOD = {
    "prediction_id": "x",
    "model": "m",
    "version": "1",
    "timestamp": T0,
    "prediction": 1,
    "label": 1,
}
DEEP = b"[" * 20_000 + b"]" * 20_000


def good(**fields):
    """A good event, but for `fields`; None leaves a field out."""
    return event(**{name: v for name, v in {**GOOD, **fields}.items() if v is not None})


def with_literal(name, literal):
    """A good event with a field as written here, be it JSON or not."""
    return good(**{name: "@"}).replace(b'"@"', literal)


def cloud_event(data):
    return b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": ' + data + b"}"


# name: (topics, value, reason, what the detail says)
BOTH, P, L = ("predictions", "labels"), ("predictions",), ("labels",)
BAD = {
    "no value": (BOTH, None, "empty_value", "no value"),
    "empty": (BOTH, b"", "empty_value", "no value"),
    "blank": (BOTH, b"  ", "malformed_json", "truncated"),
    "truncated": (BOTH, good()[:40], "malformed_json", "truncated"),
    "what json.dumps makes of NaN": (
        BOTH,
        with_literal("task", b"NaN"),
        "malformed_json",
        "JSON has no NaN or Infinity",
    ),
    "no json": (BOTH, b"prediction=1", "malformed_json", "byte 0"),
    "two values": (BOTH, good() + good(), "malformed_json", "trailing"),
    "utf-16": (BOTH, good().decode().encode("utf-16"), "malformed_json", "byte 0"),
    "latin-1": (BOTH, with_literal("model", b'"caf\xe9"'), "malformed_json", "utf-8"),
    "byte order mark": (BOTH, b"\xef\xbb\xbf" + good(), "malformed_json", "byte 0"),
    "lone surrogate": (BOTH, with_literal("model", rb'"\ud800 "'), "malformed_json", "surrogate"),
    "an array": (BOTH, b"[1]", "invalid_event", "array"),
    "a string": (BOTH, b'"x"', "invalid_event", "str"),
    "null": (BOTH, b"null", "invalid_event", "null"),
    "no prediction_id": (BOTH, good(prediction_id=None), "invalid_event", "prediction_id"),
    "no model": (BOTH, good(model=None), "invalid_event", "model"),
    "no timestamp": (BOTH, good(timestamp=None), "invalid_event", "timestamp"),
    "no version": (P, good(version=None), "invalid_event", "version"),
    "no prediction": (P, good(prediction=None), "invalid_event", "prediction"),
    "no label": (L, good(label=None), "invalid_event", "label"),
    "a label's prediction without version": (L, good(version=None), "invalid_event", "version"),
    "numeric prediction_id": (BOTH, good(prediction_id=7), "invalid_event", "$.prediction_id"),
    "null prediction_id": (BOTH, with_literal("prediction_id", b"null"), "invalid_event", "$.pred"),
    "numeric model": (BOTH, good(model=7), "invalid_event", "$.model"),
    "numeric version": (BOTH, good(version=7), "invalid_event", "$.version"),
    "array prediction": (BOTH, good(prediction=[1]), "invalid_event", "$.prediction"),
    "null prediction": (P, with_literal("prediction", b"null"), "invalid_event", "$.prediction"),
    "object label": (L, good(label={"a": 1}), "invalid_event", "$.label"),
    "null label": (L, with_literal("label", b"null"), "invalid_event", "$.label"),
    "array features": (BOTH, good(features=[1]), "invalid_event", "$.features"),
    "array segment": (P, good(segment=["a"]), "invalid_event", "$.segment"),
    "numeric segment": (P, good(segment={"a": 1}), "invalid_event", "$.segment"),
    "unknown task": (BOTH, good(task="clustering"), "invalid_event", "$.task"),
    "NaN": (BOTH, with_literal("prediction", b"NaN"), "malformed_json", "byte"),
    "Infinity": (BOTH, with_literal("prediction", b"Infinity"), "malformed_json", "byte"),
    "-Infinity feature": (
        BOTH,
        with_literal("features", b'{"a": -Infinity}'),
        "malformed_json",
        "b",
    ),
    "1e999": (BOTH, with_literal("prediction", b"1e999"), "invalid_event", "$.prediction"),
    "1e999 feature": (BOTH, with_literal("features", b'{"a": 1e999}'), "invalid_event", "features"),
    "1e999 timestamp": (BOTH, with_literal("timestamp", b"-1e999"), "invalid_event", "$.timestamp"),
    "integer of 70 bits": (BOTH, good(prediction=2**70), "invalid_event", "$.prediction"),
    "integer of 5000 digits": (
        BOTH,
        with_literal("prediction", b"9" * 5000),
        "invalid_event",
        "$.prediction",
    ),
    "timestamp of 400 digits": (
        BOTH,
        with_literal("timestamp", b"9" * 400),
        "invalid_event",
        "$.timestamp",
    ),
    "empty prediction_id": (BOTH, good(prediction_id=""), "invalid_event", "$.prediction_id"),
    "empty model": (BOTH, good(model=""), "invalid_event", "$.model"),
    "empty version": (BOTH, good(version=""), "invalid_event", "$.version"),
    "long prediction_id": (BOTH, good(prediction_id="i" * 201), "invalid_event", "$.prediction_id"),
    "long model": (BOTH, good(model="m" * 201), "invalid_event", "$.model"),
    "long class": (BOTH, good(prediction="c" * 1001), "invalid_event", "$.prediction"),
    "long feature": (BOTH, good(features={"a": "v" * 1001}), "invalid_event", "$.features"),
    "long feature name": (BOTH, good(features={"a" * 201: 1}), "invalid_event", "$.features"),
    "long timestamp": (BOTH, good(timestamp="2" * 40_000), "invalid_event", "$.timestamp"),
    "too many features": (
        BOTH,
        good(features=dict.fromkeys("abcd", 1)),
        "invalid_event",
        "events.features_max is 3",
    ),
    "too many segments": (
        P,
        good(segment=dict.fromkeys("abc", "s")),
        "invalid_event",
        "events.segments_max is 2",
    ),
    "nested features": (BOTH, good(features={"a": {"b": 1}}), "invalid_event", "$.features"),
    "array feature": (BOTH, good(features={"a": [1]}), "invalid_event", "$.features"),
    "probability above 1": (BOTH, good(probability=1.01), "invalid_event", "$.probability"),
    "negative probability": (BOTH, good(probability=-0.1), "invalid_event", "$.probability"),
    "boolean probability": (BOTH, good(probability=True), "invalid_event", "$.probability"),
    "a class's probability above 1": (
        BOTH,
        good(probability={"a": 2}),
        "invalid_event",
        "$.probability",
    ),
    "text probability": (BOTH, good(probability="0.5"), "invalid_event", "$.probability"),
    "seconds": (BOTH, good(timestamp=T0 // 1000), "invalid_event", "milliseconds"),
    "microseconds": (BOTH, good(timestamp=T0 * 1000), "invalid_event", "milliseconds"),
    "negative timestamp": (BOTH, good(timestamp=-T0), "invalid_event", "$.timestamp"),
    "boolean timestamp": (BOTH, good(timestamp=True), "invalid_event", "$.timestamp"),
    "null timestamp": (BOTH, with_literal("timestamp", b"null"), "invalid_event", "$.timestamp"),
    "no time zone": (BOTH, good(timestamp="2023-11-14T22:13:20"), "invalid_event", "time zone"),
    "date": (BOTH, good(timestamp="2023-11-14"), "invalid_event", "time zone"),
    "not RFC 3339": (BOTH, good(timestamp="14.11.2023 22:13"), "invalid_event", "RFC 3339"),
    "no such day": (BOTH, good(timestamp="2023-02-30T00:00:00Z"), "invalid_event", "RFC 3339"),
    "epoch as text": (BOTH, good(timestamp=str(T0)), "invalid_event", "$.timestamp"),
    "year 1": (BOTH, good(timestamp="0001-01-01T00:00:00+14:00"), "invalid_event", "$.timestamp"),
    "year 9999": (BOTH, good(timestamp="9999-12-31T23:59:59.999Z"), "timestamp_ahead", "timestamp"),
    "year 10000": (BOTH, good(timestamp="10000-01-01T00:00:00Z"), "invalid_event", "RFC 3339"),
    "year 9999 in the far west": (
        BOTH,
        good(timestamp="9999-12-31T23:59:59-14:00"),
        "invalid_event",
        "$.timestamp",
    ),
    "ahead of its record": (BOTH, good(timestamp=T0 + 600_000), "timestamp_ahead", "ahead_max"),
    "predicted ahead of its record": (
        L,
        good(timestamp_predicted=T0 + 600_000),
        "timestamp_ahead",
        "timestamp_predicted",
    ),
    "predicted in seconds": (
        L,
        good(timestamp_predicted=T0 // 1000),
        "invalid_event",
        "$.timestamp_predicted",
    ),
    "undeclared class predicted": (
        BOTH,
        good(model="declared", prediction="c", label="a"),
        "undeclared_class",
        "prediction 'c'",
    ),
    "undeclared class as label": (
        L,
        good(model="declared", label="c", prediction=None),
        "undeclared_class",
        "label 'c'",
    ),
    "undeclared class before any prediction": (
        L,
        good(model="future", label="c", prediction=None),
        "undeclared_class",
        "label 'c'",
    ),
    "undeclared class of an unknown version": (
        L,
        good(model="declared", label="c", prediction=None, version="77"),
        "undeclared_class",
        "label 'c'",
    ),
    "a class for a regression": (
        BOTH,
        good(model="regression", prediction="high", label=1.5),
        "task_mismatch",
        "prediction 'high'",
    ),
    "a regression that calls itself a classification": (
        BOTH,
        good(
            model="regression", version="9", task="classification", prediction="high", label="high"
        ),
        "task_mismatch",
        "'high' is not a number; the task is regression",
    ),
    "a boolean for a regression": (
        BOTH,
        good(model="regression", prediction=True, label=1.5),
        "task_mismatch",
        "prediction True",
    ),
    "a number for text classes": (
        BOTH,
        good(model="declared", prediction=1, label="a"),
        "task_mismatch",
        "prediction 1",
    ),
    "text for number classes": (
        BOTH,
        good(prediction="a", label=1),
        "task_mismatch",
        "prediction 'a'",
    ),
    "a fraction for number classes": (
        BOTH,
        good(prediction=0.5, label=1),
        "task_mismatch",
        "prediction 0.5",
    ),
    "a class as a regression's label": (
        L,
        good(model="regression", label="high", prediction=None),
        "task_mismatch",
        "label 'high'",
    ),
    "text as a number class's label": (
        L,
        good(label="high", prediction=None),
        "task_mismatch",
        "label 'high'",
    ),
    "a fraction as a class's label": (
        L,
        good(label=0.5, prediction=None),
        "task_mismatch",
        "label 0.5",
    ),
    "deep nesting": (BOTH, b'{"unknown": ' + DEEP + b"}", "malformed_json", "recursion"),
    "deep nesting after a wrong field": (
        BOTH,
        b'{"model": 3, "data": ' + DEEP + b"}",
        "invalid_event",
        "$.model",
    ),
    "deep nesting in a CloudEvent": (BOTH, cloud_event(DEEP), "malformed_json", "recursion"),
    "CloudEvent with a bad field": (BOTH, cloud_event(good(model=3)), "invalid_event", "$.model"),
    "CloudEvent with a bad time": (
        BOTH,
        cloud_event(good(timestamp="noon")),
        "invalid_event",
        "in the CloudEvent's data: timestamp 'noon' is not RFC 3339 - at `$.timestamp`",
    ),
    "a time that is none": (
        BOTH,
        good(timestamp=True),
        "invalid_event",
        "Expected epoch milliseconds or RFC 3339, got `bool` - at `$.timestamp`",
    ),
    "CloudEvent without a field": (BOTH, cloud_event(b"{}"), "invalid_event", "prediction_id"),
    "CloudEvent with text data": (
        BOTH,
        cloud_event(json.dumps(good().decode()).encode()),
        "invalid_event",
        "CloudEvent's data",
    ),
    "CloudEvent without data": (BOTH, b'{"specversion": "1.0"}', "invalid_event", "required"),
    "CloudEvent that breaks off": (
        BOTH,
        cloud_event(b'{"model": 3')[:-1],
        "malformed_json",
        "truncated",
    ),
    "too large": (BOTH, b" " * 50_000 + good(), "too_large", "events.bytes_max is 50000"),
}
CASES = [
    pytest.param(topic, *case, id=f"{topic[:-1]}: {name}")
    for name, (topics, *case) in BAD.items()
    for topic in topics
]


def good_feed(between=()):
    """Good events of three models, with records in the middle that take no place or time."""
    feed = Feed(step_ms=1)
    values = {"m": (1, 0), "declared": ("a", "b"), "regression": (1.5, 0.5)}
    feed.label("early", "a", model="future", version="1")
    for part in range(2):
        for model, (truth, guess) in values.items():
            for i in range(3):
                feed.predict(f"{part}{i}", guess, model=model)
                feed.label(f"{part}{i}", (truth, guess)[i % 2], model=model)
        if part == 0:
            feed.merged += between
    return feed.merged


GOOD_RUN = run(CONFIG, good_feed())


def test_the_good_events_are_good():
    assert set(GOOD_RUN.by_topic()) == {"drift-metrics"}
    assert GOOD_RUN.engine.totals().n_outcomes == 18


@pytest.mark.parametrize(("topic", "value", "reason", "detail"), CASES)
def test_a_bad_record_becomes_one_dead_letter(topic, value, reason, detail):
    headers = (("trace", b"\x00\xff"), ("reason", b"its own"))
    # Its time is the good events': what it would have done would show.
    bad = Record(topic, 0, 987, T0 + 18, b"its key", value, headers)
    feed = good_feed()
    half = len(feed) // 2
    run_with = run(CONFIG, [*feed[:half], bad, *feed[half:]])

    [letter] = run_with.topic("dead-letters")
    assert (letter.key, letter.value) == (b"its key", value or b"")
    assert letter.timestamp_ms == T0 + 18
    assert letter.headers[:4] == (
        ("source_topic", topic.encode()),
        ("source_partition", b"0"),
        ("source_offset", b"987"),
        ("reason", reason.encode()),
    )
    assert letter.headers[4][0] == "detail"
    assert detail in letter.headers[4][1].decode()
    assert len(letter.headers[4][1]) < 1000, "a detail is a line, not the record once more"
    assert letter.headers[5:] == headers

    others = [output for output in run_with.outputs if output is not letter]
    assert others == GOOD_RUN.outputs
    expected = replace(GOOD_RUN.engine.totals(), n_dead_letters=1)
    assert run_with.engine.totals() == expected
    assert {**run_with.stored, "engine": b""} == {**GOOD_RUN.stored, "engine": b""}


# Events as they may be, so that mutations of them reach every line behind the decoder.
VALUES = st.sampled_from([0, 1, True, "a", "b", 0.5, 1e308, -1e308, 1.0, 2**62, ""])
PROBABILITIES = (
    st.none() | st.floats(0, 1) | st.dictionaries(st.sampled_from("ab01"), st.floats(0, 1))
)
EVENTS = st.fixed_dictionaries(
    {
        "prediction_id": st.sampled_from(["1", "2", "3"]),
        "model": st.sampled_from(["m", "declared", "regression"]),
        "timestamp": st.sampled_from([T0, T0 + 100, T0 + 86_400_000, "2023-11-14T22:13:20+01:00"]),
        "prediction": VALUES,
        "label": VALUES,
    },
    optional={
        "version": st.sampled_from(["1", "2", "3"]),
        "probability": PROBABILITIES,
        "features": st.none() | st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3),
        "task": st.sampled_from([None, "classification", "regression"]),
        "timestamp_predicted": st.sampled_from([None, T0 - 5, T0 + 5]),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def mutated_events(draw):
    fields = dict(draw(EVENTS))
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        if draw(st.booleans()):
            fields.pop(name, None)
        else:
            fields[name] = draw(JSON)
    value = event(**fields)
    if draw(st.integers(0, 9)) == 0:
        start = draw(st.integers(0, len(value)))
        stop = draw(st.integers(start, len(value)))
        value = value[:start] + draw(st.binary(max_size=3)) + value[stop:]
    return cloud_event(value) if draw(st.integers(0, 5)) == 0 else value


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["predictions", "labels"]),
        EVENTS.map(lambda fields: event(**fields)) | mutated_events() | st.binary(max_size=20),
    ),
    max_size=25,
)
FUZZ_CONFIG = load_config(
    {
        "versions_max": 2,
        "events": {"ahead_max": "20ms"},
        "defaults": {
            "metrics": {"every": 2, "window": 3},
            "policy": {"min_labels": 2, "cool_down": 3, "period": {"outcomes": 4}},
            "learner": {"path": "river.tree.HoeffdingTreeClassifier"},
        },
        "models": {
            "declared": {"classes": ["a", "b"], "loss": "log_loss"},
            "regression": {
                "loss": "scaled_absolute",
                "learner": {"path": "river.linear_model.LinearRegression"},
                "join": {"label_maturity": "50ms"},
            },
        },
    }
)


@settings(max_examples=250, deadline=None)
@given(RECORDS, st.integers(1, 25))
@example([("labels", good(label=2**62, prediction=-1e308, model="regression"))], 1)
def test_whatever_comes_in_is_accepted_or_dead_lettered_once(records, size):
    feed = Feed(step_ms=0)
    for topic, value in records:
        feed.raw(topic, value)
    # A restart between batches as well: what was accepted must be storable.
    result = run(FUZZ_CONFIG, feed.merged, (size,), restarts={1})
    totals = result.engine.totals()
    letters = result.topic("dead-letters")
    assert len(letters) == totals.n_dead_letters
    assert totals.n_predictions + totals.n_labels + totals.n_dead_letters == len(records)
    assert len({letter.headers[:3] for letter in letters}) == len(letters), "a source twice"
    for output in result.topic("drift-metrics"):
        MetricPoint.model_validate_json(output.value)
    for output in result.topic("drift-alarms"):
        AlarmEvent.model_validate_json(output.value)


@given(st.binary(max_size=50) | mutated_events())
def test_the_model_of_any_bytes_is_text_or_unknown(value):
    assert isinstance(model_of(value), str | None)


def test_the_model_of_an_event():
    assert model_of(good()) == model_of(cloud_event(good())) == "m"
    assert model_of(DEEP) is None
    assert model_of(b'{"model": "' + b"m" * 201 + b'"}') is None


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2023-11-14T22:13:20Z", T0),
        ("2023-11-14T23:13:20.5+01:00", T0 + 500),
        ("2023-11-14t22:13:20.0004z".upper(), T0),
        (T0, T0),
        (float(T0), T0),
        (T0 + 0.6, T0 + 1),
    ],
)
def test_timestamps_are_milliseconds_whatever_they_are_written_in(text, expected_ms):
    prediction = decode_prediction(good(timestamp=text), T0, EventLimits())
    assert prediction.timestamp_ms == expected_ms
    assert type(prediction.timestamp_ms) is int


def test_an_event_may_lie_ahead_of_its_record_by_the_skew_and_behind_by_anything():
    limits = EventLimits(ahead_max="1s")
    decode_prediction(good(timestamp=T0 + 1000), T0, limits)
    decode_label(good(timestamp=T0, timestamp_predicted=T0 - 10**11), T0 + 10**11, limits)
    with pytest.raises(EventError, match="timestamp_ahead"):
        decode_prediction(good(timestamp=T0 + 1001), T0, limits)


def test_names_may_be_200_characters_and_values_1000():
    prediction = decode_prediction(
        good(prediction_id="é" * 200, prediction="c" * 1000, features={"f" * 200: "v" * 1000}),
        T0,
        EventLimits(),
    )
    assert len(prediction.prediction_id) == 200


def test_a_cloud_event_is_what_it_carries():
    plain = decode_prediction(good(probability={"1": 0.5}), T0, EventLimits())
    assert decode_prediction(cloud_event(good(probability={"1": 0.5})), T0, EventLimits()) == plain


@pytest.mark.parametrize("topic", ["predictions", "labels"])
def test_an_event_of_one_model_too_many_is_a_dead_letter(topic):
    # A label alone holds no model's place.
    feed = [record for record in good_feed() if b'"future"' not in record.value]
    bad = Record(topic, 0, 987, T0 + 18, b"its key", good(model="fourth"))
    [letter] = run(CONFIG.model_copy(update={"models_max": 3}), [*feed, bad]).topic("dead-letters")
    headers = dict(letter.headers)
    assert headers["reason"] == b"too_many_models"
    assert b"models_max, 3" in headers["detail"]
    assert letter.value == bad.value


def test_a_refused_event_does_not_use_up_a_model():
    engine = Engine(load_config({"models_max": 1}))
    bad = Record("predictions", 0, 0, T0, None, good(model="bad", prediction=None))
    worse = Record("labels", 0, 0, T0, None, good(model="worse", prediction="a", label=1))
    fine = Record("predictions", 0, 1, T0, None, good(model="fine"))
    letters = engine.process(([bad, fine], [worse]))
    assert len(letters) == 2
    assert engine.totals().n_predictions == 1
