"""What the worker's tests share: traffic that goes wrong in every known way, and comparison."""

from __future__ import annotations

import heapq
import json
import random
from collections import defaultdict
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from msgspec.structs import asdict

from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import open_broker
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.worker import Worker
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS
from streamgauge.stream.totals import Totals, add_up

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
ROW_MS = 100
STATE_KEY = b"the tests' key"

# Two on each partition of two. The error rate of each changes at a third and at two thirds.
MODELS = ("tight", "versions", "plain", "held")
ERROR_RATES = (0.05, 0.5, 0.1)

POISON = (
    b"",
    b"{",
    b"null",
    b"[1, 2]",
    b"\xff\xfe\x00",
    b'{"prediction_id": "x", "model": "plain", "version": "1", "timestamp": 3, "prediction": 1}',
    b'{"prediction_id": "x", "model": "plain", "version": "1"}',
    b'{"prediction_id": "x", "model": "tight", "version": "1", "timestamp": NaN}',
    b'{"prediction_id": "", "model": "tight", "label": 1, "timestamp": 1767225600000}',
)


class Sent(NamedTuple):
    """A record as serving code would have sent it."""

    topic: str
    value: bytes
    key: bytes | None
    headers: tuple
    timestamp_ms: int


def crowded_config(folder, *, batch_max=50, learner=False, **sections):
    """Two partitions, small batches, and a model for each way of the join."""
    models = {
        "tight": {"join": {"pending_max": 8, "early_max": 5}},
        "held": {"join": {"label_maturity": "5s"}},
    }
    if learner:
        models["plain"] = {
            "learner": {"path": "river.linear_model.Perceptron"},
            "join": {"label_maturity": "5s"},
        }
    return load_config(
        {
            "broker": {"data_dir": str(folder), "partitions": 2},
            "worker": {"batch_max": batch_max},
            "events": {"ahead_max": "1s"},
            "defaults": {"metrics": {"every": 20, "window": 50}, "policy": {"cool_down": 300}},
            "models": models,
            **sections,
        }
    )


