"""Names of the signals that there are, and when each has a new value."""

from __future__ import annotations

from typing import Literal

Clock = Literal["outcome", "prediction"]

CLOCKS: dict[str, Clock] = {"error": "outcome", "learner_error": "outcome"}
_OF_LEARNER = frozenset({"learner_error"})


def signal_names(*, has_learner: bool) -> tuple[str, ...]:
    """Return the names of a model's signals, in the order in which they take their values.

    >>> signal_names(has_learner=False), signal_names(has_learner=True)
    (('error',), ('error', 'learner_error'))
    """
    return tuple(name for name in CLOCKS if has_learner or name not in _OF_LEARNER)
