"""Events: the bytes of a record become a prediction or a label, or an error that says why not."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.stream.config import EventLimits, Task

# What decoding raises; RecursionError comes of deep nesting.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# What Python's `json` writes of them.
_NOT_FINITE = re.compile(rb"\b(NaN|Infinity)\b").search

# 1973 and 9999: epoch seconds taken for milliseconds fall before, microseconds after.
_EARLIEST_MS = 100_000_000_000
_LATEST_MS = 253_402_300_799_999

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=1000)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

Value = bool | Integer | float | Text
Probability = Share | dict[Text, Share]
Features = dict[Name, bool | Integer | float | Text | None]

RefusalReason = Literal[
    "empty_value",
    "too_large",
    "malformed_json",
    "invalid_event",
    "timestamp_ahead",
    "undeclared_class",
    "task_mismatch",
    "too_many_models",
]


class EventError(StreamgaugeError, ValueError):
    """An event was refused.

    Attributes:
        reason: a word for counting and filtering dead letters.
        detail: what is wrong and what to do, naming the field.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RefusalReason = reason
        self.detail = detail


_JsonTime = int | float | str
if TYPE_CHECKING:
    EpochMs = int
else:
    # What JSON may have. A decoded event has whole milliseconds.
    EpochMs = Annotated[
        _JsonTime,
        Meta(
            description="RFC 3339 with a time zone, or epoch milliseconds",
            # Of the string.
            extra_json_schema={"format": "date-time"},
        ),
    ]


class Prediction(Struct, gc=False):
    """A prediction that a model has served.

    `gc=False`: a hundred thousand of these wait for their labels, none can be part of a cycle.
    """

    prediction_id: Name
    model: Name
    version: Name
    timestamp_ms: EpochMs = field(name="timestamp")
    prediction: Value
    probability: Probability | None = None
    features: Features | None = None
    segment: dict[Name, Text] | None = None
    task: Task | None = None


class Label(Struct, gc=False):
    """The truth about a prediction, known later; one that carries its prediction needs no join."""

    prediction_id: Name
    model: Name
    label: Value
    timestamp_ms: EpochMs = field(name="timestamp")
    version: Name | None = None
    prediction: Value | None = None
    probability: Probability | None = None
    features: Features | None = None
    timestamp_predicted_ms: EpochMs | None = field(default=None, name="timestamp_predicted")
    task: Task | None = None


class _Envelope(Struct):
    """A CloudEvent in structured mode, as KServe's and Seldon's loggers emit them."""

    specversion: str
    data: msgspec.Raw


def _epoch_ms(value: _JsonTime, name: str) -> int:
    """Return a point in time as whole milliseconds.

    Raises:
        EventError: it is none.
    """
    if isinstance(value, str):
        value = _parsed_ms(value, name)
    if not _EARLIEST_MS <= value <= _LATEST_MS:
        raise _not_a_time(value, name, "is not in epoch milliseconds after 1973")
    return round(value)


