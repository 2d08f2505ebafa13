"""The changelog gives back what was committed, however chunks were cut into parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgauge.consumers.broker import BrokerError, Checkpoint, Commit, JournalEntry
from streamgauge.consumers.kafka import changelog as kafka_changelog
from streamgauge.consumers.kafka.changelog import Changelog
from streamgauge.consumers.kafka.journal import StoredEntry
from streamgauge.stream.records import Record

CHUNKS = st.dictionaries(
    st.sampled_from(["a", "b/1", "b%23"]), st.none() | st.binary(max_size=12), max_size=3
)
# How large a part is, whether another owner goes on from the log, and what changes.
COMMITS = st.lists(st.tuples(st.integers(1, 6), st.booleans(), CHUNKS), min_size=1, max_size=8)


def as_logged(rows, start):
    return [
        Record(row.topic, 0, start + i, 0, row.key, row.value, row.headers)
        for i, row in enumerate(rows)
    ]


def compacted(log):
    last = {record.key: record for record in log}
    kept = sorted(last.values(), key=lambda record: record.offset)
    return [record for record in kept if record.value is not None]


def written(monkeypatch, commits):
    """A log, and the chunks that it stands for; a version of ours may have cut otherwise."""
    log, chunks, changelog = [], {}, Changelog("state", ["p", "l"])
    for sequence, (part_bytes, is_taken_over, changes) in enumerate(commits, 1):
        monkeypatch.setattr(kafka_changelog, "PART_BYTES_MAX", part_bytes)
        if is_taken_over:
            changelog = Changelog("state", ["p", "l"])
            changelog.restore(log)
        commit = Commit(Checkpoint(), Checkpoint(sequence, (0, 0), "", ""), [], changes)
        log += as_logged(changelog.rows(commit), len(log))
        chunks = {k: v for k, v in {**chunks, **changes}.items() if v is not None}
    return log, chunks


@given(COMMITS)
def test_what_is_restored_is_what_was_committed(commits):
    with pytest.MonkeyPatch.context() as monkeypatch:
        log, chunks = written(monkeypatch, commits)
        for records in (log, compacted(log)):
            taken_over = Changelog("state", ["p", "l"]).restore(records)
            assert taken_over.chunks == chunks
            assert taken_over.checkpoint.sequence == len(commits)
        n_parts = sum(record.key != b"checkpoint" for record in compacted(log))
        size = {name: len(chunk) for name, chunk in chunks.items()}
        assert n_parts <= sum(max(1, n) for n in size.values())


def test_a_part_that_is_missing_is_noticed(monkeypatch):
    log, _ = written(monkeypatch, [(2, False, {"a": b"12345"})])
    assert [record.key for record in log] == [b"a#0", b"a#1", b"a#2", b"checkpoint"]
    for lost in range(3):
        with pytest.raises(BrokerError, match="is not whole"):
            Changelog("state", ["p", "l"]).restore(log[:lost] + log[lost + 1 :])


OLD_POSITION = (
    b'{"format":1,"sequence":3,"prediction_offset":40,"label_offset":38,"state_digest":"d",'
    b'"config_digest":"c","n_chunks":1,"chunks_digest":"00"}'
)


def test_the_state_of_an_older_version_is_refused_in_a_sentence():
    headers = (("parts", b"1"),)
    records = [
        Record("state", 0, 0, 0, b"engine#0", b"chunk", headers),
        Record("state", 0, 1, 0, b"position", OLD_POSITION),
    ]
    with pytest.raises(
        BrokerError, match="has format 1, and this version reads 2; run the version"
    ):
        Changelog("state", ["p", "l"]).restore(records)


def test_the_state_of_other_topics_is_refused(monkeypatch):
    log, _ = written(monkeypatch, [(2, False, {"a": b"12345"})])
    with pytest.raises(BrokerError, match="is of a worker that read p, l, and this one reads x, l"):
        Changelog("state", ["x", "l"]).restore(log)


def test_a_journal_of_another_format_is_refused():
    entry = JournalEntry(0, 1, (0, 0), (4, 2), None, "d", "c")
    stored = StoredEntry.of(entry, ["p", "l"])
    assert StoredEntry.decode(stored.encode(), "here").journal_entry(0) == entry
    stored.format = 7
    with pytest.raises(BrokerError, match="the journal in here has format 7, and this version"):
        StoredEntry.decode(stored.encode(), "here")
    with pytest.raises(BrokerError, match=r"here cannot be read: .*; run the version"):
        StoredEntry.decode(b'[0, 3, 0, 40, 0, 38, "d", "c"]', "here")
