"""Detectors by name, as a configuration or a stored state gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectors.adwin import ADWIN
from detectors.checks import made
from detectors.page_hinkley import PageHinkley
from detectors.river import RiverDetector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectors.base import Detector

_KINDS: dict[str, type[Detector]] = {"ADWIN": ADWIN, "PageHinkley": PageHinkley}


def make_detector(kind: str, params: Mapping[str, Any] | None = None) -> Detector:
    """A new detector.

    Args:
        kind: `ADWIN`, `PageHinkley`, or the import path of any River detector.
        params: its parameters; what is not given has River's default.

    Raises:
        ValueError: there is no such detector or parameter, or a value is out of range; the
            message names what there is.

    >>> make_detector("ADWIN", {"delta": 0.01}).readings()
    {'width': 0.0, 'mean': 0.0}
    >>> make_detector("ADVIN")
    Traceback (most recent call last):
        ...
    ValueError: no detector 'ADVIN'; use ADWIN, PageHinkley or the import path of a River detector
    """
    if "." in kind:
        return RiverDetector(kind, params)
    return made(_kind(kind), kind, params or {})


def detector_from_state(state: Mapping[str, Any]) -> Detector:
    """The detector, of whichever kind, that `state()` described.

    Raises:
        ValueError: the state is of no known detector, or that detector cannot read it.
    """
    kind = str(state.get("detector"))
    return (RiverDetector if "." in kind else _kind(kind)).from_state(state)


def _kind(kind: str) -> type[Detector]:
    try:
        return _KINDS[kind]
    except KeyError:
        raise ValueError(
            f"no detector {kind!r}; use {', '.join(_KINDS)} or the import path of a River detector"
        ) from None
