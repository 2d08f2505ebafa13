"""The embedded broker's own affairs: its folder, its locks, its retention."""

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from streamgauge.consumers.broker import BrokerError, BrokerTimeoutError, Checkpoint, Commit
from streamgauge.consumers.config import WorkerSettings, load_config
from streamgauge.consumers.embedded import assignment as embedded_assignment
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.embedded.database import Database
from streamgauge.consumers.embedded.locks import FileLock
from streamgauge.stream.records import MONITOR_INPUTS, Output

DAY_MS = 86_400_000


def config_for(folder, *, app="streamgauge", topics=None, **broker):
    return load_config(
        {"app": app, "topics": topics or {}, "broker": {"data_dir": str(folder), **broker}}
    )


def produce(broker, topic, values, key=b"k"):
    with broker.producer() as producer:
        for value in values:
            producer.send(topic, value, key, timestamp_ms=1)


def offsets(broker, topic):
    with broker.reader([topic]) as reader:
        return [record.offset for record in reader.poll(0, max_records=100_000)]


def now_ms():
    return time.time_ns() // 1_000_000


def commit_to(sequence, prediction_offset, label_offset, outputs=(), follows=(0, 0)):
    after = Checkpoint(sequence, (prediction_offset, label_offset), "d", "c")
    return Commit(Checkpoint(sequence - 1, follows), after, outputs, {})


