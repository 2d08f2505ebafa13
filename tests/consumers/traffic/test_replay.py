"""What a CSV file becomes: a model, its predictions, and labels that arrive late or never."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgauge.consumers.broker import BrokerError
from streamgauge.consumers.config import load_config
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.traffic import send as traffic_send
from streamgauge.consumers.traffic.csv_rows import CsvError, infer_task, parse_value, read_rows
from streamgauge.consumers.traffic.frozen_model import (
    FrozenModel,
    FrozenModelError,
    default_learner,
)
from streamgauge.consumers.traffic.labels import ROW_MS, START_MS, LabelSchedule
from streamgauge.consumers.traffic.replay import CsvReplay, ReplayError, ReplayOptions, replay
from streamgauge.stream.config import EventLimits
from streamgauge.stream.events import decode_label, decode_prediction

STREAMS = Path(__file__).parents[4] / "shared" / "data" / "streams"
ERRORS = (ReplayError, CsvError, FrozenModelError)
NOW_MS = 1_800_000_000_000


def write(folder: Path, text: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def two_classes(folder: Path, n_rows: int = 100) -> Path:
    """x below 5 is `low`, the rest is `high`; one cell is empty, one column is text."""
    rows = [
        f"{i % 10},{'' if i == 50 else i},town{i % 3},{'low' if i % 10 < 5 else 'high'}"
        for i in range(n_rows)
    ]
    return write(folder, "\n".join(["x,n,town,class", *rows]) + "\n")


def options(path: Path, **given) -> ReplayOptions:
    return ReplayOptions(
        **{"path": path, "target": "class", "model": "m", "train_rows": 20, **given}
    )


def events_of(run: CsvReplay) -> list[tuple[str, dict]]:
    return [(event.kind, json.loads(event.value)) for event in run.events()]


# --- events


def test_each_row_after_the_training_rows_becomes_a_prediction_and_its_label(tmp_path):
    run = CsvReplay(options(two_classes(tmp_path)))
    events = events_of(run)
    assert [kind for kind, _ in events] == ["prediction", "label"] * 80
    first = events[0][1]
    probability = first.pop("probability")
    assert 0.5 < probability <= 1
    assert first == {
        "prediction_id": "m-20",
        "model": "m",
        "version": "1",
        "timestamp": START_MS + 20 * ROW_MS,
        "task": "classification",
        "prediction": "low",
        "features": {"x": 0, "n": 20, "town": "town2"},
    }
    assert events[1][1] == {
        "prediction_id": "m-20",
        "model": "m",
        "version": "1",
        "timestamp": START_MS + 20 * ROW_MS,
        "label": "low",
    }
    assert events[60][1]["features"] == {"x": 0, "n": None, "town": "town2"}
    summary = run.summary()
    assert (summary.n_rows, summary.n_train, summary.n_predictions, summary.n_labels) == (
        100,
        20,
        80,
        80,
    )
    assert summary.training_accuracy > 0.8
    assert summary.training_mae is None
    assert summary.unused_columns == (("town", 2, "town0"),)
    assert "cannot use: town (line 2: 'town0')" in summary.describe()


@pytest.mark.parametrize("missing", ["NA", "NaN", "nan", "null", "None", "n/a", "?", " "])
def test_a_cell_that_says_there_is_no_value_is_empty(tmp_path, missing):
    rows = [f"{missing if i % 7 == 3 else i % 10},{'ab'[i % 2]}" for i in range(60)]
    run = CsvReplay(options(write(tmp_path, "\n".join(["x,class", *rows]) + "\n")))
    features = [event["features"]["x"] for kind, event in events_of(run) if kind == "prediction"]
    assert features == [None if i % 7 == 3 else i % 10 for i in range(20, 60)]
    assert run.summary().unused_columns == ()


def test_a_class_may_be_called_none(tmp_path):
    rows = "".join(f"{i},{('none', 'some')[i % 2]}\n" for i in range(40))
    events = events_of(CsvReplay(options(write(tmp_path, "x,class\n" + rows))))
    assert {event["label"] for kind, event in events if kind == "label"} == {"none", "some"}


@pytest.mark.parametrize("price", [lambda i: i + 0.5, lambda i: 1000 + 37 * i])
def test_a_quantity_is_refused_as_classes_before_anything_is_trained(tmp_path, monkeypatch, price):
    rows = "".join(f"{i},{price(i)}\n" for i in range(200))
    path = write(tmp_path, "x,class\n" + rows)
    monkeypatch.setattr(CsvReplay, "_deploy", None)
    with pytest.raises(ReplayError, match=r"'class' has 100 distinct numbers .* --task regression"):
        CsvReplay(options(path, task="classification", train_rows=100))


def test_names_are_refused_as_classes_before_anything_is_trained(tmp_path, monkeypatch):
    path = write(tmp_path, "x,class\n" + "".join(f"{i},customer {i}\n" for i in range(200)))
    monkeypatch.setattr(CsvReplay, "_deploy", None)
    with pytest.raises(ReplayError, match="'class' has 100 distinct values in 100 rows"):
        CsvReplay(options(path, train_rows=100))


def test_many_classes_that_are_numbers_are_taken_as_asked(tmp_path):
    rows = "".join(f"{i % 26},{i % 26}\n" for i in range(160))
    path = write(tmp_path, "x,class\n" + rows)
    assert CsvReplay(options(path, task="classification", train_rows=150)).task == "classification"


def test_a_replay_may_end_at_a_time(tmp_path):
    given = {"delay_ms": 10 * ROW_MS, "jitter_ms": 5 * ROW_MS, "duplicates": 0.5}
    run = CsvReplay(options(two_classes(tmp_path), end_ms=NOW_MS, **given))
    times = [event["timestamp"] for _, event in events_of(run)]
    assert max(times) < NOW_MS
    assert min(times) == NOW_MS - 80 * ROW_MS - 15 * ROW_MS


def test_the_core_accepts_every_event(tmp_path):
    for event in CsvReplay(options(two_classes(tmp_path))).events():
        assert event.key == b"m"
        decode = decode_prediction if event.kind == "prediction" else decode_label
        assert decode(event.value, NOW_MS, EventLimits()).model == "m"


def test_a_label_comes_its_delay_later_between_the_predictions_of_that_time(tmp_path):
    events = events_of(CsvReplay(options(two_classes(tmp_path), delay_ms=10 * ROW_MS)))
    ids = [(kind, event["prediction_id"]) for kind, event in events]
    assert ids[:11] == [("prediction", f"m-{20 + i}") for i in range(11)]
    assert ids[11:13] == [("label", "m-20"), ("prediction", "m-31")]
    assert [event["prediction_id"] for kind, event in events if kind == "label"] == [
        f"m-{i}" for i in range(20, 100)
    ]
    assert events[-1][1]["timestamp"] == START_MS + 109 * ROW_MS


def test_the_same_seed_gives_the_same_events_and_another_seed_others(tmp_path):
    def values(seed):
        chosen = options(
            two_classes(tmp_path), seed=seed, jitter_ms=5000, duplicates=0.3, missing=0.3
        )
        return [event.value for event in CsvReplay(chosen).events()]

    assert values(1) == values(1)
    assert values(1) != values(2)


def test_gzip_and_a_byte_order_mark_are_read(tmp_path):
    plain = two_classes(tmp_path)
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert events_of(CsvReplay(options(packed))) == events_of(CsvReplay(options(plain)))


def test_text_classes_that_look_like_numbers_stay_text(tmp_path):
    rows = "".join(f"{i % 3 + i % 5 / 100},{('7', '8', 'other')[i % 3]}\n" for i in range(40))
    events = events_of(CsvReplay(options(write(tmp_path, "x,class\n" + rows))))
    assert {event["label"] for kind, event in events if kind == "label"} == {"7", "8", "other"}
    assert {event["prediction"] for kind, event in events if kind == "prediction"} == {
        "7",
        "8",
        "other",
    }


def test_number_classes_keep_their_type(tmp_path):
    rows = "".join(f"{i % 2},{i % 2}.0\n" for i in range(40))
    for kind, event in events_of(CsvReplay(options(write(tmp_path, "x,class\n" + rows)))):
        value = event[kind]
        assert isinstance(value, float)


@pytest.mark.parametrize(
    "learner", [None, "river.linear_model.LogisticRegression", "river.tree.HoeffdingTreeClassifier"]
)
def test_a_model_that_has_seen_one_class_predicts_it(tmp_path, learner):
    rows = "".join(f"{i},{'a' if i < 20 else 'b'}\n" for i in range(40))
    events = events_of(CsvReplay(options(write(tmp_path, "x,class\n" + rows), learner=learner)))
    assert [event["prediction"] for kind, event in events if kind == "prediction"] == ["a"] * 20
    assert [event["label"] for kind, event in events if kind == "label"] == ["b"] * 20


def test_a_binary_learner_answers_with_the_classes_of_the_file(tmp_path):
    rows = "".join(f"{(i % 2) * 2 - 1},{'up' if i % 2 else 'down'}\n" for i in range(100))
    run = CsvReplay(
        options(
            write(tmp_path, "x,class\n" + rows), learner="river.linear_model.LogisticRegression"
        )
    )
    for _, event in events_of(run):
        if "prediction" in event:
            expected = "up" if event["features"]["x"] == 1 else "down"
            assert event["prediction"] == expected


def test_a_regression_predicts_finite_numbers_better_than_the_mean(tmp_path):
    rows = "".join(f"{i % 7},{3 * (i % 7) + 0.5}\n" for i in range(400))
    run = CsvReplay(options(write(tmp_path, "x,class\n" + rows), train_rows=300))
    events = events_of(run)
    summary = run.summary()
    assert summary.task == "regression"
    assert summary.training_accuracy is None
    assert summary.training_mae < 3  # the mean is off by 5.1
    assert all(math.isfinite(event["prediction"]) for kind, event in events if kind == "prediction")
    assert "probability" not in events[0][1]


# --- the deployed model


def test_naive_bayes_gives_the_probabilities_that_river_gives():
    rows = [({"a": float(i % 4), "b": i * 0.1}, ("x", "y", "z")[i % 3]) for i in range(90)]
    learner = default_learner("classification")
    model = FrozenModel(learner, "classification", rows)
    for features, _ in rows:
        value, probability = model.predict(features)
        expected = learner.predict_proba_one(features)
        assert value == max(expected, key=expected.get)
        assert probability == pytest.approx(expected[value])


def test_predicting_teaches_nothing():
    rows = [({"x": float(i)}, 2.0 * i) for i in range(50)]
    model = FrozenModel(default_learner("regression"), "regression", rows)
    first = model.predict({"x": 3.0})
    for i in range(1000):
        model.predict({"x": float(1000 + i)})
    assert model.predict({"x": 3.0}) == first


def test_a_prediction_that_is_not_finite_is_an_error():
    rows = [({"x": float(i)}, float(i)) for i in range(10)]
    model = FrozenModel(default_learner("regression"), "regression", rows)
    with pytest.raises(ERRORS, match="LinearRegression predicts inf"):
        model.predict({"x": math.inf})


# --- the file


def test_columns_of_one_name_may_be_left_out(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,id,class,id\n1,7,a,8\n")
    assert [row.features for row in read_rows(path, "class", ("id",))] == [{"x": 1}]


def test_columns_without_a_name_are_left_out(tmp_path):
    path = write(tmp_path, ",x,class,, \n0,1,a,,\n")
    assert [row.features for row in read_rows(path, "class")] == [{"x": 1}]


def test_decimals_may_have_a_comma(tmp_path):
    path = write(tmp_path, "x;n;town;class\n-0,5;7;a,b;1,25\n")
    (row,) = read_rows(path, "class", delimiter=";", decimal=",")
    assert row.features == {"x": -0.5, "n": 7, "town": "a,b"}
    assert row.target == "1.25"
    (row,) = read_rows(path, "class", delimiter=";")
    assert row.features == {"x": "-0,5", "n": 7, "town": "a,b"}


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_another_delimiter_gives_the_same_events(tmp_path, delimiter):
    path = two_classes(tmp_path)
    expected = events_of(CsvReplay(options(path, end_ms=NOW_MS)))
    other = write(tmp_path, path.read_text().replace(",", delimiter), "other.csv")
    run = CsvReplay(options(other, end_ms=NOW_MS, delimiter=delimiter))
    assert events_of(run) == expected


# --- what cannot be used


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("", {}, "no header line"),
        ("x,y\n1,2\n", {}, "no column 'class'; its columns are x, y"),
        ("x,x,class\n1,2,a\n", {}, "2 columns are named 'x'; give each its own name"),
        ("class,x,class\nb,2,a\n", {}, "2 columns are named 'class'"),
        ("x;class\n1;a\n", {}, "its columns are x;class; is another delimiter between"),
        ("x,class\n1,a\n", {"drop": ("z",)}, "no column 'z'; its columns are x, class"),
        ("x,class\n1,a\n", {"drop": ("class",)}, "cannot be dropped"),
        ("x,class\n1,a\n", {}, "1 rows, fewer than the 20 to train on"),
        ("x,class\n1,a\n2\n", {}, "line 3: 1 values for 2 columns"),
        ("x,class\n1,a\n\n2, \n", {}, "line 4: the target 'class' is empty"),
        (
            "x,class\n" + "1,a\n" * 20,
            {"task": "regression"},
            "line 2: the target is 'a', regression needs a number",
        ),
        (
            "x,class\n1,a\n",
            {"learner": "river.nothing.Here", "train_rows": 1},
            "cannot import",
        ),
        ("x,class\n1,a\n", {"learner": "nodots", "train_rows": 1}, "is not an import path"),
        (
            "x,class\n1,a\n",
            {"learner": "collections.Counter", "train_rows": 1},
            "is not a River classifier",
        ),
        (
            "x,class\n1,a\n",
            {"learner": "river.multiclass.OneVsRestClassifier", "train_rows": 1},
            "cannot be made with no parameters",
        ),
        (
            "x,class\n1,a\n",
            {"learner": "river.linear_model.LinearRegression", "train_rows": 1},
            "is not a River classifier",
        ),
        (
            "x,class\n1,a\n2,b\n3,c\n",
            {"learner": "river.linear_model.LogisticRegression", "train_rows": 3},
            "target has 3",
        ),
        (
            "x,class\nt,a\nt,b\n",
            {"learner": "river.linear_model.LogisticRegression", "train_rows": 2},
            "cannot learn these rows",
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, given, message):
    path = write(tmp_path, text)
    with pytest.raises(ERRORS, match=message):
        CsvReplay(options(path, **given))


def test_files_that_are_no_csv_are_named(tmp_path):
    with pytest.raises(ERRORS, match=r"none\.csv: No such file"):
        CsvReplay(options(tmp_path / "none.csv"))
    binary = tmp_path / "model.csv"
    binary.write_bytes(b"\x80\x05\xff\xfe" * 100)
    with pytest.raises(ERRORS, match="not a CSV file in UTF-8"):
        CsvReplay(options(binary))
    with pytest.raises(ERRORS, match="Not a gzipped file"):
        CsvReplay(options(write(tmp_path, "x,class\n1,a\n", "plain.csv.gz")))
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(two_classes(tmp_path).read_bytes())[:-20])
    with pytest.raises(ERRORS, match="not a CSV file in UTF-8"):
        events_of(CsvReplay(options(cut)))


def test_a_ragged_row_ends_the_replay_after_the_rows_before_it(tmp_path):
    path = two_classes(tmp_path, 30)
    with path.open("a") as file:
        file.write("1,2\n")
    events = CsvReplay(options(path)).events()
    assert [next(events).kind for _ in range(20)] == ["prediction", "label"] * 10
    with pytest.raises(ERRORS, match="line 32: 2 values for 4 columns"):
        next(events)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_rows": 0}, "train_rows"),
        ({"delay_ms": -1}, "delay_ms"),
        ({"missing": 1.5}, "missing"),
        ({"duplicates": math.nan}, "duplicates"),
    ],
)
def test_options_are_checked(tmp_path, given, message):
    with pytest.raises(ERRORS, match=message):
        options(tmp_path / "any.csv", **given)


# --- values and tasks


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back_as_it_was_written(number):
    parsed = parse_value(str(number))
    assert parsed == number
    assert type(parsed) is type(number)


@given(st.text())
def test_a_value_is_text_a_finite_number_or_nothing(text):
    value = parse_value(text)
    assert value is None or value == text or math.isfinite(value)
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        ([1, 2, 3], "classification"),
        ([0.0, 1.0], "classification"),
        ([0.5, 1], "regression"),
        (range(20), "classification"),
        (range(21), "regression"),
        (["a", 0.5], "classification"),
    ],
)
def test_the_task_follows_from_the_target(targets, task):
    assert infer_task(targets) == task


# --- the label schedule


@given(
    n=st.integers(0, 200),
    delay_ms=st.integers(0, 20_000),
    jitter_ms=st.integers(0, 20_000),
    duplicates=st.floats(0, 1),
    missing=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_every_label_comes_once_or_never_and_repeats_come_later(
    n, delay_ms, jitter_ms, duplicates, missing, seed
):
    schedule: LabelSchedule[int] = LabelSchedule(
        delay_ms=delay_ms, jitter_ms=jitter_ms, duplicates=duplicates, missing=missing, seed=seed
    )
    arrived = []
    for i in range(n):
        schedule.add(i, i * 1000)
        for arrival in schedule.due(i * 1000):
            assert arrival.timestamp_ms <= i * 1000
            arrived.append(arrival)
    arrived += schedule.due(math.inf)
    first = [arrival for arrival in arrived if not arrival.repeat]
    counts = Counter(arrival.label for arrival in first)
    assert set(counts.values()) <= {1}
    assert len(first) == schedule.n_labels == n - schedule.n_missing
    assert len(arrived) - len(first) == schedule.n_duplicates
    assert [arrival.timestamp_ms for arrival in first] == sorted(
        arrival.timestamp_ms for arrival in first
    )
    for label, timestamp_ms, _ in first:
        assert delay_ms <= timestamp_ms - label * 1000 <= delay_ms + jitter_ms
    for i, (label, timestamp_ms, repeat) in enumerate(arrived):
        if repeat:
            assert (label, timestamp_ms, False) in arrived[:i]


def test_the_shares_of_duplicates_and_missing_labels_are_as_asked():
    schedule: LabelSchedule[int] = LabelSchedule(duplicates=0.1, missing=0.2, seed=3)
    for i in range(20_000):
        schedule.add(i, i)
    assert schedule.n_missing / 20_000 == pytest.approx(0.2, abs=0.015)
    assert schedule.n_duplicates / schedule.n_labels == pytest.approx(0.1, abs=0.012)


def test_equal_times_keep_their_order():
    schedule: LabelSchedule[int] = LabelSchedule(delay_ms=5)
    for i in range(50):
        schedule.add(i, 0)
    assert [arrival.label for arrival in schedule.due(5)] == list(range(50))


# --- through a broker


@pytest.fixture
def config(tmp_path):
    return load_config({"broker": {"data_dir": str(tmp_path / "broker")}})


def read_all(broker, topic):
    with broker.reader([topic]) as reader:
        records = []
        while more := reader.poll(0.0):
            records += more
        return records


def test_a_replay_reaches_the_topics_in_order(tmp_path, config):
    seen = []
    with EmbeddedBroker(config) as broker:
        with broker.producer() as producer:
            summary = replay(
                options(two_classes(tmp_path), delay_ms=5000),
                producer,
                config.topics,
                progress=seen.append,
            )
        predictions = read_all(broker, "predictions")
        labels = read_all(broker, "labels")
    assert [json.loads(record.value)["prediction_id"] for record in predictions] == [
        f"m-{i}" for i in range(20, 100)
    ]
    assert len(labels) == summary.n_labels == 80
    assert {record.key for record in predictions + labels} == {b"m"}
    assert seen[-1] == 80


def test_an_error_late_in_the_file_says_how_much_was_sent(tmp_path, config):
    path = two_classes(tmp_path, 30)
    with path.open("a") as file:
        file.write("1,2\n")
    with EmbeddedBroker(config) as broker:
        with pytest.raises(ERRORS) as raised, broker.producer() as producer:
            replay(options(path, delay_ms=3 * ROW_MS), producer, config.topics)
        sent = [len(read_all(broker, topic)) for topic in ("predictions", "labels")]
    assert sent == [10, 7]
    assert raised.value.__notes__ == ["10 predictions and 7 labels were sent before that"]


def test_the_rate_is_kept_and_what_is_sent_is_seen_meanwhile(tmp_path, config):
    n_seen = []
    with EmbeddedBroker(config) as broker, broker.producer() as producer:
        started_s = time.monotonic()
        replay(
            options(two_classes(tmp_path)),
            producer,
            config.topics,
            rate=200,
            progress=lambda n_sent: n_seen.append((n_sent, len(read_all(broker, "predictions")))),
        )
        took_s = time.monotonic() - started_s
    assert took_s >= 79 / 200 - traffic_send.AHEAD_S
    # A sender that was held up catches up without a break.
    assert len(n_seen) > 1
    assert all(n_sent == n_read for n_sent, n_read in n_seen)


def test_a_rate_must_be_positive(tmp_path, config):
    with (
        EmbeddedBroker(config) as broker,
        broker.producer() as producer,
        pytest.raises(ERRORS, match="rate"),
    ):
        replay(options(two_classes(tmp_path)), producer, config.topics, rate=0)


def test_errors_of_the_broker_come_through(tmp_path, config):
    other = config.topics.model_copy(update={"labels": "nowhere"})
    with (
        EmbeddedBroker(config) as broker,
        pytest.raises(BrokerError),
        broker.producer() as producer,
    ):
        replay(options(two_classes(tmp_path)), producer, other)


# --- real files


@pytest.mark.skipif(not STREAMS.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("name", "given", "task", "n_rows", "score"),
    [
        ("elec2", {"target": "class"}, "classification", 45312, 0.75),
        (
            "bike_hour",
            {"target": "cnt", "drop": ("casual", "registered", "instant", "dteday")},
            "regression",
            17379,
            39.6,
        ),
        ("lobo_sine_0123_abrupto", {"target": "class"}, "classification", 40000, 0.85),
    ],
)
def test_real_streams_replay_whole(name, given, task, n_rows, score):
    run = CsvReplay(
        ReplayOptions(
            path=STREAMS / f"{name}.csv.gz", model=name, duplicates=0.01, missing=0.02, **given
        )
    )
    kinds = Counter(event.kind for event in run.events())
    summary = run.summary()
    assert summary.task == task
    assert summary.n_rows == n_rows
    assert kinds["prediction"] == summary.n_predictions == n_rows - 1000
    assert kinds["label"] == summary.n_labels + summary.n_duplicates
    if task == "classification":
        assert summary.training_accuracy > score
    else:
        assert summary.training_mae < score  # that of the training rows' mean
