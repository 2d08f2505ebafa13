"""What every broker promises; crossed with every broker there is."""

import json
import multiprocessing
import time
from collections import defaultdict
from contextlib import ExitStack
from itertools import pairwise

import pytest

from streamgauge.consumers.broker import (
    BrokerError,
    Checkpoint,
    Commit,
    FencedError,
    NotRetainedError,
    PartitionsTakenError,
    Rebalance,
    UnknownTopicError,
)
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import open_broker as open_configured
from streamgauge.consumers.embedded import broker as embedded_broker
from streamgauge.consumers.kafka import ranges as kafka_ranges
from streamgauge.stream.records import MONITOR_INPUTS, Output, Record
from tests.support.broker_harness import HARNESSES, N_PARTITIONS

DEADLINE_S = 40.0
spawn = multiprocessing.get_context("spawn")


def open_broker(settings):
    return open_configured(load_config(settings))


@pytest.fixture(params=HARNESSES)
def harness(request):
    return request.param(request)


@pytest.fixture
def topics(harness):
    return load_config(harness.settings).topics


@pytest.fixture
def group(harness):
    """A reader group of this test; its readers are told apart by the harness's prefix."""
    return f"{harness.settings.get('app', 'streamgauge')}-group"


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


def take_over_all(tasks, owned=()):
    """Rebalance until every partition is this worker's; what is taken over besides `owned`."""
    taken_over = {}

    def complete():
        taken_over.update(rebalance(tasks).restored)
        return len(taken_over) == N_PARTITIONS - len(owned)

    eventually(complete, "taking every partition over")
    return taken_over


def metric(topics, value):
    return Output("metrics", b"m", value, (("kind", b"test"),), 5)


def a_commit(
    sequence, prediction_offset=0, label_offset=0, outputs=(), chunks=None, follows=(0, 0)
):
    after = Checkpoint(sequence, (prediction_offset, label_offset), f"d{sequence}", "c")
    return Commit(Checkpoint(sequence - 1, follows), after, list(outputs), chunks or {})


# Producing and reading


def test_records_are_read_as_they_were_sent(broker, topics):
    headers = (("ce_id", b"1"), ("ce_id", b"\xff\x00"))
    with broker.producer() as producer:
        producer.send(topics.labels, b"one", b"k", headers, 123)
        producer.send(topics.labels, b"", b"k", (), 124)
        producer.send(topics.labels, None, b"k", (("only", b""),), 125)
    records = read_all(broker, topics.labels)
    (partition,) = {record.partition for record in records}
    assert records == [
        Record(topics.labels, partition, 0, 123, b"k", b"one", headers),
        Record(topics.labels, partition, 1, 124, b"k", b"", ()),
        Record(topics.labels, partition, 2, 125, b"k", None, (("only", b""),)),
    ]


def test_a_record_without_a_key_or_a_time_gets_the_time_of_now(broker, topics):
    before_ms = time.time_ns() // 1_000_000
    produce(broker, topics.labels, [b"x"], key=None, timestamp_ms=None)
    (record,) = read_all(broker, topics.labels)
    assert record.key is None
    assert before_ms <= record.timestamp_ms <= time.time_ns() // 1_000_000


def test_a_key_has_one_partition_in_every_topic_and_offsets_are_gapless(broker, topics):
    for topic in (topics.predictions, topics.labels):
        for _ in range(3):
            with broker.producer() as producer:
                for key in numbered(0, 20):
                    producer.send(topic, b"v", key)
    partitions, offsets = defaultdict(set), defaultdict(list)
    for topic in (topics.predictions, topics.labels):
        for record in read_all(broker, topic):
            partitions[record.key].add(record.partition)
            offsets[topic, record.partition].append(record.offset)
    assert all(len(found) == 1 for found in partitions.values())
    assert len(offsets) == 2 * N_PARTITIONS, "20 keys fall on every partition"
    for found in offsets.values():
        assert found == list(range(len(found)))


def test_nothing_is_visible_before_the_flush(broker, topics):
    producer = broker.producer()
    producer.send(topics.labels, b"x")
    assert read_all(broker, topics.labels) == []
    producer.flush()
    producer.flush()
    assert values_of(read_all(broker, topics.labels)) == [b"x"]


