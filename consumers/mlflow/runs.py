"""The log of runs: each entry goes to the run of its version, once."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from streamgauge.consumers.broker import BrokerError, BrokerTimeoutError
from streamgauge.consumers.mlflow.entries import RunKey, quiet_points
from streamgauge.consumers.mlflow.store import (
    METRICS_MAX,
    MODEL_TAG,
    VERSION_TAG,
    MLflowDownError,
    RefusedError,
    active_runs,
    ask,
    call,
    connect,
    default_store,
    find_experiment,
    log_points,
    translate_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow import MlflowClient
    from mlflow.entities import Run

    from streamgauge.consumers.broker import Broker
    from streamgauge.consumers.config import Config
    from streamgauge.consumers.mlflow.entries import Entry
    from streamgauge.stream.records import Record

RUNS_CACHED_MAX = 20_000
END_RUNS_S = 10.0
_RUN_NAME_LENGTH_MAX = 250

# MLflow's pages keep tags of this prefix to themselves, and this one says nothing to a person.
PLACES_TAG = "mlflow.streamgauge.places"
N_DRIFTS_TAG = "streamgauge.n_drifts"
# Event time, epoch milliseconds: the end of the run, should another sink have to end it.
_LAST_MS_TAG = "mlflow.streamgauge.last_ms"

_DESCRIPTION = (
    "What streamgauge saw of model `{model}`, version `{version}`: its charts are under **Model "
    "metrics**. A step is one outcome (a prediction and its label), times are event times. "
    "`2_drift/...` is 1 where a detector found the model worse and -1 where it found it better; "
    "`2_drift/retrain_requested` is 1 where a retrain was asked for, and the whole request is "
    "among the artifacts. The run is finished when another version is served, or when nobody "
    "watches."
)
_EXPERIMENT_TAGS = {
    # Else MLflow's pages open with what they have for language models. (Those of 3.17 ask only the
    # address that they are opened with; see `charts_url`.)
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "What streamgauge saw, one run for each model version. To see the charts, switch MLflow "
        "from GenAI to **Model training**."
    ),
}

log = logging.getLogger(__name__)


class LoggedUpTo(NamedTuple):
    """The last record of a topic partition that a run holds; the digest tells whose log it was."""

    offset: int
    digest: str


def _place_of(record: Record) -> LoggedUpTo:
    return LoggedUpTo(
        record.offset, hashlib.blake2b(record.value or b"", digest_size=4).hexdigest()
    )


def _partition_of(record: Record) -> str:
    return f"{record.topic}/{record.partition}"


def _places_in(text: str | None) -> dict[str, LoggedUpTo]:
    try:
        return {name: LoggedUpTo(*place) for name, place in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # somebody has edited the tag; the store still keeps one of each point


@dataclass(slots=True)
class _OpenRun:
    """A run that is written to; its times are event times."""

    run_id: str
    start_ms: int
    last_ms: int
    end_ms: int | None = None
    n_drifts: int = 0
    places: dict[str, LoggedUpTo] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        return self.end_ms is None


def _opened(run: Run) -> _OpenRun:
    info, tags = run.info, run.data.tags
    last_ms, n_drifts = tags.get(_LAST_MS_TAG, ""), tags.get(N_DRIFTS_TAG, "")
    return _OpenRun(
        info.run_id,
        info.start_time,
        int(last_ms) if last_ms.isdecimal() else info.start_time,
        None if info.status == "RUNNING" else info.end_time or info.start_time,
        int(n_drifts) if n_drifts.isdecimal() else 0,
        _places_in(tags.get(PLACES_TAG)),
    )


class RunLog:
    """Writes entries to the runs of one experiment, each entry once.

    Runs, and the experiment, are made when the first entry asks for them. Memory is bounded by
    the places of `RUNS_CACHED_MAX` runs.

    Attributes:
        n_refused: entries and artifacts that MLflow has refused for good.
    """

    def __init__(self, config: Config, broker: Broker) -> None:
        self.n_refused = 0
        self._config = config
        self._broker = broker
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._open_runs: dict[RunKey, _OpenRun] = {}
        self._served: dict[str, str] = {}

    def close(self) -> None:
        """Say that the runs are finished, those that time allows; the next write resumes them."""
        give_up_at = time.monotonic() + END_RUNS_S
        for run in self._open_runs.values():
            if run.is_running:
                try:
                    self._end(run)
                except MLflowDownError:
                    return
                if time.monotonic() > give_up_at:
                    return

    def write(self, key: RunKey, entries: list[Entry]) -> None:
        """Write the entries of one run, in order; what MLflow has taken leaves the list.

        Raises:
            MLflowDownError: those still in the list are to be written later.
        """
        while entries:
            n_points = n = 0
            while n < len(entries) and (
                n_points == 0 or n_points + len(entries[n].points) <= METRICS_MAX
            ):
                n_points += len(entries[n].points)
                n += 1
            self._write_chunk(key, entries[:n])
            del entries[:n]

    def _write_chunk(self, key: RunKey, entries: list[Entry]) -> None:
        """Write the entries; where MLflow refuses them, find the culprit by halving."""
        try:
            run = self._open(key, min(entry.timestamp_ms for entry in entries))
            run.last_ms = max(run.last_ms, *(entry.timestamp_ms for entry in entries))
            new = [entry for entry in entries if not self._holds(run, entry.record)]
            if new:
                self._send(run, new)
            self._show_status(key, run, entries)
        except RefusedError as error:
            if self._forget_if_deleted(key):
                self._write_chunk(key, entries)
            elif len(entries) > 1:
                half = len(entries) // 2
                self._write_chunk(key, entries[:half])
                self._write_chunk(key, entries[half:])
            else:
                self._skip(entries[0], error)

    def _skip(self, entry: Entry, error: RefusedError) -> None:
        self.n_refused += 1
        record = entry.record
        if entry.run in self._open_runs:
            self._open_runs[entry.run].places[_partition_of(record)] = _place_of(record)
        where = f"{_partition_of(record)} offset {record.offset}"
        log.error("MLflow refuses %s of %s/%s, which is skipped: %s", where, *entry.run, error)

    def _send(self, run: _OpenRun, entries: list[Entry]) -> None:
        tags: dict[str, str] = {}
        places = dict(run.places)
        for entry in entries:
            self._put_artifact(run, entry)
            tags |= entry.tags
            places[_partition_of(entry.record)] = _place_of(entry.record)
        n_drifts = run.n_drifts + sum(entry.n_drifts for entry in entries)
        tags |= {
            PLACES_TAG: json.dumps(places),
            N_DRIFTS_TAG: str(n_drifts),
            _LAST_MS_TAG: str(run.last_ms),
        }

        points = [point for entry in entries for point in entry.points]
        if not run.places:
            detectors = self._config.model_for(entries[0].run.model).detectors
            points = quiet_points(detectors, run.start_ms) + points
        log_points(self._connected(), run.run_id, points, tags)
        run.places, run.n_drifts = places, n_drifts

    def _put_artifact(self, run: _OpenRun, entry: Entry) -> None:
        if entry.artifact is None:
            return
        try:
            self._connected().log_dict(run.run_id, entry.artifact, entry.artifact_path)
        except Exception as error:
            # An artifact store raises whatever its library raises (boto3, ...).
            ours = translate_error(error)
            if isinstance(ours, MLflowDownError) or self._is_deleted(run):
                raise ours from error
            self.n_refused += 1
            what = f"{entry.artifact_path} of {entry.run.model}/{entry.run.version}"
            log.error("MLflow cannot store the artifact %s: %s", what, ours)  # noqa: TRY400

    def _show_status(self, key: RunKey, run: _OpenRun, entries: Sequence[Entry]) -> None:
        """Show a run as running while its version is served, else as ended with its last event."""
        if any(entry.is_of_served for entry in entries):
            self._serve(key)
        if self._served.get(key.model, key.version) == key.version:
            if not run.is_running:
                self._resume(run)
        elif run.end_ms is None or run.end_ms < run.last_ms:
            self._end(run)

    def _serve(self, key: RunKey) -> None:
        if self._served.get(key.model) == key.version:
            return
        for other, run in self._open_runs.items():
            if other.model == key.model and other != key and run.is_running:
                self._end(run)
        if len(self._served) >= RUNS_CACHED_MAX:
            del self._served[next(iter(self._served))]
        self._served[key.model] = key.version

    def _end(self, run: _OpenRun) -> None:
        try:
            call(self._connected().set_terminated, run.run_id, "FINISHED", run.last_ms)
        except RefusedError as error:
            log.debug("run %s does not end: %s", run.run_id, error)  # deleted, perhaps
        run.end_ms = run.last_ms

    def _resume(self, run: _OpenRun) -> None:
        try:
            call(self._connected().update_run, run.run_id, "RUNNING")
        except RefusedError as error:
            log.debug("run %s does not go on: %s", run.run_id, error)
        run.end_ms = None

    def _holds(self, run: _OpenRun, record: Record) -> bool:
        """Return true if the run has the record already, read again after a crash."""
        name = _partition_of(record)
        place = run.places.get(name)
        if place is None or record.offset > place.offset:
            return False
        if self._is_of_this_log(record, place):
            return True
        # The topic was made anew since; its offsets say nothing about what the run holds.
        del run.places[name]
        return False

    def _is_of_this_log(self, record: Record, place: LoggedUpTo) -> bool:
        topic, partition = record.topic, record.partition
        try:
            found = self._broker.fetch(topic, partition, place.offset, place.offset + 1)
        except BrokerTimeoutError:
            raise
        except BrokerError:
            return False  # retention drops the oldest first, and `record` is older
        return [_place_of(last) for last in found] == [place]

    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._client = connect(self._config)
        return self._client

    def _open(self, key: RunKey, start_time_ms: int) -> _OpenRun:
        run = self._open_runs.get(key)
        if run is None:
            run = self._find(key) or self._create(key, start_time_ms)
            if len(self._open_runs) >= RUNS_CACHED_MAX:
                del self._open_runs[next(iter(self._open_runs))]
            self._open_runs[key] = run
        return run

    def _find(self, key: RunKey) -> _OpenRun | None:
        tags = {MODEL_TAG: key.model, VERSION_TAG: key.version}
        runs = ask(active_runs, self._connected(), self._experiment(), tags)
        return _opened(runs[0]) if runs else None

    def _create(self, key: RunKey, start_time_ms: int) -> _OpenRun:
        self._end_predecessors(key)
        run = call(
            self._connected().create_run,
            self._experiment(),
            start_time=start_time_ms,
            run_name=f"{key.model}/{key.version}"[:_RUN_NAME_LENGTH_MAX],
            tags={
                MODEL_TAG: key.model,
                VERSION_TAG: key.version,
                "mlflow.source.name": "streamgauge",
                "mlflow.note.content": _DESCRIPTION.format(model=key.model, version=key.version),
            },
        )
        return _OpenRun(run.info.run_id, start_time_ms, start_time_ms)

    def _end_predecessors(self, key: RunKey) -> None:
        """End what a sink that was killed has left running, now that another version comes."""
        tags = {MODEL_TAG: key.model}
        for run in ask(active_runs, self._connected(), self._experiment(), tags):
            version = run.data.tags.get(VERSION_TAG, "")
            is_open = RunKey(key.model, version) in self._open_runs
            if run.info.status == "RUNNING" and not is_open:
                self._end(_opened(run))

    def _experiment(self) -> str:
        if self._experiment_id is None:
            self._experiment_id = (
                find_experiment(self._connected(), self._config) or self._create_experiment()
            )
        return self._experiment_id

    def _create_experiment(self) -> str:
        name = self._config.mlflow.experiment
        artifacts = None
        if self._config.mlflow.tracking_uri is None:
            artifacts = default_store(self._config).with_name("mlartifacts").as_uri()
        try:
            create = self._connected().create_experiment
            return str(call(create, name, artifact_location=artifacts, tags=_EXPERIMENT_TAGS))
        except RefusedError as error:
            # Another process may have been first.
            experiment_id = find_experiment(self._connected(), self._config)
            if experiment_id is None:
                raise MLflowDownError(f"experiment {name!r}: {error}") from error
            return experiment_id

    def _forget_if_deleted(self, key: RunKey) -> bool:
        """Forget the run, or its experiment, if MLflow has it no more; return true if so."""
        run = self._open_runs.get(key)
        if run is not None:
            if not self._is_deleted(run):
                return False
            del self._open_runs[key]
        known, self._experiment_id = self._experiment_id, None
        is_new = self._experiment() != known
        if run is not None:
            log.warning("the run of %s/%s was deleted; it goes on in a new run", *key)
        return is_new or run is not None

    def _is_deleted(self, run: _OpenRun) -> bool:
        try:
            found = call(self._connected().get_run, run.run_id)
        except RefusedError as error:
            if error.missing:
                return True
            raise MLflowDownError(str(error)) from error
        return bool(found.info.lifecycle_stage == "deleted")
