"""What a take-over makes of a state that is not what was committed last: it stops, and says so."""

import json
import time

import pytest
from kafka import KafkaAdminClient, TopicPartition

from streamgauge.consumers.broker import BrokerError
from streamgauge.consumers.kafka import assignment as kafka_assignment
from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.consumers.kafka.producer import TopicProducer
from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.topics import JOURNAL_SUFFIX, STATE_SUFFIX, Admin, internal_topic
from streamgauge.consumers.kafka.transaction import ProducerRecord, TransactionalWriter
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.kafka.apps import a_commit, app_settings, eventually, make_app, take_over
from tests.support.kafka.bare import committed_values

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def app(kafka, kafka_prefix, monkeypatch):
    monkeypatch.setattr(kafka_assignment, "_OLD_ANSWERS_S", 0.5)
    return make_app(app_settings(kafka.bootstrap, kafka_prefix))


@pytest.fixture
def reader(app):
    reader = RangeReader(app, "test")
    yield reader
    reader.close()


def commit(app, *sequences):
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        take_over(tasks, 0)
        for sequence in sequences:
            tasks.commit(0, a_commit(app, sequence, b"%d" % sequence))


def make_anew(app, kafka):
    """Delete the state's topic, and make it again as an operator does."""
    topic = internal_topic(app, STATE_SUFFIX)
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as client, Admin(app) as admin:
        client.delete_topics([topic])
        eventually(lambda: topic not in client.list_topics(), "the topic to go")
        assert admin.create(None, None) == [topic]


def check_refused(app, kafka, match, n_committed):
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks, pytest.raises(BrokerError, match=match):
        take_over(tasks, 0)
    values = committed_values(kafka.bootstrap, app.topics.metrics)
    assert values == [b"%d" % n for n in range(1, n_committed + 1)]


def test_a_topic_that_was_made_anew(kafka, app):
    commit(app, 1, 2)
    make_anew(app, kafka)
    since_s = time.monotonic()
    check_refused(app, kafka, "with commit 0, .* got to commit 2 at least: .* was deleted", 2)
    assert time.monotonic() - since_s >= 0.5


def test_a_topic_that_was_made_anew_after_the_journal_has_expired(kafka, app, reader):
    commit(app, 1, 2)
    journal = internal_topic(app, JOURNAL_SUFFIX)
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as client:
        client.delete_records({TopicPartition(journal, 0): reader.bounds(journal, 0)[1]})
    commit(app)
    make_anew(app, kafka)
    check_refused(app, kafka, "with commit 0, .* got to commit 1 at least: .* was deleted", 2)


def test_a_copy_that_is_older_than_the_last_commit(kafka, app, reader):
    commit(app, 1)
    topic = internal_topic(app, STATE_SUFFIX)
    copied = list(reader.read(topic, 0, *reader.bounds(topic, 0)))
    commit(app, 2)
    make_anew(app, kafka)
    with TopicProducer(app, frozenset([topic])) as producer:
        for record in copied:
            producer.send(topic, record.value, record.key, record.headers)
    check_refused(app, kafka, "with commit 1, .* got to commit 2 at least: .* was deleted", 2)


def test_the_last_commit_is_found_behind_much_that_was_aborted(app, reader):
    journal = internal_topic(app, JOURNAL_SUFFIX)

    def abort(n_records):
        writer = TransactionalWriter(app, 0)
        writer._begin()
        writer._resolve(writer._send([ProducerRecord(journal, None, b"aborted")] * n_records))
        writer.abandon()

    abort(50)
    commit(app, 1)
    abort(50)
    commit(app, 2)
    abort(50)
    commit(app)
    assert reader.bounds(journal, 0)[1] > 150
    entry = json.loads(reader.last(journal, 0).value)
    assert entry["sequence"] == 2
