"""What is measured: false alarms where nothing changes, and delays where something does.

A drift alarm before the change is a false one, and the detector goes on, as it does in
production. The delay is the number of values from the change on up to and with the one that
raised the first alarm; a change without one within the horizon is missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson

# Alarms after which a rate is known well enough, to 2 %.
ENOUGH = 2500


@dataclass(frozen=True)
class FalseAlarms:
    """How often a detector alarmed on values of one source."""

    detector: str
    source: str
    n_values: int
    n_alarms: int

    @property
    def per_100k(self):
        return self.n_alarms / self.n_values * 1e5


@dataclass(frozen=True)
class Delays:
    """How long a detector took to find a change, in each repeat; None where it missed it."""

    detector: str
    change: str
    horizon: int
    delays: list[int | None]

    @property
    def missed(self):
        """The share of the changes that were missed."""
        return self.delays.count(None) / len(self.delays)

    def quantile(self, q):
        """The delay within which a share `q` of the changes was found, None if fewer were."""
        # A missed change has taken longer than any that was found.
        in_order = sorted(self.delays, key=lambda delay: (delay is None, delay))
        return in_order[max(0, int(np.ceil(q * len(in_order))) - 1)]


def false_alarms(detector, name, source, n, seed):
    """The alarms of a new detector on `n` values, or on fewer when there are enough alarms."""
    n_values = n_alarms = 0
    for block in source.blocks(seed, n):
        n_alarms += len(detector.drifts(block))
        n_values += len(block)
        if n_alarms >= ENOUGH:
            break
    return FalseAlarms(name, source.name, n_values, n_alarms)


def delays(make, name, change, n_repeats, n_before, horizon, seed):
    """The delays of a new detector for each repeat."""
    found = [
        first_alarm(make(), *change.cut(seed, repeat, n_before, horizon))
        for repeat in range(n_repeats)
    ]
    return Delays(name, change.name, horizon, found)


def first_alarm(detector, before, after):
    """How many values of `after` it took, None when they were too few."""
    detector.drifts(before)
    start, size = 0, 500
    while start < len(after):
        drifts = detector.drifts(after[start : start + size])
        if len(drifts):
            return start + int(drifts[0]) + 1
        # Larger and larger, so that little is looked at after the alarm.
        start, size = start + size, 2 * size
    return None


def most_alarms(n_values, false_alarm_every, leeway=1.1, chance=1e-4):
    """More alarms than this are no chance where the promise holds within the leeway.

    The fewer the values, the less it notices: of 2 million it takes twice the promised alarms to be
    sure, of 20 million a quarter more than the leeway.
    """
    return int(poisson.isf(chance, leeway * n_values / false_alarm_every))