@contextmanager
def another_writer(folder):
    """Another process in the middle of a write."""
    with closing(sqlite3.connect(folder / "broker.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


# The folder


def test_a_folder_is_opened_again_with_what_it_held(tmp_path):
    config = config_for(tmp_path / "a" / "b")
    with EmbeddedBroker(config) as broker:
        produce(broker, "labels", [b"x"])
    with EmbeddedBroker(config) as broker:
        assert offsets(broker, "labels") == [0]


def test_a_new_folder_may_be_opened_by_many_at_once(tmp_path):
    for attempt in range(5):
        config = config_for(tmp_path / str(attempt), partitions=2)
        with ThreadPoolExecutor(8) as pool:
            brokers = list(pool.map(EmbeddedBroker, [config] * 8))
        for number, broker in enumerate(brokers):
            produce(broker, "labels", [b"x"])
            assert offsets(broker, "labels") == list(range(number + 1))
        for broker in brokers:
            broker.close()


def test_a_new_file_may_be_made_by_many_at_once(tmp_path):
    # In one to four of a hundred, two connections change the mode in the same instant.
    start = Barrier(8)

    def connect(path):
        start.wait(10)
        Database(path, timeout_ms=10_000).close()

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(200):
            list(pool.map(connect, [tmp_path / f"{attempt}.db"] * 8))


def test_a_new_file_that_stays_locked_is_a_time_out(tmp_path):
    with closing(sqlite3.connect(tmp_path / "broker.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BrokerTimeoutError, match="was busy for 50ms"):
            EmbeddedBroker(config_for(tmp_path, timeout="50ms"))
    EmbeddedBroker(config_for(tmp_path, timeout="50ms")).close()


def test_topics_that_the_config_adds_are_made(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        produce(broker, "labels", [b"x"])
    with EmbeddedBroker(config_for(tmp_path, topics={"labels": "feedback"})) as broker:
        produce(broker, "feedback", [b"x"] * 2)
        assert offsets(broker, "feedback") == [0, 1]
        assert offsets(broker, "labels") == [0]


def test_another_number_of_partitions_is_refused(tmp_path):
    EmbeddedBroker(config_for(tmp_path, partitions=2)).close()
    with pytest.raises(
        BrokerError, match=r"has 2 partitions, broker.partitions is 3.*back to 2, or delete"
    ):
        EmbeddedBroker(config_for(tmp_path, partitions=3))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (99, r"a newer streamgauge \(format 99, this one reads 2\); upgrade streamgauge, or"),
        (1, r"an older streamgauge \(format 1, this one reads 2\); run the version that wrote"),
    ],
)
def test_another_format_is_refused(tmp_path, stored, message):
    EmbeddedBroker(config_for(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "broker.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (stored,))
    with pytest.raises(BrokerError, match=message):
        EmbeddedBroker(config_for(tmp_path))


def test_an_app_that_has_read_other_topics_is_refused(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        with broker.join_group(MONITOR_INPUTS) as tasks:
            tasks.rebalance()
        with (
            broker.join_group(("labels", "predictions")) as others,
            pytest.raises(
                BrokerError, match="app 'streamgauge' has read predictions, labels so far, and"
            ),
        ):
            others.rebalance()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    (tmp_path / "broker.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(BrokerError, match=r"broker\.db: file is not a database; restore"):
        EmbeddedBroker(config_for(tmp_path))
    assert (tmp_path / "broker.db").read_bytes() == b"not a database at all" * 100


def test_the_database_of_another_program_is_refused(tmp_path):
    with closing(sqlite3.connect(tmp_path / "broker.db")) as connection, connection:
        connection.execute("CREATE TABLE meta (x)")
    with pytest.raises(BrokerError, match="belongs to another program"):
        EmbeddedBroker(config_for(tmp_path))


def test_a_damaged_file_is_an_error_in_words(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        produce(broker, "labels", [b"x" * 1000] * 100)
    path = tmp_path / "broker.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(BrokerError, match=r"broker\.db: .*malformed; restore"):
        EmbeddedBroker(config_for(tmp_path))


def test_a_folder_that_cannot_be_made_is_an_error_with_a_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match=r"file/data: cannot be made .*set broker\.data_dir"):
        EmbeddedBroker(config_for(tmp_path / "file" / "data"))


def test_a_file_that_cannot_be_opened_is_an_error_with_a_fix(tmp_path):
    (tmp_path / "broker.db").mkdir()
    with pytest.raises(BrokerError, match=r"broker\.db: unable to open.*writable"):
        EmbeddedBroker(config_for(tmp_path))


def test_a_folder_without_write_permission_is_an_error_with_a_fix(tmp_path):
    EmbeddedBroker(config_for(tmp_path)).close()
    (tmp_path / "broker.db").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with (
            pytest.raises(BrokerError, match="writable"),
            EmbeddedBroker(config_for(tmp_path)) as broker,
        ):
            produce(broker, "labels", [b"x"])
    finally:
        tmp_path.chmod(0o700)


def test_a_lock_that_cannot_be_made_is_an_error_with_a_fix(tmp_path):
    (tmp_path / "locks").write_text("a file where the folder should be")
    with (
        EmbeddedBroker(config_for(tmp_path)) as broker,
        broker.join_group(MONITOR_INPUTS) as tasks,
        pytest.raises(BrokerError, match=r"streamgauge-0\.lock: cannot be locked"),
    ):
        tasks.rebalance()


# A busy database


def test_a_producer_says_busy_and_keeps_what_is_queued(tmp_path):
    with EmbeddedBroker(config_for(tmp_path, timeout="50ms")) as broker:
        producer = broker.producer()
        producer.send("labels", b"x")
        with another_writer(tmp_path):
            with pytest.raises(BrokerTimeoutError, match="was busy for 50ms") as caught:
                producer.flush()
            assert "locked" not in str(caught.value)
            assert str(tmp_path) in str(caught.value)
            assert offsets(broker, "labels") == [], "readers do not wait for the writer"
        producer.flush()
        assert offsets(broker, "labels") == [0]


def test_a_full_queue_that_cannot_be_written_takes_no_more(tmp_path):
    with EmbeddedBroker(config_for(tmp_path, timeout="10ms")) as broker:
        producer = broker.producer()
        for _ in range(1000):
            producer.send("labels", b"x")
        with another_writer(tmp_path), pytest.raises(BrokerTimeoutError):
            producer.send("labels", b"one too many")
        producer.flush()
        assert len(offsets(broker, "labels")) == 1000


def test_a_commit_that_was_busy_can_be_tried_again(tmp_path):
    with (
        EmbeddedBroker(config_for(tmp_path, timeout="50ms")) as broker,
        broker.join_group(MONITOR_INPUTS) as tasks,
    ):
        tasks.rebalance()
        commit = commit_to(1, 0, 0, [Output("alarms", None, b"x", (), 1)])
        with another_writer(tmp_path), pytest.raises(BrokerTimeoutError):
            tasks.commit(0, commit)
        assert offsets(broker, "drift-alarms") == []
        tasks.commit(0, commit)
        assert offsets(broker, "drift-alarms") == [0]


def test_an_error_in_the_middle_of_a_commit_leaves_nothing(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        tasks.rebalance()
        outputs = [Output("alarms", None, b"x", (), t) for t in (1, 2, 2**70)]
        with pytest.raises(OverflowError):
            tasks.commit(0, commit_to(1, 0, 0, outputs))
        assert offsets(broker, "drift-alarms") == []
        tasks.commit(0, commit_to(1, 0, 0, outputs[:2]))
        assert offsets(broker, "drift-alarms") == [0, 1]


def test_a_busy_take_over_frees_what_it_had_locked(tmp_path):
    with (
        EmbeddedBroker(config_for(tmp_path, timeout="50ms", partitions=2)) as broker,
        broker.join_group(MONITOR_INPUTS) as first,
        broker.join_group(MONITOR_INPUTS) as second,
    ):
        with another_writer(tmp_path), pytest.raises(BrokerTimeoutError):
            first.rebalance()
        assert set(second.rebalance().restored) == {0, 1}


# Owning partitions


def test_a_take_over_that_fails_half_way_takes_nothing(tmp_path):
    (tmp_path / "locks" / "streamgauge-1.lock").mkdir(parents=True)
    first = FileLock(tmp_path / "locks" / "streamgauge-0.lock")
    with (
        EmbeddedBroker(config_for(tmp_path, partitions=2)) as broker,
        broker.join_group(MONITOR_INPUTS) as tasks,
    ):
        with pytest.raises(BrokerError, match=r"streamgauge-1\.lock: cannot be locked"):
            tasks.rebalance()
        assert first.acquire()
        first.release()


def test_no_more_is_read_ahead_than_a_batch(tmp_path):
    config = config_for(tmp_path)
    config = config.model_copy(update={"worker": WorkerSettings(batch_max=10)})
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        with broker.producer() as producer:
            for _ in range(100):
                producer.send("predictions", b"x", b"k", timestamp_ms=1)
                producer.send("labels", b"x", b"k", timestamp_ms=2)
        tasks.rebalance()
        for _ in range(5):
            (batch,) = tasks.poll(0)
            assert (len(batch.inputs[0]), len(batch.inputs[1])) == (10, 0)
            assert len(tasks._partitions[0].inputs[1].buffer.records) == 10


def test_a_missing_partition_is_looked_for_once_a_second(tmp_path):
    other = FileLock(tmp_path / "locks" / "streamgauge-1.lock")
    with (
        EmbeddedBroker(config_for(tmp_path, partitions=2)) as broker,
        broker.join_group(MONITOR_INPUTS) as tasks,
    ):
        assert other.acquire()
        assert set(tasks.rebalance().restored) == {0}
        other.release()
        assert tasks.rebalance() == ({}, ())
        time.sleep(1.05)
        assert set(tasks.rebalance().restored) == {1}


def test_a_lock_names_its_holder_whoever_had_it_before(tmp_path):
    path = tmp_path / "locks" / "a.lock"
    path.parent.mkdir()
    path.write_text("999999999999")
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire()
    assert second.holder == str(os.getpid())
    first.release()


def test_apps_in_one_folder_have_their_own_partitions_and_positions(tmp_path):
    with (
        EmbeddedBroker(config_for(tmp_path)) as broker,
        EmbeddedBroker(config_for(tmp_path, app="shadow")) as other,
        broker.join_group(MONITOR_INPUTS) as tasks,
        other.join_group(MONITOR_INPUTS) as others,
    ):
        produce(broker, "labels", [b"x"])
        tasks.rebalance()
        tasks.commit(0, commit_to(1, 0, 1))
        assert others.rebalance().restored[0].checkpoint == Checkpoint(0, (0, 0))
        assert list(other.journal(0)) == []


def test_a_journal_of_many_pages_is_whole(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        tasks.rebalance()
        for sequence in range(1, 1502):
            tasks.commit(0, commit_to(sequence, 0, 0))
        assert [entry.sequence for entry in broker.journal(0)] == list(range(1, 1502))


# Reading


def test_a_backlog_of_one_topic_keeps_no_other_waiting(tmp_path):
    topics = ["drift-metrics", "drift-alarms", "retrain-requests"]
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        produce(broker, "drift-metrics", [b"x"] * 500)
        produce(broker, "drift-alarms", [b"x"] * 60)
        produce(broker, "retrain-requests", [b"x"] * 2)
        with broker.reader(topics) as reader:
            counts = []
            while records := reader.poll(0, max_records=100):
                counts.append([sum(r.topic == topic for r in records) for topic in topics])
    assert counts[:3] == [[49, 49, 2], [89, 11, 0], [100, 0, 0]]
    assert list(map(sum, zip(*counts, strict=True))) == [500, 60, 2]


def test_more_logs_than_records_to_take_are_served_in_turn(tmp_path):
    topics = ["drift-metrics", "drift-alarms", "retrain-requests"]
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        for topic in topics:
            produce(broker, topic, [b"x"] * 3)
        with broker.reader(topics) as reader:
            served = [r.topic for _ in range(3) for r in reader.poll(0, max_records=2)]
    assert sorted(served) == sorted(topics * 2)


# Retention


def test_old_records_go_but_never_unprocessed_input(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        produce(broker, "predictions", [b"x" * 100] * 10)
        produce(broker, "labels", [b"x"] * 10)
        broker.apply_retention(now_ms() + 8 * DAY_MS)
        assert len(offsets(broker, "predictions")) == 10, "no worker has seen them yet"

        tasks.rebalance()
        tasks.commit(0, commit_to(1, 2, 0, [Output("metrics", None, b"x", (), 1)] * 5))
        tasks.commit(0, commit_to(2, 6, 3))
        tasks.commit(0, commit_to(3, 8, 3))
        broker.apply_retention(now_ms() + 6 * DAY_MS)
        assert len(offsets(broker, "drift-metrics")) == 5, "kept for seven days"
        broker.apply_retention(now_ms() + 8 * DAY_MS)

        assert offsets(broker, "drift-metrics") == []
        assert offsets(broker, "predictions") == [8, 9]
        assert offsets(broker, "labels") == [3, 4, 5, 6, 7, 8, 9]
        info = {topic.name: topic for topic in broker.topics()}
        assert (info["predictions"].n_records, info["predictions"].n_bytes) == (2, 2 * 101)
        assert (info["drift-metrics"].n_records, info["drift-metrics"].n_bytes) == (0, 0)
        assert list(broker.journal(0)) == [], "none of it can be replayed"


def test_a_new_app_starts_with_the_oldest_retained_input(tmp_path):
    with (
        EmbeddedBroker(config_for(tmp_path)) as broker,
        EmbeddedBroker(config_for(tmp_path, app="new")) as other,
        broker.join_group(MONITOR_INPUTS) as tasks,
        other.join_group(MONITOR_INPUTS) as others,
    ):
        produce(broker, "predictions", [b"x"] * 5)
        produce(broker, "labels", [b"x"] * 5)
        tasks.rebalance()
        tasks.commit(0, commit_to(1, 4, 2))
        broker.apply_retention(now_ms() + 8 * DAY_MS)

        assert others.rebalance().restored[0].checkpoint == Checkpoint(0, (4, 2))
        (batch,) = others.poll(0)
        assert [record.offset for record in batch.inputs[0]] == [4]
        assert [record.offset for record in batch.inputs[1]] == [2, 3, 4]
        others.commit(0, commit_to(1, 5, 5, follows=(4, 2)))
        (entry,) = other.journal(0)
        assert (entry.offsets_from[0], entry.offsets_from[1]) == (4, 2)


def test_the_journal_keeps_what_can_be_replayed(tmp_path):
    config = config_for(tmp_path, retention={"size_mb": 1})
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        tasks.rebalance()
        for sequence in range(1, 5):
            produce(broker, "predictions", [b"x" * 100_000] * 4)
            tasks.commit(0, commit_to(sequence, 4 * sequence, 0, follows=(4 * sequence - 4, 0)))
        broker.apply_retention(now_ms())
        kept = offsets(broker, "predictions")
        assert kept == list(range(kept[0], 16))
        assert 4 < kept[0] <= 8
        assert [entry.sequence for entry in broker.journal(0)] == [3, 4]
        assert tasks.rebalance() == ({}, ())


def test_appending_goes_on_where_a_trimmed_partition_ended(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        produce(broker, "drift-alarms", [b"x"] * 3)
        broker.apply_retention(now_ms() + 8 * DAY_MS)
        produce(broker, "drift-alarms", [b"x"] * 2)
        assert offsets(broker, "drift-alarms") == [3, 4]


def test_the_slowest_app_holds_the_input(tmp_path):
    with (
        EmbeddedBroker(config_for(tmp_path)) as broker,
        EmbeddedBroker(config_for(tmp_path, app="slow")) as other,
        broker.join_group(MONITOR_INPUTS) as tasks,
        other.join_group(MONITOR_INPUTS) as others,
    ):
        produce(broker, "labels", [b"x"] * 5)
        tasks.rebalance()
        others.rebalance()
        tasks.commit(0, commit_to(1, 0, 5))
        others.commit(0, commit_to(1, 0, 2))
        broker.apply_retention(now_ms() + 8 * DAY_MS)
        assert offsets(broker, "labels") == [2, 3, 4]


def test_size_is_for_a_topic_and_the_oldest_go_first(tmp_path):
    config = config_for(tmp_path, partitions=2, retention={"size_mb": 1})
    with EmbeddedBroker(config) as broker:
        for number in range(15):
            produce(broker, "drift-metrics", [b"x" * 100_000], key=b"%d" % (number % 4))
            time.sleep(0.002)  # so that the order of appending can be told
        produce(broker, "drift-alarms", [b"small"])
        broker.apply_retention(now_ms())
        with broker.reader(["drift-metrics"]) as reader:
            kept = [(record.key, record.offset) for record in reader.poll(0)]
        assert len(set(kept)) == 9, "nine of 100 kB fit in a megabyte with keys"
        # Of 15 records the first 6 are gone: keys 0 1 2 3 0 1.
        assert sorted(key for key, _ in kept) == sorted(b"%d" % (n % 4) for n in range(6, 15))
        assert offsets(broker, "drift-alarms") == [0]


def test_a_reader_that_is_behind_goes_on_with_what_is_left(tmp_path):
    with EmbeddedBroker(config_for(tmp_path)) as broker:
        produce(broker, "drift-alarms", [b"x"] * 10)
        with broker.reader(["drift-alarms"], group="g") as reader:
            assert len(reader.poll(0, max_records=4)) == 4
            reader.commit()
            assert reader.n_skipped == 0
            broker.apply_retention(now_ms() + 8 * DAY_MS)
            produce(broker, "drift-alarms", [b"x"] * 2)
            assert [record.offset for record in reader.poll(0)] == [10, 11]
            assert reader.n_skipped == 6
        with pytest.raises(BrokerError, match=r"retained from offset 10, and 3 is gone"):
            broker.fetch("drift-alarms", 0, 3, 11)


def test_workers_apply_retention_as_they_commit(tmp_path, monkeypatch):
    config = config_for(tmp_path, retention={"age": "0s"})
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as patient:
        produce(broker, "drift-alarms", [b"x"])
        time.sleep(0.01)
        patient.rebalance()
        patient.commit(0, commit_to(1, 0, 0))
        assert offsets(broker, "drift-alarms") == [0], "not in the first minute"
        patient.close()
        monkeypatch.setattr(embedded_assignment, "_RETENTION_EVERY_S", 0.0)
        with broker.join_group(MONITOR_INPUTS) as tasks:
            tasks.rebalance()
            tasks.commit(0, commit_to(2, 0, 0))
        assert offsets(broker, "drift-alarms") == []


def test_closing_the_broker_closes_every_connection(tmp_path):
    broker = EmbeddedBroker(config_for(tmp_path))
    broker.producer()
    reader = broker.reader(["labels"])
    broker.close()
    broker.close()
    reader.close()
    # The last connection to close takes the write-ahead log with it.
    assert [path.name for path in Path(tmp_path).iterdir()] == ["broker.db"]
