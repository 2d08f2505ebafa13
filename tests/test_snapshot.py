"""What is written can be read, by name, and damage is told apart from state."""

import msgspec
import pytest
from builders import eventful, run, touchy
from hypothesis import given
from hypothesis import strategies as st

from stream import snapshot
from stream.engine import Engine
from stream.join import JoinCounts, JoinDelta, JoinState
from stream.snapshot import JoinLog, SnapshotError, chunk_name, pack, split_name, unpack

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
        (b"", "chunk 'join/base' is damaged"),
        (b"\xc1", "is damaged"),
        (pack([1, 2])[:-1], "is damaged"),
        (msgspec.msgpack.encode("no pair"), "is damaged"),
        (msgspec.msgpack.encode(["no number", []]), "is damaged"),
        (msgspec.msgpack.encode([2, []]), "has format 2, this version reads 1"),
        (pack({"not": "a list"}), "is damaged: Expected `array`"),
        (pack([["a model", 1]]), "is damaged"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_chunk(data, message):
    with pytest.raises(SnapshotError, match="'join/base'") as error:
        unpack("join/base", data, list[JoinState])
    assert message in str(error.value)


def test_every_chunk_that_is_damaged_is_an_error():
    straight = run(touchy(), eventful(1, 60), [20])
    for name in straight.stored:
        for damaged in (b"", straight.stored[name][:-1], b"\xff" * 10):
            with pytest.raises(SnapshotError, match=r"state chunk|stored state"):
                Engine(touchy()).restore({**straight.stored, name: damaged}, "")


def test_state_without_the_engines_or_a_models_chunk_is_an_error():
    straight = run(touchy(), eventful(1, 60), [1000])
    for name in straight.stored:
        if name.startswith(("monitor/", "join/")):
            continue
        left = {key: chunk for key, chunk in straight.stored.items() if key != name}
        with pytest.raises(SnapshotError, match="stored state is not whole"):
            Engine(touchy()).restore(left, "")


class Unread:
    """Something in the place of a join that a log of changes must not look at."""

    def state(self):
        raise AssertionError


def test_a_small_log_is_appended_to():
    log = JoinLog()
    names = [name for _ in range(3) for name in log.write(b"some bytes", [Unread()])]
    assert names == [f"join/changes/{i:012d}" for i in range(3)]


def test_a_log_that_outgrew_its_base_is_folded_into_a_new_one(monkeypatch):
    monkeypatch.setattr(snapshot, "_LOG_BYTES_MIN", 100)
    log, stored = JoinLog(), {}
    n_folds = 0
    for i in range(50):
        chunks = log.write(pack([]) + b"x" * 30, [])
        # Three appended to the log, and the fourth would not fit any more.
        assert ("join/base" in chunks) == (i % 4 == 3)
        assert len(chunks) == (4 if "join/base" in chunks else 1)
        n_folds += "join/base" in chunks
        for name, chunk in chunks.items():
            if chunk is None:
                del stored[name]
            else:
                stored[name] = chunk
    assert n_folds == 12
    assert len(stored) <= 4


def test_a_log_goes_on_where_it_was_read(monkeypatch):
    monkeypatch.setattr(snapshot, "_LOG_BYTES_MIN", 50)
    straight, stored = JoinLog(), {}
    delta = pack([JoinDelta("m", 1, 2, 3, JoinCounts(), [])])
    for _ in range(40):
        restored = JoinLog()
        states, deltas = restored.read(stored)
        assert states == []
        assert len(deltas) == sum(name.startswith("join/changes/") for name in stored)
        chunks = straight.write(delta, [])
        assert restored.write(delta, []) == chunks
        stored.update({name: chunk for name, chunk in chunks.items() if chunk is not None})
        for name in [name for name, chunk in chunks.items() if chunk is None]:
            del stored[name]
