"""What kafka-python 3.0 does wrong in reading (D7 and D9 of the design), and what we do then."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import suppress

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import CorruptRecordError
from kafka.serializer import Deserializer

from streamgauge.consumers.broker import BrokerError
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.stream.publish import LETTER_HEADERS
from streamgauge.stream.records import MONITOR_INPUTS
from tests.consumers.kafka.test_cluster import create_topic, send
from tests.support.harness import POISON, monitor_worker, totals_of
from tests.support.kafka.apps import DEADLINE_S, app_settings, make_app, take_over
from tests.support.kafka.bare import committed_values, consuming, mended
from tests.support.kafka.rules import Api, ChangeResponse, Rule

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

T0_MS = 1_767_225_600_000


def damage(topic, partition=0):
    """Change a byte of the last batch that is fetched of a partition."""

    def change(response):
        for of_topic in response.responses:
            for part in of_topic.partitions:
                if (of_topic.topic, part.partition_index) == (topic, partition) and part.records:
                    records = bytearray(part.records)
                    records[-1] ^= 1
                    part.records = bytes(records)

    return ChangeResponse(change)


def outcome(name, timestamp_ms=T0_MS):
    """A label that carries its prediction, of the model `m`."""
    fields = {"prediction_id": name, "label": 1, "prediction": 0, "timestamp": timestamp_ms}
    return json.dumps({**fields, "model": "m", "version": "1"}).encode()


def produce(bootstrap, topic, partition, values, *, timestamp_ms=T0_MS, step_ms=0):
    """Send records, each in a batch of its own."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, batch_size=0, linger_ms=0)
    try:
        for i, value in enumerate(values):
            at_ms = timestamp_ms + i * step_ms
            producer.send(topic, value, b"m", partition=partition, timestamp_ms=at_ms)
        producer.flush(30)
    finally:
        producer.close(5)


# D7


def poll_often(consumer, place):
    """Poll until there is an error; the values of before are in `polled`."""
    polled = []

    def poll():
        for _ in range(20):
            polled.extend(record.value for record in consumer.poll(500).get(place, []))

    return poll, polled


def spins(consumer):
    """Whether a poll that should return at once does not."""

    def poll():
        # How it ends when it is stopped below does not matter.
        with suppress(TypeError, ValueError, CorruptRecordError):
            consumer.poll(0)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    thread.join(2)
    does_not_return = thread.is_alive()
    if does_not_return:
        consumer._fetcher._next_partition_records.drain()
    thread.join(20)
    return does_not_return


