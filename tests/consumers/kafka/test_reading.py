"""Reading ranges: short ones in a row cost no more than a long one, and none is missed."""

from __future__ import annotations

from contextlib import closing

import pytest
from kafka import KafkaConsumer

from streamgauge.consumers.kafka import ranges as kafka_ranges
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.ranges import RangeReader
from tests.support.kafka.apps import app_settings, make_app

N = 60


@pytest.fixture
def config(kafka, kafka_prefix):
    return make_app(app_settings(kafka.bootstrap, kafka_prefix))


@pytest.fixture
def broker(config):
    with KafkaBroker(config) as opened:
        write(opened, config, range(N))
        yield opened


@pytest.fixture
def asked(monkeypatch):
    """Adds up what is asked of consumers, by the name of the method."""
    n_calls = {}

    def count(name):
        real, n_calls[name] = getattr(KafkaConsumer, name), 0

        def counted(*arguments, **options):
            n_calls[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(KafkaConsumer, name, counted)

    for name in ("assign", "seek", "poll", "beginning_offsets", "end_offsets"):
        count(name)
    return n_calls


def write(broker, config, numbers):
    with broker.producer() as producer:
        for i in numbers:
            for topic in (config.topics.predictions, config.topics.labels):
                producer.send(topic, b"%d" % i, b"k", (), 1)


def numbers(records):
    return [int(record.value) for record in records]


def test_ranges_that_follow_each_other_are_read_without_going_anywhere(broker, config, asked):
    topics = (config.topics.predictions, config.topics.labels)
    for start in range(0, N, 3):
        for topic in topics:
            fetched = broker.fetch(topic, 0, start, start + 3)
            assert numbers(fetched) == list(range(start, start + 3))
    n_polls = asked.pop("poll")
    assert asked == dict.fromkeys(asked, 2), "once for each topic"
    assert n_polls < N / 3, "what was polled and not wanted yet is kept"


def test_what_was_written_since_is_read(broker, config):
    topic = config.topics.labels
    assert numbers(broker.fetch(topic, 0, 0, N)) == list(range(N))
    write(broker, config, range(N, N + 5))
    assert numbers(broker.fetch(topic, 0, N, N + 5)) == list(range(N, N + 5))


def test_any_other_range_is_gone_to(broker, config, monkeypatch):
    monkeypatch.setattr(kafka_ranges, "_POLL_RECORDS", 7)
    for start, end in ((10, 15), (15, 15), (15, 20), (12, 30), (40, 41), (0, 60), (41, 42)):
        fetched = broker.fetch(config.topics.labels, 0, start, end)
        assert numbers(fetched) == list(range(start, end))


def test_a_read_that_was_broken_off_stands_nowhere(broker, config):
    topic = config.topics.labels
    with closing(RangeReader(config, "test")) as reader:
        broken_off = reader.read(topic, 0, 0, 5)
        assert numbers([next(broken_off)]) == [0]
        broken_off.close()
        assert not reader.stands_at(topic, 0, 5)
        assert numbers(reader.read(topic, 0, 5, 9)) == [5, 6, 7, 8]
        assert reader.stands_at(topic, 0, 9)
        assert numbers(reader.read(topic, 0, 0, 2)) == [0, 1]
