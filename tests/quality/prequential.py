"""The setting of the literature: a learner that is tested, then trained, and reset on alarm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from river.tree import HoeffdingTreeClassifier

from tests.quality.measures import Delays
from tests.quality.streams import rng_for

CONCEPT = 20_000
NOISE = 0.1


@dataclass(frozen=True)
class Prequential:
    """What came of it, over all seeds.

    Attributes:
        n_false: alarms other than the first after each change.
        accuracy: share of the values that were predicted rightly.
    """

    detector: str
    stream: str
    n_values: int
    n_false: int
    accuracy: float
    delays: Delays

    @property
    def per_100k(self):
        return self.n_false / self.n_values * 1e5


def sine1(rng, n):
    """Whether a point is below the sine."""
    x = rng.random((n, 2))
    return x, x[:, 1] < np.sin(x[:, 0])


def mixed(rng, n):
    """Whether two of three conditions hold, on two bits and on two numbers."""
    x = rng.random((n, 4))
    x[:, :2] = x[:, :2] < 0.5
    wave = x[:, 3] < 0.5 + 0.3 * np.sin(3 * np.pi * x[:, 2])
    return x, x[:, 0] + x[:, 1] + wave >= 2


STREAMS = {"SINE1": sine1, "MIXED": mixed}


def generate(name, seed, n_concepts):
    """Features and classes; from concept to concept the classes change places."""
    rng = rng_for(name, seed)
    n = n_concepts * CONCEPT
    features, is_positive = STREAMS[name](rng, n)
    is_swapped = np.arange(n) // CONCEPT % 2 == 1
    y = is_positive ^ is_swapped ^ (rng.random(n) < NOISE)
    names = range(features.shape[1])
    return [dict(zip(names, row, strict=True)) for row in features.tolist()], y.tolist()


def alarms_of(detector, features, y):
    """Where the detector alarms, and the learner's errors."""
    learner = HoeffdingTreeClassifier()
    alarms, n_errors = [], 0
    for i, (x, y_true) in enumerate(zip(features, y, strict=True)):
        is_error = bool(learner.predict_one(x)) != y_true
        n_errors += is_error
        if detector.is_worse(float(is_error)):
            alarms.append(i)
            learner = HoeffdingTreeClassifier()
        learner.learn_one(x, y_true)
    return alarms, n_errors


def judge(alarms, n_concepts):
    """The delay of the first alarm of each concept but the first, and how many others there are."""
    delays = [
        next((i - start + 1 for i in alarms if start <= i < start + CONCEPT), None)
        for start in range(CONCEPT, n_concepts * CONCEPT, CONCEPT)
    ]
    return delays, len(alarms) - sum(delay is not None for delay in delays)


def prequential(contestant, name, n_seeds, n_concepts, seed):
    delays, n_false, n_errors = [], 0, 0
    for repeat in range(n_seeds):
        alarms, errors = alarms_of(
            contestant.make(None), *generate(name, seed + repeat, n_concepts)
        )
        found, others = judge(alarms, n_concepts)
        delays += found
        n_false += others
        n_errors += errors
    n = n_seeds * n_concepts * CONCEPT
    of_changes = Delays(contestant.name, name, CONCEPT, delays)
    return Prequential(contestant.name, name, n, n_false, 1 - n_errors / n, of_changes)
