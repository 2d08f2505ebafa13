"""What kafka-python 3.0 does wrong in transactions (D1 to D5 of the design), and what we do then.

Each defect is shown on the bare client first: where that test fails, the client has been mended,
and the message says what of ours can go.
"""

from __future__ import annotations

import gc
import json
import threading
import time
from contextlib import contextmanager

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from streamgauge.consumers.broker import BrokerError, BrokerTimeoutError
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.kafka import client as kafka_client
from streamgauge.consumers.kafka import transaction as kafka_transaction
from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.transaction import ProducerRecord, TransactionalWriter
from streamgauge.stream.records import MONITOR_INPUTS
from tests.consumers.kafka.test_cluster import create_topic
from tests.support.harness import monitor_worker, totals_of
from tests.support.kafka.apps import a_commit, app_settings, eventually, make_app, take_over
from tests.support.kafka.bare import committed_values, consuming, mended
from tests.support.kafka.rules import Api, Call, DropRequest, DropResponse, Rule, fail, refuse

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

NOT_ENOUGH_REPLICAS = 19
ILLEGAL_GENERATION = 22


@pytest.fixture(autouse=True)
def _no_sockets_of_others():
    """The client leaves sockets of connections that were refused to the garbage collector."""
    yield
    gc.collect()


@pytest.fixture
def topic(kafka, kafka_prefix):
    create_topic(kafka.bootstrap, kafka_prefix)
    return kafka_prefix


@pytest.fixture
def client(kafka, kafka_proxy, kafka_prefix):
    """A bare transactional producer behind the proxy, quick to give up."""
    producer = KafkaProducer(
        bootstrap_servers=kafka.proxy_bootstrap,
        client_id="bare",
        transactional_id=kafka_prefix,
        request_timeout_ms=1000,
        delivery_timeout_ms=1500,
        max_block_ms=10_000,
        retry_backoff_ms=20,
    )
    producer.init_transactions()
    yield producer
    producer._sender.force_close()


@pytest.fixture
def app(kafka, kafka_proxy, kafka_prefix):
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix)
    return make_app(settings, at=kafka.bootstrap)


@pytest.fixture
def writers(app):
    """Makes writers of partition 0, which behave as a new process's would."""
    made = []

    def make():
        made.append(TransactionalWriter(app, 0))
        return made[-1]

    yield make
    for writer in made:
        writer.abandon()


@pytest.fixture
def short_timeouts(monkeypatch):
    monkeypatch.setattr(kafka_client, "REQUEST_TIMEOUT_MS", 1000)
    monkeypatch.setattr(kafka_transaction, "_DELIVERY_TIMEOUT_MS", 1500)
    monkeypatch.setattr(kafka_transaction, "_COMMIT_TIMEOUT_S", 3.0)


RESOLVE = "commit_transaction() can be believed, so TransactionalWriter need not resolve every future first"


@contextmanager
def not_mended(defect, then):
    """The client says that all is well, which is its defect."""
    try:
        yield
    except KafkaError as error:
        pytest.fail(f"{mended(defect, then)} ({error!r})")


# D1


def test_d1_the_client_commits_without_a_batch_that_has_expired(kafka, kafka_proxy, topic, client):
    kafka_proxy.add(Rule(refuse(NOT_ENOUGH_REPLICAS), Api.PRODUCE, client="bare", times=None))
    client.begin_transaction()
    future = client.send(topic, b"lost")
    with not_mended("D1", RESOLVE):
        client.commit_transaction()
    assert future.failed(), mended("D1", RESOLVE)
    assert kafka_proxy.n_seen(Api.END_TXN, "bare") == 1
    assert committed_values(kafka.bootstrap, topic) == []


