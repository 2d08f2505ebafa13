"""Numbers, times and trends as short text that cannot steer a terminal."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Beyond it sums could overflow.
_HUGE = 1e300
_BLOCKS = "▁▂▃▄▅▆▇█"
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw a series as `width` bars at most, each the mean of its share of the values.

    Bars span 0.1 at least where values are in [0, 1], else a tenth of their mean: a steady series
    looks steady, however little it moves. NaN is left out.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8), sparkline([1, 1, 9, 9], 2), sparkline([5, 5], 8)
    ('▁▂▃▄▅▆▇█', '▁█', '▅▅')
    >>> sparkline([0.92, 0.91, 0.92, 0.90], 4), sparkline([5000, 5010], 2)
    ('▅▅▅▄', '▄▅')
    """
    series = [min(max(value, -_HUGE), _HUGE) for value in values if not math.isnan(value)]
    n = min(width, len(series))
    edges = [i * len(series) // n for i in range(n + 1)] if n else []
    means = [sum(series[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = max(high - low, _span_min(means))
    if not span:
        return _BLOCKS[0] * n
    start = low - (span - (high - low)) / 2
    return "".join(_BLOCKS[round((mean - start) / span * (len(_BLOCKS) - 1))] for mean in means)


def _span_min(means: Sequence[float]) -> float:
    if all(0 <= mean <= 1 for mean in means):
        return 0.1
    return 0.1 * abs(sum(means) / len(means))


def clean(value: object) -> str:
    """Return text that cannot steer the terminal, whatever a record holds."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def number(value: object) -> str:
    """Write a number in about six characters.

    >>> [number(x) for x in (0.123456, 12345, 12.0, 1234.56, 1.5e9, None, math.nan)]
    ['0.123', '12,345', '12', '1,235', '1.5e+09', '?', 'nan']
    """
    if not isinstance(value, int | float):
        return "?"
    if abs(value) >= 1e7 or math.isnan(value):
        return f"{value:.3g}"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def moment(value: object) -> str:
    """Write an RFC 3339 time to the second, as `2024-01-01 00:00:00`."""
    return clean(value or "?")[:19].replace("T", " ")


def without_year(text: str) -> str:
    """Return a time of `moment` without its year, and any other text as it is."""
    return text[5:] if _MOMENT.fullmatch(text) else text


def before_after(before: object, after: object) -> str:
    """Write two numbers as a change from one to the other."""
    return f"{number(before)} → {number(after)}"


def counted(n: int, thing: str) -> str:
    """Write a number of things.

    >>> counted(1, "label"), counted(14000, "label")
    ('1 label', '14,000 labels')
    """
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
