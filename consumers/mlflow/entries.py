"""Entries of a run in MLflow, as records of the metrics, alarms and retrain topics make them."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from streamgauge.consumers.published import UnreadableRecordError, read
from streamgauge.stream.contracts import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamgauge.consumers.config import Config
    from streamgauge.stream.config import DetectorConfig
    from streamgauge.stream.contracts import AlarmEvent, MetricPoint
    from streamgauge.stream.records import Record

KEY_LENGTH_MAX = 250
_INT64_MAX = 2**63 - 1

# MLflow's pages show a section of charts for each first part of a name, sorted by name. What people
# look for first comes first; each other signal has the number 3.
_SECTIONS = {"performance": "1_performance", "join": "4_join"}
_DRIFT = "2_drift"
_RETRAIN_KEY = f"{_DRIFT}/retrain_requested"

_NOT_IN_A_KEY = re.compile(r"[^\w.\- /]")
_NOT_IN_A_FILE_NAME = re.compile(r"[^\w.-]")


class RunKey(NamedTuple):
    """The subject of a run: one version of one model."""

    model: str
    version: str


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    step: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The addition of one record to its run.

    Attributes:
        timestamp_ms: event time.
        n_drifts: how many drifts it reports, 0 or 1.
        is_of_served: whether it says that its version is the one that is served.
        artifact: the JSON document to keep, at `artifact_path` within the run.
    """

    record: Record
    run: RunKey
    timestamp_ms: int
    points: list[Point]
    tags: dict[str, str] = field(default_factory=dict)
    n_drifts: int = 0
    is_of_served: bool = False
    artifact: dict[str, Any] | None = None
    artifact_path: str = ""


def metric_key(name: str) -> str:
    """Return `name` as MLflow accepts it: unchanged, or cleaned and told apart by a hash.

    >>> metric_key("error/adwin width")
    'error/adwin width'
    >>> metric_key("f1/c++")
    'f1/c__-6e3d74'
    """
    cleaned = _NOT_IN_A_KEY.sub("_", name)
    if posixpath.normpath(cleaned) != cleaned or cleaned.startswith(("/", ".")):
        cleaned = "_" + cleaned.replace("/", "_")
    if cleaned == name and len(name) <= KEY_LENGTH_MAX:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=3).hexdigest()
    return f"{cleaned[: KEY_LENGTH_MAX - 7]}-{digest}"


def quiet_points(detectors: Mapping[str, DetectorConfig], timestamp_ms: int) -> list[Point]:
    """Return the zeros with which a run's charts of drifts and requests begin."""
    keys = [_drift_key(detector.signal, name) for name, detector in detectors.items()]
    return [Point(key, 0.0, 0, timestamp_ms) for key in (*keys, _RETRAIN_KEY)]


def read_entry(record: Record, config: Config) -> Entry:
    """Return what a record adds to its run.

    Raises:
        UnreadableRecordError: it is not what its topic holds.
    """
    make = {
        config.topics.metrics: _of_metric_point,
        config.topics.alarms: _of_alarm,
        config.topics.retrain: _of_retrain_request,
    }[record.topic]
    try:
        entry = make(record, config)
        for point in entry.points:
            _check(point)
    except UnreadableRecordError:
        raise
    except ValueError as error:
        raise UnreadableRecordError(record, str(error)) from error
    return entry


def _check(point: Point) -> None:
    if not math.isfinite(point.value):
        raise ValueError(f"{point.key}: a metric is a finite number, got {point.value}")
    if not (0 <= point.timestamp_ms <= _INT64_MAX and point.step <= _INT64_MAX):
        raise ValueError(
            f"{point.key}: step {point.step} at {point.timestamp_ms} ms is out of range"
        )


def _of_metric_point(record: Record, config: Config) -> Entry:
    metric = read("metrics", record)
    return Entry(
        record,
        RunKey(metric.model, metric.version),
        metric.timestamp_ms,
        [
            Point(_key(metric.signal, name), value, metric.step, metric.timestamp_ms)
            for name, value in _worth_a_chart(metric, config)
        ],
        is_of_served=metric.signal == "join",
    )


