"""Sends events to the input topics, at a rate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamgauge.consumers.broker import Producer
    from streamgauge.consumers.traffic.labels import Event
    from streamgauge.stream.config import Topics

FLUSH_EVERY = 1000  # predictions
AHEAD_S = 0.02  # shorter sleeps are not worth their flush


def send_events(
    events: Iterable[Event],
    producer: Producer,
    topics: Topics,
    *,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Send predictions and labels in their order.

    Args:
        events: what to send.
        producer: it is flushed at least every thousand predictions and at the end.
        topics: the names of the input topics.
        rate: predictions per second; None is as fast as possible.
        progress: called with the number of predictions sent, after each flush.

    Returns:
        The number of predictions.
    """
    topic_of = {"prediction": topics.predictions, "label": topics.labels}
    started_s = time.monotonic()
    n = 0
    for event in events:
        if event.kind == "prediction":
            ahead_s = n / rate - (time.monotonic() - started_s) if rate else 0.0
            if ahead_s > AHEAD_S or (n and n % FLUSH_EVERY == 0):
                producer.flush()
                if progress:
                    progress(n)
                time.sleep(max(0.0, ahead_s))
            n += 1
        producer.send(topic_of[event.kind], event.value, key=event.key)
    producer.flush()
    if progress:
        progress(n)
    return n
