"""A bank raises the alarms of single detectors, however its batches are cut."""

from __future__ import annotations

import itertools
import math
import threading
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.detectors import (
    ADWIN,
    FHDDM,
    Alarm,
    Bank,
    PageHinkley,
    RiverDetector,
    make_detector,
)
from streamgauge.detectors.bank import _digest
from streamgauge.detectors.row import RowDetector
from tests.contract.test_detectors import CASES, Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamgauge.detectors.bank import BankAlarms

ROW_CASES = [case for case in CASES if isinstance(case.make(), RowDetector)]
every_kind = pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.kind)


def values_of(columns: BankAlarms) -> list[np.ndarray]:
    return [getattr(columns, field.name) for field in fields(columns)]


def alarms_of(columns: BankAlarms) -> list[tuple[int, int, str]]:
    """(position, id, alarm as text, so that it equals itself where it has NaN)."""
    rows = zip(*(column.tolist() for column in values_of(columns)), strict=True)
    return [
        (position, id_, repr(Alarm(index, kind, direction, *numbers, onset)))
        for position, id_, index, kind, direction, *numbers, onset in rows
    ]


def one_by_one(detectors: dict[int, Any], ids: Any, xs: Any) -> list[tuple[int, int, str]]:
    found = []
    for position, (id_, x) in enumerate(zip(ids, xs, strict=True)):
        if alarm := detectors[int(id_)].update(float(x)):
            found.append((position, int(id_), repr(alarm)))
    return found


def contents(bank: Bank) -> list[Any]:
    return [
        value.tolist() if isinstance(value, np.ndarray) else value
        for value in bank.state().values()
    ]


def mixed(case: Case, seed: int, n_detectors: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of several changing streams, their order mixed; ids from 0."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, n_detectors, n)
    xs = np.empty(n)
    for id_ in range(n_detectors):
        at = np.flatnonzero(ids == id_)
        low, high = case.means if id_ % 2 else case.means[::-1]
        half = len(at) // 2
        xs[at] = case.stream(seed + id_, (low, half), (high, len(at) - half))
    return ids, xs


@every_kind
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_raises_the_alarms_of_single_detectors_in_any_cut(case: Case, data: st.DataObject) -> None:
    ids, xs = mixed(case, data.draw(st.integers(0, 2**32)), 3, min(600, 2 * case.n_max))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(xs)), max_size=4)))
    bank, stops = Bank(case.make()), [0, *cuts, len(xs)]
    assert bank.add(3).tolist() == [0, 1, 2]
    found = []
    for start, stop in itertools.pairwise(stops):
        columns = bank.update(ids[start:stop], xs[start:stop])
        found += alarms_of(replace(columns, position=columns.position + start))
    singles = {id_: case.make() for id_ in range(3)}
    assert found == one_by_one(singles, ids, xs)
    for id_, single in singles.items():
        assert bank.n_seen(id_) == single.n_seen
        assert bank.readings(id_) == single.readings()
        assert bank.detector(id_).state() == single.state()


@every_kind
def test_there_are_alarms_to_compare(case: Case) -> None:
    bank = Bank(case.make())
    bank.add(3)
    columns = bank.update(*mixed(case, 1, 3, min(600, 2 * case.n_max)))
    assert "drift" in columns.kind


@every_kind
def test_goes_on_from_its_state(case: Case) -> None:
    ids, xs = mixed(case, 2, 5, 300)
    bank = Bank(case.make())
    bank.add(6)
    bank.remove([3])
    ids[ids == 3] = 5
    bank.update(ids[:150], xs[:150], now=7)
    wire = msgspec.msgpack.encode(
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in bank.state().items()}
    )
    restored = Bank.from_state(msgspec.msgpack.decode(wire))
    assert len(restored) == len(bank) == 5
    assert alarms_of(restored.update(ids[150:], xs[150:])) == alarms_of(
        bank.update(ids[150:], xs[150:])
    )
    assert contents(restored) == contents(bank)
    assert restored.add(2).tolist() == bank.add(2).tolist() == [3, 6]


@every_kind
def test_a_new_baseline_is_as_new(case: Case) -> None:
    ids, xs = mixed(case, 3, 2, 200)
    bank = Bank(case.make())
    bank.add(2)
    bank.update(ids, xs)
    bank.rebaseline([1])
    single = case.make()
    single.update_many(xs[ids == 1])
    single.rebaseline()
    assert bank.detector(1).state() == single.state()
    more = case.changing_stream()
    found = [text for *_, text in alarms_of(bank.update(np.ones(len(more), dtype=int), more))]
    assert found == [repr(alarm) for alarm in single.update_many(more)]