def _parsed_ms(text: str, name: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _not_a_time(text, name, "is not RFC 3339") from None
    if moment.tzinfo is None:
        raise _not_a_time(text, name, "has no time zone; add Z or an offset")
    return moment.timestamp() * 1000


def _not_a_time(value: _JsonTime, name: str, what: str) -> EventError:
    return EventError("invalid_event", f"timestamp {value!r:.60} {what} - at `$.{name}`")


_decode_prediction = msgspec.json.Decoder(Prediction).decode
_decode_label = msgspec.json.Decoder(Label).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def decode_prediction(
    value: bytes | None, record_timestamp_ms: int, limits: EventLimits
) -> Prediction:
    """Return the prediction in a record's value.

    Args:
        value: JSON, plain or as a structured CloudEvent.
        record_timestamp_ms: the record's own time; the event may not lie far ahead of it.
        limits: sizes and skew allowed.

    Raises:
        EventError: the reason and the field.
    """
    event: Prediction = _decode(_decode_prediction, value, record_timestamp_ms, limits)
    if event.segment is not None and len(event.segment) > limits.segments_max:
        raise EventError(
            "invalid_event",
            f"segment has {len(event.segment)} entries; events.segments_max is"
            f" {limits.segments_max}",
        )
    return event


def decode_label(value: bytes | None, record_timestamp_ms: int, limits: EventLimits) -> Label:
    """Return the label in a record's value; arguments and errors as in `decode_prediction`."""
    event: Label = _decode(_decode_label, value, record_timestamp_ms, limits)
    if event.prediction is not None and event.version is None:
        raise EventError(
            "invalid_event", "a label that carries its prediction needs its version as well"
        )
    if event.timestamp_predicted_ms is not None:
        event.timestamp_predicted_ms = _checked_ms(
            event.timestamp_predicted_ms, "timestamp_predicted", record_timestamp_ms, limits
        )
    return event


def _decode(decode: Any, value: bytes | None, record_timestamp_ms: int, limits: EventLimits) -> Any:
    if not value:
        raise EventError("empty_value", "the record has no value; send the event as JSON")
    if len(value) > limits.bytes_max:
        raise EventError("too_large", f"{len(value)} bytes; events.bytes_max is {limits.bytes_max}")
    try:
        event = decode(value)
    except msgspec.ValidationError as error:
        event = _decode_enveloped(decode, value, error)
    except _UNREADABLE as error:
        hint = "; JSON has no NaN or Infinity, leave the field out" if _NOT_FINITE(value) else ""
        raise EventError("malformed_json", f"{error}{hint}") from None
    timestamp_ms = event.timestamp_ms
    # In the usual case there is nothing to convert and nothing to refuse.
    if not (
        type(timestamp_ms) is int
        and _EARLIEST_MS <= timestamp_ms <= _LATEST_MS
        and timestamp_ms <= record_timestamp_ms + limits.ahead_max
    ):
        event.timestamp_ms = _checked_ms(timestamp_ms, "timestamp", record_timestamp_ms, limits)
    if event.features is not None and len(event.features) > limits.features_max:
        raise EventError(
            "invalid_event",
            f"{len(event.features)} features; events.features_max is {limits.features_max}",
        )
    return event


def _decode_enveloped(decode: Any, value: bytes, error: msgspec.ValidationError) -> Any:
    """Return the event inside a CloudEvent; without an envelope, raise the plain event's error."""
    try:
        data = _decode_envelope(value).data
    except _UNREADABLE:
        raise EventError("invalid_event", _told(error)) from None
    try:
        event = decode(data)
        event.timestamp_ms = _epoch_ms(event.timestamp_ms, "timestamp")
    except _UNREADABLE as inner:
        raise EventError("invalid_event", f"in the CloudEvent's data: {_told(inner)}") from None
    except EventError as inner:
        raise EventError(inner.reason, f"in the CloudEvent's data: {inner.detail}") from None
    return event


def _told(error: Exception) -> str:
    """Return an error of decoding, with what a time may be in the place of its types."""
    return str(error).replace("`int | float | str`", "epoch milliseconds or RFC 3339")


def _checked_ms(value: _JsonTime, name: str, record_ms: int, limits: EventLimits) -> int:
    event_ms = _epoch_ms(value, name)
    if event_ms > record_ms + limits.ahead_max:
        raise EventError(
            "timestamp_ahead",
            f"{name} is {(event_ms - record_ms) / 1000:.0f} s ahead of its record;"
            f" events.ahead_max is {limits.ahead_max / 1000:.0f} s",
        )
    return event_ms


def model_of(value: bytes) -> str | None:
    """Return the model an event is about, where it can be read; for a record's key.

    >>> model_of(b'{"model": "m1"}'), model_of(b'{"model": 3}'), model_of(b"{")
    ('m1', None, None)
    """
    for decode in (_decode_routing, _decode_enveloped_routing):
        try:
            return decode(value)
        except _UNREADABLE:
            continue
    return None


class _Routing(Struct):
    model: Name


class _EnvelopedRouting(Struct):
    data: _Routing


def _decode_routing(value: bytes) -> str:
    return msgspec.json.decode(value, type=_Routing).model


def _decode_enveloped_routing(value: bytes) -> str:
    return msgspec.json.decode(value, type=_EnvelopedRouting).data.model
