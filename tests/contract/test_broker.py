"""What every broker promises; crossed with every broker there is.

A broker joins by a harness: how to open it on an empty log with two partitions, and how to make
a worker lose its partitions behind its back.
"""

import json
import multiprocessing
import shutil
import time
from collections import defaultdict
from contextlib import ExitStack
from itertools import chain, pairwise
from pathlib import Path

import pytest

from consumers.broker import (
    BrokerError,
    Commit,
    FencedError,
    PartitionsTakenError,
    Position,
    UnknownTopicError,
)
from consumers.embedded import EmbeddedBroker
from stream.config import load_config
from stream.records import Output, Record

N_PARTITIONS = 2
DEADLINE_S = 20.0
spawn = multiprocessing.get_context("spawn")


def open_broker(settings):
    return EmbeddedBroker(load_config(settings))


class EmbeddedHarness:
    def __init__(self, folder):
        self.settings = {
            "broker": {"data_dir": str(folder / "broker"), "partitions": N_PARTITIONS},
            "worker": {"batch_max": 4},
        }

    def lose_partitions(self):
        """What a mistaken clean-up does: the locks are free while their holders live."""
        shutil.rmtree(Path(self.settings["broker"]["data_dir"]) / "locks")


@pytest.fixture(params=[EmbeddedHarness])
def harness(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture
def stack():
    with ExitStack() as exit_stack:
        yield exit_stack


@pytest.fixture
def broker(harness, stack):
    return stack.enter_context(open_broker(harness.settings))


def produce(broker, topic, values, key=b"k", timestamp_ms=1):
    with broker.producer() as producer:
        for value in values:
            producer.send(topic, value, key, timestamp_ms=timestamp_ms)


def read_all(broker, topic, timeout_s=0.0):
    with broker.reader([topic]) as reader:
        records = []
        while polled := reader.poll(timeout_s):
            records += polled
        return records


def values_of(records):
    return [record.value for record in records]


def numbered(start, stop):
    return [str(number).encode() for number in range(start, stop)]


def eventually(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)
    return result


def take_over_all(tasks):
    """Rebalance until every partition is this worker's."""
    taken_over = {}

    def complete():
        try:
            taken_over.update(tasks.rebalance().taken_over)
        except PartitionsTakenError:
            return False
        return len(taken_over) == N_PARTITIONS

    eventually(complete, "taking every partition over")
    return taken_over


def metric(value, key=b"m"):
    return Output("drift-metrics", key, value, (("kind", b"test"),), 5)


def a_commit(sequence, prediction_offset=0, label_offset=0, outputs=(), chunks=None):
    position = Position(sequence, prediction_offset, label_offset, f"d{sequence}", "c")
    return Commit(position, list(outputs), chunks or {})


# Producing and reading


def test_records_are_read_as_they_were_sent(broker):
    headers = (("ce_id", b"1"), ("ce_id", b"\xff\x00"))
    with broker.producer() as producer:
        producer.send("labels", b"one", b"k", headers, 123)
        producer.send("labels", b"", b"k", (), 124)
        producer.send("labels", None, b"k", (("only", b""),), 125)
    records = read_all(broker, "labels")
    (partition,) = {record.partition for record in records}
    assert records == [
        Record("labels", partition, 0, 123, b"k", b"one", headers),
        Record("labels", partition, 1, 124, b"k", b"", ()),
        Record("labels", partition, 2, 125, b"k", None, (("only", b""),)),
    ]


def test_a_record_without_a_key_or_a_time_gets_the_time_of_now(broker):
    before_ms = time.time_ns() // 1_000_000
    produce(broker, "labels", [b"x"], key=None, timestamp_ms=None)
    (record,) = read_all(broker, "labels")
    assert record.key is None
    assert before_ms <= record.timestamp_ms <= time.time_ns() // 1_000_000


def test_a_key_has_one_partition_in_every_topic_and_offsets_are_gapless(broker):
    for topic in ("predictions", "labels"):
        for _ in range(3):
            with broker.producer() as producer:
                for key in numbered(0, 20):
                    producer.send(topic, b"v", key)
    partitions, offsets = defaultdict(set), defaultdict(list)
    for topic in ("predictions", "labels"):
        for record in read_all(broker, topic):
            partitions[record.key].add(record.partition)
            offsets[topic, record.partition].append(record.offset)
    assert all(len(found) == 1 for found in partitions.values())
    assert len(offsets) == 2 * N_PARTITIONS, "20 keys fall on every partition"
    for found in offsets.values():
        assert found == list(range(len(found)))


def test_nothing_is_visible_before_the_flush(broker):
    producer = broker.producer()
    producer.send("labels", b"x")
    assert read_all(broker, "labels") == []
    producer.flush()
    producer.flush()
    assert values_of(read_all(broker, "labels")) == [b"x"]


def test_a_producer_that_sends_more_than_it_queues_loses_nothing(broker):
    produce(broker, "labels", numbered(0, 2500))
    assert values_of(read_all(broker, "labels")) == numbered(0, 2500)


def test_an_unknown_topic_is_refused_by_name(broker):
    with broker.producer() as producer, pytest.raises(UnknownTopicError, match="'nope'"):
        producer.send("nope", b"x")
    with pytest.raises(UnknownTopicError, match="'nope'"):
        broker.reader(["labels", "nope"])
    with pytest.raises(UnknownTopicError, match="'nope'"):
        broker.fetch("nope", 0, 0, 1)


def test_topics_tell_what_they_hold(broker):
    with broker.producer() as producer:
        for key, timestamp_ms in ((b"a", 50), (b"b", 10), (b"c", 90), (b"d", 70)):
            producer.send("labels", b"12345", key, timestamp_ms=timestamp_ms)
    topics = {topic.name: topic for topic in broker.topics()}
    assert set(topics) == {
        "predictions", "labels", "drift-metrics", "drift-alarms",
        "retrain-requests", "retrain-status", "dead-letters",
    }  # fmt: skip
    labels = topics["labels"]
    assert (labels.n_partitions, labels.n_records) == (N_PARTITIONS, 4)
    assert labels.n_bytes >= 4 * 6
    assert 10 <= labels.oldest_timestamp_ms < labels.newest_timestamp_ms <= 90
    assert topics["predictions"].n_records == 0
    assert topics["predictions"].oldest_timestamp_ms is None


def test_a_reader_polls_no_more_than_asked_and_starves_no_topic(broker):
    produce(broker, "drift-metrics", numbered(0, 50))
    produce(broker, "drift-alarms", [b"alarm"])
    with broker.reader(["drift-metrics", "drift-alarms"]) as reader:
        polls = [reader.poll(0.5, max_records=10) for _ in range(3)]
    assert all(len(poll) <= 10 for poll in polls)
    assert b"alarm" in values_of(chain(*polls))


def test_a_reader_waits_for_records_and_gives_up_in_time(harness, broker):
    with broker.reader(["labels"]) as reader:
        start = time.monotonic()
        assert reader.poll(0.1) == []
        assert 0.1 <= time.monotonic() - start < 5
        writer = spawn.Process(target=produce_in_batches, args=(json.dumps(harness.settings), 1))
        writer.start()
        assert len(reader.poll(DEADLINE_S)) > 0
        writer.join(DEADLINE_S)


def test_from_start_false_reads_only_what_comes_next(broker):
    produce(broker, "labels", [b"old"])
    with broker.reader(["labels"], from_start=False) as reader:
        assert reader.poll(0) == []
        produce(broker, "labels", [b"new"])
        assert values_of(reader.poll(1)) == [b"new"]


# Reader groups


def test_a_group_goes_on_exactly_after_its_last_commit(broker):
    produce(broker, "labels", numbered(0, 6))
    with broker.reader(["labels"], group="g") as reader:
        assert values_of(reader.poll(1, max_records=2)) == numbered(0, 2)
        reader.commit()
        assert values_of(reader.poll(1, max_records=2)) == numbered(2, 4)
    with broker.reader(["labels"], group="g", from_start=False) as reader:
        assert values_of(reader.poll(1)) == numbered(2, 6), "polled without commit comes again"
        reader.commit()
    with broker.reader(["labels"], group="g") as reader:
        assert reader.poll(0) == []
    with broker.reader(["labels"], group="other") as reader:
        assert values_of(reader.poll(1)) == numbered(0, 6)


def test_a_group_that_never_committed_has_no_place(broker):
    produce(broker, "labels", [b"a"])
    with broker.reader(["labels"], group="g", from_start=False) as reader:
        assert reader.poll(0) == []
    with broker.reader(["labels"], group="g") as reader:
        assert values_of(reader.poll(1)) == [b"a"]


def test_without_a_group_nothing_is_remembered(broker):
    produce(broker, "labels", [b"a"])
    for _ in range(2):
        with broker.reader(["labels"]) as reader:
            assert values_of(reader.poll(1)) == [b"a"]
            reader.commit()


def test_a_group_has_one_reader_at_a_time(broker):
    with broker.reader(["labels"], group="a/../b") as reader:
        with pytest.raises(BrokerError, match=r"group 'a/\.\./b'.*process \d+"):
            broker.reader(["labels"], group="a/../b")
        assert reader.poll(0) == [], "the first one is none the worse for it"
    broker.reader(["labels"], group="a/../b").close()


# Polling


def test_predictions_and_labels_keep_step(broker, stack):
    with broker.producer() as producer:
        for number in range(8):
            producer.send("predictions", b"p%d" % number, b"k", timestamp_ms=number * 10)
        for number in range(3):
            producer.send("labels", b"l%d" % number, b"k", timestamp_ms=number * 10 + 15)
    tasks = stack.enter_context(broker.tasks())
    tasks.rebalance()
    batches = []
    while not tasks.idle():
        batches += tasks.poll(1)
    assert [(values_of(b.predictions), values_of(b.labels), b.at_end) for b in batches] == [
        ([b"p0", b"p1", b"p2", b"p3"], [b"l0", b"l1"], False),
        ([b"p4", b"p5", b"p6", b"p7"], [b"l2"], True),
    ]
    assert tasks.poll(0) == []


def test_a_poll_hands_out_every_partition_that_has_input(broker, stack):
    for topic in ("predictions", "labels"):
        for key in numbered(0, 20):
            produce(broker, topic, [b"v"], key)
    tasks = stack.enter_context(broker.tasks())
    taken_over = take_over_all(tasks)
    assert set(taken_over) == set(range(N_PARTITIONS))
    assert sorted(batch.partition for batch in tasks.poll(1)) == list(range(N_PARTITIONS))


def test_idle_means_polled_to_the_end_and_new_input_ends_it(broker, stack):
    tasks = stack.enter_context(broker.tasks())
    tasks.rebalance()
    assert tasks.poll(0) == []
    assert tasks.idle()
    produce(broker, "labels", [b"a"])
    eventually(lambda: not tasks.idle(), "idle to end")
    (batch,) = tasks.poll(1)
    assert values_of(batch.labels) == [b"a"]
    assert batch.at_end
    assert tasks.idle()


# Commits


def test_outputs_state_and_position_are_committed_together(broker, stack):
    produce(broker, "predictions", numbered(0, 3))
    tasks = stack.enter_context(broker.tasks())
    tasks.rebalance()
    (batch,) = tasks.poll(1)
    outputs = [metric(b"1"), metric(b"2"), Output("drift-alarms", None, b"3", (), 6)]
    tasks.commit(batch.partition, a_commit(1, 3, 0, outputs, {"a": b"A", "b": b"", "c": b"C"}))
    tasks.commit(batch.partition, a_commit(2, 3, 0, [metric(b"4")], {"a": b"AA", "c": None}))
    tasks.close()

    metrics = read_all(broker, "drift-metrics")
    assert values_of(metrics) == [b"1", b"2", b"4"]
    assert {record.partition for record in metrics} == {batch.partition}
    assert (metrics[0].key, metrics[0].headers, metrics[0].timestamp_ms) == (
        b"m", (("kind", b"test"),), 5,
    )  # fmt: skip
    assert values_of(read_all(broker, "drift-alarms")) == [b"3"]
    restored = take_over_all(stack.enter_context(broker.tasks()))
    assert restored[batch.partition].position == Position(2, 3, 0, "d2", "c")
    assert restored[batch.partition].chunks == {"a": b"AA", "b": b""}
    other = restored[1 - batch.partition]
    assert (other.position, other.chunks) == (Position(), {})


@pytest.mark.parametrize(
    ("commit", "error"),
    [
        (
            a_commit(2, 1, 0, [metric(b"bad"), Output("nope", None, b"", (), 1)], {"a": b"bad"}),
            UnknownTopicError,
        ),
        (a_commit(1, 1, 0, [metric(b"bad")], {"a": b"bad"}), FencedError),
        (a_commit(3, 1, 0, [metric(b"bad")], {"a": b"bad"}), FencedError),
    ],
    ids=["unknown topic", "a sequence twice", "a sequence left out"],
)
def test_a_commit_that_fails_leaves_nothing(broker, stack, commit, error):
    tasks = stack.enter_context(broker.tasks())
    tasks.rebalance()
    tasks.commit(0, a_commit(1, 0, 0, [metric(b"good")], {"a": b"good"}))
    with pytest.raises(error):
        tasks.commit(0, commit)
    tasks.close()
    restored = take_over_all(stack.enter_context(broker.tasks()))
    assert restored[0].position.sequence == 1
    assert restored[0].chunks == {"a": b"good"}
    assert values_of(read_all(broker, "drift-metrics")) == [b"good"]
    assert len(list(broker.journal(0))) == 1


def test_large_chunks_come_back_whole(broker, stack):
    chunk = bytes(range(256)) * 12_000
    tasks = stack.enter_context(broker.tasks())
    tasks.rebalance()
    tasks.commit(0, a_commit(1, chunks={"large": chunk}))
    tasks.close()
    assert take_over_all(stack.enter_context(broker.tasks()))[0].chunks == {"large": chunk}


def test_what_was_not_committed_is_polled_again_after_a_take_over(broker, stack):
    produce(broker, "labels", numbered(0, 6))
    first = stack.enter_context(broker.tasks())
    first.rebalance()
    (batch,) = first.poll(1)
    first.commit(batch.partition, a_commit(1, 0, 4))
    (rest,) = first.poll(1)
    assert values_of(rest.labels) == numbered(4, 6)
    assert first.poll(0) == []
    first.close()
    second = stack.enter_context(broker.tasks())
    take_over_all(second)
    (again,) = second.poll(1)
    assert again == rest


def test_the_journal_tells_the_input_of_every_commit(broker, stack):
    with broker.producer() as producer:
        for number in range(10):
            producer.send("predictions", b"p%d" % number, b"k", timestamp_ms=2 * number)
            producer.send("labels", b"l%d" % number, b"k", timestamp_ms=2 * number + 1)
    tasks = stack.enter_context(broker.tasks())
    tasks.rebalance()
    batches, offsets = [], (0, 0)
    while not tasks.idle():
        (batch,) = tasks.poll(1)
        batches.append(batch)
        offsets = (offsets[0] + len(batch.predictions), offsets[1] + len(batch.labels))
        tasks.commit(batch.partition, a_commit(len(batches), *offsets))
    journal = list(broker.journal(batch.partition))
    assert [entry.sequence for entry in journal] == list(range(1, len(batches) + 1))
    assert [entry.state_digest for entry in journal] == [f"d{e.sequence}" for e in journal]
    for entry, batch in zip(journal, batches, strict=True):
        p = entry.partition
        fetched = (
            broker.fetch("predictions", p, entry.prediction_from, entry.prediction_to),
            broker.fetch("labels", p, entry.label_from, entry.label_to),
        )
        assert fetched == (batch.predictions, batch.labels)
    assert list(broker.journal(1 - batch.partition)) == []


def test_fetching_what_is_not_there_is_an_error(broker):
    produce(broker, "labels", numbered(0, 3))
    partition = read_all(broker, "labels")[0].partition
    assert values_of(broker.fetch("labels", partition, 1, 3)) == numbered(1, 3)
    assert broker.fetch("labels", partition, 2, 2) == []
    with pytest.raises(BrokerError, match="ends at offset 3"):
        broker.fetch("labels", partition, 1, 4)
    with pytest.raises(BrokerError, match="partition"):
        broker.fetch("labels", N_PARTITIONS, 0, 1)


# Owning partitions


def test_a_second_worker_is_refused_until_the_first_leaves(broker, stack):
    first, second = (stack.enter_context(broker.tasks()) for _ in range(2))
    assert set(take_over_all(first)) == set(range(N_PARTITIONS))
    with pytest.raises(PartitionsTakenError):
        second.rebalance()
    first.commit(0, a_commit(1, outputs=[metric(b"first")]))
    assert first.rebalance() == ({}, ())
    first.close()
    assert take_over_all(second)[0].position.sequence == 1


def test_a_worker_that_was_replaced_is_fenced(harness, broker, stack):
    first, second = (stack.enter_context(broker.tasks()) for _ in range(2))
    take_over_all(first)
    first.commit(0, a_commit(1, outputs=[metric(b"1")], chunks={"a": b"1"}))
    harness.lose_partitions()
    assert take_over_all(second)[0].chunks == {"a": b"1"}
    with pytest.raises(FencedError, match="partition 0"):
        first.commit(0, a_commit(2, outputs=[metric(b"zombie")], chunks={"a": b"zombie"}))
    second.commit(0, a_commit(2, outputs=[metric(b"2")], chunks={"a": b"2"}))
    with pytest.raises(FencedError, match="partition 0"):
        first.commit(0, a_commit(3, outputs=[metric(b"zombie")]))

    assert values_of(read_all(broker, "drift-metrics")) == [b"1", b"2"]
    lost = set()

    def told():
        lost.update(first.rebalance().lost)
        return lost == {0, 1}

    eventually(told, "the first worker to learn what it has lost")
    assert [entry.state_digest for entry in broker.journal(0)] == ["d1", "d2"]


def test_a_released_partition_is_taken_over_anew(broker, stack):
    produce(broker, "labels", numbered(0, 3))
    tasks = stack.enter_context(broker.tasks())
    take_over_all(tasks)
    (batch,) = tasks.poll(1)
    tasks.release(batch.partition)
    with pytest.raises(FencedError, match="not owned"):
        tasks.commit(batch.partition, a_commit(1, 0, 3))

    taken_over, lost = {}, set()

    def back():
        rebalance = tasks.rebalance()
        taken_over.update(rebalance.taken_over)
        lost.update(rebalance.lost)
        return taken_over

    eventually(back, "the released partition to come back")
    assert (set(taken_over), lost) == ({batch.partition}, {batch.partition})
    assert tasks.poll(1) == [batch], "what was not committed is polled again"
    tasks.commit(batch.partition, a_commit(1, 0, 3))


# Several processes


def produce_in_batches(settings, n_batches):
    with open_broker(json.loads(settings)) as broker:
        for number in range(n_batches):
            with broker.producer() as producer:
                for value in numbered(number * 100, number * 100 + 100):
                    producer.send("labels", value, value)


def follow(settings, n_records, connection):
    with open_broker(json.loads(settings)) as broker, broker.reader(["labels"]) as reader:
        records = []
        while len(records) < n_records and (polled := reader.poll(DEADLINE_S)):
            records += polled
        connection.send(records)


def test_several_processes_write_and_follow_at_once(harness, broker):
    settings = json.dumps(harness.settings)
    pipes = [spawn.Pipe(duplex=False) for _ in range(2)]
    processes = [spawn.Process(target=follow, args=(settings, 4000, end)) for _, end in pipes]
    processes += [spawn.Process(target=produce_in_batches, args=(settings, 20)) for _ in range(2)]
    for process in processes:
        process.start()
    followed = []
    for receiver, _ in pipes:
        assert receiver.poll(3 * DEADLINE_S)
        followed.append(receiver.recv())
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0

    for records in followed:
        assert len(records) == 4000
        offsets = defaultdict(list)
        for record in records:
            offsets[record.partition].append(record.offset)
        assert all(found == list(range(len(found))) for found in offsets.values())
    assert sorted(followed[0]) == sorted(followed[1]) == sorted(read_all(broker, "labels"))
    assert sorted(values_of(followed[0])) == sorted(numbered(0, 2000) * 2)


def commit_until_killed(settings):
    """A worker whose every commit writes three outputs and one chunk, all with its sequence."""
    with open_broker(json.loads(settings)) as broker, broker.tasks() as tasks:
        positions = {p: t.position for p, t in take_over_all(tasks).items()}
        while True:
            for batch in tasks.poll(DEADLINE_S):
                previous = positions[batch.partition]
                sequence = previous.sequence + 1
                value = str(sequence).encode()
                commit = a_commit(
                    sequence,
                    previous.prediction_offset + len(batch.predictions),
                    previous.label_offset + len(batch.labels),
                    [metric(value)] * 3,
                    {"state": value, f"odd-{sequence}": value, f"odd-{sequence - 1}": None},
                )
                tasks.commit(batch.partition, commit)
                positions[batch.partition] = commit.position


def test_kill_9_in_the_middle_of_commits_leaves_whole_commits(harness, broker, stack):
    produce(broker, "predictions", numbered(0, 20_000))
    partition = read_all(broker, "predictions")[0].partition
    settings = json.dumps(harness.settings)
    sequence = 0
    for _ in range(3):
        worker = spawn.Process(target=commit_until_killed, args=(settings,))
        worker.start()
        n_before = sequence
        eventually(
            lambda n=n_before: len(list(broker.journal(partition))) > n + 20, "twenty commits"
        )
        worker.kill()
        worker.join(DEADLINE_S)
        with broker.tasks() as tasks:
            restored = take_over_all(tasks)[partition]
        sequence = restored.position.sequence
        assert sequence > n_before + 20
        value = str(sequence).encode()
        assert restored.chunks == {"state": value, f"odd-{sequence}": value}
        outputs = values_of(read_all(broker, "drift-metrics"))
        assert outputs == [n for n in numbered(1, sequence + 1) for _ in range(3)]
        journal = list(broker.journal(partition))
        assert [entry.sequence for entry in journal] == list(range(1, sequence + 1))
        assert journal[-1].prediction_to == restored.position.prediction_offset == 4 * sequence
        for before, after in pairwise(journal):
            assert after.prediction_from == before.prediction_to


def test_a_killed_worker_or_reader_leaves_nothing_locked(harness, broker, stack):
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=own_everything, args=(json.dumps(harness.settings), sender))
    process.start()
    assert receiver.poll(DEADLINE_S)
    tasks = stack.enter_context(broker.tasks())
    with pytest.raises(PartitionsTakenError, match=str(process.pid)):
        tasks.rebalance()
    with pytest.raises(BrokerError, match=str(process.pid)):
        broker.reader(["labels"], group="g")
    process.kill()
    process.join(DEADLINE_S)
    take_over_all(tasks)
    broker.reader(["labels"], group="g").close()


def own_everything(settings, connection):
    with (
        open_broker(json.loads(settings)) as broker,
        broker.tasks() as tasks,
        broker.reader(["labels"], group="g"),
    ):
        take_over_all(tasks)
        connection.send(True)
        time.sleep(10 * DEADLINE_S)
