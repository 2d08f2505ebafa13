"""What is written can be read, by name, and damage is told apart from state."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.stream import snapshot
from streamgauge.stream.config import JoinSettings
from streamgauge.stream.engine import Engine
from streamgauge.stream.events import Prediction
from streamgauge.stream.join import ModelJoin
from streamgauge.stream.join_changes import JoinChange
from streamgauge.stream.snapshot import (
    JoinLog,
    SnapshotError,
    chunk_name,
    encode_changes,
    pack,
    split_name,
    unpack,
)
from tests.support.builders import T0, eventful, run, touchy

NAMES = st.text(min_size=1, max_size=10)


@given(st.sampled_from(["model", "monitor"]), st.lists(NAMES, min_size=1, max_size=3))
def test_a_chunks_name_tells_what_it_was_made_from(kind, names):
    assert split_name(chunk_name(kind, *names)) == (kind, names)


@given(st.lists(st.tuples(NAMES, NAMES), unique=True, max_size=20))
def test_chunk_names_differ(pairs):
    assert len({chunk_name("monitor", *pair) for pair in pairs}) == len(pairs)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN)
def test_what_is_packed_is_unpacked(value):
    assert unpack("x", pack(value)) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "chunk 'a/chunk' is damaged"),
        (b"\xc1", "is damaged"),
        (pack([1, 2])[:-1], "is damaged"),
        (msgspec.msgpack.encode("no pair"), "is damaged"),
        (msgspec.msgpack.encode(["no number", []]), "is damaged"),
        (msgspec.msgpack.encode([2, []]), "has format 2, this version reads 3"),
        (pack({"not": "a list"}), "is damaged: Expected `array`"),
        (pack([[["a change"]], 1]), "is damaged"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_chunk(data, message):
    with pytest.raises(SnapshotError, match="'a/chunk'") as error:
        unpack("a/chunk", data, list[list[JoinChange]])
    assert message in str(error.value)


def test_every_chunk_that_is_damaged_is_an_error():
    straight = run(touchy(), eventful(1, 60), [20])
    for name in straight.stored:
        for damaged in (b"", straight.stored[name][:-1], b"\xff" * 10):
            with pytest.raises(SnapshotError, match=r"state chunk|stored state"):
                Engine(touchy()).restore({**straight.stored, name: damaged}, "")


def test_state_without_the_engines_a_models_or_a_joins_chunk_is_an_error():
    straight = run(touchy(), eventful(1, 60), [1000])
    for name in straight.stored:
        if name.startswith("monitor/"):
            continue
        left = {key: chunk for key, chunk in straight.stored.items() if key != name}
        with pytest.raises(SnapshotError, match="stored state is not whole"):
            Engine(touchy()).restore(left, "")


# The join's log


def prediction(i, n_bytes=0):
    return Prediction(
        f"{i}",
        "m",
        "1",
        T0 + i,
        0,
        features={f"{k}": "x" * 500 for k in range(n_bytes // 500)},
    )


DEFAULTS = JoinSettings()


class Stored:
    """A join and what its log has stored, as a broker would have it."""

    def __init__(self, config=DEFAULTS):
        self.join = ModelJoin("m", config, keep_features=True)
        self.log = JoinLog("m")
        self.chunks = {}
        self.n_written = 0
        self.n_events = 0

    def commit(self, n, n_bytes=0):
        for _ in range(n):
            self.join.add_prediction(prediction(self.n_events, n_bytes), self.n_events, [])
            self.n_events += 1
        changed = self.log.write(encode_changes(self.join.drain_changes()), self.join)
        for name, chunk in changed.items():
            if chunk is None:
                self.chunks.pop(name, None)
            else:
                self.chunks[name] = chunk
                self.n_written += len(chunk)
        return changed

    def reread(self):
        assert sorted(self.chunks) == self.log.names()
        again = ModelJoin("m", self.join._config, keep_features=True)
        log = JoinLog("m")
        log.read(self.chunks, again)
        assert encode_changes(list(again.entries())) == encode_changes(list(self.join.entries()))
        return log, again


def test_small_commits_write_little_and_leave_few_chunks():
    stored = Stored()
    stored.commit(20_000, 500)
    n_base = sum(map(len, stored.chunks.values()))
    stored.n_written = n_most_chunks = n_changed = 0
    for _ in range(2000):
        n_changed += sum(map(len, encode_changes([(0, "12345", ["1"] * 6), (9, 1, 2, 3, [1] * 9)])))
        stored.commit(1)
        n_most_chunks = max(n_most_chunks, len(stored.chunks))
    assert stored.join.n_pending == 22_000
    # Each change was merged a dozen times, and the base was left alone.
    assert stored.n_written < 20 * n_changed < n_base
    assert n_most_chunks < 1.5 * n_base / (1 << 19) + 15


def test_a_log_that_outgrew_its_base_is_folded_into_a_new_one():
    stored = Stored(JoinSettings(pending_max=2000))
    n_folds = n_changed = 0
    for _ in range(600):
        n_changed += 100 * 80
        n_folds += any("/base/" in name for name in stored.commit(100))
        n_bytes = sum(map(len, stored.chunks.values()))
        assert n_bytes < 600_000
    assert 10 < n_folds < 60
    assert stored.n_written < 12 * n_changed
    stored.reread()


def test_a_hundred_thousand_predictions_with_features_are_many_small_chunks():
    stored = Stored()
    for _ in range(20):
        stored.commit(5000, 1000)
    stored.reread()
    sizes = list(map(len, stored.chunks.values()))
    assert sum(sizes) > 100_000_000
    assert max(sizes) < 3 << 19
    assert len(sizes) < 2 * sum(sizes) / (1 << 19)


def test_a_commit_is_cut_into_pieces_and_a_large_event_is_one():
    stored = Stored()
    stored.commit(3, 900_000)
    stored.commit(40, 20_000)
    assert max(map(len, stored.chunks.values())) < 1_000_000
    stored.reread()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0, 500])), max_size=30),
    st.sampled_from([1, 200, 2000, 10**9]),
    st.sampled_from([200, 2000, 1 << 19]),
)
def test_a_log_goes_on_where_it_was_read(commits, log_bytes_min, piece_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_LOG_BYTES_MIN", log_bytes_min)
        patch.setattr(snapshot, "_PIECE_BYTES", piece_bytes)
        straight, restarted = (
            Stored(JoinSettings(pending_max=50)),
            Stored(JoinSettings(pending_max=50)),
        )
        for n, n_bytes in commits:
            assert straight.commit(n, n_bytes) == restarted.commit(n, n_bytes)
            restarted.log, restarted.join = restarted.reread()
        assert straight.chunks == restarted.chunks


def test_a_join_that_is_not_whole_is_an_error(monkeypatch):
    monkeypatch.setattr(snapshot, "_LOG_BYTES_MIN", 1000)
    monkeypatch.setattr(snapshot, "_PIECE_BYTES", 400)
    stored = Stored()
    for n in (40, 4, 1):
        stored.commit(n)
    left = {n: c for n, c in stored.chunks.items() if n != "join/m/base/000001"}
    assert len(left) == len(stored.chunks) - 1
    with pytest.raises(SnapshotError, match="the join of model 'm' is not whole"):
        JoinLog("m").read(left, ModelJoin("m", JoinSettings()))


def test_state_of_an_older_version_is_refused_with_what_to_do():
    straight = run(touchy(), eventful(1, 60), [1000])
    older = {
        name: msgspec.msgpack.encode([snapshot.FORMAT - 1, msgspec.Raw(chunk[2:])])
        for name, chunk in straight.stored.items()
    }
    with pytest.raises(SnapshotError, match="run the version that wrote it, or start with a fresh"):
        Engine(touchy()).restore(older, straight.digests[-1])
