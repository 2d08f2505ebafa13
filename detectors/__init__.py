"""Change detectors: numbers in, alarms out.

>>> import random
>>> import numpy as np
>>> from streamgauge.detectors import make_detector
>>> rng = random.Random(7)
>>> errors = rng.choices([0, 1], [9, 1], k=2000) + rng.choices([0, 1], [7, 3], k=500)
>>> for alarm in make_detector("ADWIN").update_many(np.array(errors)):
...     print(f"{alarm.index}: {alarm.direction} since about {alarm.onset}")
2143: up since about 2048
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamgauge.detectors.base import Alarm, Detector, DetectorError
from streamgauge.detectors.kinds import KINDS

if TYPE_CHECKING:
    from streamgauge.detectors.adwin import ADWIN
    from streamgauge.detectors.bank import Bank
    from streamgauge.detectors.conformal_esr import ConformalESR
    from streamgauge.detectors.ddm import DDM
    from streamgauge.detectors.eddm import EDDM
    from streamgauge.detectors.factory import detector_from_state, make_detector
    from streamgauge.detectors.fhddm import FHDDM
    from streamgauge.detectors.focus import FOCuS
    from streamgauge.detectors.hddm_a import HDDM_A
    from streamgauge.detectors.hddm_w import HDDM_W
    from streamgauge.detectors.kswin import KSWIN
    from streamgauge.detectors.mixture_esr import MixtureESR
    from streamgauge.detectors.page_hinkley import PageHinkley
    from streamgauge.detectors.river import RiverDetector

__all__ = [
    "ADWIN",
    "DDM",
    "EDDM",
    "FHDDM",
    "HDDM_A",
    "HDDM_W",
    "KSWIN",
    "Alarm",
    "Bank",
    "ConformalESR",
    "Detector",
    "DetectorError",
    "FOCuS",
    "MixtureESR",
    "PageHinkley",
    "RiverDetector",
    "detector_from_state",
    "make_detector",
]

# Imported when they are asked for, because they import numba or River.
_HOMES = {
    **KINDS,
    "Bank": "streamgauge.detectors.bank",
    "RiverDetector": "streamgauge.detectors.river",
    "detector_from_state": "streamgauge.detectors.factory",
    "make_detector": "streamgauge.detectors.factory",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
