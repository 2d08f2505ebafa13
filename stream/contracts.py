"""The published contracts: metric points, alarms, retrain requests, as other programs see them.

These models are the contract. Their JSON Schemas and the AsyncAPI document in `docs/` are made
from them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from streamgauge.detectors.base import Direction

RETRAIN_REQUESTED = "io.streamgauge.retrain.requested.v1"

PublishedAlarmKind = Literal["drift", "warning", "improvement", "data_problem"]
Severity = Literal["minor", "moderate", "severe"]
RetrainReason = Literal["drift", "metric", "period"]
Approval = Literal["automatic", "manual"]


def rfc3339(timestamp_ms: int) -> str:
    """Epoch milliseconds as people and other programs read them.

    >>> rfc3339(0)
    '1970-01-01T00:00:00.000Z'
    """
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rfc3339_of(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(_rfc3339_of, return_type=str)]


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    @classmethod
    def read(cls, value: bytes | None) -> Self:
        """Return what the value of a published record says; fields of later versions are ignored.

        Raises:
            ValueError: it is no such thing.
        """
        return cls.model_validate_json(value or b"", extra="ignore")


class MetricPoint(_Contract):
    """The metrics of one signal of one model version after `step` outcomes."""

    model: str
    version: str
    signal: str = Field(description="`performance`, `join`, or the name of a monitored signal")
    step: int = Field(ge=0, description="outcomes of this model version so far")
    timestamp_ms: int = Field(description="event time, epoch milliseconds")
    values: dict[str, float] = Field(description="metric name -> value, all finite")


class AlarmEvent(_Contract):
    """A detector found a change, or the core found input it cannot use."""

    alarm_id: str = Field(description="the same after a replay; use it to drop repeats")
    model: str
    version: str
    signal: str
    detector: str
    kind: PublishedAlarmKind
    direction: Direction
    index: int = Field(ge=0, description="0-based count of outcomes of this model version")
    timestamp: Timestamp = Field(description="event time of the outcome that raised the alarm")
    onset: int = Field(ge=0, description="estimated index of the first outcome after the change")
    statistic: float | None = None
    threshold: float | None = None
    mean_before: float | None = None
    mean_after: float | None = None
    episode: int | None = Field(
        default=None, description="the model version's episode this alarm belongs to, from 1"
    )
    detail: str | None = Field(default=None, description="what a data problem is about")


class OffsetRange(_Contract):
    """Records with offset_from <= offset < offset_to of one topic partition."""

    topic: str
    partition: int
    offset_from: int
    offset_to: int


class RetrainWindow(_Contract):
    """The outcomes from the estimated onset to the request: what there is to retrain on so far.

    They are kept in blocks of 32, of more the older they are: the window begins with the block that
    the onset lies in.
    """

    outcome_from: int = Field(description="index of the first outcome of the window")
    outcome_to: int = Field(description="index after the last outcome of the window")
    n_outcomes: int
    time_from: Timestamp = Field(description="earliest prediction in the window, event time")
    time_to: Timestamp = Field(description="latest outcome in the window, event time")
    predictions: OffsetRange | None = Field(
        description="where the predictions are; null where the labels carried them"
    )
    labels: OffsetRange


class BeforeAfter(_Contract):
    """A metric's mean before the window, since the version's start, and in it; null: not known."""

    before: float | None
    after: float | None


class RetrainRequest(_Contract):
    """The data of a retrain request: which model, why, and on what to retrain it."""

    model: str
    version: str
    partition: int
    sequence: int = Field(ge=1, description="gapless for each partition, from 1")
    episode: int = Field(ge=1, description="the model version's episode, from 1")
    reason: RetrainReason
    severity: Severity
    approval: Approval = Field(description="whether a person must approve before retraining")
    alarms: list[AlarmEvent]
    metrics: dict[str, BeforeAfter]
    window: RetrainWindow
