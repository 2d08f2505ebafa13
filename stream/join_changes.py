"""The changes of a join: each a small Struct that is applied, stored, and applied again.

They are stored as arrays that begin with their tag.
"""

from __future__ import annotations

from msgspec import Struct

from streamgauge.stream.config import Task
from streamgauge.stream.events import Features, Probability, Value
from streamgauge.stream.outcomes import Outcome
from streamgauge.stream.totals import JoinCounts


class PendingPrediction(Struct, array_like=True, gc=False):
    """A prediction that waits for its label."""

    version: str
    y_pred: Value
    probability: Probability | None
    features: Features | None
    task: Task | None
    predicted_ms: int
    offset: int


class EarlyLabel(Struct, array_like=True, gc=False):
    """A label that waits for its prediction."""

    y_true: Value
    features: Features | None
    timestamp_ms: int
    offset: int


class Wait(Struct, array_like=True, gc=False, tag=0):
    """A prediction waits for its label, under its id."""

    key: str
    pending: PendingPrediction


class Match(Struct, array_like=True, gc=False, tag=1):
    """A prediction and its label have met, and wait no longer."""

    key: str
    y_true: Value


class WaitEarly(Struct, array_like=True, gc=False, tag=2):
    """A label waits for its prediction, under the prediction's id."""

    key: str
    early: EarlyLabel


class Expire(Struct, array_like=True, gc=False, tag=3):
    """The `n` oldest predictions that wait are dropped."""

    n: int


class Orphan(Struct, array_like=True, gc=False, tag=4):
    """The `n` oldest labels that wait are dropped."""

    n: int


class Forget(Struct, array_like=True, gc=False, tag=5):
    """The `n` oldest pairs that have met are forgotten, so repeats of them are not recognised."""

    n: int


class Hold(Struct, array_like=True, gc=False, tag=6):
    """An outcome is held until it is mature."""

    outcome: Outcome


class Release(Struct, array_like=True, gc=False, tag=7):
    """The `n` outcomes that were predicted first are held no longer."""

    n: int


class Keep(Struct, array_like=True, gc=False, tag=8):
    """An outcome is held, with the number `seq` that it was given then."""

    seq: int
    outcome: Outcome


class Mark(Struct, array_like=True, gc=False, tag=9):
    """All that no other change says: event times, the next number of a held outcome, counts."""

    watermark_ms: int
    sweep_ms: int
    held_seq: int
    counts: JoinCounts


JoinChange = Wait | Match | WaitEarly | Expire | Orphan | Forget | Hold | Release | Keep | Mark
