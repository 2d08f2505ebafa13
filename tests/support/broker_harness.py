"""Brokers for tests that every broker has to pass.

A broker joins by a harness: the settings of an empty log with two partitions, how to make a
worker lose its partitions behind its back, and whether several workers share the partitions.
"""

import shutil
import threading
import time
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import MemberToRemove

from streamgauge.consumers.config import load_config
from streamgauge.consumers.kafka.topics import Admin

N_PARTITIONS = 2


class EmbeddedHarness:
    workers_share = False

    def __init__(self, request):
        folder = request.getfixturevalue("tmp_path") / "broker"
        self.settings = {
            "broker": {"data_dir": str(folder), "partitions": N_PARTITIONS},
            "worker": {"batch_max": 4},
        }

    def expire(self, broker, topic):
        broker.apply_retention(time.time_ns() // 1_000_000 + 8 * 86_400_000)

    def go_on(self, tasks):
        """It never stopped."""

    def lose_partitions(self, tasks):
        """What a mistaken clean-up does: the locks are free while their holders live."""
        shutil.rmtree(Path(self.settings["broker"]["data_dir"]) / "locks")


class KafkaHarness:
    workers_share = True

    def __init__(self, request):
        prefix = request.getfixturevalue("kafka_prefix")
        names = load_config({}).topics.model_dump()
        # To be told that another is at work takes the sum of both: long enough to see its death.
        is_long = request.node.get_closest_marker("long_session")
        session, timeout = ("8s", "4s") if is_long else ("2s", "10s")
        self.settings = {
            "app": prefix,
            "broker": {
                "kind": "kafka",
                "bootstrap_servers": request.getfixturevalue("kafka").bootstrap,
                "session_timeout": session,
                "timeout": timeout,
                # Kafka goes by the records' own times, and those of tests are long past.
                "retention": {"age": "36500d"},
            },
            "topics": {field: f"{prefix}-{name}" for field, name in names.items()},
            "worker": {"batch_max": 4},
        }
        with Admin(load_config(self.settings)) as admin:
            admin.create(N_PARTITIONS, 1)

    def expire(self, broker, topic):
        places = [TopicPartition(topic, partition) for partition in range(N_PARTITIONS)]
        with Admin(load_config(self.settings)) as admin:
            # -1 is the end.
            admin._client.delete_records(dict.fromkeys(places, -1))

    def go_on(self, tasks):
        """A suspended worker goes on."""
        tasks._membership._closing.clear()
        threading.Thread(target=tasks._membership._follow, daemon=True).start()

    def lose_partitions(self, tasks):
        """What happens to a worker that is suspended for long: the group goes on without it."""
        tasks._membership._closing.set()
        tasks._membership._thread.join()
        with Admin(load_config(self.settings)) as admin:
            group = self.settings["app"]
            members = admin._client.describe_groups([group])[group]["members"]
            admin._client.remove_group_members(
                group, [MemberToRemove(member_id=m["member_id"]) for m in members]
            )


HARNESSES = [
    pytest.param(EmbeddedHarness, id="embedded"),
    pytest.param(
        KafkaHarness, id="kafka", marks=pytest.mark.filterwarnings("ignore::ResourceWarning")
    ),
]
