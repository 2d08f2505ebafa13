"""The topics on Kafka: made with the settings that the promises need, and checked for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from kafka.errors import TopicAlreadyExistsError

from streamgauge.consumers.broker import BrokerError
from streamgauge.consumers.kafka.client import client_options, kafka_settings
from streamgauge.consumers.kafka.errors import translate_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamgauge.consumers.config import Config

STATE_SUFFIX = "state"
JOURNAL_SUFFIX = "journal"
VERSION_MIN = (3, 6)

_TIMESTAMP_TYPE = "message.timestamp.type"
_REPLICATION_WANTED = 3
_IN_SYNC_MIN = 2
_HEARD_OF_S, _ASK_AGAIN_S = 2.0, 0.05
# A dead letter holds a record of the input, which may be as large as the brokers take it.
_RECORD_BYTES_MAX = 4 << 20
_RECORD_BYTES_MIN = 1_000_000


def internal_topic(config: Config, suffix: str) -> str:
    """Return the name of a topic that only workers read: their state and their journal."""
    return f"{config.app}-{suffix}"


class TopicPlan(NamedTuple):
    """A topic as it should be."""

    name: str
    n_partitions: int
    replication: int
    configs: dict[str, str]


def plan_topics(config: Config, n_partitions: int, replication: int) -> list[TopicPlan]:
    """Every topic, with the settings that it is made with."""
    retention = kafka_settings(config).retention
    common = {
        "max.message.bytes": str(_RECORD_BYTES_MAX),
        "min.insync.replicas": str(min(_IN_SYNC_MIN, replication)),
        "unclean.leader.election.enable": "false",
    }
    kept = {
        **common,
        "cleanup.policy": "delete",
        "retention.ms": str(retention.age),
        "retention.bytes": str(max(1, retention.size_mb * 1_000_000 // n_partitions)),
    }
    # Event time can be long ago, and Kafka would delete by it what was published a moment ago.
    published = {**kept, _TIMESTAMP_TYPE: "LogAppendTime"}
    compacted = {
        **common,
        "cleanup.policy": "compact",
        # Small segments and a low ratio: a take-over reads what is not yet compacted as well.
        "segment.bytes": str(32 << 20),
        "min.cleanable.dirty.ratio": "0.2",
        "max.compaction.lag.ms": "600000",
    }
    configs = {
        **dict.fromkeys(config.topics.names().values(), kept),
        **dict.fromkeys(_published(config), published),
        internal_topic(config, STATE_SUFFIX): compacted,
    }
    return [TopicPlan(name, n_partitions, replication, c) for name, c in configs.items()]


def _published(config: Config) -> list[str]:
    """Return the topics that only workers write to, but for their state."""
    topics = config.topics
    outputs = [topics.metrics, topics.alarms, topics.retrain, topics.dead_letters]
    return [*outputs, internal_topic(config, JOURNAL_SUFFIX)]


def written_topics(config: Config) -> list[str]:
    """All topics that only workers write to."""
    return [*_published(config), internal_topic(config, STATE_SUFFIX)]


class Admin:
    """Makes and checks topics; a context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        with translate_errors(config):
            self._client = KafkaAdminClient(**client_options(config, "admin"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def n_brokers(self) -> int:
        with translate_errors(self._config):
            return len(self._client.describe_cluster()["brokers"])

    def create(self, n_partitions: int | None, replication: int | None) -> list[str]:
        """Make the topics that are missing; their names.

        Args:
            n_partitions: of every topic; where None, as many as topics that exist have, else as
                the configuration says.
            replication: of every topic; where None as the configuration says, else 3, or the
                number of brokers where that is smaller.

        Raises:
            BrokerError: a topic exists with settings that would break a promise; nothing is made.
        """
        settings = kafka_settings(self._config)
        n_brokers = self.n_brokers()
        replication = replication or settings.replication or min(_REPLICATION_WANTED, n_brokers)
        existing = self._existing()
        counts = [len(topic["partitions"]) for topic in existing.values()]
        n_partitions = n_partitions or (max(counts) if counts else settings.partitions)
        plans = plan_topics(self._config, n_partitions, replication)
        problems = list(self._problems(existing, n_partitions))
        if problems:
            raise BrokerError("; ".join(problems))
        missing = [plan for plan in plans if plan.name not in existing]
        if missing:
            self._make(missing)
        return [plan.name for plan in missing]

    def check(self) -> int:
        """Check that all topics are there and right; return how many partitions each has.

        Raises:
            BrokerError: what is wrong, and what to do.
        """
        wanted = [plan.name for plan in plan_topics(self._config, 1, 1)]
        existing = self._existing()
        # The broker that is asked may not have heard of topics that were made just now.
        deadline_s = time.monotonic() + _HEARD_OF_S
        while missing := [name for name in wanted if name not in existing]:
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"Kafka has no topic {', '.join(missing)}; "
                    "`streamgauge topics create` makes them"
                )
            time.sleep(_ASK_AGAIN_S)
            existing = self._existing()
        n_partitions = max(len(topic["partitions"]) for topic in existing.values())
        problems = list(self._problems(existing, n_partitions))
        if problems:
            raise BrokerError("; ".join(problems))
        return n_partitions

    def members(self, group: str) -> list[str]:
        """Return who is in a consumer group."""
        with translate_errors(self._config):
            described = self._client.describe_groups([group])[group]
        return [
            f"process {m['client_id'].rpartition('-')[2]} on {m['client_host'].strip('/')}"
            for m in described["members"]
        ]

    def _existing(self) -> dict[str, dict[str, Any]]:
        wanted = {plan.name for plan in plan_topics(self._config, 1, 1)}
        with translate_errors(self._config):
            names = sorted(wanted.intersection(self._client.list_topics()))
            described = self._client.describe_topics(names) if names else []
        return {topic["name"]: topic for topic in described}

    def _make(self, plans: list[TopicPlan]) -> None:
        wanted = {
            plan.name: {
                "num_partitions": plan.n_partitions,
                "replication_factor": plan.replication,
                "configs": plan.configs,
            }
            for plan in plans
        }
        with translate_errors(self._config):
            try:
                self._client.create_topics(wanted)
            except TopicAlreadyExistsError:
                # Another process has made them at the same time; what matters is how they are.
                self.check()
            self._client.wait_for_topics(list(wanted))

    def _problems(self, existing: Mapping[str, dict[str, Any]], n_partitions: int) -> Iterator[str]:
        """Yield what is wrong with brokers and topics that exist, each with the fix."""
        yield from self._version_problem()
        counts: dict[int, list[str]] = {}
        for name, topic in existing.items():
            counts.setdefault(len(topic["partitions"]), []).append(name)
        if counts.keys() - {n_partitions}:
            told = "; ".join(f"{n} in {', '.join(names)}" for n, names in sorted(counts.items()))
            yield (
                f"partitions must be {n_partitions} in every topic, since a model's records have "
                f"the same one in all of them, and are {told}: make all topics with the same number"
            )
        if not existing:
            return
        configs = self._configs(list(existing))
        state = internal_topic(self._config, STATE_SUFFIX)
        letters = self._config.topics.dead_letters
        for name, config in configs.items():
            record_bytes = _RECORD_BYTES_MAX if name == letters else _RECORD_BYTES_MIN
            yield from _setting_problems(name, config, record_bytes, is_state=name == state)
            yield from _replica_problems(name, config, existing[name]["partitions"])
            if name in _published(self._config) and config[_TIMESTAMP_TYPE] != "LogAppendTime":
                yield (
                    f"{name}: {_TIMESTAMP_TYPE} must be LogAppendTime, or what is published of old"
                    " events is deleted at once"
                )

    def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Return the settings of each topic.

        The client gives none where the broker refuses, or has not heard of a topic that was made
        just now, which does not take long.
        """
        resources = [ConfigResource("TOPIC", name) for name in names]
        deadline_s = time.monotonic() + _HEARD_OF_S
        while True:
            with translate_errors(self._config):
                described = self._client.describe_configs(resources, config_filter="all")["topic"]
            unseen = [name for name in names if not described.get(name)]
            if not unseen:
                return {
                    name: {key: item["value"] for key, item in entries.items()}
                    for name, entries in described.items()
                }
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"the settings of {', '.join(unseen)} cannot be seen; grant DescribeConfigs on "
                    "them to our user, or, where they were made just now, try again"
                )
            time.sleep(_ASK_AGAIN_S)

    def _version_problem(self) -> Iterator[str]:
        # As the broker says that answers us; there is no public way to ask without asking them all.
        version = self._client._manager.broker_version  # noqa: SLF001
        if version < VERSION_MIN:
            wanted, found = (".".join(map(str, v)) for v in (VERSION_MIN, version))
            where = kafka_settings(self._config).bootstrap_servers
            yield f"Kafka at {where} is {found}; it must be {wanted} or newer: upgrade the brokers"


def _setting_problems(
    name: str, config: Mapping[str, str], record_bytes: int, *, is_state: bool
) -> Iterator[str]:
    policies = set(config["cleanup.policy"].split(","))
    if is_state and policies != {"compact"}:
        yield f"{name}: cleanup.policy must be compact alone, or state is deleted by age"
    if not is_state and "compact" in policies:
        yield f"{name}: cleanup.policy must be delete, or records of a model replace each other"
    if int(config["max.message.bytes"]) < record_bytes:
        yield f"{name}: max.message.bytes must be {record_bytes} or more, or records are refused"
    if config["unclean.leader.election.enable"] == "true":
        yield f"{name}: unclean.leader.election.enable must be false, or committed records are lost"


def _replica_problems(
    name: str, config: Mapping[str, str], partitions: list[dict[str, Any]]
) -> Iterator[str]:
    n_replicas = max(len(partition["replica_nodes"]) for partition in partitions)
    n_in_sync = int(config["min.insync.replicas"])
    if n_replicas >= _REPLICATION_WANTED and n_in_sync < _IN_SYNC_MIN:
        yield (
            f"{name}: min.insync.replicas must be {_IN_SYNC_MIN} or more with {n_replicas} "
            f"replicas, or what one broker alone has acknowledged is lost with it"
        )