def test_rows_grow_one_by_one_and_are_used_again() -> None:
    rng = np.random.default_rng(5)
    bank = Bank(ADWIN(on_drift="shrink"))
    ids = bank.add(200)
    singles = {int(id_): ADWIN(on_drift="shrink") for id_ in ids}
    for _ in range(8):
        # A few of them see much more than the others.
        which = (200 * rng.random(20_000) ** 4).astype(np.int64)
        xs = rng.random(20_000) + (rng.random() < 0.4)
        columns = bank.update(which, xs)
        expected = [
            (id_, repr(alarm))
            for id_, single in singles.items()
            for alarm in single.update_many(xs[which == id_])
        ]
        assert sorted((id_, text) for _, id_, text in alarms_of(columns)) == sorted(expected)
    for id_, single in singles.items():
        assert bank.detector(id_).state() == single.state()
    # As many new ones take no more room than the old ones had.
    before = bank.nbytes
    bank.remove(ids[:100])
    bank.add(100)
    assert bank.nbytes <= before


def test_a_short_window_takes_at_most_a_kibibyte() -> None:
    bank = Bank(ADWIN())
    ids = bank.add(1000)
    for _ in range(10):
        bank.update(ids.repeat(30), np.tile([0.0, 1.0], 15_000))
    assert bank.nbytes <= 1024 * len(bank)
    # And a long one, with its detector moved to wider rows, in proportion to its logarithm.
    for _ in range(100):
        bank.update(ids.repeat(100), np.tile([0.0, 1.0], 50_000))
    assert bank.readings(0)["width"] == 10_300
    assert bank.nbytes <= 4096 * len(bank)


def test_knows_the_idle_ones() -> None:
    bank = Bank(PageHinkley())
    bank.add(3, now=10)
    bank.update([1, 2], [0.0, 0.0], now=20)
    bank.update([2], [0.0], now=30)
    assert bank.idle(10).tolist() == []
    assert bank.idle(20).tolist() == [0]
    assert bank.idle(30).tolist() == [0, 1]
    bank.remove(bank.idle(30))
    assert len(bank) == 1
    assert bank.idle(math.inf).tolist() == [2]


def test_ids_and_rows_of_removed_ones_are_used_again_and_as_new() -> None:
    bank = Bank(PageHinkley(threshold=3))
    ids = bank.add(10)
    bank.update(ids.repeat(5), np.arange(50.0))
    size = bank.nbytes
    for _ in range(20):
        bank.remove(ids[2:7])
        assert sorted(bank.add(5).tolist()) == ids[2:7].tolist()
    assert bank.nbytes == size
    assert bank.n_seen(3) == 0
    assert bank.readings(3) == PageHinkley(threshold=3).readings()
    assert bank.n_seen(1) == bank.n_seen(7) == 5


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([0, 1, 2], [0.0, math.nan, 0.0], "at position 1 of the array"),
        ([0, 1, 2], [0.0, 0.0, 1e200], "at position 2 of the array"),
        ([0, 3], [0.0, 0.0], "no detector 3 at position 1"),
        ([0, -1], [0.0, 0.0], "no detector -1 at position 1"),
        ([0, 9], [0.0, 0.0], "no detector 9 at position 1"),
        ([0, 2**62], [0.0, 0.0], "no detector 4611686018427387904 at position 1"),
        ([0, 1], [0.0], "2 ids do not fit 1 values"),
        ([0.0, 1.0], [0.0, 0.0], "ids are a one-dimensional array of whole numbers"),
        ([[0], [1]], [0.0, 0.0], "ids are a one-dimensional array of whole numbers"),
        ([0], [[0.0]], "one-dimensional array"),
    ],
)
def test_refuses_a_batch_whole(ids: Any, values: Any, message: str) -> None:
    bank = Bank(ADWIN())
    bank.add(5)
    bank.remove([3])
    before = contents(bank)
    with pytest.raises(ValueError, match=message):
        bank.update(ids, values)
    assert contents(bank) == before


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_refuses_a_time_that_is_none(now: float) -> None:
    bank = Bank(ADWIN())
    bank.add(1)
    with pytest.raises(ValueError, match="now is a number"):
        bank.update([0], [0.0], now=now)
    with pytest.raises(ValueError, match="now is a number"):
        bank.add(1, now=now)


@pytest.mark.parametrize("ids", [[1, 1], [7], [-1], [0.5]])
def test_removes_all_or_none(ids: Any) -> None:
    bank = Bank(ADWIN())
    bank.add(3)
    before = contents(bank)
    with pytest.raises(ValueError, match="id"):
        bank.remove(ids)
    assert contents(bank) == before


def test_an_empty_batch_raises_nothing() -> None:
    bank = Bank(ADWIN())
    columns = bank.update([], [])
    assert all(len(column) == 0 for column in values_of(columns))
    assert len(bank) == len(Bank.from_state(bank.state())) == 0


