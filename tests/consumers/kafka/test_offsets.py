"""Asking for offsets where the client does not know every partition's leader."""

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from streamgauge.consumers.config import load_config
from streamgauge.consumers.kafka.ranges import RangeReader, ask_offsets
from tests.consumers.kafka.test_cluster import create_topic, send

WHERE = TopicPartition("t", 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_of_topics_that_the_client_has_not_heard_of(kafka, kafka_prefix):
    names = [f"{kafka_prefix}-{letter}" for letter in "ab"]
    for name in names:
        create_topic(kafka.bootstrap, name)
        send(kafka.bootstrap, name, [b"one"])
    settings = {"kind": "kafka", "bootstrap_servers": kafka.bootstrap}
    reader = RangeReader(load_config({"broker": settings}), "test")
    try:
        one, other = (TopicPartition(name, 0) for name in names)
        assert reader.committed_ends([one]) == {one: 1}
        assert reader.committed_ends([one, other]) == {one: 1, other: 1}
    finally:
        reader.close()


def answers(*given):
    left = list(given)

    def ask(partitions, timeout_ms):
        answer = left.pop(0) if len(left) > 1 else left[0]
        return {where: answer[where] for where in partitions}

    return ask


def test_a_partition_without_a_leader_is_asked_about_again():
    assert ask_offsets(answers({}, {}, {WHERE: 7}), [WHERE], 10_000) == {WHERE: 7}


def test_a_partition_that_gets_no_leader_is_a_time_out():
    with pytest.raises(KafkaTimeoutError, match="no leader"):
        ask_offsets(answers({}), [WHERE], 100)