def test_a_producer_that_sends_more_than_it_queues_loses_nothing(broker, topics):
    produce(broker, topics.labels, numbered(0, 2500))
    assert values_of(read_all(broker, topics.labels)) == numbered(0, 2500)


def test_an_unknown_topic_is_refused_by_name(broker, topics):
    with broker.producer() as producer, pytest.raises(UnknownTopicError, match="'nope'"):
        producer.send("nope", b"x")
    with pytest.raises(UnknownTopicError, match="'nope'"):
        broker.reader([topics.labels, "nope"])
    with pytest.raises(UnknownTopicError, match="'nope'"):
        broker.fetch("nope", 0, 0, 1)


def test_it_answers(broker):
    assert broker.is_reachable(10.0)


def test_topics_tell_what_they_hold(broker, topics):
    with broker.producer() as producer:
        for key, timestamp_ms in ((b"a", 50), (b"b", 10), (b"c", 90), (b"d", 70)):
            producer.send(topics.labels, b"12345", key, timestamp_ms=timestamp_ms)
    told = {topic.name: topic for topic in broker.topics()}
    assert set(told) == set(topics.model_dump().values())
    labels = told[topics.labels]
    assert (labels.n_partitions, labels.n_records) == (N_PARTITIONS, 4)
    assert labels.n_bytes is None or labels.n_bytes >= 4 * 6
    if labels.oldest_timestamp_ms is not None:
        assert 10 <= labels.oldest_timestamp_ms < labels.newest_timestamp_ms <= 90
    assert told[topics.predictions].n_records == 0
    assert told[topics.predictions].oldest_timestamp_ms is None


def test_a_reader_polls_no_more_than_asked_and_starves_no_topic(broker, topics):
    produce(broker, topics.metrics, numbered(0, 50))
    produce(broker, topics.alarms, [b"alarm"])
    with broker.reader([topics.metrics, topics.alarms]) as reader:
        for _ in range(20):
            polled = reader.poll(0.5, max_records=10)
            assert len(polled) <= 10
            if b"alarm" in values_of(polled):
                return
            produce(broker, topics.metrics, numbered(0, 10))
    pytest.fail("a busy topic keeps the other one waiting")


def test_a_reader_waits_for_records_and_gives_up_in_time(harness, broker, topics):
    with broker.reader([topics.labels]) as reader:
        start = time.monotonic()
        assert reader.poll(0.1) == []
        assert 0.1 <= time.monotonic() - start < DEADLINE_S
        writer = spawn.Process(target=produce_in_batches, args=(json.dumps(harness.settings), 1))
        writer.start()
        assert len(reader.poll(DEADLINE_S)) > 0
        writer.join(DEADLINE_S)


def test_from_start_false_reads_only_what_comes_next(broker, topics):
    produce(broker, topics.labels, [b"old"])
    with broker.reader([topics.labels], from_start=False) as reader:
        assert reader.poll(0) == []
        produce(broker, topics.labels, [b"new"])
        assert values_of(reader.poll(1)) == [b"new"]


# Reader groups


def test_a_group_goes_on_exactly_after_its_last_commit(broker, topics, group):
    produce(broker, topics.labels, numbered(0, 6))
    with broker.reader([topics.labels], group=group) as reader:
        assert values_of(reader.poll(1, max_records=2)) == numbered(0, 2)
        reader.commit()
        assert values_of(reader.poll(1, max_records=2)) == numbered(2, 4)
    with broker.reader([topics.labels], group=group, from_start=False) as reader:
        assert values_of(reader.poll(1)) == numbered(2, 6), "polled without commit comes again"
        reader.commit()
    with broker.reader([topics.labels], group=group) as reader:
        assert reader.poll(0) == []
    with broker.reader([topics.labels], group=f"{group}-other") as reader:
        assert values_of(reader.poll(1)) == numbered(0, 6)


