"""The signals of a version: the names a configuration may use, and what is made of them."""

import pytest

from streamgauge.consumers.config import load_config
from streamgauge.stream.signals.catalog import make_signals
from streamgauge.stream.signals.learner import Learner
from streamgauge.stream.signals.names import signal_names

DEFAULTS = {
    "learner": {"path": "river.linear_model.LinearRegression"},
    "detectors": {
        "b": {"kind": "ADWIN"},
        "a": {"kind": "ADWIN"},
        "c": {"kind": "ADWIN", "signal": "learner_error"},
    },
}


@pytest.mark.parametrize("has_learner", [True, False])
def test_each_signal_that_a_configuration_may_name_is_made_with_its_detectors(has_learner):
    config = load_config({"defaults": DEFAULTS}).defaults
    learner = Learner(config.learner, "regression") if has_learner else None
    signals = make_signals(config, "regression", learner)
    assert tuple(signals) == signal_names(has_learner=has_learner)
    assert {name: signal.name for name, signal in signals.items()} == {n: n for n in signals}
    detectors = {name: list(signal.state()["detectors"]) for name, signal in signals.items()}
    expected = {"error": ["a", "b"], "learner_error": ["c"]}
    assert detectors == {name: expected[name] for name in signals}
    assert {signal.clock for signal in signals.values()} == {"outcome"}
