"""Change detectors: numbers in, alarms out.

>>> import random
>>> import numpy as np
>>> from detectors import make_detector
>>> rng = random.Random(7)
>>> errors = rng.choices([0, 1], [9, 1], k=2000) + rng.choices([0, 1], [7, 3], k=500)
>>> for alarm in make_detector("ADWIN").update_many(np.array(errors)):
...     print(f"{alarm.index}: {alarm.direction} since about {alarm.onset}")
2143: up since about 2048
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detectors.base import Alarm, Detector, DetectorError
from detectors.kinds import KINDS

if TYPE_CHECKING:
    from detectors.adwin import ADWIN
    from detectors.bank import Bank
    from detectors.conformal_esr import ConformalESR
    from detectors.ddm import DDM
    from detectors.eddm import EDDM
    from detectors.factory import detector_from_state, make_detector
    from detectors.fhddm import FHDDM
    from detectors.focus import FOCuS
    from detectors.hddm_a import HDDM_A
    from detectors.hddm_w import HDDM_W
    from detectors.kswin import KSWIN
    from detectors.mixture_esr import MixtureESR
    from detectors.page_hinkley import PageHinkley
    from detectors.river import RiverDetector

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
    "Bank": "detectors.bank",
    "RiverDetector": "detectors.river",
    "detector_from_state": "detectors.factory",
    "make_detector": "detectors.factory",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
