"""How a detector runs as machine code: one step over a row of numbers, and the loops over it.

A detector's algorithm is one function, its step::

    step(row, x, params, found) -> NOTHING, DRIFT, WARNING or GROW

`row` holds all that the detector remembers: `row[0]` is its count of values, which the loops keep;
the rest is the algorithm's. `params` are its parameters as numbers. Where the step says DRIFT or
WARNING it has filled `found`, and after DRIFT the row is as at a new baseline.

A detector whose memory grows has rows of several widths, of which a narrow one is the beginning of
a wide one and the rest 0. Where the row is too narrow for one more value, its step says GROW before
it has changed anything, and is called again with a wider row.

Compiled code is kept in numba's cache, so that it is compiled once for each machine, and releases
the GIL.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numba

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


def compiled(function: Function) -> Function:
    """The function as machine code, compiled at its first call and kept for other processes."""
    try:
        dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep it: every process compiles it
        dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    # numba's cache knows a function that another one closes over by this name alone, and by
    # default it is another one in every process. Its code is in it, so that a change is noticed.
    code = function.__code__
    text = repr((code.co_code, code.co_consts, code.co_names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    dispatcher._set_uuid(f"{function.__module__}.{function.__qualname__}-{digest}")  # noqa: SLF001
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
        for i in range(len(xs)):
            row[0] += 1
            kind = step(row, xs[i], params, found[n])
            if kind != NOTHING:
                at[n] = i
                kinds[n] = kind
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
    for i in range(len(xs)):
        if xs[i] != 0 and xs[i] != 1:
            return i
    return -1