@pytest.mark.parametrize("send_timeout_s", [4.0, 0.7], ids=["expired", "not yet expired"])
def test_d1_a_writer_does_not_commit_what_has_not_arrived(
    kafka, kafka_proxy, app, writers, short_timeouts, monkeypatch, send_timeout_s
):
    monkeypatch.setattr(kafka_transaction, "_SEND_TIMEOUT_S", send_timeout_s)
    topic = app.topics.metrics
    writer = writers()
    # One batch of two is held up: a transaction without it would be half a commit.
    kafka_proxy.add(
        Rule(refuse(NOT_ENOUGH_REPLICAS), Api.PRODUCE, when=holds(app.topics.alarms), times=None)
    )
    with pytest.raises(BrokerTimeoutError):
        writer.write(
            [ProducerRecord(topic, b"k", b"half"), ProducerRecord(app.topics.alarms, b"k", b"lost")]
        )
    assert kafka_proxy.n_seen(Api.END_TXN) == 0
    writer.abandon()
    kafka_proxy.clear()
    monkeypatch.setattr(kafka_transaction, "_SEND_TIMEOUT_S", 4.0)
    writers().write(
        [ProducerRecord(topic, b"k", b"whole"), ProducerRecord(app.topics.alarms, b"k", b"whole")]
    )
    assert committed_values(kafka.bootstrap, topic) == [b"whole"]
    assert committed_values(kafka.bootstrap, app.topics.alarms) == [b"whole"]


def holds(topic):
    """Whether a Produce request has records of a topic."""
    return lambda request: topic in {data.name for data in request.decode().topic_data}


# D2

SEQUENCE_ERRORS = pytest.mark.parametrize(
    "code", [45, 47, 59], ids=["out of order", "invalid epoch", "unknown producer"]
)


@SEQUENCE_ERRORS
def test_d2_the_client_says_that_it_has_committed_and_has_not(
    kafka, kafka_proxy, topic, client, code
):
    kafka_proxy.add(Rule(refuse(code), Api.PRODUCE, client="bare"))
    client.begin_transaction()
    future = client.send(topic, b"lost")
    with not_mended("D2", RESOLVE):
        client.commit_transaction()
    assert kafka_proxy.n_seen(Api.END_TXN, "bare") == 0, mended("D2", RESOLVE)
    assert future.failed()
    assert committed_values(kafka.bootstrap, topic) == []


@SEQUENCE_ERRORS
def test_d2_a_writer_raises(kafka, kafka_proxy, app, writers, code):
    topic = app.topics.metrics
    writer = writers()
    writer.write([ProducerRecord(topic, b"k", b"1")])
    kafka_proxy.add(Rule(refuse(code), Api.PRODUCE, when=holds(topic)))
    n_ends = kafka_proxy.n_seen(Api.END_TXN)
    with pytest.raises(BrokerError) as raised:
        writer.write(
            [ProducerRecord(topic, b"k", b"2"), ProducerRecord(app.topics.alarms, b"k", b"2")]
        )
    assert not isinstance(raised.value, BrokerTimeoutError)
    assert kafka_proxy.n_seen(Api.END_TXN) == n_ends
    writer.abandon()
    writers().write([ProducerRecord(topic, b"k", b"3")])
    assert committed_values(kafka.bootstrap, topic) == [b"1", b"3"]
    assert committed_values(kafka.bootstrap, app.topics.alarms) == []


# D3


def test_d3_the_client_commits_offsets_of_a_transaction_that_it_has_aborted(
    kafka, kafka_proxy, topic, client, kafka_prefix
):
    first, second = (TopicPartition(f"{topic}-{name}", 0) for name in ("first", "second"))
    for place in (first, second):
        create_topic(kafka.bootstrap, place.topic)
    kafka_proxy.add(Rule(fail(ILLEGAL_GENERATION), Api.TXN_OFFSET_COMMIT, client="bare"))
    client.begin_transaction()
    with pytest.raises(KafkaError):
        client.send_offsets_to_transaction({first: OffsetAndMetadata(7, "", -1)}, kafka_prefix)
    client.abort_transaction()
    client.begin_transaction()
    client.send_offsets_to_transaction({second: OffsetAndMetadata(1, "", -1)}, kafka_prefix)
    client.commit_transaction()
    with consuming(kafka.bootstrap, group_id=kafka_prefix) as consumer:
        # Once the marker of the transaction is written.
        eventually(lambda: consumer.committed(second) == 1, "the offset that was committed")
        assert consumer.committed(first) == 7, mended("D3", "positions may go with a transaction")


