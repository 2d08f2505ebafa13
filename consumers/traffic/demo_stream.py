"""The demo's traffic: a trained model, three changes of the world at known places, late labels."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from streamgauge.consumers.traffic.frozen_model import FrozenModel
from streamgauge.consumers.traffic.labels import (
    REPEAT_WITHIN_MS,
    ROW_MS,
    START_MS,
    Event,
    EventWriter,
    LabelSchedule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamgauge.consumers.traffic.csv_rows import CsvFeatures, Target

MODEL = "demo"
VERSION = "1"
N_TRAIN = 8000

DELAY_MS = 600_000  # a label comes ten minutes after its prediction,
JITTER_MS = 30_000  # or up to 30 s later, so those of 30 rows come mixed
DUPLICATES = 0.01
MISSING = 0.02


class Concept(NamedTuple):
    """One of the SEA generator's four rules, and for how many rows it holds."""

    variant: int
    n_rows: int


# SEA: class 1 where att1 + att2 is above a threshold, both uniform on [0, 10]. The thresholds of
# variants 3, 2 and 0 are 9.5, 7 and 8, so a model of variant 3 errs in .206 of the rows under
# variant 2 and in .131 under variant 0. Without label noise the error before the changes stays
# low, which keeps River's Page-Hinkley, at its defaults, quiet between the changes.
CONCEPTS = (Concept(3, 6000), Concept(2, 5220), Concept(3, 5400), Concept(0, 4500))


_N_ROWS = sum(concept.n_rows for concept in CONCEPTS)
_LASTS_MS = _N_ROWS * ROW_MS + DELAY_MS + JITTER_MS + REPEAT_WITHIN_MS


class TrueChange(NamedTuple):
    """A change of the world and what it did to the deployed model.

    Attributes:
        row: 0-based number of the first prediction after the change.
        outcome: index of the first outcome of such a prediction, counted as alarms count: one
            for each prediction, in the order in which their labels come.
        kind: whether the model's error rose or fell.
        error_before: share of errors from the change before (or the start) to this one.
        error_after: share of errors from this change to the next (or the end).
    """

    row: int
    outcome: int
    kind: Literal["degradation", "improvement"]
    error_before: float
    error_after: float


@dataclass(frozen=True, slots=True)
class DemoStream:
    """The whole stream, decided by its seed.

    Attributes:
        events: predictions and labels in the order in which they are to be sent.
        changes: what a perfect detector would find.
        errors: 0 or 1 for each outcome, in the order in which the labels come.
        n_predictions: predictions among the events.
        n_labels: labels among the events, repeats not counted: the number of outcomes.
        n_duplicates: labels sent again.
        n_missing: predictions whose label never comes.
    """

    events: list[Event]
    changes: list[TrueChange]
    errors: list[int]
    n_predictions: int
    n_labels: int
    n_duplicates: int
    n_missing: int


class _Label(NamedTuple):
    row: int
    value: Target
    error: int


def demo_stream(seed: int, end_ms: int | None = None) -> DemoStream:
    """Make the demo's stream; takes about a second, besides importing River.

    Args:
        seed: decides everything but the times.
        end_ms: event time before which all has happened, epoch milliseconds; without it the
            first prediction is of `START_MS`.
    """
    start_ms = START_MS if end_ms is None else end_ms - _LASTS_MS
    seeds = random.Random(seed)
    model = _deployed_model(seeds.getrandbits(32))
    rows = [
        pair
        for concept in CONCEPTS
        for pair in _sea(concept.variant, concept.n_rows, seeds.getrandbits(32))
    ]
    schedule: LabelSchedule[_Label] = LabelSchedule(
        delay_ms=DELAY_MS,
        jitter_ms=JITTER_MS,
        duplicates=DUPLICATES,
        missing=MISSING,
        seed=seeds.getrandbits(32),
    )
    writer = EventWriter(MODEL, VERSION, "classification")
    events: list[Event] = []
    outcomes: list[_Label] = []

    def arrive(now_ms: float) -> None:
        for label, timestamp_ms, repeat in schedule.due(now_ms):
            events.append(writer.label(f"{MODEL}-{label.row}", timestamp_ms, label.value))
            if not repeat:
                outcomes.append(label)

    for row, (features, target) in enumerate(rows):
        now_ms = start_ms + row * ROW_MS
        prediction = model.predict(features)
        events.append(writer.prediction(f"{MODEL}-{row}", now_ms, prediction, features))
        schedule.add(_Label(row, target, int(prediction.value != target)), now_ms)
        arrive(now_ms)
    arrive(float("inf"))
    return DemoStream(
        events=events,
        changes=_changes(outcomes),
        errors=[outcome.error for outcome in outcomes],
        n_predictions=len(rows),
        n_labels=schedule.n_labels,
        n_duplicates=schedule.n_duplicates,
        n_missing=schedule.n_missing,
    )


def _deployed_model(seed: int) -> FrozenModel:
    from river import linear_model, preprocessing  # takes 2 s

    learner: Any = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    return FrozenModel(learner, "classification", _sea(CONCEPTS[0].variant, N_TRAIN, seed))


def _sea(variant: int, n_rows: int, seed: int) -> Iterator[tuple[CsvFeatures, Target]]:
    from river.datasets import synth  # takes 2 s

    for x, y in islice(synth.SEA(variant=variant, seed=seed), n_rows):
        yield {f"att{i + 1}": value for i, value in x.items()}, int(y)


def _changes(outcomes: list[_Label]) -> list[TrueChange]:
    ends = [0]
    for concept in CONCEPTS:
        ends.append(ends[-1] + concept.n_rows)
    means = [_mean_error(outcomes, *span) for span in pairwise(ends)]
    return [
        TrueChange(
            row=row,
            outcome=next(i for i, outcome in enumerate(outcomes) if outcome.row >= row),
            kind="degradation" if after > before else "improvement",
            error_before=before,
            error_after=after,
        )
        for row, (before, after) in zip(ends[1:-1], pairwise(means), strict=True)
    ]


def _mean_error(outcomes: list[_Label], first_row: int, end_row: int) -> float:
    errors = [outcome.error for outcome in outcomes if first_row <= outcome.row < end_row]
    return sum(errors) / len(errors)