def test_a_group_that_never_committed_has_no_place(broker, topics, group):
    produce(broker, topics.labels, [b"a"])
    with broker.reader([topics.labels], group=group, from_start=False) as reader:
        assert reader.poll(0) == []
    with broker.reader([topics.labels], group=group) as reader:
        assert values_of(reader.poll(1)) == [b"a"]


def test_without_a_group_nothing_is_remembered(broker, topics):
    produce(broker, topics.labels, [b"a"])
    for _ in range(2):
        with broker.reader([topics.labels]) as reader:
            assert values_of(reader.poll(1)) == [b"a"]
            reader.commit()


# A pause of the machine must not cost the first one its session.
@pytest.mark.long_session
def test_a_group_has_one_reader_at_a_time(broker, topics, group):
    with broker.reader([topics.labels], group=f"{group}/../b") as reader:
        with pytest.raises(BrokerError, match=rf"group '{group}/\.\./b'.*process \d+"):
            broker.reader([topics.labels], group=f"{group}/../b")
        assert reader.poll(0) == [], "the first one is none the worse for it"
    broker.reader([topics.labels], group=f"{group}/../b").close()


# Polling


def test_predictions_and_labels_keep_step(broker, stack, topics):
    with broker.producer() as producer:
        for number in range(8):
            producer.send(topics.predictions, b"p%d" % number, b"k", timestamp_ms=number * 10)
        for number in range(3):
            producer.send(topics.labels, b"l%d" % number, b"k", timestamp_ms=number * 10 + 15)
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    batches = []
    while not tasks.idle():
        batches += tasks.poll(1)
    assert [tuple(map(values_of, b.inputs)) for b in batches] == [
        ([b"p0", b"p1", b"p2", b"p3"], [b"l0", b"l1"]),
        ([b"p4", b"p5", b"p6", b"p7"], [b"l2"]),
    ]
    assert tasks.poll(0) == []


def test_every_partition_that_has_input_has_its_turn(broker, stack, topics):
    for topic in (topics.predictions, topics.labels):
        for key in numbered(0, 20):
            produce(broker, topic, [b"v"], key)
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    assert set(take_over_all(tasks)) == set(range(N_PARTITIONS))
    # Twenty records a topic in batches of four: one partition alone would fill many polls.
    polled = {batch.partition for _ in range(3) for batch in tasks.poll(1)}
    assert polled == set(range(N_PARTITIONS))


def test_idle_means_polled_to_the_end_and_new_input_ends_it(broker, stack, topics):
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    assert tasks.poll(0) == []
    eventually(tasks.idle, "being idle")
    produce(broker, topics.labels, [b"a"])
    eventually(lambda: not tasks.idle(), "idle to end")
    (batch,) = tasks.poll(1)
    assert values_of(batch.inputs[1]) == [b"a"]
    assert tasks.idle()


# Commits


def test_outputs_state_and_position_are_committed_together(broker, stack, topics):
    produce(broker, topics.predictions, numbered(0, 3))
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    (batch,) = tasks.poll(1)
    before_ms = time.time_ns() // 1_000_000
    outputs = [metric(topics, b"1"), metric(topics, b"2"), Output("alarms", None, b"3", (), 6)]
    tasks.commit(batch.partition, a_commit(1, 3, 0, outputs, {"a": b"A", "b": b"", "c": b"C"}))
    tasks.commit(
        batch.partition, a_commit(2, 3, 0, [metric(topics, b"4")], {"a": b"AA", "c": None})
    )
    tasks.close()

    metrics = read_all(broker, topics.metrics)
    assert values_of(metrics) == [b"1", b"2", b"4"]
    assert {record.partition for record in metrics} == {batch.partition}
    assert (metrics[0].key, metrics[0].headers) == (b"m", (("kind", b"test"),))
    # Event time, or the time of writing where a broker deletes by what it finds here.
    assert metrics[0].timestamp_ms == 5 or metrics[0].timestamp_ms >= before_ms
    assert values_of(read_all(broker, topics.alarms)) == [b"3"]
    restored = take_over_all(stack.enter_context(broker.join_group(MONITOR_INPUTS)))
    assert restored[batch.partition].checkpoint == Checkpoint(2, (3, 0), "d2", "c")
    assert restored[batch.partition].chunks == {"a": b"AA", "b": b""}
    other = restored[1 - batch.partition]
    assert (other.checkpoint, other.chunks) == (Checkpoint(0, (0, 0)), {})


