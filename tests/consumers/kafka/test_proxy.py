"""The proxy does to requests and responses what it says, and nothing else."""

from __future__ import annotations

import socket
import time

import pytest
from kafka.errors import (
    KafkaConnectionError,
    NotEnoughReplicasError,
    RequestTimedOutError,
)
from kafka.protocol.metadata import CoordinatorType, FindCoordinatorRequest, MetadataRequest
from kafka.protocol.producer import AddPartitionsToTxnRequest, EndTxnRequest

from tests.consumers.kafka.test_cluster import create_topic, send, values_of
from tests.support.kafka.ports import hold_port
from tests.support.kafka.proxy import FaultProxy
from tests.support.kafka.rules import (
    Api,
    Call,
    CallAfter,
    CloseAfter,
    CloseBefore,
    DelayRequest,
    DelayResponse,
    DropRequest,
    DropResponse,
    Rule,
    fail,
    refuse,
)
from tests.support.kafka.wire import HOST, ask, exchange, read_frame, write

NOT_ENOUGH_REPLICAS = 19
COORDINATOR_NOT_AVAILABLE = 15
INVALID_PRODUCER_EPOCH = 47


@pytest.fixture
def port(kafka, kafka_proxy):
    return kafka.port(1, "PROXIED")


@pytest.fixture
def topic(kafka, kafka_prefix):
    create_topic(kafka.bootstrap, kafka_prefix)
    return kafka_prefix


def metadata():
    return MetadataRequest[12](topics=[])


def find_coordinator(*keys):
    kind = CoordinatorType.TRANSACTION.value
    return FindCoordinatorRequest[4](key_type=kind, coordinator_keys=list(keys))


def try_once(bootstrap, topic, value):
    """Send a record and try neither again nor for long."""
    options = {"retries": 0, "enable_idempotence": False, "request_timeout_ms": 700}
    send(bootstrap, topic, [value], **options)


def test_clients_that_start_at_the_proxy_stay_behind_it(kafka, kafka_proxy, topic, port):
    send(kafka.proxy_bootstrap, topic, [b"one"], client_id="sender")
    assert values_of(kafka.proxy_bootstrap, topic) == [b"one"]
    assert [broker.port for broker in ask(port, metadata()).brokers] == [port]
    assert kafka_proxy.n_seen(Api.PRODUCE, "sender") == 1
    assert kafka_proxy.n_seen(Api.FETCH) >= 1
    assert kafka_proxy.n_seen(Api.TXN_OFFSET_COMMIT) == 0
    # The others are told nothing of the proxy.
    own = kafka.port(1)
    assert [broker.port for broker in ask(own, metadata()).brokers] == [own]


@pytest.mark.parametrize(
    ("action", "error", "arrives"),
    [
        (DropRequest(), RequestTimedOutError, False),
        (DropResponse(), RequestTimedOutError, True),
        (CloseBefore(), KafkaConnectionError, False),
        (CloseAfter(), KafkaConnectionError, True),
        (refuse(NOT_ENOUGH_REPLICAS), NotEnoughReplicasError, False),
        (fail(NOT_ENOUGH_REPLICAS), NotEnoughReplicasError, True),
        (fail(NOT_ENOUGH_REPLICAS, partition=0), NotEnoughReplicasError, True),
    ],
)
def test_what_becomes_of_a_record(kafka, kafka_proxy, topic, action, error, arrives):
    rule = kafka_proxy.add(Rule(action, Api.PRODUCE))
    with pytest.raises(error):
        try_once(kafka.proxy_bootstrap, topic, b"one")
    # The client may have lost its patience before the broker has acted.
    assert rule.happened.wait(10)
    assert values_of(kafka.bootstrap, topic) == [b"one"] * arrives
    # It happens once.
    send(kafka.proxy_bootstrap, topic, [b"two"])
    assert values_of(kafka.bootstrap, topic)[-1] == b"two"


def test_an_error_of_one_partition_leaves_the_others_alone(kafka, kafka_proxy, topic):
    kafka_proxy.add(Rule(fail(NOT_ENOUGH_REPLICAS, partition=1), Api.PRODUCE))
    try_once(kafka.proxy_bootstrap, topic, b"one")


@pytest.mark.parametrize("action", [DelayRequest(0.3), DelayResponse(0.3)])
def test_delays(kafka_proxy, port, action):
    kafka_proxy.add(Rule(action, Api.METADATA))
    began = time.monotonic()
    assert ask(port, metadata()).brokers
    assert time.monotonic() - began >= 0.3
    assert ask(port, metadata()).brokers
    assert [seen.action for seen in kafka_proxy.seen].count(action) == 1


