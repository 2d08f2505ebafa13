"""What a monitor finds in a version's outcomes, and that it finds it however they are cut."""

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.consumers.config import load_config
from streamgauge.stream.config import LearnerConfig
from streamgauge.stream.monitor import (
    AlarmFinding,
    DataProblemFinding,
    MetricsFinding,
    Monitor,
    RetrainDecision,
)
from streamgauge.stream.outcomes import Outcome
from streamgauge.stream.signals.learner import Learner
from streamgauge.stream.signals.loss import ZeroOneLoss
from streamgauge.stream.signals.signal import DetectorFailure, Signal
from tests.support.builders import T0, TOUCHY


def model(**changes):
    """A model's configuration: the touchy one with changes, section by section."""
    merged = {**TOUCHY}
    for name, value in changes.items():
        same = isinstance(value, dict) and name in ("policy", "metrics")
        merged[name] = {**TOUCHY[name], **value} if same else value
    return load_config({"defaults": merged}).defaults


def errors(*segments, seed=1):
    """Outcomes that are wrong with the probability of their segment, (p, n) each."""
    rng = random.Random(seed)
    wrong = [rng.random() < p for p, n in segments for _ in range(n)]
    return [
        Outcome(
            "1",
            int(w),
            0,
            predicted_ms=T0 + i * 60_000,
            timestamp_ms=T0 + i * 60_000 + 500,
            prediction_offset=i,
            label_offset=i,
        )
        for i, w in enumerate(wrong)
    ]


def found(config, outcomes, task="classification"):
    return Monitor(config, task).update(outcomes)


def of(kind, findings):
    return [finding for finding in findings if isinstance(finding, kind)]


POLICIES = {
    "any": {},
    "all": {"rule": "all"},
    "at least": {"rule": "at_least", "k": 2},
    "short cool-down": {"cool_down": 1},
    "cool-down like the metrics": {"cool_down": 7},
    "long cool-down": {"cool_down": 1000},
    "many labels": {"min_labels": 120},
    "no labels": {"min_labels": 0},
    "accuracy": {"metric": {"name": "accuracy", "at_or_below": 0.6, "over": 15}},
    "accuracy, short cool-down": {
        "metric": {"name": "accuracy", "at_or_below": 0.6, "over": 15},
        "cool_down": 3,
    },
    "log loss": {"metric": {"name": "log_loss", "at_or_above": 2.8, "over": 9}},
    "period": {"period": {"outcomes": 33}},
    "period in time": {"period": {"time": "2h"}, "min_labels": 80},
    "period and metric": {
        "period": {"outcomes": 50},
        "metric": {"name": "accuracy", "at_or_below": 0.5, "over": 10},
        "rule": "all",
    },
    "improvement": {"ask_on_improvement": True},
}
CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
SEGMENTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(1, 120)), min_size=1, max_size=5
)


def assert_cuts_do_not_matter(make, outcomes, sizes):
    whole_monitor, monitor = make(), make()
    whole = whole_monitor.update(outcomes)
    pieces, start, i = [], 0, 0
    while start < len(outcomes):
        size = sizes[i % len(sizes)]
        pieces += monitor.update(outcomes[start : start + size])
        start, i = start + size, i + 1
    # repr, because a NaN equals no other.
    assert repr(pieces) == repr(whole)
    assert repr(monitor.state()) == repr(whole_monitor.state())


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 9999), SEGMENTS, CUTS, st.booleans())
def test_cuts_do_not_matter_whatever_the_policy(policy, seed, segments, sizes, with_probability):
    config = model(policy=POLICIES[policy], loss="log_loss" if with_probability else None)
    outcomes = errors(*segments, seed=seed)
    if with_probability:
        rng = random.Random(seed)
        for outcome in outcomes:
            outcome.probability = rng.random()
    assert_cuts_do_not_matter(lambda: Monitor(config, "classification"), outcomes, sizes)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 300), CUTS)
