"""Stored state of every format since 0.2 can still be read: chunks, journal, checkpoint."""

import base64
import json
import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import asdict

from streamgauge.consumers.embedded import database
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.kafka.changelog import Changelog
from streamgauge.consumers.kafka.journal import StoredEntry
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS, Record
from streamgauge.stream.snapshot import split_name
from tests.golden.make import EMBEDDED as GOLDEN_EMBEDDED
from tests.golden.make import FOLDER, STATE_KEY, TOPICS, config_for
from tests.golden.make import KAFKA as GOLDEN_KAFKA
from tests.support.builders import Feed

EMBEDDED = sorted(FOLDER.glob("embedded-*.sql"))
KAFKA = sorted(FOLDER.glob("kafka-*.jsonl"))
KINDS = {"engine", "model", "monitor", "learner", "join"}


def check_goes_on(config, checkpoint, chunks, counts):
    """Every kind of chunk is there, and an engine becomes what it was and goes on."""
    assert {split_name(name)[0] for name in chunks} == KINDS
    assert {split_name(n)[1][1] for n in chunks if n.startswith("join/")} == {"base", "log"}
    engine = Engine(config, state_key=STATE_KEY)
    notes = engine.restore(chunks, checkpoint.state_digest)
    # A learner of another River starts afresh, and that is right.
    assert [note for note in notes if "the learner starts afresh" not in note] == []
    totals = engine.totals()
    assert {name: asdict(totals)[name] for name in counts} == counts
    assert min(totals.n_outcomes, totals.n_pending, totals.n_held, totals.n_dead_letters) > 0
    feed = Feed()
    for i in range(60):
        feed.predict(f"new-{i}", "a", model="text", version="1")
        feed.label(f"new-{i}", "a", model="text")
    outputs = engine.process((feed.merged[::2], feed.merged[1::2]))
    assert engine.totals().n_outcomes == totals.n_outcomes + 60
    assert outputs


def check_journal(entries, checkpoint):
    assert [entry.sequence for entry in entries] == list(range(1, checkpoint.sequence + 1))
    ends = (0, 0)
    for entry in entries:
        assert entry.offsets_from == ends
        ends = entry.offsets_to
    assert (ends, entries[-1].state_digest) == (checkpoint.offsets, checkpoint.state_digest)


def test_there_is_a_golden_file_of_each_format_as_it_is_written_now():
    assert GOLDEN_EMBEDDED in EMBEDDED
    assert GOLDEN_KAFKA in KAFKA


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_an_embedded_folder_is_read(path, tmp_path):
    with closing(sqlite3.connect(tmp_path / database.DATABASE_NAME)) as connection:
        connection.executescript(path.read_text())
    counts = json.loads(path.read_text().partition("\n")[0].removeprefix("--"))
    config = config_for(tmp_path)
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as assignment:
        restored = assignment.rebalance().restored[0]
        entries = list(broker.journal(0))
        check_journal(entries, restored.checkpoint)
        for role, end in zip(MONITOR_INPUTS, restored.checkpoint.offsets, strict=True):
            assert len(broker.fetch(config.topics.name_of(role), 0, 0, end)) == end
    check_goes_on(config, restored.checkpoint, restored.chunks, counts)


@pytest.mark.parametrize("path", KAFKA, ids=lambda path: path.stem)
def test_the_state_and_the_journal_on_kafka_are_read(path, tmp_path):
    records = {"state": [], "journal": []}
    first, *lines = path.read_text().splitlines()
    for line in lines:
        topic, key, value, headers = json.loads(line)
        told = tuple((name, _bytes(data)) for name, data in headers)
        record = Record(topic, 0, len(records[topic]), 0, _bytes(key), _bytes(value), told)
        records[topic].append(record)
    assert any(record.key.endswith(b"#1") for record in records["state"]), "a chunk of two parts"
    restored = Changelog("golden-state", TOPICS).restore(records["state"])
    entries = [StoredEntry.decode(r.value, "golden").journal_entry(0) for r in records["journal"]]
    check_journal(entries, restored.checkpoint)
    assert entries[-1].deadline_ms == 1
    counts = json.loads(first)
    check_goes_on(config_for(tmp_path), restored.checkpoint, restored.chunks, counts)


def _bytes(text):
    return None if text is None else base64.b64decode(text)
