"""Kill -9 at random and at chosen moments: what was published in the end is as if nothing happened.

STREAMGAUGE_KILLS sets the number of random kills, STREAMGAUGE_SEED the moments.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from streamgauge.consumers.connect import STATE_KEY_VARIABLE
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.verify import verify_all
from tests.support.harness import (
    RARE_COUNTS,
    STATE_KEY,
    crowded_config,
    differences,
    n_commits,
    send,
    traffic,
    work_to_the_end,
    zeros,
)

ROOT = Path(__file__).resolve().parents[2]
N_KILLS = int(os.environ.get("STREAMGAUGE_KILLS", "5"))
SEED = int(os.environ.get("STREAMGAUGE_SEED", "0")) or random.SystemRandom().getrandbits(32)
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A folder with traffic that nobody has worked on, to be copied."""
    config = crowded_config(tmp_path_factory.mktemp("sent") / "data")
    with EmbeddedBroker(config) as broker:
        send(broker, traffic(seed=1, n_per_model=1250))
    return config


@pytest.fixture(scope="module")
def oracle(sent, tmp_path_factory):
    """What an uninterrupted worker makes of it."""
    config = copy_of(sent, tmp_path_factory.mktemp("oracle") / "data")
    totals = work_to_the_end(config)
    # The comparisons below are worth what is in it.
    assert min(n_commits(config)) >= 40
    assert zeros(totals) <= RARE_COUNTS, totals
    with EmbeddedBroker(config) as broker:
        n_records = {topic.name: topic.n_records for topic in broker.topics()}
    assert n_records["drift-alarms"] >= 8
    assert n_records["retrain-requests"] >= 4
    return config


def copy_of(config, folder):
    shutil.copytree(config.broker.data_dir, folder)
    return crowded_config(folder)


def assert_as_if_nothing_had_happened(oracle, config):
    assert differences(oracle, config) == []
    with EmbeddedBroker(config) as broker:
        verified = list(verify_all(broker, config, STATE_KEY))
    assert [(v.n_commits, v.problem) for v in verified] == [(n, None) for n in n_commits(config)]


class Worked:
    """One process that works on the folder, until it is killed or done."""

    def __init__(self, command, config):
        self._config = config
        self._log = Path(config.broker.data_dir) / "worker.log"
        self.before = n_commits(config)
        path = Path(config.broker.data_dir) / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command, str(path)],
                cwd=ROOT,
                env={**os.environ, STATE_KEY_VARIABLE: STATE_KEY.decode()},
                stderr=log,
            )

    def kill_once(self, sql, at_least):
        """SIGKILL as soon as a number in the database has come so far."""
        path = Path(self._config.broker.data_dir) / "broker.db"
        deadline = time.monotonic() + TIMEOUT_S
        with closing(sqlite3.connect(path)) as connection:
            while connection.execute(sql).fetchone()[0] < at_least:
                assert self._process.poll() is None, f"it was quicker: {self._log.read_text()}"
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.0005)
        self._process.kill()

    def end(self):
        """Wait for its end; its status, where it began and what it committed."""
        status = self._process.wait(TIMEOUT_S)
        after = n_commits(self._config)
        log = self._log.read_text()
        # It went on where the one before it had stopped, and not somewhere earlier.
        began = {int(p): int(n) for p, n in re.findall(r"partition (\d+): at commit (\d+)", log)}
        if sum(after) > sum(self.before):
            assert began == dict(enumerate(self.before)), log
        return status, sum(after) - sum(self.before), log