def test_cuts_do_not_matter_for_a_regression_beside_a_learner(seed, n, sizes):
    rng = random.Random(seed)
    learner = LearnerConfig(path="river.linear_model.LinearRegression")
    detectors = {
        name: {**d, "signal": s}
        for name, d, s in zip(
            ("adwin", "page_hinkley"),
            TOUCHY["detectors"].values(),
            ("error", "learner_error"),
            strict=True,
        )
    }
    config = model(learner={"path": learner.path}, detectors=detectors)
    outcomes = []
    for i in range(n):
        x = rng.random()
        features = None if rng.random() < 0.1 else {"x": x}
        y = (3 if i < n // 2 else -3) * x
        outcomes.append(
            Outcome("1", y, y + rng.gauss(0, 0.1), features=features, timestamp_ms=T0 + i)
        )
    assert_cuts_do_not_matter(
        lambda: Monitor(config, "regression", Learner(learner, "regression")), outcomes, sizes
    )


def test_river_detectors_may_be_cut_as_well():
    detectors = {
        "ddm": {"kind": "river.drift.binary.DDM"},
        "kswin": {
            "kind": "river.drift.KSWIN",
            "params": {"alpha": 0.05, "window_size": 40, "stat_size": 10},
        },
    }
    config = model(task="classification", detectors=detectors)
    outcomes = errors((0.1, 200), (0.7, 150), (0.1, 100))
    assert of(AlarmFinding, found(config, outcomes))
    for sizes in ([1], [13, 2]):
        assert_cuts_do_not_matter(lambda: Monitor(config, "classification"), outcomes, sizes)


def test_a_drift_is_alarmed_and_asked_for_once_with_its_window():
    page_hinkley = {"kind": "PageHinkley", "params": {"threshold": 12, "delta": 0.1}}
    config = model(
        detectors={"adwin": {"kind": "ADWIN"}, "page_hinkley": page_hinkley},
        policy={"cool_down": 200},
    )
    outcomes = errors((0.05, 400), (0.9, 150))
    findings = found(config, outcomes)
    alarms = of(AlarmFinding, findings)
    assert {alarm.found.detector for alarm in alarms} == {"adwin", "page_hinkley"}
    assert {(alarm.kind, alarm.episode) for alarm in alarms} == {("drift", 1)}
    [request] = of(RetrainDecision, findings)
    assert 400 <= request.index < 450
    assert request.index == alarms[0].index
    assert request.timestamp_ms == outcomes[request.index].timestamp_ms
    before, since = request.metrics["error"]
    assert before < 0.2
    assert since > before + 0.3
    assert request.n_before <= request.episode.onset
    assert request.n_before + request.since.n == request.index + 1
    assert request.since.label_min == request.n_before
    assert request.since.label_max == request.index


def test_what_was_watched_without_e_sr_goes_on_with_it():
    before = {"adwin": {"kind": "ADWIN"}, "page_hinkley": {"kind": "PageHinkley"}}
    old = Monitor(load_config({"defaults": {"detectors": before}}).defaults, "classification")
    old.update(errors((0.05, 2000), (0.3, 160)))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(old.state()))
    assert state["policy"]["episode"] is not None
    # As an earlier version of ADWIN stored itself.
    state["signals"]["error"]["detectors"]["adwin"][2]["format"] = 0
    new = Monitor(load_config({}).defaults, "classification")
    assert new.restore(state) == ["adwin"]
    findings = new.update(errors((0.3, 3000), (0.9, 100), seed=2))
    assert {a.found.detector for a in of(AlarmFinding, findings)} >= {"esr"}
    assert [r.index >= 5160 for r in of(RetrainDecision, findings)] == [True]


def test_after_the_cool_down_a_second_drift_asks_again():
    config = model(
        detectors={"page_hinkley": {"kind": "PageHinkley", "params": {"threshold": 10}}},
        policy={"cool_down": 100},
    )
    outcomes = errors((0.0, 300), (0.5, 300), (1.0, 300))
    requests = of(RetrainDecision, found(config, outcomes))
    assert [request.episode.number for request in requests] == [1, 2]
    assert 300 <= requests[0].index < 400
    assert 600 <= requests[1].index < 700


