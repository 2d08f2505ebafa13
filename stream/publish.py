"""Findings as the records that tell the world."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from cloudevents.core.bindings.kafka import to_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from streamgauge.stream.contracts import (
    RETRAIN_REQUESTED,
    AlarmEvent,
    BeforeAfter,
    OffsetRange,
    RetrainRequest,
    RetrainWindow,
    Severity,
)
from streamgauge.stream.monitor import known
from streamgauge.stream.records import Output

if TYPE_CHECKING:
    from streamgauge.stream.config import CoreConfig
    from streamgauge.stream.events import EventError
    from streamgauge.stream.monitor import (
        AlarmFinding,
        DataProblemFinding,
        MetricsFinding,
        RetrainDecision,
    )
    from streamgauge.stream.policy import EpisodeAlarm
    from streamgauge.stream.records import Record

# A rise of the mean loss (in [0, 1]) from these on.
_MODERATE_RISE = 0.05
_SEVERE_RISE = 0.15

# The first headers of a dead letter; those of the record itself follow.
LETTER_HEADERS = ("source_topic", "source_partition", "source_offset", "reason", "detail")


class Publisher:
    """Makes the outputs of one partition."""

    def __init__(self, config: CoreConfig, partition: int) -> None:
        self._config = config
        self._topics = config.topics
        self._partition = partition

    def metrics(self, model: str, version: str, found: MetricsFinding) -> Output:
        """Return a metric point."""
        return self.metric_point(
            model, version, found.signal, found.index + 1, found.timestamp_ms, found.values
        )

    def metric_point(
        self,
        model: str,
        version: str,
        signal: str,
        step: int,
        timestamp_ms: int,
        values: dict[str, float],
    ) -> Output:
        """Return a metric point, as `streamgauge.stream.contracts.MetricPoint` describes it."""
        value = msgspec.json.encode(
            {
                "model": model,
                "version": version,
                "signal": signal,
                "step": step,
                "timestamp_ms": timestamp_ms,
                "values": values,
            }
        )
        return Output("metrics", model.encode(), value, (), timestamp_ms)

    def alarm(self, model: str, version: str, found: AlarmFinding) -> Output:
        """Return a detector's alarm."""
        item, alarm = found.found, found.found.alarm
        event = AlarmEvent(
            alarm_id=self._id(
                model,
                version,
                item.signal,
                item.detector,
                found.kind,
                item.index,
                found.timestamp_ms,
            ),
            model=model,
            version=version,
            signal=item.signal,
            detector=item.detector,
            kind=found.kind,
            direction=alarm.direction,
            index=item.index,
            timestamp=_moment(found.timestamp_ms),
            onset=item.onset,
            statistic=known(alarm.statistic),
            threshold=known(alarm.threshold),
            mean_before=known(alarm.mean_before),
            mean_after=known(alarm.mean_after),
            episode=found.episode,
        )
        return self._alarm_output(event, found.timestamp_ms)

    def data_problem(self, model: str, version: str, found: DataProblemFinding) -> Output:
        """Return a data problem as an alarm."""
        event = AlarmEvent(
            alarm_id=self._id(
                model,
                version,
                found.signal,
                found.detector,
                found.detail,
                found.index,
                found.timestamp_ms,
            ),
            model=model,
            version=version,
            signal=found.signal,
            detector=found.detector,
            kind="data_problem",
            direction="none",
            index=found.index,
            timestamp=_moment(found.timestamp_ms),
            onset=found.index,
            detail=found.detail,
        )
        return self._alarm_output(event, found.timestamp_ms)

    def _alarm_output(self, event: AlarmEvent, timestamp_ms: int) -> Output:
        value = event.model_dump_json().encode()
        return Output("alarms", event.model.encode(), value, (), timestamp_ms)

    def retrain(self, model: str, version: str, found: RetrainDecision, sequence: int) -> Output:
        """Return a retrain request: a CloudEvent in Kafka's binary mode."""
        episode = found.episode
        request = RetrainRequest(
            model=model,
            version=version,
            partition=self._partition,
            sequence=sequence,
            episode=episode.number,
            reason=episode.reason,
            severity=_severity(found),
            approval=self._config.model_for(model).policy.approval,
            alarms=[
                self._alarm_of(model, version, episode.number, alarm) for alarm in episode.alarms
            ],
            metrics={
                name: BeforeAfter(before=before, after=after)
                for name, (before, after) in found.metrics.items()
            },
            window=self._window(found),
        )
        event = CloudEvent(
            attributes={
                "specversion": "1.0",
                "id": self._id(
                    "retrain", model, version, episode.number, found.index, found.timestamp_ms
                ),
                "source": f"/streamgauge/{self._config.app}",
                "type": RETRAIN_REQUESTED,
                "subject": f"{model}/{version}",
                "time": _moment(found.timestamp_ms),
                "datacontenttype": "application/json",
            },
            data=request.model_dump(mode="json"),
        )
        message = to_binary(event, JSONFormat())
        return Output(
            "retrain",
            model.encode(),
            message.value,
            tuple(message.headers.items()),
            found.timestamp_ms,
        )

    def _alarm_of(self, model: str, version: str, episode: int, alarm: EpisodeAlarm) -> AlarmEvent:
        fields = msgspec.structs.asdict(alarm)
        timestamp = _moment(fields.pop("timestamp_ms"))
        alarm_id = self._id(
            model,
            version,
            alarm.signal,
            alarm.detector,
            alarm.kind,
            alarm.index,
            alarm.timestamp_ms,
        )
        return AlarmEvent(
            **fields,
            alarm_id=alarm_id,
            model=model,
            version=version,
            timestamp=timestamp,
            episode=episode,
        )

    def _window(self, found: RetrainDecision) -> RetrainWindow:
        since = found.since
        partition = self._partition
        predictions = None
        if since.prediction_max >= 0:
            predictions = OffsetRange(
                topic=self._topics.predictions,
                partition=partition,
                offset_from=since.prediction_min,
                offset_to=since.prediction_max + 1,
            )
        return RetrainWindow(
            outcome_from=found.n_before,
            outcome_to=found.index + 1,
            n_outcomes=since.n,
            time_from=_moment(since.predicted_ms_min),
            time_to=_moment(since.timestamp_ms_max),
            predictions=predictions,
            labels=OffsetRange(
                topic=self._topics.labels,
                partition=partition,
                offset_from=since.label_min,
                offset_to=since.label_max + 1,
            ),
        )

    def dead_letter(self, record: Record, error: EventError) -> Output:
        """Return a record that was refused: its bytes, where it came from and why."""
        told = (
            record.topic.encode(),
            str(record.partition).encode(),
            str(record.offset).encode(),
            error.reason.encode(),
            error.detail.encode(errors="backslashreplace"),
        )
        headers = (*zip(LETTER_HEADERS, told, strict=True), *record.headers)
        return Output(
            "dead_letters",
            record.key,
            record.value or b"",
            headers,
            record.timestamp_ms,
        )

    def _id(self, *parts: object) -> str:
        """Return the same for the same parts, whenever and wherever it is made.

        Indices of a version that starts anew begin again, so that event time is a part as well.
        """
        text = msgspec.json.encode([self._config.app, *map(str, parts)])
        return hashlib.blake2b(text, digest_size=16).hexdigest()


def _severity(found: RetrainDecision) -> Severity:
    before, after = found.metrics["error"]
    if found.episode.reason == "period":
        return "minor"
    if before is None or after is None:
        return "moderate"
    rise = after - before
    if rise >= _SEVERE_RISE:
        return "severe"
    return "moderate" if rise >= _MODERATE_RISE else "minor"


def _moment(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