@pytest.mark.parametrize("action", [fail, refuse])
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (find_coordinator("a", "b"), COORDINATOR_NOT_AVAILABLE),
        (EndTxnRequest[3](transactional_id="a", producer_id=1), INVALID_PRODUCER_EPOCH),
        (
            AddPartitionsToTxnRequest[3](
                v3_and_below_transactional_id="a",
                v3_and_below_producer_id=1,
                v3_and_below_topics=[
                    AddPartitionsToTxnRequest.AddPartitionsToTxnTopic(name="t", partitions=[0, 1])
                ],
            ),
            INVALID_PRODUCER_EPOCH,
        ),
    ],
    ids=["FindCoordinator", "EndTxn", "AddPartitionsToTxn"],
)
def test_errors_of_coordinators(kafka_proxy, port, action, request_, code):
    kafka_proxy.add(Rule(action(code), Api(request_.API_KEY)))
    answer = ask(port, request_)
    if request_.API_KEY == Api.FIND_COORDINATOR:
        assert [(c.key, c.error_code) for c in answer.coordinators] == [("a", code), ("b", code)]
    elif request_.API_KEY == Api.END_TXN:
        assert answer.error_code == code
    else:
        (of_topic,) = answer.results_by_topic_v3_and_below
        codes = {p.partition_index: p.partition_error_code for p in of_topic.results_by_partition}
        assert (of_topic.name, codes) == ("t", {0: code, 1: code})


def test_answers_keep_their_place_among_the_brokers(kafka_proxy, port):
    kafka_proxy.add(Rule(DelayResponse(0.2), Api.METADATA))
    kafka_proxy.add(Rule(refuse(COORDINATOR_NOT_AVAILABLE), Api.FIND_COORDINATOR, times=None))
    requests = (metadata(), find_coordinator("a"), find_coordinator("b"), metadata())
    with socket.create_connection((HOST, port), 5) as connection:
        for i, request in enumerate(requests):
            write(connection, request, i)
        order = [int.from_bytes(read_frame(connection)[:4], "big") for _ in requests]
    assert order == [0, 1, 2, 3]


def test_after_a_lost_message_its_connection_is_mute(kafka_proxy, port):
    kafka_proxy.add(Rule(DropResponse(), Api.METADATA))
    with socket.create_connection((HOST, port), 5) as connection:
        for i in range(2):
            write(connection, metadata(), i)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert ask(port, metadata()).brokers


def test_which_requests_a_rule_takes(kafka_proxy, port):
    def mine(request):
        return request.decode().coordinator_keys == ["mine"]

    refused = refuse(COORDINATOR_NOT_AVAILABLE)
    others = [
        Rule(refused, Api.END_TXN),
        Rule(refused, client="somebody else"),
        Rule(refused, node=2),
    ]
    rule = Rule(refused, Api.FIND_COORDINATOR, client="streamgauge", nth=2, times=2, when=mine)
    for each in (*others, rule):
        kafka_proxy.add(each)
    codes = []
    for key in ("mine", "other", "mine", "other", "mine", "mine"):
        (found,) = ask(port, find_coordinator(key)).coordinators
        codes.append(found.error_code)
    assert codes == [0, 0, COORDINATOR_NOT_AVAILABLE, 0, COORDINATOR_NOT_AVAILABLE, 0]
    assert rule.n_matched == 4
    assert [each.n_matched for each in others] == [0, 0, 0]
    assert [seen.action is refused for seen in kafka_proxy.seen] == [bool(code) for code in codes]


def test_functions_are_called_before_and_after_the_broker(kafka_proxy, port):
    calls = []
    kafka_proxy.add(Rule(Call(calls.append), Api.METADATA))
    kafka_proxy.add(Rule(CallAfter(calls.append), Api.METADATA, nth=2))
    for _ in range(3):
        assert ask(port, metadata()).brokers
    assert [call.api for call in calls] == [Api.METADATA] * 2


def test_what_a_black_hole_holds_back_comes_through_in_the_end(kafka_proxy, port):
    kafka_proxy.black_hole(1)
    with socket.create_connection((HOST, port), 5) as connection:
        write(connection, metadata())
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        kafka_proxy.heal()
        connection.settimeout(5)
        assert read_frame(connection)


def test_refused_and_broken_connections(kafka_proxy, port):
    with socket.create_connection((HOST, port), 5) as connection:
        assert exchange(connection, metadata())
        kafka_proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            ask(port, metadata())
        # Those that there are stay until they are broken too.
        assert exchange(connection, metadata())
        kafka_proxy.disconnect()
        assert connection.recv(1) == b""
    kafka_proxy.heal()
    assert ask(port, metadata()).brokers


def test_before_a_dead_broker_connections_are_reset():
    with hold_port() as front, hold_port() as nobody:
        route = (front.getsockname()[1], nobody.getsockname()[1])
        with FaultProxy({1: route}), pytest.raises(ConnectionError):
            ask(route[0], metadata())
