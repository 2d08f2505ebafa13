"""The brokers that other tests stand on."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from tests.support.kafka.cluster import Cluster, ClusterError
from tests.support.kafka.jars import KafkaUnavailableError
from tests.support.kafka.ports import hold_port
from tests.support.kafka.queries import brokers_seen
from tests.support.kafka.security import PASSWORD, Authority
from tests.support.kafka.service import ROOT
from tests.support.kafka.shared import start_or_skip
from tests.support.kafka.wire import HOST, exchange


def create_topic(bootstrap, name, n_partitions=1, replication=-1):
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        options = {"num_partitions": n_partitions, "replication_factor": replication}
        admin.create_topics({name: options}, wait_for_metadata=True)


def send(bootstrap, topic, values, **options):
    """Send one record after another, each acknowledged by all replicas in sync."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)
    try:
        for value in values:
            producer.send(topic, value, partition=0).get(30)
    finally:
        producer.close(5)


def values_of(bootstrap, topic):
    """Every value of partition 0 of a topic, in order."""
    place = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    try:
        consumer.assign([place])
        end = consumer.end_offsets([place])[place]
        values = []
        while consumer.position(place) < end:
            values += [record.value for record in consumer.poll(1000).get(place, ())]
    finally:
        consumer.close()
    return values


def secured_options(cluster, listener, mechanism="SCRAM-SHA-512", **options):
    """What a client of one of the listeners with SASL or TLS is told."""
    security = cluster.security
    certificate, key = security.client
    told = {"bootstrap_servers": cluster.addresses(listener), "security_protocol": listener}
    if "SASL" in listener:
        told["sasl_mechanism"] = mechanism
        told["sasl_plain_username"] = security.user
        told["sasl_plain_password"] = security.password
    if "SSL" in listener:
        told["ssl_cafile"] = str(security.ca)
    if listener == "SSL":
        told |= {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    return told | options


def test_a_record_that_is_sent_comes_back(kafka, kafka_prefix):
    create_topic(kafka.bootstrap, kafka_prefix)
    send(kafka.bootstrap, kafka_prefix, [b"\x00one", b"two"])
    assert values_of(kafka.bootstrap, kafka_prefix) == [b"\x00one", b"two"]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_every_codec_is_there(kafka, kafka_prefix, codec):
    create_topic(kafka.bootstrap, kafka_prefix)
    send(kafka.bootstrap, kafka_prefix, [b"x" * 2000], compression_type=codec)
    assert values_of(kafka.bootstrap, kafka_prefix) == [b"x" * 2000]


def nodes_seen(**options):
    with KafkaAdminClient(bootstrap_timeout_ms=10_000, **options) as admin:
        return [broker["broker_id"] for broker in admin.describe_cluster()["brokers"]]


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        ("SSL", ""),
        ("SASL_SSL", "SCRAM-SHA-512"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SASL_PLAINTEXT", "PLAIN"),
    ],
)
def test_who_knows_the_secret_is_let_in(kafka_secured, listener, mechanism):
    assert nodes_seen(**secured_options(kafka_secured, listener, mechanism)) == [1]


def test_without_a_certificate_of_its_own_a_client_is_refused(kafka_secured):
    context = ssl.create_default_context(cafile=kafka_secured.security.ca)
    with (
        socket.create_connection((HOST, kafka_secured.port(1, "SSL")), 5) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as connection,
        # In TLS 1.3 the client learns of it when it reads.
        pytest.raises(ssl.SSLError, match=r"(?i)certificate"),
    ):
        connection.recv(1)


def test_a_stranger_does_not_trust_the_brokers_certificate(kafka_secured):
    context = ssl.create_default_context(cadata=Authority().certificate.decode())
    with (
        socket.create_connection((HOST, kafka_secured.port(1, "SASL_SSL")), 5) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=HOST)


