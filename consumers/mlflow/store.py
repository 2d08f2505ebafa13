"""The one way to MLflow: its store, our calls to it, and its errors in our words."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import Run

    from streamgauge.consumers.config import Config
    from streamgauge.consumers.mlflow.entries import Point

T = TypeVar("T")

METRICS_MAX = 900  # in one call: MLflow takes 1000 metrics and tags together

MODEL_TAG = "streamgauge.model"
VERSION_TAG = "streamgauge.version"

# Read by MLflow when it is imported or called. What the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # else a traceback for each call that fails
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # by default a call takes minutes to fail
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# 4xx that say nothing against the record: rights, conflicts and limits can change.
_NO_REFUSAL = frozenset({401, 403, 408, 409, 429})

log = logging.getLogger(__name__)


class TrackingError(StreamgaugeError):
    """MLflow cannot give what was asked of it; the message says why and what to do."""


class MLflowDownError(TrackingError):
    """MLflow does not take records now; those that it has not taken wait in the topics."""


class RefusedError(StreamgaugeError):
    """MLflow has answered and will never do this; `missing` says it knows no such thing."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


def default_store(config: Config) -> Path:
    """Return the path of the database that is used where no tracking URI is configured."""
    return Path(config.broker.data_dir).absolute() / "mlflow.db"


def tracking_uri(config: Config) -> str:
    """Return the store's URI: the configured one, else of a database in the broker's folder."""
    return config.mlflow.tracking_uri or f"sqlite:///{default_store(config)}"


def redacted_uri(config: Config) -> str:
    """Return the tracking URI as it may be printed: without a password."""
    return re.sub(r"://[^@/]*@", "://***@", tracking_uri(config))


def connect(config: Config) -> MlflowClient:
    """Return a client of the store, which is made where it is the default one and absent.

    Raises:
        MLflowDownError: the store cannot be opened.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return ask(_connect, config)


def _connect(config: Config) -> MlflowClient:
    from mlflow import MlflowClient

    if config.mlflow.tracking_uri is None:
        _create_store(default_store(config))
    return MlflowClient(tracking_uri=tracking_uri(config))


def _create_store(path: Path) -> None:
    # A kill during MLflow's first migrations leaves a database that MLflow can never open again,
    # so it is made aside and appears whole.
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="mlflow-new-") as folder:
        aside = Path(folder) / path.name
        MlflowClient(tracking_uri=f"sqlite:///{aside}")
        try:
            path.hardlink_to(aside)
        except FileExistsError:
            log.debug("%s: another process was first", path)


def call(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return what a function of MLflow returns.

    Raises:
        MLflowDownError: it could not be reached, or cannot do it now.
        RefusedError: it will never do this.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return function(*args, **kwargs)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise translate_error(error) from error


def ask(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return what a function of MLflow returns, for calls whose refusal is no record's fault.

    Raises:
        MLflowDownError: it does not answer this, for whatever reason.
    """
    try:
        return call(function, *args, **kwargs)
    except RefusedError as error:
        raise MLflowDownError(str(error)) from error


def translate_error(error: Exception) -> MLflowDownError | RefusedError:
    """Return an error of MLflow, or of a library under it, as an outage or as a refusal."""
    text = str(error).strip()
    system_error = re.search(r"\[Errno -?\d+\] [\w ]+", text)
    if system_error is not None:
        reason = system_error[0]
    else:
        reason = (text.splitlines() or [type(error).__name__])[0][:300]
    if _is_outage(error):
        return MLflowDownError(reason)
    missing = getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"
    return RefusedError(reason, missing=missing)


def _is_outage(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from requests import HTTPError
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    elif isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError)):
        return False  # a folder for artifacts that is not ours to write
    else:
        return isinstance(error, (OSError, SQLAlchemyError))
    return status >= 500 or status in _NO_REFUSAL


def active_runs(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> list[Run]:
    """Return the experiment's runs that carry these tags and are not deleted, the oldest first."""
    # MLflow's filters cannot quote every string: what might need it becomes LIKE's wildcard.
    patterns = {name: re.sub(r"[^\w.\- /:]", "_", value) for name, value in tags.items()}
    query = " and ".join(f"tags.`{name}` LIKE '{like}'" for name, like in patterns.items())
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs += [run for run in page if tags.items() <= run.data.tags.items()]
        token = page.token
        if not token:
            return runs


def find_experiment(client: MlflowClient, config: Config) -> str | None:
    """Return the id of the configured experiment; None where there is none yet.

    Raises:
        MLflowDownError: MLflow does not answer, or the experiment is deleted.
    """
    name = config.mlflow.experiment
    found = ask(client.get_experiment_by_name, name)
    if found is None:
        return None
    experiment_id = str(found.experiment_id)
    if found.lifecycle_stage == "deleted":
        raise MLflowDownError(
            f"experiment {name!r} is deleted: restore it with `mlflow experiments restore "
            f"--experiment-id {experiment_id}` (with MLFLOW_TRACKING_URI={redacted_uri(config)}), "
            "or name another one in mlflow.experiment"
        )
    return experiment_id


def log_points(
    client: MlflowClient, run_id: str, points: Iterable[Point], tags: Mapping[str, str]
) -> None:
    """Write the points, then the tags: when the tags are there, so are the points.

    Raises:
        MLflowDownError: MLflow may have taken some or all; the same call may be made again.
        RefusedError: it has not taken all, and never will.
    """
    from mlflow.entities import Metric, RunTag

    metrics = [Metric(point.key, point.value, point.timestamp_ms, point.step) for point in points]
    # The client would cut what is too much for one call, but send the tags with the first part.
    while len(metrics) > METRICS_MAX:
        call(client.log_batch, run_id, metrics=metrics[:METRICS_MAX])
        metrics = metrics[METRICS_MAX:]
    run_tags = [RunTag(name, value) for name, value in tags.items()]
    call(client.log_batch, run_id, metrics=metrics, tags=run_tags)
