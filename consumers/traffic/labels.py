"""Traffic as a served model makes it: predictions now, labels late, some twice, some never."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamgauge.consumers.traffic.csv_rows import CsvFeatures, Target
    from streamgauge.consumers.traffic.frozen_model import Answer
    from streamgauge.stream.config import Task

T = TypeVar("T")

START_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z, the event time of row 0
ROW_MS = 1000  # rows are one second apart
REPEAT_WITHIN_MS = 60_000


class Event(NamedTuple):
    """One record to send: to which input topic, its key and its JSON value."""

    kind: Literal["prediction", "label"]
    key: bytes
    value: bytes


class EventWriter:
    """Writes the events of one version of one model as JSON."""

    def __init__(self, model: str, version: str, task: Task) -> None:
        self._common = {"model": model, "version": version}
        self._task = task
        self._key = model.encode()
        self._encode = msgspec.json.Encoder().encode

    def prediction(
        self, prediction_id: str, timestamp_ms: int, prediction: Answer, features: CsvFeatures
    ) -> Event:
        event: dict[str, Any] = {
            "prediction_id": prediction_id,
            **self._common,
            "timestamp": timestamp_ms,
            "task": self._task,
            "prediction": prediction.value,
            "features": features,
        }
        if prediction.probability is not None:
            event["probability"] = prediction.probability
        return Event("prediction", self._key, self._encode(event))

    def label(self, prediction_id: str, timestamp_ms: int, label: Target) -> Event:
        event = {
            "prediction_id": prediction_id,
            **self._common,
            "timestamp": timestamp_ms,
            "label": label,
        }
        return Event("label", self._key, self._encode(event))


class Arrival(NamedTuple, Generic[T]):
    """A label that has arrived; a `repeat` carries the timestamp of the first time."""

    label: T
    timestamp_ms: int
    repeat: bool


class LabelSchedule(Generic[T]):
    """Decides when each label arrives: late, out of order, twice or never.

    Memory is that of the labels not yet due; a label costs O(log of these).

    Args:
        delay_ms: from the prediction to its label, event time.
        jitter_ms: further delay, uniform from 0 to this; more than a row's time mixes the order.
        duplicates: probability that a label comes a second time, up to a minute later.
        missing: probability that a label never comes.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        *,
        delay_ms: int = 0,
        jitter_ms: int = 0,
        duplicates: float = 0.0,
        missing: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.n_labels = 0
        self.n_duplicates = 0
        self.n_missing = 0
        self._delay_ms = delay_ms
        self._jitter_ms = jitter_ms
        self._duplicates = duplicates
        self._missing = missing
        self._random = random.Random(seed)
        self._heap: list[tuple[int, int, Arrival[T]]] = []

    def add(self, label: T, now_ms: int) -> None:
        """Schedule the label of a prediction made at `now_ms`."""
        if self._random.random() < self._missing:
            self.n_missing += 1
            return
        due_ms = now_ms + self._delay_ms + self._random.randint(0, self._jitter_ms)
        self._push(due_ms, Arrival(label, due_ms, repeat=False))
        self.n_labels += 1
        if self._random.random() < self._duplicates:
            again_ms = due_ms + self._random.randint(1, REPEAT_WITHIN_MS)
            self._push(again_ms, Arrival(label, due_ms, repeat=True))
            self.n_duplicates += 1

    def due(self, now_ms: float) -> Iterator[Arrival[T]]:
        """Return what has arrived by `now_ms`, in that order; with infinity all that is left."""
        while self._heap and self._heap[0][0] <= now_ms:
            yield heapq.heappop(self._heap)[2]

    def _push(self, due_ms: int, arrival: Arrival[T]) -> None:
        # The running number keeps equal times in the order they were scheduled.
        heapq.heappush(self._heap, (due_ms, self.n_labels + self.n_duplicates, arrival))
