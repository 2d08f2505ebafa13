"""Detectors of other packages by the names of ours, and what may be compared with what."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

# Who calls ours what; `Frouros` and `CapyMOA` only where they are installed.
NAMES = {
    "River": {
        "ADWIN": "river.drift.ADWIN",
        "DDM": "river.drift.binary.DDM",
        "EDDM": "river.drift.binary.EDDM",
        "FHDDM": "river.drift.binary.FHDDM",
        "HDDM_A": "river.drift.binary.HDDMA",
        "HDDM_W": "river.drift.binary.HDDMW",
        "KSWIN": "river.drift.KSWIN",
        "PageHinkley": "river.drift.PageHinkley",
    },
    "Frouros": {
        "ADWIN": "frouros.detectors.concept_drift.ADWIN",
        "DDM": "frouros.detectors.concept_drift.DDM",
        "EDDM": "frouros.detectors.concept_drift.EDDM",
        "HDDM_A": "frouros.detectors.concept_drift.HDDMA",
        "HDDM_W": "frouros.detectors.concept_drift.HDDMW",
        "KSWIN": "frouros.detectors.concept_drift.KSWIN",
        "PageHinkley": "frouros.detectors.concept_drift.PageHinkley",
    },
    "CapyMOA": {
        "ADWIN": "capymoa.drift.detectors.ADWIN",
        "DDM": "capymoa.drift.detectors.DDM",
        "EDDM": "capymoa.drift.detectors.EDDM",
        "HDDM_A": "capymoa.drift.detectors.HDDMAverage",
        "HDDM_W": "capymoa.drift.detectors.HDDMWeighted",
        "PageHinkley": "capymoa.drift.detectors.PageHinkley",
    },
}
MODULES = {"River": "river", "Frouros": "frouros", "CapyMOA": "capymoa"}


def installed():
    return [package for package, module in MODULES.items() if find_spec(module)]


def make(package, kind):
    """A new detector with the package's defaults; River's KSWIN with our default seed."""
    module, _, name = NAMES[package][kind].rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    return cls(seed=0) if NAMES[package][kind] == "river.drift.KSWIN" else cls()


def run_river(detector, xs):
    """The indices of the drifts in a list of numbers."""
    found = []
    for i, x in enumerate(xs):
        detector.update(x)
        if detector.drift_detected:
            found.append(i)
    return found


def run_frouros(detector, xs):
    found = []
    for i, x in enumerate(xs):
        detector.update(value=x)
        if detector.drift:
            found.append(i)
            detector.reset()
    return found


def run_capymoa(detector, xs):
    found = []
    for i, x in enumerate(xs):
        detector.add_element(x)
        if detector.detected_change():
            found.append(i)
            detector.reset()
    return found


RUN = {"River": run_river, "Frouros": run_frouros, "CapyMOA": run_capymoa}
