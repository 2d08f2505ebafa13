"""The MLflow sink as a process: it waits while MLflow is down, and ends when it is told to."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamgauge.consumers.broker import BrokerError, BrokerTimeoutError
from streamgauge.consumers.child_process import RECORDS_WAIT_STATUS
from streamgauge.consumers.connect import open_broker
from streamgauge.consumers.mlflow.sink import MLflowSink
from streamgauge.consumers.mlflow.store import MLflowDownError, redacted_uri
from streamgauge.stream.config import duration_text

if TYPE_CHECKING:
    from streamgauge.consumers.broker import Broker
    from streamgauge.consumers.config import Config

POLL_S = 0.2
BACK_OFF_MAX_S = 30.0
DRAIN_TIMEOUT_S = 30.0
TAKE_OVER_TIMEOUT_S = 2 * DRAIN_TIMEOUT_S

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SinkReport:
    """The work of a sink that has ended; the records that wait are logged by the next one."""

    n_logged: int
    n_refused: int
    n_waiting: int


class _Outage:
    """Says once that MLflow is down and once that it is back, and how long to wait in between."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._since: float | None = None
        self._delay_s = 0.0

    def next_delay_s(self, error: Exception) -> float:
        if self._since is None:
            self._since = time.monotonic()
            self._delay_s = 0.25
            log.warning(
                "nothing goes to MLflow at %s (%s); records wait in the topics", self._uri, error
            )
        self._delay_s = min(2 * self._delay_s, BACK_OFF_MAX_S)
        return self._delay_s

    def over(self) -> None:
        if self._since is not None:
            down_ms = round(time.monotonic() - self._since) * 1000
            self._since = None
            log.warning(
                "records go to MLflow at %s again, after %s", self._uri, duration_text(down_ms)
            )


def run_sink(
    config: Config,
    broker: Broker,
    *,
    drain: threading.Event,
    leave: threading.Event,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
) -> SinkReport:
    """Log to MLflow until told to stop; return what was logged and what still waits.

    Args:
        config: names the topics, the broker's folder and the MLflow store.
        broker: where the topics are.
        drain: when set, log everything up to the end of the topics, then return.
        leave: when set, finish the batch at hand, then return.
        drain_timeout_s: how long a drain waits while MLflow is down.

    Raises:
        BrokerError: the topics cannot be read, or another sink is at work and does not end.
    """
    with _take_over(config, broker, leave) as sink:
        outage = _Outage(redacted_uri(config))
        give_up_at = float("inf")
        while not leave.is_set():
            draining = drain.is_set()
            if draining and give_up_at == float("inf"):
                give_up_at = time.monotonic() + drain_timeout_s
            try:
                n = sink.step(POLL_S)
            except (MLflowDownError, BrokerTimeoutError) as error:
                delay_s = outage.next_delay_s(error)
                left_s = give_up_at - time.monotonic()
                if left_s <= 0:
                    break
                _pause(min(delay_s, left_s), leave if draining else drain, leave)
            else:
                outage.over()
                give_up_at = float("inf")
                if draining and n == 0:
                    break
        return SinkReport(sink.n_logged, sink.n_refused, sink.n_waiting())


def _take_over(config: Config, broker: Broker, leave: threading.Event) -> MLflowSink:
    # After a `run` that was killed, its sink may still be draining.
    give_up_at = time.monotonic() + TAKE_OVER_TIMEOUT_S
    while True:
        try:
            return MLflowSink(config, broker)
        except BrokerError:
            if leave.is_set() or time.monotonic() > give_up_at:
                raise
        _pause(0.5, leave)


def _pause(seconds: float, *until: threading.Event) -> None:
    # Not Event.wait: a signal handler that sets the event while its own thread waits for it can
    # find the event's lock taken, and then never returns.
    end = time.monotonic() + seconds
    while time.monotonic() < end and not any(event.is_set() for event in until):
        time.sleep(min(0.05, seconds))


def main_child(config: Config) -> int:
    """Run the sink as a child process, so that MLflow's Python never slows the worker's.

    It drains at the end of its standard input, which comes also when its parent dies; SIGTERM
    makes it finish the batch at hand and leave. SIGINT is the parent's business: a terminal sends
    it to both.

    Returns:
        The exit code: 0 when everything is logged, 3 when records wait in the topics.
    """
    drain = threading.Event()
    threading.Thread(target=_set_at_end_of_input, args=(drain,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _main(config, drain, [signal.SIGTERM])


def main_service(config: Config) -> int:
    """Run the sink as a program of its own: SIGINT or SIGTERM ends it after the batch at hand.

    Returns:
        The exit code: 0 when everything is logged, 3 when records wait in the topics.
    """
    return _main(config, threading.Event(), [signal.SIGINT, signal.SIGTERM])


def _main(config: Config, drain: threading.Event, leave_at: list[signal.Signals]) -> int:
    leave = threading.Event()
    for number in leave_at:
        signal.signal(number, lambda *_: leave.set())
    with open_broker(config) as broker:
        report = run_sink(config, broker, drain=drain, leave=leave)
    if report.n_waiting:
        log.warning(
            "%d records wait in the topics for MLflow; the next sink logs them", report.n_waiting
        )
    return RECORDS_WAIT_STATUS if report.n_waiting else 0


def _set_at_end_of_input(event: threading.Event) -> None:
    # os.read, because a thread inside of sys.stdin's own lock makes the interpreter's exit abort.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    event.set()
