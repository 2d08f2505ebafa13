"""Detectors are compiled before events come, and once for all processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamgauge.consumers import run as run_module
from streamgauge.consumers.cli.main import cli
from streamgauge.consumers.config import load_config
from streamgauge.detectors import warmup
from streamgauge.detectors.kinds import KINDS
from tests.support.harness import crowded_config

ROOT = Path(__file__).parents[2]


def in_a_process(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_warm_up_compiles_nothing():
    in_a_process("-P", "-m", "streamgauge.consumers.cli", "warmup")
    first, *folders = in_a_process("-P", "-m", "streamgauge.consumers.cli", "warmup").splitlines()
    assert first.startswith(f"{len(KINDS)} detectors ready in ")
    assert ": 0 functions compiled, " in first
    assert not first.endswith(" 0 loaded")
    assert all(Path(line.removeprefix("in ")).is_dir() for line in folders)
    assert folders


def test_code_that_cannot_be_kept_is_an_error(monkeypatch):
    lost = warmup.WarmUp(n_kinds=2, n_compiled=5, n_lost=1, n_loaded=0, folders=())
    monkeypatch.setattr(warmup, "warm_up", lambda: lost)
    done = CliRunner().invoke(cli, ["warmup"])
    assert done.exit_code == 1
    assert "1 compiled function could not be kept" in done.output
    assert "NUMBA_CACHE_DIR" in done.output


def test_nothing_is_compiled_once_events_come():
    program = """
from streamgauge.consumers.run import warm_up_for
from streamgauge.detectors.compiled import FUNCTIONS
from streamgauge.stream.monitor import AlarmFinding
from streamgauge.consumers.config import load_config
from tests.quality.defaults import step
def n():
    return sum(len(f.signatures) for f in FUNCTIONS)
cold = n()
warm_up_for(load_config({}))
warm = n()
print(cold, warm, n() if step(1).n_requests else "silent")
"""
    cold, warm, after = in_a_process("-c", program).split()
    assert int(cold) < int(warm) == int(after)


def test_no_kind_compiles_anything_once_events_come():
    program = """
import random
from streamgauge.consumers.run import warm_up_for
from streamgauge.detectors import detector_from_state, make_detector
from streamgauge.detectors.compiled import FUNCTIONS
from streamgauge.detectors.kinds import KINDS
from streamgauge.consumers.config import load_config
def n():
    return [len(f.signatures) for f in FUNCTIONS]
warm_up_for(load_config({"defaults": {"detectors": {kind: {"kind": kind} for kind in KINDS}}}))
warm = n()
rng = random.Random(1)
for kind in KINDS:
    detector = make_detector(kind)
    for p in (0.1, 0.4, 0.9, 0.1):
        detector.update_many(rng.choices([0.0, 1.0], [1 - p, p], k=300))
        for _ in range(100):
            detector.update(float(rng.random() < p))
            detector.readings()
    detector = detector_from_state(detector.state())
    detector.rebaseline()
    detector.update_many([0.0, 1.0])
late = [f.py_func for f, then, now in zip(FUNCTIONS, warm, n()) if now > then]
print(*(f"{f.__module__}.{f.__name__}" for f in late), "of", sum(warm) > len(KINDS))
"""
    assert in_a_process("-c", program).split() == ["of", "True"]


def test_a_detector_that_breaks_on_values_ends_no_worker():
    kswin = {"kind": "river.drift.KSWIN", "params": {"window_size": 30, "stat_size": 20}}
    run_module.warm_up_for(load_config({"defaults": {"detectors": {"kswin": kswin}}}))


class StoppedError(Exception):
    pass


def test_a_worker_compiles_before_it_has_partitions(tmp_path, monkeypatch):
    done = []

    def no_broker(config):
        done.append("broker")
        raise StoppedError

    monkeypatch.setattr(run_module, "warm_up_for", lambda config: done.append("compiled"))
    monkeypatch.setattr(run_module, "open_broker", no_broker)
    with pytest.raises(StoppedError):
        run_module.run(crowded_config(tmp_path / "data"), until_idle=True, with_sink=False)
    assert done == ["compiled", "broker"]


def test_every_models_detectors_are_made_ready(monkeypatch):
    made = []
    make = run_module.make_detector
    monkeypatch.setattr(
        run_module, "make_detector", lambda kind, params: made.append(kind) or make(kind, params)
    )
    own = {"detectors": {"a": {"kind": "river.drift.binary.DDM"}}}
    run_module.warm_up_for(load_config({"models": {"m": {"task": "classification", **own}}}))
    assert made == ["MixtureESR", "ADWIN", "PageHinkley", "river.drift.binary.DDM"]


def test_a_kind_is_exercised_once_however_many_models_have_it(monkeypatch):
    exercised = []
    monkeypatch.setattr(run_module, "exercise", lambda detector: exercised.append(detector.kind))
    own = {"detectors": {"a": {"kind": "ADWIN"}, "b": {"kind": "KSWIN"}}}
    models = {name: {"task": "classification", **own} for name in "mno"}
    run_module.warm_up_for(load_config({"models": models}))
    assert sorted(exercised) == ["ADWIN", "KSWIN", "MixtureESR", "PageHinkley"]
