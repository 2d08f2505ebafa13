"""The whole job on a real Kafka: the same findings as on the embedded broker, and the commands."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import STATE_KEY_VARIABLE
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.topics import Admin
from streamgauge.consumers.verify import verify_all
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.harness import (
    RARE_COUNTS,
    STATE_KEY,
    crowded_config,
    differences,
    monitor_worker,
    send,
    totals_of,
    traffic,
    zeros,
)


def names_of(prefix):
    names = load_config({}).topics.model_dump()
    return {field: f"{prefix}-{name}" for field, name in names.items()}


def on_brokers(kafka):
    # Kafka deletes by the records' own times, and those of tests are long past.
    retention = {"age": "36500d"}
    return {"kind": "kafka", "bootstrap_servers": kafka.bootstrap, "retention": retention}


def work_to_the_end(config, broker):
    with broker.join_group(MONITOR_INPUTS) as tasks:
        worker = monitor_worker(config, tasks, state_key=STATE_KEY)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        return totals_of(worker)


@pytest.mark.slow
def test_the_same_input_gives_the_same_outputs_as_on_the_embedded_broker(
    kafka, kafka_prefix, tmp_path
):
    common = {"app": kafka_prefix, "topics": names_of(kafka_prefix), "learner": True}
    on_kafka = crowded_config(
        tmp_path,
        broker=on_brokers(kafka),
        **common,
    )
    embedded = crowded_config(
        tmp_path, broker={"data_dir": str(tmp_path / "embedded"), "partitions": 1}, **common
    )
    sent = [
        one._replace(topic=getattr(embedded.topics, one.topic))
        for one in traffic(seed=3, n_per_model=400)
    ]
    with Admin(on_kafka) as admin:
        admin.create(1, 1)
    totals = []
    for config, kind in ((embedded, EmbeddedBroker), (on_kafka, KafkaBroker)):
        with kind(config) as broker:
            send(broker, sent)
            totals.append(work_to_the_end(config, broker))
            assert [v.problem for v in verify_all(broker, config, STATE_KEY)] == [None]
    assert totals[0] == totals[1]
    assert zeros(totals[0]) <= RARE_COUNTS, "the comparison is worth what is in it"
    assert differences(embedded, on_kafka, journals=False) == []


def run_cli(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-P", "-m", "streamgauge.consumers.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **variables,
    )


@pytest.mark.slow
def test_every_command_takes_kafka(streamgauge, kafka, kafka_prefix, tmp_path, monkeypatch):
    monkeypatch.setenv(STATE_KEY_VARIABLE, "the tests' key")
    config = tmp_path / "config.yaml"
    settings = {"app": kafka_prefix, "topics": names_of(kafka_prefix), "broker": on_brokers(kafka)}
    config.write_text(yaml.safe_dump(settings))

    common = ("-c", str(config), "--kafka", kafka.bootstrap)

    def cli(*arguments, status=0):
        ended = streamgauge(*arguments, *common)
        assert ended.status == status, ended
        return ended.out if status == 0 else ended.err

    assert "streamgauge topics create" in cli("topics", "check", status=1)
    assert "made" in cli("topics", "create", "--partitions", "2", "--replication", "1")
    assert "there already" in cli("topics", "create")
    assert "2 partitions" in cli("topics", "check")
    assert "must be 3" in cli("topics", "create", "--partitions", "3", status=1)
    rows = tmp_path / "rows.csv"
    rows.write_text("x,y\n" + "".join(f"{i % 7},{(i % 7 > 3) ^ (i > 1500)}\n" for i in range(2500)))
    cli("replay", str(rows), "--target", "y", "--model", "m", "--train-rows", "500")
    poison = tmp_path / "poison.jsonl"
    poison.write_text("{\n")
    cli("produce", "--topic", "labels", str(poison))
    summary = tmp_path / "summary.json"
    mlflow = f"sqlite:///{tmp_path}/mlflow.db"
    config.write_text(
        yaml.safe_dump({**yaml.safe_load(config.read_text()), "mlflow": {"tracking_uri": mlflow}})
    )
    # In a process of its own, with a sink as its child.
    ran = run_cli("run", "--until-idle", "--summary", str(summary), *common)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(summary.read_text())
    assert (told["n_outcomes"], told["n_dead_letters"]) == (2000, 1)
    assert len(told["retrain_requests"]) == 1
    tailed = cli("tail", "--topic", "retrain", "--json", "--from-start", "--no-follow")
    assert json.loads(tailed)["id"] == told["retrain_requests"][0]["id"]
    assert sum(line.endswith(" agree") for line in cli("verify").splitlines()) == 2
    listed = " ".join(cli("topics", "list").split())
    assert f"{kafka_prefix}-retrain-requests" in listed
    assert "each transaction's marker takes one" in listed
    assert "times in UTC" not in listed
    # MLflow warns of what it does itself, which is an error in this process.
    charted = run_cli("metrics", "list", "--model", "m", *common)
    assert "performance" in charted.stdout, charted.stderr
    assert yaml.safe_load(cli("config", "show"))["broker"]["kind"] == "kafka"


def test_a_broker_that_is_not_there_is_one_clear_line(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"broker": {"kind": "kafka", "bootstrap_servers": "127.0.0.1:1", "timeout": "1s"}}
        )
    )
    done = run_cli("topics", "list", "-c", str(config))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Kafka at 127.0.0.1:1 did not answer within 1s")
