"""What a take-over makes of a broker that does not know that it leads a partition no more.

One that was suspended while others took its partitions over may answer the first requests after
that as before: for an end offset, with one that lies before what was committed meanwhile.
"""

import re
import time

import pytest

from streamgauge.consumers.broker import FencedError
from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.consumers.kafka.topics import JOURNAL_SUFFIX, STATE_SUFFIX, internal_topic
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.kafka.apps import a_commit, app_settings, make_app, take_over
from tests.support.kafka.bare import committed_values
from tests.support.kafka.rules import Api, ChangeResponse, Rule

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def no_further_than(ends):
    def change(response):
        for answer in response.topics:
            for partition in answer.partitions if answer.name in ends else ():
                partition.offset = min(partition.offset, ends[answer.name])

    return ChangeResponse(change)


def committed_twice(kafka, prefix):
    """An app of two commits; where its state and its journal ended after the first one."""
    app = make_app(app_settings(kafka.proxy_bootstrap, prefix), at=kafka.bootstrap)
    topics = [internal_topic(app, suffix) for suffix in (STATE_SUFFIX, JOURNAL_SUFFIX)]
    with KafkaAssignment(app, MONITOR_INPUTS) as first:
        take_over(first, 0)
        first.commit(0, a_commit(app, 1, b"1"))
        ends = {topic: first._reader.bounds(topic, 0)[1] for topic in topics}
        first.commit(0, a_commit(app, 2, b"2"))
    return app, ends


def test_what_was_committed_after_the_end_that_was_read_is_not_written_again(
    kafka, kafka_proxy, kafka_prefix
):
    app, ends = committed_twice(kafka, kafka_prefix)
    kafka_proxy.add(Rule(no_further_than(ends), Api.LIST_OFFSETS, times=None))
    with KafkaAssignment(app, MONITOR_INPUTS) as second:
        assert take_over(second, 0)[0].checkpoint.sequence == 1
        with pytest.raises(FencedError, match="was read to offset"):
            second.commit(0, a_commit(app, 2, b"2 again"))
        kafka_proxy.clear()
        assert take_over(second, 0)[0].checkpoint.sequence == 2
        second.commit(0, a_commit(app, 3, b"3"))
    assert committed_values(kafka.bootstrap, app.topics.metrics) == [b"1", b"2", b"3"]


def test_an_old_end_of_the_state_alone_is_asked_for_again(kafka, kafka_proxy, kafka_prefix, caplog):
    app, ends = committed_twice(kafka, kafka_prefix)
    del ends[internal_topic(app, JOURNAL_SUFFIX)]
    kafka_proxy.add(Rule(no_further_than(ends), Api.LIST_OFFSETS, times=None))
    said = "not taken over yet: .* ends with commit 1, and the journal got to commit 2"
    with KafkaAssignment(app, MONITOR_INPUTS) as second:
        while not re.search(said, caplog.text):
            assert second.rebalance().restored == {}
            time.sleep(0.02)
        kafka_proxy.clear()
        assert take_over(second, 0)[0].checkpoint.sequence == 2
