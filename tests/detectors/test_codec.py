"""The codec keeps what River's detectors are made of, and makes nothing else."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections import OrderedDict, deque
from typing import Any

import msgspec
import numpy as np
import pytest
import river.drift
import river.stats
from hypothesis import given
from hypothesis import strategies as st

from streamgauge.detectors.codec import decode, encode

RIVER = {"river"}

keys = st.integers() | st.text() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    plain | st.binary() | st.frozensets(keys),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.builds(deque, st.lists(inner), st.none() | st.integers(0, 5))
    ),
    max_leaves=12,
)


def through(value: Any, packages: Any = RIVER) -> Any:
    wire = msgspec.msgpack.encode(encode(value, packages))
    return decode(msgspec.msgpack.decode(wire), packages)


@given(trees)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    back = through(value)
    assert repr(back) == repr(value) or back == value
    assert type(back) is type(value)
    if isinstance(value, deque):
        assert back.maxlen == value.maxlen


@given(st.sets(st.text()))
def test_sets_have_one_encoding(value: set[str]) -> None:
    # Emptied and filled again in another order, a set is walked in another order.
    refilled = set(map(str, range(500)))
    refilled.clear()
    refilled.update(sorted(value, reverse=True))
    assert encode(value, RIVER) == encode(refilled, RIVER)


def test_nan_and_infinity_come_back() -> None:
    nan, infinity = through([math.nan, -math.inf])
    assert math.isnan(nan)
    assert infinity == -math.inf


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.array([], dtype=bool),
        np.array(1.5),
        np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
    ],
    ids=lambda array: str(array.shape),
)
def test_arrays_come_back_and_can_be_written(array: np.ndarray) -> None:
    back = through(array)
    assert back.dtype == array.dtype
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("scalar", [np.float64(0.1), np.int8(-3), np.bool_(True)])
def test_numpy_scalars_keep_their_type(scalar: Any) -> None:
    back = through(scalar)
    assert (type(back), back) == (type(scalar), scalar)


@pytest.mark.parametrize(
    "generator",
    [
        random.Random(1),
        np.random.RandomState(1),
        np.random.default_rng(1),
        np.random.Generator(np.random.MT19937(1)),
        np.random.Generator(np.random.Philox(1)),
    ],
    ids=["random", "legacy", "default", "mt19937", "philox"],
)
def test_generators_go_on(generator: Any) -> None:
    draw = "gauss" if isinstance(generator, random.Random) else "normal"
    # The normal numbers of two of them come in pairs, and half a pair is state.
    getattr(generator, draw)(0, 1)
    back = through(generator)
    expected = [getattr(generator, draw)(0, 1) for _ in range(5)]
    assert [getattr(back, draw)(0, 1) for _ in range(5)] == expected


def test_objects_written_in_rust_go_on() -> None:
    mean = river.stats.EWMean(0.3)
    mean.update(1)
    mean.update(5)
    back = through(mean)
    assert back.get() == mean.get()
    back.update(7)
    mean.update(7)
    assert back.get() == mean.get()


def test_a_method_comes_back_bound_to_the_new_object() -> None:
    back = through(river.drift.PageHinkley())
    assert back._test_drift.__self__ is back
    assert back._test_drift.__name__ == "_test_both"


class Slotted:
    __slots__ = ("x", "y")


class Foreign:
    def __init__(self, held: Any = None) -> None:
        self.held = held

    def method(self) -> None: ...


class Reduced:
    def __reduce_ex__(self, protocol: Any) -> Any:
        return print, ("made",)


class Listed(list):
    pass


HERE = {__name__.partition(".")[0]}


def test_slots_come_back() -> None:
    slotted = Slotted()
    slotted.x = (1, 2)
    back = through(slotted, HERE)
    assert back.x == (1, 2)
    assert not hasattr(back, "y")


def test_only_named_packages_are_kept() -> None:
    assert isinstance(through(Foreign(), HERE), Foreign)
    with pytest.raises(ValueError, match="Foreign is not a class of river"):
        encode(Foreign(), RIVER)


@pytest.mark.parametrize(
    "value",
    [
        dt.date(2024, 1, 1),
        OrderedDict(a=1),
        math.sqrt,
        lambda x: x,
        Foreign,
        [Foreign().method],
        np.array([object()]),
        np.array(["text"]),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_refuses_to_keep_what_it_does_not_know(value: Any) -> None:
    with pytest.raises(ValueError):
        encode(value, RIVER)


@pytest.mark.parametrize("value", [Reduced(), Listed([1])], ids=["reduced", "listed"])
def test_refuses_what_is_made_in_its_own_way(value: Any) -> None:
    with pytest.raises(ValueError, match="made in a way"):
        encode(value, HERE)


def test_refuses_a_class_that_has_no_name_in_its_module() -> None:
    class Local:
        pass

    with pytest.raises(ValueError, match="Local"):
        encode(Local(), HERE)


def test_refuses_a_second_reference_because_it_would_come_back_as_a_copy() -> None:
    shared = [1]
    assert through([[1], [1]]) == [[1], [1]]
    with pytest.raises(ValueError, match="list is referred to twice"):
        encode([shared, shared], RIVER)
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="twice"):
        encode(cycle, RIVER)


@pytest.mark.parametrize(
    "name",
    [
        "subprocess:Popen",
        "builtins:eval",
        "os:system",
        "riverbank:Class",
        # What a module of River imports is not River's.
        "river.drift.kswin:random.Random",
        "river.drift.kswin:DriftDetector",
        "river.drift.kswin:itertools",
        "river.drift:__import__",
        "river.no_such_module:Class",
        "river.drift:NoSuchClass",
        "river.drift",
        "",
    ],
)
def test_makes_no_foreign_class(name: str) -> None:
    with pytest.raises(ValueError):
        decode({"class": name, "newargs": [], "state": None}, RIVER)
    nested = {"class": "river.stats.mean:Mean", "newargs": [], "state": None}
    assert isinstance(decode(nested, RIVER), river.stats.Mean)
    inside = {"type": "dict", "items": [["n", {"class": name, "newargs": [], "state": None}]]}
    with pytest.raises(ValueError):
        decode({**nested, "state": inside}, RIVER)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "function", "state": None},
        {"type": "random:SystemRandom", "state": None},
        {"type": "tuple"},
        {"type": ["tuple"], "items": []},
        {"type": "dict", "items": [[[], 1]]},
        {"type": "method", "name": "update"},
        {"type": "array", "dtype": "|O", "shape": [1], "data": b"12345678"},
        {"type": "array", "dtype": "<f8", "shape": [2], "data": b"12345678"},
        {"type": "numpy.random._generator:Generator", "state": {"type": "dict", "items": []}},
        {
            "type": "numpy.random._generator:Generator",
            "state": {"type": "dict", "items": [["bit_generator", "seed"]]},
        },
        {"class": "river.stats.mean:Mean", "newargs": [1, 2], "state": 3},
    ],
    ids=str,
)
def test_refuses_what_it_has_not_written(data: Any) -> None:
    with pytest.raises(ValueError):
        decode(data, RIVER)


def test_a_method_is_a_method_of_its_object_and_nothing_else() -> None:
    def keeping(name: str) -> dict[str, Any]:
        method = {"type": "method", "name": name}
        state = {"type": "dict", "items": [["_test_drift", method]]}
        return {"class": "river.drift.page_hinkley:PageHinkley", "newargs": [], "state": state}

    assert decode(keeping("_test_increase"), RIVER)._test_drift.__name__ == "_test_increase"
    for name in ("__class__", "__dict__", "no_such_method"):
        with pytest.raises(ValueError):
            decode(keeping(name), RIVER)
