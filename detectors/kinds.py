"""The detectors that are ours, by the name that a configuration gives."""

from __future__ import annotations

# Where each kind is; imported when it is asked for, because some take their time.
KINDS = {
    "ADWIN": "streamgauge.detectors.adwin",
    "ConformalESR": "streamgauge.detectors.conformal_esr",
    "DDM": "streamgauge.detectors.ddm",
    "EDDM": "streamgauge.detectors.eddm",
    "FHDDM": "streamgauge.detectors.fhddm",
    "FOCuS": "streamgauge.detectors.focus",
    "HDDM_A": "streamgauge.detectors.hddm_a",
    "HDDM_W": "streamgauge.detectors.hddm_w",
    "KSWIN": "streamgauge.detectors.kswin",
    "MixtureESR": "streamgauge.detectors.mixture_esr",
    "PageHinkley": "streamgauge.detectors.page_hinkley",
}
