"""What a take-over makes of a broker that does not know that it leads a partition no more.

One that was suspended while others took its partitions over may answer the first requests after
that as before: for an end offset, with one that lies before what was committed meanwhile.
"""

import pytest

from consumers.broker import FencedError
from consumers.kafka_tasks import KafkaTasks
from consumers.kafka_topics import STATE_SUFFIX, own_topic
from tests.kafka.apps import a_commit, app_settings, make_app, take_over
from tests.kafka.bare import committed_values
from tests.kafka.rules import Api, ChangeResponse, Rule

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def no_further_than(offset, topic):
    def change(response):
        for answer in response.topics:
            for partition in answer.partitions if answer.name == topic else ():
                partition.offset = min(partition.offset, offset)

    return ChangeResponse(change)


def test_what_was_committed_after_the_end_that_was_read_is_not_written_again(
    kafka, kafka_proxy, kafka_prefix
):
    app = make_app(app_settings(kafka.proxy_bootstrap, kafka_prefix), at=kafka.bootstrap)
    state = own_topic(app, STATE_SUFFIX)
    with KafkaTasks(app) as first:
        take_over(first, 0)
        first.commit(0, a_commit(app, 1, b"1"))
        _, end = first._reader.bounds(state, 0)
        first.commit(0, a_commit(app, 2, b"2"))

    kafka_proxy.add(Rule(no_further_than(end, state), Api.LIST_OFFSETS, times=None))
    with KafkaTasks(app) as second:
        assert take_over(second, 0)[0].position.sequence == 1
        with pytest.raises(FencedError, match="was read to offset"):
            second.commit(0, a_commit(app, 2, b"2 again"))
        kafka_proxy.clear()
        assert take_over(second, 0)[0].position.sequence == 2
        second.commit(0, a_commit(app, 3, b"3"))
    assert committed_values(kafka.bootstrap, app.topics.metrics) == [b"1", b"2", b"3"]