def test_detectors_that_were_silent_take_a_new_baseline_at_the_episodes_end():
    detectors = {
        "quick": {"kind": "PageHinkley", "params": {"threshold": 5}},
        "slow": {"kind": "PageHinkley", "params": {"threshold": 60}},
        "onlooker": {"kind": "PageHinkley", "params": {"threshold": 60}, "asks": False},
    }
    # The rise is worth 50 to 60 of the slow ones' statistic by the end of the episode.
    outcomes = errors((0.0, 300), (1.0, 80), (0.5, 20))
    config = model(detectors=detectors, policy={"cool_down": 60}, metrics={"every": 1})
    readings = {
        m.index: m.values
        for m in of(MetricsFinding, found(config, outcomes))
        if m.signal == "error"
    }
    [alarm, *_] = of(AlarmFinding, found(config, outcomes))
    assert alarm.found.detector == "quick"
    end = alarm.index + 61
    assert readings[end - 1]["slow.statistic"] > 30
    assert readings[end]["slow.statistic"] < 1
    assert readings[end]["onlooker.statistic"] > 30, "what does not ask is not part of it"


def test_a_detector_that_does_not_ask_only_reports():
    detectors = {"adwin": {"kind": "ADWIN", "asks": False}}
    findings = found(model(detectors=detectors), errors((0.0, 300), (1.0, 200)))
    alarms = of(AlarmFinding, findings)
    assert [(alarm.kind, alarm.episode) for alarm in alarms] == [("drift", None)]
    assert not of(RetrainDecision, findings)


def test_a_report_opens_no_episode_and_keeps_none_open():
    detectors = {
        "asker": {"kind": "PageHinkley", "params": {"threshold": 5}},
        "onlooker": {"kind": "PageHinkley", "params": {"threshold": 50}, "asks": False},
    }
    config = model(detectors=detectors, policy={"cool_down": 100})
    monitor = Monitor(config, "classification")
    outcomes = errors((0.0, 300), (1.0, 200))
    alarms = of(AlarmFinding, monitor.update(outcomes[:400]))
    assert [(a.found.detector, a.episode) for a in alarms] == [("asker", 1), ("onlooker", None)]
    asked, reported = (alarm.index for alarm in alarms)
    assert reported > asked + 40
    assert monitor._policy.episode.last_active == asked
    monitor.update(outcomes[400 : asked + 101])
    assert monitor._policy.episode is None


def test_the_order_of_detectors_decides_nothing():
    outcomes = errors((0.1, 130), (0.9, 130))
    detectors = TOUCHY["detectors"]
    kept = set()
    for order in (detectors, dict(reversed(detectors.items()))):
        monitor = Monitor(model(detectors=order), "classification")
        findings = monitor.update(outcomes)
        kept.add((repr(findings), msgspec.msgpack.encode(monitor.state())))
    assert len(detectors) > 1
    assert len(kept) == 1


@pytest.mark.parametrize("asks", [False, True])
def test_an_improvement_asks_only_where_it_is_configured(asks):
    config = model(detectors={"adwin": {"kind": "ADWIN"}}, policy={"ask_on_improvement": asks})
    findings = found(config, errors((1.0, 300), (0.0, 200)))
    assert [(a.kind, a.episode) for a in of(AlarmFinding, findings)] == [
        ("improvement", 1 if asks else None)
    ]
    assert len(of(RetrainDecision, findings)) == asks


DIRECTIONLESS = {
    "kswin": ("river.drift.KSWIN", {"alpha": 0.0005}),
    "fhddm": ("river.drift.binary.FHDDM", {}),
    "hddm_w": ("river.drift.binary.HDDMW", {"two_sided_test": True}),
}


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", DIRECTIONLESS)
def test_an_improvement_seen_by_a_detector_that_does_not_tell_directions(name, asks):
    kind, params = DIRECTIONLESS[name]
    detectors = {name: {"kind": kind, "params": params}}
    config = model(detectors=detectors, task="classification", policy={"ask_on_improvement": asks})
    findings = found(config, errors((0.6, 400), (0.05, 150)))
    alarms = [alarm for alarm in of(AlarmFinding, findings) if alarm.kind != "warning"]
    assert {alarm.kind for alarm in alarms} == {"improvement"}
    assert alarms[0].found.alarm.direction == "down"
    assert len(of(RetrainDecision, findings)) == asks


@pytest.mark.parametrize("name", ["kswin", "hddm_w"])
def test_the_window_of_a_detector_that_does_not_tell_onsets_goes_back_to_the_change(name):
    kind, params = DIRECTIONLESS[name]
    config = model(detectors={name: {"kind": kind, "params": params}}, task="classification")
    [request] = of(RetrainDecision, found(config, errors((0.05, 800), (0.6, 100), seed=2)))
    assert 760 <= request.episode.onset <= 810
    before, since = request.metrics["error"]
    assert since > before + 0.2


