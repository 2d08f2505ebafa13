"""The MLflow sink: metric points, alarms and retrain requests become runs in MLflow.

The topics are the spool: the sink's place in them is committed only after MLflow has taken the
records, so an MLflow outage delays a chart and loses nothing. What a crash makes the sink read
again is told by the places that each run carries in a tag. MLflow's stores write metrics before
tags, so a crash between the two sends the metrics once more, and the store keeps one of each.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.broker import BrokerError, BrokerTimeoutError
from streamgauge.consumers.child_process import RECORDS_WAIT_STATUS
from streamgauge.consumers.connect import open_broker
from streamgauge.consumers.mlflow.entries import Entry, RunKey, UnreadableRecordError, read_entry
from streamgauge.consumers.mlflow.runs import RunLog
from streamgauge.consumers.mlflow.store import (
    MODEL_TAG,
    VERSION_TAG,
    MLflowDownError,
    RefusedError,
    TrackingError,
    active_runs,
    ask,
    call,
    connect,
    default_store,
    find_experiment,
    redacted_uri,
    tracking_uri,
)
from streamgauge.stream.config import duration_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from streamgauge.consumers.broker import Broker
    from streamgauge.consumers.config import Config

__all__ = [
    "MLflowDownError",
    "MLflowSink",
    "MetricHistory",
    "SinkReport",
    "TrackingError",
    "charts_url",
    "main_child",
    "main_service",
    "metric_histories",
    "mlflow_ui_command",
    "run_sink",
    "tracking_uri",
]

RECORDS_MAX = 2000
POLL_S = 0.2
BACK_OFF_MAX_S = 30.0
DRAIN_TIMEOUT_S = 30.0
TAKE_OVER_TIMEOUT_S = 2 * DRAIN_TIMEOUT_S

log = logging.getLogger(__name__)


class MLflowSink:
    """Logs what the worker publishes to MLflow, each record once.

    Attributes:
        n_logged: records dealt with, those included that were logged before a crash.
        n_unreadable: records that are not what their topic holds; they are skipped.
    """

    def __init__(self, config: Config, broker: Broker) -> None:
        """Follow the topics of metrics, alarms and retrain requests.

        Raises:
            BrokerError: the topics cannot be read, or another sink is at work.
        """
        self.n_logged = 0
        self.n_unreadable = 0
        self._config = config
        self._runs = RunLog(config, broker)
        self._pending: dict[RunKey, list[Entry]] = {}
        self._n_uncommitted = 0
        self._reader = broker.reader(
            [config.topics.metrics, config.topics.alarms, config.topics.retrain],
            group=f"{config.app}-mlflow",
        )

    @property
    def n_refused(self) -> int:
        """Records and artifacts that could not be read, or that MLflow refused for good."""
        return self.n_unreadable + self._runs.n_refused

    def step(self, timeout_s: float) -> int:
        """Log the next records and commit the place after them; how many they were.

        Waits up to `timeout_s` for the first one. After an error the next call goes on with what
        is not logged yet.

        Raises:
            MLflowDownError: MLflow does not take them now.
            BrokerTimeoutError: the broker was busy.
        """
        if not self._n_uncommitted:
            self._poll(timeout_s)
        while self._pending:
            key = next(iter(self._pending))
            self._runs.write(key, self._pending[key])
            del self._pending[key]
        n, self._n_uncommitted = self._n_uncommitted, 0
        if n:
            self._commit(n)
        return n

    def n_waiting(self) -> int:
        """How many records are not logged; reads the topics to their end, so it comes last."""
        n = self._n_uncommitted
        while records := self._reader.poll(0.0, RECORDS_MAX):
            n += len(records)
        return n

    def close(self) -> None:
        """End the runs and let another sink in; what is not committed is the next one's."""
        self._runs.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _poll(self, timeout_s: float) -> None:
        records = self._reader.poll(timeout_s, RECORDS_MAX)
        self._n_uncommitted = len(records)
        for record in records:
            try:
                entry = read_entry(record, self._config)
            except UnreadableRecordError as error:
                self.n_unreadable += 1
                log.error("skipped an unreadable record: %s", error)  # noqa: TRY400
            else:
                self._pending.setdefault(entry.run, []).append(entry)

    def _commit(self, n: int) -> None:
        try:
            self._reader.commit()
        except BrokerTimeoutError:
            self._n_uncommitted = n
            raise
        self.n_logged += n