@pytest.mark.parametrize("n_good", [0, 2])
def test_d7_after_a_crc_error_the_client_never_returns(kafka, kafka_proxy, kafka_prefix, n_good):
    create_topic(kafka.bootstrap, kafka_prefix)
    send(kafka.bootstrap, kafka_prefix, [b"good"] * n_good + [b"damaged"])
    kafka_proxy.add(Rule(damage(kafka_prefix), Api.FETCH, times=None))
    with consuming(kafka.proxy_bootstrap) as consumer:
        place = TopicPartition(kafka_prefix, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        poll, polled = poll_often(consumer, place)
        with pytest.raises(CorruptRecordError, match=kafka_prefix):
            poll()
        assert polled == [b"good"] * n_good
        assert spins(consumer), mended("D7", "InputReader may leave the partition assigned")


class Json(Deserializer):
    def deserialize(self, topic, headers, data):
        return json.loads(data)


def test_d7_after_a_value_that_cannot_be_read_the_client_never_returns(kafka, kafka_prefix):
    create_topic(kafka.bootstrap, kafka_prefix)
    send(kafka.bootstrap, kafka_prefix, [b"{", b"{}"])
    with consuming(kafka.bootstrap, value_deserializer=Json()) as consumer:
        place = TopicPartition(kafka_prefix, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        poll, _ = poll_often(consumer, place)
        with pytest.raises(ValueError, match="Expecting property name"):
            poll()
        assert spins(consumer), mended("D7", "consumers may be given deserializers")


@pytest.fixture
def app(kafka, kafka_proxy, kafka_prefix):
    # After a lost session the error would be said anew.
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix, session_timeout="10s")
    return make_app(settings, n_partitions=2, at=kafka.bootstrap)


def work(app):
    """Run a worker until all input is processed; its counts."""
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        worker = monitor_worker(app, tasks)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        return totals_of(worker)


@pytest.mark.parametrize("n_good", [0, 12])
def test_d7_a_damaged_record_stops_its_partition_and_no_other(
    kafka, kafka_proxy, app, caplog, n_good
):
    labels = app.topics.labels
    produce(kafka.bootstrap, labels, 0, [outcome(f"{i}") for i in range(n_good + 1)])
    produce(kafka.bootstrap, labels, 1, [outcome(f"{i}") for i in range(25)])
    kafka_proxy.add(Rule(damage(labels, 0), Api.FETCH, client=f"{app.app}-input", times=None))
    where = f"partition 0 stands still at a damaged record of '{labels}'"
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        worker = monitor_worker(app, tasks)
        with pytest.raises(BrokerError, match=where):
            worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        assert totals_of(worker).n_outcomes == n_good + 25
        # It is said once, and everything else goes on.
        errors = [r for r in caplog.records if r.levelno >= logging.ERROR and where in r.message]
        assert len(errors) == 1
        produce(kafka.bootstrap, labels, 1, [outcome(f"{i}") for i in range(25, 30)])
        with pytest.raises(BrokerError, match=f"{where}.* at offset {n_good} failed crc check"):
            worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        assert totals_of(worker).n_outcomes == n_good + 30
    kafka_proxy.clear()
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        taken_over = take_over(tasks, 0, 1)
        assert {p: t.checkpoint.offsets[1] for p, t in taken_over.items()} == {0: n_good, 1: 30}
    # Where the damage was on the way and not in the log, the next worker goes on.
    assert work(app).n_outcomes == n_good + 31


def test_d7_a_damaged_head_of_a_batch_stops_its_partition_and_no_other(kafka, app, caplog):
    """Of such a one neither the broker nor the client says where it is."""
    labels = app.topics.labels
    produce(kafka.bootstrap, labels, 0, [outcome(f"{i}") for i in range(12)])
    produce(kafka.bootstrap, labels, 1, [outcome(f"{i}") for i in range(25)])
    damage_head(kafka, labels, partition=0, offset=3)
    where = f"partition 0 stands still at a damaged record of '{labels}'"
    for n in (28, 29):
        with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
            worker = monitor_worker(app, tasks)
            with pytest.raises(BrokerError, match=where):
                worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
            assert totals_of(worker).n_outcomes == n
        errors = [r for r in caplog.records if r.levelno >= logging.ERROR and where in r.message]
        assert len(errors) == 1
        caplog.clear()
        produce(kafka.bootstrap, labels, 1, [outcome("more")])


def damage_head(kafka, topic, partition, offset):
    """Overwrite on disk the length of a batch that begins at an offset."""
    (path,) = (kafka.folder / "node-1").glob(f"{topic}-{partition}/*.log")
    with path.open("r+b") as file:
        while (head := file.read(12)) and int.from_bytes(head[:8], "big") != offset:
            file.seek(int.from_bytes(head[8:], "big"), os.SEEK_CUR)
        file.seek(-4, os.SEEK_CUR)
        file.write((5).to_bytes(4, "big"))


def test_d7_poison_never_raises_in_the_client(kafka, app):
    for topic in (app.topics.predictions, app.topics.labels):
        produce(kafka.bootstrap, topic, 0, [*POISON, outcome("good")])
    totals = work(app)
    assert totals.n_dead_letters == 2 * len(POISON)
    letters = committed_values(kafka.bootstrap, app.topics.dead_letters)
    assert sorted(letters) == sorted([*POISON, *POISON])


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"m", b"{", [("h", bytes(5_000_000))]),
        (b"m", b"{" * 3_800_000, [("h", bytes(500_000))]),
        (bytes(5_000_000), b"{", []),
        (None, b"{" * 5_000_000, [("reason", b"theirs")]),
    ],
    ids=["header", "header and value", "key", "value"],
)
def test_a_refused_record_larger_than_a_dead_letter_can_be(kafka, app, key, value, headers):
    producer = KafkaProducer(
        bootstrap_servers=kafka.bootstrap, compression_type="lz4", max_request_size=16 << 20
    )
    producer.send(app.topics.labels, value, key, headers, partition=0).get(30)
    producer.close(5)
    totals = work(app)
    assert totals.n_dead_letters == 1
    with KafkaBroker(app) as broker:
        (letter,) = broker.fetch(app.topics.dead_letters, 0, 0, 1)
    assert letter.key == (key and key[:1000])
    assert letter.value == value[:3_900_000]
    told = dict(letter.headers)
    assert tuple(told) == (*LETTER_HEADERS, "truncated_from")
    assert told["reason"] in {b"malformed_json", b"too_large"}
    assert int(told["truncated_from"]) > 4_000_000


