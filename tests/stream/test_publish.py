"""What is published is what the contracts say: as models, as JSON Schemas, as CloudEvents."""

import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator

from streamgauge.consumers.config import load_config
from streamgauge.stream.contracts import (
    RETRAIN_REQUESTED,
    AlarmEvent,
    MetricPoint,
    RetrainRequest,
    rfc3339,
)
from tests.support.builders import T0, TOUCHY, Feed, eventful, run, touchy

CONTRACTS = {
    "drift-metrics": MetricPoint,
    "drift-alarms": AlarmEvent,
    "retrain-requests": RetrainRequest,
}


def everything():
    """Runs that between them publish every kind of thing."""
    policy = {**TOUCHY["policy"], "metric": {"name": "accuracy", "at_or_below": 0.6, "over": 10}}
    yield run(touchy(), eventful(1, 300))
    yield run(load_config({"defaults": {**TOUCHY, "policy": policy}}), eventful(2, 300))
    policy = {**TOUCHY["policy"], "period": {"outcomes": 20}, "approval": "manual"}
    detectors = {"ddm": {"kind": "river.drift.binary.DDM"}}
    learner = {"path": "river.tree.HoeffdingTreeClassifier"}
    ddm = {"policy": policy, "detectors": detectors, "learner": learner}
    price = {**TOUCHY, "task": "regression", "learner": None}
    yield run(
        load_config({"defaults": {**TOUCHY, **ddm}, "models": {"price": price}}), eventful(3, 300)
    )
    feed = Feed()
    for i in range(20):
        feed.label(f"{i}", "cat")
        feed.predict(f"{i}", 0.5)
        feed.predict(f"waits {i}", 0.5)
    yield run(touchy(), feed.merged)


RUNS = list(everything())


def published(topic):
    outputs = [output for result in RUNS for output in result.topic(topic)]
    assert outputs
    return outputs


def test_the_runs_publish_every_kind_of_thing():
    alarms = [json.loads(output.value) for output in published("drift-alarms")]
    assert {a["kind"] for a in alarms} == {"drift", "warning", "improvement", "data_problem"}
    requests = [json.loads(output.value) for output in published("retrain-requests")]
    assert {r["reason"] for r in requests} == {"drift", "metric", "period"}
    assert {r["approval"] for r in requests} == {"automatic", "manual"}
    points = [json.loads(output.value) for output in published("drift-metrics")]
    assert {p["signal"] for p in points} == {"performance", "join", "error", "learner_error"}


@pytest.mark.parametrize("topic", CONTRACTS)
def test_every_output_is_what_its_model_says_and_survives_it(topic):
    for output in published(topic):
        event = CONTRACTS[topic].model_validate_json(output.value)
        assert event.model_dump(mode="json") == json.loads(output.value)
        assert output.key == event.model.encode()


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("topic", CONTRACTS)
def test_every_output_is_what_the_json_schema_says(topic, mode):
    schema = CONTRACTS[topic].model_json_schema(mode=mode)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for output in published(topic):
        validator.validate(json.loads(output.value))


@pytest.mark.parametrize("topic", CONTRACTS)
def test_the_json_schema_refuses_what_is_not_in_it(topic):
    validator = Draft202012Validator(CONTRACTS[topic].model_json_schema())
    value = json.loads(published(topic)[0].value)
    assert not validator.is_valid({**value, "unknown": 1})
    assert not validator.is_valid({name: v for name, v in value.items() if name != "model"})


def test_alarm_ids_are_unique_and_the_same_in_the_requests():
    for result in RUNS:
        alarms = {alarm["alarm_id"]: alarm for alarm in result.json("drift-alarms")}
        assert len(alarms) == len(result.topic("drift-alarms"))
        for request in result.json("retrain-requests"):
            for alarm in request["alarms"]:
                assert alarms[alarm["alarm_id"]] == alarm


def test_a_retrain_request_is_a_cloud_event():
    for output in published("retrain-requests"):
        message = KafkaMessage(headers=dict(output.headers), key=None, value=output.value)
        event = from_binary(message, JSONFormat())
        request = RetrainRequest.model_validate(event.get_data())
        assert event.get_type() == RETRAIN_REQUESTED
        assert event.get_specversion() == "1.0"
        assert event.get_source() == "/streamgauge/streamgauge"
        assert event.get_subject() == f"{request.model}/{request.version}"
        assert event.get_datacontenttype() == "application/json"
        assert event.get_time() == datetime.fromtimestamp(output.timestamp_ms / 1000, UTC)
        assert len(event.get_id()) == 32


def test_a_request_reads_as_what_led_to_it():
    feed = Feed()
    for i in range(80):
        feed.predict(f"{i}", 0)
        feed.label(f"{i}", int(i >= 50))
    [output] = run(touchy(), feed.merged, partition=5).topic("retrain-requests")
    request = RetrainRequest.model_validate_json(output.value)
    assert (request.partition, request.sequence, request.episode) == (5, 1, 1)
    assert (request.reason, request.severity) == ("drift", "moderate")
    assert 50 <= request.window.outcome_to <= 70
    assert request.window.time_to == datetime.fromtimestamp(output.timestamp_ms / 1000, UTC)
    first_label = request.window.labels.offset_from
    assert request.window.time_from == datetime.fromtimestamp((T0 + first_label * 2000) / 1000, UTC)
    error = request.metrics["error"]
    assert error.after > error.before
    last = request.alarms[-1]
    assert last.timestamp == request.window.time_to
    assert last.index == request.window.outcome_to - 1
    assert all(alarm.episode == 1 for alarm in request.alarms)


@pytest.mark.parametrize(
    ("n_wrong_before", "n_wrong_after", "severity"),
    [(0, 10, "severe"), (8, 10, "moderate"), (9, 10, "minor")],
)
def test_severity_is_the_rise_of_the_mean_loss(n_wrong_before, n_wrong_after, severity):
    # A metric asks, so that the window starts at the block of 32 that holds the last outcome.
    policy = {"metric": {"name": "accuracy", "at_or_below": 0.7, "over": 32}, "min_labels": 64}
    config = load_config(
        {"defaults": {"detectors": {}, "policy": policy, "metrics": {"every": 32}}}
    )
    feed = Feed()
    for n_wrong in (n_wrong_before, n_wrong_after):
        for i in range(32):
            feed.outcome(f"{len(feed.merged)}", wrong=i < n_wrong)
    [request] = run(config, feed.merged).json("retrain-requests")
    assert request["metrics"]["error"] == {
        "before": n_wrong_before / 32,
        "after": n_wrong_after / 32,
    }
    assert request["severity"] == severity


def test_times_are_rfc_3339_with_milliseconds():
    assert rfc3339(T0 + 7) == "2023-11-14T22:13:20.007Z"
    for output in published("drift-alarms"):
        assert json.loads(output.value)["timestamp"] == rfc3339(output.timestamp_ms)
