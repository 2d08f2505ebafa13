"""How often a configuration with no settings asks for a retrain: when nothing has changed, and how
soon when something has.

`make quality-defaults` runs it at full size. The numbers are of whole monitors: losses, detectors,
episodes, requests.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from streamgauge.consumers.config import load_config
from streamgauge.stream.monitor import AlarmFinding, Monitor, RetrainDecision
from streamgauge.stream.outcomes import Outcome

ERROR_RATES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
STEP = (0.2, 0.3)
STEP_AT, STEP_FOR = 5_000, 5_000

# Sizes of regression errors, as a model makes them: from few outliers to many.
REGRESSION_ERRORS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "t(2.5)": lambda rng, n: rng.standard_t(2.5, n),
    "lognormal, sd 2": lambda rng, n: rng.lognormal(sigma=2.0, size=n),
    "normal, half of them 0": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.5),
    "normal, 95 % of them 0": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.05),
}

_CHUNK = 50_000


@dataclass
class Tally:
    """What monitors have said about a number of outcomes."""

    n_outcomes: int = 0
    n_requests: int = 0
    # Drifts, for the worse, by detector.
    drifts: Counter[str] = field(default_factory=Counter)
    first_request: int | None = None

    @property
    def per_100_000(self) -> float:
        return self.n_requests / self.n_outcomes * 100_000

    def __iadd__(self, other: Tally) -> Self:
        self.n_outcomes += other.n_outcomes
        self.n_requests += other.n_requests
        self.drifts += other.drifts
        return self


def watched(outcomes, task, config=None) -> Tally:
    """What the monitor of one version says about the outcomes."""
    monitor = Monitor((config or load_config({})).model_for("m"), task)
    tally = Tally(n_outcomes=len(outcomes))
    for start in range(0, len(outcomes), _CHUNK):
        for finding in monitor.update(outcomes[start : start + _CHUNK]):
            if isinstance(finding, RetrainDecision):
                tally.n_requests += 1
                if tally.first_request is None:
                    tally.first_request = finding.index
            elif isinstance(finding, AlarmFinding) and finding.kind == "drift":
                tally.drifts[finding.found.detector] += 1
    return tally


def classified(errors):
    """Outcomes of a classifier that errs where it is said."""
    right, wrong = Outcome("1", "a", "a"), Outcome("1", "a", "b")
    return [wrong if error else right for error in errors.tolist()]


def stationary(rate, n, seed, config=None) -> Tally:
    """A classifier that errs at one rate throughout."""
    errors = np.random.default_rng(seed).random(n) < rate
    return watched(classified(errors), "classification", config)


def step(seed, rates=STEP) -> Tally:
    """A classifier that errs at a higher rate from one outcome on."""
    rng = np.random.default_rng(seed)
    before, after = rng.random(STEP_AT) < rates[0], rng.random(STEP_FOR) < rates[1]
    return watched(classified(np.concatenate([before, after])), "classification")


def regression(errors_of, n, seed) -> Tally:
    """A regressor whose errors have one distribution throughout."""
    errors = errors_of(np.random.default_rng(seed), n)
    return watched([Outcome("1", error, 0.0) for error in errors.tolist()], "regression")


def delays(seeds, rates=STEP):
    """Outcomes from the step to the request, infinite where there is none; requests before it."""
    found, n_early = [], 0
    for seed in seeds:
        first = step(seed, rates).first_request
        if first is not None and first < STEP_AT:
            n_early += 1
        else:
            found.append(np.inf if first is None else first - STEP_AT + 1)
    return np.array(found), n_early


def _report(name, tally, seconds):
    drifts = ", ".join(
        f"{detector} {n / tally.n_outcomes * 1e5:.2f}"
        for detector, n in sorted(tally.drifts.items())
    )
    print(
        f"{name:30} {tally.n_outcomes:>10,} outcomes  {tally.n_requests:>3} requests"
        f"  {tally.per_100_000:5.2f} per 100 k  (drifts per 100 k: {drifts or 'none'})"
        f"  {tally.n_outcomes / seconds:,.0f} outcomes/s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=1_000_000, help="of each error rate")
    parser.add_argument("--stream", type=int, default=100_000, help="outcomes of one version")
    parser.add_argument("--seeds", type=int, default=100, help="of the step")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    options = parser.parse_args()
    n_streams = max(1, options.outcomes // options.stream)
    seeds = range(options.seed, options.seed + n_streams)
    stationary(0.5, 100, 0)  # compiles

    streams = {f"error rate {rate:g}": (stationary, rate) for rate in ERROR_RATES}
    streams |= {f"errors {name}": (regression, of) for name, of in REGRESSION_ERRORS.items()}
    for name, (make, what) in streams.items():
        tally, started_s = Tally(), time.perf_counter()
        for seed in seeds:
            tally += make(what, options.stream, seed)
        _report(name, tally, time.perf_counter() - started_s)

    found, n_early = delays(range(options.seed, options.seed + options.seeds))
    print(
        f"step {STEP[0]:g} -> {STEP[1]:g}, {options.seeds} seeds: asked for after"
        f" {np.median(found):,.0f} outcomes (median), {np.quantile(found, 0.9):,.0f} (90 %);"
        f" {np.isinf(found).sum()} missed, {n_early} asked before"
    )


if __name__ == "__main__":
    main()