@dataclass(frozen=True, slots=True)
class SinkReport:
    """What a sink has done when it ends; the records that wait are logged by the next one."""

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
    """Log to MLflow until told to stop; what was logged and what still waits.

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
    """The sink as a child process, so that MLflow's Python never slows the worker's.

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
    """The sink as a program of its own: SIGINT or SIGTERM ends it after the batch at hand.

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


def mlflow_ui_command(config: Config) -> str:
    """The shell command that serves MLflow's own pages, as typed in the current folder."""
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        return f"python -m webbrowser {shlex.quote(redacted_uri(config))}"
    if config.mlflow.tracking_uri is None and default_store(config).is_relative_to(Path.cwd()):
        uri = f"sqlite:///{default_store(config).relative_to(Path.cwd())}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def charts_url(config: Config, model: str) -> str:
    """The address of the charts of a model's newest run, where `mlflow_ui_command` serves them.

    Raises:
        TrackingError: MLflow has no run of the model, or does not answer.
    """
    info = _runs_of_model(connect(config), model, config)[-1].info
    uri = redacted_uri(config)
    base = uri.rstrip("/") if uri.startswith(("http://", "https://")) else "http://localhost:5000"
    # Without the last part MLflow 3.17 shows what it has for language models.
    return (
        f"{base}/#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics"
        "?workflowType=machine_learning"
    )


@dataclass(frozen=True, slots=True)
class MetricHistory:
    """One metric of one run: how many points it has, and their range."""

    run_id: str
    model: str
    version: str
    key: str
    n_points: int
    first_step: int
    last_step: int
    last_value: float
    min_value: float
    max_value: float


def metric_histories(
    config: Config, *, run_id: str | None = None, model: str | None = None
) -> list[MetricHistory]:
    """What MLflow keeps of one run, or of every run of a model: the oldest run first, keys sorted.

    Raises:
        TrackingError: nothing has been logged yet, there is no such run or model, or MLflow does
            not answer.
        ValueError: not exactly one of `run_id` and `model` is given.
    """
    if (run_id is None) == (model is None):
        raise ValueError("give exactly one of run_id and model")
    try:
        return _metric_histories(config, run_id, model)
    except MLflowDownError as error:
        raise TrackingError(f"MLflow at {redacted_uri(config)}: {error}") from error


def _metric_histories(config: Config, run_id: str | None, model: str | None) -> list[MetricHistory]:
    if config.mlflow.tracking_uri is None and not default_store(config).exists():
        raise TrackingError(
            f"nothing is logged yet: {default_store(config)} does not exist; `streamgauge run` "
            "makes it with a model's first metrics, after `metrics.every` outcomes"
        )
    client = connect(config)
    if run_id is not None:
        runs = [_run_of_id(client, run_id, config)]
    else:
        runs = _runs_of_model(client, model or "", config)
    return [_history(client, run, key) for run in runs for key in sorted(run.data.metrics)]


def _run_of_id(client: MlflowClient, run_id: str, config: Config) -> Run:
    try:
        return call(client.get_run, run_id)
    except RefusedError:
        raise TrackingError(
            f"no run {run_id!r} in MLflow at {redacted_uri(config)}; "
            "`streamgauge metrics list --model NAME` shows the runs of a model"
        ) from None


def _runs_of_model(client: MlflowClient, model: str, config: Config) -> list[Run]:
    experiment_id = find_experiment(client, config)
    runs = ask(active_runs, client, experiment_id, {}) if experiment_id is not None else []
    found = [run for run in runs if run.data.tags.get(MODEL_TAG) == model]
    if found:
        return found
    known = sorted({run.data.tags[MODEL_TAG] for run in runs if MODEL_TAG in run.data.tags})
    raise TrackingError(
        f"no run of model {model!r} in experiment {config.mlflow.experiment!r} of MLflow at "
        f"{redacted_uri(config)}; it has runs of: {', '.join(known[:20]) or 'no model'}"
    )


def _history(client: MlflowClient, run: Run, key: str) -> MetricHistory:
    points = ask(client.get_metric_history, run.info.run_id, key)
    values = [point.value for point in points]
    last = max(points, key=lambda point: (point.step, point.timestamp))
    return MetricHistory(
        run_id=run.info.run_id,
        model=run.data.tags.get(MODEL_TAG, ""),
        version=run.data.tags.get(VERSION_TAG, ""),
        key=key,
        n_points=len(points),
        first_step=min(point.step for point in points),
        last_step=last.step,
        last_value=last.value,
        min_value=min(values),
        max_value=max(values),
    )
