"""The runtime runs any processor: one of three inputs and deadlines, on every broker.

STREAMGAUGE_SEED sets the traffic and the moments of the kills.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from streamgauge.consumers.broker import BrokerError
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import open_broker
from streamgauge.consumers.verify import verify
from streamgauge.consumers.worker import Observer, Worker
from tests.support.broker_harness import HARNESSES, N_PARTITIONS
from tests.support.tally import INPUTS, Tally

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("STREAMGAUGE_SEED", "0")) or random.SystemRandom().getrandbits(32)
START_MS = 1_767_225_600_000
TIMEOUT_S = 90.0
KEYS = [f"model-{i}" for i in range(6)]

COMMON_POINTS = ("before_commit", "after_commit", "before_deadline", "after_deadline")
# Where each broker's commit may be interrupted.
POINTS = {
    "embedded": (*COMMON_POINTS, "within"),
    "kafka": (*COMMON_POINTS, "_fence", "_begin", "_send", "_resolve", "_commit"),
}


@pytest.fixture(params=HARNESSES)
def harness(request):
    return request.param(request)


@pytest.fixture
def config(harness):
    return load_config(harness.settings)


@pytest.fixture
def rng():
    print(f"STREAMGAUGE_SEED={SEED}")
    return random.Random(SEED)


def traffic(rng, n):
    """Records of three topics by role, key and value, some asking for a tally; times collide."""
    sent = []
    for i in range(n):
        role = rng.choice(INPUTS)
        due = START_MS + (i + rng.randint(1, 40)) * 50
        value = json.dumps({"due_ms": due}) if rng.random() < 0.9 else "{}"
        sent.append((role, rng.choice(KEYS), value.encode(), START_MS + i // 3 * 150))
    return sent


def produce(broker, config, sent):
    with broker.producer() as producer:
        for role, key, value, timestamp_ms in sent:
            topic = config.topics.name_of(role)
            producer.send(topic, value, key.encode(), timestamp_ms=timestamp_ms)


def work(config, now_ms, *, observers=(), wrap=lambda assignment: assignment):
    """Run until there is nothing left to do at a time; the tallies by partition."""
    with open_broker(config) as broker, broker.join_group(INPUTS) as assignment:
        worker = Worker(Tally, wrap(assignment), observers=observers)
        worker.run(
            until_idle=True,
            should_stop=lambda: False,
            clock_ms=lambda: now_ms if is_whole(worker) else 0,
        )
        return worker.processors()


def is_whole(worker):
    """No deadline is met by a worker that does not have every partition yet."""
    return len(worker.processors()) == N_PARTITIONS


def read(broker, topic):
    values = {p: [] for p in range(N_PARTITIONS)}
    with broker.reader([topic]) as reader:
        while records := reader.poll(0.0):
            for record in records:
                values[record.partition].append(record.value)
    return values


def expected(broker, config, partition, now_ms):
    """What one processor makes of the whole input at once, and of what is due after it."""
    tally = Tally(partition)
    batch = [
        [r for r in everything(broker, config.topics.name_of(role)) if r.partition == partition]
        for role in INPUTS
    ]
    outputs = tally.process(batch)
    while (due_ms := tally.next_deadline_ms()) is not None and due_ms <= now_ms:
        outputs += tally.on_deadline(due_ms)
    return outputs


def everything(broker, topic):
    with broker.reader([topic]) as reader:
        found = []
        while records := reader.poll(0.0):
            found += records
        return found


def assert_exactly_once(config, now_ms):
    with open_broker(config) as broker:
        for role in ("metrics", "dead_letters"):
            actual = read(broker, config.topics.name_of(role))
            for partition in range(N_PARTITIONS):
                wanted = expected(broker, config, partition, now_ms)
                assert actual[partition] == [o.value for o in wanted if o.role == role]
        for partition in range(N_PARTITIONS):
            verified = verify(broker, config, partition, Tally(partition))
            assert (verified.outcome, verified.problem) == ("agrees", None)
            assert verified.n_commits == len(list(broker.journal(partition))) > 1


def test_three_inputs_are_merged_and_deadlines_met_without_input(config, rng):
    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 120))
    early_ms, late_ms = START_MS + 6_500, START_MS + 100_000
    work(config, early_ms)
    assert_exactly_once(config, early_ms)
    with open_broker(config) as broker:
        n_early = sum(map(len, read(broker, config.topics.metrics).values()))
    # Nothing new has come, and time goes on; the state is of the run before.
    tallies = work(config, late_ms)
    assert [tally.next_deadline_ms() for tally in tallies.values()] == [None] * N_PARTITIONS
    assert_exactly_once(config, late_ms)
    with open_broker(config) as broker:
        entries = [e for p in range(N_PARTITIONS) for e in broker.journal(p)]
        assert sum(map(len, read(broker, config.topics.metrics).values())) > n_early
    of_deadlines = [entry for entry in entries if entry.deadline_ms is not None]
    assert of_deadlines
    assert all(entry.offsets_from == entry.offsets_to for entry in of_deadlines)
    assert all(len(entry.offsets_to) == len(INPUTS) for entry in entries)


def test_observers_hear_of_commits_and_of_lag(config, rng):
    class Listener(Observer):
        def __init__(self):
            self.sequences, self.lags = {p: [] for p in range(N_PARTITIONS)}, []

        def on_commit(self, partition, commit):
            self.sequences[partition].append((commit.before.sequence, commit.after.sequence))

        def on_lag(self, lag):
            self.lags.append(dict(lag))

    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 90))
    listener = Listener()
    work(config, START_MS + 100_000, observers=[listener])
    for heard in listener.sequences.values():
        assert heard == [(n, n + 1) for n in range(len(heard))]
        assert heard
    # Batches are of four records, so that most are unread when it hears for the first time.
    assert any(sum(lag.values()) > 0 for lag in listener.lags)
    with open_broker(config) as broker, broker.join_group(INPUTS) as assignment:
        deadline_s = time.monotonic() + TIMEOUT_S
        taken = {}
        while len(taken) < N_PARTITIONS:
            assert time.monotonic() < deadline_s
            taken.update(assignment.rebalance().restored)
        while not assignment.idle():
            assert not assignment.poll(0.1)
        assert assignment.lag() == dict.fromkeys(range(N_PARTITIONS), 0)


DYING = """
import os, signal, sys
from pathlib import Path
from streamgauge.consumers.config import read_config
from tests.contract import test_processor as of
from streamgauge.consumers.embedded import assignment as embedded
from streamgauge.consumers.kafka.transaction import TransactionalWriter

