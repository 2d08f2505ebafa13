"""Machine code made before it is needed, so that no batch of events waits for a compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamgauge.detectors import Bank, make_detector
from streamgauge.detectors.compiled import FUNCTIONS
from streamgauge.detectors.kinds import KINDS
from streamgauge.detectors.row import RowDetector

if TYPE_CHECKING:
    from streamgauge.detectors import Detector

# What every detector takes, those of 0 and 1 too; enough for windows to grow, and changes.
_VALUES = np.repeat([0.0, 1.0, 0.0], 250)


class WarmUp(NamedTuple):
    """The outcome of a warm-up.

    Attributes:
        n_kinds: kinds of detectors that are ready.
        n_compiled: functions that had to be compiled.
        n_lost: of those, the functions whose code could not be kept.
        n_loaded: functions whose code was kept already.
        folders: where the code is.
    """

    n_kinds: int
    n_compiled: int
    n_lost: int
    n_loaded: int
    folders: tuple[str, ...]


def warm_up() -> WarmUp:
    """Make the code of every kind of detector, and its banks, ready; keep it where possible."""
    for kind in KINDS:
        detector = make_detector(kind)
        exercise(detector)
        if isinstance(detector, RowDetector):
            _exercise_bank(detector)
    stats = [function.stats for function in FUNCTIONS]
    compiled = [one for one in stats if one.cache_misses]
    return WarmUp(
        n_kinds=len(KINDS),
        n_compiled=len(compiled),
        n_lost=sum(one.cache_path is None for one in compiled),
        n_loaded=sum(bool(one.cache_hits) for one in stats),
        folders=tuple(sorted({one.cache_path for one in stats if one.cache_path is not None})),
    )


def _exercise_bank(detector: RowDetector) -> None:
    bank = Bank(detector)
    ids = bank.add(2)
    bank.update(ids.repeat(len(_VALUES)), np.tile(_VALUES, 2))
    bank.rebaseline(ids)
    bank.readings(0)
    Bank.from_state(bank.state())
    bank.remove(bank.idle(before=1.0))


def exercise(detector: Detector) -> None:
    """Make a detector call all of its code, on zeros and ones, so that it is compiled now."""
    detector.update_many(_VALUES)
    # A rise after many zeros: where the last value is the best yet, HDDM's readings call nothing.
    detector.update(1.0)
    detector.readings()
    detector.state()
    detector.rebaseline()
