"""Writes the golden files: stored state as this version writes it, which all later ones must read.

Run `python -m tests.golden.make` when a stored format has a new number: it adds files for that, and
refuses to replace those of before. The input is the same every time.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from msgspec.structs import asdict

from streamgauge.consumers.broker import Checkpoint, Commit
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.embedded import database
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.kafka import changelog as kafka_changelog
from streamgauge.consumers.kafka import journal as kafka_journal
from streamgauge.stream import snapshot
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.builders import TOUCHY, eventful
from tests.support.harness import monitor_worker, send

FOLDER = Path(__file__).parent
STATE_KEY = b"the golden files' key"
TOPICS = ["predictions", "labels"]
# A file bears the number of each format that is in it.
EMBEDDED = FOLDER / f"embedded-{database.FORMAT}-{snapshot.FORMAT}.sql"
KAFKA = FOLDER / (f"kafka-{kafka_changelog.FORMAT}-{kafka_journal.FORMAT}-{snapshot.FORMAT}.jsonl")
PART_BYTES = 1_500
LOG_BYTES = 3_000


def config_for(folder):
    """Every kind of chunk comes of it: a learner, waiting and held events, several versions."""
    return load_config(
        {
            "broker": {"data_dir": str(folder)},
            "worker": {"batch_max": 40},
            "events": {"ahead_max": "1s"},
            "defaults": {**TOUCHY, "metrics": {"every": 50, "window": 50}},
            "models": {
                "number": {"learner": {"path": "river.linear_model.Perceptron"}},
                "price": {"join": {"label_maturity": "5s"}},
            },
        }
    )


def worked(folder):
    """A folder on which a worker has done its work; what it committed is in the file."""
    config = config_for(folder)
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as assignment:
        send(broker, [(r.topic, r.value, b"k", (), r.timestamp_ms) for r in eventful(1, 150)])
        worker = monitor_worker(config, assignment, state_key=STATE_KEY)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
    return config


def embedded_dump(folder):
    with closing(sqlite3.connect(folder / database.DATABASE_NAME)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def kafka_records(restored, entries):
    """The same state and journal as Kafka's topics hold them, a record a line."""
    # One that is of a deadline, as other processors have them.
    *entries, last = entries
    entries.append(last._replace(deadline_ms=1))
    kafka_changelog.PART_BYTES_MAX = PART_BYTES
    log = kafka_changelog.Changelog("golden-state", TOPICS)
    rows = log.rows(Commit(Checkpoint(), restored.checkpoint, [], restored.chunks))
    yield from (_line("state", row.key, row.value, row.headers) for row in rows)
    for entry in entries:
        stored = kafka_journal.StoredEntry.of(entry, TOPICS)
        yield _line("journal", None, stored.encode(), ())


def _line(topic, key, value, headers):
    record = [topic, _text(key), _text(value), [[name, _text(told)] for name, told in headers]]
    return json.dumps(record) + "\n"


def _text(data):
    return None if data is None else base64.b64encode(data).decode()


def restored_of(config):
    """What a worker finds in a folder: checkpoint and chunks, and the journal."""
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as assignment:
        return assignment.rebalance().restored[0], list(broker.journal(0))


def counts_of(config, restored):
    """All counts of an engine that is restored from stored chunks, as a line of JSON."""
    engine = Engine(config, state_key=STATE_KEY)
    engine.restore(restored.chunks, restored.checkpoint.state_digest)
    return json.dumps(asdict(engine.totals())) + "\n"


def main():
    for path in (EMBEDDED, KAFKA):
        if path.exists():
            raise SystemExit(f"{path.name} is there: it is kept; give the format a new number")
    # Some joins are to have a base, and that takes less here than ever elsewhere.
    snapshot._LOG_BYTES_MIN = LOG_BYTES
    with tempfile.TemporaryDirectory() as name:
        config = worked(Path(name))
        dump = embedded_dump(Path(name))
        restored, entries = restored_of(config)
    counts = counts_of(config, restored)
    EMBEDDED.write_text(f"-- {counts}{dump}")
    KAFKA.write_text(counts + "".join(kafka_records(restored, entries)))


if __name__ == "__main__":
    main()