point, n_left, now_ms, config = sys.argv[1], *map(int, sys.argv[2:4]), read_config(Path(sys.argv[4]))

def reach(here):
    global n_left
    if here == point:
        n_left -= 1
        if n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Dying:
    def __init__(self, assignment):
        self._assignment = assignment

    def __getattr__(self, name):
        return getattr(self._assignment, name)

    def commit(self, partition, commit):
        what = "commit" if commit.deadline_ms is None else "deadline"
        reach(f"before_{what}")
        self._assignment.commit(partition, commit)
        reach(f"after_{what}")

def dying(owner, name, here):
    really = getattr(owner, name)
    def wrapped(*arguments, **options):
        result = really(*arguments, **options)
        reach(here)
        return result
    setattr(owner, name, wrapped)

dying(embedded, "append", "within")
for step in ("_fence", "_begin", "_send", "_resolve", "_commit"):
    dying(TransactionalWriter, step, step)
of.work(config, now_ms, wrap=Dying)
"""


def test_it_survives_kill_9_at_every_point(config, rng, tmp_path):
    now_ms = START_MS + 100_000
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 200))
    for point in POINTS[config.broker.kind]:
        # Of take-overs, and of deadlines that are met without input, there are not many.
        is_rare = point == "_fence" or point.endswith("deadline")
        n_left = 1 if is_rare else rng.randint(1, 3)
        with open_broker(config) as broker:
            produce(broker, config, traffic(rng, 40))
        command = [sys.executable, "-c", DYING, point, str(n_left), str(now_ms), str(path)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
    work(config, now_ms)
    assert_exactly_once_of(config, now_ms)


def assert_exactly_once_of(config, now_ms):
    """As a replay of the journal: deadlines were met between the parts of the traffic."""
    with open_broker(config) as broker:
        actual = read(broker, config.topics.metrics)
        for partition in range(N_PARTITIONS):
            tally, values = Tally(partition), []
            for entry in broker.journal(partition):
                outputs = replay(broker, config, tally, entry)
                values += [o.value for o in outputs if o.role == "metrics"]
            assert actual[partition] == values
            numbers = [json.loads(value)["n"] for value in values]
            assert numbers == list(range(1, len(numbers) + 1))
            verified = verify(broker, config, partition, Tally(partition))
            assert (verified.outcome, verified.problem) == ("agrees", None)
            ends = list(broker.journal(partition))[-1].offsets_to
            for role, end in zip(INPUTS, ends, strict=True):
                records = everything(broker, config.topics.name_of(role))
                n_there = sum(record.partition == partition for record in records)
                assert end == n_there


def replay(broker, config, tally, entry):
    if entry.deadline_ms is not None:
        return tally.on_deadline(entry.deadline_ms)
    ranges = zip(INPUTS, entry.offsets_from, entry.offsets_to, strict=True)
    return tally.process(
        [
            broker.fetch(config.topics.name_of(role), entry.partition, start, end)
            for role, start, end in ranges
        ]
    )


def test_verify_notices_a_deadline_that_is_journalled_otherwise(config, rng):
    class Forger:
        def __init__(self, assignment):
            self._assignment = assignment

        def __getattr__(self, name):
            return getattr(self._assignment, name)

        def commit(self, partition, commit):
            if commit.deadline_ms is not None:
                commit = replace(commit, deadline_ms=commit.deadline_ms - 1)
            self._assignment.commit(partition, commit)

    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 90))
    work(config, START_MS + 100_000, wrap=Forger)
    with open_broker(config) as broker:
        outcomes = {verify(broker, config, p, Tally(p)).outcome for p in range(N_PARTITIONS)}
    assert outcomes == {"differs"}


def test_a_processor_that_does_not_move_its_deadline_on_is_an_error(config, rng):
    class Stuck(Tally):
        def on_deadline(self, _):
            return []

    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 30))
    with open_broker(config) as broker, broker.join_group(INPUTS) as assignment:
        worker = Worker(Stuck, assignment)
        with pytest.raises(RuntimeError, match="it must be later"):
            worker.run(
                until_idle=True, should_stop=lambda: False, clock_ms=lambda: START_MS + 100_000
            )


def test_many_deadlines_are_met_in_one_turn(config, rng):
    late = [
        ("status", key, b'{"due_ms": %d}' % (START_MS + 50_000 + i), START_MS + 5_000)
        for i, key in enumerate(KEYS * 5)
    ]
    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 90) + late)
    with open_broker(config) as broker, broker.join_group(INPUTS) as assignment:
        worker = Worker(Tally, assignment)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=lambda: 0)
        n_due = sum(len({due for due, _ in t._due}) for t in worker.processors().values())
        assert n_due >= len(late)
        assert worker.step(0.0, START_MS + 100_000) == n_due


def test_an_observer_that_fails_does_not_end_the_work(config, rng, caplog):
    class Failing(Observer):
        def on_commit(self, partition, commit):
            raise ValueError("observed too much")

        def on_lag(self, lag):
            raise ValueError("observed too little")

    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 30))
    work(config, START_MS, observers=[Failing()])
    assert "observed too much" in caplog.text
    assert "observed too little" in caplog.text
    with open_broker(config) as broker:
        assert sum(len(list(broker.journal(p))) for p in range(N_PARTITIONS)) > 1


def test_another_processor_under_the_same_app_is_refused_and_fences_nobody(config, harness, rng):
    with open_broker(config) as broker:
        produce(broker, config, traffic(rng, 60))
        work(config, START_MS)
        produce(broker, config, traffic(rng, 60))
        with broker.join_group(INPUTS) as assignment:
            worker = Worker(Tally, assignment)
            worker.start()
            # On Kafka a partition is won by and by; the embedded broker gives all at once.
            deadline_s = time.monotonic() + TIMEOUT_S
            while not is_whole(worker):
                assert time.monotonic() < deadline_s
                worker.start()
            if harness.workers_share:
                with broker.join_group(INPUTS[:2]) as other:
                    check_refused(other)
            n_commits = sum(len(list(broker.journal(p))) for p in range(N_PARTITIONS))
            worker.run(until_idle=True, should_stop=lambda: False, clock_ms=lambda: 0)
            assert sum(len(list(broker.journal(p))) for p in range(N_PARTITIONS)) > n_commits
        if not harness.workers_share:
            with broker.join_group(INPUTS[:2]) as other:
                check_refused(other)


def check_refused(assignment):
    with pytest.raises(BrokerError, match=r"has read .* so far, and this worker reads"):
        keep_asking(assignment)


def keep_asking(assignment):
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        assignment.rebalance()
