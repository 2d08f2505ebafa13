"""What one broker knows of the cluster now: None, or nothing, while it cannot say."""

from __future__ import annotations

from typing import Any

from kafka.protocol.metadata import CoordinatorType, FindCoordinatorRequest, MetadataRequest

from tests.support.kafka.wire import ask


def brokers_seen(port: int) -> frozenset[int]:
    """The ids of the brokers that it would send a client to."""
    try:
        answer = ask(port, MetadataRequest[12](topics=[]))
    except OSError:
        return frozenset()
    return frozenset(broker.node_id for broker in answer.brokers)


def partition_seen(port: int, topic: str, partition: int) -> Any:
    """A partition with its `leader_id`, `replica_nodes` and `isr_nodes`."""
    wanted = MetadataRequest.MetadataRequestTopic(name=topic)
    request = MetadataRequest[12](topics=[wanted], allow_auto_topic_creation=False)
    try:
        (found,) = ask(port, request).topics
    except OSError:
        return None
    return next((p for p in found.partitions if p.partition_index == partition), None)


def coordinator_seen(port: int, kind: CoordinatorType, key: str) -> int | None:
    """The node that coordinates a group or a transactional id."""
    request = FindCoordinatorRequest[4](key_type=kind.value, coordinator_keys=[key])
    try:
        (found,) = ask(port, request).coordinators
    except OSError:
        return None
    return None if found.error_code else found.node_id