@pytest.mark.parametrize(("password", "accepted"), [(PASSWORD, True), ("wrong", False)])
def test_a_wrong_password_is_refused(kafka_secured, password, accepted):
    secret = f"\0{kafka_secured.security.user}\0{password}".encode()
    with socket.create_connection((HOST, kafka_secured.port(1, "SASL_PLAINTEXT")), 5) as connection:
        assert exchange(connection, SaslHandshakeRequest[1](mechanism="PLAIN")).error_code == 0
        answer = exchange(connection, SaslAuthenticateRequest[1](auth_bytes=secret))
    assert (answer.error_code == 0) is accepted


@pytest.mark.faults
def test_what_is_acknowledged_outlives_any_one_node(kafka_cluster3, kafka_prefix):
    cluster, topic = kafka_cluster3, kafka_prefix
    create_topic(cluster.bootstrap, topic, n_partitions=1)
    sent = []
    for hurt in (cluster.kill, cluster.pause, cluster.stop_node):
        sent.append(hurt.__name__.encode())
        send(cluster.bootstrap, topic, sent[-1:])
        leader = cluster.leader_of(topic, 0)
        hurt(leader)
        next_leader = cluster.leader_of(topic, 0)
        assert next_leader != leader
        # A client that starts at a paused node waits for it until its time is over.
        assert values_of(f"{HOST}:{cluster.port(next_leader)}", topic) == sent
        cluster.mend()
        cluster.wait_in_sync(topic, 0)


@pytest.mark.faults
def test_a_restarted_node_keeps_its_ports_and_has_its_place_again(kafka_cluster3):
    cluster = kafka_cluster3
    assert cluster.coordinator_of_transaction("any") in cluster.nodes
    assert cluster.coordinator_of_group("any") in cluster.nodes
    before = (cluster.pid(2), cluster.bootstrap)
    cluster.restart(2)
    assert cluster.pid(2) != before[0]
    assert cluster.bootstrap == before[1]
    assert brokers_seen(cluster.port(2)) == {1, 2, 3}


# The service, and what becomes of brokers whose owner dies


def command(folder, *words):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.kafka.cluster",
            *words,
            "--dir",
            str(folder),
            "--port",
            "0",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_the_service_comes_and_goes_and_leaves_no_broker_behind(kafka, kafka_prefix, tmp_path):
    folder = tmp_path / "service"
    bootstrap = command(folder, "start")
    assert command(folder, "start") == bootstrap
    port = int(bootstrap.rpartition(":")[2])
    create_topic(bootstrap, kafka_prefix)
    send(bootstrap, kafka_prefix, [b"one"])

    os.kill(int((folder / "service.lock").read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while brokers_seen(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    bootstrap = command(folder, "start")
    assert values_of(bootstrap, kafka_prefix) == [b"one"]
    command(folder, "stop")
    assert not brokers_seen(int(bootstrap.rpartition(":")[2]))
    assert command(folder, "stop") == f"No Kafka runs in {folder}."


# What goes wrong is said


def test_a_broker_that_does_not_come_up_is_quoted(kafka_secured, tmp_path):
    cluster = Cluster(tmp_path, settings={"num.io.threads": "none"})
    with pytest.raises(ClusterError, match=r"(?s)node 1 .*node-1.log ends with:.*num.io.threads"):
        cluster.start()


def test_a_folder_of_another_cluster_is_refused(kafka_secured, tmp_path):
    (tmp_path / "cluster.json").write_text('{"id": "a", "n_brokers": 3}')
    with pytest.raises(ClusterError, match="has a cluster of 3, not of 1"):
        Cluster(tmp_path).start()


def test_a_port_in_use_is_named(kafka_secured, tmp_path):
    port = kafka_secured.port(1)
    with pytest.raises(ClusterError, match=f"port {port}: Address already in use"):
        Cluster(tmp_path, first_port=port).start()


def test_held_ports_are_given_to_nobody_else():
    held = [hold_port() for _ in range(500)]
    ports = {each.getsockname()[1] for each in held}
    for each in held:
        each.close()
    assert len(ports) == len(held)


class Unavailable:
    def start(self):
        raise KafkaUnavailableError("no Java found")


def test_without_java_tests_are_skipped_except_on_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Java found; or set STREAMGAUGE_KAFKA"):
        start_or_skip(Unavailable())
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI=true, and no Java found"):
        start_or_skip(Unavailable())
