"""Charts and metric histories in MLflow, for a person who looks for them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from streamgauge.consumers.config import Config


def mlflow_ui_command(config: Config) -> str:
    """Return the shell command that serves MLflow's own pages, as typed in the current folder."""
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        return f"python -m webbrowser {shlex.quote(redacted_uri(config))}"
    if config.mlflow.tracking_uri is None and default_store(config).is_relative_to(Path.cwd()):
        uri = f"sqlite:///{default_store(config).relative_to(Path.cwd())}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def charts_url(config: Config, model: str) -> str:
    """Return the address of the charts of a model's newest run, as `mlflow_ui_command` serves them.

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
    """Return what MLflow keeps of a run, or of every run of a model: oldest run first, keys sorted.

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
