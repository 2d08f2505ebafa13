"""How long nobody works on a partition when its worker dies: until the first event is processed.

Two workers share a topic's partitions; one is killed, and then, with two again, one is told to end.
Run `python -m tests.bench.bench_takeover`; needs Java and Maven.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from kafka import TopicPartition

from streamgauge.consumers.config import load_config
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.topics import JOURNAL_SUFFIX, STATE_SUFFIX, Admin, internal_topic
from tests.bench.measuring import describe
from tests.bench.workload import START_MS
from tests.support.kafka.cluster import Cluster
from tests.support.processes import ProcessGroup

N_PARTITIONS = 6
N_JOINED = 20  # outcomes of each model, so that it has a monitor
TIMEOUT_S = 300.0
APP = "takeover"
ROOT = Path(__file__).parents[2]


class Input:
    """Predictions of many models, most of them never labelled, and then a slow trickle of more."""

    def __init__(self, config, n_models):
        self._broker = KafkaBroker(config)
        self._producer = self._broker.producer()
        self._models = [f"model-{i}" for i in range(n_models)]
        self._rows = itertools.count()

    def fill(self, n_pending):
        per_model = -(-n_pending // len(self._models))
        for model in self._models:
            for i in range(per_model + N_JOINED):
                self._send(model, is_labelled=i < N_JOINED)
        self._producer.flush()

    def trickle(self):
        """One event of each of some models, enough to reach every partition."""
        for model in self._models[:100]:
            self._send(model, is_labelled=False)
        self._producer.flush()

    def close(self):
        self._producer.close()
        self._broker.close()

    def _send(self, model, *, is_labelled):
        row = next(self._rows)
        now_ms = START_MS + row
        event = {"prediction_id": f"{model}-{row}", "model": model, "timestamp": now_ms}
        prediction = json.dumps({**event, "version": "1", "prediction": row % 2}).encode()
        key = model.encode()
        self._producer.send("predictions", prediction, key, timestamp_ms=now_ms)
        if is_labelled:
            label = json.dumps({**event, "label": 0}).encode()
            self._producer.send("labels", label, key, timestamp_ms=now_ms)


class Commits:
    """The end of every partition's journal, which each commit moves."""

    def __init__(self, config):
        topic = internal_topic(config, JOURNAL_SUFFIX)
        self._places = [TopicPartition(topic, p) for p in range(N_PARTITIONS)]
        self._reader = RangeReader(config, "commits")

    def ends(self):
        ends = self._reader.committed_ends(self._places)
        return [ends[place] for place in self._places]

    def wait_quiet(self):
        """Until nothing more is committed for some seconds."""
        deadline_s, ends, since_s = time.monotonic() + TIMEOUT_S, [], time.monotonic()
        while time.monotonic() - since_s < 3:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the workers do not come to an end of their input")
            now = self.ends()
            if now != ends:
                ends, since_s = now, time.monotonic()
            time.sleep(0.2)
        return ends

    def close(self):
        self._reader.close()


class Workers:
    """Worker processes by name."""

    def __init__(self, config_file, folder):
        self._config_file, self._folder = config_file, folder
        self._group = ProcessGroup()
        self._processes = {}

    def start(self, name):
        command = (
            sys.executable,
            "-P",
            "-m",
            "streamgauge.consumers.cli",
            "run",
            "--no-sink",
            "-c",
        )
        log = self._folder / f"{name}.log"
        self._processes[name] = self._group.start((*command, str(self._config_file)), log, cwd=ROOT)

    def end(self, name, number):
        process = self._processes.pop(name)
        process.send_signal(number)
        ended_s = time.monotonic()
        process.wait()
        return ended_s

    def owned(self, name):
        """Partitions that the worker's log says it has taken over, and not lost since."""
        owned = set()
        for line in (self._folder / f"{name}.log").read_text().splitlines():
            if match := re.search(r"partition (\d+): at commit", line):
                owned.add(int(match[1]))
            elif match := re.search(r"partition (\d+): (lost|handed over)", line):
                owned.discard(int(match[1]))
        return owned

    def wait_shared(self, *names):
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            shares = [self.owned(name) for name in names]
            if all(shares) and sum(map(len, shares)) == N_PARTITIONS:
                return
            time.sleep(0.2)
        raise TimeoutError(f"the partitions are not shared: {[self.owned(n) for n in names]}")

    def close(self):
        self._group.kill()


def gap(workers, inputs, commits, name, number):
    """Seconds from the end of a worker to the first commit of each of its partitions."""
    orphans = workers.owned(name)
    before = commits.wait_quiet()
    ended_s = workers.end(name, number)
    gaps = {}
    while orphans - gaps.keys():
        if time.monotonic() - ended_s > TIMEOUT_S:
            raise TimeoutError(f"nobody works on {sorted(orphans - gaps.keys())}")
        inputs.trickle()
        ends = commits.ends()
        for p in orphans - gaps.keys():
            if ends[p] > before[p]:
                gaps[p] = time.monotonic() - ended_s
        time.sleep(0.05)
    return sorted(gaps.values())


def run(options, folder, bootstrap):
    """The gaps after kill -9 and after SIGTERM."""
    broker = {
        "kind": "kafka",
        "bootstrap_servers": bootstrap,
        "partitions": N_PARTITIONS,
        "session_timeout": options.session_timeout,
    }
    config_file = folder / "config.yaml"
    config_file.write_text(json.dumps({"app": APP, "broker": broker}))
    config = load_config(json.loads(config_file.read_text()))
    with Admin(config) as admin:
        admin.create(N_PARTITIONS, 1)
    inputs, commits, workers = (
        Input(config, options.models),
        Commits(config),
        Workers(config_file, folder),
    )
    try:
        inputs.fill(options.pending)
        for name in ("first", "second"):
            workers.start(name)
        workers.wait_shared("first", "second")
        killed = gap(workers, inputs, commits, "first", signal.SIGKILL)
        workers.start("third")
        workers.wait_shared("second", "third")
        told = gap(workers, inputs, commits, "second", signal.SIGTERM)
        state = RangeReader(config, "state")
        topic = internal_topic(config, STATE_SUFFIX)
        n_state = sum(
            end - start for start, end in (state.bounds(topic, p) for p in range(N_PARTITIONS))
        )
        state.close()
        return killed, told, n_state
    finally:
        workers.close()
        commits.close()
        inputs.close()


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--pending", type=int, default=100_000, help="predictions without a label")
    parser.add_argument("--session-timeout", default="10s")
    options = parser.parse_args(arguments)
    for name, value in describe("tests.bench.bench_takeover", arguments, ("kafka-python",)).items():
        print(f"{name}: {value}")
    os.environ["STREAMGAUGE_STATE_KEY"] = "bench"
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name) / "kafka", 1) as cluster:
        killed, told, n_state = run(options, Path(name), cluster.bootstrap)
    print(
        f"{options.models:,} models, {options.pending:,} pending predictions, {N_PARTITIONS} "
        f"partitions, {n_state:,} records of state\n"
        "seconds until the first commit of the partitions of a worker that has ended:"
    )
    for how, gaps in (("kill -9", killed), ("SIGTERM", told)):
        print(f"  {how}: first {gaps[0]:.1f}, last {gaps[-1]:.1f} ({len(gaps)} partitions)")
    print(f"kill -9 includes session_timeout, {options.session_timeout}")


if __name__ == "__main__":
    main(sys.argv[1:])
