"""Kafka's client without anything of ours: to show its defects, and to see what is on a topic."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kafka import KafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DEADLINE_S = 20.0


def mended(defect: str, then: str) -> str:
    """Why a test that shows a defect of the client fails: the defect is gone.

    Args:
        defect: its name in the design.
        then: what of ours can be made simpler.
    """
    return f"kafka-python has mended {defect}, and this message is good news: {then}"


@contextmanager
def consuming(bootstrap: str, **options: Any) -> Iterator[KafkaConsumer]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, **options)
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False)


def committed_values(bootstrap: str, topic: str) -> list[bytes]:
    """Every committed value of partition 0 of a topic, in order; waits for open transactions."""
    place = TopicPartition(topic, 0)
    with consuming(bootstrap) as consumer:
        # Of records that are not committed too.
        end = consumer.end_offsets([place])[place]
    with consuming(bootstrap, isolation_level="read_committed") as consumer:
        consumer.assign([place])
        consumer.seek(place, 0)
        values: list[bytes] = []
        deadline_s = time.monotonic() + DEADLINE_S
        while consumer.position(place) < end:
            assert time.monotonic() < deadline_s, "a transaction hangs"
            values += [record.value for record in consumer.poll(200).get(place, ())]
    return values
