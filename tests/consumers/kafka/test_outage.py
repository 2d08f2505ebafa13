"""Kafka goes away under a worker: it says so once, and can be told to stop."""

from __future__ import annotations

import logging
import sys
import time

import pytest
import yaml

from streamgauge.consumers.broker import BrokerTimeoutError
from streamgauge.consumers.config import load_config
from streamgauge.consumers.kafka import assignment as kafka_assignment
from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.consumers.kafka.client import any_reachable
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.kafka.apps import app_settings, eventually, make_app, take_over
from tests.support.processes import killed_at_last

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TIMEOUT_S = 2
# Beyond the time-out, for one request to be given up.
STOP_S = 8
# A stop takes 7 to 8 s of it, whatever `broker.timeout` says.
TOLD_TO_STOP_S = 30
PATIENT = "90s"


def turn(tasks):
    """What a worker that has nothing to do does over and over."""
    tasks.rebalance()
    tasks.poll(0.1)


def stop(proxy):
    proxy.refuse(1)
    proxy.disconnect(1)


def hang(proxy):
    proxy.black_hole(1)


@pytest.mark.slow
@pytest.mark.parametrize("go_away", [stop, hang])
def test_an_outage_is_told_once_and_its_end_as_well(
    kafka, kafka_proxy, kafka_prefix, caplog, monkeypatch, go_away
):
    monkeypatch.setattr(kafka_assignment, "_SILENT_S", 0.5)
    caplog.set_level(logging.INFO, "streamgauge.consumers")
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix, timeout=f"{TIMEOUT_S}s")
    app = make_app(settings, at=kafka.bootstrap)

    def told():
        return [text.removeprefix(f"Kafka at {kafka.proxy_bootstrap} ") for text in caplog.messages]

    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        take_over(tasks, 0)
        go_away(kafka_proxy)
        eventually(lambda: turn(tasks) or "does not answer; waiting" in told(), "being told")
        for _ in range(20):
            turn(tasks)
        assert told().count("does not answer; waiting") == 1
        assert "answers again" not in told()
        kafka_proxy.heal(1)
        eventually(lambda: turn(tasks) or "answers again" in told(), "the end of the outage")
        go_away(kafka_proxy)
        eventually(lambda: turn(tasks) or told().count("does not answer; waiting") == 2, "the next")
        began_s = time.monotonic()
    assert time.monotonic() - began_s < TIMEOUT_S + STOP_S


@pytest.mark.parametrize("go_away", [stop, hang])
def test_nothing_is_taken_over_while_nothing_answers(
    kafka, kafka_proxy, kafka_prefix, monkeypatch, go_away
):
    monkeypatch.setattr(kafka_assignment, "_SILENT_S", 0.5)
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix, timeout="20s")
    app = make_app(settings, at=kafka.bootstrap)
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        take_over(tasks, 0)
        go_away(kafka_proxy)
        eventually(lambda: turn(tasks) or tasks._silence_told, "the silence")
        tasks.release(0)
        began_s = time.monotonic()
        turn(tasks)
        # An attempt would take five seconds.
        assert time.monotonic() - began_s < 4
        kafka_proxy.heal(1)
        assert take_over(tasks, 0).keys() == {0}


def test_brokers_that_were_found_are_asked_as_well(kafka):
    # Nothing listens on port 1.
    config = load_config({"broker": {"kind": "kafka", "bootstrap_servers": "127.0.0.1:1"}})
    assert not any_reachable(config, [], 1)
    assert any_reachable(config, [kafka.bootstrap], 5)


@pytest.mark.slow
@pytest.mark.parametrize("go_away", [stop, hang])
def test_who_is_told_to_stop_does_not_wait_for_kafka(
    kafka, kafka_proxy, kafka_prefix, tmp_path, go_away
):
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix, timeout=PATIENT)
    app = make_app(settings, at=kafka.bootstrap)
    config, summary = tmp_path / "config.yaml", tmp_path / "summary.json"
    log = tmp_path / "log"
    mlflow = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    config.write_text(yaml.safe_dump({**app.model_dump(mode="json"), "mlflow": mlflow}))
    command = [sys.executable, "-P", "-m", "streamgauge.consumers.cli", "run", "-c", str(config)]
    with (
        log.open("w") as file,
        killed_at_last([*command, "--summary", str(summary)], stderr=file) as process,
    ):
        eventually(lambda: "partition 0: at commit" in log.read_text(), "the take-over")
        go_away(kafka_proxy)
        began_s = time.monotonic()
        process.terminate()
        assert process.wait(60) == 1
    assert time.monotonic() - began_s < TOLD_TO_STOP_S
    last = log.read_text().splitlines()[-1]
    assert last.startswith("error: stopped, but the broker did not answer within ")
    assert not summary.exists()


def test_take_overs_that_time_out_do_not_keep_a_worker_from_stopping(
    kafka, kafka_prefix, monkeypatch
):
    app = make_app(app_settings(kafka.bootstrap, kafka_prefix), n_partitions=3)
    monkeypatch.setattr(kafka_assignment, "_TAKE_OVERS_S", 0.0)
    tried = []

    def time_out(_, partition):
        tried.append(partition)
        raise BrokerTimeoutError("it took its time")

    monkeypatch.setattr(kafka_assignment, "TransactionalWriter", time_out)
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        eventually(lambda: tasks._membership.assigned() == {0, 1, 2}, "the assignment")
        for n in range(1, 4):
            assert tasks.rebalance().restored == {}
            assert len(tried) == n, "one in each call"
        assert set(tried) == {0, 1, 2}, "each has its turn"
