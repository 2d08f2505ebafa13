"""A model by itself: what it finds does not depend on where it was stored and restored."""

from itertools import accumulate, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.consumers.config import load_config
from streamgauge.stream.events import EventError, decode_label, decode_prediction
from streamgauge.stream.model import Model
from streamgauge.stream.snapshot import SnapshotError
from tests.support.builders import TOUCHY, eventful

KEY = b"a key of the tests"
LEARNING = {
    **TOUCHY,
    "learner": {"path": "river.tree.HoeffdingTreeClassifier", "params": {"grace_period": 10}},
    "detectors": {
        "deployed": TOUCHY["detectors"]["adwin"],
        "fresh": {**TOUCHY["detectors"]["page_hinkley"], "signal": "learner_error"},
    },
}
CONFIGS = {
    "plain": load_config({"defaults": TOUCHY}),
    "few versions, held": load_config(
        {
            "events": {"ahead_max": "1s"},
            "versions_max": 2,
            "defaults": {**TOUCHY, "join": {"label_maturity": "15s"}},
        }
    ),
    "learner": load_config({"defaults": LEARNING}),
}


def events_of(name, config, seed, n):
    """The events of one model in a feed, each with its offset."""
    for record in eventful(seed, n):
        decode = decode_label if record.topic == "labels" else decode_prediction
        try:
            event = decode(record.value, record.timestamp_ms, config.events)
        except EventError:
            continue
        if event.model == name:
            yield record, event


def take(model, record, event):
    add = model.add_label if record.topic == "labels" else model.add_prediction
    try:
        add(event, record.offset)
    except EventError as error:
        return str(error)
    return None


class Driven:
    """A model that takes batches, and its chunks as a broker would have them."""

    def __init__(self, config, name="text"):
        self.config, self.name = config, name
        self.model = Model(name, config, KEY)
        self.found, self.refused, self.notes = [], [], []
        self.stored = {}
        self.n_outcomes = 0

    def process(self, batch):
        for record, event in batch:
            self.refused.append(take(self.model, record, event))
            self.n_outcomes = self.model.place_outcomes(self.n_outcomes)
        self.found += self.model.drain_findings()

    def commit(self):
        for name, chunk in self.model.drain_chunks().chunks().items():
            if chunk is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = chunk

    def restart(self):
        self.model = Model(self.name, self.config, KEY)
        self.notes += self.model.restore(self.stored)


def cut(items, sizes):
    stops = accumulate(cycle(sizes), initial=0)
    start = next(stops)
    while start < len(items):
        stop = next(stops)
        yield items[start:stop]
        start = stop


def in_order(found):
    # repr, because a NaN equals no other.
    return [repr(finding) for finding in sorted(found, key=lambda f: f.order)]


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 9999),
    st.sampled_from(["text", "number", "price"]),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.sets(st.integers(0, 20)),
)
def test_a_model_that_is_restored_finds_what_one_finds_that_never_was(
    name, seed, model, sizes, restarts
):
    config = CONFIGS[name]
    events = list(events_of(model, config, seed, 150))
    straight, restored = Driven(config, model), Driven(config, model)
    straight.process(events)
    for i, batch in enumerate(cut(events, sizes)):
        restored.process(batch)
        restored.commit()
        if i in restarts:
            restored.restart()
    assert restored.notes == []
    assert restored.refused == straight.refused
    assert in_order(restored.found) == in_order(straight.found)
    assert restored.model.totals() == straight.model.totals()
    assert restored.model.n_outcomes == straight.model.n_outcomes
    straight.commit()
    plain = {n for n in straight.stored if not n.startswith("join/")}
    assert {n for n in restored.stored if not n.startswith("join/")} == plain


def test_a_model_has_something_to_find():
    events = list(events_of("text", CONFIGS["learner"], 3, 300))
    driven = Driven(CONFIGS["learner"])
    driven.process(events)
    driven.commit()
    kinds = {type(finding.finding).__name__ for finding in driven.found}
    assert kinds == {"MetricsFinding", "AlarmFinding", "RetrainDecision"}
    assert {name.split("/")[0] for name in driven.stored} == {"model", "join", "monitor", "learner"}


def test_outcomes_that_nobody_asked_about_are_monitored_before_they_are_stored():
    events = list(events_of("text", CONFIGS["plain"], 3, 300))
    straight, stored = Driven(CONFIGS["plain"]), Driven(CONFIGS["plain"])
    straight.process(events)
    for record, event in events[:200]:
        take(stored.model, record, event)
        stored.n_outcomes = stored.model.place_outcomes(stored.n_outcomes)
    stored.commit()
    found = stored.model.drain_findings()
    stored.restart()
    stored.process(events[200:])
    assert in_order(found + stored.found) == in_order(straight.found)


def test_what_is_deleted_of_a_model_is_all_that_is_stored_of_it():
    driven = Driven(CONFIGS["learner"])
    for batch in cut(list(events_of("text", CONFIGS["learner"], 5, 200)), [30]):
        driven.process(batch)
        driven.commit()
    driven.restart()
    gone = driven.model.deletions().chunks()
    assert gone == dict.fromkeys(driven.stored)
    assert Model("text", CONFIGS["plain"]).deletions().chunks() == {}


def test_a_model_that_is_not_whole_is_refused():
    driven = Driven(CONFIGS["plain"])
    driven.process(list(events_of("text", CONFIGS["plain"], 5, 100)))
    driven.commit()
    for missing in ("model/text", "join/text/log/000000"):
        left = {name: chunk for name, chunk in driven.stored.items() if name != missing}
        with pytest.raises(SnapshotError, match="the stored state is not whole"):
            Model("text", CONFIGS["plain"]).restore(left)
    unknown = {**driven.stored, "monitor/text/9": driven.stored["monitor/text/1"]}
    with pytest.raises(SnapshotError, match="the stored state is not whole: '9' is missing"):
        Model("text", CONFIGS["plain"]).restore(unknown)
