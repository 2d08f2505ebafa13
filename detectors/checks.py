"""Checks of what comes in: values, parameters and stored states."""

from __future__ import annotations

import inspect
import operator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from streamgauge.detectors.base import finite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    T = TypeVar("T")

# Detectors sum squares of what they are given. From here on those sums can overflow to infinity,
# and a detector that holds an infinity never alarms again.
MAGNITUDE_MAX = 1e150


def number(x: float, low: float = -MAGNITUDE_MAX, high: float = MAGNITUDE_MAX) -> float:
    """`x` as a float that a detector can use.

    Raises:
        ValueError: `x` is NaN, infinite, or not from `low` to `high`.
    """
    x = float(x)
    if low <= x <= high:
        return x
    raise ValueError(f"this detector takes numbers from {low:g} to {high:g}, got {finite(x):g}")


def bit(x: float) -> float:
    """`x` as 0.0 or 1.0.

    Raises:
        ValueError: it is neither.
    """
    x = float(x)
    if x in (0.0, 1.0):
        return x
    raise ValueError(f"a binary detector takes 0 or 1, got {finite(x):g}")


def row(
    kind: str, n_seen: int, stored: Any, is_whole: Callable[[NDArray[np.float64]], bool]
) -> NDArray[np.float64]:
    """Return a stored row, with the count in front.

    Raises:
        ValueError: it is not one of numbers, or not whole.
    """
    try:
        numbers = np.concatenate([[n_seen], np.array(stored, dtype=np.float64)])
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if np.isnan(numbers).any() or not is_whole(numbers):
        raise ValueError(f"the row in this state of {kind} is damaged; start it anew")
    return numbers


def counts(kind: str, name: str, values: Any, low: float, high: float) -> None:
    """Check that numbers of a stored row, of one name, are whole and from `low` to `high`.

    Raises:
        ValueError: one is not.
    """
    values = np.ravel(values)
    damaged = values[~((values >= low) & (values <= high) & (values == np.floor(values)))]
    if len(damaged):
        raise ValueError(
            f"the row in this state of {kind} is damaged: {name} is a whole number from "
            f"{low:g} to {high:g}, got {damaged[0]:g}; start it anew"
        )


def real(name: str, value: float, *, low: float, high: float, open_at: str = "") -> float:
    """Return a parameter that is a number from `low` to `high`, but for the ends in `open_at`."""
    what = f"{name} is a number {_interval(low, high, open_at)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what}, got {value!r}")
    above = low < value if "low" in open_at else low <= value
    below = value < high if "high" in open_at else value <= high
    if not (above and below):
        raise ValueError(f"{what}, got {value!r}")
    return float(value)


def whole(name: str, value: int, *, low: int, high: int) -> int:
    """Return a parameter that is a whole number from `low` to `high`."""
    try:
        integer = operator.index(value)
    except TypeError:
        integer = low - 1
    if isinstance(value, bool) or not low <= integer <= high:
        raise ValueError(f"{name} is a whole number from {low} to {high}, got {value!r}")
    return integer


def flag(name: str, value: bool) -> bool:
    """Return a parameter that is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false, got {value!r}")
    return value


def _interval(low: float, high: float, open_at: str) -> str:
    return (
        f"{'above' if 'low' in open_at else 'from'} {low:g} "
        f"{'and below' if 'high' in open_at else 'to'} {high:g}"
    )


def made(make: Callable[..., T], name: str, params: Mapping[str, Any]) -> T:
    """`make(**params)`.

    Raises:
        ValueError: a parameter is unknown, missing or of a wrong type; the message starts with
            `name` and lists the known parameters.
    """
    parameters = inspect.signature(make).parameters
    known = ", ".join(parameters)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [repr(key) for key in params if key not in parameters]
    if unknown and not takes_any:
        raise ValueError(
            f"{name}: unknown parameter {', '.join(unknown)} (its parameters: {known})"
        )
    try:
        return make(**params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error} (its parameters: {known})") from error


def check_state(state: Mapping[str, Any], kind: str, fmt: int, *fields: str) -> None:
    """Check that `state` is one that `kind` can read.

    Raises:
        ValueError: it is of another detector or format, or lacks one of `fields`.
    """
    if state.get("detector") != kind:
        raise ValueError(f"this is the state of {state.get('detector')!r}, not of {kind!r}")
    if state.get("format") != fmt:
        raise ValueError(
            f"this state of {kind} has format {state.get('format')!r}, and this version reads "
            f"{fmt}; start the detector anew"
        )
    missing = [field for field in (*fields, "params", "n_seen") if field not in state]
    if missing:
        raise ValueError(f"this state of {kind} lacks {', '.join(missing)}")


def check_river(state: Mapping[str, Any], kind: str, version: str) -> None:
    """Check that `state`, which holds River's own objects, is of the River that is installed.

    Raises:
        ValueError: it is of another version.
    """
    if state.get("river") != version:
        raise ValueError(
            f"this state of {kind} was made with River {state.get('river')}, and River {version} "
            f"is installed; install that version, or start the detector anew"
        )
