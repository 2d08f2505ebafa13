"""The summary of a run: counts and findings are of the same partitions."""

from __future__ import annotations

import pytest

from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.connect import open_broker
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.published import read_all
from streamgauge.consumers.summary import describe, summarize
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.builders import Feed
from tests.support.harness import (
    STATE_KEY,
    crowded_config,
    monitor_worker,
    send,
    totals_of,
    traffic,
)

N_PARTITIONS = 4


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A configuration whose broker holds the whole run of a worker, and that worker."""
    folder = tmp_path_factory.mktemp("summary")
    config = crowded_config(
        folder, broker={"data_dir": str(folder / "data"), "partitions": N_PARTITIONS}
    )
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        send(broker, traffic(seed=3, n_per_model=400))
        worker = monitor_worker(config, tasks, state_key=STATE_KEY)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
    return config, worker


def summary_of(worked, partitions):
    config, worker = worked
    with open_broker(config) as broker:
        return summarize(broker, config, partitions, totals_of(worker), 1.0)


def test_alarms_and_requests_are_of_the_partitions_that_are_counted(worked):
    config, worker = worked
    assert worker.processors().keys() == frozenset(range(N_PARTITIONS))
    whole = summary_of(worked, worker.processors().keys())
    with open_broker(config) as broker:
        written = {r.partition for r in read_all(broker, config.topics.alarms)}
    assert len(written) > 1, "the test is worth what is in it"
    parts = [summary_of(worked, {partition}) for partition in range(N_PARTITIONS)]
    for finding in ("alarms", "retrain_requests"):
        n = [len(part[finding]) for part in parts]
        assert sum(n) == len(whole[finding])
        assert max(n) < len(whole[finding])


def test_what_cannot_be_read_is_named_and_the_rest_is_summed_up(tmp_path, caplog):
    config = load_config({"broker": {"data_dir": str(tmp_path)}})
    with EmbeddedBroker(config) as broker:
        with broker.producer() as producer:
            producer.send(config.topics.alarms, b'{"model": "m"}')
            producer.send(config.topics.retrain, b"[]")
        totals = totals_of(monitor_worker(config, broker.join_group(MONITOR_INPUTS)))
        summary = summarize(broker, config, {0}, totals, 1.0)
    assert (summary["alarms"], summary["retrain_requests"]) == ([], [])
    assert [
        "drift-alarms/0 offset 0: alarm_id: Field required" in caplog.text,
        "retrain-requests/0 offset 0: Input should be an object" in caplog.text,
    ] == [True, True]


@pytest.mark.parametrize(
    ("partitions", "beginning"),
    [
        ({0, 1, 2, 3}, "in all 0 predictions, "),
        ({3, 1}, "in all, of partitions 1, 3: 0 predictions, "),
        ({2}, "in all, of partition 2: 0 predictions, "),
        (set(), "in all, of no partition: 0 predictions, "),
    ],
)
def test_the_line_says_which_partitions_where_it_is_not_all(tmp_path, partitions, beginning):
    config = load_config({"broker": {"data_dir": str(tmp_path), "partitions": N_PARTITIONS}})
    with EmbeddedBroker(config) as broker:
        totals = totals_of(monitor_worker(config, broker.join_group(MONITOR_INPUTS)))
        summary = summarize(broker, config, partitions, totals, 1.0)
    assert summary["partitions"] == sorted(partitions)
    assert describe(summary).startswith(beginning)


def test_the_line_says_how_many_predictions_were_repeated(tmp_path):
    config = load_config({"broker": {"data_dir": str(tmp_path)}})
    feed = Feed()
    for i in range(15):
        feed.predict(f"{i % 5}")
    with EmbeddedBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        send(broker, [("predictions", r.value, r.key, (), r.timestamp_ms) for r in feed.merged])
        worker = monitor_worker(config, tasks)
        worker.run(until_idle=True, should_stop=lambda: False, clock_ms=wall_clock_ms)
        summary = summarize(broker, config, worker.processors().keys(), totals_of(worker), 1.0)
    assert summary["n_duplicate_predictions"] == 10
    assert "in all 15 predictions (10 of known ids, ignored), " in describe(summary)
