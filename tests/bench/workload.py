"""What is sent to every contender: predictions, their labels later, errors that become more."""

from __future__ import annotations

import json
import random
from typing import NamedTuple

START_MS = 1_767_225_600_000
LABEL_DELAY = 1000
ERROR_RATES = (0.1, 0.25)


class Workload(NamedTuple):
    """What is sent: how many features a prediction has, of how many models."""

    n_features: int
    n_models: int

    @property
    def name(self) -> str:
        models = "1 model" if self.n_models == 1 else f"{self.n_models} models"
        return (
            f"{self.n_features} features, {models}" if self.n_features else f"no features, {models}"
        )


class Sent(NamedTuple):
    topic: str
    value: bytes
    key: bytes
    timestamp_ms: int


def generate(workload, n_events, seed):
    """Predictions, each with its label 1000 rows later; the error rate rises half-way."""
    rng = random.Random(seed)
    n_rows = n_events // 2
    labels = []
    sent = []
    for row in range(n_rows + LABEL_DELAY):
        now_ms = START_MS + row * 10
        if row < n_rows:
            model = f"model-{row % workload.n_models}"
            x = [rng.random() for _ in range(workload.n_features)]
            y_true = int(sum(x[:2]) > 1) if len(x) > 1 else rng.randrange(2)
            wrong = rng.random() < ERROR_RATES[2 * row >= n_rows]
            common = {"prediction_id": f"{model}-{row}", "model": model, "timestamp": now_ms}
            event = common | {"version": "1", "prediction": y_true ^ wrong}
            if x:
                event["features"] = {f"feature_{i}": round(value, 6) for i, value in enumerate(x)}
            sent.append(Sent("predictions", json.dumps(event).encode(), model.encode(), now_ms))
            later_ms = now_ms + LABEL_DELAY * 10
            label = common | {"timestamp": later_ms, "label": y_true}
            labels.append(Sent("labels", json.dumps(label).encode(), model.encode(), later_ms))
        if row >= LABEL_DELAY:
            sent.append(labels[row - LABEL_DELAY])
    return sent