def test_killed_at_random_it_publishes_what_an_uninterrupted_worker_does(sent, oracle, tmp_path):
    print(f"STREAMGAUGE_KILLS={N_KILLS} STREAMGAUGE_SEED={SEED}")
    rng = random.Random(SEED)
    config = copy_of(sent, tmp_path / "data")
    n_expected = sum(n_commits(oracle))
    n_amid = 0
    for n_left in range(N_KILLS, 0, -1):
        done = sum(n_commits(config))
        if done == n_expected:
            break
        worked = Worked(
            ["-P", "-m", "streamgauge.consumers.cli", "run", "--until-idle", "--no-sink", "-c"],
            config,
        )
        # The first of them is always killed amid its work.
        if n_left < N_KILLS and rng.random() < 0.2:
            # Just after it has fenced the one before it.
            worked.kill_once("SELECT ifnull(max(epoch), 0) FROM checkpoints", N_KILLS - n_left + 1)
        else:
            ahead = rng.randint(1, max(1, (n_expected - done) // (n_left + 2)))
            worked.kill_once("SELECT count(*) FROM journal", done + ahead)
        status, n_new, log = worked.end()
        # On a busy machine the end may come before the kill.
        assert status in (-signal.SIGKILL, 0), log
        n_amid += 0 < n_new < n_expected - done
    # Fewer would have shown little.
    assert n_amid >= N_KILLS // 3
    done = sum(n_commits(config))
    last = Worked(
        ["-P", "-m", "streamgauge.consumers.cli", "run", "--until-idle", "--no-sink", "-c"], config
    )
    status, n_new, log = last.end()
    assert status == 0, log
    assert done + n_new == n_expected
    assert_as_if_nothing_had_happened(oracle, config)


DYING_WORKER = """
import logging, os, signal, sys
from pathlib import Path
from streamgauge.consumers.embedded import assignment as embedded_assignment
from streamgauge.consumers.config import read_config
from streamgauge.consumers.connect import open_broker, state_key
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.harness import monitor_worker

logging.basicConfig(level=logging.INFO)
point, n_left, config = sys.argv[1], int(sys.argv[2]), read_config(Path(sys.argv[3]))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class DyingTasks:
    def __init__(self, tasks):
        self._tasks = tasks

    def __getattr__(self, name):
        return getattr(self._tasks, name)

    def commit(self, partition, commit):
        global n_left
        n_left -= 1
        if n_left == 0 and point == "before":
            die()
        self._tasks.commit(partition, commit)
        if n_left == 0 and point == "after":
            die()

def append(*arguments, really=embedded_assignment.append):
    really(*arguments)
    if n_left == 0 and point == "within":
        die()

embedded_assignment.append = append
with open_broker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
    worker = monitor_worker(config, DyingTasks(tasks), state_key=state_key(config))
    worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
"""


def test_killed_before_within_and_after_a_commit(sent, oracle, tmp_path):
    config = copy_of(sent, tmp_path / "data")
    for point, n_left in (
        ("before", 1),
        ("within", 1),
        ("after", 1),
        ("within", 8),
        ("after", 8),
        ("before", 9),
    ):
        worked = Worked(["-c", DYING_WORKER, point, str(n_left)], config)
        status, n_new, log = worked.end()
        assert status == -signal.SIGKILL, log
        assert n_new == (n_left if point == "after" else n_left - 1), point
    work_to_the_end(config)
    assert_as_if_nothing_had_happened(oracle, config)


# Whether the comparison would notice


class Careless:
    """A worker's place in the group that does one commit wrong."""

    def __init__(self, tasks, n_right, wrong):
        self._tasks = tasks
        self._n_right = n_right
        self._wrong = wrong

    def __getattr__(self, name):
        return getattr(self._tasks, name)

    def commit(self, partition, commit):
        self._n_right -= 1
        # The one that is next in turn may have nothing to publish.
        if self._n_right < 0 and commit.outputs and self._wrong is not None:
            commit, self._wrong = self._wrong(commit), None
        self._tasks.commit(partition, commit)


def without_outputs(commit):
    return replace(commit, outputs=[])


def with_outputs_twice(commit):
    return replace(commit, outputs=[*commit.outputs, *commit.outputs])


def with_another_digest(commit):
    return replace(commit, after=replace(commit.after, state_digest="0" * 32))


@pytest.mark.parametrize("wrong", [without_outputs, with_outputs_twice, with_another_digest])
def test_a_worker_that_does_a_single_commit_wrong_is_noticed(sent, oracle, tmp_path, wrong):
    config = copy_of(sent, tmp_path / "data")
    work_to_the_end(config, wrap=lambda tasks: Careless(tasks, 20, wrong))
    with pytest.raises(AssertionError):
        assert_as_if_nothing_had_happened(oracle, config)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE records SET value = value || ' ' WHERE id = ?", "drift-alarms (1, 2): expected"),
        ("UPDATE records SET key = 'other' WHERE id = ?", "drift-alarms (1, 2): expected"),
        ("UPDATE records SET headers = x'9192a161c40178' WHERE id = ?", "drift-alarms (1, 2): "),
        ("DELETE FROM records WHERE id = ?", "drift-alarms (1, 2): expected"),
    ],
    ids=["value", "key", "headers", "record"],
)
def test_a_single_record_that_differs_is_noticed(oracle, tmp_path, sql, expected):
    config = copy_of(oracle, tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "broker.db")) as connection, connection:
        (log,) = connection.execute(
            "SELECT id FROM logs WHERE topic = 'drift-alarms' AND partition = 1"
        ).fetchone()
        changed = connection.execute(sql, ((log << 40) + 2,)).rowcount
        assert changed == 1
    line, *others = differences(oracle, config)
    assert line.startswith(expected)
    # Where a record is gone, those after it are in other places too.
    assert (sql.startswith("DELETE")) == bool(others)