def traffic(seed, n_per_model):
    """Predictions, some twice, their labels (late, early, twice, never), and poison between them.

    The records of all models in the order in which they are sent.
    """
    rng = random.Random(seed)
    sent: list[Sent] = []
    due: list[tuple[int, int, Sent]] = []  # labels by the row at which they arrive
    for row in range(n_per_model * len(MODELS)):
        now_ms = START_MS + row * ROW_MS
        model, i = MODELS[row % len(MODELS)], row // len(MODELS)
        rate = ERROR_RATES[min(3 * i // n_per_model, 2)]
        y_true = rng.randrange(2)
        y_pred = 1 - y_true if rng.random() < rate else y_true
        event = {
            "prediction_id": f"{model}-{i}",
            "model": model,
            "version": "2" if model == "versions" and 2 * i > n_per_model else "1",
            "timestamp": now_ms,
            "prediction": y_pred,
            "features": {"x": rng.random() + y_true, "missing": None},
        }
        prediction = _sent("predictions", event, now_ms)
        labels = list(_labels(rng, row, model, i, y_true))
        # Sometimes the label is first: it was sent before its prediction was.
        early = [label for label in labels if label[0] <= row]
        sent.extend(label for _, label in early)
        sent.append(prediction)
        if row % 50 == 7:
            sent.append(prediction)
        for due_row, label in labels:
            if due_row > row:
                heapq.heappush(due, (due_row, len(sent) + len(due), label))
        while due and due[0][0] <= row:
            sent.append(heapq.heappop(due)[2])
        if rng.random() < 0.01:
            sent.append(_poison(rng, now_ms))
    sent.extend(heapq.heappop(due)[2] for _ in range(len(due)))
    return sent


def _labels(rng, row, model, i, y_true):
    """The labels of one prediction, each with the row at which it arrives."""
    if rng.random() < 0.03:
        return
    due_row = row if rng.random() < 0.05 else row + rng.randrange(1, 60)
    now_ms = START_MS + due_row * ROW_MS
    event = {"prediction_id": f"{model}-{i}", "model": model, "timestamp": now_ms}
    yield due_row, _sent("labels", event | {"label": y_true}, now_ms)
    if rng.random() < 0.05:
        again = rng.choice((y_true, y_true, 1 - y_true))
        yield due_row + rng.randrange(30), _sent("labels", event | {"label": again}, now_ms)


def _sent(topic, event, timestamp_ms):
    return Sent(topic, json.dumps(event).encode(), event["model"].encode(), (), timestamp_ms)


def _poison(rng, now_ms):
    key = rng.choice((None, b"plain", b"tight", b"\xff"))
    headers = rng.choice(((), (("trace", b"\x00\xff"), ("trace", b"again"))))
    return Sent(rng.choice(("predictions", "labels")), rng.choice(POISON), key, headers, now_ms)


def send(broker, sent):
    """Send records with their times, so that every copy of a folder holds the same."""
    with broker.producer() as producer:
        for topic, value, key, headers, timestamp_ms in sent:
            producer.send(topic, value, key, headers, timestamp_ms)


def monitor_worker(config, assignment, *, state_key=None, observers=()):
    """A worker that runs the monitor."""
    make_engine = partial(Engine, config, state_key=state_key)
    return Worker(make_engine, assignment, observers=observers)


def totals_of(worker):
    """The counts of a worker's partitions together."""
    return add_up(Totals, [engine.totals() for engine in worker.processors().values()])


def work_to_the_end(config, *, wrap=lambda tasks: tasks):
    """Run a worker in this process until all input is processed; its counts."""
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        worker = monitor_worker(config, wrap(tasks), state_key=STATE_KEY)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        return totals_of(worker)


# Counts that the crowded configurations need not raise.
RARE_COUNTS = {"n_released_early", "n_early", "n_unmonitored", "n_models_evicted"}


def zeros(totals):
    """The names of the counts that are zero."""
    return {name for name, n in asdict(totals).items() if not n}


def read_topic(broker, topic, *, with_times=True):
    """Every record of a topic by partition and place in it.

    Not by offset: Kafka's transactions take some up. And `with_times` only where the record's
    time is that of the event: on Kafka it is that of writing.
    """
    forgotten = {"offset": 0} if with_times else {"offset": 0, "timestamp_ms": 0}
    places = defaultdict(list)
    with broker.reader([topic]) as reader:
        while records := reader.poll(0.0):
            for record in records:
                places[record.partition].append(record._replace(**forgotten))
    return {(p, i): record for p, records in places.items() for i, record in enumerate(records)}


def differences(expected, actual, *, journals=True):
    """What the committed work of two brokers differs in, a line each: outputs and journals.

    Args:
        expected: the configuration of the broker that is right.
        actual: the configuration of the broker that is questioned.
        journals: whether the work must have been cut into the same batches as well.
    """
    with open_broker(expected) as right, open_broker(actual) as questioned:
        topics = expected.topics
        with_times = expected.broker.kind == actual.broker.kind
        lines = []
        for topic in (topics.metrics, topics.alarms, topics.retrain, topics.dead_letters):
            a, b = (read_topic(one, topic, with_times=with_times) for one in (right, questioned))
            lines += [
                f"{topic} {place}: expected {a.get(place)}, got {b.get(place)}"
                for place in sorted(a.keys() | b.keys())
                if a.get(place) != b.get(place)
            ]
        for partition in range(right.n_partitions if journals else 0):
            pairs = zip_longest(right.journal(partition), questioned.journal(partition))
            lines += [f"journal: expected {a}, got {b}" for a, b in pairs if a != b]
    return lines


def n_commits(config):
    """Commits so far, by partition."""
    with EmbeddedBroker(config) as broker:
        return [len(list(broker.journal(p))) for p in range(config.broker.partitions)]
