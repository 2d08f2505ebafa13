"""Counts of what was seen, joined and dropped: one shape for joins, models and partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import astuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class JoinCounts(Struct, array_like=True):
    """The counts of what a join has seen and dropped, since its model was first seen.

    Attributes:
        n_predictions: predictions, repeated ones among them.
        n_labels: labels, repeated ones among them.
        n_outcomes: outcomes that were handed on.
        n_duplicate_predictions: predictions of an id that was known, ignored.
        n_duplicate: labels that said once more what was known, ignored.
        n_correction: labels that said otherwise than the first one, ignored.
        n_expired: predictions that were dropped without a label.
        n_orphaned: labels that were dropped without a prediction.
        n_released_early: outcomes handed on before they were mature, for want of room.
    """

    n_predictions: int = 0
    n_labels: int = 0
    n_outcomes: int = 0
    n_duplicate_predictions: int = 0
    n_duplicate: int = 0
    n_correction: int = 0
    n_expired: int = 0
    n_orphaned: int = 0
    n_released_early: int = 0


class ModelTotals(JoinCounts):
    """The counts of a model's join, and the sizes of what waits in it now.

    Attributes:
        n_pending: predictions that wait for their label.
        n_early: labels that wait for their prediction.
        n_held: outcomes that wait for label maturity.
        n_unmonitored: outcomes of versions that were not monitored any more.
    """

    n_pending: int = 0
    n_early: int = 0
    n_held: int = 0
    n_unmonitored: int = 0


class Totals(ModelTotals):
    """The counts of all models there are and were, since a partition was first read.

    Attributes:
        n_dead_letters: records that could not be used.
        n_models_evicted: models that made room for others.
    """

    n_dead_letters: int = 0
    n_models_evicted: int = 0


_Kind = TypeVar("_Kind", bound=JoinCounts)


def add_up(kind: type[_Kind], counts: Iterable[_Kind]) -> _Kind:
    """Return counts of one kind added up, field by field; zeros where there are none.

    >>> total = add_up(JoinCounts, [JoinCounts(n_labels=3), JoinCounts(n_labels=4, n_expired=1)])
    >>> total.n_labels, total.n_expired, total.n_predictions
    (7, 1, 0)
    """
    return kind(*map(sum, zip(*map(astuple, counts), strict=True)))
