"""What is said of topics, and of brokers, that are not what the promises need."""

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource

from consumers.broker import BrokerError
from consumers.kafka_topics import Admin
from tests.kafka.apps import app_settings, eventually, make_app


@pytest.fixture
def app(kafka, kafka_prefix):
    return make_app(app_settings(kafka.bootstrap, kafka_prefix))


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
