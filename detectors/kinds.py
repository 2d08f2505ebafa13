"""The detectors that are ours, by the name that a configuration gives."""

from __future__ import annotations

# Where each kind is; imported when it is asked for, because some take their time.
KINDS = {
    "ADWIN": "detectors.adwin",
    "ConformalESR": "detectors.conformal_esr",
    "DDM": "detectors.ddm",
    "EDDM": "detectors.eddm",
    "FHDDM": "detectors.fhddm",
    "FOCuS": "detectors.focus",
    "HDDM_A": "detectors.hddm_a",
    "HDDM_W": "detectors.hddm_w",
    "KSWIN": "detectors.kswin",
    "MixtureESR": "detectors.mixture_esr",
    "PageHinkley": "detectors.page_hinkley",
}