def _worth_a_chart(metric: MetricPoint, config: Config) -> Iterable[tuple[str, float]]:
    if metric.signal == "performance":
        return [item for item in metric.values.items() if item[0] != "n_outcomes"]  # the step
    if metric.signal != "join":
        return metric.values.items()
    levels = {"n_pending", "n_early"}
    if config.model_for(metric.model).join.label_maturity:
        levels.add("n_held")
    # The other counts only rise: a zero says no more than no point.
    return [item for item in metric.values.items() if item[1] or item[0] in levels]


def _key(signal: str, name: str) -> str:
    return metric_key(f"{_SECTIONS.get(signal, f'3_{signal}')}/{name}")


def _drift_key(signal: str, detector: str) -> str:
    return metric_key(f"{_DRIFT}/{signal}.{detector}")


def _spike(key: str, value: float, step: int, timestamp_ms: int) -> list[Point]:
    """Return a value at one step and 0 beside it: MLflow draws lines between points."""
    return [
        Point(key, 0.0, max(0, step - 1), timestamp_ms),
        Point(key, value, step, timestamp_ms),
        Point(key, 0.0, step + 1, timestamp_ms),
    ]


def _of_alarm(record: Record, config: Config) -> Entry:
    alarm = read("alarms", record)
    timestamp_ms = _epoch_ms(alarm.timestamp)
    step = alarm.index + 1
    points = _spike(
        _alarm_key(alarm), -1.0 if alarm.kind == "improvement" else 1.0, step, timestamp_ms
    )
    if alarm.statistic is not None and _charts_its_statistic(alarm, config):
        # Else its chart never passes the threshold: readings are published now and then, and
        # right after an alarm the detector has a new baseline.
        key = _key(alarm.signal, f"{alarm.detector}.statistic")
        points.append(Point(key, alarm.statistic, step, timestamp_ms))
    drifted = alarm.kind == "drift"
    return Entry(
        record,
        RunKey(alarm.model, alarm.version),
        timestamp_ms,
        points,
        tags={"streamgauge.last_drift": rfc3339(timestamp_ms)} if drifted else {},
        n_drifts=int(drifted),
    )


def _charts_its_statistic(alarm: AlarmEvent, config: Config) -> bool:
    from streamgauge.detectors import make_detector  # imports River

    detector = config.model_for(alarm.model).detectors.get(alarm.detector)
    if detector is None:
        return False
    try:
        return "statistic" in make_detector(detector.kind, detector.params).readings()
    except ValueError:
        return False  # the configuration is not that of the worker


def _alarm_key(alarm: AlarmEvent) -> str:
    if alarm.kind == "data_problem":
        return _key("join", "data_problem")
    if alarm.kind == "warning":
        return _drift_key(alarm.signal, f"{alarm.detector}.warning")
    # A drift and an improvement of one detector are two directions of one chart.
    return _drift_key(alarm.signal, alarm.detector)


def _of_retrain_request(record: Record, _: Config) -> Entry:
    attributes, request = read("retrain", record)
    request_id = attributes.get("id", f"{record.partition}-{request.sequence}")
    timestamp_ms = record.timestamp_ms
    if "time" in attributes:
        timestamp_ms = _epoch_ms(datetime.fromisoformat(attributes["time"]))
    return Entry(
        record,
        RunKey(request.model, request.version),
        timestamp_ms,
        _spike(_RETRAIN_KEY, 1.0, request.window.outcome_to, timestamp_ms),
        tags={
            "streamgauge.last_retrain_request": request_id,
            "streamgauge.last_retrain_severity": request.severity,
        },
        artifact={**attributes, "data": json.loads(record.value or b"")},
        artifact_path=f"retrain/{_NOT_IN_A_FILE_NAME.sub('_', request_id)[:200]}.json",
    )


def _epoch_ms(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
