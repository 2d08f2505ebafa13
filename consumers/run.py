"""`streamgauge run`: the worker, and beside it the MLflow sink, until told to stop."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from consumers.settings import open_broker, state_key
from consumers.sink_process import SinkProcess
from consumers.summary import summarize
from consumers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stream.config import Config

_PULSE_S = 1.0


def run(
    config: Config, *, until_idle: bool, with_sink: bool, alive: Path | None = None
) -> dict[str, Any]:
    """Work until SIGTERM or SIGINT, or with `until_idle` until all input is processed.

    What was being processed when the signal came is committed first.

    Args:
        config: the whole configuration.
        until_idle: end when there is nothing more to do.
        with_sink: run the MLflow sink beside the worker.
        alive: a file to touch about once a second while work goes on, for liveness probes.

    Returns:
        The summary.

    Raises:
        BrokerError: the broker cannot be used, or another worker owns every partition.
    """
    started_s = time.monotonic()
    # Pending predictions are many and live long; looking through them for cycles is wasted.
    gc.set_threshold(50_000, 20, 100)
    with (
        open_broker(config) as broker,
        broker.tasks() as tasks,
        _stop_signals() as stop,
    ):
        worker = Worker(config, tasks, state_key=state_key(config))
        worker.start()
        with SinkProcess(config) if with_sink else contextlib.nullcontext():
            pulse = _Pulse(alive)

            def should_stop() -> bool:
                pulse.beat()
                return stop.is_set()

            worker.run(until_idle=until_idle, should_stop=should_stop)
            seconds = time.monotonic() - started_s
        return summarize(broker, config, worker.totals(), seconds)


class _Pulse:
    """Touches a file, if there is one, about once a second."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._next_s = 0.0

    def beat(self) -> None:
        now_s = time.monotonic()
        if self._path is not None and now_s >= self._next_s:
            self._path.touch()
            self._next_s = now_s + _PULSE_S


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of what they do otherwise."""
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
