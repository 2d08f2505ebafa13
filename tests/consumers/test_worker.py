"""The worker on the real embedded broker: what it does when it is stopped, fenced or kept waiting."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from streamgauge.consumers import worker as module
from streamgauge.consumers.broker import BrokerError, PartitionsTakenError
from streamgauge.consumers.cli.main import main
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import STATE_KEY_VARIABLE
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.worker import CommitFailedError
from streamgauge.detectors import make_detector
from streamgauge.stream.records import MONITOR_INPUTS
from streamgauge.stream.totals import Totals
from tests.support.harness import (
    START_MS,
    STATE_KEY,
    crowded_config,
    differences,
    monitor_worker,
    n_commits,
    send,
    totals_of,
    traffic,
    work_to_the_end,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A folder with traffic that nobody has worked on, to be copied."""
    config = crowded_config(tmp_path_factory.mktemp("sent") / "data")
    with EmbeddedBroker(config) as broker:
        send(broker, traffic(seed=2, n_per_model=500))
    return config


@pytest.fixture(scope="module")
def uninterrupted(sent, tmp_path_factory):
    """What an uninterrupted worker makes of it."""
    config = copy_of(sent, tmp_path_factory.mktemp("uninterrupted") / "data")
    work_to_the_end(config)
    return config


def copy_of(config, folder, **options):
    shutil.copytree(config.broker.data_dir, folder)
    return crowded_config(folder, **options)


@contextmanager
def another_writer(config):
    """Another process in the middle of a write."""
    path = Path(config.broker.data_dir) / "broker.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


class Wrapped:
    """A worker's place in the group, with something in the way of it."""

    def __init__(self, tasks):
        self._tasks = tasks

    def __getattr__(self, name):
        return getattr(self._tasks, name)


# Stopping