@pytest.mark.parametrize(
    ("sequence", "others", "error"),
    [
        (2, [Output("nope", None, b"", (), 1)], AttributeError),
        (1, [], FencedError),
        (3, [], FencedError),
    ],
    ids=["no such role", "a sequence twice", "a sequence left out"],
)
def test_a_commit_that_fails_leaves_nothing(broker, stack, sequence, others, error, topics):
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    tasks.commit(0, a_commit(1, 0, 0, [metric(topics, b"good")], {"a": b"good"}))
    with pytest.raises(error):
        tasks.commit(0, a_commit(sequence, 1, 0, [metric(topics, b"bad"), *others], {"a": b"bad"}))
    tasks.close()
    restored = take_over_all(stack.enter_context(broker.join_group(MONITOR_INPUTS)))
    assert restored[0].checkpoint.sequence == 1
    assert restored[0].chunks == {"a": b"good"}
    assert values_of(read_all(broker, topics.metrics)) == [b"good"]
    assert len(list(broker.journal(0))) == 1


def test_large_chunks_come_back_whole(broker, stack):
    chunk = bytes(range(256)) * 12_000
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    tasks.commit(0, a_commit(1, chunks={"large": chunk}))
    tasks.close()
    assert take_over_all(stack.enter_context(broker.join_group(MONITOR_INPUTS)))[0].chunks == {
        "large": chunk
    }


def test_what_was_not_committed_is_polled_again_after_a_take_over(broker, stack, topics):
    produce(broker, topics.labels, numbered(0, 6))
    first = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(first)
    (batch,) = first.poll(1)
    first.commit(batch.partition, a_commit(1, 0, 4))
    (rest,) = first.poll(1)
    assert values_of(rest.inputs[1]) == numbered(4, 6)
    assert first.poll(0) == []
    first.close()
    second = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(second)
    (again,) = second.poll(1)
    assert again == rest


def test_the_journal_tells_the_input_of_every_commit(broker, stack, topics):
    with broker.producer() as producer:
        for number in range(10):
            producer.send(topics.predictions, b"p%d" % number, b"k", timestamp_ms=2 * number)
            producer.send(topics.labels, b"l%d" % number, b"k", timestamp_ms=2 * number + 1)
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    batches, offsets = [], (0, 0)
    while not tasks.idle():
        (batch,) = tasks.poll(1)
        batches.append(batch)
        follows = offsets
        offsets = (offsets[0] + len(batch.inputs[0]), offsets[1] + len(batch.inputs[1]))
        tasks.commit(batch.partition, a_commit(len(batches), *offsets, follows=follows))
    journal = list(broker.journal(batch.partition))
    assert [entry.sequence for entry in journal] == list(range(1, len(batches) + 1))
    assert [entry.state_digest for entry in journal] == [f"d{e.sequence}" for e in journal]
    for entry, batch in zip(journal, batches, strict=True):
        p = entry.partition
        fetched = (
            broker.fetch(topics.predictions, p, entry.offsets_from[0], entry.offsets_to[0]),
            broker.fetch(topics.labels, p, entry.offsets_from[1], entry.offsets_to[1]),
        )
        assert fetched == (batch.inputs[0], batch.inputs[1])
    assert list(broker.journal(1 - batch.partition)) == []


def test_fetching_what_is_not_there_is_an_error(broker, topics):
    produce(broker, topics.labels, numbered(0, 3))
    partition = read_all(broker, topics.labels)[0].partition
    assert values_of(broker.fetch(topics.labels, partition, 1, 3)) == numbered(1, 3)
    assert broker.fetch(topics.labels, partition, 2, 2) == []
    with pytest.raises(BrokerError, match="ends at offset 3"):
        broker.fetch(topics.labels, partition, 1, 4)
    with pytest.raises(BrokerError, match="partition"):
        broker.fetch(topics.labels, N_PARTITIONS, 0, 1)


