"""How much one batch may be: so many records, and so many bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamgauge.consumers import input_buffer
from streamgauge.consumers.input_buffer import InputBuffer
from streamgauge.stream.records import Record

BATCH_MAX = 10


@pytest.fixture(autouse=True)
def bytes_max(monkeypatch):
    monkeypatch.setattr(input_buffer, "_BATCH_BYTES_MAX", 100)


def test_keys_and_headers_are_bytes_too():
    i = InputBuffer()
    i.put([Record("p", 0, n, 0, bytes(30), None, (("h", bytes(30)),)) for n in range(8)])
    assert i.batch_size(BATCH_MAX) == 1
    assert i.is_ahead(3, BATCH_MAX)


def filled(*sizes):
    i = InputBuffer()
    i.put([Record("p", 0, n, 0, None, bytes(size) or None) for n, size in enumerate(sizes)])
    return i


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 30, BATCH_MAX),
        ([25] * 3, BATCH_MAX),
        ([25] * 8, 4),
        ([0] * 5 + [101], 5),
        ([500, 1], 1),
        ([0] * 30 + [500], BATCH_MAX),
    ],
)
def test_a_batch_ends_at_whichever_limit_comes_first(sizes, expected):
    assert filled(*sizes).batch_size(BATCH_MAX) == expected


def test_an_input_of_few_large_records_is_ahead_too():
    assert not filled(*[49] * 2).is_ahead(1, BATCH_MAX)
    assert filled(*[50] * 2).is_ahead(1, BATCH_MAX)
    assert not filled(*[50] * 2).is_ahead(2, BATCH_MAX)
    assert filled(*[1] * 2 * BATCH_MAX).is_ahead(2, BATCH_MAX)


@pytest.mark.parametrize("n_taken", [1, 2, 5, 7, 8])
def test_what_was_taken_no_longer_counts(n_taken):
    i = filled(*[30] * 8)
    i.put([Record("p", 0, 8, 0, None, bytes(70))])
    i.take(n_taken)
    left = filled(*[30] * (8 - n_taken), 70)
    for n_batches, larger in pairwise(range(1, 5)):
        assert i.is_ahead(n_batches, BATCH_MAX) == left.is_ahead(n_batches, BATCH_MAX)
        assert i.is_ahead(n_batches, BATCH_MAX) >= i.is_ahead(larger, BATCH_MAX)
    assert i.batch_size(BATCH_MAX) == left.batch_size(BATCH_MAX)
