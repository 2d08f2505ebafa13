"""The streaming drift detector: what a user imports, each name loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamgauge.consumers.config import load_config, read_config
    from streamgauge.consumers.connect import open_broker
    from streamgauge.detectors import ADWIN, MixtureESR, PageHinkley, make_detector
    from streamgauge.detectors.errors import StreamgaugeError
    from streamgauge.stream.contracts import RetrainRequest
    from streamgauge.stream.monitor import AlarmFinding, Monitor, RetrainDecision
    from streamgauge.stream.outcomes import Outcome

_MODULES = {
    "ADWIN": "detectors",
    "AlarmFinding": "stream.monitor",
    "MixtureESR": "detectors",
    "Monitor": "stream.monitor",
    "Outcome": "stream.outcomes",
    "PageHinkley": "detectors",
    "RetrainDecision": "stream.monitor",
    "RetrainRequest": "stream.contracts",
    "StreamgaugeError": "detectors.errors",
    "load_config": "consumers.config",
    "make_detector": "detectors",
    "open_broker": "consumers.connect",
    "read_config": "consumers.config",
}

__all__ = [
    "ADWIN",
    "AlarmFinding",
    "MixtureESR",
    "Monitor",
    "Outcome",
    "PageHinkley",
    "RetrainDecision",
    "RetrainRequest",
    "StreamgaugeError",
    "load_config",
    "make_detector",
    "open_broker",
    "read_config",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
