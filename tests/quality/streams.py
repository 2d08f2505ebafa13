"""What the detectors are measured on: stationary sources of numbers, and changes between two."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 250_000


@dataclass(frozen=True)
class Source:
    """Numbers of one distribution.

    Attributes:
        values: what they are: `bits`, `unit` (from 0 to 1) or `real`.
        draw: `draw(rng, n)` gives n of them.
        mean: their mean, for detectors that are told it.
        rho: the correlation of neighbours.
    """

    name: str
    values: str
    draw: Callable = field(repr=False)
    mean: float
    rho: float = 0.0

    def blocks(self, seed, n):
        """`n` values in arrays; the same for every detector."""
        rng = rng_for(self.name, seed)
        for start in range(0, n, BLOCK):
            yield self.draw(rng, min(BLOCK, n - start))


@dataclass(frozen=True)
class Change:
    """From one source to another, at once or, over `ramp` values, more and more often."""

    name: str
    before: Source
    after: Source
    ramp: int = 0

    def cut(self, seed, repeat, n_before, horizon):
        """The values before the change and from it on."""
        rng = rng_for(self.name, seed, repeat)
        before, after = self.before.draw(rng, n_before), self.after.draw(rng, horizon)
        if self.ramp:
            is_after = rng.random(horizon) * self.ramp < np.arange(horizon)
            after = np.where(is_after, after, self.before.draw(rng, horizon))
        return before, after


def rng_for(name, *seeds):
    return np.random.default_rng([zlib.crc32(name.encode()), *seeds])


def _short(number):
    return f"{number:g}".removeprefix("0")


def _of(rho):
    return f", rho {_short(rho)}" if rho else ""


def bernoulli(p, rho=0.0):
    """Bits that are one with probability p; each repeats its predecessor with probability rho."""

    def draw(rng, n):
        bits = (rng.random(n) < p).astype(np.float64)
        if not rho:
            return bits
        is_fresh = rng.random(n) >= rho
        is_fresh[0] = True
        return bits[np.maximum.accumulate(np.where(is_fresh, np.arange(n), 0))]

    return Source(f"errors {_short(p)}{_of(rho)}", "bits", draw, p, rho)


def normal(mean=0.0, sd=1.0, rho=0.0):
    """Normal values; with rho an autoregression of order 1."""

    def draw(rng, n):
        noise = rng.standard_normal(n)
        if rho:
            noise[1:] *= np.sqrt(1 - rho**2)
            noise = lfilter([1.0], [1.0, -rho], noise)
        return mean + sd * noise

    return Source(f"N({mean:g},{sd:g}){_of(rho)}", "real", draw, mean, rho)


def beta(a, b):
    return Source(f"Beta({a:g},{b:g})", "unit", lambda rng, n: rng.beta(a, b, n), a / (a + b))


def student(df, shift=0.0):
    name = f"t({df:g})" + (f" + {shift:g}" if shift else "")
    return Source(name, "real", lambda rng, n: shift + rng.standard_t(df, n), shift)


RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SOURCES = [
    *(bernoulli(p) for p in RATES),
    beta(8, 32),
    normal(),
    student(2.5),
    bernoulli(0.2, 0.3),
    bernoulli(0.2, 0.6),
    normal(rho=0.3),
    normal(rho=0.6),
]
CHANGES = [
    Change("errors .2 -> .3", bernoulli(0.2), bernoulli(0.3)),
    Change("errors .2 -> .4", bernoulli(0.2), bernoulli(0.4)),
    Change("errors .2 -> .3 over 5,000", bernoulli(0.2), bernoulli(0.3), ramp=5000),
    Change("errors .02 -> .03", bernoulli(0.02), bernoulli(0.03)),
    Change("errors .2 -> .3, rho .3", bernoulli(0.2, 0.3), bernoulli(0.3, 0.3)),
    Change("Beta, mean .2 -> .22", beta(8, 32), beta(8.8, 31.2)),
    Change("N(0,1), mean + .25", normal(), normal(0.25)),
    Change("N(0,1), mean + .5", normal(), normal(0.5)),
    Change("N(0,1), sd x 1.3", normal(), normal(sd=1.3)),
    Change("t(2.5) + .5", student(2.5), student(2.5, 0.5)),
]
