"""Detectors by name, as a configuration or a stored state gives it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamgauge.detectors.checks import made
from streamgauge.detectors.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamgauge.detectors.base import Detector


def make_detector(kind: str, params: Mapping[str, Any] | None = None) -> Detector:
    """Return a new detector.

    Args:
        kind: one of `streamgauge.detectors.kinds.KINDS`, or the import path of any River detector.
        params: its parameters; what is not given has its default.

    Raises:
        ValueError: there is no such detector or parameter, or a value is out of range; the
            message names what there is.

    >>> make_detector("ADWIN", {"delta": 0.01}).readings()
    {'width': 0.0, 'mean': 0.0}
    >>> make_detector("ADVIN")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: no detector 'ADVIN'; use ADWIN, ... or the import path of a River detector
    """
    if "." in kind:
        found: Detector = _river_detector()(kind, params)
        return found
    own: Detector = made(_kind(kind), kind, params or {})
    return own


def detector_from_state(state: Mapping[str, Any]) -> Detector:
    """Return the detector, of whichever kind, that `state()` described.

    Raises:
        ValueError: the state is of no known detector, or that detector cannot read it.
    """
    kind = str(state.get("detector"))
    found: Detector = (_river_detector() if "." in kind else _kind(kind)).from_state(state)
    return found


def _kind(kind: str) -> Any:
    if kind not in KINDS:
        raise ValueError(
            f"no detector {kind!r}; use {', '.join(KINDS)} or the import path of a River detector"
        )
    return getattr(import_module(KINDS[kind]), kind)


def _river_detector() -> Any:
    from streamgauge.detectors.river import RiverDetector

    return RiverDetector