def test_fetching_what_was_deleted_is_an_error_of_its_own(harness, broker, topics):
    produce(broker, topics.metrics, numbered(0, 3))
    partition = read_all(broker, topics.metrics)[0].partition
    harness.expire(broker, topics.metrics)
    assert read_all(broker, topics.metrics) == []
    with pytest.raises(NotRetainedError, match=f"{topics.metrics}.*offset 3.* 1 is gone"):
        broker.fetch(topics.metrics, partition, 1, 3)


def test_input_is_fetched_while_the_journal_is_read(broker, stack, topics, monkeypatch):
    monkeypatch.setattr(embedded_broker, "_JOURNAL_PAGE", 2)
    monkeypatch.setattr(kafka_ranges, "_POLL_RECORDS", 2)
    produce(broker, topics.labels, numbered(0, 9))
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    partition = read_all(broker, topics.labels)[0].partition
    take_over_all(tasks)
    for sequence in range(1, 10):
        tasks.commit(partition, a_commit(sequence, 0, sequence, follows=(0, sequence - 1)))
    fetched = [
        broker.fetch(topics.labels, partition, entry.offsets_from[1], entry.offsets_to[1])
        for entry in broker.journal(partition)
    ]
    assert [values_of(records) for records in fetched] == [[value] for value in numbered(0, 9)]


# Owning partitions