def start(config, tmp_path, *options):
    """`streamgauge run` as a process of its own."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "streamgauge.consumers.cli",
            "run",
            "--no-sink",
            "-c",
            str(path),
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, STATE_KEY_VARIABLE: STATE_KEY.decode()},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_commit(config, process, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not any(n_commits(config)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no commit"
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_after_a_commit_with_status_0(sent, uninterrupted, tmp_path, number):
    config = copy_of(sent, tmp_path / "data")
    summary_path = tmp_path / "summary.json"
    process = start(config, tmp_path, "--summary", str(summary_path))
    wait_for_commit(config, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    summary = json.loads(summary_path.read_text())
    assert summary["n_predictions"] + summary["n_labels"] > 0
    totals = work_to_the_end(config)
    assert totals.n_predictions >= summary["n_predictions"]
    assert differences(uninterrupted, config) == []


def test_nothing_to_do_is_no_end_without_until_idle(tmp_path):
    config = crowded_config(tmp_path / "data")
    calls = iter([False, False, True])
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        monitor_worker(config, tasks).run(
            until_idle=False, should_stop=lambda: next(calls), clock_ms=wall_clock_ms
        )
    assert next(calls, "all used") == "all used"


# Another worker


def test_a_second_worker_on_the_folder_is_refused(tmp_path, capsys, monkeypatch):
    config = crowded_config(tmp_path / "data")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["streamgauge", "run", "-c", str(path)])
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        tasks.rebalance()
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: every partition of app 'streamgauge' in ")
    # Another app on the same folder would publish the same to the same topics once more.
    assert line.endswith(f" is owned by another worker (process {os.getpid()}); stop it first")
    # It was refused before it started anything.
    assert not (tmp_path / "data" / "mlflow.db").exists()


def test_a_fenced_worker_drops_its_state_and_takes_over_anew(
    sent, uninterrupted, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    config = copy_of(sent, tmp_path / "data")
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        fenced = monitor_worker(config, tasks, state_key=STATE_KEY)
        fenced.start()
        fenced.step(0.0, wall_clock_ms())
        # Without the lock files only the epochs are left to keep two workers apart.
        shutil.rmtree(tmp_path / "data" / "locks")
        with broker.join_group(MONITOR_INPUTS) as other_tasks:
            other = monitor_worker(config, other_tasks, state_key=STATE_KEY)
            other.start()
            for _ in range(5):
                other.step(0.0, wall_clock_ms())
            before = n_commits(config)
            fenced.step(0.0, wall_clock_ms())
            assert n_commits(config) == before == [6, 6]
            assert [r.getMessage() for r in caplog.records] == [
                f"partition {p}: lost: partition {p} was taken over by another worker"
                " (epoch 2, this worker had 1); nothing was written"
                for p in (0, 1)
            ]
            assert totals_of(fenced) == Totals()
            fenced.start()  # Hears of what it has lost.
            with pytest.raises(PartitionsTakenError, match="is owned by another worker"):
                fenced.start()
        fenced.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
    assert differences(uninterrupted, config) == []


# A busy broker


class KeptWaiting(Wrapped):
    """Another process is writing for as long as some of the commits are willing to wait."""

    def __init__(self, tasks, config, busy_commits, n_busy_rebalances=0):
        super().__init__(tasks)
        self._config = config
        self._busy_commits = set(busy_commits)
        self._n_busy_rebalances = n_busy_rebalances
        self._to_disturb = 0
        self.n_commits = 0

    def commit(self, partition, commit):
        self.n_commits += 1
        if self.n_commits not in self._busy_commits:
            self._tasks.commit(partition, commit)
            return
        self._to_disturb = self._n_busy_rebalances
        with another_writer(self._config):
            self._tasks.commit(partition, commit)

    def rebalance(self):
        if not self._to_disturb:
            return self._tasks.rebalance()
        self._to_disturb -= 1
        with another_writer(self._config):
            return self._tasks.rebalance()


@pytest.mark.parametrize("n_busy_rebalances", [0, 2])
def test_a_commit_that_times_out_is_done_over_without_loss_or_repeat(
    sent, uninterrupted, tmp_path, monkeypatch, n_busy_rebalances
):
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    config = copy_of(sent, tmp_path / "data")
    impatient = config.model_copy(
        update={"broker": config.broker.model_copy(update={"timeout": 20})}
    )
    n_expected = sum(n_commits(uninterrupted))
    # The first, one amid, two in a row, and the last.
    busy = [1, 9, 20, 21, n_expected + 4]
    with EmbeddedBroker(impatient) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        waiting = KeptWaiting(tasks, config, busy, n_busy_rebalances)
        worker = monitor_worker(impatient, waiting, state_key=STATE_KEY)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
    assert waiting.n_commits == n_expected + len(busy)
    assert differences(uninterrupted, config) == []


def test_a_timed_out_commit_is_not_the_end_of_the_input(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    config = load_config({"broker": {"data_dir": str(tmp_path), "timeout": "20ms"}})
    with EmbeddedBroker(config) as broker:
        send(broker, one_model([0] * 100, 0, 100, "prediction"))
    totals = work_to_the_end(config, wrap=lambda tasks: KeptWaiting(tasks, config, [1]))
    assert totals.n_predictions == 100


class Failing(Wrapped):
    """Some of the commits fail, and not for lack of time."""

    def __init__(self, tasks, failing_commits):
        super().__init__(tasks)
        self._failing_commits = set(failing_commits)
        self.n_commits = 0

    def commit(self, partition, commit):
        self.n_commits += 1
        if self.n_commits in self._failing_commits:
            raise BrokerError("the disk is full")
        self._tasks.commit(partition, commit)


def test_a_commit_that_fails_for_good_ends_the_run_after_a_few_ever_slower_attempts(
    sent, uninterrupted, tmp_path, monkeypatch
):
    config = copy_of(sent, tmp_path / "data")
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        failing = Failing(tasks, range(7, 1000))
        worker = monitor_worker(config, failing, state_key=STATE_KEY)
        with pytest.raises(CommitFailedError, match=r"commit 4 failed 5 times: the disk is full"):
            worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
    assert waits == [0.5, 0.5, 1, 1, 2, 2, 4, 4]
    assert n_commits(config) == [3, 3]
    work_to_the_end(config)
    assert differences(uninterrupted, config) == []


def test_commits_that_fail_now_and_then_are_done_over_without_loss_or_repeat(
    sent, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_RETRY_S", 0.001)
    config = copy_of(sent, tmp_path / "data")
    work_to_the_end(config, wrap=lambda tasks: Failing(tasks, [1, 2, 3, 4, *range(9, 60, 3)]))
    assert differences(uninterrupted, config) == []


# Starting again


class Crash(BaseException):
    """The end of a process, as far as its memory goes."""


class Crashing(Wrapped):
    """Ends its worker at some commit, before it is written or after."""

    def __init__(self, tasks, n_left, *, after):
        super().__init__(tasks)
        self._n_left = n_left
        self._after = after

    def commit(self, partition, commit):
        self._n_left -= 1
        if self._n_left <= 0 and not self._after:
            raise Crash
        self._tasks.commit(partition, commit)
        if self._n_left <= 0:
            raise Crash


def test_state_with_a_learner_survives_any_number_of_restarts(sent, tmp_path):
    right = copy_of(sent, tmp_path / "right", learner=True)
    totals = work_to_the_end(right)
    config = copy_of(sent, tmp_path / "data", learner=True)
    rng = random.Random(3)
    n_crashes = 0
    while True:
        crashing = partial(Crashing, n_left=rng.randrange(1, 5), after=rng.random() < 0.5)
        try:
            assert totals == work_to_the_end(config, wrap=crashing)
            break
        except Crash:
            n_crashes += 1
    assert n_crashes > 10
    assert differences(right, config) == []


def test_a_learner_sealed_with_another_key_starts_afresh_and_all_else_goes_on(
    sent, tmp_path, caplog
):
    config = copy_of(sent, tmp_path / "data", learner=True)
    with pytest.raises(Crash):
        work_to_the_end(config, wrap=lambda tasks: Crashing(tasks, 30, after=True))
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        worker = monitor_worker(config, tasks, state_key=b"another key")
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        n_outcomes = totals_of(worker).n_outcomes
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("partition 1: plain/1: the learner's state was sealed with another")
    right = copy_of(sent, tmp_path / "right", learner=True)
    assert work_to_the_end(right).n_outcomes == n_outcomes
    # Only what the learner itself leads to may differ.
    assert all(
        '"learner_error"' in line or line.startswith("journal")
        for line in differences(right, config)
    )


def test_a_detector_that_is_replaced_starts_afresh_and_the_rest_goes_on(tmp_path, caplog):
    n_before, n_changed, n = 1500, 2000, 3000
    rng = random.Random(4)
    errors = [int(rng.random() < (0.05 if i < n_changed else 0.3)) for i in range(n)]
    first = one_model_config(tmp_path, {"kind": "PageHinkley"})
    new_params = {"threshold": 15.0, "delta": 0.02}
    second = one_model_config(tmp_path, {"kind": "PageHinkley", "params": new_params})

    with EmbeddedBroker(first) as broker:
        # The last predictions wait for labels that come under the second configuration.
        send(broker, one_model(errors, 0, n_before + 30, "prediction"))
        send(broker, one_model(errors, 0, n_before, "label"))
    assert work_to_the_end(first).n_pending == 30
    with EmbeddedBroker(second) as broker:
        send(broker, one_model(errors, n_before, n, "label"))
        send(broker, one_model(errors, n_before + 30, n, "prediction"))
    with caplog.at_level("INFO"):
        totals = work_to_the_end(second)

    assert caplog.messages[:2] == [
        "partition 0: m/1: detector page_hinkley starts afresh",
        "partition 0: the configuration has changed since the last commit",
    ]
    assert (totals.n_outcomes, totals.n_pending, totals.n_orphaned) == (n, 0, 0)
    with EmbeddedBroker(second) as broker, broker.reader(["drift-alarms"]) as reader:
        alarms = [json.loads(record.value) for record in reader.poll(0.0)]
    first_alarms = {alarm["detector"]: alarm["index"] for alarm in reversed(alarms)}
    losses = np.array(errors, dtype=np.float64)
    went_on = make_detector("ADWIN").update_many(losses)[0].index
    afresh = make_detector("PageHinkley", new_params).update_many(losses[n_before:])[0].index
    assert first_alarms == {"adwin": went_on, "page_hinkley": n_before + afresh}
    # The other state, the other alarm: the test can tell them apart.
    assert (
        make_detector("PageHinkley", new_params).update_many(losses)[0].index != n_before + afresh
    )


def one_model_config(tmp_path, page_hinkley):
    return load_config(
        {
            "broker": {"data_dir": str(tmp_path / "data")},
            "defaults": {"detectors": {"adwin": {"kind": "ADWIN"}, "page_hinkley": page_hinkley}},
        }
    )


def one_model(errors, start, stop, kind):
    """Predictions of class 1, or their labels, for some of the outcomes."""
    for i in range(start, stop):
        event = {"prediction_id": str(i), "model": "m", "timestamp": START_MS + i}
        if kind == "prediction":
            event |= {"version": "1", "prediction": 1}
        else:
            event |= {"label": 1 - errors[i]}
        yield kind + "s", json.dumps(event).encode(), b"m", (), START_MS + i
