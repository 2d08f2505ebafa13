"""What each record of the metrics, alarms and retrain topics adds to a run in MLflow."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from stream.contracts import AlarmEvent, MetricPoint, RetrainRequest, rfc3339

if TYPE_CHECKING:
    from stream.config import Topics
    from stream.records import Headers, Record

KEY_LENGTH_MAX = 250
_INT64_MAX = 2**63 - 1
_NOT_IN_A_KEY = re.compile(r"[^\w.\- /]")
_NOT_IN_A_FILE_NAME = re.compile(r"[^\w.-]")


class UnreadableRecordError(ValueError):
    """A record is not what its topic holds; the message says where it is and why."""


class RunKey(NamedTuple):
    """What a run is about: one version of one model."""

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
    """What one record adds to its run.

    Attributes:
        timestamp_ms: event time.
        n_drifts: how many drifts it reports, 0 or 1.
        artifact: the JSON document to keep, at `artifact_path` within the run.
    """

    record: Record
    run: RunKey
    timestamp_ms: int
    points: list[Point]
    tags: dict[str, str] = field(default_factory=dict)
    n_drifts: int = 0
    artifact: dict[str, Any] | None = None
    artifact_path: str = ""


def metric_key(name: str) -> str:
    """`name` as MLflow accepts it: unchanged, or cleaned and told apart by a hash.

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


def read_entry(record: Record, topics: Topics) -> Entry:
    """What the record says.

    Raises:
        UnreadableRecordError: it is not what its topic holds.
    """
    read = {
        topics.metrics: _of_metric_point,
        topics.alarms: _of_alarm,
        topics.retrain: _of_retrain_request,
    }[record.topic]
    try:
        entry = read(record)
        for point in entry.points:
            _check(point)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        reason = f"{path}: {first['msg']}" if path else first["msg"]
    except ValueError as error:
        reason = str(error)
    else:
        return entry
    where = f"{record.topic}/{record.partition} offset {record.offset}"
    raise UnreadableRecordError(f"{where}: {reason}")


def _check(point: Point) -> None:
    if not math.isfinite(point.value):
        raise ValueError(f"{point.key}: a metric is a finite number, got {point.value}")
    if not (0 <= point.timestamp_ms <= _INT64_MAX and point.step <= _INT64_MAX):
        raise ValueError(
            f"{point.key}: step {point.step} at {point.timestamp_ms} ms is out of range"
        )


def _of_metric_point(record: Record) -> Entry:
    metric = MetricPoint.model_validate_json(record.value or b"")
    return Entry(
        record,
        RunKey(metric.model, metric.version),
        metric.timestamp_ms,
        [
            Point(metric_key(f"{metric.signal}/{name}"), value, metric.step, metric.timestamp_ms)
            for name, value in metric.values.items()
        ],
    )


def _of_alarm(record: Record) -> Entry:
    alarm = AlarmEvent.model_validate_json(record.value or b"")
    timestamp_ms = _epoch_ms(alarm.timestamp)
    # A drift and an improvement of one detector are two directions of one chart.
    chart = "drift" if alarm.kind == "improvement" else alarm.kind
    key = metric_key(f"{chart}/{alarm.signal}.{alarm.detector}")
    value = -1.0 if alarm.kind == "improvement" else 1.0
    drifted = alarm.kind == "drift"
    return Entry(
        record,
        RunKey(alarm.model, alarm.version),
        timestamp_ms,
        [Point(key, value, alarm.index + 1, timestamp_ms)],
        tags={"streamgauge.last_drift": rfc3339(timestamp_ms)} if drifted else {},
        n_drifts=int(drifted),
    )


def _of_retrain_request(record: Record) -> Entry:
    value = record.value or b""
    request = RetrainRequest.model_validate_json(value)
    attributes = _cloud_event_attributes(record.headers)
    request_id = attributes.get("id", f"{record.partition}-{request.sequence}")
    timestamp_ms = record.timestamp_ms
    if "time" in attributes:
        timestamp_ms = _epoch_ms(datetime.fromisoformat(attributes["time"]))
    point = Point(
        "retrain/requested", float(request.sequence), request.window.outcome_to, timestamp_ms
    )
    return Entry(
        record,
        RunKey(request.model, request.version),
        timestamp_ms,
        [point],
        tags={
            "streamgauge.last_retrain_request": request_id,
            "streamgauge.last_retrain_severity": request.severity,
        },
        artifact={**attributes, "data": json.loads(value)},
        artifact_path=f"retrain/{_NOT_IN_A_FILE_NAME.sub('_', request_id)[:200]}.json",
    )


def _cloud_event_attributes(headers: Headers) -> dict[str, str]:
    return {
        name.removeprefix("ce_"): value.decode()
        for name, value in headers
        if name.startswith("ce_")
    }


def _epoch_ms(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