def problems(findings):
    return [(p.index, p.detector, p.detail) for p in of(DataProblemFinding, findings)]


def test_a_detector_that_breaks_is_a_data_problem_and_goes_on():
    # KSWIN draws 30 of the 20 values that are not recent, and breaks whenever its window is full.
    kswin = {"kind": "river.drift.KSWIN", "params": {"window_size": 50, "stat_size": 30}}
    kswin["asks"] = False
    config = model(detectors={"kswin": kswin, **TOUCHY["detectors"]}, metrics={"every": 10})
    outcomes = errors((0.1, 200), (0.9, 60))
    findings = found(config, outcomes)
    indices, detectors, details = zip(*problems(findings), strict=True)
    assert (indices, set(detectors)) == ((49, 99, 199), {"kswin"}), "the 1st, 2nd and 4th failure"
    assert "river.drift.KSWIN failed at value 49: ValueError" in details[0]
    assert of(RetrainDecision, findings), "the others are as well as ever"
    readings = [m.values for m in of(MetricsFinding, findings) if m.signal == "error"]
    assert readings[-1]["kswin.n_failed"] == 5
    assert "adwin.n_failed" not in readings[-1]
    for sizes in ([1], [37, 5]):
        assert_cuts_do_not_matter(lambda: Monitor(config, "classification"), outcomes, sizes)


def test_a_binary_detector_leaves_out_the_losses_that_are_not_for_it():
    ddm = {"kind": "river.drift.binary.DDM"}
    config = model(detectors={"ddm": ddm}, metrics={"every": 10})
    outcomes = [
        Outcome("1", 0.0, 2.0 + i % 2 if i % 3 else 0.0, timestamp_ms=T0 + i) for i in range(100)
    ]
    findings = found(config, outcomes, "regression")
    assert all("takes 0 or 1, got 0." in detail for _, _, detail in problems(findings))
    assert len(problems(findings)) == 7, "1, 2, 4, ... 64 of the 66"
    for sizes in ([1], [37, 5]):
        assert_cuts_do_not_matter(lambda: Monitor(config, "regression"), outcomes, sizes)
    monitor = Monitor(config, "regression")
    monitor.update(outcomes[:50])
    twin = Monitor(config, "regression")
    twin.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(monitor.state())))
    assert repr(twin.update(outcomes[50:])) == repr(monitor.update(outcomes[50:]))


def test_a_warning_is_reported_and_counts_for_nothing():
    config = model(task="classification", detectors={"ddm": {"kind": "river.drift.binary.DDM"}})
    findings = found(config, errors((0.1, 300), (0.35, 200)))
    warnings = [alarm for alarm in of(AlarmFinding, findings) if alarm.kind == "warning"]
    assert warnings
    assert all(alarm.episode is None for alarm in warnings)
    drifts = [alarm for alarm in of(AlarmFinding, findings) if alarm.kind == "drift"]
    assert [r.index for r in of(RetrainDecision, findings)] == [drifts[0].index]


def test_an_alarms_index_counts_outcomes_also_where_the_signal_lacks_values():
    detectors = {"quick": {"kind": "PageHinkley", "params": {"threshold": 5}}}
    signal = signal_with(**detectors)
    values = np.array([0.0] * 100 + [1.0] * 100)
    alarm = signal.update(values, 0)[0]
    sparse = signal_with(**detectors)
    every_third = np.full(600, np.nan)
    every_third[2::3] = values
    pieces = [every_third[:250], every_third[250:251], every_third[251:]]
    starts = [1000, 1250, 1251]
    found_sparse = [
        f for piece, start in zip(pieces, starts, strict=True) for f in sparse.update(piece, start)
    ]
    assert found_sparse[0].index == 1000 + 3 * alarm.index + 2
    assert sparse.readings() == signal.readings()


