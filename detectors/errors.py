"""The root of every error of this program, in the lowest layer: all others may import it."""

from __future__ import annotations


class StreamgaugeError(Exception):
    """An error that streamgauge raises on purpose; its message says what is wrong.

    Each error class of detectors, stream and consumers derives from it, so that a program which
    embeds them can catch all at once. Some are a `ValueError` or a `RuntimeError` as well.
    """