def test_d3_a_worker_puts_no_offsets_into_its_transactions(kafka, kafka_proxy, app):
    with KafkaBroker(app) as broker:
        with broker.producer() as producer:
            for number in range(25):
                producer.send(app.topics.labels, outcome(number), b"m")
        with broker.join_group(MONITOR_INPUTS) as tasks:
            worker = monitor_worker(app, tasks)
            worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
            assert totals_of(worker).n_outcomes == 25
    assert kafka_proxy.n_seen(Api.END_TXN) >= 3, "25 labels are three batches"
    assert kafka_proxy.n_seen(Api.ADD_OFFSETS_TO_TXN) == 0
    assert kafka_proxy.n_seen(Api.TXN_OFFSET_COMMIT) == 0


def outcome(number):
    """A label that carries its prediction."""
    return json.dumps(
        {
            "prediction_id": f"{number}",
            "model": "m",
            "version": "1",
            "label": number % 2,
            "prediction": 0,
            "timestamp": 1_767_225_600_000 + number,
        }
    ).encode()


# D4


def test_d4_the_commit_of_the_client_never_returns(kafka_proxy, topic, client):
    client.begin_transaction()
    client.send(topic, b"1").get(10)
    kafka_proxy.add(Rule(Call(lambda _: cut_off(kafka_proxy)), Api.END_TXN))
    thread = threading.Thread(target=client.commit_transaction, daemon=True)
    thread.start()
    # Longer than every time-out that the client has been given.
    thread.join(3)
    assert thread.is_alive(), mended(
        "D4", "TransactionalWriter._commit may call commit_transaction"
    )
    # Not even when the client is closed.
    client._sender.force_close()
    client._sender.join(10)
    thread.join(1)
    assert thread.is_alive(), mended(
        "D4", "TransactionalWriter._commit may call commit_transaction"
    )


def cut_off(proxy):
    proxy.refuse()
    proxy.disconnect()


def test_d4_the_commit_of_a_writer_has_a_deadline(kafka, kafka_proxy, app, writers, short_timeouts):
    topic = app.topics.metrics
    threads_before = set(threading.enumerate())
    writer = writers()
    kafka_proxy.add(Rule(Call(lambda _: cut_off(kafka_proxy)), Api.END_TXN))
    began = time.monotonic()
    with pytest.raises(BrokerTimeoutError, match="the commit was not confirmed within 3 s"):
        writer.write([ProducerRecord(topic, b"k", b"1")])
    assert time.monotonic() - began < 15
    writer.abandon()
    eventually(
        lambda: not [t for t in threading.enumerate() if t not in threads_before and ours(t)],
        "the end of the abandoned writer's threads",
    )
    kafka_proxy.heal()
    writers().write([ProducerRecord(topic, b"k", b"2")])
    assert committed_values(kafka.bootstrap, topic) == [b"2"]


def ours(thread):
    """Whether a thread is a client's or made for one, and not the proxy's."""
    return not thread.name.endswith(("(_accept)", "(_run_requests)", "(_run_responses)"))


# D5

LOST = pytest.mark.parametrize(
    ("action", "arrives"),
    [(DropRequest(), False), (DropResponse(), True)],
    ids=["request", "response"],
)


@LOST
def test_d5_the_client_cannot_tell_whether_it_has_committed(
    kafka, kafka_proxy, topic, client, action, arrives
):
    kafka_proxy.add(Rule(action, Api.END_TXN))
    client.begin_transaction()
    client.send(topic, b"1")
    with pytest.raises(KafkaError, match="unknown reasons"):
        client.commit_transaction()
    # What was not committed is aborted when the next one begins.
    successor = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic)
    successor.init_transactions()
    successor.close()
    assert committed_values(kafka.bootstrap, topic) == [b"1"] * arrives


@LOST
def test_d5_the_next_take_over_finds_out(kafka, kafka_proxy, app, short_timeouts, action, arrives):
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        take_over(tasks, 0)
        tasks.commit(0, a_commit(app, 1, b"1"))
        rule = kafka_proxy.add(Rule(action, Api.END_TXN))
        with pytest.raises(BrokerTimeoutError):
            tasks.commit(0, a_commit(app, 2, b"2"))
        assert rule.happened.is_set()
        found = take_over(tasks, 0)[0]
        n = 2 if arrives else 1
        assert found.checkpoint.sequence == n
        assert found.chunks == {"chunk": b"%d" % n}
        tasks.commit(0, a_commit(app, n + 1, b"after"))
    assert committed_values(kafka.bootstrap, app.topics.metrics) == [
        b"1",
        *[b"2"] * arrives,
        b"after",
    ]
