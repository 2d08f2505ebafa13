"""An application of streamgauge on a cluster of the tests, with topics of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kafka.admin import MemberToRemove

from streamgauge.consumers.broker import Checkpoint, Commit
from streamgauge.consumers.config import load_config
from streamgauge.consumers.kafka.topics import Admin
from streamgauge.stream.records import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from streamgauge.consumers.broker import RestoredPartition
    from streamgauge.consumers.config import Config
    from streamgauge.consumers.kafka.assignment import KafkaAssignment

DEADLINE_S = 30.0


def app_settings(bootstrap: str, prefix: str, **broker: Any) -> dict[str, Any]:
    """What a configuration file would say: everything is named after the prefix."""
    names = load_config({}).topics.model_dump()
    kafka = {"kind": "kafka", "bootstrap_servers": bootstrap, "session_timeout": "2s"}
    # Kafka goes by the records' own times, and those of tests are long past.
    kafka["retention"] = {"age": "36500d"}
    return {
        "app": prefix,
        "broker": {**kafka, **broker},
        "topics": {field: f"{prefix}-{name}" for field, name in names.items()},
        "worker": {"batch_max": 10},
    }


def make_app(
    settings: Mapping[str, Any], *, n_partitions: int = 1, at: str | None = None
) -> Config:
    """Make an application's topics; its configuration.

    Args:
        settings: as from `app_settings`.
        n_partitions: of every topic.
        at: brokers to make them at, where a proxy is not to see that.
    """
    config = load_config(settings)
    broker = config.broker.model_copy(update={"bootstrap_servers": at} if at else {})
    with Admin(config.model_copy(update={"broker": broker})) as admin:
        admin.create(n_partitions, 1)
    return config


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """The first true answer of a function."""
    deadline_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return answer


def take_over(tasks: KafkaAssignment, *partitions: int) -> dict[int, RestoredPartition]:
    """Rebalance until partitions are this worker's; what is taken over besides them too."""
    taken_over: dict[int, RestoredPartition] = {}

    def complete() -> bool:
        taken_over.update(tasks.rebalance().restored)
        return taken_over.keys() >= set(partitions)

    eventually(complete, f"taking {partitions} over")
    return taken_over


def a_commit(config: Config, sequence: int, value: bytes) -> Commit:
    """A commit of one metric and one chunk of the same value."""
    output = Output("metrics", b"m", value, (), 5)
    before = Checkpoint(sequence - 1, (0, 0))
    after = Checkpoint(sequence, (0, 0), f"d{sequence}", "c")
    return Commit(before, after, [output], {"chunk": value})


def evict(config: Config) -> None:
    """Throw every member out of the worker group, as for a worker that is suspended for long."""
    with Admin(config) as admin:
        members = admin._client.describe_groups([config.app])[config.app]["members"]
        admin._client.remove_group_members(
            config.app, [MemberToRemove(member_id=member["member_id"]) for member in members]
        )
