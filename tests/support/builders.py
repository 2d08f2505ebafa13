"""Events, records and runs of the engine that the tests of the core share."""

import json
import random
from dataclasses import dataclass, field
from itertools import cycle

from river import compose, linear_model, preprocessing

from streamgauge.consumers.config import load_config
from streamgauge.stream.align import merge
from streamgauge.stream.config import Topics
from streamgauge.stream.contracts import RetrainRequest
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import Record

# Where the tests' event time starts.
T0 = 1_700_000_000_000

TOPICS = Topics()

# Detectors and a policy so touchy that everything happens within a few hundred outcomes.
TOUCHY = {
    "detectors": {
        "adwin": {"kind": "ADWIN", "params": {"delta": 0.4, "clock": 3, "grace_period": 5}},
        "page_hinkley": {
            "kind": "PageHinkley",
            "params": {"min_instances": 8, "delta": 0.02, "threshold": 2.5},
        },
    },
    "policy": {"min_labels": 10, "cool_down": 25},
    "metrics": {"every": 7, "window": 20},
}


# One quick detector, so that what is asked for is what the test means.
CALM = {
    "detectors": {"page_hinkley": {"kind": "PageHinkley", "params": {"threshold": 5}}},
    "policy": {"min_labels": 30, "cool_down": 50},
    "metrics": {"every": 10},
}


def touchy(**changes):
    """A configuration with the touchy defaults; `changes` are of the top level."""
    return load_config({"defaults": TOUCHY, **changes})


def event(**fields):
    """The bytes of an event."""
    return json.dumps(fields).encode()


@dataclass
class Feed:
    """Input of one partition, written in the order in which it is to be merged.

    Each record is `step_ms` younger than the one before; an event has its record's time unless
    it says otherwise.
    """

    step_ms: int = 1000
    merged: list = field(default_factory=list)
    n: dict = field(default_factory=lambda: {"predictions": 0, "labels": 0})

    @property
    def now(self):
        return T0 + len(self.merged) * self.step_ms

    def predict(self, prediction_id, prediction=0, model="m", version="1", **fields):
        fields = {"timestamp": self.now, "model": model, "version": version, **fields}
        self.raw("predictions", event(prediction_id=prediction_id, prediction=prediction, **fields))

    def label(self, prediction_id, label=0, model="m", **fields):
        fields = {"timestamp": self.now, "model": model, **fields}
        self.raw("labels", event(prediction_id=prediction_id, label=label, **fields))

    def raw(self, topic, value, key=b"k", headers=()):
        record = Record(topic, 0, self.n[topic], self.now, key, value, headers)
        self.n[topic] += 1
        self.merged.append(record)

    def outcome(self, prediction_id, *, wrong, **fields):
        """A prediction and its label in one."""
        self.label(prediction_id, int(wrong), prediction=0, **{"version": "1", **fields})


def split(records):
    """Predictions and labels of some merged records."""
    return (
        [record for record in records if record.topic == "predictions"],
        [record for record in records if record.topic == "labels"],
    )


@dataclass
class Run:
    """What an engine made of its input: outputs, and digest and chunks of each commit."""

    engine: Engine
    outputs: list = field(default_factory=list)
    digests: list = field(default_factory=list)
    commits: list = field(default_factory=list)
    stored: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    def topic(self, name):
        return [output for output in self.outputs if TOPICS.name_of(output.role) == name]

    def by_topic(self):
        return {name: self.topic(name) for name in TOPICS.names().values() if self.topic(name)}

    def json(self, name):
        return [json.loads(output.value) for output in self.topic(name)]

    def commit(self):
        chunks = self.engine.drain_chunks()
        self.commits.append(chunks)
        self.digests.append(self.engine.digest)
        for name, chunk in chunks.items():
            if chunk is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = chunk


def run(config, merged, sizes=(10**9,), *, restarts=frozenset(), state_key=None, partition=0):
    """Feed merged records in batches of these sizes, over and over; a commit after each.

    Args:
        restarts: numbers of the commits after which the engine is dropped and restored.
    """
    result = Run(Engine(config, partition, state_key=state_key))
    sizes = cycle(sizes)
    start = 0
    while start < len(merged):
        stop = start + next(sizes)
        predictions, labels = split(merged[start:stop])
        assert len(merge((predictions, labels))) == len(merged[start:stop])
        result.outputs += result.engine.process((predictions, labels))
        result.commit()
        start = stop
        if len(result.commits) in restarts:
            result.engine = Engine(config, partition, state_key=state_key)
            result.notes += result.engine.restore(result.stored, result.digests[-1])
    return result


def restarted_always(config, merged, sizes, **options):
    return run(config, merged, sizes, restarts=range(len(merged) + 1), **options)


def eventful(seed, n=300):
    """A feed with everything in it: models, versions, late and early labels, repeats, rubbish."""
    rng = random.Random(seed)
    feed = Feed()
    waiting = []
    for i in range(n):
        # Errors become frequent and rare again by turns.
        p_wrong = 0.8 if i // 60 % 2 else 0.1
        wrong = rng.random() < p_wrong
        model = rng.choice(["text", "text", "number", "price"])
        version = f"{1 + i // 100}" if rng.random() < 0.9 else f"{rng.randint(1, 4)}"
        truth, guess = _values(rng, model, wrong=wrong)
        features = {"x": float(wrong), "y": rng.random(), "z": None}
        made = {"model": model, "version": version, "features": features}
        given = {"model": model}
        if rng.random() < 0.5:
            given["version"] = version
        name = f"{seed}-{i}"
        kind = rng.random()
        if kind < 0.2:
            carried = {"prediction": guess, "timestamp_predicted": feed.now - rng.randint(0, 9000)}
            feed.label(name, truth, **made, **carried)
        elif kind < 0.3:
            feed.label(name, truth, **given)
            feed.predict(name, guess, **made)
        else:
            extra = {"probability": rng.random()} if model == "number" else {}
            feed.predict(name, guess, **made, **extra)
            waiting.append((name, truth, given))
        while waiting and rng.random() < 0.6:
            name, truth, given = waiting.pop(rng.randrange(len(waiting)))
            feed.label(name, truth, **given)
            if rng.random() < 0.1:
                feed.label(
                    name, rng.choice([truth, _values(rng, given["model"], wrong=False)[0]]), **given
                )
        if rng.random() < 0.05:
            feed.raw(
                rng.choice(["predictions", "labels"]), rng.choice([b"", b"{", b'{"model": 1}'])
            )
    return feed.merged


def _values(rng, model, *, wrong):
    if model == "text":
        return ("b", "a") if wrong else ("a", "a")
    if model == "number":
        return (True, False) if wrong else (False, False)
    truth = rng.gauss(100, 10) + 0.001
    return truth, truth + rng.gauss(0, 20 if wrong else 1)


def requests_of(result):
    return [RetrainRequest.model_validate_json(o.value) for o in result.topic("retrain-requests")]


def asked(result):
    return [(request.version, request.episode) for request in requests_of(result)]


def serve(feed, version, n, *, wrong=False, prefix=""):
    for i in range(n):
        name = f"{prefix}{version}-{i}-{len(feed.merged)}"
        feed.predict(name, 0, version=version)
        feed.label(name, int(wrong), version=version)


def scaled_logistic():
    """A pipeline, by import path `builders.scaled_logistic`."""
    return (
        compose.Select("x", "y")
        | preprocessing.StandardScaler()
        | linear_model.LogisticRegression()
    )


def unkeepable():
    """A pipeline that cannot be pickled, for it holds a function without a name."""
    return compose.FuncTransformer(lambda x: x) | linear_model.LogisticRegression()