def test_a_partition_has_one_owner_at_a_time_and_passes_on(harness, broker, stack, topics):
    first = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    of_first, of_second = take_over_all(first), {}
    second = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    first.commit(0, a_commit(1, outputs=[metric(topics, b"first")]))

    def settled():
        for tasks, owned in ((first, of_first), (second, of_second)):
            change = rebalance(tasks)
            for partition in change.lost:
                owned.pop(partition, None)
            owned.update(change.restored)
        assert not of_first.keys() & of_second.keys()
        return len(of_second) == (N_PARTITIONS // 2 if harness.workers_share else 0)

    eventually(settled, "the second worker to have its share")
    first.close()
    of_second.update(take_over_all(second, of_second))
    assert of_second[0].checkpoint.sequence == 1


def rebalance(tasks):
    try:
        return tasks.rebalance()
    except PartitionsTakenError:
        return Rebalance({}, ())


def test_a_worker_that_was_replaced_is_fenced(harness, broker, stack, topics):
    first = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(first)
    first.commit(0, a_commit(1, outputs=[metric(topics, b"1")], chunks={"a": b"1"}))
    harness.lose_partitions(first)
    second = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    assert take_over_all(second)[0].chunks == {"a": b"1"}
    with pytest.raises(FencedError, match="partition 0"):
        first.commit(0, a_commit(2, outputs=[metric(topics, b"zombie")], chunks={"a": b"zombie"}))
    second.commit(0, a_commit(2, outputs=[metric(topics, b"2")], chunks={"a": b"2"}))
    with pytest.raises(FencedError, match="partition 0"):
        first.commit(0, a_commit(3, outputs=[metric(topics, b"zombie")]))

    assert values_of(read_all(broker, topics.metrics)) == [b"1", b"2"]
    harness.go_on(first)
    lost = set()

    def told():
        lost.update(first.rebalance().lost)
        return lost == {0, 1}

    eventually(told, "the first worker to learn what it has lost")
    assert [entry.state_digest for entry in broker.journal(0)] == ["d1", "d2"]


def test_a_released_partition_is_taken_over_anew(broker, stack, topics):
    produce(broker, topics.labels, numbered(0, 3))
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    take_over_all(tasks)
    (batch,) = tasks.poll(1)
    tasks.release(batch.partition)
    with pytest.raises(FencedError, match="not owned"):
        tasks.commit(batch.partition, a_commit(1, 0, 3))

    taken_over, lost = {}, set()

    def back():
        rebalance = tasks.rebalance()
        taken_over.update(rebalance.restored)
        lost.update(rebalance.lost)
        return taken_over

    eventually(back, "the released partition to come back")
    assert (set(taken_over), lost) == ({batch.partition}, {batch.partition})
    assert tasks.poll(1) == [batch], "what was not committed is polled again"
    tasks.commit(batch.partition, a_commit(1, 0, 3))


# Several processes


def produce_in_batches(settings, n_batches):
    topics = load_config(json.loads(settings)).topics
    with open_broker(json.loads(settings)) as broker:
        for number in range(n_batches):
            with broker.producer() as producer:
                for value in numbered(number * 100, number * 100 + 100):
                    producer.send(topics.labels, value, value)


def follow(settings, n_records, connection):
    topics = load_config(json.loads(settings)).topics
    with open_broker(json.loads(settings)) as broker, broker.reader([topics.labels]) as reader:
        records = []
        while len(records) < n_records and (polled := reader.poll(DEADLINE_S)):
            records += polled
        connection.send(records)


def test_several_processes_write_and_follow_at_once(harness, broker, topics):
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
    assert sorted(followed[0]) == sorted(followed[1]) == sorted(read_all(broker, topics.labels))
    assert sorted(values_of(followed[0])) == sorted(numbered(0, 2000) * 2)


def commit_until_killed(settings):
    """A worker whose every commit writes three outputs and one chunk, all with its sequence."""
    topics = load_config(json.loads(settings)).topics
    with open_broker(json.loads(settings)) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        positions = {p: t.checkpoint for p, t in take_over_all(tasks).items()}
        while True:
            for batch in tasks.poll(DEADLINE_S):
                previous = positions[batch.partition]
                sequence = previous.sequence + 1
                value = str(sequence).encode()
                commit = a_commit(
                    sequence,
                    previous.offsets[0] + len(batch.inputs[0]),
                    previous.offsets[1] + len(batch.inputs[1]),
                    [metric(topics, value)] * 3,
                    {"state": value, f"odd-{sequence}": value, f"odd-{sequence - 1}": None},
                    previous.offsets,
                )
                tasks.commit(batch.partition, commit)
                positions[batch.partition] = commit.after


def test_kill_9_in_the_middle_of_commits_leaves_whole_commits(harness, broker, stack, topics):
    produce(broker, topics.predictions, numbered(0, 20_000))
    partition = read_all(broker, topics.predictions)[0].partition
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
        with broker.join_group(MONITOR_INPUTS) as tasks:
            restored = take_over_all(tasks)[partition]
        sequence = restored.checkpoint.sequence
        assert sequence > n_before + 20
        value = str(sequence).encode()
        assert restored.chunks == {"state": value, f"odd-{sequence}": value}
        outputs = values_of(read_all(broker, topics.metrics))
        assert outputs == [n for n in numbered(1, sequence + 1) for _ in range(3)]
        journal = list(broker.journal(partition))
        assert [entry.sequence for entry in journal] == list(range(1, sequence + 1))
        assert journal[-1].offsets_to[0] == restored.checkpoint.offsets[0] == 4 * sequence
        for before, after in pairwise(journal):
            assert after.offsets_from[0] == before.offsets_to[0]


@pytest.mark.long_session
def test_a_killed_worker_or_reader_leaves_nothing_locked(harness, broker, stack, topics, group):
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(
        target=own_everything, args=(json.dumps(harness.settings), group, sender)
    )
    process.start()
    assert receiver.poll(DEADLINE_S)
    tasks = stack.enter_context(broker.join_group(MONITOR_INPUTS))
    if not harness.workers_share:
        with pytest.raises(PartitionsTakenError, match=str(process.pid)):
            tasks.rebalance()
    with pytest.raises(BrokerError, match=str(process.pid)):
        broker.reader([topics.labels], group=group)
    process.kill()
    process.join(DEADLINE_S)
    take_over_all(tasks)
    broker.reader([topics.labels], group=group).close()


def own_everything(settings, group, connection):
    topics = load_config(json.loads(settings)).topics
    with (
        open_broker(json.loads(settings)) as broker,
        broker.join_group(MONITOR_INPUTS) as tasks,
        broker.reader([topics.labels], group=group),
    ):
        take_over_all(tasks)
        connection.send(True)
        time.sleep(10 * DEADLINE_S)