# D9


def test_d9_the_client_forgets_what_it_has_parked_of_a_paused_partition(kafka, kafka_prefix):
    create_topic(kafka.bootstrap, kafka_prefix, n_partitions=2)
    paused, other = (TopicPartition(kafka_prefix, partition) for partition in range(2))
    produce(kafka.bootstrap, kafka_prefix, 0, [b"%d" % i for i in range(50)])
    with consuming(kafka.bootstrap) as consumer:
        consumer.assign([paused, other])
        for place in (paused, other):
            consumer.seek(place, 0)
        polled = []
        while not polled:
            polled += consumer.poll(500, max_records=1).get(paused, [])
        consumer.pause(paused)
        consumer.poll(100)
        produce(kafka.bootstrap, kafka_prefix, 1, [b"x"])
        while not consumer.poll(500).get(other):
            pass
        consumer.resume(paused)
        for _ in range(10):
            polled += consumer.poll(200).get(paused, [])
        assert len(polled) == 1, mended("D9", "InputReader may pause instead of assigning anew")


@pytest.mark.parametrize(
    ("behind", "ahead"), [("labels", "predictions"), ("predictions", "labels")]
)
def test_d9_input_that_runs_far_ahead_of_the_other_is_delivered_whole(kafka, app, behind, ahead):
    n = 150
    values = {partition: [b"%d %d" % (partition, i) for i in range(n)] for partition in (0, 1)}
    for name, start_ms in ((behind, T0_MS), (ahead, T0_MS + n)):
        # All of the one is to be processed before any of the other.
        for partition, sent in values.items():
            topic, times = getattr(app.topics, name), {"timestamp_ms": start_ms, "step_ms": 1}
            produce(kafka.bootstrap, topic, partition, sent, **times)
    polled = {(name, partition): [] for name in (behind, ahead) for partition in values}
    n_rested = 0
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        take_over(tasks, 0, 1)
        deadline_s = time.monotonic() + DEADLINE_S
        while not tasks.idle():
            assert time.monotonic() < deadline_s, {k: len(v) for k, v in polled.items()}
            for batch in tasks.poll(0.2):
                for name, records in zip(MONITOR_INPUTS, batch.inputs, strict=True):
                    polled[name, batch.partition] += [r.value for r in records]
            inputs = tasks._input._inputs.values()
            n_rested += sum(i.rests for i in inputs)
            assert max(len(i.buffer.records) for i in inputs) <= 4 * app.worker.batch_max
    assert n_rested > 0, "neither ever had to wait for the other"
    assert polled == {(name, partition): values[partition] for name, partition in polled}
