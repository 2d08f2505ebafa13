"""The configuration: what is refused, with which path, and what is laid over what."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamgauge.consumers.config import Config, load_config, read_config
from streamgauge.detectors import make_detector
from streamgauge.detectors.kinds import KINDS
from streamgauge.stream.check import check_components
from streamgauge.stream.config import ConfigError, duration_ms, duration_text

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/*.y*ml"))


NEAR = {
    "a section": ({"brokr": {}}, "brokr: unknown key; did you mean 'broker'? `"),
    "in a section": ({"mlflow": {"tracking_url": "x"}}, "did you mean 'tracking_uri'?"),
    "of the broker that is named": (
        {"broker": {"kind": "kafka", "bootstrap_server": "h:1"}},
        "broker.bootstrap_server: unknown key; did you mean 'bootstrap_servers'?",
    ),
    "of a model, given to all": ({"metrics": {"every": 9}}, "did you mean 'defaults.metrics'?"),
    "of a model": (
        {"models": {"m": {"polcy": {}}}},
        "models.m.polcy: unknown key; did you mean 'po",
    ),
    "of a detector": (
        {"defaults": {"detectors": {"d": {"kind": "ADWIN", "parms": {}}}}},
        "defaults.detectors.d.parms: unknown key; did you mean 'params'?",
    ),
    "where it may be nothing": (
        {"defaults": {"policy": {"metric": {"name": "accuracy", "at_or_bellow": 1, "over": 9}}}},
        "did you mean 'at_or_below'?",
    ),
}


@pytest.mark.parametrize(("data", "message"), NEAR.values(), ids=NEAR)
def test_a_near_key_is_offered(data, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(data)


@pytest.mark.parametrize(
    "data",
    [
        {"defaults": {"xyzzy": 3}},
        {"broker": {"kind": "embedded", "bootstrap_servers": "h:1"}},
        {"broker": {"bootstrap_server": "h:1"}},
        {"topics": {"partitions": 3}},
        {"servers": "h:1"},
    ],
)
def test_a_key_that_is_near_to_none_is_just_unknown(data):
    with pytest.raises(ConfigError, match="unknown key; `streamgauge config schema` lists"):
        load_config(data)


def test_nothing_is_a_configuration():
    assert load_config(None) == load_config({}) == Config()
    check_components(Config())


BAD = {
    "a list": ([], "mapping"),
    "unknown section": ({"brokers": {}}, "brokers: unknown key"),
    "a broker without its port": (
        {"broker": {"kind": "kafka", "bootstrap_servers": "localhost"}},
        "broker.bootstrap_servers: write HOST:PORT[,HOST:PORT...]",
    ),
    "unknown key": ({"defaults": {"join": {"pending": 3}}}, "defaults.join.pending: unknown key"),
    "unknown key of a model": ({"models": {"m": {"los": 1}}}, "models.m.los: unknown key"),
    "a key that is no text": ({3: 4}, "3: "),
    "a section that is none": ({"defaults": []}, "defaults: "),
    "a model that is none": ({"defaults": {}, "models": {"m": 3}}, "models.m: "),
    "number as duration": ({"events": {"ahead_max": 300}}, "events.ahead_max: a duration is"),
    "duration without unit": ({"events": {"ahead_max": "300"}}, "events.ahead_max: a duration is"),
    "negative duration": ({"events": {"ahead_max": "-3s"}}, "events.ahead_max: a duration is"),
    "two units": ({"events": {"ahead_max": "1h30m"}}, "events.ahead_max: a duration is"),
    "endless duration": ({"events": {"ahead_max": "9" * 400 + "d"}}, "events.ahead_max: a dur"),
    "arabic digits": ({"events": {"ahead_max": "\u0663s"}}, "events.ahead_max: a duration is"),
    "null duration": ({"events": {"ahead_max": None}}, "events.ahead_max: a duration is"),
    "no app": ({"app": ""}, "app: "),
    "app with a slash": ({"app": "a/b"}, "app: "),
    "no partitions": ({"broker": {"partitions": 0}}, "broker.partitions: "),
    "fractional partitions": ({"broker": {"partitions": 1.5}}, "broker.partitions: "),
    "another broker": ({"broker": {"kind": "rabbit"}}, "broker.kind: "),
    "one name for two topics": ({"topics": {"labels": "predictions"}}, "topics: each topic"),
    "one version": ({"versions_max": 1}, "versions_max: "),
    "no buffer": ({"defaults": {"join": {"pending_max": 0}}}, "defaults.join.pending_max: "),
    "unknown task": ({"defaults": {"task": "ranking"}}, "defaults.task: "),
    "one class": ({"defaults": {"classes": ["a"]}}, "defaults.classes: "),
    "classes of two kinds": ({"defaults": {"classes": ["a", 1]}}, "classes: give all of them"),
    "unknown loss": ({"defaults": {"loss": "hinge"}}, "defaults.loss: "),
    "signal without a learner": (
        {"defaults": {"detectors": {"a": {"kind": "ADWIN", "signal": "learner_error"}}}},
        "detectors.a.signal: no signal 'learner_error', use error; `learner_error` needs a learner",
    ),
    "unknown signal": (
        {"models": {"m": {"detectors": {"a": {"kind": "ADWIN", "signal": "x"}}}}},
        "models.m: detectors.a.signal: no signal 'x'",
    ),
    "detector without kind": ({"defaults": {"detectors": {"a": {}}}}, "defaults.detectors.a.kind"),
    "k without at_least": ({"defaults": {"policy": {"k": 2}}}, "defaults.policy: k goes with"),
    "at_least without k": ({"defaults": {"policy": {"rule": "at_least"}}}, "defaults.policy: k g"),
    "k of none": ({"defaults": {"policy": {"rule": "at_least", "k": 0}}}, "defaults.policy.k: "),
    "k beyond the detectors": (
        {"defaults": {"policy": {"rule": "at_least", "k": 3}}},
        "defaults: policy.k is 3, and detectors that ask: 2",
    ),
    "k beyond the detectors that ask": (
        {
            "defaults": {
                "policy": {"rule": "at_least", "k": 1},
                "detectors": {"a": {"kind": "ADWIN", "asks": False}},
            }
        },
        "defaults: policy.k is 1, and detectors that ask: 0",
    ),
    "metric without bound": (
        {"defaults": {"policy": {"metric": {"name": "mae"}}}},
        "defaults.policy.metric: give exactly one",
    ),
    "metric with two bounds": (
        {"defaults": {"policy": {"metric": {"name": "mae", "at_or_below": 1, "at_or_above": 2}}}},
        "defaults.policy.metric: give exactly one",
    ),
    "metric of no outcomes": (
        {"defaults": {"policy": {"metric": {"name": "mae", "at_or_above": 2, "over": 0}}}},
        "defaults.policy.metric.over: ",
    ),
    "period without length": (
        {"defaults": {"policy": {"period": {}}}},
        "defaults.policy.period: g",
    ),
    "period of two lengths": (
        {"defaults": {"policy": {"period": {"outcomes": 3, "time": "1d"}}}},
        "defaults.policy.period: give exactly one",
    ),
    "period in a wrong unit": (
        {"defaults": {"policy": {"period": {"time": "1 week"}}}},
        "defaults.policy.period.time",
    ),
    "predictions that an event ahead of its time expires": (
        {"defaults": {"join": {"pending_age": "4m"}}},
        "defaults.join.pending_age: 4m is no more than events.ahead_max, 5m",
    ),
    "labels that it orphans": (
        {"events": {"ahead_max": "2h"}},
        "defaults.join.early_age: 1h is no more than events.ahead_max, 2h",
    ),
    "outcomes of a model that it matures": (
        {"models": {"m": {"join": {"label_maturity": "5m"}}}},
        "models.m.join.label_maturity: 5m is no more than events.ahead_max, 5m",
    ),
    "nobody approves": ({"defaults": {"policy": {"approval": "x"}}}, "defaults.policy.approval: "),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_with_its_path(name):
    data, message = BAD[name]
    with pytest.raises(ConfigError) as error:
        load_config(data)
    assert message in str(error.value)


def metric(name):
    return {"policy": {"metric": {"name": name, "at_or_above": 0.5}}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "regression", "loss": "zero_one"}, "loss: zero_one is for classification"),
        ({"task": "regression", "loss": "log_loss"}, "loss: log_loss is for classification"),
        ({"task": "regression", "classes": ["a", "b"]}, "classes: they are for classification"),
        ({"task": "classification", "loss": "scaled_absolute"}, "loss: scaled_absolute is for reg"),
        ({"classes": [0, 1], "loss": "scaled_absolute"}, "classes: they are for classification"),
        ({"task": "regression", **metric("accuracy")}, "'accuracy' is none of mae, rmse"),
        ({"task": "classification", **metric("rmse")}, "'rmse' is none of accuracy, log_loss"),
        ({"loss": "log_loss", **metric("rmse")}, "'rmse' is none of accuracy, log_loss"),
        ({"loss": "scaled_absolute", **metric("accuracy")}, "'accuracy' is none of mae, rmse"),
        (metric("f1"), "'f1' is none of accuracy, log_loss, mae, rmse"),
    ],
)
def test_loss_classes_and_metric_fit_the_task(settings, message):
    with pytest.raises(ConfigError, match=r"^models\.m: ") as error:
        load_config({"models": {"m": settings}})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        ({}, None),
        (metric("mae"), None),
        ({"task": "regression", **metric("mae")}, "regression"),
        ({"loss": "scaled_absolute"}, "regression"),
        ({"loss": "zero_one"}, "classification"),
        ({"classes": [True, False], **metric("log_loss")}, "classification"),
    ],
)
def test_the_task_is_settled_by_loss_and_classes(settings, task):
    assert load_config({"defaults": settings}).defaults.settled_task == task


def test_every_error_is_a_line():
    with pytest.raises(ConfigError) as error:
        load_config({"app": "", "events": {"ahead_max": 3, "bytes": 4}, "versions_max": "x"})
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "app",
        "events.ahead_max",
        "events.bytes",
        "versions_max",
    ]


def test_a_model_is_its_own_settings_laid_over_the_defaults():
    config = load_config(
        {
            "defaults": {
                "loss": "log_loss",
                "policy": {"cool_down": 7, "min_labels": 3},
                "join": {"pending_max": 5},
            },
            "models": {"m": {"policy": {"cool_down": 9}, "join": {"early_max": 2}}, "n": {}},
        }
    )
    m = config.model_for("m")
    assert (m.loss, m.policy.cool_down, m.policy.min_labels) == ("log_loss", 9, 3)
    assert (m.join.pending_max, m.join.early_max) == (5, 2)
    assert config.model_for("n") == config.model_for("unheard of") == config.defaults


def test_a_choice_replaces_the_defaults_choice_as_a_whole():
    config = load_config(
        {
            "defaults": {
                "detectors": {"a": {"kind": "ADWIN", "params": {"delta": 0.1}}},
                "learner": {"path": "river.tree.HoeffdingTreeClassifier", "params": {"delta": 0.1}},
                "policy": {
                    "metric": {"name": "accuracy", "at_or_below": 0.5},
                    "period": {"outcomes": 3},
                },
            },
            "models": {
                "m": {
                    "detectors": {"b": {"kind": "PageHinkley"}},
                    "learner": {"path": "river.linear_model.LogisticRegression"},
                    "policy": {
                        "metric": {"name": "mae", "at_or_above": 2},
                        "period": {"time": "1d"},
                    },
                },
                "without": {"learner": None, "policy": {"metric": None, "period": None}},
            },
        }
    )
    m = config.models["m"]
    assert list(m.detectors) == ["b"]
    assert m.learner.params == {}
    assert m.policy.metric.at_or_below is None
    assert m.policy.period.outcomes is None
    without = config.models["without"]
    assert (without.learner, without.policy.metric, without.policy.period) == (None, None, None)


RICH = {
    "app": "x",
    "broker": {"retention": {"age": "1.5s"}, "partitions": 3},
    "events": {"ahead_max": "0s"},
    "defaults": {
        "learner": {"path": "river.linear_model.LogisticRegression", "params": {"l2": 0.5}},
        "detectors": {"a": {"kind": "ADWIN", "signal": "learner_error", "asks": False}},
        "policy": {"period": {"time": "90m"}, "approval": "manual"},
        "join": {"label_maturity": "36h"},
    },
    "models": {
        "m": {"task": "regression", "learner": None, "detectors": {}},
        "n": {"classes": [True, False], "policy": {"period": {"outcomes": 3}}},
        "o": {"classes": ["0", "1"]},
        "p": {"classes": [0, 1], "loss": "log_loss"},
    },
}


@pytest.mark.parametrize("data", [{}, RICH])
def test_what_is_dumped_loads_as_the_same(data):
    config = load_config(data)
    dumped = config.model_dump(mode="json")
    again = load_config(yaml.safe_load(yaml.safe_dump(dumped)))
    assert again == config
    assert again.model_dump(mode="json") == dumped
    assert again.digest() == config.digest()


def test_the_digest_is_of_what_decides_what_the_core_does():
    digest = load_config(RICH).digest()
    for section in (
        {"broker": {"partitions": 4}},
        {"worker": {"batch_max": 3}},
        {"mlflow": {"experiment": "e"}},
    ):
        assert load_config({**RICH, **section}).digest() == digest
    for section in (
        {"app": "y"},
        {"versions_max": 3},
        {"models": {}},
        {"events": {"bytes_max": 200}},
    ):
        assert load_config({**RICH, **section}).digest() != digest


def test_a_configuration_is_frozen():
    config = load_config(RICH)
    for section, name in (
        (config, "app"),
        (config.defaults.policy, "cool_down"),
        (config.broker, "partitions"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


@given(st.integers(0, 10**15))
def test_a_duration_is_read_as_it_is_written(value_ms):
    assert duration_ms(duration_text(value_ms)) == value_ms


@pytest.mark.parametrize(
    ("text", "value_ms"),
    [("0s", 0), ("1.5s", 1500), (" 2h ", 7_200_000), ("0.001ms", 0), ("7d", 604_800_000)],
)
def test_durations(text, value_ms):
    assert duration_ms(text) == value_ms


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"detectors": {"a": {"kind": "ADVIN"}}}, "detectors.a: no detector 'ADVIN'"),
        ({"detectors": {"a": {"kind": "ADWIN", "params": {"delta": 2}}}}, "detectors.a: "),
        ({"detectors": {"a": {"kind": "ADWIN", "params": {"dalte": 2}}}}, "detectors.a: "),
        ({"detectors": {"a": {"kind": "river.drift.Nothing"}}}, "detectors.a: "),
        ({"detectors": {"a": {"kind": "os.getcwd"}}}, "detectors.a: "),
        ({"learner": {"path": "river.tree.Oak"}}, "learner: "),
        ({"learner": {"path": "river.drift.ADWIN"}}, "learner: "),
        (
            {"task": "regression", "learner": {"path": "tests.support.builders.scaled_logistic"}},
            "learner: ",
        ),
        (
            {"learner": {"path": "tests.support.builders.unkeepable"}},
            "learner: its state cannot be kept: ",
        ),
    ],
)
def test_components_that_cannot_be_made_are_errors_with_their_path(model, message):
    with pytest.raises(ConfigError) as error:
        check_components(load_config({"models": {"m": model}}))
    assert str(error.value).startswith(f"models.m.{message}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_had_by_its_name_and_names_what_it_may_be_told(kind):
    classifier = {"task": "classification", "detectors": {"d": {"kind": kind}}}
    check_components(load_config({"defaults": classifier}))
    wrong = {"kind": kind, "params": {"no_such": 1}}
    with pytest.raises(ConfigError) as error:
        check_components(load_config({"defaults": {**classifier, "detectors": {"d": wrong}}}))
    message = str(error.value)
    assert message.startswith(f"defaults.detectors.d: {kind}: unknown parameter 'no_such'")
    assert "(its parameters: " in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_ours_takes_every_loss_or_is_refused(kind):
    for settings in ({"task": "regression"}, {"loss": "log_loss"}, {"loss": "scaled_absolute"}):
        config = load_config({"defaults": {**settings, "detectors": {"d": {"kind": kind}}}})
        if kind in ("DDM", "EDDM", "FHDDM", "HDDM_A", "HDDM_W"):
            with pytest.raises(ConfigError, match=r"^defaults\.detectors\.d: .*0 or 1.*zero_one"):
                check_components(config)
        else:
            check_components(config)
            for x in (0.0, 0.25, 1.0):
                make_detector(kind).update(x)


def test_every_component_that_cannot_be_made_is_named_once():
    wrong = {
        "a": {"kind": "ADVIN"},
        "b": {"kind": "ADWIN", "params": {"delta": 2}},
        "c": {"kind": "ADWIN"},
        "d": {"kind": "KSWIN", "params": {"no_such": 1}},
    }
    learner = {"path": "river.tree.NoTree"}
    with pytest.raises(ConfigError) as error:
        check_components(
            load_config({"defaults": {"detectors": wrong}, "models": {"m": {"learner": learner}}})
        )
    places = [line.partition(": ")[0] for line in str(error.value).splitlines()]
    assert places == [
        "defaults.detectors.a",
        "defaults.detectors.b",
        "defaults.detectors.d",
        "models.m.learner",
    ]


BINARY = {"detectors": {"ddm": {"kind": "river.drift.binary.DDM"}}}


@pytest.mark.parametrize(
    "settings",
    [{}, {"task": "regression"}, {"task": "classification", "loss": "log_loss"}],
)
def test_a_binary_detector_is_refused_where_losses_may_lie_between_0_and_1(settings):
    with pytest.raises(ConfigError, match=r"^defaults\.detectors\.ddm: .*0 or 1.*zero_one"):
        check_components(load_config({"defaults": {**BINARY, **settings}}))


@pytest.mark.parametrize(
    "settings", [{"task": "classification"}, {"loss": "zero_one"}, {"classes": ["a", "b"]}]
)
def test_a_binary_detector_is_fine_where_losses_are_0_or_1(settings):
    check_components(load_config({"defaults": {**BINARY, **settings}}))


@pytest.mark.skipif(not CONFIGS, reason="there are no example configurations")
@pytest.mark.parametrize("path", CONFIGS or [None], ids=str)
def test_the_example_configurations_load(path):
    check_components(load_config(yaml.safe_load(path.read_text(encoding="utf-8"))))


def test_a_file_may_be_named_by_a_string(tmp_path):
    path = tmp_path / "monitor.yaml"
    path.write_text("app: named\n")
    assert read_config(str(path)) == read_config(path)
    assert read_config(str(path)).app == "named"
