"""Writes the JSON Schemas and the AsyncAPI document of what streamgauge reads and publishes.

Run it as `make docs`; a test fails while the files in this folder are not what it would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import yaml

from streamgauge.consumers.config import Config
from streamgauge.stream.config import Topics
from streamgauge.stream.contracts import RETRAIN_REQUESTED, AlarmEvent, MetricPoint, RetrainRequest
from streamgauge.stream.events import Label, Prediction

HERE = Path(__file__).parent


def documents() -> dict[str, str]:
    """Return the text of each document, by file name."""
    schemas = _schemas()
    texts = {
        f"{name}.schema.json": json.dumps(schema, indent=2) + "\n"
        for name, schema in {**schemas, "config": Config.model_json_schema()}.items()
    }
    texts["asyncapi.yaml"] = yaml.safe_dump(_asyncapi(schemas), sort_keys=False, width=100)
    return texts


def _schemas() -> dict[str, dict[str, Any]]:
    read = {
        "prediction": msgspec.json.schema(Prediction),
        "label": msgspec.json.schema(Label),
    }
    published = {
        "metric-point": MetricPoint.model_json_schema(mode="serialization"),
        "alarm": AlarmEvent.model_json_schema(mode="serialization"),
        "retrain-request": RetrainRequest.model_json_schema(mode="serialization"),
    }
    return {**read, **published}


def _asyncapi(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    topics = Topics()
    flows = [
        ("predictions", topics.predictions, "prediction", "receive", "What a model has served."),
        ("labels", topics.labels, "label", "receive", "The truth, known later."),
        ("metrics", topics.metrics, "metric-point", "send", "Metrics of each monitored signal."),
        ("alarms", topics.alarms, "alarm", "send", "What detectors have found."),
        ("retrain", topics.retrain, "retrain-request", "send", "At most one for each episode."),
    ]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "streamgauge",
            "version": "1",
            "description": "Keys are model names. Retrain requests are CloudEvents in Kafka's"
            f" binary mode, of type {RETRAIN_REQUESTED}.",
        },
        "channels": {
            name: {
                "address": address,
                "description": about,
                "messages": {message: {"$ref": f"#/components/messages/{message}"}},
            }
            for name, address, message, _, about in flows
        },
        "operations": {
            name: {"action": action, "channel": {"$ref": f"#/channels/{name}"}}
            for name, _, _, action, _ in flows
        },
        "components": {
            "messages": {
                name: {
                    "contentType": "application/json",
                    "payload": {"$ref": f"{name}.schema.json"},
                }
                for name in schemas
            }
        },
    }


if __name__ == "__main__":
    for file_name, text in documents().items():
        (HERE / file_name).write_text(text, encoding="utf-8")
