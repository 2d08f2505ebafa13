"""The pure core: events in, outputs out. No clock, no file, no network, no thread.

Names are loaded when they are first used, so that a program that reads a contract or a
configuration does not wait for River.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream.config import Config, ConfigError, ModelConfig, load_config
    from stream.contracts import AlarmEvent, MetricPoint, RetrainRequest
    from stream.engine import Engine
    from stream.events import EventError, Label, Prediction
    from stream.join import Outcome
    from stream.monitor import Alarmed, DataProblem, Metrics, Monitor, Retrain
    from stream.records import Output, Record

_HOMES = {
    "AlarmEvent": "contracts",
    "Alarmed": "monitor",
    "Config": "config",
    "ConfigError": "config",
    "DataProblem": "monitor",
    "Engine": "engine",
    "EventError": "events",
    "Label": "events",
    "MetricPoint": "contracts",
    "Metrics": "monitor",
    "ModelConfig": "config",
    "Monitor": "monitor",
    "Outcome": "join",
    "Output": "records",
    "Prediction": "events",
    "Record": "records",
    "Retrain": "monitor",
    "RetrainRequest": "contracts",
    "load_config": "config",
}

__all__ = [
    "AlarmEvent",
    "Alarmed",
    "Config",
    "ConfigError",
    "DataProblem",
    "Engine",
    "EventError",
    "Label",
    "MetricPoint",
    "Metrics",
    "ModelConfig",
    "Monitor",
    "Outcome",
    "Output",
    "Prediction",
    "Record",
    "Retrain",
    "RetrainRequest",
    "load_config",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"stream.{home}"), name)
