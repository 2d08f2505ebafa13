"""What a run of the harness watches: its topics, its models, and how it cuts its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from kafka.partitioner.default import murmur2

from streamgauge.consumers.config import load_config

if TYPE_CHECKING:
    from streamgauge.consumers.config import Config

ROOT = Path(__file__).resolve().parents[2]
N_PARTITIONS = 6
MODELS_PER_PARTITION = 4
SESSION_S = 4.0
STATE_KEY = "the harness's key"
# Most of a run's chunks have from 600 to 1,400 bytes.
PART_BYTES = (200, 300, 500)


def partition_of(key: bytes) -> int:
    """Where Kafka's default partitioner puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % N_PARTITIONS


def model_names() -> list[str]:
    """As many models on each partition as on any other, the partitions in turn."""
    found: dict[int, list[str]] = {p: [] for p in range(N_PARTITIONS)}
    number = 0
    while any(len(names) < MODELS_PER_PARTITION for names in found.values()):
        name = f"model-{number}"
        names = found[partition_of(name.encode())]
        if len(names) < MODELS_PER_PARTITION:
            names.append(name)
        number += 1
    return [found[p][i] for i in range(MODELS_PER_PARTITION) for p in range(N_PARTITIONS)]


MODELS = model_names()
# They ask after every few outcomes, so that nearly every commit has a request to lose or repeat.
PERIODIC = MODELS[: 3 * N_PARTITIONS]
# One has a learner, whose state is sealed, and features to learn from.
LEARNING = MODELS[-1]
LEARNER = {"path": "river.linear_model.LogisticRegression"}


def make_config(app: str, bootstrap: str) -> Config:
    """The configuration of one run; nothing of it is shared with any other run."""
    names = load_config({}).topics.model_dump()
    often = {"policy": {"period": {"outcomes": 5}, "min_labels": 5, "cool_down": 5}}
    return load_config(
        {
            "app": app,
            "broker": {
                "kind": "kafka",
                "bootstrap_servers": bootstrap,
                "session_timeout": f"{SESSION_S:g}s",
            },
            "topics": {field: f"{app}-{name}" for field, name in names.items()},
            "worker": {"batch_max": 40},
            "defaults": {
                "detectors": {
                    "page_hinkley": {
                        "kind": "PageHinkley",
                        "params": {"min_instances": 15, "threshold": 5.0},
                    }
                },
                "metrics": {"every": 5, "window": 20},
                "policy": {"min_labels": 20, "cool_down": 25},
                "join": {"pending_max": 400, "early_max": 100, "joined_max": 400},
            },
            "models": {**dict.fromkeys(PERIODIC, often), LEARNING: {"learner": LEARNER}},
        }
    )


def write_config(config: Config, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return path


def create_topics(path: Path) -> None:
    """`streamgauge topics create`, as an operator runs it."""
    command = [sys.executable, "-P", "-m", "streamgauge.consumers.cli", "topics", "create"]
    options = ["--partitions", str(N_PARTITIONS), "--replication", "3", "-c", str(path)]
    subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
