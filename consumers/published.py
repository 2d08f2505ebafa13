"""The contents of the topics: our own records read back, and each as a JSON object."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import msgspec
from pydantic import ValidationError

from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.stream.contracts import AlarmEvent, MetricPoint, RetrainRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamgauge.consumers.broker import Broker
    from streamgauge.stream.records import Record

Document = dict[str, Any]
TopicKind = Literal["metrics", "alarms", "retrain", "dead-letters"]

log = logging.getLogger(__name__)


class UnreadableRecordError(StreamgaugeError, ValueError):
    """A record is not what its topic holds; the message says where it is and why.

    Attributes:
        reason: the message without the place.
    """

    def __init__(self, record: Record, reason: str) -> None:
        super().__init__(f"{record.topic}/{record.partition} offset {record.offset}: {reason}")
        self.reason = reason


class RetrainEvent(NamedTuple):
    """A retrain request in its envelope.

    Attributes:
        attributes: those of the CloudEvent, by name.
        data: the request.
    """

    attributes: dict[str, str]
    data: RetrainRequest


class DeadLetter(NamedTuple):
    """A record that could not be processed, and why; None: its headers do not say.

    Attributes:
        key, value: the refused record's own.
        topic, partition, offset: where it was.
    """

    key: bytes | None
    value: bytes | None
    topic: str | None
    partition: int | None
    offset: int | None
    reason: str | None
    detail: str | None


Published = MetricPoint | AlarmEvent | RetrainEvent | DeadLetter


@overload
def read(kind: Literal["metrics"], record: Record) -> MetricPoint: ...
@overload
def read(kind: Literal["alarms"], record: Record) -> AlarmEvent: ...
@overload
def read(kind: Literal["retrain"], record: Record) -> RetrainEvent: ...
@overload
def read(kind: TopicKind, record: Record) -> Published: ...
def read(kind: TopicKind, record: Record) -> Published:
    """Return what a record of this kind of topic says.

    Raises:
        UnreadableRecordError: it is not what this kind of topic holds.
    """
    try:
        return _READERS[kind](record)
    except ValueError as error:
        raise _unreadable(record, error) from None


def document(kind: TopicKind, record: Record) -> Document:
    """Return a record as one JSON object.

    Metrics and alarms are as published, a retrain request is a CloudEvent with its `data`, a
    dead letter says where it came from and why.

    Raises:
        UnreadableRecordError: it is not what this kind of topic holds.
    """
    found = read(kind, record)
    if isinstance(found, DeadLetter):
        return _letter_document(found)
    try:
        value = msgspec.json.decode(record.value or b"null", type=Document)
        if isinstance(found, RetrainEvent):
            return {**found.attributes, **_content_type(record), "data": value}
    except ValueError as error:
        raise _unreadable(record, error) from None
    return value


def documents(kind: TopicKind, records: Iterable[Record]) -> Iterator[Document]:
    """Yield the records that can be read, each as one JSON object; the others are logged."""
    for record in records:
        try:
            yield document(kind, record)
        except UnreadableRecordError as error:
            log.error("passed over an unreadable record: %s", error)  # noqa: TRY400


def is_about(found: Published, model: str) -> bool:
    """Return true if a record is about `model`; a dead letter is by its key."""
    if isinstance(found, DeadLetter):
        return found.key == model.encode()
    return (found.data if isinstance(found, RetrainEvent) else found).model == model


def value_text(letter: DeadLetter) -> str | None:
    """Return the value of a dead letter, in base64 where it is no text; None: it has none."""
    return _value_text(letter.value)[1]


def _unreadable(record: Record, error: ValueError) -> UnreadableRecordError:
    if not isinstance(error, ValidationError):
        return UnreadableRecordError(record, str(error))
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    return UnreadableRecordError(record, f"{path}: {first['msg']}" if path else first["msg"])


def _metric_point(record: Record) -> MetricPoint:
    return MetricPoint.read(record.value)


def _alarm(record: Record) -> AlarmEvent:
    return AlarmEvent.read(record.value)


def _retrain_event(record: Record) -> RetrainEvent:
    attributes = {
        name.removeprefix("ce_"): value.decode()
        for name, value in record.headers
        if name.startswith("ce_")
    }
    return RetrainEvent(attributes, RetrainRequest.read(record.value))


def _content_type(record: Record) -> dict[str, str]:
    found = dict(record.headers).get("content-type")
    return {} if found is None else {"datacontenttype": found.decode()}


def _dead_letter(record: Record) -> DeadLetter:
    # Ours come first; the refused record's own follow and may bear the same names.
    headers = {name: value.decode(errors="replace") for name, value in reversed(record.headers)}
    return DeadLetter(
        record.key,
        record.value,
        headers.get("source_topic"),
        _whole(headers.get("source_partition")),
        _whole(headers.get("source_offset")),
        headers.get("reason"),
        headers.get("detail"),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _letter_document(letter: DeadLetter) -> Document:
    shown = letter._asdict()
    del shown["key"], shown["value"]
    is_text, text = _value_text(letter.value)
    return {**shown, "value" if is_text else "value_base64": text}


def _value_text(value: bytes | None) -> tuple[bool, str | None]:
    """Return whether a value is text, and that or its base64."""
    try:
        return True, None if value is None else value.decode()
    except UnicodeDecodeError:
        return False, base64.b64encode(value or b"").decode()


_READERS: dict[TopicKind, Callable[[Record], Published]] = {
    "metrics": _metric_point,
    "alarms": _alarm,
    "retrain": _retrain_event,
    "dead-letters": _dead_letter,
}


def read_all(broker: Broker, topic: str) -> Iterator[Record]:
    """Every retained record of a topic."""
    with broker.reader([topic]) as reader:
        while records := reader.poll(0.0):
            yield from records
