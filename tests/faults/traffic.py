"""Serving code and a feedback path that never rest: what a run's workers have to watch.

A share of the labels comes twice, late, or before its prediction; some never come; the error rate
of every model changes at known places; and there is a little poison.
"""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Self

from streamgauge.consumers.broker import BrokerError
from tests.faults.settings import LEARNING, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamgauge.consumers.broker import Broker
    from streamgauge.stream.config import Topics

SHARE = 0.05  # of duplicates among predictions and labels, of late labels, of early ones
MISSING = 0.02
POISON = 0.003
DRIFT_EVERY = 80  # rows of a model from one change of its error rate to the next
ERROR_RATES = (0.05, 0.7)

ROW_MS = 20
LABEL_ROWS = (30, 120)
LATE_ROWS = (400, 900)
FLUSH_EVERY_S = 0.4

GARBAGE = (
    "{%s",
    "[%s]",
    '"%s"',
    '{"prediction_id": "%s", "model": "model-0", "version": "1"}',
    '{"prediction_id": "%s", "model": "model-0", "version": "1", "timestamp": NaN}',
    '{"model": "model-0", "label": 1, "timestamp": "%s"}',
)


class Sent(NamedTuple):
    """A record as it goes into one of the two inputs."""

    is_label: bool
    key: bytes
    value: bytes
    timestamp_ms: int


class Story:
    """The records in the order in which they are sent, without end; `counts` says of what kinds."""

    def __init__(self, seed: int, start_ms: int) -> None:
        self.counts: Counter[str] = Counter()
        self.poison: list[bytes] = []
        self._rng = random.Random(seed)
        self._start_ms = start_ms
        self._row = 0
        self._n_planned = 0
        self._due: list[tuple[int, int, Sent]] = []

    def rows(self, n: int) -> Iterator[Sent]:
        """What comes with the next predictions."""
        for _ in range(n):
            yield from self._next()

    def rest(self) -> Iterator[Sent]:
        """The labels that are still to come."""
        while self._due:
            self._row += 1
            yield from self._take_due()

    def garbage(self, n: int) -> Iterator[Sent]:
        """Records that nobody can use, each of them unlike any other."""
        for _ in range(n):
            number = f"garbage-{len(self.poison)}-{self._rng.getrandbits(40):x}"
            value = (self._rng.choice(GARBAGE) % number).encode()
            self.poison.append(value)
            self.counts["poison"] += 1
            key = self._rng.choice(MODELS).encode()
            yield Sent(self._rng.random() < 0.5, key, value, self._now_ms())

    def _now_ms(self) -> int:
        return self._start_ms + self._row * ROW_MS

    def _next(self) -> Iterator[Sent]:
        rng, row = self._rng, self._row
        model, i = MODELS[row % len(MODELS)], row // len(MODELS)
        # Not all at once: each model has its places.
        place = i + 7 * (row % len(MODELS))
        rate = ERROR_RATES[place // DRIFT_EVERY % len(ERROR_RATES)]
        self.counts["drift"] += place % (2 * DRIFT_EVERY) == DRIFT_EVERY and i > 0
        y_true = rng.randrange(2)
        event = {
            "prediction_id": f"{model}-{i}",
            "model": model,
            "version": "1",
            "timestamp": self._now_ms(),
            "prediction": 1 - y_true if rng.random() < rate else y_true,
        }
        if model == LEARNING:
            event["features"] = {"x": y_true + rng.gauss(0, 1)}
        self.counts["prediction"] += 1
        prediction = self._sent(False, event)
        is_early = self._plan_label(model, i, y_true)
        if is_early:
            yield from self._take_due()
        yield prediction
        if rng.random() < SHARE:
            self.counts["duplicate prediction"] += 1
            yield prediction
        self._row += 1
        yield from self._take_due()
        if rng.random() < POISON:
            yield from self.garbage(1)

    def _plan_label(self, model: str, i: int, y_true: int) -> bool:
        """Have the label come in its time, or never; whether that is before its prediction."""
        rng = self._rng
        if rng.random() < MISSING:
            self.counts["no label"] += 1
            return False
        kind = rng.random()
        if kind < SHARE:
            self.counts["label first"] += 1
            delay = 0
        elif kind < 2 * SHARE:
            self.counts["late label"] += 1
            delay = rng.randint(*LATE_ROWS)
        else:
            delay = rng.randint(*LABEL_ROWS)
        event = {"prediction_id": f"{model}-{i}", "model": model, "label": y_true}
        self.counts["label"] += 1
        self._plan(delay, event)
        if rng.random() < SHARE:
            self.counts["duplicate label"] += 1
            self._plan(delay + rng.randint(1, 60), event)
        return kind < SHARE

    def _plan(self, delay: int, event: dict[str, object]) -> None:
        due = self._row + delay
        event = event | {"timestamp": self._start_ms + due * ROW_MS}
        self._n_planned += 1
        heapq.heappush(self._due, (due, self._n_planned, self._sent(True, event)))

    def _take_due(self) -> Iterator[Sent]:
        while self._due and self._due[0][0] <= self._row:
            yield heapq.heappop(self._due)[2]

    def _sent(self, is_label: bool, event: dict[str, object]) -> Sent:
        return Sent(
            is_label, event["model"].encode(), json.dumps(event).encode(), event["timestamp"]
        )


class Traffic:
    """A thread that sends a story at a steady pace; a context manager."""

    def __init__(self, broker: Broker, topics: Topics, seed: int) -> None:
        self.story = Story(seed, time.time_ns() // 1_000_000)
        self.problem: BaseException | None = None
        self._topics = topics
        self._producer = broker.producer()
        self._n_garbage = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._producer.close()

    def poison(self, n: int) -> None:
        """Send so many records soon that nobody can use."""
        self._n_garbage += n

    def finish(self) -> None:
        """Send the labels that are still to come, and no more after that.

        Raises:
            BrokerError: the brokers do not take them.
        """
        self._ending.set()
        self._thread.join()
        if self.problem is not None:
            raise self.problem
        self._send(self.story.rest())
        self._flush()

    def _run(self) -> None:
        try:
            while not self._ending.wait(FLUSH_EVERY_S):
                self._send(self.story.rows(round(FLUSH_EVERY_S * 1000 / ROW_MS)))
                n, self._n_garbage = self._n_garbage, 0
                self._send(self.story.garbage(n))
                self._flush()
        except BaseException as error:  # noqa: BLE001 - told by `finish`
            self.problem = error

    def _send(self, records: Iterator[Sent]) -> None:
        for record in records:
            topic = self._topics.labels if record.is_label else self._topics.predictions
            while True:
                try:
                    self._producer.send(
                        topic, record.value, record.key, timestamp_ms=record.timestamp_ms
                    )
                    break
                except BrokerError:
                    time.sleep(FLUSH_EVERY_S)

    def _flush(self) -> None:
        """Have all of it written; what faults of brokers keep back is tried until it is."""
        for _ in range(60):
            try:
                self._producer.flush()
            except BrokerError as error:
                problem = error
                time.sleep(FLUSH_EVERY_S)
            else:
                return
        raise problem