def sparse_stream(share, *segments, seed=1):
    """A value for the share of the outcomes, 0 or 1 with the probability of their segment."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([(rng.random(n) < p).astype(float) for p, n in segments])
    values[rng.random(len(values)) >= share] = np.nan
    return values


def signal_with(**detectors):
    configs = load_config({"defaults": {"detectors": detectors}}).defaults.detectors
    return Signal("error", configs, ZeroOneLoss())


def test_an_onset_counts_outcomes_where_the_signal_lacks_values():
    signal = signal_with(adwin={"kind": "ADWIN"})
    values = sparse_stream(0.1, (0.1, 40_000), (0.4, 5_000))
    alarms = [f for at in range(0, 45_000, 1000) for f in signal.update(values[at : at + 1000], at)]
    first = next(f for f in alarms if f.index > 40_000)
    assert abs(first.onset - 40_000) < 200
    assert first.index - first.onset > 300
    assert first.index - first.onset > 5 * (first.alarm.index - first.alarm.onset)


def test_an_onset_is_exact_where_no_value_has_lacked_for_long():
    quick = {"kind": "PageHinkley", "params": {"threshold": 5}}
    values = np.repeat([0.0, 1.0], [2_000, 100])
    expected = signal_with(quick=quick).update(values, 0)[0]
    values[:900] = np.nan
    signal = signal_with(quick=quick)
    assert signal.update(values, 0)[0].onset == expected.onset == 2_000


def test_the_values_a_detector_refused_lie_between_those_it_counts():
    signal = signal_with(ddm={"kind": "DDM"})
    taken = signal_with(ddm={"kind": "DDM"})
    values = sparse_stream(0.5, (0.1, 2_000), (0.9, 200))
    refused = np.where(np.isnan(values), 0.5, values)
    alarms = [f for f in signal.update(refused, 0) if not isinstance(f, DetectorFailure)]
    assert alarms
    assert repr(alarms) == repr(taken.update(values, 0))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 9999),
    st.sampled_from([0.05, 0.5, 0.99, 1.0]),
    st.lists(st.integers(1, 900), min_size=1, max_size=6),
)
def test_onsets_do_not_depend_on_cuts_or_restarts(seed, share, sizes):
    detectors = {
        "adwin": {"kind": "ADWIN", "params": {"clock": 1, "on_drift": "shrink"}},
        "quick": {"kind": "PageHinkley", "params": {"threshold": 3, "min_instances": 5}},
        "ddm": {"kind": "DDM", "params": {"warm_start": 10}},
    }
    values = sparse_stream(share, (0.1, 600), (0.9, 400), (0.1, 600), (0.6, 400), seed=seed)
    values[::50] = 0.5
    whole, signal = signal_with(**detectors), signal_with(**detectors)
    expected = whole.update(values, 7)
    said, start, i = [], 0, 0
    while start < len(values):
        size = sizes[i % len(sizes)]
        said += signal.update(values[start : start + size], 7 + start)
        start, i = start + size, i + 1
        if i % 3:
            continue
        state = msgspec.msgpack.encode(signal.state())
        signal = signal_with(**detectors)
        assert signal.restore(msgspec.msgpack.decode(state)) == []
    assert repr(said) == repr(expected)
    assert repr(signal.state()) == repr(whole.state())
    last = dict.fromkeys(detectors, (-1, -1))
    for f in said:
        if not isinstance(f, DetectorFailure):
            assert f.onset <= f.index
            assert f.alarm.onset <= last[f.detector][0] or f.onset > last[f.detector][1]
            if f.alarm.kind == "drift":
                last[f.detector] = f.alarm.index, f.index


def test_where_values_are_takes_little_to_keep():
    signal = signal_with(adwin={"kind": "ADWIN"})
    values = sparse_stream(0.5, (0.1, 200_000))
    for start in range(0, len(values), 5_000):
        signal.update(values[start : start + 5_000], start)
    [(_, runs)] = signal.state()["index_maps"].values()
    assert 20 < len(runs) < 400
    dense = signal_with(adwin={"kind": "ADWIN"})
    dense.update(np.zeros(1000), 5)
    assert dense.state()["index_maps"] == {"adwin": [[], [0, 5]]}


def test_a_drift_before_min_labels_is_asked_for_at_min_labels():
    detectors = {"adwin": {"kind": "ADWIN"}}
    config = model(detectors=detectors, policy={"min_labels": 350, "cool_down": 1000})
    outcomes = errors((0.0, 200), (1.0, 300))
    [alarm, *_] = of(AlarmFinding, found(config, outcomes))
    assert 200 < alarm.index < 300
    [request] = of(RetrainDecision, found(config, outcomes))
    assert request.index == 349
    assert request.episode.onset == alarm.found.onset


def test_a_metric_asks_once_while_it_is_bad_and_again_after_it_has_recovered():
    metric = {"name": "accuracy", "at_or_below": 0.5, "over": 20}
    config = model(detectors={}, policy={"metric": metric, "cool_down": 10}, metrics={"every": 10})
    outcomes = errors((0.0, 100), (1.0, 100), (0.0, 100), (1.0, 50))
    requests = of(RetrainDecision, found(config, outcomes))
    assert [(r.index, r.episode.reason, r.episode.alarms) for r in requests] == [
        (109, "metric", []),
        (309, "metric", []),
    ]


def test_a_metric_of_the_other_task_never_asks():
    metric = {"name": "mae", "at_or_above": 0.0, "over": 1}
    findings = found(model(detectors={}, policy={"metric": metric}), errors((1.0, 100)))
    assert not of(RetrainDecision, findings)


@pytest.mark.parametrize(
    ("period", "indices"),
    [({"outcomes": 40}, [39, 79, 119]), ({"time": "30m"}, [30, 60, 90, 120])],
)
def test_a_period_asks_drift_or_not(period, indices):
    config = model(detectors={}, policy={"period": period})
    requests = of(RetrainDecision, found(config, errors((0.0, 125))))
    assert [r.index for r in requests] == indices
    assert {r.episode.reason for r in requests} == {"period"}


def windows(findings):
    """Of each request its index, reason, and the first and the number of its window's outcomes."""
    return [
        (r.index, r.episode.reason, r.n_before, r.since.n)
        for r in findings
        if isinstance(r, RetrainDecision)
    ]