def test_takes_detectors_of_its_own_only() -> None:
    with pytest.raises(ValueError, match="one of our own detectors"):
        Bank(RiverDetector("river.drift.ADWIN"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector": "ADWIN"}, "'ADWIN'"),
        ({"format": 0}, "format 0"),
        ({"row_format": 0}, "format 0"),
        ({"rows": np.zeros(3)}, "damaged"),
        ({"ids": np.array([0, 2])}, "damaged"),
        ({"ids": ["a", "b"]}, "damaged"),
        ({"ids": np.array([0]), "free_ids": np.array([1])}, "damaged"),
        ({"widths": np.array([2**70, 1])}, "damaged"),
        ({"n_seen": 1}, "damaged"),
        ({"n_seen": 0.5}, "n_seen"),
        ({"params": None}, "damaged"),
        ({"kind": None}, "damaged"),
        ({"kind": "Nilometer"}, "no detector"),
    ],
)
def test_refuses_another_state(change: dict[str, Any], message: str) -> None:
    bank = Bank(ADWIN())
    bank.add(2)
    with pytest.raises(ValueError, match=message):
        Bank.from_state({**bank.state(), **change})


@every_kind
def test_refuses_rows_of_other_parameters(case: Case) -> None:
    bank = Bank(case.make())
    bank.add(2)
    bank.update([0, 1, 0], [0.0, 1.0, 1.0])
    state = bank.state()
    assert contents(Bank.from_state(state)) == contents(bank)
    for name, value in state["params"].items():
        others = [value * 2, value + 1, value / 2] if isinstance(value, int | float) else []
        others += ["none", "reset", "shrink", "up", "both", "location", None, [1.0], True, False, 5]
        without = {key: kept for key, kept in state["params"].items() if key != name}
        changed = [{**without, name: other} for other in others if other != value]
        for params in [*changed, without]:
            with pytest.raises(ValueError, match=r"damaged|parameter"):
                Bank.from_state({**state, "params": params})


def test_refuses_wide_parameters_for_narrow_rows_and_the_like() -> None:
    bank = Bank(FHDDM(50))
    bank.add(1)
    state = bank.state()
    wide = {**state["params"], "sliding_window_size": 5000}
    with pytest.raises(ValueError, match="damaged"):
        Bank.from_state({**state, "params": wide})
    # Even where somebody has made the digest fit.
    for params, ids in ((wide, [0]), (state["params"], [7])):
        arrays = [np.array(state["free_ids"]), np.array(ids), state["widths"], state["rows"]]
        digest = _digest(make_detector("FHDDM", params), 0, *arrays)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="damaged"):
            Bank.from_state({**state, "params": params, "ids": ids, "digest": digest})


class Intruding:
    """An array whose conversion is another thread's turn: `during` is called in the midst."""

    def __init__(self, during: Callable[[], object]) -> None:
        self.during = during

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del dtype, copy
        with pytest.raises(RuntimeError, match="another thread is in this bank"):
            self.during()
        return np.array([0])


def test_a_second_thread_is_kept_out() -> None:
    bank = Bank(ADWIN())
    bank.add(2)
    for during in (
        lambda: bank.add(1),
        lambda: bank.update([0], [0.0]),
        lambda: bank.remove([0]),
        lambda: bank.rebaseline([0]),
        lambda: bank.idle(1),
        lambda: bank.n_seen(0),
        lambda: bank.readings(0),
        bank.state,
    ):
        before = bank.n_seen(0)
        bank.update(Intruding(during), [0.0])
        assert bank.n_seen(0) == before + 1
    # And what fails leaves no one inside.
    with pytest.raises(ValueError, match="no detector"):
        bank.update([7], [0.0])
    assert bank.add(1).tolist() == [2]


def test_ids_and_values_that_change_after_their_check_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = Bank(PageHinkley())
    bank.add(2)
    ids, values = np.array([0, 1, 1]), np.array([0.5, 1.0, 1.0])
    take = Bank._take

    def late(self: Bank, *args: Any) -> BankAlarms:
        ids[:], values[:] = 10**9, math.nan
        return take(self, *args)

    monkeypatch.setattr(Bank, "_take", late)
    bank.update(ids, values)
    assert [bank.n_seen(0), bank.n_seen(1)] == [1, 2]
    assert [bank.readings(0)["mean"], bank.readings(1)["mean"]] == [0.5, 1.0]


def test_other_threads_run_while_it_works() -> None:
    bank = Bank(ADWIN(clock=1))
    ids = bank.add(1)
    bank.update(ids, [0.0])
    n, done = [0, 0], threading.Event()

    def count() -> None:
        while not done.is_set():
            n[0] += 1

    thread = threading.Thread(target=count)
    xs = np.tile([0.0, 1.0], 500_000)
    thread.start()
    try:
        before = n[0]
        bank.update(np.zeros(len(xs), dtype=np.int64), xs)
        n[1] = n[0] - before
    finally:
        done.set()
        thread.join()
    # With the GIL held the other thread would be let in between chunks only, if at all.
    assert n[1] > 1000
