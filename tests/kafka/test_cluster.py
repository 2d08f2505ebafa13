"""The brokers that other tests stand on."""

from __future__ import annotations

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition


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


def test_a_record_that_is_sent_comes_back(kafka, kafka_prefix):
    create_topic(kafka.bootstrap, kafka_prefix)
    send(kafka.bootstrap, kafka_prefix, [b"\x00one", b"two"])
    assert values_of(kafka.bootstrap, kafka_prefix) == [b"\x00one", b"two"]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_every_codec_is_there(kafka, kafka_prefix, codec):
    create_topic(kafka.bootstrap, kafka_prefix)
    send(kafka.bootstrap, kafka_prefix, [b"x" * 2000], compression_type=codec)
    assert values_of(kafka.bootstrap, kafka_prefix) == [b"x" * 2000]


def secured_options(kafka, listener, **options):
    """What a client of one of the listeners with SASL or TLS is told."""
    security = kafka.security
    certificate, key = security.client
    sasl = {
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": security.user,
        "sasl_plain_password": security.password,
    }
    tls = {"ssl_cafile": str(security.ca)}
    mutual = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    return {
        "bootstrap_servers": kafka.addresses(listener),
        "security_protocol": listener,
        **(sasl if "SASL" in listener else {}),
        **(tls if "SSL" in listener else {}),
        **(mutual if listener == "SSL" else {}),
        **options,
    }