def test_a_drift_right_after_a_periods_request_is_asked_for():
    config = load_config({"defaults": {"policy": {"period": {"outcomes": 1950}}}}).defaults
    findings = found(config, errors((0.05, 2000), (0.35, 400), seed=7))
    period, drift = of(RetrainDecision, findings)
    assert (period.index, period.episode.reason) == (1949, "period")
    assert drift.episode.reason == "drift"
    assert 2000 < drift.index < 2200
    asking = {a.episode for a in of(AlarmFinding, findings) if a.found.detector == "esr"}
    assert asking == {drift.episode.number} != {period.episode.number}


def test_a_periods_window_is_the_whole_period():
    config = model(detectors={}, policy={"period": {"outcomes": 640}})
    requests = windows(found(config, errors((0.1, 1300))))
    assert requests == [(639, "period", 0, 640), (1279, "period", 640, 640)]


def test_a_metrics_window_is_at_least_what_it_was_taken_over():
    metric = {"name": "accuracy", "at_or_below": 0.6, "over": 300}
    config = model(detectors={}, policy={"metric": metric}, metrics={"every": 50})
    outcomes = errors((0.05, 1000), (0.9, 400))
    [(index, reason, n_before, n)] = windows(found(config, outcomes))
    assert (index, reason) == (1149, "metric")
    # To within a block of the window index.
    assert index + 1 - 300 - 64 <= n_before <= index + 1 - 300
    assert n == index + 1 - n_before
    [request] = of(RetrainDecision, found(config, outcomes))
    before, since = request.metrics["error"]
    assert before < 0.1
    assert since > 0.35


def test_a_change_while_a_metric_stays_bad_is_asked_for():
    config = model(
        detectors={"page_hinkley": {"kind": "PageHinkley", "params": {"threshold": 30}}},
        policy={"metric": {"name": "accuracy", "at_or_below": 0.8, "over": 100}, "cool_down": 200},
        metrics={"every": 50},
    )
    # The fall is asked for once, by whichever sees it first; a worse one comes much later.
    requests = windows(found(config, errors((0.05, 500), (0.4, 1500), (0.95, 300))))
    assert [reason for _, reason, _, _ in requests] == ["metric", "drift"]
    assert 500 < requests[0][0] < 700
    assert 2000 < requests[1][0] < 2200


