"""Which run an entry goes to, and that it goes there once."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from consumers.broker import BrokerError, BrokerTimeoutError
from consumers.tracking_store import (
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
    in_our_words,
    log_points,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from consumers.broker import Broker
    from consumers.tracking_records import Entry, RunKey
    from stream.config import Config
    from stream.records import Record

RUNS_CACHED_MAX = 20_000
_RUN_NAME_LENGTH_MAX = 250

PLACES_TAG = "streamgauge.places"
N_DRIFTS_TAG = "streamgauge.n_drifts"

_DESCRIPTION = (
    "What streamgauge saw of model `{model}`, version `{version}`. A step is one outcome (a "
    "prediction and its label). `drift/...` is 1 where a detector found the model worse and -1 "
    "where it found it better; `retrain/requested` is the number of the retrain request, whose "
    "whole text is among the artifacts."
)

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """The last record of a topic partition that a run holds; the digest tells whose log it was."""

    offset: int
    digest: str


def _place_of(record: Record) -> Place:
    return Place(record.offset, hashlib.blake2b(record.value or b"", digest_size=4).hexdigest())


def _partition_of(record: Record) -> str:
    return f"{record.topic}/{record.partition}"


def _places_in(text: str | None) -> dict[str, Place]:
    try:
        return {name: Place(*place) for name, place in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # somebody has edited the tag; the store still keeps one of each point


@dataclass(slots=True)
class _OpenRun:
    run_id: str
    n_drifts: int = 0
    places: dict[str, Place] = field(default_factory=dict)


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
            run = self._open(key, entries[0].timestamp_ms)
            entries = [entry for entry in entries if not self._holds(run, entry.record)]
            if entries:
                self._send(run, entries)
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
        tags |= {PLACES_TAG: json.dumps(places), N_DRIFTS_TAG: str(n_drifts)}

        points = [point for entry in entries for point in entry.points]
        log_points(self._connected(), run.run_id, points, tags)
        run.places, run.n_drifts = places, n_drifts

    def _put_artifact(self, run: _OpenRun, entry: Entry) -> None:
        if entry.artifact is None:
            return
        try:
            self._connected().log_dict(run.run_id, entry.artifact, entry.artifact_path)
        except Exception as error:
            # An artifact store raises whatever its library raises (boto3, ...).
            ours = in_our_words(error)
            if isinstance(ours, MLflowDownError) or self._is_deleted(run):
                raise ours from error
            self.n_refused += 1
            what = f"{entry.artifact_path} of {entry.run.model}/{entry.run.version}"
            log.error("MLflow cannot store the artifact %s: %s", what, ours)  # noqa: TRY400

    def _holds(self, run: _OpenRun, record: Record) -> bool:
        """Whether the run has the record already, read again after a crash."""
        name = _partition_of(record)
        place = run.places.get(name)
        if place is None or record.offset > place.offset:
            return False
        if self._is_of_this_log(record, place):
            return True
        # The topic was made anew since; its offsets say nothing about what the run holds.
        del run.places[name]
        return False

    def _is_of_this_log(self, record: Record, place: Place) -> bool:
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
        if not runs:
            return None
        found = runs[0].data.tags
        n_drifts = found.get(N_DRIFTS_TAG, "0")
        return _OpenRun(
            runs[0].info.run_id,
            int(n_drifts) if n_drifts.isdecimal() else 0,
            _places_in(found.get(PLACES_TAG)),
        )

    def _create(self, key: RunKey, start_time_ms: int) -> _OpenRun:
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
        return _OpenRun(run.info.run_id)

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
            return str(call(self._connected().create_experiment, name, artifact_location=artifacts))
        except RefusedError as error:
            # Another process may have been first.
            experiment_id = find_experiment(self._connected(), self._config)
            if experiment_id is None:
                raise MLflowDownError(f"experiment {name!r}: {error}") from error
            return experiment_id

    def _forget_if_deleted(self, key: RunKey) -> bool:
        """Whether the run or its experiment is no more; then it is to be found or made anew."""
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
