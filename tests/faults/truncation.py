"""Whether a worker stops loudly where the state of a partition was deleted, and writes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource
from kafka.errors import PolicyViolationError

from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.topics import STATE_SUFFIX, internal_topic, written_topics
from tests.faults.settings import MODELS, create_topics, partition_of
from tests.faults.stage import HarnessError, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.stage import Stage

EXIT_TIMEOUT_S = 60.0


def check_truncated(stage: Stage) -> list[str]:
    """Have a worker meet a state that was deleted: of a partition, most of it, or all there was.

    The run's own workers have ended. Returns what is wrong, a line each.
    """
    return [
        *_check(stage, 5, lambda admin: _truncate(stage, admin, 5, keep=0), "was deleted"),
        # The first one still stops at partition 5, which comes later than partition 2.
        *_check(stage, 2, lambda admin: _truncate(stage, admin, 2, keep=3), "is not whole"),
        # Nothing of the topic itself shows that it is another one: the journal does.
        *_check(stage, 0, lambda admin: _make_anew(stage, admin), "the journal got to commit"),
    ]


def _check(
    stage: Stage, partition: int, damage: Callable[[KafkaAdminClient], None], complaint: str
) -> Iterator[str]:
    outputs = written_topics(stage.config)
    model = next(name for name in MODELS if partition_of(name.encode()) == partition)
    with stage.broker.producer() as producer:
        for number in range(50):
            producer.send(stage.config.topics.predictions, b"%d" % number, model.encode())
    servers = stage.cluster.bootstrap.split(",")
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        damage(admin)
    reader = RangeReader(stage.config, "truncation")
    try:
        before = {topic: reader.bounds(topic, partition)[1] for topic in outputs}
        name = f"truncated-{partition}"
        since = time.time()
        stage.workers.start(name)
        stage.workers.forget(name)
        try:
            ended = wait_for(
                f"the end of {name}",
                lambda: [e for e in stage.workers.exits if e.worker == name and e.time > since],
                EXIT_TIMEOUT_S,
            )[0]
        except HarnessError as error:
            yield f"truncated changelog: {error}"
            return
        last = stage.workers.log_of(name).strip().splitlines()[-1]
        if ended.status != 1 or complaint not in last or not last.startswith("error: "):
            yield f"truncated changelog: status {ended.status}, {last!r}"
        after = {topic: reader.bounds(topic, partition)[1] for topic in outputs}
        if after != before:
            yield f"truncated changelog: something was written: {before} before, {after} after"
    finally:
        reader.close()


def _truncate(stage: Stage, admin: KafkaAdminClient, partition: int, *, keep: int) -> None:
    """Delete all but so many records of a partition's state."""
    state = internal_topic(stage.config, STATE_SUFFIX)
    offset = stage.end_of_state(partition) - keep
    # Kafka itself deletes nothing of a topic that is compacted only.
    admin.alter_configs([ConfigResource("TOPIC", state, {"cleanup.policy": "delete"})])
    wait_for("records deleted", lambda: _delete(admin, state, partition, offset), 30)
    admin.alter_configs([ConfigResource("TOPIC", state, {"cleanup.policy": "compact"})])


def _make_anew(stage: Stage, admin: KafkaAdminClient) -> None:
    """Delete the state's topic, and make it again as an operator does."""
    state = internal_topic(stage.config, STATE_SUFFIX)
    admin.delete_topics([state])
    wait_for("the topic gone", lambda: state not in admin.list_topics(), 30)
    create_topics(stage.folder / "direct.yaml")


def _delete(admin: KafkaAdminClient, topic: str, partition: int, offset: int) -> bool:
    """Whether the leader has heard of the new policy, and let go of what is before the offset."""
    try:
        admin.delete_records({TopicPartition(topic, partition): offset})
    except PolicyViolationError:
        return False
    return True
