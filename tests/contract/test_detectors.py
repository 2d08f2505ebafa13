"""What every detector promises (`streamgauge.detectors.base.Detector`), asked of every detector."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.detectors import Detector, detector_from_state, make_detector

NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


@dataclass(frozen=True)
class Case:
    """A detector with settings under which it alarms within a few dozen values."""

    kind: str
    params: dict[str, Any]
    binary: bool = False
    # Values from 0 to 1 only.
    bounded: bool = False
    # How the mean goes at the change that the detector is for.
    means: tuple[float, float] = (0.1, 0.9)
    n_max: int = field(default=300)

    def make(self) -> Detector:
        return make_detector(self.kind, self.params)

    def stream(self, seed: int, *segments: tuple[float, int]) -> np.ndarray:
        """Segments of (mean, length), of bits or of normal values."""
        rng = random.Random(seed)
        values = [
            float(rng.random() < mean) if self.binary else rng.gauss(mean, 0.3)
            for mean, n in segments
            for _ in range(n)
        ]
        array = np.array(values[: self.n_max])
        return np.clip(array, 0, 1) if self.bounded else array

    def changing_stream(self) -> np.ndarray:
        before, after = self.means
        third = self.n_max // 3
        return self.stream(5, (before, third), (after, third), (before, third))


CASES = [
    Case("ADWIN", {"clock": 4, "delta": 0.05}),
    Case("ADWIN", {"clock": 4, "delta": 0.05, "on_drift": "shrink"}),
    Case("DDM", {"warm_start": 10}, binary=True),
    Case("EDDM", {"warm_start": 5}, binary=True),
    Case("FOCuS", {"false_alarm_every": 300}, binary=True),
    Case("FOCuS", {"family": "gaussian", "sd": 0.3, "baseline": 0.1, "threshold": 5}),
    Case("MixtureESR", {"false_alarm_every": 100}, bounded=True),
    Case("FHDDM", {"sliding_window_size": 20, "confidence_level": 0.01}, binary=True),
    Case("HDDM_A", {}, binary=True),
    Case("HDDM_W", {}, binary=True),
    Case("ConformalESR", {"false_alarm_every": 300, "reference_max": 31}),
    Case("KSWIN", {"window_size": 24, "stat_size": 10}),
    Case("PageHinkley", {"threshold": 3, "min_instances": 10}),
    Case("river.drift.ADWIN", {"clock": 4, "delta": 0.05}),
    Case("river.drift.PageHinkley", {"threshold": 3, "min_instances": 10}),
    # A Kolmogorov-Smirnov test for each value: slow.
    Case("river.drift.KSWIN", {"window_size": 24, "stat_size": 10}, n_max=90),
    Case("river.drift.binary.DDM", {"warm_start": 10}, binary=True),
    Case("river.drift.binary.EDDM", {"warm_start": 5}, binary=True),
    Case(
        "river.drift.binary.FHDDM",
        {"sliding_window_size": 20, "confidence_level": 0.01},
        binary=True,
        means=(0.9, 0.1),
    ),
    Case("river.drift.binary.HDDMA", {}, binary=True),
    Case("river.drift.binary.HDDMW", {}, binary=True),
]

every_detector = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
few_examples = settings(max_examples=12, deadline=None)


@st.composite
def streams(draw: st.DrawFn, case: Case) -> np.ndarray:
    segment = st.tuples(st.floats(0, 1), st.integers(1, case.n_max // 2))
    return case.stream(
        draw(st.integers(0, 2**32)), *draw(st.lists(segment, min_size=1, max_size=4))
    )


def through_msgpack(detector: Detector) -> Detector:
    wire = msgspec.msgpack.encode(detector.state())
    assert msgspec.msgpack.decode(wire) == detector.state()
    return detector_from_state(msgspec.msgpack.decode(wire))


def said(detector: Detector, xs: np.ndarray) -> list[str]:
    """The alarms in full precision, and equal where they are NaN."""
    return [repr(alarm) for alarm in detector.update_many(xs)]


def remembers(detector: Detector) -> bytes:
    return msgspec.msgpack.encode(detector.state())


@every_detector
def test_is_a_detector(case: Case) -> None:
    assert isinstance(case.make(), Detector)
    assert case.make().n_seen == 0


@every_detector
def test_alarms_are_sane(case: Case) -> None:
    xs = case.changing_stream()
    alarms = case.make().update_many(xs)
    indices = [alarm.index for alarm in alarms]
    assert any(alarm.kind == "drift" for alarm in alarms)
    assert indices == sorted(set(indices))
    assert all(0 <= alarm.onset <= alarm.index < len(xs) for alarm in alarms)


@every_detector
@few_examples
@given(data=st.data())
def test_one_by_one_and_in_any_cut_the_alarms_are_the_same(case: Case, data: st.DataObject) -> None:
    xs = data.draw(streams(case))
    whole, single, cut = case.make(), case.make(), case.make()
    expected = said(whole, xs)
    assert [repr(alarm) for x in xs if (alarm := single.update(x))] == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(xs)), max_size=6)))
    assert [text for part in np.split(xs, cuts) for text in said(cut, part)] == expected
    assert whole.n_seen == single.n_seen == cut.n_seen == len(xs)
    assert remembers(single) == remembers(cut) == remembers(whole)


@every_detector
@few_examples
@given(data=st.data())
def test_goes_on_from_its_state(case: Case, data: st.DataObject) -> None:
    xs = data.draw(streams(case))
    stop = data.draw(st.integers(0, len(xs)))
    detector = case.make()
    detector.update_many(xs[:stop])
    restored = through_msgpack(detector)
    assert restored.readings() == detector.readings()
    assert said(restored, xs[stop:]) == said(detector, xs[stop:])
    assert remembers(restored) == remembers(detector)


@every_detector
def test_goes_on_from_its_state_right_at_an_alarm(case: Case) -> None:
    xs = case.changing_stream()
    indices = [alarm.index for alarm in case.make().update_many(xs)]
    for stop in {index + after for index in indices[:6] for after in (0, 1, 2)}:
        detector = case.make()
        detector.update_many(xs[:stop])
        restored = through_msgpack(detector)
        assert said(restored, xs[stop:]) == said(detector, xs[stop:])


@every_detector
@pytest.mark.parametrize("bad", [*NOT_FINITE, 1e200])
def test_refuses_what_it_cannot_use_and_stays_as_it_was(case: Case, bad: float) -> None:
    detector = case.make()
    xs = case.changing_stream()[:40]
    detector.update_many(xs)
    before = remembers(detector)
    with pytest.raises(ValueError, match="takes"):
        detector.update(bad)
    with pytest.raises(ValueError, match="at position 40 of the array"):
        detector.update_many(np.append(xs, bad))
    assert remembers(detector) == before


@every_detector
def test_takes_arrays_of_one_dimension(case: Case) -> None:
    detector = case.make()
    before = remembers(detector)
    with pytest.raises(ValueError, match=r"one-dimensional array, got shape \(2, 2\)"):
        detector.update_many(np.zeros((2, 2)))
    assert detector.update_many(np.array([])) == []
    assert remembers(detector) == before


@every_detector
def test_memory_is_bounded(case: Case) -> None:
    n = 100 if "KSWIN" in case.kind else 10_000
    # A stationary stream, in which windows grow as long as they may.
    xs = np.resize([0.0, 1.0], n)
    detector = case.make()
    detector.update_many(xs)
    size = len(remembers(detector))
    for _ in range(3):
        detector.update_many(xs)
    # Two more levels of ADWIN's buckets are 198 bytes, two more of a River detector's past 150.
    assert len(remembers(detector)) <= size + 450


@every_detector
def test_instances_are_independent(case: Case) -> None:
    xs = case.changing_stream()
    expected = said(case.make(), xs)
    one, other = case.make(), case.make()
    restored = detector_from_state(one.state())
    said(one, xs)
    assert said(other, xs) == expected
    assert said(restored, xs) == expected


@every_detector
def test_a_state_is_a_copy(case: Case) -> None:
    xs = case.changing_stream()
    detector = case.make()
    detector.update_many(xs[:30])
    state = detector.state()
    before = msgspec.msgpack.encode(state)
    detector.update_many(xs[30:])
    assert msgspec.msgpack.encode(state) == before


@every_detector
@few_examples
@given(data=st.data())
def test_after_rebaseline_it_is_as_new(case: Case, data: st.DataObject) -> None:
    past = data.draw(streams(case))
    xs = case.changing_stream()
    detector, new = case.make(), case.make()
    detector.update_many(past)
    detector.rebaseline()
    assert detector.n_seen == len(past)
    assert detector.readings() == new.readings()
    offset = len(past)
    shifted = [
        (alarm.index - offset, alarm.kind, alarm.onset - offset)
        for alarm in detector.update_many(xs)
    ]
    assert shifted == [(a.index, a.kind, a.onset) for a in new.update_many(xs)]


@every_detector
def test_readings_are_finite_and_named_alike(case: Case) -> None:
    detector = case.make()
    names = set(detector.readings())
    assert names
    for x in case.changing_stream():
        detector.update(x)
        readings = detector.readings()
        assert set(readings) == names
        assert all(np.isfinite(value) for value in readings.values())


@every_detector
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector": "Nilometer"}, "Nilometer"),
        ({"detector": None}, "None"),
        ({"format": 0}, "format 0"),
        ({"n_seen": -1}, "n_seen"),
    ],
)
def test_refuses_a_state_of_another_kind(case: Case, change: dict[str, Any], message: str) -> None:
    detector = case.make()
    with pytest.raises(ValueError, match=message):
        type(detector).from_state({**detector.state(), **change})


@pytest.mark.parametrize("case", [c for c in CASES if "." not in c.kind], ids=lambda c: c.kind)
def test_refuses_a_row_that_knows_of_values_never_seen(case: Case) -> None:
    detector = case.make()
    detector.update_many(case.changing_stream()[:9])
    state = detector.state()
    detector_from_state(state)
    counted = [*state["row"][1:]]
    for count in (10.0, 8.5, -1.0, float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="damaged"):
            detector_from_state({**state, "row": [count, *counted]})
    with pytest.raises(ValueError, match="damaged"):
        detector_from_state({**state, "n_seen": 0})


@every_detector
def test_refuses_an_incomplete_state(case: Case) -> None:
    detector = case.make()
    for name in detector.state():
        state = detector.state()
        del state[name]
        with pytest.raises(ValueError):
            type(detector).from_state(state)


@pytest.mark.parametrize("case", [c for c in CASES if "." in c.kind], ids=lambda c: c.kind)
def test_refuses_a_state_of_another_river(case: Case) -> None:
    state = {**case.make().state(), "river": "0.25.0"}
    with pytest.raises(ValueError, match=r"River 0\.25\.0.*install that version, or start"):
        detector_from_state(state)
