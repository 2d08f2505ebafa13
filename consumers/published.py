"""The contents of the topics, as JSON objects for people and programs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from streamgauge.stream.records import Record

Document = dict[str, Any]
TopicKind = Literal["metrics", "alarms", "retrain", "dead-letters"]


def document(kind: TopicKind, record: Record) -> Document:
    """Return a record as one JSON object.

    Metrics and alarms are as published, a retrain request is a CloudEvent with its `data`, a
    dead letter says where it came from and why.

    Raises:
        ValueError: the value is not the JSON that this kind of topic holds.
    """
    if kind == "dead-letters":
        return _dead_letter(record)
    value = msgspec.json.decode(record.value or b"null", type=Document)
    return _cloud_event(record, value) if kind == "retrain" else value


def _cloud_event(record: Record, data: Document) -> Document:
    headers = {name: value.decode() for name, value in record.headers}
    event = {name.removeprefix("ce_"): v for name, v in headers.items() if name.startswith("ce_")}
    if "content-type" in headers:
        event["datacontenttype"] = headers["content-type"]
    return {**event, "data": data}


def _dead_letter(record: Record) -> Document:
    # Ours come first; the refused record's own follow and may bear the same names.
    headers = {name: value.decode(errors="replace") for name, value in reversed(record.headers)}
    letter: Document = {
        "topic": headers.get("source_topic"),
        "partition": _whole(headers.get("source_partition")),
        "offset": _whole(headers.get("source_offset")),
        "reason": headers.get("reason"),
        "detail": headers.get("detail"),
    }
    try:
        letter["value"] = None if record.value is None else record.value.decode()
    except UnicodeDecodeError:
        letter["value_base64"] = base64.b64encode(record.value or b"").decode()
    return letter


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def is_of_model(kind: TopicKind, record: Record, shown: Document, model: str) -> bool:
    """Return whether a record is about `model`; a dead letter is by its key."""
    if kind == "dead-letters":
        return record.key == model.encode()
    about = shown["data"] if kind == "retrain" else shown
    return bool(about.get("model") == model)
