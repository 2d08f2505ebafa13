"""Detectors as machine code: one step over a row of numbers, and the loops over it.

A detector's algorithm is one function, its step::

    step(row, x, params, found) -> NOTHING, DRIFT, WARNING or GROW

`row` holds all that the detector remembers: `row[0]` is its count of values, which the loops keep;
the rest is the algorithm's. `params` are its parameters as numbers. Where the step says DRIFT or
WARNING it has filled `found`, and after DRIFT the row is that of a new baseline.

A detector whose memory grows has rows of several widths, of which a narrow one is the beginning of
a wide one and the rest 0. Where the row is too narrow for one more value, its step says GROW before
it has changed anything, and is called again with a wider row.

Compiled code is kept in files (`streamgauge.detectors.code_cache`), so that it is
compiled once for each machine. It releases the GIL, except where it takes a single value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numba

from streamgauge.detectors.code_cache import CodeCache

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

_NUMBERS = numba.float64[::1]

# All that `compiled` has made, in order.
FUNCTIONS: list[Any] = []


def compiled(function: Function, *, nogil: bool = True) -> Function:
    """Return the function as machine code, compiled at its first call and kept for other processes.

    It is made part of the compiled functions that call it, divides as IEEE 754 says, and cannot
    make arrays, so that no references to them are counted. With `nogil` it releases the GIL.
    """
    return _compiled(function, nogil=nogil, _nrt=False, forceinline=True)


def compiled_making(function: Function) -> Function:
    """Return a function that makes arrays, as machine code; otherwise as `compiled`."""
    return _compiled(function, nogil=True)


def _compiled(function: Function, **options: bool) -> Function:
    dispatcher = numba.njit(error_model="numpy", **options)(function)
    # What numba's `cache=True` does, with another cache.
    dispatcher._cache = CodeCache(function, dispatcher.targetoptions)  # noqa: SLF001
    FUNCTIONS.append(dispatcher)
    return dispatcher  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Loops:
    """A step and the loops over it.

    Attributes:
        step: the compiled step, for other loops.
        one_of_any: `one`, to be compiled for the types it is called with.
        many: `many(row, xs, params, at, kinds, found)` takes an array's values in order and
            returns how many alarms there were; of number k, `at[k]` is the position in `xs`,
            `kinds[k]` DRIFT or WARNING, and `found[k]` what the step found. `found` has a row
            more than there are values. Where the row is too narrow, it stops; then the last one
            is no alarm but GROW, at the first value not taken.
    """

    step: Callable[..., int]
    one_of_any: Any
    many: Callable[..., int]

    @cached_property
    def one(self) -> Callable[..., int]:
        """`one(row, x, params, found)` takes a value and returns what the step said.

        With GROW the value has not been taken. It looks at no types, which takes longer than most
        steps: `x` is a float, and the others are contiguous, writable arrays of
        float64.
        """
        types = (_NUMBERS, numba.float64, _NUMBERS, _NUMBERS)
        return self.one_of_any.compile(types)  # type: ignore[no-any-return]


def loops(step: Callable[..., int]) -> Loops:
    """Return the loops over a compiled step."""

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
        n = i = 0
        while i < len(xs):
            # What is done at an alarm is no part of the inner loop, so that the compiler can keep
            # the row in registers.
            kind = NOTHING
            while i < len(xs):
                row[0] += 1
                kind = step(row, xs[i], params, found[n])
                i += 1
                if kind != NOTHING:
                    break
            if kind == NOTHING:
                break
            at[n] = i - 1
            kinds[n] = kind
            n += 1
            if kind == GROW:
                row[0] -= 1
                break
        return n

    # To let go of the GIL for one value takes longer than most steps.
    return Loops(step, compiled(one, nogil=False), compiled(many))


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
