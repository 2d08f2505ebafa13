"""The wall clock, as event times are written."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """Return the present time, epoch milliseconds."""
    return time.time_ns() // 1_000_000