def test_metric_points_come_every_so_many_outcomes():
    findings = found(model(metrics={"every": 20, "window": 30}), errors((0.5, 65)))
    points = [(m.index, m.signal) for m in of(MetricsFinding, findings)]
    assert points == [(i, s) for i in (19, 39, 59) for s in ("performance", "error")]
    performance = [m.values for m in of(MetricsFinding, findings) if m.signal == "performance"]
    assert "accuracy_window" not in performance[0]
    wrong = [bool(o.y_true) for o in errors((0.5, 65))]
    assert performance[2]["accuracy"] == pytest.approx(1 - sum(wrong[:60]) / 60)
    assert performance[2]["accuracy_window"] == pytest.approx(1 - sum(wrong[30:60]) / 30)
    assert performance[2]["n_outcomes"] == 60


def test_a_regression_has_its_errors_in_the_targets_unit():
    outcomes = [Outcome("1", 10.0, 10.0 + d) for d in (1.0, -3.0)]
    [point] = [
        m
        for m in found(model(metrics={"every": 2, "window": 2}), outcomes, "regression")
        if m.signal == "performance"
    ]
    assert point.values["mae"] == point.values["mae_window"] == 2.0
    assert point.values["rmse"] == pytest.approx(5**0.5)


def test_log_loss_is_in_nats_and_counts_from_the_first_probability_on():
    outcomes = errors((0.0, 40))
    for i, outcome in enumerate(outcomes[10:]):
        outcome.probability = 0.0001 if i % 10 == 9 else 0.6
    findings = found(model(metrics={"every": 10, "window": 10}), outcomes)
    values = [m.values.get("log_loss") for m in findings if m.signal == "performance"]
    assert values == [None, *[pytest.approx(0.9 * math.log(1 / 0.6) + 0.1 * math.log(1000))] * 3]


def test_a_default_that_is_written_out_later_changes_nothing():
    outcomes = errors((0.1, 130), (0.9, 130))
    terse = {"a": {"kind": "ADWIN"}, "p": {"kind": "PageHinkley", "params": {"threshold": 5}}}
    full = {
        "a": {"kind": "ADWIN", "params": {"delta": 0.002}},
        "p": {"kind": "PageHinkley", "params": {"threshold": 5.0, "mode": "both"}},
    }
    for before, after in ((terse, full), (full, terse)):
        monitor = Monitor(model(detectors=before), "classification")
        monitor.update(outcomes[:100])
        twin = Monitor(model(detectors=after), "classification")
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(monitor.state()))
        assert twin.restore(state) == []
        assert repr(twin.update(outcomes[100:])) == repr(monitor.update(outcomes[100:]))


def test_a_superseded_version_is_measured_and_asks_for_nothing():
    monitor = Monitor(model(), "classification")
    monitor.set_superseded(superseded=True)
    findings = monitor.update(errors((0.0, 200), (1.0, 200)))
    assert of(MetricsFinding, findings)
    assert of(AlarmFinding, findings)
    assert not of(RetrainDecision, findings)


def test_a_monitor_stores_each_signal_under_its_name():
    learner = Learner(LearnerConfig(path="river.linear_model.LinearRegression"), "regression")
    config = model(learner={"path": "river.linear_model.LinearRegression"})
    state = Monitor(config, "regression", learner).state()
    assert state.keys() == {"n_outcomes", "performance", "policy", "windows", "signals"}
    assert state["signals"].keys() == {"error", "learner_error"}
    # A learner that the configuration adds later is a new signal beside the one there was.
    beside = Monitor(config, "regression", learner)
    alone = Monitor(model(), "regression")
    alone.update([Outcome("1", float(i), 0.0) for i in range(50)])
    assert beside.restore(alone.state()) == []
    assert beside.state()["signals"]["error"] == alone.state()["signals"]["error"]
    assert beside.state()["signals"]["learner_error"] == state["signals"]["learner_error"]


def test_a_restored_monitor_goes_on_and_says_which_detectors_start_afresh():
    outcomes = errors((0.1, 130), (0.9, 130))
    monitor = Monitor(model(), "classification")
    monitor.update(outcomes[:100])
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(monitor.state()))
    twin = Monitor(model(), "classification")
    assert twin.restore(state) == []
    detectors = {
        **TOUCHY["detectors"],
        "adwin": {"kind": "ADWIN", "params": {"delta": 0.001}},
        "new": {"kind": "ADWIN"},
    }
    other = Monitor(model(detectors=detectors), "classification")
    assert other.restore(state) == ["adwin"]
    assert repr(twin.update(outcomes[100:])) == repr(monitor.update(outcomes[100:]))
    other.update(outcomes[100:])
    assert other.n_outcomes == 260
