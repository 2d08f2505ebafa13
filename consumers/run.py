"""`streamgauge run`: the worker, and beside it the MLflow sink, until told to stop."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from streamgauge.consumers.broker import BrokerTimeoutError
from streamgauge.consumers.child_process import SinkProcess
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.connect import open_broker, state_key
from streamgauge.consumers.summary import summarize
from streamgauge.consumers.terminal.announce import FindingsLog, LagLog
from streamgauge.consumers.worker import Worker
from streamgauge.detectors import make_detector
from streamgauge.detectors.row import RowDetector
from streamgauge.detectors.warmup import exercise
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS
from streamgauge.stream.totals import Totals, add_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamgauge.consumers.config import Config

_PULSE_S = 1.0
# Much longer than a broker takes that is there, and less than whoever stops us is ready to wait.
_ANSWER_S = 4.0


log = logging.getLogger(__name__)


def run(
    config: Config, *, until_idle: bool, with_sink: bool, alive: Path | None = None
) -> dict[str, Any]:
    """Work until SIGTERM or SIGINT, or with `until_idle` until all input is processed.

    What was being processed when the signal came is committed first, and the sink logs what there
    is; a signal that comes while it does so keeps what is left for the next run.

    Args:
        config: the whole configuration.
        until_idle: end when there is nothing more to do.
        with_sink: run the MLflow sink beside the worker.
        alive: a file to touch about once a second while work goes on, for liveness probes.

    Returns:
        The summary.

    Raises:
        BrokerError: the broker cannot be used, a commit cannot be made, or another worker owns
            every partition; or it was told to stop and the broker is gone, so that there is no
            summary.
        ValueError: a configured detector cannot be made.
    """
    started_s = time.monotonic()
    # Pending predictions are many and live long; looking through them for cycles is wasted.
    gc.set_threshold(50_000, 20, 100)
    # Before it has partitions: where code is to be compiled, that takes seconds.
    warm_up_for(config)
    sink: SinkProcess | None = None
    with open_broker(config) as broker, _stop_signals() as signals:
        try:
            with broker.join_group(MONITOR_INPUTS) as assignment:
                make_engine = partial(Engine, config, state_key=state_key(config))
                worker = Worker(make_engine, assignment, observers=[FindingsLog(), LagLog()])
                worker.start()
                sink = SinkProcess(config) if with_sink else None
                pulse = _Pulse(alive)

                def each_turn() -> None:
                    pulse.beat()
                    if sink is not None:
                        sink.look_after()

                worker.run(
                    until_idle=until_idle,
                    should_stop=lambda: bool(signals),
                    clock_ms=wall_clock_ms,
                    each_turn=each_turn,
                )
                seconds = time.monotonic() - started_s
        finally:
            # Who was told to stop does not wait for brokers that are gone.
            answers = not signals or broker.is_reachable(_ANSWER_S)
            # Only now, when others may have the partitions: MLflow can take its time.
            if sink is not None and answers:
                log.info("writing the last metrics to MLflow ...")
                n_used = min(len(signals), 1)
                sink.close(hurry=lambda: len(signals) > n_used)
            elif sink is not None:
                sink.abandon()
        if not answers:
            raise BrokerTimeoutError(
                f"stopped, but the broker did not answer within {_ANSWER_S:g} s: there is no "
                "summary, and what was not committed is for the next run"
            )
        engines = worker.processors()
        totals = add_up(Totals, [engine.totals() for engine in engines.values()])
        return summarize(broker, config, engines.keys(), totals, seconds)


def warm_up_for(config: Config) -> None:
    """Make the code of the configured detectors ready, each kind once.

    Raises:
        ValueError: a detector cannot be made.
    """
    ready: set[str] = set()
    for model in (config.defaults, *config.models.values()):
        for chosen in model.detectors.values():
            detector = make_detector(chosen.kind, chosen.params)
            # River's are not compiled, and may fail on values, which ends no worker. Ours are the
            # same code whatever their parameters.
            if isinstance(detector, RowDetector) and chosen.kind not in ready:
                exercise(detector)
                ready.add(chosen.kind)


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
def _stop_signals() -> Iterator[list[int]]:
    """Collect the SIGTERMs and SIGINTs that come, instead of what they do otherwise."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
