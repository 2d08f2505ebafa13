"""How a detector runs as machine code: one step over a row of numbers, and the loops over it.

A detector's algorithm is one function, its step::

    step(row, x, params, found) -> NOTHING, DRIFT, WARNING or GROW

`row` holds all that the detector remembers: `row[0]` is its count of values, which the loops keep;
the rest is the algorithm's. `params` are its parameters as numbers. Where the step says DRIFT or
WARNING it has filled `found`, and after DRIFT the row is as at a new baseline.

A detector whose memory grows has rows of several widths, of which a narrow one is the beginning of
a wide one and the rest 0. Where the row is too narrow for one more value, its step says GROW before
it has changed anything, and is called again with a wider row.

Compiled code is kept in files (`detectors.code_cache`), so that it is compiled once for each
machine, and releases the GIL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numba

from detectors.code_cache import CodeCache

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Function = TypeVar("Function", bound=Callable[..., Any])

NOTHING, DRIFT, WARNING, GROW = 0, 1, 2, 3

# What a step says of an alarm: 1 for up, -1 for down, 0 for neither; then fields of `Alarm`, and
# how many values there are from the estimated onset on.
DIRECTION, STATISTIC, THRESHOLD, MEAN_BEFORE, MEAN_AFTER, N_AFTER = range(6)
N_FOUND = 6

# Values that are checked at once.
_BLOCK = 1024


# All that `compiled` has made, in order.
FUNCTIONS: list[Any] = []


def compiled(function: Function) -> Function:
    """The function as machine code, compiled at its first call and kept for other processes."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    # What numba's `cache=True` does, with another cache.
    dispatcher._cache = CodeCache(function, dispatcher.targetoptions)  # noqa: SLF001
    FUNCTIONS.append(dispatcher)
    return dispatcher  # type: ignore[no-any-return]


class Loops(NamedTuple):
    """A step and the loops over it.

    Attributes:
        step: the compiled step, for other loops.
        one: `one(row, x, params, found)` takes a value and returns what the step said; with GROW
            the value has not been taken.
        many: `many(row, xs, params, at, kinds, found)` takes an array's values in order and
            returns how many alarms there were; of number k, `at[k]` is the position in `xs`,
            `kinds[k]` DRIFT or WARNING, and `found[k]` what the step found. `found` has a row
            more than there are values. Where the row is too narrow, it stops; then the last one
            is no alarm but GROW, at the first value not taken.
    """

    step: Callable[..., int]
    one: Callable[..., int]
    many: Callable[..., int]


def loops(step: Callable[..., int]) -> Loops:
    """The loops over a compiled step."""

    def one(
        row: NDArray[np.float64],
        x: float,
        params: NDArray[np.float64],
        found: NDArray[np.float64],
    ) -> int:
        row[0] += 1
        kind = step(row, x, params, found)
        if kind == GROW:
            row[0] -= 1
        return kind

    def many(
        row: NDArray[np.float64],
        xs: NDArray[np.float64],
        params: NDArray[np.float64],
        at: NDArray[np.int64],
        kinds: NDArray[np.int8],
        found: NDArray[np.float64],
    ) -> int:
        n = 0
        # Taken once: to take a row of an array costs as much as a simple step.
        last = found[len(xs)]
        for i in range(len(xs)):
            row[0] += 1
            kind = step(row, xs[i], params, last)
            if kind != NOTHING:
                at[n] = i
                kinds[n] = kind
                found[n] = last
                n += 1
                if kind == GROW:
                    row[0] -= 1
                    break
        return n

    return Loops(step, compiled(one), compiled(many))


@compiled
def first_beyond(xs: NDArray[np.float64], low: float, high: float) -> int:
    """Position of the first value that is not from `low` to `high` (NaN is not), -1 for none."""
    for i in range(len(xs)):
        if not low <= xs[i] <= high:
            return i
    return -1


@compiled
def first_no_bit(xs: NDArray[np.float64]) -> int:
    """Position of the first value that is neither 0 nor 1, -1 for none."""
    # In blocks without a way out: those are compared several values at a time.
    for start in range(0, len(xs), _BLOCK):
        block = xs[start : start + _BLOCK]
        n_others = 0
        for x in block:
            n_others += (x != 0) & (x != 1)
        if n_others:
            for i in range(len(block)):
                if block[i] != 0 and block[i] != 1:
                    return start + i
    return -1
