"""What is said of topics, and of brokers, that are not what the promises need."""

import time
from contextlib import closing

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from kafka.protocol.broker_version_data import BrokerVersionData

from streamgauge.consumers.broker import BrokerError, Checkpoint, Commit
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.client import make_consumer, make_producer
from streamgauge.consumers.kafka.topics import Admin, plan_topics, written_topics
from streamgauge.stream.records import MONITOR_INPUTS, Output
from tests.support.kafka.apps import app_settings, eventually, make_app, take_over
from tests.support.kafka.rules import Api, ChangeResponse, Rule

REFUSED = 29


@pytest.fixture
def app(kafka, kafka_proxy, kafka_prefix):
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix)
    return make_app(settings, at=kafka.bootstrap)


def check(app):
    with Admin(app) as admin:
        return admin.check()


def configure(kafka, topic, settings):
    """Change a topic's settings, and wait until the broker has heard of it."""
    resources = [ConfigResource("TOPIC", topic)]

    def is_so():
        told = client.describe_configs(resources, config_filter="all")["topic"][topic]
        return all(told[name]["value"] == value for name, value in settings.items())

    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as client:
        client.alter_configs([ConfigResource("TOPIC", topic, settings)])
        eventually(is_so, f"{topic} to have {settings}")


def test_dead_letters_must_take_larger_records_than_kafka_takes_by_default(kafka, app):
    default = {"max.message.bytes": "1048588"}
    with Admin(app) as admin:
        configure(kafka, app.topics.predictions, default)
        assert admin.check() == 1
        configure(kafka, app.topics.dead_letters, default)
        said = f"{app.topics.dead_letters}: max.message.bytes must be 4194304 or more"
        for look in (admin.check, lambda: admin.create(None, None)):
            with pytest.raises(BrokerError, match=said):
                look()


def test_what_is_published_of_old_events_is_as_young_as_its_writing(kafka, app):
    # Else Kafka's retention deletes it as old as its event.
    topic = app.topics.retrain
    before_ms = time.time_ns() // 1_000_000
    with KafkaBroker(app) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        take_over(tasks, 0)
        request = Output("retrain", b"m", b"{}", (), timestamp_ms=5)
        tasks.commit(0, Commit(Checkpoint(), Checkpoint(1, (0, 0), "d", "c"), [request], {}))
        (record,) = broker.fetch(topic, 0, 0, 1)
    assert record.timestamp_ms >= before_ms
    configure(kafka, topic, {"message.timestamp.type": "CreateTime"})
    with pytest.raises(BrokerError, match=f"{topic}: message.timestamp.type must be LogAppendTime"):
        check(app)


def test_topics_of_other_numbers_of_partitions_are_named(kafka, app):
    topics = app.topics
    said = f"partitions must be 2 in every topic, .* are 1 in .*{topics.labels}.*: make all topics"
    with Admin(app) as admin:
        with pytest.raises(BrokerError, match=said):
            admin.create(2, None)
        assert admin.check() == 1
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as client:
        client.create_partitions({topics.predictions: 2})
        eventually(
            lambda: len(client.describe_topics([topics.predictions])[0]["partitions"]) == 2,
            "the second partition",
        )
    said = f"must be 2 in every topic, .* are 1 in .*{topics.labels}.*; 2 in {topics.predictions}:"
    with pytest.raises(BrokerError, match=said):
        check(app)


def test_what_workers_write_is_every_topic_that_nobody_else_writes_to(app):
    topics = app.topics
    of_others = {topics.predictions, topics.labels, topics.status}
    assert {plan.name for plan in plan_topics(app, 1, 1)} - of_others == {*written_topics(app)}


def as_of_3_5(response):
    """Brokers do not tell their version: the client infers it from the requests that they know."""
    known = BrokerVersionData((3, 5)).api_versions
    response.api_keys = [api for api in response.api_keys if api.api_key in known]
    for api in response.api_keys:
        api.max_version = min(api.max_version, known[api.api_key][1])


def test_brokers_that_are_too_old(kafka, kafka_proxy, app):
    assert check(app) == 1
    kafka_proxy.add(Rule(ChangeResponse(as_of_3_5), Api.API_VERSIONS, times=None))
    said = rf"Kafka at {kafka.proxy_bootstrap} is 3\.5; it must be 3\.6 or newer"
    with pytest.raises(BrokerError, match=said):
        check(app)


def without_settings_of(topic):
    def change(response):
        for result in response.results:
            if result.resource_name == topic:
                result.error_code, result.configs = REFUSED, []

    return ChangeResponse(change)


def test_settings_that_cannot_be_seen(kafka_proxy, app):
    topic = app.topics.labels
    kafka_proxy.add(Rule(without_settings_of(topic), Api.DESCRIBE_CONFIGS, times=None))
    with pytest.raises(BrokerError, match=f"settings of {topic} cannot be seen; grant Describe"):
        check(app)


def test_settings_that_cannot_be_seen_for_a_moment(kafka_proxy, app):
    rule = Rule(without_settings_of(app.topics.labels), Api.DESCRIBE_CONFIGS, times=2)
    kafka_proxy.add(rule)
    assert check(app) == 1
    assert rule.happened.is_set()


def with_three_replicas(topic):
    def change(response):
        for told in response.topics:
            for partition in told.partitions if told.name == topic else ():
                partition.replica_nodes = [1, 2, 3]

    return ChangeResponse(change)


def test_three_replicas_of_which_one_alone_may_acknowledge(kafka, kafka_proxy, app):
    topic = app.topics.retrain
    kafka_proxy.add(Rule(with_three_replicas(topic), Api.METADATA, times=None))
    said = f"{topic}: min.insync.replicas must be 2 or more with 3 replicas"
    with pytest.raises(BrokerError, match=said):
        check(app)
    configure(kafka, topic, {"min.insync.replicas": "2"})
    assert check(app) == 1


def test_no_client_has_brokers_make_a_topic(app):
    with closing(make_consumer(app, "test")) as consumer:
        assert not consumer._cluster.metadata_request().allow_auto_topic_creation
    with closing(make_producer(app, "test")) as producer:
        assert not producer._metadata.metadata_request().allow_auto_topic_creation
